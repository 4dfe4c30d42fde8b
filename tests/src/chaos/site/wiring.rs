//! Starts the processes, each with its way to the others.

use std::path::Path;

use super::{COORDINATORS, LEASE, PRODUCERS, Plan};
use crate::{
    chaos::{INGESTOR, clock::Clock, hosts},
    disk::SmallDisk,
    etcd_cluster::Cluster,
    process::Process,
    proxy::Proxy,
};

/// What was started.
pub(super) struct Wired {
    pub(super) producers: Vec<Process>,
    pub(super) router: Process,
    pub(super) coordinators: Vec<Process>,
    pub(super) etcd: Cluster,
    /// Where the program finds the producers.
    pub(super) doors: Vec<String>,
    pub(super) capture: Vec<Proxy>,
    pub(super) to_coordinator: Vec<Proxy>,
    pub(super) to_router: Vec<Proxy>,
    pub(super) to_etcd: Vec<Vec<Proxy>>,
}

impl Wired {
    /// Starts etcd first, the producers last.
    pub(super) async fn start(
        dir: &Path,
        plan: &Plan,
        disk: Option<&SmallDisk>,
        clock: Option<&Clock>,
    ) -> Self {
        let config = config(dir, plan);
        let service = |kind: &str, at: usize, disk: &[String]| {
            let name = format!("{kind}-{at}");
            let process = Process::new(&name, dir, &[kind, "--config", &config]);
            let before = [disk, &launcher(plan, clock)].concat();
            match &plan.network {
                None => process.behind(&before),
                Some(network) => {
                    let host = network.host(hosts::number(kind, at));
                    let before = [host.launcher(), before].concat();
                    process.behind(&before).at(host.address(), hosts::DOOR)
                }
            }
        };
        let this = Self {
            etcd: match &plan.network {
                None => Cluster::start(dir).await,
                Some(network) => {
                    let members = hosts::ETCD.map(|number| network.host(number));
                    Cluster::start_on(dir, members, hosts::DOOR).await
                }
            },
            coordinators: (0..COORDINATORS).map(|at| service("coordinator", at, &[])).collect(),
            router: service("router", 0, disk.map_or(&[], SmallDisk::launcher)),
            producers: (0..PRODUCERS).map(|at| service("producer", at, &[])).collect(),
            doors: Vec::new(),
            capture: Vec::new(),
            to_coordinator: Vec::new(),
            to_router: Vec::new(),
            to_etcd: Vec::new(),
        };
        match &plan.network {
            None => this.through_proxies().await,
            Some(_) => this.on_hosts().await,
        }
    }

    async fn through_proxies(mut self) -> Self {
        for coordinator in &mut self.coordinators {
            let mut links = Vec::new();
            for port in self.etcd.ports() {
                links.push(Proxy::start(vec![port]).await);
            }
            coordinator.start(&endpoints(links.iter().map(Proxy::url))).await;
            self.to_etcd.push(links);
        }
        let url = self.coordinators[0].url();
        self.router.start(&set("connect.coordinator", &url)).await;
        for (at, producer) in self.producers.iter_mut().enumerate() {
            // Each prefers another coordinator.
            let mut ports: Vec<u16> = self.coordinators.iter().map(|one| one.api).collect();
            ports.rotate_left(at % COORDINATORS);
            let to_coordinator = Proxy::start(ports).await;
            let to_router = Proxy::start(vec![self.router.api]).await;
            let capture = Proxy::start(vec![producer.api]).await;
            let urls = [to_coordinator.url(), to_router.url(), capture.url()];
            producer.start(&connect(urls)).await;
            self.doors.push(capture.url());
            self.capture.push(capture);
            self.to_coordinator.push(to_coordinator);
            self.to_router.push(to_router);
        }
        self
    }

    async fn on_hosts(mut self) -> Self {
        for coordinator in &mut self.coordinators {
            coordinator.start(&endpoints(self.etcd.urls())).await;
        }
        // Each prefers another coordinator: the name stands for both.
        let both = format!("http://{}:{}", hosts::COORDINATORS_NAME, hosts::DOOR);
        let url = self.coordinators[0].url();
        self.router.start(&set("connect.coordinator", &url)).await;
        for producer in &mut self.producers {
            let urls = [both.clone(), self.router.url(), producer.url()];
            producer.start(&connect(urls)).await;
            self.doors.push(producer.url());
        }
        self
    }
}

fn endpoints(urls: impl IntoIterator<Item = String>) -> Vec<String> {
    let urls: Vec<String> = urls.into_iter().map(|url| format!("{url:?}")).collect();
    vec!["--set".to_owned(), format!("coordinator.etcd.endpoints=[{}]", urls.join(","))]
}

/// Where a producer finds a coordinator and the router, and where others find it.
fn connect([coordinator, router, own]: [String; 3]) -> Vec<String> {
    [
        set("connect.coordinator", &coordinator),
        set("connect.router", &router),
        set("connect.advertise", &own),
    ]
    .concat()
}

fn set(key: &str, value: &str) -> Vec<String> {
    vec!["--set".to_owned(), format!("{key}={value}")]
}

/// What stands before the program: its clock, another build of it.
fn launcher(plan: &Plan, clock: Option<&Clock>) -> Vec<String> {
    let mut launcher: Vec<String> = clock.map(Clock::launcher).into_iter().flatten().collect();
    if let Some(program) = &plan.program {
        // The program given comes instead of the one that follows.
        let exec = format!("exec '{}' \"$@\"", program.display());
        launcher.extend(["sh".to_owned(), "-c".to_owned(), exec]);
    }
    launcher
}

fn config(dir: &Path, plan: &Plan) -> String {
    let journal = match plan.recycle {
        true => "segment_bytes = \"128KiB\"\nretention = { bytes = \"512KiB\" }",
        false => "segment_bytes = \"4MiB\"",
    };
    let text = format!(
        r#"
cluster = "chaos"
data_dir = "{data}"
[security]
insecure = {hosts}
[ingestors.{INGESTOR}]
source = {{ type = "capture" }}
[journal]
dir = "{small}"
{journal}
[coordinator]
store = "etcd"
lease_ttl = "{lease}s"
[coordinator.etcd]
endpoints = ["http://127.0.0.1:1"]
"#,
        data = dir.join("data").display(),
        hosts = plan.network.is_some(),
        small = dir.join("journal").display(),
        lease = LEASE.as_secs(),
    );
    let path = dir.join("sluice.toml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}
