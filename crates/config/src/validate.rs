//! What no type can say: rules between keys. All violations are reported, not only the first.

use std::fmt;

use sluice_model::{Filter, FilterSpec};

use crate::{
    ByteSize, Config, ConfigError, Feeds, Ingestor, OnGap, Store, Stream, explain::closest,
};

/// Longest name of a sink or stream, in bytes; the same as an ingestor's.
const MAX_NAME: usize = 200;

/// One violated rule.
#[derive(Debug)]
pub(crate) struct Problem {
    /// The key's full path.
    pub(crate) key: String,
    /// What is wrong, and what to write.
    pub(crate) reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.key, self.reason)
    }
}

/// Collects problems; `rule` notes one where the condition does not hold.
#[derive(Default)]
struct Checked(Vec<Problem>);

impl Checked {
    fn rule(&mut self, holds: bool, key: impl Into<String>, reason: impl fmt::Display) {
        if !holds {
            self.0.push(Problem { key: key.into(), reason: reason.to_string() });
        }
    }
}

impl Config {
    /// Checks the rules between keys. Touches neither disk nor network.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let problems = self.problems();
        if problems.is_empty() {
            return Ok(());
        }
        Err(ConfigError::Invalid(problems.iter().map(Problem::to_string).collect()))
    }

    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut checked = Checked::default();
        self.check_listen(&mut checked);
        self.check_connect(&mut checked);
        self.check_journal(&mut checked);
        self.check_coordinator(&mut checked);
        for (name, ingestor) in &self.ingestors {
            let at = format!("ingestors.{name}");
            check_ingestor(&at, ingestor, &mut checked);
            self.check_unfit(&at, ingestor, &mut checked);
        }
        for (name, sink) in &self.sinks {
            check_name("sinks", name, &mut checked);
            let fix = "it is empty; write the type of sink, such as file or webhook";
            checked.rule(!sink.kind.is_empty(), format!("sinks.{name}.type"), fix);
        }
        for (name, stream) in &self.streams {
            check_name("streams", name, &mut checked);
            self.check_stream(&format!("streams.{name}"), stream, &mut checked);
        }
        checked.0
    }

    fn check_listen(&self, checked: &mut Checked) {
        for (door, address) in [("api", self.listen.api), ("admin", self.listen.admin)] {
            let secured = door == "api" && self.security.tls.is_some();
            let fix = match door {
                "api" => "set security.tls",
                _ => "it is always plaintext: keep it on loopback",
            };
            checked.rule(
                address.ip().is_loopback() || secured || self.security.insecure,
                format!("listen.{door}"),
                format_args!(
                    "{address} is reachable from other machines without TLS; {fix}, or \
                     security.insecure = true if the network is yours"
                ),
            );
        }
        let same = self.listen.api == self.listen.admin && self.listen.api.port() != 0;
        let reason = format_args!("{} is listen.api too; take another port", self.listen.admin);
        checked.rule(!same, "listen.admin", reason);
        checked.rule(
            self.security.tokens.is_none(),
            "security.tokens",
            "this version does not check bearer tokens, so the key would protect nothing; remove \
             it and let security.tls.client_ca decide who may connect",
        );
    }

    fn check_connect(&self, checked: &mut Checked) {
        let connect = &self.connect;
        for (peer, url) in [
            ("coordinator", &connect.coordinator),
            ("router", &connect.router),
            ("producer", &connect.producer),
        ] {
            let key = format!("connect.{peer}");
            let replicas = peer == "coordinator" || !url.contains(',');
            let one = "only the coordinator may have several addresses; write one";
            checked.rule(replicas, &*key, one);
            for url in url.split(',').map(str::trim) {
                self.check_address(&key, url, checked);
            }
        }
    }

    fn check_address(&self, key: &str, url: &str, checked: &mut Checked) {
        let secure = url.starts_with("https://");
        let fix = format_args!("{url:?} is not an address; write http://host:7400");
        checked.rule(secure || url.starts_with("http://"), key, fix);
        let trusts = self.security.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        checked.rule(
            !secure || trusts,
            key,
            "https needs security.tls with client_ca, which says which peers to trust",
        );
    }

    fn check_journal(&self, checked: &mut Checked) {
        let segment = self.journal.segment_bytes;
        checked.rule(
            (4 << 10..=1 << 30).contains(&segment.bytes()),
            "journal.segment_bytes",
            format_args!("{segment} is not between 4KiB and 1GiB"),
        );
        checked.rule(
            self.journal.retention.hold_for_streams.is_none(),
            "journal.retention.hold_for_streams",
            "this version does not bound what streams hold; remove it, and set retention.bytes",
        );
        let bytes = self.journal.retention.bytes;
        checked.rule(
            bytes.is_none_or(|bytes| bytes >= segment),
            "journal.retention.bytes",
            format_args!(
                "it is less than one segment ({segment}); write more, or smaller segments"
            ),
        );
    }

    fn check_coordinator(&self, checked: &mut Checked) {
        let coordinator = &self.coordinator;
        let ttl = coordinator.lease_ttl;
        checked.rule(
            ttl.get().as_secs() >= 2,
            "coordinator.lease_ttl",
            format_args!("{ttl} is too short; at least 2s"),
        );
        let budget = "0 lets nothing be written; write 500";
        checked.rule(coordinator.write_budget > 0, "coordinator.write_budget", budget);
        let endpoints = coordinator.etcd.iter().flat_map(|etcd| &etcd.endpoints);
        checked.rule(
            coordinator.store != Store::Etcd || endpoints.clone().next().is_some(),
            "coordinator.etcd.endpoints",
            "it is empty although coordinator.store = \"etcd\"; write [\"https://host:2379\"]",
        );
        for (at, endpoint) in endpoints.enumerate() {
            checked.rule(
                endpoint.starts_with("https://") || endpoint.starts_with("http://"),
                format!("coordinator.etcd.endpoints[{at}]"),
                format_args!("{endpoint:?} is not an address; write https://host:2379"),
            );
        }
        let Some(etcd) = &coordinator.etcd else { return };
        checked.rule(
            etcd.cert.is_some() == etcd.key.is_some(),
            "coordinator.etcd",
            "cert and key go together; write both or none",
        );
        checked.rule(
            etcd.user.is_some() == etcd.password.is_some(),
            "coordinator.etcd",
            "user and password go together; write both or none",
        );
    }

    /// A router that is started anew is silent for a moment, and so is one whose disk is busy.
    fn check_unfit(&self, at: &str, ingestor: &Ingestor, checked: &mut Checked) {
        let ttl = self.coordinator.lease_ttl;
        let Some(after) = ingestor.unfit_after else { return };
        checked.rule(
            after.get().is_zero() || after >= ttl,
            format!("{at}.unfit_after"),
            format_args!("{after} is less than coordinator.lease_ttl = {ttl}; 0s is for ever"),
        );
    }

    fn check_stream(&self, at: &str, stream: &Stream, checked: &mut Checked) {
        if let Err(error) = Filter::compile(&stream.filter) {
            checked.rule(false, format!("{at}.filter"), error);
        }
        // A service alone may have a file without ingestors.
        if !self.ingestors.is_empty() && !self.ingestors.contains_key(&stream.ingestor) {
            let known: Vec<&str> = self.ingestors.keys().map(|name| name.as_str()).collect();
            let guess = closest(stream.ingestor.as_str(), known.iter().copied());
            let guess = guess.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            let reason = format!(
                "there is no [ingestors.{}]{guess} (known: {})",
                stream.ingestor,
                known.join(", ")
            );
            checked.rule(false, format!("{at}.ingestor"), reason);
        }
        self.check_tables(at, stream, checked);
        let batch = &stream.batch;
        checked.rule(batch.events > 0, format!("{at}.batch.events"), "at least 1");
        checked.rule(batch.bytes.bytes() > 0, format!("{at}.batch.bytes"), "at least 1");
        let (first, max) = (stream.retry.first, stream.retry.max);
        let above = "it must be above 0; write 250ms";
        checked.rule(!first.get().is_zero(), format!("{at}.retry.first"), above);
        let below = format_args!("{max} is below retry.first = {first}");
        checked.rule(max >= first, format!("{at}.retry.max"), below);
    }

    /// What is left over in a stream is the one table of its sink's type.
    fn check_tables(&self, at: &str, stream: &Stream, checked: &mut Checked) {
        let kind = self.sink_of(stream).kind;
        for (key, value) in &stream.options {
            let path = format!("{at}.{key}");
            if *key == kind {
                checked.rule(value.is_table(), path, "it must be a table");
                continue;
            }
            let known = STREAM_KEYS.iter().copied().chain([kind.as_str()]);
            let declared = self.sinks.contains_key(&stream.sink);
            let sinks = self.sinks.keys().map(String::as_str);
            let sink = closest(&stream.sink, sinks).filter(|_| !declared && value.is_table());
            let reason = match (sink, closest(key, known)) {
                (Some(near), _) => format!(
                    "there is no [sinks.{}] whose type it could be; did you mean sink = {near:?}?",
                    stream.sink
                ),
                (None, Some(near)) => format!("unknown key; did you mean `{at}.{near}`?"),
                (None, None) => format!(
                    "unknown key; the sink {} is of type {kind}, whose table is `{at}.{kind}`",
                    stream.sink
                ),
            };
            checked.rule(false, path, reason);
        }
    }
}

/// The keys that every stream has; the rest is the table of its type.
const STREAM_KEYS: [&str; 8] =
    ["sink", "ingestor", "from", "filter", "batch", "retry", "checkpoint", "encoding"];

fn check_ingestor(at: &str, ingestor: &Ingestor, checked: &mut Checked) {
    let fix = "it is empty; write the type of source, such as cosmos-files or capture";
    checked.rule(!ingestor.source.kind.is_empty(), format!("{at}.source.type"), fix);
    checked.rule(ingestor.window > 0, format!("{at}.window"), "at least 1");
    checked.rule(ingestor.window_bytes.bytes() > 0, format!("{at}.window_bytes"), "at least 1");
    check_feeds(at, ingestor, checked);
    let stores = format!("{at}.stores");
    let all = "it is empty; write [\"*\"] for every store";
    checked.rule(!ingestor.stores.is_empty(), &*stores, all);
    let spec = FilterSpec { stores: ingestor.stores.clone(), ..FilterSpec::default() };
    if let Err(error) = Filter::compile(&spec) {
        checked.rule(false, stores, error);
    }
    for (number, rule) in ingestor.topics.iter().enumerate() {
        let at = format!("{at}.topics[{number}]");
        let fix = "it is empty; write the name of a store";
        checked.rule(!rule.store.is_empty(), format!("{at}.store"), fix);
        let fix = "it is empty; write the label to give";
        checked.rule(!rule.topic.is_empty(), format!("{at}.topic"), fix);
    }
}

/// Smallest spool: some of the largest usual frames.
const MIN_SPOOL: ByteSize = ByteSize::mib(8);

fn check_feeds(at: &str, ingestor: &Ingestor, checked: &mut Checked) {
    let beside = ingestor.feeds == Feeds::Beside;
    let needs = "it needs other replicas that capture: set feeds = \"beside\"";
    let agree = ingestor.agree;
    let fix =
        format_args!("{agree} is not 1 (compare afterwards) or 2 (append what two feeds gave)");
    checked.rule((1..=2).contains(&agree), format!("{at}.agree"), fix);
    checked.rule(beside || agree != 2, format!("{at}.agree"), needs);
    checked.rule(beside || ingestor.lag_limit == 0, format!("{at}.lag_limit"), needs);
    if let Some(after) = ingestor.gap_after {
        let at = format!("{at}.gap_after");
        let above = "it must be above 0; on_gap = \"record\" records a gap at once";
        checked.rule(!after.get().is_zero(), &*at, above);
        let both = "on_gap = \"record\" records every gap at once; remove one of the two";
        checked.rule(ingestor.on_gap == OnGap::Halt, at, both);
    }
    checked.rule(
        ingestor.spool_bytes >= MIN_SPOOL,
        format!("{at}.spool_bytes"),
        format_args!("{} is less than {MIN_SPOOL}", ingestor.spool_bytes),
    );
}

/// Names of sinks and streams become parts of keys and file names, encoded; they must be
/// printable and short enough for that.
fn check_name(section: &str, name: &str, checked: &mut Checked) {
    let fits = !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control);
    checked.rule(
        fits,
        format!("{section}.{}", name.escape_debug()),
        format_args!("a name is 1 to {MAX_NAME} bytes without control characters"),
    );
}
