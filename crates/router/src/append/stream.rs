use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt, future::Fuse, stream};
use sluice_frame::{Frame, RouteInterner};
use sluice_journal::{Receipt, Ticket};
use sluice_model::{Generation, IngestorName};
use sluice_proto::{
    convert,
    reason::{self, status},
    v1 as pb,
};
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::Claimed;
use crate::{app::Shared, error};

/// A block that is on its way to the disk.
struct Pending {
    ticket: Ticket,
    generation: Generation,
    changes: u64,
    bytes: u64,
    since: Instant,
}

type Submitted = Result<Pending, Status>;

/// Turns frames into acknowledgements, in order.
///
/// Intake and acknowledgements are two loops with a bounded queue between them, both driven by
/// the answer stream: nothing runs when the client is gone, and a client that does not read its
/// acknowledgements is not read from. After a refusal the acknowledgements of everything accepted
/// before come first, then the refusal, then nothing.
pub(crate) fn serve(
    shared: Arc<Shared>,
    ingestor: IngestorName,
    claimed: Claimed,
    inbound: impl Stream<Item = Result<pb::AppendRequest, Status>> + Send + 'static,
) -> impl Stream<Item = Result<pb::AppendResponse, Status>> + Send + 'static {
    // Holds the shutdown until the stream has ended.
    let open = shared.streams.token();
    let (submitted, pending) = mpsc::channel(shared.options.blocks_in_flight.max(1));
    let intake = Intake {
        shared: Arc::clone(&shared),
        ingestor: ingestor.clone(),
        claimed,
        submitted,
        interner: RouteInterner::default(),
        changes: 0,
        bytes: 0,
    };
    let mut intake: Fuse<_> = Box::pin(intake.run(inbound)).fuse();
    let mut acks = Box::pin(acknowledgements(shared, ingestor, pending)).fuse();
    stream::poll_fn(move |cx| {
        let _held = &open;
        // Its end shows in the queue.
        let _ended = intake.poll_unpin(cx).is_ready();
        acks.poll_next_unpin(cx)
    })
}

/// The first loop: frames to the journal.
struct Intake {
    shared: Arc<Shared>,
    ingestor: IngestorName,
    claimed: Claimed,
    submitted: mpsc::Sender<Submitted>,
    interner: RouteInterner,
    /// Of the block under way.
    changes: u64,
    bytes: u64,
}

impl Intake {
    async fn run(mut self, inbound: impl Stream<Item = Result<pb::AppendRequest, Status>> + Send) {
        let mut inbound = std::pin::pin!(inbound);
        loop {
            let message = tokio::select! {
                biased;
                () = self.claimed.fenced.cancelled() => Some(Err(error::fenced(&self.ingestor))),
                () = self.shared.stopping.cancelled() => Some(Err(error::stopping())),
                message = inbound.next() => {
                    message.map(|read| read.map_err(|e| error::inbound(&self.ingestor, e)))
                }
            };
            let outcome = match message {
                None => return,
                Some(Ok(message)) => self.take(message).await,
                Some(Err(status)) => Err(status),
            };
            let refused = outcome.is_err();
            if let Some(submitted) = outcome.transpose() {
                // A closed queue means that the answer stream ended; so does this loop.
                if self.submitted.send(submitted).await.is_err() || refused {
                    return;
                }
            }
        }
    }

    async fn take(&mut self, message: pb::AppendRequest) -> Result<Option<Pending>, Status> {
        let frame = match message.message {
            Some(pb::append_request::Message::Frame(frame)) => self.parse(frame.into_bytes())?,
            Some(pb::append_request::Message::Start(_)) => {
                return Err(invalid("start: it comes once, as the first message"));
            }
            None => return Err(invalid("message: neither start nor frame")),
        };
        if frame.header.part == 0 {
            (self.changes, self.bytes) = (0, 0);
        }
        self.changes += u64::from(frame.header.changes());
        self.bytes += frame.changes.len() as u64;
        let (generation, since) = (frame.header.generation, Instant::now());
        let ticket = self
            .claimed
            .writer
            .append(frame)
            .await
            .map_err(|refused| error::append(&self.ingestor, generation, &refused))?;
        let (changes, bytes) = (self.changes, self.bytes);
        Ok(ticket.map(|ticket| Pending { ticket, generation, changes, bytes, since }))
    }

    fn parse(&mut self, bytes: Bytes) -> Result<Frame, Status> {
        let frame = Frame::parse_interned(bytes, &mut self.interner)
            .map_err(|refused| error::frame(&self.ingestor, &refused))?;
        if frame.header.ingestor != self.ingestor {
            return Err(invalid(&format!(
                "frame.ingestor: the stream is for {}, the frame for {}",
                self.ingestor, frame.header.ingestor
            )));
        }
        Ok(frame)
    }
}

/// The second loop: receipts to the client.
fn acknowledgements(
    shared: Arc<Shared>,
    ingestor: IngestorName,
    pending: mpsc::Receiver<Submitted>,
) -> impl Stream<Item = Result<pb::AppendResponse, Status>> + Send {
    stream::unfold(Some(pending), move |pending| {
        let (shared, ingestor) = (Arc::clone(&shared), ingestor.clone());
        async move {
            let mut pending = pending?;
            let outcome = match pending.recv().await? {
                Err(status) => Err(status),
                Ok(block) => match block.ticket.await {
                    Ok(receipt) => {
                        let content = (block.changes, block.bytes);
                        shared.metrics.appended(&ingestor, content, block.since.elapsed());
                        Ok(response(&receipt))
                    }
                    Err(refused) => Err(error::append(&ingestor, block.generation, &refused)),
                },
            };
            if let Err(status) = &outcome {
                shared.metrics.refused(&ingestor, reason::of(status).unwrap_or("OTHER"));
            }
            // Nothing is acknowledged behind a refusal.
            let rest = outcome.is_ok().then_some(pending);
            Some((outcome, rest))
        }
    })
}

fn response(receipt: &Receipt) -> pb::AppendResponse {
    pb::AppendResponse {
        generation: receipt.generation.0,
        pointer: receipt.pointer.to_bytes(),
        digest: convert::digest_bytes(&receipt.digest),
        durability: pb::Durability::from(receipt.durability).into(),
        duplicate: receipt.duplicate,
        unverifiable: receipt.unverifiable,
    }
}

fn invalid(message: &str) -> Status {
    status(Code::InvalidArgument, reason::INVALID, message)
}
