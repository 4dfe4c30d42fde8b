//! What operators want of ingestors, and the trail.

use sluice_coordination::{Ticket, control::Finish};
use sluice_model::Epoch;
use sluice_proto::{convert::ConvertError, v1 as pb};
use tonic::Status;

use super::Api;
use crate::wire;

impl Api {
    pub(super) async fn pause(
        &self,
        request: pb::SetPausedRequest,
    ) -> Result<pb::IngestorControl, Status> {
        let ingestor = wire::ingestor(&request.ingestor)?;
        let (actor, reason) = (&request.actor, &request.reason);
        let paused = async {
            match (request.paused, request.alarm) {
                (true, true) => self.coordination.raise_alarm(&ingestor, actor, reason).await,
                (paused, _) => self.coordination.set_paused(&ingestor, paused, actor, reason).await,
            }
        };
        let control = self.answer("SetPaused", paused).await?;
        self.metrics.written("control");
        Ok(wire::control::message(&ingestor, control))
    }

    pub(super) async fn ask(
        &self,
        request: pb::RequestActionRequest,
    ) -> Result<pb::IngestorControl, Status> {
        let ingestor = wire::ingestor(&request.ingestor)?;
        let asked = wire::control::request(request)?;
        let asked = self.coordination.request_action(&ingestor, &asked);
        let control = self.answer("RequestAction", asked).await?;
        self.metrics.written("control");
        Ok(wire::control::message(&ingestor, control))
    }

    pub(super) async fn withdraw(
        &self,
        request: pb::CancelActionRequest,
    ) -> Result<pb::IngestorControl, Status> {
        let ingestor = wire::ingestor(&request.ingestor)?;
        let (id, actor, reason) = (request.id, &request.actor, &request.reason);
        let cancelled = self.coordination.cancel_action(&ingestor, id, actor, reason);
        let control = self.answer("CancelAction", cancelled).await?;
        self.metrics.written("control");
        Ok(wire::control::message(&ingestor, control))
    }

    pub(super) async fn finish(
        &self,
        request: pb::FinishActionRequest,
    ) -> Result<pb::IngestorControl, Status> {
        let ingestor = wire::ingestor(&request.ingestor)?;
        let ticket = Ticket {
            lock: format!("ingestor/{ingestor}"),
            session: request.session,
            nonce: request.nonce,
        };
        let epoch = Epoch::from_u64(request.epoch);
        let finish = Finish { id: request.id, done: request.done, message: request.message };
        let finished = self.coordination.finish_action(&ticket, epoch, &ingestor, &finish);
        let control = self.answer("FinishAction", finished).await?;
        self.metrics.written("control");
        Ok(wire::control::message(&ingestor, control))
    }

    pub(super) async fn record(
        &self,
        request: pb::RecordAuditRequest,
    ) -> Result<pb::RecordAuditResponse, Status> {
        let entry = request.entry.ok_or_else(|| ConvertError::new("entry", "it is missing"))?;
        let ingestor = wire::ingestor(&entry.ingestor)?;
        let note = wire::control::note(entry);
        let recorded = self.coordination.record_audit(&ingestor, &request.nonce, &note);
        let sequence = self.answer("RecordAudit", recorded).await?;
        self.metrics.written("audit");
        Ok(pb::RecordAuditResponse { sequence })
    }

    pub(super) async fn trail(
        &self,
        request: pb::ListAuditRequest,
    ) -> Result<pb::ListAuditResponse, Status> {
        let ingestor = wire::ingestor(&request.ingestor)?;
        let limit = match request.limit {
            0 => usize::MAX,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let listed = self.coordination.list_audit(&ingestor, request.after, limit);
        let entries = self.answer("ListAudit", listed).await?;
        let entries = entries.into_iter().map(|entry| wire::control::entry(&ingestor, entry));
        Ok(pb::ListAuditResponse { entries: entries.collect() })
    }
}
