//! The hub's HTTP interface: a revision's list of files, a file's checksum, a file's bytes.
//!
//! Redirects are followed here and not by a library, because two things depend on each step: the
//! token goes only to the endpoint's own origin, and the checksum is in the headers of the answer
//! that redirects, not of the storage it leads to.

use super::address::{Origin, endpoint_origin, percent_encoded, redirected};
use super::checksum::Checksum;
use super::error::HubError;
use super::limits::HubLimits;
use super::reference::{HubReference, is_commit, is_inside};
use dynamo_config::Secret;
use dynamo_runtime::Tasks;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue,
    LOCATION, RANGE, USER_AGENT,
};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioTimer;
use serde::Deserialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long a connection may take: longer than any round trip, shorter than patience.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a file that have to come within the time that a server may stand still: one that
/// sends a byte now and then stands still too. Half a kilobyte a second, a tenth of a modem.
const SLOWEST_BYTES: u64 = 16 << 10;

/// Redirects that are followed for one request. The hub needs two: one for a renamed repository,
/// one to the storage.
const REDIRECTS: usize = 5;

/// Largest list of files that is read: 100,000 names of 160 bytes.
const LARGEST_LISTING: usize = 16 << 20;

/// The checksum of a file that is in large file storage.
const LINKED_ETAG: &str = "x-linked-etag";

/// The size of such a file.
const LINKED_SIZE: &str = "x-linked-size";

/// Runs the connections' tasks below the hub's own node.
#[derive(Debug, Clone)]
struct OwnTasks(Tasks);

/// Speaks to one endpoint.
pub(super) struct Client {
    http: HttpClient<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    endpoint: String,
    origin: Origin,
    authorization: Option<HeaderValue>,
    stall: Duration,
}

/// A revision's commit and files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<String>,
}

/// What a file has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileFacts {
    pub(super) checksum: Checksum,
    pub(super) size: u64,
}

/// A file's bytes, from an offset.
#[derive(Debug)]
pub(super) struct FileBody {
    /// Where the first byte belongs.
    pub(super) offset: u64,
    body: Incoming,
    stall: Duration,
    /// Time spent in waiting, and what came in it, since bytes last came fast enough.
    waited: Duration,
    came: u64,
}

/// Why a request failed, as far as it matters for what to do next.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection.
    Unreachable(Box<dyn std::error::Error + Send + Sync>),
    /// The connection broke.
    Interrupted,
    /// Nothing came, or next to nothing, for this long.
    Stalled(Duration),
    /// The server refused.
    Status(StatusCode),
    /// The answer makes no sense.
    Response(&'static str),
    /// Something else that is known already.
    Other(HubError),
}

#[derive(Deserialize)]
struct RevisionInfo {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

// === impl OwnTasks ===

impl<F> hyper::rt::Executor<F> for OwnTasks
where
    F: Future + Send + 'static,
{
    fn execute(&self, connection: F) {
        self.0
            .spawn_until_cancelled("hub connection", connection.map(drop));
    }
}

// === impl Client ===

impl Client {
    pub(super) fn new(
        endpoint: &str,
        token: Option<Secret>,
        tasks: &Tasks,
        limits: &HubLimits,
    ) -> Result<Self, HubError> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let origin = endpoint_origin(&endpoint)?;
        let authorization = token.map(bearer).transpose()?;
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let tls = tls(&endpoint, origin.secure)?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http = HttpClient::builder(OwnTasks(tasks.child()))
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(1)
            .build(connector);
        Ok(Self {
            http,
            endpoint,
            origin,
            authorization,
            stall: limits.stall,
        })
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(super) fn has_token(&self) -> bool {
        self.authorization.is_some()
    }

    /// What a revision consists of.
    pub(super) async fn listing(&self, reference: &HubReference) -> Result<Listing, Failure> {
        let url = format!(
            "{}/api/models/{}/revision/{}",
            self.endpoint,
            reference.repo,
            percent_encoded(&reference.revision, false)
        );
        let response = self.follow(&Method::GET, &url, None, |_| false).await?;
        let body = Limited::new(accepted(response)?.into_body(), LARGEST_LISTING);
        let body = match timeout(self.stall, body.collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                return Err(Failure::Response("the list of files is too long"));
            }
            Ok(Err(_)) => return Err(Failure::Interrupted),
            Err(_) => return Err(Failure::Stalled(self.stall)),
        };
        let info: RevisionInfo = serde_json::from_slice(&body)
            .map_err(|_| Failure::Response("the list of files is not one"))?;
        let files: Vec<String> = info
            .siblings
            .into_iter()
            .map(|file| file.rfilename)
            .collect();
        if !is_commit(&info.sha) {
            return Err(Failure::Response("the commit is not one"));
        }
        if !files.iter().all(|file| is_inside(file)) {
            return Err(Failure::Response(
                "a file's name is not a plain relative path",
            ));
        }
        Ok(Listing {
            commit: info.sha,
            files,
        })
    }

    /// A file's checksum and size.
    pub(super) async fn facts(&self, url: &str) -> Result<FileFacts, Failure> {
        // The answer that redirects to the storage is the one that knows the checksum.
        let enough = |headers: &HeaderMap| headers.contains_key(LINKED_ETAG);
        let response = self.follow(&Method::HEAD, url, None, enough).await?;
        let headers = if response.status().is_redirection() {
            response.headers()
        } else {
            accepted_ref(&response)?
        };
        let (etag, size) = if headers.contains_key(LINKED_ETAG) {
            (LINKED_ETAG, LINKED_SIZE)
        } else {
            (ETAG.as_str(), CONTENT_LENGTH.as_str())
        };
        Ok(FileFacts {
            checksum: text(headers, etag)
                .and_then(Checksum::from_etag)
                .ok_or(Failure::Response("it has no checksum"))?,
            size: text(headers, size)
                .and_then(|size| size.parse().ok())
                .ok_or(Failure::Response("it has no size"))?,
        })
    }

    /// A file's bytes from the offset on, or from the beginning where the server cannot do that.
    pub(super) async fn bytes(&self, url: &str, from: u64) -> Result<FileBody, Failure> {
        let range = (from > 0).then_some(from);
        let response = self.follow(&Method::GET, url, range, |_| false).await?;
        let response = accepted(response)?;
        let offset = if response.status() == StatusCode::PARTIAL_CONTENT {
            text(response.headers(), CONTENT_RANGE.as_str())
                .and_then(range_start)
                .ok_or(Failure::Response("it is a part without a place"))?
        } else {
            0
        };
        Ok(FileBody {
            offset,
            body: response.into_body(),
            stall: self.stall,
            waited: Duration::ZERO,
            came: 0,
        })
    }

    /// The address of a file.
    pub(super) fn file_url(&self, reference: &HubReference, commit: &str, file: &str) -> String {
        let file = percent_encoded(file, true);
        format!(
            "{}/{}/resolve/{commit}/{file}",
            self.endpoint, reference.repo
        )
    }

    /// Sends the request, and sends it on until an answer does not redirect or is `enough`.
    async fn follow(
        &self,
        method: &Method,
        url: &str,
        range: Option<u64>,
        enough: impl Fn(&HeaderMap) -> bool,
    ) -> Result<Response<Incoming>, Failure> {
        let mut url: Uri = url
            .parse()
            .map_err(|_| Failure::Response("its address is not one"))?;
        for _ in 0..=REDIRECTS {
            let response = self.send(method, &url, range).await?;
            if !response.status().is_redirection() || enough(response.headers()) {
                return Ok(response);
            }
            let location = text(response.headers(), LOCATION.as_str())
                .ok_or(Failure::Response("it redirects to nowhere"))?;
            url = redirected(&url, location).map_err(Failure::Response)?;
        }
        Err(Failure::Response("it redirects too often"))
    }

    async fn send(
        &self,
        method: &Method,
        url: &Uri,
        range: Option<u64>,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method.clone();
        *request.uri_mut() = url.clone();
        let headers = request.headers_mut();
        let agent = HeaderValue::from_static(concat!("dynamo/", env!("CARGO_PKG_VERSION")));
        headers.insert(USER_AGENT, agent);
        // A compressed answer has another length and another etag.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(from) = range {
            let value = HeaderValue::try_from(format!("bytes={from}-"));
            headers.insert(RANGE, value.map_err(|_| Failure::Interrupted)?);
        }
        if let Some(authorization) = &self.authorization
            && Origin::of(url).as_ref() == Some(&self.origin)
        {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        match timeout(self.stall, self.http.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(Failure::Unreachable(Box::new(error))),
            Ok(Err(_)) => Err(Failure::Interrupted),
            Err(_) => Err(Failure::Stalled(self.stall)),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", &self.endpoint)
            .field("has_token", &self.has_token())
            .finish_non_exhaustive()
    }
}

// === impl FileBody ===

impl FileBody {
    /// The next bytes; nothing at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let begun = Instant::now();
            let left = self.stall.saturating_sub(self.waited);
            let frame = match timeout(left, self.body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => return Ok(None),
                Ok(Some(Err(_))) => return Err(Failure::Interrupted),
                Err(_) => return Err(Failure::Stalled(self.stall)),
            };
            self.waited += begun.elapsed();
            // Trailers are no content.
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            self.came += bytes.len() as u64;
            if self.came >= SLOWEST_BYTES {
                (self.waited, self.came) = (Duration::ZERO, 0);
            }
            return Ok(Some(bytes));
        }
    }
}

// === impl Failure ===

impl Failure {
    /// Whether the same request may succeed a moment later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Interrupted | Self::Stalled(_) => true,
            Self::Status(status) => {
                status.is_server_error()
                    || *status == StatusCode::TOO_MANY_REQUESTS
                    || *status == StatusCode::REQUEST_TIMEOUT
            }
            Self::Response(_) | Self::Other(_) => false,
        }
    }

    /// The error for a request about the repository.
    pub(super) fn into_error(
        self,
        reference: &HubReference,
        place: &Path,
        client: &Client,
    ) -> HubError {
        let (repo, endpoint) = (reference.repo.clone(), client.endpoint.clone());
        let unreachable = |repo, endpoint, source| HubError::Unreachable {
            endpoint,
            repo,
            place: place.to_owned(),
            source,
        };
        match self {
            Self::Unreachable(source) => unreachable(repo, endpoint, source),
            Self::Interrupted => unreachable(repo, endpoint, "the connection broke".into()),
            Self::Stalled(waited) => {
                let silent = format!("no answer came within {waited:?}");
                unreachable(repo, endpoint, silent.into())
            }
            Self::Status(StatusCode::NOT_FOUND) => HubError::NotFound {
                endpoint,
                repo,
                revision: reference.revision.clone(),
            },
            Self::Status(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => {
                HubError::Denied {
                    endpoint,
                    repo,
                    status: status.as_u16(),
                    token_sent: client.has_token(),
                }
            }
            Self::Status(status) => HubError::Server {
                endpoint,
                status: status.as_u16(),
            },
            Self::Response(reason) => HubError::Response {
                endpoint,
                about: repo.to_string(),
                reason,
            },
            Self::Other(error) => error,
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the secret ends here")]
fn bearer(token: Secret) -> Result<HeaderValue, HubError> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose().trim()))
        .map_err(|_| HubError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Trusts what the system trusts, so that a company's own authority works too.
fn tls(endpoint: &str, needed: bool) -> Result<rustls::ClientConfig, HubError> {
    let no_certificates = || HubError::NoCertificates {
        endpoint: endpoint.to_owned(),
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() && needed {
        return Err(no_certificates());
    }
    // Named here because another crate may bring another provider into the same program.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| no_certificates())?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn accepted(response: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
    accepted_ref(&response)?;
    Ok(response)
}

fn accepted_ref(response: &Response<Incoming>) -> Result<&HeaderMap, Failure> {
    if response.status().is_success() {
        Ok(response.headers())
    } else {
        Err(Failure::Status(response.status()))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Reads the first number of `bytes 5-9/10`.
fn range_start(value: &str) -> Option<u64> {
    value
        .strip_prefix("bytes ")?
        .split_once('-')?
        .0
        .parse()
        .ok()
}
