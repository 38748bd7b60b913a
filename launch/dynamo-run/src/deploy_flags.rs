//! What the declarations of this program's own commands say of a graph's parameters.

use crate::schemas::schema;
use dynamo_config::{Kind, OptionSpec, Schema, Shape};
use dynamo_graph::{KnownFlags, ParameterValue};

/// The flags of every command that a component may run.
pub(crate) struct OwnFlags;

/// The schema of a command, as components name it.
fn schema_of(command: &str) -> Option<Schema> {
    match command {
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
        _: Option<&str>,
        parameter: &str,
        value: &ParameterValue,
    ) -> Option<String> {
        let schema = schema_of(command)?;
        let flag = format!("--{}", parameter.replace('_', "-"));
        let positive = flag.strip_prefix("--no-").map(|name| format!("--{name}"));
        let is_it = |spec: &&OptionSpec| {
            let deprecated = spec.deprecated_aliases.iter();
            let mut names = spec
                .aliases
                .iter()
                .chain(deprecated)
                .copied()
                .chain([spec.flag.as_str()]);
            names
                .any(|name| name == flag || (spec.is_switch() && Some(name) == positive.as_deref()))
        };
        match schema.specs().find(is_it) {
            Some(spec) => value_problem(spec, value),
            None => {
                let known = schema
                    .specs()
                    .map(|spec| spec.flag.trim_start_matches("--"));
                let nearest = dynamo_config::nearest(parameter, known);
                let nearest =
                    nearest.map(|name| format!("; did you mean {}", name.replace('-', "_")));
                let nearest =
                    nearest.unwrap_or_else(|| format!("; dynamo {command} --help lists them"));
                Some(format!("dynamo {command} has no flag {flag}{nearest}"))
            }
        }
    }
}

fn value_problem(spec: &OptionSpec, value: &ParameterValue) -> Option<String> {
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
    let is_wrong = |text: &&&str| match spec.kind {
        Kind::Integer => text.replace('_', "").parse::<i128>().is_err(),
        Kind::Number => text.replace('_', "").parse::<f64>().is_err(),
        Kind::Choice => {
            let word = text.to_lowercase().replace('_', "-");
            let mut words = spec
                .choices
                .iter()
                .flat_map(|it| it.aliases.iter().copied().chain([it.name]));
            !words.any(|known| known.to_lowercase().replace('_', "-") == word)
        }
        _ => false,
    };
    let is_unset =
        |text: &&&str| spec.shape == Shape::Optional && text.eq_ignore_ascii_case("none");
    let wrong = texts
        .iter()
        .find(|text| is_wrong(text) && !is_unset(text))?;
    Some(format!(
        "{wrong:?} is not {}, which {} takes",
        spec.form, spec.flag
    ))
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
}
