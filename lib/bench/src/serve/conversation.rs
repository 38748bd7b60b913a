//! One conversation: its turns one after the other, each with what was said before.

use super::Run;
use crate::client::Answer;
use crate::figures::{End, Failure, Record};
use crate::load::{Conversation, Source, Turn};
use crate::prompt::{Bodies, Dialogue};
use std::sync::atomic::Ordering;
use tokio::time::{Instant, timeout};

/// A conversation whose first request is ready to be sent.
#[derive(Debug)]
pub(super) struct Prepared {
    conversation: Conversation,
    dialogue: Dialogue,
    request: Request,
}

/// A request that is ready to be sent.
#[derive(Debug)]
struct Request {
    number: u32,
    asked: Turn,
    body: String,
}

impl Prepared {
    pub(super) fn new(bodies: &Bodies, source: &Source, conversation: Conversation) -> Self {
        let mut dialogue = Dialogue::default();
        let request = Request::new(bodies, source, &mut dialogue, &conversation, 0);
        Self {
            conversation,
            dialogue,
            request,
        }
    }
}

impl Request {
    fn new(
        bodies: &Bodies,
        source: &Source,
        dialogue: &mut Dialogue,
        conversation: &Conversation,
        number: u32,
    ) -> Self {
        bodies.say(dialogue, conversation.number, number);
        let asked = source.turn(conversation.number, number);
        Self {
            number,
            asked,
            body: bodies.body(dialogue, asked.output_tokens),
        }
    }
}

impl Run {
    /// Holds a conversation. A turn that fails ends it: there is nothing to go on from. Says
    /// whether there is anybody to talk to.
    pub(super) async fn converse(&self, prepared: Prepared, due: Option<Instant>) -> bool {
        let Prepared {
            conversation,
            mut dialogue,
            mut request,
        } = prepared;
        let mut due = due;
        loop {
            let number = request.number;
            let (record, answer) = self.request(&conversation, request, due.take()).await;
            let end = record.end.clone();
            self.statistics.lock().add(&record);
            if end != End::Complete {
                return !matches!(end, End::Failed(Failure::Connect(_)));
            }
            if number + 1 >= conversation.turns {
                return true;
            }
            // Also without a pause: the run may be over.
            let pause = tokio::time::sleep(self.turn_delay);
            if self.stop.run_until_cancelled(pause).await.is_none() {
                return true;
            }
            let text = answer.text.unwrap_or_default();
            self.bodies.answer(&mut dialogue, &text);
            request = Request::new(
                &self.bodies,
                &self.source,
                &mut dialogue,
                &conversation,
                number + 1,
            );
        }
    }

    async fn request(
        &self,
        conversation: &Conversation,
        request: Request,
        due: Option<Instant>,
    ) -> (Record, Answer) {
        let started = Instant::now();
        let mut answer = Answer::new(started, self.wants_text);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let asking = self.client.ask(request.body, &mut answer);
        let asking = timeout(self.request_timeout, asking);
        let end = match self.interrupt.run_until_cancelled(asking).await {
            None => End::Interrupted,
            Some(Err(_)) => End::Failed(Failure::Timeout),
            Some(Ok(Err(failure))) => End::Failed(failure),
            Some(Ok(Ok(()))) => End::Complete,
        };
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let ended = match end {
            End::Complete => answer.ended.take(),
            End::Failed(_) | End::Interrupted => None,
        };
        let since_start = |at: Instant| at.saturating_duration_since(self.started);
        let record = Record {
            conversation: conversation.number,
            turn: request.number,
            asked_input: request.asked.input_tokens + self.prefix_tokens(request.number),
            asked_output: request.asked.output_tokens,
            lag: due.map(|due| started.saturating_duration_since(due)),
            sent: since_start(started),
            ended: since_start(ended.unwrap_or_else(Instant::now)),
            tokens: std::mem::take(&mut answer.tokens),
            usage: answer.usage,
            end,
        };
        (record, answer)
    }

    fn prefix_tokens(&self, turn: u32) -> u32 {
        match &self.source {
            Source::Synthetic(shape) if turn == 0 => shape.prefix_tokens,
            Source::Synthetic(_) | Source::Trace { .. } => 0,
        }
    }
}
