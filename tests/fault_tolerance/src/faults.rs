//! When what fails, and how: drawn from a seed. Pure.

use crate::draws::Draws;
use std::time::Duration;

/// Longest time that something killed is away.
const LONGEST_ABSENCE: Duration = Duration::from_secs(2);

/// Shortest and longest time that something is frozen: less than it takes to be noticed, and more.
const FREEZE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));

/// What happens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL, and a new process in its place after a while.
    Kill,
    /// SIGSTOP, and SIGCONT after a while.
    Freeze,
}

/// A fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// When it happens, from the beginning.
    pub at: Duration,
    /// To which of those that may fail.
    pub victim: usize,
    /// What.
    pub kind: Kind,
    /// For how long.
    pub lasting: Duration,
}

/// Which faults a run has.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// Time from one fault to the next.
    pub every: Duration,
    /// How many may fail.
    pub victims: usize,
    /// What may happen to them.
    pub kinds: &'static [Kind],
}

impl Kind {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::Freeze => "SIGSTOP",
        }
    }
}

impl Plan {
    /// The fault of this number, from 1.
    pub fn nth(&self, number: u32) -> Fault {
        let mut draws = Draws::new(!self.seed, number);
        let victim = draws.between(0, self.victims - 1);
        let kind = *draws.one_of(self.kinds);
        let lasting = match kind {
            Kind::Kill => LONGEST_ABSENCE.mul_f64(draws.share()),
            Kind::Freeze => FREEZE.0 + (FREEZE.1 - FREEZE.0).mul_f64(draws.share()),
        };
        Fault {
            at: self.every * number,
            victim,
            kind,
            lasting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_victim_and_kind_has_its_turn_and_times_are_in_bounds() {
        let plan = Plan {
            seed: 4,
            every: Duration::from_secs(5),
            victims: 4,
            kinds: &[Kind::Kill, Kind::Freeze],
        };
        let faults: Vec<Fault> = (1..60).map(|nth| plan.nth(nth)).collect();
        for victim in 0..4 {
            for kind in [Kind::Kill, Kind::Freeze] {
                let is = |it: &&Fault| it.victim == victim && it.kind == kind;
                assert!(faults.iter().any(|it| is(&it)), "{victim} {kind:?}");
            }
        }
        assert!(faults.iter().all(|it| it.lasting <= FREEZE.1));
        assert_eq!(faults[2].at, Duration::from_secs(15));
    }
}
