//! The client: one request with its answer, measured token by token.

mod chunk;
mod events;
mod link;
mod target;

pub use link::Links;
pub use target::Target;

use crate::error::BenchError;
use crate::figures::record::{Failure, Usage};
use crate::prompt::Api;
use chunk::{ChunkReader, Details, refusal};
use events::Events;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, Response};
use link::{Link, cut_off};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Most of an answer that comes whole.
const MAX_BODY_BYTES: usize = 64 << 20;

/// Most pieces of text that are measured in one answer, at four bytes each.
const MAX_PIECES: usize = 4_000_000;

/// Most of an answer's text that goes into the next turn.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// How long a connection gets to end an answer that has said that it is done. It is not used again
/// after that.
const LINGER: Duration = Duration::from_secs(1);

/// Asks one server.
#[derive(Debug)]
pub struct Client {
    target: Target,
    links: Links,
    path: String,
    is_stream: bool,
    reader: ChunkReader,
    /// Pieces of text of all answers so far.
    pub pieces: AtomicU64,
}

/// An answer as far as it has come.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    started: Instant,
    /// When its last byte came.
    pub ended: Option<Instant>,
    /// When each piece of text came, in microseconds after the request was sent.
    pub tokens: Vec<u32>,
    /// What the server counted.
    pub usage: Option<Usage>,
    /// Its text as it stands in JSON, if it is wanted.
    pub text: Option<String>,
}

/// What a stream has said so far beside text.
#[derive(Debug, Default)]
struct Progress {
    is_finished: bool,
    is_done: bool,
    failure: Option<Failure>,
}

impl Answer {
    /// The answer to a request that is sent now.
    pub fn new(started: Instant, wants_text: bool) -> Self {
        Self {
            started,
            ended: None,
            tokens: Vec::new(),
            usage: None,
            text: wants_text.then(String::new),
        }
    }

    fn append(&mut self, escaped: &str) {
        if let Some(text) = &mut self.text
            && text.len() + escaped.len() <= MAX_ANSWER_BYTES
        {
            text.push_str(escaped);
        }
    }
}

impl Client {
    /// A client of one interface.
    pub fn new(target: Target, api: Api, is_stream: bool) -> Result<Self, BenchError> {
        Ok(Self {
            links: Links::new(target.origin.clone())?,
            path: target.path(api),
            target,
            is_stream,
            reader: ChunkReader::default(),
            pieces: AtomicU64::new(0),
        })
    }

    /// The names of the server's models.
    pub async fn models(&self) -> Result<Vec<String>, Failure> {
        let path = self.target.models_path();
        let request = || self.request(Method::GET, &path, Bytes::new());
        let (mut link, response) = self.links.send(request).await?;
        let (status, body) = whole(&mut link, response).await?;
        if status != 200 {
            return Err(refusal(status, &body));
        }
        let wrong = || Failure::Malformed("the list of models cannot be read".to_owned());
        let list: serde_json::Value = serde_json::from_slice(&body).map_err(|_| wrong())?;
        let models = list.get("data").and_then(|data| data.as_array());
        let names = models.ok_or_else(wrong)?.iter().filter_map(|model| {
            let name = model.get("id")?.as_str()?;
            Some(name.to_owned())
        });
        Ok(names.collect())
    }

    /// Sends a request and reads its answer. What has come stays in `answer`, also if this fails
    /// or is dropped.
    pub async fn ask(&self, body: String, answer: &mut Answer) -> Result<(), Failure> {
        let body = Bytes::from(body);
        let request = || self.request(Method::POST, &self.path, body.clone());
        let (mut link, response) = self.links.send(request).await?;
        let is_event_stream = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if response.status() != 200 {
            let (status, body) = whole(&mut link, response).await?;
            self.links.put_back(link);
            return Err(refusal(status, &body));
        }
        if self.is_stream != is_event_stream {
            return Err(Failure::Malformed(match self.is_stream {
                true => "a stream was asked for, and none came".to_owned(),
                false => "no stream was asked for, and one came".to_owned(),
            }));
        }
        match self.is_stream {
            true => self.read_stream(link, response, answer).await,
            false => self.read_whole(link, response, answer).await,
        }
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        // The path is a part of an address that has been read already.
        *request.uri_mut() = path.parse().unwrap_or_default();
        request.headers_mut().clone_from(self.target.headers());
        request
    }

    async fn read_whole(
        &self,
        mut link: Link,
        response: Response<Incoming>,
        answer: &mut Answer,
    ) -> Result<(), Failure> {
        let (_, body) = whole(&mut link, response).await?;
        answer.ended = Some(Instant::now());
        self.links.put_back(link);
        let details = Details::read(&body)?;
        answer.usage = details.usage;
        if let Some(text) = self.reader.read(&body)?.text {
            answer.append(text);
        }
        let pieces = details.usage.map_or(0, |usage| usage.completion);
        self.pieces.fetch_add(pieces, Ordering::Relaxed);
        match details.failure {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    async fn read_stream(
        &self,
        mut link: Link,
        response: Response<Incoming>,
        answer: &mut Answer,
    ) -> Result<(), Failure> {
        let mut body = response.into_body();
        let mut events = Events::default();
        let mut progress = Progress::default();
        while !progress.is_done {
            let Some(frame) = link.drive(body.frame()).await else {
                break;
            };
            let frame = frame.map_err(|error| cut_off(&error))?;
            let Some(piece) = frame.data_ref() else {
                continue;
            };
            self.take(piece, &mut events, &mut progress, answer)?;
        }
        answer.ended = Some(Instant::now());
        if let Some(failure) = progress.failure {
            return Err(failure);
        }
        if !progress.is_done && (events.is_within_event() || !progress.is_finished) {
            let reason = "the stream ended before its last event";
            return Err(Failure::CutOff(reason.to_owned()));
        }
        let rest = link.drive(timeout(LINGER, async {
            while let Some(Ok(_)) = body.frame().await {}
        }));
        if rest.await.is_ok() {
            self.links.put_back(link);
        }
        Ok(())
    }

    /// Takes what has come at once.
    fn take(
        &self,
        piece: &[u8],
        events: &mut Events,
        progress: &mut Progress,
        answer: &mut Answer,
    ) -> Result<(), Failure> {
        let elapsed = answer.started.elapsed().as_micros();
        let at = u32::try_from(elapsed).unwrap_or(u32::MAX);
        let before = answer.tokens.len();
        let mut failure = None;
        let fed = events.feed(piece, |data| {
            if failure.is_none() && !progress.is_done {
                failure = self.take_event(data, at, progress, answer).err();
            }
        });
        let pieces = (answer.tokens.len() - before) as u64;
        self.pieces.fetch_add(pieces, Ordering::Relaxed);
        if let Some(failure) = failure {
            return Err(failure);
        }
        fed.map_err(|error| Failure::Malformed(error.to_string()))
    }

    fn take_event(
        &self,
        data: &[u8],
        at: u32,
        progress: &mut Progress,
        answer: &mut Answer,
    ) -> Result<(), Failure> {
        if data == b"[DONE]" {
            progress.is_done = true;
            return Ok(());
        }
        let chunk = self.reader.read(data)?;
        if (chunk.text.is_some() || chunk.has_call) && answer.tokens.len() < MAX_PIECES {
            answer.tokens.push(at);
        }
        if let Some(text) = chunk.text {
            answer.append(text);
        }
        if chunk.has_more {
            let details = Details::read(data)?;
            answer.usage = details.usage.or(answer.usage);
            progress.is_finished |= details.is_finished;
            if details.failure.is_some() {
                progress.failure = details.failure;
                progress.is_done = true;
            }
        }
        Ok(())
    }
}

/// Reads an answer that comes whole.
async fn whole(link: &mut Link, response: Response<Incoming>) -> Result<(u16, Bytes), Failure> {
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_BODY_BYTES);
    match link.drive(body.collect()).await {
        Ok(body) => Ok((status, body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Err(Failure::Malformed(format!(
            "it has more than {MAX_BODY_BYTES} bytes"
        ))),
        Err(error) => Err(match error.downcast_ref() {
            Some(error) => cut_off(error),
            None => Failure::CutOff(error.to_string()),
        }),
    }
}
