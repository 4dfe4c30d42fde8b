//! Decodes, calls, encodes. No decisions.

use std::{future::Future, pin::Pin, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, stream};
use sluice_coordination::{Acquisition, Coordination, Error, LockState, Ticket};
use sluice_model::{Epoch, JournalId};
use sluice_proto::{
    convert, reason,
    v1::{self as pb, coordinator_server::Coordinator},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use crate::{error::status, metrics::Metrics, wire};

/// The gRPC service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api {
    coordination: Coordination,
    metrics: Metrics,
    lease_ttl: Duration,
    closing: CancellationToken,
}

impl Api {
    pub(crate) fn new(
        coordination: Coordination,
        metrics: Metrics,
        lease_ttl: Duration,
        closing: CancellationToken,
    ) -> Self {
        Self { coordination, metrics, lease_ttl, closing }
    }

    /// Awaits the core's answer and maps its error.
    async fn answer<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Status> {
        answer.await.map_err(|error| {
            self.metrics.failed(call, &error);
            tracing::debug!(call, %error, "refused");
            status(&error)
        })
    }
}

type LockStream = Pin<Box<dyn Stream<Item = Result<pb::AcquireResponse, Status>> + Send>>;

/// Follows a candidate for one caller.
struct Follower {
    api: Api,
    acquisition: Acquisition,
    asked: Instant,
    waited: bool,
    ended: bool,
}

impl Follower {
    async fn next(&mut self) -> Option<Result<pb::AcquireResponse, Status>> {
        if self.ended {
            return None;
        }
        let next = tokio::select! {
            () = self.api.closing.cancelled() => {
                self.ended = true;
                let message = "the coordinator stops; ask another, or again";
                return Some(Err(reason::status(Code::Unavailable, reason::STOPPING, message)));
            }
            next = self.acquisition.next() => next?,
        };
        Some(match next {
            Ok(state) => {
                self.waited |= matches!(state, LockState::Waiting { .. });
                if matches!(state, LockState::Owned { .. }) && self.waited {
                    self.api.metrics.acquired(self.asked.elapsed());
                }
                Ok(wire::lock_state(state))
            }
            Err(error) => {
                self.api.metrics.failed("Acquire", &error);
                Err(status(&error))
            }
        })
    }
}

#[tonic::async_trait]
impl Coordinator for Api {
    type AcquireStream = LockStream;

    async fn grant_session(
        &self,
        request: Request<pb::GrantSessionRequest>,
    ) -> Result<Response<pb::GrantSessionResponse>, Status> {
        let request = request.into_inner();
        let ttl = wire::ttl(request.ttl.as_ref(), self.lease_ttl);
        let member = wire::member(request.member);
        let grant = self.coordination.grant_session(&request.nonce, ttl);
        let (session, ttl) = self.answer("GrantSession", grant).await?;
        tracing::info!(session, ?ttl, node = member.node, pid = member.pid, "session");
        let ttl = Some(convert::duration(ttl));
        Ok(Response::new(pb::GrantSessionResponse { session, ttl }))
    }

    async fn keep_alive(
        &self,
        request: Request<pb::KeepAliveRequest>,
    ) -> Result<Response<pb::KeepAliveResponse>, Status> {
        let request = request.into_inner();
        let asked = Instant::now();
        let renewal = self.coordination.keep_alive(request.session, &request.nonces);
        let remaining = self.answer("KeepAlive", renewal).await?;
        self.metrics.renewed(asked.elapsed());
        let remaining = Some(convert::duration(remaining));
        Ok(Response::new(pb::KeepAliveResponse { remaining }))
    }

    async fn end_session(
        &self,
        request: Request<pb::EndSessionRequest>,
    ) -> Result<Response<pb::EndSessionResponse>, Status> {
        let session = request.into_inner().session;
        self.answer("EndSession", self.coordination.end_session(session)).await?;
        Ok(Response::new(pb::EndSessionResponse {}))
    }

    async fn acquire(
        &self,
        request: Request<pb::AcquireRequest>,
    ) -> Result<Response<LockStream>, Status> {
        let request = request.into_inner();
        let ticket = Ticket { lock: request.lock, session: request.session, nonce: request.nonce };
        let acquisition = self
            .coordination
            .acquire(ticket, wire::member(request.member))
            .map_err(|error| status(&error))?;
        let follower = Follower {
            api: self.clone(),
            acquisition,
            asked: Instant::now(),
            waited: false,
            ended: false,
        };
        let states = stream::unfold(follower, |mut follower| async move {
            let state = follower.next().await?;
            Some((state, follower))
        });
        Ok(Response::new(Box::pin(states)))
    }

    async fn release(
        &self,
        request: Request<pb::ReleaseRequest>,
    ) -> Result<Response<pb::ReleaseResponse>, Status> {
        let request = request.into_inner();
        let ticket = Ticket { lock: request.lock, session: request.session, nonce: request.nonce };
        self.answer("Release", self.coordination.release(&ticket)).await?;
        Ok(Response::new(pb::ReleaseResponse {}))
    }

    async fn ensure_journal(
        &self,
        request: Request<pb::EnsureJournalRequest>,
    ) -> Result<Response<pb::EnsureJournalResponse>, Status> {
        let ingestor = wire::ingestor(&request.into_inner().ingestor)?;
        let fresh = JournalId::from_array(rand::random());
        let ensured = self.coordination.ensure_journal(&ingestor, fresh);
        let (id, created) = self.answer("EnsureJournal", ensured).await?;
        if created {
            tracing::info!(%ingestor, journal = %id, "journal minted");
        }
        let journal_id = Bytes::copy_from_slice(id.as_bytes());
        Ok(Response::new(pb::EnsureJournalResponse { journal_id, created }))
    }

    async fn latest(
        &self,
        request: Request<pb::LatestRequest>,
    ) -> Result<Response<pb::LatestResponse>, Status> {
        let ingestor = wire::ingestor(&request.into_inner().ingestor)?;
        let latest = self.answer("Latest", self.coordination.latest(&ingestor)).await?;
        Ok(Response::new(pb::LatestResponse { commit: latest.as_ref().map(wire::commit_message) }))
    }

    async fn commit(
        &self,
        request: Request<pb::CommitRequest>,
    ) -> Result<Response<pb::CommitResponse>, Status> {
        let request = request.into_inner();
        let epoch = Epoch::from_u64(request.epoch);
        let (ticket, commit) = wire::commit(request)?;
        let stored = self.coordination.commit(&ticket, epoch, &commit);
        let stored = self.answer("Commit", stored).await?;
        self.metrics.written("commit");
        Ok(Response::new(pb::CommitResponse { commit: Some(wire::commit_message(&stored)) }))
    }

    async fn raise_incarnation(
        &self,
        request: Request<pb::RaiseIncarnationRequest>,
    ) -> Result<Response<pb::RaiseIncarnationResponse>, Status> {
        let request = request.into_inner();
        let fence = Epoch::from_u64(request.fence);
        let ticket = Ticket { lock: request.lock, session: request.session, nonce: request.nonce };
        let raised = self.coordination.raise_incarnation(&ticket, fence);
        let epoch = self.answer("RaiseIncarnation", raised).await?;
        let (incarnation, epoch) = (epoch.incarnation(), epoch.as_u64());
        Ok(Response::new(pb::RaiseIncarnationResponse { incarnation, epoch }))
    }

    async fn get_checkpoint(
        &self,
        request: Request<pb::GetCheckpointRequest>,
    ) -> Result<Response<pb::GetCheckpointResponse>, Status> {
        let stream = request.into_inner().stream;
        let state = self.answer("GetCheckpoint", self.coordination.stream_state(&stream)).await?;
        Ok(Response::new(wire::stream_state(state)))
    }

    async fn put_checkpoint(
        &self,
        request: Request<pb::PutCheckpointRequest>,
    ) -> Result<Response<pb::PutCheckpointResponse>, Status> {
        let request = request.into_inner();
        let epoch = Epoch::from_u64(request.epoch);
        let (ticket, put) = wire::checkpoint(request)?;
        let version = self.coordination.put_checkpoint(&ticket, epoch, &put);
        let version = self.answer("PutCheckpoint", version).await?;
        self.metrics.written("checkpoint");
        Ok(Response::new(pb::PutCheckpointResponse { version }))
    }

    async fn reset_stream(
        &self,
        request: Request<pb::ResetStreamRequest>,
    ) -> Result<Response<pb::ResetStreamResponse>, Status> {
        let request = request.into_inner();
        let start = wire::start(&request.start)?;
        let previous = request.previous_reset_epoch;
        let reset = self.coordination.reset_stream(&request.stream, previous, &start);
        let reset_epoch = self.answer("ResetStream", reset).await?;
        tracing::info!(stream = request.stream, reset_epoch, %start, "stream reset");
        self.metrics.written("reset");
        Ok(Response::new(pb::ResetStreamResponse { reset_epoch }))
    }

    async fn list_holds(
        &self,
        request: Request<pb::ListHoldsRequest>,
    ) -> Result<Response<pb::ListHoldsResponse>, Status> {
        let ingestor = wire::ingestor(&request.into_inner().ingestor)?;
        let holds = self.answer("ListHolds", self.coordination.holds(&ingestor)).await?;
        let holds = holds.into_iter().map(|hold| wire::hold_message(&ingestor, hold)).collect();
        Ok(Response::new(pb::ListHoldsResponse { holds }))
    }

    async fn put_hold(
        &self,
        request: Request<pb::PutHoldRequest>,
    ) -> Result<Response<pb::PutHoldResponse>, Status> {
        let (ingestor, hold) = wire::hold(request.into_inner())?;
        self.answer("PutHold", self.coordination.put_hold(&ingestor, &hold)).await?;
        self.metrics.written("hold");
        Ok(Response::new(pb::PutHoldResponse {}))
    }

    async fn delete_hold(
        &self,
        request: Request<pb::DeleteHoldRequest>,
    ) -> Result<Response<pb::DeleteHoldResponse>, Status> {
        let request = request.into_inner();
        let ingestor = wire::ingestor(&request.ingestor)?;
        let deleted = self.coordination.delete_hold(&ingestor, &request.name);
        self.answer("DeleteHold", deleted).await?;
        self.metrics.written("hold");
        Ok(Response::new(pb::DeleteHoldResponse {}))
    }

    async fn list_locks(
        &self,
        request: Request<pb::ListLocksRequest>,
    ) -> Result<Response<pb::ListLocksResponse>, Status> {
        let prefix = request.into_inner().prefix;
        let locks = self.answer("ListLocks", self.coordination.locks(&prefix)).await?;
        let locks = locks.into_iter().map(wire::lock_status).collect();
        Ok(Response::new(pb::ListLocksResponse { locks }))
    }
}
