//! Why a REGISTER goes no further, and the counters of registration.

use common::stats::{Histogram, Samples};

/// Why a REGISTER goes no further; the variant's name is the counter's label and the log's cause.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Refusal {
    /// Its temporary association has nothing agreed any more (ipsec.md N-05).
    NoAssociation,
    /// A header that we need cannot be read.
    Malformed,
    /// Proxy-Require holds what we do not know (RFC 3261 §16.3 item 5).
    BadExtension,
    /// No sec-agree where our policy demands it (RFC 3329 §2.3.1).
    SecAgreeRequired,
    /// Nothing in Security-Client that we can use (RFC 3329 §2.3.1).
    NoCommonAlgorithm,
    /// Security-Verify is missing or is not what we sent: somebody bids down (RFC 3329 §2.3.1).
    SecurityVerifyMismatch,
    /// Security-Client changed between the two REGISTERs (TS 24.229 §5.2.2.1).
    SecurityClientChanged,
    /// An offer over an association repeats its ports or SPIs, or moves port-s (TS 33.203 §7.4).
    OfferCollides,
    /// The private identity is not the one the association belongs to (TS 24.229 §5.2.2.1).
    ForeignIdentity,
    /// An emergency registration was challenged, and Contact is that of the normal one now, or the other way round
    /// (TS 24.229 §5.1.6.2).
    ForeignContact,
    /// Via names another address than the association's (TS 24.229 §5.2.2.1).
    ForeignAddress,
    /// The home network challenges a refresh that offers nothing to build associations from.
    NothingToSecure,
    /// It challenges the answer to a challenge: what was offered is used up.
    ChallengedAgain,
    /// The challenge lacks ck or ik (registration.md P-10).
    NoKeys,
    /// The kernel refused the associations (ipsec.md F-12).
    KernelRefused,
    /// The home network accepts a REGISTER in clear, where our policy demands associations.
    NotChallenged,
    /// No port or SPI left, or too many registrations.
    Exhausted,
    /// Too many REGISTERs in clear from one address wait for their challenge or its answer.
    TooManyChallenges,
    /// The home domain does not resolve (registration.md P-20).
    NoEntryPoint,
    /// Every entry point stayed silent (registration.md P-20).
    EntryPointSilent,
}

impl Refusal {
    pub const ALL: [Refusal; 20] = [
        Refusal::NoAssociation,
        Refusal::Malformed,
        Refusal::BadExtension,
        Refusal::SecAgreeRequired,
        Refusal::NoCommonAlgorithm,
        Refusal::SecurityVerifyMismatch,
        Refusal::SecurityClientChanged,
        Refusal::OfferCollides,
        Refusal::ForeignIdentity,
        Refusal::ForeignContact,
        Refusal::ForeignAddress,
        Refusal::NothingToSecure,
        Refusal::ChallengedAgain,
        Refusal::NoKeys,
        Refusal::KernelRefused,
        Refusal::NotChallenged,
        Refusal::Exhausted,
        Refusal::TooManyChallenges,
        Refusal::NoEntryPoint,
        Refusal::EntryPointSilent,
    ];

    /// TS 24.229 §5.2.2; registration.md section 10.
    pub fn status(self) -> (u16, &'static str) {
        match self {
            Refusal::Malformed => (400, "Bad Request"),
            Refusal::NoAssociation
            | Refusal::ForeignIdentity
            | Refusal::ForeignContact
            | Refusal::ForeignAddress => (403, "Forbidden"),
            // With this the UE begins anew: its answer may have come too late only (TS 24.229 §5.1.1.2.1).
            Refusal::ChallengedAgain => (500, "Challenged Again"),
            // Of a refresh; with this the UE registers anew (TS 24.229 §5.1.1.4.1).
            Refusal::NothingToSecure => (500, "No Security Agreement Offered"),
            Refusal::BadExtension => (420, "Bad Extension"),
            Refusal::SecAgreeRequired => (421, "Extension Required"),
            Refusal::NoCommonAlgorithm
            | Refusal::SecurityVerifyMismatch
            | Refusal::SecurityClientChanged
            | Refusal::OfferCollides => (494, "Security Agreement Required"),
            Refusal::NoKeys | Refusal::KernelRefused | Refusal::NotChallenged => {
                (500, "Server Internal Error")
            }
            Refusal::Exhausted | Refusal::TooManyChallenges => (503, "Service Unavailable"),
            Refusal::NoEntryPoint | Refusal::EntryPointSilent => (504, "Server Time-out"),
        }
    }

    /// The counter label and the cause in the log.
    pub fn label(self) -> &'static str {
        match self {
            Refusal::NoAssociation => "no_association",
            Refusal::Malformed => "malformed",
            Refusal::BadExtension => "bad_extension",
            Refusal::SecAgreeRequired => "sec_agree_required",
            Refusal::NoCommonAlgorithm => "no_common_algorithm",
            Refusal::SecurityVerifyMismatch => "security_verify_mismatch",
            Refusal::SecurityClientChanged => "security_client_changed",
            Refusal::OfferCollides => "offer_collides",
            Refusal::ForeignIdentity => "foreign_identity",
            Refusal::ForeignContact => "foreign_contact",
            Refusal::ForeignAddress => "foreign_address",
            Refusal::NothingToSecure => "nothing_to_secure",
            Refusal::ChallengedAgain => "challenged_again",
            Refusal::NoKeys => "no_keys",
            Refusal::KernelRefused => "kernel_refused",
            Refusal::NotChallenged => "not_challenged",
            Refusal::Exhausted => "exhausted",
            Refusal::TooManyChallenges => "too_many_challenges",
            Refusal::NoEntryPoint => "no_entry_point",
            Refusal::EntryPointSilent => "entry_point_silent",
        }
    }
}

/// What registration counts.
#[derive(Debug, Default)]
pub struct Counters {
    refusals: [u64; Refusal::ALL.len()],
    statuses: std::collections::BTreeMap<u16, u64>,
    others: std::collections::BTreeMap<&'static str, u64>,
    /// Messages at protected ports that no set has.
    pub no_association: u64,
    /// From the REGISTER of the UE to its answer.
    pub took: Histogram,
}

impl Counters {
    pub fn count_refusal(&mut self, refusal: Refusal) {
        self.refusals[refusal as usize] += 1;
    }

    pub fn count_status(&mut self, status: u16) {
        *self.statuses.entry(status).or_default() += 1;
    }

    /// A request other than REGISTER, by what became of it.
    pub fn count_other(&mut self, label: &'static str) {
        *self.others.entry(label).or_default() += 1;
    }

    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.refusals[refusal as usize]
    }

    pub fn samples(&self, samples: &mut Samples) {
        for refusal in Refusal::ALL {
            samples.counter(
                "tessera_pcscf_register_refusals_total",
                "REGISTERs refused by the P-CSCF itself, by cause",
                &[("cause", refusal.label())],
                self.refused(refusal),
            );
        }
        for (status, count) in &self.statuses {
            samples.counter(
                "tessera_pcscf_register_answers_total",
                "Final answers to REGISTERs of UEs, by status",
                &[("status", &status.to_string())],
                *count,
            );
        }
        for (label, count) in &self.others {
            samples.counter(
                "tessera_pcscf_other_requests_total",
                "Requests other than REGISTER, by what became of them",
                &[("outcome", label)],
                *count,
            );
        }
        samples.counter(
            "tessera_pcscf_dropped_without_association_total",
            "Messages at protected ports that no set of associations has",
            &[],
            self.no_association,
        );
        samples.histogram(
            "tessera_pcscf_register_seconds",
            "From the REGISTER of a UE to its final answer",
            &[],
            &self.took,
        );
    }
}
