//! Trims that are interrupted or fail.

use std::path::Path;

use sluice_journal::{
    AppendError, Journal, JournalError,
    conformance::name,
    files::fault::{FaultFiles, Plan},
};

use super::support::{
    DIR, append, check_whole, filled, head_of, keeping, open, runtime, segments, start_with,
};

#[test]
fn an_interrupted_trim_is_completed() {
    let runtime = runtime();
    let mut interrupted = 0;
    // Different counts of blocks put the seams between segments into different blocks.
    for blocks in 38..46 {
        for operation in 0.. {
            let files = FaultFiles::new();
            let ended = runtime.block_on(async {
                let (journal, _writer) = filled(&files, keeping(5), blocks).await;
                files.plan(Plan { crash_at: Some(operation), ..Plan::default() });
                let ended = journal.trim(&name(), Some(&[]), 0).await.is_ok() && !files.crashed();
                for disk in (0..4).map(|seed| files.reboot(seed)).chain([files.kill()]) {
                    let journal = start_with(&disk, keeping(5));
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

/// Like every sync that fails, also that of the directory: nobody knows which names are durable.
#[test]
fn a_failed_sync_in_a_trim_poisons_the_writer() {
    let runtime = runtime();
    let mut failed = Vec::new();
    for kind in [std::io::ErrorKind::Other, std::io::ErrorKind::StorageFull] {
        for sync in 0.. {
            let files = FaultFiles::new();
            let error = runtime.block_on(async {
                let (journal, mut writer) = filled(&files, keeping(5), 40).await;
                let plan = Plan { fail_sync: Some(sync), fail_as: Some(kind), ..Plan::default() };
                files.plan(plan);
                let error = journal.trim(&name(), Some(&[]), 0).await.err()?;
                let refused = append(writer.as_mut(), 41).await;
                // A control record that found no room is replaced by the next one.
                let full = matches!(error, JournalError::DiskFull { .. });
                assert_eq!(full, refused.is_ok(), "{error}: {refused:?}");
                if let Err(refused) = refused {
                    assert!(matches!(refused, AppendError::Poisoned { .. }), "{refused}");
                    assert!(refused.to_string().contains(DIR), "{refused}");
                }
                let (mut writer, head) = open(journal.as_ref(), 6).await.unwrap();
                for height in head + 1..head + 20 {
                    append(writer.as_mut(), height).await.unwrap();
                }
                for disk in (0..4).map(|seed| files.reboot(seed)).chain([files.kill()]) {
                    let other = start_with(&disk, keeping(5));
                    check_whole(other.as_ref(), head + 19).await;
                    other.close().await;
                }
                journal.trim(&name(), Some(&[]), 0).await.unwrap();
                check_whole(journal.as_ref(), head + 19).await;
                assert_eq!(files.repeated_syncs(), 0);
                journal.close().await;
                Some(error)
            });
            let Some(error) = error else { break };
            failed.push(error.to_string());
        }
    }
    let of_the_directory = format!("sync {DIR}/chain: planned failure of a sync");
    assert_eq!(failed.iter().filter(|error| **error == of_the_directory).count(), 2, "{failed:?}");
    assert!(failed.len() > 3, "{failed:?}");
}

#[test]
fn a_file_that_failed_is_not_used_again() {
    let files = FaultFiles::new();
    runtime().block_on(async {
        let (journal, mut writer) = filled(&files, keeping(5), 3).await;
        files.plan(Plan { fail_sync: Some(0), ..Plan::default() });
        let error = append(writer.as_mut(), 4).await.unwrap_err();
        assert!(matches!(error, AppendError::Poisoned { .. }), "{error}");
        let failed = segments(&files);
        for epoch in 6..8 {
            let (mut writer, head) = open(journal.as_ref(), epoch).await.unwrap();
            for height in head + 1..head + 30 {
                append(writer.as_mut(), height).await.unwrap();
            }
            journal.trim(&name(), Some(&[]), 0).await.unwrap();
            let head = head_of(journal.as_ref()).await;
            let other = start_with(&files.reboot(epoch), keeping(5));
            check_whole(other.as_ref(), head).await;
            other.close().await;
        }
        assert!(failed.iter().all(|path| files.content(path).is_none()), "it was retired");
        assert_eq!(files.repeated_syncs(), 0);
        journal.close().await;
    });
}

/// A file may have failed in a process before, which this one was not told.
#[test]
fn a_file_of_an_earlier_process_is_not_recycled() {
    runtime().block_on(async {
        let files = FaultFiles::new();
        let (journal, _writer) = filled(&files, keeping(5), 40).await;
        journal.close().await;
        let disk = files.kill();
        let journal = start_with(&disk, keeping(5));
        let before = segments(&disk).len();
        let trimmed = journal.trim(&name(), Some(&[]), 0).await.unwrap();
        assert_eq!(segments(&disk).len() as u64, before as u64 - trimmed.segments);
        assert!(trimmed.segments > 2);
        assert!(disk.content(&Path::new(DIR).join("chain/spare")).is_none());
        check_whole(journal.as_ref(), 40).await;
        journal.close().await;
    });
}
