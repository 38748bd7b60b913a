//! Cases by hand, and a publisher with several lives behind a lossy network.

use super::*;
use proptest::prelude::*;

fn payload(life: u32, sequence: u64) -> Bytes {
    Bytes::from(format!("{life}/{sequence}"))
}

/// Feeds live messages of one life and gives back the steps.
fn live(source: &mut Source, life: u32, numbers: impl IntoIterator<Item = u64>) -> Vec<Step> {
    let mut steps = Vec::new();
    for number in numbers {
        source.live(number, payload(life, number), &mut steps);
    }
    steps
}

fn replay(source: &mut Source, life: u32, numbers: impl IntoIterator<Item = u64>) -> Vec<Step> {
    let mut steps = Vec::new();
    for number in numbers {
        source.replayed(number, payload(life, number), &mut steps);
    }
    source.replay_ended(true, &mut steps);
    steps
}

fn connect(source: &mut Source) -> Vec<Step> {
    let mut steps = Vec::new();
    source.connected(&mut steps);
    steps
}

/// A short form: `d3` delivered, `l3+2` lost, `R` reset, `?3` replay from 3.
fn short(steps: &[Step]) -> String {
    let words: Vec<_> = steps
        .iter()
        .map(|step| match step {
            Step::Deliver { sequence, .. } => format!("d{sequence}"),
            Step::Lost { first, count } => format!("l{first}+{count}"),
            Step::Reset => "R".to_owned(),
            Step::Replay { from } => format!("?{from}"),
        })
        .collect();
    words.join(" ")
}

#[test]
fn messages_in_order_are_delivered() {
    let mut source = Source::new(false);
    assert_eq!(short(&connect(&mut source)), "");
    assert_eq!(short(&live(&mut source, 0, 0..4)), "d0 d1 d2 d3");
}

#[test]
fn without_replay_a_gap_is_a_loss_and_a_number_that_goes_back_a_new_life() {
    let mut source = Source::new(false);
    connect(&mut source);
    assert_eq!(
        short(&live(&mut source, 0, [2, 3, 7])),
        "l0+2 d2 d3 l4+3 d7"
    );
    assert_eq!(short(&live(&mut source, 1, [0, 1])), "R d0 d1");
    connect(&mut source);
    assert_eq!(short(&live(&mut source, 1, [2])), "d2");
    connect(&mut source);
    assert_eq!(short(&live(&mut source, 2, [1, 2])), "R l0+1 d1 d2");
}

#[test]
fn a_repeated_message_is_dropped() {
    for has_replay in [false, true] {
        let mut source = Source::new(has_replay);
        connect(&mut source);
        replay(&mut source, 0, []);
        assert_eq!(short(&live(&mut source, 0, [0, 1, 1, 0, 2, 1])), "d0 d1 d2");
    }
}

#[test]
fn a_new_router_catches_up_at_once_and_late_copies_are_dropped() {
    let mut source = Source::new(true);
    assert_eq!(short(&connect(&mut source)), "?0");
    assert_eq!(short(&live(&mut source, 0, [3, 4])), "");
    assert_eq!(
        short(&replay(&mut source, 0, 1..7)),
        "l0+1 d1 d2 d3 d4 d5 d6"
    );
    assert_eq!(short(&live(&mut source, 0, [5, 6, 7])), "d7");
}

#[test]
fn a_gap_is_asked_for_and_what_came_meanwhile_follows() {
    let mut source = Source::new(true);
    connect(&mut source);
    replay(&mut source, 0, []);
    assert_eq!(short(&live(&mut source, 0, [0, 3, 4])), "d0 ?1");
    assert_eq!(short(&replay(&mut source, 0, [1, 2, 3])), "d1 d2 d3 d4");
    // Out of order by a relay: the missing one is asked for and its late copy dropped.
    assert_eq!(short(&live(&mut source, 0, [6])), "?5");
    assert_eq!(short(&replay(&mut source, 0, [5, 6])), "d5 d6");
    assert_eq!(short(&live(&mut source, 0, [5, 7])), "d7");
}

#[test]
fn what_the_publisher_no_longer_keeps_is_lost() {
    let mut source = Source::new(true);
    connect(&mut source);
    replay(&mut source, 0, []);
    live(&mut source, 0, [0, 9]);
    assert_eq!(short(&replay(&mut source, 0, [6, 7])), "l1+5 d6 d7 ?8");
    assert_eq!(short(&replay(&mut source, 0, [])), "l8+1 d9");
}

#[test]
fn a_hole_within_the_answers_is_asked_for_again() {
    let mut source = Source::new(true);
    connect(&mut source);
    live(&mut source, 0, [9]);
    assert_eq!(
        short(&replay(&mut source, 0, [0, 1, 2, 7, 8, 9])),
        "d0 d1 d2 ?3"
    );
    assert_eq!(short(&replay(&mut source, 0, 3..9)), "d3 d4 d5 d6 d7 d8 d9");
}

#[test]
fn a_replay_that_breaks_off_is_asked_for_again_while_it_brings_something() {
    let mut source = Source::new(true);
    connect(&mut source);
    replay(&mut source, 0, []);
    live(&mut source, 0, [0, 5]);
    let mut steps = Vec::new();
    source.replayed(1, payload(0, 1), &mut steps);
    source.replay_ended(false, &mut steps);
    assert_eq!(short(&steps), "d1 ?2");
    steps.clear();
    source.replay_ended(false, &mut steps);
    assert_eq!(short(&steps), "l2+3 d5");
    assert_eq!(short(&live(&mut source, 0, [6])), "d6");
}

#[test]
fn a_long_replay_is_followed_by_another_one() {
    let mut source = Source::new(true);
    connect(&mut source);
    let steps = replay(&mut source, 0, 0..LONG_REPLAY);
    assert_eq!(steps.last(), Some(&Step::Replay { from: LONG_REPLAY }));
    assert_eq!(
        short(&replay(&mut source, 0, LONG_REPLAY..LONG_REPLAY + 2)),
        "d500 d501"
    );
}

#[test]
fn the_same_life_goes_on_after_a_lost_connection() {
    let mut source = Source::new(true);
    connect(&mut source);
    replay(&mut source, 0, 0..3);
    assert_eq!(short(&connect(&mut source)), "?2");
    assert_eq!(short(&live(&mut source, 0, [5])), "");
    assert_eq!(short(&replay(&mut source, 0, 2..6)), "d3 d4 d5");
}

#[test]
fn a_new_life_is_noticed_at_any_number() {
    // Fewer messages than before, as many, and more than it keeps.
    for (answers, expected) in [(vec![], "R ?0"), (vec![4, 5], "R ?0"), (vec![7, 8], "R ?0")] {
        let mut source = Source::new(true);
        connect(&mut source);
        replay(&mut source, 0, 0..5);
        assert_eq!(short(&connect(&mut source)), "?4");
        let mut steps = Vec::new();
        let ends = answers.is_empty();
        for number in answers {
            source.replayed(number, payload(1, number), &mut steps);
            if !steps.is_empty() {
                break;
            }
        }
        if ends {
            source.replay_ended(true, &mut steps);
        }
        assert_eq!(short(&steps), expected);
        assert_eq!(short(&replay(&mut source, 1, 0..2)), "d0 d1");
    }
}

#[test]
fn a_flood_during_a_replay_stays_within_its_bounds_and_is_asked_for_again() {
    let flood = MAX_PENDING_MESSAGES as u64 + 10;
    let mut source = Source::new(true);
    connect(&mut source);
    live(&mut source, 0, 1..=flood);
    assert_eq!(source.pending.len(), MAX_PENDING_MESSAGES);
    let steps = replay(&mut source, 0, [0]);
    assert_eq!(steps.len() as u64, flood - 10 + 2);
    assert_eq!(steps.last(), Some(&Step::Replay { from: flood - 9 }));
    let large = Bytes::from(vec![0; MAX_PENDING_BYTES / 2 + 1]);
    let mut source = Source::new(true);
    connect(&mut source);
    source.live(1, large.clone(), &mut Vec::new());
    source.live(2, large, &mut Vec::new());
    assert_eq!(source.pending.len(), 1);
}

#[test]
fn the_highest_number_does_not_overflow() {
    let mut source = Source::new(false);
    connect(&mut source);
    let steps = live(&mut source, 0, [END_OF_REPLAY - 1, 3]);
    assert_eq!(
        short(&steps),
        format!("l0+{0} d{0} R l0+3 d3", END_OF_REPLAY - 1)
    );
}

/// What happens to a publisher and the way to it.
#[derive(Debug, Clone)]
enum Happens {
    Publish {
        heard: bool,
        repeated: bool,
    },
    /// So many answers of the running replay arrive; each may be dropped on the way.
    Answers(Vec<bool>),
    ReplayBreaks,
    Reconnect,
    /// The publisher starts anew, having published so many before the new connection.
    Restart(u8),
}

fn happens(breaks: bool) -> impl Strategy<Value = Happens> {
    let broken = u32::from(breaks);
    prop_oneof![
        12 => (any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(heard, repeated)| Happens::Publish { heard, repeated }),
        8 => prop::collection::vec(prop::bool::weighted(0.9), 1..12).prop_map(Happens::Answers),
        broken => Just(Happens::ReplayBreaks),
        1 => Just(Happens::Reconnect),
        1 => any::<u8>().prop_map(|count| Happens::Restart(count % 12)),
    ]
}

/// A publisher, the router's side of it, and what was handed on.
struct World {
    source: Source,
    life: u32,
    published: u64,
    kept: u64,
    /// Answers on their way, the end marker last.
    answers: VecDeque<u64>,
    replaying: bool,
    log: Vec<Step>,
}

impl World {
    fn new(has_replay: bool, kept: u64) -> Self {
        let mut world = Self {
            source: Source::new(has_replay),
            life: 0,
            published: 0,
            kept,
            answers: VecDeque::new(),
            replaying: false,
            log: Vec::new(),
        };
        world.reconnect();
        world
    }

    fn perform(&mut self, steps: Vec<Step>) {
        for step in steps {
            if let Step::Replay { from } = step {
                let oldest = self.published.saturating_sub(self.kept);
                self.answers = (oldest.max(from)..self.published).collect();
                self.answers.push_back(END_OF_REPLAY);
                self.replaying = true;
            } else {
                self.log.push(step);
            }
        }
    }

    fn reconnect(&mut self) {
        self.answers.clear();
        self.replaying = false;
        let steps = connect(&mut self.source);
        self.perform(steps);
    }

    fn answer(&mut self, arrives: bool) {
        let Some(number) = self.answers.pop_front() else {
            return;
        };
        let mut steps = Vec::new();
        if number == END_OF_REPLAY {
            self.replaying = false;
            self.source.replay_ended(true, &mut steps);
        } else if arrives {
            let payload = payload(self.life, number);
            self.source.replayed(number, payload, &mut steps);
        }
        self.perform(steps);
    }

    fn settle(&mut self) {
        while self.replaying {
            self.answer(true);
        }
    }

    fn happen(&mut self, event: Happens) {
        match event {
            Happens::Publish { heard, repeated } => {
                let number = self.published;
                self.published += 1;
                if heard {
                    let steps = live(&mut self.source, self.life, [number]);
                    self.perform(steps);
                    if repeated {
                        let steps = live(&mut self.source, self.life, [number]);
                        self.perform(steps);
                    }
                }
            }
            Happens::Answers(arrive) => arrive.into_iter().for_each(|it| self.answer(it)),
            Happens::ReplayBreaks => {
                if std::mem::take(&mut self.replaying) {
                    self.answers.clear();
                    let mut steps = Vec::new();
                    self.source.replay_ended(false, &mut steps);
                    self.perform(steps);
                }
            }
            Happens::Reconnect => self.reconnect(),
            Happens::Restart(published) => {
                self.life += 1;
                self.published = published.into();
                self.reconnect();
            }
        }
    }

    /// Numbers follow each other without hole or repetition; with `strict`, messages of two lives
    /// never mix.
    fn check(&self, strict: bool) {
        let (mut next, mut life) = (0, None);
        for step in &self.log {
            match step {
                Step::Reset => (next, life) = (0, None),
                Step::Lost { first, count } => {
                    assert_eq!(*first, next);
                    assert!(*count > 0);
                    next += count;
                }
                Step::Deliver {
                    sequence, payload, ..
                } => {
                    assert_eq!(*sequence, next);
                    next += 1;
                    let text = std::str::from_utf8(payload).unwrap();
                    let (of, number) = text.split_once('/').unwrap();
                    assert_eq!(number, sequence.to_string());
                    if strict {
                        assert_eq!(*life.get_or_insert(of), of);
                    }
                }
                Step::Replay { .. } => unreachable!("performed at once"),
            }
        }
        assert_eq!(next, self.source.next());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn with_replay_lives_never_mix_and_the_newest_number_is_reached(
        kept in 0u64..20,
        events in prop::collection::vec(happens(false), 1..120),
    ) {
        let mut world = World::new(true, kept);
        for event in events {
            world.happen(event);
        }
        world.settle();
        world.happen(Happens::Publish { heard: true, repeated: false });
        world.settle();
        world.check(true);
        prop_assert_eq!(world.source.next(), world.published);
    }

    #[test]
    fn a_publisher_that_keeps_everything_loses_nothing(
        events in prop::collection::vec(happens(false), 1..120),
    ) {
        let mut world = World::new(true, u64::MAX);
        for event in events {
            // An answer dropped first is not told from one that is not kept.
            match event {
                Happens::Answers(arrive) => world.happen(Happens::Answers(vec![true; arrive.len()])),
                other => world.happen(other),
            }
        }
        world.settle();
        world.check(true);
        let lost = world.log.iter().any(|step| matches!(step, Step::Lost { .. }));
        prop_assert!(!lost);
    }

    #[test]
    fn numbers_add_up_whatever_breaks(
        has_replay: bool,
        kept in 0u64..20,
        events in prop::collection::vec(happens(true), 1..120),
    ) {
        let mut world = World::new(has_replay, kept);
        for event in events {
            world.happen(event);
        }
        world.settle();
        world.check(false);
    }
}
