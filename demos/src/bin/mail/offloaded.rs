//! Files for handlers that may run on a fiber, where blocking I/O must be offloaded.

use std::io::{self, Read, Write};

use socketserver::Fibers;

/// Reads and writes by [`Fibers::offload`]. Wrap it in a buffer, since each call is a hand-over.
pub(crate) struct Offloaded<F>(pub(crate) F);

impl<R: Read + Send> Read for Offloaded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Fibers::offload(|| self.0.read(buffer))?
    }
}

impl<W: Write + Send> Write for Offloaded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Fibers::offload(|| self.0.write(bytes))?
    }

    fn flush(&mut self) -> io::Result<()> {
        Fibers::offload(|| self.0.flush())?
    }
}
