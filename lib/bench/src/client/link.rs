//! Connections to the server, kept for the next request.
//!
//! A connection is driven by the request that uses it and not by a task of its own: a token wakes
//! one task instead of two.

use super::BenchError;
use crate::figures::record::{Failure, shortened};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use tokio::net::TcpStream;
use tower::{Service, ServiceExt};

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// Makes connections and keeps those that nobody uses. There are never more of them than requests
/// were under way at once, which the run bounds.
pub struct Links {
    origin: Uri,
    connector: HttpsConnector<HttpConnector>,
    idle: Mutex<Vec<Link>>,
}

/// A connection.
pub struct Link {
    sender: SendRequest<Full<Bytes>>,
    driver: Driver,
    /// Whether it has answered a request before.
    is_used: bool,
}

struct Driver {
    connection: Pin<Box<Connection<Stream, Full<Bytes>>>>,
    is_over: bool,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("is_used", &self.is_used)
            .finish_non_exhaustive()
    }
}

impl Links {
    /// Connections to a server.
    pub fn new(origin: Uri) -> Result<Self, BenchError> {
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        http.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(origin.scheme_str() == Some("https"))?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        Ok(Self {
            origin,
            connector,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// A server may close a connection while nobody uses it. Such a request has not been read, and
    /// is sent once more on a new connection.
    pub async fn send(
        &self,
        request: impl Fn() -> Request<Full<Bytes>>,
    ) -> Result<(Link, Response<Incoming>), Failure> {
        let idle = self.idle.lock().pop();
        if let Some(mut link) = idle {
            match link.send(request()).await {
                Ok(response) => return Ok((link, response)),
                Err(error) if error.is_canceled() || error.is_incomplete_message() => {
                    // The others are as old.
                    self.idle.lock().clear();
                }
                Err(error) => return Err(cut_off(&error)),
            }
        }
        let mut link = self.connect().await?;
        match link.send(request()).await {
            Ok(response) => Ok((link, response)),
            Err(error) => Err(cut_off(&error)),
        }
    }

    /// Takes a connection back whose answer has been read to its end.
    pub fn put_back(&self, mut link: Link) {
        link.is_used = true;
        if !link.driver.is_over {
            self.idle.lock().push(link);
        }
    }

    async fn connect(&self) -> Result<Link, Failure> {
        let mut connector = self.connector.clone();
        let stream = async {
            let ready = ServiceExt::<Uri>::ready(&mut connector).await?;
            ready.call(self.origin.clone()).await
        };
        let stream = stream
            .await
            .map_err(|error| Failure::Connect(deepest(error.as_ref())))?;
        let (sender, connection) = handshake(stream)
            .await
            .map_err(|error| Failure::Connect(deepest(&error)))?;
        Ok(Link {
            sender,
            driver: Driver {
                connection: Box::pin(connection),
                is_over: false,
            },
            is_used: false,
        })
    }
}

impl Link {
    /// Waits for `work`, which needs the connection to go on.
    pub async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        self.driver.drive(work).await
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        self.driver.drive(self.sender.ready()).await?;
        let answer = self.sender.send_request(request);
        self.driver.drive(answer).await
    }
}

impl Driver {
    async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(done);
            }
            if !self.is_over {
                // Its error reaches the work too.
                self.is_over = self.connection.as_mut().poll(context).is_ready();
            }
            work.as_mut().poll(context)
        })
        .await
    }
}

/// The failure of an exchange that had begun.
pub(crate) fn cut_off(error: &hyper::Error) -> Failure {
    Failure::CutOff(deepest(error))
}

/// What is at the bottom of an error: the layers above say that there is one.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    shortened(&deepest.to_string())
}

/// Trusts what the system trusts, so that a company's own authority works too.
fn tls(is_needed: bool) -> Result<rustls::ClientConfig, BenchError> {
    let mut roots = rustls::RootCertStore::empty();
    if is_needed {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(BenchError::NoCertificates);
        }
    }
    // Named here because another crate may bring another provider into the same program.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| BenchError::NoCertificates)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
