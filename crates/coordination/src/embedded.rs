//! The store of a single process: a map in memory over a checksummed log on disk.
//!
//! One task owns the map. It takes what requests are waiting, runs them in order, writes their
//! changes as one log record, syncs once, and only then answers them and shows the changes to
//! watchers: nobody ever sees what a crash could take back. Leases get their full time again
//! after a restart, as with etcd.

mod actor;
mod codec;
mod log;
mod state;
mod watch;

use std::{fmt, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use crate::kv::{Kv, KvError, LeaseId, Range, Revision, Txn, TxnAnswer, Watch};

use actor::{Actor, Request};
use log::Log;
use state::State;
use watch::History;

/// Requests that may wait for the owning task; more wait for room.
const QUEUE: usize = 1024;

/// [`Kv`] in this process, durable or in memory. Clones share the store.
///
/// Must be made inside a tokio runtime, whose end also ends it. When the last clone is dropped
/// the store closes in the background; [`EmbeddedKv::close`] waits for it.
#[derive(Clone)]
pub struct EmbeddedKv {
    requests: mpsc::Sender<Request>,
    history: Arc<History>,
}

impl fmt::Debug for EmbeddedKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedKv").finish_non_exhaustive()
    }
}

impl EmbeddedKv {
    /// Opens or makes the store in a directory, which belongs to this process until it closes.
    ///
    /// Errors: [`KvError::Storage`], naming the path and what to do, if another process has it,
    /// if it cannot be read or written, or if something other than the end of the log is damaged.
    pub async fn open(directory: &Path) -> Result<Self, KvError> {
        let directory = directory.to_owned();
        let opened = tokio::task::spawn_blocking(move || Log::open(&directory)).await;
        let (log, state) = opened.map_err(|error| KvError::Unavailable(error.to_string()))??;
        Ok(Self::start(Some(log), state))
    }

    /// A store that forgets everything when it closes.
    pub fn in_memory() -> Self {
        Self::start(None, State::default())
    }

    fn start(log: Option<Log>, state: State) -> Self {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let history = Arc::new(History::new(state.revision()));
        tokio::spawn(Actor::new(log, state, Arc::clone(&history)).run(receiver));
        Self { requests, history }
    }

    /// Waits until everything asked before is answered and the directory is free again. Calls
    /// after that fail.
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.requests.send(Request::Close { reply }).await.is_ok() {
            drop(closed.await);
        }
        self.requests.closed().await;
    }

    async fn ask<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, KvError>>) -> Request + Send,
    ) -> Result<T, KvError> {
        let (reply, answer) = oneshot::channel();
        let closed = || KvError::Unavailable("the embedded store is closed".to_owned());
        self.requests.send(make(reply)).await.map_err(|_| closed())?;
        answer
            .await
            .map_err(|_| KvError::Unknown("the embedded store closed meanwhile".to_owned()))?
    }
}

#[async_trait]
impl Kv for EmbeddedKv {
    async fn range(&self, prefix: &str, limit: usize) -> Result<Range, KvError> {
        let prefix = prefix.to_owned();
        self.ask(|reply| Request::Range { prefix, limit, reply }).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, KvError> {
        self.ask(|reply| Request::Txn { txn, reply }).await
    }

    async fn grant(&self, lease: LeaseId, ttl: Duration) -> Result<Duration, KvError> {
        self.ask(|reply| Request::Grant { lease, ttl, reply }).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, KvError> {
        self.ask(|reply| Request::KeepAlive { lease, reply }).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), KvError> {
        self.ask(|reply| Request::Revoke { lease, reply }).await
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, KvError> {
        self.ask(|reply| Request::TimeToLive { lease, reply }).await
    }

    async fn watch(&self, key: &str, from: Revision) -> Result<Watch, KvError> {
        Ok(Arc::clone(&self.history).watch(key.to_owned(), from))
    }

    async fn compact(&self, revision: Revision) -> Result<(), KvError> {
        self.history.compact(revision);
        Ok(())
    }

    async fn status(&self) -> Result<(Revision, u64), KvError> {
        self.ask(|reply| Request::Status { reply }).await
    }
}
