//! `dynamo run out=vllm MODEL --max-model-len 8192`: flags that are not this program's are the
//! engine's, as if they stood after `--`. Pure.
//!
//! Only where an engine in Python is named: everywhere else an unknown flag is a typing error.
//! Whether a flag of the engine takes values is not known here. What follows one belongs to it, up
//! to the next flag or form, so that a model stands before them or after `--model-path`.

use crate::forms::is_python_engine;
use dynamo_config::{OptionSpec, Schema};
use std::ffi::{OsStr, OsString};

/// Flags of every command that take a value and are no declared options.
const WITH_VALUE: [&str; 2] = ["--config", "-f"];

/// Flags of every command that take none.
const ALONE: [&str; 3] = ["--help", "-h", "--print-config"];

/// The same command line with the engine's flags after `--`. `schema` is what `dynamo run` has for
/// itself beside such an engine.
pub(crate) fn set_apart(arguments: &[OsString], schema: impl Fn() -> Schema) -> Vec<OsString> {
    let own = arguments.iter().take_while(|word| *word != "--");
    let own: Vec<&OsStr> = own.map(OsString::as_os_str).collect();
    let verb = own.get(1).and_then(|word| word.to_str());
    if !matches!(verb, Some("run" | "serve")) || !own.iter().any(|word| names_engine(word)) {
        return arguments.to_vec();
    }
    let schema = schema();
    let mut kept: Vec<OsString> = Vec::new();
    let mut engine: Vec<OsString> = Vec::new();
    let mut whose = Whose::Own;
    for word in &own {
        whose = match (text(word), whose) {
            (_, Whose::OwnValue) => Whose::Own,
            (text, _) if is_flag(text) => owner(text, &schema),
            (text, Whose::Engine) if !is_form(text) => Whose::Engine,
            _ => Whose::Own,
        };
        match whose {
            Whose::Engine | Whose::EngineAlone => engine.push((*word).to_owned()),
            Whose::Own | Whose::OwnValue => kept.push((*word).to_owned()),
        }
    }
    let rest = arguments.get(own.len() + 1..).unwrap_or_default();
    if !engine.is_empty() || !rest.is_empty() {
        kept.push("--".into());
    }
    kept.extend(engine);
    kept.extend(rest.iter().cloned());
    kept
}

/// Whose a word is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// This program's.
    Own,
    /// This program's, and the next word is its value.
    OwnValue,
    /// The engine's, and so is what follows.
    Engine,
    /// The engine's, with its value in it.
    EngineAlone,
}

fn owner(flag: &str, schema: &Schema) -> Whose {
    let (name, has_value) = match flag.split_once('=') {
        Some((name, _)) => (name, true),
        None => (flag, false),
    };
    let is_verbosity = name.trim_start_matches('-').chars().all(|it| it == 'v');
    let spec = schema.specs().find(|spec| is_named(spec, name));
    let takes_value = spec.is_some_and(|spec| !spec.is_switch()) || WITH_VALUE.contains(&name);
    match () {
        () if takes_value && !has_value => Whose::OwnValue,
        () if takes_value || spec.is_some() || is_verbosity || ALONE.contains(&name) => Whose::Own,
        () if has_value => Whose::EngineAlone,
        () => Whose::Engine,
    }
}

fn is_named(spec: &OptionSpec, name: &str) -> bool {
    let positive = name.strip_prefix("--no-").filter(|_| spec.is_switch());
    let aliases = spec.aliases.iter().chain(&spec.deprecated_aliases);
    let mut flags = aliases.copied().chain([spec.flag.as_str()]);
    flags.any(|flag| flag == name || flag.strip_prefix("--") == positive)
}

fn names_engine(word: &OsStr) -> bool {
    text(word)
        .strip_prefix("out=")
        .is_some_and(is_python_engine)
}

/// Negative numbers are values.
fn is_flag(word: &str) -> bool {
    let after = word.strip_prefix('-').and_then(|rest| rest.chars().next());
    after.is_some_and(|first| !first.is_ascii_digit() && first != '.')
}

fn is_form(word: &str) -> bool {
    word.starts_with("in=") || word.starts_with("out=")
}

/// A word that is no text is no flag of anybody.
fn text(word: &OsStr) -> &str {
    word.to_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schemas;

    fn apart(line: &str) -> String {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let apart = set_apart(&words, || schemas::schema("run-python"));
        let words: Vec<&str> = apart.iter().map(|word| text(word)).collect();
        words.join(" ")
    }

    #[test]
    fn what_is_not_ours_is_the_engine_s() {
        let cases = [
            (
                "dynamo run in=http out=vllm Qwen/Qwen3-0.6B --http-port 1 --max-model-len 8192 -v",
                "dynamo run in=http out=vllm Qwen/Qwen3-0.6B --http-port 1 -v -- --max-model-len 8192",
            ),
            (
                "dynamo serve out=sglang --model-path M --cuda-graph-bs 1 2 4 in=dyn://a.b.c --x=-1 m -vv",
                "dynamo serve out=sglang --model-path M in=dyn://a.b.c m -vv -- --cuda-graph-bs 1 2 4 --x=-1",
            ),
            (
                "dynamo run out=vllm M -tp 2 --offset -1 --no-prefix -f c.yaml --no-shadow -- --last 1",
                "dynamo run out=vllm M -f c.yaml -- -tp 2 --offset -1 --no-prefix --no-shadow --last 1",
            ),
            // Options of the engine in this program are no options of an engine in Python.
            (
                "dynamo run out=trtllm --context-length 8192 --kv-events --model-path M --no-deterministic",
                "dynamo run out=trtllm --model-path M -- --context-length 8192 --kv-events --no-deterministic",
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(apart(line), expected);
        }
    }

    #[test]
    fn everything_else_is_left_as_it_is() {
        for line in [
            "dynamo run in=http out=auto --max-model-len 8192",
            "dynamo run in=http out=vllm M -- --max-model-len 8192",
            "dynamo run in=http out=vllm M --no-router-kv-events --print-config --help",
            "dynamo frontend out=vllm --x",
            "dynamo",
        ] {
            assert_eq!(apart(line), line);
        }
    }
}
