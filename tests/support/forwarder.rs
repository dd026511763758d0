//! A path between two endpoints, in user space: it passes UDP datagrams on as late, as seldom, as often and in the order that
//! a test asks for, and what becomes of which datagram follows from a seed. It can be cut and healed, and can change the
//! address that the far side sees, as a router does that forgets whom it translates.
//!
//! It translates between the families of addresses as well: who dials sends to an address of the family that the far side
//! does not have. iroh's endpoints tell each other all their addresses and prefer the best path; one that is bound to
//! `127.0.0.1` and one that is bound to `[::1]` cannot use those, so nothing passes but what passes here.
//!
//! A thread of its own does all of it, so that a busy runtime delays nothing, and it takes datagrams from the system and gives
//! them back in batches, as iroh does: a gigabit per second costs it a fraction of a core.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use noq_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use link::{Fate, Line};
pub(crate) use link::{Link, Rate};

#[path = "forwarder/link.rs"]
mod link;
#[cfg(test)]
#[path = "forwarder/tests.rs"]
mod tests;

/// Those who may send through it; more are not listened to.
const FLOWS_MAX: usize = 64;
/// What is due within this time leaves at once.
const TICK: Duration = Duration::from_micros(200);
/// Batches taken from one socket before it is looked what is due.
const READS_MAX: usize = 16;
/// Batches that come with one system call.
const BATCHES: usize = 8;
/// The largest batch: what a datagram can hold.
const BATCH_BYTES: usize = 64 * 1024;
/// Buffer of a socket, as far as the system allows it.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Bytes under way; what exceeds them is dropped.
const HELD_BYTES_MAX: usize = 256 << 20;

/// From the side that dials to the other one, and back.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Way {
    There,
    Back,
}

/// What became of the datagrams of one direction so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counts {
    /// Datagrams that came in, and their bytes.
    pub(crate) came: u64,
    pub(crate) came_bytes: u64,
    /// Datagrams that went out, second copies included, and their bytes.
    pub(crate) passed: u64,
    pub(crate) passed_bytes: u64,
    /// Lost by chance.
    pub(crate) lost: u64,
    /// Dropped because the queue was full.
    pub(crate) overflowed: u64,
    /// Dropped because the path was cut, or led to an address that is no more.
    pub(crate) cut: u64,
    pub(crate) twice: u64,
    pub(crate) overtaken: u64,
    /// Not taken by the system.
    pub(crate) refused: u64,
}

/// A running forwarder. Ends when dropped.
pub(crate) struct Forwarder {
    addr: SocketAddr,
    orders: Sender<(Order, Sender<()>)>,
    wake: Arc<OwnedFd>,
    counts: Arc<Mutex<[Counts; 2]>>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Set([Link; 2]),
    Cut(bool),
    Rebind,
    Stop,
}

impl Forwarder {
    /// Whether this machine has both families of addresses, which a forwarder needs.
    pub(crate) fn is_possible() -> bool {
        [loopback(true), loopback(false)].into_iter().all(|addr| UdpSocket::bind(addr).is_ok())
    }

    /// Passes on to `to`, an address of this machine, what is sent to [`Self::addr`], and the answers.
    ///
    /// # Errors
    /// What the system says of a socket.
    pub(crate) fn start(to: SocketAddr, links: [Link; 2], seed: u64) -> io::Result<Self> {
        let front = Port::bind(loopback(to.is_ipv6()))?;
        let addr = front.socket.local_addr()?;
        let (orders, received) = mpsc::channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let counts = Arc::new(Mutex::new([Counts::default(); 2]));
        let [there, back] = links;
        let mut pump = Pump {
            began: Instant::now(),
            to,
            front,
            flows: Vec::new(),
            // Directions do not repeat each other's chances.
            lines: [Line::new(there, seed), Line::new(back, seed ^ (1 << 63))],
            is_cut: false,
            held: BinaryHeap::new(),
            held_bytes: 0,
            number: 0,
            counts: [Counts::default(); 2],
            shown: Arc::clone(&counts),
            buffer: vec![0; BATCHES * BATCH_BYTES],
        };
        let woken = Arc::clone(&wake);
        let thread = std::thread::Builder::new()
            .name("forwarder".into())
            .spawn(move || pump.run(&received, &woken))?;
        Ok(Self { addr, orders, wake, counts, thread: Some(thread) })
    }

    /// Where those send that want to reach the far side.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes what happens to datagrams that come from now on.
    pub(crate) fn set(&self, links: [Link; 2]) {
        self.order(Order::Set(links));
    }

    /// Drops everything, what is under way included, until it is healed.
    pub(crate) fn cut(&self) {
        self.order(Order::Cut(true));
    }

    pub(crate) fn heal(&self) {
        self.order(Order::Cut(false));
    }

    /// Changes the address under which the far side sees each of those that dialled; what it sends to the former is lost.
    pub(crate) fn rebind(&self) {
        self.order(Order::Rebind);
    }

    /// What became of the datagrams in one direction.
    pub(crate) fn counts(&self, way: Way) -> Counts {
        self.counts.lock()[way as usize]
    }

    /// Returns when it has been done.
    fn order(&self, order: Order) {
        let (done, wait) = mpsc::channel();
        if self.orders.send((order, done)).is_ok() {
            let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
            // An error is the end of the thread, which a test sees by what does not arrive.
            let _ = wait.recv();
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.order(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn loopback(v4: bool) -> SocketAddr {
    if v4 { (Ipv4Addr::LOCALHOST, 0).into() } else { (Ipv6Addr::LOCALHOST, 0).into() }
}

/// A socket that takes and gives batches.
struct Port {
    socket: UdpSocket,
    batches: UdpSocketState,
}

impl Port {
    fn bind(addr: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(addr)?;
        let batches = UdpSocketState::new((&socket).into())?;
        // Smaller buffers lose more, and that is counted nowhere; there is nothing else to be done about it.
        let _ = batches.set_recv_buffer_size((&socket).into(), SOCKET_BUFFER_BYTES);
        let _ = batches.set_send_buffer_size((&socket).into(), SOCKET_BUFFER_BYTES);
        Ok(Self { socket, batches })
    }
}

/// One that sends through the forwarder, and the socket by which the far side knows it.
struct Flow {
    from: SocketAddr,
    back: Port,
}

/// A datagram under way. They are ordered by when they arrive, then by when they came.
#[derive(Eq, Ord, PartialEq, PartialOrd)]
struct Held {
    at: Duration,
    number: u64,
    way: Way,
    flow: usize,
    ecn: Option<u8>,
    content: Bytes,
}

/// The thread's own.
struct Pump {
    began: Instant,
    to: SocketAddr,
    front: Port,
    flows: Vec<Flow>,
    lines: [Line; 2],
    is_cut: bool,
    held: BinaryHeap<Reverse<Held>>,
    held_bytes: usize,
    number: u64,
    counts: [Counts; 2],
    shown: Arc<Mutex<[Counts; 2]>>,
    buffer: Vec<u8>,
}

impl Pump {
    fn run(&mut self, orders: &Receiver<(Order, Sender<()>)>, wake: &OwnedFd) {
        loop {
            self.send_due();
            *self.shown.lock() = self.counts;
            let Ok(ready) = self.wait(wake) else { return };
            if ready[0] {
                let mut count = [0; 8];
                let _ = rustix::io::read(wake, &mut count);
                for (order, done) in orders.try_iter() {
                    if matches!(order, Order::Stop) {
                        return;
                    }
                    self.follow(order);
                    let _ = done.send(());
                }
            }
            for (n, _) in ready.iter().enumerate().skip(1).filter(|(_, ready)| **ready) {
                self.receive(n.checked_sub(2));
            }
        }
    }

    /// Waits until something comes or is due: an order, something for the front, something for a flow.
    fn wait(&self, wake: &OwnedFd) -> io::Result<Vec<bool>> {
        let sockets = std::iter::once(&self.front).chain(self.flows.iter().map(|flow| &flow.back));
        let mut fds = vec![PollFd::new(wake, PollFlags::IN)];
        fds.extend(sockets.map(|port| PollFd::new(&port.socket, PollFlags::IN)));
        let due_in = self.held.peek().map(|Reverse(first)| first.at.saturating_sub(self.began.elapsed()));
        let timeout = due_in.and_then(|time| Timespec::try_from(time).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
    }

    fn follow(&mut self, order: Order) {
        match order {
            Order::Set(links) => {
                for (line, link) in self.lines.iter_mut().zip(links) {
                    line.set(link);
                }
            }
            Order::Cut(is_cut) => {
                self.is_cut = is_cut;
                for Reverse(held) in self.held.drain() {
                    self.counts[held.way as usize].cut += 1;
                }
                self.held_bytes = 0;
            }
            Order::Rebind => {
                for flow in &mut self.flows {
                    // The former port stays taken until the new one is bound: it is another one.
                    if let Ok(port) = Port::bind(loopback(self.to.is_ipv4())) {
                        flow.back = port;
                    }
                }
            }
            Order::Stop => {}
        }
    }

    /// Takes what came to the front, or to a flow's socket from the far side.
    fn receive(&mut self, flow: Option<usize>) {
        for _ in 0..READS_MAX {
            let mut metas = [RecvMeta::default(); BATCHES];
            let mut buffer = std::mem::take(&mut self.buffer);
            let port = flow.map_or(&self.front, |flow| &self.flows[flow].back);
            let mut slices: Vec<IoSliceMut> = buffer.chunks_mut(BATCH_BYTES).map(IoSliceMut::new).collect();
            let got = port.batches.recv((&port.socket).into(), &mut slices, &mut metas);
            let count = got.unwrap_or(0);
            for (meta, batch) in metas.iter().zip(buffer.chunks(BATCH_BYTES)).take(count) {
                self.take(flow, meta, &batch[..meta.len]);
            }
            self.buffer = buffer;
            if count == 0 {
                return;
            }
        }
    }

    fn take(&mut self, flow: Option<usize>, meta: &RecvMeta, batch: &[u8]) {
        let (way, flow) = match flow {
            // Others than the far side are not answered to.
            Some(_) if meta.addr != self.to => return,
            Some(flow) => (Way::Back, flow),
            None => match self.flow_of(meta.addr) {
                Some(flow) => (Way::There, flow),
                None => return,
            },
        };
        let (now, all) = (self.began.elapsed(), Bytes::copy_from_slice(batch));
        let stride = meta.stride.max(1);
        for start in (0..all.len()).step_by(stride) {
            let content = all.slice(start..all.len().min(start + stride));
            self.admit(now, way, flow, meta.ecn.map(|ecn| ecn as u8), content);
        }
    }

    fn flow_of(&mut self, from: SocketAddr) -> Option<usize> {
        if let Some(known) = self.flows.iter().position(|flow| flow.from == from) {
            return Some(known);
        }
        if self.flows.len() == FLOWS_MAX {
            return None;
        }
        let back = Port::bind(loopback(self.to.is_ipv4())).ok()?;
        self.flows.push(Flow { from, back });
        Some(self.flows.len() - 1)
    }

    fn admit(&mut self, now: Duration, way: Way, flow: usize, ecn: Option<u8>, content: Bytes) {
        let counts = &mut self.counts[way as usize];
        counts.came += 1;
        counts.came_bytes += content.len() as u64;
        let (at, twice) = match self.lines[way as usize].pass(now, content.len() as u64) {
            _ if self.is_cut => {
                counts.cut += 1;
                return;
            }
            Fate::Lost => {
                counts.lost += 1;
                return;
            }
            Fate::Overflowed => {
                counts.overflowed += 1;
                return;
            }
            Fate::Arrives { at, overtaken, twice } => {
                counts.overtaken += u64::from(overtaken);
                counts.twice += u64::from(twice);
                (at, twice)
            }
        };
        for _ in 0..=usize::from(twice) {
            if self.held_bytes + content.len() > HELD_BYTES_MAX {
                self.counts[way as usize].overflowed += 1;
                return;
            }
            self.held_bytes += content.len();
            self.number += 1;
            self.held.push(Reverse(Held {
                at,
                number: self.number,
                way,
                flow,
                ecn,
                content: content.clone(),
            }));
        }
    }

    /// Sends what is due, and as many datagrams at once as go the same way and are of one size.
    fn send_due(&mut self) {
        let until = self.began.elapsed() + TICK;
        while let Some(first) = self.next_due(until, |_| true) {
            let gso_max = self.port(first.way, first.flow).batches.max_gso_segments().get();
            let size = first.content.len();
            let mut batch = first.content.to_vec();
            let mut count = 1;
            while count < gso_max && batch.len() + size <= BATCH_BYTES - 1024 {
                let fits = |held: &Held| {
                    (held.way, held.flow, held.ecn) == (first.way, first.flow, first.ecn)
                        && held.content.len() == size
                };
                let Some(next) = self.next_due(until, fits) else { break };
                batch.extend_from_slice(&next.content);
                count += 1;
            }
            self.send(&first, &batch, count as u64);
        }
    }

    fn next_due(&mut self, until: Duration, fits: impl Fn(&Held) -> bool) -> Option<Held> {
        let Reverse(first) = self.held.peek()?;
        if first.at > until || !fits(first) {
            return None;
        }
        let Reverse(first) = self.held.pop()?;
        self.held_bytes -= first.content.len();
        Some(first)
    }

    /// The socket from which a datagram leaves.
    fn port(&self, way: Way, flow: usize) -> &Port {
        match way {
            Way::There => &self.flows[flow].back,
            Way::Back => &self.front,
        }
    }

    fn send(&mut self, first: &Held, batch: &[u8], count: u64) {
        let port = self.port(first.way, first.flow);
        let transmit = Transmit {
            destination: if first.way == Way::There { self.to } else { self.flows[first.flow].from },
            ecn: first.ecn.and_then(EcnCodepoint::from_bits),
            contents: batch,
            segment_size: Some(first.content.len()),
            src_ip: None,
        };
        let sent = port.batches.try_send((&port.socket).into(), &transmit);
        let counts = &mut self.counts[first.way as usize];
        if sent.is_ok() {
            counts.passed += count;
            counts.passed_bytes += batch.len() as u64;
        } else {
            counts.refused += count;
        }
    }
}
