//! The tables, as Markdown with aligned columns.

use crate::cases::{Load, Measure};
use crate::results::{CaseResults, Results, Summary};

pub(crate) fn print(results: &Results) {
    println!("{}; medians of {} rounds", results.machine, results.rounds);
    for case in &results.cases {
        println!("\n{}: {}\n", case.case.name, case.case.about);
        print!("{}", table(case));
        for summary in case.summaries() {
            for failure in summary.failures {
                println!("\nFAILED: {}: {failure}", summary.server);
            }
        }
    }
}

fn table(case: &CaseResults) -> String {
    let load = &case.case.load;
    let measure = load.measure();
    let main = match measure {
        Measure::Rate(operations) => format!("{operations}/s"),
        Measure::Memory => "memory for each (less is better)".to_owned(),
        Measure::Stop => "time to end (less is better)".to_owned(),
    };
    let ratio = format!("x {}", case.base());
    let mut rows = vec![vec!["server", &main, &ratio, "min..max", "failed"]];
    if let Measure::Rate(_) = measure {
        rows[0].splice(4..4, ["p50 us", "p99 us", "server CPU us", "clients' CPU us", "lost"]);
    }
    if let Load::Room { .. } = load {
        rows[0].insert(REDIS_CPU_COLUMN, "redis CPU us");
        rows[0].insert(DELIVERIES_COLUMN, "deliveries/s");
    }
    let mut rows: Vec<Vec<String>> =
        rows.into_iter().map(|row| row.into_iter().map(str::to_owned).collect()).collect();
    rows.extend(case.summaries().iter().map(|summary| row(summary, load)));
    aligned(&rows)
}

/// Where the further columns of a room are inserted, that of Redis first.
const DELIVERIES_COLUMN: usize = 2;
const REDIS_CPU_COLUMN: usize = 7;

fn row(summary: &Summary<'_>, load: &Load) -> Vec<String> {
    let measure = load.measure();
    let optional = |value: Option<f64>| value.map_or("-".to_owned(), significant);
    let median = summary.median.map_or("-".to_owned(), |median| figure(measure, median));
    let spread = match summary.median {
        Some(median) if median > 0.0 => {
            format!("{:.2}..{:.2}", summary.min / median, summary.max / median)
        }
        _ => "-".to_owned(),
    };
    let ratio = summary.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    let mut row = vec![summary.server.to_owned(), median.replace("/s", ""), ratio, spread];
    if let Measure::Rate(_) = measure {
        row.extend([summary.p50_us, summary.p99_us].map(optional));
        row.extend([summary.server_cpu_us, summary.load_cpu_us].map(optional));
        row.push(summary.lost.to_string());
    }
    if let Load::Room { members, .. } = load {
        row.insert(REDIS_CPU_COLUMN, optional(summary.broker_cpu_us));
        // A line is delivered to all members but its sender.
        let deliveries = summary.median.map(|lines| lines * (members - 1) as f64);
        row.insert(DELIVERIES_COLUMN, optional(deliveries));
    }
    row.push(summary.failures.len().to_string());
    row
}

/// A case's main figure, with its unit.
pub(crate) fn figure(measure: Measure, value: f64) -> String {
    match measure {
        Measure::Rate(_) => format!("{}/s", significant(value)),
        Measure::Memory => format!("{} KiB", significant(value / 1024.0)),
        Measure::Stop => format!("{} ms", significant(value)),
    }
}

/// At least three digits, with commas between thousands.
pub(crate) fn significant(value: f64) -> String {
    if value < 99.95 {
        return if value < 9.995 { format!("{value:.2}") } else { format!("{value:.1}") };
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A table. The first row is the head; the first column is left-aligned.
fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let width = width(column);
            text += &match column {
                0 => format!("| {cell:<width$} |"),
                _ => format!(" {cell:>width$} |"),
            };
        }
        text.push('\n');
        if number == 0 {
            for column in 0..row.len() {
                let dashes = "-".repeat(width(column));
                text += &if column == 0 { format!("| {dashes} |") } else { format!(" {dashes}:|") };
            }
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::{Case, Service};
    use crate::load::Figures;
    use crate::results::Run;

    #[test]
    fn numbers_have_three_digits_and_commas() {
        for (value, text) in [
            (0.0, "0.00"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (99.97, "100"),
            (999.6, "1,000"),
            (1_234_567.0, "1,234,567"),
        ] {
            assert_eq!(significant(value), text);
        }
    }

    #[test]
    fn a_room_has_columns_for_redis_and_for_deliveries() {
        let case = Case {
            name: "room".to_owned(),
            about: String::new(),
            service: Service::Chat,
            workers: None,
            load: Load::Room { members: 4, senders: 2, in_flight: 1 },
            point: None,
        };
        let figures = Figures { value: 100.0, ..Figures::default() };
        let costs = Figures { server_cpu_us: Some(5.0), broker_cpu_us: Some(7.0), ..figures };
        let run = |server: &str, figures| Run {
            server: server.to_owned(),
            round: 0,
            figures: Some(figures),
            failure: None,
        };
        let runs =
            vec![run("local", Figures { value: 200.0, ..costs.clone() }), run("redis-1", costs)];
        let table = table(&CaseResults { case, runs });
        let cells: Vec<Vec<&str>> =
            table.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
        let column = |name| cells[0].iter().position(|cell| *cell == name).unwrap();
        for (name, value) in [
            ("lines/s", "100"),
            ("deliveries/s", "300"),
            ("x local", "0.50"),
            ("server CPU us", "5.00"),
            ("redis CPU us", "7.00"),
        ] {
            assert_eq!(cells[3][column(name)], value, "{name}");
        }
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["server", "rate"], ["a", "10,000"]];
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect();
        let table = aligned(&rows);
        assert_eq!(table, "| server |   rate |\n| ------ | ------:|\n| a      | 10,000 |\n");
    }
}
