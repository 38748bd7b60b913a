//! A connection that cannot be held for nothing.
//!
//! The HTTP library bounds the time for a request's head once it knows the protocol. Two holes
//! remain, and this wrapper closes them: a client that connects and does not say enough to tell
//! the protocol, and one that takes nothing of what is sent to it.

use dynamo_runtime::environment::Connection;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// What an HTTP/2 client says first. Whatever differs from it is HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client's connection with its time limits.
pub(crate) struct Guarded {
    inner: Box<dyn Connection>,
    /// Runs until the protocol is known.
    opening: Option<Pin<Box<Sleep>>>,
    /// How many bytes of the preface have come.
    matched: usize,
    write_timeout: Duration,
    /// Runs while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    pub(crate) fn new(
        inner: Box<dyn Connection>,
        header_timeout: Duration,
        write_timeout: Duration,
    ) -> Self {
        Self {
            inner,
            opening: Some(Box::pin(sleep(header_timeout))),
            matched: 0,
            write_timeout,
            stalled: None,
        }
    }

    /// Takes note of what has been read.
    fn read(&mut self, bytes: &[u8]) {
        if self.opening.is_none() {
            return;
        }
        for byte in bytes {
            if PREFACE.get(self.matched) != Some(byte) {
                self.opening = None;
                return;
            }
            self.matched += 1;
        }
        if self.matched == PREFACE.len() {
            self.opening = None;
        }
    }

    /// Passes on the result of a write, or the error of a write that takes too long.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let timeout = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(timeout)));
        match stalled.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        match (&result, &mut self.opening) {
            (Poll::Ready(_), _) => self.read(&buf.filled()[before..]),
            (Poll::Pending, Some(opening)) => {
                if opening.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            (Poll::Pending, None) => {}
        }
        result
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.written(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.written(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.written(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.written(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const LIMIT: Duration = Duration::from_secs(5);

    async fn outcome_of_opening(said: &[u8]) -> bool {
        let (mut client, server) = duplex(64);
        let mut server = Guarded::new(Box::new(server), LIMIT, LIMIT);
        client.write_all(said).await.unwrap();
        let mut buffer = vec![0; said.len()];
        server.read_exact(&mut buffer).await.unwrap();
        let waiting = tokio::time::timeout(LIMIT * 2, server.read_u8()).await;
        matches!(waiting, Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_must_say_which_protocol_it_speaks_within_the_limit() {
        for undecided in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM"] {
            assert!(outcome_of_opening(undecided).await, "{undecided:?}");
        }
        for decided in [&b"G"[..], b"PO", PREFACE] {
            assert!(!outcome_of_opening(decided).await, "{decided:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_must_take_something_within_the_limit() {
        let (mut client, server) = duplex(4);
        let mut server = Guarded::new(Box::new(server), LIMIT, LIMIT);
        let writing = server.write_all(&[0; 9]);
        let reading = async {
            sleep(LIMIT - Duration::from_secs(1)).await;
            let mut four = [0; 4];
            client.read_exact(&mut four).await.unwrap();
            tokio::time::Instant::now()
        };
        let (written, last_taken) = tokio::join!(writing, reading);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(last_taken.elapsed(), LIMIT);
    }
}
