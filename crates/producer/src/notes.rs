//! What a source repaired, left out or could not decide, in words for the status page.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

/// A small set of remarks by key; a newer one replaces the older of its key.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Notes {
    /// Sets the remark of a key, or takes it away.
    pub fn set(&self, key: &'static str, remark: Option<String>) {
        let mut notes = self.0.lock();
        match remark {
            Some(remark) => {
                if notes.get(key) != Some(&remark) {
                    tracing::debug!(key, remark, "source remark");
                    notes.insert(key, remark);
                }
            }
            None => drop(notes.remove(key)),
        }
    }

    /// All remarks, in the order of their keys.
    pub fn list(&self) -> Vec<String> {
        self.0.lock().values().cloned().collect()
    }
}
