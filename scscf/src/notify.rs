//! Notification of the registration state (TS 24.229 §5.4.2.1.2, RFC 6665 §4.2.2).
//!
//! 1. `notify_due`      at the end of a turn: one NOTIFY for each watcher with news
//! 2. `notify_located`  the place of its next hop is known: send
//! 3. `notified`        answered, refused, or silence
//!
//! One NOTIFY at a time goes to a watcher, so that documents arrive in order; what happens meanwhile
//! is told by the next one.

use std::collections::VecDeque;

use common::node::{Now, Output};
use common::reginfo;
use common::sip::address::Address;
use common::sip::endpoint::NoReply;
use common::sip::header::Name;
use common::sip::locate::Hop;
use common::sip::locator::Located;
use common::sip::message::{Request, Response};
use common::sip::p_headers::ChargingVector;

use crate::config::Documents;
use crate::state::seconds_left;
use crate::subscriptions::{End, News, Subscription};
use crate::{OnPlace, OnReply, Scscf};

/// A NOTIFY on its way.
#[derive(Debug)]
pub struct Notifying {
    tag: String,
    /// It ends the subscription.
    is_last: bool,
    request: Request,
    began: Now,
    /// Where it is now.
    hop: Option<Hop>,
    untried: VecDeque<Hop>,
}

impl Scscf {
    /// TS 24.229 §5.4.2.1.2: tells what this turn has changed.
    pub(crate) fn notify_due(&mut self, now: Now, out: &mut Vec<Output>) {
        while let Some((subscription, news, is_full)) = self.subscriptions.take_due() {
            self.notify(now, subscription, news, is_full, out);
        }
    }

    fn notify(
        &mut self,
        now: Now,
        mut subscription: Subscription,
        news: News,
        is_full: bool,
        out: &mut Vec<Output>,
    ) {
        if subscription.ends.is_none() && !self.is_registered(&subscription.public_identity) {
            subscription.ends = Some(End::NoResource);
        }
        let is_full = is_full
            || subscription.ends.is_some()
            || self.config.reg_event.documents == Documents::Full;
        let document = self.document(now, &subscription, &news, is_full).to_xml();
        subscription.local_cseq += 1;
        subscription.version += 1;
        subscription.is_owed = true;
        let request = self.notification(now, &subscription, document);
        let next_hop = next_hop(&subscription);
        let wait = Notifying {
            tag: subscription.local_tag.clone(),
            is_last: subscription.ends.is_some(),
            request,
            began: now,
            hop: None,
            untried: VecDeque::new(),
        };
        self.subscriptions.store(subscription, out);
        let wait = OnPlace::NotifyLocated(Box::new(wait));
        if let Some((wait, place)) = self.locator.locate(now, &next_hop, wait, out) {
            self.on_place(now, wait, place, out);
        }
    }

    /// RFC 6665 §4.2.2, RFC 3261 §12.2.1.1: within the dialog; From and To are those of the
    /// SUBSCRIBE turned round, and stay so, because there are phones that look.
    fn notification(&mut self, now: Now, subscription: &Subscription, document: String) -> Request {
        let mut request = Request::new("NOTIFY", &subscription.remote_target);
        let headers = request.headers_mut();
        for route in &subscription.route_set {
            headers.append(Name::Route, route);
        }
        headers.append(Name::MaxForwards, "70");
        let from = format!("{};tag={}", subscription.local, subscription.local_tag);
        headers.append(Name::From, &from);
        let tag = match subscription.remote_tag.is_empty() {
            true => String::new(),
            false => format!(";tag={}", subscription.remote_tag),
        };
        headers.append(Name::To, &format!("{}{tag}", subscription.remote));
        headers.append(Name::CallId, &subscription.call_id);
        headers.append(Name::CSeq, &format!("{} NOTIFY", subscription.local_cseq));
        headers.append(Name::Contact, &format!("<{}>", self.own.server_name));
        let id = subscription.event_id.as_ref().map(|id| format!(";id={id}"));
        let event = format!("{}{}", reginfo::PACKAGE, id.unwrap_or_default());
        headers.append(Name::Event, &event);
        let state = match subscription.ends {
            Some(end) => end.state(),
            None => {
                let left = seconds_left(subscription.expires_at_seconds, now);
                format!("active;expires={left}")
            }
        };
        headers.append(Name::SubscriptionState, &state);
        let vector = ChargingVector {
            icid_value: format!("{}{}", self.random.token(), self.random.token()),
            orig_ioi: Some(format!("Type 1{}", self.config.home_domain)),
            term_ioi: None,
            others: Vec::new(),
        };
        headers.append(Name::PChargingVector, &vector.to_string());
        request.set_body(reginfo::CONTENT_TYPE, document.into());
        request
    }

    pub(crate) fn notify_located(
        &mut self,
        now: Now,
        mut wait: Notifying,
        place: Located,
        out: &mut Vec<Output>,
    ) {
        match place {
            Ok(hops) => {
                wait.untried = hops;
                self.notify_next(now, wait, out);
            }
            Err(reason) => {
                tracing::warn!(reason, "the place of a watcher is not found");
                self.notify_failed(wait, "not_located", out);
            }
        }
    }

    /// To the next address of the next hop, while there is time.
    fn notify_next(&mut self, now: Now, mut wait: Notifying, out: &mut Vec<Output>) {
        if self.subscriptions.get(&wait.tag).is_none() {
            // Its UE has deregistered meanwhile.
            return;
        }
        let Some((hop, target, limit)) = self.next_try(now, wait.began, &mut wait.untried) else {
            return self.notify_failed(wait, "silence", out);
        };
        wait.hop = Some(hop);
        let request = wait.request.clone();
        let wait = OnReply::Notified(Box::new(wait));
        self.sip.send(now, request, target, wait, limit, out);
    }

    /// RFC 6665 §4.2.2, RFC 5057 §5.1: what an answer means for the subscription.
    pub(crate) fn notified(
        &mut self,
        now: Now,
        wait: Notifying,
        result: Result<Response, NoReply>,
        out: &mut Vec<Output>,
    ) {
        let response = match result {
            Ok(response) if response.status() == 503 && !wait.untried.is_empty() => {
                return self.notify_next(now, wait, out);
            }
            Ok(response) => response,
            Err(_) => {
                if let Some(hop) = wait.hop {
                    self.locator.failed(now, hop);
                }
                return self.notify_next(now, wait, out);
            }
        };
        match response.status() {
            200..300 => {
                self.stats.notification("taken");
                self.notify_ended(&wait, true, out);
            }
            // The watcher is there, and may do better the next time.
            400 | 401 | 403 | 406 | 407 | 413 | 415 | 420 | 486 | 488 | 491 | 500 | 503 => {
                self.stats.notification("refused");
                tracing::info!(status = response.status(), "a watcher refuses a NOTIFY");
                self.notify_ended(&wait, false, out);
            }
            // 404, 405, 408, 410, 416, 480, 481, 482, 483, 484, 485, 489, 501, 604, and all others.
            status => {
                tracing::info!(status, "a watcher is gone");
                self.notify_failed(wait, "watcher_gone", out);
            }
        }
    }

    /// What was refused is not known to the watcher: the next document, whenever there is something to tell, says
    /// everything (RFC 3680 §5.1).
    fn notify_ended(&mut self, wait: &Notifying, is_taken: bool, out: &mut Vec<Output>) {
        if wait.is_last {
            return self.subscriptions.remove(&wait.tag, out);
        }
        if !is_taken {
            self.subscriptions.owe_all(&wait.tag);
        }
        if !self.subscriptions.notified(&wait.tag)
            && is_taken
            && let Some(subscription) = self.subscriptions.get(&wait.tag)
        {
            let subscription = Subscription { is_owed: false, ..subscription.clone() };
            self.subscriptions.store(subscription, out);
        }
    }

    /// RFC 6665 §4.2.2: nobody is there, so the subscription ends, and nothing is repeated.
    fn notify_failed(&mut self, wait: Notifying, outcome: &'static str, out: &mut Vec<Output>) {
        self.stats.notification(outcome);
        self.subscriptions.remove(&wait.tag, out);
    }
}

/// RFC 3261 §12.2.1.1: the topmost Route, or the watcher itself.
fn next_hop(subscription: &Subscription) -> String {
    let route = subscription.route_set.first().and_then(|route| Address::parse(route).ok());
    route.map_or_else(|| subscription.remote_target.clone(), |route| route.uri_text)
}
