//! Tests of the book: examples, and any order of steps against a naive book.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A chain whose hash at each place is a function of everything before it.
fn chain(letters: &[u8]) -> Vec<SequenceHash> {
    let mut hash = 7_u64;
    letters
        .iter()
        .map(|letter| {
            hash = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(*letter).wrapping_add(1);
            hash
        })
        .collect()
}

fn work(blocks: &[SequenceHash]) -> Work<'_> {
    Work {
        prefill_tokens: 100,
        blocks,
        ..Work::default()
    }
}

const NOW: Duration = Duration::from_secs(1);

#[test]
fn shared_prefixes_count_once() {
    let mut book = Book::new(1);
    let first = book.book(Slot(0), work(&chain(b"aab")), NOW);
    let second = book.book(Slot(0), work(&chain(b"aac")), NOW);
    assert_eq!(book.load(Slot(0)).blocks, 4);
    assert_eq!(book.load(Slot(0)).prefill_tokens, 200);
    book.first_token(first, NOW);
    assert_eq!(book.load(Slot(0)).prefill_tokens, 100);
    book.end(second);
    assert_eq!(book.load(Slot(0)).blocks, 3);
    book.end(first);
    assert_eq!(book.load(Slot(0)), Load::default());
    assert_eq!(book.trie.len(), 0);
}

#[test]
fn a_request_that_nears_its_end_weighs_less_by_what_is_its_own() {
    let mut book = Book::new(1);
    let prompt = chain(b"aab");
    let answered = Work {
        expected_output_tokens: Some(100),
        ..work(&prompt)
    };
    let id = book.book(Slot(0), answered, NOW);
    book.book(Slot(0), work(&chain(b"aa")), NOW);
    book.block(id, None, 50, NOW);
    // Two shared blocks in full; its own prompt block and the output block by half.
    assert_eq!(book.load(Slot(0)).active_blocks(), 3.0);
    book.block(id, None, 400, NOW);
    assert_eq!(book.load(Slot(0)).active_blocks(), 2.0);
    book.end(id);
    assert_eq!(book.load(Slot(0)).active_blocks(), 2.0);
}

#[test]
fn a_booking_without_a_sign_of_life_ends() {
    let mut book = Book::new(1);
    let quiet = book.book(Slot(0), work(&chain(b"a")), Duration::ZERO);
    let alive = book.book(Slot(0), work(&chain(b"b")), Duration::ZERO);
    book.first_token(alive, STALE_AFTER / 2);
    assert_eq!(book.expire(STALE_AFTER - Duration::from_nanos(1)), 0);
    assert_eq!(book.expire(STALE_AFTER), 1);
    assert!(!book.end(quiet));
    assert!(book.end(alive));
    assert_eq!(book.dropped().stale, 1);
}

#[test]
fn the_booking_longest_without_a_sign_of_life_makes_room() {
    let mut book = Book::new(1);
    let first = book.book(Slot(0), Work::default(), NOW);
    let second = book.book(Slot(0), Work::default(), NOW);
    for _ in 2..MAX_BOOKINGS {
        book.book(Slot(0), Work::default(), NOW);
    }
    book.touch(first, NOW);
    book.book(Slot(0), Work::default(), NOW);
    assert_eq!((book.len(), book.dropped().displaced), (MAX_BOOKINGS, 1));
    assert_eq!((book.end(first), book.end(second)), (true, false));
}

#[test]
fn a_worker_that_is_gone_leaves_nothing_behind() {
    let mut book = Book::new(1);
    book.book(Slot(0), work(&chain(b"ab")), NOW);
    let kept = book.book(Slot(1), work(&chain(b"ab")), NOW);
    assert_eq!(book.remove_worker(Slot(0)), 1);
    assert_eq!(book.load(Slot(0)), Load::default());
    assert_eq!(book.load(Slot(1)).blocks, 2);
    book.end(kept);
    assert_eq!(book.trie.len(), 0);
}

#[test]
fn chains_that_contradict_each_other_leave_nothing_behind() {
    let mut book = Book::new(1);
    let chains: [&[u64]; 6] = [
        &[5, 6, 5, 7],
        &[5, 6, 8],
        &[6, 8],
        &[8, 5],
        &[5, 5, 5],
        &[5, 6, 5],
    ];
    let ids: Vec<_> = chains
        .iter()
        .map(|chain| book.book(Slot(0), work(chain), NOW))
        .collect();
    for id in ids {
        book.block(id, Some(5), 1, NOW);
        assert!(book.end(id));
    }
    assert_eq!(book.load(Slot(0)), Load::default());
}

#[test]
fn replicas_take_over_each_other_s_steps_and_never_their_own() {
    let (mut here, mut there) = (Book::new(1), Book::new(2));
    let key = WorkerKey {
        instance: 7,
        dp_rank: 0,
    };
    let id = here.book(Slot(3), work(&chain(b"ab")), NOW);
    let snapshot: Vec<_> = here.snapshot(|_| Some(key)).collect();
    let slot_of = |it: WorkerKey| (it == key).then_some(Slot(5));
    for change in &snapshot {
        there.apply(change, slot_of, NOW);
        here.apply(change, |_| Some(Slot(9)), NOW);
    }
    assert_eq!(here.load(Slot(9)), Load::default());
    assert_eq!(there.load(Slot(5)), here.load(Slot(3)));
    there.apply(&BookChange::FirstToken(id), slot_of, NOW);
    let block = BookChange::Block {
        id,
        hash: None,
        generated_tokens: 16,
    };
    there.apply(&block, slot_of, NOW);
    let load = there.load(Slot(5));
    assert_eq!((load.prefill_tokens, load.blocks, load.requests), (0, 3, 1));
    here.apply(&BookChange::Ended(id), slot_of, NOW);
    assert_eq!(here.len(), 1);
    assert_eq!(there.remove_replica(1), 1);
    assert_eq!(there.load(Slot(5)), Load::default());
}

#[test]
fn bookings_of_workers_that_are_not_known_are_left_out() {
    let mut book = Book::new(2);
    let booked = BookChange::Booked {
        id: BookingId {
            origin: 1,
            number: 0,
        },
        worker: WorkerKey {
            instance: 7,
            dp_rank: 0,
        },
        prefill_tokens: u64::MAX,
        blocks: Vec::new(),
        own_blocks: u64::MAX,
        expected_output_tokens: Some(0),
    };
    book.apply(&booked, |_| None, NOW);
    assert!(book.is_empty());
    // And numbers that no prompt has do no harm.
    for _ in 0..3 {
        book.apply(&booked, |_| Some(Slot(0)), NOW);
    }
    let block = BookChange::Block {
        id: booked.id(),
        hash: None,
        generated_tokens: u32::MAX,
    };
    book.apply(&block, |_| None, NOW);
    assert_eq!(book.load(Slot(0)).active_blocks(), 0.0);
    book.end(booked.id());
    assert_eq!(book.load(Slot(0)), Load::default());
}

#[derive(Debug, Clone)]
enum Step {
    Book(u8, Vec<u8>),
    FirstToken(usize),
    Block(usize, Option<u8>),
    End(usize),
    RemoveWorker(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let letters = prop::collection::vec(0_u8..3, 0..8);
    prop_oneof![
        4 => (0_u8..4, letters).prop_map(|(slot, letters)| Step::Book(slot, letters)),
        1 => any::<usize>().prop_map(Step::FirstToken),
        3 => (any::<usize>(), prop::option::of(0_u8..3)).prop_map(|(at, it)| Step::Block(at, it)),
        3 => any::<usize>().prop_map(Step::End),
        1 => (0_u8..4).prop_map(Step::RemoveWorker),
    ]
}

/// A booking as the naive book holds it.
#[derive(Debug, Clone)]
struct Naive {
    slot: Slot,
    letters: Vec<u8>,
    own: u64,
    prefill: u64,
}

fn naive_load(bookings: &BTreeMap<BookingId, Naive>, slot: Slot) -> Load {
    let mine: Vec<_> = bookings.values().filter(|it| it.slot == slot).collect();
    let distinct: BTreeSet<_> = mine.iter().flat_map(|it| chain(&it.letters)).collect();
    Load {
        prefill_tokens: mine.iter().map(|it| it.prefill).sum(),
        blocks: distinct.len() as u64 + mine.iter().map(|it| it.own).sum::<u64>(),
        requests: mine.len() as u32,
        discount: 0,
    }
}

fn naive_shared(bookings: &BTreeMap<BookingId, Naive>, slot: Slot, prompt: &[u64]) -> u32 {
    let mine = bookings.values().filter(|it| it.slot == slot);
    let held: BTreeSet<_> = mine.flat_map(|it| chain(&it.letters)).collect();
    prompt.iter().take_while(|hash| held.contains(hash)).count() as u32
}

fn run(book: &mut Book, model: &mut BTreeMap<BookingId, Naive>, step: Step) {
    let nth = |at: usize| {
        let len = model.len().max(1);
        model.keys().nth(at % len).copied()
    };
    match step {
        Step::Book(slot, letters) => {
            let slot = Slot(u32::from(slot));
            let id = book.book(slot, work(&chain(&letters)), NOW);
            let naive = Naive {
                slot,
                letters,
                own: 0,
                prefill: 100,
            };
            model.insert(id, naive);
        }
        Step::FirstToken(at) => {
            let Some(id) = nth(at) else { return };
            book.first_token(id, NOW);
            model.get_mut(&id).unwrap().prefill = 0;
        }
        Step::Block(at, letter) => {
            let Some(id) = nth(at) else { return };
            let booking = model.get_mut(&id).unwrap();
            let hash = letter.map(|letter| {
                booking.letters.push(letter);
                *chain(&booking.letters).last().unwrap()
            });
            booking.own += u64::from(letter.is_none());
            book.block(id, hash, 1, NOW);
        }
        Step::End(at) => {
            let Some(id) = nth(at) else { return };
            model.remove(&id);
            assert!(book.end(id));
            assert!(!book.end(id));
        }
        Step::RemoveWorker(slot) => {
            let slot = Slot(u32::from(slot));
            model.retain(|_, it| it.slot != slot);
            book.remove_worker(slot);
        }
    }
}

proptest! {
    #[test]
    fn loads_and_shared_blocks_equal_the_naive_book(
        steps in prop::collection::vec(step(), 0..120),
        probe in prop::collection::vec(0_u8..3, 0..10),
    ) {
        let mut book = Book::new(1);
        let mut model = BTreeMap::new();
        let prompt = chain(&probe);
        for step in steps {
            run(&mut book, &mut model, step);
            let mut shared = BTreeMap::new();
            book.shared_blocks(&prompt, |slot, depth| { shared.insert(slot, depth); });
            for slot in (0..4).map(Slot) {
                prop_assert_eq!(book.load(slot), naive_load(&model, slot));
                let depth = shared.get(&slot).copied().unwrap_or(0);
                prop_assert_eq!(depth, naive_shared(&model, slot, &prompt));
            }
            prop_assert!(book.trie.len() <= 2 * model.len());
        }
        let keys = |slot: Slot| Some(WorkerKey { instance: u64::from(slot.0), dp_rank: 0 });
        let mut replica = Book::new(2);
        for change in book.snapshot(keys) {
            let slot_of = |key: WorkerKey| Some(Slot(key.instance as u32));
            replica.apply(&change, slot_of, NOW);
        }
        for slot in (0..4).map(Slot) {
            prop_assert_eq!(replica.load(slot), book.load(slot));
        }
        for id in model.keys() {
            book.end(*id);
        }
        prop_assert_eq!((book.trie.len(), book.trie.stored()), (0, 0));
        prop_assert!(book.is_empty());
    }
}
