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
fn literal_secrets_in_raw_tables_are_not_printed() {
    let config = with_file(
        "[streams.a]\nsink='webhook'\ningestor='x'\n[streams.a.webhook]\nsecret='hunter2'\n\
         headers={ X-Api-Key='hunter2', Accept='x' }\ntoken='env:TOKEN'",
    );
    let printed = config.unwrap().render_redacted().unwrap();
    assert!(!printed.contains("hunter2"), "{printed}");
    assert!(printed.contains("env:TOKEN") && printed.contains("Accept = \"x\""), "{printed}");
}

/// The file as the design shows it, whole. What this version does not do is refused by name, each
/// with its line, and never ignored.
#[test]
fn the_designs_file_is_read_but_for_what_is_refused_by_name() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/product.toml");
    let error = load(&Sources { file: Some(path.clone()), ..Sources::default() }).unwrap_err();
    let ConfigError::Invalid(problems) = error else { panic!("{error}") };
    let keys: Vec<&str> = problems.iter().filter_map(|line| line.split('`').nth(1)).collect();
    assert_eq!(keys, ["security.tokens", "journal.retention.hold_for_streams"], "{problems:?}");
    assert!(problems.iter().all(|line| line.contains("product.toml")), "{problems:?}");

    let text = std::fs::read_to_string(path).unwrap();
    let without = text
        .replace(", hold_for_streams = \"100GiB\"", "")
        .replace("tokens = \"file:/run/secrets/sluice-tokens\"", "");
    let config = with_file(&without).unwrap();
    assert_eq!(config.journal.durability, Durability::Fsync);
    assert_eq!(config.ingestors[&"osmosis-1".parse().unwrap()].source.kind, "cosmos-abci");
    let ledger = &config.streams["ledger"];
    assert_eq!(ledger.retry.lasting.get(), Duration::from_secs(300));
    let tls = config.security.tls.unwrap();
    assert_eq!(tls.client_ca.unwrap(), PathBuf::from("/etc/sluice/ca.crt"));
}

#[test]
fn every_error_says_where_the_key_was_set() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sluice.toml");
    std::fs::write(&path, "[ingestors.Hub-4]\nsource={type='capture'}\n[journal]\ndir='/a'")
        .unwrap();
    let with = |name: &str, value: &str, set: &str| {
        let environment = HashMap::from([(name.to_owned(), value.to_owned())]);
        let sets = if set.is_empty() { vec![] } else { vec![set.to_owned()] };
        load(&Sources { file: Some(path.clone()), environment, sets })
    };
    for (name, value, set, parts) in [
        // A bad value of the environment, also in a table that the file names.
        (
            "SLUICE_JOURNAL__TAIL_CACHE",
            "lots",
            "",
            ["journal.tail_cache", "SLUICE_JOURNAL__TAIL_CACHE"],
        ),
        (
            "SLUICE_INGESTORS__HUB_4__WINDOW",
            "many",
            "",
            ["ingestors.Hub-4.window", "variable SLUICE_INGESTORS__HUB_4__WINDOW"],
        ),
        // An unknown key, with a guess.
        (
            "SLUICE_JOURNAL__DRI",
            "/x",
            "",
            ["did you mean `journal.dir`", "variable SLUICE_JOURNAL__DRI"],
        ),
        ("SLUICE_NO__X", "", "", ["`no`", "variable SLUICE_NO__X"]),
        // The strongest source is named, and its value kept out of the text.
        (
            "SLUICE_JOURNAL__TAIL_CACHE",
            "1MiB",
            "journal.tail_cache=x",
            ["journal.tail_cache", "(--set journal.tail_cache)"],
        ),
        ("X", "", "security.tokens=hunter2", ["security.tokens", "(--set security.tokens)"]),
        // A rule between keys.
        ("SLUICE_LISTEN__API", "0.0.0.0:7400", "", ["listen.api", "variable SLUICE_LISTEN__API"]),
        (
            "X",
            "",
            "ingestors.Hub-4.stores=[]",
            ["ingestors.Hub-4.stores", "(--set ingestors.Hub-4.stores)"],
        ),
        // The file.
        ("X", "", "journal.dir.x=1", ["journal.dir", "--set"]),
    ] {
        let error = with(name, value, set).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{name} {set}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = message("[journal]\ntail_cache=-1");
    assert!(error.contains("journal.tail_cache") && error.contains("sluice.toml)"), "{error}");
    let error = message("[ingestors.a]\non_gap='halt'");
    assert!(error.contains("`ingestors.a.source`") && error.contains("missing"), "{error}");
}

#[test]
fn values_outside_the_file_are_what_was_written() {
    let environment = HashMap::from([
        ("SLUICE_CLUSTER".to_owned(), "007".to_owned()),
        ("SLUICE_INGESTORS__A__STORES".to_owned(), "['bank', '!x']".to_owned()),
        ("SLUICE_INGESTORS__A__SOURCE__TYPE".to_owned(), "capture".to_owned()),
        ("SLUICE_SECURITY__INSECURE".to_owned(), "true".to_owned()),
        ("SLUICE_COORDINATOR__WRITE_BUDGET".to_owned(), "50".to_owned()),
        ("SLUICE_ROUTER_PORT".to_owned(), "tcp://10.0.0.1:7400".to_owned()),
    ]);
    let config = load(&Sources { environment, ..Sources::default() }).unwrap();
    assert_eq!(config.cluster, "007");
    assert_eq!(config.ingestors[&"a".parse().unwrap()].stores, ["bank", "!x"]);
    assert!(config.security.insecure);
    assert_eq!(config.coordinator.write_budget, 50);
    let sets = vec!["ingestors.x.stores=bank,staking".to_owned()];
    let error = load(&Sources { sets, ..Sources::default() }).unwrap_err().to_string();
    assert!(error.contains("write [\"a\", \"b\"]"), "{error}");
}

#[test]
fn names_with_dots_and_capitals_stay_what_they_are() {
    let config = with_file("[ingestors.\"Chain.v2\"]\nsource={type='capture'}").unwrap();
    let environment =
        HashMap::from([("SLUICE_STREAMS__My_Hook__SINK".to_owned(), "webhook".to_owned())]);
    assert!(config.ingestors.contains_key(&"Chain.v2".parse().unwrap()));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sluice.toml");
    std::fs::write(&path, "[streams.My-Hook]\nsink='x'\ningestor='a'").unwrap();
    let config = load(&Sources { file: Some(path), environment, sets: vec![] }).unwrap();
    assert_eq!(config.streams.keys().collect::<Vec<_>>(), ["My-Hook"]);
    assert_eq!(config.streams["My-Hook"].sink, "webhook");
}

#[test]
fn a_coordinator_may_have_replicas() {
    let sets = vec!["connect.coordinator=http://a:7400, http://b:7400".to_owned()];
    let config = load(&Sources { sets, ..Sources::default() }).unwrap();
    assert_eq!(config.connect.coordinator, "http://a:7400, http://b:7400");
}

#[test]
fn the_standard_telemetry_variables_win() {
    for (name, value, otlp) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317", "standard"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4317", "standard"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "", "http://own:4317"),
        ("OTEL_SDK_DISABLED", "True", ""),
        ("OTEL_SERVICE_NAME", "x", "http://own:4317"),
    ] {
        let environment = HashMap::from([(name.to_owned(), value.to_owned())]);
        let sets = vec!["telemetry.otlp=http://own:4317".to_owned()];
        let config = load(&Sources { environment, sets, file: None }).unwrap();
        assert_eq!(config.telemetry.otlp, otlp, "{name}={value}");
    }
}

#[test]
fn rules_between_keys() {
    for (text, part) in [
        ("[listen]\nadmin='0.0.0.0:7401'", "`listen.admin`"),
        ("[listen]\nadmin='127.0.0.1:7400'", "`listen.admin`"),
        ("[connect]\nrouter='router:7400'", "`connect.router`"),
        ("[connect]\nrouter='https://router:7400'", "security.tls"),
        ("[connect]\nrouter='http://a:7400,http://b:7400'", "only the coordinator"),
        ("[connect]\ncoordinator='http://a:7400,b:7400'", "\"b:7400\" is not an address"),
        ("[connect]\ncoordinator='http://a:7400,'", "`connect.coordinator`"),
        ("[journal]\nsegment_bytes='1KiB'", "`journal.segment_bytes`"),
        ("[journal]\nretention={ bytes='1MiB' }", "`journal.retention.bytes`"),
        ("[journal]\ndurability='replicated'", "replicated journal"),
        ("[journal]\ndurability='interval:0s'", "fsync"),
        ("[journal]\nbackend='jetstream'", "write embedded"),
        ("[coordinator]\nwrite_budget=0", "`coordinator.write_budget`"),
        ("[coordinator]\netcd={ endpoints=['etcd:2379'] }", "etcd.endpoints[0]`"),
        ("[coordinator]\netcd={ user='x' }", "user and password"),
        ("[coordinator]\netcd={ cert='x' }", "cert and key"),
        ("[coordinator]\netcd={ password='hunter2' }", "file:PATH"),
        ("[sinks.a]\ntype=''", "`sinks.a.type`"),
        ("[ingestors.a]\nsource={type='capture'}\nwindow=0", "`ingestors.a.window`"),
        (
            "[ingestors.a]\nsource={type='capture'}\nunfit_after='2s'",
            "`ingestors.a.unfit_after`: 2s is less than coordinator.lease_ttl = 10s",
        ),
        (
            "[ingestors.a]\nsource={type='capture'}\ntopics=[{store='x',prefix='hex:',topic=''}]",
            "`ingestors.a.topics[0].topic`",
        ),
        (
            "[ingestors.hub-4]\nsource={type='capture'}\n[streams.s]\nsink='file'\ningestor='hub4'",
            "did you mean hub-4?",
        ),
        (
            "[sinks.lake]\ntype='file'\n[streams.s]\nsink='lak'\ningestor='x'\nfile={}",
            "did you mean sink = \"lake\"?",
        ),
        ("[streams.s]\nsink='file'\ningestor='x'\nfilters={}", "did you mean `streams.s.filter`?"),
        ("[streams.s]\nsink='file'\ningestor='x'\nfile=3", "`streams.s.file`: it must be a table"),
        ("[streams.s]\nsink='file'\ningestor='x'\nbatch={ events=0 }", "`streams.s.batch.events`"),
        (
            "[streams.s]\nsink='file'\ningestor='x'\nretry={ first='1m', max='1s' }",
            "`streams.s.retry.max`",
        ),
    ] {
        let error = message(text);
        assert!(error.contains(part), "{text}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_file_that_is_no_file_or_too_large_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: PathBuf| load(&Sources { file: Some(path), ..Sources::default() });
    let error = at(dir.path().join("none.toml")).unwrap_err().to_string();
    assert!(error.contains("none.toml") && error.contains("--config"), "{error}");
    let path = dir.path().join("large.toml");
    std::fs::write(&path, "#".repeat((4 << 20) + 1)).unwrap();
    assert!(at(path).unwrap_err().to_string().contains("larger than"));
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

#[test]
fn two_feeds_are_read_and_their_rules_are_named() {
    let own = "[ingestors.a]\nsource = { type = 'capture' }\n";
    let config = with_file(&format!(
        "{own}feeds = 'beside'\nagree = 2\ngap_after = '10m'\nlag_limit = 20\nspool_bytes = '64MiB'"
    ))
    .unwrap();
    let read = &config.ingestors[&"a".parse().unwrap()];
    assert_eq!((read.feeds, read.agree, read.lag_limit), (sluice_config::Feeds::Beside, 2, 20));
    assert_eq!(read.gap_after.unwrap().get(), Duration::from_mins(10));
    assert_eq!(read.spool_bytes, ByteSize::mib(64));
    let plain = &with_file(own).unwrap().ingestors[&"a".parse().unwrap()];
    assert_eq!((plain.feeds, plain.agree), (sluice_config::Feeds::Owner, 1));
    assert_eq!((plain.gap_after, plain.lag_limit), (None, 0));
    for (text, parts) in [
        ("agree = 2", ["ingestors.a.agree", "feeds = \"beside\""]),
        ("feeds = 'beside'\nagree = 3", ["ingestors.a.agree", "3 is not 1"]),
        ("lag_limit = 5", ["ingestors.a.lag_limit", "feeds = \"beside\""]),
        ("gap_after = '0s'", ["ingestors.a.gap_after", "on_gap = \"record\""]),
        ("gap_after = '1s'\non_gap = 'record'", ["ingestors.a.gap_after", "at once"]),
        ("spool_bytes = '1MiB'", ["ingestors.a.spool_bytes", "8MiB"]),
        ("feeds = 'two'", ["ingestors.a.feeds", "beside"]),
    ] {
        let error = message(&format!("{own}{text}"));
        assert!(parts.iter().all(|part| error.contains(part)), "{text}: {error}");
    }
}
