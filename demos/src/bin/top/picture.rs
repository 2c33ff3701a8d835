//! The lines that are drawn.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::Value;

use crate::source::Look;

pub(crate) struct Picture {
    head: Vec<String>,
    rows: Vec<String>,
}

impl Picture {
    /// `before`: for the rates.
    pub(crate) fn new(now: &Look, before: Option<&Look>) -> Picture {
        let number = |name: &str| now.status[name].as_u64().unwrap_or(0);
        let rate = |name: &str| {
            let Some(before) = before else { return 0.0 };
            let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
            number(name).saturating_sub(before.status[name].as_u64().unwrap_or(0)) as f64 / seconds
        };
        let listeners: Vec<_> = now.status["listeners"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let state = now.status["state"].as_str().unwrap_or("?");
        let mut activities: BTreeMap<&str, usize> = BTreeMap::new();
        for connection in &now.connections {
            *activities.entry(connection["activity"].as_str().unwrap_or("?")).or_default() += 1;
        }
        let mut by_count: Vec<_> = activities.into_iter().collect();
        by_count.sort_by_key(|(_, count)| Reverse(*count));
        let activities = by_count.iter().map(|(activity, count)| format!("{count} {activity}"));
        let head = vec![
            format!("{state} on {}, process {}", listeners.join(", "), number("process")),
            format!(
                "requests  {} of {} active  {:.1}/s accepted  {:.1}/s finished",
                number("active"),
                number("max_connections"),
                rate("accepted"),
                rate("finished")
            ),
            format!(
                "refused   {}  denied {}  failed {}  panicked {}  accept errors {}",
                number("refused"),
                number("denied"),
                number("failed"),
                number("panicked"),
                number("accept_errors")
            ),
            format!(
                "upstreams {}  errors {}  ended requests: {}/s received, {}/s sent",
                number("upstreams"),
                number("upstream_errors"),
                bytes(rate("bytes_received")),
                bytes(rate("bytes_sent"))
            ),
            format!("activity  {}", activities.collect::<Vec<_>>().join("  ")),
            String::new(),
            row("number", "age", "for", "activity", "peer"),
        ];
        Picture { head, rows: rows(&now.connections) }
    }

    /// As many lines as there is room for, each at most so wide.
    pub(crate) fn lines(&self, width: usize, height: usize) -> impl Iterator<Item = String> {
        let all = self.head.iter().chain(&self.rows).take(height);
        all.map(move |line| line.chars().take(width).collect())
    }
}

/// Those that have done the same for longest come first, and those that read from their client last.
fn rows(connections: &[Value]) -> Vec<String> {
    let seconds = |connection: &Value, name: &str| connection[name].as_f64().unwrap_or(0.0);
    let mut all: Vec<_> = connections.iter().collect();
    all.sort_by(|a, b| {
        let reads = |connection: &Value| connection["activity"] == "reads";
        let longest = seconds(b, "for").total_cmp(&seconds(a, "for"));
        reads(a).cmp(&reads(b)).then(longest)
    });
    let shown = all.into_iter().map(|connection| {
        row(
            &connection["number"].to_string(),
            &time(seconds(connection, "age")),
            &time(seconds(connection, "for")),
            connection["activity"].as_str().unwrap_or("?"),
            connection["peer"].as_str().unwrap_or("?"),
        )
    });
    shown.collect()
}

fn row(number: &str, age: &str, since: &str, activity: &str, peer: &str) -> String {
    format!("{number:>8} {age:>8} {since:>8}  {activity:<22.22} {peer}")
}

fn time(seconds: f64) -> String {
    match seconds {
        ..100.0 => format!("{seconds:.1} s"),
        ..6000.0 => format!("{:.0} min", seconds / 60.0),
        ..360_000.0 => format!("{:.0} h", seconds / 3600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}

fn bytes(bytes: f64) -> String {
    match bytes {
        ..1e3 => format!("{bytes:.0} B"),
        ..1e6 => format!("{:.1} kB", bytes / 1e3),
        ..1e9 => format!("{:.1} MB", bytes / 1e6),
        _ => format!("{:.1} GB", bytes / 1e9),
    }
}
