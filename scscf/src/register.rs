//! Registration at the S-CSCF (TS 24.229 §5.4.1).
//!
//! 1. `register`          read the REGISTER, refuse what needs no HSS, take the turn
//! 2. `register_in_turn`  decide: challenge, verify the answer to one, or accept
//! 3. `accept`            list, deregister, or ask for the assignment
//!
//! Challenges are in `authenticate`, what follows an acceptance in `assign` and `deregister`.

use common::aka::digest::DigestAlgorithm;
use common::cx::Outcome;
use common::cx::sar::ServerAssignmentType;
use common::diameter::endpoint::NoAnswer;
use common::identity::{Impi, Impu};
use common::node::{Now, Output};
use common::sip::address::Address;
use common::sip::auth::{DigestParameters, credentials_for};
use common::sip::endpoint::Incoming;
use common::sip::header::Name;
use common::sip::message::{Request, Response};
use common::sip::p_headers::visited_network;
use common::sip::uri::{Scheme, Uri};

use crate::authenticate::Proof;
use crate::config::{Protection, Reauthenticate};
use crate::contacts::Contacts;
use crate::restore::Restored;
use crate::state::{Binding, Registration, end_of};
use crate::third_party::Notice;
use crate::{Job, RETRY_AFTER_SECONDS, Scscf};

/// Option tags that a REGISTER may require (RFC 3261 §8.2.2.3).
const SUPPORTED: [&str; 3] = ["path", "outbound", "gruu"];

/// 64·T1 on Gm (TS 24.229 §7.7): as long as a UE waits for an answer to its REGISTER.
pub(crate) const REPEATED_FOR_SECONDS: u64 = 128;

/// One REGISTER on its way to its answer.
#[derive(Debug)]
pub struct Registering {
    pub incoming: Incoming,
    pub received: Now,
    pub private_identity: Impi,
    pub public_identity: Impu,
    pub visited_network: String,
    pub credentials: Option<DigestParameters>,
    /// `integrity-protected="yes"`: it came inside security associations.
    pub is_protected: bool,
    pub contacts: Contacts,
    /// It answered a challenge.
    pub is_authenticated: bool,
    /// The HSS that knows the user, once one has answered.
    pub hss_host: Option<String>,
    /// Authentication-Info of the 200, where the scheme has one.
    pub authentication_info: Option<String>,
    /// What another S-CSCF left, while the HSS has not assigned it to this one (TS 23.380 §4).
    pub restored: Vec<Restored>,
    /// Application servers that hear of it behind the answer.
    pub notices: Vec<Notice>,
}

impl Registering {
    /// TS 24.229 §5.3.1.3: another S-CSCF had the user, and was silent. What this one may know of the user
    /// is from before that.
    pub fn is_reselected(&self) -> bool {
        let uri = Uri::parse(self.incoming.request().uri());
        uri.is_ok_and(|uri| uri.parameter("scscf-reselection").is_some())
    }
}

/// What is to be done with a REGISTER.
pub(crate) enum Decision {
    /// The number says which challenge in a row it is.
    Challenge(u32),
    /// The UE says the sequence number is not fresh; with its AUTS.
    Resynchronise([u8; 14]),
    Verify,
    Accept,
    /// It is the REGISTER that made the binding what it is, once more.
    Repeat,
    /// SIP Digest with a nonce that has been answered before.
    AcceptByNonce,
    /// The user may be registered by an S-CSCF that failed (TS 23.380 §4).
    Restore,
    Refuse(Refusal),
}

/// Why a REGISTER is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// A header that is needed cannot be read (RFC 3261 §21.4.1).
    Malformed(&'static str),
    /// Request-URI or To is not ours (RFC 3261 §10.3 steps 1 and 5).
    ForeignDomain,
    /// Require names what is not supported (RFC 3261 §10.3 step 2).
    UnsupportedExtension,
    /// The interval is below the minimum (RFC 3261 §10.3 step 7).
    IntervalTooBrief,
    /// reg-id, but the first hop keeps no flows (RFC 5626 §6).
    FirstHopLacksOutbound,
    /// A contact that leads back to us (RFC 5627 §5.1).
    ContactLeadsBack,
    /// Not newer than the REGISTER that made the binding (RFC 3261 §10.3 step 7).
    OutOfOrder,
    /// Too many REGISTERs of this user wait, or this one waited too long.
    Congested,
    /// As many registrations as there may be.
    Full,
    /// Protected, but the user is not registered here (TS 24.229 §5.4.1.2.2).
    NotRegisteredHere,
    /// Protected and unchallenged, with a contact not registered before (TS 24.229 §5.4.1.2.2).
    ContactNotRegistered,
    /// More flows than there may be (TS 24.229 §5.4.1.2.2).
    TooManyFlows,
    /// The HSS says no (TS 24.229 §5.4.1.2.1, TS 29.228 §6.3).
    NotAllowed(Outcome),
    /// The HSS could not do it.
    HssFailed(Outcome),
    /// The HSS gave no answer, or none that can be read.
    HssSilent(NoAnswer),
    /// Too many questions to the HSS are open.
    Overloaded,
    /// The HSS sent no usable authentication vector.
    BadVector,
    /// The UE says the network failed authentication (TS 24.229 §5.4.1.2.3).
    NetworkNotAuthentic,
    /// The HSS did not take the AUTS (TS 24.229 §5.4.1.2.3).
    ResynchronisationFailed,
    /// The challenge was for another public identity (TS 24.229 §5.4.1.2.2).
    WrongIdentity,
    /// The nonce is none that was sent (TS 24.229 §5.4.1.2.2).
    WrongNonce,
    /// The response is wrong, or made for another realm or URI (TS 24.229 §5.4.1.2.3).
    WrongResponse,
    /// Early IMS security: not from the address that the packet core gave (TS 33.203 Annex T).
    WrongAddress,
    /// One challenge more than there may be in a row.
    TooManyChallenges,
    /// The HSS has assigned another S-CSCF: the I-CSCF should choose again (TS 29.228 §6.1.2).
    RegisteredElsewhere,
    /// The HSS sent no profile for a first registration.
    NoProfile,
    /// The profile cannot be read (TS 29.228 §6.1.2).
    ProfileUnusable,
    /// The profile has no identity that may be used, or lacks the one that registers.
    Barred,
    /// Deregistration of a contact that is not bound.
    ContactNotBound,
    /// Emergency registrations end by themselves (TS 24.229 §5.4.8).
    EmergencyDeregistration,
}

impl Refusal {
    /// The status, the reason phrase, and the name in counters and logs.
    fn face(self) -> (u16, &'static str, &'static str) {
        match self {
            Refusal::Malformed(_) => (400, "Bad Request", "malformed"),
            Refusal::ForeignDomain => (404, "Not Found", "foreign_domain"),
            Refusal::UnsupportedExtension => (420, "Bad Extension", "unsupported_extension"),
            Refusal::IntervalTooBrief => (423, "Interval Too Brief", "interval_too_brief"),
            Refusal::FirstHopLacksOutbound => {
                (439, "First Hop Lacks Outbound Support", "first_hop_lacks_outbound")
            }
            Refusal::ContactLeadsBack => (403, "Forbidden", "contact_leads_back"),
            Refusal::OutOfOrder => (500, "Server Internal Error", "out_of_order"),
            Refusal::Congested => (500, "Server Internal Error", "congested"),
            Refusal::Full => (503, "Service Unavailable", "full"),
            Refusal::NotRegisteredHere => (500, "Server Internal Error", "not_registered_here"),
            Refusal::ContactNotRegistered => (403, "Forbidden", "contact_not_registered"),
            Refusal::TooManyFlows => (403, "Forbidden", "too_many_flows"),
            Refusal::NotAllowed(_) => (403, "Forbidden", "not_allowed"),
            Refusal::HssFailed(_) => (500, "Server Internal Error", "hss_failed"),
            Refusal::HssSilent(_) => (504, "Server Time-out", "hss_silent"),
            Refusal::Overloaded => (503, "Service Unavailable", "overloaded"),
            Refusal::BadVector => (500, "Server Internal Error", "bad_vector"),
            Refusal::NetworkNotAuthentic => (403, "Forbidden", "network_not_authentic"),
            Refusal::ResynchronisationFailed => (403, "Forbidden", "resynchronisation_failed"),
            Refusal::WrongIdentity => (403, "Forbidden", "wrong_identity"),
            Refusal::WrongNonce => (403, "Forbidden", "wrong_nonce"),
            Refusal::WrongResponse => (403, "Forbidden", "wrong_response"),
            Refusal::WrongAddress => (403, "Forbidden", "wrong_address"),
            Refusal::TooManyChallenges => (403, "Forbidden", "too_many_challenges"),
            Refusal::RegisteredElsewhere => {
                (480, "Temporarily Unavailable", "registered_elsewhere")
            }
            Refusal::NoProfile => (500, "Server Internal Error", "no_profile"),
            Refusal::ProfileUnusable => (480, "Temporarily Unavailable", "profile_unusable"),
            Refusal::Barred => (403, "Forbidden", "barred"),
            Refusal::ContactNotBound => {
                (481, "Call/Transaction Does Not Exist", "contact_not_bound")
            }
            Refusal::EmergencyDeregistration => {
                (501, "Not Implemented", "emergency_deregistration")
            }
        }
    }

    pub fn of_no_answer(no_answer: NoAnswer) -> Refusal {
        match no_answer {
            NoAnswer::Overloaded => Refusal::Overloaded,
            other => Refusal::HssSilent(other),
        }
    }
}

/// Protected, and each contact that it asks for is bound by a REGISTER of its very number, for the same
/// interval, not longer ago than a UE repeats it. Nothing of it is looked at again: who can send inside the
/// associations has proved who it is.
pub(crate) fn is_repeated(job: &Registering, registration: &Registration) -> bool {
    let request = job.incoming.request();
    let is_bound_by_it = |wanted: &crate::contacts::Wanted| {
        registration.bindings.iter().any(|binding| {
            let would_end = end_of(wanted.expires_seconds, job.received);
            let age = would_end.checked_sub(binding.expires_at_seconds);
            is_bound_by(request, wanted, binding)
                && age.is_some_and(|seconds| seconds <= REPEATED_FOR_SECONDS)
        })
    };
    let wanted = &job.contacts.wanted;
    job.is_protected && !wanted.is_empty() && wanted.iter().all(is_bound_by_it)
}

/// The binding is what this very REGISTER made of the contact.
pub(crate) fn is_bound_by(
    request: &Request,
    wanted: &crate::contacts::Wanted,
    binding: &Binding,
) -> bool {
    wanted.is_bound_as(binding)
        && binding.call_id == request.call_id()
        && binding.cseq == request.cseq()
}

impl Scscf {
    /// TS 24.229 §5.4.1.2: reads a REGISTER. What is wrong with it by itself, and an interval that
    /// is too brief, is answered before a vector or an assignment is spent.
    pub(crate) fn register(&mut self, now: Now, incoming: Incoming, out: &mut Vec<Output>) {
        match self.read(now, incoming) {
            // To end a registration the I-CSCF asks nobody else (TS 24.229 §5.3.1.3); the HSS hears of it when this
            // one is back.
            Ok(registering) if self.is_draining && !registering.contacts.is_deregistration() => {
                self.refuse_draining(now, registering.incoming, out);
            }
            Ok(registering) => {
                let private_identity = registering.private_identity.clone();
                let job = Job::Register(Box::new(registering));
                if let Some(Job::Register(job)) = self.begin(now, &private_identity, job, out) {
                    self.refuse_unread(now, job.incoming, Refusal::Congested, out);
                }
            }
            Err((incoming, refusal)) => self.refuse_unread(now, *incoming, refusal, out),
        }
    }

    fn read(&self, now: Now, incoming: Incoming) -> Result<Registering, (Box<Incoming>, Refusal)> {
        let read = self.read_request(incoming.request());
        let (private_identity, public_identity, credentials) = match read {
            Ok(read) => read,
            Err(refusal) => return Err((Box::new(incoming), refusal)),
        };
        let headers = incoming.request().headers();
        let contacts = match Contacts::read(headers, &self.config.registration) {
            Ok(contacts) => contacts,
            Err(refusal) => return Err((Box::new(incoming), refusal)),
        };
        if contacts.wanted.iter().any(|one| self.leads_back(&one.address.uri)) {
            return Err((Box::new(incoming), Refusal::ContactLeadsBack));
        }
        let visited = headers.get(Name::PVisitedNetworkId).and_then(visited_network);
        let is_protected = credentials.as_ref().is_some_and(|credentials| {
            let value = credentials.get("integrity-protected");
            value.is_some_and(|value| value.eq_ignore_ascii_case("yes"))
        });
        Ok(Registering {
            received: now,
            private_identity,
            public_identity,
            visited_network: visited.unwrap_or_else(|| self.config.home_domain.clone()),
            credentials,
            is_protected,
            contacts,
            is_authenticated: false,
            hss_host: None,
            authentication_info: None,
            restored: Vec::new(),
            notices: Vec::new(),
            incoming,
        })
    }

    /// RFC 3261 §10.3 steps 1, 2 and 5; the identities: TS 24.229 §5.4.1.2.1.
    fn read_request(
        &self,
        request: &Request,
    ) -> Result<(Impi, Impu, Option<DigestParameters>), Refusal> {
        let headers = request.headers();
        let uri = Uri::parse(request.uri()).map_err(|_| Refusal::Malformed("Request-URI"))?;
        if !self.is_ours(&uri) && !self.is_home(&uri) {
            return Err(Refusal::ForeignDomain);
        }
        let to = headers.get(Name::To).and_then(|text| Address::parse(text).ok());
        let to = to.ok_or(Refusal::Malformed("To"))?.uri;
        let is_served = match to.scheme {
            Scheme::Sip | Scheme::Sips => self.is_home(&to),
            Scheme::Tel => true,
            Scheme::Other => false,
        };
        if !is_served {
            return Err(Refusal::ForeignDomain);
        }
        if headers.values(Name::Require).any(|tag| !is_supported(tag)) {
            return Err(Refusal::UnsupportedExtension);
        }
        let credentials = credentials_for(headers, self.config.realm())
            .map_err(|_| Refusal::Malformed("Authorization"))?;
        let public_identity = to.public_identity();
        let private_identity = match &credentials {
            Some(credentials) => {
                let username = credentials.get("username").filter(|name| !name.is_empty());
                Impi::new(username.ok_or(Refusal::Malformed("username"))?)
            }
            None => self.derived(&public_identity),
        };
        Ok((private_identity, public_identity, credentials))
    }

    /// RFC 5627 §5.1: requests to a contact that is a GRUU would come here again. The public identity alone
    /// is what some phones write; requests find them by their Path.
    fn leads_back(&self, contact: &Uri) -> bool {
        self.is_home(contact) && contact.parameter("gr").is_some()
    }

    /// TS 24.229 §5.4.1.2.1: without credentials, To tells the private identity.
    fn derived(&self, public_identity: &Impu) -> Impi {
        match public_identity.as_str().split_once(':') {
            Some(("tel", number)) => Impi::new(format!("{number}@{}", self.config.home_domain)),
            Some((_, rest)) => Impi::new(rest),
            None => Impi::new(public_identity.as_str()),
        }
    }

    /// TS 24.229 §5.4.1.2: what a REGISTER is, and what follows.
    pub(crate) fn register_in_turn(&mut self, now: Now, job: Registering, out: &mut Vec<Output>) {
        let decision = self.decide(now, &job);
        self.follow(now, job, decision, out);
    }

    pub(crate) fn follow(
        &mut self,
        now: Now,
        job: Registering,
        decision: Decision,
        out: &mut Vec<Output>,
    ) {
        match decision {
            Decision::Challenge(number) => self.ask_for_vector(now, job, number, None, out),
            Decision::Resynchronise(auts) => self.resynchronise(now, job, auts, out),
            Decision::Verify => self.verify(now, job, out),
            Decision::Accept => self.accept(now, job, out),
            Decision::Repeat => self.repeat(now, job, out),
            Decision::AcceptByNonce => self.accept_by_nonce(now, job, out),
            Decision::Restore => self.ask_for_restoration(now, job, out),
            Decision::Refuse(
                refusal @ (Refusal::NetworkNotAuthentic
                | Refusal::WrongIdentity
                | Refusal::WrongNonce
                | Refusal::TooManyChallenges),
            ) => self.abandon(now, job, refusal, out),
            Decision::Refuse(refusal) => self.refuse(now, job, refusal, out),
        }
    }

    fn decide(&self, now: Now, job: &Registering) -> Decision {
        if now.since(job.received) > self.config.timeouts.queue() {
            return Decision::Refuse(Refusal::Congested);
        }
        let registration = self.registrations.find(&job.private_identity, &job.public_identity);
        if registration.is_some_and(|registration| is_repeated(job, registration)) {
            return Decision::Repeat;
        }
        if let Some(refusal) = self.contradiction(job, registration) {
            return Decision::Refuse(refusal);
        }
        if let Some(decision) = self.decide_by_challenge(job, registration) {
            return decision;
        }
        if !job.is_protected {
            // TS 24.229 §5.4.1.2.1: whoever is registered already stays so until this succeeds.
            return self.decide_by_nonce(job).unwrap_or(Decision::Challenge(1));
        }
        if job.is_reselected() && self.config.registration.restoration {
            return Decision::Restore;
        }
        match registration.filter(|registration| !registration.bindings.is_empty()) {
            Some(registration) => self.decide_by_policy(job, registration),
            // A further public identity: the vector proves that it is this user's.
            None if !self.registrations.of(&job.private_identity).is_empty() => {
                Decision::Challenge(1)
            }
            None if self.has_lapsed(&job.private_identity) => Decision::Challenge(1),
            None if self.config.registration.restoration => Decision::Restore,
            None => Decision::Refuse(Refusal::NotRegisteredHere),
        }
    }

    /// What no authentication mends.
    pub(crate) fn contradiction(
        &self,
        job: &Registering,
        registration: Option<&Registration>,
    ) -> Option<Refusal> {
        let request = job.incoming.request();
        let bindings = registration.map_or(&[][..], |registration| &registration.bindings);
        let is_stale = bindings
            .iter()
            .any(|binding| binding.call_id == request.call_id() && request.cseq() <= binding.cseq);
        if is_stale {
            return Some(Refusal::OutOfOrder);
        }
        if registration.is_none() && self.registrations.len() >= self.config.limits.registrations {
            return Some(Refusal::Full);
        }
        if job.contacts.has_flows() {
            let identity = &job.public_identity;
            let origin = crate::contacts::Origin { identity, call_id: "", cseq: 0, path: &[] };
            let flows = job.contacts.applied(job.received, bindings, &origin);
            let flows = flows.iter().filter(|binding| binding.reg_id.is_some()).count();
            if flows > self.config.registration.flows_max {
                return Some(Refusal::TooManyFlows);
            }
        }
        None
    }

    /// TS 24.229 §5.4.1.2.2, §5.4.1.2.3: what a running challenge makes of a REGISTER. `None` when
    /// none runs, or the REGISTER begins anew.
    fn decide_by_challenge(
        &self,
        job: &Registering,
        registration: Option<&Registration>,
    ) -> Option<Decision> {
        let own = self.challenge_of(job);
        let is_same_attempt = own.is_some();
        // What is registered goes on while another attempt runs.
        let other = registration.is_none().then(|| self.challenges.latest(&job.private_identity));
        let challenge = own.or(other.flatten())?;
        let credentials = job.credentials.as_ref();
        let parameter = |name| credentials.and_then(|credentials| credentials.get(name));
        let nonce = parameter("nonce").unwrap_or("");
        let response = parameter("response").unwrap_or("");
        let is_nonce_known = nonce == challenge.nonce;
        let next = challenge.number + 1;

        if is_same_attempt && is_nonce_known {
            if challenge.public_identity != job.public_identity {
                return Some(Decision::Refuse(Refusal::WrongIdentity));
            }
            if let Some(auts) = parameter("auts") {
                return Some(match common::aka::digest::decode_auts(auts) {
                    Some(auts) => self.challenge_again(next, Decision::Resynchronise(auts)),
                    None => Decision::Refuse(Refusal::Malformed("auts")),
                });
            }
            let is_digest = matches!(challenge.proof, Proof::Digest(_));
            if response.is_empty() && !is_digest {
                return Some(Decision::Refuse(Refusal::NetworkNotAuthentic));
            }
            // aka.md G-13: what nobody knows is no answer; what was not offered is a wrong one.
            let is_unknown = |name| DigestAlgorithm::named(name).is_none();
            if parameter("algorithm").is_some_and(is_unknown) {
                return Some(self.challenge_again(next, Decision::Challenge(next)));
            }
            if job.is_protected
                || is_digest
                || self.config.registration.protection == Protection::Optional
            {
                return Some(Decision::Verify);
            }
        }
        if !job.is_protected {
            return None;
        }
        // Protected, but no answer to what was asked. A registered user whose UE missed the
        // challenge repeats its last credentials; anyone else made the nonce up.
        let is_anyone_else = registration.is_none() && challenge.restored.is_empty();
        if is_same_attempt && !is_nonce_known && is_anyone_else {
            return Some(Decision::Refuse(Refusal::WrongNonce));
        }
        Some(self.challenge_again(next, Decision::Challenge(next)))
    }

    fn challenge_again(&self, number: u32, decision: Decision) -> Decision {
        match number <= self.config.registration.challenges_max {
            true => decision,
            false => Decision::Refuse(Refusal::TooManyChallenges),
        }
    }

    /// TS 24.229 §5.4.1.2.2: whether a registered user is challenged is the operator's policy.
    pub(crate) fn decide_by_policy(
        &self,
        job: &Registering,
        registration: &Registration,
    ) -> Decision {
        let is_due = match self.config.registration.reauthenticate {
            Reauthenticate::Never => false,
            Reauthenticate::Always => true,
            Reauthenticate::Every(number) => registration.unchallenged >= number,
        };
        if is_due || registration.is_reauthentication_due {
            return Decision::Challenge(1);
        }
        let is_known = |wanted: &crate::contacts::Wanted| {
            wanted.expires_seconds == 0
                || wanted.reg_id.is_some()
                || registration.bindings.iter().any(|binding| wanted.is_bound_as(binding))
        };
        match job.contacts.wanted.iter().all(is_known) {
            true => Decision::Accept,
            false => Decision::Refuse(Refusal::ContactNotRegistered),
        }
    }

    /// TS 24.229 §5.4.1.2.2: the user is who it says; now what it asks for.
    pub(crate) fn accept(&mut self, now: Now, job: Registering, out: &mut Vec<Output>) {
        if job.contacts.is_fetch() {
            self.list_bindings(now, job, out);
        } else if job.contacts.is_deregistration() {
            self.deregister(now, job, out);
        } else {
            self.ask_for_assignment(now, job, out);
        }
    }

    /// A proxy in front of us died with its transaction, after we had answered, and the UE has sent its
    /// REGISTER again; or a proxy that had waited too long tries another way to us: it gets the answer again.
    ///
    /// DEVIATES: RFC 3261 §10.3 step 7 has it fail, because its CSeq is not higher than the binding's;
    /// the UE would take that for a registration that is lost, and begin anew.
    fn repeat(&mut self, now: Now, job: Registering, out: &mut Vec<Output>) {
        let response = self.success(now, &job);
        self.finish_register(now, job, response, "repeated", out);
    }

    /// RFC 3261 §10.3 step 6: no Contact changes nothing.
    fn list_bindings(&mut self, now: Now, job: Registering, out: &mut Vec<Output>) {
        if job.is_authenticated {
            // The challenge left a pending authentication at the HSS; no assignment will end it.
            self.tell_hss(now, &job, ServerAssignmentType::AuthenticationTimeout, out);
        }
        let response = self.success(now, &job);
        self.finish_register(now, job, response, "fetched", out);
    }

    /// The one exit for answers that are no refusals.
    pub(crate) fn finish_register(
        &mut self,
        now: Now,
        job: Registering,
        response: Response,
        outcome: &'static str,
        out: &mut Vec<Output>,
    ) {
        let took = now.since(job.received);
        self.stats.registration(outcome, took);
        tracing::info!(
            procedure = "registration",
            outcome,
            status = response.status(),
            private_identity = %self.logged(job.private_identity.as_str()),
            public_identity = %self.logged(job.public_identity.as_str()),
            took_ms = took.as_millis() as u64,
            "answered"
        );
        self.forget_restored(now, &job, out);
        self.sip.respond(now, job.incoming, response, out);
        for notice in job.notices {
            self.tell_server(now, notice, out);
        }
        self.finish(now, &job.private_identity, out);
    }

    /// The one exit for refusals in turn.
    pub(crate) fn refuse(
        &mut self,
        now: Now,
        job: Registering,
        refusal: Refusal,
        out: &mut Vec<Output>,
    ) {
        let (status, _, name) = refusal.face();
        let took = now.since(job.received);
        self.stats.registration(name, took);
        tracing::info!(
            procedure = "registration",
            outcome = name,
            status,
            detail = ?refusal,
            private_identity = %self.logged(job.private_identity.as_str()),
            public_identity = %self.logged(job.public_identity.as_str()),
            took_ms = took.as_millis() as u64,
            "refused"
        );
        self.forget_restored(now, &job, out);
        let response = self.refusal(job.incoming.request(), refusal);
        self.sip.respond(now, job.incoming, response, out);
        self.finish(now, &job.private_identity, out);
    }

    /// The one exit for refusals of a REGISTER that has no turn.
    fn refuse_unread(
        &mut self,
        now: Now,
        incoming: Incoming,
        refusal: Refusal,
        out: &mut Vec<Output>,
    ) {
        let (status, _, name) = refusal.face();
        self.stats.registration(name, std::time::Duration::ZERO);
        let to = incoming.request().headers().get(Name::To).unwrap_or("");
        tracing::info!(
            procedure = "registration",
            outcome = name,
            status,
            detail = ?refusal,
            to = %self.logged(to),
            "refused"
        );
        let response = self.refusal(incoming.request(), refusal);
        self.sip.respond(now, incoming, response, out);
    }

    fn refusal(&self, request: &Request, refusal: Refusal) -> Response {
        let (status, reason, _) = refusal.face();
        let mut response = match refusal {
            Refusal::Malformed(what) => request.response(status, &format!("{reason}: {what}")),
            _ => request.response(status, reason),
        };
        let headers = response.headers_mut();
        match refusal {
            Refusal::UnsupportedExtension => {
                let required = request.headers().values(Name::Require);
                let tags: Vec<_> = required.filter(|tag| !is_supported(tag)).collect();
                headers.append(Name::Unsupported, &tags.join(", "));
            }
            Refusal::IntervalTooBrief => {
                let minimum = self.config.registration.expires_min_seconds;
                headers.append(Name::MinExpires, &minimum.to_string());
            }
            Refusal::Congested | Refusal::Full | Refusal::Overloaded => {
                headers.append(Name::RetryAfter, RETRY_AFTER_SECONDS);
            }
            _ => {}
        }
        response
    }
}

fn is_supported(tag: &str) -> bool {
    SUPPORTED.iter().any(|supported| tag.trim().eq_ignore_ascii_case(supported))
}
