//! TS 29.228 §6.1.1: the table of the UAR, row by row. S-09, S-41 to S-44, S-90, S-91.

use common::cx::Outcome;
use common::cx::sar::ServerAssignmentType;
use common::cx::uar::UserAuthorizationType::{DeRegistration, RegistrationAndCapabilities};

use crate::world::*;

fn refused(change: impl FnOnce(&mut common::cx::Uar)) -> Outcome {
    World::new().uar(change).unwrap_err().outcome()
}

/// TS 29.228 §6.1.1.1 step 1; S-44.
#[test]
fn unknown_identities_are_unknown_users() {
    assert_eq!(refused(|r| r.user_name = "nobody@hims.net".into()), Outcome::USER_UNKNOWN);
    assert_eq!(
        refused(|r| r.public_identity = "sip:nobody@hims.net".into()),
        Outcome::USER_UNKNOWN
    );
    // Services and identities under a wildcard do not register.
    assert_eq!(refused(|r| r.public_identity = DIRECT.into()), Outcome::USER_UNKNOWN);
    assert_eq!(
        refused(|r| r.public_identity = "sip:chat-1@hims.net".into()),
        Outcome::USER_UNKNOWN
    );
}

/// TS 29.228 §6.1.1.1 step 2; S-44.
#[test]
fn identities_of_different_users_do_not_match() {
    assert_eq!(refused(|r| r.public_identity = BOB_SIP.into()), Outcome::IDENTITIES_DONT_MATCH);
}

/// TS 29.228 §6.1.1.1 step 3: a barred identity may register when its set holds another.
#[test]
fn a_wholly_barred_set_is_rejected() {
    let barred = |r: &mut common::cx::Uar| {
        r.user_name = BARRED.into();
        r.public_identity = BARRED_SIP.into();
    };
    assert_eq!(refused(barred), Outcome::AUTHORIZATION_REJECTED);
    let mut world = World::new();
    assert!(world.uar(|r| r.public_identity = TEMPORARY.into()).is_ok());
    let emergency = world.uar(|r| {
        barred(r);
        r.is_emergency = true;
    });
    assert_eq!(emergency.unwrap().outcome, Outcome::FIRST_REGISTRATION);
}

/// TS 29.228 §6.1.1.1 step 4: roaming; S-44.
#[test]
fn roaming_follows_the_lists() {
    let mut world = World::new();
    let visit = |world: &mut World, network: &str| {
        world.uar(|r| r.visited_network_identifier = network.into()).map(|uaa| uaa.outcome)
    };
    assert!(visit(&mut world, "elsewhere.net").is_ok(), "no list: everywhere");
    world.config.visited_networks = Some(vec!["*.partner.net".into(), "friend.net".into()]);
    for network in ["hims.net", "HIMS.net", "\"friend.net\"", "a.partner.net"] {
        assert!(visit(&mut world, network).is_ok(), "{network}");
    }
    for network in ["elsewhere.net", "partner.net", "evilpartner.net", ""] {
        let refusal = visit(&mut world, network).unwrap_err();
        assert_eq!(refusal.outcome(), Outcome::ROAMING_NOT_ALLOWED, "{network}");
    }
    // An emergency registration roams anywhere, and a deregistration is not asked.
    let abroad = |r: &mut common::cx::Uar| r.visited_network_identifier = "elsewhere.net".into();
    let emergency = world.uar(|r| {
        abroad(r);
        r.is_emergency = true;
    });
    assert!(emergency.is_ok());
    let refusal = world.uar(|r| {
        abroad(r);
        r.user_authorization_type = DeRegistration;
    });
    assert_eq!(refusal.unwrap_err().outcome(), Outcome::IDENTITY_NOT_REGISTERED);
    world.database.write("UPDATE subscription SET visited_networks = '[]'", []).unwrap();
    assert!(visit(&mut world, "friend.net").is_err(), "the subscription's list goes first");
}

/// TS 29.228 §6.1.1.1 step 4: authorised to register.
#[test]
fn a_suspended_subscription_is_rejected() {
    let mut world = World::new();
    world.database.write("UPDATE subscription SET is_suspended = 1", []).unwrap();
    let refusal = world.uar(|_| ()).unwrap_err();
    assert_eq!(refusal.outcome(), Outcome::AUTHORIZATION_REJECTED);
}

/// TS 29.228 §6.1.1.1 step 4, REGISTRATION_AND_CAPABILITIES: never a name.
#[test]
fn capabilities_on_request_allow_another_server() {
    let mut world = World::registered();
    let uaa = world.uar(|r| r.user_authorization_type = RegistrationAndCapabilities).unwrap();
    assert_eq!((uaa.outcome, uaa.server_name), (Outcome::SUCCESS, None));
    assert_eq!(uaa.server_capabilities.unwrap().mandatory, [7]);
    let assigned = world.assign(ServerAssignmentType::Registration, S2, |_| ()).unwrap();
    assert_eq!(assigned.answer.outcome, Outcome::SUCCESS);
    assert_eq!(world.server_name(ALICE).as_deref(), Some(S2));
}

/// The same without restoration: another S-CSCF is still refused.
#[test]
fn without_restoration_the_server_stays() {
    let mut world = World::registered();
    world.config.restoration = false;
    world.uar(|r| r.user_authorization_type = RegistrationAndCapabilities).unwrap();
    let refusal = world.sar(ServerAssignmentType::Registration, S2).unwrap_err();
    assert_eq!(refusal.outcome(), Outcome::IDENTITY_ALREADY_REGISTERED);
}

/// TS 29.228 §6.1.1.1 step 5: registered or unregistered.
#[test]
fn a_served_identity_gets_its_server() {
    let mut world = World::registered();
    let uaa = world.uar(|_| ()).unwrap();
    assert_eq!(uaa.outcome, Outcome::SUBSEQUENT_REGISTRATION);
    assert_eq!((uaa.server_name.as_deref(), uaa.server_capabilities), (Some(S1), None));
    let uaa = world.uar(|r| r.user_authorization_type = DeRegistration).unwrap();
    assert_eq!((uaa.outcome, uaa.server_name.as_deref()), (Outcome::SUCCESS, Some(S1)));

    let mut world = World::new();
    world.sar(ServerAssignmentType::UnregisteredUser, S1).unwrap();
    let uaa = world.uar(|_| ()).unwrap();
    assert_eq!(uaa.outcome, Outcome::SUBSEQUENT_REGISTRATION);
}

/// TS 29.228 §6.1.1.1 step 6.
#[test]
fn who_is_not_registered_cannot_leave() {
    let outcome = refused(|r| r.user_authorization_type = DeRegistration);
    assert_eq!(outcome, Outcome::IDENTITY_NOT_REGISTERED);
}

/// TS 29.228 §6.1.1.1 step 7; S-90, S-91: the MAR has stored the name, and another set of the
/// subscription goes to the same S-CSCF.
#[test]
fn the_second_register_is_subsequent() {
    let mut world = World::new();
    world.mar(S1).unwrap();
    let uaa = world.uar(|_| ()).unwrap();
    assert_eq!(uaa.outcome, Outcome::SUBSEQUENT_REGISTRATION);
    assert_eq!((uaa.server_name.as_deref(), uaa.server_capabilities), (Some(S1), None));
    let uaa = world.uar(|r| r.public_identity = WORK.into()).unwrap();
    assert_eq!(uaa.server_name.as_deref(), Some(S1));
}

/// TS 29.228 §6.1.1.1 step 8; S-41, S-42, S-43: capabilities, and no vector is spent.
#[test]
fn the_first_register_gets_capabilities() {
    let mut world = World::new();
    let uaa = world.uar(|_| ()).unwrap();
    assert_eq!((uaa.outcome, uaa.server_name), (Outcome::FIRST_REGISTRATION, None));
    assert_eq!(uaa.server_capabilities.unwrap().mandatory, [7]);
    assert_eq!(world.sqn(ALICE), 0);
    world.config.capabilities.optional = vec![3];
    let uaa = world.uar(|r| {
        r.user_name = BOB.into();
        r.public_identity = BOB_SIP.into();
    });
    assert_eq!(uaa.unwrap().server_capabilities.unwrap().optional, [3]);
}

/// A peer of another make sends the URI as the phone wrote it.
#[test]
fn identities_are_compared_in_canonical_form() {
    let mut world = World::new();
    for identity in ["sip:alice@HIMS.net", "sip:alice@hims.net:5060;transport=tcp"] {
        assert!(world.uar(|r| r.public_identity = identity.into()).is_ok(), "{identity}");
    }
}
