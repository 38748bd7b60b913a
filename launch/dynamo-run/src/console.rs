//! Terminal, standard input and batch files: reading lines, showing answers, progress.

use crate::forms::Input;
use crate::output::{complain, print, print_line};
use crate::process::Process;
use anyhow::Context;
use dynamo_frontend::batch::{Batch, BatchOptions, BatchProgress, BatchSummary};
use dynamo_frontend::console::{ConsoleOptions, Conversation, Turn};
use dynamo_frontend::local::LocalClient;
use dynamo_runtime::shutdown::{ExitStatus, Signals};
use indicatif::{ProgressBar, ProgressStyle};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::io::Read;
use std::path::Path;
use tokio_util::sync::CancellationToken;

/// Largest prompt on standard input, as the HTTP server's default for a body.
const MAX_STDIN_BYTES: u64 = 45 * 1024 * 1024;

/// What a person typed.
enum Typed {
    Line(String),
    Interrupt,
    End,
}

/// Runs one of the inputs that speak to a person or a file.
pub(crate) async fn run(
    process: Process,
    client: LocalClient,
    model: Option<&str>,
    input: Input,
) -> anyhow::Result<ExitStatus> {
    match input {
        Input::Batch(path) => Box::pin(batch(process, client, &path)).await,
        Input::Text if process.surroundings.stdin_is_terminal => {
            Box::pin(chat(process, client, model)).await
        }
        _ => Box::pin(stdin(process, client, model)).await,
    }
}

async fn chat(
    process: Process,
    client: LocalClient,
    model: Option<&str>,
) -> anyhow::Result<ExitStatus> {
    let options: ConsoleOptions = process.options.get::<ConsoleOptions>().clone();
    let mut conversation = Conversation::new(client, model, options)?;
    complain(&format!(
        "{} {}; Ctrl-C stops an answer, Ctrl-D leaves",
        conversation.model(),
        if conversation.chats() {
            "is listening"
        } else {
            "completes text (it has no chat template)"
        },
    ));
    // SIGINT belongs to the conversation: it stops an answer and not the program.
    let signals = Signals::terminate_only().context("cannot listen for signals")?;
    let talk = async {
        let mut editor = DefaultEditor::new().context("cannot use the terminal")?;
        loop {
            let typed;
            (typed, editor) = process
                .environment
                .compute(move || (read_line(&mut editor), editor))
                .await?;
            match typed? {
                Typed::End => return Ok::<(), anyhow::Error>(()),
                Typed::Interrupt => complain("Ctrl-D leaves"),
                Typed::Line(line) if line.trim().is_empty() => {}
                Typed::Line(line) => answer(&mut conversation, &line).await,
            }
        }
    };
    let talk = async {
        tokio::select! {
            biased;
            // What waits for a person waits no longer then.
            () = process.shutdown.draining().cancelled() => Ok(()),
            result = talk => result,
        }
    };
    Ok(process.work(signals, Box::pin(talk)).await)
}

fn read_line(editor: &mut DefaultEditor) -> anyhow::Result<Typed> {
    match editor.readline("> ") {
        Ok(line) => {
            // A history that cannot grow is no reason to stop talking.
            editor.add_history_entry(&line).ok();
            Ok(Typed::Line(line))
        }
        Err(ReadlineError::Interrupted) => Ok(Typed::Interrupt),
        Err(ReadlineError::Eof) => Ok(Typed::End),
        Err(error) => Err(error).context("cannot read from the terminal"),
    }
}

async fn answer(conversation: &mut Conversation, question: &str) {
    let cancel = CancellationToken::new();
    let asking = conversation.ask(question, &cancel, print);
    tokio::pin!(asking);
    let asked = loop {
        tokio::select! {
            biased;
            asked = &mut asking => break asked,
            pressed = tokio::signal::ctrl_c(), if !cancel.is_cancelled() => {
                if pressed.is_ok() {
                    cancel.cancel();
                }
            }
        }
    };
    print_line("");
    match asked {
        Ok(turn) => complain(&figures(&turn)),
        Err(error) => complain(&format!("error: {}", error.message)),
    }
}

fn figures(turn: &Turn) -> String {
    let ttft = turn.first_token.unwrap_or_default();
    let after = turn.elapsed.saturating_sub(ttft).as_secs_f64();
    let tokens = turn.usage.completion_tokens;
    let rate = if after > 0.0 {
        tokens.saturating_sub(1) as f64 / after
    } else {
        0.0
    };
    let mut line = format!(
        "[{tokens} tokens, TTFT {:.0} ms, {rate:.1} tokens/s, {} of {} prompt tokens cached",
        ttft.as_secs_f64() * 1000.0,
        turn.usage.prompt_tokens_details.cached_tokens,
        turn.usage.prompt_tokens,
    );
    if turn.cancelled {
        line.push_str(", stopped");
    }
    if turn.forgotten > 0 {
        line.push_str(", the oldest turns no longer fit and were forgotten");
    }
    line.push(']');
    line
}

async fn stdin(
    process: Process,
    client: LocalClient,
    model: Option<&str>,
) -> anyhow::Result<ExitStatus> {
    let options: ConsoleOptions = process.options.get::<ConsoleOptions>().clone();
    let mut conversation = Conversation::new(client, model, options)?;
    let signals = Signals::system().context("cannot listen for signals")?;
    let ask = async {
        let read = process.environment.compute(|| {
            let mut prompt = String::new();
            let mut input = std::io::stdin().lock().take(MAX_STDIN_BYTES);
            input.read_to_string(&mut prompt).map(|_| prompt)
        });
        let read = tokio::select! {
            biased;
            () = process.shutdown.draining().cancelled() => {
                anyhow::bail!("a signal came before the whole prompt was read");
            }
            read = read => read,
        };
        let prompt = read?.context("cannot read the prompt from standard input")?;
        let prompt = prompt.trim_end_matches('\n');
        if prompt.is_empty() {
            anyhow::bail!(
                "standard input is empty: pipe a prompt in, or use in=text in a terminal"
            );
        }
        let turn = conversation
            .ask(prompt, process.shutdown.draining(), print)
            .await
            .map_err(|error| anyhow::anyhow!("{}", error.message))?;
        print_line("");
        if turn.cancelled {
            anyhow::bail!("the answer was cut off by a signal");
        }
        tracing::info!("{}", figures(&turn));
        Ok::<(), anyhow::Error>(())
    };
    finish(&process, signals, Box::pin(ask)).await
}

async fn batch(process: Process, client: LocalClient, path: &Path) -> anyhow::Result<ExitStatus> {
    let options: BatchOptions = process.options.get::<BatchOptions>().clone();
    let batch = Batch::new(client, path, options);
    let total = batch.count()?;
    let bar = process
        .surroundings
        .stderr_is_terminal
        .then(|| batch_bar(total));
    let signals = Signals::system().context("cannot listen for signals")?;
    let draining = process.shutdown.draining().clone();
    let mut summary = None;
    let work = async {
        let show = |progress: BatchProgress| {
            if let Some(bar) = &bar {
                bar.set_position(progress.done);
                bar.set_message(format!("{} failed", progress.failed));
            }
        };
        let done = batch.run(&draining, show).await?;
        complain(&summary_line(&done, total));
        summary = Some(done);
        Ok::<(), anyhow::Error>(())
    };
    let status = finish(&process, signals, Box::pin(work)).await?;
    // A batch that was cut off has not succeeded, even if it stopped in good order.
    Ok(match summary {
        Some(summary) if summary.interrupted => ExitStatus::Failure,
        _ => status,
    })
}

/// Runs `work`; its error is the process's.
async fn finish(
    process: &Process,
    signals: Signals,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<ExitStatus> {
    let mut failure = None;
    let watched = async {
        let result = work.await;
        let failed = result.is_err();
        failure = result.err();
        match failed {
            true => Err("the work failed"),
            false => Ok(()),
        }
    };
    let status = process.work(signals, watched).await;
    match failure {
        Some(error) => Err(error),
        None => Ok(status),
    }
}

fn summary_line(summary: &BatchSummary, total: u64) -> String {
    let progress = summary.progress;
    let seconds = summary.elapsed.as_secs_f64().max(1e-9);
    let mut line = format!(
        "{} of {total} requests done ({} before, {} failed) in {seconds:.1} s; \
         {} tokens in ({:.0}/s), {} tokens out ({:.0}/s); results in {}",
        progress.done,
        progress.resumed,
        progress.failed,
        progress.tokens_in,
        progress.tokens_in as f64 / seconds,
        progress.tokens_out,
        progress.tokens_out as f64 / seconds,
        summary.output.display(),
    );
    if summary.interrupted {
        line.push_str("; stopped early: run the same command again to go on");
    }
    line
}

fn batch_bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {per_sec} {eta} {msg}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}
