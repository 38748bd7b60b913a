//! Each source in its own forms.

use crate::options::{
    FrontendOptions, RouterMode, args, command, frontend, resolve, router, toml, yaml,
};
use dynamo_config::{ByteSize, Sources};
use std::path::PathBuf;
use std::time::Duration;

#[test]
fn clap_finds_no_fault_with_the_command() {
    command().debug_assert();
}

#[test]
fn flags_take_every_kind_of_value() {
    let sources = args(&[
        "--request-timeout=1m30s",
        "--body-limit",
        "64KiB",
        "--router-mode",
        "RR",
        "--router-temperature",
        "0.5",
        "--system-port",
        "-1",
        "--decision-log",
        "a/b.log",
    ]);
    let frontend = frontend(&sources);
    assert_eq!(frontend.request_timeout, Duration::from_secs(90));
    assert_eq!(frontend.body_limit, ByteSize::kib(64));
    let router = router(&sources);
    assert_eq!(router.router_mode, RouterMode::RoundRobin);
    assert_eq!(router.temperature, 0.5);
    assert_eq!(router.system_port, -1);
    assert_eq!(router.decision_log, Some(PathBuf::from("a/b.log")));
}

#[test]
fn short_flags_and_aliases_set_the_same_option() {
    for words in [["--http-port", "9"], ["--port", "9"], ["-p", "9"]] {
        let resolved = resolve(&args(&words)).unwrap();
        assert_eq!(resolved.get::<FrontendOptions>().http_port, 9);
        let source = resolved.source("http_port").unwrap();
        assert_eq!(source.to_string(), "flag --http-port");
    }
}

#[test]
fn switches_are_turned_on_and_off_and_the_last_one_counts() {
    for (words, expected) in [
        (vec![], true),
        (vec!["--kv-events"], true),
        (vec!["--no-kv-events"], false),
        (vec!["--kv-events=false"], false),
        (vec!["--kv-events=on"], true),
        (vec!["--use-kv-events"], true),
        (vec!["--no-use-kv-events"], false),
        (vec!["--no-kv-events", "--kv-events"], true),
        (vec!["--kv-events", "--no-kv-events"], false),
        (vec!["--no-kv-events", "--no-kv-events"], false),
    ] {
        assert_eq!(frontend(&args(&words)).kv_events, expected, "{words:?}");
    }
    let resolved = resolve(&args(&["--no-kv-events"])).unwrap();
    let source = resolved.source("kv_events").unwrap();
    assert_eq!(source.to_string(), "flag --no-kv-events");
}

#[test]
fn a_switch_does_not_swallow_the_next_word() {
    let result = command().try_get_matches_from(["frontend", "--kv-events", "false"]);
    assert!(result.is_err());
}

#[test]
fn a_flag_given_twice_counts_the_second_time() {
    assert_eq!(frontend(&args(&["-p", "1", "--port", "2"])).http_port, 2);
}

#[test]
fn lists_repeat_their_flag_and_split_in_the_environment_only() {
    let names = |sources: &Sources| frontend(sources).model_name;
    let flags = args(&["--model-name", "a", "--model-name=b,c"]);
    assert_eq!(names(&flags), ["a", "b,c"]);
    let env = Sources::new().env([("DYN_MODEL_NAME", " a, b\tc,,d ")]);
    assert_eq!(names(&env), ["a", "b", "c", "d"]);
    assert_eq!(names(&yaml("model_name: [a, 'b c']\n")), ["a", "b c"]);
    assert_eq!(names(&yaml("model_name: a\n")), ["a"]);
    assert_eq!(names(&toml("model_name = ['a']\n")), ["a"]);
}

#[test]
fn an_empty_flag_is_an_empty_text_or_list() {
    assert_eq!(frontend(&args(&["--http-host="])).http_host, "");
    let sources = args(&["--model-name="]).env([("DYN_MODEL_NAME", "a")]);
    assert_eq!(frontend(&sources).model_name, [""; 0]);
}

#[test]
fn boolean_variables_have_four_words_each() {
    for (text, expected) in [("1", true), ("YES", true), ("off", false), ("0", false)] {
        let sources = Sources::new().env([("DYN_KV_EVENTS", text)]);
        assert_eq!(frontend(&sources).kv_events, expected, "{text}");
    }
}

#[test]
fn file_keys_stand_at_the_top_or_in_their_group_in_either_case() {
    for text in [
        "http_port: 9\n",
        "http-port: 9\n",
        "frontend:\n  http_port: 9\n",
        "frontend: {http-port: '9'}\n",
    ] {
        assert_eq!(frontend(&yaml(text)).http_port, 9, "{text}");
    }
    for text in ["http_port = 9\n", "[frontend]\nhttp-port = 9\n"] {
        assert_eq!(frontend(&toml(text)).http_port, 9, "{text}");
    }
    assert_eq!(frontend(&yaml("frontend:\n")).http_port, 8000);
}

#[test]
fn texts_of_a_file_stay_as_written() {
    assert_eq!(frontend(&yaml("http_host: 1.10\n")).http_host, "1.10");
    assert_eq!(frontend(&yaml("http_host: no\n")).http_host, "no");
    assert_eq!(frontend(&toml("http_host = 1.10\n")).http_host, "1.10");
}

#[test]
fn options_of_another_command_line_read_as_not_given() {
    let bare = clap::Command::new("bare").try_get_matches_from(["bare"]);
    let sources = Sources::new().args(bare.unwrap());
    assert_eq!(frontend(&sources).http_port, 8000);
}
