//! What befell an ingestor, for its trail at the coordinator. Never on the path of a block.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use sluice_client::coordination::{AuditEntry, AuditKind};
use sluice_model::{Epoch, IngestorName};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use crate::seam::Coordinator;

/// Entries that wait for the coordinator.
const WAITING: usize = 64;

/// Writes entries in their order, from a task.
pub(super) struct Trail {
    ingestor: IngestorName,
    holder: String,
    queue: mpsc::Sender<AuditEntry>,
    task: JoinHandle<()>,
    epoch: Mutex<Epoch>,
}

impl Trail {
    pub(super) fn new(
        ingestor: IngestorName,
        holder: String,
        coordinator: Arc<dyn Coordinator>,
    ) -> Self {
        let (queue, mut entries) = mpsc::channel::<AuditEntry>(WAITING);
        let task = tokio::spawn(async move {
            while let Some(entry) = entries.recv().await {
                let (ingestor, kind) = (entry.ingestor.clone(), entry.kind.clone());
                if let Err(error) = coordinator.audit(entry).await {
                    tracing::warn!(%ingestor, %kind, %error, "not in the trail");
                }
            }
        });
        Self { ingestor, holder, queue, task, epoch: Mutex::new(Epoch::ZERO) }
    }

    /// The epoch of what follows.
    pub(super) fn epoch(&self, epoch: Epoch) {
        *self.epoch.lock() = epoch;
    }

    /// Something happened to this owner.
    pub(super) fn note(&self, kind: AuditKind, detail: impl Into<String>) {
        self.note_by(kind, self.holder.clone(), detail);
    }

    /// Something happened because somebody wanted it.
    pub(super) fn note_by(
        &self,
        kind: AuditKind,
        actor: impl Into<String>,
        detail: impl Into<String>,
    ) {
        let epoch = *self.epoch.lock();
        let entry = AuditEntry::new(self.ingestor.clone(), kind, actor, epoch, detail);
        if let Err(error) = self.queue.try_send(entry) {
            let entry = error.into_inner();
            tracing::warn!(target: "sluice::audit", ingestor = %entry.ingestor, kind = %entry.kind,
                actor = entry.actor, detail = entry.detail, "not in the trail: too many wait");
        }
    }

    /// Waits for what is queued, for as long as this.
    pub(super) async fn close(self, patience: Duration) {
        drop(self.queue);
        if timeout(patience, self.task).await.is_err() {
            tracing::warn!(ingestor = %self.ingestor, "entries of the trail are not written");
        }
    }
}
