//! What connections between nodes run over: TCP, or what a simulation gives instead.
//!
//! Everything above it (certificates, hello, HTTP/2) is the same whichever it is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};

use super::Duplex;

/// Opens byte streams to other nodes and takes theirs.
pub trait Wires: Send + Sync + 'static {
    /// A stream to whoever lives at `address`.
    fn connect(&self, address: Arc<str>) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>>;

    /// From now on streams to `address` are taken.
    fn listen(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Doorway>>>;
}

/// A stream, and who it is from as far as that is known.
pub type Arrival = (Box<dyn Duplex>, Option<SocketAddr>);

/// Where streams of others arrive. Two implementations: a TCP listener and the one of the simulation.
pub trait Doorway: Send + Sync + 'static {
    /// Where that is.
    fn address(&self) -> io::Result<SocketAddr>;

    /// The next stream.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Arrival>>;
}

/// The machine's network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

impl Wires for Tcp {
    fn connect(&self, address: Arc<str>) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> {
        async move { Ok(prompt(TcpStream::connect(&*address).await?)) }.boxed()
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Doorway>>> {
        async move { Ok(Box::new(TcpListener::bind(address).await?) as Box<dyn Doorway>) }.boxed()
    }
}

impl Doorway for TcpListener {
    fn address(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<Arrival>> {
        async move {
            let (socket, from) = TcpListener::accept(self).await?;
            Ok((prompt(socket), Some(from)))
        }
        .boxed()
    }
}

fn prompt(socket: TcpStream) -> Box<dyn Duplex> {
    // Votes and acks are small and somebody waits for each of them.
    let _ = socket.set_nodelay(true);
    Box::new(socket)
}
