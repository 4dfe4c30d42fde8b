//! Appending to a journal: the producer's and the consumer shards' side of the router.
//!
//! [`Appender::open`] fences every earlier writer and gives the head; frames then go out in order
//! and one [`Ack`] comes back per block, as blocks become durable. The first refusal ends the
//! appender. After [`AppendError::Unknown`] nobody can say what of the unacknowledged blocks is in
//! the journal: open again and look at the head, or send the same bytes again.

mod error;

use std::fmt;

use bytes::Bytes;
use sluice_frame::{Frame, MAX_FRAME, WireFrame};
use sluice_model::{
    Digest, Durability, Epoch, Generation, Head, IngestorName, JournalId, Pointer, Position,
};
use sluice_proto::{MAX_MESSAGE, convert, v1 as pb};
use sluice_service::Transport;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Status, Streaming};

pub use error::AppendError;

/// Bytes of frames that wait for the connection, by default.
pub const WINDOW: usize = 8 << 20;

/// Frames that wait for the connection, at most, whatever their size.
const MAX_WAITING: usize = 256;

/// What to open.
#[derive(Clone, Debug)]
pub struct Open {
    /// Whose journal.
    pub ingestor: IngestorName,
    /// The identity that the coordinator minted.
    pub journal_id: JournalId,
    /// The epoch of the lock.
    pub epoch: Epoch,
    /// The lock's nonce; tells a repeated open after a lost answer apart.
    pub nonce: Bytes,
    /// Who opens, for people.
    pub holder: String,
}

/// A block or control record is in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Its history.
    pub generation: Generation,
    /// Its place.
    pub pointer: Pointer,
    /// Its digest as stored; the zero digest if it is unverifiable.
    pub digest: Digest,
    /// What it survives.
    pub durability: Durability,
    /// The journal had it already, with the same state.
    pub duplicate: bool,
    /// It is below what retention kept: nobody can tell whether the journal had the same.
    pub unverifiable: bool,
}

impl Ack {
    /// The end of the acknowledged block.
    pub fn position(&self) -> Position {
        Position::end_of(self.generation, self.pointer.clone())
    }
}

/// The one writer of a journal, until somebody else opens it.
#[derive(Debug)]
pub struct Appender {
    frames: Frames,
    acks: Acks,
    writer_id: u64,
    max_change: u64,
}

/// The sending half of an [`Appender`].
pub struct Frames {
    queue: Option<mpsc::Sender<Waiting>>,
    window: Arc<Semaphore>,
    window_bytes: usize,
}

/// The receiving half of an [`Appender`].
pub struct Acks {
    stream: Option<Streaming<pb::AppendResponse>>,
}

/// A frame on its way to the connection; its share of the window is free when it is there.
struct Waiting {
    frame: WireFrame,
    _share: OwnedSemaphorePermit,
}

impl Appender {
    /// Opens a journal for writing, with the default window. The head is the last durable block;
    /// the next one must follow it.
    ///
    /// # Errors
    /// `NotHere`, `Fenced`, or `Unknown` if no answer came: opening again is harmless.
    pub async fn open(
        transport: Transport,
        open: Open,
    ) -> Result<(Self, Option<Head>), AppendError> {
        Self::open_with(transport, open, WINDOW).await
    }

    /// As [`open`](Self::open), with at most `window_bytes` of frames waiting for the connection.
    /// What the router has taken is bounded by the router.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub async fn open_with(
        transport: Transport,
        open: Open,
        window_bytes: usize,
    ) -> Result<(Self, Option<Head>), AppendError> {
        let mut client = pb::router_client::RouterClient::new(transport)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let opened = client
            .open(pb::OpenRequest {
                ingestor: open.ingestor.to_string(),
                journal_id: Bytes::copy_from_slice(open.journal_id.as_bytes()),
                epoch: open.epoch.as_u64(),
                nonce: open.nonce,
                holder: open.holder,
            })
            .await?
            .into_inner();
        let head = convert::head(opened.head)
            .map_err(|error| AppendError::Unknown(Box::new(Status::internal(error.to_string()))))?;
        let writer_id = opened.writer_id;
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        let start = pb::append_request::Message::Start(pb::AppendStart {
            ingestor: open.ingestor.to_string(),
            writer_id,
        });
        let frames = ReceiverStream::new(waiting)
            .map(|waiting: Waiting| pb::append_request::Message::Frame(waiting.frame));
        let requests = tokio_stream::once(start).chain(frames).map(pb::AppendRequest::from);
        let stream = client.append(requests).await?.into_inner();
        let window_bytes = window_bytes.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let window = Arc::new(Semaphore::new(window_bytes));
        let frames = Frames { queue: Some(queue), window, window_bytes };
        let acks = Acks { stream: Some(stream) };
        Ok((Self { frames, acks, writer_id, max_change: opened.max_change_bytes }, head))
    }

    /// Queues the next frame. Waits while the window is full.
    ///
    /// # Cancel safety
    /// Cancel safe: a call that is given up has queued nothing.
    ///
    /// # Errors
    /// `Invalid` for a frame that is too large for any router, `Ended` when the router has ended
    /// the stream; [`next_ack`](Self::next_ack) tells why.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), AppendError> {
        self.frames.send(frame).await
    }

    /// The acknowledgement of the next block; `None` after [`finish`](Self::finish) when every
    /// block was acknowledged.
    ///
    /// # Cancel safety
    /// Cancel safe.
    ///
    /// # Errors
    /// Why the router refused a block; nothing is acknowledged after it.
    pub async fn next_ack(&mut self) -> Result<Option<Ack>, AppendError> {
        self.acks.next().await
    }

    /// Nothing more will be sent; acknowledgements of what was sent still come.
    pub fn finish(&mut self) {
        self.frames.finish();
    }

    /// The two halves, for tasks of their own.
    pub fn split(self) -> (Frames, Acks) {
        (self.frames, self.acks)
    }

    /// The number that the journal gave to this writer.
    pub const fn writer_id(&self) -> u64 {
        self.writer_id
    }

    /// Largest encoding of one change that the router accepts, in bytes.
    pub const fn max_change(&self) -> u64 {
        self.max_change
    }
}

impl Frames {
    /// See [`Appender::send`].
    ///
    /// # Errors
    /// See [`Appender::send`].
    pub async fn send(&mut self, frame: &Frame) -> Result<(), AppendError> {
        let queue = self.queue.as_ref().ok_or(AppendError::Ended)?;
        let wire = frame.to_wire();
        if wire.len() > MAX_FRAME {
            return Err(AppendError::Invalid(format!(
                "the frame of block {} is {} bytes long, at most {MAX_FRAME} are allowed; cut it",
                frame.header.pointer,
                wire.len()
            )));
        }
        // A frame larger than the window takes all of it.
        let share = u32::try_from(wire.len().min(self.window_bytes)).unwrap_or(u32::MAX);
        let slot = queue.reserve().await.map_err(|_| AppendError::Ended)?;
        let share = tokio::select! {
            share = Arc::clone(&self.window).acquire_many_owned(share) => {
                share.map_err(|_| AppendError::Ended)?
            }
            () = queue.closed() => return Err(AppendError::Ended),
        };
        slot.send(Waiting { frame: wire, _share: share });
        Ok(())
    }

    /// See [`Appender::finish`].
    pub fn finish(&mut self) {
        self.queue = None;
    }
}

impl Acks {
    /// See [`Appender::next_ack`].
    ///
    /// # Errors
    /// See [`Appender::next_ack`].
    pub async fn next(&mut self) -> Result<Option<Ack>, AppendError> {
        let Some(stream) = &mut self.stream else { return Err(AppendError::Ended) };
        match stream.message().await {
            Ok(Some(response)) => ack(response).map(Some),
            Ok(None) => Ok(None),
            Err(status) => {
                self.stream = None;
                Err(status.into())
            }
        }
    }
}

fn ack(response: pb::AppendResponse) -> Result<Ack, AppendError> {
    let read = || -> Result<Ack, convert::ConvertError> {
        Ok(Ack {
            generation: Generation(response.generation),
            pointer: convert::pointer("ack.pointer", response.pointer)?,
            digest: convert::digest("ack.digest", &response.digest)?.unwrap_or_default(),
            durability: convert::durability(response.durability)?,
            duplicate: response.duplicate,
            unverifiable: response.unverifiable,
        })
    };
    read().map_err(|error| AppendError::Unknown(Box::new(Status::internal(error.to_string()))))
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames")
            .field("open", &self.queue.is_some())
            .field("free", &self.window.available_permits())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Acks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acks").field("open", &self.stream.is_some()).finish()
    }
}
