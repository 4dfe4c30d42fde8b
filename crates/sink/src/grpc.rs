//! The `Sink` service: decode, look up, encode.

use std::sync::Arc;

use sluice_proto::{
    convert::timestamp,
    reason,
    v1::{self as pb, sink_server::Sink},
};
use tonic::{Code, Request, Response, Status};

use crate::{
    app::Served,
    metrics::number,
    status::{Snapshot, State},
};

/// Answers from the streams' status; never waits for them.
#[derive(Clone, Debug)]
pub(crate) struct SinkGrpc {
    pub(crate) streams: Arc<[Served]>,
}

#[tonic::async_trait]
impl Sink for SinkGrpc {
    async fn list_streams(
        &self,
        _: Request<pb::ListStreamsRequest>,
    ) -> Result<Response<pb::ListStreamsResponse>, Status> {
        let streams = self.streams.iter().map(message).collect();
        Ok(Response::new(pb::ListStreamsResponse { streams }))
    }

    async fn get_stream(
        &self,
        request: Request<pb::GetStreamRequest>,
    ) -> Result<Response<pb::GetStreamResponse>, Status> {
        let name = request.into_inner().name;
        let found = self.streams.iter().find(|served| served.config.name == name);
        let Some(served) = found else {
            let text = format!("no stream {name:?} runs here; `sluice streams list` shows them");
            return Err(reason::status(Code::NotFound, reason::NOT_HERE, text));
        };
        Ok(Response::new(pb::GetStreamResponse { stream: Some(message(served)) }))
    }
}

fn message(served: &Served) -> pb::StreamStatus {
    let Snapshot {
        state,
        cause,
        checkpoint,
        checkpoint_height,
        head,
        batches,
        events,
        bytes,
        retries,
        last_delivery,
        last_error,
        epoch,
    } = served.status.snapshot();
    pb::StreamStatus {
        name: served.config.name.clone(),
        sink: served.config.sink.clone(),
        r#type: served.type_name.to_owned(),
        ingestor: served.config.ingestor.to_string(),
        state: wire(state),
        cause,
        filter: Some(served.config.filter.spec().into()),
        checkpoint: checkpoint.as_ref().map(Into::into),
        checkpoint_height,
        head: head.as_ref().map(Into::into),
        batches,
        events,
        bytes,
        retries,
        last_delivery: last_delivery.map(timestamp),
        last_error,
        epoch: epoch.as_u64(),
        destination: served.destination.clone(),
    }
}

fn wire(state: State) -> i32 {
    i32::from(number(state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_numbers_of_the_contract() {
        for (own, theirs) in [
            (State::Waiting, pb::StreamState::Waiting),
            (State::Starting, pb::StreamState::Starting),
            (State::Running, pb::StreamState::Running),
            (State::Retrying, pb::StreamState::Retrying),
            (State::Blocked, pb::StreamState::Blocked),
            (State::Gap, pb::StreamState::Gap),
            (State::Stopped, pb::StreamState::Stopped),
        ] {
            assert_eq!(wire(own), i32::from(theirs), "{own:?}");
        }
    }
}
