//! How messages are put into the connection's buffer.

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Bytes a buffer begins with.
const BUFFER: usize = 8 << 10;
/// Messages that are ready together leave together, up to so many bytes: each departure wakes the
/// other side, which costs more than the bytes do.
const TOGETHER: usize = 512 << 10;

/// Protobuf, with larger departures than gRPC libraries make by default.
#[derive(Debug, Default)]
pub struct Protobuf<T, U>(ProstCodec<T, U>);

impl<T, U> Codec for Protobuf<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::new(BUFFER, TOGETHER))
    }

    fn decoder(&mut self) -> Self::Decoder {
        self.0.decoder()
    }
}
