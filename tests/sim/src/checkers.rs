//! What must hold during a run, checked on what travels and not on anybody's word.

use std::collections::{BTreeMap, BTreeSet};

use common::node::Output;

#[derive(Debug, Default)]
pub struct Checkers {
    rands: BTreeSet<[u8; 16]>,
    /// Final statuses that went to UEs, by topmost Via and CSeq.
    answers: BTreeMap<(String, String), String>,
    replies: Vec<String>,
    /// Vectors that left the HSS.
    pub vectors: u64,
    /// Protected REGISTERs that reached the P-CSCF.
    pub protected_registers: u64,
    /// Diameter requests that reached the HSS, by command code (TS 29.229 §6.1).
    pub at_hss: BTreeMap<u32, u64>,
    /// SARs among them, by Server-Assignment-Type (TS 29.229 §6.3.15).
    pub assignments: BTreeMap<u32, u64>,
}

impl Checkers {
    /// No vector leaves the HSS twice (TS 33.102 §6.3.2), and what leaves the P-CSCF towards a UE is
    /// checked in [`Checkers::towards_ue`].
    pub fn after_turn(&mut self, seed: u64, name: &str, out: &[Output]) {
        if !name.starts_with("hss") {
            return;
        }
        for output in out {
            let Output::Diameter { bytes, .. } = output else { continue };
            for rand in rands_of(bytes) {
                self.vectors += 1;
                assert!(self.rands.insert(rand), "seed {seed}: a vector left the HSS twice");
            }
        }
    }

    /// Counts what the HSS is asked.
    pub fn reached_hss(&mut self, bytes: &[u8]) {
        if bytes.len() < 20 || bytes[4] & 0x80 == 0 {
            return;
        }
        let command = u32::from_be_bytes([0, bytes[5], bytes[6], bytes[7]]);
        *self.at_hss.entry(command).or_default() += 1;
        if let Some(assignment_type) = assignment_type_of(bytes) {
            *self.assignments.entry(assignment_type).or_default() += 1;
        }
    }

    /// S-66: ck and ik never reach a UE.
    ///
    /// And no request is answered twice: what is sent again is the same answer (RFC 3261 §17.2.2).
    pub fn towards_ue(&mut self, seed: u64, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
        self.answered(seed, &text);
        for secret in [",ck=", " ck=", ",ik=", " ik=", "security-client", "p-charging-vector"] {
            assert!(!text.contains(secret), "seed {seed}: {secret} reached a UE:\n{text}");
        }
    }

    fn answered(&mut self, seed: u64, text: &str) {
        let Some(rest) = text.strip_prefix("sip/2.0 ") else { return };
        let value = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim().to_owned()
        };
        let status = rest.get(..3).unwrap_or("").to_owned();
        if status.as_str() < "200" {
            return;
        }
        let key = (value("via:"), value("cseq:"));
        let first = self.answers.entry(key).or_insert_with(|| status.clone());
        assert_eq!(*first, status, "seed {seed}: a request was answered twice");
    }

    /// A function that starts anew has forgotten its transactions: what is repeated then may well be
    /// answered otherwise.
    pub fn forget_answers(&mut self) {
        self.answers.clear();
    }

    /// The answer to a challenge travels inside ESP only (S-78, S-80).
    pub fn reached_pcscf(&mut self, seed: u64, protected: bool, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        if protected && text.starts_with("REGISTER") {
            self.protected_registers += 1;
        }
        let verifies = text.contains("\r\nSecurity-Verify:");
        assert!(protected || !verifies, "seed {seed}: Security-Verify in clear:\n{text}");
    }

    pub fn replied(&mut self, text: String) {
        self.replies.push(text);
    }

    pub fn take_reply(&mut self) -> String {
        self.replies.pop().unwrap_or_default()
    }
}

/// RANDs of the SIP-Authenticate AVPs (609, vendor 10415, 32 octets) of a message.
fn rands_of(bytes: &[u8]) -> Vec<[u8; 16]> {
    const HEAD: [u8; 12] = [0, 0, 2, 0x61, 0xC0, 0, 0, 44, 0, 0, 0x28, 0xAF];
    bytes
        .windows(HEAD.len() + 16)
        .filter(|window| window.starts_with(&HEAD))
        .filter_map(|window| window[HEAD.len()..].try_into().ok())
        .collect()
}

/// Server-Assignment-Type (614, vendor 10415, 4 octets) of a message.
fn assignment_type_of(bytes: &[u8]) -> Option<u32> {
    const HEAD: [u8; 12] = [0, 0, 2, 0x66, 0xC0, 0, 0, 16, 0, 0, 0x28, 0xAF];
    let mut windows = bytes.windows(HEAD.len() + 4);
    let found = windows.find(|window| window.starts_with(&HEAD))?;
    found[HEAD.len()..].try_into().ok().map(u32::from_be_bytes)
}
