//! The producer's API: decode, call the core, map errors. Nothing is decided here.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sluice_client::{
    capture::OWNER,
    coordination::{Coordination, ingestor_lock},
};
use sluice_model::{Epoch, IngestorName, Pointer};
use sluice_proto::{MAX_MESSAGE, convert, reason, v1 as pb};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, Streaming, metadata::MetadataValue};

use crate::{
    source::{
        Ack,
        capture::{Answer, BeginCapture, Door, Doors, Rejection, Visit},
    },
    status::{State, StatusCell},
};

/// Responses that wait for the connection.
const WAITING: usize = 16;
/// How long a standby asks who the owner is.
const OWNER_WAIT: Duration = Duration::from_secs(2);

/// The `Producer` and `Capture` services of a process.
#[derive(Clone)]
pub struct Api {
    ingestors: Arc<[StatusCell]>,
    doors: Doors,
    coordination: Coordination,
    /// Counts connections that capture, as they arrive.
    arrivals: Arc<AtomicU64>,
}

impl Api {
    /// Over the ingestors of this process. The coordinator tells who owns one instead.
    pub fn new(
        ingestors: impl Into<Arc<[StatusCell]>>,
        doors: Doors,
        coordination: Coordination,
    ) -> Self {
        Self { ingestors: ingestors.into(), doors, coordination, arrivals: Arc::default() }
    }

    /// Both services, with limits that let whole frames through.
    pub fn routes(self) -> tonic::service::Routes {
        let capture = pb::capture_server::CaptureServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        tonic::service::Routes::new(pb::producer_server::ProducerServer::new(self))
            .add_service(capture)
    }

    /// The door of an ingestor, or what to answer.
    fn door(&self, name: &str) -> Result<(Arc<Door>, &StatusCell), Status> {
        let ingestor: IngestorName =
            name.parse().map_err(|error| invalid(format!("ingestor: {error}")))?;
        let status = self.ingestors.iter().find(|status| *status.ingestor() == ingestor);
        match (self.doors.get(&ingestor), status) {
            (Some(door), Some(status)) => Ok((door, status)),
            (None, Some(_)) => Err(invalid(format!(
                "the ingestor {ingestor} obtains its blocks itself; set \
                 source = {{ type = \"capture\" }} to hand them in"
            ))),
            _ => {
                let known: Vec<_> = self.doors.names().iter().map(ToString::to_string).collect();
                Err(Status::not_found(format!(
                    "this producer has no ingestor {ingestor}; those that take blocks are: {}",
                    known.join(", ")
                )))
            }
        }
    }

    async fn status(&self, cell: &StatusCell, rejection: &Rejection) -> Status {
        let mut answer = status(rejection);
        if *rejection != Rejection::NotOwner {
            return answer;
        }
        let own = cell.get();
        if own.epoch != Epoch::ZERO
            && let Some(held) = held(cell.ingestor(), &own)
        {
            return held;
        }
        let owner = tokio::time::timeout(OWNER_WAIT, self.owner(cell.ingestor())).await;
        match owner.ok().flatten().map(MetadataValue::try_from) {
            Some(Ok(address)) => drop(answer.metadata_mut().insert(OWNER, address)),
            // Nobody has it, and this is why.
            _ => answer = held(cell.ingestor(), &own).unwrap_or(answer),
        }
        answer
    }

    /// Where the owner of an ingestor can be reached, as far as the coordinator knows.
    async fn owner(&self, ingestor: &IngestorName) -> Option<String> {
        let name = ingestor_lock(ingestor);
        let locks = self.coordination.locks(&name).await.ok()?;
        let owner = locks.into_iter().find(|lock| lock.lock == name)?.owner?;
        (!owner.address.is_empty()).then_some(owner.address)
    }
}

#[tonic::async_trait]
impl pb::producer_server::Producer for Api {
    async fn list_ingestors(
        &self,
        _: Request<pb::ListIngestorsRequest>,
    ) -> Result<Response<pb::ListIngestorsResponse>, Status> {
        let ingestors = self.ingestors.iter().map(StatusCell::message).collect();
        Ok(Response::new(pb::ListIngestorsResponse { ingestors }))
    }
}

#[tonic::async_trait]
impl pb::capture_server::Capture for Api {
    async fn capture_head(
        &self,
        request: Request<pb::CaptureHeadRequest>,
    ) -> Result<Response<pb::CaptureHeadResponse>, Status> {
        let (door, cell) = self.door(&request.get_ref().ingestor)?;
        match door.head() {
            Ok(head) => Ok(Response::new(pb::CaptureHeadResponse {
                head: head.as_ref().map(Into::into),
                epoch: cell.get().epoch.as_u64(),
            })),
            Err(rejection) => Err(self.status(cell, &rejection).await),
        }
    }

    type CaptureStream = Pin<Box<dyn Stream<Item = Result<pb::CaptureResponse, Status>> + Send>>;

    async fn capture(
        &self,
        request: Request<Streaming<pb::CaptureRequest>>,
    ) -> Result<Response<Self::CaptureStream>, Status> {
        let traceparent = request.metadata().get("traceparent").and_then(|v| v.to_str().ok());
        let traceparent = traceparent.unwrap_or_default().to_owned();
        let (responses, stream) = mpsc::channel(WAITING);
        let (api, requests) = (self.clone(), request.into_inner());
        let arrival = self.arrivals.fetch_add(1, Ordering::Relaxed);
        // The answer begins before the first request is here: clients may wait for it.
        tokio::spawn(async move {
            let closed = responses.clone();
            tokio::select! {
                ended = api.serve((arrival, requests), &responses, traceparent) => if let Err(status) = ended {
                    responses.send(Err(*status)).await.ok();
                },
                () = closed.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("ingestors", &self.ingestors.len()).finish_non_exhaustive()
    }
}

type Responses = mpsc::Sender<Result<pb::CaptureResponse, Status>>;

impl Api {
    /// One connection, from its start to its end.
    async fn serve(
        &self,
        (arrival, mut requests): (u64, Streaming<pb::CaptureRequest>),
        responses: &Responses,
        traceparent: String,
    ) -> Result<(), Box<Status>> {
        let Some(pb::CaptureRequest { message: Some(pb::capture_request::Message::Start(start)) }) =
            requests.message().await?
        else {
            return Err(Box::new(invalid("the first message must be start".to_owned())));
        };
        let (door, cell) = self.door(&start.ingestor)?;
        let (visit, answers) = match door.visit(arrival) {
            Ok(visit) => visit,
            Err(rejection) => {
                return Err(Box::new(self.status(cell, &rejection).await));
            }
        };
        let mut visit = visit.with_traceparent(traceparent);
        let mut answering = Answering { answers, responses, pending: None, answered: 0 };
        let ended = tokio::select! {
            taken = take_all(&mut requests, &mut visit) => taken,
            answered = answering.run(u64::MAX) => return answered,
        };
        // What was complete before the end, or before the wrong message, is still answered. A visit
        // that was ended from inside has the reason as its last answer.
        let sent = if visit.sent_away().is_cancelled() { u64::MAX } else { visit.sent() };
        drop(visit);
        answering.run(sent).await?;
        ended
    }
}

/// Passes answers on.
struct Answering<'a> {
    answers: mpsc::Receiver<Answer>,
    responses: &'a Responses,
    /// Taken, not passed on yet.
    pending: Option<pb::CaptureResponse>,
    answered: u64,
}

impl Answering<'_> {
    /// Until so many were passed on, or the visit is ended from inside. Cancel safe.
    async fn run(&mut self, until: u64) -> Result<(), Box<Status>> {
        while self.answered < until {
            if self.pending.is_none() {
                let Some(answer) = self.answers.recv().await else { return Ok(()) };
                let ack = answer.result.map_err(|rejection| Box::new(status(&rejection)))?;
                self.pending = Some(response(&ack));
            }
            let Ok(place) = self.responses.reserve().await else { return Ok(()) };
            if let Some(response) = self.pending.take() {
                place.send(Ok(response));
                self.answered += 1;
            }
        }
        Ok(())
    }
}

/// Takes messages until the program has sent all, or one is wrong.
async fn take_all(
    requests: &mut Streaming<pb::CaptureRequest>,
    visit: &mut Visit,
) -> Result<(), Box<Status>> {
    while let Some(request) = requests.message().await? {
        let message = request.message.ok_or_else(|| invalid("an empty message".to_owned()))?;
        take(message, visit).await?;
    }
    Ok(())
}

async fn take(message: pb::capture_request::Message, visit: &mut Visit) -> Result<(), Box<Status>> {
    use pb::capture_request::Message;
    let taken = match message {
        Message::Start(_) => Err(Rejection::Invalid("start comes once, first".to_owned())),
        Message::Begin(begin) => visit.begin(decode(begin)?).await,
        Message::Changes(region) => visit.changes(region).await,
        Message::Metadata(metadata) => visit.metadata(&metadata.type_url, metadata.value).await,
        Message::End(end) => visit.end(end.changes).await,
    };
    taken.map_err(|rejection| Box::new(status(&rejection)))
}

fn decode(begin: pb::CaptureBegin) -> Result<BeginCapture, Status> {
    let pointer = |field, bytes| convert::pointer(field, bytes).map_err(Status::from);
    let given = (!begin.pointer.is_empty()).then_some(begin.pointer);
    Ok(BeginCapture {
        height: begin.height,
        pointer: given.map(|bytes| pointer("begin.pointer", bytes)).transpose()?,
        parent: begin.parent.map(|bytes| pointer("begin.parent", bytes)).transpose()?,
        time: begin.time.as_ref().and_then(convert::nanos),
    })
}

fn response(ack: &Ack) -> pb::CaptureResponse {
    pb::CaptureResponse {
        height: ack.height,
        pointer: Pointer::to_bytes(&ack.pointer),
        digest: convert::digest_bytes(&ack.digest),
        durability: pb::Durability::from(ack.durability).into(),
        duplicate: ack.duplicate,
        unverifiable: ack.unverifiable,
    }
}

/// What to say to programs while the ingestor takes nothing.
fn held(ingestor: &IngestorName, own: &crate::status::Status) -> Option<Status> {
    let state = match own.state {
        State::Paused | State::Blocked | State::Halted => own.state.word(),
        _ => return None,
    };
    let message = format!("the ingestor {ingestor} takes no blocks, it is {state}: {}", own.cause);
    Some(reason::status(Code::Unavailable, reason::HELD, message))
}

fn invalid(message: String) -> Status {
    reason::status(Code::InvalidArgument, reason::INVALID, message)
}

/// A refusal as a status: its code for every client, its reason for ours.
fn status(rejection: &Rejection) -> Status {
    let message = rejection.to_string();
    let (code, word) = match rejection {
        Rejection::NotOwner => (Code::FailedPrecondition, reason::NOT_OWNER),
        Rejection::WrongParent { .. } => (Code::FailedPrecondition, reason::WRONG_PARENT),
        Rejection::Invalid(_) | Rejection::Count { .. } => (Code::InvalidArgument, reason::INVALID),
        Rejection::TooLarge(_) => (Code::OutOfRange, reason::TOO_LARGE),
        Rejection::Refused { reason: word, .. } if word == reason::DIVERGENT => {
            (Code::FailedPrecondition, reason::DIVERGENT)
        }
        Rejection::Refused { reason: word, .. } if word == reason::WRONG_PARENT => {
            (Code::FailedPrecondition, reason::WRONG_PARENT)
        }
        Rejection::Refused { .. } => (Code::InvalidArgument, reason::INVALID),
        Rejection::Superseded => (Code::Aborted, reason::CONFLICT),
        Rejection::Restarted => (Code::Unavailable, reason::STOPPING),
    };
    reason::status(code, word, message)
}
