//! The codec against itself, against cut and random bytes, and against its limits.

use super::*;
use dynamo_protocols::ErrorCode;
use proptest::prelude::*;

fn header() -> RequestHeader {
    let endpoint = EndpointId::new("ns", "comp", "ep").unwrap();
    RequestHeader {
        attempt: 2,
        choice: 1,
        start_position: 17,
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        ..RequestHeader::new("req-1", endpoint, InstanceId::new(7).unwrap())
    }
}

fn encode(frame: &Frame<'_>) -> BytesMut {
    let mut out = BytesMut::new();
    match frame {
        Frame::Hello(hello) => put_hello(&mut out, hello),
        Frame::Request {
            stream,
            header,
            body,
        } => put_request(&mut out, *stream, header, body),
        Frame::Item {
            stream,
            position,
            positions,
            payload,
        } => {
            put_item(&mut out, *stream, *position, *positions, payload);
        }
        Frame::End { stream, error } => put_end(&mut out, *stream, error.as_ref()),
        Frame::Cancel { stream } => put_cancel(&mut out, *stream),
        Frame::Credit { stream, bytes } => put_credit(&mut out, *stream, *bytes),
        Frame::Ping(nonce) => put_ping(&mut out, *nonce),
        Frame::Pong(nonce) => put_pong(&mut out, *nonce),
        Frame::GoAway => put_go_away(&mut out),
        Frame::Accepted { stream } => put_accepted(&mut out, *stream),
    }
    out
}

fn frames(payload: &[u8]) -> Vec<Frame<'_>> {
    let error =
        RequestError::invalid("prompt", "too long").with_retry_after(Duration::from_secs(2));
    vec![
        Frame::Hello(Hello::of_this_build()),
        Frame::Request {
            stream: 3,
            header: Box::new(WireHeader::new(&header(), 65_536, Instant::now())),
            body: payload,
        },
        Frame::Item {
            stream: 4,
            position: u64::MAX,
            positions: 2,
            payload,
        },
        Frame::End {
            stream: 5,
            error: None,
        },
        Frame::End {
            stream: 5,
            error: Some(error),
        },
        Frame::Cancel { stream: u32::MAX },
        Frame::Credit {
            stream: 6,
            bytes: 1000,
        },
        Frame::Ping(1),
        Frame::Pong(u64::MAX),
        Frame::GoAway,
        Frame::Accepted { stream: 9 },
    ]
}

#[test]
fn every_frame_comes_back_as_it_went() {
    let payload = b"payload";
    let mut all = BytesMut::new();
    for frame in frames(payload) {
        all.extend_from_slice(&encode(&frame));
    }
    let mut rest = &all[..];
    for expected in frames(payload) {
        let (frame, taken) = decode(rest, MAX_FRAME_BYTES).unwrap().unwrap();
        assert_eq!(frame, expected);
        rest = &rest[taken..];
    }
    assert!(rest.is_empty());
}

#[test]
fn a_header_keeps_everything_but_the_passing_of_time() {
    let now = Instant::now();
    let header = RequestHeader {
        deadline: Some(now + Duration::from_millis(1500)),
        ..header()
    };
    let wire = WireHeader::new(&header, 1, now);
    assert_eq!(wire.open(TrafficClass::Latency, now), Ok(header));
}

#[test]
fn a_header_with_impossible_names_or_ids_is_refused() {
    let wire = WireHeader::new(&header(), 1, Instant::now());
    let nameless = WireHeader {
        namespace: "a.b".to_owned(),
        ..wire.clone()
    };
    assert!(
        nameless
            .open(TrafficClass::Latency, Instant::now())
            .is_err()
    );
    let nobody = WireHeader {
        instance: 0,
        ..wire
    };
    assert!(nobody.open(TrafficClass::Latency, Instant::now()).is_err());
}

#[test]
fn an_announced_giant_is_refused_by_its_length_alone() {
    let four_gib = u32::MAX.to_be_bytes();
    let expected = Err(FrameError::TooLarge {
        length: u32::MAX as usize,
        limit: MAX_FRAME_BYTES,
    });
    assert_eq!(decode(&four_gib, MAX_FRAME_BYTES), expected);
}

#[test]
fn another_protocol_is_refused_at_its_first_bytes() {
    let http = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    assert!(matches!(
        decode(http, MAX_HELLO_BYTES),
        Err(FrameError::TooLarge { .. })
    ));
}

#[test]
fn versions_meet_at_the_newest_common_one() {
    let hello = |min, max| Hello {
        min,
        max,
        ..Hello::of_this_build()
    };
    assert_eq!(hello(1, 3).common_version(&hello(2, 5)), Some(3));
    assert_eq!(hello(1, 1).common_version(&hello(1, 9)), Some(1));
    assert_eq!(hello(1, 1).common_version(&hello(2, 9)), None);
}

#[test]
fn fields_of_a_newer_peer_are_ignored() {
    #[derive(Serialize)]
    struct Newer {
        magic: &'static str,
        min: u16,
        max: u16,
        invented_later: &'static str,
    }
    let mut out = BytesMut::new();
    let newer = Newer {
        magic: MAGIC,
        min: 1,
        max: 2,
        invented_later: "x",
    };
    put(&mut out, kind::HELLO, CONNECTION, |out| {
        put_map(out, &newer)
    });
    let (frame, _) = decode(&out, MAX_HELLO_BYTES).unwrap().unwrap();
    assert!(matches!(frame, Frame::Hello(hello) if hello.max == 2 && hello.features.is_empty()));
}

#[test]
fn an_error_of_a_newer_peer_is_read_as_unknown() {
    #[derive(Serialize)]
    struct Newer {
        code: &'static str,
        message: &'static str,
    }
    let mut out = BytesMut::new();
    let newer = Newer {
        code: "invented_later",
        message: "m",
    };
    put(&mut out, kind::END, 1, |out| put_map(out, &newer));
    let (frame, _) = decode(&out, MAX_FRAME_BYTES).unwrap().unwrap();
    let Frame::End {
        error: Some(error), ..
    } = frame
    else {
        panic!("{frame:?}")
    };
    assert_eq!(error.code, ErrorCode::Unknown);
}

proptest! {
    #[test]
    fn cut_frames_wait_for_the_rest(payload in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>()) {
        for frame in frames(&payload) {
            let bytes = encode(&frame);
            let cut = at.index(bytes.len());
            prop_assert_eq!(decode(&bytes[..cut], MAX_FRAME_BYTES), Ok(None));
        }
    }

    #[test]
    fn random_bytes_never_panic_and_never_take_more_than_there_is(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(Some((_, taken))) = decode(&bytes, MAX_FRAME_BYTES) {
            prop_assert!(taken <= bytes.len());
        }
    }

    #[test]
    fn random_payloads_of_every_kind_never_panic(kind in 0_u8..12, stream: u32, payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut out = BytesMut::new();
        put(&mut out, kind, stream, |out| out.put_slice(&payload));
        drop(decode(&out, MAX_FRAME_BYTES));
    }
}
