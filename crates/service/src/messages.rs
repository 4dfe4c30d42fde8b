//! Requests that a handler reads itself, each message in memory of its own.
//!
//! What generated servers do is right for small messages. For large ones their buffer is copied
//! and doubled once more per message, and its memory is shared by all that it held, which whoever
//! keeps one message keeps alive. [`Messages`] copies each message once, into as many bytes as it
//! has.

use std::{
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_util::Stream;
use http_body_util::{BodyDataStream, BodyExt};
use parking_lot::Mutex;
use prost::Message;
use tonic::{Code, Request, Status, body::Body, server::NamedService};
use tower::Service;

/// Before every message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// A server with one method whose handler reads the requests by [`Messages::of`].
#[derive(Clone, Debug)]
pub struct Unread<S> {
    inner: S,
    path: &'static str,
}

/// The body of a request, on its way past the generated server.
#[derive(Clone)]
struct Kept(Arc<Mutex<Option<Body>>>);

impl<S> Unread<S> {
    /// `path` is the method's, like `/sluice.v1.Router/Append`.
    pub const fn new(inner: S, path: &'static str) -> Self {
        Self { inner, path }
    }
}

impl<S: NamedService> NamedService for Unread<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for Unread<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if request.uri().path() == self.path {
            let body = std::mem::replace(request.body_mut(), Body::empty());
            request.extensions_mut().insert(Kept(Arc::new(Mutex::new(Some(body)))));
        }
        self.inner.call(request)
    }
}

/// The messages of a request, in order. Ends after the first error.
#[derive(Debug)]
pub struct Messages<T> {
    chunks: BodyDataStream<Body>,
    /// What was received and not yet looked at.
    chunk: Bytes,
    gathering: Gathering,
    ended: bool,
    message: PhantomData<fn() -> T>,
}

impl<T> Messages<T> {
    /// Takes the messages out of a request of the method that [`Unread`] names. None may have
    /// more than `limit` bytes.
    ///
    /// # Errors
    /// The server stands without [`Unread`]; that is a defect of ours.
    pub fn of<B>(request: &mut Request<B>, limit: usize) -> Result<Self, Status> {
        let kept = request.extensions_mut().remove::<Kept>();
        let body = kept.and_then(|kept| kept.0.lock().take());
        let body =
            body.ok_or_else(|| Status::internal("the request was read before its handler"))?;
        Ok(Self {
            chunks: body.into_data_stream(),
            chunk: Bytes::new(),
            gathering: Gathering::new(limit),
            ended: false,
            message: PhantomData,
        })
    }
}

impl<T: Message + Default> Messages<T> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, Status>>> {
        loop {
            if let Some(message) = self.gathering.take(&mut self.chunk)? {
                let read = T::decode(message);
                return Poll::Ready(Some(read.map_err(|e| Status::internal(e.to_string()))));
            }
            self.chunk = match ready!(Pin::new(&mut self.chunks).poll_next(cx)) {
                Some(Ok(chunk)) => chunk,
                // The client has gone.
                Some(Err(status)) if status.code() == Code::Cancelled => return Poll::Ready(None),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(self.gathering.cut_off().map(Err)),
            };
        }
    }
}

impl<T: Message + Default> Stream for Messages<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = self.poll(cx);
        self.ended = matches!(polled, Poll::Ready(None | Some(Err(_))));
        polled
    }
}

/// A message whose bytes are coming in.
#[derive(Debug)]
struct Gathering {
    limit: usize,
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that are there.
    known: usize,
    /// Once the prefix is: the message, with room for as many bytes as it will have.
    message: Option<Vec<u8>>,
}

impl Gathering {
    const fn new(limit: usize) -> Self {
        Self { limit, prefix: [0; PREFIX], known: 0, message: None }
    }

    /// Takes bytes from the chunk until the message is whole, or the chunk used up.
    fn take(&mut self, chunk: &mut Bytes) -> Result<Option<Bytes>, Status> {
        if self.known < PREFIX {
            let new = chunk.len().min(PREFIX - self.known);
            chunk.copy_to_slice(&mut self.prefix[self.known..self.known + new]);
            self.known += new;
            if self.known < PREFIX {
                return Ok(None);
            }
            self.message = Some(Vec::with_capacity(self.length()?));
        }
        let length = self.length()?;
        let message = self.message.get_or_insert_default();
        let new = chunk.len().min(length - message.len());
        message.extend_from_slice(&chunk.split_to(new));
        if message.len() < length {
            return Ok(None);
        }
        self.known = 0;
        Ok(self.message.take().map(Bytes::from))
    }

    /// What the prefix says.
    fn length(&self) -> Result<usize, Status> {
        let [compressed, length @ ..] = self.prefix;
        if compressed != 0 {
            return Err(Status::unimplemented("the message is compressed; send it as it is"));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > self.limit {
            let limit = self.limit;
            return Err(Status::out_of_range(format!(
                "the message has {length} bytes, at most {limit} are taken"
            )));
        }
        Ok(length)
    }

    /// What is wrong if nothing more comes.
    fn cut_off(&self) -> Option<Status> {
        (self.known > 0).then(|| Status::internal("the request ends within a message"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 300;

    fn wire(messages: &[Vec<u8>]) -> Vec<u8> {
        let mut wire = Vec::new();
        for message in messages {
            wire.push(0);
            wire.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
            wire.extend_from_slice(message);
        }
        wire
    }

    /// What comes out of these chunks, and whether they end within a message.
    fn gather(chunks: &[&[u8]]) -> Result<(Vec<Bytes>, bool), Status> {
        let (mut gathering, mut messages) = (Gathering::new(LIMIT), Vec::new());
        for chunk in chunks {
            let mut chunk = Bytes::copy_from_slice(chunk);
            while let Some(message) = gathering.take(&mut chunk)? {
                messages.push(message);
            }
            assert!(chunk.is_empty());
        }
        Ok((messages, gathering.cut_off().is_some()))
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_they_are_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..LIMIT), 0..6),
            chunk in 1..400usize,
            end in any::<prop::sample::Index>(),
        ) {
            let wire = wire(&messages);
            let (read, within) = gather(&wire.chunks(chunk).collect::<Vec<_>>()).unwrap();
            prop_assert_eq!(&read, &messages);
            prop_assert!(!within);
            // What is cut off is told, and what came before it is there.
            let end = end.index(wire.len() + 1);
            let (read, within) = gather(&wire[..end].chunks(chunk).collect::<Vec<_>>()).unwrap();
            prop_assert_eq!(&read[..], &messages[..read.len()]);
            let whole: usize = read.iter().map(|message| PREFIX + message.len()).sum();
            prop_assert_eq!(within, whole < end);
        }
    }

    #[test]
    fn a_message_keeps_no_more_memory_than_it_has_bytes() {
        let (messages, _) = gather(&[&wire(&[vec![1; 200], vec![2; 100]])]).unwrap();
        for message in messages {
            let len = message.len();
            assert_eq!(message.try_into_mut().unwrap().capacity(), len);
        }
    }

    #[test]
    fn what_cannot_be_taken_is_refused_before_it_comes() {
        let refused = gather(&[&[0, 0, 0, 1, 45]]).unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange);
        assert_eq!(refused.message(), "the message has 301 bytes, at most 300 are taken");
        let refused = gather(&[&[1, 0, 0, 0, 1]]).unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
    }
}
