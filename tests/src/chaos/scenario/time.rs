//! Clocks, late answers, and owners that sleep.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::super::{
    inject::signal,
    site::{LEASE, Roles, Site, claim_of},
};
use crate::{
    eventually,
    proxy::{Lane, Mode},
};

/// How late keepalives are answered. Below a third of the lease, after which they are given up.
const LATE: Duration = Duration::from_millis(750);
/// What an owner takes off its lease.
const MARGIN: Duration = Duration::from_secs(1);
/// How late it may notice its deadline.
const NOTICE: Duration = Duration::from_millis(450);
const HOUR: i64 = 3600;

/// A keepalive is answered late and no other reaches the coordinator. The owner's validity counts
/// from when it sent the call: it must give up in time, although the answer came later.
pub(super) async fn late_keep_alive(site: &Site, roles: Roles) -> Vec<String> {
    // Without blocks there are no commits: what is left on the link are keepalives.
    let last = site.recorder.pause().await;
    eventually("the commit has caught up", || async {
        let claim = site.claim(roles.owner).await?;
        (claim.committed >= last).then_some(())
    })
    .await;
    let link = &site.to_coordinator[roles.owner];
    link.set(Mode { answers: Lane::Delayed(LATE), ..Mode::PASS });
    // The first may be half way; the second is sent under these conditions.
    link.next_call().await;
    link.next_call().await;
    link.set(Mode { answers: Lane::Delayed(LATE), ..Mode::NO_REQUESTS });
    let cut = Instant::now();
    let url = site.producers[roles.owner].url();
    let (mut looked, mut pause) = (cut, Duration::ZERO);
    loop {
        let claim = claim_of(&url).await;
        pause = pause.max(looked.elapsed());
        looked = Instant::now();
        if claim.is_some_and(|claim| claim.epoch != roles.epoch) || cut.elapsed() > LEASE * 2 {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    let (took, allowed) = (cut.elapsed(), LEASE - MARGIN + NOTICE + pause);
    site.recorder.go_on();
    site.recorder.progresses(5, "with another owner").await;
    link.set(Mode::PASS);
    (took > allowed)
        .then(|| {
            format!(
                "the owner believed in its lease {took:?} after its last keepalive left; \
                 {allowed:?} are allowed"
            )
        })
        .into_iter()
        .collect()
}

/// The wall clocks of all processes but etcd's jump an hour ahead, then two back, then are right.
pub(super) async fn clock_stepped(site: &Site) -> Vec<String> {
    let Some(clock) = &site.clock else { return Vec::new() };
    for offset in [HOUR, -HOUR, 0] {
        clock.step(offset);
        let began = Instant::now();
        sleep(LEASE).await;
        site.recorder.progresses(5, "after the wall clock's step").await;
        assert!(began.elapsed() < LEASE * 20, "a step of the wall clock stops capture");
    }
    let step = super::super::run::judge(site).await.clock_step;
    (step < HOUR as u64)
        .then(|| format!("the wall clock was not stepped: {step} s"))
        .into_iter()
        .collect()
}

/// The owner is cut off from everybody and frozen; when it wakes, another owns, and everything it
/// had sent arrives.
pub(super) async fn cut_and_frozen(site: &Site, roles: Roles) -> Vec<String> {
    let links = [&site.to_router[roles.owner], &site.to_coordinator[roles.owner]];
    for link in links {
        link.set(Mode::NO_REQUESTS);
    }
    eventually("blocks are under way", || {
        std::future::ready((site.to_router[roles.owner].held() > 4000).then_some(()))
    })
    .await;
    let pid = site.producers[roles.owner].pid();
    signal(pid, "STOP");
    let frozen = Instant::now();
    eventually("another producer goes on", || {
        let after = site.recorder.progressed_since(frozen + Duration::from_millis(500));
        std::future::ready(after.then_some(()))
    })
    .await;
    signal(pid, "CONT");
    for link in links {
        link.set(Mode::PASS);
    }
    Vec::new()
}
