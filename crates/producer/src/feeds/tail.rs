//! The digests of the journal's blocks as these become durable.

use async_trait::async_trait;
use sluice_frame::{BlockEnd, StateDigest};
use sluice_model::{Generation, Head, IngestorName, Pointer, Position, StartPosition};
use sluice_proto::{
    convert::{self, ConvertError},
    reason, v1 as pb,
};
use sluice_service::Transport;
use tonic::{Code, Status, Streaming};

/// What stands next in the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// A block.
    Block(JournalBlock),
    /// Blocks up to here are recorded as missing.
    Gap(Position),
    /// Another history begins.
    Rewind(Generation),
    /// The head, now and then.
    Head(Option<Head>),
}

/// A durable block.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalBlock {
    /// Its place, digest and time.
    pub head: Head,
    /// The block before.
    pub parent: Pointer,
    /// Its state digests.
    pub end: BlockEnd,
}

/// Where to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Since {
    /// The oldest block there is.
    Earliest,
    /// Strictly after a block.
    After(Position),
}

/// Why the journal does not tell.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// Retention has passed the position.
    #[error("the journal no longer has the block after {0}")]
    OutOfRange(String),
    /// The journal does not have the position, or does not exist yet.
    #[error("{0}")]
    NotThere(String),
    /// Asking again may help.
    #[error("the router: {0}")]
    Unavailable(String),
}

/// Follows one journal.
///
/// # Contract
/// Every durable block after the start comes once and in order, with the state digests of all its
/// stores. `next` waits at the head, and is cancel safe. After an error the tail is at its end.
#[async_trait]
pub trait Tail: Send {
    /// What comes next.
    async fn next(&mut self) -> Result<Told, TailError>;
}

/// Journals to follow.
#[async_trait]
pub trait Tails: Send + Sync {
    /// The last durable block; `None` for an empty journal.
    async fn head(&self, ingestor: &IngestorName) -> Result<Option<Head>, TailError>;
    /// Follows a journal.
    async fn follow(
        &self,
        ingestor: &IngestorName,
        since: Since,
    ) -> Result<Box<dyn Tail>, TailError>;
}

/// The journals behind a router.
#[derive(Clone, Debug)]
pub struct RemoteTails {
    transport: Transport,
}

impl RemoteTails {
    /// The router at this transport.
    pub const fn new(transport: Transport) -> Self {
        Self { transport }
    }

    fn client(&self) -> pb::router_client::RouterClient<Transport> {
        pb::router_client::RouterClient::new(self.transport.clone())
    }
}

#[async_trait]
impl Tails for RemoteTails {
    async fn head(&self, ingestor: &IngestorName) -> Result<Option<Head>, TailError> {
        let request = pb::HeadRequest { ingestor: ingestor.to_string() };
        let status = self.client().head(request).await?.into_inner().journal.unwrap_or_default();
        Ok(convert::head(status.head)?)
    }

    async fn follow(
        &self,
        ingestor: &IngestorName,
        since: Since,
    ) -> Result<Box<dyn Tail>, TailError> {
        let start = match since {
            Since::Earliest => pb::Start::from(&StartPosition::Earliest),
            Since::After(position) => {
                let position = Some((&position).into());
                let after = pb::start::After { position, digest: bytes::Bytes::new() };
                pb::Start { at: Some(pb::start::At::After(after)) }
            }
        };
        let ingestor = ingestor.to_string();
        let request = pb::BlockDigestsRequest { ingestor, start: Some(start) };
        let stream = self.client().block_digests(request).await?.into_inner();
        Ok(Box::new(RemoteTail { stream }))
    }
}

struct RemoteTail {
    stream: Streaming<pb::BlockDigestsResponse>,
}

#[async_trait]
impl Tail for RemoteTail {
    async fn next(&mut self) -> Result<Told, TailError> {
        use pb::block_digests_response::Message;
        loop {
            let Some(response) = self.stream.message().await? else {
                return Err(TailError::Unavailable("it ended the answer".to_owned()));
            };
            return Ok(match response.message {
                // A message that this version does not know.
                None => continue,
                Some(Message::Started(started)) => Told::Head(convert::head(started.head)?),
                Some(Message::Heartbeat(heartbeat)) => Told::Head(convert::head(heartbeat.head)?),
                Some(Message::Block(block)) => Told::Block(block.try_into()?),
                Some(Message::Gap(notice)) => {
                    let through = notice.through.ok_or_else(|| missing("gap.through"))?;
                    Told::Gap(through.try_into()?)
                }
                Some(Message::Rewind(notice)) => {
                    let start = notice.generation_start;
                    let start = start.ok_or_else(|| missing("rewind.generation_start"))?;
                    Told::Rewind(Generation(start.generation))
                }
            });
        }
    }
}

fn missing(field: &'static str) -> ConvertError {
    ConvertError::new(field, "it is missing")
}

impl TryFrom<pb::BlockDigest> for JournalBlock {
    type Error = ConvertError;

    fn try_from(block: pb::BlockDigest) -> Result<Self, ConvertError> {
        let digest = |field, bytes| Ok(convert::digest(field, bytes)?.unwrap_or_default());
        Ok(Self {
            head: Head {
                generation: Generation(block.generation),
                pointer: convert::pointer("block.pointer", block.pointer.clone())?,
                height: block.height,
                digest: digest("block.digest", &block.digest)?,
                time: block.time.as_ref().and_then(convert::nanos),
                appended: 0,
            },
            parent: convert::pointer("block.parent", block.parent.clone())?,
            end: BlockEnd {
                digest: digest("block.digest", &block.digest)?,
                parent_digest: digest("block.parent_digest", &block.parent_digest)?,
                states: states(&block.states)?,
                metadata_digest: convert::digest("block.metadata_digest", &block.metadata_digest)?,
                ..BlockEnd::default()
            },
        })
    }
}

fn states(states: &[pb::StateDigest]) -> Result<Vec<StateDigest>, ConvertError> {
    let state = |state: &pb::StateDigest| {
        let digest = convert::digest("block.states", &state.digest)?.unwrap_or_default();
        Ok(StateDigest { store: state.store_key.clone(), digest })
    };
    states.iter().map(state).collect()
}

impl From<Status> for TailError {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        match (reason::of(&status), status.code()) {
            (Some(reason::OUT_OF_RANGE), _) => Self::OutOfRange(message),
            (Some(reason::DIVERGED | reason::NOT_HERE), _) | (_, Code::NotFound) => {
                Self::NotThere(message)
            }
            _ => Self::Unavailable(message),
        }
    }
}

impl From<ConvertError> for TailError {
    fn from(error: ConvertError) -> Self {
        Self::Unavailable(format!("its answer cannot be read: {error}"))
    }
}
