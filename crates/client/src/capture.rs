//! Handing in blocks: the client of the capture API.
//!
//! Any program can be the source of an ingestor whose configuration says
//! `source = { type = "capture" }`. It asks for the head, begins behind it, and sends blocks in
//! pieces of any number; one [`Ack`] comes back per durable block, in order.
//!
//! ```text
//! let capturer = Capturer::new(transport, ingestor);
//! let (mut blocks, mut acks, head) = capturer.resume(Duration::from_secs(60)).await?;
//! blocks.begin(Begin::at(height)).await?;
//! blocks.change("bank", Op::Set, key, value).await?;
//! blocks.end().await?;
//! let ack = acks.next().await?;
//! ```
//!
//! After an error whose outcome is unknown, resume: the head says which blocks are durable. A
//! block that is sent again although the journal has it is acknowledged as a duplicate.

mod error;

use std::{mem, time::Duration};

use bytes::{Bytes, BytesMut};
use sluice_frame::{Elements, put_change};
use sluice_model::{Digest, Durability, Epoch, Head, IngestorName, Op, Pointer};
use sluice_proto::{MAX_MESSAGE, convert, v1 as pb};
use sluice_service::Transport;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::Streaming;

use crate::backoff::Backoff;
pub use error::{CaptureError, OWNER};

/// Changes are sent when they fill a message of this many bytes.
const PIECE: usize = 256 << 10;
/// Messages that wait for the connection.
const WAITING: usize = 8;

/// Where an ingestor stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The last durable block; `None` before the first.
    pub head: Option<Head>,
    /// The epoch of the producer that answered.
    pub epoch: Epoch,
}

/// The begin of a block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begin {
    /// Its height.
    pub height: u64,
    /// Its place; `None` for the pointer of the height.
    pub pointer: Option<Pointer>,
    /// The block before, to be checked; `None` for the one sent before, or the head.
    pub parent: Option<Pointer>,
    /// Its own time, nanoseconds since 1970.
    pub time: Option<i64>,
}

impl Begin {
    /// A block at a height, without a time.
    pub fn at(height: u64) -> Self {
        Self { height, ..Self::default() }
    }
}

/// A block is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Its height.
    pub height: u64,
    /// Its place.
    pub pointer: Pointer,
    /// Its digest; the zero digest if it is unverifiable.
    pub digest: Digest,
    /// What it survives.
    pub durability: Durability,
    /// The journal had it already, with the same state.
    pub duplicate: bool,
    /// It is older than what the journal kept: nobody can tell whether it is the same.
    pub unverifiable: bool,
}

/// A client of the capture API for one ingestor. Does no I/O by itself.
#[derive(Clone, Debug)]
pub struct Capturer {
    client: pb::capture_client::CaptureClient<Transport>,
    ingestor: IngestorName,
}

impl Capturer {
    /// For an ingestor, at a producer.
    pub fn new(transport: Transport, ingestor: IngestorName) -> Self {
        let client = pb::capture_client::CaptureClient::new(transport)
            .max_encoding_message_size(MAX_MESSAGE)
            .max_decoding_message_size(MAX_MESSAGE);
        Self { client, ingestor }
    }

    /// Where to go on.
    ///
    /// # Errors
    /// `NotOwner` with the owner's address at a standby; see [`CaptureError`].
    pub async fn head(&self) -> Result<Standing, CaptureError> {
        let request = pb::CaptureHeadRequest { ingestor: self.ingestor.to_string() };
        let response = self.client.clone().capture_head(request).await?.into_inner();
        let head = convert::head(response.head).map_err(CaptureError::malformed)?;
        Ok(Standing { head, epoch: Epoch::from_u64(response.epoch) })
    }

    /// Begins to send. Only one program captures an ingestor at a time: an earlier connection is
    /// ended.
    ///
    /// # Errors
    /// See [`CaptureError`].
    pub async fn open(&self) -> Result<(Blocks, Acks), CaptureError> {
        let (queue, waiting) = mpsc::channel(WAITING);
        let start = pb::CaptureStart { ingestor: self.ingestor.to_string() };
        let start =
            pb::CaptureRequest { message: Some(pb::capture_request::Message::Start(start)) };
        let requests = tokio_stream::once(start).chain(ReceiverStream::new(waiting));
        let stream = self.client.clone().capture(requests).await?.into_inner();
        let blocks =
            Blocks { queue: Some(queue), pending: BytesMut::new(), changes: 0, inside: false };
        Ok((blocks, Acks { stream: Some(stream) }))
    }

    /// Asks for the head and begins to send, trying again for up to `patience` while the producer
    /// cannot be reached or starts over.
    ///
    /// # Errors
    /// The last failure; at once for what another try does not change.
    pub async fn resume(
        &self,
        patience: Duration,
    ) -> Result<(Blocks, Acks, Option<Head>), CaptureError> {
        let deadline = Instant::now() + patience;
        let mut backoff = Backoff::default();
        loop {
            let attempt = async {
                let (blocks, acks) = self.open().await?;
                Ok((blocks, acks, self.head().await?.head))
            };
            match attempt.await {
                Err(error) if CaptureError::is_transient(&error) => {
                    let wait = backoff.next_delay();
                    if Instant::now() + wait >= deadline {
                        return Err(error);
                    }
                    tokio::time::sleep(wait).await;
                }
                other => return other,
            }
        }
    }
}

/// The sending half. Every call waits while the producer is behind: memory stays bounded however
/// large a block is.
#[derive(Debug)]
pub struct Blocks {
    queue: Option<mpsc::Sender<pb::CaptureRequest>>,
    pending: BytesMut,
    changes: u32,
    inside: bool,
}

impl Blocks {
    /// Begins a block.
    ///
    /// # Errors
    /// `Ended` when the producer has ended the connection; [`Acks::next`] tells why.
    pub async fn begin(&mut self, begin: Begin) -> Result<(), CaptureError> {
        if self.inside {
            return Err(CaptureError::Usage("end the block before the next one begins"));
        }
        (self.inside, self.changes) = (true, 0);
        self.send(pb::capture_request::Message::Begin(pb::CaptureBegin {
            height: begin.height,
            pointer: begin.pointer.map(|pointer| pointer.to_bytes()).unwrap_or_default(),
            parent: begin.parent.map(|parent| parent.to_bytes()),
            time: begin.time.map(convert::timestamp),
        }))
        .await
    }

    /// Adds one change; they go out in messages of about 256 KiB.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub async fn change(
        &mut self,
        store: &str,
        op: Op,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), CaptureError> {
        self.expect_block()?;
        put_change(store, op, key, value, &mut self.pending);
        self.changes = self.changes.saturating_add(1);
        if self.pending.len() >= PIECE { self.flush().await } else { Ok(()) }
    }

    /// Adds a region of changes: elements of field 15 in canonical form, as a frame has them. It
    /// may be of any size; it is sent in pieces.
    ///
    /// # Errors
    /// `Changes` for a region that is not one; as [`Self::begin`].
    pub async fn changes(&mut self, mut region: Bytes) -> Result<(), CaptureError> {
        self.expect_block()?;
        self.flush().await?;
        while !region.is_empty() {
            let (mut cut, mut count) = (0, 0);
            for element in Elements::new(&region) {
                let size = element?.raw.len();
                if cut > 0 && cut + size > PIECE {
                    break;
                }
                cut += size;
                count += 1;
            }
            self.changes = self.changes.saturating_add(count);
            self.send(pb::capture_request::Message::Changes(region.split_to(cut))).await?;
        }
        Ok(())
    }

    /// Adds a piece of the block's metadata; all pieces of a block have one type.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub async fn metadata(
        &mut self,
        type_url: impl Into<String>,
        value: Bytes,
    ) -> Result<(), CaptureError> {
        self.expect_block()?;
        self.flush().await?;
        let type_url = type_url.into();
        let metadata = pb::BlockMetadata { type_url, value };
        self.send(pb::capture_request::Message::Metadata(metadata)).await
    }

    /// Ends the block; the producer compares the number of changes.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub async fn end(&mut self) -> Result<(), CaptureError> {
        self.expect_block()?;
        self.flush().await?;
        self.inside = false;
        let end = pb::CaptureEnd { changes: Some(self.changes) };
        self.send(pb::capture_request::Message::End(end)).await
    }

    /// Nothing more will be sent; acknowledgements of what was sent still come, then `None`.
    pub fn finish(&mut self) {
        self.queue = None;
    }

    const fn expect_block(&self) -> Result<(), CaptureError> {
        if self.inside { Ok(()) } else { Err(CaptureError::Usage("begin a block first")) }
    }

    async fn flush(&mut self) -> Result<(), CaptureError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let region = mem::take(&mut self.pending).freeze();
        self.send(pb::capture_request::Message::Changes(region)).await
    }

    async fn send(&self, message: pb::capture_request::Message) -> Result<(), CaptureError> {
        let queue = self.queue.as_ref().ok_or(CaptureError::Ended)?;
        let request = pb::CaptureRequest { message: Some(message) };
        queue.send(request).await.map_err(|_| CaptureError::Ended)
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct Acks {
    stream: Option<Streaming<pb::CaptureResponse>>,
}

impl Acks {
    /// The acknowledgement of the next block; `None` after [`Blocks::finish`] when every block
    /// was acknowledged. Cancel safe.
    ///
    /// # Errors
    /// Why the producer ended the connection. Blocks before the named one were acknowledged.
    pub async fn next(&mut self) -> Result<Option<Ack>, CaptureError> {
        let Some(stream) = &mut self.stream else { return Err(CaptureError::Ended) };
        match stream.message().await {
            Ok(Some(response)) => ack(response).map(Some).map_err(CaptureError::malformed),
            Ok(None) => Ok(None),
            Err(status) => {
                self.stream = None;
                Err(status.into())
            }
        }
    }
}

fn ack(response: pb::CaptureResponse) -> Result<Ack, convert::ConvertError> {
    Ok(Ack {
        height: response.height,
        pointer: convert::pointer("ack.pointer", response.pointer)?,
        digest: convert::digest("ack.digest", &response.digest)?.unwrap_or_default(),
        durability: convert::durability(response.durability)?,
        duplicate: response.duplicate,
        unverifiable: response.unverifiable,
    })
}
