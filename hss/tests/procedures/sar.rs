//! TS 29.228 §6.1.2: the table of the SAR, row by row. S-94, S-95, S-96, S-121.

use common::cx::rtr::ReasonCode;
use common::cx::sar::ServerAssignmentType::*;
use common::cx::uar::UserAuthorizationType;
use common::cx::user_data::UserData;
use common::cx::{Outcome, RestorationInfo, ScscfRestorationInfo};
use hss::database::State::{NotRegistered, Registered, Unregistered};
use hss::refusal::Refusal;

use crate::world::*;

fn bob(sar: &mut common::cx::Sar) {
    sar.user_name = Some(BOB.into());
    sar.public_identities = vec![BOB_SIP.into()];
}

fn tablet(sar: &mut common::cx::Sar) {
    sar.user_name = Some(TABLET.into());
}

/// TS 29.228 §6.1.2.1 step 1.
#[test]
fn unknown_identities_are_unknown_users() {
    let mut world = World::new();
    let unknown = world.assign(Registration, S1, |r| r.user_name = Some("nobody@hims.net".into()));
    assert_eq!(unknown.unwrap_err().outcome(), Outcome::USER_UNKNOWN);
    let unknown =
        world.assign(Registration, S1, |r| r.public_identities = vec!["sip:no@hims.net".into()]);
    assert_eq!(unknown.unwrap_err().outcome(), Outcome::USER_UNKNOWN);
}

/// TS 29.228 §6.1.2.1 step 2.
#[test]
fn identities_of_different_users_do_not_match() {
    let mut world = World::new();
    let refusal = world.assign(Registration, S1, |r| r.user_name = Some(BOB.into())).unwrap_err();
    assert_eq!(refusal.outcome(), Outcome::IDENTITIES_DONT_MATCH);
    let refusal = world.assign(UserDeregistration, S1, |r| {
        r.user_name = None;
        r.public_identities.push(BOB_SIP.into());
    });
    assert_eq!(refusal.unwrap_err().outcome(), Outcome::IDENTITIES_DONT_MATCH);
}

/// TS 29.228 §6.1.2.1 step 3: one identity, but for deregistrations.
#[test]
fn one_identity_where_one_is_allowed() {
    for kind in
        [NoAssignment, Registration, ReRegistration, UnregisteredUser, AuthenticationFailure]
    {
        let mut world = World::registered();
        let refusal = world.assign(kind, S1, |r| r.public_identities.push(WORK.into()));
        assert_eq!(refusal.unwrap_err().outcome(), Outcome::Base(5009), "{kind:?}");
        let refusal = world.assign(kind, S1, |r| r.public_identities.clear());
        assert_eq!(refusal.unwrap_err().outcome(), Outcome::Base(5005), "{kind:?}");
    }
    let mut world = World::registered();
    let refusal = world.assign(Registration, S1, |r| r.user_name = None).unwrap_err();
    assert_eq!(refusal.outcome(), Outcome::Base(5005));
    let nobody = world.assign(UserDeregistration, S1, |r| {
        r.user_name = None;
        r.public_identities.clear();
    });
    assert_eq!(nobody.unwrap_err().outcome(), Outcome::Base(5005));
}

/// TS 29.228 §6.1.2.1 step 4: services.
#[test]
fn services_do_not_register() {
    let mut world = World::new();
    let mut ask = |kind, identity: &str| {
        world.assign(kind, S1, |r| {
            r.user_name = Some(SERVICE.into());
            r.public_identities = vec![identity.into()];
        })
    };
    let refusal = ask(UnregisteredUser, INACTIVE).unwrap_err();
    assert_eq!(refusal.outcome(), Outcome::USER_UNKNOWN);
    for kind in [Registration, ReRegistration, UserDeregistration, AuthenticationTimeout] {
        let refusal = ask(kind, DIRECT).unwrap_err();
        assert_eq!(refusal.outcome(), Outcome::IN_ASSIGNMENT_TYPE, "{kind:?}");
    }
    let saa = ask(UnregisteredUser, DIRECT).unwrap().answer;
    assert_eq!(saa.outcome, Outcome::SUCCESS);
}

/// TS 29.228 §6.1.2.1 step 5; S-94, S-95, S-96: the whole set is registered, and the S-CSCF gets
/// its profile in the order in which it was provisioned.
#[test]
fn registers_the_whole_set() {
    let mut world = World::new();
    world.config.charging.primary_charging_collection = Some("aaa://ccf.hims.net".into());
    world.mar(S1).unwrap();
    let saa = world.sar(Registration, S1).unwrap();
    assert_eq!((saa.outcome, saa.user_name.as_deref()), (Outcome::SUCCESS, Some(ALICE)));
    for identity in [TEMPORARY, ALICE_SIP, ALICE_TEL] {
        assert_eq!(world.state(identity), Registered);
        assert!(!world.is_pending(ALICE, identity));
    }
    assert_eq!(world.state(WORK), NotRegistered);
    let user_data = UserData::parse(&saa.user_data.unwrap()).unwrap();
    assert_eq!(user_data.private_identity, ALICE);
    let identities: Vec<_> = user_data
        .public_identities()
        .map(|public| (public.identity.as_str(), public.is_barred))
        .collect();
    assert_eq!(identities, [(TEMPORARY, true), (ALICE_SIP, false), (ALICE_TEL, false)]);
    let charging = saa.charging_information.unwrap();
    assert_eq!(charging.primary_charging_collection.as_deref(), Some("aaa://ccf.hims.net"));
    assert_eq!(saa.associated_identities, [ALICE, TABLET]);

    let bob = world.assign(Registration, S1, bob).unwrap().answer;
    assert!(bob.associated_identities.is_empty(), "one private identity names no others");
}

/// TS 29.228 §6.6: no profile for who has it.
#[test]
fn leaves_out_what_is_there_already() {
    let mut world = World::registered();
    let saa = world.assign(ReRegistration, S1, |r| r.user_data_already_available = true);
    let saa = saa.unwrap().answer;
    assert_eq!((saa.outcome, saa.user_data), (Outcome::SUCCESS, None));
}

/// TS 29.228 §6.1.2.1 step 5: another S-CSCF.
#[test]
fn another_server_is_refused() {
    let mut world = World::registered();
    for kind in [Registration, ReRegistration] {
        let refusal = world.sar(kind, S2).unwrap_err();
        assert_eq!(refusal.outcome(), Outcome::IDENTITY_ALREADY_REGISTERED);
    }
    assert_eq!(world.server_name(ALICE).as_deref(), Some(S1));
}

/// TS 29.228 §6.1.3.1: who takes over by restoration; the old S-CSCF is told, and the others of the
/// subscription register anew.
#[test]
fn the_displaced_server_is_told() {
    let mut world = World::registered();
    world.assign(Registration, S1, tablet).unwrap();
    world
        .uar(|r| r.user_authorization_type = UserAuthorizationType::RegistrationAndCapabilities)
        .unwrap();
    world.mar(S2).unwrap();
    let assigned = world.assign(Registration, S2, |_| ()).unwrap();
    let told: Vec<_> = assigned
        .terminations
        .iter()
        .map(|rtr| (rtr.user_name.as_str(), rtr.reason, rtr.host.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (ALICE, ReasonCode::NewServerAssigned, "scscf1.hims.net"),
            (TABLET, ReasonCode::ServerChange, "scscf1.hims.net"),
        ]
    );
    assert_eq!(assigned.terminations[0].public_identities, [TEMPORARY, ALICE_SIP, ALICE_TEL]);
    assert!(assigned.terminations[1].public_identities.is_empty(), "all of the tablet");
    // Once told is enough.
    assert!(world.assign(ReRegistration, S2, |_| ()).unwrap().terminations.is_empty());
}

fn left(user_name: &str) -> ScscfRestorationInfo {
    ScscfRestorationInfo {
        user_name: user_name.to_owned(),
        contacts: vec![RestorationInfo {
            path: "<sip:term@pcscf1.vims.net;lr>".to_owned(),
            contact: format!("<sip:{user_name}:5064>"),
            cseq: Some(26),
            call_id: Some("ababab".to_owned()),
            ..RestorationInfo::default()
        }],
        registration_time_out: Some(1_700_003_600),
        scheme: None,
    }
}

/// Alice and her tablet, registered through S1, which left what another one needs.
fn with_restoration(is_supported: bool) -> World {
    let mut world = World::new();
    world.config.restoration = is_supported;
    world.mar(S1).unwrap();
    world.assign(Registration, S1, |r| r.restoration = Some(left(ALICE))).unwrap();
    world
        .assign(Registration, S1, |r| {
            tablet(r);
            r.restoration = Some(left(TABLET));
        })
        .unwrap();
    world
}

fn wants_capabilities(world: &mut World) {
    world
        .uar(|r| r.user_authorization_type = UserAuthorizationType::RegistrationAndCapabilities)
        .unwrap();
}

/// TS 23.380 §4.2: the S-CSCF itself, or one that is about to take over, reads what was left;
/// nobody else does, and reading changes nothing.
#[test]
fn restoration_information_is_read_back() {
    let mut world = with_restoration(true);
    let saa = world.sar(NoAssignment, S1).unwrap();
    assert_eq!(saa.restoration, [left(ALICE), left(TABLET)]);
    assert!(saa.user_data.is_some());
    assert_eq!(world.sar(NoAssignment, S2).unwrap_err(), Refusal::AssignedElsewhere);
    wants_capabilities(&mut world);
    assert_eq!(world.sar(NoAssignment, S2).unwrap().restoration.len(), 2);
    assert_eq!(world.server_name(ALICE).as_deref(), Some(S1), "reading assigns nothing");
}

/// TS 23.380 §4.2, TS 29.228 §6.1.2.1: S-92: another S-CSCF takes over, by a refresh or after a
/// challenge. The one that failed is told, and none of the devices has to register anew.
#[test]
fn another_server_restores() {
    for is_challenged in [false, true] {
        let mut world = with_restoration(true);
        wants_capabilities(&mut world);
        if is_challenged {
            world.mar(S2).unwrap();
        }
        let moved = |r: &mut common::cx::Sar| {
            let mut left = left(ALICE);
            left.contacts[0].cseq = Some(27);
            r.restoration = Some(left);
        };
        let assigned = world.assign(ReRegistration, S2, moved).unwrap();
        assert_eq!(assigned.answer.restoration, [left(ALICE), left(TABLET)], "as it was before");
        assert_eq!(world.server_name(ALICE).as_deref(), Some(S2));
        let told: Vec<_> = assigned.terminations.iter().map(|rtr| rtr.reason).collect();
        assert_eq!(told, [ReasonCode::NewServerAssigned; 2]);
        let now = world.sar(NoAssignment, S2).unwrap().restoration;
        assert_eq!(now[0].contacts[0].cseq, Some(27));
    }
}

/// TS 29.228 §6.1.2.1 step 6: an S-CSCF that has forgotten a registered user is reminded.
#[test]
fn reminds_of_a_registration() {
    let mut world = with_restoration(true);
    let saa = world.sar(UnregisteredUser, S1).unwrap();
    assert_eq!(saa.outcome, Outcome::IN_ASSIGNMENT_TYPE);
    assert_eq!(saa.restoration.len(), 2);
    assert!(saa.user_data.is_some());
}

/// TS 29.228 §6.1.3.1: the displaced S-CSCF ends all it has of a private identity by SERVER_CHANGE, so it first hears
/// which sets another one serves now.
#[test]
fn a_change_of_the_server_is_told_last() {
    let mut world = World::registered();
    let work = |r: &mut common::cx::Sar| r.public_identities = vec![WORK.into()];
    world.assign(Registration, S1, work).unwrap();
    world.assign(Registration, S1, tablet).unwrap();
    wants_capabilities(&mut world);
    let moved = world.assign(Registration, S2, work).unwrap();
    let told: Vec<_> = moved.terminations.iter().map(|rtr| rtr.reason).collect();
    assert_eq!(told, [ReasonCode::NewServerAssigned, ReasonCode::ServerChange]);
    assert_eq!(moved.terminations[0].public_identities, [WORK]);
    let change = &moved.terminations[1];
    assert_eq!((change.user_name.as_str(), change.sets.len()), (ALICE, 1));
    let [associated] = &change.associated[..] else { panic!("{change:?}") };
    assert_eq!((associated.user_name.as_str(), associated.sets.len()), (TABLET, 1));
}

/// TS 23.380 §4.2: what was left goes with the registration, and where restoration is not wanted
/// nothing is kept.
#[test]
fn restoration_information_ends_with_the_registration() {
    let mut world = with_restoration(true);
    world.sar(UserDeregistration, S1).unwrap();
    assert_eq!(world.sar(NoAssignment, S1).unwrap().restoration, [left(TABLET)]);
    world.assign(TimeoutDeregistration, S1, tablet).unwrap();
    world.mar(S1).unwrap();
    assert!(world.sar(NoAssignment, S1).unwrap().restoration.is_empty());

    let mut world = with_restoration(false);
    assert!(world.sar(NoAssignment, S1).unwrap().restoration.is_empty());
}

/// TS 29.228 §6.1.2.1 step 6: unregistered services.
#[test]
fn serves_the_unregistered() {
    let mut world = World::new();
    let saa = world.assign(UnregisteredUser, S1, |r| {
        r.user_name = None;
        r.public_identities = vec![BOB_SIP.into()];
    });
    let saa = saa.unwrap().answer;
    assert_eq!((saa.outcome, saa.user_name.as_deref()), (Outcome::SUCCESS, Some(BOB)));
    assert_eq!(world.state(BOB_SIP), Unregistered);
    assert_eq!(world.server_name(BOB).as_deref(), Some(S1));
    let refusal = world.assign(UnregisteredUser, S2, bob).unwrap_err();
    assert_eq!(refusal.outcome(), Outcome::IDENTITY_ALREADY_REGISTERED);
    // Registration follows without an interval.
    world.assign(Registration, S1, bob).unwrap();
    assert_eq!(world.state(BOB_SIP), Registered);
    let refusal = world.assign(UnregisteredUser, S1, bob).unwrap_err();
    assert_eq!(refusal.outcome(), Outcome::IN_ASSIGNMENT_TYPE);
}

/// TS 29.228 §6.1.2.1 step 7; S-121: the last one to leave takes the name along.
#[test]
fn deregistration_clears_the_name() {
    for kind in [
        TimeoutDeregistration,
        UserDeregistration,
        AdministrativeDeregistration,
        DeregistrationTooMuchData,
    ] {
        let mut world = World::registered();
        assert_eq!(world.sar(kind, S2).unwrap_err(), Refusal::AssignedElsewhere);
        assert_eq!(world.state(ALICE_SIP), Registered);
        let saa = world.sar(kind, S1).unwrap();
        assert_eq!((saa.outcome, saa.user_data), (Outcome::SUCCESS, None));
        for identity in [TEMPORARY, ALICE_SIP, ALICE_TEL] {
            assert_eq!(world.state(identity), NotRegistered);
        }
        assert_eq!(world.server_name(ALICE), None);
    }
    // Where no S-CSCF is stored, nobody else serves the user.
    let mut world = World::registered();
    world.sar(UserDeregistration, S1).unwrap();
    assert_eq!(world.sar(UserDeregistration, S1).unwrap_err(), Refusal::ServerNameDiffers);
    assert_eq!(Refusal::ServerNameDiffers.outcome(), Outcome::UNABLE_TO_COMPLY);
    assert_eq!(Refusal::AssignedElsewhere.outcome(), Outcome::IDENTITY_ALREADY_REGISTERED);
}

/// S-121: a phone without security associations leaves by authenticating once more; nothing pends.
#[test]
fn an_authenticated_deregistration_leaves_nothing_pending() {
    let mut world = World::registered();
    world.mar(S1).unwrap();
    world.sar(UserDeregistration, S1).unwrap();
    assert_eq!(world.server_name(ALICE), None);
    assert!(!world.is_pending(ALICE, ALICE_SIP));
}

/// TS 29.228 §6.1.2.1 step 7: one set, all sets of a private identity, all private identities of
/// a set.
#[test]
fn deregisters_what_is_named() {
    let mut world = World::registered();
    world.assign(Registration, S1, |r| r.public_identities = vec![WORK.into()]).unwrap();
    world.sar(UserDeregistration, S1).unwrap();
    assert_eq!((world.state(ALICE_TEL), world.state(WORK)), (NotRegistered, Registered));
    assert_eq!(world.server_name(ALICE).as_deref(), Some(S1), "the other set is served");

    world.sar(Registration, S1).unwrap();
    world.assign(TimeoutDeregistration, S1, |r| r.public_identities.clear()).unwrap();
    assert_eq!((world.state(ALICE_TEL), world.state(WORK)), (NotRegistered, NotRegistered));
    assert_eq!(world.server_name(ALICE), None);

    world.sar(Registration, S1).unwrap();
    world.assign(Registration, S1, tablet).unwrap();
    world.assign(AdministrativeDeregistration, S1, |r| r.user_name = None).unwrap();
    assert_eq!(world.state(ALICE_SIP), NotRegistered);
}

/// TS 29.228 §6.1.2.1 step 7: another device is registered with the same identity.
#[test]
fn another_device_keeps_the_identity_registered() {
    let mut world = World::registered();
    world.assign(Registration, S1, tablet).unwrap();
    world.sar(UserDeregistration, S1).unwrap();
    assert_eq!(world.state(ALICE_SIP), Registered);
    assert_eq!(world.server_name(ALICE).as_deref(), Some(S1));
    world.assign(UserDeregistration, S1, tablet).unwrap();
    assert_eq!(world.server_name(ALICE), None);
}

/// TS 29.228 §6.1.2.1 step 7: an authentication that runs keeps the name.
#[test]
fn a_running_authentication_keeps_the_name() {
    let mut world = World::registered();
    world.mar_of(&server(S1), |r| r.user_name = TABLET.into()).unwrap();
    world.sar(TimeoutDeregistration, S1).unwrap();
    assert_eq!(world.state(ALICE_SIP), NotRegistered);
    assert_eq!(world.server_name(ALICE).as_deref(), Some(S1));
    world.assign(AuthenticationTimeout, S1, tablet).unwrap();
    assert_eq!(world.server_name(ALICE), None);
}

/// TS 29.228 §6.1.2.1 step 8: the name is kept where there are services for the unregistered.
#[test]
fn keeps_the_name_for_services() {
    for kind in [TimeoutDeregistrationStoreServerName, UserDeregistrationStoreServerName] {
        let mut world = World::registered();
        let saa = world.sar(kind, S1).unwrap();
        assert_eq!(saa.outcome, Outcome::SUCCESS_SERVER_NAME_NOT_STORED);
        assert_eq!((world.state(ALICE_SIP), world.server_name(ALICE)), (NotRegistered, None));

        world.assign(Registration, S1, bob).unwrap();
        let saa = world.assign(kind, S1, bob).unwrap().answer;
        assert_eq!(saa.outcome, Outcome::SUCCESS);
        assert_eq!(world.state(BOB_SIP), Unregistered);
        assert_eq!(world.server_name(BOB).as_deref(), Some(S1));
    }
}

/// TS 29.228 §6.1.2.1 step 9.
#[test]
fn gives_the_profile_to_the_assigned_server_only() {
    let mut world = World::new();
    assert_eq!(world.sar(NoAssignment, S1).unwrap_err().outcome(), Outcome::UNABLE_TO_COMPLY);
    world.sar(Registration, S1).unwrap();
    let refusal = world.sar(NoAssignment, S2).unwrap_err();
    assert_eq!(refusal.outcome(), Outcome::IDENTITY_ALREADY_REGISTERED);
    let saa = world.sar(NoAssignment, S1).unwrap();
    assert!(saa.outcome == Outcome::SUCCESS && saa.user_data.is_some());
}

/// TS 29.228 §6.1.2.1 step 10: a failed authentication changes no registration.
#[test]
fn a_failed_authentication_changes_no_registration() {
    for kind in [AuthenticationFailure, AuthenticationTimeout] {
        let mut world = World::new();
        world.mar(S1).unwrap();
        assert_eq!(world.sar(kind, S2).unwrap_err().outcome(), Outcome::UNABLE_TO_COMPLY);
        assert_eq!(world.sar(kind, S1).unwrap().outcome, Outcome::SUCCESS);
        assert!(!world.is_pending(ALICE, ALICE_SIP));
        assert_eq!(world.server_name(ALICE), None);

        let mut world = World::registered();
        world.mar(S1).unwrap();
        world.sar(kind, S1).unwrap();
        assert_eq!(world.state(ALICE_SIP), Registered);
        assert_eq!(world.server_name(ALICE).as_deref(), Some(S1));
    }
}

/// A challenge at another S-CSCF that fails gives the user back to the one that serves.
#[test]
fn a_failed_challenge_elsewhere_gives_the_user_back() {
    let mut world = World::registered();
    world.mar(S2).unwrap();
    world.sar(AuthenticationFailure, S2).unwrap();
    assert_eq!(world.server_name(ALICE).as_deref(), Some(S1));
    assert_eq!(world.state(ALICE_SIP), Registered);
}

/// TS 29.228 §6.1.2.1 step 11: wildcards.
#[test]
fn an_identity_under_another_wildcard_is_refused() {
    let mut world = World::new();
    let mut ask = |wildcard: Option<&str>| {
        world.assign(UnregisteredUser, S1, |r| {
            r.user_name = None;
            r.public_identities = vec!["sip:chat-7@hims.net".into()];
            r.wildcarded_public_identity = wildcard.map(str::to_owned);
        })
    };
    let refusal = ask(Some("sip:talk-!.*!@hims.net")).unwrap_err();
    assert_eq!(refusal.outcome(), Outcome::IN_ASSIGNMENT_TYPE);
    let saa = ask(Some(CHAT)).unwrap().answer;
    let user_data = UserData::parse(&saa.user_data.unwrap()).unwrap();
    let public = user_data.public_identities().next().unwrap();
    assert_eq!(public.wildcarded_identity.as_deref(), Some(CHAT));
}
