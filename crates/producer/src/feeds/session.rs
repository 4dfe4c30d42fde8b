//! One run of capturing beside: the source's blocks go into the spool, the journal's blocks are
//! compared with them.

use std::{collections::VecDeque, mem};

use sluice_frame::Frame;
use sluice_model::{Digest, Durability, Generation, Head, Pointer};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    assemble::Assembler,
    compare::{Comparer, Verdict, alarm},
    lag::Lag,
    spooling,
    tail::{JournalBlock, Tail, TailError, Told},
};
use crate::{
    source::{Ack, Feed, Item, Refusal, Source, SourceError},
    spool::{Place, Spool, SpoolError},
    stores::Stores,
};

/// Bytes in the spool that are synced at the latest.
const SYNC_BYTES: u64 = 4 << 20;

/// Where a run begins.
#[derive(Debug)]
pub(super) struct Start {
    /// The present history.
    pub(super) generation: Generation,
    /// The block that the source goes on behind.
    pub(super) after: Option<Head>,
    /// Everything up to here is compared.
    pub(super) compared: Pointer,
    /// The journal's head.
    pub(super) durable: Place,
    /// Its height.
    pub(super) height: u64,
}

impl Start {
    /// The block that the source goes on behind.
    pub(super) fn reached(&self) -> Place {
        let pointer = self.after.as_ref().map(|head| head.pointer.clone()).unwrap_or_default();
        (self.generation, pointer)
    }
}

/// How a run ended without a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was asked to.
    Stopped,
    /// Something changed: begin again from what is there now.
    Again,
}

/// Why a run ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum BesideError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Spool(#[from] SpoolError),
    #[error(transparent)]
    Tail(#[from] TailError),
    #[error("{0}")]
    Block(String),
    #[error("the source ended without saying why")]
    Ended,
}

/// A block that the source is to hear of.
struct Owed {
    pointer: Pointer,
    /// It came again and was left out.
    again: bool,
}

pub(super) struct Session<'a> {
    shared: &'a Shared,
    assembler: Assembler<'a>,
    stores: &'a mut Stores,
    comparer: &'a mut Comparer,
    tail: Box<dyn Tail>,
    generation: Generation,
    /// Frames for which there is no room yet. The source is not read while there are any.
    waiting: VecDeque<Frame>,
    /// The last block in the spool, synced or not.
    reached: Place,
    height: u64,
    unsynced: bool,
    finished: bool,
    /// Blocks of this run that the source wants to hear of.
    owed: VecDeque<Owed>,
    /// The journal's next block, while the own source has not got so far.
    pending: Option<JournalBlock>,
    /// The journal is known to have everything up to here.
    durable: Place,
    durable_height: u64,
    /// A difference that could not be told yet.
    alarm: Option<(JournalBlock, String)>,
    /// It is time to tell it: at once, and then now and then.
    alarm_due: bool,
    lag: Lag,
    progressed: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        assembler: Assembler<'a>,
        stores: &'a mut Stores,
        comparer: &'a mut Comparer,
        start: Start,
        tail: Box<dyn Tail>,
    ) -> Self {
        Self {
            reached: start.reached(),
            height: start.after.as_ref().map_or(0, |head| head.height),
            generation: start.generation,
            durable: start.durable,
            durable_height: start.height,
            shared,
            assembler,
            stores,
            comparer,
            tail,
            waiting: VecDeque::new(),
            unsynced: false,
            finished: false,
            owed: VecDeque::new(),
            pending: None,
            alarm: None,
            alarm_due: false,
            lag: Lag::default(),
            progressed: false,
        }
    }

    /// True if blocks came or were compared.
    pub(super) const fn progressed(&self) -> bool {
        self.progressed
    }

    /// Runs until it is asked to stop, or something has to begin again.
    pub(super) async fn run(
        &mut self,
        feed: &mut Feed,
        source: &mut dyn Source,
        stop: &CancellationToken,
    ) -> Result<Ended, BesideError> {
        let mut tick = interval(self.shared.options.timing.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let room = self.waiting.is_empty() && !self.finished;
            let told = tokio::select! {
                biased;
                () = stop.cancelled() => return self.stop().await,
                _ = tick.tick() => self.tick().await?,
                told = self.tail.next(), if self.pending.is_none() && self.alarm.is_none() => {
                    self.told(told?).await?
                }
                item = feed.next(), if room => {
                    self.item(item.ok_or(BesideError::Ended)??).await?;
                    None
                }
                () = std::future::ready(()), if self.unsynced => {
                    self.sync().await?;
                    None
                }
            };
            if let Some(ended) = told {
                return Ok(ended);
            }
            let settled = tokio::select! {
                biased;
                () = stop.cancelled() => return self.stop().await,
                settled = self.settle(source) => settled?,
            };
            if let Some(ended) = settled {
                return Ok(ended);
            }
        }
    }

    /// What is whole is kept.
    async fn stop(&mut self) -> Result<Ended, BesideError> {
        if self.unsynced {
            self.sync().await?;
        }
        Ok(Ended::Stopped)
    }

    /// Takes what the source gives.
    async fn item(&mut self, item: Item) -> Result<(), BesideError> {
        match &item {
            Item::Progress { source_height } => {
                self.shared.status.source_height(*source_height);
                self.shared.spool.source_has(*source_height);
            }
            Item::Finished => self.finished = true,
            _ => {}
        }
        let assembled = self.assembler.take(item, self.stores).map_err(BesideError::Block)?;
        if assembled.aborted {
            let forget = |spool: &mut Spool| {
                spool.abort();
                Ok(())
            };
            self.shared.spool.with(forget).await?;
        }
        if let Some(pointer) = assembled.again {
            self.owed.push_back(Owed { pointer, again: true });
        }
        self.waiting.extend(assembled.frames);
        self.spool().await
    }

    /// Puts what waits into the spool, as far as there is room.
    async fn spool(&mut self) -> Result<(), BesideError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let (frames, durable) = (mem::take(&mut self.waiting), self.durable.clone());
        let spooled =
            self.shared.spool.with(move |spool| spooling::append(spool, frames, &durable)).await?;
        self.waiting = spooled.rest;
        for (place, height) in spooled.done {
            self.owed.push_back(Owed { pointer: place.1.clone(), again: false });
            (self.reached, self.height) = (place, height);
            self.unsynced = true;
            self.progressed = true;
        }
        let cause = spooled.full.clone().unwrap_or_default();
        self.shared.spool.tell(|progress| progress.cause = cause);
        self.shared
            .note("beside", spooled.full.map(|full| format!("not capturing beside: {full}")));
        if spooled.unsynced >= SYNC_BYTES {
            self.sync().await?;
        }
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), BesideError> {
        self.unsynced = false;
        Ok(self.shared.spool.sync(self.reached.clone(), self.height).await?)
    }

    /// Takes what the journal tells.
    async fn told(&mut self, told: Told) -> Result<Option<Ended>, BesideError> {
        match told {
            Told::Block(block) => self.pending = Some(block),
            Told::Head(Some(head)) => self.is_durable((head.generation, head.pointer), head.height),
            Told::Head(None) => {}
            Told::Gap(position) => {
                // The journal will never have what it records as missing.
                let (generation, through) = (position.generation, position.pointer);
                let height = through.height().unwrap_or_default();
                let gone = (generation, through.clone());
                let after = self.durable.clone();
                self.shared
                    .spool
                    .with(move |spool| spool.remove_where(|at| *at <= gone && *at > after))
                    .await?;
                self.is_durable((generation, through.clone()), height);
                if self.reached.1 < through
                    || self.owed.front().is_some_and(|own| own.pointer <= through)
                {
                    return Ok(Some(Ended::Again));
                }
            }
            Told::Rewind(generation) if generation > self.generation => {
                return Ok(Some(Ended::Again));
            }
            Told::Rewind(_) => {}
        }
        Ok(None)
    }

    fn is_durable(&mut self, place: Place, height: u64) {
        if place > self.durable {
            (self.durable, self.durable_height) = (place, height);
        }
    }

    /// Compares the journal's next block if the own source has got so far, and goes on with what
    /// waited for that.
    async fn settle(&mut self, source: &mut dyn Source) -> Result<Option<Ended>, BesideError> {
        self.hear_again(source).await;
        if self.alarm.is_some() {
            return Ok(self.raise(source).await?.then_some(Ended::Again));
        }
        let Some(block) = &self.pending else { return Ok(None) };
        let place = (block.head.generation, block.head.pointer.clone());
        self.is_durable(place.clone(), block.head.height);
        self.spool().await?;
        // Frames that wait are of a block behind the last one reached.
        if place > self.reached && !self.finished {
            return Ok(None);
        }
        if self.unsynced {
            self.sync().await?;
        }
        let Some(block) = self.pending.take() else { return Ok(None) };
        self.compare(block, source).await
    }

    async fn compare(
        &mut self,
        block: JournalBlock,
        source: &mut dyn Source,
    ) -> Result<Option<Ended>, BesideError> {
        let shared = self.shared;
        let place = (block.head.generation, block.head.pointer.clone());
        let captured = match shared.spool.captured(place.clone()).await {
            // What cannot be read back cannot be compared; the journal has the block.
            Err(SpoolError::Damaged { path, offset, cause }) => {
                tracing::warn!(path = %path.display(), offset, cause, "a block of the spool is lost");
                let lost = place.clone();
                shared.spool.with(move |spool| spool.remove(&lost)).await?;
                None
            }
            other => other?,
        };
        match captured {
            None => shared.metrics.compared(&shared.ingestor, "absent"),
            Some(own) if own.diverged => {}
            Some(own) => match self.comparer.compare(&own.end, &block.end) {
                Verdict::Agree { alone, metadata, .. } => {
                    shared.metrics.compared(&shared.ingestor, "agree");
                    self.report(&alone, metadata);
                    shared.spool.with(move |spool| spool.remove(&place)).await?;
                    self.progressed = true;
                }
                Verdict::Differ(difference) => {
                    shared.metrics.compared(&shared.ingestor, "diverged");
                    let peers = &shared.seams.peers;
                    let ours = format!("the feed of {}", peers.here());
                    let owner = peers.owner(&shared.ingestor).await;
                    let owner = owner.map_or_else(String::new, |own| format!(" {}", own.address));
                    let theirs = format!("the journal, from the owner{owner}");
                    let cause = alarm(&block.head.pointer, &difference, &ours, &theirs);
                    (self.alarm, self.alarm_due) = (Some((block, cause)), true);
                    return Ok(self.raise(source).await?.then_some(Ended::Again));
                }
            },
        }
        self.hear(&block.head, source).await
    }

    /// The source hears of each of its blocks, in its order, once the journal has it.
    async fn hear(
        &mut self,
        head: &Head,
        source: &mut dyn Source,
    ) -> Result<Option<Ended>, BesideError> {
        self.hear_again(source).await;
        match self.owed.front() {
            Some(own) if own.pointer == head.pointer => drop(self.owed.pop_front()),
            // The journal passed over a block that the source gave: their orders differ.
            Some(own) if own.pointer < head.pointer => return Ok(Some(Ended::Again)),
            _ => return Ok(None),
        }
        let ack = Ack {
            pointer: head.pointer.clone(),
            height: head.height,
            generation: head.generation,
            digest: head.digest,
            time: head.time,
            durability: Durability::Fsynced,
            duplicate: true,
            unverifiable: false,
        };
        hear(self.shared, &ack, source).await;
        self.hear_again(source).await;
        Ok(None)
    }

    /// Blocks that came again are acknowledged in their turn, without a word on their content.
    async fn hear_again(&mut self, source: &mut dyn Source) {
        while let Some(own) = self.owed.pop_front_if(|own| own.again) {
            let ack = Ack {
                height: own.pointer.height().unwrap_or_default(),
                pointer: own.pointer,
                generation: self.generation,
                digest: Digest::ZERO,
                time: None,
                durability: Durability::Fsynced,
                duplicate: true,
                unverifiable: true,
            };
            hear(self.shared, &ack, source).await;
        }
    }

    fn report(&self, alone: &[String], metadata: bool) {
        let alone = (!alone.is_empty()).then(|| {
            format!("not compared, because only one feed captures them: {}", alone.join(", "))
        });
        self.shared.note("alone", alone);
        let metadata = metadata.then(|| "the feeds give different metadata".to_owned());
        self.shared.note("metadata", metadata);
    }

    /// Halts the ingestor. True when that is done and remembered.
    async fn raise(&mut self, source: &mut dyn Source) -> Result<bool, BesideError> {
        let due = mem::take(&mut self.alarm_due);
        let Some((block, cause)) = self.alarm.as_ref().filter(|_| due) else { return Ok(false) };
        let shared = self.shared;
        shared.note("diverged", Some(format!("two feeds differ: {cause}")));
        if let Err(error) = shared.seams.operator.halt(&shared.ingestor, cause).await {
            tracing::error!(ingestor = %shared.ingestor, %error, cause, "two feeds differ; the ingestor cannot be halted yet");
            return Ok(false);
        }
        tracing::error!(ingestor = %shared.ingestor, cause, "two feeds differ; the ingestor is halted");
        let place = (block.head.generation, block.head.pointer.clone());
        shared.spool.with(move |spool| spool.mark_diverged(&place)).await?;
        let refusal = Refusal {
            pointer: Some(block.head.pointer.clone()),
            reason: sluice_proto::reason::DIVERGENT.to_owned(),
            message: cause.clone(),
        };
        source.refused(&refusal).await;
        self.alarm = None;
        Ok(true)
    }

    async fn tick(&mut self) -> Result<Option<Ended>, BesideError> {
        self.alarm_due = true;
        self.spool().await?;
        let numbers = self
            .shared
            .spool
            .with(|spool| Ok((spool.bytes(), spool.blocks() as u64, spool.diverged() as u64)));
        let (bytes, blocks, diverged) = numbers.await?;
        self.shared.metrics.spool(&self.shared.ingestor, bytes, blocks, diverged);
        self.lag.watch(self.shared, self.height, self.durable_height).await;
        Ok(None)
    }
}

/// Lets the source hear of a block. What it does with that is its own business.
async fn hear(shared: &Shared, ack: &Ack, source: &mut dyn Source) {
    if let Err(error) = source.durable(ack).await {
        tracing::warn!(ingestor = %shared.ingestor, %error, "after a durable block");
    }
}
