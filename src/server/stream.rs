//! A client's socket, in the clear or through TLS; nothing here ever blocks.

use std::io::{self, Read as _, Write as _};

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

#[cfg(feature = "tls")]
use crate::transport::{TlsConfig, TlsStream};

/// See the module's text.
pub(super) enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<TcpStream>>),
    /// Between two of those, and of no further use.
    #[cfg(feature = "tls")]
    Gone,
}

/// What the first bytes of a connection are.
#[cfg(feature = "tls")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Beginning {
    /// Too few have come to tell.
    Unknown,
    /// A TLS handshake, of any version.
    Tls,
    /// Anything else.
    Plain,
}

impl Stream {
    fn socket(&mut self) -> Option<&mut TcpStream> {
        match self {
            Stream::Plain(socket) => Some(socket),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => Some(stream.socket_mut()),
            #[cfg(feature = "tls")]
            Stream::Gone => None,
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interests = Interest::READABLE | Interest::WRITABLE;
        match self.socket() {
            Some(socket) => socket.register(registry, token, interests),
            None => Ok(()),
        }
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buffer),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.read(buffer),
            #[cfg(feature = "tls")]
            Stream::Gone => Ok(0),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.write(bytes),
            #[cfg(feature = "tls")]
            Stream::Gone => Ok(0),
        }
    }

    /// Sends what encryption holds back; `WouldBlock` where there is no room now.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(_) => Ok(()),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.flush(),
            #[cfg(feature = "tls")]
            Stream::Gone => Ok(()),
        }
    }

    /// Whether encryption holds something back.
    pub(super) fn has_unsent(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.wants_write(),
            #[cfg(feature = "tls")]
            Stream::Gone => false,
        }
    }

    /// Ends it, as far as that goes without waiting.
    pub(super) fn close(&mut self, registry: &Registry) {
        #[cfg(feature = "tls")]
        if let Stream::Tls(stream) = self {
            stream.say_goodbye();
        }
        if let Some(socket) = self.socket() {
            let _ = socket.deregister(registry);
        }
    }
}

#[cfg(feature = "tls")]
impl Stream {
    /// What its client begins with. Nothing is taken from it.
    pub(super) fn beginning(&self) -> io::Result<Beginning> {
        let Stream::Plain(socket) = self else {
            return Ok(Beginning::Plain);
        };
        // A record of a handshake, version 3.x. As a frame's length it would be 369 million.
        const HANDSHAKE: [u8; 2] = [0x16, 0x03];
        let mut first = [0; 2];
        Ok(match socket.peek(&mut first)? {
            // The end, which is for the reader to find.
            0 => Beginning::Plain,
            1 if first[0] == HANDSHAKE[0] => Beginning::Unknown,
            2 if first == HANDSHAKE => Beginning::Tls,
            _ => Beginning::Plain,
        })
    }

    /// Goes on encrypted.
    pub(super) fn encrypt(&mut self, tls: &TlsConfig) -> io::Result<()> {
        *self = match std::mem::replace(self, Stream::Gone) {
            Stream::Plain(socket) => Stream::Tls(Box::new(tls.accept_client(socket)?)),
            other => other,
        };
        Ok(())
    }

    /// Whether the handshake is still under way.
    pub(super) fn is_handshaking(&self) -> bool {
        match self {
            Stream::Tls(stream) => stream.is_handshaking(),
            _ => false,
        }
    }

    /// The subject of the certificate that the client has shown, if it has.
    pub(super) fn client_subject(&self) -> Option<String> {
        match self {
            Stream::Tls(stream) => stream.peer_subject(),
            _ => None,
        }
    }
}
