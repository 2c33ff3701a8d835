//! A graceful stop: on Ctrl-C or `SIGTERM` the last lines of each client are answered, and then the
//! program prints a report. Try it with `nc 127.0.0.1 2525`.

use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;
use socketserver::{ThreadingTcpServer, services::Echo};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = ThreadingTcpServer::builder()
        .stop_timeout(Duration::from_secs(5))
        .bind("127.0.0.1:2525", Echo)?;
    let handle = server.handle();
    for signal in [SIGINT, SIGTERM] {
        // A byte that is written to this pipe asks the server to stop.
        pipe::register(signal, handle.shutdown_pipe()?)?;
    }
    server.serve_forever()?;

    let report = handle.stop(Duration::ZERO); // returns the report, since the server has stopped
    println!("{} ended by themselves, {} were shut down", report.drained, report.forced);
    Ok(())
}
