//! The way to a running service, and what to say when there is none.

mod access;

use std::{future::Future, time::Duration};

use sluice_model::IngestorName;
use sluice_proto::{MAX_MESSAGE, v1 as pb};
use sluice_service::{TlsFiles, Transport, transport};
use tonic::{Code, Response, Status};

pub(crate) use access::{Access, Peer};

use crate::exit::{Exit, Failure};

/// How long a single question may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A service's address and the transport to it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    url: String,
    transport: Transport,
}

impl Server {
    /// The service at an address; does no I/O.
    pub(crate) fn new(url: &str) -> Result<Self, Failure> {
        Self::with(url, None)
    }

    /// The same with certificates, which https needs and plaintext must not have.
    fn with(url: &str, tls: Option<&TlsFiles>) -> Result<Self, Failure> {
        let transport = match tls {
            Some(tls) => transport::remote_tls(url, tls),
            None if url.starts_with("https://") => return Err(without_certificates(url)),
            None => transport::remote(url),
        };
        let transport = transport.map_err(|error| Failure::usage(error.to_string()))?;
        Ok(Self { url: url.to_owned(), transport })
    }

    /// The address.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The transport, for clients of the SDK.
    pub(crate) fn transport(&self) -> Transport {
        self.transport.clone()
    }

    /// A client of the router.
    pub(crate) fn router(&self) -> pb::router_client::RouterClient<Transport> {
        pb::router_client::RouterClient::new(self.transport())
            .max_decoding_message_size(MAX_MESSAGE)
    }

    /// A client of the producer.
    pub(crate) fn producer(&self) -> pb::producer_client::ProducerClient<Transport> {
        pb::producer_client::ProducerClient::new(self.transport())
    }

    /// A client of the sinks.
    pub(crate) fn sink(&self) -> pb::sink_client::SinkClient<Transport> {
        pb::sink_client::SinkClient::new(self.transport())
    }

    /// A client of the coordinator.
    pub(crate) fn coordinator(&self) -> pb::coordinator_client::CoordinatorClient<Transport> {
        pb::coordinator_client::CoordinatorClient::new(self.transport())
    }

    /// Asks one question, and turns silence and refusals into failures that say what to do.
    pub(crate) async fn ask<T>(
        &self,
        question: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(PATIENCE, question).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.explain(&status)),
            Err(_) => Err(self.silent(&format!("no answer within {PATIENCE:?}"))),
        }
    }

    /// The same; where the answer is a refusal, `fix` is the command that shows or fixes it.
    pub(crate) async fn ask_or<T>(
        &self,
        question: impl Future<Output = Result<Response<T>, Status>>,
        fix: &str,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(PATIENCE, question).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => match Failure::from(&status) {
                refusal if refusal.exit() == Exit::Refused => Err(refusal.fix(fix)),
                _ => Err(self.explain(&status)),
            },
            Err(_) => Err(self.silent(&format!("no answer within {PATIENCE:?}"))),
        }
    }

    /// What a status of this server means.
    pub(crate) fn explain(&self, status: &Status) -> Failure {
        if status.code() == Code::Unimplemented {
            let message = format!("{} is another kind of service and cannot tell", self.url);
            return Failure::new(Exit::NotFound, message)
                .fix("the same command with --server and the right service's address");
        }
        let failure = Failure::from(status);
        match failure.exit() {
            Exit::Unreachable => self.silent(&root_cause(status)),
            Exit::NotFound => failure.fix(format!("sluice ingestors list --server {}", self.url)),
            _ => failure.fix(format!("sluice status --server {}", self.url)),
        }
    }

    /// Nothing answers at this address.
    pub(crate) fn silent(&self, cause: &str) -> Failure {
        let message = format!("nothing answers at {}: {cause}", self.url);
        Failure::new(Exit::Unreachable, message)
            .fix("sluice run   (or name the address of a running service with --server URL)")
    }

    /// The head and bounds of an ingestor's journal.
    pub(crate) async fn journal(
        &self,
        ingestor: &IngestorName,
    ) -> Result<pb::JournalStatus, Failure> {
        let mut router = self.router();
        let request = pb::HeadRequest { ingestor: ingestor.to_string() };
        let response = self.ask(router.head(request)).await?;
        response.journal.ok_or_else(|| {
            Failure::new(Exit::Failed, format!("{} answered without a journal", self.url))
                .fix(format!("sluice status --server {}", self.url))
        })
    }
}

fn without_certificates(url: &str) -> Failure {
    Failure::usage(format!("{url} needs certificates")).fix(
        "the same command with --tls-ca, --tls-cert and --tls-key, or with --config FILE that has \
         [security.tls]",
    )
}

/// The innermost error behind a status, which names the address and the system's words.
fn root_cause(status: &Status) -> String {
    let mut error: &dyn std::error::Error = status;
    while let Some(source) = error.source() {
        error = source;
    }
    match std::ptr::eq(error, std::ptr::from_ref::<Status>(status) as *const dyn std::error::Error)
    {
        true => status.message().to_owned(),
        false => error.to_string(),
    }
}
