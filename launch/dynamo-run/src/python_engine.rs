//! Engines that are written in Python: a component of the package `dynamo`, as a process beside this one.
//!
//! What is started is printed as one would type it, with every flag; the environment is this process's
//! own and nothing is added to it. The component is a worker like any other: what is asked of it comes
//! over the request plane.
//!
//! Invariant: it ends with this process. Asked to end, it drains within the same time; should this
//! process be killed, the kernel asks it to end (`dynamo_deploy::child`: started from the main thread).

use crate::deploy::own_program;
use crate::forms::PythonEngine;
use crate::output::complain;
use crate::process::Process;
use crate::python::{interpreter, shown};
use crate::schemas;
use anyhow::{Context, bail};
use dynamo_config::{Effective, RawValue, Source};
use dynamo_deploy::child;
use dynamo_runtime::config::RuntimeOptions;
use dynamo_runtime::discovery::EndpointId;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a worker may take to end after its drain should be over.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Options of models that a component takes as flags.
const MODEL_OPTIONS: &[&str] = &["model_name", "custom_jinja_template"];

/// A component that was started.
pub(crate) struct Component {
    engine: PythonEngine,
    child: Child,
    drain: Duration,
}

/// How a component ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("dynamo.{engine} ended with {status}; what it said is above")]
pub(crate) struct Ended {
    engine: PythonEngine,
    status: String,
}

/// Starts the component of an engine, which serves `endpoint`. `words` are for the engine itself;
/// `is_beside` says that this process does something of its own.
pub(crate) fn start(
    process: &Process,
    engine: PythonEngine,
    model: Option<&str>,
    endpoint: &EndpointId,
    words: &[String],
    is_beside: bool,
) -> anyhow::Result<Component> {
    let Some(model) = model else {
        bail!(
            "out={engine} needs a model: give a Hugging Face folder or id before the engine's own \
             flags, or with --model-path"
        );
    };
    let mut command = std::process::Command::new(interpreter(&process.surroundings));
    command.args(["-m", &format!("dynamo.{engine}")]);
    command.args(["--model-path", model, "--endpoint", &endpoint.to_string()]);
    command.args(handed_on(process.options.values()));
    // Two processes cannot have one port: the status is this process's to tell.
    if process.options.get::<RuntimeOptions>().system_port >= 0 && is_beside {
        command.arg("--system-port=-1");
    }
    command.args(words);
    complain(&format!("starts {}", shown(&command)));
    let own = own_program(&process.surroundings)?;
    let mut child = Command::new(own);
    child
        .arg(child::COMMAND)
        .arg(std::process::id().to_string());
    child.arg(command.get_program()).args(command.get_args());
    // It writes where this process does, and reads nothing.
    child.stdin(Stdio::null()).kill_on_drop(true);
    let child = child
        .spawn()
        .context("cannot start it; install Python 3.10 or later with the package ai-dynamo")?;
    let runtime: &RuntimeOptions = process.options.get();
    Ok(Component {
        engine,
        child,
        drain: runtime.drain_timeout,
    })
}

fn terminate(id: u32) {
    let id = i32::try_from(id).ok().and_then(Pid::from_raw);
    if let Some(id) = id
        && let Err(error) = kill_process(id, Signal::TERM)
    {
        // It has ended in this moment, which is what was asked for.
        tracing::debug!(%error, "an engine's worker is gone");
    }
}

/// The options that were given to this process by flags or in a file, and that a worker has as well.
/// Those of the environment it finds there.
fn handed_on(values: &[Effective]) -> Vec<OsString> {
    let schema = schemas::schema("worker");
    let is_theirs =
        |key: &str| MODEL_OPTIONS.contains(&key) || schema.specs().any(|spec| spec.key == key);
    let mut words = Vec::new();
    for value in values {
        let is_told = matches!(value.source, Source::Flag(_) | Source::File { .. });
        if !is_told
            || value.spec.secret
            || value.spec.key == "system_port"
            || !is_theirs(value.spec.key)
        {
            continue;
        }
        let flag = &value.spec.flag;
        let mut word = |text: &str| words.extend([flag.into(), text.into()]);
        match &value.value {
            RawValue::Unset => {}
            RawValue::One(text) if value.spec.is_switch() => {
                let name = flag.trim_start_matches('-');
                words.push(match text == "true" {
                    true => flag.into(),
                    false => format!("--no-{name}").into(),
                });
            }
            RawValue::One(text) => word(text),
            RawValue::Many(all) => all.iter().for_each(|text| word(text)),
        }
    }
    words
}

impl Component {
    /// Resolves when it has ended by itself.
    pub(crate) async fn ended(&mut self) -> Ended {
        let status = self.child.wait().await;
        Ended {
            engine: self.engine,
            status: status.map_or_else(|error| error.to_string(), |it| it.to_string()),
        }
    }

    /// Asks it to end and waits for that; kills it when its time is over.
    pub(crate) async fn stop(mut self) {
        if let Some(id) = self.child.id() {
            terminate(id);
        }
        match timeout(self.drain + LAST_WORDS, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(status)) => {
                tracing::warn!(engine = %self.engine, %status, "an engine's worker ended")
            }
            Ok(Err(error)) => {
                tracing::warn!(engine = %self.engine, %error, "lost an engine's worker")
            }
            Err(_) => {
                tracing::warn!(engine = %self.engine, "an engine's worker did not end in time: killed");
                if let Err(error) = self.child.kill().await {
                    tracing::warn!(engine = %self.engine, %error, "could not kill it");
                }
            }
        }
    }
}
