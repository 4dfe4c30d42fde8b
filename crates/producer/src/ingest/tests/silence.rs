//! A router that does not answer: who keeps the lock, and who gives it up.

use super::*;

const LIMIT: Duration = Duration::from_millis(60);

fn world(waiting: usize) -> World {
    let world = World { silence: LIMIT, ..World::default() };
    world.coordinator.state().waiting = waiting;
    world
}

/// Two blocks are sent and not acknowledged, nor will they be.
async fn cut_off(world: &World, running: &Running) {
    world.journal.state().slow = LIMIT / 4;
    running.until("two under way", |status| status.inflight == 2).await;
    world.journal.state().hole = true;
}

fn hanging(heights: impl IntoIterator<Item = u64>) -> Run {
    Run::Hang(blocks(heights))
}

#[tokio::test]
async fn an_owner_without_an_answer_ends_everything_and_makes_room() {
    let world = world(1);
    world.journal.state().slow = LIMIT / 4;
    let (running, alive) = world.scripted(vec![hanging(1..=2), hanging(1..=3), hanging(3..=3)]);
    world.coordinator.state().probe = Some(alive.clone());
    cut_off(&world, &running).await;
    let since = tokio::time::Instant::now();
    while world.coordinator.state().released == 0 {
        assert!(since.elapsed() < SOON, "{:?}", running.status.get());
        // Somebody else is to get it.
        world.coordinator.state().busy = true;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(since.elapsed() >= LIMIT * 3 / 4, "{:?}", since.elapsed());
    let held = world.coordinator.state().held_at_release.clone();
    assert_eq!(held, [3], "the source, the probe and this test hold it, no task does");
    running.state(State::Standby).await;
    world.journal.state().hole = false;
    world.coordinator.state().busy = false;
    running
        .until("three blocks", |status| status.head.as_ref().is_some_and(|h| h.height == 3))
        .await;
    assert_eq!(world.journal.heights(), [1, 2, 3], "what was under way is there once");
    running.stop().await;
    assert_eq!(world.coordinator.kinds(), ["unfit"]);
    let told = world.coordinator.state().trail[0].detail.clone();
    assert!(told.contains("router has not answered") && told.contains("1 waiting"), "{told}");
}

#[tokio::test]
async fn an_owner_that_is_alone_keeps_the_lock_and_goes_on_when_the_router_does() {
    let world = world(0);
    world.journal.state().slow = LIMIT / 4;
    let (running, _) = world.scripted(vec![hanging(1..=2)]);
    cut_off(&world, &running).await;
    let note = |running: &Running| {
        running.status.message().repairs.iter().any(|note| note.contains("nobody else waits"))
    };
    let since = tokio::time::Instant::now();
    while !note(&running) || since.elapsed() < LIMIT * 3 {
        assert!(since.elapsed() < SOON, "{:?}", running.status.get());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(world.coordinator.state().released, 0);
    world.journal.state().hole = false;
    running.until("two blocks", |status| status.blocks == 2).await;
    while note(&running) {
        assert!(since.elapsed() < SOON, "the remark stays");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(world.coordinator.state().released, 0, "the lock is still the first one");
    running.stop().await;
    assert!(world.coordinator.kinds().is_empty());
}

#[tokio::test]
async fn a_router_that_nobody_reaches_makes_the_owners_take_turns_and_blocks_nothing() {
    let world = world(1);
    world.journal.state().cut_off = true;
    let running = world.run(made_up("blocks = 5"));
    let begun = tokio::time::Instant::now();
    running
        .until("given up twice", |_| {
            assert_ne!(running.status.get().state, State::Blocked);
            world.coordinator.state().released >= 2
        })
        .await;
    assert!(begun.elapsed() > LIMIT * 2 + LIMIT / 2, "{:?}", begun.elapsed());
    assert!(running.status.get().failures > 3, "more than would block it");
    world.journal.state().cut_off = false;
    running.state(State::Finished).await;
    assert_eq!(world.journal.heights(), [1, 2, 3, 4, 5]);
    assert!(world.coordinator.kinds().iter().all(|kind| kind == "unfit"));
}

#[tokio::test]
async fn a_router_that_refuses_answers() {
    let world = world(1);
    world.journal.state().down = true;
    let running = world.run(made_up("blocks = 1"));
    running.state(State::Blocked).await;
    let since = tokio::time::Instant::now();
    while since.elapsed() < LIMIT * 3 {
        assert_eq!(running.status.get().state, State::Blocked);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    running.stop().await;
    assert_eq!(world.coordinator.kinds(), ["blocked"]);
}

#[tokio::test]
async fn an_owner_with_nothing_to_send_waits_for_no_answer() {
    let world = world(1);
    let (running, _) = world.scripted(vec![hanging(1..=2)]);
    running.until("two blocks", |status| status.blocks == 2).await;
    world.journal.state().hole = true;
    tokio::time::sleep(LIMIT * 4).await;
    assert_eq!(
        (running.status.get().state, world.coordinator.state().released),
        (State::Active, 0)
    );
    running.stop().await;
}
