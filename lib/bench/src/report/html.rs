//! The result as one HTML page: tables and plots, without scripts and without anything to fetch.
//! Every text in it is escaped: a server chooses model names and error messages.

use super::svg::{Line, Plot};
use super::table::{distributions, facts};
use crate::figures::{Bin, Histogram, milliseconds};
use crate::memory::Memory;
use crate::result::ServeResult;
use serde_json::Value;

const STYLE: &str = "\
:root{color-scheme:light dark;--grid:#8884;--a:#2563eb;--b:#dc2626;--c:#059669}\
body{font:15px/1.45 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em}\
table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .9em .2em 0;text-align:left;\
vertical-align:top}.figures td,.figures th{text-align:right}\
.figures td:first-child,.figures th:first-child{text-align:left}\
tr{border-bottom:1px solid var(--grid)}.note{border-left:4px solid var(--b);padding:.3em 1em}\
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr));gap:1em}\
svg{width:100%;font-size:11px}svg text{fill:currentColor}svg .title{font-size:13px;font-weight:600}\
svg path{stroke:var(--grid)}svg polyline{fill:none;stroke-width:1.6}svg .x{text-anchor:middle}\
svg .y,svg .name{text-anchor:end}svg polyline.line0{stroke:var(--a)}\
svg polyline.line1{stroke:var(--b)}svg polyline.line2{stroke:var(--c)}\
svg .name.line0{fill:var(--a)}svg .name.line1{fill:var(--b)}svg .name.line2{fill:var(--c)}";

/// The page.
pub fn html(result: &ServeResult) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>dynamo bench: \
         {0}</title><style>{STYLE}</style></head><body><h1>dynamo bench serve: {0}</h1>",
        escape(&result.model)
    );
    for note in result.notes() {
        page.push_str(&format!("<p class=\"note\">{}</p>", escape(&note)));
    }
    page.push_str("<table>");
    for (name, fact) in facts(result) {
        page.push_str(&row([name, &fact]));
    }
    page.push_str("</table><table class=\"figures\">");
    page.push_str(
        "<tr><th>milliseconds</th><th>mean</th><th>p50</th><th>p90</th><th>p95</th><th>p99</th>\
         <th>max</th></tr>",
    );
    for (name, it) in distributions(result) {
        let values = [it.mean, it.p50, it.p90, it.p95, it.p99, it.max];
        let [mean, p50, p90, p95, p99, max] = values.map(|value| format!("{value:.3}"));
        page.push_str(&row([name, &mean, &p50, &p90, &p95, &p99, &max]));
    }
    page.push_str("</table>");
    if !result.statistics.errors.is_empty() {
        page.push_str("<table><tr><th>errors</th><th>code</th><th>the first said</th></tr>");
        for (code, error) in &result.statistics.errors {
            page.push_str(&row([&error.count.to_string(), code, &error.example]));
        }
        page.push_str("</table>");
    }
    page.push_str("<div class=\"plots\">");
    for plot in plots(result) {
        page.push_str(&format!("<figure>{}</figure>", plot.draw()));
    }
    page.push_str("</div><details><summary>options</summary><table>");
    for (name, value) in result.options.as_json() {
        let value = match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        page.push_str(&row([&name, &value]));
    }
    page.push_str("</table></details></body></html>\n");
    page
}

fn row<const N: usize>(cells: [&str; N]) -> String {
    let cells = cells.map(|cell| format!("<td>{}</td>", escape(cell)));
    format!("<tr>{}</tr>", cells.concat())
}

fn plots(result: &ServeResult) -> Vec<Plot<'static>> {
    let statistics = &result.statistics;
    let timeline = &statistics.timeline;
    let width = timeline.width().as_secs_f64();
    let over_time = |name, value: &dyn Fn(&Bin) -> Option<f64>| Line {
        name,
        points: timeline
            .bins()
            .iter()
            .enumerate()
            .filter_map(|(index, bin)| Some((index as f64 * width, value(bin)?)))
            .collect(),
    };
    let rate = |count: u64| Some(count as f64 / width);
    let quantile = |of: &Histogram, share| of.quantile(share).map(milliseconds);
    let timed = |title, y_label, lines| Plot {
        title,
        x_label: "seconds since the start",
        y_label,
        is_log: false,
        lines,
    };
    let mut plots = vec![
        distribution("Time to first token", &[("TTFT", &statistics.ttft)]),
        distribution(
            "Time between tokens",
            &[
                ("ITL", &statistics.itl),
                ("time per output token", &statistics.tpot),
            ],
        ),
        distribution("Latency", &[("latency", &statistics.latency)]),
        timed(
            "Requests",
            "per second",
            vec![
                over_time("completed", &|bin| rate(bin.completed)),
                over_time("failed", &|bin| rate(bin.failed)),
                over_time("sent", &|bin| rate(bin.sent)),
            ],
        ),
        timed(
            "Output",
            "pieces of text per second",
            vec![over_time("tokens", &|bin| rate(bin.tokens))],
        ),
        timed(
            "Latencies by time of sending",
            "milliseconds",
            vec![
                over_time("TTFT p50", &|bin| quantile(&bin.ttft, 0.5)),
                over_time("TTFT p99", &|bin| quantile(&bin.ttft, 0.99)),
                over_time("latency p50", &|bin| quantile(&bin.latency, 0.5)),
            ],
        ),
    ];
    plots.extend(result.memory.as_ref().map(memory_plot));
    plots
}

fn memory_plot(memory: &Memory) -> Plot<'static> {
    let samples = memory.series.samples();
    let points = samples.map(|it| (it.at.as_secs_f64(), it.bytes as f64 / f64::from(1 << 20)));
    Plot {
        title: "Memory of the process that was watched",
        x_label: "seconds since the start",
        y_label: "MiB",
        is_log: false,
        lines: vec![Line {
            name: "RSS",
            points: points.collect(),
        }],
    }
}

fn distribution(title: &'static str, lines: &[(&'static str, &Histogram)]) -> Plot<'static> {
    let lines = lines.iter().map(|(name, histogram)| Line {
        name,
        points: histogram
            .cumulative()
            .into_iter()
            .map(|(value, share)| (milliseconds(value), share))
            .collect(),
    });
    Plot {
        title,
        x_label: "milliseconds",
        y_label: "share of values up to it",
        is_log: true,
        lines: lines.collect(),
    }
}

/// Text as HTML and SVG take it.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // What no XML text may hold.
            _ if char.is_control() && !matches!(char, '\n' | '\t') => escaped.push(' '),
            _ => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::record::tests::answered;
    use crate::figures::{End, Failure, Record};
    use crate::result::tests::sample;

    #[test]
    fn the_page_needs_nothing_and_runs_nothing_and_escapes_what_servers_say() {
        let mut result = sample();
        result.statistics.add(&Record {
            end: End::Failed(Failure::Stream {
                code: Some("<script>alert(1)</script>".to_owned()),
                message: "\"'&".to_owned(),
            }),
            ..answered(0, &[])
        });
        let page = html(&result);
        assert_eq!(page.matches("<svg ").count(), 6);
        assert!(page.contains("&lt;m&gt; &amp; &quot;co&quot;"));
        assert!(page.contains("&lt;script&gt;alert(1)"));
        for part in ["<script", "http://www", "src=", "url(", "@import"] {
            assert!(!page.contains(part), "{part}");
        }
        // Every element that is opened is closed.
        for name in [
            "table", "tr", "td", "svg", "figure", "div", "p", "text", "details",
        ] {
            let opened = page.matches(&format!("<{name} ")).count()
                + page.matches(&format!("<{name}>")).count();
            assert_eq!(
                opened,
                page.matches(&format!("</{name}>")).count(),
                "{name}"
            );
        }
    }
}
