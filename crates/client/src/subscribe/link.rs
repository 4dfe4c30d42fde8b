use std::{fmt, time::Duration};

use sluice_frame::RouteInterner;
use sluice_proto::{MAX_MESSAGE, v1 as pb};
use sluice_service::Transport;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tonic::{Status, Streaming};

use super::{
    SubscribeError, SubscribeOptions,
    tracker::Tracker,
    wire::{self, Answer},
};
use crate::backoff::Backoff;

/// The connection under a subscription: makes it, makes it again, and gives up on a silent one.
pub(super) struct Link {
    transport: Transport,
    options: SubscribeOptions,
    backoff: Backoff,
    state: State,
    interner: RouteInterner,
    connections: u64,
    /// When the last message came; the first call begins the count.
    heard: Option<Instant>,
}

enum State {
    /// Not connected; not to be tried before this moment.
    Down(Option<Instant>),
    Up(Box<Streaming<pb::SubscribeResponse>>, Patience),
}

/// Until when a silent connection is waited for. Kept between calls, so that a caller who gives
/// up its calls more often than that still notices.
#[derive(Clone, Copy)]
struct Patience {
    until: Instant,
    /// A caller who did not ask for long finds the moment passed without a fault of the
    /// connection; it is given a little more, once.
    extended: bool,
}

impl Patience {
    fn new(stale_after: Duration) -> Self {
        Self { until: Instant::now() + stale_after, extended: false }
    }

    fn deadline(&mut self, stale_after: Duration) -> Instant {
        let now = Instant::now();
        if now >= self.until && !self.extended {
            *self = Self { until: now + stale_after / 3, extended: true };
        }
        self.until
    }
}

impl Link {
    pub(super) fn new(transport: Transport, options: SubscribeOptions) -> Self {
        let backoff = options.backoff.clone();
        Self {
            transport,
            options,
            backoff,
            state: State::Down(None),
            interner: RouteInterner::default(),
            connections: 0,
            heard: None,
        }
    }

    pub(super) const fn connections(&self) -> u64 {
        self.connections
    }

    pub(super) fn close(&mut self) {
        self.state = State::Down(None);
    }

    /// The next message, over as many connections as it takes. Cancel safe: every wait is either
    /// a read of the stream, which is, or is begun again from the kept state.
    pub(super) async fn next(&mut self, tracker: &Tracker) -> Result<Answer, SubscribeError> {
        loop {
            let received = match &mut self.state {
                State::Down(wait) => {
                    if let Some(at) = *wait {
                        sleep_until(at).await;
                    }
                    self.connect(tracker).await
                }
                State::Up(stream, patience) => {
                    let stale_after = self.options.stale_after;
                    let message = timeout_at(patience.deadline(stale_after), stream.message());
                    match message.await {
                        Ok(Ok(Some(response))) => {
                            *patience = Patience::new(stale_after);
                            Ok(Some(response))
                        }
                        Ok(Ok(None)) => Err(Status::unavailable("the router ended the stream")),
                        Ok(Err(status)) => Err(status),
                        Err(_) => Err(stale(stale_after)),
                    }
                }
            };
            match received {
                Ok(None) => {}
                Ok(Some(response)) => {
                    match wire::answer(response, &mut self.interner) {
                        Ok(Some(answer)) => {
                            // A router that answers and breaks at once is no progress.
                            if !matches!(answer, Answer::Started { .. }) {
                                self.heard = Some(Instant::now());
                                self.backoff.reset();
                            }
                            return Ok(answer);
                        }
                        Ok(None) => {}
                        Err(broken) => {
                            self.close();
                            return Err(broken.into());
                        }
                    }
                }
                Err(status) => self.lost(status)?,
            }
        }
    }

    async fn connect(
        &mut self,
        tracker: &Tracker,
    ) -> Result<Option<pb::SubscribeResponse>, Status> {
        self.heard.get_or_insert_with(Instant::now);
        let mut client = pb::router_client::RouterClient::new(self.transport.clone())
            .max_decoding_message_size(MAX_MESSAGE);
        let request = wire::request(&self.options, tracker.resume());
        let response = timeout(self.options.stale_after, client.subscribe(request))
            .await
            .map_err(|_| stale(self.options.stale_after))??;
        self.connections += 1;
        self.state =
            State::Up(Box::new(response.into_inner()), Patience::new(self.options.stale_after));
        Ok(None)
    }

    /// Decides what a failure means: an error for the caller, or a wait before the next attempt.
    fn lost(&mut self, status: Status) -> Result<(), SubscribeError> {
        let status = match wire::refusal(status) {
            Ok(error) => {
                self.close();
                return Err(error);
            }
            Err(status) => status,
        };
        let waited = self.heard.map(|heard| heard.elapsed()).unwrap_or_default();
        if self.options.give_up_after.is_some_and(|limit| waited >= limit) {
            self.close();
            self.heard = None;
            return Err(SubscribeError::GaveUp { waited, last: Box::new(status) });
        }
        let delay = self.backoff.next_delay();
        tracing::warn!(
            ingestor = %self.options.ingestor,
            code = ?status.code(),
            message = status.message(),
            attempt = self.backoff.attempts(),
            delay_ms = delay.as_millis(),
            "subscription interrupted, connecting again"
        );
        self.state = State::Down(Some(Instant::now() + delay));
        Ok(())
    }
}

fn stale(after: Duration) -> Status {
    Status::unavailable(format!("no message of the router, not even a heartbeat, for {after:?}"))
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("options", &self.options)
            .field("up", &matches!(self.state, State::Up(..)))
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}
