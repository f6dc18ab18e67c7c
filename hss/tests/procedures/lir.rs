//! TS 29.228 §6.1.4: the table of the LIR, row by row. S-09.

use common::cx::Outcome;
use common::cx::sar::ServerAssignmentType;

use crate::world::*;

/// TS 29.228 §6.1.4.1 step 1.
#[test]
fn an_unknown_identity_is_an_unknown_user() {
    let refusal = World::new().lir("sip:nobody@hims.net", |_| ()).unwrap_err();
    assert_eq!(refusal.outcome(), Outcome::USER_UNKNOWN);
}

/// TS 29.228 §6.1.4.1 step 2, TS 29.229 §6.3.56: services.
#[test]
fn a_service_is_routed_directly() {
    let mut world = World::new();
    let refusal = world.lir(INACTIVE, |_| ()).unwrap_err();
    assert_eq!(refusal.outcome(), Outcome::USER_UNKNOWN);
    let lia = world.lir(DIRECT, |_| ()).unwrap();
    assert!(lia.is_psi_direct);
    assert_eq!(lia.outcome, Outcome::SUCCESS);
    assert_eq!(lia.server_name.as_deref(), Some("sip:as1.hims.net"));
    // What the service itself begins goes through an S-CSCF.
    let lia = world.lir(DIRECT, |r| r.is_originating = true).unwrap();
    assert_eq!((lia.outcome, lia.server_name), (Outcome::UNREGISTERED_SERVICE, None));
}

/// TS 29.228 §6.1.4.1 step 3.
#[test]
fn capabilities_on_request_allow_another_server() {
    let mut world = World::registered();
    let lia = world.lir(ALICE_SIP, |r| r.wants_capabilities = true).unwrap();
    assert_eq!((lia.outcome, lia.server_name), (Outcome::SUCCESS, None));
    assert_eq!(lia.server_capabilities.unwrap().mandatory, [7]);
    assert!(world.sar(ServerAssignmentType::Registration, S2).is_ok());
}

/// TS 29.228 §6.1.4.1 steps 4 and 5.
#[test]
fn a_served_identity_is_at_its_server() {
    let mut world = World::registered();
    for identity in [ALICE_SIP, ALICE_TEL] {
        let lia = world.lir(identity, |_| ()).unwrap();
        assert_eq!((lia.outcome, lia.server_name.as_deref()), (Outcome::SUCCESS, Some(S1)));
    }
    let mut world = World::new();
    world.sar(ServerAssignmentType::UnregisteredUser, S1).unwrap();
    let lia = world.lir(ALICE_TEL, |_| ()).unwrap();
    assert_eq!(lia.server_name.as_deref(), Some(S1));
}

/// TS 29.228 §6.1.4.1 step 6: services for the unregistered, or a request of the user.
#[test]
fn services_for_the_unregistered() {
    let mut world = World::new();
    let lia = world.lir(BOB_SIP, |_| ()).unwrap();
    assert_eq!((lia.outcome, lia.server_name), (Outcome::UNREGISTERED_SERVICE, None));
    assert!(lia.server_capabilities.is_some());
    let lia = world.lir(ALICE_SIP, |r| r.is_originating = true).unwrap();
    assert_eq!(lia.outcome, Outcome::UNREGISTERED_SERVICE);
    let mut world = World::registered();
    let lia = world.lir(WORK, |r| r.is_originating = true).unwrap();
    assert_eq!((lia.outcome, lia.server_name.as_deref()), (Outcome::SUCCESS, Some(S1)));
}

/// TS 29.228 §6.1.4.1 step 7.
#[test]
fn nobody_is_at_home() {
    let refusal = World::new().lir(ALICE_SIP, |_| ()).unwrap_err();
    assert_eq!(refusal.outcome(), Outcome::IDENTITY_NOT_REGISTERED);
}

/// TS 29.228 §6.1.4: distinct first, then the wildcard, which is named.
#[test]
fn finds_a_wildcard() {
    let lia = World::new().lir("sip:chat-12@hims.net", |_| ()).unwrap();
    assert_eq!(lia.outcome, Outcome::UNREGISTERED_SERVICE);
    assert_eq!(lia.wildcarded_public_identity.as_deref(), Some(CHAT));
}
