//! Waiting for what was asked for.

use std::{future::Future, time::Duration};

use sluice_proto::v1 as pb;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Known, list, member, operate::Operator, show};
use crate::{
    connect::Server,
    exit::{Exit, Failure},
    output::count,
};

/// How long to wait before a coordinator that went away is asked again, or an owner is looked at.
const AGAIN: Duration = Duration::from_millis(250);

/// An action that waits to be done.
pub(super) struct Asked<'a> {
    pub(super) ingestor: &'a str,
    pub(super) id: u64,
    /// The version of the control that has it.
    pub(super) version: u64,
}

/// How an action ended; `None` if nobody has done it in time.
pub(super) async fn for_result(
    coordinator: &Server,
    asked: &Asked<'_>,
    timeout: Duration,
) -> Result<Option<pb::ActionResult>, Failure> {
    let deadline = Instant::now() + timeout;
    within(deadline, async {
        loop {
            // A coordinator that went away, or a stream that ended, is asked again.
            if let Ok(Some(result)) = watch(coordinator, asked).await {
                return Ok(result);
            }
            sleep(AGAIN).await;
        }
    })
    .await
}

async fn within<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<Option<T>, Failure> {
    timeout_at(deadline, work).await.map_or(Ok(None), |done| done.map(Some))
}

async fn watch(
    coordinator: &Server,
    asked: &Asked<'_>,
) -> Result<Option<pb::ActionResult>, tonic::Status> {
    let Asked { ingestor, id, version } = *asked;
    let request = pb::WatchControlRequest { ingestor: ingestor.to_owned() };
    let mut states = coordinator.coordinator().watch_control(request).await?.into_inner();
    while let Some(state) = states.message().await? {
        let waits = state.action.as_ref().is_some_and(|action| action.id == id);
        match state.last {
            // From before it was asked for.
            _ if state.version < version => {}
            Some(last) if last.id == id => return Ok(Some(last)),
            // Others were asked for and ended since: how this one did is in the trail only.
            _ if !waits => return Ok(Some(trail(coordinator, ingestor, id).await?)),
            _ => {}
        }
    }
    Ok(None)
}

/// How an action ended that others have followed.
async fn trail(
    coordinator: &Server,
    ingestor: &str,
    id: u64,
) -> Result<pb::ActionResult, tonic::Status> {
    let request = pb::ListAuditRequest { ingestor: ingestor.to_owned(), ..Default::default() };
    let entries = coordinator.coordinator().list_audit(request).await?.into_inner().entries;
    let mut ended = pb::ActionResult { id, kind: "action".to_owned(), ..Default::default() };
    let of_it = |entry: &&pb::AuditEntry| {
        let ends = matches!(&*entry.kind, "action-done" | "action-failed" | "action-cancelled");
        ends && entry.detail.starts_with(&format!("{id}: "))
    };
    if let Some(entry) = entries.iter().rev().find(of_it) {
        ended.done = entry.kind == "action-done";
        ended.cancelled = entry.kind == "action-cancelled";
        ended.actor = entry.actor.clone();
        ended.message = entry.detail.clone();
    } else {
        ended.message =
            "it has ended, and others were asked for since; how is in its trail".to_owned();
    }
    Ok(ended)
}

/// Waits until the owner has stopped, or goes on; says what was seen.
pub(super) async fn for_pause(
    operator: &Operator<'_>,
    known: &Known,
    paused: bool,
    timeout: Duration,
) -> Result<String, Failure> {
    let Some(owner) = known.owner() else {
        return Ok("nobody owns it now, its next owner will know".to_owned());
    };
    let Some(server) = known.told_by.as_ref().filter(|_| known.owned().is_some()) else {
        let why = known.not_asked.join("; ");
        return Err(recorded(operator, paused, &format!("the owner cannot be asked ({why})")));
    };
    let deadline = Instant::now() + timeout;
    let seen = within(deadline, async {
        loop {
            let all = list(server).await.unwrap_or_default();
            let own = all.into_iter().find(|own| own.ingestor == known.name);
            if let Some(own) = own.filter(|own| reached(own, paused)) {
                return Ok(own);
            }
            sleep(AGAIN).await;
        }
    });
    match seen.await? {
        Some(own) => Ok(format!(
            "{} is {} at height {}",
            member(owner),
            show::state(&own),
            count(show::height(&own))
        )),
        None => {
            let within = operator.act.timeout;
            let why = format!("{} has not followed within {within}", member(owner));
            Err(recorded(operator, paused, &why))
        }
    }
}

/// True if the owner has done as it was told. One that captures nothing anyway has stopped.
fn reached(own: &pb::IngestorStatus, paused: bool) -> bool {
    use pb::IngestorState as State;
    match own.state() {
        State::Paused => paused,
        State::Halted | State::Finished | State::Stopped | State::Blocked => own.paused == paused,
        _ => !paused && !own.paused,
    }
}

fn recorded(operator: &Operator<'_>, paused: bool, why: &str) -> Failure {
    let (verb, name) = (if paused { "pause" } else { "resume" }, &operator.act.ingestor);
    let message = format!("the {verb} of {name} is recorded and holds for every owner, but {why}");
    Failure::new(Exit::Unreachable, message)
        .fix(format!("sluice ingestors get {name} --server {}", operator.peers.coordinator.url()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_has_followed_when_its_state_says_so() {
        use pb::IngestorState as State;
        let own = |state: State, paused| pb::IngestorStatus {
            state: state.into(),
            paused,
            ..Default::default()
        };
        assert!(reached(&own(State::Paused, true), true));
        assert!(!reached(&own(State::Paused, true), false));
        assert!(!reached(&own(State::Active, true), true), "it still drains");
        assert!(reached(&own(State::Active, false), false));
        assert!(!reached(&own(State::Active, true), false), "it has not heard yet");
        assert!(
            reached(&own(State::Halted, true), true) && !reached(&own(State::Halted, false), true)
        );
    }
}
