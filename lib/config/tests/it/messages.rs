//! What users read when something is wrong.

use crate::options::{args, refusal, resolve, schema, toml, yaml};
use dynamo_config::{Schema, Sources, options};

#[test]
fn a_bad_value_names_option_source_value_and_form() {
    for (sources, expected) in [
        (
            args(&["--http-port", "80x"]),
            "http_port (flag --http-port): \"80x\" is not an integer from 0 to 65535, such as 8",
        ),
        (
            Sources::new().env([("DYN_HTTP_PORT", "")]),
            "http_port (env DYN_HTTP_PORT): \"\" is not an integer from 0 to 65535, such as 8",
        ),
        (
            Sources::new().env([("DYN_ROUTER_MODE", "vk")]),
            "router_mode (env DYN_ROUTER_MODE): \"vk\" is not one of kv, round-robin; did you mean kv",
        ),
        (
            yaml("\nrequest_timeout: 30\n"),
            "request_timeout (file serve.yaml:2): \"30\" is not a duration, such as 30s, 500ms or \
             1m30s; add a unit: 30s for seconds, 30ms for milliseconds",
        ),
        (
            toml("[frontend]\nrequest_timeout = '10ms'\n"),
            "request_timeout (file serve.toml:2): \"10ms\" is out of bounds, it must be at least 1s",
        ),
        (
            yaml("temperature: 3\n"),
            "temperature (file serve.yaml:1): \"3\" is out of bounds, it must be from 0.0 to 2.0",
        ),
        (
            yaml("http_port: ~\n"),
            "http_port (file serve.yaml:1): \"null\" is no value; give an integer from 0 to \
             65535, or leave the option out to use its default",
        ),
        (
            yaml("http_port: [1, 2]\n"),
            "http_port (file serve.yaml:1): \"1, 2\" is a list, one value is expected: an integer \
             from 0 to 65535",
        ),
        (
            args(&["--kv-events=maybe"]),
            "kv_events (flag --kv-events): \"maybe\" is not true or false",
        ),
    ] {
        assert_eq!(refusal(&sources), expected);
    }
}

#[test]
fn every_problem_is_told_at_once() {
    let sources = args(&["--body-limit", "64k"])
        .env([("DYN_HTTP_PORT", "-1"), ("DYN_QUEUE_LIMIT", "0")])
        .file(yaml("htpp_host: x\nmodel_name: {a: b}\n").file.unwrap());
    assert_eq!(
        refusal(&sources),
        "unknown key htpp_host (file serve.yaml:1); did you mean frontend.http_host\n\
         model_name (file serve.yaml:2) takes a list of values, each a text\n\
         http_port (env DYN_HTTP_PORT): \"-1\" is not an integer from 0 to 65535, such as 8\n\
         body_limit (flag --body-limit): \"64k\" is not a size in bytes, such as 64KiB, 45MB or \
         1024; write 64KiB for powers of 1024 or 64KB for powers of 1000\n\
         queue_limit (env DYN_QUEUE_LIMIT): \"0\" is out of bounds, it must be at least 1"
    );
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    for (key, nearest) in [
        ("http_prot", "frontend.http_port"),
        ("port", "frontend.http_port"),
        ("use_kv_events", "frontend.kv_events"),
        ("router_temperature", "router.temperature"),
        ("fronted", "frontend"),
    ] {
        assert_eq!(
            refusal(&yaml(&format!("{key}: 1\n"))),
            format!("unknown key {key} (file serve.yaml:1); did you mean {nearest}")
        );
    }
    assert_eq!(
        refusal(&yaml("quantisation: 1\n")),
        "unknown key quantisation (file serve.yaml:1)"
    );
}

#[test]
fn a_key_in_the_wrong_group_is_sent_to_its_own() {
    assert_eq!(
        refusal(&toml("[frontend]\nrouter_mode = 'kv'\n")),
        "unknown key frontend.router_mode (file serve.toml:2); did you mean router.router_mode"
    );
}

#[test]
fn a_group_takes_options_and_an_option_takes_a_value() {
    assert_eq!(
        refusal(&yaml("frontend: 1\n")),
        "frontend (file serve.yaml:1) takes the options of the group frontend below it"
    );
    assert_eq!(
        refusal(&yaml("http_host: {a: b}\n")),
        "http_host (file serve.yaml:1) takes one value: a text"
    );
}

#[test]
fn an_option_given_twice_in_a_file_is_an_error() {
    assert_eq!(
        refusal(&yaml("http_port: 1\nfrontend:\n  http-port: 2\n")),
        "http_port (file serve.yaml:3) stands on line 1 already; keep one of them"
    );
}

#[test]
fn a_file_that_cannot_be_read_says_where() {
    let message = refusal(&yaml("http_port: 1\nx: [\n"));
    assert!(
        message.starts_with("cannot read file serve.yaml:"),
        "{message}"
    );
    let message = refusal(&toml("http_port 1\n"));
    assert!(
        message.starts_with("cannot read file serve.toml:1: "),
        "{message}"
    );
}

#[test]
fn a_secret_shows_in_no_message() {
    let sources = yaml("api_key: [hunter2]\n");
    assert_eq!(
        refusal(&sources),
        "api_key (file serve.yaml:1): the value is a list, one value is expected: a secret text \
         that is not empty"
    );
    let given = yaml("api_key: hunter2\n").env([("DYN_API_KEY", "hunter3")]);
    let resolved = resolve(&given).unwrap();
    let shown = format!("{given:?} {resolved:?} {}", resolved.print());
    assert!(!shown.contains("hunter"), "{shown}");
}

#[test]
fn long_values_are_cut_in_messages() {
    let message = refusal(&Sources::new().env([("DYN_HTTP_PORT", "é".repeat(10_000))]));
    assert!(message.len() < 400, "{}", message.len());
}

#[test]
fn unknown_variables_are_warnings_with_the_nearest_name() {
    let sources = Sources::new().env([
        ("DYN_HTTP_PROT", "1"),
        ("DYN_KUBE_STATE", "1"),
        ("DYN_FOO", "1"),
        ("DYN_SYSTEM_PORT", "0"),
        ("HTTP_PROT", "1"),
        ("DYN_PLANNER_MODE", "x"),
    ]);
    let resolved = schema()
        .with_foreign_env(["DYN_PLANNER_MODE"])
        .resolve(&sources)
        .unwrap();
    let warnings: Vec<_> = resolved
        .warnings()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        warnings,
        [
            "unknown environment variable DYN_FOO",
            "unknown environment variable DYN_HTTP_PROT; did you mean DYN_HTTP_PORT",
            "unknown environment variable DYN_KUBE_STATE",
        ]
    );
}

options! {
    /// Options that have to be given.
    struct NeededOptions("needed") {
        /// The endpoint to route to.
        endpoint: Option<String> = None, env = "DYN_ROUTER_ENDPOINT", required;
    }
}

#[test]
fn a_required_option_says_how_to_give_it() {
    let schema = Schema::new().with::<NeededOptions>();
    let expected = "endpoint has no value; give it as flag --endpoint or env DYN_ROUTER_ENDPOINT \
                    or key endpoint of the configuration file";
    for sources in [
        Sources::new(),
        Sources::new().env([("DYN_ROUTER_ENDPOINT", "none")]),
    ] {
        assert_eq!(schema.resolve(&sources).unwrap_err().to_string(), expected);
    }
    assert!(schema.resolve(&yaml("endpoint: a.b.c\n")).is_ok());
}
