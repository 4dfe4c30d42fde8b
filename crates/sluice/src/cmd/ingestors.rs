//! `sluice ingestors`: the captures of a producer.

use serde_json::json;
use sluice_model::Pointer;
use sluice_proto::v1 as pb;

use crate::{
    cli::IngestorsCommand,
    connect::Server,
    exit::{Exit, Failure, Outcome},
    output::{Out, Row, col, count, wide},
};

pub(crate) async fn run(server: &Server, out: &mut Out, command: &IngestorsCommand) -> Outcome {
    let all = list(server).await?;
    match command {
        IngestorsCommand::List => {
            let columns = [
                col("NAME"),
                col("SOURCE"),
                col("STATE"),
                col("HEIGHT"),
                col("LAG"),
                wide("COMMITTED"),
                wide("BLOCKS"),
                wide("CHANGES"),
                wide("EPOCH"),
                wide("FAILURES"),
                col("CAUSE"),
            ];
            out.rows(&columns, &all.iter().map(row).collect::<Vec<_>>())?;
        }
        IngestorsCommand::Get { ingestor } => {
            let found = all.iter().find(|status| status.ingestor == ingestor.as_str());
            let status = found.ok_or_else(|| {
                let message = format!("there is no ingestor {ingestor} at {}", server.url());
                Failure::new(Exit::NotFound, message)
                    .fix(format!("sluice ingestors list --server {}", server.url()))
            })?;
            get(out, status)?;
        }
    }
    Ok(Exit::Ok)
}

/// Every ingestor of the producer at this address.
pub(crate) async fn list(server: &Server) -> Result<Vec<pb::IngestorStatus>, Failure> {
    let mut producer = server.producer();
    Ok(server.ask(producer.list_ingestors(pb::ListIngestorsRequest {})).await?.ingestors)
}

/// The state in one word.
pub(crate) fn state(status: &pb::IngestorStatus) -> &'static str {
    match status.state() {
        pb::IngestorState::Unspecified => "unknown",
        pb::IngestorState::Standby => "standby",
        pb::IngestorState::Opening => "opening",
        pb::IngestorState::Active => "active",
        pb::IngestorState::Blocked => "blocked",
        pb::IngestorState::Halted => "halted",
        pb::IngestorState::Stopped => "stopped",
        pb::IngestorState::Finished => "finished",
    }
}

/// The height of the last durable block; 0 before the first.
pub(crate) fn height(status: &pb::IngestorStatus) -> u64 {
    status.head.as_ref().map_or(0, |head| head.height)
}

/// Blocks that the source has and the journal does not.
pub(crate) fn lag(status: &pb::IngestorStatus) -> u64 {
    status.source_height.saturating_sub(height(status))
}

/// A pointer as people read it; empty for none.
pub(crate) fn pointer(bytes: &bytes::Bytes) -> String {
    match Pointer::new(bytes.clone()) {
        Ok(pointer) if !pointer.is_origin() => pointer.to_string(),
        _ => String::new(),
    }
}

fn row(status: &pb::IngestorStatus) -> Row {
    Row {
        name: status.ingestor.clone(),
        cells: vec![
            status.ingestor.clone(),
            status.source.clone(),
            state(status).to_owned(),
            height(status).to_string(),
            lag(status).to_string(),
            pointer(&status.committed_pointer),
            status.blocks.to_string(),
            status.changes.to_string(),
            status.epoch.to_string(),
            status.failures.to_string(),
            status.cause.clone(),
        ],
        json: to_json(status),
    }
}

/// As `-o json` writes it.
pub(crate) fn to_json(status: &pb::IngestorStatus) -> serde_json::Value {
    json!({
        "ingestor": status.ingestor,
        "source": status.source,
        "state": state(status),
        "cause": status.cause,
        "height": height(status),
        "committed": pointer(&status.committed_pointer),
        "sourceHeight": status.source_height,
        "lag": lag(status),
        "blocks": status.blocks,
        "changes": status.changes,
        "epoch": status.epoch,
        "failures": status.failures,
        "repairs": status.repairs,
    })
}

fn get(out: &mut Out, status: &pb::IngestorStatus) -> Result<(), Failure> {
    if out.is_json() {
        out.json(&to_json(status))?;
        return out.flush();
    }
    let mut line = |name: &str, value: String| out.line(format!("{name:<14}{value}"));
    line("ingestor", status.ingestor.clone())?;
    line("source", status.source.clone())?;
    line("state", state(status).to_owned())?;
    if !status.cause.is_empty() {
        line("cause", status.cause.clone())?;
    }
    line("height", count(height(status)))?;
    line("committed", pointer(&status.committed_pointer))?;
    line("source height", count(status.source_height))?;
    line(
        "since start",
        format!("{} blocks, {} changes", count(status.blocks), count(status.changes)),
    )?;
    line("epoch", status.epoch.to_string())?;
    for repair in &status.repairs {
        line("remark", repair.clone())?;
    }
    out.flush()
}
