//! Dialogs of registered UEs (TS 24.229 §5.2.6.3.1): what was recorded when they were made, so that
//! later requests go the same way.

use std::collections::{BTreeMap, HashMap};

use common::node::Now;
use common::sip::message::Request;

use crate::registrations::Owner;

/// Dialogs of one UE; the oldest makes room.
const DIALOGS_LIMIT: usize = 32;

/// One dialog.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dialog {
    pub call_id: String,
    /// Tags of the UE and of the other side.
    pub ue_tag: String,
    pub other_tag: String,
    /// The UE has subscribed to the state of its own registration.
    pub is_own_registration: bool,
    /// What stands behind us in the Route of the UE's requests, topmost first.
    pub routes: Vec<String>,
    /// Past this it counts as ended.
    pub ends: Now,
}

/// Call-ID, tag of the UE, and tag of the other side: only the last one is not for the UE to choose, which may
/// have chosen what another has.
type Id = (String, String, String);

/// All dialogs, by UE. They end with the registration at the latest.
#[derive(Debug, Default)]
pub struct Dialogs {
    by_owner: BTreeMap<Owner, Vec<Dialog>>,
    owners: HashMap<Id, Owner>,
}

impl Dialogs {
    pub fn note(&mut self, now: Now, owner: Owner, dialog: Dialog) {
        let dialogs = self.by_owner.entry(owner.clone()).or_default();
        dialogs.retain(|other| {
            let stays = other.ends > now && !other.is(&dialog.call_id, &dialog.ue_tag);
            if !stays {
                release(&mut self.owners, &owner, other);
            }
            stays
        });
        if dialogs.len() >= DIALOGS_LIMIT {
            let oldest = dialogs.remove(0);
            release(&mut self.owners, &owner, &oldest);
        }
        self.owners.entry(dialog.id()).or_insert(owner);
        dialogs.push(dialog);
    }

    pub fn get(&self, owner: &Owner, call_id: &str, ue_tag: &str) -> Option<&Dialog> {
        self.by_owner.get(owner)?.iter().find(|dialog| dialog.is(call_id, ue_tag))
    }

    /// The dialog to which a request of the other side belongs (RFC 3261 §12.2.2), and whose it is.
    pub fn of(&self, request: &Request) -> Option<(&Owner, &Dialog)> {
        let text = |tag: Option<&str>| tag.unwrap_or("").to_owned();
        let (ue_tag, other_tag) = (text(request.to_tag()), text(request.from_tag()));
        let id = (request.call_id().to_owned(), ue_tag, other_tag);
        let owner = self.owners.get(&id)?;
        let dialog = self.get(owner, &id.0, &id.1)?;
        (dialog.other_tag == id.2).then_some((owner, dialog))
    }

    pub fn end(&mut self, owner: &Owner, call_id: &str) {
        let Some(dialogs) = self.by_owner.get_mut(owner) else { return };
        dialogs.retain(|dialog| {
            let stays = dialog.call_id != call_id;
            if !stays {
                release(&mut self.owners, owner, dialog);
            }
            stays
        });
    }

    /// All dialogs of a UE that is not registered any more.
    pub fn forget(&mut self, owner: &Owner) {
        for dialog in self.by_owner.remove(owner).unwrap_or_default() {
            release(&mut self.owners, owner, &dialog);
        }
    }

    pub fn len(&self) -> usize {
        self.owners.len()
    }

    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }
}

/// The dialog of this UE is no more; another's is not meant.
fn release(owners: &mut HashMap<Id, Owner>, owner: &Owner, dialog: &Dialog) {
    let id = dialog.id();
    if owners.get(&id) == Some(owner) {
        owners.remove(&id);
    }
}

impl Dialog {
    fn id(&self) -> Id {
        (self.call_id.clone(), self.ue_tag.clone(), self.other_tag.clone())
    }

    fn is(&self, call_id: &str, ue_tag: &str) -> bool {
        self.call_id == call_id && self.ue_tag == ue_tag
    }
}
