//! Messages of a medium that wait for one reader: bounded in bytes, and what comes beyond is lost.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::Notify;

/// Messages that wait to be read. There is one reader.
#[derive(Debug)]
pub struct WaitingMessages {
    most: usize,
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Bytes>,
    bytes: usize,
    ended: bool,
}

impl WaitingMessages {
    /// Room for this many bytes.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            waiting: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Puts a message, or loses it if there is no room. Whether it was put.
    pub fn put(&self, message: Bytes) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.ended || waiting.bytes + message.len() > self.most {
            return false;
        }
        waiting.bytes += message.len();
        waiting.messages.push_back(message);
        drop(waiting);
        self.changed.notify_one();
        true
    }

    /// Nothing comes any more.
    pub fn end(&self) {
        self.waiting.lock().ended = true;
        self.changed.notify_one();
    }

    /// The next message; `None` after the end. Can be dropped at any point.
    pub async fn next(&self) -> Option<Bytes> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                if let Some(message) = waiting.messages.pop_front() {
                    waiting.bytes -= message.len();
                    return Some(message);
                }
                if waiting.ended {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn what_is_beyond_the_bound_is_lost_and_the_rest_comes_in_order() {
        let messages = WaitingMessages::new(10);
        let put = |text: &'static str| messages.put(Bytes::from_static(text.as_bytes()));
        assert!(put("12345") && put("67890") && !put("x"));
        assert_eq!(messages.next().now_or_never(), Some(Some("12345".into())));
        assert!(put("abc"));
        messages.end();
        assert!(!put("d"));
        assert_eq!(messages.next().now_or_never(), Some(Some("67890".into())));
        assert_eq!(messages.next().now_or_never(), Some(Some("abc".into())));
        assert_eq!(messages.next().now_or_never(), Some(None));
    }
}
