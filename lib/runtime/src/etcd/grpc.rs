//! gRPC over one HTTP/2 connection: the part of it that etcd's API needs.
//!
//! A call is a POST whose body is one message behind five bytes; its answer is any number of such
//! messages, and a status in the trailers. Nothing is compressed and nothing is retried here.
//! [`Deframer`] is pure; the rest talks.

use super::error::CallError;
use crate::Tasks;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message;
use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Largest answer that is taken: a page of a listing (64 keys) of the largest values that etcd
/// takes by default (1.5 MiB), as whatever stands below the prefix is read.
const MAX_MESSAGE: usize = 100 << 20;

/// Longest status text that is kept: etcd's own have a line.
const MAX_STATUS_TEXT: usize = 512;

/// Bytes before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Where etcd looks for who is calling.
const TOKEN: HeaderName = HeaderName::from_static("token");

/// Asks a member of the cluster to end a watch when it is cut off from the others.
const HAS_LEADER: HeaderName = HeaderName::from_static("hasleader");

/// A connection. Dropping it ends its calls.
pub(super) struct Channel {
    sender: SendRequest<Outgoing>,
    base: String,
    _driver: DropGuard,
}

/// The answers to one call, as they come.
pub struct Answers<T> {
    body: Incoming,
    deframer: Deframer,
    message: PhantomData<fn() -> T>,
}

/// One message, after which the call's own side ends, or stays open without a word.
pub(super) struct Outgoing {
    message: Option<Bytes>,
    stays_open: bool,
}

/// Runs a connection's tasks until the connection is dropped.
#[derive(Clone)]
struct Driver {
    tasks: Tasks,
    ended: CancellationToken,
}

/// Cuts a stream of bytes into messages.
#[derive(Debug, Default)]
struct Deframer {
    buffer: BytesMut,
}

// === impl Channel ===

impl Channel {
    /// Speaks HTTP/2 on a connection. `base` is the scheme and the authority.
    pub(super) async fn open<S>(stream: S, base: String, tasks: &Tasks) -> Result<Self, CallError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let driver = Driver {
            tasks: tasks.clone(),
            ended: CancellationToken::new(),
        };
        let guard = driver.ended.clone().drop_guard();
        let (sender, connection) = Builder::new(driver.clone())
            .timer(TokioTimer::new())
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| CallError::broken(&error))?;
        hyper::rt::Executor::execute(&driver, async move {
            // Whoever calls hears of it.
            drop(connection.await);
        });
        Ok(Self {
            sender,
            base,
            _driver: guard,
        })
    }

    /// Calls, and takes the one answer.
    pub(super) async fn call<T: Message + Default>(
        &self,
        path: &str,
        token: Option<&HeaderValue>,
        message: &impl Message,
    ) -> Result<T, CallError> {
        let mut answers = self.start(path, token, message, false).await?;
        let Some(answer) = answers.next().await? else {
            return Err(CallError::Foreign("a call ended without an answer"));
        };
        // The status comes after it.
        while answers.next().await?.is_some() {}
        Ok(answer)
    }

    /// Calls for a stream of answers, which lasts until it is dropped or the server ends it.
    pub(super) async fn stream<T: Message + Default>(
        &self,
        path: &str,
        token: Option<&HeaderValue>,
        message: &impl Message,
    ) -> Result<Answers<T>, CallError> {
        self.start(path, token, message, true).await
    }

    async fn start<T: Message + Default>(
        &self,
        path: &str,
        token: Option<&HeaderValue>,
        message: &impl Message,
        stays_open: bool,
    ) -> Result<Answers<T>, CallError> {
        let body = Outgoing {
            message: Some(framed(message)),
            stays_open,
        };
        let uri: Uri = format!("{}{path}", self.base)
            .parse()
            .map_err(|_| CallError::Foreign("the endpoint is no address"))?;
        let mut request = Request::post(uri)
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(USER_AGENT, concat!("dynamo/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = token {
            request = request.header(TOKEN, token);
        }
        if stays_open {
            request = request.header(HAS_LEADER, "true");
        }
        let request = request
            .body(body)
            .map_err(|_| CallError::Foreign("the endpoint is no address"))?;
        let mut sender = self.sender.clone();
        let ready = sender.ready().await;
        ready.map_err(|error| CallError::broken(&error))?;
        let response = sender.send_request(request).await;
        Answers::new(response.map_err(|error| CallError::broken(&error))?)
    }
}

// === impl Answers ===

impl<T: Message + Default> Answers<T> {
    fn new(response: Response<Incoming>) -> Result<Self, CallError> {
        let headers = response.headers();
        let is_grpc = headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if !response.status().is_success() || !is_grpc {
            return Err(CallError::Foreign("the server does not speak grpc"));
        }
        if headers.contains_key("grpc-status") {
            // An answer without a body has its status here.
            status(headers)?;
        }
        Ok(Self {
            body: response.into_body(),
            deframer: Deframer::default(),
            message: PhantomData,
        })
    }

    /// The next answer, or `None` after the last. A cancelled call loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<T>, CallError> {
        loop {
            if let Some(message) = self.deframer.next()? {
                let message = T::decode(message);
                return message
                    .map(Some)
                    .map_err(|_| CallError::Foreign("an answer cannot be read"));
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| CallError::broken(&error))?;
            match frame.into_data() {
                Ok(data) => self.deframer.push(&data),
                Err(frame) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        status(trailers)?;
                    }
                }
            }
        }
    }
}

impl<T> fmt::Debug for Answers<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

/// The status at the end of a call.
fn status(headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name: &str| {
        let value = headers.get(name)?.as_bytes();
        Some(unescaped(&value[..value.len().min(MAX_STATUS_TEXT)]))
    };
    match text("grpc-status").as_deref() {
        Some("0") => Ok(()),
        code => Err(CallError::Status {
            // 2 is the code for what has none.
            code: code.and_then(|code| code.parse().ok()).unwrap_or(2),
            message: text("grpc-message").unwrap_or_default(),
        }),
    }
}

/// Takes the `%20` out of a status text.
fn unescaped(text: &[u8]) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let hex = after
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        plain.push(hex.unwrap_or(*first));
        rest = if hex.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(PREFIX + length);
    framed.put_u8(0);
    // A request holds one record, which is bounded far below 4 GiB.
    framed.put_u32(u32::try_from(length).expect("a request is small"));
    message.encode(&mut framed).expect("the buffer grows");
    framed.freeze()
}

// === impl Deframer ===

impl Deframer {
    fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next whole message.
    fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        let Some(mut prefix) = self.buffer.get(..PREFIX) else {
            return Ok(None);
        };
        if prefix.get_u8() != 0 {
            return Err(CallError::Foreign("an answer is compressed"));
        }
        let length = prefix.get_u32() as usize;
        if length > MAX_MESSAGE {
            return Err(CallError::Foreign("an answer is too large"));
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

// === impl Outgoing ===

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.message.take() {
            Some(message) => Poll::Ready(Some(Ok(Frame::data(message)))),
            // Never woken: the end of the call drops it.
            None if self.stays_open => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_none() && !self.stays_open
    }
}

// === impl Driver ===

impl<F> hyper::rt::Executor<F> for Driver
where
    F: Future + Send + 'static,
{
    fn execute(&self, work: F) {
        let ended = self.ended.clone();
        // Not cancelled with the node: the last word is said while the process ends.
        self.tasks.spawn("etcd connection", async move {
            ended.run_until_cancelled(work).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::wire::{KeyValue, RangeResponse};
    use proptest::prelude::*;

    fn message(number: u8) -> RangeResponse {
        RangeResponse {
            kvs: vec![KeyValue {
                key: vec![number; usize::from(number)].into(),
                value: Bytes::new(),
            }],
            ..RangeResponse::default()
        }
    }

    proptest! {
        #[test]
        fn messages_come_out_whole_however_they_are_cut(
            numbers in prop::collection::vec(any::<u8>(), 0..8),
            cut in 1_usize..64,
        ) {
            let sent: Vec<_> = numbers.into_iter().map(message).collect();
            let bytes: Vec<u8> = sent.iter().flat_map(framed).collect();
            let mut deframer = Deframer::default();
            let mut received = Vec::new();
            for piece in bytes.chunks(cut) {
                deframer.push(piece);
                while let Some(bytes) = deframer.next().unwrap() {
                    received.push(RangeResponse::decode(bytes).unwrap());
                }
            }
            prop_assert_eq!(received, sent);
            prop_assert!(deframer.buffer.is_empty());
        }

        #[test]
        fn garbage_is_an_error_or_nothing_and_never_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut deframer = Deframer::default();
            deframer.push(&bytes);
            while let Ok(Some(message)) = deframer.next() {
                drop(RangeResponse::decode(message));
            }
            unescaped(&bytes);
        }
    }

    #[test]
    fn a_status_says_what_the_server_said() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", HeaderValue::from_static("5"));
        let text = HeaderValue::from_static("etcdserver: requested%20lease not found 100%");
        headers.insert("grpc-message", text);
        let error = status(&headers).unwrap_err();
        let CallError::Status { code, message } = error else {
            panic!("{error}");
        };
        assert_eq!(code, 5);
        assert_eq!(message, "etcdserver: requested lease not found 100%");
        headers.insert("grpc-status", HeaderValue::from_static("0"));
        assert!(status(&headers).is_ok());
    }
}
