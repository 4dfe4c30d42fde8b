//! The answers that go on: a lock, a control.

use std::pin::Pin;

use futures_util::{Stream, stream};
use sluice_coordination::{Acquisition, ControlWatch, LockState};
use sluice_model::IngestorName;
use sluice_proto::{reason, v1 as pb};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::Api;
use crate::{error::status, wire};

pub(super) type LockStream = Answers<pb::AcquireResponse>;
pub(super) type ControlStream = Answers<pb::IngestorControl>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn stopping() -> Status {
    reason::status(
        Code::Unavailable,
        reason::STOPPING,
        "the coordinator stops; ask another, or again",
    )
}

/// Follows a candidate for one caller.
struct Follower {
    api: Api,
    acquisition: Acquisition,
    asked: Instant,
    waited: bool,
    ended: bool,
}

/// The states of a candidate, until it is lost or this coordinator stops.
pub(super) fn lock(api: Api, acquisition: Acquisition) -> LockStream {
    let asked = Instant::now();
    let follower = Follower { api, acquisition, asked, waited: false, ended: false };
    Box::pin(stream::unfold(follower, |mut follower| async move {
        let state = follower.next().await?;
        Some((state, follower))
    }))
}

impl Follower {
    async fn next(&mut self) -> Option<Result<pb::AcquireResponse, Status>> {
        if self.ended {
            return None;
        }
        let next = tokio::select! {
            () = self.api.closing.cancelled() => {
                self.ended = true;
                return Some(Err(stopping()));
            }
            next = self.acquisition.next() => next?,
        };
        Some(match next {
            Ok(state) => {
                self.waited |= matches!(state, LockState::Waiting { .. });
                if matches!(state, LockState::Owned { .. }) && self.waited {
                    self.api.metrics.acquired(self.asked.elapsed());
                }
                Ok(wire::lock_state(state))
            }
            Err(error) => {
                self.api.metrics.failed("Acquire", &error);
                Err(status(&error))
            }
        })
    }
}

struct Watcher {
    api: Api,
    ingestor: IngestorName,
    watch: ControlWatch,
    ended: bool,
}

/// The states of a control, until the store fails or this coordinator stops.
pub(super) fn control(api: Api, ingestor: IngestorName) -> ControlStream {
    let watch = api.coordination.watch_control(&ingestor);
    let watcher = Watcher { api, ingestor, watch, ended: false };
    Box::pin(stream::unfold(watcher, |mut watcher| async move {
        let state = watcher.next().await?;
        Some((state, watcher))
    }))
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<pb::IngestorControl, Status>> {
        if self.ended {
            return None;
        }
        let next = tokio::select! {
            () = self.api.closing.cancelled() => {
                self.ended = true;
                return Some(Err(stopping()));
            }
            next = self.watch.next() => next?,
        };
        Some(match next {
            Ok(control) => Ok(wire::control::message(&self.ingestor, control)),
            Err(error) => {
                self.api.metrics.failed("WatchControl", &error);
                Err(status(&error))
            }
        })
    }
}
