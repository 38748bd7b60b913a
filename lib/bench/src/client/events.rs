//! Server-sent events out of the pieces in which a body comes. Works in place: bytes are copied
//! only where an event spans two pieces, or several lines.

use memchr::{memchr, memmem};

/// Largest event: the last one of a stream may carry a whole answer, and nothing larger does.
const MAX_EVENT_BYTES: usize = 16 << 20;

/// The events of one stream.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// An event whose end has not come.
    pending: Vec<u8>,
}

/// An event is larger than any that makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event has more than {MAX_EVENT_BYTES} bytes")]
pub(crate) struct EventTooLarge;

impl Events {
    /// Takes a piece and shows the data of each event that it completes.
    pub(crate) fn feed(
        &mut self,
        piece: &[u8],
        mut show: impl FnMut(&[u8]),
    ) -> Result<(), EventTooLarge> {
        if self.pending.is_empty() {
            let rest = each_event(piece, &mut show);
            self.pending.extend_from_slice(rest);
        } else {
            self.pending.extend_from_slice(piece);
            let rest = each_event(&self.pending, &mut show).len();
            let done = self.pending.len() - rest;
            self.pending.drain(..done);
        }
        match self.pending.len() > MAX_EVENT_BYTES {
            true => Err(EventTooLarge),
            false => Ok(()),
        }
    }

    /// Whether the stream stands within an event.
    pub(crate) fn is_within_event(&self) -> bool {
        !self.pending.is_empty()
    }
}

/// Shows the data of every whole event; gives back what is left.
fn each_event<'a>(mut bytes: &'a [u8], show: &mut impl FnMut(&[u8])) -> &'a [u8] {
    while let Some((event, rest)) = split_event(bytes) {
        show_data(event, show);
        bytes = rest;
    }
    bytes
}

/// The bytes up to an empty line, and those behind it. A `\r` before a line's end stays.
fn split_event(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut start = 0;
    loop {
        let end = start + memchr(b'\n', bytes.get(start..)?)?;
        match bytes.get(end + 1..)? {
            [b'\n', rest @ ..] | [b'\r', b'\n', rest @ ..] => return Some((&bytes[..end], rest)),
            _ => start = end + 1,
        }
    }
}

fn show_data(event: &[u8], show: &mut impl FnMut(&[u8])) {
    let mut lines = event
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter_map(|line| line.strip_prefix(b"data:"))
        .map(|data| data.strip_prefix(b" ").unwrap_or(data));
    let Some(first) = lines.next() else {
        // A comment, or an event without data: a sign of life.
        return;
    };
    // Almost every event has one line.
    if memmem::find(event, b"\ndata:").is_none() {
        return show(first);
    }
    let mut joined = first.to_vec();
    for line in lines {
        joined.push(b'\n');
        joined.extend_from_slice(line);
    }
    show(&joined);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<String>, bool) {
        let mut events = Events::default();
        let mut shown = Vec::new();
        for piece in pieces {
            events
                .feed(piece, |data| {
                    shown.push(String::from_utf8_lossy(data).into_owned())
                })
                .unwrap();
        }
        (shown, events.is_within_event())
    }

    const STREAM: &str = "data: {\"a\":1}\n\n: keep-alive\n\nevent: x\r\ndata:two\r\n\r\n\
                          data: one\ndata: two\n\nid: 5\ndata: [DONE]\n\n";

    #[test]
    fn events_are_read_in_every_form_that_servers_write() {
        let (shown, is_within) = read([STREAM.as_bytes()]);
        assert_eq!(shown, ["{\"a\":1}", "two", "one\ntwo", "[DONE]"]);
        assert!(!is_within);
        assert!(read([b"data: half".as_slice()]).1);
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut events = Events::default();
        let piece = vec![b'x'; MAX_EVENT_BYTES];
        assert_eq!(events.feed(&piece, |_| ()), Ok(()));
        assert_eq!(events.feed(b"x", |_| ()), Err(EventTooLarge));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_a_stream_is_cut(cuts in proptest::collection::vec(0..STREAM.len(), 0..12)) {
            let mut cuts = cuts;
            cuts.push(0);
            cuts.push(STREAM.len());
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &STREAM.as_bytes()[pair[0]..pair[1]]);
            prop_assert_eq!(read(pieces), read([STREAM.as_bytes()]));
        }

        #[test]
        fn no_bytes_make_it_panic(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..10)) {
            read(pieces.iter().map(Vec::as_slice));
        }
    }
}
