//! Loading: layers, and errors that a person can act on.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a failure here is a failed test"
)]

use std::{collections::HashMap, path::PathBuf, time::Duration};

use sluice_config::{ByteSize, Config, ConfigError, Durability, Sources, load, section};

fn with_file(text: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sluice.toml");
    std::fs::write(&path, text).unwrap();
    load(&Sources { file: Some(path), ..Sources::default() })
}

fn message(text: &str) -> String {
    with_file(text).unwrap_err().to_string()
}

#[test]
fn works_without_anything() {
    assert_eq!(load(&Sources::default()).unwrap(), Config::default());
}

#[test]
fn reads_the_documented_file() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/full.toml");
    let config = load(&Sources { file: Some(path), ..Sources::default() }).unwrap();
    let hub = &config.ingestors[&"cosmoshub-4".parse().unwrap()];
    assert_eq!(hub.source.kind, "cosmos-files");
    assert_eq!(hub.source.options["dir"].as_str(), Some("/srv/gaia/stream"));
    assert!(!hub.source.options.contains_key("type"));
    assert_eq!(hub.topics[0].topic, "bank.balances");
    assert!(
        matches!(config.journal.durability, Durability::Interval(every) if every.get() == Duration::from_millis(50))
    );
    assert_eq!(config.journal.retention.bytes, Some(ByteSize(500 << 30)));
    let ledger = &config.streams["ledger"];
    assert_eq!(ledger.options["webhook"]["url"].as_str(), Some("https://ledger.internal/hook"));
    assert_eq!(config.sink_of(&config.streams["lake-bank"]).kind, "file");
    // What is printed can be read again.
    let printed = config.render_redacted().unwrap();
    assert_eq!(with_file(&printed).unwrap(), config);
}

#[test]
fn later_layers_win() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sluice.toml");
    std::fs::write(
        &path,
        "cluster = 'file'\n[journal]\ntail_cache = '1MiB'\nsegment_bytes = '2MiB'",
    )
    .unwrap();
    let environment = HashMap::from([
        ("SLUICE_JOURNAL__TAIL_CACHE".to_owned(), "3MiB".to_owned()),
        ("SLUICE_JOURNAL__SEGMENT_BYTES".to_owned(), "4MiB".to_owned()),
        ("SLUICE_CLUSTER".to_owned(), "env".to_owned()),
    ]);
    let sets = vec!["journal.segment_bytes=5MiB".to_owned(), "listen.api=127.0.0.1:0".to_owned()];
    let config = load(&Sources { file: Some(path), environment, sets }).unwrap();
    assert_eq!(config.cluster, "env");
    assert_eq!(config.journal.tail_cache, ByteSize::mib(3));
    assert_eq!(config.journal.segment_bytes, ByteSize::mib(5));
    assert_eq!(config.listen.api.port(), 0);
}

#[test]
fn unknown_keys_are_named_with_their_path() {
    let error = message("[journal]\nretension = { bytes = '1GiB' }");
    assert!(error.contains("`journal") && error.contains("retension"), "{error}");
    assert!(error.contains("retention"), "the known keys are listed: {error}");
    let error = message("[ingestors.a]\nsource = { type = 'capture' }\nstore = ['x']");
    assert!(error.contains("ingestors.a") && error.contains("store"), "{error}");
}

#[test]
fn bad_values_are_named_with_what_to_write() {
    for (text, parts) in [
        ("[journal]\ntail_cache = 'lots'", ["journal.tail_cache", "64MiB"]),
        ("[coordinator]\nlease_ttl = '10'", ["coordinator.lease_ttl", "500ms"]),
        ("[journal]\ndurability = 'maybe'", ["journal.durability", "interval:50ms"]),
        ("[streams.a]\nsink='webhook'\ningestor='x'\nfrom='soon'", ["streams.a.from", "earliest"]),
        ("[ingestors.'']\nsource={type='capture'}", ["ingestors", "empty"]),
        ("cluster = ", ["sluice.toml", "line 1"]),
    ] {
        let error = message(text);
        assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
    }
}

#[test]
fn flags_and_variables_are_named() {
    let sets = vec!["journal.tail_cache=lots".to_owned()];
    let error = load(&Sources { sets, ..Sources::default() }).unwrap_err().to_string();
    assert!(error.contains("journal.tail_cache"), "{error}");
    let sets = vec!["nonsense".to_owned()];
    let error = load(&Sources { sets, ..Sources::default() }).unwrap_err().to_string();
    assert!(error.contains("--set nonsense"), "{error}");
}

#[test]
fn every_contradiction_is_reported() {
    let error = message(
        "[listen]\napi='0.0.0.0:7400'\n[coordinator]\nstore='etcd'\n[streams.a]\nsink='webhook'\n\
         ingestor='x'\nfilter={topics='('}\nfile={}",
    );
    for part in ["listen.api", "endpoints", "filter.topics", "`streams.a.file`"] {
        assert!(error.contains(part), "{part} is missing: {error}");
    }
}

#[test]
fn passwords_in_urls_are_not_printed() {
    let config = with_file(
        "[streams.a]\nsink='webhook'\ningestor='x'\nwebhook={url='https://me:hunter2@host/x'}",
    );
    let printed = config.unwrap().render_redacted().unwrap();
    assert!(!printed.contains("hunter2") && printed.contains("https://***@host/x"), "{printed}");
}

#[test]
fn sections_of_a_type_name_the_whole_key() {
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Own {
        #[expect(dead_code, reason = "only its error matters")]
        wait: sluice_config::HumanDuration,
    }
    let table: toml::Table = "wait = 'x'".parse().unwrap();
    let error = section::<Own>("ingestors.a.source", &table).unwrap_err().to_string();
    assert!(error.contains("`ingestors.a.source.wait`"), "{error}");
    let table: toml::Table = "wiat = '1s'".parse().unwrap();
    let error = section::<Own>("ingestors.a.source", &table).unwrap_err().to_string();
    assert!(error.contains("ingestors.a.source") && error.contains("wiat"), "{error}");
}
