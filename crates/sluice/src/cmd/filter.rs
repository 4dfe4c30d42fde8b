//! `sluice filter test`: what a filter would have matched, from the run index alone.

use serde_json::json;
use sluice_frame::Frame;
use sluice_model::{Filter, FilterSpec};
use sluice_proto::v1 as pb;

use crate::{
    cli::FilterCommand,
    cmd::events::Printer,
    connect::Server,
    exit::{Exit, Failure, Outcome},
    output::{Out, Row, bytes, col, count, note},
};

/// Changes of the sample that are printed.
const SAMPLE: u64 = 3;

pub(crate) async fn run(server: &Server, out: &mut Out, command: &FilterCommand) -> Outcome {
    let FilterCommand::Test { ingestor, filter, blocks } = command;
    let spec = FilterSpec::from(filter);
    Filter::compile(&spec).map_err(|error| Failure::usage(error.to_string()))?;
    let request = pb::TestFilterRequest {
        ingestor: ingestor.to_string(),
        filter: Some((&spec).into()),
        blocks: *blocks,
    };
    let mut router = server.router();
    let answer = server.ask(router.test_filter(request)).await?;
    if out.is_json() {
        out.json(&to_json(&answer))?;
        out.flush()?;
    } else {
        table(out, &answer)?;
    }
    for store in &answer.unmatched_stores {
        note(format!("the store {store:?} was not seen in these blocks"));
    }
    Ok(Exit::Ok)
}

fn table(out: &mut Out, answer: &pb::TestFilterResponse) -> Result<(), Failure> {
    let rows: Vec<Row> = answer
        .routes
        .iter()
        .map(|route| Row {
            name: route.store_key.clone(),
            cells: vec![
                route.store_key.clone(),
                topic(route).to_owned(),
                count(route.changes),
                bytes(route.bytes),
                if route.matches { "yes" } else { "no" }.to_owned(),
            ],
            json: serde_json::Value::Null,
        })
        .collect();
    let columns = [col("STORE"), col("TOPIC"), col("CHANGES"), col("BYTES"), col("MATCHES")];
    out.rows(&columns, &rows)?;
    out.line(format!(
        "\n{} of {} changes match ({}), in {} of the last {} blocks",
        count(answer.matching_changes),
        count(answer.changes),
        bytes(answer.matching_bytes),
        count(answer.matching_blocks),
        count(answer.blocks),
    ))?;
    if let Some(sample) = &answer.sample {
        let sample = Frame::parse(prost::Message::encode_to_vec(sample).into())
            .map_err(|error| Failure::new(Exit::Data, error.to_string()))?;
        out.line("")?;
        Printer::new(false, Some(SAMPLE)).frame(out, &sample)?;
    }
    out.flush()
}

fn topic(route: &pb::RouteCount) -> &str {
    if route.topic.is_empty() { &route.store_key } else { &route.topic }
}

fn to_json(answer: &pb::TestFilterResponse) -> serde_json::Value {
    let routes: Vec<_> = answer
        .routes
        .iter()
        .map(|route| {
            json!({
                "store": route.store_key,
                "topic": topic(route),
                "changes": route.changes,
                "bytes": route.bytes,
                "matches": route.matches,
            })
        })
        .collect();
    json!({
        "blocks": answer.blocks,
        "matchingBlocks": answer.matching_blocks,
        "changes": answer.changes,
        "matchingChanges": answer.matching_changes,
        "matchingBytes": answer.matching_bytes,
        "routes": routes,
        "unmatchedStores": answer.unmatched_stores,
    })
}
