//! What a user types, right and wrong: exit codes, messages, options and where they come from.

use crate::process::Place;
use crate::serving::SINGLE;

#[test]
fn a_port_in_use_fails_the_start_and_names_the_option() {
    let place = Place::new();
    let first = place.start("first", SINGLE);
    let port = first.address.rsplit(':').next().unwrap();
    for option in ["--http-port", "--system-port"] {
        let ended = place.run(&["run", "in=http", "out=echo", option, port]);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(
            ended.stderr.contains(port) && ended.stderr.contains(option),
            "{}",
            ended.stderr
        );
        assert_eq!(ended.stdout, "");
    }
}

#[test]
fn mistakes_on_the_command_line_exit_with_2_and_say_what_would_work() {
    let place = Place::new();
    let cases: &[(&[&str], &str)] = &[
        (&["run", "in=htpp"], "in=text, stdin, http"),
        (
            &["run", "in=http", "out=mistralrs"],
            "not part of this version",
        ),
        (&["run", "in=http", "in=text"], "given twice"),
        (&["run", "in=batch:"], "in=batch:FILE.jsonl"),
        (
            &["run", "in=dyn://a.b.c.d"],
            "dyn://NAMESPACE.COMPONENT.ENDPOINT",
        ),
        (&["frontend", "--http-prot", "1"], "--http-port"),
        (&["frontend", "--http-port", "99999"], "65535"),
        (&["frontend", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (&["frontned"], "frontend"),
    ];
    for (words, hint) in cases {
        let ended = place.run(words);
        assert_eq!(ended.code, Some(2), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(hint), "{words:?}: {}", ended.stderr);
        assert_eq!(ended.stdout, "", "{words:?}");
    }
}

#[test]
fn help_and_version_are_answers() {
    let place = Place::new();
    for words in [&["--help"][..], &["--version"], &["run", "--help"], &[]] {
        let ended = place.run(words);
        assert_eq!(ended.code, Some(0), "{words:?}");
        assert!(ended.stdout.to_lowercase().contains("dynamo"), "{words:?}");
        assert_eq!(ended.stderr, "", "{words:?}");
    }
}

#[test]
fn an_unknown_key_in_a_file_is_refused_with_the_nearest_one() {
    let place = Place::new();
    for (name, text) in [
        ("serve.yaml", "frontend:\n  http_prot: 1\n"),
        ("serve.toml", "http_prot = 1\n"),
    ] {
        let file = place.write(name, text);
        let ended = place.run(&["frontend", "--config", &file]);
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("http_prot") && ended.stderr.contains("http_port"),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn a_flag_beats_the_environment_and_that_the_file_and_that_the_default() {
    let place = Place::new();
    let text = "http_host = \"127.0.0.2\"\nhttp_port = 1\nmax_prompt_tokens = 5\n";
    let file = place.write("serve.toml", text);
    let words = [
        "frontend",
        "--config",
        &file,
        "--http-port",
        "3",
        "--print-config",
    ];
    let mut command = place.command(&words);
    command
        .env("DYN_HTTP_PORT", "2")
        .env("DYN_HTTP_HOST", "127.0.0.3")
        .env("DYN_API_KEY", "open-sesame");
    let ended = place.spawn("print", command).wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for line in [
        "http_port = 3  # flag --http-port",
        "http_host = \"127.0.0.3\"  # env DYN_HTTP_HOST",
        "max_prompt_tokens = 5  # file",
        "http_max_requests = 4096  # default",
    ] {
        assert!(
            ended.stdout.contains(line),
            "{line} is not in\n{}",
            ended.stdout
        );
    }
    assert!(!ended.stdout.contains("open-sesame"), "{}", ended.stdout);
}

#[test]
fn a_file_that_the_environment_names_is_read() {
    let place = Place::new();
    let file = place.write("serve.yaml", "http_port: 0\nmodel_name: from-the-file\n");
    let mut command = place.command(&["run", "in=http", "out=echo"]);
    command.env("DYN_CONFIG", file);
    let server = place.serve("server", command);
    assert_eq!(server.models(), ["from-the-file"]);
}
