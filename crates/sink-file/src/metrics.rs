use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};

/// What the file sink counts. Names are part of the product; see the metrics page.
#[derive(Debug)]
pub(crate) struct Metrics {
    rows: Counter<u64>,
    ranges: Counter<u64>,
    failures: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self::of(&sluice_telemetry::meter())
    }

    fn of(meter: &Meter) -> Self {
        Self {
            rows: meter
                .u64_counter("sluice_file_rows")
                .with_description("Changes written to files")
                .build(),
            ranges: meter
                .u64_counter("sluice_file_ranges_closed")
                .with_description("Ranges closed, with a line in the manifest")
                .build(),
            failures: meter
                .u64_counter("sluice_file_failures")
                .with_description("Failed batches, by reason: full, denied, read_only, io, …")
                .build(),
        }
    }

    pub(crate) fn delivered(&self, stream: &str, rows: u64, ranges: u64) {
        let labels = [KeyValue::new("stream", stream.to_owned())];
        self.rows.add(rows, &labels);
        self.ranges.add(ranges, &labels);
    }

    pub(crate) fn failed(&self, stream: &str, reason: &'static str) {
        let labels = [KeyValue::new("stream", stream.to_owned()), KeyValue::new("reason", reason)];
        self.failures.add(1, &labels);
    }
}
