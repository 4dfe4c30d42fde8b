use std::{fmt, future::Future, time::Duration};

use sluice_proto::v1::coordinator_client::CoordinatorClient;
use sluice_service::Transport;
use tokio::time::Instant;
use tonic::{Code, Response, Status};

use super::{CoordinationError, Patience, metrics::Metrics};

/// The generated client over any transport.
pub(super) type Client = CoordinatorClient<Transport>;

/// Repeats calls that failed in transit, with jittered pauses, until patience ends.
#[derive(Clone)]
pub(super) struct Caller {
    client: Client,
    patience: Patience,
    metrics: Metrics,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl Caller {
    pub(super) fn new(transport: Transport, patience: Patience) -> Self {
        Self { client: CoordinatorClient::new(transport), patience, metrics: Metrics::new() }
    }

    /// A client for one call.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    /// Tries until an answer, a refusal, or the end of patience.
    pub(super) async fn call<T, F, Fut>(
        &self,
        name: &'static str,
        mut make: F,
    ) -> Result<T, CoordinationError>
    where
        F: FnMut(Client) -> Fut + Send,
        Fut: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let started = Instant::now();
        let mut pause = Pause::default();
        let mut tries = 0;
        loop {
            tries += 1;
            let status = match one(self.patience.call, make(self.client())).await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            if !is_transient(&status) {
                return Err(CoordinationError::refused(name, &status));
            }
            let wait = pause.next();
            let after = started.elapsed();
            if after + wait >= self.patience.total {
                let last = status.message().to_owned();
                return Err(CoordinationError::Unavailable { call: name, after, tries, last });
            }
            tracing::debug!(call = name, tries, error = status.message(), "coordinator: again");
            tokio::time::sleep(wait).await;
        }
    }
}

/// One try, bounded.
pub(super) async fn one<T>(
    timeout: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(timeout, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {timeout:?}"))),
    }
}

/// True if the call may have failed on its way and is worth repeating. `ResourceExhausted` is the
/// coordinator's write budget.
pub(super) fn is_transient(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::ResourceExhausted
            | Code::Unknown
    )
}

/// Growing pauses: 50 ms doubling to 2 s, each cut by up to half at random, so that many clients
/// of one coordinator do not return at once.
#[derive(Debug, Default)]
pub(super) struct Pause {
    count: u32,
}

impl Pause {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(2);

    pub(super) fn next(&mut self) -> Duration {
        let full = Self::FIRST.saturating_mul(1 << self.count.min(8)).min(Self::LONGEST);
        self.count = self.count.saturating_add(1);
        full.mul_f64(rand::random_range(0.5..1.0))
    }

    pub(super) fn reset(&mut self) {
        self.count = 0;
    }
}
