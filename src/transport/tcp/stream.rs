//! A connection's bytes, in the clear or through TLS; nothing here ever blocks.

use std::io::{self, Read, Write};
use std::net::Shutdown;

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

/// A socket, with what encrypts it.
pub(super) enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<super::tls::TlsStream<TcpStream>>),
}

impl Stream {
    pub(super) fn socket(&mut self) -> &mut TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.socket_mut(),
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interests = Interest::READABLE | Interest::WRITABLE;
        self.socket().register(registry, token, interests)
    }

    /// Bytes that have come; 0 at the end, `WouldBlock` where there are none now.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => retry(|| socket.read(buffer)),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.read(buffer),
        }
    }

    /// Hands over some of `bytes`; `WouldBlock` where there is no room now.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => retry(|| socket.write(bytes)),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    /// Sends what encryption holds back.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(_) => Ok(()),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.flush(),
        }
    }

    /// Whether what is read may make room for what is to be written, as a handshake does.
    pub(super) fn is_encrypted(&self) -> bool {
        !matches!(self, Stream::Plain(_))
    }

    /// Ends it, as far as that goes without waiting.
    pub(super) fn close(&mut self, registry: &Registry) {
        #[cfg(feature = "tls")]
        if let Stream::Tls(stream) = self {
            stream.say_goodbye();
        }
        let socket = self.socket();
        // Neither failure matters for a socket that is dropped next.
        let _ = socket.shutdown(Shutdown::Write);
        let _ = registry.deregister(socket);
    }
}

/// Again, where a signal came between.
pub(super) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
