//! The HSS program as a Subscription Locator Function (TS 23.228 §5.8, Dx of TS 29.228): it answers every
//! request with the HSSs that have the user, and looks into no database.

use common::cx::{Answer, Lia, Maa, Outcome, Received, Request, Saa, Uaa};
use common::diameter::base::result_code;
use common::node::{Now, Output};
use serde::Deserialize;

use crate::{Hss, subject_of, unsupported};

/// `[slf]`: when it is there, the program redirects and does nothing else.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slf {
    /// For how long a client may remember the answer for a user; 0: not at all.
    #[serde(default = "default_cache")]
    pub cache_seconds: u32,
    /// `[[slf.routes]]`: the first one that fits counts.
    pub routes: Vec<Route>,
}

/// Where some users are.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Private or public identities; `*` stands for anything, once in each.
    pub identities: Vec<String>,
    /// DiameterURIs of the HSSs that have them, the preferred one first.
    pub hosts: Vec<String>,
}

fn default_cache() -> u32 {
    600
}

impl Hss {
    /// TS 29.228 §6.1.1 for Dx: a redirect, or USER_UNKNOWN.
    pub(crate) fn redirect(
        &mut self,
        now: Now,
        slf: &Slf,
        received: Received,
        out: &mut Vec<Output>,
    ) {
        let (command, user_name, public_identity) = subject_of(&received.request);
        let (impi, impu) = (self.name(user_name), self.name(public_identity));
        match slf.find(user_name, public_identity) {
            Some(hosts) => {
                let outcome = Outcome::Base(result_code::REDIRECT_INDICATION);
                *self.stats.requests.entry((command, outcome.into())).or_default() += 1;
                tracing::debug!(command, ?hosts, "redirected");
                self.cx.redirect(received, hosts, slf.cache_seconds, out);
            }
            None => {
                let answer = unknown(&received.request);
                let outcome = answer.outcome();
                *self.stats.requests.entry((command, outcome.into())).or_default() += 1;
                tracing::info!(command, %impi, %impu, "no HSS has this user");
                self.cx.answer(now, received, answer, out);
            }
        }
    }
}

impl Slf {
    fn find(&self, user_name: &str, public_identity: &str) -> Option<&[String]> {
        let fits = |pattern: &String| {
            [user_name, public_identity]
                .iter()
                .any(|text| !text.is_empty() && matches(pattern, text))
        };
        let route = self.routes.iter().find(|route| route.identities.iter().any(fits))?;
        Some(&route.hosts)
    }

    /// What is wrong with it, one sentence each.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.routes.is_empty() {
            faults.push("slf.routes is empty: no user has an HSS".to_owned());
        }
        for route in &self.routes {
            for pattern in &route.identities {
                if pattern.matches('*').count() > 1 {
                    faults.push(format!("slf: \"{pattern}\" has more than one *"));
                }
            }
            if route.hosts.is_empty() {
                faults.push("slf: a route has no hosts".to_owned());
            }
            for host in &route.hosts {
                if !host.starts_with("aaa://") {
                    faults.push(format!("slf: \"{host}\" is not a DiameterURI (aaa://HOST)"));
                }
            }
        }
        faults
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern.eq_ignore_ascii_case(text),
        Some((before, after)) => {
            let fits = |part: Option<&str>, wanted: &str| {
                part.is_some_and(|part| part.eq_ignore_ascii_case(wanted))
            };
            text.len() >= before.len() + after.len()
                && fits(text.get(..before.len()), before)
                && fits(text.get(text.len() - after.len()..), after)
        }
    }
}

fn unknown(request: &Request) -> Answer {
    let outcome = Outcome::USER_UNKNOWN;
    match request {
        Request::Uar(_) => Answer::Uaa(Uaa { outcome, ..Uaa::default() }),
        Request::Mar(_) => Answer::Maa(Maa { outcome, ..Maa::default() }),
        Request::Sar(_) => Answer::Saa(Saa { outcome, ..Saa::default() }),
        Request::Lir(_) => Answer::Lia(Lia { outcome, ..Lia::default() }),
        Request::Rtr(_) | Request::Ppr(_) => unsupported(request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_route_that_fits() {
        let slf: Slf = toml::from_str(
            "[[routes]]\nidentities = [\"00101*@hims.net\", \"sip:name@hims.net\"]\n\
             hosts = [\"aaa://hss1.hims.net\"]\n\
             [[routes]]\nidentities = [\"*\"]\nhosts = [\"aaa://hss2.hims.net\"]\n",
        )
        .unwrap();
        assert_eq!(slf.faults(), Vec::<String>::new());
        let found =
            |user_name, public_identity| slf.find(user_name, public_identity).unwrap()[0].as_str();
        assert_eq!(found("001010000000001@hims.net", ""), "aaa://hss1.hims.net");
        assert_eq!(found("", "SIP:name@hims.net"), "aaa://hss1.hims.net");
        assert_eq!(found("002@hims.net", "sip:other@hims.net"), "aaa://hss2.hims.net");
        assert!(!matches("ab*ba", "aba"), "the parts do not overlap");
    }
}
