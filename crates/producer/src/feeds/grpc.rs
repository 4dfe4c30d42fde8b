//! The Spool API: decode, call the spool, map errors. Nothing is decided here.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use sluice_model::{Generation, IngestorName};
use sluice_proto::{MAX_MESSAGE, convert, reason, v1 as pb};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status};

use crate::spool::{BlockReader, Captured, Place, Progress, SpoolError, SpoolHandle};

/// Longest wait for a block that is still to come.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Frames that wait for the connection.
const WAITING: usize = 2;

/// The `Spool` service of a process.
#[derive(Clone, Debug, Default)]
pub struct SpoolApi {
    spools: Arc<BTreeMap<IngestorName, Arc<SpoolHandle>>>,
}

impl SpoolApi {
    /// Over the spools of this process.
    pub fn new(spools: impl IntoIterator<Item = (IngestorName, Arc<SpoolHandle>)>) -> Self {
        Self { spools: Arc::new(spools.into_iter().collect()) }
    }

    /// The service, with limits that let whole frames through.
    pub fn server(self) -> pb::spool_server::SpoolServer<Self> {
        pb::spool_server::SpoolServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    fn spool(&self, name: &str) -> Result<&Arc<SpoolHandle>, Status> {
        let ingestor: IngestorName =
            name.parse().map_err(|error| invalid(format!("ingestor: {error}")))?;
        self.spools.get(&ingestor).ok_or_else(|| {
            let known: Vec<_> = self.spools.keys().map(ToString::to_string).collect();
            Status::not_found(format!(
                "this producer does not capture {ingestor} beside (feeds = \"beside\" is set for: \
                 {})",
                known.join(", ")
            ))
        })
    }
}

#[tonic::async_trait]
impl pb::spool_server::Spool for SpoolApi {
    async fn spool_state(
        &self,
        request: Request<pb::SpoolStateRequest>,
    ) -> Result<Response<pb::SpoolStateResponse>, Status> {
        let handle = self.spool(&request.get_ref().ingestor)?;
        let Progress { capturing, cause, synced, height: reached_height } = handle.progress();
        let state = handle.with(move |spool| {
            let last = spool.last();
            Ok(pb::SpoolStateResponse {
                pointer: last.map(|(place, _)| place.1.to_bytes()).unwrap_or_default(),
                height: last.map_or(0, |(_, entry)| entry.height),
                blocks: spool.blocks() as u64,
                bytes: spool.bytes(),
                limit: spool.limit(),
                diverged: spool.diverged() as u64,
                reached_height,
                ..pb::SpoolStateResponse::default()
            })
        });
        let mut state = state.await.map_err(|error| status(&error))?;
        (state.beside, state.cause) = (capturing, cause);
        state.reached = synced.map(|(_, pointer)| pointer.to_bytes()).unwrap_or_default();
        state.source_height = handle.source_height();
        Ok(Response::new(state))
    }

    async fn spool_digests(
        &self,
        request: Request<pb::SpoolDigestsRequest>,
    ) -> Result<Response<pb::SpoolDigestsResponse>, Status> {
        let request = request.into_inner();
        let handle = self.spool(&request.ingestor)?;
        let place = place(request.generation, request.pointer)?;
        let wait = request.wait.as_ref().map(convert::std_duration).unwrap_or_default();
        let captured = wait_for(handle, &place, wait.min(MAX_WAIT)).await;
        let captured = captured.map_err(|error| status(&error))?;
        let (answer, block) = match captured {
            Some(captured) => (pb::SpoolAnswer::Captured, Some(block(&captured))),
            None if is_to_come(&handle.progress(), &place) => (pb::SpoolAnswer::Pending, None),
            None => (pb::SpoolAnswer::Passed, None),
        };
        Ok(Response::new(pb::SpoolDigestsResponse { answer: answer.into(), block }))
    }

    type SpoolFetchStream =
        Pin<Box<dyn Stream<Item = Result<pb::SpoolFetchResponse, Status>> + Send>>;

    async fn spool_fetch(
        &self,
        request: Request<pb::SpoolFetchRequest>,
    ) -> Result<Response<Self::SpoolFetchStream>, Status> {
        let request = request.into_inner();
        let handle = self.spool(&request.ingestor)?;
        let place = place(request.generation, request.pointer)?;
        let pointer = place.1.clone();
        let read = handle.read(place).await.map_err(|error| status(&error))?;
        let reader = read.ok_or_else(|| {
            Status::not_found(format!("block {pointer} is not in the spool of this replica"))
        })?;
        let (frames, stream) = mpsc::channel(WAITING);
        tokio::task::spawn_blocking(move || send(reader, &frames));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Reads a block to its end, or until nobody listens.
fn send(mut reader: BlockReader, frames: &mpsc::Sender<Result<pb::SpoolFetchResponse, Status>>) {
    loop {
        let message = match reader.next_frame() {
            Ok(None) => return,
            Ok(Some(frame)) => Ok(pb::SpoolFetchResponse { frame }),
            Err(error) => Err(status(&error)),
        };
        let failed = message.is_err();
        if frames.blocking_send(message).is_err() || failed {
            return;
        }
    }
}

/// What is known of a block, as soon as it is there.
async fn wait_for(
    handle: &SpoolHandle,
    place: &Place,
    wait: Duration,
) -> Result<Option<Captured>, SpoolError> {
    let deadline = Instant::now() + wait;
    let mut changes = handle.watch();
    loop {
        changes.mark_unchanged();
        let captured = handle.captured(place.clone()).await?;
        if captured.is_some() || !is_to_come(&handle.progress(), place) {
            return Ok(captured);
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return Ok(None) },
            () = tokio::time::sleep_until(deadline) => return Ok(None),
        }
    }
}

/// True if the capture may still bring the block: it runs, and has not synced anything behind it.
fn is_to_come(progress: &Progress, place: &Place) -> bool {
    progress.capturing && progress.synced.as_ref().is_none_or(|synced| place > synced)
}

fn place(generation: u32, pointer: bytes::Bytes) -> Result<Place, Status> {
    let pointer = convert::pointer("pointer", pointer).map_err(Status::from)?;
    Ok((Generation(generation), pointer))
}

fn block(captured: &Captured) -> pb::BlockDigest {
    let Captured { header, end, .. } = captured;
    pb::BlockDigest {
        generation: header.generation.0,
        pointer: header.pointer.to_bytes(),
        parent: header.parent.to_bytes(),
        height: header.height,
        time: header.time.map(convert::timestamp),
        states: convert::state_digests(&end.states),
        metadata_digest: convert::maybe_digest_bytes(end.metadata_digest.as_ref()),
        ..pb::BlockDigest::default()
    }
}

fn invalid(message: String) -> Status {
    reason::status(Code::InvalidArgument, reason::INVALID, message)
}

fn status(error: &SpoolError) -> Status {
    let message = error.to_string();
    match error {
        SpoolError::Damaged { .. } | SpoolError::Frame(_) => {
            reason::status(Code::DataLoss, reason::CORRUPT, message)
        }
        SpoolError::Stopping => reason::status(Code::Unavailable, reason::STOPPING, message),
        _ => Status::unavailable(message),
    }
}
