//! One request to a publisher's replay socket.
//!
//! Asked: an empty part, the first number wanted. Answered: for each message that the publisher
//! still keeps an empty part, (a topic,) the number and the payload; then the number that no
//! message has. Each request has a connection of its own, so that answers to an earlier one
//! cannot be taken for its own.

use super::read_number;
use crate::socket::{Socket, SocketError};
use crate::source::END_OF_REPLAY;
use crate::zmtp::{Arrival, ProtocolError, SocketType, message};
use bytes::Bytes;
use dynamo_runtime::environment::Network;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long to wait for the first answer. Engines look at their replay socket between two steps,
/// a tenth of a second at the latest when they are idle.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for each further one. They are sent in one go: a pause means that the rest,
/// with the end of it, did not fit the publisher's socket.
const NEXT_ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// Most answers of one request: a hundred times what engines keep by default.
const MAX_ANSWERS: u32 = 1_000_000;

/// A request that runs.
pub(super) struct Replay {
    state: State,
    /// Of the answer that is waited for, once it is.
    deadline: Option<Instant>,
    answers: u32,
}

enum State {
    Opening(Pin<Box<dyn Future<Output = Result<Socket, SocketError>> + Send>>),
    Open(Socket),
}

/// What an answer says.
pub(super) enum Answer {
    /// A message that was kept.
    Message(u64, Bytes),
    /// That was all.
    End,
    /// Something else.
    Broken,
}

impl Replay {
    pub(super) fn start(network: Arc<dyn Network>, address: String, from: u64) -> Self {
        let opening = async move {
            let mut socket = Socket::open(&*network, &address, SocketType::Dealer).await?;
            let request = message(&[b"", &from.to_be_bytes()]);
            socket.send(&request).await?;
            Ok(socket)
        };
        Self {
            state: State::Opening(Box::pin(opening)),
            deadline: None,
            answers: 0,
        }
    }

    /// The next answer. Can be dropped at any point: nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Answer, SocketError> {
        let patience = match self.answers {
            0 => FIRST_ANSWER_TIMEOUT,
            _ => NEXT_ANSWER_TIMEOUT,
        };
        let deadline = *self
            .deadline
            .get_or_insert_with(|| Instant::now() + patience);
        let arrival = timeout_at(deadline, self.receive()).await;
        let parts = arrival.map_err(|_| SocketError::Silent)??;
        self.deadline = None;
        self.answers += 1;
        if self.answers > MAX_ANSWERS {
            return Err(ProtocolError::TooLarge.into());
        }
        Ok(read_answer(&parts))
    }

    async fn receive(&mut self) -> Result<Vec<Bytes>, SocketError> {
        loop {
            match &mut self.state {
                State::Opening(opening) => {
                    let socket = opening.await?;
                    self.state = State::Open(socket);
                }
                State::Open(socket) => {
                    if let Arrival::Message(parts) = socket.receive().await? {
                        return Ok(parts);
                    }
                }
            }
        }
    }
}

fn read_answer(parts: &[Bytes]) -> Answer {
    let [rest @ .., number, payload] = parts else {
        return Answer::Broken;
    };
    match read_number(number) {
        // A delimiter and a topic at most.
        _ if rest.len() > 2 => Answer::Broken,
        None => Answer::Broken,
        Some(END_OF_REPLAY) => Answer::End,
        Some(number) => Answer::Message(number, payload.clone()),
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = matches!(self.state, State::Open(_));
        formatter
            .debug_struct("Replay")
            .field("open", &open)
            .field("answers", &self.answers)
            .finish_non_exhaustive()
    }
}
