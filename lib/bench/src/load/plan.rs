//! What is sent, in which order and when: conversations one after the other, each a function of
//! the seed and its number, or the requests of a trace.
//!
//! Invariants
//! - At most `requests` turns are handed out in all: the last conversation may be cut short.
//! - Two plans with the same settings hand out the same.

use super::arrivals::Arrivals;
use super::length::Length;
use super::trace::TraceRequest;
use crate::random::{Stream, bits};
use std::sync::Arc;
use std::time::Duration;

/// Shapes of synthetic conversations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Seed of everything.
    pub seed: u64,
    /// Prompt tokens of a conversation's first turn, beside the shared prefix.
    pub input: Length,
    /// Prompt tokens that a later turn adds.
    pub turn_input: Length,
    /// Answer tokens.
    pub output: Length,
    /// Turns of a conversation.
    pub turns: u32,
    /// Tokens of the prefix that conversations share; 0 for none.
    pub prefix_tokens: u32,
    /// How many such prefixes there are.
    pub num_prefixes: u32,
}

/// Where conversations come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// They are made up.
    Synthetic(Shape),
    /// They are those of a trace, one turn each.
    Trace {
        /// Its requests.
        requests: Arc<[TraceRequest]>,
        /// How many times faster than it was recorded; 0 has no pauses at all.
        speedup: f64,
    },
}

/// One conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// Its number, from 0.
    pub number: u64,
    /// When it starts, as an offset; without meaning in a closed loop.
    pub at: Duration,
    /// How many turns it takes.
    pub turns: u32,
}

/// What a turn asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Prompt tokens that it adds.
    pub input_tokens: u32,
    /// Answer tokens.
    pub output_tokens: u32,
}

/// Hands out conversations.
#[derive(Debug)]
pub struct Plan {
    source: Source,
    arrivals: Option<Arrivals>,
    left: u64,
    next: u64,
}

impl Shape {
    /// What a turn of a conversation asks for.
    pub fn turn(&self, conversation: u64, turn: u32) -> Turn {
        let input = match turn {
            0 => self.input,
            _ => self.turn_input,
        };
        let draw =
            |length: Length, stream| length.draw(self.seed, stream, conversation, u64::from(turn));
        Turn {
            input_tokens: draw(input, Stream::InputTokens),
            output_tokens: draw(self.output, Stream::OutputTokens),
        }
    }

    /// The shared prefix that a conversation starts with.
    pub fn prefix(&self, conversation: u64) -> Option<u64> {
        let drawn = bits(self.seed, Stream::Prefix, conversation, 0);
        (self.prefix_tokens > 0).then(|| drawn % u64::from(self.num_prefixes.max(1)))
    }
}

impl Source {
    /// What a turn of a conversation asks for.
    pub fn turn(&self, conversation: u64, turn: u32) -> Turn {
        match self {
            Self::Synthetic(shape) => shape.turn(conversation, turn),
            Self::Trace { .. } => match self.traced(conversation) {
                Some(request) => Turn {
                    input_tokens: request.input_tokens,
                    output_tokens: request.output_tokens,
                },
                None => Turn {
                    input_tokens: 1,
                    output_tokens: 1,
                },
            },
        }
    }

    /// The request of a trace that a conversation is.
    pub fn traced(&self, conversation: u64) -> Option<&TraceRequest> {
        match self {
            Self::Synthetic(_) => None,
            Self::Trace { requests, .. } => requests.get(usize::try_from(conversation).ok()?),
        }
    }
}

impl Plan {
    /// A plan of at most `requests` turns. Without arrivals conversations start at once.
    pub fn new(source: Source, arrivals: Option<Arrivals>, requests: u64) -> Self {
        Self {
            source,
            arrivals,
            left: requests,
            next: 0,
        }
    }
}

impl Iterator for Plan {
    type Item = Conversation;

    fn next(&mut self) -> Option<Conversation> {
        if self.left == 0 {
            return None;
        }
        let number = self.next;
        let (at, turns) = match &self.source {
            Source::Synthetic(shape) => {
                let at = self.arrivals.as_mut().and_then(Iterator::next);
                (at.unwrap_or_default(), shape.turns.max(1))
            }
            Source::Trace { speedup, .. } => {
                let at = self.source.traced(number)?.at;
                let at = match *speedup > 0.0 {
                    true => Duration::try_from_secs_f64(at.as_secs_f64() / speedup),
                    false => Ok(Duration::ZERO),
                };
                (at.unwrap_or(Duration::MAX), 1)
            }
        };
        let turns = u64::from(turns).min(self.left);
        self.left -= turns;
        self.next += 1;
        Some(Conversation {
            number,
            at,
            // It was a u32 before the minimum.
            turns: u32::try_from(turns).unwrap_or(u32::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::arrivals::Spacing;
    use proptest::prelude::*;

    fn shape(seed: u64, turns: u32) -> Shape {
        Shape {
            seed,
            input: Length::Uniform(10, 100),
            turn_input: Length::Fixed(7),
            output: Length::Normal(50.0, 10.0),
            turns,
            prefix_tokens: 20,
            num_prefixes: 4,
        }
    }

    #[test]
    fn a_trace_is_replayed_at_its_speed_and_once() {
        let request = |seconds, tokens| TraceRequest {
            at: Duration::from_secs(seconds),
            input_tokens: tokens,
            output_tokens: 1,
            blocks: Box::default(),
        };
        let requests: Arc<[TraceRequest]> = [request(0, 5), request(10, 6)].into();
        let at = |speedup| -> Vec<Duration> {
            let requests = Arc::clone(&requests);
            let source = Source::Trace { requests, speedup };
            assert_eq!(source.turn(1, 0).input_tokens, 6);
            Plan::new(source, None, u64::MAX).map(|it| it.at).collect()
        };
        assert_eq!(at(4.0), [Duration::ZERO, Duration::from_millis(2_500)]);
        assert_eq!(at(0.0), [Duration::ZERO; 2]);
    }

    #[test]
    fn later_turns_add_what_is_theirs_and_prefixes_are_shared() {
        let shape = shape(1, 3);
        assert_eq!(shape.turn(5, 1).input_tokens, 7);
        assert!((10..=100).contains(&shape.turn(5, 0).input_tokens));
        let mut prefixes: Vec<_> = (0..200).filter_map(|it| shape.prefix(it)).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        assert_eq!(prefixes, [0, 1, 2, 3]);
    }

    proptest! {
        #[test]
        fn the_plan_hands_out_as_many_turns_as_asked_and_repeats(
            seed: u64, turns in 1..9_u32, requests in 0..200_u64,
        ) {
            let plan = || {
                let arrivals = Arrivals::new(Spacing::Poisson, 3.0, seed);
                Plan::new(Source::Synthetic(shape(seed, turns)), Some(arrivals), requests)
            };
            let all: Vec<_> = plan().collect();
            prop_assert_eq!(all.iter().map(|it| u64::from(it.turns)).sum::<u64>(), requests);
            prop_assert!(all.is_sorted_by_key(|it| it.at));
            prop_assert!(all.iter().zip(0..).all(|(it, number)| it.number == number));
            prop_assert_eq!(all, plan().collect::<Vec<_>>());
        }
    }
}
