//! Files, for handlers that may be on a fiber: reading and writing them blocks.

use std::io::{self, Read, Write};

use socketserver::Fibers;

/// Reads and writes on another thread, where this one belongs to other fibers as well. It is meant
/// to be wrapped in a buffer.
pub(crate) struct Offloaded<F>(pub(crate) F);

impl<R: Read + Send> Read for Offloaded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Fibers::offload(|| self.0.read(buffer))
    }
}

impl<W: Write + Send> Write for Offloaded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Fibers::offload(|| self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Fibers::offload(|| self.0.flush())
    }
}
