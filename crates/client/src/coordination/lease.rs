use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use sluice_proto::v1 as pb;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{LostCause, call::Caller, clock, wire};

/// Renewals are tried this many times as often after a failure.
const HURRY: u32 = 4;
/// The next try at a renewal begins after this part of the time that a lease is believed in, while
/// those before are still waited for: three of them, the third over another connection, fit
/// between the moment a renewal is due and the deadline.
const NEXT_TRY: u32 = 8;
/// Tries at a renewal that are waited for at once.
const TRIES: usize = 6;

/// One lease: what is believed of it, and the nonces wanted under it. Lost once is lost for ever.
#[derive(Debug)]
pub(super) struct Lease {
    id: u64,
    ttl: Duration,
    valid_until: AtomicU64,
    wanted: Mutex<BTreeSet<Bytes>>,
    cause: Mutex<Option<LostCause>>,
    lost: CancellationToken,
    /// Held while a keepalive is in flight, so that a list of nonces made before an acquire is
    /// not applied after it.
    in_flight: tokio::sync::Mutex<()>,
}

impl Lease {
    /// A lease granted for a request sent at `sent`.
    pub(super) fn new(id: u64, ttl: Duration, sent: u64) -> Self {
        Self {
            id,
            ttl,
            valid_until: AtomicU64::new(deadline(sent, ttl)),
            wanted: Mutex::default(),
            cause: Mutex::default(),
            lost: CancellationToken::new(),
            in_flight: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// What is left before the deadline; zero when lost.
    pub(super) fn remaining(&self) -> Duration {
        if self.lost.is_cancelled() {
            return Duration::ZERO;
        }
        let until = self.valid_until.load(Ordering::Acquire);
        Duration::from_nanos(until.saturating_sub(clock::boottime()))
    }

    pub(super) fn is_valid(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Marks it lost; the first cause stays.
    pub(super) fn lose(&self, cause: LostCause) {
        self.cause.lock().get_or_insert(cause);
        self.lost.cancel();
    }

    /// Resolves when lost. Cancel safe.
    pub(super) async fn lost(&self) -> LostCause {
        self.lost.cancelled().await;
        self.cause.lock().clone().unwrap_or(LostCause::SessionLost)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// From now on keepalives name the nonce. Returns after those that do not are answered.
    pub(super) async fn want(&self, nonce: Bytes) {
        self.wanted.lock().insert(nonce);
        drop(self.in_flight.lock().await);
    }

    pub(super) fn unwant(&self, nonce: &Bytes) {
        self.wanted.lock().remove(nonce);
    }

    /// Renews until the store says it ended or the deadline passes. The deadline is looked at on
    /// the boot clock at least twice a second, so that waking from a long sleep is noticed.
    pub(super) async fn renew(&self, caller: &Caller) {
        let believed = self.ttl.saturating_sub(clock::margin(self.ttl));
        let pace = (self.ttl / 3).min(believed / 2);
        let tick = (self.ttl / 20).clamp(Duration::from_millis(20), Duration::from_millis(500));
        let mut due = clock::boottime() + clock::nanos(pace);
        loop {
            tokio::select! {
                () = self.lost.cancelled() => return,
                () = tokio::time::sleep(tick) => {}
            }
            caller.metrics().remaining(self.remaining());
            if !self.is_valid() {
                self.lose(LostCause::Deadline);
                return;
            }
            if clock::boottime() < due {
                continue;
            }
            let wait = tokio::select! {
                () = self.expiry(tick) => continue,
                renewed = self.keep_alive(caller, believed) => match renewed {
                    Ok(true) => pace,
                    Ok(false) => { self.lose(LostCause::SessionLost); return; }
                    Err(status) => {
                        tracing::warn!(session = self.id, error = status.message(), "keepalive failed");
                        pace / HURRY
                    }
                },
            };
            due = clock::boottime() + clock::nanos(wait);
        }
    }

    async fn expiry(&self, tick: Duration) {
        while self.is_valid() {
            tokio::time::sleep(tick).await;
        }
    }

    /// Renews, with one more try whenever the last one is late. False if the lease has ended; an
    /// error once every try has failed.
    async fn keep_alive(&self, caller: &Caller, believed: Duration) -> Result<bool, Status> {
        let _in_flight = self.in_flight.lock().await;
        let nonces = self.wanted.lock().iter().cloned().collect();
        let request = pb::KeepAliveRequest { session: self.id, nonces };
        let mut tries = FuturesUnordered::new();
        loop {
            let sent = Instant::now();
            if tries.len() < TRIES {
                tries.push(self.try_once(caller, request.clone(), believed));
            }
            let late = sent + believed / NEXT_TRY;
            while let Ok(answer) = timeout_at(late, tries.next()).await {
                match answer {
                    Some(Err(status)) if tries.is_empty() => return Err(status),
                    // One that is under way may still come through.
                    Some(Err(_)) => {}
                    Some(Ok(renewed)) => return Ok(renewed),
                    None => return Err(Status::unavailable("no try was made")),
                }
            }
            caller.late(sent);
        }
    }

    async fn try_once(
        &self,
        caller: &Caller,
        request: pb::KeepAliveRequest,
        timeout: Duration,
    ) -> Result<bool, Status> {
        let mut client = caller.client();
        let sent = clock::boottime();
        let answer = caller.one(timeout, client.keep_alive(request)).await?;
        let took = clock::boottime().saturating_sub(sent);
        caller.metrics().renewed(Duration::from_nanos(took));
        let remaining = wire::duration(answer.remaining.as_ref());
        if remaining.is_zero() {
            return Ok(false);
        }
        // An answer never takes back what an earlier one gave.
        self.valid_until.fetch_max(deadline(sent, remaining), Ordering::AcqRel);
        Ok(true)
    }
}

fn deadline(sent: u64, remaining: Duration) -> u64 {
    sent.saturating_add(clock::nanos(remaining.saturating_sub(clock::margin(remaining))))
}
