use std::{fmt, sync::Arc};

use bytes::Bytes;
use sluice_frame::Header;
use sluice_model::{
    Digest, Durability, Epoch, Filter, Generation, Head, IngestorName, JournalId, Pointer, Position,
};

use crate::Writer;

/// What `open` is asked for.
#[derive(Clone, Debug)]
pub struct Open {
    /// Whose journal.
    pub ingestor: IngestorName,
    /// The identity the journal must have; another one is not this journal.
    pub id: JournalId,
    /// The fencing number of the caller's lock.
    pub epoch: Epoch,
    /// Tells two opens under one epoch apart; at most 64 bytes.
    pub nonce: Bytes,
    /// Who opens, for people; at most 256 bytes.
    pub holder: String,
}

/// An open journal.
#[derive(Debug)]
pub struct Opened {
    /// The only writer that is not fenced.
    pub writer: Box<dyn Writer>,
    /// Names the writer; grows with every open of the journal.
    pub writer_id: u64,
    /// The last durable block; `None` before the first.
    pub head: Option<Head>,
}

/// What a durable block or control record is acknowledged with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The history it is in.
    pub generation: Generation,
    /// Its place.
    pub pointer: Pointer,
    /// Its digest as stored. For an unverifiable block the zero digest.
    pub digest: Digest,
    /// What it survives.
    pub durability: Durability,
    /// The journal already had it with the same state; the stored bytes win.
    pub duplicate: bool,
    /// It is below what retention kept: nobody can tell whether it is the same.
    pub unverifiable: bool,
}

/// Where a reader starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// The oldest retained block.
    Earliest,
    /// After the head at the moment of asking.
    Latest,
    /// Strictly after a position. With a digest the position's block must have it.
    After(Position, Option<Digest>),
    /// The first block at or above this height.
    Height(u64),
    /// The first block whose own time is at or after this, in nanoseconds since 1970.
    Time(i64),
    /// The last so many blocks (or as many as are retained).
    Last(u64),
}

/// What a reader wants to see.
#[derive(Clone, Debug)]
pub struct Select {
    /// Frames with at least one route that this filter matches are delivered.
    pub filter: Arc<Filter>,
    /// Deliver frames that carry metadata too, whatever their routes.
    pub metadata: bool,
    /// Deliver headers without their changes ([`Stored::changes`] is empty), for questions that
    /// the run index answers.
    pub headers_only: bool,
    /// Deliver every frame, whatever the filter says, also one without changes.
    pub every: bool,
}

impl From<Arc<Filter>> for Select {
    fn from(filter: Arc<Filter>) -> Self {
        Self { filter, metadata: false, headers_only: false, every: false }
    }
}

/// Where a reader began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Everything after this is delivered.
    pub after: Position,
    /// The head when the reader was made.
    pub head: Option<Head>,
}

/// A stored frame of a whole, durable block. Shared between readers.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The header as the journal wrote it.
    pub header: Arc<Header>,
    /// The region of field 15, byte for byte as it was appended.
    pub changes: Bytes,
}

/// Everything that matches up to and including a position was delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Through {
    /// The end of a block.
    pub position: Position,
    /// The digest of that block.
    pub digest: Digest,
    /// Its height.
    pub height: u64,
    /// The durable head now; equal to `position` when the reader is at the tail.
    pub head: Option<Head>,
}

/// Blocks that the source could not give, in their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GapNotice {
    /// The end of the gap.
    pub through: Position,
    /// The digest the next block is chained to.
    pub digest: Digest,
    /// The first missing block.
    pub from: Pointer,
    /// The last missing block.
    pub to: Pointer,
    /// Why, as recorded.
    pub cause: String,
}

/// The start of another history, in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationNotice {
    /// The new generation at its base: what follows is after this.
    pub through: Position,
    /// The last block that both histories have.
    pub base: Position,
    /// The digest of the base.
    pub base_digest: Digest,
    /// Why, as recorded.
    pub reason: String,
    /// Who asked for it.
    pub actor: String,
}

/// Stored blocks that cannot be read. Nothing of them is delivered; what follows is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// The last good position before.
    pub after: Position,
    /// The last position that is lost; `None` if nothing readable follows that tells.
    pub through: Option<Position>,
    /// The digest of the last lost block, if what follows tells it. Bytes from elsewhere heal the
    /// journal exactly if they have it.
    pub digest: Option<Digest>,
    /// The file.
    pub file: String,
    /// Byte offset of the first bad record in it.
    pub offset: u64,
    /// What is wrong, in words.
    pub cause: String,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blocks after {} ", self.after)?;
        match &self.through {
            Some(through) => write!(f, "through {through} ")?,
            None => f.write_str("up to an unknown position ")?,
        }
        write!(f, "are unreadable: {} (file {}, offset {})", self.cause, self.file, self.offset)
    }
}

/// One step of a reader.
#[derive(Clone, Debug)]
pub enum Item {
    /// A frame that the filter selects.
    Entry(Arc<Stored>),
    /// Progress over what the filter does not select.
    Through(Through),
    /// Missing blocks.
    Gap(GapNotice),
    /// Another history begins.
    Generation(GenerationNotice),
    /// Unreadable blocks.
    Corrupt(Corruption),
}

/// A journal as operators see it.
#[derive(Clone, Debug)]
pub struct Status {
    /// Whose journal.
    pub ingestor: IngestorName,
    /// Its identity.
    pub id: JournalId,
    /// The last durable block.
    pub head: Option<Head>,
    /// The position before the oldest retained block: the lowest one to read after.
    pub oldest: Position,
    /// Height of the oldest retained block; 0 while there is none.
    pub oldest_height: u64,
    /// Pointer and generation of the oldest retained block.
    pub oldest_block: Option<Position>,
    /// Lowest epoch that may still open.
    pub fence: Epoch,
    /// The last writer.
    pub writer_id: u64,
    /// Who opened it last.
    pub holder: String,
    /// Retained blocks.
    pub blocks: u64,
    /// Changes in them.
    pub changes: u64,
    /// Bytes of all segment files in use.
    pub bytes: u64,
    /// Segment files in use.
    pub segments: u64,
    /// Blocks or stretches found unreadable.
    pub quarantined: u64,
    /// The newest of them, at most 16.
    pub corruptions: Vec<Corruption>,
    /// Parts of blocks whose end never came.
    pub aborted_parts: u64,
    /// Bytes that recovery cut from the tail, all never acknowledged as durable, moved aside.
    pub cut_bytes: u64,
    /// Records of kinds that this version does not know.
    pub unknown_records: u64,
    /// What an acknowledgement means.
    pub durability: Durability,
    /// Why appends are refused at the moment.
    pub append_refused: Option<String>,
    /// Reads of segment files on behalf of readers since the start.
    pub disk_reads: u64,
    /// Bytes held by the tail cache.
    pub tail_bytes: u64,
    /// Readers alive.
    pub readers: u64,
}

/// What a trim did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Segments retired.
    pub segments: u64,
    /// Blocks in them.
    pub blocks: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

/// How far a verification is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Bytes read.
    pub bytes: u64,
    /// Bytes to read.
    pub total: u64,
    /// Blocks found whole.
    pub blocks: u64,
}

/// What a verification found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Segments read.
    pub segments: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Whole blocks, chained and with the digests they claim.
    pub blocks: u64,
    /// Changes in them.
    pub changes: u64,
    /// Records of every kind.
    pub records: u64,
    /// Parts of blocks whose end never came.
    pub aborted_parts: u64,
    /// Records of kinds that this version does not know.
    pub unknown_records: u64,
    /// The last block found.
    pub head: Option<Head>,
    /// Everything that is wrong; empty means the journal is sound.
    pub corruptions: Vec<Corruption>,
}

impl Report {
    /// True if nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.corruptions.is_empty()
    }
}
