//! The program as a stranger meets it: real processes, their output and exit codes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/node.rs"]
mod node;

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use node::{BLOCKS, Node, SLUICE, closed_port, fed, json, sluice, stderr, stdout};

#[test]
fn version_help_and_completion() {
    assert_eq!(stdout(&sluice(&["version"])), format!("sluice {}\n", env!("CARGO_PKG_VERSION")));
    let json: serde_json::Value =
        serde_json::from_str(&stdout(&sluice(&["version", "-o", "json"]))).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    let help = sluice(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(stdout(&help).contains("Exit codes"));
    for shell in ["bash", "zsh", "fish"] {
        let script = sluice(&["completion", shell]);
        assert_eq!(script.status.code(), Some(0));
        assert!(stdout(&script).contains("ingestors"), "{shell}");
    }
    assert_eq!(sluice(&["no-such-command"]).status.code(), Some(2));
    assert_eq!(sluice(&[]).status.code(), Some(2));
}

#[test]
fn a_wrong_configuration_is_named_by_its_key() {
    for (set, part) in [
        ("listen.apii=1", "apii"),
        ("ingestors.hub.source={type=\"cosmos-file\",dir=\"x\"}", "ingestors.hub.source.type"),
        ("ingestors.hub.source={type=\"cosmos-files\",dirr=\"x\"}", "dirr"),
        ("streams.s={sink=\"nowhere\",ingestor=\"hub\"}", "nowhere"),
        ("journal.durability=maybe", "journal.durability"),
    ] {
        let output = sluice(&["config", "check", "--set", set]);
        assert_eq!(output.status.code(), Some(2), "{set}");
        let text = stderr(&output);
        assert!(text.contains(part) && text.contains("run: sluice config"), "{set}: {text}");
    }
    let missing = sluice(&["config", "check", "--config", "/no/such/file.toml"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(stderr(&missing).contains("/no/such/file.toml"));
}

#[test]
fn the_examples_are_configurations() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    for (file, said) in [
        ("example.toml", "ok: 1 ingestors, 3 streams on 2 sinks\n"),
        ("two-feeds.toml", "ok: 1 ingestors, 0 streams on 0 sinks\n"),
    ] {
        let example = deploy.join(file).display().to_string();
        let output = sluice(&["config", "check", "--config", &example]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(stdout(&output), said);
    }
}

#[test]
fn without_a_server_the_answer_is_5_and_a_command() {
    let url = format!("http://127.0.0.1:{}", closed_port());
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/cosmos-recording");
    let recording = recording.to_str().unwrap();
    for command in [
        vec!["tail", "hub"],
        vec!["ingestors", "list"],
        vec!["streams", "list"],
        vec!["filter", "test", "hub"],
        vec!["import", "hub", recording],
    ] {
        let output = sluice(&[&command[..], &["--server", &url]].concat());
        assert_eq!(output.status.code(), Some(5), "{command:?}");
        let text = stderr(&output);
        assert!(text.contains(&url) && text.contains("run: sluice run"), "{command:?}: {text}");
    }
    let output = fed(&["capture", "hub", "--server", &url], "{\"height\":1}\n");
    assert_eq!(output.status.code(), Some(5));
    let output = sluice(&["status", "--server", &url]);
    assert_eq!(output.status.code(), Some(2), "down");
    assert!(stdout(&output).contains("sluice run"));
    assert_eq!(sluice(&["tail", "hub", "--server", "nonsense"]).status.code(), Some(2));
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/cosmos-recording/block-1-data");
    // More than a pipe holds, so that the writer meets the closed end.
    let mut args = vec!["files", "decode"];
    args.extend(std::iter::repeat_n(file.to_str().unwrap(), 50));
    let mut child = Command::new(SLUICE)
        .args(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(!line.is_empty());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
}

#[test]
fn capture_tail_resume_refuse_and_drain() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.until(&["ingestors", "list", "-o", "jsonl"], |text| text.contains("\"active\""));

    let capture = ["capture", "app", "--server", &node.url, "-o", "jsonl"];
    let first = fed(&capture, BLOCKS);
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    let counted: serde_json::Value = serde_json::from_str(&stdout(&first)).unwrap();
    assert_eq!((&counted["blocks"], &counted["duplicates"]), (&2.into(), &0.into()));
    let again: serde_json::Value = serde_json::from_str(&stdout(&fed(&capture, BLOCKS))).unwrap();
    assert_eq!((&again["blocks"], &again["duplicates"]), (&2.into(), &2.into()));

    let tail = node.run(&["tail", "app", "--from", "earliest", "--until", "2", "-o", "jsonl"]);
    let golden = [
        r#"{"sequenceId":"00000000000000000001-00000000","ingestor":"app","height":1,"index":0,"time":"2026-01-31T12:00:00Z","store":"bank","topic":"bank","op":"set","key":"AQ==","value":"Cg==","encoding":"base64"}"#,
        r#"{"sequenceId":"00000000000000000002-00000000","ingestor":"app","height":2,"index":0,"time":null,"store":"bank","topic":"bank","op":"delete","key":"AQ==","value":null,"encoding":"base64"}"#,
        r#"{"sequenceId":"00000000000000000002-00000001","ingestor":"app","height":2,"index":1,"time":null,"store":"gov","topic":"gov","op":"set","key":"Ag==","value":"","encoding":"base64"}"#,
    ];
    assert_eq!(stdout(&tail).lines().collect::<Vec<_>>(), golden);
    let one =
        node.run(&["tail", "app", "--store", "gov", "--from", "earliest", "-n", "1", "-o", "name"]);
    assert_eq!(stdout(&one), "00000000000000000002-00000001\n");

    // Other content at a height that is there; a block that does not follow; a line that is none.
    let other = BLOCKS.replace("Cg==", "Cw==");
    for (input, exit, part) in [
        (other.as_str(), 4, "line 1"),
        ("{\"height\":1", 2, "line 1"),
        ("\n{\"height\":3,\"changes\":[{\"store\":\"\"}]}", 2, "line 2"),
    ] {
        let refused = fed(&capture, input);
        assert_eq!(refused.status.code(), Some(exit), "{input}: {}", stderr(&refused));
        assert!(stderr(&refused).contains(part), "{}", stderr(&refused));
    }
    assert_eq!(node.run(&["tail", "nobody"]).status.code(), Some(3));
    assert_eq!(node.run(&["ingestors", "get", "nobody"]).status.code(), Some(3));
    assert_eq!(node.run(&["streams", "get", "nobody"]).status.code(), Some(3));
    let beyond = ["tail", "app", "--from", "after:00000000000000000009-00000000"];
    assert_eq!(node.run(&beyond).status.code(), Some(6));

    let (code, last) = node.stop();
    assert_eq!(code, Some(0), "{last}");
    assert!(last.starts_with("drained, 0 lost: "), "{last}");

    let journal = dir.path().join("journal");
    let journal = ["--dir", journal.to_str().unwrap()];
    let cat = sluice(&[&["journal", "cat", "app", "-o", "jsonl"][..], &journal].concat());
    assert_eq!(stdout(&cat).lines().collect::<Vec<_>>(), golden);
    let verify = sluice(&[&["journal", "verify"][..], &journal].concat());
    assert_eq!(verify.status.code(), Some(0), "{}", stdout(&verify));
    assert_eq!(
        stdout(&sluice(&[&["journal", "ls", "-o", "name"][..], &journal].concat())),
        "app\n"
    );
}

#[test]
fn an_import_is_idempotent_and_verified_by_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/cosmos-recording");
    let import = ["import", "rec", recording.to_str().unwrap(), "-o", "jsonl"];
    let first = node.run(&import);
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    let counted: serde_json::Value = serde_json::from_str(&stdout(&first)).unwrap();
    assert_eq!((&counted["blocks"], &counted["changes"]), (&300.into(), &7777.into()));
    let again: serde_json::Value = serde_json::from_str(&stdout(&node.run(&import))).unwrap();
    assert_eq!((&again["blocks"], &again["height"]), (&0.into(), &300.into()));
    let status = node.run(&["status"]);
    assert_eq!(status.status.code(), Some(0), "{}", stdout(&status));
    assert_eq!(node.stop().0, Some(0));
}

/// Flips a bit in the first file below a directory that holds this text.
fn flip_bit(dir: &Path, text: &[u8]) -> bool {
    let mut entries: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries.into_iter().any(|path| {
        if path.is_dir() {
            return flip_bit(&path, text);
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let Some(at) = bytes.windows(text.len()).position(|part| part == text) else {
            return false;
        };
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        true
    })
}

const CONFIG: &str = r#"
[ingestors.app]
source = { type = "capture" }
[sinks.lake]
type = "file"
root = "files"
[streams.rows]
sink = "lake"
ingestor = "app"
from = "earliest"
file = { format = "jsonl" }
"#;

#[test]
fn a_stream_waits_for_the_first_block_and_what_it_wrote_is_verified() {
    let dir = tempfile::tempdir().unwrap();
    let api = format!("listen.api=127.0.0.1:{}", closed_port());
    let lake = r#"sinks.lake={type="file",root="files"}"#;
    let rows = r#"streams.rows={sink="lake",ingestor="app",from="earliest",file={format="jsonl",align_blocks=1}}"#;
    let node = Node::start_with(dir.path(), &[&api, lake, rows]);
    let get = ["streams", "get", "rows", "-o", "jsonl"];
    node.until(&get, |text| text.contains("app has no block yet"));
    assert_eq!(node.run(&["status"]).status.code(), Some(0), "a stream that waits is no fault");
    assert_eq!(fed(&["capture", "app", "--server", &node.url], BLOCKS).status.code(), Some(0));
    node.until(&["streams", "lag", "-o", "jsonl"], |text| text.contains("\"checkpointHeight\":2"));
    let lag = json(&node.run(&["streams", "lag", "-o", "json"]));
    assert_eq!((&lag[0]["name"], &lag[0]["headHeight"]), (&"rows".into(), &2.into()));
    assert_eq!((&lag[0]["state"], &lag[0]["lag"]), (&"running".into(), &0.into()));
    let all = json(&node.run(&["ingestors", "list", "-o", "json"]));
    assert_eq!(all.as_array().unwrap().len(), 1);
    assert_eq!((&all[0]["ingestor"], &all[0]["state"]), (&"app".into(), &"active".into()));
    assert_eq!((&all[0]["height"], &all[0]["changes"]), (&2.into(), &3.into()));
    let tested = json(&node.run(&["filter", "test", "app", "--store", "bank", "-o", "json"]));
    assert_eq!((&tested["matchingChanges"], &tested["changes"]), (&2.into(), &3.into()));

    // Coordinator and router here, the producer elsewhere and gone; the sink found by its lock.
    let gone = format!("http://127.0.0.1:{}", closed_port());
    let connect = format!(
        "connect = {{ coordinator = {0:?}, router = {0:?}, producer = {gone:?} }}",
        node.url
    );
    let file = dir.path().join("spread.toml");
    let missing = CONFIG.replace("[streams.rows]", "[streams.other]");
    let other = missing.split_once("[streams.other]").unwrap().1;
    std::fs::write(&file, format!("{connect}\n{CONFIG}[streams.other]\n{other}")).unwrap();
    let file = file.to_str().unwrap();
    let status = sluice(&["status", "--config", file]);
    let text = stdout(&status);
    assert_eq!(status.status.code(), Some(2), "{text}");
    let line = |what: &str, name: &str| {
        let found = text.lines().find(|line| line.contains(what) && line.contains(name));
        found.unwrap_or_else(|| panic!("{what} {name}: {text}")).to_owned()
    };
    assert!(line("router", &node.url).starts_with("ok"), "{text}");
    assert!(line("sinks", &node.url).starts_with("ok"), "{text}");
    assert!(line("stream ", "rows").starts_with("ok"), "{text}");
    let run = format!("→ sluice producer --config {file}");
    assert!(line("producer", &gone).starts_with("down") && text.contains(&run), "{text}");
    let run = format!("→ sluice sink lake --config {file}");
    assert!(line("stream ", "other").ends_with(&run), "{text}");

    let (code, lines) = node.ended();
    assert_eq!(code, Some(0), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("WARN")), "{lines:?}");

    let files = dir.path().join("files/rows");
    let verify = ["files", "verify", files.to_str().unwrap()];
    let clean = sluice(&verify);
    assert_eq!(clean.status.code(), Some(0), "{}", stdout(&clean));
    assert!(!stdout(&clean).starts_with("0 files"), "{}", stdout(&clean));
    assert!(flip_bit(&files, b"\"store\":\"bank\""));
    assert_eq!(sluice(&verify).status.code(), Some(6), "{}", stdout(&sluice(&verify)));
    let journal = dir.path().join("journal");
    let verify = ["journal", "verify", "--dir", journal.to_str().unwrap()];
    assert_eq!(sluice(&verify).status.code(), Some(0));
    assert!(flip_bit(&journal, b"bank"));
    let found = sluice(&verify);
    assert_eq!(found.status.code(), Some(6), "{}{}", stdout(&found), stderr(&found));
    assert!(stdout(&found).contains("NOT SOUND"), "{}", stdout(&found));
}

#[test]
fn a_second_signal_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    // Accepts a batch and never answers: the drain waits for it.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hook = format!(
        r#"streams.hook={{sink="webhook",ingestor="app",from="earliest",webhook={{url="http://{}/"}}}}"#,
        listener.local_addr().unwrap()
    );
    let mut node = Node::start_with(dir.path(), &["listen.api=127.0.0.1:0", &hook]);
    node.until(&["ingestors", "list", "-o", "jsonl"], |text| text.contains("\"active\""));
    assert_eq!(fed(&["capture", "app", "--server", &node.url], BLOCKS).status.code(), Some(0));
    let (_open, _) = listener.accept().unwrap();
    node.signal();
    let mut line = String::new();
    while !line.contains("draining") {
        line.clear();
        assert_ne!(node.lines.read_line(&mut line).unwrap(), 0, "it ended without a word");
    }
    node.signal();
    let began = Instant::now();
    assert_eq!(node.child.wait().unwrap().code(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn clients_reach_a_server_with_tls() {
    let pem = |name: &str| {
        let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("../service/tests/tls").join(name);
        at.to_str().unwrap().to_owned()
    };
    let (ca, cert, key) = (pem("ca.crt"), pem("peer.crt"), pem("peer.key"));
    let dir = tempfile::tempdir().unwrap();
    let tls = format!("{{cert={cert:?},key={key:?},client_ca={ca:?}}}");
    let set = format!("security.tls={tls}");
    let node = Node::start_with(dir.path(), &["listen.api=127.0.0.1:0", &set]);
    assert!(node.url.starts_with("https://"), "{}", node.url);
    let files = ["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
    let list = |flags: &[&str]| node.run(&[&["ingestors", "list", "-o", "name"], flags].concat());
    let found = list(&files);
    assert_eq!(
        (stdout(&found).as_str(), found.status.code()),
        ("app\n", Some(0)),
        "{}",
        stderr(&found)
    );
    let file = dir.path().join("client.toml");
    std::fs::write(&file, format!("security.tls = {tls}")).unwrap();
    assert_eq!(stdout(&list(&["--config", file.to_str().unwrap()])), "app\n");
    let none = list(&[]);
    assert_eq!(none.status.code(), Some(2));
    assert!(stderr(&none).contains("--tls-ca"), "{}", stderr(&none));
    let intruder =
        [&files[..2], &["--tls-cert", &pem("intruder.crt"), "--tls-key", &pem("intruder.key")]];
    assert_eq!(list(&intruder.concat()).status.code(), Some(5), "another authority's client");
    let plain = node.url.replace("https", "http");
    let plain = sluice(&[&["status", "--server", &plain][..], &files].concat());
    assert_eq!(plain.status.code(), Some(2), "{}", stdout(&plain));
    assert!(stderr(&plain).contains("plaintext"), "{}", stderr(&plain));
    assert_eq!(node.stop().0, Some(0));
}
