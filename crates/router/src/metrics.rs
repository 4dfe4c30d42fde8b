//! What the router counts. Per block, per batch of frames, per call; never per change.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Histogram, Meter, UpDownCounter},
};
use parking_lot::Mutex;
use sluice_journal::Status;
use sluice_model::IngestorName;

/// Frames after which the counters of a busy subscriber are brought up to date.
const FLUSH_EVERY: u64 = 256;

/// The router's instruments.
#[derive(Debug)]
pub(crate) struct Metrics {
    blocks: Counter<u64>,
    changes: Counter<u64>,
    bytes: Counter<u64>,
    latency: Histogram<f64>,
    refused: Counter<u64>,
    subscribers: UpDownCounter<i64>,
    delivered_frames: Counter<u64>,
    delivered_bytes: Counter<u64>,
    head: Gauge<u64>,
    disk_reads: Gauge<u64>,
    tail_bytes: Gauge<u64>,
    journal_bytes: Gauge<u64>,
    quarantined: Gauge<u64>,
    now: Mutex<HashMap<IngestorName, Arc<AtomicU32>>>,
}

impl Metrics {
    pub(crate) fn new(meter: &Meter) -> Self {
        let counter = |name: &'static str, about: &'static str| {
            meter.u64_counter(name).with_description(about).build()
        };
        let gauge = |name: &'static str, about: &'static str| {
            meter.u64_gauge(name).with_description(about).build()
        };
        Self {
            blocks: counter("sluice.router.append.blocks", "Blocks acknowledged"),
            changes: counter("sluice.router.append.changes", "Changes in acknowledged blocks"),
            bytes: counter("sluice.router.append.bytes", "Bytes of changes acknowledged"),
            latency: meter
                .f64_histogram("sluice.router.append.latency")
                .with_unit("s")
                .with_description("From the last frame of a block to its acknowledgement")
                .build(),
            refused: counter("sluice.router.append.refused", "Append streams ended by a refusal"),
            subscribers: meter
                .i64_up_down_counter("sluice.router.subscribers")
                .with_description("Subscriptions being served")
                .build(),
            delivered_frames: counter("sluice.router.delivered.frames", "Frames sent"),
            delivered_bytes: counter("sluice.router.delivered.bytes", "Bytes of frames sent"),
            head: gauge("sluice.router.head.height", "Height of the last durable block"),
            disk_reads: gauge("sluice.router.disk.reads", "Segment reads on behalf of readers"),
            tail_bytes: gauge("sluice.router.tail.bytes", "Bytes held by the tail cache"),
            journal_bytes: gauge("sluice.router.journal.bytes", "Bytes of the segment files"),
            quarantined: gauge("sluice.router.journal.quarantined", "Unreadable stretches"),
            now: Mutex::default(),
        }
    }

    /// A block is durable: its changes and bytes, and how long that took.
    pub(crate) fn appended(
        &self,
        ingestor: &IngestorName,
        (changes, bytes): (u64, u64),
        took: Duration,
    ) {
        let of = [key(ingestor)];
        self.blocks.add(1, &of);
        self.changes.add(changes, &of);
        self.bytes.add(bytes, &of);
        self.latency.record(took.as_secs_f64(), &of);
    }

    /// An append stream ended by a refusal.
    pub(crate) fn refused(&self, ingestor: &IngestorName, reason: &str) {
        self.refused.add(1, &[key(ingestor), KeyValue::new("reason", reason.to_owned())]);
    }

    /// A journal's figures, as of now.
    pub(crate) fn status(&self, status: &Status) {
        let of = [key(&status.ingestor)];
        if let Some(head) = &status.head {
            self.head.record(head.height, &of);
        }
        self.disk_reads.record(status.disk_reads, &of);
        self.tail_bytes.record(status.tail_bytes, &of);
        self.journal_bytes.record(status.bytes, &of);
        self.quarantined.record(status.quarantined, &of);
    }

    /// Counts a subscription for as long as the value lives.
    pub(crate) fn subscribed(&self, ingestor: &IngestorName) -> Subscribed {
        let now = Arc::clone(self.now.lock().entry(ingestor.clone()).or_default());
        now.fetch_add(1, Ordering::Relaxed);
        self.subscribers.add(1, &[key(ingestor)]);
        Subscribed { now, counter: self.subscribers.clone(), of: key(ingestor) }
    }

    /// Subscriptions of an ingestor being served.
    pub(crate) fn subscribers(&self, ingestor: &IngestorName) -> u32 {
        self.now.lock().get(ingestor).map_or(0, |now| now.load(Ordering::Relaxed))
    }

    /// Counts what one subscriber is sent.
    pub(crate) fn delivered(&self, ingestor: &IngestorName) -> Delivered {
        Delivered {
            frames: 0,
            bytes: 0,
            frame_counter: self.delivered_frames.clone(),
            byte_counter: self.delivered_bytes.clone(),
            of: [key(ingestor)],
        }
    }
}

fn key(ingestor: &IngestorName) -> KeyValue {
    KeyValue::new("ingestor", ingestor.to_string())
}

/// One subscription; uncounted when dropped.
#[derive(Debug)]
pub(crate) struct Subscribed {
    now: Arc<AtomicU32>,
    counter: UpDownCounter<i64>,
    of: KeyValue,
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
        self.counter.add(-1, std::slice::from_ref(&self.of));
    }
}

/// What one subscriber was sent and is not counted yet. A shared counter per frame would cost more
/// than the splice of a small one.
#[derive(Debug)]
pub(crate) struct Delivered {
    frames: u64,
    bytes: u64,
    frame_counter: Counter<u64>,
    byte_counter: Counter<u64>,
    of: [KeyValue; 1],
}

impl Delivered {
    /// One frame of so many bytes.
    pub(crate) fn frame(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
        if self.frames >= FLUSH_EVERY {
            self.flush();
        }
    }

    /// Brings the counters up to date.
    pub(crate) fn flush(&mut self) {
        if self.frames > 0 {
            self.frame_counter.add(self.frames, &self.of);
            self.byte_counter.add(self.bytes, &self.of);
            (self.frames, self.bytes) = (0, 0);
        }
    }
}

impl Drop for Delivered {
    fn drop(&mut self) {
        self.flush();
    }
}
