//! What goes wrong while a model is fetched: the server refuses, stops or stands still, the disk
//! is full, an earlier run left something, another one has the lock. Real servers, real files.

use crate::hub_server::{Fault, Place, TOKEN, WEIGHTS, fetch};
use dynamo_llm::hub::{HubError, HubLimits};
use futures_util::future::join_all;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::time::Duration;

/// Much longer than a healthy answer takes here, and short enough to be waited for.
const STALL: Duration = Duration::from_secs(1);

fn impatient() -> HubLimits {
    HubLimits {
        attempts: 2,
        first_pause: Duration::ZERO,
        stall: STALL,
        ..HubLimits::default()
    }
}

/// The first byte of a part that was asked for.
fn start(part: &str) -> usize {
    let number = part.strip_prefix("bytes=").unwrap().trim_end_matches('-');
    number.parse().unwrap()
}

#[tokio::test]
async fn whom_the_hub_refuses_is_told_of_the_token() {
    let place = Place::new().await;
    // A closed repository is refused as a whole, one with terms file by file.
    for refused in ["GET hub listing", "HEAD hub tokenizer.json"] {
        for status in [401, 403] {
            for token in [true, false] {
                place.refuse(refused, status, usize::MAX);
                let hub = place.hub(|options| {
                    if !token {
                        options.hf_token = None;
                    }
                });
                let error = fetch(&hub).await.unwrap_err();
                let HubError::Denied { token_sent, .. } = error else {
                    panic!("{error}");
                };
                assert_eq!(token_sent, token);
                let text = error.to_string();
                assert!(
                    text.contains("HF_TOKEN") && text.contains("org/name"),
                    "{text}"
                );
                assert!(text.contains(&status.to_string()), "{text}");
                assert!(!text.contains(TOKEN), "{text}");
            }
        }
        // Asking again does not help, so it is not done: once for each of the four above.
        assert_eq!(place.requests(refused).len(), 4);
    }
    place.tasks.stop().await;
}

#[tokio::test]
async fn a_server_in_trouble_is_asked_again_and_not_for_ever() {
    let place = Place::new().await;
    for (status, what) in [(503, "GET hub listing"), (429, "HEAD hub config.json")] {
        place.refuse(what, status, usize::MAX);
        let before = place.requests(what).len();
        let error = fetch(&place.hasty_hub(3)).await.unwrap_err();
        assert!(
            matches!(error, HubError::Server { status: named, .. } if named == status),
            "{error}"
        );
        assert_eq!(place.requests(what).len() - before, 3);
    }
    place.refuse("GET hub listing", 503, 2);
    let model = fetch(&place.hasty_hub(3)).await.unwrap();
    place.assert_whole(&model);
    place.tasks.stop().await;
}

#[tokio::test]
async fn a_file_that_is_listed_and_not_there_is_named() {
    let place = Place::new().await;
    place.refuse("HEAD hub tokenizer.json", 404, usize::MAX);
    let error = fetch(&place.hub(|_| {})).await.unwrap_err();
    assert!(matches!(error, HubError::Response { .. }), "{error}");
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
    place.tasks.stop().await;
}

#[tokio::test]
async fn a_name_that_leads_out_of_the_cache_is_refused() {
    let place = Place::new().await;
    for name in [
        "../../evil.safetensors",
        "/evil.safetensors",
        "a/../../b.gguf",
    ] {
        place.put(name, b"x".to_vec());
    }
    let error = fetch(&place.hub(|_| {})).await.unwrap_err();
    assert!(matches!(error, HubError::Response { .. }), "{error}");
    assert!(!place.repo().exists());
    place.tasks.stop().await;
}

#[tokio::test]
async fn a_server_that_always_stops_is_given_up_and_gone_on_with_later() {
    let place = Place::new().await;
    place.faults(&[Fault::Cut, Fault::Cut]);
    let error = fetch(&place.hasty_hub(2)).await.unwrap_err();
    let HubError::Truncated { received, size, .. } = error else {
        panic!("{error}");
    };
    assert!(received > 0 && received < size);
    let (_, partial) = place.blob();
    assert_eq!(fs::metadata(partial).unwrap().len(), received);

    let model = fetch(&place.hasty_hub(2)).await.unwrap();
    place.assert_whole(&model);
    assert_eq!(start(place.parts().last().unwrap()) as u64, received);
    place.tasks.stop().await;
}

#[tokio::test]
async fn a_server_that_stands_still_is_waited_for_no_longer_than_the_limit() {
    for fault in [Fault::Stall, Fault::Trickle] {
        let place = Place::new().await;
        place.faults(&[fault, fault]);
        let error = fetch(&place.hub_with(impatient(), |_| {}))
            .await
            .unwrap_err();
        let HubError::Stalled {
            received, waited, ..
        } = error
        else {
            panic!("{fault:?}: {error}");
        };
        assert_eq!(waited, STALL);
        assert!(received >= 100_000, "{received}");
        assert!(error.to_string().contains(WEIGHTS), "{error}");
        assert_eq!(place.parts().len(), 2);
        place.tasks.stop().await;
    }
}

#[tokio::test]
async fn after_a_standstill_the_download_goes_on_where_it_was() {
    let place = Place::new().await;
    place.faults(&[Fault::Stall]);
    let model = fetch(&place.hub_with(impatient(), |_| {})).await.unwrap();
    place.assert_whole(&model);
    assert_eq!(place.parts(), ["all", "bytes=100000-"]);
    place.tasks.stop().await;
}

#[tokio::test]
async fn a_server_that_gives_no_parts_is_read_from_the_start() {
    let place = Place::new().await;
    place.faults(&[Fault::Cut, Fault::NoRanges]);
    let model = fetch(&place.hasty_hub(2)).await.unwrap();
    place.assert_whole(&model);
    assert_eq!(place.parts().len(), 2);
    place.tasks.stop().await;
}

#[tokio::test]
async fn what_an_earlier_run_left_is_built_upon_only_if_it_is_right() {
    let place = Place::new().await;
    let content = place.content(WEIGHTS);
    let wrong = vec![b'?'; content.len()];
    let longer = [&content[..], b"more"].concat();
    let cases: [(&[u8], &[&str]); 5] = [
        (&content[..150_000], &["bytes=150000-"]),
        (&content, &[]),
        (&wrong, &["all"]),
        (&wrong[..10], &["bytes=10-", "all"]),
        (&longer, &["all"]),
    ];
    for (left, parts) in cases {
        let place = Place::new().await;
        place.leave_partial(left);
        let model = fetch(&place.hasty_hub(2)).await.unwrap();
        place.assert_whole(&model);
        assert_eq!(place.parts(), parts);
        place.tasks.stop().await;
    }
    place.tasks.stop().await;
}

/// The kernel's own device for it: whatever is written there finds no room.
#[tokio::test]
async fn a_full_disk_is_an_error_that_says_how_much_is_missing() {
    let place = Place::new().await;
    let (blob, partial) = place.blob();
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    symlink("/dev/full", &partial).unwrap();
    let error = fetch(&place.hasty_hub(3)).await.unwrap_err();
    let HubError::DiskFull { missing, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(missing, 200_000);
    assert!(error.to_string().contains("HF_HOME"), "{error}");
    assert!(!blob.exists());
    // Asking the server again makes no room.
    assert_eq!(place.parts().len(), 1);

    fs::remove_file(partial).unwrap();
    let model = fetch(&place.hasty_hub(3)).await.unwrap();
    place.assert_whole(&model);
    place.tasks.stop().await;
}

#[tokio::test]
async fn a_lock_that_nobody_gives_back_is_named() {
    let place = Place::new().await;
    let lock = place.lock();
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    let held = File::create(&lock).unwrap();
    held.lock().unwrap();
    let limits = HubLimits {
        lock_pause: Duration::ZERO,
        lock_looks: 3,
        ..HubLimits::default()
    };
    let hub = place.hub_with(limits, |_| {});
    let error = fetch(&hub).await.unwrap_err();
    assert!(matches!(error, HubError::Locked { .. }), "{error}");
    assert!(
        error.to_string().contains(lock.to_str().unwrap()),
        "{error}"
    );
    drop(held);
    place.assert_whole(&fetch(&hub).await.unwrap());
    place.tasks.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_that_fetch_the_same_model_at_once_fetch_it_once() {
    let place = Place::new().await;
    place.put_weights(3_000_000);
    let hubs: Vec<_> = (0..8).map(|_| place.hub(|_| {})).collect();
    let models = join_all(hubs.iter().map(fetch)).await;
    for model in models {
        place.assert_whole(&model.unwrap());
    }
    assert_eq!(place.parts(), ["all"]);
    place.tasks.stop().await;
}
