//! The naive way, over the same journal and the same transport: decode every frame, decide every
//! change on its own, encode what is left.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, stream};
use prost::Message as _;
use sluice_frame::{Frame, WireFrame};
use sluice_journal::{Item, Journal, ReadFrom, Select, Stored};
use sluice_model::{Filter, FilterSpec, Op};
use sluice_proto::v1::{self as pb, router_server::Router, subscribe_response::Message};
use tonic::{Request, Response, Status, Streaming};

use super::data;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(crate) struct Naive {
    journal: Arc<dyn Journal>,
}

impl Naive {
    pub(crate) const fn new(journal: Arc<dyn Journal>) -> Self {
        Self { journal }
    }
}

/// What of a frame passes.
fn filtered(filter: &Filter, stored: &Stored) -> Option<WireFrame> {
    let frame = Frame { header: stored.header.as_ref().clone(), changes: stored.changes.clone() };
    let mut decoded = pb::Frame::decode(frame.encode()).unwrap();
    decoded.changes.retain(|change| {
        let op = if change.delete { Op::Delete } else { Op::Set };
        filter.matches_route(&change.store_key, "")
            && filter.matches_change(&change.store_key, op, &change.key)
    });
    (!decoded.changes.is_empty())
        .then(|| WireFrame::from(bytes::Bytes::from(decoded.encode_to_vec())))
}

#[tonic::async_trait]
impl Router for Naive {
    type AppendStream = Answers<pb::AppendResponse>;
    type SubscribeStream = Answers<pb::SubscribeResponse>;
    type BlockDigestsStream = Answers<pb::BlockDigestsResponse>;

    async fn subscribe(
        &self,
        request: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let request = request.into_inner();
        let spec = FilterSpec::try_from(request.filter.unwrap_or_default())?;
        let filter = Filter::compile(&spec).map_err(|e| Status::invalid_argument(e.to_string()))?;
        // It has no index: it reads everything.
        let everything = FilterSpec { stores: vec!["*".into()], ..FilterSpec::default() };
        let everything =
            Arc::new(Filter::compile(&everything).map_err(|e| Status::internal(e.to_string()))?);
        let reader = self
            .journal
            .read(&data::ingestor(), ReadFrom::Earliest, Select::from(everything))
            .await
            .map_err(|e| Status::internal(e.to_string()))?;
        let until = request.until_height.unwrap_or(u64::MAX);
        let messages =
            stream::unfold((reader, filter, false), move |(mut reader, filter, end)| async move {
                if end {
                    return None;
                }
                loop {
                    let Ok(Item::Entry(stored)) = reader.next().await else { continue };
                    let end = stored.header.height >= until;
                    match filtered(&filter, &stored) {
                        Some(wire) => {
                            return Some((Ok(Message::Frame(wire).into()), (reader, filter, end)));
                        }
                        None if end => return None,
                        None => tokio::task::yield_now().await,
                    }
                }
            });
        Ok(Response::new(messages.boxed()))
    }

    async fn create(
        &self,
        _: Request<pb::CreateRequest>,
    ) -> Result<Response<pb::CreateResponse>, Status> {
        Err(Status::unimplemented("only subscribes"))
    }

    async fn open(
        &self,
        _: Request<pb::OpenRequest>,
    ) -> Result<Response<pb::OpenResponse>, Status> {
        Err(Status::unimplemented("only subscribes"))
    }

    async fn append(
        &self,
        _: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        Err(Status::unimplemented("only subscribes"))
    }

    async fn block_digests(
        &self,
        _: Request<pb::BlockDigestsRequest>,
    ) -> Result<Response<Self::BlockDigestsStream>, Status> {
        Err(Status::unimplemented("only subscribes"))
    }

    async fn head(
        &self,
        _: Request<pb::HeadRequest>,
    ) -> Result<Response<pb::HeadResponse>, Status> {
        Err(Status::unimplemented("only subscribes"))
    }

    async fn block(
        &self,
        _: Request<pb::BlockRequest>,
    ) -> Result<Response<pb::BlockResponse>, Status> {
        Err(Status::unimplemented("only subscribes"))
    }

    async fn list_journals(
        &self,
        _: Request<pb::ListJournalsRequest>,
    ) -> Result<Response<pb::ListJournalsResponse>, Status> {
        Err(Status::unimplemented("only subscribes"))
    }

    async fn test_filter(
        &self,
        _: Request<pb::TestFilterRequest>,
    ) -> Result<Response<pb::TestFilterResponse>, Status> {
        Err(Status::unimplemented("only subscribes"))
    }
}
