//! What is written in Python and started by this command: graphs of components.
//!
//! The interpreter is the one that runs this command, where one does (the wheel), else `python3`. It
//! takes this process's place: whoever stops this process stops what it has become.

use crate::loader::Surroundings;
use crate::output::complain;
use dynamo_runtime::shutdown::ExitStatus;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Command;

/// The interpreter where nothing says which.
const PYTHON: &str = "python3";

/// The module that starts a graph's components.
const SERVE_MODULE: &str = "dynamo.serve";

/// The arguments of `dynamo serve MODULE:GRAPH ...`, if the command line is that: the words after
/// `serve`. They are read by the module, whose options these are.
pub(crate) fn graph_arguments(arguments: &[OsString]) -> Option<&[OsString]> {
    let (verb, rest) = arguments.get(1..)?.split_first()?;
    let words = rest.iter().filter_map(|word| word.to_str());
    let is_graph = verb == "serve" && words.into_iter().any(is_graph_name);
    is_graph.then_some(rest)
}

/// `package.module:GRAPH`: names with dots, a colon, a name.
fn is_graph_name(word: &str) -> bool {
    let Some((module, graph)) = word.split_once(':') else {
        return false;
    };
    let is_name = |name: &str| {
        let mut letters = name.chars();
        letters
            .next()
            .is_some_and(|it| it.is_alphabetic() || it == '_')
            && letters.all(|it| it.is_alphanumeric() || it == '_')
    };
    module.split('.').all(is_name) && is_name(graph)
}

/// Becomes `python3 -m dynamo.serve ...`.
pub(crate) fn serve_graph(surroundings: &Surroundings, arguments: &[OsString]) -> ExitStatus {
    let mut command = Command::new(interpreter(surroundings));
    command.arg("-m").arg(SERVE_MODULE).args(arguments);
    complain(&format!("runs {}", shown(&command)));
    let error = become_it(&mut command);
    complain(&format!(
        "error: cannot run {}: {error}; install Python 3.10 or later with the package ai-dynamo",
        shown(&command)
    ));
    ExitStatus::Failure
}

/// The interpreter that runs this command, that of the active environment, or any.
pub(crate) fn interpreter(surroundings: &Surroundings) -> PathBuf {
    if let Some(own) = &surroundings.interpreter {
        return own.clone();
    }
    match surroundings.variable("VIRTUAL_ENV") {
        Some(folder) => PathBuf::from(folder).join("bin").join(PYTHON),
        None => PathBuf::from(PYTHON),
    }
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(quoted).collect();
    words.join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let is_plain = |it: char| it.is_alphanumeric() || "-_./:=,@%+".contains(it);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.into_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[cfg(unix)]
fn become_it(command: &mut Command) -> std::io::Error {
    std::os::unix::process::CommandExt::exec(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_graph_is_told_from_the_forms_of_one_component() {
        let graph = words("dynamo serve graphs.agg:Frontend -f c.yaml");
        assert_eq!(graph_arguments(&graph), Some(&graph[2..]));
        for other in [
            "dynamo serve in=http out=echo",
            "dynamo serve in=dyn://a.b.c out=echo",
            "dynamo serve in=batch:file.jsonl out=echo",
            "dynamo serve out=http://h:8000",
            "dynamo run graphs.agg:Frontend",
            "dynamo serve",
            "dynamo",
        ] {
            assert_eq!(graph_arguments(&words(other)), None, "{other}");
        }
    }

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("python3");
        command.args(["-m", "a b", "it's", ""]);
        assert_eq!(shown(&command), r"python3 -m 'a b' 'it'\''s' ''");
    }
}
