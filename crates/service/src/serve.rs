use std::{net::SocketAddr, time::Duration};

use async_trait::async_trait;
use futures_util::{FutureExt, TryFutureExt};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::{ServiceBuilder, limit::GlobalConcurrencyLimitLayer, load_shed::LoadShedLayer};
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    BoxError, Error, Shutdown,
    admin::{self, Ready},
    lanes::Lanes,
    observe::{Observe, panicked},
    tls::TlsFiles,
    transport::{CONNECTION_WINDOW, FRAME_SIZE, STREAM_WINDOW},
};

/// Calls whose answer has not begun, at most; more are refused at once. Streams count until
/// their head only; their owners bound them.
const MAX_PENDING_CALLS: usize = 4096;

/// Calls open on one connection, at most; without it a client could open any number. A process has
/// one connection to each peer, with a stream for each of its ingestors or event streams, and what
/// is above the limit waits in the client without a word: hence far above what anybody runs.
const MAX_CALLS_PER_CONNECTION: u32 = 4096;

/// What a service gets for draining even if those before it took all the time.
const LEAST_GRACE: Duration = Duration::from_secs(1);

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

/// Where a process really listens.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The services.
    pub api: SocketAddr,
    /// Health and metrics.
    pub admin: SocketAddr,
}

/// Runs services until the shutdown is asked for, or one of them or a listener ends.
///
/// `services` come in order of dependency: each may use those before it, and they are stopped
/// from the last to the first. `bound` is told the addresses once both listeners are open and
/// every service runs.
///
/// # Errors
/// An address or certificate that cannot be used, before anything runs; the first service or
/// listener that failed, after everything else was stopped.
pub async fn serve(
    services: Vec<Box<dyn Service>>,
    listen: Listen,
    bound: Option<oneshot::Sender<Bound>>,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let server = server(listen.tls.as_ref())?;
    let (api, admin) = (bind("api", listen.api).await?, bind("admin", listen.admin).await?);
    let addresses = Bound { api: address("api", &api)?, admin: address("admin", &admin)? };
    let (health, health_service) = tonic_health::server::health_reporter();
    let names = services.iter().flat_map(|service| service.grpc_names()).chain([""]).collect();
    let state = State { ready: Ready::default(), health, names };
    state.set(false).await;

    let routes = services
        .iter()
        .fold(axum::Router::new(), |all, service| all.merge(mergeable(service.routes())));
    let beside = Routes::new(health_service.clone()).add_service(reflection()?);
    let closing = CancellationToken::new();
    let api = serve_api(server, api, with_limits(routes).merge(mergeable(beside)), closing.clone());
    let admin_routes =
        admin::router(state.ready.clone()).merge(mergeable(Routes::new(health_service)));
    let admin = serve_admin(admin, admin_routes, closing.clone());
    let listeners = [ends(api, &shutdown), ends(admin, &shutdown)];

    let running: Vec<Running> =
        services.into_iter().map(|s| Running::start(s, &shutdown)).collect();
    state.set(true).await;
    tracing::info!(api = %addresses.api, admin = %addresses.admin, "listening");
    if let Some(bound) = bound {
        // Nobody may be interested any more.
        bound.send(addresses).ok();
    }

    shutdown.token().cancelled().await;
    state.set(false).await;
    let deadline = Deadline(Instant::now() + shutdown.grace());
    let ended = stop_all(running, &deadline).await;
    shutdown.drained_within(deadline.left()).await;
    closing.cancel();
    ended.and(close_listeners(listeners, &deadline).await)
}

/// Whether the process takes work, as probes see it.
struct State {
    ready: Ready,
    health: HealthReporter,
    names: Vec<&'static str>,
}

impl State {
    /// The narrower answer comes first on stop and last on start.
    async fn set(&self, ready: bool) {
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        if !ready {
            self.ready.set(false);
        }
        for name in &self.names {
            self.health.set_service_status(*name, status).await;
        }
        if ready {
            self.ready.set(true);
        }
    }
}

/// The end of the time for stopping, which all services share.
struct Deadline(Instant);

impl Deadline {
    /// What is left, but never nothing: a service must not be dropped unasked because another
    /// one took all the time.
    fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now()).max(LEAST_GRACE)
    }
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
        let (name, shutdown) = (service.name(), process.separate());
        let own = shutdown.clone();
        let run = async move {
            let ended = std::panic::AssertUnwindSafe(service.run(own)).catch_unwind().await;
            ended.unwrap_or_else(|_| Err("it panicked; see the log above".into()))
        };
        Self { name, shutdown, task: ends(run, process) }
    }

    async fn stop(self, grace: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + grace;
        self.shutdown.stop();
        let abort = self.task.abort_handle();
        let ended = match tokio::time::timeout_at(deadline, self.task).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                abort.abort();
                Err("it did not stop within the grace and was dropped".into())
            }
        };
        self.shutdown.drained_within(deadline.saturating_duration_since(Instant::now())).await;
        ended.map_err(|error| Error::Service { service: self.name, error })
    }
}

/// Spawns what must not end before the process: its end, however it comes, asks for the stop.
fn ends<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
    process: &Shutdown,
) -> JoinHandle<T> {
    let process = process.clone();
    tokio::spawn(async move {
        let ended = task.await;
        process.stop();
        ended
    })
}

/// Stops the last first: what a service needs for draining is still there. Gives the first error.
async fn stop_all(running: Vec<Running>, deadline: &Deadline) -> Result<(), Error> {
    let mut result = Ok(());
    for service in running.into_iter().rev() {
        let ended = service.stop(deadline.left()).await;
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

/// A server as every service sets it up, for measurements that bring listeners of their own.
pub fn http2() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .max_concurrent_streams(MAX_CALLS_PER_CONNECTION)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
}

/// It comes before the listeners: a certificate that cannot be used must stop the start, not the
/// first call.
fn server(tls: Option<&TlsFiles>) -> Result<Server, Error> {
    match tls {
        None => Ok(http2()),
        Some(tls) => http2()
            .tls_config(tls.server()?)
            .map_err(|error| Error::Tls { path: tls.cert.clone(), reason: error.to_string() }),
    }
}

/// Sheds what is too much at once, so that nothing waits in a queue that nobody sees. Health and
/// reflection stand beside this: a probe must not be shed.
fn with_limits(routes: axum::Router) -> axum::Router {
    routes.layer(
        ServiceBuilder::new()
            .layer(axum::error_handling::HandleErrorLayer::new(shed))
            .layer(LoadShedLayer::new())
            .layer(GlobalConcurrencyLimitLayer::new(MAX_PENDING_CALLS)),
    )
}

async fn serve_api(
    server: Server,
    listener: TcpListener,
    routes: axum::Router,
    closing: CancellationToken,
) -> Result<(), Error> {
    let routes = Routes::from(routes.fallback(unknown_method));
    let lanes = Lanes::start(|incoming| {
        let served = server
            .clone()
            .layer(Observe::new())
            .layer(CatchPanicLayer::custom(panicked))
            .add_routes(routes.clone())
            .serve_with_incoming_shutdown(incoming, closing.clone().cancelled_owned());
        served.map_err(|error| Error::Listener { door: "api", reason: error.to_string() })
    })?;
    lanes.accept(listener, closing).await
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
    listeners: [JoinHandle<Result<(), Error>>; 2],
    deadline: &Deadline,
) -> Result<(), Error> {
    let aborts = listeners.each_ref().map(JoinHandle::abort_handle);
    let both = futures_util::future::join_all(listeners);
    match tokio::time::timeout(deadline.left().min(Duration::from_secs(5)), both).await {
        Ok(ended) => ended.into_iter().try_for_each(|listener| {
            listener.map_err(|error| Error::Listener {
                door: "api or admin",
                reason: error.to_string(),
            })?
        }),
        Err(_) => {
            // Idle connections of clients that do not hang up; every call has ended.
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
            Ok(())
        }
    }
}
