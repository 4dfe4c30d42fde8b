//! What operators ask for, done by the loop.

use super::*;
use sluice_client::coordination::Commit;
use sluice_model::Position;

/// A loop that stands at block `height + 1`, which never comes right.
async fn blocked_behind(world: &World, height: u64) -> Running {
    let bad = |items: Vec<Item>| {
        let at = at(height + 1);
        let error = SourceError::Gap { from: at.clone(), to: at, cause: "never written".into() };
        Run::Items(items.into_iter().map(Ok).chain([Err(error)]).collect())
    };
    let mut runs = vec![bad(blocks(1..=height))];
    runs.extend((0..200).map(|_| bad(vec![])));
    let (running, _) = world.scripted(runs);
    running.state(State::Blocked).await;
    running
}

fn skip(pointer: u64, through: u64) -> ActionKind {
    ActionKind::Skip { pointer: at(pointer), through: at(through) }
}

fn rewind(generation: u32, height: u64) -> ActionKind {
    ActionKind::Rewind { to: Position::end_of(Generation(generation), at(height)), digest: None }
}

fn committed(world: &World) -> (u32, Pointer) {
    let commit = world.coordinator.state().commit.clone().unwrap();
    (commit.generation.0, commit.pointer)
}

#[tokio::test]
async fn a_pause_drains_commits_and_keeps_the_lock_until_it_is_over() {
    let limits = Limits { commit_every: Duration::from_secs(3600), ..Limits::default() };
    let world = World { limits, ..World::default() };
    world.journal.state().slow = Duration::from_millis(5);
    let running = world.run(made_up(""));
    running.until("some blocks", |status| status.blocks >= 5).await;
    world.coordinator.set_paused(true);
    running.state(State::Paused).await;
    let status = running.status.get();
    assert!(status.cause.contains("paused by ann: upgrade"), "{}", status.cause);
    assert!(status.paused && status.epoch != Epoch::ZERO);
    // What was sent is acknowledged and committed, nothing is sent any more.
    let sent = world.journal.heights().len() as u64;
    assert_eq!((status.blocks, committed(&world)), (sent, (0, at(sent))));
    let frames = world.journal.state().frames;
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!((world.journal.state().frames, world.coordinator.state().released), (frames, 0));
    world.coordinator.set_paused(false);
    running.until("more blocks", |status| status.blocks >= sent + 5).await;
    let heights = world.journal.heights();
    assert_eq!(heights, (1..=heights.len() as u64).collect::<Vec<_>>(), "none is lost or twice");
    running.stop().await;
}

#[tokio::test]
async fn a_pause_binds_the_next_owner_from_its_first_block_on() {
    let world = World::default();
    world.coordinator.set_paused(true);
    let running = world.run(made_up("blocks = 3"));
    running.state(State::Paused).await;
    assert_eq!(world.journal.state().frames, 0);
    // The owner goes, the next one holds still as well.
    world.coordinator.revoke();
    running.until("owned again", |status| status.epoch == Epoch::from_u64(2)).await;
    running.state(State::Paused).await;
    assert_eq!(world.journal.state().frames, 0);
    world.coordinator.set_paused(false);
    running.state(State::Finished).await;
}

#[tokio::test]
async fn a_stop_ends_a_pause_at_once() {
    let world = World::default();
    world.coordinator.set_paused(true);
    let running = world.run(made_up(""));
    running.state(State::Paused).await;
    timeout(Duration::from_secs(1), running.stop()).await.unwrap();
    assert_eq!(world.coordinator.state().released, 1);
}

#[tokio::test]
async fn a_skip_of_the_blocked_block_writes_a_gap_and_goes_on_behind_it() {
    let world = World::default();
    let bad = || {
        let error = SourceError::Block { pointer: at(3), cause: "torn".into() };
        Run::Items(vec![Err(error)])
    };
    let first = all(blocks(1..=2));
    let (running, _) =
        world.scripted(vec![first, bad(), bad(), bad(), bad(), Run::Hang(blocks(5..=6))]);
    running.state(State::Blocked).await;
    let ended = world.coordinator.ended(world.coordinator.ask(skip(3, 4))).await;
    assert!(ended.done, "{}", ended.message);
    running.until("five", |status| status.head.as_ref().is_some_and(|h| h.height == 6)).await;
    assert_eq!(world.journal.heights(), [1, 2, 4, 5, 6]);
    assert!(is_gap(&world.journal.state().blocks[2].1));
    running.state(State::Active).await;
    let message = running.status.message();
    let gap = message.last_gap.unwrap();
    assert_eq!((gap.height, gap.gap.unwrap().from), (4, at(3).to_bytes()));
    assert!(message.blocked_pointer.is_empty() && message.pending_action.is_empty());
    running.stop().await;
    assert_eq!(world.coordinator.kinds(), ["blocked", "unblocked", "gap"]);
    let trail = world.coordinator.state().trail.clone();
    assert!(trail[2].detail.contains("blocks 3 to 4: skipped by ann: because"), "{trail:?}");
    assert_eq!(trail[2].actor, "ann");
}

#[tokio::test]
async fn a_skip_of_any_other_block_is_refused() {
    let world = World::default();
    let running = blocked_behind(&world, 2).await;
    for (pointer, why) in [(2, "passed block 2"), (4, "blocked at block 3, not at 4")] {
        let ended = world.coordinator.ended(world.coordinator.ask(skip(pointer, pointer))).await;
        assert!(!ended.done && ended.message.contains(why), "{}", ended.message);
    }
    assert_eq!(world.journal.heights(), [1, 2]);
    running.stop().await;
}

#[tokio::test]
async fn a_skip_of_an_ingestor_that_is_well_is_refused_once_that_is_certain() {
    let world = World::default();
    let (running, _) = world.scripted(vec![Run::Hang(blocks(1..=2)), Run::Hang(vec![])]);
    running.until("two blocks", |status| status.blocks == 2).await;
    let ended = world.coordinator.ended(world.coordinator.ask(skip(3, 3))).await;
    assert!(!ended.done && ended.message.contains("not blocked"), "{}", ended.message);
    running.state(State::Active).await;
    assert_eq!(world.journal.heights(), [1, 2]);
    running.stop().await;
}

#[tokio::test]
async fn a_retry_forgets_the_failures_and_tries_at_once() {
    let world = World::default();
    let bad = || {
        let error = SourceError::Block { pointer: at(1), cause: "torn".into() };
        Run::Items(vec![Err(error)])
    };
    let (running, _) = world.scripted(vec![bad(), bad(), bad(), Run::Hang(blocks(1..=1))]);
    running.state(State::Blocked).await;
    let ended = world.coordinator.ended(world.coordinator.ask(ActionKind::Retry)).await;
    assert!(ended.done, "{}", ended.message);
    running.until("a block", |status| status.blocks == 1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_rewind_begins_a_generation_and_the_source_goes_on_behind_its_base() {
    let world = World::default();
    let alive = Arc::new(());
    let source = script(vec![Run::Hang(blocks(1..=5)), Run::Hang(blocks(4..=6))], &alive);
    let begun = source.begun.clone();
    let running = world.run(Box::new(source));
    running.until("five blocks", |status| status.blocks == 5).await;
    let ended = world.coordinator.ended(world.coordinator.ask(rewind(0, 3))).await;
    assert!(ended.done && ended.message.contains("generation 1 begins after block 3"));
    running.until("three more", |status| status.blocks == 8).await;
    let places = world.journal.places();
    assert_eq!(places[5..], [(1, 3), (1, 4), (1, 5), (1, 6)], "{places:?}");
    assert_eq!(*begun.lock(), [None, Some((1, 3))]);
    assert_eq!(running.status.message().generation, 1);
    running.stop().await;
    assert_eq!(committed(&world), (1, at(6)));
    assert!(world.coordinator.state().committed.is_sorted());
    let trail = world.coordinator.state().trail.clone();
    assert_eq!((trail[0].kind.as_str(), trail[0].actor.as_str()), ("generation", "ann"));
}

#[tokio::test]
async fn a_rewind_to_what_is_not_there_or_is_another_block_is_refused() {
    let world = World::default();
    let (running, _) = world.scripted(vec![
        Run::Hang(blocks([1, 2, 5])),
        Run::Hang(vec![]),
        Run::Hang(vec![]),
        Run::Hang(vec![]),
    ]);
    running.until("three blocks", |status| status.blocks == 3).await;
    let digest = Some(Digest::from_array([9; 32]));
    let other = ActionKind::Rewind { to: Position::end_of(Generation(0), at(2)), digest };
    let asked = [(rewind(0, 4), "no block 4"), (rewind(0, 9), "beyond"), (other, "has the digest")];
    for (kind, why) in asked {
        let ended = world.coordinator.ended(world.coordinator.ask(kind)).await;
        assert!(!ended.done && ended.message.contains(why), "{}", ended.message);
    }
    assert_eq!(world.journal.places(), [(0, 1), (0, 2), (0, 5)]);
    running.stop().await;
}

#[tokio::test]
async fn an_action_that_was_done_and_not_told_is_not_done_again() {
    let world = World::default();
    let (running, _) = world.scripted(vec![Run::Hang(blocks(1..=5)), Run::Hang(blocks(4..=4))]);
    running.until("five blocks", |status| status.blocks == 5).await;
    // Nobody hears that it is done, and the lock goes.
    world.coordinator.state().unheard = u32::MAX;
    let id = world.coordinator.ask(rewind(0, 3));
    running
        .until("generation 1", |status| {
            status.head.as_ref().is_some_and(|head| head.generation == Generation(1))
        })
        .await;
    world.coordinator.state().unheard = 0;
    world.coordinator.revoke();
    let ended = world.coordinator.ended(id).await;
    assert!(ended.done, "{}", ended.message);
    running.until("another block", |status| status.blocks == 6).await;
    assert_eq!(world.journal.places()[5..], [(1, 3), (1, 4)], "one generation, not two");
    running.stop().await;
}

#[tokio::test]
async fn a_loss_is_halted_with_the_lock_kept_and_ends_by_accepting_it() {
    let world = World::default();
    world.run(made_up("blocks = 10")).state(State::Finished).await;
    world.journal.truncate(6);
    let released = world.coordinator.state().released;
    let running = world.run(made_up("blocks = 12"));
    running.state(State::Halted).await;
    assert_eq!(world.coordinator.state().released, released, "the lock is kept");
    assert_ne!(running.status.get().epoch, Epoch::ZERO);
    // Nothing else helps.
    let refused = world.coordinator.ended(world.coordinator.ask(skip(7, 7))).await;
    assert!(!refused.done && refused.message.contains("halted"), "{}", refused.message);
    running.state(State::Halted).await;
    assert_eq!(world.journal.heights().len(), 6);
    let ended = world.coordinator.ended(world.coordinator.ask(ActionKind::AcceptLoss)).await;
    assert!(ended.done && ended.message.contains("generation 1 begins after block 6"));
    running.state(State::Finished).await;
    let places = world.journal.places();
    let expected: Vec<_> = [(1, 6)].into_iter().chain((7..=12).map(|h| (1, h))).collect();
    assert_eq!(places[6..], expected);
    assert_eq!(committed(&world), (1, at(12)));
    let trail = world.coordinator.state().trail.clone();
    let kinds: Vec<_> = trail.iter().map(|entry| entry.kind.as_str()).collect();
    assert_eq!(kinds, ["halted", "generation"]);
    assert!(trail[1].detail.contains("committed block is 10"), "{trail:?}");
}

#[tokio::test]
async fn a_halted_owner_that_loses_its_lock_leaves_the_halt_to_the_next() {
    let world = World::default();
    world.run(made_up("blocks = 4")).state(State::Finished).await;
    world.journal.truncate(2);
    let running = world.run(made_up("blocks = 6"));
    running.state(State::Halted).await;
    let epoch = running.status.get().epoch;
    world.coordinator.revoke();
    running.until("the next epoch", |s| s.epoch > epoch && s.state == State::Halted).await;
    assert_eq!(world.journal.heights().len(), 2);
    running.stop().await;
}

#[tokio::test]
async fn a_whole_journal_that_is_lost_begins_above_every_generation_that_was_named() {
    let world = World::default();
    let (running, _) = world.scripted(vec![Run::Hang(blocks(1..=3)), Run::Hang(blocks(3..=4))]);
    running.until("three blocks", |status| status.blocks == 3).await;
    world.coordinator.ended(world.coordinator.ask(rewind(0, 2))).await;
    running.until("two more", |status| status.blocks == 5).await;
    running.stop().await;
    assert_eq!(committed(&world), (1, at(4)));
    world.journal.truncate(0);
    let running = world.run(made_up("blocks = 2"));
    running.state(State::Halted).await;
    assert!(running.status.get().cause.contains("the journal is empty"));
    let ended = world.coordinator.ended(world.coordinator.ask(ActionKind::AcceptLoss)).await;
    assert!(ended.done && ended.message.contains("generation 2"), "{}", ended.message);
    running.state(State::Finished).await;
    assert_eq!(world.journal.places(), [(1, 0), (2, 0), (2, 1), (2, 2)]);
    assert_eq!(committed(&world), (2, at(2)));
}

#[tokio::test]
async fn a_volume_that_is_gone_is_replaced_only_when_its_loss_is_accepted() {
    let world = World::default();
    world.run(made_up("blocks = 3")).state(State::Finished).await;
    world.journal.truncate(0);
    world.journal.state().exists = false;
    let creates = world.journal.state().creates;
    let running = world.run(made_up("blocks = 2"));
    running.until("told", |status| status.cause.contains("accept-loss chain")).await;
    let ended = world.coordinator.ended(world.coordinator.ask(ActionKind::AcceptLoss)).await;
    assert!(ended.done && ended.message.contains("generation 1"), "{}", ended.message);
    running.state(State::Finished).await;
    assert_eq!(world.journal.state().creates, creates + 1);
    assert_eq!(world.journal.places(), [(1, 0), (1, 1), (1, 2)]);
    assert_eq!(committed(&world), (1, at(2)));
}

#[tokio::test]
async fn without_a_loss_accepting_one_changes_nothing() {
    let world = World::default();
    let (running, _) = world.scripted(vec![Run::Hang(blocks(1..=2)), Run::Hang(blocks(3..=3))]);
    running.until("two blocks", |status| status.blocks == 2).await;
    let ended = world.coordinator.ended(world.coordinator.ask(ActionKind::AcceptLoss)).await;
    assert!(!ended.done && ended.message.contains("no loss"), "{}", ended.message);
    running.until("three blocks", |status| status.blocks == 3).await;
    assert_eq!(world.journal.places(), [(0, 1), (0, 2), (0, 3)]);
    running.stop().await;
}

#[tokio::test]
async fn a_hand_over_drains_commits_and_leaves_the_lock_to_whoever_waits() {
    let world = World::default();
    let (running, _) = world.scripted(vec![Run::Hang(blocks(1..=4)), Run::Hang(blocks(6..=6))]);
    running.until("four blocks", |status| status.blocks == 4).await;
    let (other, _) = world.scripted(vec![Run::Hang(blocks(5..=5))]);
    other.state(State::Standby).await;
    let ended = world.coordinator.ended(world.coordinator.ask(ActionKind::HandOver)).await;
    assert!(ended.done && ended.epoch == Epoch::from_u64(1), "finished under the lock");
    other.until("a block of the other", |status| status.blocks == 1).await;
    assert_eq!(running.status.get().state, State::Standby);
    assert!(world.coordinator.state().committed.contains(&(Generation(0), at(4))));
    other.stop().await;
    running.until("it again", |status| status.blocks == 5).await;
    assert_eq!(world.journal.heights(), [1, 2, 3, 4, 5, 6]);
    running.stop().await;
}

#[tokio::test]
async fn c12_a_commit_of_the_history_that_was_left_is_refused_although_its_parent_matches() {
    let limits = Limits { commit_every: Duration::ZERO, ..Limits::default() };
    let world = World { limits, ..World::default() };
    let (running, _) = world.scripted(vec![Run::Hang(blocks(1..=3)), Run::Hang(vec![])]);
    running.until("committed", |status| status.committed == at(3)).await;
    let lock = world.coordinator.owner();
    let ended = world.coordinator.ended(world.coordinator.ask(rewind(0, 3))).await;
    assert!(ended.done, "{}", ended.message);
    // Made before the rewind, under way until now: its parent is the block that is stored.
    let late = Commit {
        ingestor: "chain".parse().unwrap(),
        previous: at(3),
        journal: ID,
        generation: Generation(0),
        pointer: at(4),
        digest: Digest::from_array([4; 32]),
        durability: Durability::Fsynced,
    };
    let refused = lock.commit(&late).await;
    assert!(matches!(refused, Err(CoordinationError::PositionConflict { .. })), "{refused:?}");
    assert_eq!(committed(&world), (1, at(3)));
    running.stop().await;
}

#[tokio::test]
async fn actions_wait_while_the_journal_cannot_be_reached_and_are_done_when_it_can() {
    let world = World::default();
    let (running, _) = world.scripted(vec![Run::Hang(blocks(1..=3)), Run::Hang(vec![])]);
    running.until("three blocks", |status| status.blocks == 3).await;
    world.journal.state().down = true;
    let id = world.coordinator.ask(rewind(0, 2));
    running.state(State::Blocked).await;
    assert!(running.status.get().pending.contains("rewind to 2"));
    let opens = world.journal.state().opens;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let tried = world.journal.state().opens - opens;
    assert!(tried < 30, "a waiting action does not make it hurry: {tried} tries in 100 ms");
    world.journal.state().down = false;
    assert!(world.coordinator.ended(id).await.done);
    running.stop().await;
}
