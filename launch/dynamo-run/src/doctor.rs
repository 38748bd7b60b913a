//! `dynamo doctor routing`: asks a frontend how its routers do, and says what is wrong and what
//! mends it.

use crate::output::print;
use crate::process::Process;
use anyhow::{Context, bail};
use dynamo_config::{Secret, options};
use dynamo_runtime::shutdown::ExitStatus;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::AUTHORIZATION;
use hyper::{Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use std::fmt::Write;
use std::time::Duration;
use tokio::time::timeout;

/// How long the frontend may take to answer: it reads a few counters.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest answer: some hundred bytes for each of some thousand workers.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

options! {
    /// The frontend that is looked at.
    pub struct DoctorOptions("doctor") {
        /// Address of the frontend.
        url: String = "http://127.0.0.1:8000".to_owned(), env = "DYN_DOCTOR_URL";
        /// Key that lets it in, where the frontend asks for one.
        doctor_api_key: Option<Secret> = None, env = "DYN_DOCTOR_API_KEY";
    }
}

/// What a frontend answers. Only what is shown here.
#[derive(Debug, Deserialize)]
struct Status {
    routers: Vec<RouterStatus>,
}

#[derive(Debug, Deserialize)]
struct RouterStatus {
    model: String,
    mode: String,
    block_size: u32,
    telling: usize,
    workers: Vec<serde::de::IgnoredAny>,
    totals: Requests,
    recent_rates: Rates,
    findings: Vec<Finding>,
}

#[derive(Debug, Deserialize)]
struct Requests {
    requests: u64,
}

#[derive(Debug, Deserialize)]
struct Rates {
    achieved: Option<f64>,
    predicted: Option<f64>,
    reachable: Option<f64>,
    infinite: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Finding {
    cause: String,
    seen: String,
    fix: String,
}

/// Prints what is found. Anything found is a failure, for scripts.
pub(crate) async fn routing(process: &Process) -> anyhow::Result<ExitStatus> {
    let options: &DoctorOptions = process.options.get();
    let url = format!("{}/v1/router/status", options.url.trim_end_matches('/'));
    let status = timeout(PATIENCE, ask(&url, options.doctor_api_key.as_ref()))
        .await
        .with_context(|| format!("{url} did not answer within {PATIENCE:?}"))??;
    print(&report(&status));
    let healthy = status
        .routers
        .iter()
        .all(|router| router.findings.is_empty());
    Ok(match healthy {
        true => ExitStatus::Success,
        false => ExitStatus::Failure,
    })
}

async fn ask(url: &str, key: Option<&Secret>) -> anyhow::Result<Status> {
    if !url.starts_with("http://") {
        bail!("--url takes an address such as http://127.0.0.1:8000");
    }
    let mut request = Request::get(url);
    if let Some(key) = key {
        request = request.header(AUTHORIZATION, format!("Bearer {}", key.expose()));
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .with_context(|| format!("{url} is no address"))?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client
        .request(request)
        .await
        .with_context(|| format!("no frontend answers at {url}; name it with --url"))?;
    let code = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => bail!("{url} broke off its answer: {error}"),
    };
    match code {
        StatusCode::OK => serde_json::from_slice(&body)
            .with_context(|| format!("{url} is no frontend of this version")),
        StatusCode::UNAUTHORIZED => {
            bail!("the frontend asks for a key: give it with --doctor-api-key")
        }
        _ => bail!("{url} answered {code}; is it a frontend of this version?"),
    }
}

fn report(status: &Status) -> String {
    let mut text = String::new();
    if status.routers.is_empty() {
        text.push_str(
            "no model of this frontend is served by other processes: nothing is routed\n",
        );
    }
    for router in &status.routers {
        // Writing to a string does not fail.
        describe(&mut text, router).ok();
    }
    text
}

fn describe(text: &mut String, router: &RouterStatus) -> std::fmt::Result {
    let share = |rate: Option<f64>| match rate {
        Some(rate) => format!("{:.1}%", rate * 100.0),
        None => "-".to_owned(),
    };
    let rates = &router.recent_rates;
    writeln!(text, "model {}", router.model)?;
    writeln!(
        text,
        "  mode {}, blocks of {} tokens, {} workers to choose from, {} of them tell of their caches",
        router.mode,
        router.block_size,
        router.workers.len(),
        router.telling
    )?;
    writeln!(
        text,
        "  {} requests; of the last ones' prompt tokens, {} were cached ({} expected, {} on the best \
         placed worker, {} in an infinite cache)",
        router.totals.requests,
        share(rates.achieved),
        share(rates.predicted),
        share(rates.reachable),
        share(rates.infinite)
    )?;
    if router.findings.is_empty() {
        writeln!(text, "  nothing is wrong")?;
    }
    for Finding { cause, seen, fix } in &router.findings {
        writeln!(text, "  {cause}: {seen}")?;
        writeln!(text, "    fix: {fix}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declaration_is_sound() {
        let schema = dynamo_config::Schema::new().with::<DoctorOptions>();
        assert!(schema.check().is_empty(), "{:?}", schema.check());
    }

    #[test]
    fn a_finding_comes_with_its_fix() {
        let status: Status = serde_json::from_value(serde_json::json!({"routers": [{
            "model": "m", "mode": "kv", "block_size": 16, "telling": 2, "workers": [{}, {}],
            "totals": {"requests": 7},
            "recent_rates": {"achieved": 0.5, "predicted": null, "reachable": 0.6, "infinite": 0.7},
            "findings": [{"cause": "c", "seen": "s", "fix": "f"}],
        }]}))
        .unwrap();
        let text = report(&status);
        assert!(text.contains("  c: s\n    fix: f\n"), "{text}");
        assert!(text.contains("50.0% were cached (- expected"), "{text}");
        assert!(!text.contains("nothing is wrong"));
    }
}
