use std::{fmt, future::Future, time::Duration};

use sluice_proto::v1::coordinator_client::CoordinatorClient;
use sluice_service::Transport;
use tokio::{sync::watch, time::Instant};
use tonic::{Code, Response, Status, Streaming, service::interceptor::InterceptedService};

use super::{
    CoordinationError, Patience,
    link::{Link, Mark},
    metrics::Metrics,
};

/// The generated client over any transport.
pub(super) type Client = CoordinatorClient<InterceptedService<Transport, Mark>>;

/// Repeats calls that failed in transit, with jittered pauses, until patience ends.
#[derive(Clone)]
pub(super) struct Caller {
    client: Client,
    link: Link,
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
        let link = Link::default();
        let client = CoordinatorClient::with_interceptor(transport, link.mark());
        Self { client, link, patience, metrics: Metrics::new() }
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
            let status = match self.one(self.patience.call, make(self.client())).await {
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

    /// One try, bounded.
    pub(super) async fn one<T>(
        &self,
        timeout: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        let sent = Instant::now();
        let answer = match tokio::time::timeout(timeout, call).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(format!("no answer within {timeout:?}"))),
        };
        match &answer {
            // The coordinator itself asks to wait: another one has the same budget.
            Err(status) if is_transient(status) && status.code() != Code::ResourceExhausted => {
                self.link.failed(sent);
            }
            _ => self.link.answered(sent),
        }
        answer
    }

    /// One try at a call whose answer goes on.
    pub(super) async fn stream<T>(
        &self,
        call: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
    ) -> Result<Answers<T>, Status> {
        let left = self.link.left();
        let stream = self.one(self.patience.call, call).await?;
        Ok(Answers { stream, left })
    }

    /// A call that was sent at this time should have been answered by now; it is still waited for.
    pub(super) fn late(&self, sent: Instant) {
        self.link.failed(sent);
    }
}

/// A streamed answer. It ends with an error when its connection is left, which it would otherwise
/// outlive in silence.
#[derive(Debug)]
pub(super) struct Answers<T> {
    stream: Streaming<T>,
    left: watch::Receiver<u64>,
}

impl<T> Answers<T> {
    /// The next one. Cancel safe.
    pub(super) async fn message(&mut self) -> Result<Option<T>, Status> {
        tokio::select! {
            biased;
            message = self.stream.message() => message,
            _ = self.left.changed() => Err(Status::unavailable("the connection was left")),
        }
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
