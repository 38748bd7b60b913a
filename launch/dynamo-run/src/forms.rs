//! The forms `in=...` and `out=...` of `dynamo run` and `dynamo serve`: what speaks to the user,
//! and what computes. Pure: text in, a form or a reason out.

use dynamo_backends::{AddressError, BackendAddress};
use dynamo_runtime::discovery::EndpointId;
use std::fmt;
use std::path::PathBuf;

/// Where requests come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// A chat in the terminal.
    Text,
    /// One prompt on standard input.
    Stdin,
    /// The OpenAI-compatible HTTP server.
    Http,
    /// A file of requests, one JSON object per line.
    Batch(PathBuf),
    /// Requests that other processes send to this endpoint: a worker.
    Endpoint(EndpointId),
    /// Nowhere: the engine alone, such as a further node of a multi-node job.
    None,
}

/// What answers them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// Gives the prompt back.
    Echo,
    /// The embedded llama.cpp engine.
    Llamacpp,
    /// Every model that workers announce, as they come and go.
    Auto,
    /// The workers of one endpoint.
    Endpoint(EndpointId),
    /// OpenAI-compatible servers, as they are.
    Servers(Vec<BackendAddress>),
    /// An engine written in Python, as a process beside this one.
    Python(PythonEngine),
}

/// Engines whose workers are components of the Python package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PythonEngine {
    Vllm,
    Sglang,
    Trtllm,
}

impl PythonEngine {
    /// By the name of its component.
    fn of(name: &str) -> Option<Self> {
        let all = [Self::Vllm, Self::Sglang, Self::Trtllm];
        all.into_iter().find(|engine| engine.as_str() == name)
    }

    /// Its component's name: `dynamo.NAME`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Trtllm => "trtllm",
        }
    }
}

/// Whether a component of the Python package answers, by the form's word.
pub(crate) fn is_python_engine(output: &str) -> bool {
    PythonEngine::of(output).is_some()
}

impl fmt::Display for PythonEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The words after `run`: at most one of each form and one model; servers may be several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Forms {
    pub(crate) input: Option<Input>,
    pub(crate) output: Option<Output>,
    pub(crate) model: Option<String>,
    /// Words after `--`, for an engine that is written in Python.
    pub(crate) engine_words: Vec<String>,
}

/// Why the words after `run` make no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormError {
    #[error(
        "in={0} is not a way in; use in=text, stdin, http, batch:FILE.jsonl, dyn://NAMESPACE.COMPONENT.ENDPOINT or none"
    )]
    Input(String),
    #[error(
        "out={0} is not an engine; use out=echo, llamacpp, vllm, sglang, trtllm, auto, dyn, dyn://NAMESPACE.COMPONENT.ENDPOINT or http://HOST:PORT"
    )]
    Output(String),
    #[error(
        "{0} is not part of this version; use out=echo, llamacpp, vllm, sglang, trtllm, auto or dyn://NAMESPACE.COMPONENT.ENDPOINT"
    )]
    NotYet(String),
    #[error("in=batch needs a file; write in=batch:FILE.jsonl")]
    BatchWithoutFile,
    #[error("{form} names no endpoint: {reason}; write dyn://NAMESPACE.COMPONENT.ENDPOINT")]
    Endpoint { form: String, reason: String },
    #[error("out={0}")]
    Server(AddressError),
    #[error("{form} is given twice ({first} and {second}); give it once")]
    Twice {
        form: &'static str,
        first: String,
        second: String,
    },
}

/// What an endpoint begins with, to be told from a model.
const SCHEME: &str = "dyn://";

/// Forms and engines that the command line knows and this version does not have.
const NOT_YET: &[&str] = &["in=grpc", "out=mocker", "out=mistralrs"];

impl Forms {
    /// Reads the words, in any order. Endpoints that name no namespace are in the process's own.
    pub(crate) fn parse<'a>(
        words: impl IntoIterator<Item = &'a str>,
        namespace: &str,
    ) -> Result<Self, FormError> {
        let mut forms = Self::default();
        let mut seen: [Option<&str>; 3] = [None; 3];
        for word in words {
            let (slot, form) = if let Some(value) = word.strip_prefix("in=") {
                forms.input = Some(parse_input(word, value, namespace)?);
                (0, "in=")
            } else if let Some(value) = word.strip_prefix("out=") {
                let output = parse_output(word, value, namespace)?;
                match (&mut forms.output, output) {
                    (Some(Output::Servers(servers)), Output::Servers(more)) => {
                        servers.extend(more);
                        continue;
                    }
                    (former, output) => *former = Some(output),
                }
                (1, "out=")
            } else {
                forms.model = Some(word.to_owned());
                (2, "the model")
            };
            if let Some(first) = seen[slot].replace(word) {
                return Err(FormError::Twice {
                    form,
                    first: first.to_owned(),
                    second: word.to_owned(),
                });
            }
        }
        Ok(forms)
    }
}

/// The words of a worker's command: its endpoint, in place of the one that an option names, and its
/// model, in any order. `None` is not there.
pub(crate) fn worker_words<'a>(
    words: impl IntoIterator<Item = &'a str>,
    option: &str,
    namespace: &str,
) -> Result<(EndpointId, Option<String>), FormError> {
    let (mut endpoint, mut model) = (None, None);
    for word in words {
        let (slot, form) = match word.starts_with(SCHEME) {
            true => (&mut endpoint, "the endpoint"),
            false => (&mut model, "the model"),
        };
        if let Some(first) = slot.replace(word.to_owned()) {
            return Err(FormError::Twice {
                form,
                first,
                second: word.to_owned(),
            });
        }
    }
    let (form, name) = match &endpoint {
        Some(word) => (word.clone(), word.as_str()),
        None => (format!("--endpoint {option}"), option),
    };
    Ok((parse_endpoint(&form, name, namespace)?, model))
}

fn parse_input(word: &str, value: &str, namespace: &str) -> Result<Input, FormError> {
    if NOT_YET.contains(&word) {
        return Err(FormError::NotYet(word.to_owned()));
    }
    match value {
        "text" => Ok(Input::Text),
        "stdin" => Ok(Input::Stdin),
        "http" => Ok(Input::Http),
        "none" => Ok(Input::None),
        "batch" | "batch:" => Err(FormError::BatchWithoutFile),
        _ if value.starts_with("dyn://") => {
            parse_endpoint(word, value, namespace).map(Input::Endpoint)
        }
        _ => match value.strip_prefix("batch:") {
            Some(file) => Ok(Input::Batch(PathBuf::from(file))),
            None => Err(FormError::Input(value.to_owned())),
        },
    }
}

fn parse_output(word: &str, value: &str, namespace: &str) -> Result<Output, FormError> {
    if NOT_YET.contains(&word) {
        return Err(FormError::NotYet(word.to_owned()));
    }
    match value {
        // The published command line had two echo engines; one of them is enough.
        "echo" | "echo_core" | "echo_full" => Ok(Output::Echo),
        "llamacpp" => Ok(Output::Llamacpp),
        "auto" | "dyn" => Ok(Output::Auto),
        _ if value.starts_with("dyn://") => {
            parse_endpoint(word, value, namespace).map(Output::Endpoint)
        }
        _ if value.starts_with("http://") || value.starts_with("https://") => {
            let server = value.parse().map_err(FormError::Server)?;
            Ok(Output::Servers(vec![server]))
        }
        _ => match PythonEngine::of(value) {
            Some(engine) => Ok(Output::Python(engine)),
            None => Err(FormError::Output(value.to_owned())),
        },
    }
}

/// Missing parts take the defaults: `dyn://NAMESPACE.backend.generate`.
fn parse_endpoint(word: &str, value: &str, namespace: &str) -> Result<EndpointId, FormError> {
    EndpointId::parse_with_defaults(value, namespace).map_err(|error| FormError::Endpoint {
        form: word.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forms(words: &[&str]) -> Result<Forms, FormError> {
        Forms::parse(words.iter().copied(), "own")
    }

    #[test]
    fn words_come_in_any_order() {
        let expected = Forms {
            input: Some(Input::Http),
            output: Some(Output::Echo),
            engine_words: Vec::new(),
            model: Some("m.gguf".to_owned()),
        };
        assert_eq!(
            forms(&["in=http", "out=echo", "m.gguf"]),
            Ok(expected.clone())
        );
        assert_eq!(forms(&["m.gguf", "out=echo", "in=http"]), Ok(expected));
    }

    #[test]
    fn a_workers_words_are_its_endpoint_and_its_model() {
        let place = |words: &[&str], option: &str| {
            let (endpoint, model) = worker_words(words.iter().copied(), option, "own")?;
            Ok::<_, FormError>((endpoint.to_string(), model))
        };
        let model = || Some("m.gguf".to_owned());
        for (words, option, expected, with) in [
            (&[][..], "dyn://", "dyn://own.backend.generate", None),
            (&["m.gguf"], "a.b.c", "dyn://a.b.c", model()),
            (&["m.gguf", "dyn://a.b.c"], "x.y.z", "dyn://a.b.c", model()),
        ] {
            assert_eq!(place(words, option).unwrap(), (expected.to_owned(), with));
        }
        let twice = place(&["m.gguf", "n.gguf"], "dyn://").unwrap_err();
        assert!(twice.to_string().contains("the model is given twice"));
        let wrong = place(&[], "a.b.c.d").unwrap_err();
        assert!(wrong.to_string().starts_with("--endpoint a.b.c.d"));
    }

    #[test]
    fn missing_parts_of_an_endpoint_take_the_defaults() {
        for (text, full) in [
            ("in=dyn://", "dyn://own.backend.generate"),
            ("in=dyn://prefill", "dyn://own.prefill.generate"),
            ("in=dyn://other.prefill", "dyn://other.prefill.generate"),
            ("in=dyn://a.b.c", "dyn://a.b.c"),
        ] {
            let Some(Input::Endpoint(endpoint)) = forms(&[text]).unwrap().input else {
                panic!("{text} is an endpoint");
            };
            assert_eq!(endpoint.to_string(), full);
        }
    }

    #[test]
    fn what_makes_no_sense_says_what_would() {
        assert_eq!(
            forms(&["in=htpp"]),
            Err(FormError::Input("htpp".to_owned()))
        );
        assert_eq!(forms(&["in=batch:"]), Err(FormError::BatchWithoutFile));
        assert!(matches!(
            forms(&["out=mistralrs"]),
            Err(FormError::NotYet(_))
        ));
        assert!(matches!(
            forms(&["in=text", "in=http"]),
            Err(FormError::Twice { form: "in=", .. })
        ));
        assert!(matches!(
            forms(&["a", "b"]),
            Err(FormError::Twice {
                form: "the model",
                ..
            })
        ));
        assert!(matches!(
            forms(&["in=dyn://a.b.c.d"]),
            Err(FormError::Endpoint { .. })
        ));
    }

    #[test]
    fn servers_may_be_several_and_nothing_else() {
        let Some(Output::Servers(servers)) =
            forms(&["out=http://a:1", "in=http", "out=http://b:2/v1"])
                .unwrap()
                .output
        else {
            panic!("these are servers");
        };
        let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["http://a:1", "http://b:2"]);
        for mixed in [
            ["out=http://a:1", "out=echo"],
            ["out=echo", "out=http://a:1"],
        ] {
            assert!(
                matches!(forms(&mixed), Err(FormError::Twice { .. })),
                "{mixed:?}"
            );
        }
        for address in ["out=https://a:1", "out=http://"] {
            assert!(
                matches!(forms(&[address]), Err(FormError::Server(_))),
                "{address}"
            );
        }
    }

    #[test]
    fn a_batch_names_its_file() {
        let batch = forms(&["in=batch:/tmp/a b.jsonl"]).unwrap().input;
        assert_eq!(batch, Some(Input::Batch(PathBuf::from("/tmp/a b.jsonl"))));
    }
}
