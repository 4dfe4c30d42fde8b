//! Which address and which certificates: from the flags, from a configuration, or the default.

use std::path::Path;

use sluice_config::{Config, Connect};
use sluice_service::TlsFiles;

use super::Server;
use crate::{
    cli::{ConfigArgs, Global},
    cmd::config,
    exit::Failure,
    node,
};

/// Where `sluice run` listens if nobody says otherwise.
const DEFAULT: &str = "http://127.0.0.1:7400";

/// Which service a command talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Coordinator,
    Router,
    Producer,
    Sink,
}

/// What a client knows about the services before it talks to one.
#[derive(Debug)]
pub(crate) struct Access {
    server: Option<String>,
    file: Option<File>,
    tls: Option<TlsFiles>,
    /// The certificates were asked for by flags: plaintext would be a surprise.
    secure: bool,
}

/// What the configuration says.
#[derive(Debug)]
struct File {
    shown: String,
    config: Config,
}

impl Access {
    /// Reads the configuration if one is named.
    pub(crate) fn new(global: &Global, sets: &[String]) -> Result<Self, Failure> {
        let file = match &global.config {
            None => None,
            Some(path) => {
                let args = ConfigArgs { config: Some(path.clone()), sets: sets.to_vec() };
                Some(File { shown: path.display().to_string(), config: config::load(&args)? })
            }
        };
        let of_file = file.as_ref().and_then(|file| node::certificates(&file.config));
        let flags = certificates(global)?;
        let secure = flags.is_some();
        Ok(Self { server: global.server.clone(), tls: flags.or(of_file), secure, file })
    }

    /// The service at an address, with our certificates where it is https.
    pub(crate) fn server(&self, url: &str) -> Result<Server, Failure> {
        let secure = self.secure || url.starts_with("https://");
        Server::with(url, self.tls.as_ref().filter(|_| secure))
    }

    /// The service of a kind: what --server says, what the file says, or the default.
    pub(crate) fn at(&self, peer: Peer) -> Result<Server, Failure> {
        if let Some(url) = &self.server {
            return self.server(url);
        }
        let Some(file) = &self.file else { return self.server(DEFAULT) };
        let connect = &file.config.connect;
        let url = match peer {
            _ if !is_spread(connect) => return self.server(&listening(&file.config)),
            Peer::Coordinator => &connect.coordinator,
            Peer::Router => &connect.router,
            Peer::Producer => &connect.producer,
            Peer::Sink => {
                let message = format!("{} does not say where its sinks are", file.shown);
                return Err(Failure::usage(message).fix(
                    "the same command with --server URL   (sluice status --config FILE lists them)",
                ));
            }
        };
        self.server(url)
    }

    /// The configuration, if it names services at addresses of their own and no flag is stronger.
    pub(crate) fn spread(&self) -> Option<&Config> {
        let config = self.file.as_ref().map(|file| &file.config)?;
        (self.server.is_none() && is_spread(&config.connect)).then_some(config)
    }

    /// What starts a service, in full.
    pub(crate) fn start(&self, service: &str) -> String {
        match &self.file {
            Some(file) => format!("sluice {service} --config {}", quoted(&file.shown)),
            None => format!("sluice {service}"),
        }
    }
}

/// True unless everything is left to `sluice run`, which needs no addresses of others.
fn is_spread(connect: &Connect) -> bool {
    let none = Connect::default();
    (&connect.coordinator, &connect.router, &connect.producer)
        != (&none.coordinator, &none.router, &none.producer)
}

/// Where a process with this configuration is reached from the same machine.
fn listening(config: &Config) -> String {
    let scheme = if config.security.tls.is_some() { "https" } else { "http" };
    let mut address = config.listen.api;
    if address.ip().is_unspecified() {
        let loopback: std::net::IpAddr = if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        };
        address.set_ip(loopback);
    }
    format!("{scheme}://{address}")
}

/// All three files, or none.
fn certificates(global: &Global) -> Result<Option<TlsFiles>, Failure> {
    match (&global.tls_ca, &global.tls_cert, &global.tls_key) {
        (None, None, None) => Ok(None),
        (Some(ca), Some(cert), Some(key)) => {
            Ok(Some(TlsFiles { cert: cert.clone(), key: key.clone(), client_ca: Some(ca.clone()) }))
        }
        (ca, cert, key) => {
            let given = [("--tls-ca", ca), ("--tls-cert", cert), ("--tls-key", key)];
            let missing: Vec<_> =
                given.iter().filter(|(_, file)| file.is_none()).map(|(flag, _)| *flag).collect();
            let message = format!("{} missing: TLS needs all three files", missing.join(" and "));
            Err(Failure::usage(message)
                .fix("the same command with --tls-ca, --tls-cert and --tls-key"))
        }
    }
}

/// A path as a shell takes it.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@,".contains(c);
    if !path.is_empty() && path.chars().all(plain) && !Path::new(path).starts_with("-") {
        return path.to_owned();
    }
    format!("'{}'", path.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn access(flags: &[&str]) -> Result<Access, Failure> {
        let line = ["sluice", "status"].into_iter().chain(flags.iter().copied());
        Access::new(&Cli::try_parse_from(line).unwrap().global, &[])
    }

    fn with_file(text: &str, flags: &[&str]) -> Access {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().to_str().unwrap();
        access(&[&["--config", path], flags].concat()).unwrap()
    }

    fn url(access: &Access, peer: Peer) -> String {
        access.at(peer).unwrap().url().to_owned()
    }

    #[tokio::test]
    async fn a_flag_is_stronger_than_the_file_and_the_file_than_the_default() {
        assert_eq!(url(&access(&[]).unwrap(), Peer::Sink), DEFAULT);
        let spread = "connect = { router = \"http://127.0.0.1:7\" }";
        let from_file = with_file(spread, &[]);
        assert_eq!(url(&from_file, Peer::Router), "http://127.0.0.1:7");
        assert_eq!(url(&from_file, Peer::Producer), DEFAULT);
        assert!(from_file.spread().is_some());
        assert!(from_file.at(Peer::Sink).unwrap_err().to_string().contains("--server"));
        let stronger = with_file(spread, &["--server", "http://127.0.0.1:9"]);
        assert_eq!(url(&stronger, Peer::Router), "http://127.0.0.1:9");
        assert!(stronger.spread().is_none());
        let one = with_file("listen = { api = \"127.0.0.1:7500\" }", &[]);
        assert_eq!(url(&one, Peer::Sink), "http://127.0.0.1:7500");
        assert!(one.spread().is_none());
    }

    #[test]
    fn certificates_come_together_or_not_at_all() {
        let some = access(&["--tls-ca", "ca.crt", "--tls-key", "k"]).unwrap_err().to_string();
        assert!(some.starts_with("--tls-cert missing"), "{some}");
        let none = access(&[]).unwrap().server("https://h:1").unwrap_err().to_string();
        assert!(none.contains("--tls-ca") && none.contains("security.tls"), "{none}");
        let all = ["--tls-ca", "/no/ca", "--tls-cert", "/no/cert", "--tls-key", "/no/key"];
        let unreadable = access(&all).unwrap().server("https://h:1").unwrap_err().to_string();
        assert!(unreadable.contains("/no/"), "{unreadable}");
        let plain = access(&all).unwrap().server("http://h:1").unwrap_err().to_string();
        assert!(plain.contains("plaintext"), "{plain}");
    }

    #[test]
    fn a_command_to_run_can_be_pasted() {
        assert_eq!(quoted("deploy/example.toml"), "deploy/example.toml");
        assert_eq!(quoted("it's here"), "'it'\\''s here'");
    }
}
