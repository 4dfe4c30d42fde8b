use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use sluice_proto::v1 as pb;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    CoordinationError, Lock, Member,
    call::{Caller, Pause},
    clock,
    lease::Lease,
    lock::Ticket,
    wire,
};

/// What a session is to be.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// How long the store waits for a keepalive before it gives the locks to others. Bounds the
    /// take-over after a crash. At least 2 s; 10 s by default.
    pub ttl: Duration,
    /// Who this is, for people.
    pub member: Member,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(10), member: Member::default() }
    }
}

/// This process's session: one lease, renewed by a task of its own. Cheap to clone; the task ends
/// when the last clone is dropped (the lease then runs out by itself) or on [`Session::close`].
///
/// A lease that is lost takes every [`Lock`] under it along; the session then gets a new one, so
/// that [`Session::acquire`] can be called again on the same session.
#[derive(Clone, Debug)]
pub struct Session {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    caller: Caller,
    member: Member,
    lease: watch::Receiver<Option<Arc<Lease>>>,
    closed: CancellationToken,
    ended: CancellationToken,
    _stop: DropGuard,
}

impl Session {
    pub(super) async fn start(
        caller: Caller,
        options: SessionOptions,
    ) -> Result<Self, CoordinationError> {
        let first = Arc::new(grant(&caller, &options).await?);
        let (sender, lease) = watch::channel(Some(Arc::clone(&first)));
        let closed = CancellationToken::new();
        let ended = CancellationToken::new();
        let keeper = Keeper {
            caller: caller.clone(),
            options: options.clone(),
            sender,
            closed: closed.clone(),
            ended: ended.clone(),
        };
        tokio::spawn(keeper.run(first));
        let stop = closed.clone().drop_guard();
        let member = options.member;
        Ok(Self { shared: Arc::new(Shared { caller, member, lease, closed, ended, _stop: stop }) })
    }

    /// Queues for a lock and waits for its turn, for ever if need be. First come, first served.
    ///
    /// Failures in transit and a lost lease are overcome inside (the latter at the price of the
    /// place in the queue). Errors: [`CoordinationError::Refused`] for a name that is not one,
    /// [`CoordinationError::Closed`].
    ///
    /// Cancel safe: dropping the future gives the place up; the store learns it at once, or with
    /// the next keepalive.
    pub async fn acquire(&self, lock: &str) -> Result<Lock, CoordinationError> {
        loop {
            let lease = self.lease().await?;
            let nonce = Bytes::copy_from_slice(&rand::random::<u128>().to_be_bytes());
            lease.want(nonce.clone()).await;
            let ticket = Ticket::new(self.shared.caller.clone(), lease, lock, nonce);
            let won = tokio::select! {
                () = self.shared.closed.cancelled() => return Err(CoordinationError::Closed),
                won = ticket.wait(&self.shared.member) => won?,
            };
            if let Some(lock) = won {
                return Ok(lock);
            }
        }
    }

    /// The present lease's id; 0 while there is none.
    pub fn id(&self) -> u64 {
        self.shared.lease.borrow().as_ref().map_or(0, |lease| lease.id())
    }

    /// True while a lease is held and its deadline is ahead.
    pub fn is_valid(&self) -> bool {
        self.shared.lease.borrow().as_ref().is_some_and(|lease| lease.is_valid())
    }

    /// What is left before the deadline of the present lease.
    pub fn remaining(&self) -> Duration {
        self.shared.lease.borrow().as_ref().map_or(Duration::ZERO, |lease| lease.remaining())
    }

    /// Ends the session and with it every lock, so that others get their turn at once. Bounded by
    /// the patience of one call. Idempotent.
    pub async fn close(&self) {
        self.shared.closed.cancel();
        self.shared.ended.cancelled().await;
    }

    async fn lease(&self) -> Result<Arc<Lease>, CoordinationError> {
        let mut receiver = self.shared.lease.clone();
        let living = receiver.wait_for(|lease| lease.as_ref().is_some_and(|l| !l.is_lost()));
        tokio::select! {
            () = self.shared.closed.cancelled() => Err(CoordinationError::Closed),
            lease = living => lease
                .ok()
                .and_then(|lease| lease.clone())
                .ok_or(CoordinationError::Closed),
        }
    }
}

/// The task that keeps a lease and replaces a lost one.
struct Keeper {
    caller: Caller,
    options: SessionOptions,
    sender: watch::Sender<Option<Arc<Lease>>>,
    closed: CancellationToken,
    ended: CancellationToken,
}

impl Keeper {
    async fn run(self, first: Arc<Lease>) {
        let _ended = self.ended.clone().drop_guard();
        let mut lease = first;
        loop {
            tokio::select! {
                () = self.closed.cancelled() => {
                    lease.lose(super::LostCause::Released);
                    self.sender.send_replace(None);
                    end(&self.caller, lease.id()).await;
                    return;
                }
                () = lease.renew(&self.caller) => {}
            }
            let cause = lease.lost().await;
            tracing::warn!(session = lease.id(), %cause, "session lost; making a new one");
            self.sender.send_replace(None);
            // Others need not wait for a lease that nobody believes in any more.
            let (caller, old) = (self.caller.clone(), lease.id());
            tokio::spawn(async move { end(&caller, old).await });
            lease = tokio::select! {
                () = self.closed.cancelled() => return,
                lease = self.replace() => lease,
            };
            self.sender.send_replace(Some(Arc::clone(&lease)));
        }
    }

    async fn replace(&self) -> Arc<Lease> {
        let mut pause = Pause::default();
        loop {
            match grant(&self.caller, &self.options).await {
                Ok(lease) => return Arc::new(lease),
                Err(error) => tracing::warn!(%error, "no new session yet"),
            }
            tokio::time::sleep(pause.next()).await;
        }
    }
}

async fn grant(caller: &Caller, options: &SessionOptions) -> Result<Lease, CoordinationError> {
    let nonce = Bytes::copy_from_slice(&rand::random::<u128>().to_be_bytes());
    let request = pb::GrantSessionRequest {
        ttl: Some(wire::duration_message(options.ttl)),
        nonce,
        member: Some(wire::member_message(&options.member)),
    };
    // Validity counts from the first try: a repeated one may find the lease of an earlier one.
    let sent = clock::boottime();
    let response = caller
        .call("GrantSession", |mut client| {
            let request = request.clone();
            async move { client.grant_session(request).await }
        })
        .await?;
    let ttl = wire::duration(response.ttl.as_ref());
    if ttl.is_zero() || response.session == 0 {
        return Err(CoordinationError::Malformed("a session without a duration".to_owned()));
    }
    Ok(Lease::new(response.session, ttl, sent))
}

async fn end(caller: &Caller, session: u64) {
    let mut client = caller.client();
    let request = pb::EndSessionRequest { session };
    if let Err(status) = caller.one(caller.patience().call, client.end_session(request)).await {
        tracing::info!(session, error = status.message(), "session left to run out");
    }
}
