//! Faults of one step: what is done, when it is undone.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{
    fault::{Cut, Kind, Link, Target},
    packets, scenario,
    site::{LEASE, Roles, Site},
};
use crate::{eventually, proxy::Mode};

/// What a delayed link adds in each direction.
const DELAY: Duration = Duration::from_millis(75);
/// Blocks after which capture counts as going on.
const GOING_ON: u64 = 5;

/// Injects a fault, heals it. What must not have happened is returned in words.
pub(crate) async fn inject(site: &mut Site, kind: Kind) -> Vec<String> {
    let roles = site.roles().await;
    match kind {
        Kind::Kill(target) => kill(site, target, roles).await,
        Kind::Freeze(target) => freeze(site, target, roles).await,
        Kind::HandOver => hand_over(site, roles).await,
        Kind::Partition(link, cut) => partition(site, link, cut, roles).await,
        Kind::Lose(loss) => return packets::lose(site, loss, roles).await,
        Kind::Scenario(scenario) => return scenario::play(site, scenario, roles).await,
    }
    Vec::new()
}

async fn kill(site: &mut Site, target: Target, roles: Roles) {
    let leader = site.etcd.leader().await;
    match target {
        Target::Owner | Target::Standby | Target::Waiter => {
            let at = producer(target, roles);
            site.producers[at].kill();
            site.recorder.progresses(GOING_ON, "without the killed producer").await;
            site.producers[at].start(&[]).await;
        }
        Target::Coordinator => {
            let at = coordinator_of(site, roles.owner);
            site.coordinators[at].kill();
            site.recorder.progresses(GOING_ON, "with the other coordinator").await;
            site.coordinators[at].start(&[]).await;
            // Back to the coordinator of their own, or one link would be everybody's.
            for link in site.to_coordinator.iter().filter(|link| link.in_use() > 0) {
                link.cut();
            }
        }
        Target::Router => site.router.kill_and_restart().await,
        Target::EtcdLeader => {
            site.etcd.kill(leader);
            sleep(LEASE).await;
            site.recorder.progresses(GOING_ON, "with the other etcd members").await;
            site.etcd.spawn(leader);
        }
        Target::EtcdMajority => {
            let other = (leader + 1) % 3;
            site.etcd.kill(leader);
            site.etcd.kill(other);
            sleep(LEASE * 2).await;
            site.etcd.spawn(leader);
            site.etcd.spawn(other);
        }
        Target::OwnerAndEtcdLeader => {
            site.etcd.kill(leader);
            site.producers[roles.owner].kill();
            site.recorder.progresses(GOING_ON, "without owner and etcd leader").await;
            site.etcd.spawn(leader);
            site.producers[roles.owner].start(&[]).await;
        }
        Target::OwnerAndAllOfEtcd => {
            site.producers[roles.owner].kill();
            restart_etcd(site).await;
            site.recorder.progresses(GOING_ON, "after etcd's restart").await;
            site.producers[roles.owner].start(&[]).await;
        }
    }
    site.etcd.healthy().await;
}

/// Every member is killed and started: leases begin anew.
pub(crate) async fn restart_etcd(site: &mut Site) {
    for at in 0..3 {
        site.etcd.kill(at);
    }
    for at in 0..3 {
        site.etcd.spawn(at);
    }
    site.etcd.healthy().await;
}

async fn freeze(site: &Site, target: Target, roles: Roles) {
    let pids = match target {
        Target::Owner | Target::Standby | Target::Waiter => {
            vec![site.producers[producer(target, roles)].pid()]
        }
        Target::Coordinator => {
            vec![site.coordinators[coordinator_of(site, roles.owner)].pid()]
        }
        Target::Router => vec![site.router.pid()],
        _ => {
            let leader = site.etcd.leader().await;
            let mut members = vec![leader];
            if target == Target::EtcdMajority {
                members.push((leader + 1) % 3);
            }
            members.into_iter().map(|at| site.etcd.pid(at)).collect()
        }
    };
    for pid in &pids {
        signal(*pid, "STOP");
    }
    sleep(LEASE * 3).await;
    for pid in &pids {
        signal(*pid, "CONT");
    }
    site.etcd.healthy().await;
}

async fn hand_over(site: &mut Site, roles: Roles) {
    let stopped = site.producers[roles.owner].stop().await;
    assert_eq!(stopped.code(), Some(0), "{}", site.producers[roles.owner].log());
    site.recorder.progresses(GOING_ON, "after the hand-over").await;
    site.producers[roles.owner].start(&[]).await;
}

async fn partition(site: &Site, link: Link, cut: Cut, roles: Roles) {
    let mode = match cut {
        Cut::Drop => Mode::DROP,
        Cut::Reject => Mode::REJECT,
        Cut::Delay => Mode::delay(DELAY),
        Cut::NoRequests => Mode::NO_REQUESTS,
        Cut::NoAnswers => Mode::NO_ANSWERS,
    };
    let proxies = match link {
        Link::Coordinator => vec![&site.to_coordinator[roles.owner]],
        Link::Router => vec![&site.to_router[roles.owner]],
        Link::Etcd => site.to_etcd[coordinator_of(site, roles.owner)].iter().collect(),
    };
    let began = Instant::now();
    for proxy in &proxies {
        proxy.set(mode);
    }
    sleep(LEASE * 2).await;
    if link != Link::Router {
        // Another producer, or another coordinator, is there.
        eventually("capture goes on during the partition", || {
            let after = site.recorder.progressed_since(began + LEASE);
            std::future::ready(after.then_some(()))
        })
        .await;
    }
    for proxy in &proxies {
        proxy.set(Mode::PASS);
    }
}

/// Which coordinator a producer is connected to.
pub(crate) fn coordinator_of(site: &Site, producer: usize) -> usize {
    // Each producer's list begins with another one.
    (site.to_coordinator[producer].in_use() + producer) % site.coordinators.len()
}

const fn producer(target: Target, roles: Roles) -> usize {
    match target {
        Target::Standby => roles.standby,
        Target::Waiter => roles.waiter,
        _ => roles.owner,
    }
}

/// Sends a signal to a process of ours.
pub(crate) fn signal(pid: u32, signal: &str) {
    let pid = pid.to_string();
    let sent = std::process::Command::new("kill").args([&format!("-{signal}"), &pid]).status();
    assert!(sent.unwrap().success(), "kill -{signal} {pid}");
}
