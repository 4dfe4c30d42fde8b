use std::fmt;

use serde::{Deserialize, Serialize};

const REVISION_BITS: u32 = 48;

/// The fencing number that comes with a lock: 16 bits of store incarnation, then 48 bits of the
/// create revision of the winner's key. Grows with every new owner, also across a restore of the
/// store from a backup, because that raises the incarnation.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(u64);

impl Epoch {
    /// Below every epoch that a lock gives.
    pub const ZERO: Self = Self(0);

    /// Composes an epoch; a revision beyond 48 bits carries into the incarnation, so that the
    /// order of epochs never breaks.
    pub const fn new(incarnation: u16, revision: u64) -> Self {
        Self(((incarnation as u64) << REVISION_BITS).saturating_add(revision))
    }

    /// The epoch of its number.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The number that is compared.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// How often the store of locks went backwards.
    pub const fn incarnation(self) -> u64 {
        self.0 >> REVISION_BITS
    }

    /// The create revision of the owner's key.
    pub const fn revision(self) -> u64 {
        self.0 & ((1 << REVISION_BITS) - 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation(), self.revision())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_incarnation_beats_any_revision() {
        assert!(Epoch::new(1, 0) > Epoch::new(0, (1 << 48) - 1));
        assert_eq!(Epoch::new(3, 17).incarnation(), 3);
        assert_eq!(Epoch::new(3, 17).revision(), 17);
    }
}
