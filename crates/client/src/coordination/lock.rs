use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use sluice_model::Epoch;
use sluice_proto::v1::{self as pb, acquire_response::State};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use super::{
    CoordinationError, LostCause, Member,
    call::{self, Answers, Caller, Pause},
    clock,
    lease::Lease,
    metrics::Metrics,
    wire,
};

/// A place in a lock's queue, or the lock itself. Dropping it gives it up: keepalives no longer
/// name it, and a release is sent in the background.
pub(super) struct Ticket {
    caller: Caller,
    lease: Arc<Lease>,
    lock: String,
    nonce: Bytes,
    given_up: bool,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("lock", &self.lock)
            .field("session", &self.lease.id())
            .finish_non_exhaustive()
    }
}

impl Ticket {
    pub(super) fn new(caller: Caller, lease: Arc<Lease>, lock: &str, nonce: Bytes) -> Self {
        Self { caller, lease, lock: lock.to_owned(), nonce, given_up: false }
    }

    /// Waits for the turn. `None` if the lease was lost meanwhile.
    pub(super) async fn wait(self, member: &Member) -> Result<Option<Lock>, CoordinationError> {
        let request = pb::AcquireRequest {
            session: self.lease.id(),
            nonce: self.nonce.clone(),
            lock: self.lock.clone(),
            member: Some(wire::member_message(member)),
        };
        let lease = Arc::clone(&self.lease);
        let asked = clock::boottime();
        let won = tokio::select! {
            cause = lease.lost() => {
                tracing::info!(lock = self.lock, %cause, "session lost while queued");
                return Ok(None);
            }
            won = self.queue(&request) => won?,
        };
        let Some((epoch, stream)) = won else { return Ok(None) };
        if !self.lease.is_valid() {
            return Ok(None);
        }
        let waited = Duration::from_nanos(clock::boottime().saturating_sub(asked));
        self.caller.metrics().owned(&self.lock, epoch, waited);
        Ok(Some(Lock::new(self, epoch, request, stream)))
    }

    /// Follows the queue over as many calls as it takes.
    async fn queue(
        &self,
        request: &pb::AcquireRequest,
    ) -> Result<Option<(Epoch, Answers<pb::AcquireResponse>)>, CoordinationError> {
        let mut pause = Pause::default();
        loop {
            let status = match self.follow(request, &mut pause).await {
                Ok(Some(won)) => return Ok(Some(won)),
                Ok(None) => Status::unavailable("the answer ended"),
                Err(status) => status,
            };
            if sluice_proto::reason::of(&status) == Some(wire::SESSION_LOST) {
                self.lease.lose(LostCause::SessionLost);
                return Ok(None);
            }
            if !call::is_transient(&status) {
                return Err(CoordinationError::refused("Acquire", &status).of_lock(&self.lock));
            }
            tracing::debug!(lock = self.lock, error = status.message(), "queueing again");
            tokio::time::sleep(pause.next()).await;
        }
    }

    /// One call, until owned.
    async fn follow(
        &self,
        request: &pb::AcquireRequest,
        pause: &mut Pause,
    ) -> Result<Option<(Epoch, Answers<pb::AcquireResponse>)>, Status> {
        let mut stream = open(&self.caller, request).await?;
        while let Some(message) = stream.message().await? {
            match message.state {
                Some(State::Owned(owned)) => {
                    return Ok(Some((Epoch::from_u64(owned.epoch), stream)));
                }
                Some(State::Waiting(waiting)) => {
                    pause.reset();
                    tracing::debug!(lock = self.lock, ahead = waiting.ahead, "waiting");
                }
                // The place is gone (deleted by hand, or by an old keepalive): queue again.
                Some(State::Lost(lost)) => return Err(Status::unavailable(lost.cause)),
                None => {}
            }
        }
        Ok(None)
    }

    fn release_request(&self) -> pb::ReleaseRequest {
        pb::ReleaseRequest {
            session: self.lease.id(),
            nonce: self.nonce.clone(),
            lock: self.lock.clone(),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.lease.unwant(&self.nonce);
        if self.given_up || self.lease.is_lost() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (caller, request) = (self.caller.clone(), self.release_request());
        runtime.spawn(async move {
            let mut client = caller.client();
            let answer = caller.one(caller.patience().call, client.release(request)).await;
            if let Err(status) = answer {
                tracing::debug!(error = status.message(), "release left to the next keepalive");
            }
        });
    }
}

async fn open(
    caller: &Caller,
    request: &pb::AcquireRequest,
) -> Result<Answers<pb::AcquireResponse>, Status> {
    let mut client = caller.client();
    caller.stream(client.acquire(request.clone())).await
}

/// A lock that was acquired. Cheap to clone; when the last clone is dropped it is released in the
/// background. Prefer [`Lock::release`], which says when it is done.
#[derive(Clone)]
pub struct Lock {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    session: u64,
    nonce: Bytes,
    caller: Caller,
    lease: Arc<Lease>,
    state: Arc<Standing>,
    ticket: Mutex<Option<Ticket>>,
    _watcher: DropGuard,
}

/// What the watcher and the holder share.
struct Standing {
    lock: String,
    metrics: Metrics,
    epoch: AtomicU64,
    cause: Mutex<Option<LostCause>>,
    lost: CancellationToken,
}

impl Standing {
    fn lose(&self, cause: LostCause) {
        let mut first = self.cause.lock();
        if first.is_none() {
            self.metrics.ended(&self.lock, &cause);
            *first = Some(cause);
        }
        drop(first);
        self.lost.cancel();
    }

    fn raise(&self, epoch: u64) {
        if self.epoch.fetch_max(epoch, Ordering::AcqRel) < epoch {
            self.metrics.raised(&self.lock, Epoch::from_u64(epoch));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.state.lose(LostCause::Released);
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("name", &self.name())
            .field("epoch", &self.epoch())
            .field("valid", &self.is_valid())
            .finish_non_exhaustive()
    }
}

impl Lock {
    fn new(
        ticket: Ticket,
        epoch: Epoch,
        request: pb::AcquireRequest,
        stream: Answers<pb::AcquireResponse>,
    ) -> Self {
        let stop = CancellationToken::new();
        let state = Arc::new(Standing {
            lock: ticket.lock.clone(),
            metrics: ticket.caller.metrics().clone(),
            epoch: AtomicU64::new(epoch.as_u64()),
            cause: Mutex::default(),
            lost: CancellationToken::new(),
        });
        let watcher = Watcher {
            caller: ticket.caller.clone(),
            lease: Arc::clone(&ticket.lease),
            state: Arc::clone(&state),
            request,
        };
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = watcher.run(stream) => {}
            }
        });
        Self {
            inner: Arc::new(Inner {
                name: ticket.lock.clone(),
                session: ticket.lease.id(),
                nonce: ticket.nonce.clone(),
                caller: ticket.caller.clone(),
                lease: Arc::clone(&ticket.lease),
                state,
                ticket: Mutex::new(Some(ticket)),
                _watcher: stop.drop_guard(),
            }),
        }
    }

    /// The name it was acquired by.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The fencing number. Above that of every earlier owner; changes only by
    /// [`Coordination::raise_incarnation`](super::Coordination::raise_incarnation).
    pub fn epoch(&self) -> Epoch {
        Epoch::from_u64(self.inner.state.epoch.load(Ordering::Acquire))
    }

    /// True while the lock is held as far as this process can know: not reported lost, not
    /// released, and the deadline ahead. Check before every side effect that nothing fences.
    pub fn is_valid(&self) -> bool {
        !self.inner.state.lost.is_cancelled() && self.inner.lease.is_valid()
    }

    /// How long [`Self::is_valid`] will stay true without another keepalive.
    pub fn remaining(&self) -> Duration {
        if self.inner.state.lost.is_cancelled() {
            return Duration::ZERO;
        }
        self.inner.lease.remaining()
    }

    /// Resolves when the lock is lost or released, with the cause; at once if it already is.
    /// Cancel safe; independent of the lock's own lifetime.
    pub fn lost(&self) -> impl Future<Output = LostCause> + Send + 'static {
        let (lease, state) = (Arc::clone(&self.inner.lease), Arc::clone(&self.inner.state));
        async move {
            tokio::select! {
                () = state.lost.cancelled() => {
                    state.cause.lock().clone().unwrap_or(LostCause::Released)
                }
                cause = lease.lost() => cause,
            }
        }
    }

    /// What proves the ownership to the coordinator: the session and the nonce.
    pub fn credentials(&self) -> (u64, Bytes) {
        (self.inner.session, self.inner.nonce.clone())
    }

    /// Gives the lock up, so that the next in the queue owns it at once. End everything that runs
    /// under it first. Idempotent; never removes a successor's key. On an error the lock still
    /// ends: its key goes with the next keepalive, or with the lease.
    pub async fn release(&self) -> Result<(), CoordinationError> {
        self.inner.state.lose(LostCause::Released);
        let Some(mut ticket) = self.inner.ticket.lock().take() else { return Ok(()) };
        if ticket.lease.is_lost() {
            return Ok(());
        }
        let request = ticket.release_request();
        self.inner
            .caller
            .call("Release", |mut client| {
                let request = request.clone();
                async move { client.release(request).await }
            })
            .await?;
        ticket.given_up = true;
        Ok(())
    }

    /// The error to give before a call that needs the lock.
    pub(super) fn check(&self) -> Result<(), CoordinationError> {
        if self.is_valid() {
            return Ok(());
        }
        Err(CoordinationError::LostOwnership { lock: self.inner.name.clone(), current: None })
    }

    pub(super) fn caller(&self) -> &Caller {
        &self.inner.caller
    }

    pub(super) fn raise(&self, epoch: Epoch) {
        self.inner.state.raise(epoch.as_u64());
    }
}

/// Follows an owned lock until it is lost, over any number of calls.
struct Watcher {
    caller: Caller,
    lease: Arc<Lease>,
    state: Arc<Standing>,
    request: pb::AcquireRequest,
}

impl Watcher {
    async fn run(self, mut stream: Answers<pb::AcquireResponse>) {
        let mut pause = Pause::default();
        let cause = loop {
            tokio::select! {
                // A session that was closed tells first; that its keys are gone comes of it.
                biased;
                cause = self.lease.lost() => break cause,
                cause = self.follow(&mut stream, &mut pause) => if let Some(cause) = cause {
                    break cause;
                },
            }
            tokio::select! {
                cause = self.lease.lost() => break cause,
                reopened = self.reopen(&mut pause) => match reopened {
                    Ok(again) => stream = again,
                    Err(cause) => break cause,
                },
            }
        };
        self.state.lose(cause);
    }

    /// `None` when the call ended without a verdict.
    async fn follow(
        &self,
        stream: &mut Answers<pb::AcquireResponse>,
        pause: &mut Pause,
    ) -> Option<LostCause> {
        loop {
            let message = match stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return None,
                Err(status) => return verdict(&status),
            };
            pause.reset();
            match message.state? {
                State::Owned(owned) => {
                    let known = Epoch::from_u64(self.state.epoch.load(Ordering::Acquire));
                    let told = Epoch::from_u64(owned.epoch);
                    // The same key under a raised incarnation is the same lock; another key is not.
                    if told.revision() != known.revision() {
                        return Some(LostCause::KeyGone(format!("epoch {told} is not {known}")));
                    }
                    self.state.raise(owned.epoch);
                }
                State::Waiting(_) => {
                    return Some(LostCause::KeyGone("queued anew".to_owned()));
                }
                State::Lost(lost) => return Some(LostCause::KeyGone(lost.cause)),
            }
        }
    }

    async fn reopen(&self, pause: &mut Pause) -> Result<Answers<pb::AcquireResponse>, LostCause> {
        loop {
            tokio::time::sleep(pause.next()).await;
            match open(&self.caller, &self.request).await {
                Ok(stream) => return Ok(stream),
                Err(status) => {
                    tracing::debug!(error = status.message(), "lock not watched; again");
                    if let Some(cause) = verdict(&status) {
                        return Err(cause);
                    }
                }
            }
        }
    }
}

fn verdict(status: &Status) -> Option<LostCause> {
    if sluice_proto::reason::of(status) == Some(wire::SESSION_LOST) {
        return Some(LostCause::SessionLost);
    }
    (!call::is_transient(status)).then(|| LostCause::KeyGone(status.message().to_owned()))
}
