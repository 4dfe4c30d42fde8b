//! Chains that go back by themselves.

use super::*;

fn chain(of: impl IntoIterator<Item = (u64, u8)>) -> Chain {
    Arc::new(Mutex::new(of.into_iter().map(|(height, content)| (height, vec![content])).collect()))
}

/// From `height` on other blocks, up to `last`.
fn roll_back(chain: &Chain, height: u64, last: u64) {
    let mut chain = chain.lock();
    chain.split_off(&height);
    chain.extend((height..=last).map(|height| (height, vec![0xff])));
}

fn node(chain: &Chain, lowest: u64, made_anew: bool) -> Box<Node> {
    Box::new(Node { chain: chain.clone(), lowest, made_anew })
}

/// Captures a chain of twenty blocks, then rolls the node back while nobody looks.
async fn captured(world: &World, rolled_back_to: u64) -> Chain {
    let chain = chain((1..=20).map(|height| (height, 1)));
    let running = world.run(node(&chain, 1, false));
    running.until("twenty blocks", |status| status.blocks == 20).await;
    running.stop().await;
    roll_back(&chain, rolled_back_to + 1, 22);
    chain
}

#[tokio::test]
async fn another_block_in_the_same_place_blocks_and_names_both_digests() {
    let world = World::default();
    let chain = captured(&world, 17).await;
    let running = world.run(node(&chain, 1, false));
    running.state(State::Blocked).await;
    let status = running.status.get();
    assert_eq!(status.blocked, Some(at(20)));
    let cause = &status.cause;
    assert!(cause.contains("another block 20") && cause.contains("store bank"), "{cause}");
    assert!(cause.contains("sluice ingestors rewind chain"), "{cause}");
    let digests: Vec<_> = cause.split_whitespace().filter(|word| word.len() == 64).collect();
    assert_eq!(digests.len(), 2, "{cause}");
    assert_ne!(digests[0], digests[1]);
    assert_eq!(world.journal.heights().len(), 20, "nothing was appended");
    assert_eq!(running.status.message().repairs.len(), 1, "it is a remark too");
    running.stop().await;
    let kinds = world.coordinator.kinds();
    assert_eq!(kinds, ["diverged", "blocked"], "once, however often it is tried");
}

#[tokio::test]
async fn an_operator_leaves_the_history_of_a_chain_that_went_back() {
    let world = World::default();
    let chain = captured(&world, 17).await;
    let running = world.run(node(&chain, 1, false));
    running.state(State::Blocked).await;
    let skip = ActionKind::Skip { pointer: at(20), through: at(20) };
    let refused = world.coordinator.ended(world.coordinator.ask(skip)).await;
    assert!(!refused.done && refused.message.contains("rewind"), "{}", refused.message);
    let to = sluice_model::Position::end_of(Generation(0), at(17));
    let rewind = ActionKind::Rewind { to, digest: None };
    let ended = world.coordinator.ended(world.coordinator.ask(rewind)).await;
    assert!(ended.done, "{}", ended.message);
    running.until("22", |status| status.head.as_ref().is_some_and(|h| h.height == 22)).await;
    assert_eq!(
        world.journal.places()[20..],
        [(1, 17), (1, 18), (1, 19), (1, 20), (1, 21), (1, 22)]
    );
    running.state(State::Active).await;
    running.stop().await;
}

async fn goes_on(rolled_back_to: u64, lowest: u64, made_anew: bool) -> World {
    let world = World { on_regress: OnRegress::Generation, ..World::default() };
    let chain = captured(&world, rolled_back_to).await;
    let running = world.run(node(&chain, lowest, made_anew));
    running.until("22", |status| status.head.as_ref().is_some_and(|h| h.height == 22)).await;
    running.state(State::Active).await;
    running.stop().await;
    world
}

#[tokio::test]
async fn a_generation_begins_at_the_last_block_that_both_have_wherever_it_is() {
    for back in [19, 18, 17, 16, 12, 5, 1] {
        let world = goes_on(back, 1, false).await;
        let places = world.journal.places();
        let expected: Vec<_> = (back..=22).map(|height| (1, height)).collect();
        assert_eq!(places[20..], expected, "rolled back to {back}");
        let commit = world.coordinator.state().commit.clone().unwrap();
        assert_eq!((commit.generation, commit.pointer), (Generation(1), at(22)));
        assert_eq!(world.coordinator.kinds().last().unwrap(), "generation");
        let trail = world.coordinator.state().trail.clone();
        assert_eq!(trail.last().unwrap().actor, "on_regress");
    }
}

#[tokio::test]
async fn where_blocks_are_taken_away_the_lowest_one_shows_the_base() {
    let world = goes_on(17, 18, true).await;
    assert_eq!(world.journal.places()[20], (1, 17));
}

#[tokio::test]
async fn a_chain_that_has_nothing_in_common_stays_blocked() {
    for back in [0, 17] {
        let world = World { on_regress: OnRegress::Generation, ..World::default() };
        let chain = captured(&world, back).await;
        let running = world.run(node(&chain, 18.min(back + 1), false));
        running.state(State::Blocked).await;
        let cause = running.status.get().cause;
        assert!(cause.contains("no earlier block"), "{cause}");
        assert_eq!(world.journal.heights().len(), 20);
        running.stop().await;
    }
}

#[tokio::test]
async fn a_second_regress_below_the_first_base_is_found_in_the_history_before() {
    let world = World { on_regress: OnRegress::Generation, ..World::default() };
    let chain = captured(&world, 15).await;
    let running = world.run(node(&chain, 1, false));
    running.until("22", |status| status.head.as_ref().is_some_and(|h| h.height == 22)).await;
    running.stop().await;
    {
        let mut chain = chain.lock();
        chain.split_off(&11);
        chain.extend((11..=23).map(|height| (height, vec![0xee])));
    }
    let running = world.run(node(&chain, 1, false));
    running.until("23", |status| status.head.as_ref().is_some_and(|h| h.height == 23)).await;
    running.stop().await;
    let places = world.journal.places();
    let second: Vec<_> = (10..=23).map(|height| (2, height)).collect();
    assert_eq!(places[28..], second, "{places:?}");
}

#[tokio::test]
async fn a_block_that_is_only_offered_is_dropped_where_the_journal_has_a_gap() {
    let world = World::default();
    let gap = Item::Gap { from: at(3), to: at(4), cause: "never written".into() };
    let first = [blocks(1..=2), vec![gap]].concat();
    let late = block_of(4, b"late", Some(Pointer::ORIGIN));
    let second = [late, blocks(5..=5), vec![Item::Finished]].concat();
    let (running, _) = world.scripted(vec![all(first), all(second)]);
    running.state(State::Finished).await;
    assert_eq!(world.journal.heights(), [1, 2, 4, 5]);
    assert!(is_gap(&world.journal.state().blocks[2].1));
}
