//! The frame: how a piece of a block looks on the wire and in the journal, byte for byte.
//!
//! ```text
//!   header (fields 1..14)  |  changes = field 15, repeated  (fields 16.. only in control records)
//! ```
//!
//! `changes` is the concatenation of its elements, so a filtered answer is a new small header
//! plus *slices of the stored bytes*. The run table in the header says which bytes belong to
//! which store and topic. Nothing here waits, does I/O or allocates per change on the hot paths.
//!
//! Invariants:
//! * [`scan`] accepts a region exactly when a protobuf decoder reads it and writes the same bytes
//!   back. What the journal keeps, every client can decode, and equal changes have equal bytes.
//! * A frame never ends inside a change; a run never crosses a frame.
//! * Digests cover content, never epochs, topics, frame cuts or pseudo stores.

mod block;
mod canonical;
mod digest;
mod error;
mod frame;
mod header;
mod header_codec;
mod limits;
mod routes;
mod scan;
mod splice;
pub mod varint;

pub use block::{BlockBuilder, BlockStart};
pub use canonical::canonicalize;
pub use digest::{Digester, Digests, metadata_digest};
pub use error::{FrameError, ScanError, ScanReason};
pub use frame::{Changes, Frame, WireFrame};
pub use header::{BlockEnd, Header, Metadata, Record, Run, StateDigest};
pub use limits::{FRAME_CUT, MAX_CHANGE, MAX_FRAME, MAX_HEADER, MAX_ROUTES, MAX_RUNS};
pub use routes::{Route, RouteInterner, RouteTable};
pub use scan::{CHANGE_TAG, Element, Elements, Table, put_change, scan};
pub use splice::Splicer;
