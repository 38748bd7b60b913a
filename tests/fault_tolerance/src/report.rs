//! What a run came to: figures, and what is wrong. Pure.

use crate::answer::Answer;
use crate::load::{End, Moment, Outcome};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Problems that a report tells in words; more are only counted.
const MOST_TOLD: usize = 12;

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Which run.
    pub name: String,
    /// Questions asked.
    pub requests: usize,
    /// Tokens of whole answers.
    pub tokens: u64,
    /// How long it took.
    pub took: Duration,
    /// Ends that are no whole answers, by how they ended.
    pub errors: BTreeMap<String, usize>,
    /// Those of them that are promised to nobody: requests of a frontend that was killed.
    pub excused: usize,
    /// Tokens lost.
    pub lost: u64,
    /// Tokens that came twice.
    pub doubled: u64,
    /// Streams that hang.
    pub hung: usize,
    /// Whole answers that are not those of the undisturbed run.
    pub differing: usize,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, usize>,
    /// Answers that moved, and how often they did in all.
    pub moved: (usize, usize),
    /// Longest time without a token of each answer that moved.
    pub gaps: Vec<Duration>,
    /// From the moment a frontend gave a worker up, to the next token.
    pub resumed: Vec<Duration>,
    /// What else there is to know.
    pub notes: Vec<String>,
    /// What is wrong.
    pub problems: Vec<String>,
}

impl Report {
    /// A report about nothing yet.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// Something is wrong.
    pub fn problem(&mut self, what: impl Into<String>) {
        self.problems.push(what.into());
    }

    /// Takes in what became of the questions, beside the undisturbed answers to them. Errors for
    /// which `is_excused` holds are counted and are no problem.
    pub fn judge(
        &mut self,
        outcomes: &[Outcome],
        undisturbed: &[Answer],
        is_excused: impl Fn(&Outcome) -> bool,
    ) {
        self.requests += outcomes.len();
        for outcome in outcomes {
            let id = &outcome.request_id;
            let how = match &outcome.end {
                End::Whole => {
                    self.judge_whole(outcome, &undisturbed[outcome.question]);
                    continue;
                }
                End::Refused(status, code) => format!("status {status} {code}"),
                End::Failed(code) => format!("error event {code}"),
                End::Cut(error) => format!("connection: {error}"),
                End::Hung => "hung".to_owned(),
            };
            self.hung += usize::from(outcome.end == End::Hung);
            if is_excused(outcome) && outcome.end != End::Hung {
                self.excused += 1;
            } else {
                let tokens = outcome.pieces.len();
                self.problem(format!("{id}: {how}, after {tokens} pieces"));
            }
            *self.errors.entry(how).or_default() += 1;
        }
    }

    fn judge_whole(&mut self, outcome: &Outcome, undisturbed: &Answer) {
        let difference = outcome.answer.compare(undisturbed);
        self.tokens += outcome.answer.usage.map_or(0, |(_, tokens)| tokens);
        self.lost += difference.lost;
        self.doubled += difference.doubled;
        if difference.differs {
            self.differing += 1;
            let id = &outcome.request_id;
            let (got, should) = (&outcome.answer, undisturbed);
            self.problem(format!(
                "{id}: {difference:?}\n  got    {got:?}\n  should {should:?}"
            ));
        }
    }

    /// Takes in which answers moved and when.
    pub fn moves(&mut self, outcomes: &[Outcome], moves: &[(String, Moment)]) {
        let by_id: BTreeMap<&str, &Outcome> = outcomes
            .iter()
            .map(|outcome| (outcome.request_id.as_str(), outcome))
            .collect();
        let mut moved: BTreeMap<&str, &Outcome> = BTreeMap::new();
        for (id, at) in moves {
            let Some((&id, outcome)) = by_id.get_key_value(id.as_str()) else {
                continue;
            };
            moved.insert(id, outcome);
            self.moved.1 += 1;
            let next = outcome.pieces.iter().find(|(moment, _)| moment > at);
            self.resumed
                .extend(next.map(|(moment, _)| span(*at, *moment)));
        }
        self.moved.0 += moved.len();
        let gaps = moved.values().map(|outcome| longest_gap(outcome));
        self.gaps.extend(gaps);
    }
}

/// Longest time that one of the choices stood still.
fn longest_gap(outcome: &Outcome) -> Duration {
    let mut last: BTreeMap<usize, Moment> = BTreeMap::new();
    let mut longest = 0;
    for &(moment, choice) in &outcome.pieces {
        let before = last.insert(choice, moment).unwrap_or(outcome.asked);
        longest = longest.max(moment - before);
    }
    span(0, longest)
}

fn span(from: Moment, to: Moment) -> Duration {
    Duration::from_micros(u64::try_from(to - from).unwrap_or_default())
}

/// Value below which this share of them lies.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

fn distribution(times: &[Duration]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    if sorted.is_empty() {
        return "none".to_owned();
    }
    let shown = |share| format!("{:.2} s", percentile(&sorted, share).as_secs_f64());
    format!(
        "p50 {}, p90 {}, p99 {}, max {} ({})",
        shown(0.5),
        shown(0.9),
        shown(0.99),
        shown(1.0),
        sorted.len()
    )
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_clean() {
            "clean"
        } else {
            "NOT CLEAN"
        };
        writeln!(f, "{}: {verdict}", self.name)?;
        writeln!(
            f,
            "  requests {}, tokens {}, {:.0} s",
            self.requests,
            self.tokens,
            self.took.as_secs_f64()
        )?;
        let errors: usize = self.errors.values().sum();
        write!(f, "  errors {}", errors - self.excused)?;
        if self.excused > 0 {
            write!(f, " (and {} of killed frontends)", self.excused)?;
        }
        writeln!(
            f,
            ", lost tokens {}, doubled tokens {}, hung {}, other texts {}",
            self.lost, self.doubled, self.hung, self.differing
        )?;
        for (how, count) in &self.errors {
            writeln!(f, "    {count} x {how}")?;
        }
        let faults: usize = self.faults.values().sum();
        write!(f, "  faults {faults}")?;
        for (kind, count) in &self.faults {
            write!(f, ", {kind} {count}")?;
        }
        let (answers, moves) = self.moved;
        writeln!(f, "\n  moved {answers} answers, {moves} times")?;
        if answers > 0 {
            writeln!(
                f,
                "  longest gap of those       {}",
                distribution(&self.gaps)
            )?;
            writeln!(
                f,
                "  from notice to next token  {}",
                distribution(&self.resumed)
            )?;
        }
        for note in &self.notes {
            writeln!(f, "  {note}")?;
        }
        for problem in self.problems.iter().take(MOST_TOLD) {
            writeln!(f, "  PROBLEM {problem}")?;
        }
        if self.problems.len() > MOST_TOLD {
            writeln!(f, "  and {} problems more", self.problems.len() - MOST_TOLD)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(end: End, pieces: &[(Moment, usize)]) -> Outcome {
        Outcome {
            question: 0,
            request_id: "r-0".to_owned(),
            frontend: 0,
            asked: 1_000_000,
            pieces: pieces.to_vec(),
            ended: 9_000_000,
            end,
            answer: Answer::default(),
        }
    }

    #[test]
    fn a_gap_is_of_one_choice_and_begins_with_the_question() {
        let pieces = [
            (3_000_000, 0),
            (3_100_000, 1),
            (7_000_000, 0),
            (5_000_000, 1),
        ];
        let outcome = outcome(End::Whole, &pieces);
        assert_eq!(longest_gap(&outcome), Duration::from_secs(4));
        let mut report = Report::new("test");
        report.moves(
            &[outcome],
            &[("r-0".to_owned(), 4_000_000), ("r-1".to_owned(), 1)],
        );
        assert_eq!(report.moved, (1, 1));
        assert_eq!(report.resumed, [Duration::from_secs(3)]);
        assert_eq!(report.gaps, [Duration::from_secs(4)]);
    }

    #[test]
    fn what_is_no_whole_answer_is_a_problem_unless_it_is_excused() {
        let outcomes = [
            outcome(End::Cut("reset".to_owned()), &[]),
            outcome(End::Hung, &[]),
            outcome(End::Whole, &[]),
        ];
        let mut report = Report::new("test");
        report.judge(&outcomes, &[Answer::default()], |_| true);
        assert_eq!(
            (report.excused, report.hung, report.problems.len()),
            (1, 1, 1)
        );
        let mut report = Report::new("test");
        report.judge(&outcomes, &[Answer::default()], |_| false);
        assert_eq!((report.excused, report.problems.len()), (0, 2));
        assert!(report.to_string().contains("1 x connection: reset"));
    }

    #[test]
    fn percentiles_are_of_the_values_themselves() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_secs).collect();
        assert_eq!(percentile(&times, 0.5), Duration::from_secs(50));
        assert_eq!(percentile(&times, 1.0), Duration::from_secs(100));
        assert_eq!(percentile(&times[..1], 0.5), Duration::from_secs(1));
    }
}
