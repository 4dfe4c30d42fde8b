//! The journal behind a router, over the public subscription.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use sluice_client::subscribe::{Gap, Item, SubscribeOptions, Subscriber};
use sluice_model::{IngestorName, Position, StartPosition};
use sluice_proto::{convert, v1 as pb};

use super::{Block, Scope, Side, Step, fold::Fold, lineage::Lineage, nothing};
use crate::{
    connect::Server,
    exit::{Exit, Failure},
};

/// How long a router that is gone is waited for.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// Reads a journal from its oldest block of the range to the head that it had at the begin.
#[derive(Debug)]
pub(super) struct RouterSide {
    server: Server,
    ingestor: IngestorName,
    subscriber: Subscriber,
    fold: Fold,
    lineage: Lineage,
    scope: Arc<Scope>,
    first: u64,
    /// The head at the begin; the read ends there.
    stop: Position,
    last: u64,
    ended: bool,
    steps: VecDeque<Step>,
}

impl RouterSide {
    /// Asks for the bounds, and for the rewinds between them if there are any.
    pub(super) async fn open(
        server: &Server,
        ingestor: &IngestorName,
        scope: &Arc<Scope>,
    ) -> Result<Self, Failure> {
        let journal = server.journal(ingestor).await?;
        let (oldest, head) = bounds(server, ingestor, journal)?;
        let first = scope.from.map_or(oldest, |from| from.max(oldest));
        if first > head.height {
            let message = format!(
                "{ingestor} at {} has the heights {oldest} to {}, none from {first} on",
                server.url(),
                head.height
            );
            return Err(
                Failure::new(Exit::NotFound, message).fix("the same with a lower --from, or later")
            );
        }
        let start = StartPosition::Height(first);
        let mut side = Self {
            server: server.clone(),
            ingestor: ingestor.clone(),
            subscriber: subscriber(server, ingestor, start.clone(), scope),
            fold: Fold::new(Arc::clone(scope)),
            lineage: Lineage::default(),
            scope: Arc::clone(scope),
            first,
            stop: head.position(),
            last: head.height,
            ended: false,
            steps: VecDeque::new(),
        };
        if head.generation.0 > 0 {
            side.lineage = side.rewinds(start).await?;
        }
        Ok(side)
    }

    /// Every rewind from the begin to the head. Reads the index only.
    async fn rewinds(&self, start: StartPosition) -> Result<Lineage, Failure> {
        let mut options = SubscribeOptions::new(self.ingestor.clone(), start);
        options.filter = nothing();
        options.give_up_after = Some(GIVE_UP_AFTER);
        let mut subscriber = Subscriber::new(self.server.transport(), options);
        let mut lineage = Lineage::default();
        loop {
            let item = subscriber.next().await.map_err(|error| self.failed(error.into()))?;
            if let Some(Item::Rewind(rewind)) = &item {
                lineage.rewound(rewind.through.generation, rewind.base.pointer.clone());
            }
            let at = subscriber.checkpoint().map(|checkpoint| checkpoint.position);
            if item.is_none() || at.is_some_and(|at| at >= self.stop) {
                return Ok(lineage);
            }
        }
    }

    fn failed(&self, failure: Failure) -> Failure {
        let at = self.subscriber.checkpoint().map(|at| format!(" after {}", at.position));
        failure
            .context(format!(
                "{} at {}{}",
                self.ingestor,
                self.server.url(),
                at.unwrap_or_default()
            ))
            .fix(format!("sluice status --server {}", self.server.url()))
    }

    fn take(&mut self, item: Item) -> Result<(), Failure> {
        match item {
            Item::Frame(frame) => {
                let block = self.fold.frame(&frame)?;
                self.block(block);
            }
            Item::Through(through) => {
                let block = self.fold.through(&through.position, through.digest)?;
                self.block(block);
                if self.lineage.keeps(through.position.generation, &through.position.pointer) {
                    self.steps.push_back(Step::Through(through.height));
                }
            }
            Item::Gap(gap) => {
                self.fold.jump(&gap.through, None);
                self.gap(gap);
            }
            Item::Rewind(rewind) => self.fold.jump(&rewind.through, Some(rewind.base_digest)),
            Item::Heartbeat(_) | Item::Complete(_) => {}
        }
        Ok(())
    }

    fn block(&mut self, block: Option<Block>) {
        let Some(block) = block else { return };
        if self.lineage.keeps(block.generation, &block.pointer) {
            self.ended |= self.scope.is_behind(block.height);
            self.steps.push_back(Step::Block(block));
        }
    }

    /// A gap between pointers that are no heights explains nothing and is left out.
    fn gap(&mut self, gap: Gap) {
        let keeps = self.lineage.keeps(gap.through.generation, &gap.through.pointer);
        if let Some((from, to)) = gap.from.height().zip(gap.to.height()).filter(|_| keeps) {
            self.steps.push_back(Step::Gap { from, to, cause: gap.cause });
        }
    }
}

/// Everything that counts, from here on.
fn subscriber(
    server: &Server,
    ingestor: &IngestorName,
    start: StartPosition,
    scope: &Scope,
) -> Subscriber {
    let mut options = SubscribeOptions::new(ingestor.clone(), start);
    options.filter = scope.stores.spec().clone();
    options.metadata = scope.whole;
    options.give_up_after = Some(GIVE_UP_AFTER);
    Subscriber::new(server.transport(), options)
}

/// The oldest height and the head.
fn bounds(
    server: &Server,
    ingestor: &IngestorName,
    journal: pb::JournalStatus,
) -> Result<(u64, sluice_model::Head), Failure> {
    let wrong = |error: convert::ConvertError| {
        Failure::new(Exit::Failed, format!("{} answered nonsense: {error}", server.url()))
            .fix(format!("sluice status --server {}", server.url()))
    };
    match convert::head(journal.head).map_err(wrong)? {
        Some(head) => Ok((journal.oldest_height, head)),
        None => {
            let message = format!("{ingestor} at {} has no block yet", server.url());
            Err(Failure::new(Exit::NotFound, message)
                .fix(format!("sluice ingestors get {ingestor} --server {}", server.url())))
        }
    }
}

#[async_trait]
impl Side for RouterSide {
    fn first(&self) -> u64 {
        self.first
    }

    fn last(&self) -> Option<u64> {
        Some(self.last)
    }

    async fn next(&mut self) -> Result<Option<Step>, Failure> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Ok(Some(step));
            }
            if self.ended {
                return Ok(None);
            }
            let next = self.subscriber.next().await;
            let Some(item) = next.map_err(|error| self.failed(error.into()))? else {
                self.ended = true;
                continue;
            };
            let taken = self.take(item);
            taken.map_err(|failure| self.failed(failure))?;
            // Inside of a block the checkpoint lies before its end, and so before the stop.
            let at = self.subscriber.checkpoint().map(|checkpoint| checkpoint.position);
            if !self.ended && at.is_some_and(|at| at >= self.stop) {
                self.ended = true;
                self.steps.push_back(Step::Through(self.last));
            }
        }
    }
}
