//! `sluice streams`: the event streams of a sink.

use std::time::Duration;

use serde_json::json;
use sluice_model::{SequenceId, event::timestamp};
use sluice_proto::{convert, v1 as pb};

use crate::{
    cli::StreamsCommand,
    connect::Server,
    exit::{Exit, Failure, Outcome},
    output::{Column, Out, Row, bytes, col, count, wide},
};

/// How often `lag -w` asks.
const WATCH_EVERY: Duration = Duration::from_secs(2);

pub(crate) async fn run(server: &Server, out: &mut Out, command: &StreamsCommand) -> Outcome {
    match command {
        StreamsCommand::List => {
            let all = list(server).await?;
            out.rows(&COLUMNS, &all.iter().map(row).collect::<Vec<_>>())?;
        }
        StreamsCommand::Get { stream } => {
            let mut sink = server.sink();
            let request = pb::GetStreamRequest { name: stream.clone() };
            let answer = server.ask(sink.get_stream(request)).await.map_err(|failure| {
                failure.fix(format!("sluice streams list --server {}", server.url()))
            })?;
            get(out, &answer.stream.unwrap_or_default())?;
        }
        StreamsCommand::Lag { watch, stream } => loop {
            let mut all = list(server).await?;
            if let Some(name) = stream {
                all.retain(|status| status.name == *name);
                if all.is_empty() {
                    let message = format!("there is no stream {name:?} at {}", server.url());
                    return Err(Failure::new(Exit::NotFound, message)
                        .fix(format!("sluice streams list --server {}", server.url())));
                }
            }
            out.rows(&LAG_COLUMNS, &all.iter().map(lag_row).collect::<Vec<_>>())?;
            if !watch {
                break;
            }
            tokio::time::sleep(WATCH_EVERY).await;
        },
    }
    Ok(Exit::Ok)
}

const COLUMNS: [Column; 11] = [
    col("NAME"),
    col("SINK"),
    wide("TYPE"),
    col("INGESTOR"),
    col("STATE"),
    col("HEIGHT"),
    col("LAG"),
    wide("EVENTS"),
    wide("RETRIES"),
    wide("DESTINATION"),
    col("CAUSE"),
];

const LAG_COLUMNS: [Column; 7] = [
    col("NAME"),
    col("STATE"),
    col("CHECKPOINT"),
    col("HEAD"),
    col("LAG"),
    wide("EVENTS"),
    col("LAST DELIVERY"),
];

/// Every stream of the sinks at this address.
pub(crate) async fn list(server: &Server) -> Result<Vec<pb::StreamStatus>, Failure> {
    let mut sink = server.sink();
    Ok(server.ask(sink.list_streams(pb::ListStreamsRequest {})).await?.streams)
}

/// The state in one word.
pub(crate) fn state(status: &pb::StreamStatus) -> &'static str {
    match status.state() {
        pb::StreamState::Unspecified => "unknown",
        pb::StreamState::Waiting => "waiting",
        pb::StreamState::Starting => "starting",
        pb::StreamState::Running => "running",
        pb::StreamState::Retrying => "retrying",
        pb::StreamState::Blocked => "blocked",
        pb::StreamState::Gap => "gap",
        pb::StreamState::Stopped => "stopped",
    }
}

/// Heights between the checkpoint and the journal's head.
pub(crate) fn lag(status: &pb::StreamStatus) -> u64 {
    head(status).saturating_sub(status.checkpoint_height)
}

/// The journal's head as last heard. The journal has at least what was delivered.
fn head(status: &pb::StreamStatus) -> u64 {
    status.head.as_ref().map_or(0, |head| head.height).max(status.checkpoint_height)
}

fn last_delivery(status: &pb::StreamStatus) -> String {
    let nanos = status.last_delivery.as_ref().and_then(convert::nanos);
    nanos.and_then(timestamp).unwrap_or_default()
}

/// The stored checkpoint as a sequence id; empty before the first.
pub(crate) fn checkpoint(status: &pb::StreamStatus) -> String {
    let position = status.checkpoint.clone().and_then(|position| position.try_into().ok());
    position.map(|position| SequenceId::new(position).to_string()).unwrap_or_default()
}

fn row(status: &pb::StreamStatus) -> Row {
    Row {
        name: status.name.clone(),
        cells: vec![
            status.name.clone(),
            status.sink.clone(),
            status.r#type.clone(),
            status.ingestor.clone(),
            state(status).to_owned(),
            status.checkpoint_height.to_string(),
            lag(status).to_string(),
            status.events.to_string(),
            status.retries.to_string(),
            status.destination.clone(),
            status.cause.clone(),
        ],
        json: to_json(status),
    }
}

fn lag_row(status: &pb::StreamStatus) -> Row {
    Row {
        name: status.name.clone(),
        cells: vec![
            status.name.clone(),
            state(status).to_owned(),
            status.checkpoint_height.to_string(),
            head(status).to_string(),
            lag(status).to_string(),
            status.events.to_string(),
            last_delivery(status),
        ],
        json: json!({
            "name": status.name,
            "state": state(status),
            "checkpointHeight": status.checkpoint_height,
            "headHeight": head(status),
            "lag": lag(status),
        }),
    }
}

/// As `-o json` writes it.
pub(crate) fn to_json(status: &pb::StreamStatus) -> serde_json::Value {
    let filter = status.filter.clone().unwrap_or_default();
    let filter = sluice_model::FilterSpec::try_from(filter).ok();
    json!({
        "name": status.name,
        "sink": status.sink,
        "type": status.r#type,
        "ingestor": status.ingestor,
        "state": state(status),
        "cause": status.cause,
        "filter": filter.and_then(|filter| serde_json::to_value(filter).ok()),
        "checkpoint": checkpoint(status),
        "checkpointHeight": status.checkpoint_height,
        "headHeight": head(status),
        "lag": lag(status),
        "batches": status.batches,
        "events": status.events,
        "bytes": status.bytes,
        "retries": status.retries,
        "lastDelivery": last_delivery(status),
        "lastError": status.last_error,
        "epoch": status.epoch,
        "destination": status.destination,
    })
}

fn get(out: &mut Out, status: &pb::StreamStatus) -> Result<(), Failure> {
    if out.is_json() {
        out.json(&to_json(status))?;
        return out.flush();
    }
    let mut line = |name: &str, value: String| match value.is_empty() {
        true => Ok(()),
        false => out.line(format!("{name:<14}{value}")),
    };
    line("stream", status.name.clone())?;
    line("sink", format!("{} ({})", status.sink, status.r#type))?;
    line("ingestor", status.ingestor.clone())?;
    line("destination", status.destination.clone())?;
    line("state", state(status).to_owned())?;
    line("cause", status.cause.clone())?;
    line("checkpoint", checkpoint(status))?;
    line("height", format!("{} of {}", count(status.checkpoint_height), count(head(status))))?;
    line(
        "since start",
        format!(
            "{} events in {} batches, {}, {} retries",
            count(status.events),
            count(status.batches),
            bytes(status.bytes),
            count(status.retries)
        ),
    )?;
    line("last delivery", last_delivery(status))?;
    line("last error", status.last_error.clone())?;
    line("epoch", status.epoch.to_string())?;
    out.flush()
}
