//! Fetching models from a hub on this machine, as it should go, and where the argument or the
//! network is wrong. What goes wrong in the middle is in `hub_failures` and `hub_processes`.

use crate::hub_server::{COMMIT, Fault, Place, TOKEN, WEIGHTS, fetch};
use dynamo_llm::hub::{HubError, HubLimits, Wanted};
use std::time::Duration;

#[tokio::test]
async fn a_model_is_fetched_whole_and_found_again_without_the_network() {
    let place = Place::new().await;
    let model = fetch(&place.hub(|_| {})).await.unwrap();
    place.assert_whole(&model);
    assert!(!model.path.join("notes.txt").exists());
    assert!(
        model
            .path
            .ends_with(format!("hub/models--org--name/snapshots/{COMMIT}"))
    );

    let offline = place.hub(|options| {
        options.hf_hub_offline = true;
        options.hf_endpoint = "http://127.0.0.1:1".to_owned();
    });
    let again = fetch(&offline).await.unwrap();
    assert_eq!(again.path, model.path);
    place.tasks.stop().await;
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_never_to_the_storage() {
    let place = Place::new().await;
    fetch(&place.hub(|_| {})).await.unwrap();
    for (what, token) in place.seen() {
        let expected = what.contains(" hub ").then(|| format!("Bearer {TOKEN}"));
        assert_eq!(token, expected, "{what}");
    }
    place.tasks.stop().await;
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    let place = Place::new().await;
    place.faults(&[Fault::Cut]);
    let model = fetch(&place.hub(|_| {})).await.unwrap();
    place.assert_whole(&model);
    let [first, second] = &place.parts()[..] else {
        panic!("{:?}", place.parts());
    };
    assert_eq!(first, "all");
    assert!(second.starts_with("bytes="), "{second}");
    place.tasks.stop().await;
}

#[tokio::test]
async fn wrong_content_is_an_error_and_no_file() {
    let place = Place::new().await;
    place.faults(&[Fault::Corrupt]);
    let error = fetch(&place.hub(|_| {})).await.unwrap_err();
    assert!(matches!(error, HubError::Checksum { .. }), "{error}");
    assert!(error.to_string().contains(WEIGHTS), "{error}");
    assert!(
        !place
            .repo()
            .join("snapshots")
            .join(COMMIT)
            .join(WEIGHTS)
            .exists()
    );
    let (blob, partial) = place.blob();
    assert!(!blob.exists() && !partial.exists());
    place.tasks.stop().await;
}

#[tokio::test]
async fn without_a_network_the_error_says_where_to_put_the_files() {
    let place = Place::new().await;
    let limits = HubLimits {
        first_pause: Duration::ZERO,
        ..HubLimits::default()
    };
    let nowhere = "http://127.0.0.1:1".to_owned();
    let hub = place.hub_with(limits, |options| options.hf_endpoint = nowhere);
    let error = fetch(&hub).await.unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("models--org--name"), "{error}");
    assert!(!error.to_string().contains(TOKEN));
    place.tasks.stop().await;
}

#[tokio::test]
async fn a_model_that_does_not_exist_is_named_with_the_revision() {
    let place = Place::new().await;
    for argument in ["org/other", "org/name@other"] {
        let hub = place.hub(|_| {});
        let fetched = hub.resolve(argument, Wanted::Everything, &|_| {}).await;
        let error = fetched.unwrap_err();
        assert!(matches!(error, HubError::NotFound { .. }), "{error}");
        let (repo, revision) = argument.split_once('@').unwrap_or((argument, "main"));
        let text = error.to_string();
        assert!(text.contains(repo) && text.contains(revision), "{text}");
        assert!(!place.repo().exists());
    }
    place.tasks.stop().await;
}
