use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt};
use sluice_journal::Open;
use sluice_model::{Epoch, Generation, IngestorName};
use sluice_proto::{
    MAX_MESSAGE, convert,
    reason::{self, status},
    v1::{self as pb, router_server::Router},
};
use sluice_service::Messages;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{app::Shared, append, catalog, digests, error, subscribe};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

/// Translates calls; decides nothing.
#[derive(Debug)]
pub(crate) struct Grpc {
    shared: Arc<Shared>,
}

impl Grpc {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

fn name(text: &str) -> Result<IngestorName, Status> {
    Ok(subscribe::ingestor(text)?)
}

#[tonic::async_trait]
impl Router for Grpc {
    type AppendStream = Answers<pb::AppendResponse>;
    type SubscribeStream = Answers<pb::SubscribeResponse>;
    type BlockDigestsStream = Answers<pb::BlockDigestsResponse>;

    async fn create(
        &self,
        request: Request<pb::CreateRequest>,
    ) -> Result<Response<pb::CreateResponse>, Status> {
        let request = request.into_inner();
        let ingestor = name(&request.ingestor)?;
        let id = convert::journal_id(&request.journal_id)?;
        self.shared.journal.create(&ingestor, id).await.map_err(|e| error::journal(&e))?;
        Ok(Response::new(pb::CreateResponse {}))
    }

    async fn open(
        &self,
        request: Request<pb::OpenRequest>,
    ) -> Result<Response<pb::OpenResponse>, Status> {
        let request = request.into_inner();
        let open = Open {
            ingestor: name(&request.ingestor)?,
            id: convert::journal_id(&request.journal_id)?,
            epoch: Epoch::from_u64(request.epoch),
            nonce: request.nonce,
            holder: request.holder,
        };
        let ingestor = open.ingestor.clone();
        let opened = self.shared.journal.open(open).await.map_err(|e| error::journal(&e))?;
        self.shared.writers.opened(&ingestor, opened.writer);
        Ok(Response::new(pb::OpenResponse {
            writer_id: opened.writer_id,
            head: opened.head.as_ref().map(Into::into),
            max_change_bytes: sluice_frame::MAX_CHANGE as u64,
        }))
    }

    async fn append(
        &self,
        mut request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let mut inbound = Messages::<pb::AppendRequest>::of(&mut request, MAX_MESSAGE)?;
        let first = inbound.next().await.transpose()?.and_then(|first| first.message);
        let Some(pb::append_request::Message::Start(start)) = first else {
            return Err(status(
                Code::InvalidArgument,
                reason::INVALID,
                "start: the first message of an append stream must be it",
            ));
        };
        let ingestor = name(&start.ingestor)?;
        let claimed = self.shared.writers.claim(&ingestor, start.writer_id)?;
        let answers = append::serve(Arc::clone(&self.shared), ingestor, claimed, inbound);
        Ok(Response::new(answers.boxed()))
    }

    async fn subscribe(
        &self,
        request: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = subscribe::Request::try_from(request.into_inner())?;
        let messages = subscribe::open(Arc::clone(&self.shared), request).await?;
        Ok(Response::new(messages.boxed()))
    }

    async fn block_digests(
        &self,
        request: Request<pb::BlockDigestsRequest>,
    ) -> Result<Response<Self::BlockDigestsStream>, Status> {
        let messages = digests::open(Arc::clone(&self.shared), request.into_inner()).await?;
        Ok(Response::new(messages.boxed()))
    }

    async fn head(
        &self,
        request: Request<pb::HeadRequest>,
    ) -> Result<Response<pb::HeadResponse>, Status> {
        let ingestor = name(&request.into_inner().ingestor)?;
        let journal = catalog::status(&self.shared, &ingestor).await?;
        Ok(Response::new(pb::HeadResponse { journal: Some(journal) }))
    }

    async fn block(
        &self,
        request: Request<pb::BlockRequest>,
    ) -> Result<Response<pb::BlockResponse>, Status> {
        let request = request.into_inner();
        let ingestor = name(&request.ingestor)?;
        let pointer = convert::pointer("pointer", request.pointer)?;
        let newest = request.generation.map(Generation);
        let block = catalog::block(&self.shared, &ingestor, &pointer, newest).await?;
        Ok(Response::new(pb::BlockResponse { block }))
    }

    async fn list_journals(
        &self,
        _request: Request<pb::ListJournalsRequest>,
    ) -> Result<Response<pb::ListJournalsResponse>, Status> {
        let journals = catalog::list(&self.shared).await?;
        Ok(Response::new(pb::ListJournalsResponse { journals }))
    }

    async fn test_filter(
        &self,
        request: Request<pb::TestFilterRequest>,
    ) -> Result<Response<pb::TestFilterResponse>, Status> {
        let request = request.into_inner();
        let ingestor = name(&request.ingestor)?;
        let filter = Arc::new(subscribe::filter(request.filter)?);
        let answer = catalog::test_filter(&self.shared, &ingestor, filter, request.blocks).await?;
        Ok(Response::new(answer))
    }
}
