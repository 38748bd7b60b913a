//! The supervisor against stories, and against whatever order events come in.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const SERVER: Rules = Rules {
    stage: 2,
    ends: false,
    group: 0,
};
const FRONTEND: Rules = Rules { stage: 0, ..SERVER };
const BATCH: Rules = Rules {
    ends: true,
    ..FRONTEND
};

/// Each process in a group of its own.
fn apart(rules: &[Rules]) -> Vec<Rules> {
    let rules = rules.iter().enumerate();
    rules.map(|(group, it)| Rules { group, ..*it }).collect()
}

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
    let mut supervisor = started(&apart(&[SERVER, SERVER]));
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
    let mut supervisor = started(&apart(&[BATCH, SERVER]));
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
    let mut supervisor = started(&apart(&[SERVER, FRONTEND, FRONTEND, SERVER]));
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
    let mut supervisor = started(&apart(&[FRONTEND, SERVER]));
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

/// Two ranks of one worker, and a worker of its own.
fn two_ranks() -> Supervisor {
    started(&[SERVER, SERVER, Rules { group: 1, ..SERVER }])
}

#[test]
fn ranks_of_one_worker_start_again_together_and_their_failure_counts_once() {
    let mut supervisor = two_ranks();
    let mut now = seconds(0);
    for wait in [1, 2, 4] {
        // Whichever of them ends, the other one is asked to.
        let asked = supervisor.step(Event::Ended(1, Exit::Signal(9)), now);
        assert_eq!(asked, [Action::Terminate(0)]);
        assert_eq!(supervisor.processes()[0].because_of, Some(1));
        let slow = now + seconds(3);
        assert_eq!(supervisor.step(Event::Tick, slow), [], "half of them start");
        let ended = supervisor.step(Event::Ended(0, Exit::Code(0)), slow);
        now = slow.max(now + seconds(wait));
        let start = [Action::Start(0), Action::Start(1)];
        match now == slow {
            true => assert_eq!(ended, start),
            false => {
                assert_eq!(supervisor.next_wake(), Some(now));
                assert_eq!(supervisor.step(Event::Tick, now), start);
            }
        }
        supervisor.step(Event::Started(0), now);
        supervisor.step(Event::Started(1), now);
    }
    let restarts = supervisor.processes().iter().map(|it| it.restarts);
    assert_eq!(restarts.collect::<Vec<_>>(), [3, 3, 0]);
}

#[test]
fn a_rank_that_does_not_end_with_its_group_is_killed_soon() {
    let mut supervisor = two_ranks();
    supervisor.step(Event::Ended(0, Exit::Code(1)), seconds(0));
    assert_eq!(supervisor.next_wake(), Some(seconds(5)));
    assert_eq!(supervisor.step(Event::Tick, seconds(5)), [Action::Kill(1)]);
    let started = supervisor.step(Event::Ended(1, Exit::Signal(9)), seconds(5));
    assert_eq!(started, [Action::Start(0), Action::Start(1)]);
    assert!(
        !supervisor.had_to_kill(),
        "that is for those that were to stop"
    );
}

#[test]
fn ranks_fail_and_stop_together() {
    let mut supervisor = two_ranks();
    supervisor.step(Event::Ended(1, Exit::Code(2)), seconds(0));
    supervisor.step(Event::Ended(0, Exit::Code(0)), seconds(1));
    let standings = supervisor.processes().iter().map(|it| it.standing.as_str());
    assert_eq!(
        standings.collect::<Vec<_>>(),
        ["failed", "failed", "running"]
    );

    // The end is asked for between the end of one rank and that of the other.
    let mut supervisor = two_ranks();
    supervisor.step(Event::Ended(1, Exit::Signal(9)), seconds(0));
    let asked = supervisor.step(Event::Stop, seconds(0));
    assert_eq!(asked, [Action::Terminate(2)]);
    supervisor.step(Event::Ended(0, Exit::Code(0)), seconds(1));
    supervisor.step(Event::Ended(2, Exit::Code(0)), seconds(1));
    assert!(supervisor.is_over() && !supervisor.has_failed());
}

#[test]
fn a_rank_that_cannot_start_takes_the_others_back() {
    let mut supervisor = Supervisor::new(&[SERVER, SERVER], Policy::default());
    supervisor.step(Event::Tick, seconds(0));
    let refused = supervisor.step(Event::NotStarted(1, "no".to_owned()), seconds(0));
    assert_eq!(refused, []);
    let asked = supervisor.step(Event::Started(0), seconds(0));
    assert_eq!(asked, [Action::Terminate(0)]);
}

#[test]
fn work_of_several_ranks_is_done_when_one_of_them_says_so() {
    let mut supervisor = started(&[BATCH, BATCH]);
    let asked = supervisor.step(Event::Ended(0, Exit::Code(0)), seconds(9));
    assert_eq!(asked, [Action::Terminate(1)]);
    supervisor.step(Event::Ended(1, Exit::Signal(15)), seconds(9));
    assert!(supervisor.is_over() && !supervisor.has_failed());
    assert_eq!(supervisor.processes()[1].standing, Standing::Done);
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
        replicas in prop::collection::vec((0_u8..4, 1_usize..3), 1..4),
        happenings in prop::collection::vec(any_happening(), 0..60),
    ) {
        let replicas = replicas.iter().enumerate();
        let rules: Vec<Rules> = replicas.flat_map(|(group, (stage, ranks))| {
            vec![Rules { stage: *stage, ends: false, group }; *ranks]
        }).collect();
        let mut supervisor = Supervisor::new(&rules, Policy::default());
        let (mut now, mut alive) = (Duration::ZERO, BTreeSet::<usize>::new());
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
                let mut fresh = BTreeSet::new();
                for action in supervisor.step(event, now) {
                    match action {
                        Action::Start(index) => {
                            let group = rules[index].group;
                            let old = alive.iter().filter(|it| rules[**it].group == group);
                            prop_assert!(old.clone().all(|it| fresh.contains(it)), "of a group that breaks up");
                            fresh.insert(index);
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
                            let is_broken = supervisor.processes()[index].because_of.is_some();
                            prop_assert!(is_broken || Some(rules[index].stage) == first, "out of order");
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
