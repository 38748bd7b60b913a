//! What the declarations of this program's own commands say of a graph's parameters.

use crate::forms::is_python_engine;
use crate::schemas::schema;
use clap::Command;
use dynamo_config::{Kind, OptionSpec, Problem, Schema, Shape, Sources};
use dynamo_graph::{KnownFlags, ParameterValue};

/// The flags of every command that a component may run.
pub(crate) struct OwnFlags;

/// The schema of a command, as components name it.
fn schema_of(command: &str, output: Option<&str>) -> Option<Schema> {
    match command {
        "serve" | "run" if output.is_some_and(is_python_engine) => Some(schema("run-python")),
        "serve" | "run" => Some(schema("run")),
        "frontend" | "mocker" | "router" => Some(schema(command)),
        "metrics" => Some(schema("metrics-component")),
        _ => None,
    }
}

impl KnownFlags for OwnFlags {
    fn problem(
        &self,
        command: &str,
        output: Option<&str>,
        parameter: &str,
        value: &ParameterValue,
    ) -> Option<String> {
        let schema = schema_of(command, output)?;
        if let Some(spec) = option(&schema, parameter) {
            return value_problem(&schema, spec, value);
        }
        let known = schema
            .specs()
            .map(|spec| spec.flag.trim_start_matches("--"));
        let hint = match dynamo_config::nearest(parameter, known) {
            Some(name) => format!("; did you mean {}", name.replace('-', "_")),
            None => format!("; dynamo {command} --help lists them"),
        };
        let flag = flag(parameter);
        Some(format!("dynamo {command} has no flag {flag}{hint}"))
    }

    fn repeats(&self, command: &str, output: Option<&str>, parameter: &str) -> bool {
        let schema = schema_of(command, output);
        let spec = schema.as_ref().and_then(|it| option(it, parameter));
        spec.is_some_and(|spec| spec.shape == Shape::Many)
    }
}

/// The option that a parameter sets.
fn option<'a>(schema: &'a Schema, parameter: &str) -> Option<&'a OptionSpec> {
    let flag = flag(parameter);
    let positive = flag.strip_prefix("--no-").map(|name| format!("--{name}"));
    let is_it = |spec: &&OptionSpec| {
        let names = spec.aliases.iter().chain(&spec.deprecated_aliases);
        let mut names = names.copied().chain([spec.flag.as_str()]);
        names.any(|name| name == flag || (spec.is_switch() && Some(name) == positive.as_deref()))
    };
    schema.specs().find(is_it)
}

fn flag(parameter: &str) -> String {
    format!("--{}", parameter.replace('_', "-"))
}

fn value_problem(schema: &Schema, spec: &OptionSpec, value: &ParameterValue) -> Option<String> {
    let texts: Vec<&str> = match value {
        ParameterValue::Switch(_) if spec.kind == Kind::Bool => return None,
        ParameterValue::Switch(_) => {
            return Some(format!(
                "{} takes {}, and not true or false",
                spec.flag, spec.form
            ));
        }
        _ if spec.is_switch() => {
            return Some(format!("{} takes true or false, without quotes", spec.flag));
        }
        ParameterValue::Json(_) => {
            return Some(format!(
                "{} takes {}, and not a mapping",
                spec.flag, spec.form
            ));
        }
        ParameterValue::List(texts) if spec.shape == Shape::Many => {
            texts.iter().map(String::as_str).collect()
        }
        ParameterValue::List(_) => {
            return Some(format!("{} takes one value: {}", spec.flag, spec.form));
        }
        ParameterValue::Text(text) => vec![text],
    };
    refused(schema, spec, &texts)
}

/// What reading a value says against it: the same as the command's own line would.
fn refused(schema: &Schema, spec: &OptionSpec, texts: &[&str]) -> Option<String> {
    let command = schema.clap_args(Command::new("flags").no_binary_name(true));
    let words = texts.iter().map(|text| format!("{}={text}", spec.flag));
    // Whatever a word holds, it is one flag with its value.
    let matches = command.try_get_matches_from(words).ok()?;
    let error = schema.resolve(&Sources::new().args(matches)).err()?;
    error.problems.iter().find_map(|problem| match problem {
        Problem::Value {
            key, value, error, ..
        } if key == spec.key => {
            let value = value.as_ref().map(|value| format!("{value:?}"));
            Some(format!(
                "{} {error}",
                value.as_deref().unwrap_or("the value")
            ))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(command: &str, parameter: &str, value: &str) -> Option<String> {
        let value = match value {
            "true" => ParameterValue::Switch(true),
            text => ParameterValue::Text(text.to_owned()),
        };
        OwnFlags.problem(command, None, parameter, &value)
    }

    #[test]
    fn flags_and_their_values_are_those_of_the_declarations() {
        for (command, parameter, value) in [
            ("frontend", "http_port", "8000"),
            ("frontend", "port", "8080"),
            ("serve", "router_mode", "round_robin"),
            ("mocker", "speedup_ratio", "10.5"),
            ("mocker", "model_path", "/models/x"),
            ("vllm", "whatever", "1"),
        ] {
            assert_eq!(
                problem(command, parameter, value),
                None,
                "{command} {parameter}"
            );
        }
        for (command, parameter, value, said) in [
            ("frontend", "http_prot", "1", "did you mean http_port"),
            ("frontend", "http_port", "many", "is not an integer"),
            ("frontend", "http_port", "true", "and not true or false"),
            ("serve", "router_mode", "fastest", "one of"),
            ("mocker", "zzz", "1", "dynamo mocker --help"),
        ] {
            let message = problem(command, parameter, value).unwrap_or_default();
            assert!(message.contains(said), "{command} {parameter}: {message}");
        }
    }

    #[test]
    fn lists_of_own_options_are_the_flag_several_times_and_those_of_engines_are_not() {
        for (command, output, parameter, repeats) in [
            ("frontend", None, "api_key", true),
            ("serve", Some("dyn"), "kv_events", true),
            ("serve", Some("vllm"), "kv_events", false),
            ("serve", Some("vllm"), "served_model_name", false),
            ("vllm", None, "served_model_name", false),
        ] {
            let said = OwnFlags.repeats(command, output, parameter);
            assert_eq!(said, repeats, "{command} {output:?} {parameter}");
        }
    }

    /// Components with wrong flags: the program, and its parameters.
    const WRONG: &[(&str, &str)] = &[
        ("dynamo, frontend", "http_prot: 8000"),
        ("dynamo, frontend", "tensor_parallel_size: 2"),
        ("dynamo, frontend", "http_port: high"),
        ("dynamo, frontend", "http_port: true"),
        ("dynamo, frontend", "http_port: [8000, 8001]"),
        ("dynamo, frontend", "http_port: {number: 8000}"),
        ("dynamo, frontend", "http_port: 8000.5"),
        ("dynamo, frontend", "http_port: 99999"),
        ("dynamo, frontend", "router_mode: fastest"),
        ("dynamo, frontend", "router_kv_events: \"yes\""),
        ("dynamo, frontend", "api_key: [one, {two: 2}]"),
        ("dynamo, frontend", "request_plane: [tcp]"),
        ("dynamo, frontend", "no_http_port: 1"),
        ("dynamo, mocker", "speedup_ration: 2"),
        ("dynamo, mocker", "speedup_ratio: fast"),
        ("dynamo, mocker", "http_port: 8000"),
        ("dynamo, mocker", "drain_timeout: 30"),
        ("dynamo, router", "endpoint: true"),
        ("dynamo, metrics", "componnet: backend"),
        ("python3, -m, dynamo.frontend", "http-prot: 8000"),
    ];

    #[test]
    fn wrong_flags_are_told_with_what_would_be_right() {
        let mut told = String::new();
        for (cmd, parameters) in WRONG {
            let text = format!(
                "version: 1\nname: g\ncomponents:\n- name: c\n  cmd: [{cmd}]\n  parameters:\n    {parameters}\n"
            );
            let said = match dynamo_graph::parse("graph.yaml", &text, &OwnFlags) {
                Ok(_) => "accepted".to_owned(),
                Err(error) => error.to_string(),
            };
            told += &format!("# {cmd}, {parameters}\n{said}\n\n");
        }
        insta::assert_snapshot!(told);
    }
}
