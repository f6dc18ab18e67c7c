//! Subscribers in and out.

use common::cx::sar::ServerAssignmentType;
use common::random::Random;
use common::secret::Secret;
use hss::keys::Vault;
use hss::provision::{self, Removal, Subscriber};

use crate::world::*;

fn add(world: &World, subscriber: &Subscriber) -> Result<(), String> {
    let mut random = Random::from_seed([2; 32]);
    let (database, vault) = (&world.database, &world.vault);
    database
        .procedure(|| provision::add(database, vault, &mut random, subscriber))
        .map_err(|refusal| refusal.to_string())
}

#[test]
fn refuses_what_is_there_and_what_is_not() {
    let world = World::new();
    let twice = Subscriber::new(ALICE, milenage(), &["sip:new@hims.net"]);
    assert_eq!(add(&world, &twice), Err(format!("impi: {ALICE} is there already")));
    let mut other = Subscriber::new("new@hims.net", milenage(), &["sip:new@hims.net", BOB_SIP]);
    assert_eq!(add(&world, &other), Err(format!("impu: {BOB_SIP} is there already")));
    assert!(world.database.public_identity("sip:new@hims.net").unwrap().is_none(), "all or none");
    other.public_identities.pop();
    other.public_identities[0].profile = Some("gone".into());
    assert_eq!(add(&world, &other), Err("service_profile: gone is not there".into()));
    other.public_identities[0].profile = None;
    other.joins = Some("nobody@hims.net".into());
    assert_eq!(add(&world, &other), Err("joins: nobody@hims.net is not there".into()));
}

/// A second device brings an identity of its own, which the first may register too.
#[test]
fn a_second_device_shares_all_sets() {
    let mut world = World::new();
    let mut watch = Subscriber::new("watch@hims.net", milenage(), &["sip:watch@hims.net"]);
    watch.joins = Some(ALICE.into());
    add(&world, &watch).unwrap();
    for (user_name, identity) in [("watch@hims.net", ALICE_SIP), (ALICE, "sip:watch@hims.net")] {
        let uaa = world.uar(|r| {
            r.user_name = user_name.into();
            r.public_identity = identity.into();
        });
        assert!(uaa.is_ok(), "{user_name} {identity}");
    }
}

#[test]
fn removes_who_is_not_registered() {
    let mut world = World::registered();
    let remove = |world: &World, identity, is_forced| {
        provision::remove(&world.database, identity, is_forced).unwrap()
    };
    assert_eq!(remove(&world, "nobody@hims.net", false), Removal::Unknown);
    assert_eq!(remove(&world, ALICE, false), Removal::Registered);
    world.sar(ServerAssignmentType::UserDeregistration, S1).unwrap();
    assert_eq!(remove(&world, ALICE, false), Removal::Done);
    assert!(world.database.public_identity(ALICE_SIP).unwrap().is_some(), "the tablet is left");
    assert_eq!(remove(&world, TABLET, false), Removal::Done);
    assert!(world.database.public_identity(ALICE_SIP).unwrap().is_none());
}

#[test]
fn forced_removal_frees_the_server() {
    let world = World::registered();
    assert_eq!(provision::remove(&world.database, ALICE, true).unwrap(), Removal::Done);
    assert_eq!(world.server_name(TABLET), None);
}

#[test]
fn lists_in_order_without_keys() {
    let world = World::registered();
    let rows = provision::list(&world.database).unwrap();
    let names: Vec<_> = rows.iter().map(|row| row.private_identity.as_str()).collect();
    assert_eq!(names, [ALICE, BARRED, BOB, SERVICE, TABLET]);
    assert!(rows[0].is_registered && !rows[4].is_registered);
    assert_eq!(rows[0].public_identities, format!("!{TEMPORARY} {ALICE_SIP} {ALICE_TEL} {WORK}"));
    let text = provision::describe(&world.database, ALICE).unwrap();
    for part in [
        "algorithm          milenage",
        "SQN                000000000021 (SEQ 1, IND 1)",
        S1,
        "registered, barred",
        "last RAND",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn another_key_file_is_noticed() {
    let world = World::new();
    let mut random = Random::from_seed([2; 32]);
    let other = Vault::new(&Secret::new([0x22; 32]));
    assert_eq!(provision::fits_key(&world.database, &world.vault), Ok(false));
    provision::check_key(&world.database, &world.vault, &mut random).unwrap();
    assert_eq!(provision::fits_key(&world.database, &world.vault), Ok(true));
    assert!(provision::check_key(&world.database, &other, &mut random).is_err());
}
