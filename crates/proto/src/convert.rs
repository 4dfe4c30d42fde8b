//! Between what stands on the wire and the values of [`sluice_model`].

use bytes::Bytes;
use sluice_frame::StateDigest;
use sluice_model::{
    Digest, Durability, FilterSpec, Generation, Head, JournalId, Op, Pointer, Position, SequenceId,
    StartPosition, topic::KeyPrefix,
};

use crate::v1;

/// What a message says that no value can hold.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ConvertError {
    /// The field, as in the .proto file.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl ConvertError {
    /// An error of a field.
    pub fn new(field: &'static str, reason: impl ToString) -> Self {
        Self { field, reason: reason.to_string() }
    }
}

impl From<ConvertError> for tonic::Status {
    fn from(error: ConvertError) -> Self {
        crate::reason::status(
            tonic::Code::InvalidArgument,
            crate::reason::INVALID,
            error.to_string(),
        )
    }
}

/// Reads a pointer.
pub fn pointer(field: &'static str, bytes: Bytes) -> Result<Pointer, ConvertError> {
    Pointer::new(bytes).map_err(|error| ConvertError::new(field, error))
}

/// Reads a digest that may be absent.
pub fn digest(field: &'static str, bytes: &Bytes) -> Result<Option<Digest>, ConvertError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    Digest::try_from(bytes.as_ref()).map(Some).map_err(|error| ConvertError::new(field, error))
}

/// Reads a journal id.
pub fn journal_id(bytes: &Bytes) -> Result<JournalId, ConvertError> {
    JournalId::try_from(bytes.as_ref()).map_err(|error| ConvertError::new("journal_id", error))
}

/// A digest for the wire.
pub fn digest_bytes(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(digest.as_bytes())
}

/// A digest that may be missing; missing is empty.
pub fn maybe_digest_bytes(digest: Option<&Digest>) -> Bytes {
    digest.map(digest_bytes).unwrap_or_default()
}

/// State digests for the wire, in their order.
pub fn state_digests(states: &[StateDigest]) -> Vec<v1::StateDigest> {
    let state = |state: &StateDigest| v1::StateDigest {
        store_key: state.store.clone(),
        digest: digest_bytes(&state.digest),
    };
    states.iter().map(state).collect()
}

/// Nanoseconds since 1970 as a timestamp.
pub fn timestamp(nanos: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: nanos.div_euclid(1_000_000_000),
        // The remainder of a division by 10^9 fits.
        nanos: i32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or_default(),
    }
}

/// A timestamp as nanoseconds since 1970; `None` beyond what 64 bits hold.
pub fn nanos(time: &prost_types::Timestamp) -> Option<i64> {
    time.seconds.checked_mul(1_000_000_000)?.checked_add(i64::from(time.nanos))
}

/// A non-negative duration for the wire.
pub fn duration(duration: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

/// A duration of the wire; negative ones are zero.
pub fn std_duration(duration: &prost_types::Duration) -> std::time::Duration {
    let nanos = u32::try_from(duration.nanos).unwrap_or_default();
    std::time::Duration::new(u64::try_from(duration.seconds).unwrap_or_default(), nanos)
}

impl From<&Position> for v1::Position {
    fn from(position: &Position) -> Self {
        Self {
            generation: position.generation.0,
            pointer: position.pointer.to_bytes(),
            index: position.index,
        }
    }
}

impl TryFrom<v1::Position> for Position {
    type Error = ConvertError;
    fn try_from(position: v1::Position) -> Result<Self, ConvertError> {
        Ok(Self {
            generation: Generation(position.generation),
            pointer: pointer("position.pointer", position.pointer)?,
            index: position.index,
        })
    }
}

impl From<&Head> for v1::Head {
    fn from(head: &Head) -> Self {
        Self {
            generation: head.generation.0,
            pointer: head.pointer.to_bytes(),
            height: head.height,
            digest: digest_bytes(&head.digest),
            time: head.time.map(timestamp),
            appended: Some(timestamp(head.appended)),
        }
    }
}

/// Reads a head; `None` while the journal has no block. A later history that has none yet has the
/// pointer before every block.
pub fn head(head: Option<v1::Head>) -> Result<Option<Head>, ConvertError> {
    let Some(head) = head.filter(|head| !head.pointer.is_empty() || head.generation > 0) else {
        return Ok(None);
    };
    let digest = digest("head.digest", &head.digest)?;
    Ok(Some(Head {
        generation: Generation(head.generation),
        pointer: pointer("head.pointer", head.pointer)?,
        height: head.height,
        digest: digest.ok_or_else(|| ConvertError::new("head.digest", "it is missing"))?,
        time: head.time.as_ref().and_then(nanos),
        appended: head.appended.as_ref().and_then(nanos).unwrap_or_default(),
    }))
}

impl From<Durability> for v1::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Fsynced => Self::Fsynced,
            Durability::Interval => Self::Interval,
            Durability::None => Self::None,
            Durability::Replicated => Self::Replicated,
        }
    }
}

/// Reads a durability.
pub fn durability(number: i32) -> Result<Durability, ConvertError> {
    Ok(match v1::Durability::try_from(number) {
        Ok(v1::Durability::Fsynced) => Durability::Fsynced,
        Ok(v1::Durability::Interval) => Durability::Interval,
        Ok(v1::Durability::None) => Durability::None,
        Ok(v1::Durability::Replicated) => Durability::Replicated,
        Ok(v1::Durability::Unspecified) | Err(_) => {
            return Err(ConvertError::new("durability", format!("unknown value {number}")));
        }
    })
}

impl From<&FilterSpec> for v1::Filter {
    fn from(spec: &FilterSpec) -> Self {
        let op = |op: &Op| match op {
            Op::Set => v1::Op::Set.into(),
            Op::Delete => v1::Op::Delete.into(),
        };
        let range =
            |(from, to): &(u8, u8)| v1::BucketRange { from: (*from).into(), to: (*to).into() };
        Self {
            stores: spec.stores.clone(),
            topics: spec.topics.clone().unwrap_or_default(),
            ops: spec.ops.iter().map(op).collect(),
            prefixes: spec.prefixes.iter().map(ToString::to_string).collect(),
            buckets: spec.buckets.iter().map(range).collect(),
        }
    }
}

impl TryFrom<v1::Filter> for FilterSpec {
    type Error = ConvertError;
    fn try_from(filter: v1::Filter) -> Result<Self, ConvertError> {
        let op = |number: i32| match v1::Op::try_from(number) {
            Ok(v1::Op::Set) => Ok(Op::Set),
            Ok(v1::Op::Delete) => Ok(Op::Delete),
            _ => Err(ConvertError::new("filter.ops", format!("unknown operation {number}"))),
        };
        let prefix = |text: String| {
            text.parse::<KeyPrefix>().map_err(|error| ConvertError::new("filter.prefixes", error))
        };
        Ok(Self {
            stores: filter.stores,
            topics: Some(filter.topics).filter(|topics| !topics.is_empty()),
            ops: filter.ops.into_iter().map(op).collect::<Result<_, _>>()?,
            prefixes: filter.prefixes.into_iter().map(prefix).collect::<Result<_, _>>()?,
            buckets: filter.buckets.iter().map(buckets).collect::<Result<_, _>>()?,
        })
    }
}

fn buckets(range: &v1::BucketRange) -> Result<(u8, u8), ConvertError> {
    let bucket = |number: u32| {
        u8::try_from(number)
            .map_err(|_| ConvertError::new("filter.buckets", format!("{number} is beyond 255")))
    };
    Ok((bucket(range.from)?, bucket(range.to)?))
}

impl From<&StartPosition> for v1::Start {
    fn from(start: &StartPosition) -> Self {
        use v1::start::{After, At, Earliest, Latest};
        let at = match start {
            StartPosition::Earliest => At::Earliest(Earliest {}),
            StartPosition::Latest => At::Latest(Latest {}),
            StartPosition::Height(height) => At::Height(*height),
            StartPosition::Time(nanos) => At::Time(timestamp(*nanos)),
            StartPosition::After(id) => {
                At::After(After { position: Some(id.position().into()), digest: Bytes::new() })
            }
        };
        Self { at: Some(at) }
    }
}

/// Reads a start position and, for one after a position, the digest that the reader expects.
pub fn start(start: Option<v1::Start>) -> Result<(StartPosition, Option<Digest>), ConvertError> {
    use v1::start::At;
    let missing = || ConvertError::new("start", "it is missing; say where to begin");
    let start = match start.and_then(|start| start.at).ok_or_else(missing)? {
        At::Earliest(_) => StartPosition::Earliest,
        At::Latest(_) => StartPosition::Latest,
        At::Height(height) => StartPosition::Height(height),
        At::Time(time) => StartPosition::Time(
            nanos(&time).ok_or_else(|| ConvertError::new("start.time", "beyond the calendar"))?,
        ),
        At::After(after) => {
            let position = after
                .position
                .ok_or_else(|| ConvertError::new("start.after.position", "it is missing"))?;
            let digest = digest("start.after.digest", &after.digest)?;
            return Ok((StartPosition::After(SequenceId::new(position.try_into()?)), digest));
        }
    };
    Ok((start, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_starts_round_trip() {
        let spec = FilterSpec {
            stores: vec!["bank".into(), "!gov".into()],
            topics: Some("a.*".into()),
            ops: vec![Op::Delete],
            prefixes: vec!["hex:02".parse().unwrap()],
            buckets: vec![(0, 127)],
        };
        assert_eq!(FilterSpec::try_from(v1::Filter::from(&spec)).unwrap(), spec);
        for text in ["earliest", "latest", "height:7", "time:2026-01-31T12:00:00Z"] {
            let position: StartPosition = text.parse().unwrap();
            assert_eq!(start(Some((&position).into())).unwrap(), (position, None));
        }
        assert!(start(None).is_err());
    }

    #[test]
    fn negative_times_keep_their_nanos() {
        let time = timestamp(-1);
        assert_eq!((time.seconds, time.nanos), (-1, 999_999_999));
        assert_eq!(nanos(&time), Some(-1));
    }
}
