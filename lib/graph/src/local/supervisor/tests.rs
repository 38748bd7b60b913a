//! The supervisor against stories, and against whatever order events come in.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const SERVER: Rules = Rules {
    stage: 2,
    ends: false,
};
const FRONTEND: Rules = Rules {
    stage: 0,
    ends: false,
};
const BATCH: Rules = Rules {
    stage: 0,
    ends: true,
};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A supervisor whose processes have all been started at 0.
fn started(rules: &[Rules]) -> Supervisor {
    let mut supervisor = Supervisor::new(rules, Policy::default());
    let actions = supervisor.step(Event::Tick, seconds(0));
    let all: Vec<Action> = (0..rules.len()).map(Action::Start).collect();
    assert_eq!(actions, all);
    for index in 0..rules.len() {
        assert_eq!(supervisor.step(Event::Started(index), seconds(0)), []);
    }
    supervisor
}

#[test]
fn a_process_that_dies_starts_again_after_waits_that_double() {
    let mut supervisor = started(&[SERVER]);
    let mut now = seconds(0);
    let mut waits = Vec::new();
    for _ in 0..6 {
        let ended = Event::Ended(0, Exit::Signal(9));
        assert_eq!(supervisor.step(ended, now), []);
        let wake = supervisor.next_wake().unwrap();
        waits.push((wake - now).as_secs());
        assert_eq!(
            supervisor.step(Event::Tick, wake - Duration::from_millis(1)),
            []
        );
        assert_eq!(supervisor.step(Event::Tick, wake), [Action::Start(0)]);
        now = wake;
        supervisor.step(Event::Started(0), now);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 30]);
    // It ran for a minute: what went before is forgotten.
    now += seconds(60);
    supervisor.step(Event::Ended(0, Exit::Code(1)), now);
    assert_eq!(supervisor.next_wake(), Some(now + seconds(1)));
    assert_eq!(supervisor.processes()[0].restarts, 7);
}

#[test]
fn a_process_that_fails_too_often_has_failed_and_others_go_on() {
    let mut supervisor = started(&[SERVER, SERVER]);
    let mut now = seconds(0);
    for _ in 0..10 {
        supervisor.step(Event::Ended(0, Exit::Code(1)), now);
        now = supervisor.next_wake().unwrap();
        assert_eq!(supervisor.step(Event::Tick, now), [Action::Start(0)]);
        supervisor.step(Event::Started(0), now);
    }
    supervisor.step(Event::Ended(0, Exit::Code(1)), now);
    let failed = "failed 11 times in a row, last with: exit code 1";
    assert_eq!(
        supervisor.processes()[0].standing,
        Standing::Failed(failed.to_owned())
    );
    assert_eq!(supervisor.next_wake(), None);
    assert!(supervisor.has_failed() && !supervisor.is_over());
}

#[test]
fn a_wrong_command_line_is_not_tried_again_and_a_missing_program_is() {
    let mut supervisor = started(&[SERVER]);
    supervisor.step(Event::Ended(0, Exit::Code(2)), seconds(1));
    assert!(supervisor.is_over() && supervisor.has_failed());

    let mut supervisor = Supervisor::new(&[SERVER], Policy::default());
    supervisor.step(Event::Tick, seconds(0));
    supervisor.step(Event::NotStarted(0, "no such file".to_owned()), seconds(0));
    assert_eq!(supervisor.next_wake(), Some(seconds(1)));
}

#[test]
fn work_that_is_done_is_done_and_a_server_that_ends_well_starts_again() {
    let mut supervisor = started(&[BATCH, SERVER]);
    supervisor.step(Event::Ended(0, Exit::Code(0)), seconds(5));
    assert_eq!(supervisor.processes()[0].standing, Standing::Done);
    supervisor.step(Event::Ended(1, Exit::Code(0)), seconds(5));
    assert_eq!(
        supervisor.processes()[1].standing,
        Standing::Waiting(seconds(6))
    );
}

#[test]
fn frontends_have_ended_before_workers_are_asked_to() {
    let mut supervisor = started(&[SERVER, FRONTEND, FRONTEND, SERVER]);
    supervisor.step(Event::Ended(3, Exit::Signal(9)), seconds(1));
    let asked = supervisor.step(Event::Stop, seconds(1));
    assert_eq!(asked, [Action::Terminate(1), Action::Terminate(2)]);
    assert_eq!(supervisor.processes()[3].standing, Standing::Stopped);
    assert_eq!(
        supervisor.step(Event::Ended(1, Exit::Code(0)), seconds(2)),
        []
    );
    let next = supervisor.step(Event::Ended(2, Exit::Code(0)), seconds(3));
    assert_eq!(next, [Action::Terminate(0)]);
    supervisor.step(Event::Ended(0, Exit::Code(0)), seconds(4));
    assert!(supervisor.is_over() && !supervisor.has_failed() && !supervisor.had_to_kill());
}

#[test]
fn who_does_not_end_is_killed_and_a_second_request_kills_all() {
    let mut supervisor = started(&[FRONTEND, SERVER]);
    supervisor.step(Event::Stop, seconds(0));
    assert_eq!(supervisor.next_wake(), Some(seconds(35)));
    assert_eq!(supervisor.step(Event::Tick, seconds(35)), [Action::Kill(0)]);
    let next = supervisor.step(Event::Ended(0, Exit::Signal(9)), seconds(35));
    assert_eq!(next, [Action::Terminate(1)]);
    assert_eq!(supervisor.step(Event::Stop, seconds(36)), [Action::Kill(1)]);
    assert_eq!(supervisor.step(Event::Stop, seconds(37)), []);
    supervisor.step(Event::Ended(1, Exit::Signal(9)), seconds(37));
    assert!(supervisor.is_over() && supervisor.had_to_kill());
}

#[test]
fn who_is_being_started_when_the_end_is_asked_for_ends_too() {
    let mut supervisor = Supervisor::new(&[SERVER], Policy::default());
    supervisor.step(Event::Tick, seconds(0));
    assert_eq!(supervisor.step(Event::Stop, seconds(0)), []);
    assert_eq!(
        supervisor.step(Event::Started(0), seconds(0)),
        [Action::Terminate(0)]
    );
}

#[derive(Debug, Clone)]
enum Happening {
    Later(u64),
    Die(usize, i32),
    CannotStart(usize),
    Stop,
}

fn any_happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0_u64..70).prop_map(Happening::Later),
        4 => (0_usize..4, 0..3).prop_map(|(index, code)| Happening::Die(index, code)),
        1 => (0_usize..4).prop_map(Happening::CannotStart),
        1 => Just(Happening::Stop),
    ]
}

proptest! {
    /// A shell that does what it is told, whatever happens to its processes.
    #[test]
    fn every_process_is_started_once_at_a_time_and_all_come_to_an_end(
        stages in prop::collection::vec(0_u8..4, 1..4),
        happenings in prop::collection::vec(any_happening(), 0..60),
    ) {
        let rules: Vec<Rules> = stages.iter().map(|stage| Rules { stage: *stage, ends: false }).collect();
        let mut supervisor = Supervisor::new(&rules, Policy::default());
        let (mut now, mut alive) = (Duration::ZERO, BTreeSet::new());
        let mut refuses: Option<usize> = None;
        let end = [Happening::Stop].into_iter().chain((0..40).map(|_| Happening::Later(40)));
        for happening in happenings.into_iter().chain(end) {
            let event = match happening {
                Happening::Later(by) => {
                    now += Duration::from_secs(by);
                    Event::Tick
                }
                Happening::Die(index, code) if alive.remove(&index) => Event::Ended(index, Exit::Code(code)),
                Happening::Die(..) => Event::Tick,
                Happening::CannotStart(index) => {
                    refuses = Some(index);
                    Event::Tick
                }
                Happening::Stop => Event::Stop,
            };
            let mut events = vec![event];
            while let Some(event) = events.pop() {
                let was_stopping = supervisor.is_stopping();
                for action in supervisor.step(event, now) {
                    match action {
                        Action::Start(index) => {
                            prop_assert!(!was_stopping, "a start after the end was asked for");
                            if refuses.take_if(|it| *it == index).is_some() {
                                events.push(Event::NotStarted(index, "no".to_owned()));
                            } else {
                                prop_assert!(alive.insert(index), "a second start");
                                events.push(Event::Started(index));
                            }
                        }
                        Action::Terminate(index) => {
                            let first = alive.iter().map(|it| rules[*it].stage).min();
                            prop_assert_eq!(Some(rules[index].stage), first, "out of order");
                        }
                        Action::Kill(index) => {
                            prop_assert!(alive.remove(&index), "a kill of nobody");
                            events.push(Event::Ended(index, Exit::Signal(9)));
                        }
                    }
                }
            }
        }
        prop_assert!(supervisor.is_over(), "{:?}", supervisor);
        prop_assert!(alive.is_empty());
    }
}
