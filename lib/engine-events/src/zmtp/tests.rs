//! The codec against itself, against recorded bytes of libzmq, and against garbage.

use super::*;
use proptest::prelude::*;

fn decode(bytes: &[u8]) -> Result<Vec<Arrival>, ProtocolError> {
    let mut decoder = Decoder::default();
    decoder.buffer().put_slice(bytes);
    std::iter::from_fn(|| decoder.next().transpose()).collect()
}

#[test]
fn a_greeting_is_understood_by_its_own_reader() {
    assert_eq!(read_greeting(&greeting()), Ok(PeerVersion { minor: 0 }));
}

#[test]
fn peers_of_other_protocols_and_mechanisms_are_told_apart() {
    let mut decoder = Decoder::default();
    decoder.buffer().put_slice(b"HTTP/1.1 400");
    assert_eq!(decoder.greeting(), Err(ProtocolError::NotZmtp));
    let mut old = greeting();
    old[10] = 2;
    assert_eq!(read_greeting(&old), Err(ProtocolError::NotZmtp));
    let mut plain = greeting();
    plain[12..17].copy_from_slice(b"PLAIN");
    let error = read_greeting(&plain).unwrap_err();
    assert_eq!(error, ProtocolError::Mechanism("PLAIN".to_owned()));
}

#[test]
fn a_ready_tells_the_socket_type() {
    let arrivals = decode(&ready(SocketType::Dealer)).unwrap();
    let [Arrival::Command { name, body }] = &arrivals[..] else {
        panic!("{arrivals:?}");
    };
    assert_eq!(&name[..], b"READY");
    assert_eq!(peer_socket(body), Ok(&b"DEALER"[..]));
    assert!(peer_socket(&body[..body.len() - 1]).is_ok());
    assert!(peer_socket(&body[..5]).is_err());
    assert!(peer_socket(b"").is_err());
}

#[test]
fn long_frames_and_many_parts_end_at_their_bounds() {
    let mut announced = vec![LONG];
    announced.extend((MAX_MESSAGE_BYTES as u64 + 1).to_be_bytes());
    assert_eq!(decode(&announced), Err(ProtocolError::TooLarge));
    assert_eq!(
        decode(&[&[LONG][..], &[0xff; 8]].concat()),
        Err(ProtocolError::TooLarge)
    );
    assert_eq!(
        decode(&[MORE, 0].repeat(MAX_PARTS)),
        Err(ProtocolError::TooLarge)
    );
    let mut parts = message(&[&vec![0; MAX_MESSAGE_BYTES / 2 + 1], b""]).to_vec();
    parts.truncate(parts.len() - 2);
    let again = parts.clone();
    parts.extend(again);
    assert_eq!(decode(&parts), Err(ProtocolError::TooLarge));
}

#[test]
fn broken_commands_and_flags_are_refused() {
    for bytes in [
        &[8u8, 0][..],
        &[COMMAND, 0],
        &[COMMAND, 1, 5],
        &[COMMAND | MORE, 2, 1, b'A'],
    ] {
        assert!(
            matches!(decode(bytes), Err(ProtocolError::Frame(_))),
            "{bytes:?}"
        );
    }
}

proptest! {
    #[test]
    fn messages_survive_any_cut_of_the_stream(
        messages in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..5), 1..5),
        cut in 1usize..64,
    ) {
        let mut bytes = Vec::new();
        for parts in &messages {
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            bytes.extend_from_slice(&message(&parts));
        }
        let mut decoder = Decoder::default();
        let mut read = Vec::new();
        for piece in bytes.chunks(cut) {
            decoder.buffer().put_slice(piece);
            while let Some(arrival) = decoder.next().unwrap() {
                let Arrival::Message(parts) = arrival else { panic!("{arrival:?}") };
                read.push(parts.iter().map(|part| part.to_vec()).collect::<Vec<_>>());
            }
        }
        prop_assert_eq!(read, messages);
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
        let _ = peer_socket(&bytes);
        let mut decoder = Decoder::default();
        decoder.buffer().put_slice(&bytes);
        let _ = decoder.greeting();
    }
}
