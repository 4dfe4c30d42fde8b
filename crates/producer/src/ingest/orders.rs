//! What operators want, as the loop sees it: watched all the time, read anew by every owner.

use std::sync::Arc;

use sluice_client::coordination::{Action, Control};
use sluice_model::IngestorName;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    control::{Duty, duty},
    seam::{Controls, Coordinator},
    status::StatusCell,
};

/// How long to wait after the coordinator refused to tell.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// The state of what operators want, kept up to date by a task.
pub(super) struct Orders {
    ingestor: IngestorName,
    coordinator: Arc<dyn Coordinator>,
    status: StatusCell,
    known: watch::Sender<Option<Control>>,
    task: Option<DropGuard>,
}

/// An action that was looked at and can only be judged later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) id: u64,
    pub(super) until: Instant,
}

impl Orders {
    /// Begins to watch.
    pub(super) fn new(
        ingestor: IngestorName,
        coordinator: Arc<dyn Coordinator>,
        status: StatusCell,
    ) -> Self {
        let known = watch::Sender::new(None);
        let mut own = Self { ingestor, coordinator, status, known, task: None };
        own.watch();
        own
    }

    fn watch(&mut self) {
        // A channel of its own: the task before may be about to tell what it heard before.
        self.known = watch::Sender::new(None);
        let (known, status) = (self.known.clone(), self.status.clone());
        let controls = self.coordinator.control(&self.ingestor);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = follow(controls, known, status) => {}
            }
        });
        self.task = Some(stop.drop_guard());
    }

    /// Reads the present state from the store, so that what was asked of an owner before binds
    /// this one from its first block on. Cancel safe.
    pub(super) async fn refresh(&mut self) {
        self.watch();
        let mut known = self.known.subscribe();
        // The sender lives in here.
        known.wait_for(Option::is_some).await.ok();
    }

    /// Takes the answer of the coordinator, if it is newer than what is known.
    pub(super) fn learn(&self, control: Control) {
        learn(&self.known, &self.status, control);
    }

    /// The action that waits.
    pub(super) fn action(&self) -> Option<Action> {
        self.known.borrow().as_ref()?.action.clone()
    }

    /// The pause, in words.
    pub(super) fn hold(&self) -> Option<String> {
        let known = self.known.borrow();
        let control = known.as_ref().filter(|control| duty(control) == Duty::Hold)?;
        Some(crate::control::paused(&self.ingestor, control.paused.as_ref()?))
    }

    /// True if feeds that differ hold the ingestor, and not an operator's wish.
    pub(super) fn alarmed(&self) -> bool {
        let known = self.known.borrow();
        let paused = known.as_ref().and_then(|control| control.paused.as_ref());
        paused.is_some_and(|paused| paused.alarm)
    }

    /// Resolves when capturing has to be interrupted: for a pause, or for an action that has not
    /// been looked at yet or can be judged now.
    pub(super) async fn interrupted(&self, looked_at: Option<Waiting>) {
        let wanted = self.wanted(|control| match duty(control) {
            Duty::Capture => false,
            Duty::Hold => true,
            Duty::Perform(action) => looked_at.is_none_or(|looked_at| looked_at.id != action.id),
        });
        match looked_at {
            None => wanted.await,
            Some(looked_at) => tokio::select! {
                () = wanted => {}
                () = tokio::time::sleep_until(looked_at.until) => {}
            },
        }
    }

    /// Grows with every change.
    pub(super) fn version(&self) -> u64 {
        self.known.borrow().as_ref().map_or(0, |control| control.version)
    }

    /// Resolves when what operators want changed since this version. Cancel safe.
    pub(super) async fn changed(&self, since: u64) {
        self.wanted(|control| control.version > since).await;
    }

    /// Resolves while an action waits, other than this one. Cancel safe.
    pub(super) async fn asked(&self, but: Option<u64>) {
        self.wanted(|control| control.action.as_ref().is_some_and(|action| Some(action.id) != but))
            .await;
    }

    /// Resolves when the ingestor is no longer to hold still. Cancel safe.
    pub(super) async fn resumed(&self) {
        self.wanted(|control| duty(control) != Duty::Hold).await;
    }

    async fn wanted(&self, holds: impl Fn(&Control) -> bool) {
        let mut known = self.known.subscribe();
        let found = known.wait_for(|known| known.as_ref().is_some_and(&holds)).await.is_ok();
        if !found {
            // The sender lives in here.
            std::future::pending::<()>().await;
        }
    }
}

async fn follow(
    mut controls: Box<dyn Controls>,
    known: watch::Sender<Option<Control>>,
    status: StatusCell,
) {
    loop {
        match controls.next().await {
            Ok(control) => learn(&known, &status, control),
            Err(error) => {
                tracing::warn!(ingestor = %status.ingestor(), %error, "what operators want is not known");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

fn learn(known: &watch::Sender<Option<Control>>, status: &StatusCell, control: Control) {
    status.control(&control);
    known.send_if_modified(|known| {
        let newer = known.as_ref().is_none_or(|known| known.version < control.version);
        if newer {
            *known = Some(control);
        }
        newer
    });
}
