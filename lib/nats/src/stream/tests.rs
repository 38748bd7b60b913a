//! Two sides over a link that loses messages: bytes come out once and in order, and all of them.

use super::*;
use proptest::prelude::*;

const LARGE_ENOUGH: usize = 1024 * 1024;

struct Side {
    stream: Stream,
    to_say: Vec<u8>,
    said: usize,
    heard: Vec<u8>,
    ended: bool,
}

impl Side {
    fn new(dialled: bool, to_say: Vec<u8>, now: Instant) -> Self {
        Self {
            stream: Stream::new(7, dialled, now),
            to_say,
            said: 0,
            heard: Vec::new(),
            ended: false,
        }
    }

    /// Says, reads, and gives what is to be published.
    fn turn(&mut self, max_message: usize, now: Instant) -> Vec<Bytes> {
        let rest = &self.to_say[self.said..];
        self.said += self.stream.write(rest, max_message, now);
        if self.said == self.to_say.len() {
            self.stream.finish(now);
        }
        let mut room = Vec::new();
        match self.stream.read(&mut room) {
            Read::End => self.ended = true,
            Read::Some { .. } | Read::Nothing => self.heard.extend(room),
        }
        self.stream.resend_what_is_late(now);
        let mut messages: Vec<Bytes> = self.stream.control(now).into_iter().collect();
        while let Some(message) = self.stream.next() {
            messages.push(message.clone());
            self.stream.mark_published();
        }
        messages
    }

    fn is_done(&self) -> bool {
        self.ended && self.stream.is_delivered()
    }
}

fn bytes(count: usize, seed: u8) -> Vec<u8> {
    (0..count)
        .map(|number| (number % 251) as u8 ^ seed)
        .collect()
}

/// Runs both sides until they are done; `lost` says which messages do not arrive, while it lasts.
fn run(one: &mut Side, two: &mut Side, max_message: usize, lost: &[bool], start: Instant) {
    let mut lost = lost.iter().copied();
    let mut now = start;
    for _ in 0..2000 {
        let there = one.turn(max_message, now);
        let back = two.turn(max_message, now);
        for (messages, receiver) in [(there, &mut *two), (back, &mut *one)] {
            for message in messages {
                assert!(message.len() <= max_message);
                if !lost.next().unwrap_or(false) {
                    let segment = Segment::decode(message).unwrap();
                    receiver.stream.take(segment, now);
                }
            }
        }
        if one.is_done() && two.is_done() {
            return;
        }
        now += Duration::from_millis(50);
    }
    panic!(
        "it never ends: {one:?} {two:?}",
        one = one.stream,
        two = two.stream
    );
}

#[test]
fn without_a_loss_nothing_is_sent_twice() {
    let now = Instant::now();
    let mut one = Side::new(true, bytes(1000, 1), now);
    let mut two = Side::new(false, Vec::new(), now);
    let sent = one.turn(LARGE_ENOUGH, now);
    assert_eq!(sent.len(), 2, "the bytes and the end");
    for message in sent {
        two.stream.take(Segment::decode(message).unwrap(), now);
    }
    let back = two.turn(LARGE_ENOUGH, now);
    for message in back {
        one.stream.take(Segment::decode(message).unwrap(), now);
    }
    assert!(one.stream.is_delivered());
    one.stream.resend_what_is_late(now + RESEND_AFTER * 2);
    assert_eq!(one.stream.next(), None);
    assert_eq!(two.heard, one.to_say);
}

#[test]
fn a_side_that_does_not_read_stops_the_other_at_the_window() {
    let now = Instant::now();
    let mut sender = Stream::new(7, true, now);
    let mut receiver = Stream::new(7, false, now);
    let much = bytes(2 * WINDOW_BYTES as usize, 1);
    let mut taken = 0;
    for _ in 0..10 {
        taken += sender.write(&much[taken..], LARGE_ENOUGH, now);
        while let Some(message) = sender.next().cloned() {
            sender.mark_published();
            receiver.take(Segment::decode(message).unwrap(), now);
        }
        let said = receiver.control(now + ACKNOWLEDGE_AFTER);
        said.map(|said| sender.take(Segment::decode(said).unwrap(), now));
    }
    let held: usize = receiver.inbound.iter().map(Bytes::len).sum();
    assert_eq!(held, WINDOW_BYTES as usize);
    assert!(taken <= much.len());
    let mut read = Vec::new();
    assert_eq!(receiver.read(&mut read), Read::Some { publish: true });
    let said = receiver.control(now).expect("there is room again");
    sender.take(Segment::decode(said).unwrap(), now);
    assert!(sender.next().is_some() || sender.write(&much[taken..], LARGE_ENOUGH, now) > 0);
}

#[test]
fn one_loss_is_asked_for_once() {
    let now = Instant::now();
    let mut sender = Stream::new(7, true, now);
    let mut receiver = Stream::new(7, false, now);
    for number in 0..10_u8 {
        sender.write(&[number; 10], LARGE_ENOUGH, now);
    }
    let mut asked = 0;
    let mut lost = true;
    while let Some(message) = sender.next().cloned() {
        sender.mark_published();
        if std::mem::take(&mut lost) {
            continue;
        }
        receiver.take(Segment::decode(message).unwrap(), now);
        if let Some(control) = receiver.control(now) {
            let control = Segment::decode(control).unwrap();
            asked += u32::from(control.kind == Kind::Resend);
        }
    }
    assert_eq!(asked, 1);
}

#[test]
fn a_side_whose_link_was_down_asks_and_is_answered() {
    let now = Instant::now();
    let mut sender = Stream::new(7, true, now);
    let mut receiver = Stream::new(7, false, now);
    sender.write(b"lost on the way", LARGE_ENOUGH, now);
    sender.mark_published();
    receiver.link_was_down();
    let asks = Segment::decode(receiver.control(now).unwrap()).unwrap();
    assert_eq!(asks.kind, Kind::Resend);
    assert!(sender.take(asks, now).publisher);
    let again = Segment::decode(sender.next().unwrap().clone()).unwrap();
    assert_eq!(&again.payload[..], b"lost on the way");
}

#[test]
fn acknowledgements_of_what_was_never_said_change_nothing() {
    let now = Instant::now();
    let mut stream = Stream::new(7, true, now);
    stream.write(b"abc", LARGE_ENOUGH, now);
    let bogus = Segment {
        kind: Kind::Data,
        from_dialler: false,
        connection: 7,
        acknowledged: u64::MAX,
        limit: 0,
        start: u64::MAX,
        payload: Bytes::from_static(b"x"),
    };
    stream.take(bogus, now);
    assert!(stream.next().is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_lost_the_bytes_come_once_and_in_order(
        lengths in (0_usize..400_000, 0_usize..400_000),
        max_message in 200_usize..100_000,
        lost in prop::collection::vec(prop::bool::weighted(0.3), 0..300),
    ) {
        let start = Instant::now();
        let mut one = Side::new(true, bytes(lengths.0, 1), start);
        let mut two = Side::new(false, bytes(lengths.1, 2), start);
        run(&mut one, &mut two, max_message, &lost, start);
        prop_assert!(two.heard == one.to_say);
        prop_assert!(one.heard == two.to_say);
    }
}
