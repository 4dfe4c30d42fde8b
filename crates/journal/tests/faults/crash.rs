//! The machine stops, or the process is killed, in every operation: nothing acknowledged is lost.

use std::path::Path;

use sluice_journal::{
    Journal, JournalError,
    conformance::name,
    files::fault::{FaultFiles, Plan},
};

use super::support::{
    DIR, append, check_whole, head_of, keeping, open, runtime, segments, start, start_with,
};

/// Opens, appends, reopens, appends; gives the last acknowledged height. Ends at the first error.
pub(crate) async fn work(files: &FaultFiles, acked: &mut u64) -> Result<(), String> {
    for epoch in 1..=2 {
        let journal = start(files);
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
pub(crate) async fn go_on(files: &FaultFiles, acked: u64) {
    let journal = start(files);
    let (mut writer, head) = open(journal.as_ref(), 100).await.unwrap();
    assert!(head >= acked, "acknowledged up to {acked}, found {head}");
    for height in head.max(1)..head + 4 {
        append(writer.as_mut(), height).await.unwrap();
    }
    assert_eq!(check_whole(journal.as_ref(), acked).await, 1);
    journal.close().await;
}

/// How many operations the work has.
fn operations() -> u64 {
    let files = FaultFiles::new();
    runtime().block_on(work(&files, &mut 0)).unwrap();
    let operations = files.operations();
    assert!(operations > 40, "{operations}");
    operations
}

#[test]
fn a_crash_at_every_operation_loses_nothing() {
    let runtime = runtime();
    for operation in 0..operations() {
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

/// After whatever happened to the disk nothing is lost: not what was acknowledged or shown, and
/// not the fence.
pub(crate) async fn stays(disk: &FaultFiles, shown: u64, fence: u64) {
    for seed in 0..3 {
        let journal = start(&disk.reboot(seed));
        check_whole(journal.as_ref(), shown).await;
        if let Some(epoch) = fence.checked_sub(1) {
            let error = open(journal.as_ref(), epoch).await.unwrap_err();
            assert!(matches!(error, JournalError::Fenced { .. }), "{error}");
        }
        journal.close().await;
    }
}

/// The process that comes after a killed one is shown bytes and names that only the system's
/// memory has. What it relies on must survive the loss of power.
#[test]
fn a_kill_and_then_a_power_loss_lose_nothing() {
    let runtime = runtime();
    for operation in 0..operations() {
        let files = FaultFiles::new();
        files.plan(Plan { crash_at: Some(operation), ..Plan::default() });
        let mut acked = 0;
        runtime.block_on(async {
            work(&files, &mut acked).await.ok();
            let disk = files.kill();
            let journal = start(&disk);
            if let Ok(status) = journal.status(&name()).await {
                let shown = status.head.map_or(0, |head| head.height);
                assert!(shown >= acked, "acknowledged up to {acked}, found {shown}");
                stays(&disk, shown, status.fence.as_u64()).await;
            }
            let (mut writer, head) = open(journal.as_ref(), 100).await.unwrap();
            let grown = head + operation % 4;
            for height in head + 1..=grown {
                append(writer.as_mut(), height).await.unwrap();
            }
            stays(&disk, grown, 100).await;
            journal.close().await;
        });
    }
}

#[test]
fn a_full_disk_can_be_recovered_and_fenced() {
    let runtime = runtime();
    for operation in (0..operations()).step_by(3) {
        let files = FaultFiles::new();
        files.plan(Plan { crash_at: Some(operation), ..Plan::default() });
        let mut acked = 0;
        runtime.block_on(async {
            work(&files, &mut acked).await.ok();
            let disk = files.kill();
            disk.plan(Plan { capacity: Some(disk.used()), ..Plan::default() });
            let journal = start(&disk);
            let Ok(status) = journal.status(&name()).await else { return };
            let shown = status.head.map_or(0, |head| head.height);
            assert!(shown >= acked);
            // Without a segment, or with a bad end, there is nothing to write the open to.
            let opened = open(journal.as_ref(), 100).await;
            assert!(matches!(&opened, Ok(_) | Err(JournalError::DiskFull { .. })), "{opened:?}");
            stays(&disk, shown, 100).await;
            journal.close().await;
        });
    }
}

#[test]
fn recycled_segments_do_not_bring_old_records_back() {
    let runtime = runtime();
    for seed in 0..10 {
        let files = FaultFiles::new();
        runtime.block_on(async {
            let journal = start_with(&files, keeping(2));
            let (mut writer, _) = open(journal.as_ref(), 1).await.unwrap();
            let mut height = 1;
            for _ in 0..6 {
                for _ in 0..9 + seed {
                    append(writer.as_mut(), height).await.unwrap();
                    height += 1;
                }
                journal.trim(&name(), Some(&[]), 0).await.unwrap();
                let disk = files.reboot(seed);
                let other = start_with(&disk, keeping(2));
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

/// Files that were being prepared, and copies of what was cut, may hold anything.
#[test]
fn leftovers_do_not_matter() {
    runtime().block_on(async {
        let files = FaultFiles::new();
        work(&files, &mut 0).await.unwrap();
        let old = segments(&files);
        for (number, content) in [
            Vec::new(),
            vec![0xff; 100],
            vec![0x5a; 200_000],
            files.content(&old[0]).unwrap(),
            files.content(old.last().unwrap()).unwrap(),
        ]
        .into_iter()
        .enumerate()
        {
            let disk = files.kill();
            for name in
                ["spare", "spare.tmp", "segment.tmp", "control.tmp", "00000001-000000005000.cut"]
            {
                disk.put(&Path::new(DIR).join("chain").join(name), content.clone());
            }
            let journal = start(&disk);
            let head = head_of(journal.as_ref()).await;
            let (mut writer, _) = open(journal.as_ref(), 7).await.unwrap();
            for height in head + 1..head + 20 {
                append(writer.as_mut(), height).await.unwrap();
            }
            assert!(segments(&disk).len() > old.len(), "with leftovers number {number}");
            stays(&disk, head + 19, 7).await;
            check_whole(journal.as_ref(), head + 19).await;
            journal.close().await;
        }
    });
}
