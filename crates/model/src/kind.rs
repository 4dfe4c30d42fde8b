use std::fmt;

/// What a record of the journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A frame of a block: its changes.
    Block,
    /// Blocks that the source could not give, with the cause.
    Gap,
    /// The start of a new history.
    Generation,
    /// A writer opened the journal.
    Epoch,
    /// A frame of a full content of stores at a height.
    Snapshot,
}

impl Kind {
    /// The number on the wire and on disk.
    pub const fn number(self) -> u8 {
        match self {
            Self::Block => 1,
            Self::Gap => 2,
            Self::Generation => 3,
            Self::Epoch => 4,
            Self::Snapshot => 5,
        }
    }

    /// The kind of a number; `None` for one that this version does not know.
    pub const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Block,
            2 => Self::Gap,
            3 => Self::Generation,
            4 => Self::Epoch,
            5 => Self::Snapshot,
            _ => return None,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Block => "BLOCK",
            Self::Gap => "GAP",
            Self::Generation => "GENERATION",
            Self::Epoch => "EPOCH",
            Self::Snapshot => "SNAPSHOT",
        })
    }
}
