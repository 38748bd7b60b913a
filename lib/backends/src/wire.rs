//! One HTTP/1.1 connection to a server, and the pool of idle ones.
//!
//! A connection has no task of its own: whoever waits for an answer polls it, so that bytes go
//! from socket to socket without waking anybody else, and a client that reads slowly slows the
//! server down by itself. Dropping it mid-answer closes the socket, which is what cancels a
//! request at the server.

mod pool;

pub use pool::{IDLE_AGE, MAX_IDLE, Pool};

use crate::health::Trouble;
use bytes::Bytes;
use dynamo_runtime::environment::{Connection, Network};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::timeout;

/// Largest head of an answer: what common proxies take, eight times over.
const MAX_HEAD: usize = 64 * 1024;

/// Most header fields of an answer.
const MAX_HEADERS: usize = 128;

type Http = http1::Connection<TokioIo<Box<dyn Connection>>, Full<Bytes>>;

/// A connection.
pub struct Wire {
    sender: SendRequest<Full<Bytes>>,
    connection: Pin<Box<Http>>,
    /// What the connection ended with.
    ended: Option<Result<(), hyper::Error>>,
    /// An answer came over it before.
    is_used: bool,
}

/// An answer whose head is there.
#[derive(Debug)]
pub struct Arrival {
    /// The head, and the body's receiver, which is polled through the wire.
    pub response: Response<Incoming>,
    /// The connection.
    pub wire: Wire,
}

/// Why there is no answer, or no more of it.
#[derive(Debug)]
pub enum WireError {
    /// There is no connection.
    Connect(io::Error),
    /// There was none in time.
    ConnectTimeout,
    /// The connection broke.
    Http(hyper::Error),
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

// === impl Wire ===

impl Wire {
    /// Connects.
    pub async fn open(
        network: &dyn Network,
        address: &str,
        patience: Duration,
    ) -> Result<Self, WireError> {
        let connected = timeout(patience, network.connect(address)).await;
        let connected = connected.map_err(|_| WireError::ConnectTimeout)?;
        let socket = connected.map_err(WireError::Connect)?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
        let made = builder.handshake(TokioIo::new(socket)).await;
        let (sender, connection) = made.map_err(WireError::Http)?;
        Ok(Self {
            sender,
            connection: Box::pin(connection),
            ended: None,
            is_used: false,
        })
    }

    /// Whether an answer came over it before: then the server may have closed it in between.
    pub fn is_used(&self) -> bool {
        self.is_used
    }

    /// Sends a request; resolves with the answer's head.
    pub async fn send(mut self, request: Request<Full<Bytes>>) -> Result<Arrival, WireError> {
        let mut answer = pin!(self.sender.send_request(request));
        let (connection, ended) = (&mut self.connection, &mut self.ended);
        let response = std::future::poll_fn(|cx| {
            if ended.is_none()
                && let Poll::Ready(result) = connection.as_mut().poll(cx)
            {
                *ended = Some(result);
            }
            answer.as_mut().poll(cx)
        });
        match response.await {
            Ok(response) => {
                self.is_used = true;
                Ok(Arrival {
                    response,
                    wire: self,
                })
            }
            // What the connection ended with says more than that it did.
            Err(error) => match self.ended.take() {
                Some(Err(cause)) => Err(WireError::Http(cause)),
                _ => Err(WireError::Http(error)),
            },
        }
    }

    /// The next bytes of an answer's body.
    pub fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Incoming,
    ) -> Poll<Option<Result<Bytes, WireError>>> {
        loop {
            let mut frame = Pin::new(&mut *body).poll_frame(cx);
            if frame.is_pending() && self.ended.is_none() {
                // Asking for a frame is what makes the connection read one.
                if let Poll::Ready(result) = self.connection.as_mut().poll(cx) {
                    self.ended = Some(result);
                }
                frame = Pin::new(&mut *body).poll_frame(cx);
            }
            return match frame {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(WireError::Http(error)))),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => Poll::Ready(Some(Ok(data))),
                    // Trailers, and empty chunks.
                    _ => continue,
                },
            };
        }
    }

    /// Whether it takes another request; looks at the socket for that.
    fn is_ready(&mut self) -> bool {
        if self.ended.is_some() {
            return false;
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        if let Poll::Ready(result) = self.connection.as_mut().poll(&mut cx) {
            self.ended = Some(result);
            return false;
        }
        matches!(self.sender.poll_ready(&mut cx), Poll::Ready(Ok(())))
    }
}

// === impl WireError ===

impl WireError {
    /// What it says of the server.
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::Connect(_) => Trouble::Refused,
            Self::ConnectTimeout => Trouble::Slow,
            Self::Http(error) if error.is_parse_too_large() => {
                Trouble::Nonsense(format!("its head is larger than {MAX_HEAD} bytes"))
            }
            Self::Http(error) if error.is_parse() => {
                Trouble::Nonsense("what it sends is not http".to_owned())
            }
            Self::Http(_) => Trouble::Closed,
        }
    }
}
