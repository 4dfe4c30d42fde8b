//! W3C trace context: through gRPC headers, and into the journal, which cuts the call chain.

use std::collections::HashMap;

use opentelemetry::{global, trace::TraceContextExt};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

const TRACEPARENT: &str = "traceparent";

/// The current span as a `traceparent`; empty when nothing is traced.
pub fn current_traceparent() -> String {
    let context = Span::current().context();
    let mut carrier: HashMap<String, String> = HashMap::new();
    global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut carrier);
    });
    carrier.remove(TRACEPARENT).unwrap_or_default()
}

/// Links the current span to the one that a `traceparent` names; ignores what is not one.
pub fn link_traceparent(traceparent: &str) {
    if traceparent.is_empty() {
        return;
    }
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let context = global::get_text_map_propagator(|propagator| propagator.extract(&carrier));
    let linked = context.span().span_context().clone();
    if linked.is_valid() {
        Span::current().add_link(linked);
    }
}

/// Makes the span a child of the one that the caller's headers name.
pub fn parent_from_headers<'a>(span: &Span, header: impl Fn(&str) -> Option<&'a str>) {
    let Some(traceparent) = header(TRACEPARENT) else {
        return;
    };
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    let parent = global::get_text_map_propagator(|propagator| propagator.extract(&carrier));
    // Fails only where no tracer is installed, and then there is nothing to connect.
    span.set_parent(parent).ok();
}
