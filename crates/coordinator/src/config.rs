//! What a coordinator needs to know, and how it comes out of the configuration file.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use sluice_config::{Coordinator as Section, Etcd, Store};
use sluice_coordination::{BudgetOptions, CompactionOptions, EtcdOptions, EtcdTls, Options};

use crate::error::BuildError;

/// The prefix of every key, unless the configuration names another.
const ROOT: &str = "/sluice";

/// What keeps the locks, commits and checkpoints.
#[derive(Clone, Debug)]
pub enum StoreOptions {
    /// A directory of this process.
    Embedded(PathBuf),
    /// Nothing that outlives this process; for tests and trials.
    Memory,
    /// An etcd cluster.
    Etcd(EtcdOptions),
}

/// What a coordinator is built from.
#[derive(Clone, Debug)]
pub struct CoordinatorOptions {
    /// The store.
    pub store: StoreOptions,
    /// The prefix of every key in the store.
    pub root: String,
    /// What a session gets that does not say how long it should last.
    pub lease_ttl: Duration,
    /// How many commits and checkpoints are written.
    pub write_budget: BudgetOptions,
    /// Entries that the trail of each ingestor keeps.
    pub audit_entries: u64,
    /// How much history the store keeps.
    pub compaction: CompactionOptions,
}

impl CoordinatorOptions {
    /// The defaults over a store.
    pub fn new(store: StoreOptions) -> Self {
        Self {
            store,
            root: ROOT.to_owned(),
            lease_ttl: Duration::from_secs(10),
            write_budget: BudgetOptions::default(),
            audit_entries: Options::default().audit_entries,
            compaction: CompactionOptions::default(),
        }
    }

    /// What the `[coordinator]` section says. The embedded store lives in
    /// `<data_dir>/coordinator`. Certificates are read here.
    pub fn from_config(section: &Section, data_dir: &Path) -> Result<Self, BuildError> {
        let (store, root) = match (section.store, &section.etcd) {
            (Store::Embedded, _) => (StoreOptions::Embedded(data_dir.join("coordinator")), None),
            (Store::Etcd, Some(etcd)) if !etcd.endpoints.is_empty() => {
                (StoreOptions::Etcd(etcd_options(etcd)?), etcd.root.clone())
            }
            (Store::Etcd, _) => return Err(BuildError::NoEndpoints),
        };
        let write_budget =
            BudgetOptions { writes_per_second: section.write_budget, ..BudgetOptions::default() };
        Ok(Self {
            root: root.unwrap_or_else(|| ROOT.to_owned()),
            lease_ttl: section.lease_ttl.get(),
            write_budget,
            ..Self::new(store)
        })
    }

    pub(crate) fn recipe(&self) -> Options {
        Options {
            root: self.root.clone(),
            budget: self.write_budget,
            audit_entries: self.audit_entries,
            ..Options::default()
        }
    }
}

fn etcd_options(section: &Etcd) -> Result<EtcdOptions, BuildError> {
    let mut options = EtcdOptions::new(section.endpoints.clone());
    options.user = match (&section.user, &section.password) {
        (Some(name), Some(password)) => Some((name.clone(), secret(password)?)),
        (None, None) => None,
        _ => return Err(BuildError::HalfUser),
    };
    let identity = match (&section.cert, &section.key) {
        (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
        (None, None) => None,
        _ => return Err(BuildError::HalfIdentity),
    };
    let ca = section.ca.as_deref().map(read).transpose()?;
    let secure = section.endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
    options.tls = secure.then_some(EtcdTls { ca, identity, domain: None });
    Ok(options)
}

fn secret(password: &sluice_config::Secret) -> Result<String, BuildError> {
    password.resolve().map_err(|error| BuildError::Secret(error.to_string()))
}

fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    std::fs::read(path)
        .map_err(|error| BuildError::File { path: path.display().to_string(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_is_the_default_and_lives_in_the_data_directory() {
        let options =
            CoordinatorOptions::from_config(&Section::default(), Path::new("/data")).unwrap();
        assert!(
            matches!(options.store, StoreOptions::Embedded(path) if path == Path::new("/data/coordinator"))
        );
        assert_eq!(options.lease_ttl, Duration::from_secs(10));
        assert_eq!(options.write_budget.writes_per_second, 500);
    }

    #[test]
    fn etcd_needs_endpoints_and_whole_credentials() {
        let section = |etcd| Section { store: Store::Etcd, etcd, ..Section::default() };
        let build = |etcd| CoordinatorOptions::from_config(&section(etcd), Path::new("/data"));
        assert!(matches!(build(None), Err(BuildError::NoEndpoints)));
        assert!(matches!(build(Some(Etcd::default())), Err(BuildError::NoEndpoints)));
        let endpoints = vec!["http://127.0.0.1:2379".to_owned()];
        let half =
            Etcd { endpoints: endpoints.clone(), user: Some("me".into()), ..Etcd::default() };
        assert!(matches!(build(Some(half)), Err(BuildError::HalfUser)));
        let missing = Etcd {
            endpoints: endpoints.clone(),
            ca: Some("/does/not/exist.pem".into()),
            ..Etcd::default()
        };
        let error = build(Some(missing)).unwrap_err();
        assert!(error.to_string().contains("/does/not/exist.pem"), "{error}");
        let named = Etcd { endpoints, root: Some("/ours".into()), ..Etcd::default() };
        assert_eq!(build(Some(named)).unwrap().root, "/ours");
    }
}
