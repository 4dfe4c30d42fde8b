//! Builds a coordinator and runs it.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use sluice_coordination::{Compactor, Coordination, EmbeddedKv, EtcdKv, Kv};
use sluice_proto::v1::coordinator_server::CoordinatorServer;
use sluice_service::{BoxError, Service, Shutdown};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    config::{CoordinatorOptions, StoreOptions},
    error::BuildError,
    grpc::Api,
    metrics::Metrics,
    upkeep,
};

/// A coordinator, ready to serve.
pub struct Coordinator {
    coordination: Coordination,
    compactor: Compactor,
    metrics: Metrics,
    api: Api,
    /// Kept to give the directory back at the end.
    embedded: Option<EmbeddedKv>,
    /// Ends the open lock streams.
    closing: CancellationToken,
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator")
            .field("coordination", &self.coordination)
            .finish_non_exhaustive()
    }
}

impl Coordinator {
    /// Opens the store. Must be called inside a tokio runtime.
    pub async fn build(options: CoordinatorOptions) -> Result<Self, BuildError> {
        let (kv, embedded): (Arc<dyn Kv>, _) = match &options.store {
            StoreOptions::Embedded(directory) => {
                let kv = EmbeddedKv::open(directory).await?;
                (Arc::new(kv.clone()), Some(kv))
            }
            StoreOptions::Memory => {
                let kv = EmbeddedKv::in_memory();
                (Arc::new(kv.clone()), Some(kv))
            }
            StoreOptions::Etcd(etcd) => (Arc::new(EtcdKv::connect(etcd.clone()).await?), None),
        };
        Ok(Self { embedded, ..Self::over(kv, &options) })
    }

    /// Over a store that somebody else opened.
    pub fn over(kv: Arc<dyn Kv>, options: &CoordinatorOptions) -> Self {
        let coordination = Coordination::new(Arc::clone(&kv), &options.recipe());
        let (metrics, closing) = (Metrics::new(), CancellationToken::new());
        let api =
            Api::new(coordination.clone(), metrics.clone(), options.lease_ttl, closing.clone());
        let compactor = Compactor::new(kv, options.compaction);
        Self { coordination, compactor, metrics, api, embedded: None, closing }
    }
}

#[async_trait]
impl Service for Coordinator {
    fn name(&self) -> &'static str {
        "coordinator"
    }

    fn routes(&self) -> Routes {
        Routes::new(CoordinatorServer::new(self.api.clone()))
    }

    fn grpc_names(&self) -> Vec<&'static str> {
        vec![sluice_proto::v1::coordinator_server::SERVICE_NAME]
    }

    async fn run(self: Box<Self>, shutdown: Shutdown) -> Result<(), BoxError> {
        upkeep::run(self.coordination, self.compactor, self.metrics, shutdown.token()).await;
        // Followers of locks go to another replica, or come back; the locks are in the store.
        self.closing.cancel();
        drop(self.api);
        if let Some(embedded) = self.embedded {
            embedded.close().await;
        }
        Ok(())
    }
}
