//! Subscriptions to the registration state (RFC 6665 §4.2, TS 24.229 §5.4.2.1): what survives a
//! restart, and what waits to be told.
//!
//! Each subscription is one record of kind `subscription`, whose key is its dialog's local tag.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use common::identity::Impu;
use common::node::{Now, Output, Record, StoredRecord};
use common::reginfo;
use common::timers::Timers;
use serde::{Deserialize, Serialize};

/// Kind of the records.
pub const KIND: &str = "subscription";

/// One dialog that a SUBSCRIBE made.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Subscription {
    pub call_id: String,
    pub local_tag: String,
    pub remote_tag: String,
    /// To of the SUBSCRIBE, without tag: From of the NOTIFYs.
    pub local: String,
    /// From of the SUBSCRIBE, without tag: To of the NOTIFYs.
    pub remote: String,
    /// URI in the Contact of the last SUBSCRIBE.
    pub remote_target: String,
    /// Record-Route of the SUBSCRIBE, topmost first.
    pub route_set: Vec<String>,
    pub remote_cseq: u32,
    /// CSeq of the last NOTIFY.
    pub local_cseq: u32,
    /// `id` of Event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// Whose registration is watched.
    pub public_identity: Impu,
    pub watcher: Watcher,
    pub expires_at_seconds: u64,
    /// Of the next document.
    pub version: u32,
    /// The last NOTIFY was not taken yet, or another is due.
    pub is_owed: bool,
    /// It ends with the next NOTIFY.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<End>,
}

/// Who watches (TS 24.229 §5.4.2.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Watcher {
    /// One of the user's own devices.
    User,
    /// The P-CSCF in a Path of the user.
    Pcscf,
    /// An application server of the user's filter criteria.
    ApplicationServer,
}

/// `reason` of Subscription-State (RFC 6665 §4.1.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum End {
    Deactivated,
    /// With `retry-after`.
    Probation {
        retry_after_seconds: u32,
    },
    Rejected,
    Timeout,
    NoResource,
}

impl End {
    /// As it stands in Subscription-State.
    pub fn state(self) -> String {
        let reason = match self {
            End::Deactivated => "deactivated",
            End::Probation { .. } => "probation",
            End::Rejected => "rejected",
            End::Timeout => "timeout",
            End::NoResource => "noresource",
        };
        match self {
            End::Probation { retry_after_seconds } => {
                format!("terminated;reason={reason};retry-after={retry_after_seconds}")
            }
            _ => format!("terminated;reason={reason}"),
        }
    }
}

/// What has happened since the last NOTIFY.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct News {
    /// Identities whose state is to be told.
    pub identities: BTreeSet<String>,
    /// Of these, those that the profile did not allow before.
    pub created: BTreeSet<String>,
    /// Contacts that are gone.
    pub gone: Vec<Gone>,
}

/// A contact that an identity has no longer.
#[derive(Clone, PartialEq, Debug)]
pub struct Gone {
    pub aor: String,
    pub wildcarded_identity: Option<String>,
    pub contact: reginfo::Contact,
}

#[derive(Debug)]
struct Entry {
    subscription: Subscription,
    news: News,
    /// The next document says everything.
    is_full_due: bool,
    /// A NOTIFY is under way; the next one waits for its end (RFC 6665 §4.2.2).
    is_notifying: bool,
}

/// All subscriptions, by their local tags.
#[derive(Debug, Default)]
pub struct Subscriptions {
    by_tag: BTreeMap<String, Entry>,
    by_identity: HashMap<Impu, Vec<String>>,
    /// Those with something to tell.
    due: BTreeSet<String>,
    expiries: Timers<String>,
}

impl Subscriptions {
    pub fn len(&self) -> usize {
        self.by_tag.len()
    }

    pub fn get(&self, tag: &str) -> Option<&Subscription> {
        self.by_tag.get(tag).map(|entry| &entry.subscription)
    }

    /// Local tags of those who watch that identity.
    pub fn of(&self, public_identity: &Impu) -> &[String] {
        self.by_identity.get(public_identity).map_or(&[], Vec::as_slice)
    }

    /// Stores a subscription, new or changed.
    pub fn store(&mut self, subscription: Subscription, out: &mut Vec<Output>) {
        let value = serde_json::to_string(&subscription)
            .expect("strings, numbers and lists of them have a JSON form");
        let key = subscription.local_tag.clone();
        out.push(Output::Persist { record: Record { kind: KIND, key, value: Some(value) } });
        self.put(subscription);
    }

    /// Stores one of another S-CSCF: its first document from here, whenever there is something to tell,
    /// says everything.
    pub fn take_over(&mut self, subscription: Subscription, out: &mut Vec<Output>) {
        let tag = subscription.local_tag.clone();
        self.store(subscription, out);
        self.owe_all(&tag);
    }

    pub fn remove(&mut self, tag: &str, out: &mut Vec<Output>) {
        let Some(entry) = self.by_tag.remove(tag) else { return };
        let key = tag.to_owned();
        out.push(Output::Persist { record: Record { kind: KIND, key, value: None } });
        self.due.remove(tag);
        self.expiries.stop(&tag.to_owned());
        let identity = entry.subscription.public_identity;
        let Some(tags) = self.by_identity.get_mut(&identity) else { return };
        tags.retain(|other| other != tag);
        if tags.is_empty() {
            self.by_identity.remove(&identity);
        }
    }

    /// Takes back what was stored before a restart. Whatever was owed then is told in full.
    pub fn restore(&mut self, record: &StoredRecord) -> Result<(), String> {
        if record.kind != KIND {
            return Ok(());
        }
        let subscription: Subscription =
            serde_json::from_str(&record.value).map_err(|error| error.to_string())?;
        let tag = subscription.local_tag.clone();
        let is_owed = subscription.is_owed;
        self.put(subscription);
        if is_owed {
            self.tell_all(&tag);
        }
        Ok(())
    }

    fn put(&mut self, subscription: Subscription) {
        let tag = subscription.local_tag.clone();
        let at = Now::since_epoch(Duration::from_secs(subscription.expires_at_seconds));
        self.expiries.set(tag.clone(), at);
        if let Some(entry) = self.by_tag.get_mut(&tag) {
            entry.subscription = subscription;
            return;
        }
        let identity = subscription.public_identity.clone();
        self.by_identity.entry(identity).or_default().push(tag.clone());
        let entry =
            Entry { subscription, news: News::default(), is_full_due: false, is_notifying: false };
        self.by_tag.insert(tag, entry);
    }

    /// The next NOTIFY says everything.
    pub fn tell_all(&mut self, tag: &str) {
        self.owe_all(tag);
        if self.by_tag.contains_key(tag) {
            self.due.insert(tag.to_owned());
        }
    }

    /// The next NOTIFY says everything, whenever there is something to tell.
    pub fn owe_all(&mut self, tag: &str) {
        if let Some(entry) = self.by_tag.get_mut(tag) {
            entry.is_full_due = true;
        }
    }

    /// The next NOTIFY says this as well.
    pub fn tell(&mut self, tag: &str, news: &News) {
        if let Some(entry) = self.by_tag.get_mut(tag) {
            entry.news.identities.extend(news.identities.iter().cloned());
            entry.news.created.extend(news.created.iter().cloned());
            for gone in &news.gone {
                entry.news.gone.retain(|other| other.contact.id != gone.contact.id);
                entry.news.gone.push(gone.clone());
            }
            self.due.insert(tag.to_owned());
        }
    }

    /// It ends with the next NOTIFY; the first reason stays.
    pub fn end(&mut self, tag: &str, end: End) {
        if let Some(entry) = self.by_tag.get_mut(tag) {
            entry.subscription.ends.get_or_insert(end);
            self.due.insert(tag.to_owned());
        }
    }

    /// One with something to tell and no NOTIFY under way: what there is to tell, and whether it is
    /// to be everything. A NOTIFY is under way from now on.
    pub fn take_due(&mut self) -> Option<(Subscription, News, bool)> {
        let is_free =
            |tag: &&String| self.by_tag.get(*tag).is_some_and(|entry: &Entry| !entry.is_notifying);
        let tag = self.due.iter().find(is_free)?.clone();
        self.due.remove(&tag);
        let entry = self.by_tag.get_mut(&tag)?;
        entry.is_notifying = true;
        let is_full = std::mem::take(&mut entry.is_full_due);
        Some((entry.subscription.clone(), std::mem::take(&mut entry.news), is_full))
    }

    /// A NOTIFY has ended. True when another is due.
    pub fn notified(&mut self, tag: &str) -> bool {
        if let Some(entry) = self.by_tag.get_mut(tag) {
            entry.is_notifying = false;
        }
        self.due.contains(tag)
    }

    /// One whose time is over.
    pub fn expired(&mut self, now: Now) -> Option<String> {
        self.expiries.expired(now)
    }

    pub fn next_timeout(&self) -> Option<Now> {
        self.expiries.next()
    }
}
