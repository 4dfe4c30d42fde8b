use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::{HumanDuration, Secret};

/// Addresses to listen on. Port 0 takes a free one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// gRPC of the service.
    pub api: SocketAddr,
    /// Health and metrics, plaintext.
    pub admin: SocketAddr,
}

impl Default for Listen {
    fn default() -> Self {
        Self { api: (Ipv4Addr::LOCALHOST, 7400).into(), admin: (Ipv4Addr::LOCALHOST, 7401).into() }
    }
}

/// Addresses of the other services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Connect {
    /// The coordinator; several replicas with commas between them, of which one is used until it
    /// cannot be reached or does not answer.
    pub coordinator: String,
    /// The router.
    pub router: String,
    /// The producer, for `status` and `ingestors`.
    pub producer: String,
    /// This process as others reach it, told to whoever asks the wrong producer.
    pub advertise: String,
}

impl Default for Connect {
    fn default() -> Self {
        let local = || "http://127.0.0.1:7400".to_owned();
        Self { coordinator: local(), router: local(), producer: local(), advertise: String::new() }
    }
}

/// The coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Coordinator {
    /// What keeps locks, commits and checkpoints.
    pub store: Store,
    /// The etcd cluster, for `store = "etcd"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd: Option<Etcd>,
    /// How long a silent owner keeps its lock.
    pub lease_ttl: HumanDuration,
    /// Writes per second to the store, at most.
    pub write_budget: u32,
}

impl Default for Coordinator {
    fn default() -> Self {
        Self {
            store: Store::Embedded,
            etcd: None,
            lease_ttl: HumanDuration::secs(10),
            write_budget: 500,
        }
    }
}

/// What keeps locks, commits and checkpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// A file of this process: one coordinator.
    #[default]
    Embedded,
    /// etcd: any number of coordinators.
    Etcd,
}

/// An etcd cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Etcd {
    /// `http://` or `https://` addresses of its members.
    pub endpoints: Vec<String>,
    /// Prefix of every key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// PEM file of the authority that signed the members' certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// PEM file of our certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// PEM file of our key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// User name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
}

/// Logs, traces, metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// What is logged: a level, or `target=level` parts with commas.
    pub log: String,
    /// Where OTLP goes; empty for nowhere. [`Telemetry::STANDARD`] where the standard variables
    /// say it.
    pub otlp: String,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { log: "info".to_owned(), otlp: String::new() }
    }
}

impl Telemetry {
    /// The value of `otlp` that leaves everything to the standard `OTEL_*` variables, which the
    /// exporters read themselves.
    pub const STANDARD: &'static str = "standard";

    /// Lets the standard variables win over the file: an endpoint in them is where OTLP goes, and
    /// `OTEL_SDK_DISABLED=true` turns it off.
    pub(crate) fn prefer_standard(&mut self, environment: &HashMap<String, String>) {
        let set = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let endpoints = ["ENDPOINT", "TRACES_ENDPOINT", "METRICS_ENDPOINT"];
        if endpoints.iter().any(|last| set(&format!("OTEL_EXPORTER_OTLP_{last}")).is_some()) {
            Self::STANDARD.clone_into(&mut self.otlp);
        }
        if set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            self.otlp.clear();
        }
    }
}

/// TLS and tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Security {
    /// Certificates of the API's listener and of our calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Bearer tokens and their roles. Not checked by this version, and therefore refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Secret>,
    /// Allows to listen beyond loopback without TLS.
    pub insecure: bool,
}

/// Certificates, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Our certificate and what signed it.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority that clients and peers must show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
}
