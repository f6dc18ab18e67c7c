//! Vectors, sequence numbers, resynchronisation (TS 33.102 §6.3, Annex C).

use subtle::ConstantTimeEq;

use crate::aka::milenage::{Milenage, Responses};
use crate::aka::test_algorithm::{AMF_RESYNCH, TestAlgorithm};
use crate::aka::tuak::{Lengths, Tuak};
use crate::secret::Secret;

/// Which algorithm set a card has, with its keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// K and OPc.
    Milenage { k: Secret<[u8; 16]>, opc: Secret<[u8; 16]> },
    /// K of 16 or 32 octets, TOPc, Keccak iterations. MAC 64, CK and IK 128, RES 64 bits by
    /// default.
    Tuak { k: Secret<Vec<u8>>, topc: Secret<[u8; 32]>, iterations: u32, res_octets: usize },
    /// TS 34.108 §8.1.2.
    Test { k: Secret<[u8; 16]> },
}

/// 48-bit sequence number: SEQ (43) ‖ IND (5) (TS 33.102 Annex C.1.1.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Sqn(pub u64);

/// What the HSS makes and the S-CSCF uses once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vector {
    pub rand: [u8; 16],
    pub autn: [u8; 16],
    pub xres: Secret<Vec<u8>>,
    pub ck: Secret<[u8; 16]>,
    pub ik: Secret<[u8; 16]>,
}

/// A card's answer to a challenge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CardAnswer {
    Success {
        res: Secret<Vec<u8>>,
        ck: Secret<[u8; 16]>,
        ik: Secret<[u8; 16]>,
    },
    /// MAC is not XMAC: the network is not authentic.
    MacFailure,
    /// The sequence number is not fresh.
    SyncFailure {
        auts: [u8; 14],
    },
}

/// How far ahead of the card a SEQ may be (TS 33.102 Annex C.2.1).
const DELTA: u64 = 1 << 28;

/// AMF* of a resynchronisation (TS 33.102 §6.3.3).
const AMF_STAR: [u8; 2] = [0, 0];

impl Sqn {
    /// The largest SEQ, 43 bits.
    pub const SEQ_MAX: u64 = (1 << 43) - 1;

    /// `seq` beyond 43 bits and `ind` beyond 5 bits are cut.
    pub fn of(seq: u64, ind: usize) -> Sqn {
        Sqn((seq & Self::SEQ_MAX) << 5 | ind as u64 & 31)
    }

    /// SEQ + 1, IND + 1 modulo 32 (TS 33.102 Annex C.1.2, profile 2).
    ///
    /// SEQ stays at its largest value: a card refuses what it has seen, and never sees zero again.
    pub fn next(self) -> Sqn {
        Sqn::of((self.seq() + 1).min(Self::SEQ_MAX), self.ind() + 1)
    }

    pub fn seq(self) -> u64 {
        self.0 >> 5
    }

    pub fn ind(self) -> usize {
        (self.0 & 31) as usize
    }

    pub fn to_bytes(self) -> [u8; 6] {
        let octets = self.0.to_be_bytes();
        std::array::from_fn(|i| octets[i + 2])
    }

    pub fn from_bytes(bytes: [u8; 6]) -> Sqn {
        Sqn(bytes.iter().fold(0, |number, octet| number << 8 | u64::from(*octet)))
    }
}

impl Algorithm {
    /// A vector for `sqn` (TS 33.102 §6.3.2).
    pub fn vector(&self, rand: [u8; 16], sqn: Sqn, amf: [u8; 2]) -> Vector {
        let functions = self.functions();
        let responses = functions.responses(&rand);
        let sqn = sqn.to_bytes();
        let mut autn = [0; 16];
        autn[..6].copy_from_slice(&xor(sqn, responses.ak));
        autn[6..8].copy_from_slice(&amf);
        autn[8..].copy_from_slice(&functions.mac_a(&rand, &sqn, &amf));
        Vector {
            rand,
            autn,
            xres: Secret::new(responses.res),
            ck: Secret::new(responses.ck),
            ik: Secret::new(responses.ik),
        }
    }

    /// The SQN_MS inside AUTS when its MAC-S is right (TS 33.102 §6.3.5); compared in constant
    /// time.
    pub fn open_auts(&self, rand: &[u8; 16], auts: &[u8; 14]) -> Option<Sqn> {
        let functions = self.functions();
        let concealed: [u8; 6] = std::array::from_fn(|i| auts[i]);
        let sqn_ms = xor(concealed, functions.ak_star(rand));
        let mac_s = functions.mac_s(rand, &sqn_ms, &AMF_STAR);
        bool::from(mac_s.ct_eq(&auts[6..])).then(|| Sqn::from_bytes(sqn_ms))
    }

    /// What keeps these keys from being used, for whoever provisions them: TUAK takes K of 16 or 32
    /// octets, at least one iteration, and RES of 4, 8, 16 or 32 octets (TS 35.231 §5).
    pub fn check(&self) -> Result<(), &'static str> {
        let Algorithm::Tuak { k, iterations, res_octets, .. } = self else { return Ok(()) };
        if !matches!(k.expose().len(), 16 | 32) {
            return Err("K of TUAK has 16 or 32 octets");
        }
        if *iterations == 0 {
            return Err("TUAK needs at least one Keccak iteration");
        }
        if !matches!(res_octets, 4 | 8 | 16 | 32) {
            return Err("RES of TUAK has 4, 8, 16 or 32 octets");
        }
        Ok(())
    }

    fn functions(&self) -> Functions<'_> {
        match self {
            Algorithm::Milenage { k, opc } => {
                Functions::Milenage(Milenage::new(k.expose(), opc.expose()))
            }
            Algorithm::Tuak { k, topc, iterations, res_octets } => {
                let lengths = Lengths::of_ims(*res_octets);
                Functions::Tuak(Tuak::new(k.expose(), topc.expose(), *iterations, lengths))
            }
            Algorithm::Test { k } => Functions::Test(TestAlgorithm::new(k.expose())),
        }
    }
}

/// The f-functions of one card, its key already expanded.
#[expect(clippy::large_enum_variant, reason = "lives on the stack for one vector, never in a list")]
enum Functions<'a> {
    Milenage(Milenage),
    Tuak(Tuak<'a>),
    Test(TestAlgorithm),
}

impl Functions<'_> {
    fn mac_a(&self, rand: &[u8; 16], sqn: &[u8; 6], amf: &[u8; 2]) -> [u8; 8] {
        match self {
            Functions::Milenage(milenage) => milenage.f1(rand, sqn, amf).0,
            Functions::Tuak(tuak) => eight(&tuak.f1(rand, sqn, amf)),
            Functions::Test(test) => test.f1(rand, sqn, amf),
        }
    }

    fn mac_s(&self, rand: &[u8; 16], sqn: &[u8; 6], amf: &[u8; 2]) -> [u8; 8] {
        match self {
            Functions::Milenage(milenage) => milenage.f1(rand, sqn, amf).1,
            Functions::Tuak(tuak) => eight(&tuak.f1_star(rand, sqn, amf)),
            Functions::Test(test) => test.f1(rand, sqn, amf),
        }
    }

    fn responses(&self, rand: &[u8; 16]) -> Responses {
        match self {
            Functions::Milenage(milenage) => milenage.f2345(rand),
            Functions::Tuak(tuak) => tuak.f2345(rand),
            Functions::Test(test) => test.f2345(rand),
        }
    }

    fn ak_star(&self, rand: &[u8; 16]) -> [u8; 6] {
        match self {
            Functions::Milenage(milenage) => milenage.f5_star(rand),
            Functions::Tuak(tuak) => tuak.f5_star(rand),
            Functions::Test(test) => test.f5_star(rand),
        }
    }
}

/// The sequence numbers of a card (TS 33.102 Annex C.2): one SEQ per IND.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Card {
    pub algorithm: Algorithm,
    pub seq_ms: [u64; 32],
}

impl Card {
    pub fn new(algorithm: Algorithm) -> Card {
        Card { algorithm, seq_ms: [0; 32] }
    }

    /// TS 33.102 §6.3.3: MAC first, then freshness (delta 2^28).
    ///
    /// A test card asked to resynchronise by an AMF of all ones (TS 34.108 §8.1.2) does so whatever
    /// the sequence number is.
    pub fn answer(&mut self, rand: &[u8; 16], autn: &[u8; 16]) -> CardAnswer {
        let functions = self.algorithm.functions();
        let responses = functions.responses(rand);
        let sqn = xor(std::array::from_fn(|i| autn[i]), responses.ak);
        let amf = [autn[6], autn[7]];
        let xmac = functions.mac_a(rand, &sqn, &amf);
        if !bool::from(xmac.ct_eq(&autn[8..])) {
            return CardAnswer::MacFailure;
        }
        let sqn = Sqn::from_bytes(sqn);
        let must_resynchronise =
            matches!(self.algorithm, Algorithm::Test { .. }) && amf == AMF_RESYNCH;
        if must_resynchronise || !self.is_fresh(sqn) {
            return CardAnswer::SyncFailure { auts: self.auts(rand) };
        }
        self.seq_ms[sqn.ind()] = sqn.seq();
        CardAnswer::Success {
            res: Secret::new(responses.res),
            ck: Secret::new(responses.ck),
            ik: Secret::new(responses.ik),
        }
    }

    /// SQN_MS of now: the highest stored.
    pub fn sqn_ms(&self) -> Sqn {
        let highest = (0..32).map(|ind| Sqn::of(self.seq_ms[ind], ind)).max();
        highest.unwrap_or_default()
    }

    /// TS 33.102 Annex C.2.2: newer than the last of its IND, and not absurdly far ahead.
    fn is_fresh(&self, sqn: Sqn) -> bool {
        sqn.seq() > self.seq_ms[sqn.ind()] && sqn.seq().saturating_sub(self.sqn_ms().seq()) <= DELTA
    }

    /// (SQN_MS xor AK*) ‖ MAC-S (TS 33.102 §6.3.3).
    fn auts(&self, rand: &[u8; 16]) -> [u8; 14] {
        let functions = self.algorithm.functions();
        let sqn_ms = self.sqn_ms().to_bytes();
        let mut auts = [0; 14];
        auts[..6].copy_from_slice(&xor(sqn_ms, functions.ak_star(rand)));
        auts[6..].copy_from_slice(&functions.mac_s(rand, &sqn_ms, &AMF_STAR));
        auts
    }
}

fn xor(a: [u8; 6], b: [u8; 6]) -> [u8; 6] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// A MAC of 64 bits; `Lengths::of_ims` asks for no other.
fn eight(mac: &[u8]) -> [u8; 8] {
    std::array::from_fn(|i| mac[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    /// Set 1 of TS 35.208.
    fn set_1() -> Algorithm {
        Algorithm::Milenage {
            k: Secret::new(octets("465b5ce8b199b49faa5f0a2ee238a6bc")),
            opc: Secret::new(octets("cd63cb71954a9f4e48a5994e37a02baf")),
        }
    }

    fn rand_1() -> [u8; 16] {
        octets("23553cbe9637a89d218ae64dae47bf35")
    }

    fn test_card() -> Algorithm {
        Algorithm::Test { k: Secret::new(octets("00112233445566778899aabbccddeeff")) }
    }

    /// TS 33.102 §6.3.2
    #[test]
    fn vectors_of_set_1() {
        let cases = [
            (0xFF9B_B4D0_B607, "b9b9", "55f328b43577b9b94a9ffac354dfafb3"),
            (0x21, "8000", "aa689c648351800041ed662ae8c74ecd"),
            (0x41, "8000", "aa689c64833180004c41de343ba8c5f1"),
        ];
        for (sqn, amf, autn) in cases {
            let vector = set_1().vector(rand_1(), Sqn(sqn), octets(amf));
            assert_eq!(hex::encode(vector.autn), autn);
            assert_eq!(hex::encode(vector.xres.expose()), "a54211d5e3ba50bf");
            assert_eq!(hex::encode(vector.ck.expose()), "b40ba9a3c58b2a05bbf0d987b21bf8cb");
            assert_eq!(hex::encode(vector.ik.expose()), "f769bcd751044604127672711c6d3441");
        }
    }

    /// TS 33.102 §6.3.5: S-69
    #[test]
    fn auts_opens_only_when_mac_s_is_right() {
        let auts: [u8; 14] = octets("451e8beca47a8c2b1a6206d86e96");
        assert_eq!(set_1().open_auts(&rand_1(), &auts), Some(Sqn(0x41)));
        let auts_2: [u8; 14] = octets("ba853f3c121cb55edb820040ab41");
        assert_eq!(set_1().open_auts(&rand_1(), &auts_2), Some(Sqn(0xFF9B_B4D0_B627)));
        for octet in 0..14 {
            let mut changed = auts;
            changed[octet] ^= 1;
            assert_eq!(set_1().open_auts(&rand_1(), &changed), None, "octet {octet}");
        }
        let mut other_rand = rand_1();
        other_rand[0] ^= 1;
        assert_eq!(set_1().open_auts(&other_rand, &auts), None);
    }

    /// TS 34.108 §8.1.2
    #[test]
    fn test_algorithm_example() {
        let rand = octets("aa55aa55aa55aa55aa55aa55aa55aa55");
        let vector = test_card().vector(rand, Sqn(0x20), [0x80, 0]);
        assert_eq!(hex::encode(vector.xres.expose()), "aa448866ee00cc2222cc00ee668844aa");
        assert_eq!(hex::encode(vector.ck.expose()), "448866ee00cc2222cc00ee668844aaaa");
        assert_eq!(hex::encode(vector.ik.expose()), "8866ee00cc2222cc00ee668844aaaa44");
        assert_eq!(hex::encode(vector.autn), "66ee00cc22028000aa448866ee204c22");
        let auts = octets("66ee00cc2262aa448866ee40cc22");
        assert_eq!(test_card().open_auts(&rand, &auts), Some(Sqn(0x40)));
    }

    /// TS 34.108 §8.1.2: AMF FFFF forces a resynchronisation, on a test card only.
    #[test]
    fn amf_of_ones_forces_resynchronisation() {
        let rand = [7; 16];
        let mut card = Card::new(test_card());
        let vector = test_card().vector(rand, Sqn::of(1, 1), AMF_RESYNCH);
        let answer = card.answer(&rand, &vector.autn);
        let CardAnswer::SyncFailure { auts } = answer else { panic!("{answer:?}") };
        assert_eq!(test_card().open_auts(&rand, &auts), Some(card.sqn_ms()));
        let mut card = Card::new(set_1());
        let vector = set_1().vector(rand, Sqn::of(1, 1), AMF_RESYNCH);
        assert!(matches!(card.answer(&rand, &vector.autn), CardAnswer::Success { .. }));
    }

    /// TS 33.102 §6.3.3: S-68, the three outcomes, MAC before freshness.
    #[test]
    fn card_accepts_each_number_once() {
        let mut card = Card::new(set_1());
        let fresh = set_1().vector(rand_1(), Sqn::of(1, 1), [0, 0]);
        let answer = card.answer(&rand_1(), &fresh.autn);
        let expected =
            CardAnswer::Success { res: fresh.xres.clone(), ck: fresh.ck.clone(), ik: fresh.ik };
        assert_eq!(answer, expected);

        let answer = card.answer(&rand_1(), &fresh.autn);
        let CardAnswer::SyncFailure { auts } = answer else { panic!("{answer:?}") };
        assert_eq!(set_1().open_auts(&rand_1(), &auts), Some(Sqn::of(1, 1)));

        for octet in 0..16 {
            let mut changed = fresh.autn;
            changed[octet] ^= 0x80;
            assert_eq!(card.answer(&rand_1(), &changed), CardAnswer::MacFailure, "{octet}");
        }
    }

    /// TS 33.102 Annex C.2.2: each IND has its own SEQ, and delta limits the jump.
    #[test]
    fn freshness_per_index_and_delta() {
        let mut card = Card::new(set_1());
        let mut try_number = |seq, ind| {
            let vector = set_1().vector(rand_1(), Sqn::of(seq, ind), [0, 0]);
            matches!(card.answer(&rand_1(), &vector.autn), CardAnswer::Success { .. })
        };
        assert!(try_number(100, 3));
        assert!(try_number(50, 4), "older, but another IND");
        assert!(!try_number(50, 4));
        assert!(!try_number(100, 3));
        assert!(!try_number(100 + DELTA + 1, 3));
        assert!(try_number(100 + DELTA, 3));
        assert_eq!(card.sqn_ms(), Sqn::of(100 + DELTA, 3));
    }

    /// TS 33.102 Annex C.1.2
    #[test]
    fn sequence_numbers_count() {
        assert_eq!(Sqn::of(0, 31).next(), Sqn::of(1, 0));
        assert_eq!(Sqn::of(1, 1), Sqn(0x21));
        assert_eq!(Sqn(0x21).next(), Sqn(0x42));
        assert_eq!(Sqn(0xFF9B_B4D0_B607).to_bytes(), octets("ff9bb4d0b607"));
        assert_eq!(Sqn::from_bytes(octets("ff9bb4d0b607")), Sqn(0xFF9B_B4D0_B607));
        assert_eq!(Sqn::of(Sqn::SEQ_MAX, 0).next().seq(), Sqn::SEQ_MAX);
        assert!(Sqn::of(Sqn::SEQ_MAX, 31).0 < 1 << 48);
    }

    /// TS 35.231 §5
    #[test]
    fn tuak_round_trip_and_check() {
        let tuak = |k: usize, iterations, res_octets| Algorithm::Tuak {
            k: Secret::new(vec![0x5A; k]),
            topc: Secret::new([0xA5; 32]),
            iterations,
            res_octets,
        };
        for k in [16, 32] {
            let algorithm = tuak(k, 1, 8);
            assert_eq!(algorithm.check(), Ok(()));
            let vector = algorithm.vector(rand_1(), Sqn::of(9, 9), [0x12, 0x34]);
            let mut card = Card::new(algorithm.clone());
            let answer = card.answer(&rand_1(), &vector.autn);
            assert_eq!(
                answer,
                CardAnswer::Success { res: vector.xres, ck: vector.ck, ik: vector.ik }
            );
            let answer = card.answer(&rand_1(), &vector.autn);
            let CardAnswer::SyncFailure { auts } = answer else { panic!("{answer:?}") };
            assert_eq!(algorithm.open_auts(&rand_1(), &auts), Some(Sqn::of(9, 9)));
        }
        assert!(tuak(17, 1, 8).check().is_err());
        assert!(tuak(16, 0, 8).check().is_err());
        assert!(tuak(16, 1, 9).check().is_err());
        assert!(set_1().check().is_ok());
    }
}
