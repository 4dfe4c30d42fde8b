use std::sync::Arc;

use sluice_journal::ReadFrom;
use sluice_model::{Filter, FilterSpec, IngestorName, StartPosition};
use sluice_proto::{
    convert::{self, ConvertError},
    v1 as pb,
};

/// A subscription that was understood.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) ingestor: IngestorName,
    pub(crate) filter: Arc<Filter>,
    pub(crate) from: ReadFrom,
    pub(crate) until: Option<u64>,
    pub(crate) metadata: bool,
    /// Largest frame that the subscriber takes, in bytes.
    pub(crate) max_frame: Option<u64>,
}

/// Reads and compiles a filter; an absent one lets everything through.
pub(crate) fn filter(filter: Option<pb::Filter>) -> Result<Filter, ConvertError> {
    let spec = filter.map(FilterSpec::try_from).transpose()?.unwrap_or_default();
    Filter::compile(&spec).map_err(|error| ConvertError::new("filter", error))
}

/// Reads a name.
pub(crate) fn ingestor(name: &str) -> Result<IngestorName, ConvertError> {
    name.parse().map_err(|error| ConvertError::new("ingestor", error))
}

impl TryFrom<pb::SubscribeRequest> for Request {
    type Error = ConvertError;

    fn try_from(request: pb::SubscribeRequest) -> Result<Self, ConvertError> {
        let ingestor = ingestor(&request.ingestor)?;
        let filter = Arc::new(filter(request.filter)?);
        let (start, digest) = convert::start(request.start)?;
        let until = request.until_height;
        if let (StartPosition::Height(start), Some(until)) = (&start, until)
            && until < *start
        {
            return Err(ConvertError::new(
                "until_height",
                format!("{until} lies before the start height {start}"),
            ));
        }
        let from = match start {
            StartPosition::Earliest => ReadFrom::Earliest,
            StartPosition::Latest => ReadFrom::Latest,
            StartPosition::Height(height) => ReadFrom::Height(height),
            StartPosition::Time(nanos) => ReadFrom::Time(nanos),
            StartPosition::After(id) => ReadFrom::After(id.into_position(), digest),
        };
        let max_frame = Some(request.max_frame_bytes).filter(|max| *max > 0);
        Ok(Self { ingestor, filter, from, until, metadata: request.metadata, max_frame })
    }
}
