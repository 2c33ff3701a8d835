//! The charts, with a line or a bar for each server. Each chart draws its background, so that it
//! can be read on light and on dark pages.

mod curves;
mod overview;

use std::fs;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::peers::{FIBERS, SOCKETSERVER, STD_THREADS, TOKIO};
use crate::results::Results;

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type DrawResult = Result<(), Box<dyn std::error::Error>>;

const FOREGROUND: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
const FONT: &str = "sans-serif";
/// The average width of a letter of the legend, in the widest usual font.
const LETTER_WIDTH: i32 = 7;

/// Draws each chart that the results have data for.
pub(crate) fn draw(results: &Results, directory: &Path) -> Result<(), String> {
    let draw_all = || -> DrawResult {
        fs::create_dir_all(directory)?;
        curves::draw(results, directory)?;
        overview::draw(results, directory)
    };
    draw_all().map_err(|error| format!("cannot draw into {}: {error}", directory.display()))
}

/// Colours that remain distinct under the usual colour blindnesses.
fn colour(server: &str) -> RGBColor {
    match server {
        SOCKETSERVER => RGBColor(0x00, 0x72, 0xb2),
        FIBERS => RGBColor(0x88, 0x00, 0xee),
        STD_THREADS => RGBColor(0xd5, 0x5e, 0x00),
        TOKIO => RGBColor(0x00, 0x9e, 0x73),
        _ => RGBColor(0x55, 0x22, 0x00),
    }
}

/// A server's name in a legend.
fn label(server: &str) -> &str {
    if server == FIBERS { "socketserver, fibers" } else { server }
}

/// A title, and below it the legend.
fn heading(canvas: &Canvas<'_>, title: &str, servers: &[&str]) -> DrawResult {
    canvas.fill(&WHITE)?;
    canvas.draw(&Text::new(title.to_owned(), (20, 26), text(18, HPos::Left)))?;
    let mut x = 20;
    for server in servers {
        let (label, bar) = (label(server), [(x, 50), (x + 22, 54)]);
        canvas.draw(&Rectangle::new(bar, colour(server).filled()))?;
        canvas.draw(&Text::new(label.to_owned(), (x + 30, 52), text(13, HPos::Left)))?;
        x += 54 + LETTER_WIDTH * label.len() as i32;
    }
    Ok(())
}

/// Text beside a point.
fn text(size: i32, horizontal: HPos) -> TextStyle<'static> {
    let position = Pos::new(horizontal, VPos::Center);
    (FONT, size).into_font().color(&FOREGROUND).pos(position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::{cases, curves};
    use crate::load::Figures;
    use crate::peers::SERVERS;
    use crate::results::{CaseResults, Machine, Run};

    #[test]
    fn no_two_servers_have_the_same_colour() {
        let mut colours = SERVERS.map(colour).map(|RGBColor(r, g, b)| (r, g, b));
        colours.sort();
        assert!(colours.windows(2).all(|two| two[0] != two[1]), "{colours:?}");
    }

    #[test]
    fn every_chart_names_its_servers_and_units() {
        let runs = || {
            let run = |(value, server): (f64, &str)| {
                let server_cpu_us = Some(value / 100.0);
                let figures = Some(Figures { value, server_cpu_us, ..Figures::default() });
                Run { server: server.to_owned(), round: 0, figures, failure: None }
            };
            let values = [1200.0, 3000.0, 1000.0, 2900.0, 90.0].into_iter();
            values.zip(SERVERS).map(run).collect()
        };
        let all = cases().into_iter().chain(curves());
        let cases = all.map(|case| CaseResults { case, runs: runs() }).collect();
        let (machine, command_line) = (Machine::this(), Vec::new());
        let results = Results { machine, command_line, rounds: 1, seconds: 1.0, cases };

        let name = format!("socketserver-benches-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let drawn = draw(&results, &directory);
        let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap_or_default();
        let charts = [
            ("throughput.svg", "round trips a second"),
            ("cost.svg", "microseconds"),
            ("memory.svg", "KiB"),
            ("chat.svg", "deliveries a second"),
            ("stop.svg", "milliseconds"),
            ("overview.svg", "echo-1000"),
        ]
        .map(|(name, unit)| (name, unit, read(name)));
        fs::remove_dir_all(&directory).unwrap();

        drawn.unwrap();
        for (name, unit, svg) in charts {
            assert!(svg.contains(unit), "{name} does not say {unit}");
            for server in SERVERS {
                // The base of the comparison has no bars.
                if (name, server) == ("overview.svg", STD_THREADS) {
                    continue;
                }
                let RGBColor(red, green, blue) = colour(server);
                for text in [label(server), &format!("#{red:02X}{green:02X}{blue:02X}")] {
                    assert!(svg.contains(text), "{name} does not say {text}");
                }
            }
            assert!(!svg.contains("NaN"), "{name}");
        }
    }
}
