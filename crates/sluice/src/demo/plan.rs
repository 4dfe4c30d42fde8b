//! Where everything of a demo is: directories, ports, the configuration.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::net::TcpListener;

use crate::{
    cli::Layout,
    exit::{Failure, on_path},
};

/// The ingestor's name.
pub(crate) const INGESTOR: &str = "recorded-1";
/// The stores of the narrower file stream.
pub(crate) const FILTERED_STORES: [&str; 2] = ["bank", "staking"];
/// The store of the webhook stream.
pub(crate) const WEBHOOK_STORE: &str = "bank";
/// The webhook stream.
pub(crate) const WEBHOOK_STREAM: &str = "bank";
/// Events of one batch.
pub(crate) const WEBHOOK_BATCH: u64 = 20;

/// One process of the layout.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) name: &'static str,
    /// The command and its own arguments.
    pub(crate) args: Vec<String>,
    pub(crate) api: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// A real etcd beside the services.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Etcd {
    pub(crate) client: SocketAddr,
    pub(crate) peer: SocketAddr,
}

/// Everything of a demo.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) dir: PathBuf,
    /// Where the node writes.
    pub(crate) node: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) received: PathBuf,
    pub(crate) receiver: SocketAddr,
    /// Files of the stream of all stores.
    pub(crate) all_files: PathBuf,
    /// Files of the stream of some.
    pub(crate) filtered_files: PathBuf,
    pub(crate) etcd: Option<Etcd>,
    pub(crate) processes: Vec<Planned>,
}

impl Plan {
    /// Makes directories, chooses free ports, writes the configuration.
    pub(crate) async fn new(dir: &Path, layout: Layout) -> Result<Self, Failure> {
        let services: &[(&'static str, &[&str])] = match layout {
            Layout::Processes => &[
                ("coordinator", &["coordinator"]),
                ("router", &["router"]),
                ("producer", &["producer"]),
                ("lake", &["sink", "lake"]),
                ("hooks", &["sink", "hooks"]),
            ],
            Layout::One => &[("run", &["run"])],
        };
        let with_etcd = layout == Layout::Processes && has_etcd().await;
        let mut ports = free_ports(services.len() * 2 + 3).await?.into_iter();
        let mut port =
            || -> SocketAddr { (Ipv4Addr::LOCALHOST, ports.next().unwrap_or_default()).into() };
        let processes = services
            .iter()
            .map(|(name, args)| Planned {
                name,
                args: args.iter().map(ToString::to_string).collect(),
                api: port(),
                admin: port(),
            })
            .collect();
        let etcd = with_etcd.then(|| Etcd { client: port(), peer: port() });
        let plan = Self {
            dir: dir.to_owned(),
            node: dir.join("node"),
            config: dir.join("sluice.toml"),
            received: dir.join("received.jsonl"),
            receiver: port(),
            all_files: dir.join("files/all"),
            filtered_files: dir.join("files/filtered"),
            etcd,
            processes,
        };
        for needed in [plan.node.clone(), dir.join("logs")] {
            std::fs::create_dir_all(&needed).map_err(on_path(&needed))?;
        }
        std::fs::write(&plan.config, plan.text()).map_err(on_path(&plan.config))?;
        Ok(plan)
    }

    /// Where a service is reached; in one process everything is at one address.
    pub(crate) fn api(&self, name: &str) -> SocketAddr {
        let own = self.processes.iter().find(|planned| planned.name == name);
        own.or(self.processes.first()).map_or(self.receiver, |planned| planned.api)
    }

    fn text(&self) -> String {
        let quoted = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
        let store = self.etcd.map_or_else(
            || "store = \"embedded\"".to_owned(),
            |etcd| {
                format!("store = \"etcd\"\netcd = {{ endpoints = [\"http://{}\"] }}", etcd.client)
            },
        );
        let stores: Vec<String> = FILTERED_STORES.iter().map(|name| format!("{name:?}")).collect();
        format!(
            r#"cluster = "demo"
data_dir = {data}
[connect]
coordinator = "http://{coordinator}"
router = "http://{router}"
producer = "http://{producer}"
[coordinator]
{store}
lease_ttl = "3s"
[ingestors.{INGESTOR}]
source = {{ type = "cosmos-files", dir = {node}, rescan = "50ms" }}
[sinks.lake]
type = "file"
root = {files}
[sinks.hooks]
type = "webhook"
[streams.all]
sink = "lake"
ingestor = "{INGESTOR}"
from = "earliest"
file = {{ format = "cosmos" }}
batch = {{ wait = "50ms" }}
[streams.filtered]
sink = "lake"
ingestor = "{INGESTOR}"
from = "earliest"
filter = {{ stores = [{stores}] }}
file = {{ format = "cosmos", output_metadata = false }}
batch = {{ wait = "50ms" }}
[streams.{WEBHOOK_STREAM}]
sink = "hooks"
ingestor = "{INGESTOR}"
from = "earliest"
filter = {{ stores = ["{WEBHOOK_STORE}"] }}
webhook = {{ url = "http://{receiver}/" }}
batch = {{ events = {WEBHOOK_BATCH}, wait = "50ms" }}
checkpoint = "0s"
"#,
            data = quoted(&self.dir.join("data")),
            coordinator = self.api("coordinator"),
            router = self.api("router"),
            producer = self.api("producer"),
            node = quoted(&self.node),
            files = quoted(&self.dir.join("files")),
            stores = stores.join(", "),
            receiver = self.receiver,
        )
    }
}

/// True if the program `etcd` can be started.
async fn has_etcd() -> bool {
    let mut etcd = tokio::process::Command::new("etcd");
    etcd.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    etcd.status().await.is_ok_and(|status| status.success())
}

/// Ports of the loopback that nobody uses. All are held until the last is known, so that no two
/// are the same.
async fn free_ports(number: usize) -> Result<Vec<u16>, Failure> {
    let mut held = Vec::with_capacity(number);
    for _ in 0..number {
        held.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?);
    }
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_configuration_is_one() {
        for layout in [Layout::Processes, Layout::One] {
            let dir = tempfile::tempdir().unwrap();
            let plan = Plan::new(dir.path(), layout).await.unwrap();
            let sources = sluice_config::Sources {
                file: Some(plan.config.clone()),
                ..sluice_config::Sources::default()
            };
            let config = sluice_config::load(&sources).unwrap();
            crate::node::check(&config).unwrap();
            assert_eq!(config.streams.len(), 3);
            assert_eq!(config.connect.router, format!("http://{}", plan.api("router")));
        }
    }
}
