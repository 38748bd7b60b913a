//! Finds the first of several strings in a text that comes in pieces.
//!
//! One Knuth-Morris-Pratt automaton per string: its state is the length of the longest suffix of
//! the text so far that begins the string, which is at once what has to be withheld. With at most
//! a few dozen strings this is simpler than one joint automaton and as fast.

/// A stop string that was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Which one, in the order given.
    pub(super) index: usize,
    /// Where it ends in the piece just fed, exclusive.
    pub(super) end: usize,
    /// Its length; it may begin in an earlier piece.
    pub(super) len: usize,
}

#[derive(Debug)]
struct Automaton {
    index: usize,
    pattern: Box<[u8]>,
    /// `fallback[n]`: length of the longest proper suffix of the first `n` bytes that begins the
    /// pattern.
    fallback: Box<[usize]>,
    state: usize,
}

/// Searches for several strings at once.
#[derive(Debug, Default)]
pub(super) struct StopMatcher {
    automata: Vec<Automaton>,
}

impl Automaton {
    fn new(index: usize, pattern: &str) -> Self {
        let pattern: Box<[u8]> = pattern.as_bytes().into();
        let mut fallback = vec![0; pattern.len() + 1];
        let mut state = 0;
        for end in 1..pattern.len() {
            while state > 0 && pattern[state] != pattern[end] {
                state = fallback[state];
            }
            state += usize::from(pattern[state] == pattern[end]);
            fallback[end + 1] = state;
        }
        Self {
            index,
            pattern,
            fallback: fallback.into(),
            state: 0,
        }
    }

    /// Whether the pattern ends at this byte. Not called again after it did.
    fn step(&mut self, byte: u8) -> bool {
        while self.state > 0 && self.pattern[self.state] != byte {
            self.state = self.fallback[self.state];
        }
        self.state += usize::from(self.pattern[self.state] == byte);
        self.state == self.pattern.len()
    }
}

impl StopMatcher {
    /// A matcher at the beginning of a text. Empty strings never match.
    pub(super) fn new(strings: &[String]) -> Self {
        let automata = strings
            .iter()
            .enumerate()
            .filter(|(_, string)| !string.is_empty())
            .map(|(index, string)| Automaton::new(index, string))
            .collect();
        Self { automata }
    }

    /// Takes the next piece of text. Not called again once a string was found.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Option<Found> {
        if self.automata.is_empty() {
            return None;
        }
        piece.iter().enumerate().find_map(|(at, &byte)| {
            let mut found: Option<Found> = None;
            for automaton in &mut self.automata {
                let len = automaton.pattern.len();
                if automaton.step(byte) && found.is_none_or(|best| best.len < len) {
                    found = Some(Found {
                        index: automaton.index,
                        end: at + 1,
                        len,
                    });
                }
            }
            found
        })
    }

    /// Length of the longest end of the text that begins one of the strings.
    pub(super) fn longest_partial(&self) -> usize {
        self.automata
            .iter()
            .map(|automaton| automaton.state)
            .max()
            .unwrap_or(0)
    }
}
