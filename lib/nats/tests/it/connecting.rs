//! Getting a link: servers that are away, that refuse, and what the user is told.

use crate::PATIENCE;
use dynamo_config::Secret;
use dynamo_nats::{Link, NatsError, NatsOptions};
use dynamo_runtime::status::HealthState;
use dynamo_runtime::{Environment, Tasks};
use dynamo_testkit::nats_server::NatsServer;
use std::time::Duration;
use tokio::time::{sleep, timeout};

const POLL: Duration = Duration::from_millis(10);

async fn open(options: &NatsOptions, health: &HealthState) -> Result<Link, NatsError> {
    let tasks = Tasks::root();
    Link::open(options, &Environment::system(), &tasks, health).await
}

fn to(server: &NatsServer) -> NatsOptions {
    NatsOptions {
        nats_server: server.url(),
        ..NatsOptions::default()
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            sleep(POLL).await;
        }
    };
    timeout(PATIENCE, wait).await.expect(what);
}

fn is_down(health: &HealthState) -> bool {
    health.report().endpoints.contains_key("nats")
}

#[tokio::test]
async fn a_server_that_comes_later_is_waited_for() {
    let mut server = NatsServer::start_killed();
    let health = HealthState::new();
    let tasks = Tasks::root();
    let environment = Environment::system();
    let options = to(&server);
    let link = Link::open(&options, &environment, &tasks, &health)
        .await
        .unwrap();
    assert!(is_down(&health) && !health.report().is_ready());
    server.restart();
    until("the link is up", || !is_down(&health)).await;
    assert!(link.is_up());
    server.kill();
    until("the loss is seen", || is_down(&health)).await;
}

#[tokio::test]
async fn wrong_credentials_fail_the_start_and_are_not_shown() {
    let server = NatsServer::start_with("authorization { user: me, password: right }");
    let wrong = NatsOptions {
        nats_auth_username: Some("me".to_owned()),
        nats_auth_password: Some(Secret::new("wr0ng")),
        ..to(&server)
    };
    for options in [wrong.clone(), to(&server)] {
        let error = open(&options, &HealthState::new()).await.unwrap_err();
        assert!(matches!(error, NatsError::Refused { .. }), "{error:?}");
        let said = error.to_string();
        assert!(said.contains("--nats-auth-password") && said.contains(&server.url()));
        assert!(!said.contains("wr0ng"));
    }
    let right = NatsOptions {
        nats_auth_password: Some(Secret::new("right")),
        ..wrong
    };
    open(&right, &HealthState::new()).await.unwrap();
}

#[tokio::test]
async fn a_token_and_an_nkey_let_in() {
    let server = NatsServer::start_with("authorization { token: t0k3n }");
    let options = NatsOptions {
        nats_auth_token: Some(Secret::new("t0k3n")),
        ..to(&server)
    };
    open(&options, &HealthState::new()).await.unwrap();

    // Of the documentation of nkeys: a user's seed and its public key.
    let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    let public = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
    let settings = format!("authorization {{ users: [ {{ nkey: {public} }} ] }}");
    let server = NatsServer::start_with(&settings);
    let options = NatsOptions {
        nats_auth_nkey: Some(Secret::new(seed)),
        ..to(&server)
    };
    open(&options, &HealthState::new()).await.unwrap();
    let without = open(&to(&server), &HealthState::new()).await.unwrap_err();
    assert!(matches!(without, NatsError::Refused { .. }));
}

#[tokio::test]
async fn half_a_login_is_told_before_anything_is_sent() {
    let options = NatsOptions {
        nats_auth_username: Some("me".to_owned()),
        ..NatsOptions::default()
    };
    let error = open(&options, &HealthState::new()).await.unwrap_err();
    assert!(error.to_string().contains("NATS_AUTH_PASSWORD"), "{error}");
    let options = NatsOptions {
        nats_auth_credentials_file: Some("/nonexistent/user.creds".into()),
        ..NatsOptions::default()
    };
    let error = open(&options, &HealthState::new()).await.unwrap_err();
    assert!(
        error.to_string().contains("/nonexistent/user.creds"),
        "{error}"
    );
}
