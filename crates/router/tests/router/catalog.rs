//! Questions about journals.

use sluice_model::{FilterSpec, Op};
use sluice_proto::v1 as pb;

use super::support::{Block, ID, Rig, stores};

async fn ask(rig: &Rig, spec: FilterSpec, blocks: u64) -> pb::TestFilterResponse {
    let request =
        pb::TestFilterRequest { ingestor: "hub".into(), filter: Some((&spec).into()), blocks };
    rig.client().test_filter(request).await.unwrap().into_inner()
}

async fn filled() -> Rig {
    let rig = Rig::start().await;
    let (mut writer, _) = rig.open(3).await;
    for height in 1..=10 {
        let stores = ["bank", "gov", "gov", "abci.events"];
        writer.block(&Block::of(height, &stores[..1 + height as usize % 4])).await;
    }
    rig
}

#[tokio::test]
async fn heads_and_bounds() {
    let rig = filled().await;
    let listed = rig.client().list_journals(pb::ListJournalsRequest {}).await.unwrap();
    let [journal] = listed.into_inner().journals.try_into().unwrap();
    let status = rig.status().await;
    assert_eq!(journal.ingestor, "hub");
    assert_eq!(journal.journal_id.as_ref(), ID.as_bytes());
    assert_eq!(journal.head, status.head.as_ref().map(Into::into));
    assert_eq!((journal.oldest_height, journal.blocks), (1, 10));
    assert_eq!(journal.fence_epoch, 3);
    assert_eq!(journal.holder, "test");
    assert_eq!(journal.durability, i32::from(pb::Durability::Fsynced));
    assert_eq!(journal.changes, (1..=10).map(|h| 1 + h % 4).sum::<u64>());
}

#[tokio::test]
async fn a_filter_is_tested_against_the_last_blocks() {
    let rig = filled().await;
    let answer = ask(&rig, stores(&["gov", "nope*", "abci.events"]), 4).await;
    // Blocks 7 to 10 have 4, 1, 2 and 3 changes.
    assert_eq!((answer.blocks, answer.changes), (4, 10));
    assert_eq!((answer.matching_blocks, answer.matching_changes), (3, 6));
    assert_eq!(answer.unmatched_stores, ["nope*"]);
    let counts: Vec<_> = answer
        .routes
        .iter()
        .map(|route| (route.store_key.as_str(), route.changes, route.matches))
        .collect();
    assert_eq!(counts, [("abci.events", 1, true), ("bank", 4, false), ("gov", 5, true)]);
    let sample = answer.sample.unwrap();
    assert_eq!(sample.height, 7);
    assert_eq!(sample.changes.len(), 3);
    assert!(sample.changes.iter().all(|change| change.store_key != "bank"));
    let bytes: u64 = answer.routes.iter().filter(|r| r.matches).map(|r| r.bytes).sum();
    assert_eq!(answer.matching_bytes, bytes);
}

#[tokio::test]
async fn a_filter_on_changes_is_counted_exactly() {
    let rig = filled().await;
    let spec = FilterSpec {
        prefixes: vec!["hex:01".parse().unwrap()],
        ops: vec![Op::Set],
        ..stores(&["gov"])
    };
    let answer = ask(&rig, spec, 0).await;
    assert_eq!(answer.blocks, 10);
    // One change with this key in every block of at least two.
    let blocks = (1..=10).filter(|h| 1 + h % 4 >= 2).count() as u64;
    assert_eq!((answer.matching_blocks, answer.matching_changes), (blocks, blocks));
    let nothing = ask(&rig, stores(&["nope"]), 0).await;
    assert_eq!((nothing.matching_changes, nothing.sample), (0, None));
}
