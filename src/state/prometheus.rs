//! A server's counters as Prometheus reads them.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::histogram::Histogram;
use super::stats::{REASONS, Stats};

impl Stats {
    /// Writes the counters in Prometheus's [text format], version 0.0.4, whose media type is
    /// `text/plain; version=0.0.4; charset=utf-8`.
    ///
    /// ```
    /// use socketserver::{ThreadingTcpServer, services::Echo};
    ///
    /// let server = ThreadingTcpServer::bind("127.0.0.1:0", Echo)?.spawn()?;
    /// let mut text = Vec::new();
    /// server.stats().write_prometheus(&mut text)?;
    /// let text = String::from_utf8_lossy(&text);
    /// assert!(text.contains("# TYPE socketserver_requests_accepted_total counter\n"));
    /// assert!(text.contains("\nsocketserver_requests_accepted_total 0\n"));
    /// assert!(text.contains("\nsocketserver_request_duration_seconds_bucket{le=\"0.5\"} 0\n"));
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    ///
    /// | metric | type | what |
    /// | --- | --- | --- |
    /// | `socketserver_requests_active` | gauge | [`active`](Stats::active) |
    /// | `socketserver_requests_accepted_total` | counter | [`accepted`](Stats::accepted) |
    /// | `socketserver_requests_finished_total` | counter | [`finished`](Stats::finished) |
    /// | `socketserver_requests_ended_total{reason="eof"}` | counter | [`eof`](Stats::eof), and the others of a [`CloseReason`](crate::CloseReason) |
    /// | `socketserver_requests_refused_total` | counter | [`refused`](Stats::refused) |
    /// | `socketserver_datagrams_truncated_total` | counter | [`truncated`](Stats::truncated) |
    /// | `socketserver_upstreams_connected_total` | counter | [`upstreams`](Stats::upstreams) |
    /// | `socketserver_upstream_errors_total` | counter | [`upstream_errors`](Stats::upstream_errors) |
    /// | `socketserver_accept_errors_total` | counter | [`accept_errors`](Stats::accept_errors) |
    /// | `socketserver_observer_panics_total` | counter | [`observer_panics`](Stats::observer_panics) |
    /// | `socketserver_request_duration_seconds` | histogram | [`durations`](Stats::durations) |
    /// | `socketserver_request_received_bytes` | histogram | [`bytes_received`](Stats::bytes_received) |
    /// | `socketserver_request_sent_bytes` | histogram | [`bytes_sent`](Stats::bytes_sent) |
    ///
    /// All of it is written at once. The metrics have no label for the server: a program with several
    /// serves each on a path or port of its own.
    ///
    /// # Errors
    /// Those of the writer.
    ///
    /// [text format]: https://prometheus.io/docs/instrumenting/exposition_formats/
    pub fn write_prometheus(&self, writer: &mut (impl Write + ?Sized)) -> io::Result<()> {
        writer.write_all(self.exposition(Format::Text).as_bytes())
    }

    /// Writes the same in the format of [OpenMetrics] 1.0, whose media type is
    /// `application/openmetrics-text; version=1.0.0; charset=utf-8`. Nothing may follow it.
    ///
    /// # Errors
    /// Those of the writer.
    ///
    /// [OpenMetrics]: https://prometheus.io/docs/specs/om/open_metrics_spec/
    pub fn write_openmetrics(&self, writer: &mut (impl Write + ?Sized)) -> io::Result<()> {
        writer.write_all(self.exposition(Format::OpenMetrics).as_bytes())
    }

    fn exposition(&self, format: Format) -> String {
        let mut exposition = Exposition { text: String::new(), format };
        exposition.gauge("requests_active", "Requests being served.", self.active);
        let (reasons, others): (Vec<_>, Vec<_>) =
            self.counters().partition(|(name, _)| REASONS.contains(name));
        for (name, value) in others {
            let (name, help) = describe(name);
            exposition.counter(name, help);
            exposition.sample(name, "_total", "", value);
        }
        exposition.counter("requests_ended", "Requests that have ended, by the reason.");
        for (reason, value) in reasons {
            let label = format!("{{reason=\"{reason}\"}}");
            exposition.sample("requests_ended", "_total", &label, value);
        }
        let help = "How long requests took, from when they were accepted.";
        exposition.histogram("request_duration", Unit::Seconds, help, &self.durations);
        let help = "What the handlers of requests have read from their client.";
        exposition.histogram("request_received", Unit::Bytes, help, &self.bytes_received);
        let help = "What was sent to the clients of requests.";
        exposition.histogram("request_sent", Unit::Bytes, help, &self.bytes_sent);
        exposition.finish()
    }
}

/// The name of a counter's metric, and its description.
fn describe(counter: &'static str) -> (&'static str, &'static str) {
    match counter {
        "accepted" => ("requests_accepted", "Requests accepted and admitted."),
        "finished" => ("requests_finished", "Admitted requests that have ended."),
        "refused" => ("requests_refused", "Requests refused because of a limit or a shortage."),
        "truncated" => ("datagrams_truncated", "Datagrams dropped because they were too long."),
        "upstreams" => ("upstreams_connected", "Upstreams connected to."),
        "upstream_errors" => ("upstream_errors", "Upstreams that could not be connected to."),
        "accept_errors" => ("accept_errors", "Failures of accepting that concern the system."),
        "observer_panics" => ("observer_panics", "Calls of an observer that have panicked."),
        other => (other, ""),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Text,
    OpenMetrics,
}

/// What the values of a histogram are written in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// The values are in nanoseconds.
    Seconds,
    Bytes,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::Seconds => "seconds",
            Unit::Bytes => "bytes",
        }
    }

    fn of(self, value: u64) -> f64 {
        match self {
            Unit::Seconds => value as f64 / 1e9,
            Unit::Bytes => value as f64,
        }
    }
}

/// The text, as far as it is written.
struct Exposition {
    text: String,
    format: Format,
}

// `write!` to a `String` does not fail.
impl Exposition {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = self.text.write_fmt(line);
        self.text.push('\n');
    }

    fn sample(&mut self, name: &str, suffix: &str, labels: &str, value: impl std::fmt::Display) {
        self.line(format_args!("socketserver_{name}{suffix}{labels} {value}"));
    }

    /// The lines before the samples of a metric.
    fn header(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP socketserver_{name} {help}"));
        self.line(format_args!("# TYPE socketserver_{name} {kind}"));
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.header(name, "gauge", help);
        self.sample(name, "", "", value);
    }

    /// In the text format, the suffix of a counter is a part of its name.
    fn counter(&mut self, name: &str, help: &str) {
        match self.format {
            Format::Text => self.header(&format!("{name}_total"), "counter", help),
            Format::OpenMetrics => self.header(name, "counter", help),
        }
    }

    fn histogram(&mut self, name: &str, unit: Unit, help: &str, histogram: &Histogram) {
        let name = format!("{name}_{}", unit.name());
        self.header(&name, "histogram", help);
        if self.format == Format::OpenMetrics {
            self.line(format_args!("# UNIT socketserver_{name} {}", unit.name()));
        }
        for (bound, count) in histogram.buckets() {
            // OpenMetrics wants `1.0`, where the text format has `1`.
            let bound = match self.format {
                Format::Text => format!("{}", unit.of(bound)),
                Format::OpenMetrics => format!("{:?}", unit.of(bound)),
            };
            self.sample(&name, "_bucket", &format!("{{le=\"{bound}\"}}"), count);
        }
        self.sample(&name, "_bucket", "{le=\"+Inf\"}", histogram.count());
        self.sample(&name, "_sum", "", unit.of(histogram.sum()));
        self.sample(&name, "_count", "", histogram.count());
    }

    fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_a_description() {
        for (name, _) in Stats::default().counters() {
            assert!(REASONS.contains(&name) || !describe(name).1.is_empty(), "{name}");
        }
    }
}
