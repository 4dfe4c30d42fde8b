//! Faults of the network itself: packets are lost between hosts. Nobody is told, connections stay,
//! and what was sent meanwhile arrives afterwards.

use std::{
    net::SocketAddrV4,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{task::JoinHandle, time::sleep};

use super::{
    hosts::{COORDINATORS, DOOR, ETCD, PRODUCERS, PROGRAM, ROUTER},
    inject::signal,
    scenario::queue,
    site::{LEASE, Roles, Site, claim_of},
};
use crate::{
    eventually,
    network::{Answer, Network, Way, between, towards},
    process::Process,
};

/// Which packets are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Between the owner and both coordinators.
    Coordinators,
    /// From both coordinators to the owner.
    CoordinatorsAnswers,
    /// Between the owner and the router.
    Router,
    /// Between the owner and everybody.
    Owner,
    /// Between the owner's coordinator and everybody.
    Coordinator,
    /// From the owner's coordinator to etcd.
    ToEtcd,
    /// From etcd to the owner's coordinator.
    FromEtcd,
    /// Between etcd's leader and the other members; clients reach all of them.
    EtcdLeader,
    /// Between a follower and the other members.
    EtcdFollower,
    /// Between all members.
    EtcdMembers,
}

/// How long etcd has no quorum where no member hears of another.
pub(crate) const ALONE: Duration = LEASE.saturating_mul(2);
/// How long etcd's leader may lead without having heard of the others.
const DEPOSED: Duration = Duration::from_secs(2);
/// An open is at least so many bytes; what keeps a connection alive by itself is less.
const OPEN: u64 = 60;
/// How long the router may take for an open that has arrived.
const JUDGED: Duration = Duration::from_secs(1);

/// Injects a fault, heals it. What must not have happened is returned in words.
pub(crate) async fn lose(site: &Site, loss: Loss, roles: Roles) -> Vec<String> {
    let watch = Watch::start(site);
    let mut wrong = cut(site, loss, roles).await;
    wrong.extend(watch.end());
    wrong
}

/// The network of a site that has one.
fn network(site: &Site) -> &Network {
    site.network.as_ref().expect("every process has a host of its own")
}

async fn cut(site: &Site, loss: Loss, roles: Roles) -> Vec<String> {
    let owner = PRODUCERS[roles.owner];
    let leader = site.etcd.leader().await;
    let everybody = network(site).everybody();
    let (ways, duration) = match loss {
        Loss::Coordinators => (between(&[owner], &COORDINATORS), LEASE * 2),
        Loss::CoordinatorsAnswers => (towards(&COORDINATORS, &[owner]), LEASE * 2),
        Loss::Router => (between(&[owner], &[ROUTER]), LEASE * 2),
        Loss::Owner => (between(&[owner], &everybody), LEASE * 3),
        Loss::Coordinator => (between(&[coordinator(site, owner)], &everybody), LEASE * 3),
        Loss::ToEtcd => (towards(&[coordinator(site, owner)], &ETCD), LEASE * 2),
        Loss::FromEtcd => (towards(&ETCD, &[coordinator(site, owner)]), LEASE * 2),
        Loss::EtcdLeader => (between(&[ETCD[leader]], &ETCD), LEASE * 3),
        Loss::EtcdFollower => (between(&[ETCD[(leader + 1) % 3]], &ETCD), LEASE * 2),
        Loss::EtcdMembers => (towards(&ETCD, &ETCD), ALONE),
    };
    let began = Instant::now();
    let cut = network(site).cut(ways.clone());
    cut.prove(DOOR).await;
    let mut wrong = Vec::new();
    if loss == Loss::EtcdLeader {
        sleep(DEPOSED).await;
        wrong = site.etcd.does_alone(leader);
    }
    sleep(duration.saturating_sub(began.elapsed())).await;
    if loss != Loss::EtcdMembers {
        // Another producer, coordinator or member is there.
        eventually("capture goes on while packets are lost", || {
            let after = site.recorder.progressed_since(began + LEASE);
            std::future::ready(after.then_some(()))
        })
        .await;
    }
    drop(cut);
    passes(site, &ways).await;
    site.etcd.healthy().await;
    wrong
}

/// Packets pass again; otherwise what follows would prove nothing.
async fn passes(site: &Site, ways: &[Way]) {
    // Nobody listens where the program is.
    let ways: Vec<Way> = ways.iter().copied().filter(|way| way.to != PROGRAM).collect();
    eventually("connections come about again", || async {
        let answers = network(site).ask(&ways, DOOR).await;
        answers.iter().all(|answer| *answer == Answer::Connected).then_some(())
    })
    .await;
}

fn door(site: &Site, host: usize) -> SocketAddrV4 {
    SocketAddrV4::new(network(site).host(host).address(), DOOR)
}

/// The host of the coordinator that somebody is connected to.
fn coordinator(site: &Site, host: usize) -> usize {
    let connected = |at: &usize| network(site).host(host).is_connected_to(door(site, *at));
    COORDINATORS.into_iter().find(connected).expect("the owner has a coordinator")
}

/// The next owner's open is lost on its way, and it is stopped; another owns and opens. Then the
/// network sends the open again, and it arrives.
pub(crate) async fn late_open(site: &mut Site, roles: Roles) -> Vec<String> {
    let Roles { owner, standby, .. } = connected_standby(site, roles).await;
    let (late, pid) = (PRODUCERS[standby], site.producers[standby].pid());
    let router = door(site, ROUTER);
    let ways = towards(&[late], &[ROUTER]);
    let cut = network(site).cut(ways.clone());
    cut.prove(DOOR).await;
    site.producers[owner].signal("TERM");
    eventually("the next owner's open is lost", || {
        let lost = network(site).host(late).unanswered(router);
        std::future::ready(lost.filter(|lost| *lost >= OPEN))
    })
    .await;
    signal(pid, "STOP");
    site.recorder.progresses(5, "with the third producer").await;
    let before = eventually("the router answers", || site.journal_status()).await;
    drop(cut);
    passes(site, &ways).await;
    eventually("the late open arrives", || {
        let lost = network(site).host(late).unanswered(router);
        std::future::ready(lost.filter(|lost| *lost < OPEN))
    })
    .await;
    sleep(JUDGED).await;
    let after = eventually("the router answers", || site.journal_status()).await;
    signal(pid, "CONT");
    assert_eq!(site.producers[owner].ended().await.code(), Some(0));
    site.producers[owner].start(&[]).await;
    (after.fence_epoch < before.fence_epoch)
        .then(|| format!("the fence fell from {} to {}", before.fence_epoch, after.fence_epoch))
        .into_iter()
        .collect()
}

/// Waits until the next in the queue has a connection to the router: only what goes over one is
/// sent again by its host while it is stopped. Who has owned has one.
async fn connected_standby(site: &Site, mut roles: Roles) -> Roles {
    let router = door(site, ROUTER);
    while !network(site).host(PRODUCERS[roles.standby]).is_connected_to(router) {
        site.etcd.delete(&queue(site)[0].key);
        let before = roles.epoch;
        roles = eventually("another producer owns", || async {
            Some(site.roles().await).filter(|roles| roles.epoch > before)
        })
        .await;
    }
    roles
}

/// Looks all the time whether two producers own at once.
struct Watch {
    task: JoinHandle<()>,
    seen: Arc<Mutex<Option<String>>>,
}

impl Watch {
    fn start(site: &Site) -> Self {
        let urls: Vec<String> = site.producers.iter().map(Process::url).collect();
        let seen = Arc::<Mutex<Option<String>>>::default();
        let told = Arc::clone(&seen);
        let task = tokio::spawn(async move { *told.lock() = Some(two_owners(&urls).await) });
        Self { task, seen }
    }

    /// What it saw, if it saw it.
    fn end(self) -> Option<String> {
        self.task.abort();
        self.seen.lock().take()
    }
}

/// Asks one after the other. Who owns now as it did the last time owned in between too, so nobody
/// else may have said so since.
async fn two_owners(urls: &[String]) -> String {
    let mut said = vec![0; urls.len()];
    loop {
        for (at, url) in urls.iter().enumerate() {
            let epoch = claim_of(url).await.map_or(0, |claim| claim.epoch);
            let other = said.iter().enumerate().find(|(other, epoch)| *other != at && **epoch > 0);
            if let Some((other, theirs)) = other.filter(|_| epoch > 0 && said[at] == epoch) {
                return format!(
                    "producer {at} owned under epoch {epoch} while producer {other} owned under \
                     epoch {theirs}"
                );
            }
            said[at] = epoch;
        }
        sleep(Duration::from_millis(20)).await;
    }
}
