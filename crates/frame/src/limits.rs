//! Bounds. They are part of the format: a frame beyond them is refused by every part.

/// A frame is cut before its changes exceed this many bytes, between two changes. Half a MiB
/// keeps whole frames under every default message limit and still spreads the cost of a header.
pub const FRAME_CUT: usize = 512 << 10;

/// Largest encoding of one change, in bytes. A change larger than [`FRAME_CUT`] has a frame of
/// its own.
pub const MAX_CHANGE: usize = 32 << 20;

/// Largest header, in bytes.
pub const MAX_HEADER: usize = 4 << 20;

/// Largest frame, in bytes.
pub const MAX_FRAME: usize = MAX_CHANGE + MAX_HEADER;

/// Most runs in a frame.
pub const MAX_RUNS: usize = 65_536;

/// Most routes in a frame.
pub const MAX_ROUTES: usize = 4_096;
