//! Logs, traces and metrics, set up once per process.
//!
//! Logs are text on a terminal and JSON otherwise. Metrics can always be scraped as Prometheus
//! text; traces and metrics also go to an OTLP collector where one is configured, and the
//! standard `OTEL_*` variables win over the file.

mod propagation;

use std::{io::IsTerminal, sync::OnceLock};

use opentelemetry::{global, metrics::Meter, trace::TracerProvider};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource, metrics::SdkMeterProvider, propagation::TraceContextPropagator,
    trace::SdkTracerProvider,
};
use prometheus::{Registry, TextEncoder};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

pub use propagation::{current_traceparent, link_traceparent, parent_from_headers};

/// What to set up.
#[derive(Clone, Debug, Default)]
pub struct TelemetryOptions {
    /// A level, or `target=level` parts with commas. Empty means `info`.
    pub log: String,
    /// Address of an OTLP collector; empty for none.
    pub otlp: String,
}

/// Why telemetry cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log filter is not one.
    #[error("telemetry.log = {filter:?}: {reason}; write info, or sluice_router=debug,info")]
    Filter {
        /// As written.
        filter: String,
        /// Why.
        reason: String,
    },
    /// The collector's address or the exporter cannot be used.
    #[error("telemetry.otlp = {endpoint:?}: {reason}")]
    Otlp {
        /// As written.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// The metrics registry refused its exporter.
    #[error("metrics cannot be set up: {0}")]
    Metrics(String),
}

static REGISTRY: OnceLock<Registry> = OnceLock::new();

/// Keeps the exporters alive. [`Guard::shutdown`] sends what is left; call it last.
#[must_use = "dropping the guard loses what was not exported yet"]
#[derive(Debug, Default)]
pub struct Guard {
    tracer: Option<SdkTracerProvider>,
    meter: Option<SdkMeterProvider>,
}

impl Guard {
    /// Exports what is left. Blocks until done or until the exporters give up.
    pub fn shutdown(self) {
        if let Some(Err(error)) = self.tracer.map(|tracer| tracer.shutdown()) {
            tracing::warn!(%error, "traces were not all exported");
        }
        if let Some(Err(error)) = self.meter.map(|meter| meter.shutdown()) {
            tracing::debug!(%error, "metrics were not all exported");
        }
    }
}

/// Sets everything up. A second call in one process (tests) changes nothing and succeeds.
pub fn init(service: &str, options: &TelemetryOptions) -> Result<Guard, Error> {
    if REGISTRY.get().is_some() {
        return Ok(Guard::default());
    }
    let filter = filter(&options.log)?;
    let resource = Resource::builder().with_service_name(format!("sluice-{service}")).build();
    let meter = meter_provider(resource.clone(), &options.otlp)?;
    global::set_meter_provider(meter.clone());
    global::set_text_map_propagator(TraceContextPropagator::new());
    let tracer = tracer_provider(resource, &options.otlp)?;
    let spans = tracer
        .as_ref()
        .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("sluice")));
    let terminal = std::io::stderr().is_terminal();
    let text = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs = if terminal { text.boxed() } else { text.json().flatten_event(true).boxed() };
    let subscriber = tracing_subscriber::registry().with(filter).with(logs).with(spans);
    // Refused only if the host program has set a subscriber of its own, which then stays.
    subscriber.try_init().ok();
    Ok(Guard { tracer, meter: Some(meter) })
}

/// The meter of all Sluice metrics.
pub fn meter() -> Meter {
    global::meter("sluice")
}

/// Every metric as Prometheus text. Empty before [`init`].
pub fn prometheus_text() -> Result<String, Error> {
    let Some(registry) = REGISTRY.get() else {
        return Ok(String::new());
    };
    TextEncoder::new()
        .encode_to_string(&registry.gather())
        .map_err(|error| Error::Metrics(error.to_string()))
}

fn filter(written: &str) -> Result<EnvFilter, Error> {
    let written = if written.is_empty() { "info" } else { written };
    EnvFilter::builder()
        .parse(written)
        .map_err(|error| Error::Filter { filter: written.to_owned(), reason: error.to_string() })
}

fn meter_provider(resource: Resource, otlp: &str) -> Result<SdkMeterProvider, Error> {
    let wrong = |error: &dyn std::fmt::Display| Error::Metrics(error.to_string());
    let registry = Registry::new();
    let exporter = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .scope_info_enabled(false)
        .build()
        .map_err(|error| wrong(&error))?;
    let mut provider = SdkMeterProvider::builder().with_resource(resource).with_reader(exporter);
    if !otlp.is_empty() {
        let exporter = MetricExporter::builder().with_tonic().with_endpoint(otlp).build();
        provider = provider.with_periodic_exporter(exporter.map_err(|error| Error::Otlp {
            endpoint: otlp.to_owned(),
            reason: error.to_string(),
        })?);
    }
    // Set by whoever came first; a second provider is dropped with its registry.
    REGISTRY.set(registry).ok();
    Ok(provider.build())
}

fn tracer_provider(resource: Resource, otlp: &str) -> Result<Option<SdkTracerProvider>, Error> {
    if otlp.is_empty() {
        return Ok(None);
    }
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(otlp).build();
    let exporter = exporter
        .map_err(|error| Error::Otlp { endpoint: otlp.to_owned(), reason: error.to_string() })?;
    let provider = SdkTracerProvider::builder().with_resource(resource);
    Ok(Some(provider.with_batch_exporter(exporter).build()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_can_be_scraped_and_init_is_idempotent() {
        let guard = init("test", &TelemetryOptions::default()).unwrap();
        let again = init("test", &TelemetryOptions::default()).unwrap();
        meter().u64_counter("blocks_seen").build().add(3, &[]);
        let text = prometheus_text().unwrap();
        assert!(text.contains("blocks_seen_total 3"), "{text}");
        again.shutdown();
        guard.shutdown();
    }

    #[test]
    fn a_bad_filter_says_what_to_write() {
        let error = filter("sluice=loud").unwrap_err().to_string();
        assert!(error.contains("telemetry.log") && error.contains("info"), "{error}");
    }
}
