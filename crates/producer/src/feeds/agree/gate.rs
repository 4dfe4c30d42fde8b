//! What the other feeds say of a block, and whether that is enough.

use std::{collections::HashMap, sync::Arc};

use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use parking_lot::Mutex;
use sluice_frame::BlockEnd;
use tokio::time::Instant;

use super::super::{
    Shared,
    compare::{Comparer, Verdict, alarm},
    peers::{Answer, Peer, PeerError},
};
use crate::spool::Place;

/// A block that needs a second feed.
#[derive(Clone, Debug)]
pub(super) struct Unconfirmed {
    pub(super) place: Place,
    /// What the own feed gave.
    pub(super) end: BlockEnd,
}

/// What one replica said.
pub(super) struct Said {
    peer: Arc<dyn Peer>,
    answer: Result<Answer, PeerError>,
}

/// The replicas that wait, as they were found a short while ago.
type Known = Arc<Mutex<Option<(Instant, Vec<Arc<dyn Peer>>)>>>;

/// Asks the other feeds, and compares in the order of the blocks.
pub(super) struct Gate {
    shared: Arc<Shared>,
    known: Known,
    /// Per replica, which stores it was seen to capture.
    comparers: HashMap<String, Comparer>,
}

impl Gate {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, known: Known::default(), comparers: HashMap::new() }
    }

    /// Asks about a block ahead of its turn: what the first replica says that has it, or all of
    /// them if none has. A replica that does not answer keeps nobody waiting.
    pub(super) fn ask(&self, place: Place) -> impl Future<Output = Vec<Said>> + Send + use<> {
        let (shared, known) = (self.shared.clone(), self.known.clone());
        async move {
            let peers = standbys(&shared, &known, &place).await;
            let asked = peers.into_iter().map(|peer| one(shared.clone(), peer, place.clone()));
            let mut asked: FuturesUnordered<_> = asked.collect();
            let mut all = Vec::new();
            while let Some(said) = asked.next().await {
                if matches!(said.answer, Ok(Answer::Captured(_))) {
                    return vec![said];
                }
                all.push(said);
            }
            all
        }
    }

    /// Asks every replica that there is now.
    async fn ask_all(&self, place: &Place) -> Vec<Said> {
        *self.known.lock() = None;
        let peers = standbys(&self.shared, &self.known, place).await;
        join_all(peers.into_iter().map(|peer| one(self.shared.clone(), peer, place.clone()))).await
    }

    /// Returns when another feed has the same block; until then nothing goes on. True if that took
    /// more than what was `said` ahead. Differing feeds halt the ingestor, which ends this wait
    /// from outside.
    pub(super) async fn confirmed(&mut self, block: &Unconfirmed, said: Vec<Said>) -> bool {
        let shared = self.shared.clone();
        let (ingestor, tick) = (&shared.ingestor, shared.options.timing.tick);
        let (mut halted, mut waited) = (false, false);
        let mut round = self.judge(block, said);
        // One that differs does not count if another one agrees, and not all were asked ahead.
        if matches!(round, Round::Differs(_)) {
            waited = true;
            let said = self.ask_all(&block.place).await;
            round = self.judge(block, said);
        }
        loop {
            match round {
                Round::Confirmed => {
                    shared.note("agree", None);
                    shared.metrics.waiting(ingestor, false);
                    return waited;
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
                    let told = format!("block {} waits for a second feed: {told}", block.place.1);
                    shared.note("agree", Some(told));
                }
            }
            waited = true;
            shared.metrics.waiting(ingestor, true);
            tokio::time::sleep(tick / 4).await;
            let said = self.ask_all(&block.place).await;
            round = self.judge(block, said);
        }
    }

    fn judge(&mut self, block: &Unconfirmed, said: Vec<Said>) -> Round {
        let (mut differs, mut waits) = (None, Vec::new());
        for Said { peer, answer } in said {
            let name = peer.name();
            match answer {
                Ok(Answer::Captured(theirs)) => {
                    let comparer = self.comparers.entry(name.to_owned()).or_default();
                    match comparer.compare(&block.end, &theirs) {
                        // Nothing in common is no second opinion.
                        Verdict::Agree { compared: 0, alone, .. } if !alone.is_empty() => {
                            waits.push(format!("{name} has none of its stores"));
                        }
                        Verdict::Agree { .. } => return Round::Confirmed,
                        Verdict::Differ(difference) => {
                            let here = self.shared.seams.peers.here();
                            let ours = format!("the feed of the owner, {here}");
                            let theirs = format!("that of {name}");
                            differs = Some(alarm(&block.place.1, &difference, &ours, &theirs));
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

/// The replicas to ask about a block. Who waits is looked up now and then, not for every block: a
/// replica that is gone by then answers with an error and is looked up again.
async fn standbys(shared: &Shared, known: &Known, place: &Place) -> Vec<Arc<dyn Peer>> {
    let fresh = |at: &Instant| at.elapsed() < shared.options.timing.tick;
    let found = known.lock().as_ref().filter(|(at, _)| fresh(at)).map(|(_, peers)| peers.clone());
    // Never with the lock held: a question that was asked ahead rests while the first block waits,
    // and would keep the lock from it.
    let mut peers = match found {
        Some(peers) => peers,
        None => {
            let peers = shared.seams.peers.standbys(&shared.ingestor).await;
            *known.lock() = Some((Instant::now(), peers.clone()));
            peers
        }
    };
    // A replica that gave the block is the feed that is to be confirmed.
    let supplier = shared.supplier(&place.1);
    peers.retain(|peer| supplier.as_deref() != Some(peer.name()));
    peers
}

async fn one(shared: Arc<Shared>, peer: Arc<dyn Peer>, place: Place) -> Said {
    let wait = shared.options.timing.ask;
    let answer = peer.digests(&shared.ingestor, &place, wait).await;
    Said { peer, answer }
}

/// What the other feeds say.
enum Round {
    Confirmed,
    Differs(String),
    Waits(String),
}
