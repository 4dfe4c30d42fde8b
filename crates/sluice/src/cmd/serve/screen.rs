//! What `sluice run` tells the person at the terminal.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use sluice_config::Config;
use sluice_proto::v1 as pb;
use sluice_service::{Bound, Transport};

use crate::{
    cmd::ingestors,
    output::{count, note},
    progress::Progress,
};

/// How often the progress is looked at while something is captured.
const LOOK: Duration = Duration::from_millis(200);
/// The same while streams catch up.
const LOOK_AT_STREAMS: Duration = Duration::from_millis(500);

/// Where everything is, and what to do next.
pub(super) fn announce(config: &Config, bound: Bound, receiver: Option<&str>) {
    let scheme = if config.security.tls.is_some() { "https" } else { "http" };
    let api = format!("{scheme}://{}", bound.api);
    let standard = api == "http://127.0.0.1:7400";
    let server = if standard { String::new() } else { format!(" --server {api}") };
    note(format!(
        "sluice {} is up: api {api}, admin http://{}, data in {}",
        env!("CARGO_PKG_VERSION"),
        bound.admin,
        config.data_dir.display()
    ));
    if let Some(receiver) = receiver {
        note(receiver);
    }
    for (name, ingestor) in &config.ingestors {
        note(format!("  ingestor {name} ({})", ingestor.source.kind));
        note(format!("    sluice tail {name} --from earliest{server}"));
    }
    if config.ingestors.is_empty() {
        note("  no ingestors yet; add one to the file given with --config, or try:");
        note("    sluice run --set 'ingestors.my-app.source={type=\"capture\"}'");
        note("    echo '{\"height\":1,\"changes\":[]}' | sluice capture my-app");
    }
    if !config.streams.is_empty() {
        note(format!("  {} streams: sluice streams lag{server}", config.streams.len()));
    }
    note(format!("  sluice status{server}   shows the rest; Ctrl-C drains and stops"));
}

/// The stop was asked for. A terminal has written `^C` into the line, which goes.
pub(super) fn stopping() {
    let begin = if stderr().is_terminal() { "\r" } else { "" };
    note(format!("{begin}draining; a second Ctrl-C ends at once"));
}

/// How far the captures are, then how far the streams are, until all have caught up once.
pub(super) async fn show_progress(producer: Transport, sinks: Transport) {
    let heights = captures(producer).await;
    streams(sinks, &heights).await;
}

/// A bar for every capture that is behind its source, until all have caught up once. The heights
/// that they had then.
async fn captures(producer: Transport) -> BTreeMap<String, u64> {
    let mut producer = pb::producer_client::ProducerClient::new(producer);
    let mut bars = BTreeMap::new();
    let mut done = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        // Only at the end of the process.
        let Ok(answer) = producer.list_ingestors(pb::ListIngestorsRequest {}).await else {
            return BTreeMap::new();
        };
        let all = answer.into_inner().ingestors;
        for own in &all {
            let (height, source) = (ingestors::height(own), own.source_height);
            if source == 0 || done.contains_key(&own.ingestor) {
                continue;
            }
            let bar =
                bars.entry(own.ingestor.clone()).or_insert_with(|| Progress::new(&own.ingestor));
            bar.set(height, source);
            if height >= source {
                if let Some(bar) = bars.remove(&own.ingestor) {
                    bar.finish();
                }
                note(format!(
                    "  {}: {} blocks, {} changes captured, at height {}",
                    own.ingestor,
                    count(own.blocks),
                    count(own.changes),
                    count(height)
                ));
                done.insert(own.ingestor.clone(), height);
            }
        }
        if !all.is_empty() && done.len() == all.len() {
            return done;
        }
    }
}

/// A line for every stream when it has delivered everything up to these heights.
async fn streams(sinks: Transport, heights: &BTreeMap<String, u64>) {
    let mut sinks = pb::sink_client::SinkClient::new(sinks);
    let mut done = BTreeSet::new();
    loop {
        let Ok(answer) = sinks.list_streams(pb::ListStreamsRequest {}).await else { return };
        let all = answer.into_inner().streams;
        for own in &all {
            let there = heights.get(&own.ingestor).is_some_and(|at| own.checkpoint_height >= *at);
            if there && done.insert(own.name.clone()) {
                note(format!(
                    "  {}: {} events delivered to {}, at height {}",
                    own.name,
                    count(own.events),
                    own.destination,
                    count(own.checkpoint_height)
                ));
            }
        }
        if done.len() == all.len() {
            return;
        }
        tokio::time::sleep(LOOK_AT_STREAMS).await;
    }
}
