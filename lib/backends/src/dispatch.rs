//! An inquiry on its way: placed, sent, and sent elsewhere while nothing of an answer went out.

use crate::answer::{Answer, AnswerBody, AnswerFacts, AnswerStream, Origin};
use crate::fleet::{Backend, Backends, Fleet};
use crate::headers;
use crate::health::{Sign, Trouble};
use crate::inquiry::{Gist, Inquiry};
use crate::prompt::{self, Api, PromptTokens};
use crate::scan;
use crate::wire::Arrival;
use bytes::Bytes;
use dynamo_kv_router::decision_log::End;
use dynamo_llm::model::ServedModel;
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::routing::{RouteHints, RouteSlip};
use dynamo_routing::{Placement, Prompt};
use http::header::{CONTENT_TYPE, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::Full;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Servers that one request is sent to at most. A request that three could not take says something
/// of itself.
const MAX_SERVERS: usize = 3;

/// Largest answer that is whole before it goes out, so that a server that breaks off in it costs
/// the client nothing. Chats stay below; what is larger is passed on as it comes.
const MAX_WHOLE: usize = 256 * 1024;

/// Finds what headers and body ask of the choice of a server.
pub type SlipOf<'a> = &'a (dyn Fn(RouteHints) -> Option<Arc<RouteSlip>> + Sync);

/// Why a server gave no answer.
struct Failure {
    trouble: Trouble,
    error: RequestError,
    /// Another server may be asked.
    elsewhere: bool,
}

/// An answer before anything of it went out.
struct Begun {
    parts: Parts,
    body: BegunBody,
}

enum BegunBody {
    Whole(Bytes),
    Stream {
        origin: Origin,
        first: Bytes,
        is_events: bool,
    },
}

impl Backends {
    /// Passes an inquiry on to a server; resolves when it has an answer, or the beginning of one.
    pub async fn ask(
        &self,
        inquiry: &Inquiry,
        gist: &Gist<'_>,
        model: Option<&Arc<ServedModel>>,
        slip_of: SlipOf<'_>,
    ) -> Result<Answer, RequestError> {
        let fleet = &self.fleet;
        if let Some((balancer, shadow)) = &fleet.shadow {
            // Nothing that the router meets may keep a request from the balancer.
            let placed = place(fleet, inquiry, gist, model, slip_of).await.ok();
            let begun = attempt(fleet, balancer, inquiry, gist, None).await;
            let begun = begun.map_err(|failure| failure.error)?;
            let chosen = placed.as_ref().map(|it| it.worker().instance);
            shadow.compare(chosen, shadow.served_by(&begun.parts.headers));
            return Ok(finish(fleet, balancer, begun, placed));
        }
        let placement = place(fleet, inquiry, gist, model, slip_of).await?;
        send(fleet, inquiry, gist, placement).await
    }
}

/// Finds a server.
async fn place(
    fleet: &Fleet,
    inquiry: &Inquiry,
    gist: &Gist<'_>,
    model: Option<&Arc<ServedModel>>,
    slip_of: SlipOf<'_>,
) -> Result<Placement, RequestError> {
    let eligible = fleet.eligible(gist.model.as_deref())?;
    let tokens = tokenise(fleet, inquiry, model).await;
    let PromptTokens {
        ids,
        salt,
        priority,
        hints,
    } = tokens.unwrap_or_default();
    let isl_tokens = match ids.len() {
        0 => prompt::estimate(&inquiry.body),
        known => known as u64,
    };
    let prompt = Prompt {
        tokens: &ids,
        blocks: None,
        isl_tokens,
        lora: gist.model.as_deref().filter(|_| eligible.is_adapter),
        salt: salt.as_deref(),
        priority,
        allowed: eligible.allowed.as_deref(),
    };
    fleet.router().place(&prompt, slip_of(hints)).await
}

async fn tokenise(
    fleet: &Fleet,
    inquiry: &Inquiry,
    model: Option<&Arc<ServedModel>>,
) -> Option<PromptTokens> {
    let (model, api) = (model?, Api::of_path(&inquiry.path)?);
    if !fleet.tokenises(&model.card.name) {
        return None;
    }
    let tokens = prompt::tokens(api, &inquiry.body, model, &fleet.environment).await;
    fleet.metrics.prompt(tokens.is_ok());
    match tokens {
        Ok(tokens) => Some(tokens),
        Err(error) => {
            tracing::debug!(%error, "a prompt is routed by load alone");
            None
        }
    }
}

/// Sends an inquiry to its server, and to others if that one does not answer.
async fn send(
    fleet: &Arc<Fleet>,
    inquiry: &Inquiry,
    gist: &Gist<'_>,
    mut placement: Placement,
) -> Result<Answer, RequestError> {
    let mut asked: Vec<u64> = Vec::with_capacity(MAX_SERVERS);
    loop {
        let worker = placement.worker();
        let Some(backend) = fleet.backend(worker.instance) else {
            let message = "the router chose a server that there is none of";
            return Err(RequestError::new(ErrorCode::Internal, message));
        };
        asked.push(worker.instance);
        let rank = placement.has_ranks().then_some(worker.dp_rank);
        let failure = match attempt(fleet, backend, inquiry, gist, rank).await {
            Ok(begun) => return Ok(finish(fleet, backend, begun, Some(placement))),
            Err(failure) => failure,
        };
        tracing::debug!(
            backend = backend.label,
            trouble = %failure.trouble,
            attempt = asked.len(),
            "server gave no answer"
        );
        let goes_on = failure.elsewhere && asked.len() < MAX_SERVERS && placement.again(&asked);
        if !goes_on {
            placement.end(None, End::Failed);
            return Err(failure.error);
        }
        fleet.metrics.retries.inc();
    }
}

/// Asks one server, counts what comes of it, and tells its health.
async fn attempt(
    fleet: &Fleet,
    backend: &Arc<Backend>,
    inquiry: &Inquiry,
    gist: &Gist<'_>,
    rank: Option<u32>,
) -> Result<Begun, Failure> {
    let begun = tokio::select! {
        biased;
        begun = begin(fleet, backend, inquiry, gist, rank) => begun,
        // Found out by others: a connection to a process that stands still says nothing.
        () = backend.gone() => Err(Failure::of(Trouble::Slow)),
    };
    match &begun {
        Ok(_) => {
            fleet.metrics.request(&backend.label, "answered");
            fleet.see(backend, Sign::Answered);
        }
        Err(failure) => {
            fleet
                .metrics
                .request(&backend.label, failure.trouble.as_str());
            // A server that is slow may be slow with this request.
            if failure.trouble != Trouble::Slow {
                fleet.see(backend, Sign::RequestFailed(failure.trouble.clone()));
            }
        }
    }
    begun
}

async fn begin(
    fleet: &Fleet,
    backend: &Arc<Backend>,
    inquiry: &Inquiry,
    gist: &Gist<'_>,
    rank: Option<u32>,
) -> Result<Begun, Failure> {
    let head = head(fleet, backend, inquiry, rank);
    let arrived = match gist.is_stream() {
        false => head.await?,
        true => {
            let patience = fleet.patience.head;
            match timeout(patience, head).await {
                Ok(arrived) => arrived?,
                Err(_) => return Err(Failure::head_timeout(patience)),
            }
        }
    };
    let Arrival { response, wire } = arrived;
    let (parts, body) = response.into_parts();
    let is_events = check_head(&parts, &inquiry.path)?;
    let mut origin = Origin::new(wire, body);
    let body = if is_events {
        let first = timeout(inquiry.peek, origin.next()).await;
        BegunBody::Stream {
            first: match first {
                Err(_) => Bytes::new(),
                Ok(Some(first)) => first.map_err(|error| Failure::of(error.trouble()))?,
                Ok(None) => return Err(Failure::nonsense("its stream ended before it began")),
            },
            is_events,
            origin: origin.ended_by_closing(!parts.headers.contains_key(TRANSFER_ENCODING)),
        }
    } else {
        let begun = gather(fleet, backend, origin).await?;
        if let BegunBody::Whole(bytes) = &begun {
            check_whole(&parts, bytes, &inquiry.path)?;
        }
        begun
    };
    Ok(Begun { parts, body })
}

/// Sends the request and waits for the head of the answer.
async fn head(
    fleet: &Fleet,
    backend: &Backend,
    inquiry: &Inquiry,
    rank: Option<u32>,
) -> Result<Arrival, Failure> {
    let wire = backend.pool.take().await;
    let wire = wire.map_err(|error| Failure::of(error.trouble()))?;
    let was_used = wire.is_used();
    let answered = wire.send(request(fleet, backend, inquiry, rank)?).await;
    let answered = match answered {
        // It may have been closed since its last use, which says nothing of the server.
        Err(error) if was_used && error.trouble() == Trouble::Closed => {
            let fresh = backend.pool.open().await;
            let fresh = fresh.map_err(|error| Failure::of(error.trouble()))?;
            fresh.send(request(fleet, backend, inquiry, rank)?).await
        }
        answered => answered,
    };
    answered.map_err(|error| Failure::of(error.trouble()))
}

fn request(
    fleet: &Fleet,
    backend: &Backend,
    inquiry: &Inquiry,
    rank: Option<u32>,
) -> Result<Request<Full<Bytes>>, Failure> {
    let mut request = Request::new(Full::new(inquiry.body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = match backend.address.path(&inquiry.path).parse() {
        Ok(uri) => uri,
        Err(_) => return Err(Failure::nonsense("no path leads to it")),
    };
    let authority = backend.address.authority();
    let mut headers =
        headers::to_server(&inquiry.headers, &inquiry.context, &fleet.keys, authority);
    if let Some(rank) = rank {
        headers::set_rank(&mut headers, rank);
    }
    *request.headers_mut() = headers;
    Ok(request)
}

/// Reads an answer to its end, or as far as one is kept.
async fn gather(
    fleet: &Fleet,
    backend: &Backend,
    mut origin: Origin,
) -> Result<BegunBody, Failure> {
    let mut bytes = Vec::new();
    loop {
        let next = timeout(fleet.patience.idle, origin.next()).await;
        match next {
            Err(_) => return Err(Failure::idle_timeout(fleet)),
            Ok(None) => {
                origin.release(&backend.pool);
                return Ok(BegunBody::Whole(bytes.into()));
            }
            Ok(Some(Err(error))) => return Err(Failure::of(error.trouble())),
            Ok(Some(Ok(piece))) => bytes.extend_from_slice(&piece),
        }
        if bytes.len() > MAX_WHOLE {
            return Ok(BegunBody::Stream {
                origin,
                first: bytes.into(),
                is_events: false,
            });
        }
    }
}

/// The answer as it goes out, with the placement that lives as long as it.
fn finish(
    fleet: &Arc<Fleet>,
    backend: &Arc<Backend>,
    begun: Begun,
    placement: Option<Placement>,
) -> Answer {
    let headers: HeaderMap = headers::to_client(&begun.parts.headers);
    let status = begun.parts.status;
    let body = match begun.body {
        BegunBody::Whole(bytes) => {
            let counts = scan::counts(&bytes);
            let facts = AnswerFacts::of_whole(counts);
            if let Some(mut placement) = placement {
                let end = match status.is_success() {
                    true => End::Finished,
                    false => End::Failed,
                };
                let generated = counts.completion.unwrap_or(u64::from(status.is_success()));
                placement.generated(u32::try_from(generated).unwrap_or(u32::MAX));
                fleet.note_cached(&placement, counts.cached);
                placement.end(counts.cached, end);
            }
            AnswerBody::Whole(bytes, facts)
        }
        BegunBody::Stream {
            origin,
            first,
            is_events,
        } => AnswerBody::Stream(Box::new(AnswerStream::new(
            (Arc::clone(fleet), Arc::clone(backend)),
            (origin, first),
            is_events,
            placement,
        ))),
    };
    Answer {
        status,
        headers,
        body,
    }
}

impl Fleet {
    /// In a comparison, what the answer said of the cache beside what the router expected.
    pub(crate) fn note_cached(&self, placement: &Placement, cached: Option<u64>) {
        if let (Some((_, shadow)), Some(cached)) = (&self.shadow, cached) {
            shadow.cached(placement.predicted_tokens(), cached);
        }
    }
}

/// Paths whose good answers are JSON or events.
fn is_answer_path(path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    Api::of_path(path).is_some() || matches!(path, "/v1/embeddings" | "/v1/responses")
}

/// Refuses what no such server answers. Says whether the body is a stream of events.
fn check_head(parts: &Parts, path: &str) -> Result<bool, Failure> {
    let status = parts.status;
    if status.is_informational() || status.is_redirection() || status == StatusCode::NO_CONTENT {
        return Err(Failure::nonsense(&format!("it answers with {status}")));
    }
    let kind = parts.headers.get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let is_events = kind.eq_ignore_ascii_case("text/event-stream");
    let kind = kind.to_ascii_lowercase();
    let is_json = kind == "application/json" || kind.ends_with("+json");
    if status.is_success() && is_answer_path(path) && !is_events && !is_json {
        let shown: String = kind.chars().take(64).collect();
        return Err(Failure::nonsense(&format!(
            "its answer is `{shown}` and not json"
        )));
    }
    Ok(is_events)
}

fn check_whole(parts: &Parts, bytes: &Bytes, path: &str) -> Result<(), Failure> {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    let is_good = parts.status.is_success() && is_answer_path(path);
    match first {
        Some(b'{' | b'[') => Ok(()),
        _ if !is_good => Ok(()),
        _ => Err(Failure::nonsense(
            "its answer says that it is json and is not",
        )),
    }
}

// === impl Failure ===

impl Failure {
    fn of(trouble: Trouble) -> Self {
        let (code, message) = match &trouble {
            Trouble::Refused => (
                ErrorCode::WorkerUnreachable,
                "no server could be connected to; try again shortly".to_owned(),
            ),
            Trouble::Slow => (
                ErrorCode::WorkerLost,
                "the server stopped answering; send the request again".to_owned(),
            ),
            Trouble::Closed => (
                ErrorCode::WorkerLost,
                "the server broke off before its answer was complete; send the request again"
                    .to_owned(),
            ),
            Trouble::Nonsense(what) => (
                ErrorCode::WorkerProtocol,
                format!("a server gave an answer that makes no sense: {what}"),
            ),
        };
        Self {
            error: RequestError::new(code, message),
            trouble,
            elsewhere: true,
        }
    }

    fn nonsense(what: &str) -> Self {
        Self::of(Trouble::Nonsense(what.to_owned()))
    }

    /// Another server would take as long.
    fn head_timeout(patience: Duration) -> Self {
        let message = format!(
            "the server did not begin its answer within {} seconds (--backend-head-timeout)",
            patience.as_secs_f64()
        );
        Self {
            trouble: Trouble::Slow,
            error: RequestError::new(ErrorCode::FirstTokenTimeout, message),
            elsewhere: false,
        }
    }

    fn idle_timeout(fleet: &Fleet) -> Self {
        Self {
            trouble: Trouble::Slow,
            error: fleet.stands_still(),
            elsewhere: false,
        }
    }
}
