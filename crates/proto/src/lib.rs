//! The gRPC contract of Sluice: generated code, and the conversions between wire and values.
//!
//! Two fields are raw here although the contract declares messages: `SpoolFetchResponse.frame` and
//! `CaptureRequest.changes` hold the encoded message, because it passes through undecoded.
//! [`AppendRequest`](v1::AppendRequest) and [`SubscribeResponse`](v1::SubscribeResponse) are
//! written by hand for the same reason.

mod append;
pub mod codec;
pub mod convert;
pub mod reason;
mod subscribe;
mod wire;

/// Packages of Sluice; nested as in the .proto files, because generated code names its
/// neighbours relatively.
pub mod sluice {
    /// Package `sluice.v1`.
    #[allow(missing_docs, reason = "generated; the documentation is in the .proto files")]
    pub mod v1 {
        tonic::include_proto!("sluice.v1");

        pub use crate::append::{AppendRequest, append_request};
        pub use crate::subscribe::{SubscribeResponse, subscribe_response};
    }
}

pub use self::sluice::v1;

/// Messages of the Cosmos SDK.
pub mod cosmos {
    /// Package `cosmos.store`.
    pub mod store {
        /// Package `cosmos.store.v1beta1`.
        #[allow(missing_docs, reason = "generated; the documentation is in the .proto files")]
        pub mod v1beta1 {
            tonic::include_proto!("cosmos.store.v1beta1");
        }
    }
}

/// The public contract as a descriptor set, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sluice.bin"));

/// Largest message on any of our connections, in bytes: a whole frame and what wraps it.
pub const MAX_MESSAGE: usize = sluice_frame::MAX_FRAME + 1024;
