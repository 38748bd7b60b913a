//! What an answer says of itself in passing: how many events it has, where they end, and the
//! token counts at its end. Pure; nothing is parsed that is not needed.

use memchr::memmem;

/// End of an answer that is kept to look for token counts in: an event with usage has a few
/// hundred bytes, and the end mark follows.
const TAIL_BYTES: usize = 2_048;

/// Token counts that an answer told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tokens of the prompt.
    pub prompt: Option<u64>,
    /// Tokens generated.
    pub completion: Option<u64>,
    /// Prompt tokens that came from a cache.
    pub cached: Option<u64>,
}

/// The last bytes of an answer.
#[derive(Debug, Default)]
pub struct Tail {
    bytes: Vec<u8>,
}

/// Reads a stream of server-sent events as it passes.
#[derive(Debug)]
pub struct EventScan {
    /// How many bytes of a line's beginning fit `data:`; past [`OTHER`] the line is something else.
    matched: usize,
    /// The last byte was a line's end.
    at_line_start: bool,
}

const DATA: &[u8] = b"data:";

/// The line is no data.
const OTHER: usize = usize::MAX;

/// What a piece of a stream holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Lines of data that end in it or go past it, each counted where its field name ends.
    pub events: u32,
    /// Length of its beginning that ends with an event, 0 if no event ends in it.
    pub whole: usize,
}

impl Default for EventScan {
    fn default() -> Self {
        Self {
            matched: 0,
            at_line_start: true,
        }
    }
}

impl EventScan {
    /// Reads the next piece.
    pub fn scan(&mut self, piece: &[u8]) -> Scanned {
        let mut scanned = Scanned::default();
        let mut at = 0;
        while at < piece.len() {
            if self.matched < DATA.len() {
                self.begin_line(piece, &mut at, &mut scanned);
            } else {
                let Some(end) = memchr::memchr(b'\n', &piece[at..]) else {
                    self.at_line_start = false;
                    return scanned;
                };
                at += end + 1;
                self.matched = 0;
                self.at_line_start = true;
            }
        }
        scanned
    }

    /// At the beginning of a line, or in its field's name.
    fn begin_line(&mut self, piece: &[u8], at: &mut usize, scanned: &mut Scanned) {
        let byte = piece[*at];
        *at += 1;
        match byte {
            b'\n' => {
                if self.at_line_start {
                    scanned.whole = *at;
                }
                self.matched = 0;
                self.at_line_start = true;
            }
            // An empty line may be written with a return.
            b'\r' if self.at_line_start => {}
            _ if byte == DATA[self.matched] => {
                self.at_line_start = false;
                self.matched += 1;
                scanned.events += u32::from(self.matched == DATA.len());
            }
            _ => {
                self.at_line_start = false;
                self.matched = OTHER;
            }
        }
    }
}

impl Tail {
    /// Adds a piece.
    pub fn push(&mut self, piece: &[u8]) {
        let piece = &piece[piece.len().saturating_sub(TAIL_BYTES)..];
        if self.bytes.len() + piece.len() > 2 * TAIL_BYTES {
            let old = self.bytes.len();
            self.bytes.copy_within(old - TAIL_BYTES.min(old).., 0);
            self.bytes.truncate(TAIL_BYTES.min(old));
        }
        self.bytes.extend_from_slice(piece);
    }

    /// Whether it holds these bytes.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        memmem::find(&self.bytes, bytes).is_some()
    }

    /// The token counts in it; the last of each.
    pub fn counts(&self) -> Counts {
        counts(&self.bytes)
    }
}

/// The last token counts in an answer's end.
pub fn counts(bytes: &[u8]) -> Counts {
    let end = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
    Counts {
        prompt: number_after(end, b"\"prompt_tokens\""),
        completion: number_after(end, b"\"completion_tokens\""),
        cached: number_after(end, b"\"cached_tokens\""),
    }
}

/// The number that follows the last such key.
fn number_after(bytes: &[u8], key: &[u8]) -> Option<u64> {
    let at = memmem::rfind(bytes, key)?;
    let rest = bytes[at + key.len()..].trim_ascii_start();
    let rest = rest.strip_prefix(b":")?.trim_ascii_start();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{Strategy, any, prop, proptest};
    use proptest::{prop_assert_eq, prop_oneof};

    const STREAM: &str = ": hello\n\ndata: {\"a\":1}\n\nevent: x\ndata:2\r\n\r\ndata: [DONE]\n\n";

    #[test]
    fn events_and_their_ends_are_counted() {
        let scanned = EventScan::default().scan(STREAM.as_bytes());
        assert_eq!(
            scanned,
            Scanned {
                events: 3,
                whole: STREAM.len()
            }
        );
        let cut = &STREAM[..STREAM.len() - 5];
        let scanned = EventScan::default().scan(cut.as_bytes());
        assert_eq!(scanned.whole, STREAM.find("data: [").unwrap());
    }

    #[test]
    fn counts_are_those_of_the_last_usage() {
        let body = br#"{"usage":{"prompt_tokens":1}} data: {"usage": {"prompt_tokens": 12,
            "completion_tokens":3, "prompt_tokens_details":{"cached_tokens" : 8}}}"#;
        let expected = Counts {
            prompt: Some(12),
            completion: Some(3),
            cached: Some(8),
        };
        assert_eq!(counts(body), expected);
        let none = br#"{"prompt_tokens_details":null,"cached_tokens":null,"completion_tokens":"#;
        assert_eq!(counts(none), Counts::default());
    }

    fn line() -> impl Strategy<Value = String> {
        prop_oneof!["data: ?[a-z:]{0,6}", "[a-z:]{0,5}", "dat[a-z]?", "d?"]
    }

    proptest! {
        #[test]
        fn pieces_are_scanned_like_the_whole(
            lines in prop::collection::vec(line(), 0..20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let text = lines.join("\n");
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.push(0);
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let (mut scan, mut events, mut whole) = (EventScan::default(), 0, 0);
            for pair in cuts.windows(2) {
                let scanned = scan.scan(&bytes[pair[0]..pair[1]]);
                events += scanned.events;
                if scanned.whole > 0 {
                    whole = pair[0] + scanned.whole;
                }
            }
            let naive = lines.iter().filter(|line| line.starts_with("data:")).count();
            prop_assert_eq!(events as usize, naive);
            let end = match text.rfind("\n\n") {
                Some(at) => at + 2,
                None => usize::from(text.starts_with('\n')),
            };
            prop_assert_eq!(whole, end);
        }

        #[test]
        fn the_tail_ends_like_the_whole(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3_000), 0..12),
        ) {
            let mut tail = Tail::default();
            for piece in &pieces {
                tail.push(piece);
            }
            let whole = pieces.concat();
            let kept = whole.len().min(TAIL_BYTES);
            prop_assert_eq!(&tail.bytes[tail.bytes.len() - kept..], &whole[whole.len() - kept..]);
        }
    }
}
