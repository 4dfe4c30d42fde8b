use std::time::Duration;

/// How the router behaves. The defaults are right unless a measurement says otherwise.
#[derive(Clone, Debug)]
pub struct RouterOptions {
    /// A subscriber to whom nothing was sent for this long gets a heartbeat with the head.
    /// Clients count three missing ones as a dead connection.
    pub heartbeat: Duration,
    /// While catching up, progress over unmatched blocks is sent at least this often.
    pub progress_interval: Duration,
    /// While catching up, progress is sent at least after so many unmatched blocks.
    pub progress_blocks: u32,
    /// At the head, progress over unmatched blocks is sent at most this often.
    pub progress_gap: Duration,
    /// Blocks of one writer that may wait for their acknowledgement, beside the journal's own
    /// bound in bytes.
    pub blocks_in_flight: usize,
    /// How often retention runs.
    pub retention_interval: Duration,
    /// Most blocks that one test of a filter looks at.
    pub test_filter_blocks: u64,
    /// How long streams may take to end when the service stops, before the journals are closed
    /// under them.
    pub drain: Duration,
}

impl Default for RouterOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(5),
            progress_interval: Duration::from_millis(200),
            progress_blocks: 256,
            progress_gap: Duration::from_millis(20),
            blocks_in_flight: 1024,
            retention_interval: Duration::from_secs(10),
            test_filter_blocks: 10_000,
            drain: Duration::from_secs(10),
        }
    }
}
