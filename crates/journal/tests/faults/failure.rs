//! The disk fails, or is full, while the journal works on.

use std::io::ErrorKind;

use sluice_journal::{
    AppendError, Journal, JournalError,
    conformance::name,
    files::fault::{FaultFiles, Plan},
};

use super::{
    crash::{go_on, stays, work},
    support::{
        DIR, append, check_whole, filled, frames, head_of, open, options, runtime, segments, start,
    },
};

/// How many syncs the work has.
fn syncs() -> u64 {
    let files = FaultFiles::new();
    runtime().block_on(work(&files, &mut 0)).unwrap();
    files.syncs()
}

#[test]
fn a_failed_sync_poisons_the_writer_and_the_next_open_goes_on() {
    let runtime = runtime();
    let mut poisoned = 0;
    for sync in 3..syncs() {
        let files = FaultFiles::new();
        // Also a sync that says that there is no room has failed.
        let kind = if sync % 2 == 0 { ErrorKind::Other } else { ErrorKind::StorageFull };
        files.plan(Plan { fail_sync: Some(sync), fail_as: Some(kind), ..Plan::default() });
        runtime.block_on(async {
            let journal = start(&files);
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
                            assert!(status.append_refused.unwrap().contains(DIR));
                            break;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                acked = acked.max(head);
            }
            // What the failed sync left in the cache must not be what the blocks rely on.
            let disk = files.reboot(sync);
            assert_eq!(files.repeated_syncs(), 0);
            journal.close().await;
            go_on(&disk, acked).await;
        });
    }
    assert!(poisoned > 10, "{poisoned}");
}

/// The process ends before it has recorded the failure. The next one is shown bytes and names
/// that never reached the disk, as long as the system keeps them.
#[test]
fn a_kill_right_after_a_failed_sync_loses_nothing() {
    let runtime = runtime();
    for sync in 0..syncs() {
        let files = FaultFiles::new();
        files.plan(Plan { fail_sync: Some(sync), then_stop: true, ..Plan::default() });
        runtime.block_on(async {
            let mut acked = 0;
            // The last sync is that of the close, which tells nobody.
            work(&files, &mut acked).await.ok();
            assert!(files.crashed());
            for evict_at in [None, Some(sync % 7), Some(sync % 11)] {
                let disk = files.kill();
                disk.plan(Plan { evict_at, ..Plan::default() });
                let journal = start(&disk);
                let (mut writer, head) = open(journal.as_ref(), 100).await.unwrap();
                assert!(head >= acked, "sync {sync}: acknowledged up to {acked}, found {head}");
                stays(&disk, head, 100).await;
                for height in head + 1..=head + sync % 3 {
                    append(writer.as_mut(), height).await.unwrap();
                }
                stays(&disk, head + sync % 3, 100).await;
                journal.close().await;
            }
        });
    }
}

/// A block whose sync failed is not on the disk, or part of it is, but all of it is shown until
/// the system forgets it; that may be at any moment of the recovery.
#[test]
fn recovery_relies_on_nothing_that_only_the_cache_has() {
    let runtime = runtime();
    let mut heads = Vec::new();
    for seed in 0..6 {
        runtime.block_on(async {
            let files = FaultFiles::new();
            let (journal, mut writer) = filled(&files, options(), 2).await;
            let plan = Plan { fail_sync: Some(0), then_stop: true, seed, ..Plan::default() };
            files.plan(plan);
            append(writer.as_mut(), 3).await.unwrap_err();
            let killed = files.kill();
            journal.close().await;
            let probe = killed.kill();
            start(&probe).close().await;
            for evict_at in 0..=probe.reads() {
                let disk = killed.kill();
                disk.plan(Plan { evict_at: Some(evict_at), ..Plan::default() });
                let journal = start(&disk);
                let head = head_of(journal.as_ref()).await;
                // Once it was shown it must stay.
                stays(&disk, head, 5).await;
                check_whole(journal.as_ref(), 2).await;
                let (mut writer, _) = open(journal.as_ref(), 100).await.unwrap();
                append(writer.as_mut(), head + 1).await.unwrap();
                stays(&disk, head + 1, 100).await;
                journal.close().await;
                heads.push(head);
            }
        });
    }
    assert!(heads.contains(&2) && heads.contains(&3), "{heads:?}");
}

/// What an earlier process left uncertain, and the file does not take, goes to the next one.
#[test]
fn an_end_that_its_file_refuses_goes_to_the_next_one() {
    let runtime = runtime();
    let (mut moved, mut refused) = (0, 0);
    for blocks in 18..30 {
        for sync in 0.. {
            let files = FaultFiles::new();
            let failed = runtime.block_on(async {
                let (journal, mut writer) = filled(&files, options(), blocks).await;
                // Of a block that is never ended, the parts that are there belong to the end.
                for part in frames(blocks + 1).into_iter().rev().skip(1).rev() {
                    writer.append(part).await.unwrap();
                }
                let disk = files.kill();
                journal.close().await;
                disk.plan(Plan { fail_sync: Some(sync), ..Plan::default() });
                let before = segments(&disk).len();
                let journal = start(&disk);
                let failed = disk.syncs() > sync;
                disk.plan(Plan::default());
                match journal.status(&name()).await {
                    Ok(_) => {
                        stays(&disk, blocks, 5).await;
                        let (mut writer, head) = open(journal.as_ref(), 6).await.unwrap();
                        moved += segments(&disk).len() - before;
                        append(writer.as_mut(), head + 1).await.unwrap();
                        check_whole(journal.as_ref(), head + 1).await;
                        stays(&disk, head + 1, 6).await;
                    }
                    Err(JournalError::Io { file, .. }) => {
                        assert!(file.starts_with(DIR), "{file:?}");
                        refused += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
                assert_eq!(disk.repeated_syncs(), 0, "a file was asked again");
                journal.close().await;
                go_on(&disk.kill(), blocks).await;
                failed
            });
            if !failed {
                break;
            }
        }
    }
    assert!(moved > 5 && refused > 0, "moved {moved}, refused {refused}");
}

#[test]
fn a_full_disk_refuses_and_goes_on_by_itself() {
    runtime().block_on(async {
        let files = FaultFiles::new();
        let journal = start(&files);
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
        assert!(error.to_string().contains("allocate /data/chain/segment.tmp"), "{error}");
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

/// A write that fails half-way poisons the writer; one that only found no room is tried again.
#[test]
fn a_failed_write_leaves_nothing_behind() {
    let runtime = runtime();
    let files = FaultFiles::new();
    runtime.block_on(work(&files, &mut 0)).unwrap();
    let (mut poisoned, mut full) = (0, 0);
    for write in 1..files.writes() {
        let kind = if write % 2 == 0 { ErrorKind::Other } else { ErrorKind::StorageFull };
        for seed in 0..2 {
            let files = FaultFiles::new();
            let fail_as = Some(kind);
            files.plan(Plan { fail_write: Some(write), fail_as, seed, ..Plan::default() });
            runtime.block_on(async {
                let journal = start(&files);
                let (mut acked, mut epoch) = (0, 0);
                while acked < 26 {
                    epoch += 1;
                    let Ok((mut writer, head)) = open(journal.as_ref(), epoch).await else {
                        continue;
                    };
                    assert!(head >= acked);
                    acked = head;
                    while acked < 26 {
                        match append(writer.as_mut(), acked + 1).await {
                            Ok(_) => acked += 1,
                            Err(error @ AppendError::Poisoned { .. }) => {
                                assert!(error.to_string().contains(DIR), "{error}");
                                poisoned += 1;
                                break;
                            }
                            Err(error @ AppendError::DiskFull { .. }) => {
                                assert!(error.to_string().contains(DIR), "{error}");
                                assert_eq!(kind, ErrorKind::StorageFull);
                                full += 1;
                                // Whatever is found of it now, it was not acknowledged.
                                go_on(&files.kill(), acked).await;
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
                stays(&files, acked, epoch).await;
                go_on(&files.kill(), acked).await;
                journal.close().await;
            });
        }
    }
    assert!(poisoned > 10 && full > 10, "{poisoned} {full}");
}

/// One allocation or renaming fails while a segment is taken into use.
async fn fail_a_roll(plan: Plan, what: &str) {
    let files = FaultFiles::new();
    let (journal, mut writer) = filled(&files, options(), 1).await;
    let full = plan.fail_as == Some(ErrorKind::StorageFull);
    files.plan(plan);
    let mut height = 2;
    let error = loop {
        match append(writer.as_mut(), height).await {
            Ok(_) => height += 1,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains(what), "{error}");
    assert!(!files.paths().iter().any(|path| path.ends_with("segment.tmp")), "{:?}", files.paths());
    let refused = journal.status(&name()).await.unwrap().append_refused.unwrap();
    assert!(refused.contains(what), "{refused}");
    stays(&files, height - 1, 5).await;
    if full {
        assert!(matches!(error, AppendError::DiskFull { .. }), "{error}");
    } else {
        assert!(matches!(error, AppendError::Poisoned { .. }), "{error}");
        let error = append(writer.as_mut(), height).await.unwrap_err();
        assert!(matches!(error, AppendError::Poisoned { .. }), "{error}");
        writer = open(journal.as_ref(), 6).await.unwrap().0;
    }
    for height in height..height + 12 {
        append(writer.as_mut(), height).await.unwrap();
    }
    assert!(journal.status(&name()).await.unwrap().append_refused.is_none());
    check_whole(journal.as_ref(), height + 11).await;
    stays(&files, height + 11, 5).await;
    journal.close().await;
}

#[test]
fn a_roll_that_fails_poisons_and_one_without_room_is_tried_again() {
    runtime().block_on(async {
        for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
            let fail_as = Some(kind);
            let allocation = Plan { fail_allocate: Some(0), fail_as, ..Plan::default() };
            fail_a_roll(allocation, "allocate /data/chain/segment.tmp: planned").await;
            let renaming = Plan { fail_rename: Some(0), fail_as, ..Plan::default() };
            fail_a_roll(renaming, "rename /data/chain/segment.tmp: planned").await;
        }
    });
}
