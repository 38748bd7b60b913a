//! The answer to a call, which may come from the second or third instance that was asked.
//!
//! An instance that refuses a call, or does not take it in time, is followed by the next one. One
//! may still refuse by the stream's first item (it speaks an older version, or hands over what it
//! cannot finish): as long as nothing else came, the stream asks the next instance by itself. The
//! caller sees either items or one error.

use super::client::{Call, ClientShared, Pick, Policy};
use super::selection::Instance;
use crate::discovery::InstanceId;
use crate::request_plane::{self, ReceivedItem};
use bytes::Bytes;
use dynamo_protocols::{ErrorCode, RequestError};
use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_util::StreamExt;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Instances asked for one call before its error is given to the caller. Two may be gone before
/// discovery says so (a host that failed); more than that is not one failure.
pub const MAX_TRIES: usize = 3;

/// The answer of an instance. Dropping it cancels the call.
pub struct ResponseStream {
    client: Arc<ClientShared>,
    instance: InstanceId,
    attempt: u32,
    state: State,
}

enum State {
    /// The call is on its way to an instance that said nothing yet.
    Sent(Box<Pending>, request_plane::ResponseStream),
    /// Another instance is being asked.
    Asking(BoxFuture<'static, Asked>),
    /// The instance has given an item.
    Answering(request_plane::ResponseStream),
    Ended,
}

/// A call that nobody has taken so far.
struct Pending {
    client: Arc<ClientShared>,
    policy: Policy,
    body: Bytes,
    call: Call,
    asked: Vec<InstanceId>,
}

type Next = Poll<Option<Result<ReceivedItem, RequestError>>>;

/// A call that is on its way to an instance, or the reason why not.
type Asked = Result<(Box<Pending>, Instance, request_plane::ResponseStream), RequestError>;

impl ResponseStream {
    pub(super) async fn open(
        client: Arc<ClientShared>,
        policy: Policy,
        body: Bytes,
        call: Call,
    ) -> Result<Self, RequestError> {
        let pending = Box::new(Pending {
            client: Arc::clone(&client),
            policy,
            body,
            call,
            asked: Vec::new(),
        });
        let (pending, instance, items) = pending.ask(None).await?;
        Ok(Self {
            client,
            instance: instance.id,
            attempt: pending.call.context.attempt,
            state: State::Sent(pending, items),
        })
    }

    /// Who answers. It may be another instance than at first until the first item came.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Passes on what the instance gave. An end of its answer is told to the client.
    fn given(&mut self, next: Option<Result<ReceivedItem, RequestError>>) -> Next {
        let error = match &next {
            Some(Ok(_)) => return Poll::Ready(next),
            Some(Err(error)) => Some(error),
            None => None,
        };
        self.client.note_end(self.instance, error);
        self.state = State::Ended;
        Poll::Ready(next)
    }

    /// The attempt number under which the request was sent to that instance.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

/// Whether the error says that the instance did not start on the request.
fn was_not_taken(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::WorkerUnreachable
            | ErrorCode::DispatchTimeout
            | ErrorCode::Draining
            | ErrorCode::NoCapacity
    )
}

impl Pending {
    /// Sends the call to the next instance that can be asked. `refusal` is the error of the one
    /// asked last.
    async fn ask(mut self: Box<Self>, mut refusal: Option<RequestError>) -> Asked {
        while self.asked.len() < MAX_TRIES {
            let Some(Pick { instance, body }) = self.client.pick(&self.policy, &self.asked) else {
                break;
            };
            let body = body.unwrap_or_else(|| self.body.clone());
            match self.client.send(&instance, body, &self.call).await {
                Ok(items) => return Ok((self, instance, items)),
                Err(error) if was_not_taken(error.code) => {
                    self.note_refusal(instance.id, &error);
                    refusal = Some(error);
                }
                Err(error) => {
                    self.client.note_end(instance.id, Some(&error));
                    return Err(error);
                }
            }
        }
        Err(refusal.unwrap_or_else(|| self.client.nobody(&self.policy).into()))
    }

    fn note_refusal(&mut self, instance: InstanceId, error: &RequestError) {
        self.client.note_refusal(instance, error);
        self.asked.push(instance);
        self.call.context.attempt += 1;
    }
}

impl Stream for ResponseStream {
    type Item = Result<ReceivedItem, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            // Every way out of the match that is not `Ready` with an end puts a state back.
            match &mut self.state {
                State::Answering(items) => {
                    let next = ready!(items.poll_next_unpin(context));
                    return self.given(next);
                }
                State::Ended => return Poll::Ready(None),
                State::Asking(asking) => match ready!(asking.as_mut().poll(context)) {
                    Ok((pending, instance, items)) => {
                        self.instance = instance.id;
                        self.attempt = pending.call.context.attempt;
                        self.state = State::Sent(pending, items);
                    }
                    Err(error) => {
                        self.state = State::Ended;
                        return Poll::Ready(Some(Err(error)));
                    }
                },
                State::Sent(_, items) => {
                    let first = ready!(items.poll_next_unpin(context));
                    let instance = self.instance;
                    let State::Sent(mut pending, items) =
                        std::mem::replace(&mut self.state, State::Ended)
                    else {
                        continue;
                    };
                    match first {
                        Some(Err(error)) if was_not_taken(error.code) => {
                            pending.note_refusal(instance, &error);
                            self.state = State::Asking(Box::pin(pending.ask(Some(error))));
                        }
                        first => {
                            self.state = State::Answering(items);
                            return self.given(first);
                        }
                    }
                }
            }
        }
    }
}

impl Drop for ResponseStream {
    /// Whoever has read enough does not wait for the end; so far the answer was good.
    fn drop(&mut self) {
        if matches!(self.state, State::Answering(_)) {
            self.client.note_end(self.instance, None);
        }
    }
}

impl fmt::Debug for ResponseStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseStream")
            .field("instance", &self.instance)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
