//! Contact headers of a REGISTER, and what they do to the bindings (RFC 3261 §10.3,
//! TS 24.229 §5.4.1.2.2, RFC 5626 §6).

use common::cx::RestorationInfo;
use common::identity::Impu;
use common::node::Now;
use common::sip::address::{Address, Contact};
use common::sip::header::Name;
use common::sip::message::Headers;
use common::sip::parameter;
use common::sip::uri::Uri;

use crate::config;
use crate::register::Refusal;
use crate::state::{Binding, Latest, end_of};

/// What a REGISTER asks for.
#[derive(Debug)]
pub struct Contacts {
    pub wanted: Vec<Wanted>,
    /// `Contact: *`.
    pub is_star: bool,
}

/// One Contact.
#[derive(Debug)]
pub struct Wanted {
    /// Without `expires`.
    pub address: Address,
    /// As granted; 0 removes it.
    pub expires_seconds: u32,
    pub instance: Option<String>,
    /// Counts only together with an instance and Supported: outbound.
    pub reg_id: Option<u32>,
    pub is_emergency: bool,
}

/// What goes with every binding of one REGISTER.
#[derive(Debug)]
pub struct Origin<'a> {
    /// To.
    pub identity: &'a Impu,
    pub call_id: &'a str,
    pub cseq: u32,
    pub path: &'a [String],
}

impl Contacts {
    /// RFC 3261 §10.3 steps 6 and 7; the interval by policy: TS 24.229 §5.4.1.2.2.
    pub fn read(headers: &Headers, policy: &config::Registration) -> Result<Contacts, Refusal> {
        let header = headers.get(Name::Expires).and_then(|text| text.trim().parse::<u32>().ok());
        let is_outbound = headers.has_token(Name::Supported, "outbound");
        let mut contacts = Contacts { wanted: Vec::new(), is_star: false };
        let mut has_reg_id = false;
        for value in headers.values(Name::Contact) {
            match Contact::parse(value).map_err(|_| Refusal::Malformed("Contact"))? {
                Contact::Star => contacts.is_star = true,
                Contact::Address(address) => {
                    let asked = address.expires_seconds().or(header);
                    let is_emergency = address.uri.parameter("sos").is_some();
                    let granted = grant(asked, policy, is_emergency)?;
                    let wanted = Wanted::read(address, granted, is_outbound);
                    has_reg_id |= wanted.reg_id.is_some();
                    contacts.wanted.push(wanted);
                }
            }
        }
        if contacts.is_star && (!contacts.wanted.is_empty() || header != Some(0)) {
            return Err(Refusal::Malformed("Contact: * with Expires: 0 and nothing else"));
        }
        if has_reg_id && !first_hop_is_outbound(headers) {
            return Err(Refusal::FirstHopLacksOutbound);
        }
        contacts.keep_best();
        Ok(contacts)
    }

    /// No Contact: the UE asks what is bound.
    pub fn is_fetch(&self) -> bool {
        self.wanted.is_empty() && !self.is_star
    }

    pub fn is_deregistration(&self) -> bool {
        self.is_star
            || (!self.wanted.is_empty() && self.wanted.iter().all(|one| one.expires_seconds == 0))
    }

    /// TS 24.229 §5.4.8.2: the REGISTER is for emergency calls.
    pub fn is_emergency(&self) -> bool {
        self.wanted.iter().any(|one| one.is_emergency)
    }

    pub fn has_flows(&self) -> bool {
        self.wanted.iter().any(|one| one.reg_id.is_some())
    }

    /// TS 24.229 §5.4.1.2.2: of contacts at different addresses, without reg-id, only that with the
    /// highest q counts; contacts at one address all do.
    fn keep_best(&mut self) {
        let place = |one: &Wanted| one.address.uri.host_port.clone();
        let competes = |one: &Wanted| one.reg_id.is_none() && one.expires_seconds > 0;
        let mut best: Option<(u16, _)> = None;
        for one in self.wanted.iter().filter(|one| competes(one)) {
            let q = one.address.q().unwrap_or(1_000);
            if best.as_ref().is_none_or(|(best, _)| q > *best) {
                best = Some((q, place(one)));
            }
        }
        if let Some((_, best)) = best {
            self.wanted.retain(|one| !competes(one) || place(one) == best);
        }
    }

    /// The bindings after this REGISTER. Expired ones are left out.
    pub fn applied(&self, now: Now, bindings: &[Binding], origin: &Origin) -> Vec<Binding> {
        let before: Vec<_> =
            bindings.iter().filter(|binding| !binding.has_expired(now)).cloned().collect();
        let mut bindings = before.clone();
        if self.is_star {
            bindings.retain(|binding| binding.is_emergency);
            return bindings;
        }
        for one in self.wanted.iter().filter(|one| one.expires_seconds == 0) {
            bindings.retain(|binding| !one.is_bound_as(binding));
        }
        let news: Vec<_> = self.wanted.iter().filter(|one| one.expires_seconds > 0).collect();
        // TS 24.229 §5.4.1.2.2: without reg-id the new contact replaces whatever this private
        // identity had; what an emergency registration made stands beside the rest.
        for is_emergency in [false, true] {
            let is_plain = |one: &&Wanted| one.reg_id.is_none() && one.is_emergency == is_emergency;
            if news.iter().any(is_plain) {
                bindings.retain(|binding| {
                    binding.reg_id.is_some() || binding.is_emergency != is_emergency
                });
            }
        }
        for one in news {
            bindings.retain(|binding| !one.replaces(binding));
            let known = before.iter().find(|binding| one.is_bound_as(binding));
            bindings.push(one.binding(now, origin, known));
        }
        bindings
    }
}

impl Binding {
    /// Out of what another S-CSCF left of it (TS 29.229 §6.3.52). `None` when the Contact cannot be
    /// read.
    pub fn restored(left: &RestorationInfo, expires_at_seconds: u64) -> Option<Binding> {
        let Ok(Contact::Address(address)) = Contact::parse(&left.contact) else { return None };
        let path: Vec<_> = parameter::list(&left.path).map(str::to_owned).collect();
        let origin = Origin {
            identity: &Impu::new(""),
            call_id: left.call_id.as_deref().unwrap_or(""),
            cseq: left.cseq.unwrap_or(0),
            path: &path,
        };
        let binding = Wanted::read(address, 0, true).binding(Now::default(), &origin, None);
        // Which identity it was made for was not left.
        Some(Binding { expires_at_seconds, registered_identity: None, ..binding })
    }
}

impl Wanted {
    fn read(mut address: Address, expires_seconds: u32, is_outbound: bool) -> Wanted {
        for name in ["expires", "pub-gruu", "temp-gruu"] {
            address.remove_parameter(name);
        }
        let instance = address.parameter("+sip.instance").map(str::to_owned);
        let reg_id = address.parameter("reg-id").and_then(|text| text.parse().ok());
        Wanted {
            expires_seconds,
            reg_id: reg_id.filter(|_| is_outbound && instance.is_some()),
            instance,
            is_emergency: address.uri.parameter("sos").is_some(),
            address,
        }
    }

    /// RFC 3261 §19.1.4: whether this is the address of a binding. `sos` makes another one of it.
    pub fn is_bound_as(&self, binding: &Binding) -> bool {
        if self.is_emergency != binding.is_emergency {
            return false;
        }
        if self.address.uri_text == binding.uri {
            return true;
        }
        Uri::parse(&binding.uri).is_ok_and(|uri| uri.is_equivalent(&self.address.uri))
    }

    /// RFC 5626 §6: the same flow of the same instance, or the same address.
    fn replaces(&self, binding: &Binding) -> bool {
        match (self.reg_id, binding.reg_id) {
            (Some(own), Some(other)) if self.instance == binding.instance => own == other,
            _ => self.is_bound_as(binding),
        }
    }

    /// `known`: the same contact as it was bound before.
    fn binding(&self, now: Now, origin: &Origin, known: Option<&Binding>) -> Binding {
        let registered_identity = known.and_then(|known| known.registered_identity.clone());
        Binding {
            contact: self.address.to_string(),
            uri: self.address.uri_text.clone(),
            expires_at_seconds: end_of(self.expires_seconds, now),
            path: origin.path.to_vec(),
            call_id: origin.call_id.to_owned(),
            cseq: origin.cseq,
            instance: self.instance.clone(),
            reg_id: self.reg_id,
            is_emergency: self.is_emergency,
            registered_identity: registered_identity.or_else(|| Some(origin.identity.clone())),
            gruu: None,
            latest: if known.is_some() { Latest::Refreshed } else { Latest::Registered },
        }
    }
}

/// TS 24.229 §5.4.1.2.2, §5.4.8.2: the interval granted: as asked, shortened, or refused as too brief.
/// Emergency registrations are never refused for it, and end soon by themselves.
fn grant(
    asked: Option<u32>,
    policy: &config::Registration,
    is_emergency: bool,
) -> Result<u32, Refusal> {
    match asked {
        Some(0) => Ok(0),
        _ if is_emergency => {
            let longest = policy.emergency_expires_seconds;
            let shortest = policy.expires_min_seconds.min(longest);
            Ok(asked.unwrap_or(longest).clamp(shortest, longest))
        }
        None => Ok(policy.expires_default_seconds),
        Some(seconds) if seconds < policy.expires_min_seconds => Err(Refusal::IntervalTooBrief),
        Some(seconds) => Ok(seconds.min(policy.expires_max_seconds)),
    }
}

/// RFC 5626 §6: the first hop, whose Path is the undermost, says with `ob` that it keeps flows.
fn first_hop_is_outbound(headers: &Headers) -> bool {
    let first_hop = headers.values(Name::Path).last().and_then(|text| Address::parse(text).ok());
    first_hop.is_some_and(|path| path.uri.parameter("ob").is_some())
}
