//! Whether this owner is the right one: one that the router does not answer makes room.

use std::{future, sync::Arc, time::Duration};

use sluice_model::IngestorName;

use super::Ingest;
use crate::{contact::Contact, seam::Coordinator, status::StatusCell};

/// The key of the remark while the router is silent and nobody waits.
const NOTE: &str = "router";
/// How often it is asked whether somebody waits, in parts of the limit: once per lease time if
/// the limit is the usual one.
const ASKED: u32 = 3;

/// Judges an owner while it works.
pub(super) struct Fitness {
    contact: Contact,
    coordinator: Arc<dyn Coordinator>,
    ingestor: IngestorName,
    limit: Duration,
    status: StatusCell,
}

impl Ingest {
    pub(super) fn fitness(&self) -> Fitness {
        Fitness {
            contact: self.parts.contact.clone(),
            coordinator: self.parts.coordinator.clone(),
            ingestor: self.parts.ingestor.clone(),
            limit: self.parts.rules.silence,
            status: self.parts.status.clone(),
        }
    }
}

impl Fitness {
    /// Resolves, with the reason, when the router has been silent for too long **and** somebody
    /// waits for the lock. An owner that is alone keeps it: nobody else could do better, and it
    /// would only come back later than the router does. Cancel safe.
    pub(super) async fn lost(self) -> String {
        if self.limit.is_zero() {
            return future::pending().await;
        }
        loop {
            self.contact.silent(self.limit).await;
            if let Some(cause) = self.judge().await {
                return cause;
            }
            tokio::time::sleep(self.limit / ASKED).await;
            if self.contact.silence().is_none_or(|silence| silence < self.limit) {
                self.status.note(NOTE, None);
            }
        }
    }

    async fn judge(&self) -> Option<String> {
        let waiters = match self.coordinator.waiters(&self.ingestor).await {
            Ok(waiters) => waiters,
            Err(error) => {
                tracing::debug!(ingestor = %self.ingestor, %error, "whether somebody waits is not known");
                0
            }
        };
        // It may have answered meanwhile.
        let silence = self.contact.silence().filter(|silence| *silence >= self.limit)?;
        let cause = format!("the router has not answered for {:.1} s", silence.as_secs_f64());
        if waiters > 0 {
            self.status.note(NOTE, None);
            return Some(format!("{cause}; {waiters} waiting for the lock"));
        }
        tracing::warn!(ingestor = %self.ingestor, cause, "nobody waits for the lock; trying on");
        self.status.note(NOTE, Some(format!("{cause}, and nobody else waits for the lock")));
        None
    }
}
