//! The shipped dashboard and Prometheus configuration against a real Prometheus that scrapes real
//! processes: every query is taken, and finds something.

use crate::etcd_server::EtcdServer;
use crate::http::ask;
use crate::metrics::METRICS;
use crate::process::{Dynamo, Place, until};
use crate::prometheus::{Prometheus, promtool};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};

const CONFIG: &str = include_str!("../../../../deploy/metrics/prometheus.yml");
const DASHBOARD: &str = include_str!("../../../../deploy/metrics/grafana_dashboards/dynamo.json");

/// What `promtool` says of names that are the published system's, or count what has no other unit,
/// each with the reason why the name stays.
const KEPT_NAMES: &[(&str, &str)] = &[
    ("dynamo_frontend_detokenize_token_count", "published name"),
    ("dynamo_frontend_detokenize_total_us", "published name"),
    ("dynamo_frontend_tokenizer_latency_ms", "published name"),
    ("llm_kv_blocks_total", "published name of a gauge"),
    ("llm_kv_hit_rate_isl_blocks", "published name of a counter"),
    (
        "llm_kv_hit_rate_overlap_blocks",
        "published name of a counter",
    ),
];

/// Panels that find series without a number in them, each with the reason.
const WITHOUT_NUMBERS: &[(&str, &str)] = &[(
    "Time per move",
    "what happened once, before the first scrape that shows it, has no rate and so no quantile",
)];

/// The processes that Prometheus scrapes, found through etcd: the file backend has no outages to
/// tell of.
struct Fleet {
    place: Place,
    etcd: EtcdServer,
    frontend: Dynamo,
    router: Dynamo,
    workers: Vec<Dynamo>,
    metrics: Dynamo,
}

impl Fleet {
    fn start() -> Self {
        let (place, etcd) = (Place::new(), EtcdServer::start());
        let start = |name: &str, words: &[&str]| start(&place, &etcd, name, words);
        // Room for three requests: a fourth one is refused.
        let frontend = ["frontend", "--http-port", "0", "--http-max-requests", "3"];
        let frontend = start("frontend", &frontend);
        let router = start("router", &["router", "--http-port", "0"]);
        let workers = ["one", "two"].map(|name| start(name, WORKER)).into();
        let metrics = start("metrics", METRICS);
        frontend.await_models(&["mock"]);
        Self {
            frontend,
            router,
            workers,
            metrics,
            place,
            etcd,
        }
    }

    /// The shipped configuration with the addresses of this fleet.
    fn config(&self) -> String {
        let workers = self
            .workers
            .iter()
            .map(|it| format!("\"{}\"", it.status_address()));
        let workers = workers.collect::<Vec<_>>().join(", ");
        let quoted = |it: &Dynamo| format!("\"{}\"", it.address.trim_start_matches("http://"));
        let replaced = [
            ("\"127.0.0.1:8000\"", quoted(&self.frontend)),
            ("\"127.0.0.1:8092\"", quoted(&self.router)),
            ("\"127.0.0.1:8081\"", workers),
            ("\"127.0.0.1:9091\"", quoted(&self.metrics)),
            ("scrape_interval: 5s", "scrape_interval: 250ms".to_owned()),
        ];
        let mut config = CONFIG.to_owned();
        for (shipped, own) in replaced {
            assert_eq!(config.matches(shipped).count(), 1, "{shipped}");
            config = config.replace(shipped, &own);
        }
        config
    }

    /// One request of each kind that the dashboard counts: answered, wrong, refused, left by its
    /// client, moved.
    fn trouble(&mut self) {
        let wrong = json!({"model": "mock", "prompt": "wrong", "max_tokens": -1}).to_string();
        assert_eq!(self.frontend.post("/v1/completions", &wrong).status, 400);
        let mut open = [(), (), ()].map(|()| self.frontend.post("/v1/completions", &endless()));
        for answer in &mut open {
            answer.event().unwrap().unwrap();
        }
        assert_eq!(
            self.frontend.post("/v1/completions", &endless()).status,
            429
        );
        // Whoever had answers open with the one that is killed, goes on with the other one.
        let taken = self.workers.iter().map(Dynamo::requests_taken);
        let busy = taken.enumerate().max_by_key(|(_, taken)| *taken).unwrap().0;
        let mut killed = self.workers.remove(busy);
        killed.signal(Signal::KILL);
        killed.wait();
        until("an answer moved", || {
            let page = self.frontend.get("/metrics").text();
            page.contains("dynamo_frontend_model_migration_total{")
                && page.contains("dynamo_frontend_model_migration_duration_seconds_count{")
        });
        drop(open);
        let next = start(&self.place, &self.etcd, "three", WORKER);
        self.workers.push(next);
    }
}

const WORKER: &[&str] = &["mocker", "--block-size", "16", "--system-port", "0"];

fn start(place: &Place, etcd: &EtcdServer, name: &str, words: &[&str]) -> Dynamo {
    let endpoint = etcd.endpoint();
    let discovery = ["--discovery-backend", "etcd", "--etcd-endpoints", &endpoint];
    place.start(name, &[words, &discovery].concat())
}

/// A stream that lasts for as long as anybody reads it.
fn endless() -> String {
    let prompt = "tell it again ".repeat(20);
    json!({
        "model": "mock", "prompt": prompt, "max_tokens": 10_000, "ignore_eos": true, "stream": true,
    })
    .to_string()
}

/// The dashboard's queries with the titles of their panels, as Grafana asks them when all models and
/// namespaces are chosen.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut queries = Vec::new();
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "query" {
            // label_values(METRIC, LABEL)
            let query = variable["query"]["query"].as_str().unwrap();
            let inner = query.strip_prefix("label_values(").unwrap();
            let (metric, label) = inner.trim_end_matches(')').split_once(", ").unwrap();
            queries.push((query.to_owned(), format!("count by ({label}) ({metric})")));
        }
    }
    for panel in dashboard["panels"].as_array().unwrap() {
        let targets = panel["targets"].as_array().into_iter().flatten();
        for target in targets {
            let query = target["expr"].as_str().unwrap();
            let query = query
                .replace("$__rate_interval", "5s")
                .replace("$model", ".*")
                .replace("$namespace", ".*");
            assert!(
                !query.contains('$'),
                "a variable that is not declared: {query}"
            );
            queries.push((panel["title"].as_str().unwrap().to_owned(), query));
        }
    }
    queries
}

#[test]
fn every_query_of_the_dashboard_finds_something() {
    let mut fleet = Fleet::start();
    let prometheus = Prometheus::start(&fleet.place, &fleet.config());
    until("every process is scraped", || {
        let up = prometheus.range("sum(up)").unwrap();
        up.first().is_some_and(|values| values.last() == Some(&5.0))
    });
    fleet.trouble();
    let over = AtomicBool::new(false);
    let queries = queries();
    assert!(queries.len() > 50, "{}", queries.len());
    std::thread::scope(|scope| {
        // What is counted goes on while it is looked at.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let body = json!({
                    "model": "mock", "prompt": "what everybody asks ".repeat(20), "max_tokens": 8,
                });
                let asked = ("POST", "/v1/completions");
                drop(ask(&fleet.frontend.address, asked, &[], &body.to_string()));
            }
        });
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut missing = queries.clone();
            until(
                &format!("all have found something of {}", missing.len()),
                || {
                    missing.retain(|(panel, query)| {
                        let series = prometheus.range(query).unwrap_or_else(|error| {
                            panic!("{query}: {error}");
                        });
                        let may_be_none = WITHOUT_NUMBERS.iter().any(|(it, _)| it == panel);
                        let mut values = series.iter().flatten();
                        !values.any(|value| value.is_finite() || may_be_none)
                    });
                    if let Some((panel, query)) = missing.first() {
                        println!("{panel} finds nothing yet: {query}");
                    }
                    missing.is_empty()
                },
            );
        }));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = found {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn promtool_likes_the_configuration_and_the_pages() {
    let place = Place::new();
    let config = place.write("shipped.yml", CONFIG);
    let (fine, said) = promtool(&["check", "config", &config], "");
    assert!(fine, "{said}");

    let mut fleet = Fleet::start();
    fleet.trouble();
    let address = fleet.workers[0].status_address();
    let worker = ask(&address, ("GET", "/metrics"), &[], "").unwrap().text();
    let mut unused: Vec<&str> = KEPT_NAMES.iter().map(|(name, _)| *name).collect();
    let pages = [
        ("frontend", fleet.frontend.get("/metrics").text()),
        ("router", fleet.router.get("/metrics").text()),
        ("worker", worker),
        ("metrics", fleet.metrics.get("/metrics").text()),
    ];
    for (name, page) in pages {
        let (_, said) = promtool(&["check", "metrics"], &page);
        for line in said.lines() {
            let metric = line.split(' ').next().unwrap_or_default();
            assert!(
                KEPT_NAMES.iter().any(|(kept, _)| *kept == metric),
                "page of the {name}: {line}"
            );
            unused.retain(|it| *it != metric);
        }
    }
    assert_eq!(unused, [""; 0], "names that promtool says nothing of");
}
