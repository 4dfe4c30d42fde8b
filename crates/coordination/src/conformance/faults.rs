use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::kv::{Kv, KvError, LeaseId, Op, Range, Revision, Txn, TxnAnswer, Watch};

/// A store whose next replies to writes get lost, after the writes took effect, and which can
/// let something happen just before the next write, and whose watches can be cut.
pub struct LossyKv {
    inner: Arc<dyn Kv>,
    lose: AtomicU32,
    before: Mutex<Option<BoxFuture<'static, ()>>>,
    cut: Mutex<CancellationToken>,
}

impl std::fmt::Debug for LossyKv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LossyKv").field("lose", &self.lose).finish_non_exhaustive()
    }
}

impl LossyKv {
    /// Around a store, losing nothing yet.
    pub fn new(inner: Arc<dyn Kv>) -> Self {
        Self { inner, lose: AtomicU32::new(0), before: Mutex::new(None), cut: Mutex::default() }
    }

    /// Loses the replies of so many writing transactions from now on.
    pub fn lose(&self, replies: u32) {
        self.lose.store(replies, Ordering::SeqCst);
    }

    /// Lets this happen between the read and the write of whatever writes next.
    pub fn before_next_write(&self, happens: impl Future<Output = ()> + Send + 'static) {
        *self.before.lock() = Some(happens.boxed());
    }

    /// Ends every open watch, as a connection does that breaks.
    pub fn cut_watches(&self) {
        std::mem::take(&mut *self.cut.lock()).cancel();
    }

    /// How many replies are still to be lost.
    pub fn left(&self) -> u32 {
        self.lose.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Kv for LossyKv {
    async fn range(&self, prefix: &str, limit: usize) -> Result<Range, KvError> {
        self.inner.range(prefix, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, KvError> {
        let writes = txn.then.iter().any(|op| matches!(op, Op::Put { .. } | Op::Delete(_)));
        let before = writes.then(|| self.before.lock().take()).flatten();
        if let Some(happens) = before {
            happens.await;
        }
        let answer = self.inner.txn(txn).await?;
        let lost = |lose: &AtomicU32| {
            lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
        };
        if writes && lost(&self.lose) {
            return Err(KvError::Unknown("the reply was lost".to_owned()));
        }
        Ok(answer)
    }

    async fn grant(&self, lease: LeaseId, ttl: Duration) -> Result<Duration, KvError> {
        self.inner.grant(lease, ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, KvError> {
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), KvError> {
        self.inner.revoke(lease).await
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, KvError> {
        self.inner.time_to_live(lease).await
    }

    async fn watch(&self, key: &str, from: Revision) -> Result<Watch, KvError> {
        let watch = self.inner.watch(key, from).await?;
        let cut = self.cut.lock().clone();
        let ended = stream::once(async { Err(KvError::Unavailable("cut".to_owned())) });
        Ok(watch.take_until(cut.cancelled_owned()).chain(ended).boxed())
    }

    async fn compact(&self, revision: Revision) -> Result<(), KvError> {
        self.inner.compact(revision).await
    }

    async fn status(&self) -> Result<(Revision, u64), KvError> {
        self.inner.status().await
    }
}
