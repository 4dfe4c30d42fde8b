//! What no type can say: rules between keys. All violations are reported, not only the first.

use sluice_model::Filter;

use crate::{Config, ConfigError, Store, Stream};

impl Config {
    /// Checks the rules between keys.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut wrong = Vec::new();
        self.check_listen(&mut wrong);
        self.check_coordinator(&mut wrong);
        for (name, ingestor) in &self.ingestors {
            if ingestor.window == 0 {
                wrong.push(format!("`ingestors.{name}.window` must be at least 1"));
            }
            if ingestor.stores.is_empty() {
                let fix = "write [\"*\"] for every store";
                wrong.push(format!("`ingestors.{name}.stores` is empty; {fix}"));
            }
        }
        for (name, stream) in &self.streams {
            self.check_stream(name, stream, &mut wrong);
        }
        if wrong.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(wrong)) }
    }

    fn check_listen(&self, wrong: &mut Vec<String>) {
        let open = [("api", self.listen.api), ("admin", self.listen.admin)];
        for (name, address) in open.iter().filter(|(_, address)| !address.ip().is_loopback()) {
            let secured = *name == "api" && self.security.tls.is_some();
            if !secured && !self.security.insecure {
                wrong.push(format!(
                    "`listen.{name}` = {address} is reachable from other machines without TLS; \
                     set security.tls, or security.insecure = true if the network is yours"
                ));
            }
        }
        if self.listen.api == self.listen.admin && self.listen.api.port() != 0 {
            wrong.push(format!("`listen.api` and `listen.admin` are both {}", self.listen.api));
        }
    }

    fn check_coordinator(&self, wrong: &mut Vec<String>) {
        let endpoints = self.coordinator.etcd.as_ref().map_or(0, |etcd| etcd.endpoints.len());
        if self.coordinator.store == Store::Etcd && endpoints == 0 {
            wrong.push(
                "`coordinator.etcd.endpoints` is empty although coordinator.store = \"etcd\""
                    .to_owned(),
            );
        }
        if self.coordinator.lease_ttl.get().as_secs() < 2 {
            wrong.push(format!(
                "`coordinator.lease_ttl` = {} is too short; at least 2s",
                self.coordinator.lease_ttl
            ));
        }
    }

    fn check_stream(&self, name: &str, stream: &Stream, wrong: &mut Vec<String>) {
        if let Err(error) = Filter::compile(&stream.filter) {
            wrong.push(format!("`streams.{name}`: {error}"));
        }
        let kind = self.sink_of(stream).kind;
        for table in stream.options.keys().filter(|table| **table != kind) {
            wrong.push(format!(
                "`streams.{name}.{table}` is not a key of a stream on sink {:?} (type {kind}); \
                 its own table is streams.{name}.{kind}",
                stream.sink
            ));
        }
        if stream.batch.events == 0 || stream.batch.bytes.bytes() == 0 {
            wrong.push(format!("`streams.{name}.batch` must allow at least one event and byte"));
        }
    }
}
