//! The store of any number of coordinators: an etcd cluster, version 3.4 or later.
//!
//! Reads, writes and watches, and lease renewals have a connection each, so that a congested
//! one does not starve the others. Connections come back by themselves. The server's own lock
//! and election calls are never used: they report ownership to a waiter whose lease has ended.

mod convert;

use std::{fmt, future::Future, time::Duration};

use async_trait::async_trait;
use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, Identity, LeaseGrantOptions, TlsOptions,
    WatchOptions,
};
use futures_util::{StreamExt, stream};

use crate::kv::{Kv, KvError, LeaseId, Range, Revision, Txn, TxnAnswer, Watch};

/// Where the cluster is and how to talk to it.
#[derive(Clone)]
pub struct EtcdOptions {
    /// `http://host:2379` or `https://host:2379`, one or more.
    pub endpoints: Vec<String>,
    /// User name and password, if the cluster asks for them.
    pub user: Option<(String, String)>,
    /// Certificates, for https.
    pub tls: Option<EtcdTls>,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long a read or write may take; then its outcome is unknown.
    pub timeout: Duration,
    /// How long a lease renewal may take. Well below a third of the shortest lease.
    pub renew_timeout: Duration,
}

/// Certificates in PEM.
#[derive(Clone, Default)]
pub struct EtcdTls {
    /// The authority that signed the servers' certificates.
    pub ca: Option<Vec<u8>>,
    /// Our certificate and its key, where the servers ask for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in the servers' certificates, if it is not the endpoint's.
    pub domain: Option<String>,
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdTls").field("domain", &self.domain).finish_non_exhaustive()
    }
}

impl EtcdOptions {
    /// Plain endpoints with the default timeouts.
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            user: None,
            tls: None,
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(5),
            renew_timeout: Duration::from_secs(2),
        }
    }
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("tls", &self.tls.is_some())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// [`Kv`] over etcd. Cheap to clone.
#[derive(Clone)]
pub struct EtcdKv {
    data: Client,
    renew: Client,
    watch: Client,
    options: EtcdOptions,
}

impl fmt::Debug for EtcdKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdKv").field("options", &self.options).finish_non_exhaustive()
    }
}

impl EtcdKv {
    /// Makes the connections. With a user this asks the cluster for a token; without, it does
    /// not wait for the cluster to be there.
    pub async fn connect(options: EtcdOptions) -> Result<Self, KvError> {
        let client = |connect: ConnectOptions| {
            let endpoints = options.endpoints.clone();
            async move {
                Client::connect(endpoints, Some(connect))
                    .await
                    .map_err(|error| convert::read_error(&error))
            }
        };
        let common = connect_options(&options);
        Ok(Self {
            data: client(common.clone()).await?,
            renew: client(common.clone()).await?,
            watch: client(common).await?,
            options,
        })
    }

    /// A call that changes nothing.
    async fn read<T>(
        &self,
        call: impl Future<Output = Result<T, etcd_client::Error>> + Send,
    ) -> Result<T, KvError> {
        match tokio::time::timeout(self.options.timeout, call).await {
            Ok(answer) => answer.map_err(|error| convert::read_error(&error)),
            Err(_) => Err(KvError::Unavailable(self.late())),
        }
    }

    /// A call that may have taken effect when it fails.
    async fn write<T>(
        &self,
        call: impl Future<Output = Result<T, etcd_client::Error>> + Send,
    ) -> Result<T, KvError> {
        match tokio::time::timeout(self.options.timeout, call).await {
            Ok(answer) => answer.map_err(|error| convert::write_error(&error)),
            Err(_) => Err(KvError::Unknown(self.late())),
        }
    }

    fn late(&self) -> String {
        format!(
            "no answer from {} within {:?}",
            self.options.endpoints.join(", "),
            self.options.timeout
        )
    }
}

fn connect_options(options: &EtcdOptions) -> ConnectOptions {
    // No timeout here: it would end watches too.
    let mut connect = ConnectOptions::new()
        .with_connect_timeout(options.connect_timeout)
        .with_keep_alive(Duration::from_secs(3), Duration::from_secs(3))
        .with_keep_alive_while_idle(true)
        // Without it a member cut off from the others, which we reach, keeps calls for as long as
        // they have, and a watch for ever; with it, it refuses them, and another one is tried.
        .with_require_leader(true)
        .with_auto_token_refresh(options.user.is_some());
    if let Some((name, password)) = &options.user {
        connect = connect.with_user(name, password);
    }
    if let Some(tls) = &options.tls {
        let mut config = TlsOptions::new();
        if let Some(ca) = &tls.ca {
            config = config.ca_certificate(Certificate::from_pem(ca));
        }
        if let Some((certificate, key)) = &tls.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(domain) = &tls.domain {
            config = config.domain_name(domain);
        }
        connect = connect.with_tls(config);
    }
    connect
}

#[async_trait]
impl Kv for EtcdKv {
    async fn range(&self, prefix: &str, limit: usize) -> Result<Range, KvError> {
        let mut client = self.data.kv_client();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let options = GetOptions::new().with_prefix().with_limit(limit);
        let answer = self.read(client.get(prefix, Some(options))).await?;
        convert::range(&answer)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, KvError> {
        let mut client = self.data.kv_client();
        let reads = convert::only_reads(&txn);
        let lease = convert::lease_of(&txn);
        let call = client.txn(convert::txn(&txn));
        let answer = if reads { self.read(call).await } else { self.write(call).await };
        let answer = answer.map_err(|error| match (error, lease) {
            (KvError::LeaseNotFound(0), Some(lease)) => KvError::LeaseNotFound(lease),
            (other, _) => other,
        })?;
        convert::txn_answer(&txn, &answer)
    }

    async fn grant(&self, lease: LeaseId, ttl: Duration) -> Result<Duration, KvError> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let id = convert::lease_id(lease)?;
        if seconds == 0 {
            return Err(KvError::Invalid("a lease of no duration".to_owned()));
        }
        let mut client = self.renew.lease_client();
        let options = LeaseGrantOptions::new().with_id(id);
        match self.write(client.grant(seconds, Some(options))).await {
            Ok(answer) => Ok(convert::seconds(answer.ttl())),
            Err(KvError::Invalid(message)) if message.contains("lease already exists") => {
                let left = self.keep_alive(lease).await?;
                if left.is_zero() { Err(KvError::LeaseNotFound(lease)) } else { Ok(left) }
            }
            Err(error) => Err(error),
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, KvError> {
        let id = convert::lease_id(lease)?;
        let mut client = self.renew.lease_client();
        // The client library keeps the first answer of a stream to itself; the second one says
        // how long the lease lives. Callers count from before both.
        let call = async {
            let (mut keeper, mut answers) = client.keep_alive(id).await?;
            keeper.keep_alive().await?;
            Ok(answers.message().await?.map_or(0, |answer| answer.ttl()))
        };
        let answer = tokio::time::timeout(self.options.renew_timeout, call).await;
        match answer {
            Ok(Ok(ttl)) => Ok(convert::seconds(ttl)),
            Ok(Err(error)) if convert::is_lease_gone(&error) => Ok(Duration::ZERO),
            Ok(Err(error)) => Err(convert::write_error(&error)),
            Err(_) => Err(KvError::Unknown(format!(
                "lease not renewed within {:?}",
                self.options.renew_timeout
            ))),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), KvError> {
        let mut client = self.renew.lease_client();
        match self.write(client.revoke(convert::lease_id(lease)?)).await {
            Ok(_) | Err(KvError::LeaseNotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, KvError> {
        let mut client = self.renew.lease_client();
        let id = convert::lease_id(lease)?;
        let answer = self.read(client.time_to_live(id, None)).await?;
        Ok((answer.ttl() >= 0).then(|| convert::seconds(answer.ttl())))
    }

    async fn watch(&self, key: &str, from: Revision) -> Result<Watch, KvError> {
        let mut client = self.watch.watch_client();
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        let options = WatchOptions::new().with_start_revision(from);
        let watch = self.read(client.watch(key, Some(options))).await?;
        let events = stream::unfold(Some(watch), |watch| async move {
            let mut watch = watch?;
            loop {
                match convert::watched(watch.message().await) {
                    Ok(None) => {}
                    Ok(Some(events)) => return Some((Ok(events), Some(watch))),
                    Err(error) => return Some((Err(error), None)),
                }
            }
        });
        Ok(events.boxed())
    }

    async fn compact(&self, revision: Revision) -> Result<(), KvError> {
        let mut client = self.data.kv_client();
        let revision = i64::try_from(revision).unwrap_or(i64::MAX);
        match self.write(client.compact(revision, None)).await {
            Ok(_) | Err(KvError::Compacted { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn status(&self) -> Result<(Revision, u64), KvError> {
        let mut client = self.data.maintenance_client();
        let answer = self.read(client.status()).await?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok((convert::revision(revision), answer.db_size().unsigned_abs()))
    }
}
