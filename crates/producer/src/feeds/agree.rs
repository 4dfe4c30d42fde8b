//! Journals that take only blocks that a second feed confirms (`agree = 2`).
//!
//! The last frame of a block is what makes it visible, so that is the one held back: everything
//! before it may already be on its way, and is forgotten by the journal if the last never comes.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use futures_util::future::join_all;
use sluice_client::append::{AppendError, Open};
use sluice_frame::{BlockEnd, Digester, Frame};
use sluice_model::{Digest, Epoch, Generation, IngestorName, JournalId, Kind, Pointer};

use super::{
    Shared,
    compare::{Comparer, Verdict},
    peers::{Answer, Peer},
};
use crate::{
    seam::{FrameSink, Journals, Opened, StoredBlock},
    spool::Place,
};

/// Journals behind the gate.
#[derive(Debug)]
pub struct Agreeing {
    shared: Arc<Shared>,
    inner: Arc<dyn Journals>,
}

impl Agreeing {
    /// In front of these journals.
    pub(super) fn new(shared: Arc<Shared>, inner: Arc<dyn Journals>) -> Self {
        Self { shared, inner }
    }
}

#[async_trait]
impl Journals for Agreeing {
    async fn create(&self, ingestor: &IngestorName, id: JournalId) -> Result<(), AppendError> {
        self.inner.create(ingestor, id).await
    }

    async fn open(&self, open: Open) -> Result<Opened, AppendError> {
        let opened = self.inner.open(open).await?;
        let head = opened.head.as_ref();
        let gated = Gated {
            inner: opened.frames,
            gate: Gate::new(self.shared.clone()),
            tail: head.map_or_else(Place::default, |head| (head.generation, head.pointer.clone())),
            digester: None,
        };
        Ok(Opened { frames: Box::new(gated), ..opened })
    }

    async fn fence(&self, ingestor: &IngestorName) -> Result<Epoch, AppendError> {
        self.inner.fence(ingestor).await
    }

    async fn block(
        &self,
        ingestor: &IngestorName,
        pointer: &Pointer,
        newest: Option<Generation>,
    ) -> Result<Option<StoredBlock>, AppendError> {
        self.inner.block(ingestor, pointer, newest).await
    }
}

/// Frames on their way through the gate.
struct Gated {
    inner: Box<dyn FrameSink>,
    gate: Gate,
    /// The last block or record in the journal or before the gate's other side. The journal itself
    /// compares what is sent again.
    tail: Place,
    digester: Option<Digester>,
}

#[async_trait]
impl FrameSink for Gated {
    async fn send(&mut self, frame: &Frame) -> Result<(), AppendError> {
        let header = &frame.header;
        let place = (header.generation, header.pointer.clone());
        if header.kind != Kind::Block {
            // What an operator or the passing of time decided needs no second feed.
            self.inner.send(frame).await?;
            self.tail = place;
            return Ok(());
        }
        if place <= self.tail {
            return self.inner.send(frame).await;
        }
        if header.part == 0 {
            let (generation, pointer) = place.clone();
            self.digester = Some(Digester::new(Digest::ZERO, generation, pointer, header.height));
        }
        let invalid = |error: sluice_frame::FrameError| AppendError::Invalid(error.to_string());
        if let Some(digester) = &mut self.digester {
            digester.add(frame).map_err(invalid)?;
        }
        if header.end.is_some()
            && let Some(digester) = self.digester.take()
        {
            let mut end = BlockEnd::default();
            digester.finish().fill(Digest::ZERO, &mut end);
            self.gate.confirmed(&place, &end).await;
            self.inner.send(frame).await?;
            self.tail = place;
            return Ok(());
        }
        self.inner.send(frame).await
    }
}

/// Asks the other feeds.
pub(super) struct Gate {
    shared: Arc<Shared>,
    /// Per replica, which stores it was seen to capture.
    comparers: HashMap<String, Comparer>,
}

impl Gate {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, comparers: HashMap::new() }
    }

    /// Returns when another feed has the same block; until then nothing goes on. Differing feeds
    /// halt the ingestor, which ends this wait from outside.
    pub(super) async fn confirmed(&mut self, place: &Place, ours: &BlockEnd) {
        let shared = self.shared.clone();
        let (ingestor, timing) = (&shared.ingestor, shared.options.timing);
        let supplier = shared.supplier(&place.1);
        let mut halted = false;
        loop {
            let mut peers = shared.seams.peers.standbys(ingestor).await;
            // A replica that gave the block is the feed that is to be confirmed.
            peers.retain(|peer| supplier.as_deref() != Some(peer.name()));
            let round = self.ask(&peers, place, ours).await;
            match round {
                Round::Confirmed => {
                    shared.note("agree", None);
                    shared.metrics.waiting(ingestor, false);
                    return;
                }
                Round::Differs(cause) if !halted => {
                    shared.metrics.compared(ingestor, "diverged");
                    shared.note("agree", Some(cause.clone()));
                    match shared.seams.operator.halt(ingestor, &cause).await {
                        Ok(()) => halted = true,
                        Err(error) => {
                            tracing::error!(%ingestor, %error, cause, "two feeds differ; the ingestor cannot be halted yet");
                        }
                    }
                }
                Round::Differs(_) => {}
                Round::Waits(told) => {
                    let told = format!("block {} waits for a second feed: {told}", place.1);
                    shared.note("agree", Some(told));
                }
            }
            shared.metrics.waiting(ingestor, true);
            tokio::time::sleep(timing.tick / 4).await;
        }
    }

    async fn ask(&mut self, peers: &[Arc<dyn Peer>], place: &Place, ours: &BlockEnd) -> Round {
        let (ingestor, wait) = (self.shared.ingestor.clone(), self.shared.options.timing.ask);
        let asked = peers.iter().map(|peer| peer.digests(&ingestor, place, wait));
        let answers = join_all(asked).await;
        self.comparers.retain(|name, _| peers.iter().any(|peer| peer.name() == name));
        let (mut differs, mut waits) = (None, Vec::new());
        for (peer, answer) in peers.iter().zip(answers) {
            let name = peer.name();
            match answer {
                Ok(Answer::Captured(theirs)) => {
                    let comparer = self.comparers.entry(name.to_owned()).or_default();
                    match comparer.compare(ours, &theirs) {
                        // Nothing in common is no second opinion.
                        Verdict::Agree { compared: 0, alone, .. } if !alone.is_empty() => {
                            waits.push(format!("{name} has none of its stores"));
                        }
                        Verdict::Agree { .. } => return Round::Confirmed,
                        Verdict::Differ(difference) => {
                            differs = Some(format!(
                                "block {}: the owner's feed and that of {name} differ in {difference}",
                                place.1
                            ));
                        }
                    }
                }
                Ok(Answer::Pending) => waits.push(format!("{name} has not got so far")),
                Ok(Answer::Passed) => waits.push(format!("{name} does not have it")),
                Err(error) => waits.push(format!("{name}: {error}")),
            }
        }
        match differs {
            Some(cause) => Round::Differs(cause),
            None if waits.is_empty() => {
                Round::Waits("no other replica waits for the ingestor".to_owned())
            }
            None => Round::Waits(waits.join("; ")),
        }
    }
}

/// What the other feeds say.
enum Round {
    Confirmed,
    Differs(String),
    Waits(String),
}

impl std::fmt::Debug for dyn Journals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Journals")
    }
}
