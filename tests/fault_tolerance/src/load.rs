//! Asks many questions at once, and writes down what came when.

use crate::answer::Answer;
use crate::traffic::Question;
use dynamo_testkit::http::{Answer as Response, ask_for};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A stream that gives nothing for so long hangs: twice the longest deadline that a frontend has
/// while faults last, so that no error that it owes can still come.
pub const HUNG: Duration = Duration::from_secs(150);

/// Times a client goes on to the next frontend because one refuses its connection, with a pause in
/// between: a load balancer's patience, above the time of a frontend's start.
const TRIES: usize = 200;

/// Between two such tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Questions, and whom they are put to.
#[derive(Debug, Clone, Copy)]
pub struct Traffic<'a> {
    /// In their order.
    pub questions: &'a [Question],
    /// Addresses; one question after the other goes to the next of them.
    pub frontends: &'a [String],
    /// Questions at once.
    pub concurrency: u32,
    /// Whether a refused connection is tried at the next frontend.
    pub balances: bool,
    /// How many are put, the first one again after the last; without a number it goes on until the
    /// faults are over.
    pub count: Option<usize>,
}

/// What became of a question.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its number among the questions.
    pub question: usize,
    /// The id that it was sent with.
    pub request_id: String,
    /// The frontend that answered, or did not.
    pub frontend: usize,
    /// When it was sent.
    pub asked: Moment,
    /// When each piece came, and to which choice.
    pub pieces: Vec<(Moment, usize)>,
    /// When it was over.
    pub ended: Moment,
    /// How.
    pub end: End,
    /// What it gave.
    pub answer: Answer,
}

/// Microseconds of this machine's clock, which processes log as well.
pub type Moment = i64;

/// How a question ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With a whole answer.
    Whole,
    /// With a status, and the code of its error.
    Refused(u16, String),
    /// With an error event of this code.
    Failed(String),
    /// Its connection broke, or none was made.
    Cut(String),
    /// Nothing came any more.
    Hung,
}

/// How far the load is.
#[derive(Debug)]
pub struct Progress {
    next: AtomicUsize,
    ended: AtomicUsize,
    total: Option<usize>,
    is_stopped: AtomicBool,
}

/// The time now.
pub fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Moment::try_from(since.as_micros()).unwrap()
}

/// Asks while `meanwhile` runs, which returns when all have ended; or until it returns, where there
/// is no number of them.
pub fn drive(traffic: Traffic<'_>, run: &str, meanwhile: impl FnOnce(&Progress)) -> Vec<Outcome> {
    let progress = Progress {
        next: AtomicUsize::new(0),
        ended: AtomicUsize::new(0),
        total: traffic.count,
        is_stopped: AtomicBool::new(false),
    };
    let progress = &progress;
    thread::scope(|scope| {
        let client = || {
            let mut outcomes = Vec::new();
            while let Some(number) = progress.take() {
                outcomes.push(put(traffic, run, number));
                progress.ended.fetch_add(1, Ordering::Relaxed);
            }
            outcomes
        };
        let stop = Stop(progress);
        let clients: Vec<_> = (0..traffic.concurrency)
            .map(|_| scope.spawn(client))
            .collect();
        meanwhile(progress);
        drop(stop);
        let ended = clients.into_iter().map(|client| client.join().unwrap());
        ended.flatten().collect()
    })
}

/// Ends the load with what goes on meanwhile, also when a fault could not be made.
struct Stop<'a>(&'a Progress);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        let ends = self.0.total.is_none() || thread::panicking();
        self.0.is_stopped.fetch_or(ends, Ordering::Relaxed);
    }
}

// === impl Outcome ===

impl Outcome {
    /// A question that is about to be put.
    fn new(question: usize, frontend: usize, request_id: String) -> Self {
        Self {
            question,
            request_id,
            frontend,
            asked: now(),
            pieces: Vec::new(),
            ended: 0,
            end: End::Hung,
            answer: Answer::default(),
        }
    }
}

// === impl Progress ===

impl Progress {
    /// Questions that have ended.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }

    /// Whether all have that are asked once.
    pub fn is_over(&self) -> bool {
        self.total.is_some_and(|total| self.ended() >= total)
    }

    fn take(&self) -> Option<usize> {
        if self.is_stopped.load(Ordering::Relaxed) {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.total
            .is_none_or(|total| number < total)
            .then_some(number)
    }
}

/// Puts one question to a frontend, and to the next one if that is not there.
fn put(traffic: Traffic<'_>, run: &str, number: usize) -> Outcome {
    let question = number % traffic.questions.len();
    let frontend = number % traffic.frontends.len();
    let mut outcome = Outcome::new(question, frontend, format!("{run}-{number}"));
    let tries = if traffic.balances { TRIES } else { 1 };
    for _ in 0..tries {
        let address = &traffic.frontends[outcome.frontend];
        match ask(address, &traffic.questions[question], &outcome.request_id) {
            Ok(response) => {
                outcome.end = read(response, &mut outcome, || {});
                break;
            }
            Err(error) => {
                let is_away = error.kind() == io::ErrorKind::ConnectionRefused;
                outcome.end = broken(&error);
                if !is_away || !traffic.balances {
                    break;
                }
                outcome.frontend = (outcome.frontend + 1) % traffic.frontends.len();
                thread::sleep(PAUSE);
            }
        }
    }
    outcome.ended = now();
    outcome
}

fn ask(address: &str, question: &Question, id: &str) -> io::Result<Response> {
    let headers = [("x-request-id", id)];
    ask_for(
        HUNG,
        address,
        ("POST", question.path),
        &headers,
        &question.body,
    )
}

/// Puts one question, and does something when its answer has begun.
pub fn once(address: &str, question: &Question, id: &str, then: impl FnOnce()) -> End {
    let mut outcome = Outcome::new(0, 0, id.to_owned());
    match ask(address, question, id) {
        Ok(response) => read(response, &mut outcome, then),
        Err(error) => broken(&error),
    }
}

/// Reads an answer to its end.
fn read(mut response: Response, outcome: &mut Outcome, then: impl FnOnce()) -> End {
    let mut then = Some(then);
    if response.status != 200 {
        let status = response.status;
        let body: serde_json::Value = serde_json::from_str(&response.text()).unwrap_or_default();
        let code = body["error"]["code"].as_str().unwrap_or("no code");
        return End::Refused(status, code.to_owned());
    }
    let began = Instant::now();
    loop {
        match response.event() {
            Ok(Some(data)) if data == "[DONE]" => outcome.answer.is_done = true,
            Ok(Some(data)) => {
                let event = serde_json::from_str(&data).unwrap_or_default();
                let choice = outcome.answer.add(&event);
                outcome.pieces.extend(choice.map(|choice| (now(), choice)));
                if choice.is_some()
                    && let Some(then) = then.take()
                {
                    then();
                }
            }
            Ok(None) => break,
            Err(error) => return broken(&error),
        }
        // Also if it gives something that is no end from time to time.
        if began.elapsed() > 4 * HUNG {
            return End::Hung;
        }
    }
    let answer = &outcome.answer;
    let has_ended = answer.choices.iter().all(|choice| choice.finish.is_some());
    match &answer.error {
        Some(code) => End::Failed(code.clone()),
        None if answer.is_done && has_ended && answer.usage.is_some() => End::Whole,
        None => End::Cut("the answer ended without its end".to_owned()),
    }
}

fn broken(error: &io::Error) -> End {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => End::Hung,
        _ => End::Cut(error.to_string()),
    }
}
