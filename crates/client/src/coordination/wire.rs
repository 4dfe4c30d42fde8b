//! Between the wire's messages and this module's values.

pub(super) mod control;

use std::time::Duration;

use bytes::Bytes;
use sluice_model::{
    Checkpoint, Digest, Durability, Epoch, Generation, IngestorName, JournalId, Pointer, Position,
};
use sluice_proto::v1 as pb;
use tonic::Status;

use super::{
    Commit, CommitRecord, CoordinationError, Hold, Journal, Lock, LockStatus, Member,
    PutCheckpoint, StreamCheckpoint, StreamState,
};

pub(super) use sluice_proto::reason::{CONFLICT, EPOCH_KEY, LOST_OWNERSHIP, SESSION_LOST};

type Result<T> = std::result::Result<T, CoordinationError>;

fn malformed(error: impl std::fmt::Display) -> CoordinationError {
    CoordinationError::Malformed(error.to_string())
}

pub(super) fn required<T>(value: Option<T>, field: &str) -> Result<T> {
    value.ok_or_else(|| CoordinationError::Malformed(format!("the field {field} is missing")))
}

pub(super) fn epoch_detail(status: &Status) -> Option<Epoch> {
    let text = status.metadata().get(EPOCH_KEY)?.to_str().ok()?;
    text.parse().ok().map(Epoch::from_u64)
}

pub(super) fn duration(message: Option<&prost_types::Duration>) -> Duration {
    message
        .and_then(|message| {
            let secs = u64::try_from(message.seconds).ok()?;
            Some(Duration::new(secs, u32::try_from(message.nanos).ok()?))
        })
        .unwrap_or_default()
}

pub(super) fn duration_message(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

pub(super) fn member_message(member: &Member) -> pb::Member {
    pb::Member {
        node: member.node.clone(),
        pid: member.pid,
        boot_id: member.boot_id.clone(),
        address: member.address.clone(),
    }
}

fn member(message: &pb::Member) -> Member {
    Member {
        node: message.node.clone(),
        pid: message.pid,
        boot_id: message.boot_id.clone(),
        address: message.address.clone(),
    }
}

pub(super) fn journal(message: &pb::EnsureJournalResponse) -> Result<Journal> {
    let id = JournalId::try_from(message.journal_id.as_ref()).map_err(malformed)?;
    Ok(Journal { id, created: message.created })
}

pub(super) fn commit_record(message: &pb::CommitRecord) -> Result<CommitRecord> {
    Ok(CommitRecord {
        journal: JournalId::try_from(message.journal_id.as_ref()).map_err(malformed)?,
        epoch: Epoch::from_u64(message.epoch),
        generation: Generation(message.generation),
        pointer: Pointer::new(message.pointer.clone()).map_err(malformed)?,
        digest: Digest::try_from(message.digest.as_ref()).map_err(malformed)?,
        durability: durability(message.durability())?,
        sequence: message.sequence,
    })
}

fn durability(message: pb::Durability) -> Result<Durability> {
    match message {
        pb::Durability::Fsynced => Ok(Durability::Fsynced),
        pb::Durability::Interval => Ok(Durability::Interval),
        pb::Durability::None => Ok(Durability::None),
        pb::Durability::Replicated => Ok(Durability::Replicated),
        pb::Durability::Unspecified => Err(malformed("a commit without a durability")),
    }
}

fn durability_message(durability: Durability) -> pb::Durability {
    match durability {
        Durability::Fsynced => pb::Durability::Fsynced,
        Durability::Interval => pb::Durability::Interval,
        Durability::None => pb::Durability::None,
        Durability::Replicated => pb::Durability::Replicated,
    }
}

fn digest_bytes(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(digest.as_bytes())
}

pub(super) fn commit_request(lock: &Lock, commit: &Commit) -> pb::CommitRequest {
    let (session, nonce) = lock.credentials();
    let epoch = lock.epoch().as_u64();
    pb::CommitRequest {
        ingestor: commit.ingestor.to_string(),
        session,
        nonce,
        epoch,
        previous: commit.previous.to_bytes(),
        commit: Some(pb::CommitRecord {
            journal_id: Bytes::copy_from_slice(commit.journal.as_bytes()),
            epoch,
            generation: commit.generation.0,
            pointer: commit.pointer.to_bytes(),
            digest: digest_bytes(&commit.digest),
            durability: durability_message(commit.durability).into(),
            sequence: 0,
        }),
    }
}

fn position_message(position: &Position) -> pb::Position {
    pb::Position {
        generation: position.generation.0,
        pointer: position.pointer.to_bytes(),
        index: position.index,
    }
}

fn position(message: Option<&pb::Position>) -> Result<Position> {
    let message = required(message, "position")?;
    Ok(Position {
        generation: Generation(message.generation),
        pointer: Pointer::new(message.pointer.clone()).map_err(malformed)?,
        index: message.index,
    })
}

pub(super) fn checkpoint_request(lock: &Lock, put: &PutCheckpoint) -> pb::PutCheckpointRequest {
    let (session, nonce) = lock.credentials();
    pb::PutCheckpointRequest {
        stream: put.stream.clone(),
        session,
        nonce,
        epoch: lock.epoch().as_u64(),
        previous_version: put.previous_version,
        checkpoint: Some(pb::StreamCheckpoint {
            position: Some(position_message(&put.checkpoint.position)),
            digest: put.checkpoint.digest.as_ref().map(digest_bytes).unwrap_or_default(),
            filter: put.filter.clone(),
            reset_epoch: put.reset_epoch,
            version: 0,
        }),
        ingestor: put.ingestor.to_string(),
        lock: lock.name().to_owned(),
    }
}

pub(super) fn stream_state(message: &pb::GetCheckpointResponse) -> Result<StreamState> {
    let start = match message.start.as_str() {
        "" => None,
        text => Some(text.parse().map_err(malformed)?),
    };
    let checkpoint = message.checkpoint.as_ref().map(stream_checkpoint).transpose()?;
    Ok(StreamState { checkpoint, reset_epoch: message.reset_epoch, start })
}

fn stream_checkpoint(message: &pb::StreamCheckpoint) -> Result<StreamCheckpoint> {
    let digest = match message.digest.as_ref() {
        [] => None,
        bytes => Some(Digest::try_from(bytes).map_err(malformed)?),
    };
    Ok(StreamCheckpoint {
        checkpoint: Checkpoint { position: position(message.position.as_ref())?, digest },
        filter: message.filter.clone(),
        version: message.version,
    })
}

pub(super) fn hold(message: &pb::Hold) -> Result<Hold> {
    Ok(Hold {
        name: message.name.clone(),
        ingestor: message.ingestor.parse::<IngestorName>().map_err(malformed)?,
        position: position(message.position.as_ref())?,
        expires_in: message.expires_in.as_ref().map(|left| duration(Some(left))),
        implied: message.implied,
    })
}

pub(super) fn hold_message(hold: &Hold) -> pb::Hold {
    pb::Hold {
        name: hold.name.clone(),
        ingestor: hold.ingestor.to_string(),
        position: Some(position_message(&hold.position)),
        expires_in: hold.expires_in.map(duration_message),
        implied: hold.implied,
    }
}

pub(super) fn lock_status(message: &pb::LockStatus) -> LockStatus {
    LockStatus {
        lock: message.lock.clone(),
        epoch: Epoch::from_u64(message.epoch),
        owner: message.owner.as_ref().map(member),
        waiters: message.waiters.iter().map(member).collect(),
    }
}
