//! Random numbers that are a function of a seed and of what they are for, so that a run can be
//! repeated whatever order things happen in.

use dynamo_protocols::draw::uniform;

/// The draws about one thing, such as a request or a fault.
#[derive(Debug, Clone)]
pub struct Draws {
    seed: u64,
    thing: u32,
    drawn: u64,
}

impl Draws {
    /// Draws about the thing of this number.
    pub fn new(seed: u64, thing: u32) -> Self {
        Self {
            seed,
            thing,
            drawn: 0,
        }
    }

    /// A number in `[0, 1)`.
    pub fn share(&mut self) -> f64 {
        self.drawn += 1;
        uniform(self.seed, self.thing, self.drawn)
    }

    /// Whether something happens that does so in this share of cases.
    pub fn happens(&mut self, share: f64) -> bool {
        self.share() < share
    }

    /// A number from `least` to `most`.
    pub fn between(&mut self, least: usize, most: usize) -> usize {
        let span = most - least + 1;
        least + ((self.share() * span as f64) as usize).min(span - 1)
    }

    /// One of these.
    pub fn one_of<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.between(0, things.len() - 1)]
    }
}
