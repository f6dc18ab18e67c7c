//! Initial filter criteria: which application servers a request is for (TS 29.228 §B.2, §F;
//! TS 23.218 §5.2.1).

use std::borrow::Cow;
use std::collections::HashMap;

use common::cx::user_data::{
    Condition, InitialFilterCriterion, ServicePointTrigger, ServiceProfile, TriggerPoint, UserData,
};
use common::sip::header::Name;
use common::sip::message::Request;
use common::sip::uri::{Scheme, Uri};
use regex_lite::Regex;

use crate::config::SharedFilterCriteria;

/// Longest text that a pattern is tried on.
const TEXT_LIMIT: usize = 8 * 1024;

/// What kind of REGISTER it is (TS 29.228 §B.2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegistrationType {
    Initial = 0,
    Again = 1,
    Deregistration = 2,
}

/// SessionCase (TS 29.228 §B.2.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionCase {
    Originating = 0,
}

/// What the criteria are held against.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub request: &'a Request,
    pub session_case: SessionCase,
    /// Of a REGISTER.
    pub registration_type: Option<RegistrationType>,
}

/// Sets of criteria that profiles name by number (TS 29.228 §6.6).
#[derive(Debug, Default)]
pub struct SharedSets(HashMap<u32, Vec<InitialFilterCriterion>>);

impl SharedSets {
    /// Reads the configured sets.
    ///
    /// # Errors
    ///
    /// With a sentence about the set that cannot be read.
    pub fn read(configured: &[SharedFilterCriteria]) -> Result<SharedSets, String> {
        let mut sets = HashMap::new();
        for set in configured {
            let document = format!(
                "<IMSSubscription><PrivateID>x</PrivateID><ServiceProfile><PublicIdentity>\
                 <Identity>sip:x</Identity></PublicIdentity>{}</ServiceProfile></IMSSubscription>",
                set.xml
            );
            let read = UserData::parse(document.as_bytes()).map_err(|malformed| {
                format!("shared_filter_criteria {}: {}", set.id, malformed.0)
            })?;
            let profiles = read.service_profiles.into_iter();
            let criteria: Vec<_> =
                profiles.flat_map(|profile| profile.initial_filter_criteria).collect();
            if criteria.is_empty() {
                return Err(format!("shared_filter_criteria {}: no InitialFilterCriteria", set.id));
            }
            if sets.insert(set.id, criteria).is_some() {
                return Err(format!("shared_filter_criteria {} is there twice", set.id));
            }
        }
        Ok(SharedSets(sets))
    }

    /// All criteria of a profile, shared ones among them, in the order of priority: a lower number
    /// comes first (TS 29.228 §B.2.2).
    pub fn of<'a>(&'a self, profile: &'a ServiceProfile) -> Vec<&'a InitialFilterCriterion> {
        let known = |id: &u32| {
            let set = self.0.get(id);
            if set.is_none() {
                tracing::warn!(
                    id,
                    "a profile names shared filter criteria that are not configured"
                );
            }
            set
        };
        let shared = profile.shared_ifc_set_ids.iter().filter_map(known).flatten();
        let mut all: Vec<_> = profile.initial_filter_criteria.iter().chain(shared).collect();
        all.sort_by_key(|criterion| criterion.priority);
        all
    }
}

impl Subject<'_> {
    /// TS 29.228 §B.2.2, §F: a criterion without trigger point is for every request.
    pub fn meets(&self, criterion: &InitialFilterCriterion) -> bool {
        criterion.trigger_point.as_ref().is_none_or(|point| self.meets_point(point))
    }

    /// CNF: each group has a trigger that is met. DNF: some group has only triggers that are met.
    fn meets_point(&self, point: &TriggerPoint) -> bool {
        let triggers = &point.service_point_triggers;
        let mut groups: Vec<u32> =
            triggers.iter().flat_map(|trigger| &trigger.groups).copied().collect();
        groups.sort_unstable();
        groups.dedup();
        let of = |group: u32| triggers.iter().filter(move |one| one.groups.contains(&group));
        match point.is_cnf {
            true => groups.iter().all(|group| of(*group).any(|one| self.meets_trigger(one))),
            false => groups.iter().any(|group| of(*group).all(|one| self.meets_trigger(one))),
        }
    }

    fn meets_trigger(&self, trigger: &ServicePointTrigger) -> bool {
        self.meets_condition(trigger) != trigger.is_negated
    }

    fn meets_condition(&self, trigger: &ServicePointTrigger) -> bool {
        match &trigger.condition {
            Condition::RequestUri(pattern) => is_match(pattern, &place_of(self.request.uri())),
            Condition::Method(method) => {
                let types = &trigger.registration_types;
                let is_of_type = types.is_empty()
                    || self.registration_type.is_some_and(|kind| types.contains(&(kind as u8)));
                self.request.method_text() == method && is_of_type
            }
            Condition::SipHeader { header, content } => self.has_header(header, content.as_deref()),
            Condition::SessionCase(case) => *case == self.session_case as u8,
            Condition::SessionDescription { line, content } => {
                self.has_line(line, content.as_deref())
            }
        }
    }

    /// TS 29.228 §B.2.3: name and content are patterns; one line must fit both.
    fn has_header(&self, header: &str, content: Option<&str>) -> bool {
        let wanted = Name::find(header.as_bytes());
        self.request.headers().iter().any(|(name, text, value)| {
            let is_named = match (wanted, name) {
                (Some(wanted), Some(name)) => wanted == name,
                _ => std::str::from_utf8(text)
                    .is_ok_and(|text| is_match(&format!("(?i)^(?:{header})$"), text.trim())),
            };
            let value = std::str::from_utf8(value).unwrap_or("").trim();
            is_named && content.is_none_or(|content| is_match(content, value))
        })
    }

    /// TS 29.228 §B.2.3: a line of the session description, by a pattern of its type: `m`, `[ab]`, ...
    fn has_line(&self, line: &str, content: Option<&str>) -> bool {
        let body = std::str::from_utf8(self.request.body()).unwrap_or("");
        body.lines().filter_map(|text| text.split_once('=')).any(|(name, value)| {
            is_match(&format!("^(?:{line})$"), name.trim())
                && content.is_none_or(|content| is_match(content, value.trim()))
        })
    }
}

/// TS 29.228 §B.2.3: what of a Request-URI a pattern is tried on: host and port of a SIP URI, the number of a tel
/// URI.
fn place_of(uri: &str) -> Cow<'_, str> {
    let Ok(parsed) = Uri::parse(uri) else { return Cow::Borrowed(uri) };
    match (parsed.scheme, parsed.host_port, parsed.user) {
        (Scheme::Sip | Scheme::Sips, Some(host_port), _) => Cow::Owned(host_port.to_string()),
        (Scheme::Tel, _, Some(number)) => Cow::Owned(number),
        _ => Cow::Borrowed(uri),
    }
}

/// TS 29.228 §B.2.3: an extended regular expression; one that cannot be read is compared as text.
fn is_match(pattern: &str, text: &str) -> bool {
    if text.len() > TEXT_LIMIT {
        return false;
    }
    match Regex::new(pattern) {
        Ok(regex) => regex.is_match(text),
        Err(_) => pattern == text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use common::limits::Limits;
    use common::sip::message::Message;

    fn request() -> Request {
        let text = "REGISTER sip:hims.net SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\r\n\
            From: <sip:a@hims.net>;tag=1\r\nTo: <sip:a@hims.net>\r\nCall-ID: c\r\n\
            CSeq: 1 REGISTER\r\nX-Odd: one\r\nk: path, gruu\r\n\
            Contact: <sip:a@10.0.0.1>;+g.3gpp.smsip\r\nContent-Length: 20\r\n\r\n\
            v=0\r\nm=audio 1 RTP\r\n";
        match Message::parse(Bytes::from_static(text.as_bytes()), &Limits::default()) {
            Ok(Message::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    fn trigger(groups: &[u32], is_negated: bool, condition: Condition) -> ServicePointTrigger {
        let groups = groups.to_vec();
        ServicePointTrigger { is_negated, groups, condition, registration_types: Vec::new() }
    }

    fn meets(is_cnf: bool, service_point_triggers: Vec<ServicePointTrigger>) -> bool {
        let request = request();
        let subject = Subject {
            request: &request,
            session_case: SessionCase::Originating,
            registration_type: Some(RegistrationType::Initial),
        };
        let point = TriggerPoint { is_cnf, service_point_triggers };
        let criterion = InitialFilterCriterion { trigger_point: Some(point), ..Default::default() };
        subject.meets(&criterion)
    }

    fn one(condition: Condition) -> bool {
        meets(true, vec![trigger(&[0], false, condition)])
    }

    fn header(header: &str, content: Option<&str>) -> Condition {
        Condition::SipHeader { header: header.into(), content: content.map(Into::into) }
    }

    /// TS 29.228 §B.2.3: each kind of condition.
    #[test]
    fn conditions() {
        assert!(one(Condition::Method("REGISTER".into())));
        assert!(!one(Condition::Method("INVITE".into())));
        assert!(one(Condition::RequestUri("^hims\\.net$".into())));
        assert!(!one(Condition::RequestUri("sip:".into())));
        for (uri, place) in [
            ("sip:a@hims.net:5070;lr", "hims.net:5070"),
            ("sips:hims.net", "hims.net"),
            ("tel:+1555;phone-context=x", "+1555"),
            ("urn:service:sos", "urn:service:sos"),
            ("%", "%"),
        ] {
            assert_eq!(place_of(uri), place);
        }
        assert!(one(Condition::SessionCase(0)) && !one(Condition::SessionCase(1)));
        // Compact and unknown names; content as a pattern.
        assert!(one(header("Supported", Some("gruu$"))));
        assert!(one(header("x-odd", None)) && !one(header("X-Even", None)));
        assert!(one(header("Contact", Some("\\+g\\.3gpp\\.smsip"))));
        assert!(!one(header("Contact", Some("\\+g\\.3gpp\\.icsi-ref"))));
        assert!(one(header("Contact", None)) && !one(header("Contact", Some("("))));
        let line = |line: &str, content: Option<&str>| Condition::SessionDescription {
            line: line.into(),
            content: content.map(Into::into),
        };
        assert!(one(line("m", Some("^audio"))) && !one(line("m", Some("video"))));
        assert!(one(line("v", None)) && !one(line("a", None)));
        assert!(one(line("[am]", Some("^audio"))) && !one(line("[ab]", None)));
        assert!(!one(line("(", None)));
    }

    /// TS 29.228 §B.2.4: RegistrationType goes with the method.
    #[test]
    fn registration_types() {
        let of = |types: &[u8]| {
            let mut trigger = trigger(&[0], false, Condition::Method("REGISTER".into()));
            trigger.registration_types = types.to_vec();
            meets(true, vec![trigger])
        };
        assert!(of(&[]) && of(&[0]) && of(&[2, 0]));
        assert!(!of(&[1]) && !of(&[1, 2]));
    }

    /// TS 29.228 §F: conjunctive and disjunctive normal form, negation, a trigger in two groups.
    #[test]
    fn normal_forms() {
        let yes = |groups: &[u32]| trigger(groups, false, Condition::SessionCase(0));
        let no = |groups: &[u32]| trigger(groups, false, Condition::SessionCase(1));
        // (yes or no) and (no or yes); (yes) and (no).
        assert!(meets(true, vec![yes(&[0]), no(&[0]), no(&[1]), yes(&[1])]));
        assert!(!meets(true, vec![yes(&[0]), no(&[1])]));
        assert!(meets(true, vec![no(&[0]), yes(&[0, 1]), no(&[1])]));
        // (yes and no) or (no); (no) or (yes and yes).
        assert!(!meets(false, vec![yes(&[0]), no(&[0]), no(&[1])]));
        assert!(meets(false, vec![no(&[0]), yes(&[1]), yes(&[1])]));
        let not = |condition| trigger(&[0], true, condition);
        assert!(meets(true, vec![not(Condition::SessionCase(1))]));
        assert!(!meets(true, vec![not(Condition::SessionCase(0))]));
    }

    /// TS 29.228 §6.6, TS 23.218 §5.2.1: shared sets come in by their priorities.
    #[test]
    fn shared_sets() {
        let xml = |priority: u32, server: &str| {
            format!(
                "<InitialFilterCriteria><Priority>{priority}</Priority><ApplicationServer>\
                 <ServerName>{server}</ServerName></ApplicationServer></InitialFilterCriteria>"
            )
        };
        let configured = |id, xml: String| SharedFilterCriteria { id, xml };
        let sets =
            SharedSets::read(&[configured(7, xml(1, "sip:first") + &xml(9, "sip:last"))]).unwrap();
        let own = InitialFilterCriterion {
            priority: 5,
            server_name: "sip:own".into(),
            ..Default::default()
        };
        let profile = ServiceProfile {
            initial_filter_criteria: vec![own],
            shared_ifc_set_ids: vec![7, 8],
            ..Default::default()
        };
        let order: Vec<_> = sets.of(&profile).iter().map(|one| one.server_name.as_str()).collect();
        assert_eq!(order, ["sip:first", "sip:own", "sip:last"]);
        for wrong in [vec![configured(1, "<x".into())], vec![configured(1, String::new())]] {
            assert!(SharedSets::read(&wrong).is_err());
        }
        let twice = [configured(1, xml(1, "sip:a")), configured(1, xml(1, "sip:a"))];
        assert!(SharedSets::read(&twice).unwrap_err().contains("twice"));
    }
}
