//! Flag over environment over file over default, for every combination.

use crate::options::{args, frontend, resolve, router, yaml};
use dynamo_config::{Source, Sources};
use proptest::prelude::*;

proptest! {
    #[test]
    fn the_strongest_source_that_is_given_wins(
        flag in proptest::option::of(any::<u16>()),
        env in proptest::option::of(any::<u16>()),
        file in proptest::option::of(any::<u16>()),
    ) {
        let mut sources = match file {
            Some(port) => yaml(&format!("frontend:\n  http-port: {port}\n")),
            None => Sources::new(),
        };
        if let Some(port) = env {
            sources = sources.env([("DYN_HTTP_PORT", port.to_string())]);
        }
        if let Some(port) = flag {
            sources.args = args(&["--http-port", &port.to_string()]).args;
        }
        let expected = match (flag, env, file) {
            (Some(port), _, _) => (port, "flag --http-port"),
            (None, Some(port), _) => (port, "env DYN_HTTP_PORT"),
            (None, None, Some(port)) => (port, "file serve.yaml:2"),
            (None, None, None) => (8000, "default"),
        };
        let source = resolve(&sources).unwrap().source("http_port").unwrap().to_string();
        prop_assert_eq!((frontend(&sources).http_port, source.as_str()), expected);
    }
}

#[test]
fn what_is_overridden_may_hold_anything() {
    let sources = args(&["-p", "1"]).env([("DYN_HTTP_PORT", "no port")]);
    assert_eq!(frontend(&sources).http_port, 1);
}

#[test]
fn the_first_variable_that_is_set_counts() {
    let both = [("DYN_MODE", "kv"), ("DYN_ROUTER_MODE", "rr")];
    assert_eq!(
        router(&Sources::new().env(both)).router_mode.as_str(),
        "round-robin"
    );
    let resolved = resolve(&Sources::new().env([("DYN_MODE", "rr")])).unwrap();
    assert_eq!(
        resolved.source("router_mode"),
        Some(&Source::Env("DYN_MODE".to_owned()))
    );
}

#[test]
fn unset_in_a_stronger_source_overrides_a_value_in_a_weaker_one() {
    let file = "queue_limit: 8\n";
    assert_eq!(router(&yaml(file)).queue_limit, Some(8));
    for unset in ["", "none", "None"] {
        let sources = yaml(file).env([("DYN_QUEUE_LIMIT", unset)]);
        assert_eq!(router(&sources).queue_limit, None, "{unset:?}");
    }
    let mut sources = args(&["--queue-limit="]);
    sources.file = yaml(file).file;
    assert_eq!(router(&sources).queue_limit, None);
    assert_eq!(router(&yaml("queue_limit: ~\n")).queue_limit, None);
    assert_eq!(router(&Sources::new()).queue_limit, Some(64));
}
