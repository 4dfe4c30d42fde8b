use std::sync::Arc;

use parking_lot::Mutex;
use sluice_service::transport::Redial;
use tokio::{sync::watch, time::Instant};
use tonic::{Request, Status, service::Interceptor};

/// Calls in a row without a proper answer after which a connection is left.
const PATIENCE: u32 = 2;

/// Decides when the coordinator in use is left for another one, or for a new connection to the
/// same. One that hangs keeps its connections, and HTTP/2 notices only after half a minute.
#[derive(Clone, Debug)]
pub(super) struct Link {
    health: Arc<Mutex<Health>>,
    /// Counts the connections that were left.
    left: Arc<watch::Sender<u64>>,
}

/// What is known of the connection in use. Pure.
#[derive(Debug)]
struct Health {
    since: Instant,
    failures: u32,
    /// The next call is to dial anew.
    leave: bool,
}

impl Health {
    fn answered(&mut self, sent: Instant) {
        if sent >= self.since {
            self.failures = 0;
        }
    }

    /// True if the connection is to be left for it. Calls over connections before this one say
    /// nothing about it.
    fn failed(&mut self, sent: Instant, now: Instant) -> bool {
        if sent < self.since {
            return false;
        }
        self.failures += 1;
        if self.failures < PATIENCE {
            return false;
        }
        *self = Self { since: now, failures: 0, leave: true };
        true
    }
}

impl Default for Link {
    fn default() -> Self {
        let health = Health { since: Instant::now(), failures: 0, leave: false };
        Self { health: Arc::new(Mutex::new(health)), left: Arc::new(watch::Sender::new(0)) }
    }
}

impl Link {
    /// A call that was sent at this time was answered, if only with a refusal.
    pub(super) fn answered(&self, sent: Instant) {
        self.health.lock().answered(sent);
    }

    /// A call that was sent at this time was not, or by somebody who cannot serve it.
    pub(super) fn failed(&self, sent: Instant) {
        if self.health.lock().failed(sent, Instant::now()) {
            tracing::info!("the coordinator in use does not answer; dialling anew");
            self.left.send_modify(|left| *left += 1);
        }
    }

    /// Changes when the connection in use is left.
    pub(super) fn left(&self) -> watch::Receiver<u64> {
        self.left.subscribe()
    }

    /// Puts the decision on the calls.
    pub(super) fn mark(&self) -> Mark {
        Mark(Arc::clone(&self.health))
    }
}

/// Tells the transport with the next call.
#[derive(Clone, Debug)]
pub(super) struct Mark(Arc<Mutex<Health>>);

impl Interceptor for Mark {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if std::mem::take(&mut self.0.lock().leave) {
            request.extensions_mut().insert(Redial);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    #[test]
    fn two_failures_in_a_row_leave_a_connection_and_older_calls_say_nothing() {
        let start = Instant::now();
        let mut health = Health { since: start, failures: 0, leave: false };
        assert!(!health.failed(start, start + SEC));
        health.answered(start + SEC);
        assert!(!health.failed(start + SEC, start + SEC * 2), "not in a row");
        assert!(health.failed(start + SEC, start + SEC * 3) && health.leave);
        for _ in 0..5 {
            assert!(!health.failed(start + SEC * 2, start + SEC * 4), "sent before it was left");
        }
        assert!(!health.failed(start + SEC * 3, start + SEC * 4));
        health.answered(start + SEC * 2);
        assert!(
            health.failed(start + SEC * 3, start + SEC * 5),
            "an old answer is none of this one"
        );
    }

    #[test]
    fn the_next_call_and_only_that_is_marked() {
        let link = Link::default();
        let (mut mark, mut left) = (link.mark(), link.left());
        let mut marked =
            || mark.call(Request::new(())).unwrap().extensions().get::<Redial>().is_some();
        assert!(!marked());
        link.failed(Instant::now());
        link.failed(Instant::now());
        assert!(left.has_changed().unwrap());
        left.borrow_and_update();
        assert!(marked() && !marked());
    }
}
