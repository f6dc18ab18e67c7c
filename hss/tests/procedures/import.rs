//! Subscribers from TOML and CSV.

use common::aka::vector::Algorithm;
use common::secret::Secret;
use hss::import::{from_csv, from_toml};
use hss::provision::{self, Subscriber};

use crate::world::*;

const IMSI_DOMAIN: &str = "ims.mnc001.mcc001.3gppnetwork.org";

fn identities(subscriber: &Subscriber) -> Vec<(&str, bool)> {
    let public = &subscriber.public_identities;
    public.iter().map(|public| (public.identity.as_str(), public.is_barred)).collect()
}

/// TS 23.003 §13; S-124, S-125: an IMSI alone gives both identities; with a number beside it the
/// temporary one is barred.
#[test]
fn an_imsi_gives_identities() {
    let toml = format!(
        "[[subscriber]]\nimsi = \"001010123456789\"\nk = \"{K}\"\nopc = \"{OPC}\"\n\
         [[subscriber]]\nimsi = 311480000000001\nk = \"{K}\"\nopc = \"{OPC}\"\n\
         msisdn = \"15551234567\"\nsqn = 0x21\n"
    );
    let imported = from_toml(&toml).unwrap().subscribers;
    let (_, first) = &imported[0];
    assert_eq!(first.private_identity, format!("001010123456789@{IMSI_DOMAIN}"));
    assert_eq!(identities(first), [(format!("sip:001010123456789@{IMSI_DOMAIN}").as_str(), false)]);
    assert_eq!(first.keys, Some(milenage()));
    let (line, second) = &imported[1];
    assert_eq!((*line, second.sqn), (5, 0x21));
    let domain = "ims.mnc480.mcc311.3gppnetwork.org";
    assert_eq!(
        identities(second),
        [
            (format!("sip:311480000000001@{domain}").as_str(), true),
            (format!("sip:+15551234567@{domain}").as_str(), false),
            ("tel:+15551234567", false),
        ]
    );
}

/// TS 35.206 §8.2: OP becomes OPc.
#[test]
fn op_becomes_opc() {
    let toml = format!(
        "[[subscriber]]\nimpi = \"a@hims.net\"\nimpu = [\"sip:a@hims.net\"]\nk = \"{K}\"\n\
         op = \"cdc202d5123e20f62b6d676ac72cb318\"\n"
    );
    let imported = from_toml(&toml).unwrap().subscribers;
    assert_eq!(imported[0].1.keys, Some(milenage()));
}

#[test]
fn toml_knows_sets_profiles_and_services() {
    let toml = r#"
        [[charging]]
        name = "gold"
        primary_charging_collection = "aaa://ccf.hims.net"
        [[profile]]
        name = "media"
        subscribed_media_profile_id = 3
        [[subscriber]]
        impi = "psi@hims.net"
        algorithm = "none"
        profile = "media"
        charging = "gold"
        mandatory_capabilities = [1, 2]
        impu = [
            "sip:one@hims.net",
            "!sip:two@hims.net",
            { identity = "sip:room-!.*!@hims.net", service = true, set = 2 },
            { identity = "sip:conf@hims.net", service = true, application_server = "sip:as.hims.net", set = 3 },
        ]
        [[subscriber]]
        impi = "tuak@hims.net"
        impu = ["tel:+1-555-0000"]
        k = "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0efeeedecebeae9e8e7e6e5e4e3e2e1e0"
        top = "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"
    "#;
    let imported = from_toml(toml).unwrap();
    let world = World::new();
    let (database, vault) = (&world.database, &world.vault);
    let mut random = common::random::Random::from_seed([1; 32]);
    provision::put_charging(database, &imported.charging[0]).unwrap();
    provision::put_profile(database, &imported.profiles[0]).unwrap();
    for (_, subscriber) in &imported.subscribers {
        provision::add(database, vault, &mut random, subscriber).unwrap();
    }
    let service = &imported.subscribers[0].1;
    let types: Vec<_> =
        service.public_identities.iter().map(|p| (p.set, p.identity_type)).collect();
    assert_eq!(types, [(1, 0), (1, 0), (2, 2), (3, 1)]);
    assert_eq!(service.public_identities[1].profile.as_deref(), Some("media"));
    let tuak = &imported.subscribers[1].1;
    assert_eq!(identities(tuak), [("tel:+15550000", false)]);
    // TS 35.233 §6.4: TOPc of the second test set.
    let topc = "305425427e18c503c8a4b294ea72c95d0c36c6c6b29d0c65de5974d5977f8524";
    let Some(Algorithm::Tuak { topc: found, .. }) = &tuak.keys else { panic!() };
    assert_eq!(*found, Secret::new(octets(topc)));
}

#[test]
fn csv_knows_quotes_bars_and_empty_fields() {
    let csv = format!(
        "impi,impu,k,opc,amf,sqn,display_name\r\n\
         a@hims.net,!sip:t@hims.net sip:a@hims.net,{K},{OPC},8000,0x40,\"Alice, \"\"the\nfirst\"\"\"\r\n\
         \r\n\
         b@hims.net,sip:b@hims.net,{K},{OPC},,,\n"
    );
    let imported = from_csv(&csv).unwrap().subscribers;
    assert_eq!(imported.len(), 2);
    let (line, alice) = &imported[0];
    assert_eq!((*line, alice.amf, alice.sqn), (2, [0x80, 0], 0x40));
    assert_eq!(identities(alice), [("sip:t@hims.net", true), ("sip:a@hims.net", false)]);
    let name = alice.public_identities[1].display_name.as_deref();
    assert_eq!(name, Some("Alice, \"the\nfirst\""));
    assert_eq!((imported[1].0, imported[1].1.amf), (5, [0, 0]));
}

/// Line and field are named, and no key is shown.
#[test]
fn errors_name_line_and_field() {
    let good = format!("a@hims.net,sip:a@hims.net,{K},{OPC}");
    let header = "impi,impu,k,opc";
    for (row, expected) in [
        (format!("b@hims.net,sip:b@hims.net,{},{OPC}", &K[1..]), "line 3: k: is not hexadecimal"),
        (format!("b@hims.net,sip:b@hims.net,{},{OPC}", &K[2..]), "line 3: k: has 30 hexadecimal"),
        (format!("b@hims.net,sip:b@hims.net,{K},"), "line 3: opc: is missing"),
        (format!("bhims.net,sip:b@hims.net,{K},{OPC}"), "line 3: impi: is not user@realm"),
        (format!("b@hims.net,b@hims.net,{K},{OPC}"), "line 3: impu: b@hims.net is not"),
        (format!("b@hims.net,,{K},{OPC}"), "line 3: impu: at least one"),
        (format!("b@hims.net,sip:!(!@hims.net,{K},{OPC}"), "line 3: impu: groups"),
        ("b@hims.net,x".to_owned(), "line 3: 2 fields, the first line names 4"),
        ("\"b@hims.net".to_owned(), "line 3: a quoted field does not end"),
    ] {
        let error = from_csv(&format!("{header}\n{good}\n{row}\n")).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
        assert!(!error.contains(&K[2..]));
    }
    let error = from_csv("impi,colour\n").unwrap_err().to_string();
    assert!(error.starts_with("line 1: column \"colour\" is unknown"), "{error}");

    let toml = format!("[[subscriber]]\nimpi = \"a@h\"\nk = \"{K}\"\nopd = \"{OPC}\"\n");
    let error = from_toml(&toml).unwrap_err().to_string();
    assert!(error.starts_with("line 4: unknown field `opd`"), "{error}");
    let toml = format!("\n[[subscriber]]\nimpi = \"a@h\"\nimpu=[\"sip:a@h\"]\nk = \"{K}\"\n");
    let error = from_toml(&toml).unwrap_err().to_string();
    assert!(error.starts_with("line 2: opc: is missing"), "{error}");
    let error = from_toml(&format!("[[subscriber]]\nk = {K}\n")).unwrap_err().to_string();
    assert!(error.starts_with("line 2") && !error.contains(&K[..8]), "{error}");
}

/// Many at once: what the commands do for a hundred thousand, at a size for every test run.
#[test]
fn imports_many_in_one_transaction() {
    let rows = 5_000;
    let mut csv = "imsi,msisdn,k,opc\n".to_owned();
    for number in 0..rows {
        csv += &format!("00101{number:010},1555{number:07},{K},{OPC}\n");
    }
    let world = World::new();
    let mut random = common::random::Random::from_seed([1; 32]);
    let begun = std::time::Instant::now();
    for (_, subscriber) in from_csv(&csv).unwrap().subscribers {
        let (database, vault) = (&world.database, &world.vault);
        database.procedure(|| provision::add(database, vault, &mut random, &subscriber)).unwrap();
    }
    world.database.commit().unwrap();
    let each = begun.elapsed() / rows;
    println!("a subscriber takes {each:?}");
    assert!(each.as_micros() < 2_000, "{each:?}");
    let public = world.database.public_identity("tel:+15550000042").unwrap().unwrap();
    assert!(!public.is_barred);
}
