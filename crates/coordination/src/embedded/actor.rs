//! The task that owns the store.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::kv::{Event, KvError, LeaseId, Range, Revision, Txn, TxnAnswer};

use super::{
    log::Log,
    state::{self, Mutation, State},
    watch::History,
};

/// Requests served by one sync at most.
const BATCH: usize = 256;
/// Leases are looked at at least this often.
const IDLE: Duration = Duration::from_secs(60);

type Reply<T> = oneshot::Sender<Result<T, KvError>>;

/// What the store can be asked.
pub(super) enum Request {
    Range { prefix: String, limit: usize, reply: Reply<Range> },
    Txn { txn: Txn, reply: Reply<TxnAnswer> },
    Grant { lease: LeaseId, ttl: Duration, reply: Reply<Duration> },
    KeepAlive { lease: LeaseId, reply: Reply<Duration> },
    Revoke { lease: LeaseId, reply: Reply<()> },
    TimeToLive { lease: LeaseId, reply: Reply<Option<Duration>> },
    Status { reply: Reply<(Revision, u64)> },
    Close { reply: oneshot::Sender<()> },
}

/// An answer that waits for the changes of its batch to be durable.
type Answer = Box<dyn FnOnce(Result<(), KvError>) + Send>;

pub(super) struct Actor {
    log: Option<Log>,
    state: State,
    history: Arc<History>,
    deadlines: HashMap<LeaseId, Instant>,
    failed: Option<KvError>,
}

/// What a batch changed and who waits for it.
#[derive(Default)]
struct Batch {
    mutations: Vec<Mutation>,
    events: Vec<Event>,
    answers: Vec<Answer>,
    closing: Option<oneshot::Sender<()>>,
}

impl Batch {
    fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, result: Result<T, KvError>) {
        self.answers.push(Box::new(move |durable| {
            // Nobody waits any more: fine.
            drop(reply.send(durable.and(result)));
        }));
    }

    fn change(&mut self, mutation: Mutation, events: Vec<Event>) {
        self.mutations.push(mutation);
        self.events.extend(events);
    }
}

impl Actor {
    pub(super) fn new(log: Option<Log>, state: State, history: Arc<History>) -> Self {
        let now = Instant::now();
        // Every lease gets its full time again: its holder could not renew while nobody served.
        let deadlines =
            state.leases().map(|(lease, ttl)| (lease, now + Duration::from_millis(ttl))).collect();
        Self { log, state, history, deadlines, failed: None }
    }

    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut waiting = Vec::with_capacity(BATCH);
        loop {
            let now = Instant::now();
            let due = self.deadlines.values().min().copied().unwrap_or(now + IDLE);
            tokio::select! {
                received = requests.recv_many(&mut waiting, BATCH) => if received == 0 { break },
                () = tokio::time::sleep_until(due.min(now + IDLE)) => {}
            }
            let mut batch = Batch::default();
            self.expire(&mut batch);
            for request in waiting.drain(..) {
                self.serve(request, &mut batch);
            }
            let closing = batch.closing.take();
            self.finish(batch).await;
            if let Some(closing) = closing {
                // Gives the directory back before anybody hears of it.
                self.log = None;
                if closing.send(()).is_err() {
                    tracing::debug!("nobody waits for the close any more");
                }
                break;
            }
        }
        self.history.close();
    }

    fn expire(&mut self, batch: &mut Batch) {
        let now = Instant::now();
        let ended = self.deadlines.iter().filter(|(_, due)| **due <= now);
        let ended: Vec<LeaseId> = ended.map(|(lease, _)| *lease).collect();
        for lease in ended {
            tracing::debug!(lease, "lease expired");
            self.revoke(lease, batch);
        }
    }

    fn revoke(&mut self, lease: LeaseId, batch: &mut Batch) {
        self.deadlines.remove(&lease);
        if let Some((mutation, events)) = self.state.revoke(lease) {
            batch.change(mutation, events);
        }
    }

    fn serve(&mut self, request: Request, batch: &mut Batch) {
        match request {
            Request::Range { prefix, limit, reply } => {
                batch.answer(reply, Ok(self.state.range(&prefix, limit)));
            }
            Request::Txn { txn, reply } => {
                let result = self.state.txn(&txn).map(|(answer, mutation)| {
                    if let Some(mutation) = mutation {
                        let events = state::events(&mutation);
                        batch.change(mutation, events);
                    }
                    answer
                });
                batch.answer(reply, result);
            }
            Request::Grant { lease, ttl, reply } => {
                let result = self.grant(lease, ttl, batch);
                batch.answer(reply, result);
            }
            Request::KeepAlive { lease, reply } => {
                batch.answer(reply, Ok(self.renew(lease).unwrap_or_default()));
            }
            Request::Revoke { lease, reply } => {
                self.revoke(lease, batch);
                batch.answer(reply, Ok(()));
            }
            Request::TimeToLive { lease, reply } => {
                let left = self.deadlines.get(&lease);
                let left = left.map(|due| due.saturating_duration_since(Instant::now()));
                batch.answer(reply, Ok(left));
            }
            Request::Status { reply } => {
                let size = self.log.as_ref().map_or(0, Log::size);
                batch.answer(reply, Ok((self.state.revision(), size)));
            }
            Request::Close { reply } => batch.closing = Some(reply),
        }
    }

    fn grant(
        &mut self,
        lease: LeaseId,
        ttl: Duration,
        batch: &mut Batch,
    ) -> Result<Duration, KvError> {
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        if lease == 0 || lease > i64::MAX.unsigned_abs() || millis == 0 {
            return Err(KvError::Invalid(format!("a lease {lease} of {ttl:?}")));
        }
        if let Some(mutation) = self.state.grant(lease, millis) {
            batch.change(mutation, Vec::new());
        }
        self.renew(lease).ok_or(KvError::LeaseNotFound(lease))
    }

    fn renew(&mut self, lease: LeaseId) -> Option<Duration> {
        let ttl = Duration::from_millis(self.state.ttl_millis(lease)?);
        self.deadlines.insert(lease, Instant::now() + ttl);
        Some(ttl)
    }

    /// Makes a batch durable, shows it, answers it.
    async fn finish(&mut self, batch: Batch) {
        let durable = match &self.failed {
            Some(error) => Err(error.clone()),
            None if batch.mutations.is_empty() => Ok(()),
            None => self.persist(batch.mutations).await,
        };
        match &durable {
            Ok(()) => self.history.publish(batch.events, self.state.revision()),
            // What is in memory now is more than what is on disk: nothing more is served from it.
            Err(error) => {
                if self.failed.is_none() {
                    tracing::error!(%error, "the embedded store stops; restart to recover");
                    self.history.close();
                }
                self.failed.get_or_insert_with(|| error.clone());
            }
        }
        for answer in batch.answers {
            answer(durable.clone());
        }
    }

    async fn persist(&mut self, mutations: Vec<Mutation>) -> Result<(), KvError> {
        let Some(mut log) = self.log.take() else { return Ok(()) };
        let snapshot = log.wants_snapshot().then(|| self.state.snapshot());
        let written = tokio::task::spawn_blocking(move || {
            let result = log.append(&mutations);
            if result.is_ok()
                && let Some(snapshot) = snapshot
            {
                log.compact(&snapshot);
            }
            (log, result)
        });
        let lost = |error: tokio::task::JoinError| KvError::Unknown(error.to_string());
        let (log, result) = written.await.map_err(lost)?;
        self.log = Some(log);
        result
    }
}
