use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{signal::unix, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// One stop signal, and the tasks that must end after it. Clones are the same shutdown.
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    token: CancellationToken,
    tracker: TaskTracker,
    alive: Mutex<BTreeMap<u64, &'static str>>,
    next: AtomicU64,
    grace: Duration,
}

impl Shutdown {
    /// A shutdown that nobody has asked for yet. Tasks get `grace` to end.
    pub fn new(grace: Duration) -> Self {
        Self::with_token(CancellationToken::new(), grace)
    }

    fn with_token(token: CancellationToken, grace: Duration) -> Self {
        Self(Arc::new(Inner {
            token,
            tracker: TaskTracker::new(),
            alive: Mutex::default(),
            next: AtomicU64::new(0),
            grace,
        }))
    }

    /// Stops on SIGINT and SIGTERM; a second one ends the process at once with code 130.
    pub fn on_signals(grace: Duration) -> std::io::Result<Self> {
        let mut interrupt = unix::signal(unix::SignalKind::interrupt())?;
        let mut terminate = unix::signal(unix::SignalKind::terminate())?;
        let shutdown = Self::new(grace);
        let asked = shutdown.clone();
        tokio::spawn(async move {
            for first in [true, false] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if first {
                    tracing::info!("stopping; a second signal ends at once");
                    asked.stop();
                } else {
                    end_now();
                }
            }
        });
        Ok(shutdown)
    }

    /// A shutdown of its own with the same grace; the stop of this one does not reach it.
    #[must_use]
    pub fn separate(&self) -> Self {
        Self::new(self.0.grace)
    }

    /// Cancelled when the stop was asked for.
    pub fn token(&self) -> CancellationToken {
        self.0.token.clone()
    }

    /// True once the stop was asked for.
    pub fn is_stopping(&self) -> bool {
        self.0.token.is_cancelled()
    }

    /// Asks everything to stop.
    pub fn stop(&self) {
        self.0.token.cancel();
    }

    /// How long tasks get to end.
    pub fn grace(&self) -> Duration {
        self.0.grace
    }

    /// Runs a task that the shutdown waits for. The name shows in the log if it does not end.
    pub fn spawn<F>(&self, name: &'static str, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.alive.lock().insert(number, name);
        let registered = Registered { inner: self.0.clone(), number };
        self.0.tracker.spawn(async move {
            let _registered = registered;
            task.await
        })
    }

    /// Waits for every spawned task, at most the grace. Gives the names of those still alive.
    pub async fn drained(&self) -> Vec<&'static str> {
        self.drained_within(self.0.grace).await
    }

    pub(crate) async fn drained_within(&self, grace: Duration) -> Vec<&'static str> {
        self.0.tracker.close();
        let waited = tokio::time::timeout(grace, self.0.tracker.wait()).await;
        if waited.is_ok() {
            return Vec::new();
        }
        let alive: Vec<_> = self.0.alive.lock().values().copied().collect();
        tracing::warn!(?alive, "tasks did not end within the grace");
        alive
    }
}

/// Takes a task off the list when it ends, however it ends.
struct Registered {
    inner: Arc<Inner>,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.inner.alive.lock().remove(&self.number);
    }
}

#[expect(clippy::exit, reason = "the second signal means now, not after another clean-up")]
fn end_now() {
    std::process::exit(130);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_tasks_and_names_those_that_stay() {
        let shutdown = Shutdown::new(Duration::from_millis(50));
        let token = shutdown.token();
        shutdown.spawn("good", async move { token.cancelled().await });
        shutdown.stop();
        assert_eq!(shutdown.drained().await, Vec::<&str>::new());

        let stuck = Shutdown::new(Duration::from_millis(50));
        stuck.spawn("stuck", std::future::pending::<()>());
        stuck.stop();
        assert_eq!(stuck.drained().await, ["stuck"]);
    }
}
