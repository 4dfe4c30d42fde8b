//! The services as commands: everything at once, or one.

mod screen;

use std::{io::IsTerminal, time::Duration};

use sluice_config::Config;
use sluice_service::{Bound, Service, Shutdown};
use sluice_telemetry::TelemetryOptions;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{ConfigArgs, ReceiverAt, RunArgs, SinkArgs},
    cmd::config,
    exit::{Exit, Failure, Outcome},
    node::{self, GRACE},
    output::{BARS, count, note},
    receiver::{self, Receiver},
};

/// Which service a process is.
#[derive(Debug)]
pub(crate) enum One<'a> {
    Coordinator(&'a ConfigArgs),
    Router(&'a ConfigArgs),
    Producer(&'a ConfigArgs),
    Sink(&'a SinkArgs),
}

impl One<'_> {
    const fn config(&self) -> &ConfigArgs {
        match self {
            Self::Coordinator(args) | Self::Router(args) | Self::Producer(args) => args,
            Self::Sink(args) => &args.config,
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Coordinator(_) => "coordinator",
            Self::Router(_) => "router",
            Self::Producer(_) => "producer",
            Self::Sink(_) => "sink",
        }
    }

    async fn build(&self, config: &Config) -> Result<Box<dyn Service>, Failure> {
        Ok(match self {
            Self::Coordinator(_) => Box::new(node::coordinator(config).await?),
            Self::Router(_) => Box::new(node::router_alone(config).await?),
            Self::Producer(_) => Box::new(node::producer(config, &node::connect(config)?)?),
            Self::Sink(args) => {
                let names = std::slice::from_ref(&args.name);
                Box::new(node::sinks(config, names, &node::connect(config)?)?)
            }
        })
    }
}

/// One service in this process.
pub(crate) async fn one(which: &One<'_>, verbose: u8) -> Outcome {
    let config = config::load(which.config())?;
    let guard = telemetry(which.name(), &config, verbose, false)?;
    let shutdown = Shutdown::on_signals(GRACE)?;
    let service = which.build(&config).await?;
    let (bound, addresses) = oneshot::channel();
    let name = which.name();
    tokio::spawn(async move {
        if let Ok(Bound { api, admin }) = addresses.await {
            note(format!("{name}: api http://{api}, admin http://{admin}"));
        }
    });
    let served =
        sluice_service::serve(vec![service], node::listen(&config), Some(bound), shutdown).await;
    guard.shutdown();
    served?;
    note(format!("{name}: drained"));
    Ok(Exit::Ok)
}

/// Everything in this process.
pub(crate) async fn run(args: &RunArgs, verbose: u8) -> Outcome {
    let config = config::load(&args.config)?;
    let guard = telemetry("run", &config, verbose, true)?;
    let shutdown = Shutdown::on_signals(GRACE)?;
    let receiver = match &args.with_receiver {
        Some(at) => Some(WithReceiver::start(at).await?),
        None => None,
    };
    let node::All { services, producer, sinks, account } = node::all(&config).await?;
    let (bound, addresses) = oneshot::channel();
    let told = config.clone();
    let listening = receiver.as_ref().map(|receiver| receiver.told.clone());
    let stop = shutdown.token();
    let telling = tokio::spawn(async move {
        if let Ok(bound) = addresses.await {
            screen::announce(&told, bound, listening.as_deref());
            tokio::select! {
                () = stop.cancelled() => {}
                () = screen::show_progress(producer, sinks) => stop.cancelled().await,
            }
            screen::stopping();
        }
    });
    let served =
        sluice_service::serve(services, node::listen(&config), Some(bound), shutdown).await;
    // Ended by the same stop; where nothing ever listened there was nothing to tell.
    telling.abort();
    if let Some(receiver) = receiver {
        receiver.stop().await;
    }
    guard.shutdown();
    served?;
    last_line(&config, &account)
}

/// The true numbers of the drain.
fn last_line(config: &Config, account: &node::Account) -> Outcome {
    let verify = format!("sluice journal verify --dir {}", config.journal_dir().display());
    let Some(tally) = account.get() else {
        return Err(Failure::new(Exit::Failed, "stopped, but not drained to the end").fix(verify));
    };
    let text = format!(
        "drained, {} lost: {} blocks and {} changes captured, {} events delivered",
        count(tally.lost),
        count(tally.blocks),
        count(tally.changes),
        count(tally.events)
    );
    if tally.lost > 0 {
        return Err(Failure::new(Exit::Data, text).fix(verify));
    }
    note(text);
    Ok(Exit::Ok)
}

fn telemetry(
    service: &str,
    config: &Config,
    verbose: u8,
    screen: bool,
) -> Result<sluice_telemetry::Guard, Failure> {
    // On a terminal the lines of `run` are for people; what the log says of itself would bury them.
    let quiet = screen && std::io::stderr().is_terminal() && config.telemetry.log == "info";
    let log = match verbose {
        0 if quiet => "warn".to_owned(),
        0 => config.telemetry.log.clone(),
        1 => "info".to_owned(),
        _ => "info,sluice=debug".to_owned(),
    };
    sluice_telemetry::log_around(|line| BARS.suspend(line));
    let options = TelemetryOptions { log, otlp: config.telemetry.otlp.clone() };
    sluice_telemetry::init(service, &options)
        .map_err(|error| Failure::usage(error.to_string()).fix(config::SHOW_ALL))
}

/// The bundled receiver beside the services.
struct WithReceiver {
    receiver: Receiver,
    told: String,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<Result<(), Failure>>,
}

impl WithReceiver {
    async fn start(at: &ReceiverAt) -> Result<Self, Failure> {
        let receiver = Receiver::open(&at.file, 0.0)?;
        let listener = receiver::listen(at.listen).await?;
        let address = listener.local_addr()?;
        let told = format!("  receiver http://{address}/ writes {}", at.file.display());
        let stop = CancellationToken::new();
        let serving = tokio::spawn(receiver.clone().serve(listener, stop.clone()));
        Ok(Self { receiver, told, stop, serving })
    }

    /// Stops after the sinks have.
    async fn stop(self) {
        self.stop.cancel();
        if tokio::time::timeout(Duration::from_secs(1), self.serving).await.is_err() {
            tracing::debug!("a connection to the receiver stayed open");
        }
        let stats = self.receiver.stats();
        note(format!(
            "received: {} events, {} repeated, {} out of order, {} holes",
            count(stats.distinct),
            count(stats.repeated),
            count(stats.disordered),
            count(stats.holes)
        ));
    }
}
