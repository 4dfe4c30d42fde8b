//! Two feeds of one ingestor, with real processes: each producer follows the directory of a node of
//! its own, which grows during the test. What the journal has is compared with what one complete
//! node alone gives.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a failure here is a failed test"
)]

mod site;

use serde_json::Value;
use sluice_tests::eventually;

use site::{INGESTOR, Replica, Site, alone};

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is no text: {value:#}"))
}

/// The details of the trail's entries of a kind.
fn trail(own: &Value, kind: &str) -> Vec<String> {
    let entries = own["audit"].as_array().unwrap().iter();
    let of_kind = entries.filter(|entry| entry["kind"] == kind);
    of_kind.map(|entry| text(entry, "detail").to_owned()).collect()
}

fn pid(own: &Value) -> Option<u64> {
    own["owner"]["pid"].as_u64()
}

fn owns(own: &Value, replica: &Replica) -> bool {
    pid(own) == Some(replica.process.pid().into()) && own["state"] == "active"
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_the_owner_lacks_are_filled_from_the_standby() {
    let mut site = Site::start("").await;
    site.second().await;
    let missing = [7, 8, 20, 120, 299];
    // Block 200 is there, and torn.
    let has = |height: &u64| !missing.contains(height) && *height != 200;
    site.two.grow(1..=100);
    site.one.grow((1..=100).filter(has));
    site.reaches(100).await;
    site.two.grow(101..=300);
    site.one.grow((101..=199).filter(has));
    site.one.grow_torn(200);
    site.one.grow((201..=300).filter(has));
    let own = site.reaches(300).await;
    assert!(owns(&own, &site.one), "{own:#}");
    assert_eq!(own["failures"], 0, "{own:#}");
    assert_eq!(trail(&own, "blocked"), [""; 0], "never blocked");
    let filled = format!("block 299 was filled from {}", site.two.process.url());
    assert!(own["repairs"].to_string().contains(&filled), "{own:#}");
    let fills = site.one.metric(&["sluice_feed_fills", "result=\"filled\""]);
    assert!((fills - 6.0).abs() < 0.1, "{fills}");
    // Everything agrees, so the standby keeps nothing; an operator sees that its feed is alive.
    let feed = site.feed("nothing is kept", |feed| feed["spoolBlocks"] == 0).await;
    assert_eq!((&feed["height"], &feed["lag"]), (&300.into(), &0.into()), "{feed:#}");
    let (_, table) = site.sluice(&["ingestors", "list"]);
    assert!(table.contains("FEEDS") && table.contains("  300  "), "{table}");
    let (_, long) = site.sluice(&["ingestors", "get", INGESTOR]);
    assert!(long.contains("its feed      at height 300, 0 behind; 0 blocks, "), "{long}");

    let (journal, expected) = tokio::join!(site.journal(300), alone(300));
    assert_eq!(journal.len(), 300);
    assert!(journal == expected, "another digest than one complete feed gives");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_goes_on_from_its_own_feed_and_spool_when_the_owner_is_killed() {
    let mut site = Site::start("").await;
    site.second().await;
    site.two.grow(1..=200);
    site.feed("200 blocks are kept", |feed| feed["spoolBlocks"] == 200).await;
    // From here on they are in the spool and nowhere else: the owner never gets so far.
    site.two.prune(101..=150);
    site.one.grow(1..=100);
    site.reaches(40).await;
    site.one.process.kill();
    let own = site.reaches(200).await;
    assert!(owns(&own, &site.two), "{own:#}");
    let filled = site.two.metric(&["sluice_feed_fills", "result=\"filled\""]);
    assert!((50.0..=51.0).contains(&filled), "{filled} blocks out of its own spool");

    // The other way round, in the middle again.
    site.one.grow(101..=250);
    site.one.process.start(&[]).await;
    site.feed("it captures beside", |feed| feed["capturing"] == true).await;
    site.feed("at 250", |feed| feed["height"] == 250).await;
    site.two.grow(201..=230);
    site.reaches(210).await;
    site.two.process.kill();
    let own = site.reaches(250).await;
    assert!(owns(&own, &site.one), "{own:#}");
    site.one.grow(251..=300);
    let (journal, expected) = tokio::join!(site.journal(300), alone(300));
    assert!(journal == expected, "another digest than one complete feed gives");
    assert_eq!(site.get()["paused"], false);
    site.stop().await;
}

/// What an alarm says: both digests, after checking everything else about it.
fn digests_of(cause: &str, height: u64, sides: [&str; 2]) -> [String; 2] {
    let begin = format!("two feeds differ: block {height}: store ");
    let (_, rest) = cause.split_once(&begin).unwrap_or_else(|| panic!("{begin:?} in {cause:?}"));
    assert!(rest.ends_with(&format!("; to go on: sluice ingestors resume {INGESTOR}")), "{rest}");
    let (_store, rest) = rest.split_once(" is ").unwrap();
    let (ours, rest) = rest.split_once(&format!(" in {} and ", sides[0])).unwrap();
    let (theirs, _) = rest.split_once(&format!(" in {}", sides[1])).unwrap();
    [ours.to_owned(), theirs.to_owned()]
}

#[tokio::test(flavor = "multi_thread")]
async fn another_state_at_the_same_height_halts_the_ingestor_until_somebody_resumes_it() {
    let mut site = Site::start("").await;
    site.second().await;
    site.one.grow(1..=60);
    site.two.grow(1..=60);
    site.feed("all agree", |feed| feed["height"] == 60 && feed["spoolBlocks"] == 0).await;
    site.two.grow_otherwise(61);
    site.one.grow([61]);
    let own = site.shows("halted", |own| own["state"] == "halted").await;
    let here = format!("the feed of {}", site.two.process.url());
    let there = format!("the journal, from the owner {}", site.one.process.url());
    let [ours, theirs] = digests_of(text(&own, "cause"), 61, [&here, &there]);
    let journal = site.journal(61).await;
    let stored: Vec<String> = journal[&61].1.iter().map(|own| own.digest.short()).collect();
    assert!(stored.contains(&theirs) && !stored.contains(&ours), "{ours} {theirs} {stored:?}");
    assert_eq!(trail(&own, "diverged").len(), 1, "{own:#}");
    let (code, screen) = site.sluice(&["status"]);
    assert!(code == Some(2) && screen.contains("two feeds differ"), "{code:?} {screen}");
    site.feed("the evidence is kept", |feed| feed["diverged"] == 1).await;
    let compared = ["sluice_feed_compared", "result=\"diverged\""];
    assert!((site.two.metric(&compared) - 1.0).abs() < 0.1);
    eventually("the gauge to be alarmed on", || {
        std::future::ready((site.two.metric(&["sluice_feed_diverged{"]) > 0.5).then_some(()))
    })
    .await;
    let halted = ["sluice_ingestor_state", "state=\"halted\""];
    assert!((site.one.metric(&halted) - 1.0).abs() < 0.1);

    // Nothing is appended past it, neither by this owner nor by the next.
    site.one.grow(62..=100);
    site.two.grow(62..=100);
    let feed = site.feed("the standby has more", |feed| feed["height"] == 100).await;
    assert_eq!(feed["diverged"], 1);
    site.one.process.kill();
    let second = u64::from(site.two.process.pid());
    let own =
        site.shows("halted too", |own| pid(own) == Some(second) && own["state"] == "halted").await;
    assert_eq!(own["height"], 61, "{own:#}");
    // Somebody has looked at the nodes and mends the wrong one; its file is read anew.
    site.two.grow([61]);
    let (code, said) = site.sluice(&["ingestors", "resume", INGESTOR, "--reason", "seen", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    let own = site.reaches(100).await;
    assert!(owns(&own, &site.two), "{own:#}");
    let after = site.journal(100).await;
    assert_eq!(after[&61], journal[&61], "what is in the journal stays");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_agree_2_a_block_on_which_two_feeds_differ_is_not_appended_at_all() {
    let mut site = Site::start("agree = 2").await;
    site.second().await;
    site.two.grow(1..=100);
    site.one.grow(1..=60);
    site.one.grow_otherwise(61);
    site.one.grow(62..=100);
    let own = site.shows("halted", |own| own["state"] == "halted").await;
    let ours = format!("the feed of the owner, {}", site.one.process.url());
    let theirs = format!("that of {}", site.two.process.url());
    let [ours, theirs] = digests_of(text(&own, "cause"), 61, [&ours, &theirs]);
    assert_ne!(ours, theirs);
    assert_eq!(own["height"], 60, "{own:#}");
    assert!((site.one.metric(&["sluice_feed_compared", "result=\"diverged\""]) - 1.0).abs() < 0.1);
    // The node is put right; the file is read anew.
    site.one.grow([61]);
    let (code, said) = site.sluice(&["ingestors", "resume", INGESTOR, "--reason", "seen", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    site.reaches(100).await;
    let (journal, expected) = tokio::join!(site.journal(100), alone(100));
    assert!(journal == expected, "another digest than one complete feed gives");
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_whose_node_stands_still_hands_over() {
    let mut site = Site::start("lag_limit = 10").await;
    site.second().await;
    site.one.grow(1..=30);
    site.two.grow(1..=30);
    site.reaches(30).await;
    site.two.grow(31..=300);
    let own = site.reaches(300).await;
    let second = u64::from(site.two.process.pid());
    assert!(owns(&own, &site.two), "{own:#}");
    let asked = trail(&own, "action-requested");
    assert!(asked.len() == 1 && asked[0].contains("lag_limit is 10"), "{asked:?}");
    assert!(asked[0].contains(&site.one.process.url()), "{asked:?}");
    assert!((site.two.metric(&["sluice_feed_hand_overs"]) - 1.0).abs() < 0.1);
    // The old owner stands by, its feed far behind, and an operator sees it.
    let feed = site.feed("the old owner is behind", |feed| feed["lag"] == 270).await;
    assert_eq!((&feed["capturing"], &feed["height"]), (&true.into(), &30.into()), "{feed:#}");
    let (_, table) = site.sluice(&["ingestors", "list"]);
    assert!(table.contains("30 (270 behind)"), "{table}");
    assert_eq!(pid(&site.get()), Some(second));
    let (journal, expected) = tokio::join!(site.journal(300), alone(300));
    assert!(journal == expected, "another digest than one complete feed gives");
    site.stop().await;
}
