//! Published vectors of the AKA algorithms, and of digests made by real phones. The tables lie
//! beside the repository; without them these tests say so and pass.

use std::path::PathBuf;

use common::aka::digest::{self, AkaNonce};
use common::aka::milenage::{self, Milenage};
use common::aka::tuak::{self, Lengths, Tuak};
use common::aka::vector::{Algorithm, Card, CardAnswer, Sqn};
use common::secret::Secret;
use common::sip::auth::DigestParameters;

/// One table: the rows, each value under the name of its column.
struct Row(Vec<(String, String)>);

impl Row {
    fn text(&self, column: &str) -> &str {
        let found = self.0.iter().find(|(name, _)| name == column);
        &found.unwrap_or_else(|| panic!("no column {column}")).1
    }

    fn octets(&self, column: &str) -> Vec<u8> {
        hex::decode(self.text(column)).unwrap_or_else(|_| panic!("{column}"))
    }

    fn array<const N: usize>(&self, column: &str) -> [u8; N] {
        self.octets(column).try_into().unwrap_or_else(|_| panic!("{column}"))
    }

    fn key(&self, column: &str) -> Secret<[u8; 16]> {
        Secret::new(self.array(column))
    }
}

/// `None`, with a word about it, when the table is not at hand.
fn table(name: &str) -> Option<Vec<Row>> {
    let mut folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let text = loop {
        let path = folder.join("shared/material/aka-vectors").join(name);
        if let Ok(text) = std::fs::read_to_string(path) {
            break text;
        }
        if !folder.pop() {
            println!("skipped: no {name}");
            return None;
        }
    };
    let mut lines = text.lines();
    let columns: Vec<_> = lines.next()?.split('\t').collect();
    let row = |line: &str| {
        Row(columns.iter().map(|c| c.to_string()).zip(line.split('\t').map(Into::into)).collect())
    };
    let rows: Vec<_> = lines.filter(|line| !line.is_empty()).map(row).collect();
    assert!(!rows.is_empty(), "{name}");
    Some(rows)
}

/// TS 35.207, TS 35.208: every published set, against the `milenage` crate as well.
#[test]
fn milenage_sets() {
    let Some(rows) = table("milenage_ts35207_35208.tsv") else { return };
    assert_eq!(rows.len(), 25);
    for row in rows {
        let set = row.text("set");
        let (k, rand) = (row.array("K"), row.array("RAND"));
        let (sqn, amf) = (row.array("SQN"), row.array("AMF"));
        let opc = milenage::opc(&k, &row.array("OP"));
        assert_eq!(opc, row.array("OPc"), "set {set}");
        let own = Milenage::new(&k, &opc);
        let (mac_a, mac_s) = own.f1(&rand, &sqn, &amf);
        let responses = own.f2345(&rand);
        assert_eq!(mac_a, row.array("f1_MAC-A"), "set {set}");
        assert_eq!(mac_s, row.array("f1star_MAC-S"), "set {set}");
        assert_eq!(responses.res, row.octets("f2_RES"), "set {set}");
        assert_eq!(responses.ck, row.array("f3_CK"), "set {set}");
        assert_eq!(responses.ik, row.array("f4_IK"), "set {set}");
        assert_eq!(responses.ak, row.array("f5_AK"), "set {set}");
        assert_eq!(own.f5_star(&rand), row.array("f5star_AK"), "set {set}");

        let algorithm = Algorithm::Milenage { k: Secret::new(k), opc: Secret::new(opc) };
        let sqn = Sqn::from_bytes(sqn);
        assert_eq!(algorithm.vector(rand, sqn, amf).autn, row.array("AUTN"), "set {set}");
        assert_eq!(algorithm.open_auts(&rand, &row.array("AUTS")), Some(sqn), "set {set}");
    }
}

/// TS 35.206 §4.1: sets 1 and 6 of TS 35.207 without the table, and random inputs against the
/// `milenage` crate.
#[test]
fn milenage_against_another_implementation() {
    let octets = |text: &str| <[u8; 16]>::try_from(hex::decode(text).unwrap()).unwrap();
    let k = octets("6c38a116ac280c454f59332ee35c8c4f");
    let opc = milenage::opc(&k, &octets("1ba00a1a7c6700ac8c3ff3e96ad08725"));
    assert_eq!(opc, octets("3803ef5363b947c6aaa225e58fae3934"));
    let mut random = common::random::Random::from_seed([9; 32]);
    for _ in 0..200 {
        let (k, opc, rand) = (random.bytes(), random.bytes(), random.bytes());
        let (sqn, amf) = (random.bytes(), random.bytes());
        let own = Milenage::new(&k, &opc);
        let mut other = ::milenage::Milenage::new_with_opc(k, opc);
        let (res, ck, ik, ak) = other.f2345(&rand);
        let responses = own.f2345(&rand);
        assert_eq!((responses.res, responses.ck), (res.to_vec(), ck));
        assert_eq!((responses.ik, responses.ak), (ik, ak));
        let macs = (other.f1(&rand, &sqn, &amf), other.f1star(&rand, &sqn, &amf));
        assert_eq!(own.f1(&rand, &sqn, &amf), macs);
        assert_eq!(own.f5_star(&rand), other.f5star(&rand));
    }
}

/// TS 35.233: every published set, in all lengths.
#[test]
fn tuak_sets() {
    let Some(rows) = table("tuak_ts35233.tsv") else { return };
    assert_eq!(rows.len(), 6);
    for row in rows {
        let set = row.text("set");
        let iterations = row.text("keccak_iterations").parse().unwrap();
        let k = row.octets("K");
        let topc = tuak::topc(&k, &row.array("TOP"), iterations);
        assert_eq!(topc, row.array("TOPc"), "{set}");
        let lengths = Lengths {
            mac: row.octets("f1_MAC-A").len(),
            res: row.octets("f2_RES").len(),
            ck: row.octets("f3_CK").len(),
            ik: row.octets("f4_IK").len(),
        };
        let own = Tuak::new(&k, &topc, iterations, lengths);
        let (rand, sqn, amf) = (row.array("RAND"), row.array("SQN"), row.array("AMF"));
        let responses = own.long_f2345(&rand);
        assert_eq!(own.f1(&rand, &sqn, &amf), row.octets("f1_MAC-A"), "{set}");
        assert_eq!(own.f1_star(&rand, &sqn, &amf), row.octets("f1star_MAC-S"), "{set}");
        assert_eq!(responses.res, row.octets("f2_RES"), "{set}");
        assert_eq!(responses.ck, row.octets("f3_CK"), "{set}");
        assert_eq!(responses.ik, row.octets("f4_IK"), "{set}");
        assert_eq!(responses.ak, row.array("f5_AK"), "{set}");
        assert_eq!(own.f5_star(&rand), row.array("f5star_AK"), "{set}");
    }
}

/// TS 35.233 set 1 without the table: the lengths of IMS but for RES.
#[test]
fn tuak_set_1() {
    let k = [0xAB; 16];
    let topc = tuak::topc(&k, &[0x55; 32], 1);
    assert_eq!(
        hex::encode(topc),
        "bd04d9530e87513c5d837ac2ad954623a8e2330c115305a73eb45d1f40cccbff"
    );
    let own = Tuak::new(&k, &topc, 1, Lengths::of_ims(4));
    let rand = [0x42; 16];
    assert_eq!(hex::encode(own.f1(&rand, &[0x11; 6], &[0xFF; 2])), "f9a54e6aeaa8618d");
    assert_eq!(hex::encode(own.f1_star(&rand, &[0x11; 6], &[0xFF; 2])), "e94b4dc6c7297df3");
    let responses = own.f2345(&rand);
    assert_eq!(hex::encode(responses.res), "657acd64");
    assert_eq!(hex::encode(responses.ck), "d71a1e5c6caffe986a26f783e5c78be1");
    assert_eq!(hex::encode(responses.ik), "be849fa2564f869aecee6f62d4337e72");
    assert_eq!(hex::encode(responses.ak), "719f1e9b9054");
    assert_eq!(hex::encode(own.f5_star(&rand)), "e7af6b3d0e38");
}

/// TS 34.108 §8.1.2
#[test]
fn test_algorithm_sets() {
    let Some(rows) = table("xor_ts34108.tsv") else { return };
    assert_eq!(rows.len(), 3);
    for row in rows {
        let algorithm = Algorithm::Test { k: row.key("K") };
        let sqn = Sqn::from_bytes(row.array("SQN"));
        let vector = algorithm.vector(row.array("RAND"), sqn, row.array("AMF"));
        assert_eq!(vector.xres.expose(), &row.octets("RES"));
        assert_eq!(vector.ck, row.key("CK"));
        assert_eq!(vector.ik, row.key("IK"));
        assert_eq!(vector.autn, row.array("AUTN"));
    }
}

/// TS 33.102 §6.3.5: S-69
#[test]
fn resynchronisation() {
    let Some(rows) = table("auts_resync.tsv") else { return };
    for row in rows {
        let algorithm = Algorithm::Milenage { k: row.key("K"), opc: row.key("OPc") };
        let sqn = Sqn(row.text("SQN").parse().unwrap());
        let rand = row.array("RAND");
        if row.text("name") == "resync" {
            assert_eq!(algorithm.open_auts(&rand, &row.array("AUTS")), Some(sqn));
            continue;
        }
        let vector = algorithm.vector(rand, sqn, row.array("AMF"));
        assert_eq!(vector.autn, row.array("AUTN"));
        assert_eq!(vector.xres.expose(), &row.octets("RES"));
        assert_eq!(vector.ck, row.key("CK"));
        assert_eq!(vector.ik, row.key("IK"));
    }
}

/// RFC 3310 §3.3: S-84, S-93, answers of real phones verify and no changed one does.
#[test]
fn digests_of_real_phones() {
    let Some(rows) = table("aka_digest.tsv") else { return };
    let rows: Vec<_> = rows.iter().filter(|row| row.text("algorithm") == "AKAv1-MD5").collect();
    assert_eq!(rows.len(), 6);
    for row in rows {
        let name = row.text("name");
        let mut credentials = DigestParameters::default();
        for parameter in ["username", "realm", "nonce", "nc", "cnonce", "qop", "uri", "response"] {
            credentials.set(parameter, row.text(parameter));
        }
        let (res, method) = (row.octets("RES"), row.text("method"));
        let response = digest::response(&credentials, &res, method, b"");
        assert_eq!(response.as_deref(), Some(row.text("response")), "{name}");
        assert!(digest::verify(&credentials, &res, method, b""), "{name}");
        assert!(!digest::verify(&credentials, &res[1..], method, b""), "{name}");
        for parameter in ["username", "realm", "nonce", "nc", "cnonce", "uri", "response"] {
            let mut changed = credentials.clone();
            let mut value = row.text(parameter).to_string();
            let last = if value.pop() == Some('0') { '1' } else { '0' };
            value.push(last);
            changed.set(parameter, &value);
            assert!(!digest::verify(&changed, &res, method, b""), "{name}: {parameter}");
        }
        let nonce = AkaNonce::decode(row.text("nonce")).unwrap();
        assert_eq!((nonce.rand, nonce.autn), (row.array("RAND"), row.array("AUTN")), "{name}");
        if row.text("aka_function") == "MILENAGE" {
            let algorithm = Algorithm::Milenage { k: row.key("K"), opc: row.key("OPc") };
            let answer = Card::new(algorithm).answer(&nonce.rand, &nonce.autn);
            match answer {
                CardAnswer::Success { res: own, .. } => assert_eq!(own.expose(), &res, "{name}"),
                // Some of these numbers are beyond the reach of a fresh card; the MAC was right.
                CardAnswer::SyncFailure { .. } => {}
                CardAnswer::MacFailure => panic!("{name}: MAC"),
            }
        }
    }
}
