//! Between etcd's messages and errors and ours.

use std::time::Duration;

use bytes::Bytes;
use etcd_client::{
    Compare as EtcdCompare, CompareOp, Error, EventType, GetOptions, GetResponse, KeyValue,
    PutOptions, Txn as EtcdTxn, TxnOp, TxnOpResponse, TxnResponse, WatchResponse,
};
use tonic::Code;

use crate::kv::{
    Answer, Compare, Entry, Event, EventKind, KvError, LeaseId, Op, Range, Revision, Txn, TxnAnswer,
};

pub(super) fn lease_id(lease: LeaseId) -> Result<i64, KvError> {
    i64::try_from(lease)
        .ok()
        .filter(|id| *id > 0)
        .ok_or_else(|| KvError::Invalid(format!("{lease} is not a lease id")))
}

/// Etcd counts revisions from 1 as i64.
pub(super) fn revision(number: i64) -> Revision {
    u64::try_from(number).unwrap_or_default()
}

fn number(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// A time to live; etcd says zero or less for a lease that ended.
pub(super) fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or_default())
}

pub(super) fn only_reads(txn: &Txn) -> bool {
    txn.then.iter().chain(&txn.otherwise).all(|op| matches!(op, Op::Get(_) | Op::Range(..)))
}

pub(super) fn lease_of(txn: &Txn) -> Option<LeaseId> {
    txn.then.iter().chain(&txn.otherwise).find_map(|op| match op {
        Op::Put { lease, .. } => *lease,
        _ => None,
    })
}

pub(super) fn txn(txn: &Txn) -> EtcdTxn {
    EtcdTxn::new()
        .when(txn.when.iter().map(compare).collect::<Vec<_>>())
        .and_then(txn.then.iter().map(op).collect::<Vec<_>>())
        .or_else(txn.otherwise.iter().map(op).collect::<Vec<_>>())
}

fn compare(compare: &Compare) -> EtcdCompare {
    match compare {
        Compare::Created(key, at) => {
            EtcdCompare::create_revision(key.as_str(), CompareOp::Equal, number(*at))
        }
        Compare::Modified(key, at) => {
            EtcdCompare::mod_revision(key.as_str(), CompareOp::Equal, number(*at))
        }
        Compare::Value(key, value) => {
            EtcdCompare::value(key.as_str(), CompareOp::Equal, value.to_vec())
        }
        Compare::Absent(key) => EtcdCompare::create_revision(key.as_str(), CompareOp::Equal, 0),
    }
}

fn op(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let lease = i64::try_from(lease.unwrap_or_default()).unwrap_or_default();
            let options = PutOptions::new().with_lease(lease);
            TxnOp::put(key.as_str(), value.to_vec(), Some(options))
        }
        Op::Delete(key) => TxnOp::delete(key.as_str(), None),
        Op::Get(key) => TxnOp::get(key.as_str(), None),
        Op::Range(prefix, limit) => {
            let limit = i64::try_from(*limit).unwrap_or(i64::MAX);
            let options = GetOptions::new().with_prefix().with_limit(limit);
            TxnOp::get(prefix.as_str(), Some(options))
        }
    }
}

fn entry(kv: &KeyValue) -> Result<Entry, KvError> {
    Ok(Entry {
        key: key(kv)?,
        value: Bytes::copy_from_slice(kv.value()),
        create_revision: revision(kv.create_revision()),
        mod_revision: revision(kv.mod_revision()),
        lease: u64::try_from(kv.lease()).ok().filter(|lease| *lease != 0),
    })
}

fn key(kv: &KeyValue) -> Result<String, KvError> {
    kv.key_str()
        .map(str::to_owned)
        .map_err(|_| KvError::Invalid(format!("the key {:?} is not ours", kv.key())))
}

pub(super) fn range(answer: &GetResponse) -> Result<Range, KvError> {
    Ok(Range {
        revision: answer.header().map_or(0, |header| revision(header.revision())),
        entries: answer.kvs().iter().map(entry).collect::<Result<_, _>>()?,
        more: answer.more(),
    })
}

/// The answers carry no trace of whether one key was asked for or a prefix: a read of exactly
/// one key is told apart by the transaction that was sent.
pub(super) fn txn_answer(sent: &Txn, answer: &TxnResponse) -> Result<TxnAnswer, KvError> {
    let ops = if answer.succeeded() { &sent.then } else { &sent.otherwise };
    let responses = answer.op_responses();
    if responses.len() != ops.len() {
        return Err(KvError::Invalid(format!(
            "{} answers to {} operations",
            responses.len(),
            ops.len()
        )));
    }
    let answers = ops.iter().zip(&responses).map(|(op, response)| match (op, response) {
        (Op::Put { .. }, TxnOpResponse::Put(_)) => Ok(Answer::Put),
        (Op::Delete(_), TxnOpResponse::Delete(deleted)) => {
            Ok(Answer::Deleted(deleted.deleted() > 0))
        }
        (Op::Get(_), TxnOpResponse::Get(got)) => {
            got.kvs().first().map(entry).transpose().map(Answer::Got)
        }
        (Op::Range(..), TxnOpResponse::Get(got)) => {
            got.kvs().iter().map(entry).collect::<Result<_, _>>().map(Answer::Listed)
        }
        _ => Err(KvError::Invalid("an answer of another kind than the operation".to_owned())),
    });
    Ok(TxnAnswer {
        succeeded: answer.succeeded(),
        revision: answer.header().map_or(0, |header| revision(header.revision())),
        answers: answers.collect::<Result<_, _>>()?,
    })
}

/// What a watch said; `None` for the messages that carry no event.
pub(super) fn watched(
    message: Result<Option<WatchResponse>, Error>,
) -> Result<Option<Vec<Event>>, KvError> {
    let message = message
        .map_err(|error| read_error(&error))?
        .ok_or_else(|| KvError::Unavailable("the watch ended".to_owned()))?;
    if message.compact_revision() > 0 {
        return Err(KvError::Compacted { oldest: revision(message.compact_revision()) });
    }
    if message.canceled() {
        return Err(KvError::Unavailable(format!("watch cancelled: {}", message.cancel_reason())));
    }
    let events: Vec<Event> = message.events().iter().filter_map(event).collect::<Result<_, _>>()?;
    Ok((!events.is_empty()).then_some(events))
}

fn event(event: &etcd_client::Event) -> Option<Result<Event, KvError>> {
    let kv = event.kv()?;
    let kind = match event.event_type() {
        EventType::Put => EventKind::Put(Bytes::copy_from_slice(kv.value())),
        EventType::Delete => EventKind::Deleted,
    };
    let revision = revision(kv.mod_revision());
    Some(key(kv).map(|key| Event { key, revision, kind }))
}

pub(super) fn is_lease_gone(error: &Error) -> bool {
    match error {
        Error::LeaseKeepAliveError(message) => message.contains("lease not found"),
        Error::GRpcStatus(status) => status.message().contains("lease not found"),
        _ => false,
    }
}

/// The error of a call that changes nothing.
pub(super) fn read_error(error: &Error) -> KvError {
    verdict(error).unwrap_or_else(|| KvError::Unavailable(error.to_string()))
}

/// The error of a call that may have taken effect, unless the server said that it did not.
pub(super) fn write_error(error: &Error) -> KvError {
    verdict(error).unwrap_or_else(|| KvError::Unknown(error.to_string()))
}

/// What the server itself decided; `None` for everything that happened on the way.
fn verdict(error: &Error) -> Option<KvError> {
    if is_lease_gone(error) {
        // The caller knows which.
        return Some(KvError::LeaseNotFound(0));
    }
    let status = match error {
        Error::GRpcStatus(status) => status,
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::EndpointError(_) => {
            return Some(KvError::Invalid(error.to_string()));
        }
        _ => return None,
    };
    let message = status.message().to_owned();
    match status.code() {
        Code::OutOfRange if message.contains("compacted") => Some(KvError::Compacted { oldest: 0 }),
        Code::ResourceExhausted if message.contains("space exceeded") => {
            Some(KvError::NoSpace(message))
        }
        // Refused before it was proposed.
        Code::ResourceExhausted => Some(KvError::Unavailable(message)),
        // Refused at the door: the member knows no leader.
        Code::Unavailable if message.contains("no leader") => Some(KvError::Unavailable(message)),
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => Some(KvError::Invalid(message)),
        _ => None,
    }
}
