//! Writers that come too late.

use std::time::{Duration, Instant};

use sluice_model::Epoch;
use sluice_proto::v1 as pb;
use tokio::time::sleep;

use super::super::{
    rogue::{Rogue, Said},
    site::{LEASE, Roles, Site},
};
use crate::{eventually, proxy::Mode};

/// Longer than a proxy leaves held requests to the server.
const ARRIVED: Duration = Duration::from_millis(1500);

/// The owner's connection to the router breaks while frames are under way; it connects again under
/// the same epoch, and only then do the frames arrive.
pub(super) async fn same_epoch(site: &Site, roles: Roles) -> Vec<String> {
    let link = &site.to_router[roles.owner];
    link.set(Mode::NO_REQUESTS);
    eventually("blocks are under way", || std::future::ready((link.held() > 8000).then_some(())))
        .await;
    site.recorder.freeze();
    let before = eventually("the router answers", || site.journal_status()).await;
    link.sever();
    link.set(Mode::PASS);
    let severed = Instant::now();
    let reopened = eventually("the owner opens the journal again", || async {
        let status = site.journal_status().await?;
        let claim = site.claim(roles.owner).await?;
        // The number of the writer tells, unless that is what is wrong.
        let again = status.writer_id > before.writer_id || severed.elapsed() > LEASE;
        (again && claim.state == pb::IngestorState::Active).then_some(status)
    })
    .await;
    link.release();
    sleep(ARRIVED).await;
    let after = eventually("the router answers", || site.journal_status()).await;
    site.recorder.go_on();
    let mut wrong = Vec::new();
    if reopened.writer_id == before.writer_id {
        wrong.push("the journal was opened again, but the writer is the same".to_owned());
    }
    let height = |status: &pb::JournalStatus| status.head.as_ref().map_or(0, |head| head.height);
    if height(&after) > height(&reopened) {
        wrong.push(format!(
            "frames of the writer before were appended: from block {} to {}",
            height(&reopened),
            height(&after)
        ));
    }
    wrong
}

/// A new owner's open is held up on its way, and its sender dies; another owns and opens. Then the
/// open arrives.
pub(super) async fn late_open(site: &mut Site, roles: Roles) -> Vec<String> {
    let Roles { owner, standby, .. } = roles;
    site.to_router[standby].set(Mode::NO_REQUESTS);
    let idle = site.to_router[standby].held();
    site.producers[owner].kill();
    eventually("the next owner's open is under way", || async {
        let claim = site.claim(standby).await?;
        (claim.epoch > roles.epoch && site.to_router[standby].held() > idle + 60).then_some(())
    })
    .await;
    sleep(Duration::from_millis(300)).await;
    site.producers[standby].kill();
    site.recorder.progresses(5, "with the third producer").await;
    let before = eventually("the router answers", || site.journal_status()).await;
    site.to_router[standby].set(Mode::PASS);
    sleep(ARRIVED).await;
    let after = eventually("the router answers", || site.journal_status()).await;
    site.producers[owner].start(&[]).await;
    site.producers[standby].start(&[]).await;
    (after.fence_epoch < before.fence_epoch)
        .then(|| format!("the fence fell from {} to {}", before.fence_epoch, after.fence_epoch))
        .into_iter()
        .collect()
}

/// Writers of our own that break the rules, one after the other. Each must be refused.
pub(super) async fn rogue_writers(site: &Site) -> Vec<String> {
    let mut wrong = Vec::new();
    let status = eventually("the router answers", || site.journal_status()).await;
    let fence = Epoch::from_u64(status.fence_epoch);
    let rogue = Rogue::new(site.router_transport(), &status);
    for epoch in [Epoch::from_u64(fence.as_u64() - 1), Epoch::from_u64(1), Epoch::ZERO] {
        let said = rogue.open(epoch).await.err();
        if said != Some(Said::Fenced) {
            wrong.push(format!("an open of epoch {epoch} below {fence} was answered {said:?}"));
        }
    }
    site.recorder.progresses(5, "beside rogue opens").await;
    site.recorder.pause().await;
    // An open of the same epoch fences the owner; the owner's next open fences it in turn.
    let mut overtaken = match rogue.open(fence).await {
        Ok(writer) => writer,
        Err(said) => return vec![format!("an open of the owner's epoch was answered {said:?}")],
    };
    site.recorder.go_on();
    site.recorder.progresses(5, "after the owner opened again").await;
    site.recorder.pause().await;
    let said = overtaken.append(&rogue.head(site).await, None).await;
    if said != Said::Fenced {
        wrong.push(format!("a block of an overtaken writer was answered {said:?}"));
    }
    wrong.extend(foreign_parent(site, &rogue).await);
    site.recorder.go_on();
    wrong
}

/// A block that builds on other content than the head's, by a writer that nobody has fenced yet.
async fn foreign_parent(site: &Site, rogue: &Rogue) -> Option<String> {
    for _ in 0..20 {
        let status = eventually("the router answers", || site.journal_status()).await;
        let head = rogue.head(site).await;
        // The owner that this fences comes back at once; then it is tried again.
        let opened = rogue.open(Epoch::from_u64(status.fence_epoch)).await;
        let Ok(mut writer) = opened else { continue };
        match writer.append(&head, Some([7; 32])).await {
            Said::Fenced => {}
            Said::Refused => return None,
            Said::Accepted => {
                return Some("a block on another parent's content was accepted".to_owned());
            }
        }
    }
    Some("no rogue writer was left alone for the time of one block".to_owned())
}
