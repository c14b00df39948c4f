//! What the I/O of an event loop costs, in three shapes: which one the engine should have.
//!
//! A request of 64 bytes comes on one of N connections over loopback and is answered with as many; each connection asks again
//! when it was answered. No guest, no link, no log: what remains is the kernel's work and the way to it. The client is one
//! thread, the same for all shapes; all processor time of this process that is not its own is the loop's, also that of helper
//! threads the kernel may make for it. Loopback delivers within the sender's call: a loop pays for the client's receiving and
//! the client for the loop's.

mod client;
mod epoll;
mod uring;

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Of requests and answers.
const MESSAGE_BYTES: usize = 64;

/// Serves the connections until all are closed; sends when it is about to begin. How often it asked the kernel for events.
type Serve = fn(Vec<TcpStream>, Sender<()>) -> io::Result<u64>;

struct Shape {
    name: &'static str,
    serve: Serve,
}

const SHAPES: [Shape; 3] = [
    Shape { name: "epoll", serve: epoll::plain },
    Shape { name: "engine", serve: epoll::as_the_engine },
    Shape { name: "io_uring", serve: uring::serve },
];
/// What the others are compared with.
const REFERENCE: &str = "engine";

#[derive(Debug, Serialize)]
struct Sample {
    shape: &'static str,
    connections: u32,
    /// Of one request.
    loop_cpu_us: f64,
    client_cpu_us: f64,
    wall_us: f64,
    turns: f64,
}

#[derive(Debug, Serialize)]
struct Results {
    requests: u32,
    /// Why `io_uring` was not measured.
    io_uring_refused: Option<String>,
    samples: Vec<Sample>,
}

pub struct Loops {
    pub connections: Vec<u32>,
    pub rounds: u32,
    /// Of each shape, in each round.
    pub requests: u32,
}

impl Loops {
    /// Measures all shapes in turn, another one first in each round; prints tables and one JSON line.
    pub fn run(&self) -> io::Result<()> {
        let refused = uring::refusal();
        if let Some(why) = &refused {
            eprintln!("ft-bench: io_uring is not measured: {why}");
        }
        let shapes: Vec<&Shape> = SHAPES.iter().filter(|s| refused.is_none() || s.name != "io_uring").collect();
        let mut samples = Vec::new();
        for round in 0..self.rounds as usize {
            for connections in &self.connections {
                for k in 0..shapes.len() {
                    samples.push(measure(shapes[(round + k) % shapes.len()], *connections, self.requests)?);
                }
            }
        }
        for connections in &self.connections {
            print(*connections, self.rounds, self.requests, &shapes, &samples);
        }
        let results = Results { requests: self.requests, io_uring_refused: refused, samples };
        println!("{}", serde_json::to_string(&results).expect("plain numbers and text"));
        Ok(())
    }
}

fn measure(shape: &Shape, connections: u32, requests: u32) -> io::Result<Sample> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..connections {
        ours.push(TcpStream::connect(listener.local_addr()?)?);
        theirs.push(listener.accept()?.0);
    }
    for s in ours.iter().chain(&theirs) {
        s.set_nodelay(true)?;
    }
    let (ready, is_ready) = channel();
    let serve = shape.serve;
    let server = thread::Builder::new().name(shape.name.into()).spawn(move || serve(theirs, ready))?;
    let mut taken = Ok((Duration::ZERO, Duration::ZERO, Duration::ZERO));
    // Else it failed, and its error comes by joining it.
    if is_ready.recv().is_ok() {
        taken = taken_by(|| client::ask(&ours, requests));
    }
    drop(ours);
    let turns = server.join().unwrap_or_else(|_| Err(io::Error::other("it panicked")));
    let turns = turns.map_err(|e| io::Error::new(e.kind(), format!("the loop '{}': {e}", shape.name)))?;
    let (wall, process, client) = taken?;
    let each = |t: Duration| t.as_secs_f64() * 1e6 / f64::from(requests);
    Ok(Sample {
        shape: shape.name,
        connections,
        loop_cpu_us: each(process.saturating_sub(client)),
        client_cpu_us: each(client),
        wall_us: each(wall),
        turns: turns as f64 / f64::from(requests),
    })
}

/// Wall time, processor time of the process, and of this thread in it.
fn taken_by(work: impl FnOnce() -> io::Result<()>) -> io::Result<(Duration, Duration, Duration)> {
    let read = || -> io::Result<(Instant, Duration, Duration)> {
        let process = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
        let thread = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        Ok((Instant::now(), process.into(), thread.into()))
    };
    let before = read()?;
    work()?;
    let after = read()?;
    Ok((after.0 - before.0, after.1 - before.1, after.2 - before.2))
}

/// Least, median and most.
fn spread(samples: &[&Sample], of: fn(&Sample) -> f64) -> [f64; 3] {
    let mut all: Vec<f64> = samples.iter().map(|s| of(s)).collect();
    all.sort_by(f64::total_cmp);
    [all[0], all[all.len() / 2], all[all.len() - 1]]
}

fn print(connections: u32, rounds: u32, requests: u32, shapes: &[&Shape], samples: &[Sample]) {
    let of_shape = |name: &str| -> Vec<&Sample> {
        samples.iter().filter(|s| s.connections == connections && s.shape == name).collect()
    };
    let quantities: [(&str, fn(&Sample) -> f64); 4] = [
        ("loop's CPU us", |s| s.loop_cpu_us),
        ("wall us", |s| s.wall_us),
        ("client's CPU us", |s| s.client_cpu_us),
        ("turns", |s| s.turns),
    ];
    let plural = if connections == 1 { "" } else { "s" };
    eprintln!("{connections} connection{plural}, per request, {rounds} rounds of {requests}; x: median to that of '{REFERENCE}'");
    eprintln!("{:<18}{:<10}{:>9}{:>9}{:>9}{:>7}", "", "", "least", "median", "most", "x");
    for (what, of) in quantities {
        let reference = spread(&of_shape(REFERENCE), of)[1];
        for shape in shapes {
            let [least, median, most] = spread(&of_shape(shape.name), of);
            eprintln!("{what:<18}{:<10}{least:>9.2}{median:>9.2}{most:>9.2}{:>7.2}", shape.name, median / reference);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loop_answers_every_request() {
        let refused = uring::refusal();
        for shape in SHAPES {
            for connections in [1, 7] {
                if shape.name == "io_uring" && refused.is_some() {
                    let e = measure(&shape, connections, 1000).unwrap_err();
                    assert!(e.to_string().contains("io_uring"), "{e}");
                    continue;
                }
                let s = measure(&shape, connections, 1000).unwrap();
                // A connection has one request at a time: no turn serves more of them.
                assert!(s.turns * f64::from(connections) >= 1.0, "{}: {s:?}", shape.name);
                assert!(s.loop_cpu_us > 0.0 && s.wall_us > 0.0, "{}: {s:?}", shape.name);
            }
        }
    }
}
