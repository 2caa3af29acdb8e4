//! The network between machines: byte streams that are delayed, held up, and broken.
//!
//! As TCP does it: bytes arrive in order or not at all. What a lossy or cut link does to them is delay, until somebody gives
//! up; a process that dies resets its streams, a machine that loses power says nothing.
//!
//! Owned by the simulation, which calls [`Net::deliver`] once per tick; machines hold [`Nic`]s.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use server::peer::Duplex;
use server::peer::wires::{Arrival, Doorway, Wires};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use crate::entropy::Dice;
use crate::world::World;

/// Bytes on their way in one direction of a stream before its writer waits.
const WINDOW_BYTES: usize = 1 << 20;
/// Streams that wait to be accepted.
const BACKLOG: usize = 128;
/// A lost packet is sent again after this long.
const RETRANSMIT_MILLIS: (u64, u64) = (150, 900);

/// A machine, by its place in the list.
pub(crate) type Place = usize;

/// What one direction between two machines does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    /// Nothing arrives; what was sent arrives later.
    pub(crate) is_cut: bool,
    pub(crate) delay_millis: (u64, u64),
    /// How many of a thousand writes are lost and sent again.
    pub(crate) lost_per_mille: u64,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            is_cut: false,
            delay_millis: (1, 3),
            lost_per_mille: 0,
        }
    }
}

/// One direction of one stream.
#[derive(Debug)]
struct Pipe {
    from: Place,
    to: Place,
    under_way: VecDeque<(u64, Bytes)>,
    under_way_bytes: usize,
    ready: BytesMut,
    /// When the last byte arrives, after which there is nothing more.
    ends_at: Option<u64>,
    is_at_end: bool,
    is_reset: bool,
    /// Its writer lost power: nothing more comes, not even an end.
    is_silent: bool,
    reader_is_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Dialing {
    from: Place,
    to: SocketAddr,
    at: u64,
    done: oneshot::Sender<io::Result<Stream>>,
}

#[derive(Default)]
struct Door {
    place: Place,
    arrived: VecDeque<Stream>,
    waiting: Option<Waker>,
}

struct State {
    dice: Dice,
    pipes: BTreeMap<u64, Pipe>,
    next_pipe: u64,
    dialing: VecDeque<Dialing>,
    doors: BTreeMap<SocketAddr, Door>,
    links: BTreeMap<(Place, Place), Link>,
    /// Where a machine is, whether or not a process listens there.
    machines: BTreeMap<SocketAddr, (Place, bool)>,
}

/// See the module's documentation. Clones share it.
#[derive(Clone)]
pub(crate) struct Net {
    world: Arc<World>,
    state: Arc<Mutex<State>>,
}

impl Net {
    pub(crate) fn new(world: Arc<World>, seed: u64) -> Self {
        let state = State {
            dice: Dice::of(seed, "net"),
            pipes: BTreeMap::new(),
            next_pipe: 1,
            dialing: VecDeque::new(),
            doors: BTreeMap::new(),
            links: BTreeMap::new(),
            machines: BTreeMap::new(),
        };
        Self {
            world,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The network card of a machine, which has power now.
    pub(crate) fn nic(&self, place: Place, address: SocketAddr) -> Nic {
        self.state.lock().machines.insert(address, (place, true));
        Nic {
            net: self.clone(),
            place,
        }
    }

    pub(crate) fn set_link(&self, from: Place, to: Place, change: impl FnOnce(&mut Link)) {
        change(self.state.lock().links.entry((from, to)).or_default());
    }

    pub(crate) fn heal(&self) {
        self.state.lock().links.clear();
    }

    /// The process of a machine is gone. With `has_power` the machine tells its peers so; without, nobody hears anything.
    pub(crate) fn vanish(&self, place: Place, has_power: bool) {
        let mut state = self.state.lock();
        // A stream that goes takes the lock.
        let mut gone = Vec::new();
        for door in state.doors.values_mut().filter(|door| door.place == place) {
            gone.extend(door.arrived.drain(..));
        }
        state.doors.retain(|_, door| door.place != place);
        for (of, powered) in state.machines.values_mut() {
            if *of == place {
                *powered = has_power;
            }
        }
        state.dialing.retain(|dialing| dialing.from != place);
        for pipe in state.pipes.values_mut() {
            if pipe.from == place || pipe.to == place {
                if has_power {
                    pipe.is_reset = true;
                    pipe.wake();
                } else {
                    // What was sent before may still arrive.
                    pipe.reader_is_gone |= pipe.to == place;
                    pipe.is_silent |= pipe.from == place;
                }
            }
        }
        drop(state);
        drop(gone);
    }

    /// Streams of a machine's former process are reset once somebody is there again who does not know them.
    pub(crate) fn forget_former(&self, place: Place) {
        for pipe in self.state.lock().pipes.values_mut() {
            if pipe.from == place || pipe.to == place {
                pipe.is_reset = true;
                pipe.wake();
            }
        }
    }

    /// Delivers what is due.
    pub(crate) fn deliver(&self) {
        let now = self.world.now_millis();
        let mut connected = Vec::new();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut dialing = std::mem::take(&mut state.dialing);
        while let Some(call) = dialing.pop_front() {
            if call.done.is_closed() {
                continue;
            }
            match state.place_of_call(&call, now) {
                None => state.dialing.push_back(call),
                Some(outcome) => {
                    self.world.count(b'c', call.from as u64, u64::from(outcome.is_ok()));
                    let outcome = outcome.map(|to| {
                        let (near, far) = state.connect(self, call.from, to);
                        if let Some(door) = state.doors.get_mut(&call.to) {
                            door.arrived.push_back(far);
                            door.wake();
                        }
                        near
                    });
                    connected.push((call.done, outcome));
                }
            }
        }
        let links = &state.links;
        for (id, pipe) in &mut state.pipes {
            let link = links.get(&(pipe.from, pipe.to)).copied().unwrap_or_default();
            if link.is_cut || pipe.is_reset {
                continue;
            }
            while pipe.under_way.front().is_some_and(|(at, _)| *at <= now)
                && let Some((_, bytes)) = pipe.under_way.pop_front()
            {
                self.world.count(b'd', *id, 0);
                pipe.under_way_bytes -= bytes.len();
                pipe.ready.extend_from_slice(&bytes);
                pipe.wake();
            }
            if pipe.under_way.is_empty() && pipe.ends_at.is_some_and(|at| at <= now) && !pipe.is_at_end {
                pipe.is_at_end = true;
                pipe.wake();
            }
        }
        let is_over = |pipe: &Pipe| pipe.reader_is_gone && (pipe.ends_at.is_some() || pipe.is_reset || pipe.is_silent);
        state.pipes.retain(|_, pipe| !is_over(pipe));
        drop(guard);
        for (done, outcome) in connected {
            // Who gave up meanwhile drops the stream, which takes the lock.
            let _ = done.send(outcome);
        }
    }
}

impl State {
    /// Where a call gets through to now; `None` while it is under way.
    fn place_of_call(&mut self, call: &Dialing, now: u64) -> Option<io::Result<Place>> {
        if call.at > now {
            return None;
        }
        let (place, is_powered) = self.machines.get(&call.to).copied()?;
        let is_cut = |from, to| self.links.get(&(from, to)).is_some_and(|link| link.is_cut);
        if !is_powered || is_cut(call.from, place) || is_cut(place, call.from) {
            return None;
        }
        match self.doors.get(&call.to) {
            Some(door) if door.arrived.len() < BACKLOG => Some(Ok(place)),
            _ => Some(Err(io::ErrorKind::ConnectionRefused.into())),
        }
    }

    fn connect(&mut self, net: &Net, from: Place, to: Place) -> (Stream, Stream) {
        let (forth, back) = (self.next_pipe, self.next_pipe + 1);
        self.next_pipe += 2;
        self.pipes.insert(forth, Pipe::new(from, to));
        self.pipes.insert(back, Pipe::new(to, from));
        let stream = |reads, writes| Stream {
            net: net.clone(),
            reads,
            writes,
        };
        (stream(back, forth), stream(forth, back))
    }

    fn arrival(&mut self, from: Place, to: Place, now: u64) -> u64 {
        let link = self.links.get(&(from, to)).copied().unwrap_or_default();
        let mut delay = self.dice.between(link.delay_millis.0, link.delay_millis.1);
        if self.dice.per_mille(link.lost_per_mille) {
            delay += self.dice.between(RETRANSMIT_MILLIS.0, RETRANSMIT_MILLIS.1);
        }
        now + delay
    }
}

impl Door {
    fn wake(&mut self) {
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }
}

impl Pipe {
    fn new(from: Place, to: Place) -> Self {
        Self {
            from,
            to,
            under_way: VecDeque::new(),
            under_way_bytes: 0,
            ready: BytesMut::new(),
            ends_at: None,
            is_at_end: false,
            is_reset: false,
            is_silent: false,
            reader_is_gone: false,
            reader: None,
            writer: None,
        }
    }

    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

/// A machine's way into the network.
#[derive(Clone)]
pub(crate) struct Nic {
    net: Net,
    place: Place,
}

impl Wires for Nic {
    fn connect(&self, address: Arc<str>) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> {
        let (net, from) = (self.net.clone(), self.place);
        async move {
            let to = address.parse().map_err(io::Error::other)?;
            let (done, outcome) = oneshot::channel();
            {
                let mut state = net.state.lock();
                let now = net.world.now_millis();
                let place = state.machines.get(&to).map_or(from, |(place, _)| *place);
                let at = state.arrival(from, place, now) + state.arrival(place, from, now) - now;
                state.dialing.push_back(Dialing { from, to, at, done });
            }
            let stream = outcome.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            Ok(Box::new(stream) as Box<dyn Duplex>)
        }
        .boxed()
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Doorway>>> {
        let (net, place) = (self.net.clone(), self.place);
        async move {
            let door = Door {
                place,
                ..Door::default()
            };
            net.state.lock().doors.insert(address, door);
            Ok(Box::new(Listener { net, address }) as Box<dyn Doorway>)
        }
        .boxed()
    }
}

struct Listener {
    net: Net,
    address: SocketAddr,
}

impl Doorway for Listener {
    fn address(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<Arrival>> {
        futures::future::poll_fn(|context| {
            let mut state = self.net.state.lock();
            let Some(door) = state.doors.get_mut(&self.address) else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            match door.arrived.pop_front() {
                Some(stream) => Poll::Ready(Ok((Box::new(stream) as Box<dyn Duplex>, None))),
                None => {
                    door.waiting = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .boxed()
    }
}

/// One end of a stream.
struct Stream {
    net: Net,
    reads: u64,
    writes: u64,
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.net.state.lock();
        let Some(pipe) = state.pipes.get_mut(&self.reads) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        if !pipe.ready.is_empty() {
            let take = pipe.ready.len().min(into.remaining());
            into.put_slice(&pipe.ready[..take]);
            pipe.ready.advance(take);
            if let Some(writer) = pipe.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Ok(()));
        }
        if pipe.is_reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if pipe.is_at_end {
            return Poll::Ready(Ok(()));
        }
        pipe.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.net.state.lock();
        let now = self.net.world.now_millis();
        let Some(pipe) = state.pipes.get_mut(&self.writes) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if pipe.is_reset || pipe.ends_at.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW_BYTES.saturating_sub(pipe.under_way_bytes + pipe.ready.len());
        if room == 0 {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let (from, to) = (pipe.from, pipe.to);
        let last = pipe.under_way.back().map_or(0, |(at, _)| *at);
        let take = room.min(bytes.len());
        let at = state.arrival(from, to, now).max(last);
        self.net.world.count(b's', self.writes, at);
        if let Some(pipe) = state.pipes.get_mut(&self.writes) {
            pipe.under_way_bytes += take;
            pipe.under_way.push_back((at, Bytes::copy_from_slice(&bytes[..take])));
        }
        Poll::Ready(Ok(take))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}

impl Stream {
    fn end(&self) {
        let mut state = self.net.state.lock();
        let now = self.net.world.now_millis();
        if let Some(pipe) = state.pipes.get_mut(&self.writes)
            && !pipe.is_silent
        {
            let last = pipe.under_way.back().map_or(now + 1, |(at, _)| *at);
            pipe.ends_at.get_or_insert(last);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.end();
        if let Some(pipe) = self.net.state.lock().pipes.get_mut(&self.reads) {
            pipe.reader_is_gone = true;
        }
    }
}
