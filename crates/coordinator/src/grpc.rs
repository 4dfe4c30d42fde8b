//! Decodes, calls, encodes. No decisions.

mod control;
mod follow;

use std::{future::Future, time::Duration};

use bytes::Bytes;
use sluice_coordination::{Coordination, Error, Ticket};
use sluice_model::{Epoch, JournalId};
use sluice_proto::{
    convert,
    v1::{self as pb, coordinator_server::Coordinator},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{error::status, metrics::Metrics, wire};

use follow::{ControlStream, LockStream};

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

#[tonic::async_trait]
impl Coordinator for Api {
    type AcquireStream = LockStream;
    type WatchControlStream = ControlStream;

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
        Ok(Response::new(follow::lock(self.clone(), acquisition)))
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

    async fn watch_control(
        &self,
        request: Request<pb::WatchControlRequest>,
    ) -> Result<Response<ControlStream>, Status> {
        let ingestor = wire::ingestor(&request.into_inner().ingestor)?;
        Ok(Response::new(follow::control(self.clone(), ingestor)))
    }

    async fn set_paused(
        &self,
        request: Request<pb::SetPausedRequest>,
    ) -> Result<Response<pb::IngestorControl>, Status> {
        self.pause(request.into_inner()).await.map(Response::new)
    }

    async fn request_action(
        &self,
        request: Request<pb::RequestActionRequest>,
    ) -> Result<Response<pb::IngestorControl>, Status> {
        self.ask(request.into_inner()).await.map(Response::new)
    }

    async fn cancel_action(
        &self,
        request: Request<pb::CancelActionRequest>,
    ) -> Result<Response<pb::IngestorControl>, Status> {
        self.withdraw(request.into_inner()).await.map(Response::new)
    }

    async fn finish_action(
        &self,
        request: Request<pb::FinishActionRequest>,
    ) -> Result<Response<pb::IngestorControl>, Status> {
        self.finish(request.into_inner()).await.map(Response::new)
    }

    async fn record_audit(
        &self,
        request: Request<pb::RecordAuditRequest>,
    ) -> Result<Response<pb::RecordAuditResponse>, Status> {
        self.record(request.into_inner()).await.map(Response::new)
    }

    async fn list_audit(
        &self,
        request: Request<pb::ListAuditRequest>,
    ) -> Result<Response<pb::ListAuditResponse>, Status> {
        self.trail(request.into_inner()).await.map(Response::new)
    }
}
