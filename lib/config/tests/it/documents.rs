//! What the declarations are turned into: `--print-config`, help, reference page, JSON.

use crate::options::{command, resolve, schema, toml, yaml};
use dynamo_config::Sources;
use proptest::prelude::*;

#[test]
fn the_declarations_have_no_defects() {
    assert_eq!(schema().check(), [""; 0]);
}

#[test]
fn print_config_tells_value_and_source_of_every_option() {
    let file = yaml("http_host: 'a \"b\"'\nmodel_name: [a, b]\n");
    let args = crate::options::args(&["--no-kv-events", "-p", "1"]);
    let env = [("DYN_API_KEY", "hunter2"), ("DYN_QUEUE_LIMIT", "none")];
    let mut sources = file.env(env);
    sources.args = args.args;
    assert_eq!(
        resolve(&sources).unwrap().print(),
        r#"[frontend]
http_port = 1  # flag --http-port
http_host = "a \"b\""  # file serve.yaml:1
api_key = "<set>"  # env DYN_API_KEY
request_timeout = "10m"  # default
body_limit = "45MiB"  # default
kv_events = false  # flag --no-kv-events
model_name = ["a", "b"]  # file serve.yaml:2

[router]
router_mode = "kv"  # default
temperature = 0.0  # default
queue_limit = "none"  # env DYN_QUEUE_LIMIT
system_port = -1  # default
decision_log = "none"  # default
"#
    );
}

proptest! {
    #[test]
    fn printed_configuration_reads_back_as_itself(
        port: u16,
        host: String,
        seconds in 1_u64..1_000_000,
        bytes: u64,
        events: bool,
        names in prop::collection::vec("[^, \t\r\n]{1,8}", 0..4),
        temperature in 0.0..2.0,
        limit in proptest::option::of(1_u32..),
    ) {
        let env = [
            ("DYN_HTTP_PORT", port.to_string()),
            ("DYN_HTTP_HOST", host),
            ("DYN_HTTP_BODY_LIMIT", bytes.to_string()),
            ("DYN_KV_EVENTS", events.to_string()),
            ("DYN_MODEL_NAME", names.join(",")),
            ("DYN_QUEUE_LIMIT", limit.map(|limit| limit.to_string()).unwrap_or_default()),
        ];
        let file = format!("temperature = {temperature:?}\nrequest_timeout = '{seconds}s'\n");
        let first = resolve(&toml(&file).env(env)).unwrap();
        let second = resolve(&toml(&first.print())).unwrap();
        let values = |resolved: &dynamo_config::Resolved| -> Vec<_> {
            resolved.values().iter().map(|value| value.value.clone()).collect()
        };
        prop_assert_eq!(values(&first), values(&second));
    }
}

#[test]
fn help_groups_options_and_tells_defaults_bounds_and_variables() {
    let help = command().render_long_help().to_string();
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "Frontend options: -p, --http-port <NUMBER> Port of the HTTP server; 0 takes a free one. \
         [default: 8000] [env: DYN_HTTP_PORT] [alias: --port]",
        "--kv-events[=<BOOL>]",
        "[--no-kv-events turns it off] [default: true] [env: DYN_KV_EVENTS]",
        "--api-key <SECRET> Key that clients have to send. [env: DYN_API_KEY]",
        "Router options:",
        "- kv: By cached prefix and load. - round-robin: In turn.",
        "--router-temperature <NUMBER> Randomness of the pick. [from 0.0 to 2.0] [default: 0.0]",
    ] {
        assert!(words.contains(part), "{part}\nis not in\n{words}");
    }
    assert!(!words.contains("use-kv-events"), "{words}");
}

#[test]
fn the_reference_page_tells_everything_declared() {
    let page = schema().reference_markdown("The frontend's options");
    assert!(page.starts_with("# The frontend's options\n\nA flag wins over"));
    let from = page.find("### `--http-port`").unwrap();
    let to = page.find("### `--http-host`").unwrap();
    assert_eq!(
        page[from..to],
        *"### `--http-port`

Port of the HTTP server; 0 takes a free one.

- key `http_port`, integer
- default `8000`
- environment `DYN_HTTP_PORT`
- flags too `-p`, `--port`

"
    );
    let from = page.find("### `--kv-events`").unwrap();
    assert_eq!(
        page[from..],
        *"### `--kv-events`

Use what workers tell about their caches.

Without it, the router guesses from what it sent where.

- key `kv_events`, boolean
- default `true`
- environment `DYN_KV_EVENTS`
- flags too `--no-kv-events`
- deprecated flags `--use-kv-events`

### `--model-name`

Names to serve the model under.

- key `model_name`, list of text
- default: empty
- environment `DYN_MODEL_NAME`

## `router`

Options of the router.

### `--router-mode`

How a worker is picked.

- key `router_mode`, choice
- default `kv`
- environment `DYN_ROUTER_MODE`, `DYN_MODE`
- `kv`: By cached prefix and load.
- `round-robin`: In turn.

### `--router-temperature`

Randomness of the pick.

- key `temperature`, number
- from 0.0 to 2.0
- default `0.0`

### `--queue-limit`

Requests that may wait.

- key `queue_limit`, integer or `none`
- at least 1
- default `64`
- environment `DYN_QUEUE_LIMIT`

### `--system-port`

Port of the status server; -1 opens none.

- key `system_port`, integer
- from -1 to 65535
- default `-1`
- environment `DYN_SYSTEM_PORT`

### `--decision-log`

File of decisions.

- key `decision_log`, path or `none`
- default `none`
"
    );
}

#[test]
fn the_json_form_carries_types_and_values() {
    let json = schema().json();
    let option = |group: usize, index: usize| &json["groups"][group]["options"][index];
    assert_eq!(json["groups"][0]["name"], "frontend");
    assert_eq!(
        *option(0, 0),
        serde_json::json!({
            "key": "http_port", "flag": "--http-port", "short": "p", "aliases": ["--port"],
            "deprecated_aliases": [], "env": ["DYN_HTTP_PORT"], "type": "integer",
            "list": false, "optional": false, "required": false, "secret": false,
            "default": 8000, "min": null, "max": null, "choices": [],
            "doc": "Port of the HTTP server; 0 takes a free one.",
        })
    );
    assert_eq!(option(0, 2)["secret"], true);
    assert_eq!(option(0, 2)["default"], serde_json::Value::Null);
    assert_eq!(option(0, 4)["default"], "45MiB");
    assert_eq!(option(0, 6)["list"], true);
    assert_eq!(option(0, 6)["default"], serde_json::json!([]));
    assert_eq!(
        option(1, 0)["choices"][1]["aliases"],
        serde_json::json!(["rr"])
    );
    assert_eq!(option(1, 1)["max"], 2.0);
    assert_eq!(option(1, 3)["min"], -1);
}

#[test]
fn sources_without_anything_give_defaults_alone() {
    let resolved = resolve(&Sources::new()).unwrap();
    assert!(
        resolved.print().lines().all(|line| {
            line.is_empty() || line.starts_with('[') || line.ends_with("# default")
        })
    );
    assert!(resolved.warnings().is_empty());
}
