//! TS 29.228 §6.3, TS 33.102 §6.3: the table of the MAR, row by row. S-52 to S-56, S-69.

use bytes::Bytes;
use common::aka::vector::{Card, CardAnswer, Sqn};
use common::cx::Outcome;
use common::cx::uar::UserAuthorizationType;
use hss::database::State;
use hss::refusal::Refusal;

use crate::world::*;

/// TS 35.207 §4.3 set 1; the AUTS carries SQN_MS 000000000041.
const RAND: &str = "23553cbe9637a89d218ae64dae47bf35";
const AUTS_41: &str = "451e8beca47a8c2b1a6206d86e96";
const AUTS_HIGH: &str = "ba853f3c121cb55edb820040ab41";

fn resync(rand: &str, auts: &str) -> Option<Bytes> {
    Some(hex::decode(format!("{rand}{auts}")).unwrap().into())
}

/// TS 29.228 §6.3.1 step 1.
#[test]
fn unknown_identities_are_unknown_users() {
    let mut world = World::new();
    let s1 = server(S1);
    let unknown = world.mar_of(&s1, |r| r.user_name = "nobody@hims.net".into());
    assert_eq!(unknown.unwrap_err().outcome(), Outcome::USER_UNKNOWN);
    let unknown = world.mar_of(&s1, |r| r.public_identity = "sip:nobody@hims.net".into());
    assert_eq!(unknown.unwrap_err().outcome(), Outcome::USER_UNKNOWN);
    let service = world.mar_of(&s1, |r| {
        r.user_name = SERVICE.into();
        r.public_identity = DIRECT.into();
    });
    assert_eq!(service.unwrap_err().outcome(), Outcome::USER_UNKNOWN);
}

/// TS 29.228 §6.3.1 step 2.
#[test]
fn identities_of_different_users_do_not_match() {
    let refusal = World::new().mar_of(&server(S1), |r| r.user_name = BOB.into()).unwrap_err();
    assert_eq!(refusal.outcome(), Outcome::IDENTITIES_DONT_MATCH);
}

/// TS 29.228 §6.3.1 step 3: AKA is not to be had by asking for anything else.
#[test]
fn other_schemes_are_not_supported() {
    for scheme in ["Unknown", "SIP Digest", "Early-IMS-Security", "NASS-Bundled", ""] {
        let mut world = World::new();
        let refusal = world.mar_of(&server(S1), |r| r.scheme = scheme.into()).unwrap_err();
        assert_eq!(refusal.outcome(), Outcome::AUTH_SCHEME_NOT_SUPPORTED, "{scheme}");
        assert_eq!(world.sqn(ALICE), 0);
        assert_eq!(world.server_name(ALICE), None);
    }
}

/// TS 29.228 §6.3.1 step 4, TS 33.102 §6.3.5; S-69: computed with test set 1 of TS 35.207.
#[test]
fn resynchronises_by_a_right_mac_s() {
    let mut world = World::new();
    world.mar(S1).unwrap();
    let maa = world.mar_of(&server(S1), |r| r.sip_authorization = resync(RAND, AUTS_41)).unwrap();
    assert_eq!(maa.outcome, Outcome::SUCCESS);
    assert_eq!(world.sqn(ALICE), Sqn(0x41).next().0);
    let text = hss::provision::describe(&world.database, ALICE).unwrap();
    assert!(text.contains("SQN_MS of AUTS     000000000041"), "{text}");

    // A card at any number, far ahead as well.
    let maa = world.mar_of(&server(S1), |r| r.sip_authorization = resync(RAND, AUTS_HIGH)).unwrap();
    assert_eq!(maa.items.len(), 1);
    assert_eq!(world.sqn(ALICE), Sqn(0xff9b_b4d0_b627).next().0);
}

/// TS 33.102 §6.3.5: our number stays when the card would take the next one, and falls back when
/// the card would take it for nonsense.
#[test]
fn keeps_its_number_only_when_the_card_would_take_it() {
    for (sqn_he, expected) in [
        (0x20, Sqn(0x41).next().0),
        (0x40, Sqn(0x40).next().0),
        (0x41, Sqn(0x41).next().0),
        (0x4000, Sqn(0x4000).next().0),
        ((1u64 << 28) << 5, Sqn((1 << 28) << 5).next().0),
        ((3 << 28) << 5, Sqn(0x41).next().0),
    ] {
        let mut world = World::new();
        world.mar(S1).unwrap();
        world.database.write("UPDATE private_identity SET sqn = ?1", [sqn_he as i64]).unwrap();
        world.mar_of(&server(S1), |r| r.sip_authorization = resync(RAND, AUTS_41)).unwrap();
        assert_eq!(world.sqn(ALICE), expected, "{sqn_he:x}");
    }
}

/// TS 29.228 §6.3.1 step 4: a wrong MAC-S changes nothing, whatever octet is wrong.
#[test]
fn a_wrong_mac_s_leaves_the_number() {
    let mut world = World::new();
    world.mar(S1).unwrap();
    let before = world.sqn(ALICE);
    for place in 0..30 {
        let mut authorization = hex::decode(format!("{RAND}{AUTS_41}")).unwrap();
        authorization[place] ^= 0x80;
        let result =
            world.mar_of(&server(S1), |r| r.sip_authorization = Some(authorization.into()));
        assert_eq!(result.unwrap_err(), Refusal::WrongMacS);
        assert_eq!(world.sqn(ALICE), before);
    }
    assert_eq!(Refusal::WrongMacS.outcome(), Outcome::UNABLE_TO_COMPLY);
    let text = hss::provision::describe(&world.database, ALICE).unwrap();
    assert!(text.contains("AUTS refused       30 times"), "{text}");
}

/// What is not RAND ‖ AUTS at all.
#[test]
fn a_resynchronisation_of_another_length_is_invalid() {
    let mut world = World::new();
    world.mar(S1).unwrap();
    for length in [0, 14, 16, 29, 31, 60] {
        let octets = vec![0; length];
        let result = world.mar_of(&server(S1), |r| r.sip_authorization = Some(octets.into()));
        assert_eq!(result.unwrap_err().outcome(), Outcome::Base(5004), "{length}");
    }
}

/// TS 29.228 §6.3.1 step 4: only the assigned S-CSCF resynchronises, or the one taking over.
#[test]
fn another_server_does_not_resynchronise() {
    let mut world = World::new();
    let by_s2 = |world: &mut World| {
        world.mar_of(&server(S2), |r| r.sip_authorization = resync(RAND, AUTS_41))
    };
    assert_eq!(by_s2(&mut world).unwrap_err(), Refusal::ServerNameDiffers);
    world.mar(S1).unwrap();
    assert_eq!(by_s2(&mut world).unwrap_err().outcome(), Outcome::UNABLE_TO_COMPLY);
    world
        .uar(|r| {
            r.user_authorization_type = UserAuthorizationType::RegistrationAndCapabilities;
        })
        .unwrap();
    assert_eq!(by_s2(&mut world).unwrap().outcome, Outcome::SUCCESS);
    assert_eq!(world.server_name(ALICE).as_deref(), Some(S2));
    // The flag is reset: a third one is refused again.
    let s3 = server("sip:scscf3.hims.net");
    let result = world.mar_of(&s3, |r| r.sip_authorization = resync(RAND, AUTS_41));
    assert_eq!(result.unwrap_err(), Refusal::ServerNameDiffers);
}

/// TS 29.228 §6.3.1 step 5: a registered user challenged by another S-CSCF.
#[test]
fn a_registered_user_may_be_challenged_elsewhere() {
    let mut world = World::registered();
    world.mar(S2).unwrap();
    assert_eq!(world.server_name(ALICE).as_deref(), Some(S2));
    assert_eq!(world.state(ALICE_SIP), State::Registered);
    assert!(world.is_pending(ALICE, ALICE_SIP));
}

/// TS 29.228 §6.3.1 step 6; S-52, S-53: the name counts from here, the state stays, authentication
/// is pending for the whole set and for this private identity.
#[test]
fn remembers_the_server_that_challenges() {
    let mut world = World::new();
    let maa = world.mar(S1).unwrap();
    assert_eq!(maa.user_name.as_deref(), Some(ALICE));
    assert_eq!(maa.public_identity.as_deref(), Some(ALICE_SIP));
    assert_eq!(world.server_name(ALICE).as_deref(), Some(S1));
    assert_eq!(world.state(ALICE_SIP), State::NotRegistered);
    for identity in [TEMPORARY, ALICE_SIP, ALICE_TEL] {
        assert!(world.is_pending(ALICE, identity));
        assert!(!world.is_pending(TABLET, identity));
    }
    assert!(!world.is_pending(ALICE, WORK));
    // A dead S-CSCF is replaced by the one that challenges next.
    world.mar(S2).unwrap();
    assert_eq!(world.server_name(ALICE).as_deref(), Some(S2));
}

/// TS 29.229 §6.3.13; S-54: the card takes the vector, and both hold the same keys.
#[test]
fn the_card_accepts_the_vector() {
    let mut world = World::new();
    let mut card = Card::new(milenage());
    for _ in 0..100 {
        let item = world.mar(S1).unwrap().items.remove(0);
        assert_eq!(item.scheme, "Digest-AKAv1-MD5");
        assert_eq!((item.sip_item_number, item.sip_authenticate.len()), (None, 32));
        let rand = item.sip_authenticate[..16].try_into().unwrap();
        let autn = item.sip_authenticate[16..].try_into().unwrap();
        let expected = CardAnswer::Success {
            res: item.sip_authorization,
            ck: item.confidentiality_key.unwrap(),
            ik: item.integrity_key.unwrap(),
        };
        assert_eq!(card.answer(rand, autn), expected);
    }
    assert_eq!(world.sqn(ALICE) >> 5, 100);
    assert_eq!(world.sqn(ALICE) & 31, 100 % 32);
}

/// TS 29.228 §6.3.1 step 7; S-55: as many as asked for and allowed, numbered, in the order of SQN.
#[test]
fn gives_several_vectors_in_order() {
    let mut world = World::new();
    world.config.vectors_per_request = 3;
    let maa = world.mar_of(&server(S1), |r| r.sip_number_auth_items = 5).unwrap();
    let numbers: Vec<_> = maa.items.iter().map(|item| item.sip_item_number).collect();
    assert_eq!(numbers, [Some(1), Some(2), Some(3)]);
    let mut card = Card::new(milenage());
    for item in &maa.items {
        let rand = item.sip_authenticate[..16].try_into().unwrap();
        let autn = item.sip_authenticate[16..].try_into().unwrap();
        assert!(matches!(card.answer(rand, autn), CardAnswer::Success { .. }));
    }
    assert_eq!(world.sqn(ALICE) >> 5, 3);
    let maa = world.mar_of(&server(S1), |r| r.sip_number_auth_items = 0).unwrap();
    assert_eq!(maa.items.len(), 1);
}

/// TS 33.102 Annex C: never a number twice, not even at the end.
#[test]
fn the_sequence_does_not_wrap() {
    let mut world = World::new();
    let last = ((1i64 << 43) - 1) << 5;
    world.database.write("UPDATE private_identity SET sqn = ?1", [last]).unwrap();
    assert_eq!(world.mar(S1).unwrap_err(), Refusal::SequenceExhausted);
    assert_eq!(world.sqn(ALICE), last as u64);
}

/// S-69 from end to end: a card that is ahead is found again by its AUTS.
#[test]
fn a_card_ahead_is_found_again() {
    let mut world = World::new();
    let mut card = Card::new(milenage());
    card.seq_ms = [5_000; 32];
    let item = world.mar(S1).unwrap().items.remove(0);
    let rand: [u8; 16] = item.sip_authenticate[..16].try_into().unwrap();
    let autn: [u8; 16] = item.sip_authenticate[16..].try_into().unwrap();
    let CardAnswer::SyncFailure { auts } = card.answer(&rand, &autn) else { panic!() };
    let authorization = Bytes::from([&rand[..], &auts[..]].concat());
    let maa = world.mar_of(&server(S1), |r| r.sip_authorization = Some(authorization)).unwrap();
    let rand = maa.items[0].sip_authenticate[..16].try_into().unwrap();
    let autn = maa.items[0].sip_authenticate[16..].try_into().unwrap();
    assert!(matches!(card.answer(rand, autn), CardAnswer::Success { .. }));
}

/// AUTS of a real HLR's tests.
#[test]
fn resynchronises_by_the_published_vector() {
    let Some(table) = material("aka-vectors/auts_resync.tsv") else {
        println!("skipped: no material");
        return;
    };
    let row = table.lines().find(|line| line.starts_with("resync\t")).unwrap();
    let fields: Vec<&str> = row.split('\t').collect();
    let keys = common::aka::vector::Algorithm::Milenage {
        k: common::secret::Secret::new(octets(fields[1])),
        opc: common::secret::Secret::new(octets(fields[2])),
    };
    let mut world = World::new();
    let sealed = world.vault.seal(ALICE, &keys, &mut world.random);
    let sql = "UPDATE private_identity SET keys = ?1 WHERE identity = ?2";
    world.database.write(sql, (sealed, ALICE)).unwrap();
    world.mar(S1).unwrap();
    world.database.write("UPDATE private_identity SET sqn = 0", []).unwrap();
    let authorization = resync(fields[3], fields.last().unwrap());
    world.mar_of(&server(S1), |r| r.sip_authorization = authorization).unwrap();
    let text = hss::provision::describe(&world.database, ALICE).unwrap();
    assert!(text.contains(&format!("SQN_MS of AUTS     {:012x}", 23)), "{text}");
}

fn material(name: &str) -> Option<String> {
    let mut folder = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    loop {
        let candidate = folder.join("shared/material");
        if candidate.is_dir() {
            return Some(std::fs::read_to_string(candidate.join(name)).unwrap());
        }
        if !folder.pop() {
            return None;
        }
    }
}

/// Where we are going: 10,000 registrations a second need a MAR in 50 µs of processor time. The
/// bound leaves room for a build without optimisation; the printed figure is the fact.
#[test]
fn a_mar_is_quick() {
    let mut world = World::new();
    let s1 = server(S1);
    world.mar(S1).unwrap();
    world.database.commit().unwrap();
    let rounds = 2_000;
    let begun = processor_time();
    for _ in 0..rounds {
        world.mar_of(&s1, |_| ()).unwrap();
        world.database.commit().unwrap();
    }
    let each = (processor_time() - begun) / rounds;
    println!("a MAR with commit takes {each:?}");
    assert!(each.as_micros() < 250, "{each:?}");
}

/// Of this thread, since other programs share the machine; the kernel's figure is in nanoseconds.
fn processor_time() -> std::time::Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds = text.split_whitespace().next().unwrap().parse().unwrap();
    std::time::Duration::from_nanos(nanoseconds)
}

fn digest_user(world: &mut World) {
    let toml = "[[subscriber]]\nimpi = \"carol@hims.net\"\nscheme = \"digest\"\n\
        password = \"open sesame\"\nimpu = [\"sip:carol@hims.net\"]\n\
        [[subscriber]]\nimpi = \"dave@hims.net\"\nscheme = \"early-ims\"\n\
        address = \"10.45.0.7\"\nimpu = [\"sip:dave@hims.net\"]\n";
    for (_, subscriber) in hss::import::from_toml(toml).unwrap().subscribers {
        hss::provision::add(&world.database, &world.vault, &mut world.random, &subscriber).unwrap();
    }
}

fn of(user: &str, scheme: &str, count: u32) -> impl Fn(&mut common::cx::Mar) {
    let (user, scheme) = (user.to_owned(), scheme.to_owned());
    move |mar| {
        mar.user_name = format!("{user}@hims.net");
        mar.public_identity = format!("sip:{user}@hims.net");
        mar.scheme.clone_from(&scheme);
        mar.sip_number_auth_items = count;
    }
}

/// TS 29.228 §6.3.1 table 6.3.5: a user with a password: HA1s, as many as asked for; never by AKA.
#[test]
fn gives_ha1s_for_sip_digest() {
    use common::aka::digest::DigestAlgorithm::{Md5, Sha256};
    let mut world = World::new();
    digest_user(&mut world);
    for scheme in ["SIP Digest", "Unknown", "sip digest"] {
        let maa = world.mar_of(&server(S1), of("carol", scheme, 2)).unwrap();
        let given: Vec<_> = maa.items.iter().map(|item| item.digest.clone().unwrap()).collect();
        assert_eq!(given.len(), 2);
        for (digest, algorithm) in given.iter().zip([Sha256, Md5]) {
            assert_eq!(digest.realm, DOMAIN);
            assert_eq!(digest.algorithm.as_deref(), Some(algorithm.name()));
            assert_eq!(digest.ha1, algorithm.ha1("carol@hims.net", DOMAIN, b"open sesame"));
        }
    }
    let maa = world.mar_of(&server(S1), of("carol", "SIP Digest", 1)).unwrap();
    assert_eq!(maa.items[0].digest.as_ref().unwrap().algorithm.as_deref(), Some("MD5"));
    assert_eq!(world.server_name("carol@hims.net").as_deref(), Some(S1));
    assert!(world.is_pending("carol@hims.net", "sip:carol@hims.net"));
    for scheme in ["Digest-AKAv1-MD5", "Early-IMS-Security"] {
        let refusal = world.mar_of(&server(S1), of("carol", scheme, 1)).unwrap_err();
        assert_eq!(refusal.outcome(), Outcome::AUTH_SCHEME_NOT_SUPPORTED);
    }
    let refusal = world.mar_of(&server(S1), |mar| mar.scheme = "SIP Digest".into()).unwrap_err();
    assert_eq!(refusal.outcome(), Outcome::AUTH_SCHEME_NOT_SUPPORTED, "a user with a card");
}

/// TS 33.203 Annex T: the address that the packet core gave, and the next one it gives.
#[test]
fn gives_the_address_for_early_ims() {
    let mut world = World::new();
    digest_user(&mut world);
    let given = |world: &mut World| {
        let maa = world.mar_of(&server(S1), of("dave", "Early-IMS-Security", 1)).unwrap();
        maa.items[0].framed_address.unwrap().0.to_string()
    };
    assert_eq!(given(&mut world), "10.45.0.7");
    assert!(world.database.set_framed_address("dave@hims.net", "2001:db8::7").unwrap());
    assert_eq!(given(&mut world), "2001:db8::7");
    assert!(!world.database.set_framed_address(ALICE, "10.45.0.8").unwrap());
}

/// A password does not show: not in the database, and not in what the operator sees.
#[test]
fn passwords_are_sealed() {
    let mut world = World::new();
    digest_user(&mut world);
    let sealed: Vec<u8> = world
        .database
        .row("SELECT digest FROM private_identity WHERE scheme = 'digest'", [], |row| row.get(0))
        .unwrap()
        .unwrap();
    let ha1 =
        common::aka::digest::DigestAlgorithm::Md5.ha1("carol@hims.net", DOMAIN, b"open sesame");
    let needle = ha1.expose().as_bytes();
    assert!(!sealed.windows(needle.len()).any(|window| window == needle));
    let text = hss::provision::describe(&world.database, "carol@hims.net").unwrap();
    assert!(text.contains("scheme             digest\n"), "{text}");
    for wrong in [
        "scheme = \"digest\"",
        "scheme = \"digest\"\npassword = \"x\"\nk = \"00\"",
        "password = \"x\"",
        "scheme = \"early-ims\"\naddress = \"somewhere\"",
        "scheme = \"none\"",
    ] {
        let toml = format!(
            "[[subscriber]]\nimpi = \"e@hims.net\"\nimpu = [\"sip:e@hims.net\"]\n{wrong}\n"
        );
        assert!(hss::import::from_toml(&toml).is_err(), "{wrong}");
    }
}
