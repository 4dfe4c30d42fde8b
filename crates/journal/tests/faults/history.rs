//! Any sequence of appends, failures, kills and losses of power keeps every acknowledged block.

use std::sync::Arc;

use proptest::prelude::*;
use sluice_journal::{
    Embedded, Journal, Writer,
    conformance::name,
    files::fault::{FaultFiles, Plan},
};
use sluice_model::{Generation, Pointer, Position};

use super::support::{append, check_whole, frames, head_of, keeping, open, runtime, start_with};

#[derive(Clone, Debug)]
enum Action {
    Append(u8),
    /// Begins a block and does not end it.
    Begin,
    Open,
    Close,
    Kill,
    /// What failed syncs left in the cache goes in this read of the next process.
    KillAndEvict(u8),
    PowerLoss(u64),
    Trim(u8),
    FailSync(u8),
    /// A sync fails, and that is the last that the process does.
    FailSyncAndStop(u8),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (1..12u8).prop_map(Action::Append),
        1 => Just(Action::Begin),
        1 => Just(Action::Open),
        1 => Just(Action::Close),
        1 => Just(Action::Kill),
        1 => (0..12u8).prop_map(Action::KillAndEvict),
        2 => any::<u64>().prop_map(Action::PowerLoss),
        1 => (0..30u8).prop_map(Action::Trim),
        1 => (0..4u8).prop_map(Action::FailSync),
        1 => (0..4u8).prop_map(Action::FailSyncAndStop),
    ]
}

/// A run over a disk: what was acknowledged, and who writes.
struct Run {
    files: FaultFiles,
    journal: Arc<Embedded>,
    writer: Option<Box<dyn Writer>>,
    epoch: u64,
    acked: u64,
    trimmed: bool,
}

impl Run {
    fn start(files: FaultFiles) -> Self {
        let journal = start_with(&files, keeping(5));
        Self { files, journal, writer: None, epoch: 0, acked: 0, trimmed: false }
    }

    async fn restart(&mut self, disk: FaultFiles) {
        self.writer = None;
        self.journal.close().await;
        assert_eq!(self.files.repeated_syncs(), 0, "a file was asked again after a failed sync");
        self.journal = start_with(&disk, keeping(5));
        self.files = disk;
        if self.journal.list().await.unwrap().is_empty() {
            assert_eq!(self.acked, 0);
            return;
        }
        let first = check_whole(self.journal.as_ref(), self.acked).await;
        assert!(first == 1 || self.trimmed);
        // What was shown must stay.
        self.acked = head_of(self.journal.as_ref()).await;
    }

    async fn writer(&mut self) -> Option<&mut Box<dyn Writer>> {
        if self.writer.is_none() {
            self.epoch += 1;
            let (writer, head) = open(self.journal.as_ref(), self.epoch).await.ok()?;
            assert!(head >= self.acked);
            self.acked = head;
            self.writer = Some(writer);
        }
        self.writer.as_mut()
    }

    async fn apply(&mut self, action: Action) {
        match action {
            Action::Append(count) => {
                for _ in 0..count {
                    if self.writer().await.is_none() {
                        return;
                    }
                    let height = self.acked + 1;
                    let Some(writer) = self.writer.as_mut() else { return };
                    match append(writer.as_mut(), height).await {
                        Ok(_) => self.acked = height,
                        Err(_) => self.writer = None,
                    }
                }
            }
            Action::Begin => {
                if self.writer().await.is_none() {
                    return;
                }
                let height = self.acked + 1;
                let mut parts = frames(height);
                parts.pop();
                for part in parts {
                    let Some(writer) = self.writer.as_mut() else { return };
                    if writer.append(part).await.is_err() {
                        self.writer = None;
                    }
                }
            }
            Action::Open => {
                self.writer = None;
                self.writer().await;
            }
            Action::Close => {
                self.journal.close().await;
                // What the next process finds.
                let disk = self.files.kill();
                self.restart(disk).await;
            }
            Action::Kill => {
                let disk = self.files.kill();
                self.restart(disk).await;
            }
            Action::KillAndEvict(read) => {
                let disk = self.files.kill();
                disk.plan(Plan { evict_at: Some(u64::from(read)), ..Plan::default() });
                self.restart(disk).await;
            }
            Action::PowerLoss(seed) => {
                let disk = self.files.reboot(seed);
                self.restart(disk).await;
            }
            Action::Trim(back) => {
                let hold = self.acked.saturating_sub(u64::from(back));
                let hold = Position::end_of(Generation(0), Pointer::from_height(hold));
                if let Ok(trimmed) = self.journal.trim(&name(), Some(&[hold]), 0).await {
                    self.trimmed |= trimmed.segments > 0;
                } else {
                    self.trimmed = true;
                }
            }
            Action::FailSync(after) => {
                self.files.plan(Plan { fail_sync: Some(u64::from(after)), ..Plan::default() });
            }
            Action::FailSyncAndStop(after) => {
                let fail_sync = Some(u64::from(after));
                self.files.plan(Plan { fail_sync, then_stop: true, ..Plan::default() });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_every_acknowledged_block(actions in prop::collection::vec(action(), 1..40)) {
        runtime().block_on(async {
            let mut run = Run::start(FaultFiles::new());
            for action in actions {
                run.apply(action).await;
            }
            let disk = run.files.reboot(7);
            run.restart(disk).await;
        });
    }
}
