//! What a replica does while another one owns the ingestor.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
};

use sluice_client::backoff::Backoff;
use sluice_model::{Digest, Generation, Head, Pointer, Position, TopicRules};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    assemble::Assembler,
    compare::Comparer,
    session::{BesideError, Ended, Session, Start},
    tail::{Since, Tail, TailError},
};
use crate::{source::Source, spool::Place, stores::Stores};

/// Captures beside while somebody else owns the ingestor.
#[derive(Debug)]
pub struct Beside {
    shared: Arc<Shared>,
    topics: TopicRules,
    stores: Stores,
    metadata_limit: usize,
    comparer: Comparer,
}

/// Sets that this process stands by, until it is dropped.
struct StandingBy(Arc<Shared>);

impl Drop for StandingBy {
    fn drop(&mut self) {
        self.0.standing_by.store(false, Ordering::Release);
        self.0.spool.tell(|progress| progress.capturing = false);
    }
}

impl Beside {
    pub(super) fn new(
        shared: Arc<Shared>,
        topics: TopicRules,
        stores: Stores,
        metadata_limit: usize,
    ) -> Self {
        Self { shared, topics, stores, metadata_limit, comparer: Comparer::default() }
    }

    /// Captures beside until `waiting` is over, closes the source's feed, and gives what `waiting`
    /// gave. Nothing that goes wrong here ends the wait: it is told, and tried again.
    ///
    /// # Cancel safety
    /// Dropping it drops `waiting` and leaves the spool as it was last synced. The source's tasks
    /// then end by themselves, soon, but not before this returns.
    pub async fn run_until<T>(
        &mut self,
        source: &mut dyn Source,
        waiting: impl Future<Output = T>,
    ) -> T {
        let stop = CancellationToken::new();
        let standing_by = StandingBy(self.shared.clone());
        self.shared.standing_by.store(true, Ordering::Release);
        let waiting = async {
            let over = waiting.await;
            stop.cancel();
            over
        };
        let (over, ()) = tokio::join!(waiting, Box::pin(self.capture(source, &stop)));
        drop(standing_by);
        over
    }

    async fn capture(&mut self, source: &mut dyn Source, stop: &CancellationToken) {
        let timing = self.shared.options.timing;
        let mut backoff = Backoff::new(timing.settle, timing.retry);
        // Whoever gets the lock at once need not begin something else first.
        let mut wait = timing.settle;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            let ended = Box::pin(self.session(source, stop, &mut backoff)).await;
            let shared = &self.shared;
            wait = match ended {
                Ok(Ended::Stopped) => return,
                Ok(Ended::Again) => timing.settle,
                Err(error) => {
                    let cause = error.to_string();
                    tracing::warn!(ingestor = %shared.ingestor, cause, "capturing beside; trying again");
                    shared.note("beside", Some(format!("not capturing beside: {cause}")));
                    shared.spool.tell(|progress| progress.cause = cause);
                    backoff.next_delay()
                }
            };
            shared.spool.tell(|progress| progress.capturing = false);
        }
    }

    /// One run of the source, from where the spool and the journal end.
    async fn session(
        &mut self,
        source: &mut dyn Source,
        stop: &CancellationToken,
        backoff: &mut Backoff,
    ) -> Result<Ended, BesideError> {
        let begin = async {
            let start = self.start().await?;
            let tail = self.follow(&start).await?;
            Ok::<_, BesideError>((start, tail))
        };
        let (start, tail) = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(Ended::Stopped),
            begun = begin => begun?,
        };
        let mut feed = source.blocks(start.after.as_ref()).await?;
        let shared = &self.shared;
        shared.note("beside", None);
        shared.spool.tell(|progress| {
            progress.capturing = true;
            progress.cause = String::new();
            progress.synced = Some(start.reached());
            progress.height = start.after.as_ref().map_or(0, |head| head.height);
        });
        let assembler = Assembler::new(
            shared.ingestor.clone(),
            start.generation,
            &self.topics,
            self.metadata_limit,
            start.reached().1,
        );
        let mut session =
            Session::new(shared, assembler, &mut self.stores, &mut self.comparer, start, tail);
        let ended = session.run(&mut feed, source, stop).await;
        if session.progressed() {
            backoff.reset();
        }
        feed.close().await;
        ended
    }

    /// Where to go on: behind the spool's last block or the journal's head, whichever is later.
    async fn start(&self) -> Result<Start, BesideError> {
        let shared = &self.shared;
        let head = shared.seams.tails.head(&shared.ingestor).await?;
        let generation = head.as_ref().map_or(Generation(0), |head| head.generation);
        let (first, last) = shared
            .spool
            .with(move |spool| {
                // What was captured in another history says nothing about this one.
                spool.abort();
                spool.remove_where(|place| place.0 != generation)?;
                let first = spool.first().map(|(_, entry)| entry.parent.clone());
                let last = spool.last().map(|(place, entry)| (place.clone(), entry.height));
                Ok((first, last))
            })
            .await?;
        let durable = head.as_ref().map_or_else(
            || (generation, Pointer::ORIGIN),
            |head| (head.generation, head.pointer.clone()),
        );
        let height = head.as_ref().map_or(0, |head| head.height);
        let after = match last {
            Some((place, height)) if place > durable => Some(head_at(place, height)),
            _ => head,
        };
        let compared =
            first.map_or_else(|| durable.1.clone(), |parent| parent.min(durable.1.clone()));
        Ok(Start { generation, after, compared, durable, height })
    }

    /// Follows the journal from the oldest block that is to be compared.
    async fn follow(&self, start: &Start) -> Result<Box<dyn Tail>, BesideError> {
        let (tails, ingestor) = (&self.shared.seams.tails, &self.shared.ingestor);
        let since = if start.compared.is_origin() {
            Since::Earliest
        } else {
            Since::After(Position::end_of(start.generation, start.compared.clone()))
        };
        match tails.follow(ingestor, since).await {
            // Blocks that retention has taken cannot be compared any more.
            Err(TailError::OutOfRange(_)) => Ok(tails.follow(ingestor, Since::Earliest).await?),
            other => Ok(other?),
        }
    }
}

/// A block as the place to go on behind; sources look at pointer and height only.
fn head_at(place: Place, height: u64) -> Head {
    let (generation, pointer) = place;
    Head { generation, pointer, height, digest: Digest::ZERO, time: None, appended: 0 }
}
