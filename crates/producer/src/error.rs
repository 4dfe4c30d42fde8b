use sluice_model::{IngestorName, filter::FilterError};

use crate::source::registry::BuildError;

/// Why a producer cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A source's table.
    #[error(transparent)]
    Source(#[from] BuildError),
    /// An ingestor's `stores`.
    #[error("ingestors.{ingestor}.stores: {source}")]
    Stores {
        /// The ingestor.
        ingestor: IngestorName,
        /// What is wrong.
        source: FilterError,
    },
}
