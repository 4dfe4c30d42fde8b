//! Logs, traces and metrics, set up once per process.
//!
//! Logs are text on a terminal and JSON otherwise. Metrics can always be scraped as Prometheus
//! text; traces and metrics also go to an OTLP collector where one is configured. What is logged
//! says nothing about what is traced: spans of our own are exported whatever the log's level.

mod otlp;
mod propagation;

use std::{
    io::{self, IsTerminal, Write},
    sync::OnceLock,
};

use opentelemetry::{Key, global, metrics::Meter, trace::TracerProvider};
use opentelemetry_sdk::{
    Resource, metrics::SdkMeterProvider, propagation::TraceContextPropagator,
    trace::SdkTracerProvider,
};
use parking_lot::Mutex;
use prometheus::{Registry, TextEncoder};
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer, filter::FilterFn, layer::SubscriberExt, util::SubscriberInitExt,
};

pub use otlp::STANDARD;
pub use propagation::{current_traceparent, link_traceparent, parent_from_headers};

/// What to set up.
#[derive(Clone, Debug, Default)]
pub struct TelemetryOptions {
    /// A level, or `target=level` parts with commas. Empty means `info`.
    pub log: String,
    /// Address of an OTLP collector; empty for none; [`STANDARD`] where the `OTEL_*` variables
    /// name it.
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
    #[error("telemetry.otlp = {endpoint:?}: {reason}; write http://host:4317")]
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

/// What can be scraped; there once everything is set up.
static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);

/// Keeps the exporters alive. [`Guard::shutdown`] sends what is left; call it last.
#[must_use = "dropping the guard loses what was not exported yet"]
#[derive(Debug, Default)]
pub struct Guard {
    tracer: Option<SdkTracerProvider>,
    meter: Option<SdkMeterProvider>,
}

impl Guard {
    /// Exports what is left. Blocks until done or until the exporters give up, so not for the only
    /// thread of a runtime.
    pub fn shutdown(self) {
        if let Some(Err(error)) = self.tracer.map(|tracer| tracer.shutdown()) {
            tracing::warn!(%error, "traces were not all exported");
        }
        if let Some(Err(error)) = self.meter.map(|meter| meter.shutdown()) {
            tracing::debug!(%error, "metrics were not all exported");
        }
    }
}

/// Runs its argument with the terminal cleared of whatever else is drawn there.
pub type Around = fn(&mut dyn FnMut());

static AROUND: OnceLock<Around> = OnceLock::new();

/// Says how log lines get past a progress bar of this process. The first call counts. What it is
/// given writes one line and must be called before it returns; it must not log itself.
pub fn log_around(around: Around) {
    AROUND.get_or_init(|| around);
}

/// The standard error, with [`log_around`] where it is set.
#[derive(Debug)]
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut written = Ok(());
        let mut write = || written = io::stderr().write_all(line);
        match AROUND.get() {
            Some(around) => around(&mut write),
            None => write(),
        }
        written.map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Sets everything up; with OTLP, inside a Tokio runtime. A second call in one process (tests)
/// changes nothing and succeeds; after an error it may be tried again.
pub fn init(service: &str, options: &TelemetryOptions) -> Result<Guard, Error> {
    let mut installed = REGISTRY.lock();
    if installed.is_some() {
        return Ok(Guard::default());
    }
    // Everything that can fail comes before anything that others see.
    let filter = filter(&options.log)?;
    let resource = resource(service);
    let (meter, registry) = meter_provider(resource.clone(), &options.otlp)?;
    let tracer = tracer_provider(resource, &options.otlp)?;
    global::set_meter_provider(meter.clone());
    global::set_text_map_propagator(TraceContextPropagator::new());
    let spans = tracer.as_ref().map(|provider| {
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("sluice"));
        layer.with_filter(FilterFn::new(is_ours).with_max_level_hint(Level::DEBUG))
    });
    let terminal = io::stderr().is_terminal();
    let text = tracing_subscriber::fmt::layer().with_writer(|| Lines).with_ansi(terminal);
    let logs = if terminal { text.boxed() } else { text.json().flatten_event(true).boxed() };
    let subscriber = tracing_subscriber::registry().with(logs.with_filter(filter)).with(spans);
    // Refused only if the host program has set a subscriber of its own, which then stays.
    subscriber.try_init().ok();
    *installed = Some(registry);
    Ok(Guard { tracer, meter: Some(meter) })
}

/// Our own spans down to `debug`, and as their events what is worth a log line. Spans of the
/// exporter's own transport would otherwise trace themselves for ever.
fn is_ours(metadata: &Metadata<'_>) -> bool {
    let most = if metadata.is_span() { Level::DEBUG } else { Level::INFO };
    metadata.target().starts_with("sluice") && *metadata.level() <= most
}

/// The meter of all Sluice metrics.
pub fn meter() -> Meter {
    global::meter("sluice")
}

/// Every metric as Prometheus text. Empty before [`init`].
pub fn prometheus_text() -> Result<String, Error> {
    let Some(registry) = REGISTRY.lock().clone() else {
        return Ok(String::new());
    };
    TextEncoder::new()
        .encode_to_string(&registry.gather())
        .map_err(|error| Error::Metrics(error.to_string()))
}

/// Who we are. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win.
fn resource(service: &str) -> Resource {
    let standard = Resource::builder().build();
    let name = standard.get(&Key::from_static_str("service.name"));
    match name {
        Some(name) if !name.as_str().starts_with("unknown_service") => standard,
        _ => Resource::builder().with_service_name(format!("sluice-{service}")).build(),
    }
}

fn filter(written: &str) -> Result<EnvFilter, Error> {
    let written = if written.is_empty() { "info" } else { written };
    EnvFilter::builder()
        .parse(written)
        .map_err(|error| Error::Filter { filter: written.to_owned(), reason: error.to_string() })
}

fn meter_provider(resource: Resource, otlp: &str) -> Result<(SdkMeterProvider, Registry), Error> {
    let registry = Registry::new();
    let exporter = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .scope_info_enabled(false)
        .build()
        .map_err(|error| Error::Metrics(error.to_string()))?;
    let mut provider = SdkMeterProvider::builder().with_resource(resource).with_reader(exporter);
    if let Some(exporter) = otlp::metrics(otlp)? {
        provider = provider.with_periodic_exporter(exporter);
    }
    Ok((provider.build(), registry))
}

fn tracer_provider(resource: Resource, otlp: &str) -> Result<Option<SdkTracerProvider>, Error> {
    let exporter = otlp::spans(otlp)?;
    let builder = SdkTracerProvider::builder().with_resource(resource);
    Ok(exporter.map(|exporter| builder.with_batch_exporter(exporter).build()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_can_be_scraped_and_init_is_idempotent() {
        let bad = TelemetryOptions { log: "sluice=loud".to_owned(), ..Default::default() };
        assert!(init("test", &bad).is_err());
        assert_eq!(prometheus_text().unwrap(), "", "a failed init leaves nothing behind");
        let guard = init("test", &TelemetryOptions::default()).unwrap();
        let again = init("test", &TelemetryOptions::default()).unwrap();
        meter().u64_counter("blocks_seen").build().add(3, &[]);
        again.shutdown();
        let text = prometheus_text().unwrap();
        assert!(text.contains("blocks_seen_total 3"), "{text}");
        assert!(text.contains("service_name=\"sluice-test\""), "{text}");
        guard.shutdown();
    }

    #[test]
    fn a_bad_filter_says_what_to_write() {
        let error = filter("sluice=loud").unwrap_err().to_string();
        assert!(error.contains("telemetry.log") && error.contains("info"), "{error}");
    }

    #[test]
    fn a_bad_collector_says_what_to_write() {
        let error = otlp::spans("not an address").err().unwrap().to_string();
        assert!(error.contains("telemetry.otlp") && error.contains("4317"), "{error}");
    }
}
