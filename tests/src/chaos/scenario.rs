//! Faults of more than one step. Each says in words what it saw that must not happen.

mod disk;
mod fencing;
mod time;

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{
    inject::{restart_etcd, signal},
    packets,
    site::{LEASE, Roles, Site},
};
use crate::{etcd_cluster::Key, eventually, proxy::Mode};

/// Which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    EtcdDiskStalls,
    SyncFails,
    DiskFull,
    OwnersKeyDeleted,
    StandbysKeyDeleted,
    FrozenStandbysTurn,
    EtcdRestarted,
    EtcdRestored,
    SameEpoch,
    LateOpen,
    LostOpen,
    RogueWriters,
    LostAcks,
    LateKeepAlive,
    ClockStepped,
    CutAndFrozen,
    RecycledSegment,
}

/// Plays it to its end, so that only the recovery is left to wait for.
pub(crate) async fn play(site: &mut Site, scenario: Scenario, roles: Roles) -> Vec<String> {
    match scenario {
        Scenario::EtcdDiskStalls => disk::etcd_stalls(site).await,
        Scenario::SyncFails => disk::sync_fails(site).await,
        Scenario::DiskFull => disk::full(site).await,
        Scenario::RecycledSegment => disk::recycled_segment(site).await,
        Scenario::OwnersKeyDeleted => owners_key_deleted(site, roles).await,
        Scenario::StandbysKeyDeleted => standbys_key_deleted(site, roles).await,
        Scenario::FrozenStandbysTurn => frozen_standbys_turn(site, roles).await,
        Scenario::EtcdRestarted => {
            restart_etcd(site).await;
            Vec::new()
        }
        Scenario::EtcdRestored => etcd_restored(site, roles).await,
        Scenario::SameEpoch => fencing::same_epoch(site, roles).await,
        Scenario::LateOpen => fencing::late_open(site, roles).await,
        Scenario::LostOpen => packets::late_open(site, roles).await,
        Scenario::RogueWriters => fencing::rogue_writers(site).await,
        Scenario::LostAcks => lost_acks(site).await,
        Scenario::LateKeepAlive => time::late_keep_alive(site, roles).await,
        Scenario::ClockStepped => time::clock_stepped(site).await,
        Scenario::CutAndFrozen => time::cut_and_frozen(site, roles).await,
    }
}

/// The keys of the ingestor's queue in etcd, owner first.
pub(crate) fn queue(site: &Site) -> Vec<Key> {
    site.etcd.keys("/sluice/v1/lock/ingestor%2Fapp-1/")
}

/// The owner's key is deleted by hand. It must say within a second that it owns no more.
async fn owners_key_deleted(site: &Site, roles: Roles) -> Vec<String> {
    let keys = queue(site);
    let deleted = Instant::now();
    site.etcd.delete(&keys[0].key);
    eventually("the owner whose key was deleted notices", || async {
        let claim = site.claim(roles.owner).await?;
        (claim.epoch != roles.epoch).then_some(())
    })
    .await;
    let took = deleted.elapsed();
    let late = took > Duration::from_secs(1);
    late.then(|| format!("the owner noticed the deletion of its key only after {took:?}"))
        .into_iter()
        .collect()
}

/// The key of the next in the queue is deleted by hand, then the owner dies while the last in the
/// queue is frozen. Whoever owns next must not do so by the key that is gone.
async fn standbys_key_deleted(site: &mut Site, roles: Roles) -> Vec<String> {
    let keys = queue(site);
    let frozen = site.producers[roles.waiter].pid();
    signal(frozen, "STOP");
    site.etcd.delete(&keys[1].key);
    site.producers[roles.owner].kill();
    site.recorder.progresses(5, "with a producer whose key was deleted").await;
    signal(frozen, "CONT");
    site.producers[roles.owner].start(&[]).await;
    let opened = super::run::epochs(site).await;
    let phantom = opened.iter().find(|epoch| revision(**epoch) == keys[1].created);
    phantom
        .map(|epoch| format!("epoch {epoch} opened the journal, but its key had been deleted"))
        .into_iter()
        .collect()
}

const fn revision(epoch: u64) -> u64 {
    sluice_model::Epoch::from_u64(epoch).revision()
}

/// The next in the queue is frozen beyond its lease; then the owner leaves. The frozen one must not
/// own when it wakes, and the one behind it must.
async fn frozen_standbys_turn(site: &mut Site, roles: Roles) -> Vec<String> {
    let keys = queue(site);
    let frozen = site.producers[roles.standby].pid();
    signal(frozen, "STOP");
    sleep(LEASE * 2).await;
    site.producers[roles.owner].stop().await;
    site.recorder.progresses(5, "with the last in the queue").await;
    signal(frozen, "CONT");
    site.producers[roles.owner].start(&[]).await;
    let opened = super::run::epochs(site).await;
    let phantom = opened.iter().find(|epoch| revision(**epoch) == keys[1].created);
    phantom
        .map(|epoch| format!("epoch {epoch} opened the journal, but its lease had ended"))
        .into_iter()
        .collect()
}

/// The store goes back in time by several owners.
async fn etcd_restored(site: &mut Site, roles: Roles) -> Vec<String> {
    let snapshot = site.scratch("etcd.snapshot");
    std::fs::remove_file(&snapshot).ok();
    site.etcd.snapshot(&snapshot);
    let mut owner = roles.owner;
    for _ in 0..2 {
        site.producers[owner].stop().await;
        site.recorder.progresses(20, "after a hand-over").await;
        site.producers[owner].start(&[]).await;
        owner = site.roles().await.owner;
    }
    site.etcd.restore(&snapshot).await;
    Vec::new()
}

/// Blocks are appended, but the program is not told: it must be able to send them again.
async fn lost_acks(site: &Site) -> Vec<String> {
    let before = site.recorder.history().duplicates;
    // The program believes the head now and then.
    for round in 0..16 {
        if round >= 4 && site.recorder.history().duplicates > before {
            break;
        }
        let owner = site.roles().await.owner;
        site.capture[owner].set(Mode::NO_ANSWERS);
        eventually("blocks are appended that the program is not told of", || async {
            let height = site.journal_status().await?.head?.height;
            (height >= site.recorder.last() + 5).then_some(())
        })
        .await;
        site.capture[owner].cut();
        site.capture[owner].set(Mode::PASS);
        site.recorder.progresses(30, "after lost acknowledgements").await;
    }
    let again = site.recorder.history().duplicates - before;
    (again == 0).then(|| "no block was sent again".to_owned()).into_iter().collect()
}
