use std::{net::SocketAddr, path::PathBuf, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::{ServiceBuilder, limit::GlobalConcurrencyLimitLayer, load_shed::LoadShedLayer};
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    BoxError, Error, Shutdown,
    admin::{self, Ready},
    observe::Observe,
    transport::{CONNECTION_WINDOW, FRAME_SIZE, STREAM_WINDOW},
};

/// Calls whose answer has not begun, at most; more are refused at once. Streams count until
/// their head only; their owners bound them.
const MAX_PENDING_CALLS: usize = 4096;

/// One service: what it answers, and what it does besides.
#[async_trait]
pub trait Service: Send {
    /// Its name in logs and errors.
    fn name(&self) -> &'static str;

    /// Its gRPC services.
    fn routes(&self) -> Routes;

    /// The full names of its gRPC services, for health.
    fn grpc_names(&self) -> Vec<&'static str>;

    /// Works until the shutdown is asked for, then drains and returns. Open calls of the
    /// service must end by then. An error stops the whole process.
    async fn run(self: Box<Self>, shutdown: Shutdown) -> Result<(), BoxError>;
}

/// Where to listen. Port 0 takes a free one.
#[derive(Clone, Debug)]
pub struct Listen {
    /// The services.
    pub api: SocketAddr,
    /// Health and metrics, plaintext.
    pub admin: SocketAddr,
    /// Certificates for the API; without them it is plaintext.
    pub tls: Option<TlsFiles>,
}

/// PEM files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Our certificate and what signed it.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority that the other side must show.
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    pub(crate) fn read(&self, path: &PathBuf) -> Result<Vec<u8>, Error> {
        std::fs::read(path)
            .map_err(|error| Error::Tls { path: path.clone(), reason: error.to_string() })
    }
}

/// Where a process really listens.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The services.
    pub api: SocketAddr,
    /// Health and metrics.
    pub admin: SocketAddr,
}

/// Runs services until the shutdown is asked for or one of them fails.
///
/// `services` come in order of dependency: each may use those before it, and they are stopped
/// from the last to the first. `bound` is told the addresses once both listeners are open.
pub async fn serve(
    services: Vec<Box<dyn Service>>,
    listen: Listen,
    bound: Option<oneshot::Sender<Bound>>,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let (api, admin) = (bind("api", listen.api).await?, bind("admin", listen.admin).await?);
    let addresses = Bound { api: address("api", &api)?, admin: address("admin", &admin)? };
    let (health, health_service) = tonic_health::server::health_reporter();
    let names: Vec<&'static str> =
        services.iter().flat_map(|service| service.grpc_names()).chain([""]).collect();
    set_health(&health, &names, ServingStatus::NotServing).await;

    let routes = services
        .iter()
        .fold(axum::Router::new(), |all, service| all.merge(mergeable(service.routes())));
    let closing = CancellationToken::new();
    let ready = Ready::default();
    let beside = Routes::new(health_service.clone()).add_service(reflection()?);
    let api = tokio::spawn(serve_api(api, listen.tls, routes, beside, closing.clone()));
    let admin_routes = admin::router(ready.clone()).merge(mergeable(Routes::new(health_service)));
    let admin = tokio::spawn(serve_admin(admin, admin_routes, closing.clone()));

    let running: Vec<Running> =
        services.into_iter().map(|s| Running::start(s, &shutdown)).collect();
    ready.set(true);
    set_health(&health, &names, ServingStatus::Serving).await;
    tracing::info!(api = %addresses.api, admin = %addresses.admin, "listening");
    if let Some(bound) = bound {
        // Nobody may be interested any more.
        bound.send(addresses).ok();
    }

    shutdown.token().cancelled().await;
    ready.set(false);
    set_health(&health, &names, ServingStatus::NotServing).await;
    let ended = stop_all(running, shutdown.grace()).await;
    shutdown.drained().await;
    closing.cancel();
    let closed = close_listeners(api, admin, shutdown.grace()).await;
    ended.and(closed)
}

/// A service at work.
struct Running {
    name: &'static str,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), BoxError>>,
}

impl Running {
    /// Starts a service. Its end, however it comes, stops the process.
    fn start(service: Box<dyn Service>, process: &Shutdown) -> Self {
        let (name, shutdown, process) = (service.name(), process.separate(), process.clone());
        let own = shutdown.clone();
        let task = tokio::spawn(async move {
            let ended = std::panic::AssertUnwindSafe(service.run(own)).catch_unwind().await;
            process.stop();
            ended.unwrap_or_else(|_| Err("it panicked; see the log above".into()))
        });
        Self { name, shutdown, task }
    }

    async fn stop(self, grace: Duration) -> Result<(), Error> {
        self.shutdown.stop();
        let abort = self.task.abort_handle();
        let ended = match tokio::time::timeout(grace, self.task).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                abort.abort();
                Err("it did not stop within the grace and was dropped".into())
            }
        };
        self.shutdown.drained().await;
        ended.map_err(|error| Error::Service { service: self.name, error })
    }
}

/// Stops the last first: what a service needs for draining is still there. Gives the first error.
async fn stop_all(running: Vec<Running>, grace: Duration) -> Result<(), Error> {
    let mut result = Ok(());
    for service in running.into_iter().rev() {
        let ended = service.stop(grace).await;
        if let Err(error) = &ended {
            tracing::error!(%error, "stopped badly");
        }
        result = ended.and(result);
    }
    result
}

async fn bind(door: &'static str, address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|error| Error::Bind {
        door,
        address,
        reason: error.to_string(),
    })
}

fn address(door: &'static str, listener: &TcpListener) -> Result<SocketAddr, Error> {
    listener.local_addr().map_err(|error| Error::Listener { door, reason: error.to_string() })
}

async fn set_health(health: &HealthReporter, names: &[&'static str], status: ServingStatus) {
    for name in names {
        health.set_service_status(*name, status).await;
    }
}

fn reflection() -> Result<
    tonic_reflection::server::v1::ServerReflectionServer<
        impl tonic_reflection::server::v1::ServerReflection,
    >,
    Error,
> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(sluice_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| Error::Listener { door: "api", reason: error.to_string() })
}

async fn serve_api(
    listener: TcpListener,
    tls: Option<TlsFiles>,
    routes: axum::Router,
    beside: Routes,
    closing: CancellationToken,
) -> Result<(), Error> {
    let failed = |reason: String| Error::Listener { door: "api", reason };
    let mut server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)));
    if let Some(tls) = tls {
        let error = |error: tonic::transport::Error| failed(error.to_string());
        server = server.tls_config(server_tls(&tls)?).map_err(error)?;
    }
    // Health and reflection stand beside the limits: a probe must not be shed.
    let limited = routes.layer(
        ServiceBuilder::new()
            .layer(axum::error_handling::HandleErrorLayer::new(shed))
            .layer(LoadShedLayer::new())
            .layer(GlobalConcurrencyLimitLayer::new(MAX_PENDING_CALLS)),
    );
    let all = limited.merge(mergeable(beside)).fallback(unknown_method);
    server
        .layer(CatchPanicLayer::new())
        .layer(Observe::new())
        .add_routes(Routes::from(all))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), closing.cancelled_owned())
        .await
        .map_err(|error| failed(error.to_string()))
}

/// The routes without the answer to unknown paths, which one router can give only once.
fn mergeable(routes: Routes) -> axum::Router {
    routes.into_axum_router().reset_fallback()
}

async fn unknown_method(uri: http::Uri) -> http::Response<axum::body::Body> {
    let path = uri.path();
    tonic::Status::unimplemented(format!("{path} is not answered here; see sluice status"))
        .into_http()
}

/// What a shed call is told.
async fn shed(_: BoxError) -> http::Response<axum::body::Body> {
    tonic::Status::resource_exhausted("too many calls at once; try again").into_http()
}

fn server_tls(tls: &TlsFiles) -> Result<ServerTlsConfig, Error> {
    let identity = Identity::from_pem(tls.read(&tls.cert)?, tls.read(&tls.key)?);
    let config = ServerTlsConfig::new().identity(identity);
    Ok(match &tls.client_ca {
        Some(ca) => config.client_ca_root(Certificate::from_pem(tls.read(ca)?)),
        None => config,
    })
}

async fn serve_admin(
    listener: TcpListener,
    routes: axum::Router,
    closing: CancellationToken,
) -> Result<(), Error> {
    axum::serve(listener, routes)
        .with_graceful_shutdown(closing.cancelled_owned())
        .await
        .map_err(|error| Error::Listener { door: "admin", reason: error.to_string() })
}

async fn close_listeners(
    api: JoinHandle<Result<(), Error>>,
    admin: JoinHandle<Result<(), Error>>,
    grace: Duration,
) -> Result<(), Error> {
    let aborts = [api.abort_handle(), admin.abort_handle()];
    let both = async { (api.await, admin.await) };
    match tokio::time::timeout(grace.min(Duration::from_secs(5)), both).await {
        Ok((api, admin)) => api.unwrap_or(Ok(())).and(admin.unwrap_or(Ok(()))),
        Err(_) => {
            // Idle connections of clients that do not hang up; every call has ended.
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
            Ok(())
        }
    }
}
