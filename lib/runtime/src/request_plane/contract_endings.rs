//! The cases of the contract in which somebody ends: by draining, by dying, by standing still.
#![expect(missing_docs, reason = "the names of the cases say it all")]

use super::RequestHeader;
use super::contract::{
    Pair, Progress, TestBackend, count, endless, header, item, next, patiently, positions, read,
    until,
};
use bytes::Bytes;
use dynamo_protocols::ErrorCode;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::watch;
use tokio::time::Instant;

pub async fn a_draining_endpoint_finishes_what_it_has(backend: &dyn TestBackend) {
    drains(backend, |pair| pair.registration.refuse_new()).await;
}

pub async fn a_draining_process_finishes_what_it_has(backend: &dyn TestBackend) {
    drains(backend, |pair| pair.server.plane().handlers().refuse_new()).await;
}

async fn drains(backend: &dyn TestBackend, drain: impl FnOnce(&Pair)) {
    let go_on = watch::Sender::new(false);
    let own = go_on.clone();
    let pair = Pair::start(backend, move |_| {
        let mut go_on = own.subscribe();
        let wait = async move {
            // The sender lives as long as the handler.
            drop(go_on.wait_for(|go_on| *go_on).await);
            item(1, "last")
        };
        Ok(Box::pin(count(1).chain(stream::once(wait))))
    })
    .await;
    let mut running = pair.call(header("old"), b"").await;
    next(&mut running).await;
    drain(&pair);
    for number in 0..3 {
        let address = pair.server.plane().address();
        let call = header(&format!("new {number}"));
        let error = pair.refusal(address, call, Bytes::new()).await;
        assert_eq!(error.code, ErrorCode::Draining);
        assert!(error.retry_after.is_some());
    }
    assert!(pair.registration.idle().now_or_never().is_none());
    go_on.send_replace(true);
    let (items, end) = read(running).await;
    assert_eq!((items.len(), end), (1, None));
    patiently(pair.registration.idle()).await;
}

pub async fn a_lost_server_ends_its_streams(backend: &dyn TestBackend) {
    let progress = watch::Sender::new(Progress::default());
    let pair = Pair::start(backend, move |_| Ok(endless(2, 1, &progress))).await;
    let mut answers = Vec::new();
    for number in 0..10 {
        let mut answer = pair.call(header(&format!("r{number}")), b"").await;
        next(&mut answer).await;
        answers.push(answer);
    }
    pair.server.kill();
    for answer in answers {
        let (items, end) = read(answer).await;
        assert!(items.len() <= 1);
        assert_eq!(end.expect("a loss").code, ErrorCode::WorkerLost);
    }
}

pub async fn a_frozen_server_ends_its_streams(backend: &dyn TestBackend) {
    let progress = watch::Sender::new(Progress::default());
    let pair = Pair::start(backend, move |_| Ok(endless(1, 1, &progress))).await;
    let mut answer = pair.call(header("r"), b"").await;
    next(&mut answer).await;
    let frozen_at = Instant::now();
    pair.server.set_frozen(true);
    let (items, end) = read(answer).await;
    assert!(items.is_empty());
    assert_eq!(end.expect("a loss").code, ErrorCode::WorkerLost);
    let noticed = frozen_at.elapsed();
    assert!(noticed <= backend.loss_bound(), "noticed after {noticed:?}");
}

pub async fn a_frozen_caller_frees_the_server(backend: &dyn TestBackend) {
    let progress = watch::Sender::new(Progress::default());
    let own = progress.clone();
    let pair = Pair::start(backend, move |_| Ok(endless(1, 1, &own))).await;
    let mut answer = pair.call(header("r"), b"").await;
    next(&mut answer).await;
    let frozen_at = Instant::now();
    pair.caller.set_frozen(true);
    until(&progress, |progress| progress.dropped).await;
    let noticed = frozen_at.elapsed();
    assert!(noticed <= backend.loss_bound(), "noticed after {noticed:?}");
}

pub async fn output_of_a_thawed_server_meets_nobody(backend: &dyn TestBackend) {
    let gate = watch::Sender::new(false);
    let own = gate.clone();
    let pair = Pair::start(backend, move |request| {
        let mut open = own.subscribe();
        let attempt = request.header.attempt;
        let start = request.header.start_position;
        let rest = async move {
            // The sender lives as long as the handler.
            drop(open.wait_for(|open| *open).await);
            stream::iter(start + 1..6).map(move |_| item(1, format!("attempt {attempt}")))
        };
        let first = stream::iter([item(1, format!("attempt {attempt}"))]);
        Ok(Box::pin(first.chain(stream::once(rest).flatten())))
    })
    .await;
    let mut stale = pair.call(header("r"), b"").await;
    assert_eq!(next(&mut stale).await.payload, "attempt 0");
    pair.server.set_frozen(true);
    assert_eq!(
        read(stale).await.1.expect("a loss").code,
        ErrorCode::WorkerLost
    );
    gate.send_replace(true);
    pair.server.set_frozen(false);
    let again = RequestHeader {
        attempt: 1,
        start_position: 1,
        ..header("r")
    };
    let (items, end) = read(pair.call(again, b"").await).await;
    assert_eq!((positions(&items), end), (vec![1, 2, 3, 4, 5], None));
    assert!(items.iter().all(|item| item.payload == "attempt 1"));
    patiently(pair.registration.idle()).await;
}
