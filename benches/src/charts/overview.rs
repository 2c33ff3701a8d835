//! All cases in one chart: the ratio of each server to std threads.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{DrawResult, FOREGROUND, GRID, colour, heading, text};
use crate::cases::Measure;
use crate::peers::STD_THREADS;
use crate::results::{CaseResults, Results};

const LEFT: i32 = 150;
const WIDTH: i32 = 760;
const TOP: i32 = 90;
const BAR: i32 = 11;
const GAP: i32 = 12;

/// The bars of one case: servers and their ratios.
type Group<'a> = (&'a str, Vec<(&'a str, f64)>);

pub(super) fn draw(results: &Results, directory: &Path) -> DrawResult {
    let groups: Vec<Group<'_>> = results.cases.iter().filter_map(group).collect();
    let ratios = || groups.iter().flat_map(|group| &group.1).map(|bar| bar.1);
    if groups.is_empty() {
        return Ok(());
    }
    let (min, max) = (ratios().fold(0.5, f64::min), ratios().fold(2.0, f64::max));
    let bars: usize = groups.iter().map(|group| group.1.len()).sum();
    let bottom = TOP + bars as i32 * BAR + groups.len() as i32 * GAP;

    let path = directory.join("overview.svg");
    let canvas = SVGBackend::new(&path, (WIDTH as u32, bottom as u32 + 20)).into_drawing_area();
    let mut servers: Vec<&str> = Vec::new();
    for (server, _) in groups.iter().flat_map(|group| &group.1) {
        if !servers.contains(server) {
            servers.push(server);
        }
    }
    heading(&canvas, "Times as good as std threads (further right is better)", &servers)?;

    // Leaves room for a number beside the longest bar of each side.
    let (start, end) = (f64::from(LEFT + 45), f64::from(WIDTH - 60));
    let place = |ratio: f64| {
        let part = (ratio / min).ln() / (max / min).ln();
        (start + part * (end - start)).round() as i32
    };
    for tick in [0.01, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 100.0, 1000.0] {
        if (min..=max).contains(&tick) {
            let line = [(place(tick), TOP - 8), (place(tick), bottom)];
            let colour = if tick == 1.0 { FOREGROUND } else { GRID };
            canvas.draw(&PathElement::new(line.to_vec(), colour))?;
            let at = (place(tick), TOP - 16);
            canvas.draw(&Text::new(tick.to_string(), at, text(11, HPos::Center)))?;
        }
    }
    let mut y = TOP;
    for (case, bars) in &groups {
        let middle = y + bars.len() as i32 * BAR / 2;
        let name = Text::new((*case).to_owned(), (LEFT - 10, middle), text(12, HPos::Right));
        canvas.draw(&name)?;
        for &(server, ratio) in bars {
            let (from, to) = (place(ratio.min(1.0)), place(ratio.max(1.0)));
            let bar = Rectangle::new([(from, y), (to, y + BAR - 2)], colour(server).filled());
            canvas.draw(&bar)?;
            let (x, side) =
                if ratio < 1.0 { (from - 5, HPos::Right) } else { (to + 5, HPos::Left) };
            let number = Text::new(format!("{ratio:.2}"), (x, y + BAR / 2), text(10, side));
            canvas.draw(&number)?;
            y += BAR;
        }
        y += GAP;
    }
    Ok(canvas.present()?)
}

/// `None` for a point of a curve, for a case without std threads, and for stops, where each server
/// does something else.
fn group(case: &CaseResults) -> Option<Group<'_>> {
    let no_ratio = case.base() != STD_THREADS || case.case.load.ends_the_server();
    if no_ratio || case.case.point.is_some() {
        return None;
    }
    let less_is_better = !matches!(case.case.load.measure(), Measure::Rate(_));
    let bars: Vec<(&str, f64)> = case
        .summaries()
        .iter()
        .filter(|summary| summary.server != STD_THREADS)
        .filter_map(|summary| Some((summary.server, summary.ratio?)))
        .filter(|(_, ratio)| *ratio > 0.0)
        .map(|(server, ratio)| (server, if less_is_better { 1.0 / ratio } else { ratio }))
        .collect();
    (!bars.is_empty()).then_some((case.case.name.as_str(), bars))
}
