//! The answers that go on: a lock, a control.

use std::{future, pin::Pin};

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use sluice_coordination::{Acquisition, Error, LockState};
use sluice_model::IngestorName;
use sluice_proto::{reason, v1 as pb};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::Api;
use crate::{error::status, wire};

pub(super) type LockStream = Answers<pb::AcquireResponse>;
pub(super) type ControlStream = Answers<pb::IngestorControl>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The states of a candidate, until it is lost or this coordinator stops.
pub(super) fn lock(api: Api, acquisition: Acquisition) -> LockStream {
    let (asked, mut waited, metrics) = (Instant::now(), false, api.metrics.clone());
    let states = stream::unfold(acquisition, |mut acquisition| async move {
        Some((acquisition.next().await?, acquisition))
    });
    let messages = states.map_ok(move |state| {
        waited |= matches!(state, LockState::Waiting { .. });
        if matches!(state, LockState::Owned { .. }) && waited {
            metrics.acquired(asked.elapsed());
        }
        wire::lock_state(state)
    });
    answers(api, "Acquire", messages)
}

/// The states of a control, until the store fails or this coordinator stops.
pub(super) fn control(api: Api, ingestor: IngestorName) -> ControlStream {
    let watch = api.coordination.watch_control(&ingestor);
    let states =
        stream::unfold(watch, |mut watch| async move { Some((watch.next().await?, watch)) });
    let messages = states.map_ok(move |control| wire::control::message(&ingestor, control));
    answers(api, "WatchControl", messages)
}

/// Messages as long as there are some; the stop of this coordinator is told with the last one.
fn answers<T: Send + 'static>(
    api: Api,
    call: &'static str,
    messages: impl Stream<Item = Result<T, Error>> + Send + 'static,
) -> Answers<T> {
    let (closing, closed) = (api.closing.clone(), api.closing.clone().cancelled_owned());
    let messages = messages.map_err(move |error| {
        api.metrics.failed(call, &error);
        status(&error)
    });
    let last = stream::once(async move { closing.is_cancelled().then(|| Err(stopping())) });
    Box::pin(messages.take_until(closed).chain(last.filter_map(future::ready)))
}

fn stopping() -> Status {
    reason::status(
        Code::Unavailable,
        reason::STOPPING,
        "the coordinator stops; ask another, or again",
    )
}
