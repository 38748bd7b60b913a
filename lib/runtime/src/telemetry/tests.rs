//! Log lines and span fields as they are written.

use super::*;
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::Arc;

/// Standard error's place.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        let text = self.text();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn options(log: &str, log_format: LogFormat) -> TelemetryOptions {
    TelemetryOptions {
        log: log.to_owned(),
        log_format,
        colour: false,
        otlp: None,
    }
}

/// What is written while the options hold.
fn written(options: &TelemetryOptions, run: impl FnOnce()) -> Written {
    let written = Written::default();
    let writer = {
        let written = written.clone();
        move || written.clone()
    };
    let (subscriber, _guard) = subscriber(options, &Environment::system(), writer).unwrap();
    tracing::subscriber::with_default(subscriber, run);
    written
}

fn jsonl(log: &str, run: impl FnOnce()) -> Vec<Value> {
    written(&options(log, LogFormat::Jsonl), run).lines()
}

#[test]
fn a_json_line_names_the_trace_without_any_export() {
    let frontend = TraceContext::root([1, 2, 3], Sampler::NEVER);
    let header = frontend.traceparent();
    let worker = TraceContext::incoming(&[&header], &[], [0, 0, 4], Sampler::NEVER);
    let lines = jsonl("info", || {
        spans::http_request(&frontend, "r-1").in_scope(|| tracing::info!("taken"));
        spans::request_plane(&worker, "r-1", "ns.backend.generate").in_scope(|| {
            tracing::info!(isl = 7, name = "x", ratio = 0.5, ok = true, "served");
        });
    });
    let [taken, served] = lines.as_slice() else {
        panic!("{lines:?}")
    };
    assert_eq!(taken["trace_id"], "00000000000000010000000000000002");
    assert_eq!(taken["span_id"], "0000000000000003");
    assert_eq!(taken.get("parent_id"), None);
    assert_eq!(taken["span_name"], "http_request");
    assert_eq!(taken["request_id"], "r-1");
    assert_eq!(served["trace_id"], taken["trace_id"]);
    assert_eq!(served["span_id"], "0000000000000004");
    assert_eq!(served["parent_id"], taken["span_id"]);
    assert_eq!(served["endpoint"], "ns.backend.generate");
    assert_eq!(served["message"], "served");
    assert_eq!((&served["isl"], &served["ok"]), (&7.into(), &true.into()));
    assert_eq!(
        (&served["name"], &served["ratio"]),
        (&"x".into(), &0.5.into())
    );
    assert_eq!(served["level"], "INFO");
    assert!(served["time"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn a_span_below_a_border_is_its_child() {
    let context = TraceContext::root([1, 2, 3], Sampler::NEVER);
    let lines = jsonl("info", || {
        let border = spans::http_request(&context, "r");
        let _in_border = border.enter();
        for _ in 0..2 {
            tracing::info_span!("route", phase = "prefill").in_scope(|| tracing::info!("inner"));
        }
        tracing::info!("outer");
    });
    assert_eq!(lines[0]["span_name"], "route");
    assert_eq!(lines[0]["phase"], "prefill");
    assert_eq!(lines[0]["trace_id"], lines[2]["trace_id"]);
    assert_eq!(lines[0]["parent_id"], lines[2]["span_id"]);
    assert_eq!(lines[1]["parent_id"], lines[2]["span_id"]);
    assert_ne!(lines[0]["span_id"], lines[1]["span_id"]);
    assert_eq!(lines[2].get("phase"), None);
}

#[test]
fn a_span_outside_of_every_trace_has_no_ids() {
    let lines = jsonl("info", || {
        tracing::info_span!("plan", phase = "load").in_scope(|| tracing::info!("planned"));
    });
    assert_eq!(lines[0]["phase"], "load");
    assert_eq!(lines[0].get("trace_id"), None);
}

#[test]
fn a_quiet_log_still_names_the_trace() {
    let context = TraceContext::root([1, 2, 3], Sampler::NEVER);
    let lines = jsonl("warn", || {
        let _in_span = spans::http_request(&context, "r").entered();
        tracing::info!("not shown");
        tracing::warn!("shown");
    });
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["message"], "shown");
    assert_eq!(lines[0]["request_id"], "r");
    assert_eq!(lines[0]["span_id"], "0000000000000003");
}

#[test]
fn a_fields_name_never_hides_what_every_line_has() {
    let lines = jsonl("info", || {
        tracing::info!(level = "mine", time = 3, "said\nin two lines");
    });
    assert_eq!(lines.len(), 1, "a line is a line");
    assert_eq!(lines[0]["level"], "INFO");
    assert_eq!(lines[0]["field_level"], "mine");
    assert_eq!(lines[0]["field_time"], 3);
    assert_eq!(lines[0]["message"], "said\nin two lines");
}

#[test]
fn filters_choose_by_module_and_level() {
    let levels = |filter: &str| {
        let lines = jsonl(filter, || {
            tracing::debug!(target: "one", "a");
            tracing::info!(target: "one", "b");
            tracing::info!(target: "two", "c");
        });
        let messages = lines.iter().map(|line| line["message"].as_str().unwrap());
        messages.collect::<String>()
    };
    assert_eq!(levels("info"), "bc");
    assert_eq!(levels(""), "bc");
    assert_eq!(levels("off"), "");
    assert_eq!(levels("warn,one=debug"), "ab");
    assert_eq!(levels("trace"), "abc");
}

#[test]
fn a_bad_filter_is_named_with_the_right_form() {
    let options = options("info,dynamo=loud", LogFormat::Readable);
    let error = subscriber(&options, &Environment::system(), std::io::sink).err();
    let error = error.unwrap().to_string();
    assert!(error.contains("`info,dynamo=loud`"), "{error}");
    assert!(error.contains("info,dynamo_runtime=debug"), "{error}");
}

#[test]
fn readable_lines_are_coloured_only_on_a_terminal() {
    let mut options = options("info", LogFormat::Readable);
    let say = || tracing::info!(port = 8000, "listens");
    let plain = written(&options, say).text();
    assert!(plain.contains("INFO"), "{plain}");
    assert!(plain.contains("listens port=8000"), "{plain}");
    assert!(!plain.contains('\x1b'), "{plain}");
    options.colour = true;
    assert!(written(&options, say).text().contains('\x1b'));
}

#[test]
fn bad_export_options_are_refused() {
    let start = |endpoint: &str, sample_ratio| {
        let options = TelemetryOptions {
            otlp: Some(OtlpOptions {
                endpoint: endpoint.to_owned(),
                service_name: "dynamo".to_owned(),
                sample_ratio,
            }),
            ..options("info", LogFormat::Jsonl)
        };
        let started = subscriber(&options, &Environment::system(), std::io::sink);
        started.err().unwrap()
    };
    let good = "http://127.0.0.1:4318";
    assert!(matches!(
        start("nowhere", 1.0),
        TelemetryError::Endpoint { .. }
    ));
    assert!(matches!(
        start(good, 1.5),
        TelemetryError::SampleRatio { .. }
    ));
    assert!(matches!(
        start(good, f64::NAN),
        TelemetryError::SampleRatio { .. }
    ));
    assert!(matches!(start(good, 1.0), TelemetryError::NoRuntime));
}
