//! One answer on its way out: polls the handler's stream, numbers its items, spends the stream's
//! credit, and writes the end.
//!
//! Invariants
//! - The handler's stream is polled only while there is credit and room in the outbox: a slow
//!   reader holds up the engine behind it, through this stream and no other.
//! - Cancellation and deadline drop the handler's stream at once, wherever it stands.
//! - Each stream that is not cancelled writes exactly one END, and before it an item or, to peers
//!   that know it, an ACCEPTED, unless it is refused.

use super::frame::{self, MAX_FRAME_BYTES};
use super::handlers::{Handlers, draining};
use super::inbox::cost;
use super::outbox::Outbox;
use super::{IncomingRequest, Item, ItemStream};
use dynamo_protocols::{ErrorCode, RequestError};
use futures_util::StreamExt;
use parking_lot::Mutex;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// What the connection's reader knows of a running stream.
#[derive(Debug)]
pub(super) struct ServerStream {
    credit: Mutex<Credit>,
    cancel: CancellationToken,
    /// Whether the caller is told that its call is taken.
    tells_acceptance: bool,
}

#[derive(Debug)]
struct Credit {
    /// Bytes; below zero after an item that overshot.
    left: i64,
    waiting: Option<Waker>,
}

/// Why a stream stops without an END: nobody would read it.
struct Gone;

impl ServerStream {
    pub(super) fn new(window: u32, cancel: CancellationToken, tells_acceptance: bool) -> Self {
        Self {
            credit: Mutex::new(Credit {
                left: i64::from(window),
                waiting: None,
            }),
            cancel,
            tells_acceptance,
        }
    }

    /// The reader has made room.
    pub(super) fn add_credit(&self, bytes: u32) {
        let mut credit = self.credit.lock();
        credit.left = credit.left.saturating_add(i64::from(bytes));
        let waiting = credit.waiting.take();
        drop(credit);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// The reader has lost interest.
    pub(super) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Runs the call to its end.
    pub(super) async fn run(
        self: Arc<Self>,
        stream: u32,
        request: IncomingRequest,
        handlers: Handlers,
        outbox: Arc<Outbox>,
    ) {
        let deadline = request.header.deadline;
        // Kept until the END is put: a drain waits for it to go, and the END is part of the answer.
        let mut items = None;
        let ended = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return,
            () = until(deadline) => Ok(Err(deadline_error())),
            () = handlers.handing_over() => Ok(Err(draining())),
            ended = self.pump(stream, request, &handlers, &outbox, &mut items) => ended,
        };
        let Ok(ended) = ended else { return };
        // A connection that closed meanwhile has no reader for the END.
        drop(outbox.put_control(|out| frame::put_end(out, stream, ended.as_ref().err())));
    }

    async fn pump(
        &self,
        stream: u32,
        request: IncomingRequest,
        handlers: &Handlers,
        outbox: &Outbox,
        items: &mut Option<ItemStream>,
    ) -> Result<Result<(), RequestError>, Gone> {
        let mut position = request.header.start_position;
        let items = match handlers.dispatch(request).await {
            Ok(accepted) => items.insert(accepted),
            Err(error) => return Ok(Err(error)),
        };
        let mut is_untold = self.tells_acceptance;
        loop {
            poll_fn(|context| self.poll_credit(context)).await;
            let next = poll_fn(|context| {
                let next = items.poll_next_unpin(context);
                // An item that is there at once says the same. A closed outbox is noticed by it.
                if next.is_pending() && std::mem::take(&mut is_untold) {
                    drop(outbox.put_control(|out| frame::put_accepted(out, stream)));
                }
                next
            });
            let item = match next.await {
                None => return Ok(Ok(())),
                Some(Err(error)) => return Ok(Err(error)),
                Some(Ok(item)) => item,
            };
            if let Err(error) = check_size(&item) {
                return Ok(Err(error));
            }
            self.credit.lock().left -= i64::from(cost(item.payload.len()));
            poll_fn(|context| {
                outbox.poll_put(context, stream, |out| {
                    frame::put_item(out, stream, position, item.positions, &item.payload);
                })
            })
            .await
            .map_err(|_| Gone)?;
            // The caller chose where to start: its number must not be able to overflow here.
            position = position.saturating_add(u64::from(item.positions));
            // A handler that is always ready must not keep its thread from the other streams.
            tokio::task::coop::consume_budget().await;
        }
    }

    fn poll_credit(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut credit = self.credit.lock();
        if credit.left > 0 {
            return Poll::Ready(());
        }
        credit.waiting = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Resolves at the deadline, never without one.
pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What both sides say when a call's deadline is over.
pub(super) fn deadline_error() -> RequestError {
    RequestError::new(
        ErrorCode::RequestTimeout,
        "the request took longer than its deadline; ask for fewer tokens or allow more time",
    )
}

fn check_size(item: &Item) -> Result<(), RequestError> {
    let most = MAX_FRAME_BYTES - frame::ITEM_HEAD;
    if item.payload.len() > most {
        return Err(RequestError::new(
            ErrorCode::Internal,
            format!(
                "an item of {} bytes does not fit into a frame of {most}; split it",
                item.payload.len()
            ),
        ));
    }
    Ok(())
}
