//! The subscribers of the lab: who they are, and how the HSS learns of them.

use std::fmt::Write as _;

use common::aka::vector::Algorithm;
use common::random::Random;
use common::secret::Secret;
use ue::Isim;

const MCC: &str = "001";
const MNC: &str = "01";
/// First digits of a telephone number, from the range that is kept for fiction.
const MSISDN: &str = "1555010";

/// The subscriber with a password, where other schemes than AKA are shown.
pub const WITH_PASSWORD: usize = 0;
pub const PASSWORD: &str = "of a test network";
/// The one who is known by the address of the bearer.
pub const BY_ADDRESS: usize = 1;
/// The one whose S-CSCF must be capable of [`CAPABILITY`], and the one whose S-CSCF there is not.
pub const WITH_CAPABILITY: usize = 2;
pub const WITHOUT_SERVER: usize = 3;
/// What the second S-CSCF has (TS 29.229 §6.3.5).
pub const CAPABILITY: u32 = 7;

/// So many cards exist; all but the last are known to the HSS.
#[derive(Debug)]
pub struct Subscribers {
    cards: Vec<Keys>,
    next: usize,
}

#[derive(Clone, Debug)]
struct Keys {
    k: Secret<[u8; 16]>,
    opc: Secret<[u8; 16]>,
}

impl Subscribers {
    pub fn new(count: usize, random: &mut Random) -> Subscribers {
        let mut keys = || Keys { k: Secret::new(random.bytes()), opc: Secret::new(random.bytes()) };
        Subscribers { cards: (0..=count).map(|_| keys()).collect(), next: 0 }
    }

    /// The number of a subscriber who has not had a phone yet.
    pub fn take(&mut self) -> Option<usize> {
        let number = self.next;
        (number + 1 < self.cards.len()).then(|| {
            self.next += 1;
            number
        })
    }

    /// From here on, for phones that [`Subscribers::take`] gives.
    pub fn begin_at(&mut self, number: usize) {
        self.next = self.next.max(number);
    }

    /// The card that the HSS does not know.
    pub fn stranger(&self) -> usize {
        self.cards.len() - 1
    }

    pub fn imsi(number: usize) -> String {
        format!("{MCC}{MNC}{:010}", number + 1)
    }

    /// As a public identity.
    pub fn telephone(number: usize) -> String {
        format!("tel:+{}", Self::msisdn(number))
    }

    fn msisdn(number: usize) -> String {
        format!("{MSISDN}{:04}", number + 1)
    }

    /// The card, with the identities that the HSS has for it.
    pub fn isim(&self, number: usize) -> Isim {
        let keys = &self.cards[number];
        let algorithm = Algorithm::Milenage { k: keys.k.clone(), opc: keys.opc.clone() };
        Isim::of_imsi(&Self::imsi(number), MCC, MNC, algorithm)
    }

    /// What `hss subscriber import` reads.
    /// `has_schemes`: the first ones have something else than a card, or need more than an S-CSCF.
    pub fn provisioning(&self, has_application_server: bool, has_schemes: bool) -> String {
        // It hears of everybody, by criteria that the S-CSCFs share.
        let mut text = match has_application_server {
            true => "[[profile]]\nname = \"default\"\nshared_ifc_set_ids = [1]\n\n".to_owned(),
            false => String::new(),
        };
        let known = &self.cards[..self.cards.len() - 1];
        for (number, keys) in known.iter().enumerate() {
            let secret = match number {
                WITH_PASSWORD if has_schemes => {
                    format!("scheme = \"digest\"\npassword = \"{PASSWORD}\"")
                }
                // Until its bearer is known: that of nobody.
                BY_ADDRESS if has_schemes => {
                    "scheme = \"early-ims\"\naddress = \"192.0.2.1\"".to_owned()
                }
                _ => {
                    let (k, opc) = (hex(keys.k.expose()), hex(keys.opc.expose()));
                    let needs = match number {
                        WITH_CAPABILITY if has_schemes => CAPABILITY.to_string(),
                        WITHOUT_SERVER if has_schemes => {
                            format!("{CAPABILITY}, {}", CAPABILITY + 1)
                        }
                        _ => String::new(),
                    };
                    let needs = match needs.is_empty() {
                        true => needs,
                        false => format!("\nmandatory_capabilities = [{needs}]"),
                    };
                    format!("k = \"{k}\"\nopc = \"{opc}\"{needs}")
                }
            };
            let _ = write!(
                text,
                "[[subscriber]]\nimsi = \"{}\"\nmnc_digits = \"2\"\nmsisdn = \"{}\"\n{secret}\n\n",
                Self::imsi(number),
                Self::msisdn(number),
            );
        }
        text
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
