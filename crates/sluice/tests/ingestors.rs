//! Operators and ingestors: what is shown, what may be done, and what becomes of it, against real
//! processes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/node.rs"]
mod node;

use std::{
    fs,
    path::{Path, PathBuf},
};

use node::{BLOCKS, Node, closed_port, fed, json, sluice, stderr, stdout};
use serde_json::Value;

const LIST: [&str; 4] = ["ingestors", "list", "-o", "json"];

fn recording() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/cosmos-recording")
}

/// The recording's first blocks, without some of them.
fn part_of_recording(to: &Path, last: u64, without: &[u64]) {
    fs::create_dir_all(to).unwrap();
    for height in (1..=last).filter(|height| !without.contains(height)) {
        for kind in ["data", "meta"] {
            let name = format!("block-{height}-{kind}");
            fs::copy(recording().join(&name), to.join(&name)).unwrap();
        }
    }
}

/// Another last byte: in the value, or the key, of the block's last change.
fn change_last_byte(dir: &Path, height: u64) {
    let path = dir.join(format!("block-{height}-data"));
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_tree(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

impl Node {
    /// The ingestor's row.
    fn row(&self, name: &str) -> Value {
        let all = json(&self.run(&LIST));
        let rows = all.as_array().unwrap();
        rows.iter().find(|row| row["ingestor"] == name).cloned().unwrap_or_default()
    }

    fn until_state(&self, name: &str, state: &str) -> Value {
        self.until(&["ingestors", "get", name, "-o", "jsonl"], |text| {
            text.contains(&format!("\"state\":\"{state}\""))
        });
        self.row(name)
    }

    fn capture(&self, input: &str) -> std::process::Output {
        fed(&["capture", "app", "--server", &self.url, "-o", "jsonl"], input)
    }

    /// A verb that must end with this code; what it wrote to both ends.
    fn verb(&self, args: &[&str], code: i32) -> (String, String) {
        let output = self.run(&[&["ingestors"], args].concat());
        let (out, err) = (stdout(&output), stderr(&output));
        assert_eq!(output.status.code(), Some(code), "{args:?}: {out}{err}");
        (out, err)
    }

    /// Kinds of the trail, in order.
    fn trail(&self, name: &str) -> Vec<String> {
        let all = json(&self.run(&["ingestors", "audit", name, "-o", "json"]));
        let entries = all.as_array().unwrap();
        entries.iter().map(|entry| entry["kind"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn a_row_tells_everything_under_names_that_stay() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.until_state("app", "active");
    assert_eq!(node.capture(BLOCKS).status.code(), Some(0));
    node.until(&LIST, |text| text.contains("\"committed\": \"2\""));
    let row = node.row("app");
    let mut names: Vec<&String> = row.as_object().unwrap().keys().collect();
    names.sort();
    let golden = [
        "action",
        "alarm",
        "blockedAt",
        "blocks",
        "cause",
        "changes",
        "committed",
        "committedAt",
        "committedGeneration",
        "epoch",
        "failures",
        "generation",
        "head",
        "headDigest",
        "headTime",
        "height",
        "ingestor",
        "lag",
        "lagSeconds",
        "lastAction",
        "lastGap",
        "notAsked",
        "owner",
        "paused",
        "pausedBy",
        "pausedReason",
        "repairs",
        "source",
        "sourceHeight",
        "standbys",
        "state",
    ];
    assert_eq!(names, golden);
    assert_eq!(
        (&row["state"], &row["height"], &row["head"]),
        (&"active".into(), &2.into(), &"2".into())
    );
    assert_eq!((&row["generation"], &row["lag"]), (&0.into(), &0.into()));
    assert!(
        row["owner"]["pid"].as_u64().unwrap() > 0 && row["epoch"].as_u64().unwrap() > 0,
        "{row}"
    );
    assert_eq!(
        (&row["standbys"], &row["notAsked"]),
        (&Value::Array(vec![]), &Value::Array(vec![]))
    );
    assert_eq!(row["headDigest"].as_str().unwrap().len(), 64);

    let table = stdout(&node.run(&["ingestors", "list"]));
    let head = table.lines().next().unwrap();
    for title in
        ["NAME", "STATE", "OWNER", "STANDBYS", "FEEDS", "EPOCH", "HEIGHT", "COMMITTED", "LAG"]
    {
        assert!(head.contains(title), "{table}");
    }
    let long = stdout(&node.run(&["ingestors", "get", "app"]));
    assert!(long.contains("trail") && long.contains("owned by"), "{long}");
    assert!(node.trail("app").contains(&"owned".to_owned()));
    let everybody = stdout(&node.run(&["ingestors", "audit", "-o", "name"]));
    assert!(everybody.starts_with("app/"), "{everybody}");
    assert_eq!(node.stop().0, Some(0));
}

#[test]
fn a_pause_survives_the_process_and_is_in_the_trail() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.until_state("app", "active");
    let pause = ["pause", "app", "--reason", "upgrade", "--actor", "alice"];
    let (out, _) = node.verb(&pause, 0);
    assert!(out.starts_with("app: paused; ") && out.contains("is paused at height 0"), "{out}");
    assert_eq!(node.run(&["ingestors", "get", "nobody"]).status.code(), Some(3));
    node.verb(&["pause", "nobody"], 3);

    let status = node.run(&["status"]);
    let screen = stdout(&status);
    assert_eq!(status.status.code(), Some(1), "{screen}");
    assert!(screen.contains("1 ingestors (1 paused)"), "{screen}");
    let line = screen.lines().find(|line| line.contains("paused at height")).unwrap();
    assert!(line.contains("alice") && line.contains("→ sluice ingestors resume app"), "{line}");
    let refused = node.capture(BLOCKS);
    assert_eq!(refused.status.code(), Some(4), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("paused"), "{}", stderr(&refused));
    assert_eq!(node.row("app")["height"], 0, "nothing is captured");
    assert_eq!(node.stop().0, Some(0));

    let node = Node::start(dir.path());
    let row = node.until_state("app", "paused");
    assert_eq!((&row["paused"], &row["pausedBy"]), (&true.into(), &"alice".into()));
    assert_eq!(row["pausedReason"], "upgrade");
    let (out, _) = node.verb(&["resume", "app", "--actor", "bob", "-o", "jsonl"], 0);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["paused"], false);
    node.until_state("app", "active");
    assert_eq!(node.run(&["status"]).status.code(), Some(0));
    assert_eq!(node.capture(BLOCKS).status.code(), Some(0));
    let trail = json(&node.run(&["ingestors", "audit", "app", "-o", "json"]));
    let of = |kind: &str| {
        let found = trail.as_array().unwrap().iter().find(|entry| entry["kind"] == kind);
        found.unwrap_or_else(|| panic!("{kind}: {trail}")).clone()
    };
    assert_eq!((&of("paused")["actor"], &of("resumed")["actor"]), (&"alice".into(), &"bob".into()));
    assert!(of("paused")["detail"].as_str().unwrap().contains("upgrade"));
    let two = json(&node.run(&["ingestors", "audit", "app", "--limit", "2", "-o", "json"]));
    assert_eq!(two.as_array().unwrap().len(), 2);
    assert_eq!(node.stop().0, Some(0));
}

#[test]
fn what_loses_something_asks_and_what_makes_no_sense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.until_state("app", "active");
    assert_eq!(node.capture(BLOCKS).status.code(), Some(0));
    for verb in [
        &["rewind", "app", "--to", "1", "--reason", "r"][..],
        &["accept-loss", "app", "--reason", "r"],
    ] {
        let (_, err) = node.verb(verb, 2);
        assert!(err.contains("needs --yes"), "{err}");
    }
    assert!(
        node.trail("app").iter().all(|kind| kind != "action-requested"),
        "nothing was asked for"
    );
    let (_, err) = node.verb(&["skip", "app", "--reason", "r", "--yes"], 4);
    assert!(err.contains("not blocked") && err.contains("run: sluice ingestors get app"), "{err}");
    let (_, err) = node.verb(&["rewind", "app", "--to", "9", "--reason", "r", "--yes"], 3);
    assert!(err.contains("no block 9; it has 1 to 2"), "{err}");
    node.verb(&["cancel-action", "app"], 3);
    // The owner itself refuses what only it can know.
    let (_, err) = node.verb(&["skip", "app", "--at", "7", "--reason", "r", "--yes"], 4);
    assert!(err.contains("skip 1") && err.contains("not done"), "{err}");
    let trail = node.trail("app");
    assert!(trail.contains(&"action-failed".to_owned()), "{trail:?}");
    assert_eq!(node.stop().0, Some(0));
}

#[test]
fn a_rewind_begins_a_history_that_is_told_to_readers() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.until_state("app", "active");
    assert_eq!(node.capture(BLOCKS).status.code(), Some(0));
    let rewind =
        ["rewind", "app", "--to", "1", "--reason", "bad upgrade", "--actor", "alice", "-y"];
    let (out, _) = node.verb(&[&rewind[..], &["-o", "jsonl"]].concat(), 0);
    let answer: Value = serde_json::from_str(&out).unwrap();
    let result = &answer["result"];
    assert_eq!((&result["kind"], &result["done"]), (&"rewind".into(), &true.into()), "{out}");
    assert_eq!(result["actor"], "alice");
    node.until_state("app", "active");
    let row = node.row("app");
    assert_eq!((&row["generation"], &row["height"]), (&1.into(), &1.into()), "{row}");
    assert_eq!(row["lastAction"]["id"], result["id"]);

    // Another block 2 is in the present history; the comparison is with that one.
    let other = BLOCKS.replace("\"key\":\"01\"", "\"key\":\"0101\"");
    let two = other.lines().nth(1).unwrap();
    let captured = node.capture(&format!("{two}\n"));
    assert_eq!(captured.status.code(), Some(0), "{}", stderr(&captured));
    let tail = node.run(&["tail", "app", "--from", "earliest", "-n", "5", "-o", "name"]);
    assert!(
        stderr(&tail).contains("generation 1") && stderr(&tail).contains("bad upgrade"),
        "{}",
        stderr(&tail)
    );
    assert_eq!(stdout(&tail).lines().filter(|id| id.starts_with("z0001-")).count(), 2);

    let fresh = tempfile::tempdir().unwrap();
    let straight = Node::start(fresh.path());
    straight.until_state("app", "active");
    assert_eq!(straight.capture(&other).status.code(), Some(0));
    let verify = ["verify", "app", "--against", &straight.url, "-o", "jsonl"];
    let (out, _) = node.verb(&verify, 0);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["same"], &report["blocks"]), (&true.into(), &2.into()), "{report}");
    assert!(report["notes"][0].as_str().unwrap().contains("generation 1 here and in 0 there"));
    assert_eq!(straight.stop().0, Some(0));
    assert_eq!(node.stop().0, Some(0));
    // The same from the files, where the block that was left behind comes first.
    let straight = Node::start(fresh.path());
    let journal = dir.path().join("journal");
    let verify = ["verify", "app", "--against", journal.to_str().unwrap(), "-o", "jsonl"];
    let (out, _) = straight.verb(&verify, 0);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["same"], &report["blocks"]), (&true.into(), &2.into()), "{report}");
    assert_eq!(straight.stop().0, Some(0));
}

#[test]
fn an_action_that_nobody_does_waits_and_can_be_withdrawn() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    // Imported once: there is a journal, and nobody who owns the ingestor any more.
    let blocks = dir.path().join("blocks");
    part_of_recording(&blocks, 3, &[]);
    let imported = node.run(&["import", "rec", blocks.to_str().unwrap()]);
    assert_eq!(imported.status.code(), Some(0), "{}", stderr(&imported));
    let row = node.row("rec");
    assert_eq!(
        (&row["state"], &row["owner"], &row["height"]),
        (&"unowned".into(), &Value::Null, &3.into())
    );
    assert_eq!(row["lag"], Value::Null, "nobody can tell");

    let (_, err) = node.verb(&["retry", "rec", "--timeout", "300ms", "--actor", "alice"], 5);
    assert!(
        err.contains("retry 1") && err.contains("nobody owns") && err.contains("300ms"),
        "{err}"
    );
    assert!(err.contains("run: sluice ingestors cancel-action rec"), "{err}");
    let (_, err) = node.verb(&["hand-over", "rec"], 4);
    assert!(err.contains("retry 1, asked for by alice"), "{err}");
    assert!(err.contains("run: sluice ingestors cancel-action rec"), "{err}");
    assert_eq!(node.row("rec")["action"]["kind"], "retry");
    assert!(stdout(&node.run(&["ingestors", "get", "rec"])).contains("waits to be done: retry 1"));
    node.verb(&["cancel-action", "rec", "--id", "7"], 3);
    let (out, _) = node.verb(&["cancel-action", "rec", "--reason", "not needed"], 0);
    assert!(out.starts_with("rec: withdrawn: retry 1"), "{out}");
    let row = node.row("rec");
    assert_eq!((&row["action"], &row["lastAction"]["cancelled"]), (&Value::Null, &true.into()));
    let (out, _) = node.verb(&["retry", "rec", "--timeout", "0s", "-o", "jsonl"], 0);
    let answer: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["action"]["id"], 2, "not waited for");
    assert!(answer["action"]["actor"].as_str().unwrap().contains('@'), "{answer}");
    assert_eq!(node.stop().0, Some(0));
}

#[test]
fn a_block_that_is_missing_is_skipped_and_shown_as_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let blocks = dir.path().join("blocks");
    part_of_recording(&blocks, 12, &[7, 8]);
    let rec = format!(
        r#"ingestors.rec.source={{type="cosmos-files",dir={:?},torn_after="200ms"}}"#,
        blocks.display().to_string()
    );
    let node = Node::start_with(dir.path(), &["listen.api=127.0.0.1:0", &rec]);
    let row = node.until_state("rec", "blocked");
    assert_eq!((&row["height"], &row["blockedAt"]), (&6.into(), &"7".into()), "{row}");
    let status = node.run(&["status"]);
    assert_eq!(status.status.code(), Some(1), "{}", stdout(&status));
    assert!(stdout(&status).contains("(1 blocked)"), "{}", stdout(&status));
    let (_, err) = node.verb(&["skip", "rec", "--through", "6", "--reason", "r", "-y"], 2);
    assert!(err.contains("lies before"), "{err}");
    let skip = ["skip", "rec", "--through", "8", "--reason", "never written", "--yes"];
    let (out, _) = node.verb(&skip, 0);
    assert!(out.contains("skip 1 by") && out.contains("done"), "{out}");
    node.until(&LIST, |text| text.contains("\"height\": 12"));
    let row = node.until_state("rec", "active");
    assert_eq!(
        (&row["lastGap"]["from"], &row["lastGap"]["to"]),
        (&"7".into(), &"8".into()),
        "{row}"
    );
    let trail = node.trail("rec");
    for kind in ["blocked", "action-done", "gap"] {
        assert!(trail.contains(&kind.to_owned()), "{kind}: {trail:?}");
    }
    // The whole recording has what the journal lacks.
    let full = recording();
    let verify = ["verify", "rec", "--against", full.to_str().unwrap(), "-o", "jsonl"];
    let (out, _) = node.verb(&verify, 6);
    let found: Value = serde_json::from_str(&out).unwrap();
    let difference = &found["difference"];
    assert_eq!((&difference["height"], &difference["what"]), (&7.into(), &"missing-here".into()));
    assert!(difference["why"].as_str().unwrap().contains("recorded gap from 7 to 8"), "{out}");
    node.verb(&[&verify[..], &["--from", "9"]].concat(), 0);
    assert_eq!(node.stop().0, Some(0));
}

#[test]
fn a_journal_that_lost_blocks_halts_until_the_loss_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = BLOCKS.split_once('\n').unwrap();
    let node = Node::start(dir.path());
    node.until_state("app", "active");
    assert_eq!(node.capture(one).status.code(), Some(0));
    assert_eq!(node.stop().0, Some(0));
    let (journal, old) = (dir.path().join("journal"), dir.path().join("old"));
    copy_tree(&journal, &old);
    let node = Node::start(dir.path());
    node.until_state("app", "active");
    assert_eq!(node.capture(two).status.code(), Some(0));
    assert_eq!(node.stop().0, Some(0));
    fs::remove_dir_all(&journal).unwrap();
    fs::rename(&old, &journal).unwrap();

    let node = Node::start(dir.path());
    let row = node.until_state("app", "halted");
    assert!(!row["cause"].as_str().unwrap().is_empty(), "{row}");
    let status = node.run(&["status"]);
    assert_eq!(status.status.code(), Some(2), "down: {}", stdout(&status));
    assert!(stdout(&status).contains("(1 halted)"), "{}", stdout(&status));
    let accept = ["accept-loss", "app", "--reason", "restored from a backup", "--yes"];
    let (out, _) = node.verb(&accept, 0);
    assert!(out.contains("accept-loss 1 by") && out.contains("done"), "{out}");
    let row = node.until_state("app", "active");
    assert_eq!((&row["generation"], &row["height"]), (&1.into(), &1.into()), "{row}");
    assert_eq!(node.capture(two).status.code(), Some(0));
    let trail = node.trail("app");
    for kind in ["halted", "action-done", "generation"] {
        assert!(trail.contains(&kind.to_owned()), "{kind}: {trail:?}");
    }
    assert_eq!(node.stop().0, Some(0));
}

#[test]
fn a_row_is_complete_although_its_producer_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let gone = format!("http://127.0.0.1:{}", closed_port());
    let spread = |node: &Node| {
        let file = dir.path().join("spread.toml");
        let text = format!(
            "connect = {{ coordinator = {0:?}, router = {0:?}, producer = {gone:?} }}",
            node.url
        );
        fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    // The owner tells an address that means nothing to others.
    let node = Node::start(dir.path());
    node.until_state("app", "active");
    assert_eq!(node.capture(BLOCKS).status.code(), Some(0));
    let file = spread(&node);
    let list = sluice(&["ingestors", "list", "--config", &file, "-o", "json"]);
    assert_eq!(list.status.code(), Some(0), "{}", stderr(&list));
    let row = json(&list)[0].clone();
    assert_eq!((&row["ingestor"], &row["state"]), (&"app".into(), &"unknown".into()));
    assert_eq!((&row["height"], &row["owner"]["pid"]), (&2.into(), &node.child.id().into()));
    assert!(row["notAsked"][0].as_str().unwrap().contains("no connect.advertise"), "{row}");
    assert!(stderr(&list).contains("could not ask app: owner"), "{}", stderr(&list));
    let skip = ["ingestors", "skip", "app", "--reason", "r", "-y", "--config", &file];
    let skip = sluice(&skip);
    assert_eq!(skip.status.code(), Some(5), "{}", stderr(&skip));
    assert!(stderr(&skip).contains("--at HEIGHT"), "{}", stderr(&skip));
    let pause = sluice(&["ingestors", "pause", "app", "--config", &file]);
    assert_eq!(pause.status.code(), Some(5), "{}", stderr(&pause));
    assert!(stderr(&pause).contains("recorded and holds"), "{}", stderr(&pause));
    node.until_state("app", "paused");
    node.verb(&["resume", "app"], 0);
    assert_eq!(node.stop().0, Some(0));

    // It is found by its lock where it does.
    let api = format!("listen.api=127.0.0.1:{}", closed_port());
    let node = Node::start_with(dir.path(), &[&api]);
    node.until_state("app", "active");
    let file = spread(&node);
    let list = sluice(&["ingestors", "list", "--config", &file, "-o", "json"]);
    let row = json(&list)[0].clone();
    assert_eq!(
        (&row["state"], &row["notAsked"]),
        (&"active".into(), &Value::Array(vec![])),
        "{row}"
    );
    assert_eq!(row["owner"]["address"], node.url);
    assert_eq!(node.stop().0, Some(0));
}

#[test]
fn a_journal_is_compared_with_files_with_a_router_and_with_another_journal() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let full = recording();
    let import = ["import", "rec", full.to_str().unwrap()];
    assert_eq!(node.run(&import).status.code(), Some(0));
    let verify = |node: &Node, against: &str, more: &[&str], code: i32| -> Value {
        let args = [&["verify", "rec", "--against", against, "-o", "jsonl"], more].concat();
        serde_json::from_str(&node.verb(&args, code).0).unwrap()
    };
    let files = verify(&node, full.to_str().unwrap(), &[], 0);
    assert_eq!((&files["same"], &files["blocks"]), (&true.into(), &300.into()), "{files}");
    assert_eq!((&files["from"], &files["to"]), (&1.into(), &300.into()));
    let said =
        stdout(&node.run(&["ingestors", "verify", "rec", "--against", full.to_str().unwrap()]));
    assert!(said.starts_with("the same: heights 1 to 300, 300 blocks"), "{said}");

    let changed = dir.path().join("changed");
    part_of_recording(&changed, 200, &[]);
    change_last_byte(&changed, 150);
    change_last_byte(&changed, 170);
    let at = changed.to_str().unwrap();
    let found = verify(&node, at, &[], 6);
    assert_eq!((&found["same"], &found["difference"]["height"]), (&false.into(), &150.into()));
    let store = found["difference"]["stores"][0]["store"].as_str().unwrap().to_owned();
    assert!(!store.is_empty() && found["difference"]["what"] == "stores", "{found}");
    let text = node.verb(&["verify", "rec", "--against", at], 6).0;
    assert!(text.contains("DIFFERENT at height 150; 149 blocks before it are the same"), "{text}");
    assert!(
        text.contains(&format!("store {store} is"))
            && text.contains("sluice tail rec --from height:150"),
        "{text}"
    );
    assert_eq!(verify(&node, at, &["--until", "149"], 0)["to"], 149);
    assert_eq!(verify(&node, at, &["--from", "151", "--until", "169"], 0)["blocks"], 19);
    assert_eq!(verify(&node, at, &["--from", "151"], 6)["difference"]["height"], 170);
    assert_eq!(verify(&node, at, &["--store", &format!("!{store}")], 0)["to"], 200);
    assert_eq!(verify(&node, at, &["--store", &store], 6)["difference"]["height"], 150);
    node.verb(&["verify", "rec", "--against", at, "--from", "301"], 3);
    let empty = tempfile::tempdir().unwrap();
    let (_, err) = node.verb(&["verify", "rec", "--against", empty.path().to_str().unwrap()], 3);
    assert!(err.contains("neither a journal nor files called block-N-data"), "{err}");

    let other_dir = tempfile::tempdir().unwrap();
    let other = Node::start(other_dir.path());
    let import = ["import", "mirror", full.to_str().unwrap()];
    assert_eq!(other.run(&import).status.code(), Some(0));
    let report = verify(&node, &other.url, &["--as", "mirror"], 0);
    assert_eq!((&report["blocks"], &report["chained"]), (&300.into(), &300.into()), "{report}");
    let (_, err) = node.verb(&["verify", "rec", "--against", &other.url], 3);
    assert!(err.contains("rec"), "{err}");
    assert_eq!(other.stop().0, Some(0));
    let journal = other_dir.path().join("journal");
    let at = journal.to_str().unwrap();
    let report = verify(&node, at, &["--as", "mirror"], 0);
    assert_eq!((&report["blocks"], &report["chained"]), (&300.into(), &300.into()), "{report}");
    let (_, err) = node.verb(&["verify", "rec", "--against", at], 3);
    assert!(err.contains("mirror, and none of rec") && err.contains("--as NAME"), "{err}");
    node.verb(&["verify", "rec", "--against", &format!("http://127.0.0.1:{}", closed_port())], 5);
    assert_eq!(node.stop().0, Some(0));
}
