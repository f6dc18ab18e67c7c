//! Dialogs of registered UEs (TS 24.229 §5.2.6.3.1): what was recorded when they were made, so that
//! later requests go the same way.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use common::identity::Impi;
use common::node::Now;

/// Dialogs of one UE; the oldest makes room.
const DIALOGS_LIMIT: usize = 32;

/// A UE: private identity and address.
pub type Owner = (Impi, IpAddr);

/// One dialog.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dialog {
    pub call_id: String,
    /// Tags of the UE and of the other side.
    pub ue_tag: String,
    pub other_tag: String,
    /// What stands behind us in the Route of the UE's requests, topmost first.
    pub routes: Vec<String>,
    /// Past this it counts as ended.
    pub ends: Now,
}

/// All dialogs, by UE. They end with the registration at the latest.
#[derive(Debug, Default)]
pub struct Dialogs {
    by_owner: BTreeMap<Owner, Vec<Dialog>>,
    owners: HashMap<String, Owner>,
}

impl Dialogs {
    pub fn note(&mut self, now: Now, owner: Owner, dialog: Dialog) {
        let dialogs = self.by_owner.entry(owner.clone()).or_default();
        dialogs.retain(|other| {
            let stays = other.ends > now && !other.is(&dialog.call_id, &dialog.ue_tag);
            if !stays {
                self.owners.remove(&other.call_id);
            }
            stays
        });
        if dialogs.len() >= DIALOGS_LIMIT {
            let oldest = dialogs.remove(0);
            self.owners.remove(&oldest.call_id);
        }
        self.owners.insert(dialog.call_id.clone(), owner);
        dialogs.push(dialog);
    }

    pub fn get(&self, owner: &Owner, call_id: &str, ue_tag: &str) -> Option<&Dialog> {
        self.by_owner.get(owner)?.iter().find(|dialog| dialog.is(call_id, ue_tag))
    }

    /// Whose dialog that Call-ID names.
    pub fn owner(&self, call_id: &str) -> Option<&Owner> {
        self.owners.get(call_id)
    }

    pub fn end(&mut self, owner: &Owner, call_id: &str) {
        if let Some(dialogs) = self.by_owner.get_mut(owner) {
            dialogs.retain(|dialog| dialog.call_id != call_id);
        }
        self.owners.remove(call_id);
    }

    /// All dialogs of a UE that is not registered any more.
    pub fn forget(&mut self, owner: &Owner) {
        for dialog in self.by_owner.remove(owner).unwrap_or_default() {
            self.owners.remove(&dialog.call_id);
        }
    }

    pub fn len(&self) -> usize {
        self.owners.len()
    }

    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }
}

impl Dialog {
    fn is(&self, call_id: &str, ue_tag: &str) -> bool {
        self.call_id == call_id && self.ue_tag == ue_tag
    }
}
