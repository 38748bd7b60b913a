//! Tests of the queue: order, fairness, bounds, and that nothing is lost or served twice.

use super::*;
use proptest::prelude::*;

const LIMITS: QueueLimits = QueueLimits {
    requests: 100,
    requests_per_tenant: 80,
    wait: Duration::from_secs(10),
};

fn of(tenant: &str, uncached_tokens: u64) -> Waiting<'_> {
    ranked(tenant, 0, 0, uncached_tokens)
}

fn ranked(tenant: &str, strict_priority: u32, priority: i32, uncached_tokens: u64) -> Waiting<'_> {
    Waiting {
        standing: Standing {
            tenant: Some(tenant),
            strict_priority,
            priority,
        },
        uncached_tokens,
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn drain<T>(queue: &mut Queue<T>) -> Vec<T> {
    std::iter::from_fn(|| queue.admit(Duration::ZERO, |_| 1).map(|it| it.item)).collect()
}

fn order(policy: QueuePolicy, requests: &[(i32, u64)]) -> Vec<usize> {
    let mut queue = Queue::new(policy, LIMITS);
    for (nth, (priority, tokens)) in requests.iter().enumerate() {
        let waiting = ranked("a", 0, *priority, *tokens);
        queue.offer(nth, &waiting, seconds(nth as u64)).unwrap();
    }
    drain(&mut queue)
}

#[test]
fn policies_order_the_requests_of_a_tenant() {
    let requests = [(0, 300), (0, 100), (0, 200)];
    assert_eq!(order(QueuePolicy::Fcfs, &requests), [0, 1, 2]);
    assert_eq!(order(QueuePolicy::Lcfs, &requests), [2, 1, 0]);
    assert_eq!(order(QueuePolicy::Wspt, &requests), [1, 2, 0]);
}

#[test]
fn priority_counts_like_seconds_of_waiting_or_divides_the_length() {
    assert_eq!(
        order(QueuePolicy::Fcfs, &[(0, 1), (0, 1), (3, 1)]),
        [2, 0, 1]
    );
    assert_eq!(order(QueuePolicy::Fcfs, &[(-9, 1), (0, 1)]), [0, 1]);
    assert_eq!(order(QueuePolicy::Wspt, &[(0, 100), (9, 500)]), [1, 0]);
}

#[test]
fn strict_priority_goes_before_everything() {
    let mut queue = Queue::new(QueuePolicy::Fcfs, LIMITS);
    for (item, strict_priority) in [("low", 0), ("high", 2), ("middle", 1)] {
        let waiting = ranked(item, strict_priority, 0, 10);
        queue.offer(item, &waiting, seconds(0)).unwrap();
    }
    assert_eq!(drain(&mut queue), ["high", "middle", "low"]);
}

#[test]
fn a_tenant_that_comes_late_does_not_wait_behind_a_flood() {
    let mut queue = Queue::new(QueuePolicy::Fcfs, LIMITS);
    for nth in 0..50 {
        queue
            .offer(("flood", nth), &of("flood", 100), seconds(0))
            .unwrap();
    }
    for _ in 0..10 {
        queue.admit(Duration::ZERO, |_| 1).unwrap();
    }
    queue
        .offer(("late", 0), &of("late", 100), seconds(1))
        .unwrap();
    let next: Vec<_> = (0..2)
        .map(|_| queue.admit(Duration::ZERO, |_| 1).unwrap().item.0)
        .collect();
    assert!(next.contains(&"late"), "{next:?}");
}

#[test]
fn tenants_pay_for_what_was_computed_and_not_for_what_was_expected() {
    let mut queue = Queue::new(QueuePolicy::Fcfs, LIMITS);
    for _ in 0..40 {
        queue.offer("sends", &of("sends", 100), seconds(0)).unwrap();
        // All of it is in caches by the time that it goes.
        queue.offer("finds", &of("finds", 100), seconds(0)).unwrap();
    }
    let mut paid = 0;
    for _ in 0..30 {
        let mut admitted = queue.admit(Duration::ZERO, |_| 1).unwrap();
        if admitted.item == "finds" {
            queue.correct(&mut admitted.served, 10);
            assert_eq!(admitted.served.tokens, 10);
        } else {
            paid += 1;
        }
    }
    // Ten of one cost what one of the other does.
    assert!((2..=4).contains(&paid), "{paid}");
}

#[test]
fn a_tenant_that_asks_for_one_at_a_time_gets_no_more_than_its_share() {
    let mut queue = Queue::new(QueuePolicy::Fcfs, LIMITS);
    for _ in 0..60 {
        queue.offer("many", &of("many", 100), seconds(0)).unwrap();
    }
    let mut served = 0;
    for _ in 0..40 {
        let has_one = queue.tenants() == 2;
        if !has_one {
            queue
                .offer("single", &of("single", 100), seconds(0))
                .unwrap();
        }
        served += u32::from(queue.admit(Duration::ZERO, |_| 1).unwrap().item == "single");
    }
    assert!((19..=21).contains(&served), "{served}");
}

#[test]
fn who_cannot_go_lets_others_pass() {
    let mut queue = Queue::new(QueuePolicy::Fcfs, LIMITS);
    queue.offer("stuck", &of("a", 10), seconds(0)).unwrap();
    queue.offer("free", &of("b", 10), seconds(1)).unwrap();
    let admitted = queue
        .admit(Duration::ZERO, |item| u32::from(*item == "free"))
        .unwrap();
    assert_eq!((admitted.item, admitted.arrived), ("free", seconds(1)));
    assert_eq!(
        queue.admit(Duration::ZERO, |item| u32::from(*item == "free")),
        None
    );
    assert_eq!(drain(&mut queue), ["stuck"]);
}

#[test]
fn a_full_queue_makes_room_at_the_cost_of_who_has_the_most() {
    let limits = QueueLimits {
        requests: 4,
        requests_per_tenant: 3,
        ..LIMITS
    };
    let mut queue = Queue::new(QueuePolicy::Fcfs, limits);
    for nth in 0..3 {
        queue.offer(nth, &of("flood", 10), seconds(nth)).unwrap();
    }
    let (item, refusal) = queue.offer(3, &of("flood", 10), seconds(3)).unwrap_err();
    assert_eq!((item, refusal), (3, QueueRefusal::TenantFull { limit: 3 }));
    assert_eq!(
        queue.offer(4, &of("b", 10), seconds(4)).unwrap().displaced,
        None
    );
    let queued = queue.offer(5, &of("c", 10), seconds(5)).unwrap();
    assert_eq!(queued.displaced.map(|it| it.1), Some(2));
    let (_, refusal) = queue.offer(6, &of("b", 10), seconds(6)).unwrap_err();
    assert_eq!(refusal, QueueRefusal::Full { limit: 4 });
    assert_eq!(queue.len(), 4);
}

#[test]
fn requests_leave_when_their_time_is_up_or_their_client_goes() {
    let mut queue = Queue::new(QueuePolicy::Fcfs, LIMITS);
    let first = queue.offer("first", &of("a", 10), seconds(0)).unwrap();
    let first = first.place;
    let gone = queue.offer("gone", &of("a", 10), seconds(1)).unwrap().place;
    queue.offer("last", &of("a", 10), seconds(2)).unwrap();
    assert_eq!(queue.remove(gone), Some("gone"));
    assert_eq!(queue.remove(gone), None);
    assert_eq!(queue.next_expiry(), Some(seconds(10)));
    assert_eq!(queue.pop_expired(seconds(9)), None);
    let expired = queue.pop_expired(seconds(10)).unwrap();
    assert_eq!(
        expired,
        (
            first,
            "first",
            QueueRefusal::TimedOut { limit: seconds(10) }
        )
    );
    assert_eq!(queue.pop_expired(seconds(11)), None);
    assert_eq!((drain(&mut queue), queue.tokens()), (vec!["last"], 0));
}

#[derive(Debug, Clone)]
enum Step {
    Offer {
        tenant: u8,
        strict: u32,
        tokens: u64,
    },
    Admit,
    Remove(u8),
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u8..5, 0_u32..2, 0_u64..500)
            .prop_map(|(tenant, strict, tokens)| Step::Offer { tenant, strict, tokens }),
        4 => Just(Step::Admit),
        1 => any::<u8>().prop_map(Step::Remove),
        1 => Just(Step::Expire),
    ]
}

proptest! {
    #[test]
    fn each_request_leaves_exactly_once(steps in prop::collection::vec(step(), 0..300)) {
        let limits = QueueLimits { requests: 20, requests_per_tenant: 12, wait: seconds(40) };
        let mut queue = Queue::new(QueuePolicy::Wspt, limits);
        let mut inside = BTreeMap::new();
        for (now, step) in (0_u64..).zip(steps) {
            match step {
                Step::Offer { tenant, strict, tokens } => {
                    let name = tenant.to_string();
                    let waiting = ranked(&name, strict, 0, tokens);
                    if let Ok(queued) = queue.offer(now, &waiting, seconds(now)) {
                        if let Some((_, item)) = queued.displaced {
                            prop_assert!(inside.remove(&item).is_some());
                        }
                        inside.insert(now, (queued.place, strict));
                    }
                }
                Step::Admit => {
                    let admitted = queue.admit(Duration::ZERO, |_| 1);
                    prop_assert_eq!(admitted.is_none(), inside.is_empty());
                    if let Some(admitted) = admitted {
                        let (_, strict) = inside.remove(&admitted.item).unwrap();
                        prop_assert!(inside.values().all(|(_, other)| *other <= strict));
                    }
                }
                Step::Remove(nth) => {
                    let len = inside.len().max(1);
                    if let Some(item) = inside.keys().nth(usize::from(nth) % len).copied() {
                        let (place, _) = inside.remove(&item).unwrap();
                        prop_assert_eq!(queue.remove(place), Some(item));
                    }
                }
                Step::Expire => while let Some((_, item, _)) = queue.pop_expired(seconds(now)) {
                    prop_assert!(item + 40 <= now);
                    prop_assert!(inside.remove(&item).is_some());
                },
            }
            prop_assert_eq!(queue.len(), inside.len());
            prop_assert!(queue.len() <= 20);
        }
        prop_assert_eq!(drain(&mut queue).len(), inside.len());
        prop_assert_eq!((queue.tokens(), queue.tenants(), queue.levels.len()), (0, 0, 0));
    }

    #[test]
    fn tenants_that_keep_waiting_are_served_equal_tokens(
        lengths in prop::collection::vec((0_usize..3, 1_u64..1_000), 1..90),
    ) {
        let mut queue = Queue::new(QueuePolicy::Fcfs, LIMITS);
        let mut left = [0_u32; 3];
        for (tenant, tokens) in &lengths {
            left[*tenant] += 1;
            let item = (*tenant, *tokens);
            queue.offer(item, &of(&tenant.to_string(), *tokens), seconds(0)).unwrap();
        }
        let longest = lengths.iter().map(|(_, tokens)| *tokens).max().unwrap();
        let mut served = [0_u64; 3];
        let present: Vec<usize> = (0..3).filter(|it| left[*it] > 0).collect();
        // As long as all of them wait.
        while present.iter().all(|it| left[*it] > 0) {
            let (tenant, tokens) = queue.admit(Duration::ZERO, |_| 1).unwrap().item;
            left[tenant] -= 1;
            served[tenant] += tokens;
            let shares = present.iter().map(|it| served[*it]);
            let spread = shares.clone().max().unwrap() - shares.min().unwrap();
            prop_assert!(spread <= longest, "{served:?}");
        }
    }

    #[test]
    fn it_admits_in_the_order_of_the_naive_queue(
        steps in prop::collection::vec(prop::option::weighted(0.6, (0_u8..4, 0_u32..2, 0_i32..3, 1_u64..300)), 0..150),
        policy in prop::sample::select(QueuePolicy::ALL),
    ) {
        let mut queue = Queue::new(policy, LIMITS);
        let mut naive = NaiveQueue::default();
        for (now, step) in (0_u64..).zip(steps) {
            if let Some((tenant, strict, priority, tokens)) = step {
                let name = tenant.to_string();
                let waiting = ranked(&name, strict, priority, tokens);
                if queue.offer(now, &waiting, seconds(now)).is_ok() {
                    let tenant = Tenant(xxh3_64(name.as_bytes()));
                    let rank = rank(policy, priority, tokens, seconds(now));
                    naive.offer(tenant, strict, (rank, now, tokens));
                }
            } else {
                prop_assert_eq!(queue.admit(Duration::ZERO, |_| 1).map(|it| it.item), naive.admit());
            }
        }
    }
}

/// Start-time fair queueing by its definition: times of tenants per strict priority, all in one
/// list of requests.
#[derive(Default)]
struct NaiveQueue {
    /// Strict priority, tenant, and rank, item and tokens.
    requests: Vec<(u32, Tenant, (u64, u64, u64))>,
    times: BTreeMap<(u32, Tenant), u64>,
    clocks: BTreeMap<u32, u64>,
}

impl NaiveQueue {
    fn offer(&mut self, tenant: Tenant, strict: u32, request: (u64, u64, u64)) {
        let mut requests = self.requests.iter();
        if !requests.any(|it| (it.0, it.1) == (strict, tenant)) {
            let clock = self.clocks.get(&strict).copied().unwrap_or(0);
            let time = self.times.entry((strict, tenant)).or_default();
            *time = clock.max(*time);
        }
        self.requests.push((strict, tenant, request));
    }

    fn admit(&mut self) -> Option<u64> {
        let strict = self.requests.iter().map(|it| it.0).max()?;
        let level = self.requests.iter().filter(|it| it.0 == strict);
        let tenant = level.map(|it| (self.times[&(strict, it.1)], it.1)).min()?.1;
        let line = self
            .requests
            .iter()
            .filter(|it| (it.0, it.1) == (strict, tenant));
        let (rank, item, tokens) = line.map(|it| it.2).min()?;
        self.requests.retain(|it| it.2 != (rank, item, tokens));
        let time = self.times.entry((strict, tenant)).or_default();
        let clock = self.clocks.entry(strict).or_default();
        *clock = (*time).max(*clock);
        *time += tokens;
        if self.requests.iter().all(|it| it.0 != strict) {
            self.clocks.remove(&strict);
            self.times.retain(|(level, _), _| *level != strict);
        }
        Some(item)
    }
}
