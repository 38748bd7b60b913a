//! Events straight from publisher to subscriber: each subscriber calls an endpoint of each
//! publisher, whose answer is a stream that never ends.
//!
//! Connections, heartbeats, flow control and discovery are those of the request plane: a
//! subscriber that does not read holds up its own stream, which then finds the events it missed
//! forgotten and sends a snapshot.

use super::channel::{ChannelWatch, Read, ReadChannel};
use super::log::Cursor;
use super::subscriber::{Source, follow};
use super::{EventPlane, Publication, Subscription};
use crate::component::{
    DistributedRuntime, HandlerStream, InstanceFilter, ServeError, StreamItem, TypedHandler,
};
use crate::discovery::{EndpointId, Metadata};
use crate::request_plane::RequestHeader;
use bytes::Bytes;
use dynamo_protocols::RequestError;
use futures_core::future::BoxFuture;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Bytes of events in one item: below what the request plane sends in one piece.
const MAX_ITEM_BYTES: usize = 64 * 1024;

/// The backend of the event plane that needs nothing but the request plane.
#[derive(Debug, Clone)]
pub struct DirectEventPlane {
    runtime: DistributedRuntime,
}

/// What a subscriber asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Subscribe {
    /// Where it stands, if it has been there before.
    #[serde(default)]
    pub(super) cursor: Option<(u64, u64)>,
    /// Whether the answer ends once it is told everything so far: what comes later, it hears in
    /// another way.
    #[serde(default)]
    pub(super) once: bool,
}

/// What a publisher answers, again and again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ChannelItem {
    /// Where the subscriber stands afterwards.
    pub(super) cursor: (u64, u64),
    /// A piece of a snapshot, and how many more of them follow; events if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) snapshot: Option<u32>,
    /// The piece, or the events.
    pub(super) payloads: Vec<Bytes>,
}

/// A subscriber's stream on the publisher's side.
struct Following {
    channel: Arc<dyn ReadChannel>,
    changes: ChannelWatch,
    closed: CancellationToken,
    /// Where the subscriber stands.
    cursor: Option<Cursor>,
    once: bool,
    /// Whether a subscriber that was here before is to hear that it is followed again, even if
    /// there is nothing else to tell.
    greets: bool,
    /// Pieces of a snapshot that are still to be sent.
    pieces: VecDeque<Bytes>,
}

impl DirectEventPlane {
    /// The event plane of a process.
    pub fn new(runtime: DistributedRuntime) -> Self {
        Self { runtime }
    }
}

impl EventPlane for DirectEventPlane {
    fn publish(
        &self,
        name: EndpointId,
        channel: Arc<dyn ReadChannel>,
    ) -> BoxFuture<'_, Result<Publication, ServeError>> {
        let closed = CancellationToken::new();
        let handler = follow_handler(channel, closed.clone());
        Box::pin(async move {
            let endpoint = self.runtime.endpoint(name);
            let served = endpoint.serve(handler, Metadata::new()).await?;
            Ok(Publication::new(served, closed))
        })
    }

    fn subscribe(&self, name: EndpointId, publishers: InstanceFilter) -> Subscription {
        let client = self.runtime.endpoint(name).typed_client_of(publishers);
        let source = Source {
            client: Arc::new(client),
            random: Arc::clone(&self.runtime.environment().random),
            medium: None,
        };
        Subscription::start(self.runtime.tasks(), |news, tasks| {
            follow(source, news, tasks)
        })
    }
}

/// Serves a channel to each subscriber that calls, until `closed`.
pub(super) fn follow_handler(
    channel: Arc<dyn ReadChannel>,
    closed: CancellationToken,
) -> impl TypedHandler<Subscribe, ChannelItem> {
    move |subscribe: Subscribe, _header: RequestHeader| {
        let following = Following {
            changes: channel.watch(),
            channel: Arc::clone(&channel),
            closed: closed.clone(),
            cursor: subscribe.cursor.map(Cursor::from),
            once: subscribe.once,
            greets: subscribe.cursor.is_some() && !subscribe.once,
            pieces: VecDeque::new(),
        };
        let items: HandlerStream<ChannelItem> = stream::unfold(following, next_item).boxed();
        std::future::ready(Ok::<_, RequestError>(items))
    }
}

async fn next_item(
    mut following: Following,
) -> Option<(Result<ChannelItem, RequestError>, Following)> {
    loop {
        if following.closed.is_cancelled() {
            return None;
        }
        if let Some(item) = following.next_piece() {
            return Some((Ok(item), following));
        }
        // Marked before it is read: an event in between is seen at the next turn.
        following.changes.mark_seen();
        match following.channel.read(following.cursor, MAX_ITEM_BYTES) {
            Read::Snapshot(pieces, cursor) => {
                following.cursor = Some(cursor);
                following.pieces = pieces.into();
                if following.pieces.is_empty() {
                    following.pieces.push_back(Bytes::new());
                }
            }
            Read::Events(payloads, cursor) if !payloads.is_empty() || following.greets => {
                following.cursor = Some(cursor);
                following.greets = false;
                let item = ChannelItem {
                    cursor: cursor.into(),
                    snapshot: None,
                    payloads,
                };
                return Some((Ok(item), following));
            }
            Read::Events(..) if following.once => return None,
            Read::Events(..) => {
                tokio::select! {
                    biased;
                    () = following.closed.cancelled() => return None,
                    () = following.changes.changed() => {}
                }
            }
        }
    }
}

impl Following {
    fn next_piece(&mut self) -> Option<ChannelItem> {
        let piece = self.pieces.pop_front()?;
        Some(ChannelItem {
            cursor: self.cursor?.into(),
            snapshot: Some(u32::try_from(self.pieces.len()).unwrap_or(u32::MAX)),
            payloads: vec![piece],
        })
    }
}

impl StreamItem for ChannelItem {}

impl From<(u64, u64)> for Cursor {
    fn from((epoch, next): (u64, u64)) -> Self {
        Self { epoch, next }
    }
}

impl From<Cursor> for (u64, u64) {
    fn from(cursor: Cursor) -> Self {
        (cursor.epoch, cursor.next)
    }
}
