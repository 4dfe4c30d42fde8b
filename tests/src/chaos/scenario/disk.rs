//! Disks that stall, fail, are full, or hold what was written before.

use std::{fs, path::PathBuf, time::Duration};

use tokio::time::sleep;

use super::super::site::{LEASE, Site};
use crate::{eventually, skipped, syscalls::FailingCalls};

/// The disk of etcd's leader takes two seconds for each sync.
pub(super) async fn etcd_stalls(site: &Site) -> Vec<String> {
    let leader = site.etcd.leader().await;
    let pid = site.etcd.pid(leader);
    let stalled =
        FailingCalls::inject(pid, "fdatasync,fsync", "delay_enter=2s", site.dir.path()).await;
    match stalled {
        Ok(stalled) => {
            sleep(LEASE * 3).await;
            stalled.detach();
        }
        Err(why) => skipped("a stalled disk of etcd", &why),
    }
    Vec::new()
}

/// Every sync of the router fails.
pub(super) async fn sync_fails(site: &Site) -> Vec<String> {
    let pid = site.router.pid();
    match FailingCalls::attach(pid, "fdatasync,fsync", "EIO", site.dir.path()).await {
        Ok(failing) => {
            stands_still(site).await;
            failing.detach();
        }
        Err(why) => skipped("a sync that fails", &why),
    }
    Vec::new()
}

/// The journal's disk is full.
pub(super) async fn full(site: &Site) -> Vec<String> {
    // Without it the reason was told at the beginning.
    let Some(disk) = &site.disk else { return Vec::new() };
    disk.fill("filler", u64::MAX);
    stands_still(site).await;
    disk.remove("filler");
    Vec::new()
}

/// Waits until nothing was acknowledged for a second.
async fn stands_still(site: &Site) {
    eventually("nothing is acknowledged any more", || async {
        let before = site.recorder.last();
        sleep(Duration::from_secs(1)).await;
        (site.recorder.last() == before).then_some(())
    })
    .await;
}

/// The router is killed while it writes to a file that was a segment before, whose old records lie
/// behind the new ones.
pub(super) async fn recycled_segment(site: &mut Site) -> Vec<String> {
    eventually("a segment is used again", || {
        let (newest, spare) = files(site);
        // Only where there is no spare file does a retired segment become one.
        if spare.as_ref().is_some_and(|spare| !holds_records(spare)) {
            fs::remove_file(spare.unwrap()).ok();
        }
        std::future::ready(newest.filter(holds_old_records).map(|_| ()))
    })
    .await;
    site.router.kill_and_restart().await;
    let status = eventually("the router answers", || site.journal_status()).await;
    let unreadable = status.quarantined_blocks;
    (unreadable > 0)
        .then(|| format!("{unreadable} stretches of the journal are unreadable to the router"))
        .into_iter()
        .collect()
}

/// The newest segment, and the spare file.
fn files(site: &Site) -> (Option<PathBuf>, Option<PathBuf>) {
    let journals = fs::read_dir(&site.journal).into_iter().flatten().flatten();
    let dir = journals.map(|entry| entry.path()).find(|path| path.is_dir());
    let Some(dir) = dir else { return (None, None) };
    let names = fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let segments = names.filter(|path| path.extension().is_some_and(|end| end == "seg"));
    let spare = dir.join("spare");
    (segments.max(), spare.exists().then_some(spare))
}

/// Where records begin, and the unit of their places.
const RECORDS: usize = 4096;
const UNIT: usize = 64;
const MAGIC: &[u8] = b"SLRC";

fn record_at(bytes: &[u8], at: usize) -> bool {
    bytes.get(at..at + MAGIC.len()) == Some(MAGIC)
}

fn holds_records(file: &PathBuf) -> bool {
    fs::read(file).is_ok_and(|bytes| record_at(&bytes, RECORDS))
}

/// True if records of another incarnation than that of the first one follow somewhere.
fn holds_old_records(file: &PathBuf) -> bool {
    let Ok(bytes) = fs::read(file) else { return false };
    let incarnation = |at: usize| bytes.get(at + 32..at + 40);
    let first = incarnation(RECORDS);
    let mut places = (RECORDS..bytes.len()).step_by(UNIT).filter(|at| record_at(&bytes, *at));
    places.next() == Some(RECORDS) && places.any(|at| incarnation(at) != first)
}
