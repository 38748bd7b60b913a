//! Options that make no sense, and what the others come to.

use super::*;

fn setup(change: impl FnOnce(&mut BackendsSetup)) -> BackendsSetup {
    let mut setup = BackendsSetup {
        addresses: vec!["http://127.0.0.1:1".parse().unwrap()],
        options: BackendOptions::default(),
        router: RouterOptions::default(),
        tokenising: None,
        keys_checked: false,
        models: ModelRegistry::new(),
        environment: Environment::system(),
        tasks: Tasks::root(),
        metrics: BackendMetrics::new().unwrap(),
        event_metrics: EngineEventMetrics::new(),
    };
    change(&mut setup);
    setup
}

fn refusal(change: impl FnOnce(&mut BackendsSetup)) -> SetupError {
    let setup = setup(change);
    let publishers = publishers(&setup).map(|it| it.len());
    match publishers {
        Err(error) => error,
        Ok(publishers) => fleet(setup, publishers).unwrap_err(),
    }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let events = refusal(|it| it.options.kv_events = vec!["none".into(), "none".into()]);
    assert!(matches!(events, SetupError::TooManyEvents { .. }));
    let events = refusal(|it| it.options.kv_events = vec!["tcp://*:5557".into()]);
    assert!(matches!(events, SetupError::Events(_)));
    let events = refusal(|it| it.options.kv_events = vec!["tcp://h:5557".into()]);
    assert_eq!(events, SetupError::NoTokenizer("--kv-events".into()));
    for mode in [RouterMode::Kv, RouterMode::PrefixHash] {
        let mode = refusal(|it| it.router.router_mode = mode);
        assert!(matches!(mode, SetupError::NoTokenizer(_)));
    }
    let twice = refusal(|it| it.addresses.push("http://127.0.0.1:1/v1".parse().unwrap()));
    assert_eq!(twice, SetupError::Twice("http://127.0.0.1:1".into()));
    assert_eq!(
        refusal(|it| it.options.shadow = true),
        SetupError::NoShadowWorkers
    );
    let many = refusal(|it| {
        it.options.shadow = true;
        it.addresses.push("http://127.0.0.1:2".parse().unwrap());
    });
    assert_eq!(many, SetupError::ManyBalancers);
}

#[test]
fn the_mode_follows_what_is_known() {
    let mode = |has_tokenizer, has_events| {
        let options = router_options(RouterOptions::default(), has_tokenizer, has_events);
        options.unwrap().mode(has_events)
    };
    assert_eq!(mode(false, false), RouterMode::LeastLoaded);
    assert_eq!(mode(true, false), RouterMode::KvApproximate);
    assert_eq!(mode(true, true), RouterMode::Kv);
}
