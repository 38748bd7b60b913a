//! What waits to be written to one connection: many streams' frames, one buffer, one write.
//!
//! Streams encode their frames straight into the shared buffer under a short lock; the writer
//! takes the whole buffer at once. Frames that gather while a write is under way go out together
//! in the next one, so the number of writes falls as load rises, and nothing is delayed when
//! there is none.
//!
//! Invariants
//! - Frames of one stream leave in the order in which they were put.
//! - Items wait while the buffer is above [`HIGH_WATER_BYTES`]: a peer that does not read holds
//!   up its streams, it does not fill memory. Frames about the connection and its streams' state
//!   (credit, cancel, end, heartbeats) are not held up, because the peer may need them to go on
//!   reading; past [`HARD_LIMIT_BYTES`] the connection is given up.
//! - A peer that takes nothing off its socket for [`STALL_BOUND`] is given up as well, even if it
//!   goes on sending: its streams would hold up the engine behind them for ever.

use crate::environment::{Connection, Network};
use bytes::BytesMut;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::time::timeout;

/// Items wait above this. Enough for thousands of tokens in one write; at loopback and datacentre
/// speeds it drains within a millisecond.
pub(super) const HIGH_WATER_BYTES: usize = 256 * 1024;

/// Above this the peer gets nothing any more and the connection is given up. It leaves room above
/// the high-water mark for one largest frame and the state of all streams.
pub(super) const HARD_LIMIT_BYTES: usize =
    HIGH_WATER_BYTES + super::frame::MAX_FRAME_BYTES + 4 * 1024 * 1024;

/// A buffer that grew beyond this is given back after it was written.
const KEPT_BUFFER_BYTES: usize = 1024 * 1024;

/// How long a write may make no progress at all. Slow readers do not come near it, because
/// readers of streams are held up by credit and not by the socket; a peer that is silent as well
/// is noticed sooner, by its missing heartbeats.
const STALL_BOUND: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    buffer: BytesMut,
    closed: bool,
    writer: Option<Waker>,
    /// Streams that wait for room. By stream, so that one that is polled many times meanwhile
    /// waits once.
    waiting: BTreeMap<u32, Waker>,
}

/// The connection is closed: nothing put into it arrives.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Closed;

impl Outbox {
    /// Puts a frame about the connection or a stream's state, without waiting.
    pub(super) fn put_control(&self, put: impl FnOnce(&mut BytesMut)) -> Result<(), Closed> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Closed);
        }
        put(&mut state.buffer);
        if state.buffer.len() > HARD_LIMIT_BYTES {
            state.close();
            return Err(Closed);
        }
        wake_writer(state);
        Ok(())
    }

    /// Puts an item or a request of a stream once there is room.
    pub(super) fn poll_put(
        &self,
        context: &mut Context<'_>,
        stream: u32,
        put: impl FnOnce(&mut BytesMut),
    ) -> Poll<Result<(), Closed>> {
        let mut state = self.state.lock();
        if state.closed {
            return Poll::Ready(Err(Closed));
        }
        if state.buffer.len() >= HIGH_WATER_BYTES {
            state.waiting.insert(stream, context.waker().clone());
            return Poll::Pending;
        }
        put(&mut state.buffer);
        wake_writer(state);
        Poll::Ready(Ok(()))
    }

    /// Refuses everything from now on; the writer ends.
    pub(super) fn close(&self) {
        self.state.lock().close();
    }

    /// Writes what is put until the outbox is closed or the connection fails.
    pub(super) async fn write_to(
        &self,
        mut connection: WriteHalf<Box<dyn Connection>>,
        network: &dyn Network,
    ) -> io::Result<()> {
        let mut batch = BytesMut::new();
        while poll_fn(|context| self.poll_ready(context)).await {
            // One round for the streams that are ready as well: their frames join this write.
            tokio::task::yield_now().await;
            self.take(&mut batch);
            write_batch(&mut connection, &batch, network).await?;
            batch.clear();
            if batch.capacity() > KEPT_BUFFER_BYTES {
                batch = BytesMut::new();
            }
        }
        // What was put before the close still goes out: an END says more than a cut.
        self.take(&mut batch);
        write_batch(&mut connection, &batch, network).await?;
        connection.shutdown().await
    }

    /// Whether there is something to write; false once closed.
    fn poll_ready(&self, context: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.state.lock();
        if state.closed {
            return Poll::Ready(false);
        }
        if state.buffer.is_empty() {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(true)
    }

    /// Swaps the full buffer for the written one and lets those go on who wait for room.
    fn take(&self, written: &mut BytesMut) {
        let mut state = self.state.lock();
        std::mem::swap(&mut state.buffer, written);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_values().for_each(Waker::wake);
    }
}

/// Writes everything, as long as the peer keeps taking some of it.
async fn write_batch(
    connection: &mut WriteHalf<Box<dyn Connection>>,
    mut batch: &[u8],
    network: &dyn Network,
) -> io::Result<()> {
    while !batch.is_empty() {
        let taken = match timeout(STALL_BOUND, connection.write(batch)).await {
            Ok(taken) => taken?,
            Err(_) if network.excuses_silence() => continue,
            Err(stalled) => return Err(stalled.into()),
        };
        if taken == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        batch = &batch[taken..];
    }
    Ok(())
}

impl State {
    fn close(&mut self) {
        self.closed = true;
        self.writer.take().into_iter().for_each(Waker::wake);
        std::mem::take(&mut self.waiting)
            .into_values()
            .for_each(Waker::wake);
    }
}

/// Wakes the writer, with the lock released first so that it does not run into it.
fn wake_writer(mut state: parking_lot::MutexGuard<'_, State>) {
    let writer = state.writer.take();
    drop(state);
    writer.into_iter().for_each(Waker::wake);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Environment;
    use bytes::BufMut;
    use std::sync::Arc;
    use tokio::io::AsyncReadExt;

    fn put_byte(byte: u8) -> impl FnOnce(&mut BytesMut) {
        move |out| out.put_u8(byte)
    }

    #[tokio::test]
    async fn frames_leave_in_order_and_the_last_ones_after_the_close() {
        let (near, mut far) = tokio::io::duplex(64);
        let (_, write) = tokio::io::split(Box::new(near) as Box<dyn Connection>);
        let outbox = Arc::new(Outbox::default());
        for byte in 0..100 {
            outbox.put_control(put_byte(byte)).unwrap();
        }
        outbox.close();
        assert_eq!(outbox.put_control(put_byte(0)), Err(Closed));
        let mut read = Vec::new();
        let network = Environment::system().network;
        let (written, got) = tokio::join!(
            outbox.write_to(write, &*network),
            far.read_to_end(&mut read)
        );
        written.unwrap();
        got.unwrap();
        assert_eq!(read, (0..100).collect::<Vec<u8>>());
    }

    #[test]
    fn items_wait_above_the_high_water_mark_and_control_frames_do_not() {
        let outbox = Outbox::default();
        let mut context = Context::from_waker(Waker::noop());
        let fill = |out: &mut BytesMut| out.put_bytes(0, HIGH_WATER_BYTES);
        assert_eq!(outbox.poll_put(&mut context, 1, fill), Poll::Ready(Ok(())));
        assert!(outbox.poll_put(&mut context, 1, put_byte(1)).is_pending());
        assert_eq!(outbox.put_control(put_byte(2)), Ok(()));
        let mut taken = BytesMut::new();
        outbox.take(&mut taken);
        assert_eq!(taken.len(), HIGH_WATER_BYTES + 1);
        assert_eq!(
            outbox.poll_put(&mut context, 1, put_byte(3)),
            Poll::Ready(Ok(()))
        );
    }

    #[test]
    fn a_peer_that_never_reads_is_given_up() {
        let outbox = Outbox::default();
        let flood = |out: &mut BytesMut| out.put_bytes(0, HARD_LIMIT_BYTES + 1);
        assert_eq!(outbox.put_control(flood), Err(Closed));
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(
            outbox.poll_put(&mut context, 1, put_byte(1)),
            Poll::Ready(Err(Closed))
        );
    }

    #[test]
    fn a_stream_that_is_polled_often_while_it_waits_takes_one_place() {
        let outbox = Outbox::default();
        let mut context = Context::from_waker(Waker::noop());
        let fill = |out: &mut BytesMut| out.put_bytes(0, HIGH_WATER_BYTES);
        assert!(outbox.poll_put(&mut context, 1, fill).is_ready());
        for _ in 0..1000 {
            assert!(outbox.poll_put(&mut context, 1, put_byte(1)).is_pending());
            assert!(outbox.poll_put(&mut context, 2, put_byte(1)).is_pending());
        }
        assert_eq!(outbox.state.lock().waiting.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_for_too_long_ends_the_writer() {
        let (near, mut far) = tokio::io::duplex(64);
        let (_, write) = tokio::io::split(Box::new(near) as Box<dyn Connection>);
        let outbox = Outbox::default();
        outbox.put_control(|out| out.put_bytes(0, 64 * 4)).unwrap();
        // Slow, but it goes on: each read makes room within the bound.
        let read = async {
            let mut some = [0; 64];
            for _ in 0..3 {
                tokio::time::sleep(STALL_BOUND / 2).await;
                far.read_exact(&mut some).await.unwrap();
            }
            outbox.put_control(|out| out.put_bytes(0, 64)).unwrap();
            std::future::pending::<()>().await;
        };
        let started = tokio::time::Instant::now();
        let network = Environment::system().network;
        let ended = tokio::select! {
            biased;
            () = read => unreachable!("it waits for ever"),
            ended = outbox.write_to(write, &*network) => ended,
        };
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), STALL_BOUND / 2 * 3 + STALL_BOUND);
    }
}
