//! The other replicas of an ingestor, found through the queue for its lock.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use sluice_client::coordination::{Coordination, LockStatus, Member, ingestor_lock};
use sluice_frame::BlockEnd;
use sluice_model::IngestorName;
use sluice_proto::{MAX_MESSAGE, convert, v1 as pb};
use sluice_service::{Transport, transport};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::tail::JournalBlock;
use crate::spool::Place;

/// How long a replica may take to answer a question that it need not wait for.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a replica may take for the next frame of a block.
const FRAME_PATIENCE: Duration = Duration::from_secs(10);
/// Connections kept.
const MAX_LINKS: usize = 64;

/// Connects to an address, or says why it cannot.
type Connect = dyn Fn(&str) -> Result<Transport, String> + Send + Sync;

/// How the address of a replica becomes a connection.
#[derive(Clone)]
pub struct Dial(Arc<Connect>);

impl Dial {
    /// With this way to connect.
    pub fn new(dial: impl Fn(&str) -> Result<Transport, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(dial))
    }
}

impl Default for Dial {
    /// Over plain sockets.
    fn default() -> Self {
        Self::new(|url| transport::remote(url).map_err(|error| error.to_string()))
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}

/// The other replicas.
///
/// # Contract
/// Nothing here waits longer than some seconds. A replica that cannot be reached is left out, or
/// answers with an error; nobody depends on one.
#[async_trait]
pub trait Peers: Send + Sync {
    /// Where this process is, for people.
    fn here(&self) -> &str;
    /// Those that wait for the ingestor's lock, without this process.
    async fn standbys(&self, ingestor: &IngestorName) -> Vec<Arc<dyn Peer>>;
    /// What the owner does; `None` if nobody can tell, or if it is this process.
    async fn owner(&self, ingestor: &IngestorName) -> Option<Owner>;
}

/// What an owner does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its address.
    pub address: String,
    /// It captures, and nobody has stopped it.
    pub working: bool,
    /// The newest height that its source is known to have.
    pub height: u64,
}

/// What a replica says of a block.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It has captured it.
    Captured(BlockEnd),
    /// It has not got so far.
    Pending,
    /// It does not have it and will not get it.
    Passed,
}

/// Why a replica did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PeerError(pub String);

/// One replica.
#[async_trait]
pub trait Peer: Send + Sync {
    /// Who it is, for people.
    fn name(&self) -> &str;
    /// What it has captured of a block; waits so long for one that is still to come.
    async fn digests(
        &self,
        ingestor: &IngestorName,
        place: &Place,
        wait: Duration,
    ) -> Result<Answer, PeerError>;
    /// A block's frames. Nothing of them is checked.
    async fn fetch(
        &self,
        ingestor: &IngestorName,
        place: &Place,
    ) -> Result<Box<dyn Frames>, PeerError>;
}

/// The frames of a block on their way.
#[async_trait]
pub trait Frames: Send {
    /// The next one, encoded; `None` after the last.
    async fn next(&mut self) -> Result<Option<Bytes>, PeerError>;
}

/// The replicas as the coordinator knows them.
#[derive(Debug)]
pub struct RemotePeers {
    coordination: Coordination,
    dial: Dial,
    /// Our own address, which is no other replica.
    own: String,
    links: Mutex<HashMap<String, Transport>>,
}

impl RemotePeers {
    /// Every replica but the one at `own`.
    pub fn new(coordination: Coordination, dial: Dial, own: String) -> Self {
        Self { coordination, dial, own, links: Mutex::default() }
    }

    async fn lock(&self, ingestor: &IngestorName) -> Option<LockStatus> {
        let name = ingestor_lock(ingestor);
        let locks = timeout(PATIENCE, self.coordination.locks(&name)).await.ok()?.ok()?;
        locks.into_iter().find(|lock| lock.lock == name)
    }

    fn is_other(&self, member: &Member) -> bool {
        !member.address.is_empty() && member.address != self.own
    }

    fn link(&self, address: &str) -> Result<Transport, PeerError> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(address) {
            return Ok(link.clone());
        }
        let link = (self.dial.0)(address).map_err(PeerError)?;
        if links.len() >= MAX_LINKS {
            links.clear();
        }
        links.insert(address.to_owned(), link.clone());
        Ok(link)
    }
}

#[async_trait]
impl Peers for RemotePeers {
    fn here(&self) -> &str {
        &self.own
    }

    async fn standbys(&self, ingestor: &IngestorName) -> Vec<Arc<dyn Peer>> {
        let waiters = self.lock(ingestor).await.map(|lock| lock.waiters).unwrap_or_default();
        let mut peers: Vec<Arc<dyn Peer>> = Vec::new();
        for member in waiters.iter().filter(|member| self.is_other(member)) {
            match self.link(&member.address) {
                _ if peers.iter().any(|peer| peer.name() == member.address) => {}
                Ok(link) => {
                    peers.push(Arc::new(RemotePeer { address: member.address.clone(), link }));
                }
                Err(error) => {
                    tracing::debug!(%ingestor, address = member.address, %error, "no such address");
                }
            }
        }
        peers
    }

    async fn owner(&self, ingestor: &IngestorName) -> Option<Owner> {
        let member = self.lock(ingestor).await?.owner?;
        if !self.is_other(&member) {
            return None;
        }
        let link = self.link(&member.address).ok()?;
        let mut client = pb::producer_client::ProducerClient::new(link);
        let asked = client.list_ingestors(pb::ListIngestorsRequest {});
        let listed = timeout(PATIENCE, asked).await.ok()?.ok()?.into_inner().ingestors;
        let status = listed.into_iter().find(|status| status.ingestor == ingestor.as_str())?;
        let state = status.state();
        let head = status.head.map_or(0, |head| head.height);
        Some(Owner {
            address: member.address,
            working: matches!(state, pb::IngestorState::Active | pb::IngestorState::Opening),
            height: status.source_height.max(head),
        })
    }
}

/// A replica behind its Spool service.
struct RemotePeer {
    address: String,
    link: Transport,
}

impl RemotePeer {
    fn client(&self) -> pb::spool_client::SpoolClient<Transport> {
        pb::spool_client::SpoolClient::new(self.link.clone()).max_decoding_message_size(MAX_MESSAGE)
    }
}

#[async_trait]
impl Peer for RemotePeer {
    fn name(&self) -> &str {
        &self.address
    }

    async fn digests(
        &self,
        ingestor: &IngestorName,
        place: &Place,
        wait: Duration,
    ) -> Result<Answer, PeerError> {
        let mut client = self.client();
        let asked = client.spool_digests(pb::SpoolDigestsRequest {
            ingestor: ingestor.to_string(),
            generation: place.0.0,
            pointer: place.1.to_bytes(),
            wait: Some(convert::duration(wait)),
        });
        let answer = timeout(wait + PATIENCE, asked).await.map_err(|_| late())??.into_inner();
        match answer.answer() {
            pb::SpoolAnswer::Captured => {
                let block =
                    answer.block.ok_or_else(|| PeerError("it left the block out".into()))?;
                let block = JournalBlock::try_from(block)
                    .map_err(|error| PeerError(format!("its answer cannot be read: {error}")))?;
                if (block.head.generation, &block.head.pointer) != (place.0, &place.1) {
                    let got = block.head.pointer;
                    return Err(PeerError(format!("it answered for block {got}")));
                }
                Ok(Answer::Captured(block.end))
            }
            pb::SpoolAnswer::Pending => Ok(Answer::Pending),
            pb::SpoolAnswer::Passed | pb::SpoolAnswer::Unspecified => Ok(Answer::Passed),
        }
    }

    async fn fetch(
        &self,
        ingestor: &IngestorName,
        place: &Place,
    ) -> Result<Box<dyn Frames>, PeerError> {
        let mut client = self.client();
        let asked = client.spool_fetch(pb::SpoolFetchRequest {
            ingestor: ingestor.to_string(),
            generation: place.0.0,
            pointer: place.1.to_bytes(),
        });
        let stream = timeout(PATIENCE, asked).await.map_err(|_| late())??.into_inner();
        Ok(Box::new(RemoteFrames { stream }))
    }
}

struct RemoteFrames {
    stream: Streaming<pb::SpoolFetchResponse>,
}

#[async_trait]
impl Frames for RemoteFrames {
    async fn next(&mut self) -> Result<Option<Bytes>, PeerError> {
        let message = timeout(FRAME_PATIENCE, self.stream.message()).await.map_err(|_| late())?;
        Ok(message?.map(|response| response.frame))
    }
}

fn late() -> PeerError {
    PeerError("it did not answer in time".to_owned())
}

impl From<Status> for PeerError {
    fn from(status: Status) -> Self {
        Self(status.message().to_owned())
    }
}
