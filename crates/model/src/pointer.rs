use std::fmt;

use bytes::Bytes;

/// Longest pointer, in bytes.
pub(crate) const MAX_POINTER: usize = 64;

/// Where a block stands in its ingestor: opaque bytes, ordered lexicographically.
///
/// For chains it is the height as 8 big-endian bytes. The empty pointer is the parent of a first
/// block and precedes every other.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pointer(Bytes);

/// Why bytes are not a pointer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a pointer of {0} bytes is too long; at most {MAX_POINTER} are allowed")]
pub struct PointerError(usize);

impl Pointer {
    /// The pointer before every block.
    pub const ORIGIN: Self = Self(Bytes::new());

    /// The pointer of a height.
    pub fn from_height(height: u64) -> Self {
        Self(Bytes::copy_from_slice(&height.to_be_bytes()))
    }

    /// A pointer of arbitrary bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, PointerError> {
        let bytes = bytes.into();
        if bytes.len() > MAX_POINTER {
            return Err(PointerError(bytes.len()));
        }
        Ok(Self(bytes))
    }

    /// The height, if this pointer is one: exactly 8 bytes.
    pub fn height(&self) -> Option<u64> {
        self.0.as_ref().try_into().ok().map(u64::from_be_bytes)
    }

    /// The bytes that order pointers.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same bytes, shared.
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// True for the parent of a first block.
    pub fn is_origin(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.height() {
            Some(height) => write!(f, "{height}"),
            None if self.is_origin() => f.write_str("origin"),
            None => write!(f, "x{}", hex::encode(&self.0)),
        }
    }
}

impl fmt::Debug for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pointer({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_as_bytes_and_shorter_prefix_first() {
        assert!(Pointer::ORIGIN < Pointer::from_height(0));
        assert!(Pointer::from_height(9) < Pointer::from_height(10));
        let short = Pointer::new(&b"ab"[..]).unwrap();
        let long = Pointer::new(&b"abc"[..]).unwrap();
        assert!(short < long);
    }

    #[test]
    fn only_eight_bytes_are_a_height() {
        assert_eq!(Pointer::from_height(7).height(), Some(7));
        assert_eq!(Pointer::new(&b"abc"[..]).unwrap().height(), None);
        assert_eq!(Pointer::new(vec![0; 65]), Err(PointerError(65)));
    }
}
