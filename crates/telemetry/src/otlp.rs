//! Exporters to an OTLP collector.

use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig};

use crate::Error;

/// In place of an address: the exporters take everything from the standard `OTEL_*` variables. An
/// address given to them would win over the variables.
pub const STANDARD: &str = "standard";

/// The exporter of metrics; none without an address.
pub(crate) fn metrics(otlp: &str) -> Result<Option<MetricExporter>, Error> {
    let builder = MetricExporter::builder().with_tonic();
    built(otlp, |given| match given {
        Some(address) => builder.with_endpoint(address).build(),
        None => builder.build(),
    })
}

/// The exporter of spans; none without an address.
pub(crate) fn spans(otlp: &str) -> Result<Option<SpanExporter>, Error> {
    let builder = SpanExporter::builder().with_tonic();
    built(otlp, |given| match given {
        Some(address) => builder.with_endpoint(address).build(),
        None => builder.build(),
    })
}

fn built<T, E: std::fmt::Display>(
    otlp: &str,
    build: impl FnOnce(Option<&str>) -> Result<T, E>,
) -> Result<Option<T>, Error> {
    if otlp.is_empty() {
        return Ok(None);
    }
    let given = (otlp != STANDARD).then_some(otlp);
    build(given)
        .map(Some)
        .map_err(|error| Error::Otlp { endpoint: otlp.to_owned(), reason: error.to_string() })
}
