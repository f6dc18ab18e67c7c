//! The simulated store of a daemon: what was persisted, by kind and key.

use std::collections::BTreeMap;

use common::node::{Record, StoredRecord};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    rows: BTreeMap<(String, String), String>,
}

impl Disk {
    pub fn apply(&mut self, record: &Record) {
        let key = (record.kind.to_owned(), record.key.clone());
        match &record.value {
            Some(value) => self.rows.insert(key, value.clone()),
            None => self.rows.remove(&key),
        };
    }

    pub fn records(&self) -> Vec<StoredRecord> {
        let row = |((kind, key), value): (&(String, String), &String)| StoredRecord {
            kind: kind.clone(),
            key: key.clone(),
            value: value.clone(),
        };
        self.rows.iter().map(row).collect()
    }
}
