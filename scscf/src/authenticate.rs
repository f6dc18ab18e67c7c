//! Challenge, answer, resynchronisation (TS 24.229 §5.4.1.2.1, §5.4.1.2.2, §5.4.1.2.3; TS 33.203
//! §6.1, Annex N, Annex T).
//!
//! 1. `ask_for_vector`   MAR; another scheme where the HSS has none of the first
//! 2. `vector_received`  keep the vector, send the 401, start reg-await-auth
//! 3. `verify`           the answer: right, wrong, or for something else
//!    `resynchronise`    the UE's sequence number instead of an answer
//!    `challenge_lapsed` no answer in time
//!
//! What SIP Digest and early IMS security have in the place of vectors is in `other_schemes`.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use common::aka::digest::{AkaNonce, DigestAlgorithm};
use common::cx::mar::DigestAuthenticate;
use common::cx::mar::scheme;
use common::cx::sar::ServerAssignmentType;
use common::cx::{self, Answered, AuthDataItem, Mar, Outcome, Sar};
use common::diameter::endpoint::NoAnswer;
use common::identity::{Impi, Impu};
use common::node::{Now, Output};
use common::secret::Secret;
use common::sip::auth::DigestParameters;
use common::sip::header::Name;
use common::sip::uri::Uri;

use crate::register::{Refusal, Registering};
use crate::restore::Restored;
use crate::{OnAnswer, Scscf, Timer};

/// For how long a lapsed challenge is remembered: its answer may still come.
const REMEMBER_LAPSED: Duration = Duration::from_secs(240);

/// A challenge that was sent.
#[derive(Debug)]
pub struct Challenge {
    /// Whose registration is at stake: an answer for another one is none.
    pub public_identity: Impu,
    pub call_id: String,
    /// TS 24.229 §5.4.8: of a registration for emergency calls.
    pub is_emergency: bool,
    pub nonce: String,
    /// Which challenge in a row this is, 1 for the first.
    pub number: u32,
    pub(crate) proof: Proof,
    /// Wrong responses before this challenge was sent.
    wrong_responses: u32,
    hss_host: String,
    /// What another S-CSCF left of the user, for when the answer is right (TS 23.380 §4.2).
    pub(crate) restored: Vec<Restored>,
}

/// What the answer to a challenge is compared with.
#[derive(Debug)]
pub(crate) enum Proof {
    Aka(Vector),
    Digest(Vec<DigestAuthenticate>),
    /// An answer was compared: no other one is.
    Spent,
}

/// Waits for the MAA.
#[derive(Debug)]
pub struct Challenging {
    pub(crate) job: Registering,
    number: u32,
    wrong_responses: u32,
    sip_authorization: Option<Bytes>,
    /// The scheme asked for, and those that may come after it.
    schemes: &'static [&'static str],
}

impl Scscf {
    /// TS 24.229 §5.4.1.2.1: one vector, never a stored one, so that none is used twice.
    /// `number`: which challenge in a row it will be.
    pub(crate) fn ask_for_vector(
        &mut self,
        now: Now,
        job: Registering,
        number: u32,
        sip_authorization: Option<Bytes>,
        out: &mut Vec<Output>,
    ) {
        let is_known = self.challenges.has(&job.private_identity);
        if !is_known && self.challenges.len() >= self.config.limits.registrations {
            return self.refuse(now, job, Refusal::Full, out);
        }
        let challenge = self.challenge_of(&job);
        let wait = Challenging {
            number,
            wrong_responses: challenge.map_or(0, |challenge| challenge.wrong_responses),
            schemes: match sip_authorization {
                Some(_) => &[scheme::AKA_V1],
                None => self.schemes_for(&job),
            },
            sip_authorization,
            job,
        };
        self.ask_for_scheme(now, wait, out);
    }

    /// TS 29.228 §6.3.1
    fn ask_for_scheme(&mut self, now: Now, wait: Challenging, out: &mut Vec<Output>) {
        let job = &wait.job;
        let scheme = wait.schemes.first().copied().unwrap_or(scheme::AKA_V1);
        let mar = Mar {
            user_name: job.private_identity.as_str().to_owned(),
            public_identity: job.public_identity.as_str().to_owned(),
            server_name: self.own.server_name.clone(),
            sip_number_auth_items: match scheme {
                scheme::AKA_V1 => 1,
                // One for each algorithm that may be offered.
                _ => self.config.registration.digest_algorithms.len().max(1) as u32,
            },
            scheme: scheme.to_owned(),
            sip_authorization: wait.sip_authorization.clone(),
        };
        let challenge = self.challenge_of(job);
        let hss_host = challenge.map(|challenge| challenge.hss_host.clone());
        let hss_host = hss_host.or_else(|| self.known_hss(&mar));
        let wait = OnAnswer::VectorReceived(Box::new(wait));
        let limit = self.config.timeouts.hss();
        self.cx.ask(now, cx::Request::Mar(mar), hss_host.as_deref(), wait, limit, out);
    }

    fn known_hss(&self, mar: &Mar) -> Option<String> {
        let private_identity = Impi::new(mar.user_name.as_str());
        self.registrations.of(&private_identity).first().map(|known| known.hss_host.clone())
    }

    pub(crate) fn vector_received(
        &mut self,
        now: Now,
        wait: Challenging,
        result: Result<Answered, NoAnswer>,
        out: &mut Vec<Output>,
    ) {
        let (items, hss_host) = match result {
            Ok(Answered { answer: cx::Answer::Maa(maa), origin_host, .. }) => {
                if maa.outcome == Outcome::AUTH_SCHEME_NOT_SUPPORTED && wait.schemes.len() > 1 {
                    let schemes = &wait.schemes[1..];
                    return self.ask_for_scheme(now, Challenging { schemes, ..wait }, out);
                }
                if maa.outcome != Outcome::SUCCESS {
                    return self.vector_refused(now, wait, maa.outcome, out);
                }
                (maa.items, origin_host)
            }
            Ok(_) => {
                let refusal = Refusal::HssSilent(NoAnswer::Malformed);
                return self.refuse(now, wait.job, refusal, out);
            }
            Err(no_answer) => {
                let refusal = Refusal::of_no_answer(no_answer);
                return self.refuse(now, wait.job, refusal, out);
            }
        };
        let scheme = items.first().map(|item| item.scheme.clone()).unwrap_or_default();
        if scheme.eq_ignore_ascii_case(scheme::EARLY_IMS) {
            return self.compare_address(now, wait, &items, hss_host, out);
        }
        let proof = match scheme.eq_ignore_ascii_case(scheme::SIP_DIGEST) {
            true => self.digest_proof(items).map(Proof::Digest),
            false => items.first().and_then(Vector::read).map(Proof::Aka),
        };
        match proof {
            Some(proof) => self.challenge(now, wait, proof, hss_host, out),
            None => self.refuse(now, wait.job, Refusal::BadVector, out),
        }
    }

    fn vector_refused(
        &mut self,
        now: Now,
        wait: Challenging,
        outcome: Outcome,
        out: &mut Vec<Output>,
    ) {
        let refusal = match outcome {
            Outcome::USER_UNKNOWN
            | Outcome::IDENTITIES_DONT_MATCH
            | Outcome::AUTH_SCHEME_NOT_SUPPORTED => Refusal::NotAllowed(outcome),
            _ if wait.sip_authorization.is_some() => {
                return self.abandon(now, wait.job, Refusal::ResynchronisationFailed, out);
            }
            other => Refusal::HssFailed(other),
        };
        self.refuse(now, wait.job, refusal, out);
    }

    /// TS 24.229 §5.4.1.2.1: the vector is kept before the 401 leaves, and reg-await-auth runs.
    fn challenge(
        &mut self,
        now: Now,
        wait: Challenging,
        proof: Proof,
        hss_host: String,
        out: &mut Vec<Output>,
    ) {
        let Challenging { job, number, wrong_responses, .. } = wait;
        let (nonce, lines) = match &proof {
            Proof::Aka(vector) => self.aka_challenges(vector),
            Proof::Digest(offered) => self.digest_challenges(&job, offered),
            Proof::Spent => return self.refuse(now, job, Refusal::BadVector, out),
        };
        let mut response = job.incoming.request().response(401, "Unauthorized");
        for line in lines {
            response.headers_mut().append(Name::WwwAuthenticate, &line.to_challenge());
        }
        self.add_charging_vector(&job, &mut response);
        let restored = match self.challenge_of(&job) {
            Some(challenge) if job.restored.is_empty() => challenge.restored.clone(),
            _ => job.restored.clone(),
        };
        let challenge = Challenge {
            public_identity: job.public_identity.clone(),
            call_id: job.incoming.request().call_id().to_owned(),
            is_emergency: job.contacts.is_emergency(),
            nonce,
            number,
            proof,
            wrong_responses,
            hss_host,
            restored,
        };
        self.timers.stop(&Timer::Lapsed(job.private_identity.clone()));
        self.keep_challenge(now, job.private_identity.clone(), challenge);
        self.finish_register(now, job, response, "challenged", out);
    }

    /// RFC 3310 §3.2; of several algorithms the preferred one first (RFC 8760 §2.4). The keys are in
    /// the first line only: the P-CSCF takes them out (TS 24.229 §5.2.2.1), whatever follows.
    fn aka_challenges(&self, vector: &Vector) -> (String, Vec<DigestParameters>) {
        let policy = &self.config.registration;
        let nonce = AkaNonce::encode(&vector.rand, &vector.autn);
        let mut lines = Vec::new();
        for algorithm in &policy.algorithms {
            let mut parameters = DigestParameters::default();
            parameters.set("realm", self.config.realm());
            parameters.set("nonce", &nonce);
            parameters.set("algorithm", algorithm.name());
            if !policy.qop.is_empty() {
                parameters.set("qop", &policy.qop);
            }
            if lines.is_empty() {
                parameters.set("ck", &hex::encode(vector.ck.expose()));
                parameters.set("ik", &hex::encode(vector.ik.expose()));
            }
            lines.push(parameters);
        }
        (nonce, lines)
    }

    /// TS 24.229 §5.4.1.2.2: the answer is for this challenge (the caller has compared Call-ID,
    /// identities and nonce); it must be for our realm and home domain, and its digest right.
    pub(crate) fn verify(&mut self, now: Now, mut job: Registering, out: &mut Vec<Output>) {
        let Some(mut challenge) = self.take_challenge(&job) else {
            return self.refuse(now, job, Refusal::NotRegisteredHere, out);
        };
        if self.is_right(&job, &challenge) {
            job.is_authenticated = true;
            if let Proof::Digest(offered) = challenge.proof {
                self.keep_nonce(now, &mut job, challenge.nonce, offered, &challenge.hss_host);
            }
            job.hss_host = Some(challenge.hss_host);
            job.restored = self.restore_again(now, &job.public_identity, challenge.restored);
            return self.accept(now, job, out);
        }
        challenge.wrong_responses += 1;
        let number = challenge.number + 1;
        let is_last = challenge.wrong_responses >= self.config.registration.wrong_responses_max
            || number > self.config.registration.challenges_max;
        // Put back for its counts; a fresh vector replaces it, so no response is tried twice on it.
        challenge.proof = Proof::Spent;
        self.keep_challenge(now, job.private_identity.clone(), challenge);
        if is_last {
            self.abandon(now, job, Refusal::WrongResponse, out);
        } else {
            self.ask_for_vector(now, job, number, None, out);
        }
    }

    fn is_right(&self, job: &Registering, challenge: &Challenge) -> bool {
        let Some(credentials) = &job.credentials else { return false };
        let vector = match &challenge.proof {
            Proof::Aka(vector) => vector,
            Proof::Digest(offered) => return self.is_digest_right(job, offered),
            Proof::Spent => return false,
        };
        let algorithm = match credentials.get("algorithm") {
            Some(name) => DigestAlgorithm::named(name),
            None => Some(DigestAlgorithm::AkaV1Md5),
        };
        let algorithm = algorithm.filter(|one| self.config.registration.algorithms.contains(one));
        let (Some(algorithm), Some(username)) = (algorithm, credentials.get("username")) else {
            return false;
        };
        let (ik, ck) = (vector.ik.expose(), vector.ck.expose());
        let password = algorithm.aka_password(vector.xres.expose(), ik, ck);
        let ha1 = algorithm.ha1(username, self.config.realm(), password.expose());
        let body = job.incoming.request().body();
        credentials.get("realm") == Some(self.config.realm())
            && self.is_uri_home(credentials)
            && algorithm.verify(credentials, &ha1, "REGISTER", body)
    }

    /// aka.md G-04: the Request-URI was replaced on the way; the UE computed with the home domain.
    pub(crate) fn is_uri_home(&self, credentials: &DigestParameters) -> bool {
        let uri = credentials.get("uri").and_then(|uri| Uri::parse(uri).ok());
        uri.is_some_and(|uri| self.is_home(&uri))
    }

    /// TS 24.229 §5.4.1.2.3: the HSS takes the UE's sequence number, out of AUTS and the RAND that
    /// was kept, and sends a vector that will do.
    pub(crate) fn resynchronise(
        &mut self,
        now: Now,
        job: Registering,
        auts: [u8; 14],
        out: &mut Vec<Output>,
    ) {
        let Some(challenge) = self.challenge_of(&job) else {
            return self.refuse(now, job, Refusal::NotRegisteredHere, out);
        };
        let Proof::Aka(vector) = &challenge.proof else {
            return self.refuse(now, job, Refusal::Malformed("auts"), out);
        };
        let number = challenge.number + 1;
        let mut sip_authorization = BytesMut::with_capacity(30);
        sip_authorization.put_slice(&vector.rand);
        sip_authorization.put_slice(&auts);
        self.stats.resynchronisations += 1;
        self.ask_for_vector(now, job, number, Some(sip_authorization.freeze()), out);
    }

    /// TS 24.229 §5.4.1.2.3: the attempt is over. The HSS is told; whoever was registered stays so.
    pub(crate) fn abandon(
        &mut self,
        now: Now,
        mut job: Registering,
        refusal: Refusal,
        out: &mut Vec<Output>,
    ) {
        if let Some(challenge) = self.take_challenge(&job) {
            job.hss_host = Some(challenge.hss_host);
            let assignment_type = ServerAssignmentType::AuthenticationFailure;
            let identities = (&job.private_identity, &challenge.public_identity);
            self.tell(now, identities, assignment_type, job.hss_host.as_deref(), out);
        }
        self.refuse(now, job, refusal, out);
    }

    /// TS 24.229 §5.4.1.2.3: no answer while reg-await-auth ran.
    pub(crate) fn challenge_lapsed(
        &mut self,
        now: Now,
        private_identity: Impi,
        call_id: &str,
        out: &mut Vec<Output>,
    ) {
        let Some(challenge) = self.challenges.remove(&private_identity, call_id) else { return };
        self.stats.registration("challenge_lapsed", self.reg_await_auth());
        tracing::info!(
            procedure = "registration",
            outcome = "challenge_lapsed",
            private_identity = %self.logged(private_identity.as_str()),
            public_identity = %self.logged(challenge.public_identity.as_str()),
            "no answer to the challenge"
        );
        let identities = (&private_identity, &challenge.public_identity);
        let assignment_type = ServerAssignmentType::AuthenticationTimeout;
        self.tell(now, identities, assignment_type, Some(&challenge.hss_host), out);
        self.timers.set(Timer::Lapsed(private_identity), now + REMEMBER_LAPSED);
    }

    /// TS 24.229 §7.8
    fn reg_await_auth(&self) -> Duration {
        Duration::from_secs(u64::from(self.config.registration.reg_await_auth_seconds))
    }

    pub(crate) fn has_lapsed(&self, private_identity: &Impi) -> bool {
        self.timers.at(&Timer::Lapsed(private_identity.clone())).is_some()
    }

    /// The challenge of the attempt that a REGISTER belongs to.
    pub(crate) fn challenge_of(&self, job: &Registering) -> Option<&Challenge> {
        self.challenges.get(&job.private_identity, job.incoming.request().call_id())
    }

    fn keep_challenge(&mut self, now: Now, private_identity: Impi, challenge: Challenge) {
        let timer = Timer::Challenge(private_identity.clone(), challenge.call_id.clone());
        self.timers.set(timer, now + self.reg_await_auth());
        if let Some(oldest) = self.challenges.insert(private_identity.clone(), challenge) {
            self.stats.registration("challenge_crowded_out", Duration::ZERO);
            self.timers.stop(&Timer::Challenge(private_identity, oldest.call_id));
        }
    }

    fn take_challenge(&mut self, job: &Registering) -> Option<Challenge> {
        let call_id = job.incoming.request().call_id();
        let challenge = self.challenges.remove(&job.private_identity, call_id)?;
        let timer = Timer::Challenge(job.private_identity.clone(), challenge.call_id.clone());
        self.timers.stop(&timer);
        Some(challenge)
    }

    /// Of all attempts, but for those for emergency calls where these are spared.
    pub(crate) fn forget_challenges(&mut self, private_identity: &Impi, spares_emergency: bool) {
        for challenge in self.challenges.remove_all(private_identity, spares_emergency) {
            self.timers.stop(&Timer::Challenge(private_identity.clone(), challenge.call_id));
        }
    }

    /// Tells the HSS how this REGISTER's authentication or assignment ended.
    pub(crate) fn tell_hss(
        &mut self,
        now: Now,
        job: &Registering,
        assignment_type: ServerAssignmentType,
        out: &mut Vec<Output>,
    ) {
        let identities = (&job.private_identity, &job.public_identity);
        self.tell(now, identities, assignment_type, job.hss_host.as_deref(), out);
    }

    /// TS 29.228 §6.1.2.1: the end of an authentication takes the S-CSCF away from a user who is not
    /// registered. While another attempt runs it is needed, and the end of that one tells the HSS.
    fn tell(
        &mut self,
        now: Now,
        (private_identity, public_identity): (&Impi, &Impu),
        assignment_type: ServerAssignmentType,
        hss_host: Option<&str>,
        out: &mut Vec<Output>,
    ) {
        let is_of_authentication = matches!(
            assignment_type,
            ServerAssignmentType::AuthenticationFailure
                | ServerAssignmentType::AuthenticationTimeout
        );
        if is_of_authentication && self.challenges.has(private_identity) {
            return;
        }
        let sar = Sar {
            user_name: Some(private_identity.as_str().to_owned()),
            public_identities: vec![public_identity.as_str().to_owned()],
            server_name: self.own.server_name.clone(),
            server_assignment_type: assignment_type,
            ..Sar::default()
        };
        let wait = OnAnswer::Told { private_identity: private_identity.clone(), assignment_type };
        let limit = self.config.timeouts.hss();
        self.cx.ask(now, cx::Request::Sar(sar), hss_host, wait, limit, out);
    }

    pub(crate) fn told(
        &mut self,
        private_identity: &Impi,
        assignment_type: ServerAssignmentType,
        result: Result<Answered, NoAnswer>,
    ) {
        let detail = match result {
            Ok(Answered { answer: cx::Answer::Saa(saa), .. }) if saa.outcome.is_success() => return,
            Ok(Answered { answer: cx::Answer::Saa(saa), .. }) => format!("{:?}", saa.outcome),
            Ok(_) => "no SAA".to_owned(),
            Err(no_answer) => format!("{no_answer:?}"),
        };
        self.stats.untold += 1;
        tracing::warn!(
            private_identity = %self.logged(private_identity.as_str()),
            ?assignment_type,
            detail,
            "the HSS did not take how an authentication ended"
        );
    }
}

/// A usable vector of an MAA.
#[derive(Debug)]
pub(crate) struct Vector {
    rand: [u8; 16],
    autn: [u8; 16],
    xres: Secret<Vec<u8>>,
    ck: Secret<[u8; 16]>,
    ik: Secret<[u8; 16]>,
}

impl Vector {
    /// TS 29.229 §6.3.10, §6.3.11. `None` when something is missing or has the wrong length.
    fn read(item: &AuthDataItem) -> Option<Vector> {
        let (rand, autn) = item.sip_authenticate.split_first_chunk::<16>()?;
        let xres = item.sip_authorization.expose().len();
        if item.scheme != scheme::AKA_V1 || !(4..=16).contains(&xres) {
            return None;
        }
        Some(Vector {
            rand: *rand,
            autn: autn.try_into().ok()?,
            xres: item.sip_authorization.clone(),
            ck: item.confidentiality_key.clone()?,
            ik: item.integrity_key.clone()?,
        })
    }
}
