//! How a record looks in a segment, byte for byte.
//!
//! ```text
//!   length of the payload, u32 LE | CRC-32C, u32 LE | kind, u8 | payload
//! ```
//!
//! The checksum covers the number of the segment and the offset of the record, so that bytes that
//! got into another place are not taken for a record of it.

use sluice_frame::MAX_FRAME;

/// Bytes before the payload.
pub(super) const HEAD: usize = 9;
/// Largest payload, in bytes.
pub(super) const MAX_PAYLOAD: usize = MAX_FRAME;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An encoded frame.
    Frame,
    /// The place of a block that differs from the journal's: generation, u32 LE, then the pointer.
    Diverged,
}

/// Where a record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

/// The part before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) len: usize,
    crc: u32,
    kind: u8,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Frame => 1,
            Self::Diverged => 2,
        }
    }

    const fn of(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Frame),
            2 => Some(Self::Diverged),
            _ => None,
        }
    }
}

/// A record for this place.
pub(super) fn encode(at: Place, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + payload.len());
    // Frames beyond 4 GiB do not exist; see MAX_FRAME.
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&checksum(at, kind.code(), payload).to_le_bytes());
    out.push(kind.code());
    out.extend_from_slice(payload);
    out
}

impl Head {
    /// Reads what stands before a payload. `None` if no payload is that long.
    pub(super) fn decode(bytes: [u8; HEAD]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h, kind] = bytes;
        let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
        (len <= MAX_PAYLOAD).then_some(Self { len, crc: u32::from_le_bytes([e, f, g, h]), kind })
    }

    /// The kind of the record, if the payload is what was written here.
    pub(super) fn check(&self, at: Place, payload: &[u8]) -> Option<Kind> {
        let same = payload.len() == self.len && checksum(at, self.kind, payload) == self.crc;
        same.then(|| Kind::of(self.kind)).flatten()
    }
}

fn checksum(at: Place, kind: u8, payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&at.segment.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &at.offset.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &[kind]);
    crc32c::crc32c_append(crc, payload)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(bytes: &[u8]) -> (Option<Head>, &[u8]) {
        let (head, payload) = bytes.split_at(HEAD);
        (Head::decode(head.try_into().unwrap()), payload)
    }

    proptest! {
        #[test]
        fn reads_what_was_written_and_only_there(
            segment in any::<u64>(),
            offset in any::<u64>(),
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let at = Place { segment, offset };
            let bytes = encode(at, Kind::Frame, &payload);
            let (head, read) = split(&bytes);
            prop_assert_eq!(head.unwrap().check(at, read), Some(Kind::Frame));
            let elsewhere = Place { offset: offset.wrapping_add(1), ..at };
            prop_assert_eq!(head.unwrap().check(elsewhere, read), None);
            let other = Place { segment: segment.wrapping_add(1), ..at };
            prop_assert_eq!(head.unwrap().check(other, read), None);
        }

        #[test]
        fn any_flipped_bit_is_seen(
            payload in prop::collection::vec(any::<u8>(), 0..200),
            bit in any::<prop::sample::Index>(),
        ) {
            let at = Place { segment: 3, offset: 77 };
            let mut bytes = encode(at, Kind::Diverged, &payload);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (head, read) = split(&bytes);
            prop_assert_eq!(head.and_then(|head| head.check(at, read)), None);
        }
    }
}
