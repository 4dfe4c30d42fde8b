//! The runtime's two seams over the real services: a router and a coordinator.

use std::time::Duration;

use async_trait::async_trait;
use sluice_client::{
    coordination::{Coordination, CoordinationError, Lock, PutCheckpoint, Session},
    subscribe::{self, Broken, SubscribeError, SubscribeOptions, Subscriber},
};
use sluice_model::{Checkpoint, Epoch, IngestorName, Position, StartPosition};
use sluice_proto::{convert, reason, v1 as pb};
use sluice_service::Transport;
use tonic::Status;

use crate::{
    batch::MarkKind,
    feed::{Feed, FeedError, FeedRequest, Item, Journal},
    owners::{OwnerError, Owners, Put, StreamState, Tenure, Under},
};

/// Without an answer of the router for this long a stream says so, and gives its lock to a
/// process that may reach one.
const GIVE_UP: Duration = Duration::from_secs(30);

/// Longest wait for the place that a start stands for.
const LOCATE: Duration = Duration::from_secs(10);

/// The journals of a router.
#[derive(Clone, Debug)]
pub struct RouterJournal {
    transport: Transport,
}

impl RouterJournal {
    /// Over a transport. Without I/O.
    pub const fn new(transport: Transport) -> Self {
        Self { transport }
    }

    async fn started(&self, request: pb::SubscribeRequest) -> Result<pb::Started, FeedError> {
        let refused = |status: Status| FeedError::of_status(&status);
        let mut client = pb::router_client::RouterClient::new(self.transport.clone())
            .max_decoding_message_size(sluice_proto::MAX_MESSAGE);
        let mut stream = client.subscribe(request).await.map_err(refused)?.into_inner();
        match stream.message().await.map_err(refused)?.and_then(|first| first.message) {
            Some(pb::subscribe_response::Message::Started(started)) => Ok(started),
            _ => Err(FeedError::Unavailable("the router did not say where it starts".to_owned())),
        }
    }
}

#[async_trait]
impl Journal for RouterJournal {
    async fn locate(
        &self,
        ingestor: &IngestorName,
        start: &StartPosition,
    ) -> Result<Checkpoint, FeedError> {
        let request = pb::SubscribeRequest {
            ingestor: ingestor.to_string(),
            start: Some(start.into()),
            ..pb::SubscribeRequest::default()
        };
        let late = || FeedError::Unavailable(format!("no answer of the router for {LOCATE:?}"));
        let asked = tokio::time::timeout(LOCATE, self.started(request));
        let started = asked.await.map_err(|_| late())??;
        let unreadable = |error: convert::ConvertError| FeedError::Unavailable(error.to_string());
        let after = started
            .after
            .ok_or_else(|| FeedError::Unavailable("the router started nowhere".to_owned()))?;
        let position = Position::try_from(after).map_err(unreadable)?;
        let head = convert::head(started.head).map_err(unreadable)?;
        let Some(head) = head else {
            return Err(FeedError::NotYet(format!("the journal of {ingestor} is empty")));
        };
        // The digest is known where the stream starts at the head.
        let digest = (head.position() == position).then_some(head.digest);
        Ok(Checkpoint { position, digest })
    }

    fn subscribe(&self, request: FeedRequest) -> Box<dyn Feed> {
        let at = request.after.position.to_string();
        let options = SubscribeOptions {
            filter: request.filter.spec().clone(),
            metadata: request.metadata,
            give_up_after: Some(GIVE_UP),
            ..SubscribeOptions::new(request.ingestor, request.after)
        };
        Box::new(RouterFeed { subscriber: Subscriber::new(self.transport.clone(), options), at })
    }
}

struct RouterFeed {
    subscriber: Subscriber,
    /// Where the feed began, for errors before the first item.
    at: String,
}

#[async_trait]
impl Feed for RouterFeed {
    async fn next(&mut self) -> Result<Item, FeedError> {
        match self.subscriber.next().await {
            Ok(Some(next)) => item(next),
            Ok(None) => Err(FeedError::Unavailable("the subscription ended".to_owned())),
            Err(error) => {
                let at = self.subscriber.checkpoint().map(|at| at.position.to_string());
                Err(FeedError::of_subscription(error, at.unwrap_or_else(|| self.at.clone())))
            }
        }
    }
}

fn item(item: subscribe::Item) -> Result<Item, FeedError> {
    Ok(match item {
        subscribe::Item::Frame(frame) => Item::Frame(frame),
        subscribe::Item::Through(through) => Item::Through {
            at: Checkpoint { position: through.position, digest: through.digest },
            height: through.height,
            head: through.head,
        },
        subscribe::Item::Gap(gap) => Item::Mark {
            what: MarkKind::Gap { from: gap.from, to: gap.to, cause: gap.cause },
            through: Some(gap.through),
        },
        subscribe::Item::Rewind(rewind) => Item::Mark {
            what: MarkKind::Rewind {
                generation: rewind.through.generation,
                base_generation: rewind.base.generation,
                base: rewind.base.pointer,
                digest: rewind.base_digest,
                reason: rewind.reason,
            },
            through: Some(rewind.through),
        },
        subscribe::Item::Heartbeat(head) => Item::Heartbeat(head),
        subscribe::Item::Complete(_) => {
            return Err(FeedError::Unavailable("the subscription ended".to_owned()));
        }
    })
}

impl FeedError {
    fn of_subscription(error: SubscribeError, at: String) -> Self {
        match error {
            SubscribeError::OutOfRange { oldest, message } => {
                Self::OutOfRange { at, oldest: oldest.map_or(message, |oldest| oldest.to_string()) }
            }
            SubscribeError::Diverged { message, .. } => Self::Diverged { at, detail: message },
            SubscribeError::DataLoss { message, .. } => Self::DataLoss(message),
            SubscribeError::Broken(broken @ Broken::Digest { .. }) => {
                Self::Diverged { at, detail: broken.to_string() }
            }
            SubscribeError::Broken(broken) => Self::Corrupt { at, detail: broken.to_string() },
            other => Self::Unavailable(other.to_string()),
        }
    }

    fn of_status(status: &Status) -> Self {
        let (at, detail) = ("its start".to_owned(), status.message().to_owned());
        match reason::of(status) {
            Some(reason::OUT_OF_RANGE) => Self::OutOfRange { at, oldest: detail },
            Some(reason::DIVERGED) => Self::Diverged { at, detail },
            Some(reason::CORRUPT) => Self::DataLoss(detail),
            Some(reason::NOT_HERE) => Self::NotYet(detail),
            _ => Self::Unavailable(detail),
        }
    }
}

/// The locks and checkpoints of a coordinator, under one session.
#[derive(Clone, Debug)]
pub struct CoordinatorOwners {
    coordination: Coordination,
    session: Session,
}

impl CoordinatorOwners {
    /// Under a session of this process.
    pub const fn new(coordination: Coordination, session: Session) -> Self {
        Self { coordination, session }
    }
}

#[async_trait]
impl Owners for CoordinatorOwners {
    async fn acquire(&self, lock: &str) -> Result<Box<dyn Tenure>, OwnerError> {
        let lock = self.session.acquire(lock).await.map_err(|error| owner_error(&error))?;
        Ok(Box::new(LockTenure { coordination: self.coordination.clone(), lock }))
    }
}

struct LockTenure {
    coordination: Coordination,
    lock: Lock,
}

#[async_trait]
impl Tenure for LockTenure {
    fn epoch(&self) -> Epoch {
        self.lock.epoch()
    }

    fn is_valid(&self) -> bool {
        self.lock.is_valid()
    }

    async fn lost(&self) -> String {
        self.lock.lost().await.to_string()
    }

    async fn state(&self, stream: &str) -> Result<StreamState, OwnerError> {
        let state =
            self.coordination.get_checkpoint(stream).await.map_err(|error| owner_error(&error))?;
        let version = state.version();
        let checkpoint = match state.checkpoint {
            None => None,
            Some(stored) => {
                let under: Under = stored
                    .filter
                    .parse()
                    .map_err(|error| OwnerError::Unavailable(format!("the checkpoint: {error}")))?;
                Some((stored.checkpoint, under))
            }
        };
        let (reset_epoch, start) = (state.reset_epoch, state.start);
        Ok(StreamState { checkpoint, version, reset_epoch, start })
    }

    async fn put(&self, put: &Put) -> Result<u64, OwnerError> {
        let put = PutCheckpoint {
            stream: put.stream.clone(),
            ingestor: put.ingestor.clone(),
            previous_version: put.previous,
            checkpoint: put.checkpoint.clone(),
            filter: put.under.to_string(),
            reset_epoch: put.reset_epoch,
        };
        self.coordination
            .put_checkpoint(&self.lock, &put)
            .await
            .map_err(|error| owner_error(&error))
    }

    async fn release(&self) {
        if let Err(error) = self.lock.release().await {
            tracing::info!(lock = self.lock.name(), %error, "lock left to run out");
        }
    }
}

fn owner_error(error: &CoordinationError) -> OwnerError {
    let text = error.to_string();
    match error {
        CoordinationError::LostOwnership { .. } => OwnerError::Lost(text),
        CoordinationError::CheckpointConflict { .. } => OwnerError::Conflict(text),
        _ => OwnerError::Unavailable(text),
    }
}
