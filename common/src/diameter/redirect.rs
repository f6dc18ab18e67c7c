//! Redirects: a redirect agent, on Dx the SLF, names the nodes that can serve a request
//! (RFC 6733 §6.1.8, §6.12, §6.13, §6.14; TS 23.228 §5.8).
//!
//! The nodes are peers of the configuration: connections to them are up before they are named.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::diameter::base::{self, Application};
use crate::diameter::endpoint::Endpoint;
use crate::diameter::message::Message;
use crate::diameter::outgoing::Pending;
use crate::limits::Limits;
use crate::node::{Now, Output};

/// Redirects of one request that are followed; then it goes around in a circle.
const REDIRECTS_MAX: u8 = 3;
/// Hosts of one redirect that are looked at.
const HOSTS_MAX: usize = 8;
/// Users whose nodes are remembered.
const ROUTES_MAX: usize = 100_000;

/// Where requests were redirected to, for as long as the agent allowed.
#[derive(Debug, Default)]
pub(super) struct Redirects {
    of_user: HashMap<String, Route>,
    of_all: Option<Route>,
}

#[derive(Debug)]
struct Route {
    hosts: VecDeque<String>,
    until: Now,
}

/// Redirect-Host-Usage (RFC 6733 §6.13), as far as it matters with one realm, one application and
/// no sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Usage {
    Once,
    User,
    All,
}

impl Redirects {
    /// Where the request goes by what is remembered.
    pub fn find(
        &self,
        now: Now,
        application: &Application,
        request: &Bytes,
        limits: &Limits,
    ) -> VecDeque<String> {
        if self.of_user.is_empty() && self.of_all.is_none() {
            return VecDeque::new();
        }
        let of_user = user(application, request, limits).and_then(|user| self.of_user.get(&user));
        let found = of_user.or(self.of_all.as_ref()).filter(|route| now < route.until);
        found.map_or_else(VecDeque::new, |route| route.hosts.clone())
    }

    fn remember(&mut self, now: Now, usage: Usage, user: Option<String>, route: Route) {
        match (usage, user) {
            (Usage::Once, _) | (Usage::User, None) => {}
            (Usage::All, _) => self.of_all = Some(route),
            (Usage::User, Some(user)) => {
                if self.of_user.len() >= ROUTES_MAX {
                    self.of_user.retain(|_, route| now < route.until);
                }
                if self.of_user.len() < ROUTES_MAX {
                    self.of_user.insert(user, route);
                }
            }
        }
    }

    /// Users remembered, for a metric.
    pub fn len(&self) -> usize {
        self.of_user.len()
    }
}

impl<W> Endpoint<W> {
    /// RFC 6733 §6.1.8: the request goes to the first of the named nodes that is well, with the same
    /// Session-Id and End-to-End Identifier. When none is, the question ends as one without a peer: the user is
    /// known somewhere. Gives it back when the agent names nobody, which is the answer.
    pub(super) fn redirected(
        &mut self,
        now: Now,
        mut pending: Pending<W>,
        answer: &Message,
        out: &mut Vec<Output>,
    ) -> Option<Pending<W>> {
        self.stats.redirects += 1;
        pending.redirects += 1;
        let hosts: VecDeque<String> = answer
            .avps()
            .filter(|avp| avp.is(base::REDIRECT_HOST))
            .filter_map(|avp| avp.text().ok().and_then(host_of))
            .take(HOSTS_MAX)
            .collect();
        if hosts.is_empty() {
            tracing::warn!("diameter redirect to nobody");
            return Some(pending);
        }
        if pending.redirects > REDIRECTS_MAX || !pending.may_move || now >= pending.deadline {
            tracing::warn!(redirects = pending.redirects, "diameter redirect is not followed");
            self.end_without_peer(now, pending);
            return None;
        }
        let number = |definition| answer.find(definition).and_then(|avp| avp.number().ok());
        let usage = match number(base::REDIRECT_HOST_USAGE) {
            Some(2..=5) => Usage::All,
            Some(6) => Usage::User,
            _ => Usage::Once,
        };
        let seconds = number(base::REDIRECT_MAX_CACHE_TIME).unwrap_or(0);
        if usage != Usage::Once && seconds > 0 {
            let user = user(&self.application, &pending.bytes, &self.limits);
            let until = now + Duration::from_secs(u64::from(seconds));
            let route = Route { hosts: hosts.clone(), until };
            self.redirects.remember(now, usage, user, route);
        }
        if let Some(stuck) = self.send_to_first(now, pending, hosts.clone(), 0, out) {
            tracing::warn!(?hosts, "diameter redirect to nodes that are no peers, or are down");
            self.end_without_peer(now, stuck);
        }
        None
    }

    /// Sends a request to the first of these nodes that is well and has not had it yet. Gives it
    /// back when there is none.
    pub(super) fn send_to_first(
        &mut self,
        now: Now,
        mut pending: Pending<W>,
        mut hosts: VecDeque<String>,
        set_flags: u8,
        out: &mut Vec<Output>,
    ) -> Option<Pending<W>> {
        let usable = hosts.iter().enumerate().filter_map(|(place, host)| {
            let key = self.peer_named(host).filter(|key| !pending.tried.contains(key))?;
            let rank = self.peers.get(&key)?.rank()?;
            Some((rank, place, key))
        });
        let Some((_, place, peer)) = usable.min() else { return Some(pending) };
        if let Some(host) = hosts.remove(place) {
            self.name_destination(&mut pending, &host);
        }
        pending.hosts = hosts;
        self.send(now, pending, peer, set_flags, out);
        None
    }
}

/// FQDN of a DiameterURI (RFC 6733 §4.3.1): `aaa://hss1.hims.net:3868;transport=tcp`.
fn host_of(uri: &str) -> Option<String> {
    let rest = uri.strip_prefix("aaa://").or_else(|| uri.strip_prefix("aaas://"))?;
    let end = rest.find([':', ';']).unwrap_or(rest.len());
    Some(rest[..end].to_owned()).filter(|host| !host.is_empty())
}

/// Who a request is about.
fn user(application: &Application, request: &Bytes, limits: &Limits) -> Option<String> {
    let message = Message::decode(request.clone(), limits).ok()?;
    let named = application.user.iter().find_map(|definition| message.find(*definition))?;
    named.text().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6733 §4.3.1
    #[test]
    fn reads_diameter_uris() {
        assert_eq!(host_of("aaa://hss1.hims.net").as_deref(), Some("hss1.hims.net"));
        assert_eq!(
            host_of("aaas://hss1.hims.net:5658;transport=tcp").as_deref(),
            Some("hss1.hims.net")
        );
        for wrong in ["hss1.hims.net", "sip:hss1", "aaa://", "aaa://:3868"] {
            assert_eq!(host_of(wrong), None, "{wrong}");
        }
    }
}
