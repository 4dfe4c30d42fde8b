//! Crashes, failures of the disk and a full one, at every point.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by panicking, as tests do"
)]

#[path = "support/shared.rs"]
mod support;

use std::{path::Path, sync::Arc};

use proptest::prelude::*;
use sluice_journal::{
    AppendError, Embedded, Journal, Options, Retention, Writer,
    conformance::name,
    files::fault::{FaultFiles, Plan},
};
use support::{DIR, append, check_whole, frames, open, options, runtime, segments, start};

/// Opens, appends, reopens, appends; gives the last acknowledged height. Ends at the first error.
async fn work(files: &FaultFiles, acked: &mut u64) -> Result<(), String> {
    for epoch in 1..=2 {
        let journal = start(files).map_err(|e| e.to_string())?;
        let (mut writer, head) = open(journal.as_ref(), epoch).await.map_err(|e| e.to_string())?;
        assert!(head >= *acked);
        for height in head + 1..head + 14 {
            let receipt = append(writer.as_mut(), height).await.map_err(|e| e.to_string())?;
            assert!(!receipt.duplicate);
            *acked = height;
        }
        journal.close().await;
    }
    Ok(())
}

/// Goes on after a crash: what is there is whole, and appending works.
async fn go_on(files: &FaultFiles, acked: u64) {
    let journal = start(files).expect("the journal loads after a crash");
    let (mut writer, head) = open(journal.as_ref(), 100).await.unwrap();
    assert!(head >= acked, "acknowledged up to {acked}, found {head}");
    for height in head.max(1)..head + 4 {
        append(writer.as_mut(), height).await.unwrap();
    }
    assert_eq!(check_whole(journal.as_ref(), acked).await, 1);
    journal.close().await;
}

#[test]
fn a_crash_at_every_operation_loses_nothing() {
    let runtime = runtime();
    let files = FaultFiles::new();
    runtime.block_on(work(&files, &mut 0)).unwrap();
    let operations = files.operations();
    assert!(operations > 40, "{operations}");
    for operation in 0..operations {
        // A killed process every third time, a power loss otherwise.
        let seed = operation % 3;
        let files = FaultFiles::new();
        files.plan(Plan { crash_at: Some(operation), ..Plan::default() });
        let mut acked = 0;
        let ended = runtime.block_on(work(&files, &mut acked));
        assert!(files.crashed() || ended.is_ok(), "operation {operation}: {ended:?}");
        let disk = if seed == 0 { files.kill() } else { files.reboot(operation * 3 + seed) };
        runtime.block_on(go_on(&disk, acked));
    }
}

#[test]
fn a_crash_during_recovery_loses_nothing() {
    let runtime = runtime();
    for seed in 0..30 {
        let files = FaultFiles::new();
        files.plan(Plan { crash_at: Some(20 + seed), ..Plan::default() });
        let mut acked = 0;
        runtime.block_on(work(&files, &mut acked)).ok();
        let mut disk = files.reboot(seed);
        for again in 0..6 {
            disk.plan(Plan { crash_at: Some(again), ..Plan::default() });
            runtime.block_on(work(&disk, &mut acked)).ok();
            disk = disk.reboot(seed + again);
        }
        runtime.block_on(go_on(&disk, acked));
    }
}

#[test]
fn a_failed_sync_poisons_the_writer_and_the_next_open_goes_on() {
    let runtime = runtime();
    let files = FaultFiles::new();
    runtime.block_on(work(&files, &mut 0)).unwrap();
    let syncs = files.syncs();
    let mut poisoned = 0;
    for sync in 3..syncs {
        let files = FaultFiles::new();
        files.plan(Plan { fail_sync: Some(sync), ..Plan::default() });
        runtime.block_on(async {
            let journal = start(&files).unwrap();
            let (mut acked, mut epoch) = (0, 0);
            while acked < 26 {
                epoch += 1;
                let Ok((mut writer, head)) = open(journal.as_ref(), epoch).await else { continue };
                assert!(head >= acked);
                for height in head + 1..=26 {
                    match append(writer.as_mut(), height).await {
                        Ok(_) => acked = height,
                        Err(AppendError::Poisoned { .. }) => {
                            poisoned += 1;
                            let error = append(writer.as_mut(), height).await.unwrap_err();
                            assert!(matches!(error, AppendError::Poisoned { .. }), "{error}");
                            let status = journal.status(&name()).await.unwrap();
                            assert!(status.append_refused.is_some());
                            break;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                acked = acked.max(head);
            }
            // What the failed sync left in the cache must not be what the blocks rely on.
            let disk = files.reboot(sync);
            journal.close().await;
            go_on(&disk, acked).await;
        });
    }
    assert!(poisoned > 10, "{poisoned}");
}

#[test]
fn a_full_disk_refuses_and_goes_on_by_itself() {
    runtime().block_on(async {
        let files = FaultFiles::new();
        let journal = start(&files).unwrap();
        let (mut writer, _) = open(journal.as_ref(), 1).await.unwrap();
        append(writer.as_mut(), 1).await.unwrap();
        files.plan(Plan { capacity: Some(files.used() + 100), ..Plan::default() });
        let mut height = 2;
        let error = loop {
            match append(writer.as_mut(), height).await {
                Ok(_) => height += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, AppendError::DiskFull { .. }), "{error}");
        assert!(height > 3);
        let status = journal.status(&name()).await.unwrap();
        assert!(status.append_refused.is_some());
        assert_eq!(status.head.unwrap().height, height - 1);
        // A full disk can still be fenced, many times.
        let mut writer = writer;
        for epoch in 2..20 {
            let opened = open(journal.as_ref(), epoch).await.unwrap();
            assert_eq!(opened.1, height - 1);
            writer = opened.0;
        }
        let error = append(writer.as_mut(), height).await.unwrap_err();
        assert!(matches!(error, AppendError::DiskFull { .. }), "{error}");
        files.plan(Plan::default());
        append(writer.as_mut(), height).await.unwrap();
        let status = journal.status(&name()).await.unwrap();
        assert!(status.append_refused.is_none());
        check_whole(journal.as_ref(), height).await;
        let disk = files.reboot(1);
        journal.close().await;
        go_on(&disk, height).await;
    });
}

#[test]
fn recycled_segments_do_not_bring_old_records_back() {
    let runtime = runtime();
    for seed in 0..10 {
        let files = FaultFiles::new();
        let options = Options {
            retention: Retention { blocks: Some(2), ..Retention::default() },
            ..options()
        };
        runtime.block_on(async {
            let start = |files: &FaultFiles| {
                let files = Arc::new(files.clone());
                Embedded::open_with(files, Path::new(DIR), options.clone()).unwrap()
            };
            let journal = start(&files);
            let (mut writer, _) = open(journal.as_ref(), 1).await.unwrap();
            let mut height = 1;
            for _ in 0..6 {
                for _ in 0..9 + seed {
                    append(writer.as_mut(), height).await.unwrap();
                    height += 1;
                }
                journal.trim(&name(), Some(&[]), 0).await.unwrap();
                let disk = files.reboot(seed);
                let other = start(&disk);
                let first = check_whole(other.as_ref(), height - 1).await;
                assert!(first > 1 || height < 20);
                let (mut writer, head) = open(other.as_ref(), 2).await.unwrap();
                assert_eq!(head, height - 1);
                append(writer.as_mut(), height).await.unwrap();
                check_whole(other.as_ref(), height).await;
                other.close().await;
            }
            let newest = segments(&files).pop().unwrap();
            assert!(newest > Path::new(DIR).join("chain/00000006.seg"), "{newest:?}");
            journal.close().await;
        });
    }
}

/// A journal whose trims retire all they may, with so many blocks; many begin in one segment and
/// end in the next.
async fn trimmable(files: &FaultFiles, blocks: u64) -> (Arc<Embedded>, Box<dyn Writer>) {
    let (_, journal) = Run::start(files.clone());
    let (mut writer, _) = open(journal.as_ref(), 1).await.unwrap();
    for height in 1..=blocks {
        append(writer.as_mut(), height).await.unwrap();
    }
    (journal, writer)
}

#[test]
fn an_interrupted_trim_is_completed() {
    let runtime = runtime();
    let mut interrupted = 0;
    // Different counts of blocks put the seams between segments into different blocks.
    for blocks in 38..46 {
        for operation in 0.. {
            let files = FaultFiles::new();
            let ended = runtime.block_on(async {
                let (journal, _writer) = trimmable(&files, blocks).await;
                files.plan(Plan { crash_at: Some(operation), ..Plan::default() });
                let ended = journal.trim(&name(), Some(&[]), 0).await.is_ok() && !files.crashed();
                for disk in (0..4).map(|seed| files.reboot(seed)).chain([files.kill()]) {
                    let (disk, journal) = Run::start(disk);
                    let first = check_whole(journal.as_ref(), blocks).await;
                    interrupted += u64::from(first > 1 && !ended);
                    let numbers = segments(&disk).len();
                    let status = journal.status(&name()).await.unwrap();
                    assert_eq!(status.segments, numbers as u64, "nothing retired is left over");
                    journal.close().await;
                }
                ended
            });
            if ended {
                break;
            }
        }
    }
    assert!(interrupted > 50, "{interrupted}");
}

#[test]
fn a_file_that_failed_is_not_used_again() {
    let runtime = runtime();
    let files = FaultFiles::new();
    runtime.block_on(async {
        let (journal, mut writer) = trimmable(&files, 3).await;
        files.plan(Plan { fail_sync: Some(0), ..Plan::default() });
        let error = append(writer.as_mut(), 4).await.unwrap_err();
        assert!(matches!(error, AppendError::Poisoned { .. }), "{error}");
        let failed = segments(&files);
        for epoch in 2..4 {
            let (mut writer, head) = open(journal.as_ref(), epoch).await.unwrap();
            for height in head + 1..head + 30 {
                append(writer.as_mut(), height).await.unwrap();
            }
            journal.trim(&name(), Some(&[]), 0).await.unwrap();
            let head = journal.status(&name()).await.unwrap().head.unwrap().height;
            let (_, other) = Run::start(files.reboot(epoch));
            check_whole(other.as_ref(), head).await;
            other.close().await;
        }
        assert!(failed.iter().all(|path| files.content(path).is_none()), "it was retired");
        assert_eq!(files.repeated_syncs(), 0);
        journal.close().await;
    });
}

#[test]
fn a_kill_right_after_a_failed_sync_does_not_rely_on_the_cache() {
    let runtime = runtime();
    let files = FaultFiles::new();
    runtime.block_on(async {
        let (journal, mut writer) = trimmable(&files, 3).await;
        let control = Path::new(DIR).join("chain/control");
        let before = files.content(&control).unwrap();
        files.plan(Plan { fail_sync: Some(0), ..Plan::default() });
        append(writer.as_mut(), 4).await.unwrap_err();
        let disk = files.kill();
        journal.close().await;
        // The process ended before it had recorded the failure. The cache still shows the block,
        // which is not on the disk.
        disk.put(&control, before);
        let (_, other) = Run::start(disk.reboot(0));
        assert_eq!(other.status(&name()).await.unwrap().head.unwrap().height, 3);
        other.close().await;
        let (disk, journal) = Run::start(disk);
        check_whole(journal.as_ref(), 4).await;
        // Once it was shown it must stay.
        for seed in 0..8 {
            let (_, other) = Run::start(disk.reboot(seed));
            check_whole(other.as_ref(), 4).await;
            other.close().await;
        }
        journal.close().await;
    });
}

#[derive(Clone, Debug)]
enum Action {
    Append(u8),
    /// Begins a block and does not end it.
    Begin,
    Open,
    Close,
    Kill,
    PowerLoss(u64),
    Trim(u8),
    FailSync(u8),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (1..12u8).prop_map(Action::Append),
        1 => Just(Action::Begin),
        1 => Just(Action::Open),
        1 => Just(Action::Close),
        1 => Just(Action::Kill),
        2 => any::<u64>().prop_map(Action::PowerLoss),
        1 => (0..30u8).prop_map(Action::Trim),
        1 => (0..4u8).prop_map(Action::FailSync),
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
    fn start(files: FaultFiles) -> (FaultFiles, Arc<Embedded>) {
        let options = Options {
            retention: Retention { blocks: Some(5), ..Retention::default() },
            ..options()
        };
        let shared = Arc::new(files.clone());
        let journal = Embedded::open_with(shared, Path::new(DIR), options).unwrap();
        (files, journal)
    }

    async fn restart(&mut self, disk: FaultFiles) {
        self.writer = None;
        self.journal.close().await;
        assert_eq!(self.files.repeated_syncs(), 0, "a file was asked again after a failed sync");
        (self.files, self.journal) = Self::start(disk);
        if self.journal.list().await.unwrap().is_empty() {
            assert_eq!(self.acked, 0);
            return;
        }
        let first = check_whole(self.journal.as_ref(), self.acked).await;
        assert!(first == 1 || self.trimmed);
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
            Action::PowerLoss(seed) => {
                let disk = self.files.reboot(seed);
                self.restart(disk).await;
            }
            Action::Trim(back) => {
                let hold = self.acked.saturating_sub(u64::from(back));
                let hold = sluice_model::Position::end_of(
                    sluice_model::Generation(0),
                    sluice_model::Pointer::from_height(hold),
                );
                if let Ok(trimmed) = self.journal.trim(&name(), Some(&[hold]), 0).await {
                    self.trimmed |= trimmed.segments > 0;
                } else {
                    self.trimmed = true;
                }
            }
            Action::FailSync(after) => {
                self.files.plan(Plan { fail_sync: Some(u64::from(after)), ..Plan::default() });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_every_acknowledged_block(actions in prop::collection::vec(action(), 1..40)) {
        runtime().block_on(async {
            let (files, journal) = Run::start(FaultFiles::new());
            let mut run =
                Run { files, journal, writer: None, epoch: 0, acked: 0, trimmed: false };
            for action in actions {
                run.apply(action).await;
            }
            let disk = run.files.reboot(7);
            run.restart(disk).await;
        });
    }
}
