//! The trail of ingestors: changes of ownership, and what operators did.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sluice_model::IngestorName;
use sluice_proto::v1 as pb;

use super::{
    Peers,
    show::{epoch_text, moment},
};
use crate::{
    connect::Server,
    exit::{Exit, Failure, Outcome},
    output::{Column, Out, Row, col, wide},
};

const COLUMNS: [Column; 7] = [
    col("AT"),
    col("INGESTOR"),
    wide("SEQUENCE"),
    col("KIND"),
    col("ACTOR"),
    col("EPOCH"),
    col("DETAIL"),
];

pub(super) async fn run(
    out: &mut Out,
    peers: &Peers,
    ingestor: Option<&IngestorName>,
    limit: u32,
) -> Outcome {
    let entries = match ingestor {
        Some(ingestor) => of(&peers.coordinator, ingestor, limit).await?,
        None => everybody(peers, limit).await?,
    };
    let rows: Vec<Row> = entries.iter().map(row).collect();
    out.rows(&COLUMNS, &rows)?;
    Ok(Exit::Ok)
}

/// The newest entries of one ingestor, in order.
pub(super) async fn of(
    coordinator: &Server,
    ingestor: &IngestorName,
    limit: u32,
) -> Result<Vec<pb::AuditEntry>, Failure> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let mut client = coordinator.coordinator();
    let request = pb::ListAuditRequest { ingestor: ingestor.to_string(), after: 0, limit };
    Ok(coordinator.ask(client.list_audit(request)).await?.entries)
}

/// The newest entries of all, in order of their time.
async fn everybody(peers: &Peers, limit: u32) -> Result<Vec<pb::AuditEntry>, Failure> {
    let names = names(peers).await?;
    let mut all = Vec::new();
    for name in names {
        all.extend(of(&peers.coordinator, &name, limit).await?);
    }
    let at = |entry: &pb::AuditEntry| entry.at.as_ref().map(|at| (at.seconds, at.nanos));
    all.sort_by_key(at);
    let surplus = all.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
    all.drain(..surplus);
    Ok(all)
}

/// Everybody who has a lock or a journal. A router that is down hides only those without an owner.
async fn names(peers: &Peers) -> Result<BTreeSet<IngestorName>, Failure> {
    let mut client = peers.coordinator.coordinator();
    let request = pb::ListLocksRequest { prefix: "ingestor/".to_owned() };
    let locks = peers.coordinator.ask(client.list_locks(request)).await?.locks;
    let mut router = peers.router.router();
    let journals = peers.router.ask(router.list_journals(pb::ListJournalsRequest {})).await;
    let journals = journals.unwrap_or_default().journals;
    let of_locks = locks.iter().filter_map(|lock| lock.lock.strip_prefix("ingestor/"));
    let of_journals = journals.iter().map(|journal| journal.ingestor.as_str());
    Ok(of_locks.chain(of_journals).filter_map(|name| name.parse().ok()).collect())
}

fn row(entry: &pb::AuditEntry) -> Row {
    Row {
        name: format!("{}/{}", entry.ingestor, entry.sequence),
        cells: vec![
            moment(entry.at.as_ref()),
            entry.ingestor.clone(),
            entry.sequence.to_string(),
            entry.kind.clone(),
            entry.actor.clone(),
            epoch_text(entry.epoch),
            entry.detail.clone(),
        ],
        json: to_json(entry),
    }
}

pub(super) fn to_json(entry: &pb::AuditEntry) -> Value {
    json!({
        "sequence": entry.sequence,
        "at": moment(entry.at.as_ref()),
        "ingestor": entry.ingestor,
        "kind": entry.kind,
        "actor": entry.actor,
        "epoch": entry.epoch,
        "detail": entry.detail,
    })
}

/// One entry as a line.
pub(super) fn text(entry: &pb::AuditEntry) -> String {
    let epoch = match epoch_text(entry.epoch).as_str() {
        "" => String::new(),
        epoch => format!(", epoch {epoch}"),
    };
    let by = if entry.actor.is_empty() { String::new() } else { format!(" by {}", entry.actor) };
    let detail =
        if entry.detail.is_empty() { String::new() } else { format!(": {}", entry.detail) };
    format!("{}  {}{by}{epoch}{detail}", moment(entry.at.as_ref()), entry.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_leaves_out_what_is_not_known() {
        let entry = pb::AuditEntry {
            sequence: 4,
            at: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            ingestor: "hub".into(),
            kind: "paused".into(),
            actor: "alice".into(),
            detail: "upgrade".into(),
            epoch: 0,
        };
        assert_eq!(text(&entry), "1970-01-01T00:00:00Z  paused by alice: upgrade");
        let owned = pb::AuditEntry { kind: "owned".into(), epoch: 7, ..entry };
        assert_eq!(row(&owned).name, "hub/4");
        assert!(text(&owned).contains("owned by alice, epoch 0.7"));
    }
}
