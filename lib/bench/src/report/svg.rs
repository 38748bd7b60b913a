//! Line plots as SVG: nothing that a browser would have to fetch or run.

use super::html::escape;
use std::fmt::Write;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 40.0;

/// Most points of a line: one for each pixel, more or less.
const MAX_POINTS: usize = 600;

/// Lines over a common axis.
#[derive(Debug, Clone)]
pub(super) struct Plot<'a> {
    pub(super) title: &'a str,
    pub(super) x_label: &'a str,
    pub(super) y_label: &'a str,
    /// Whether the horizontal axis is logarithmic.
    pub(super) is_log: bool,
    pub(super) lines: Vec<Line<'a>>,
}

/// One line.
#[derive(Debug, Clone)]
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A range of values and where it lies on the page.
struct Axis {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
    is_log: bool,
}

impl Axis {
    fn place(&self, value: f64) -> f64 {
        let scale = |value: f64| match self.is_log {
            true => value.max(self.from).log10(),
            false => value,
        };
        let (from, to) = (scale(self.from), scale(self.to));
        let share = (scale(value) - from) / (to - from).max(f64::MIN_POSITIVE);
        self.start + share.clamp(0.0, 1.0) * (self.end - self.start)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.is_log {
            let decades = self.from.log10().floor() as i32..=self.to.log10().ceil() as i32;
            let ticks = decades.flat_map(|power| [1.0, 2.0, 5.0].map(|it| it * 10_f64.powi(power)));
            let ticks: Vec<f64> = ticks
                .filter(|it| (self.from..=self.to).contains(it))
                .collect();
            // Wide ranges are marked by powers of ten alone.
            let step = if ticks.len() > 12 { 3 } else { 1 };
            return ticks.into_iter().step_by(step).collect();
        }
        let step = round_step((self.to - self.from) / 5.0);
        let first = (self.from / step).ceil() as i64;
        (first..first + 12)
            .map(|count| count as f64 * step)
            .take_while(|tick| *tick <= self.to)
            .collect()
    }
}

/// The next of 1, 2 and 5 times a power of ten.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.max(1e-12).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|it| it * power);
    steps
        .into_iter()
        .find(|step| *step >= least)
        .unwrap_or(power)
}

impl Plot<'_> {
    /// The plot, or a word that there is nothing to draw.
    pub(super) fn draw(&self) -> String {
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\"><text class=\"title\" x=\"{LEFT}\" \
             y=\"16\">{}</text>",
            escape(self.title)
        );
        // Writing to a string cannot fail.
        self.write(&mut svg).ok();
        svg.push_str("</svg>");
        svg
    }

    fn write(&self, svg: &mut String) -> std::fmt::Result {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        if points().count() == 0 {
            return write!(svg, "<text x=\"{LEFT}\" y=\"80\">nothing to show</text>");
        }
        let least = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(f64::INFINITY, f64::min);
        let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max);
        let from = match self.is_log {
            true => least(|it| it.0).max(1e-3),
            false => 0.0,
        };
        let x = Axis {
            from,
            to: most(|it| it.0).max(from * 1.1).max(1e-3),
            start: LEFT,
            end: WIDTH - RIGHT,
            is_log: self.is_log,
        };
        let y = Axis {
            from: 0.0,
            to: most(|it| it.1).max(1e-3),
            start: HEIGHT - BOTTOM,
            end: TOP,
            is_log: false,
        };
        self.write_grid(svg, &x, &y)?;
        for (number, line) in self.lines.iter().enumerate() {
            write!(svg, "<polyline class=\"line{number}\" points=\"")?;
            let step = line.points.len().div_ceil(MAX_POINTS).max(1);
            let last = line.points.len().saturating_sub(1);
            for (index, (across, up)) in line.points.iter().enumerate() {
                if index % step == 0 || index == last {
                    write!(svg, "{:.1},{:.1} ", x.place(*across), y.place(*up))?;
                }
            }
            // A cumulative distribution has its room below, any other line above.
            let below = 14.0 * number as f64;
            let down = match self.is_log {
                true => HEIGHT - BOTTOM - 8.0 - below,
                false => TOP + 12.0 + below,
            };
            let across = WIDTH - RIGHT - 4.0;
            write!(
                svg,
                "\"/><text class=\"name line{number}\" x=\"{across}\" y=\"{down}\">{}</text>",
                escape(line.name)
            )?;
        }
        Ok(())
    }

    fn write_grid(&self, svg: &mut String, x: &Axis, y: &Axis) -> std::fmt::Result {
        for tick in x.ticks() {
            let across = x.place(tick);
            write!(
                svg,
                "<path d=\"M{across:.1} {:.1}V{:.1}\"/><text class=\"x\" x=\"{across:.1}\" \
                 y=\"{:.1}\">{}</text>",
                y.start,
                y.end,
                y.start + 14.0,
                number(tick)
            )?;
        }
        for tick in y.ticks() {
            let up = y.place(tick);
            write!(
                svg,
                "<path d=\"M{:.1} {up:.1}H{:.1}\"/><text class=\"y\" x=\"{:.1}\" \
                 y=\"{:.1}\">{}</text>",
                x.start,
                x.end,
                x.start - 6.0,
                up + 4.0,
                number(tick)
            )?;
        }
        write!(
            svg,
            "<text class=\"x\" x=\"{:.1}\" y=\"{:.1}\">{}</text><text class=\"y\" x=\"{:.1}\" \
             y=\"{:.1}\">{}</text>",
            (x.start + x.end) / 2.0,
            HEIGHT - 8.0,
            escape(self.x_label),
            x.end,
            TOP - 8.0,
            escape(self.y_label)
        )
    }
}

/// A number as short as it can be told.
fn number(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{}M", value / 1e6),
        _ if value >= 1e4 => format!("{}k", value / 1e3),
        // Sums of steps are a little off the decimal number that they stand for.
        _ => ((value * 1e6).round() / 1e6).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plot(points: Vec<(f64, f64)>, is_log: bool) -> String {
        Plot {
            title: "a < b",
            x_label: "x",
            y_label: "y",
            is_log,
            lines: vec![Line {
                name: "one",
                points,
            }],
        }
        .draw()
    }

    #[test]
    fn an_empty_plot_says_so_and_texts_are_escaped() {
        let svg = plot(Vec::new(), false);
        assert!(svg.contains("nothing to show") && svg.contains("a &lt; b"));
    }

    #[test]
    fn ticks_are_round_numbers() {
        let axis = |to, is_log| Axis {
            from: if is_log { 1.0 } else { 0.0 },
            to,
            start: 0.0,
            end: 1.0,
            is_log,
        };
        assert_eq!(axis(10.0, false).ticks(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(axis(30.0, true).ticks(), [1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(number(0.1 + 0.2), "0.3");
        assert_eq!(number(20_000.0), "20k");
    }

    proptest! {
        #[test]
        fn every_point_lies_within_the_frame(
            points in proptest::collection::vec((0.0..1e9_f64, 0.0..1e9_f64), 1..2_000), is_log: bool,
        ) {
            let svg = plot(points, is_log);
            let drawn = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
            prop_assert!(drawn.split_whitespace().count() <= MAX_POINTS + 1);
            for point in drawn.split_whitespace() {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                prop_assert!((LEFT..=WIDTH - RIGHT).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y));
            }
        }
    }
}
