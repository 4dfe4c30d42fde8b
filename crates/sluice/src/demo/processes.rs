//! The processes of a demo: started, killed without warning, started again, stopped in order.

use std::{
    fs::OpenOptions,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use super::plan::{Etcd, Plan, Planned};
use crate::exit::{Exit, Failure, on_path};

/// How long a process gets to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Everything that runs. Whatever is left is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Processes {
    program: PathBuf,
    logs: PathBuf,
    config: PathBuf,
    etcd: Option<Child>,
    services: Vec<(Planned, Child)>,
}

impl Processes {
    /// Starts everything and waits until each listens.
    pub(crate) async fn start(plan: &Plan) -> Result<Self, Failure> {
        let mut all = Self {
            program: std::env::current_exe()?,
            logs: plan.dir.join("logs"),
            config: plan.config.clone(),
            etcd: None,
            services: Vec::new(),
        };
        if let Some(etcd) = &plan.etcd {
            let mut command = etcd_command(etcd, &plan.dir.join("etcd"));
            let mut child = all.spawn("etcd", &mut command)?;
            listens("etcd", etcd.client, &mut child).await?;
            all.etcd = Some(child);
        }
        for planned in &plan.processes {
            let child = all.service(planned)?;
            all.services.push((planned.clone(), child));
        }
        for (planned, child) in &mut all.services {
            listens(planned.name, planned.api, child).await?;
        }
        Ok(all)
    }

    /// The services in the order in which they are killed: what others depend on comes neither
    /// first nor last.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.services.iter().map(|(planned, _)| planned.name).collect();
        if names.len() > 2 {
            names.rotate_left(2);
        }
        names
    }

    /// SIGKILL, and nothing else; returns when the process is gone.
    pub(crate) async fn kill(&mut self, name: &str) -> Result<(), Failure> {
        let (_, child) = self.find(name)?;
        child.kill().await.map_err(|error| Failure::from(error).context(name))
    }

    /// Starts a service that was killed. It may take a while to listen.
    pub(crate) fn start_again(&mut self, name: &str) -> Result<(), Failure> {
        let planned = self.find(name)?.0.clone();
        let child = self.service(&planned)?;
        self.find(name)?.1 = child;
        Ok(())
    }

    /// Asks every service to drain, those that depend on others first; then etcd.
    pub(crate) async fn stop(&mut self) {
        while let Some((planned, mut child)) = self.services.pop() {
            end(planned.name, &mut child).await;
        }
        if let Some(mut etcd) = self.etcd.take() {
            end("etcd", &mut etcd).await;
        }
    }

    fn find(&mut self, name: &str) -> Result<&mut (Planned, Child), Failure> {
        let found = self.services.iter_mut().find(|(planned, _)| planned.name == name);
        found.ok_or_else(|| Failure::new(Exit::Failed, format!("no process {name}")))
    }

    fn service(&self, planned: &Planned) -> Result<Child, Failure> {
        let mut command = Command::new(&self.program);
        command
            .args(&planned.args)
            .arg("--config")
            .arg(&self.config)
            .arg("--set")
            .arg(format!("listen.api={}", planned.api))
            .arg("--set")
            .arg(format!("listen.admin={}", planned.admin));
        self.spawn(planned.name, &mut command)
    }

    fn spawn(&self, name: &str, command: &mut Command) -> Result<Child, Failure> {
        let path = self.logs.join(format!("{name}.log"));
        let log =
            OpenOptions::new().append(true).create(true).open(&path).map_err(on_path(&path))?;
        let second = log.try_clone().map_err(on_path(&path))?;
        command.stdin(Stdio::null()).stdout(log).stderr(second).kill_on_drop(true);
        command.spawn().map_err(|error| Failure::from(error).context(name))
    }
}

fn etcd_command(etcd: &Etcd, data: &std::path::Path) -> Command {
    let (client, peer) = (format!("http://{}", etcd.client), format!("http://{}", etcd.peer));
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(data).args([
        "--name",
        "demo",
        "--listen-client-urls",
        &client,
        "--advertise-client-urls",
        &client,
        "--listen-peer-urls",
        &peer,
        "--initial-advertise-peer-urls",
        &peer,
        "--initial-cluster",
        &format!("demo={peer}"),
    ]);
    command
}

/// Waits until a process accepts connections; fails at once if it ends instead.
async fn listens(
    name: &str,
    address: std::net::SocketAddr,
    child: &mut Child,
) -> Result<(), Failure> {
    let began = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        if let Some(status) = child.try_wait()? {
            return Err(Failure::new(Exit::Failed, format!("{name} ended at its start: {status}")));
        }
        if began.elapsed() > PATIENCE {
            let message = format!("{name} did not listen on {address} within {PATIENCE:?}");
            return Err(Failure::new(Exit::Failed, message));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// SIGTERM, then patience, then SIGKILL.
async fn end(name: &str, child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok())
        && let Some(pid) = rustix::process::Pid::from_raw(pid)
        && rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok()
        && tokio::time::timeout(PATIENCE, child.wait()).await.is_ok()
    {
        return;
    }
    if let Err(error) = child.kill().await {
        tracing::debug!(name, %error, "was gone already");
    }
}
