//! The engine beside a gate: it commits with a delay, stands still when told, and serves clients by itself.

use super::net::Rig;
use super::{ECHO, PATIENCE, SINK, ms};
use ft_runtime::gate::Gate;
use ft_runtime::gate::boot_time::BootTime;
use ft_runtime::gate::judge::{BirthId, Event};
use ft_runtime::gate::lease::{Ingress, Lease};
use ft_runtime::gate::packet::Tuple;
use ft_runtime::gate::saved_syn;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What an engine does for the gate's sake, around a server that echoes.
pub struct Engine {
    pub gate: Gate,
    listeners: Vec<(TcpListener, u16)>,
    births: HashMap<BirthId, ()>,
    pub connections: Vec<Connection>,
    /// Commits on their way; each takes `delay`.
    commits: VecDeque<(Instant, Commit)>,
    controls: Arc<Controls>,
}

pub struct Connection {
    pub socket: TcpStream,
    id: BirthId,
    port: u16,
    received: u64,
    fin: bool,
    fin_committed: bool,
    output: VecDeque<u8>,
}

enum Commit {
    Birth(BirthId),
    Input(BirthId, u64, bool),
}

#[derive(Default)]
pub struct Controls {
    delay_us: AtomicU64,
    stop: AtomicBool,
    /// The engine stands still while this is set ...
    freeze: AtomicBool,
    frozen: AtomicBool,
    /// ... and has to get its right again.
    resume_ms: AtomicU64,
}

impl Engine {
    pub fn new(mut gate: Gate, lease: Duration, controls: Arc<Controls>) -> Self {
        let listeners = gate
            .net()
            .within(|| {
                [ECHO, SINK]
                    .map(|port| {
                        let l = TcpListener::bind(("::", port)).unwrap();
                        l.set_nonblocking(true).unwrap();
                        saved_syn::keep(l.as_fd()).unwrap();
                        (l, port)
                    })
                    .into()
            })
            .unwrap();
        gate.judge().set_live(true);
        gate.ingress().open();
        gate.resume(BootTime::now().after(lease)).unwrap();
        Self { gate, listeners, births: HashMap::new(), connections: Vec::new(), commits: VecDeque::new(), controls }
    }

    pub fn run(mut self) {
        let mut buffer = vec![0; 256 * 1024];
        while !self.controls.stop.load(Ordering::Relaxed) {
            while self.controls.freeze.load(Ordering::SeqCst) {
                self.controls.frozen.store(true, Ordering::SeqCst);
                std::thread::sleep(ms(1));
            }
            let resume = self.controls.resume_ms.load(Ordering::SeqCst);
            if resume > 0 {
                self.gate.resume(BootTime::now().after(ms(resume))).unwrap();
                self.controls.resume_ms.store(0, Ordering::SeqCst);
            }
            let ready = self.wait();
            if ready[0] {
                self.gate.on_readable().unwrap();
            }
            self.events();
            for k in 0..self.listeners.len() {
                self.accept(k);
            }
            for k in 0..self.connections.len() {
                self.pump(k, &mut buffer);
            }
            self.connections.retain(|c| c.port != 0);
            self.commit();
            self.gate.flush().unwrap();
        }
    }

    pub fn wait(&self) -> Vec<bool> {
        let now = Instant::now();
        let due = self.commits.front().map_or(ms(5), |(at, _)| at.saturating_duration_since(now).min(ms(5)));
        let mut fds: Vec<PollFd> = Vec::new();
        let mut add = |fd: BorrowedFd<'_>, flags| {
            // SAFETY: all descriptors are self's and stay open during the call.
            fds.push(PollFd::new(unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }, flags));
        };
        add(self.gate.fd(), PollFlags::POLLIN);
        for (l, _) in &self.listeners {
            add(l.as_fd(), PollFlags::POLLIN);
        }
        for c in &self.connections {
            let mut flags = if c.fin { PollFlags::empty() } else { PollFlags::POLLIN };
            flags.set(PollFlags::POLLOUT, !c.output.is_empty());
            add(c.socket.as_fd(), flags);
        }
        let timeout = PollTimeout::from(due.as_micros().div_ceil(1000) as u16);
        poll(&mut fds, timeout).unwrap();
        fds.iter().map(|f| f.any() == Some(true)).collect()
    }

    fn later(&mut self, commit: Commit) {
        let delay = Duration::from_micros(self.controls.delay_us.load(Ordering::Relaxed));
        self.commits.push_back((Instant::now() + delay, commit));
    }

    pub fn events(&mut self) {
        while let Some(event) = self.gate.next_event() {
            match event {
                Event::Birth(b) => {
                    self.births.insert(b.id, ());
                    self.later(Commit::Birth(b.id));
                }
                Event::Gone { id, .. } => {
                    self.births.remove(&id);
                }
                Event::SynRepeated { .. } => panic!("nothing was restored here"),
            }
        }
    }

    pub fn accept(&mut self, k: usize) {
        while let Ok((socket, peer)) = self.listeners[k].0.accept() {
            socket.set_nonblocking(true).unwrap();
            socket.set_nodelay(true).unwrap();
            let isn = saved_syn::client_isn(socket.as_fd()).unwrap();
            let tuple = Tuple::new(socket.local_addr().unwrap(), peer);
            let id = self.gate.judge().find(&tuple, isn).expect("every connection was born at the gate");
            assert!(self.births.contains_key(&id));
            self.gate.judge().accepted(id);
            let port = self.listeners[k].1;
            self.connections.push(Connection { socket, id, port, received: 0, fin: false, fin_committed: false, output: VecDeque::new() });
        }
    }

    fn pump(&mut self, k: usize, buffer: &mut [u8]) {
        let c = &mut self.connections[k];
        let mut news = false;
        while !c.fin {
            match c.socket.read(buffer) {
                Ok(0) => {
                    c.fin = true;
                    news = true;
                }
                Ok(n) => {
                    c.received += n as u64;
                    if c.port == ECHO {
                        c.output.extend(&buffer[..n]);
                    }
                    news = true;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    c.port = 0;
                    break;
                }
            }
        }
        while !c.output.is_empty() {
            match c.socket.write(c.output.as_slices().0) {
                Ok(n) => drop(c.output.drain(..n)),
                Err(_) => break,
            }
        }
        if c.fin_committed && c.output.is_empty() && c.port != 0 {
            self.gate.judge().permit_fin(c.id);
            let _ = c.socket.shutdown(std::net::Shutdown::Write);
            self.gate.judge().closed(BootTime::now(), c.id);
            c.port = 0;
        }
        if news {
            let commit = Commit::Input(c.id, c.received, c.fin);
            self.later(commit);
        }
    }

    pub fn commit(&mut self) {
        let now = Instant::now();
        while self.commits.front().is_some_and(|(at, _)| *at <= now) {
            match self.commits.pop_front().unwrap().1 {
                Commit::Birth(id) => self.gate.judge().birth_committed(BootTime::now(), id),
                Commit::Input(id, bytes, fin) => {
                    self.gate.judge().committed_input(id, bytes, fin);
                    if fin && let Some(c) = self.connections.iter_mut().find(|c| c.id == id) {
                        if c.port == SINK {
                            c.socket.write_all(&c.received.to_be_bytes()).unwrap();
                        }
                        c.fin_committed = true;
                    }
                }
            }
        }
    }
}

/// An engine on a thread of its own.
pub struct Service {
    controls: Arc<Controls>,
    pub lease: Lease,
    pub ingress: Ingress,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    pub fn start(rig: &Rig, lease: Duration) -> Self {
        Self::with(rig.gate(), lease)
    }

    pub fn with(gate: Gate, lease: Duration) -> Self {
        let controls = Arc::new(Controls::default());
        let (tell, told) = mpsc::channel();
        let host_controls = controls.clone();
        let handles = (gate.lease().clone(), gate.ingress().clone());
        let thread = std::thread::spawn(move || {
            let engine = Engine::new(gate, lease, host_controls);
            tell.send(()).unwrap();
            engine.run();
        });
        told.recv_timeout(PATIENCE).unwrap();
        Self { controls, lease: handles.0, ingress: handles.1, thread: Some(thread) }
    }

    pub fn delay(&self, d: Duration) {
        self.controls.delay_us.store(d.as_micros() as u64, Ordering::Relaxed);
    }

    pub fn resume(&self, d: Duration) {
        self.controls.resume_ms.store(d.as_millis() as u64, Ordering::SeqCst);
        while self.controls.resume_ms.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(ms(1));
        }
    }

    pub fn freeze(&self) {
        self.controls.frozen.store(false, Ordering::SeqCst);
        self.controls.freeze.store(true, Ordering::SeqCst);
        while !self.controls.frozen.load(Ordering::SeqCst) {
            std::thread::sleep(ms(1));
        }
    }

    pub fn thaw(&self) {
        self.controls.freeze.store(false, Ordering::SeqCst);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.thaw();
        self.controls.stop.store(true, Ordering::Relaxed);
        let result = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            result.unwrap();
        }
    }
}
