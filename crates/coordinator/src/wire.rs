//! Between the wire's messages and the values of coordination.

pub(crate) mod control;

use std::time::Duration;

use bytes::Bytes;
use sluice_coordination::{
    Commit, CommitRecord, Hold, LockState, LockStatus, Member, PutCheckpoint, StreamState, Ticket,
};
use sluice_model::{
    Checkpoint, Digest, Durability, Generation, IngestorName, Pointer, Position, StartPosition,
};
use sluice_proto::{
    convert::{self, ConvertError},
    v1 as pb,
};

type Result<T> = std::result::Result<T, ConvertError>;

pub(crate) fn ingestor(name: &str) -> Result<IngestorName> {
    name.parse().map_err(|error| ConvertError::new("ingestor", error))
}

pub(crate) fn start(text: &str) -> Result<StartPosition> {
    text.parse().map_err(|error| ConvertError::new("start", error))
}

pub(crate) fn member(message: Option<pb::Member>) -> Member {
    message.map_or_else(Member::default, |member| Member {
        node: member.node,
        pid: member.pid,
        boot_id: member.boot_id,
        address: member.address,
    })
}

fn member_message(member: Member) -> pb::Member {
    pb::Member {
        node: member.node,
        pid: member.pid,
        boot_id: member.boot_id,
        address: member.address,
    }
}

pub(crate) fn lock_state(state: LockState) -> pb::AcquireResponse {
    use pb::acquire_response::{Lost, Owned, State, Waiting};
    let state = match state {
        LockState::Waiting { ahead, owner } => {
            State::Waiting(Waiting { ahead, owner: owner.map(member_message) })
        }
        LockState::Owned { epoch } => State::Owned(Owned { epoch: epoch.as_u64() }),
        LockState::Lost { cause } => State::Lost(Lost { cause }),
    };
    pb::AcquireResponse { state: Some(state) }
}

pub(crate) fn commit(request: pb::CommitRequest) -> Result<(Ticket, Commit)> {
    let ingestor = ingestor(&request.ingestor)?;
    let ticket = Ticket {
        lock: format!("ingestor/{ingestor}"),
        session: request.session,
        nonce: request.nonce,
    };
    let record = request.commit.ok_or_else(|| ConvertError::new("commit", "it is missing"))?;
    let durability = durability(&record)?;
    let commit = Commit {
        ingestor,
        previous: convert::pointer("previous", request.previous)?,
        journal: convert::journal_id(&record.journal_id)?,
        generation: Generation(record.generation),
        pointer: convert::pointer("commit.pointer", record.pointer)?,
        digest: digest("commit.digest", &record.digest)?,
        durability,
    };
    Ok((ticket, commit))
}

fn durability(record: &pb::CommitRecord) -> Result<Durability> {
    match record.durability() {
        pb::Durability::Fsynced => Ok(Durability::Fsynced),
        pb::Durability::Interval => Ok(Durability::Interval),
        pb::Durability::None => Ok(Durability::None),
        pb::Durability::Replicated => Ok(Durability::Replicated),
        pb::Durability::Unspecified => Err(ConvertError::new("commit.durability", "it is missing")),
    }
}

fn digest(field: &'static str, bytes: &Bytes) -> Result<Digest> {
    convert::digest(field, bytes)?.ok_or_else(|| ConvertError::new(field, "it is missing"))
}

pub(crate) fn commit_message(record: &CommitRecord) -> pb::CommitRecord {
    pb::CommitRecord {
        journal_id: Bytes::copy_from_slice(record.journal.as_bytes()),
        epoch: record.epoch.as_u64(),
        generation: record.generation.0,
        pointer: record.pointer.to_bytes(),
        digest: convert::digest_bytes(&record.digest),
        durability: pb::Durability::from(record.durability).into(),
        sequence: record.sequence,
    }
}

pub(crate) fn checkpoint(request: pb::PutCheckpointRequest) -> Result<(Ticket, PutCheckpoint)> {
    let written =
        request.checkpoint.ok_or_else(|| ConvertError::new("checkpoint", "it is missing"))?;
    let lock = match request.lock {
        lock if lock.is_empty() => format!("stream/{}", request.stream),
        lock => lock,
    };
    let ticket = Ticket { lock, session: request.session, nonce: request.nonce };
    let position = position("checkpoint.position", written.position)?;
    let put = PutCheckpoint {
        ingestor: ingestor(&request.ingestor)?,
        stream: request.stream,
        previous_version: request.previous_version,
        checkpoint: Checkpoint {
            position,
            digest: convert::digest("checkpoint.digest", &written.digest)?,
        },
        filter: written.filter,
        reset_epoch: written.reset_epoch,
    };
    Ok((ticket, put))
}

pub(crate) fn stream_state(state: StreamState) -> pb::GetCheckpointResponse {
    let StreamState { checkpoint, reset_epoch, start } = state;
    let checkpoint = checkpoint.map(|stored| pb::StreamCheckpoint {
        position: Some((&stored.checkpoint.position).into()),
        digest: stored.checkpoint.digest.as_ref().map(convert::digest_bytes).unwrap_or_default(),
        filter: stored.filter,
        reset_epoch: stored.reset_epoch,
        version: stored.version,
    });
    let start = start.map(|start| start.to_string()).unwrap_or_default();
    pb::GetCheckpointResponse { checkpoint, reset_epoch, start }
}

fn position(field: &'static str, message: Option<pb::Position>) -> Result<Position> {
    let message = message.ok_or_else(|| ConvertError::new(field, "it is missing"))?;
    Ok(Position {
        generation: Generation(message.generation),
        pointer: Pointer::new(message.pointer).map_err(|error| ConvertError::new(field, error))?,
        index: message.index,
    })
}

pub(crate) fn hold(request: pb::PutHoldRequest) -> Result<(IngestorName, Hold)> {
    let hold = request.hold.ok_or_else(|| ConvertError::new("hold", "it is missing"))?;
    if hold.implied {
        return Err(ConvertError::new("hold.implied", "such a hold comes from a checkpoint"));
    }
    let name = ingestor(&hold.ingestor)?;
    let position = position("hold.position", hold.position)?;
    let expires_in = hold.expires_in.as_ref().map(convert::std_duration);
    Ok((name, Hold { name: hold.name, position, expires_in, implied: false }))
}

pub(crate) fn hold_message(ingestor: &IngestorName, hold: Hold) -> pb::Hold {
    pb::Hold {
        name: hold.name,
        ingestor: ingestor.to_string(),
        position: Some((&hold.position).into()),
        expires_in: hold.expires_in.map(convert::duration),
        implied: hold.implied,
    }
}

pub(crate) fn lock_status(status: LockStatus) -> pb::LockStatus {
    pb::LockStatus {
        lock: status.lock,
        epoch: status.epoch.map_or(0, sluice_model::Epoch::as_u64),
        owner: status.owner.map(member_message),
        waiters: status.waiters.into_iter().map(member_message).collect(),
    }
}

/// The asked duration; the coordinator's own if none was asked.
pub(crate) fn ttl(asked: Option<&prost_types::Duration>, default: Duration) -> Duration {
    asked.map(convert::std_duration).filter(|ttl| !ttl.is_zero()).unwrap_or(default)
}
