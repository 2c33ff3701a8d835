//! Charts by number of connections, on a logarithmic axis.

use std::path::Path;

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use super::{DrawResult, FOREGROUND, GRID, colour, heading, text};
use crate::cases::Curve;
use crate::report::significant;
use crate::results::{Results, Summary};

struct Chart {
    file: &'static str,
    curve: Curve,
    title: &'static str,
    y_label: &'static str,
    x_label: &'static str,
    value: fn(&Summary<'_>) -> Option<f64>,
    logarithmic: bool,
}

const CHARTS: [Chart; 5] = [
    Chart {
        file: "throughput.svg",
        curve: Curve::Echo,
        title: "Echo: round trips a second, lines of 64 bytes",
        y_label: "round trips a second",
        x_label: "connections",
        value: |summary| summary.median,
        logarithmic: false,
    },
    Chart {
        file: "cost.svg",
        curve: Curve::Echo,
        title: "Echo: the server's processor time for a round trip",
        y_label: "microseconds",
        x_label: "connections",
        value: |summary| summary.server_cpu_us,
        logarithmic: true,
    },
    Chart {
        file: "memory.svg",
        curve: Curve::Memory,
        title: "The server's memory for each idle connection",
        y_label: "KiB",
        x_label: "connections",
        value: |summary| summary.median.map(|bytes| bytes / 1024.0),
        logarithmic: false,
    },
    Chart {
        file: "chat.svg",
        curve: Curve::Chat,
        title: "Chat: deliveries a second, 10 members sending",
        y_label: "deliveries a second",
        x_label: "members",
        value: |summary| summary.median,
        logarithmic: true,
    },
    Chart {
        file: "stop.svg",
        curve: Curve::Stop,
        title: "From SIGTERM to the server's end (only socketserver drains)",
        y_label: "milliseconds",
        x_label: "idle connections",
        value: |summary| summary.median,
        logarithmic: true,
    },
];

/// The points of a server.
type Line<'a> = (&'a str, Vec<(f64, f64)>);

pub(super) fn draw(results: &Results, directory: &Path) -> DrawResult {
    for chart in &CHARTS {
        let lines = lines(results, chart);
        if !lines.is_empty() {
            draw_one(chart, &lines, &directory.join(chart.file))?;
        }
    }
    Ok(())
}

fn lines<'a>(results: &'a Results, chart: &Chart) -> Vec<Line<'a>> {
    let mut lines: Vec<Line<'a>> = Vec::new();
    for case in &results.cases {
        let Some((_, count)) = case.case.point.filter(|point| point.0 == chart.curve) else {
            continue;
        };
        for summary in case.summaries() {
            // A logarithmic axis has no zero.
            let Some(value) = (chart.value)(&summary).filter(|value| *value > 0.0) else {
                continue;
            };
            match lines.iter_mut().find(|line| line.0 == summary.server) {
                Some((_, points)) => points.push((count as f64, value)),
                None => lines.push((summary.server, vec![(count as f64, value)])),
            }
        }
    }
    lines
}

fn draw_one(chart: &Chart, lines: &[Line<'_>], path: &Path) -> DrawResult {
    let canvas = SVGBackend::new(path, (760, 460)).into_drawing_area();
    let servers: Vec<&str> = lines.iter().map(|line| line.0).collect();
    heading(&canvas, chart.title, &servers)?;
    let values = || lines.iter().flat_map(|line| &line.1).map(|point| point.1);
    let (min, max) = (values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max));
    let plot = canvas.margin(70, 10, 10, 40);
    if chart.logarithmic {
        draw_lines(chart, lines, &plot, (min / 1.5..max * 1.5).log_scale())?;
    } else {
        draw_lines(chart, lines, &plot, 0.0..max * 1.1)?;
    }
    Ok(canvas.present()?)
}

fn draw_lines<Y>(chart: &Chart, lines: &[Line<'_>], plot: &super::Canvas<'_>, y: Y) -> DrawResult
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let counts = || lines.iter().flat_map(|line| &line.1).map(|point| point.0);
    let (min, max) = (counts().fold(f64::MAX, f64::min), counts().fold(0.0, f64::max));
    let x = (min / 1.3..max * 1.3).log_scale();
    let mut axes = ChartBuilder::on(plot)
        .x_label_area_size(45)
        .y_label_area_size(80)
        .build_cartesian_2d(x, y)?;
    let label = |value: &f64| label(*value);
    axes.configure_mesh()
        .axis_style(FOREGROUND)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .label_style(text(12, plotters::style::text_anchor::HPos::Left))
        .axis_desc_style(text(13, plotters::style::text_anchor::HPos::Left))
        .x_label_formatter(&label)
        .y_label_formatter(&label)
        .x_desc(chart.x_label)
        .y_desc(chart.y_label)
        .draw()?;
    for (server, points) in lines {
        let colour = colour(server);
        axes.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
        axes.draw_series(points.iter().map(|&point| Circle::new(point, 4, colour.filled())))?;
    }
    Ok(())
}

/// Small whole numbers without decimals.
fn label(value: f64) -> String {
    if value.fract() == 0.0 && value < 100.0 { format!("{value}") } else { significant(value) }
}
