//! Calls that ask for values: of the host (recorded), of this domain (emulated), or the same everywhere (virtual).

use super::signal::{SI_KERNEL, SigInfo};
use super::{Args, Kernel, Reply, both, done};
use crate::raw::{self, EFAULT, EINVAL, ENOSYS, EPERM, NS};
use crate::user;
use ft_log::shared::GUEST_FDS_MAX;

const INFINITY: u64 = u64::MAX;
const FSIZE: u64 = 1;
const NOFILE: u64 = 7;
const AS: usize = 9;
const SIGXFSZ: u32 = 25;

/// Limits as the guest sees and changes them. The real ones are pinned by the launcher.
pub struct Limits([[u64; 2]; 16]);

impl Default for Limits {
    fn default() -> Self {
        let mut l = [[INFINITY; 2]; 16];
        l[3] = [8 << 20, 8 << 20];                              // STACK
        l[4] = [0, 0];                                          // CORE
        l[6] = [65_536, 65_536];                                // NPROC
        l[7] = [GUEST_FDS_MAX.into(), GUEST_FDS_MAX.into()];    // NOFILE
        l[8] = [8 << 20, 8 << 20];                              // MEMLOCK
        l[11] = [65_536, 65_536];                               // SIGPENDING
        l[12] = [819_200, 819_200];                             // MSGQUEUE
        l[13] = [0, 0];                                         // NICE
        l[14] = [0, 0];                                         // RTPRIO
        Self(l)
    }
}

impl Limits {
    /// Bytes of address space.
    pub fn address_space(&self) -> u64 {
        self.0[AS][0]
    }
}

impl Kernel {
    /// Whether files can't become as large as they like.
    pub fn limits_file_size(&self) -> bool {
        self.process.limits.0[FSIZE as usize][0] != INFINITY
    }

    /// A file call came to EFBIG: the signal that goes with it, if it was the limit.
    pub fn too_large(&mut self) {
        if self.limits_file_size() {
            let t = self.threads.current;
            let info = SigInfo { signo: SIGXFSZ, code: SI_KERNEL, ..SigInfo::default() };
            self.post_to_thread(t, info);
        }
    }

    /// A call whose result only the host knows: `n` bytes at `at`, filled by the kernel when the call succeeds.
    fn recorded_fill(&mut self, a: &Args, at: u64, n: usize) -> Reply {
        let number = self.threads.cur().call.number;
        let index = a.iter().position(|&v| v == at).ok_or(EFAULT)?;
        let (r, bytes) = self.recorded_call(number as u16, |_| {
            let mut b = alloc::vec![0u8; n];
            let mut args = *a;
            args[index] = b.as_mut_ptr() as u64;
            // SAFETY: the call fills at most `n` bytes of `b`.
            let r = unsafe { raw::syscall(number as usize, args) };
            (r, b)
        });
        if r >= 0 {
            user::copy_out(at, &bytes)?;
        }
        done(r)
    }
}

pub fn uname(k: &mut Kernel, a: &Args) -> Reply {
    k.recorded_fill(a, a[0], 390)
}

/// The uptime is the guest's own clock: a host that takes over has another.
pub fn sysinfo(k: &mut Kernel, a: &Args) -> Reply {
    let r = k.recorded_fill(a, a[0], 112)?;
    user::write(a[0], &(k.clock.now() / NS))?;
    Ok(r)
}

/// Processor time is the guest's own too, and all of it user time.
pub fn getrusage(k: &mut Kernel, a: &Args) -> Reply {
    const SELF: i32 = 0;
    const THREAD: i32 = 1;
    let who = a[0] as i32;
    if !matches!(who, -1..=1) {
        return Err(EINVAL);
    }
    if who != -1 {
        k.poll_point(false);
    }
    let r = k.recorded_fill(a, a[1], 144)?;
    let ns = match who {
        SELF => k.clock.busy_ns(),
        THREAD => k.thread_cpu_ns(None)?,
        _ => return Ok(r), // of children, as the host has it
    };
    user::write(a[1], &[ns / NS, ns % NS / 1000, 0, 0])?;
    Ok(r)
}

pub fn times(k: &mut Kernel, a: &Args) -> Reply {
    const TICK_NS: u64 = NS / 100;
    k.poll_point(false);
    let own = k.clock.busy_ns() / TICK_NS;
    if a[0] != 0 {
        k.recorded_fill(a, a[0], 32)?; // of children, as the host has it
        user::write(a[0], &[own, 0])?;
    }
    done((k.clock.now() / TICK_NS) as i64)
}

pub fn statfs(k: &mut Kernel, a: &Args) -> Reply {
    k.recorded_fill(a, a[1], 120)
}

pub fn getrandom(k: &mut Kernel, a: &Args) -> Reply {
    /// As in the kernel.
    const BYTES_MAX: u64 = (32 << 20) - 1;
    const FLAGS: u64 = 7; // NONBLOCK, RANDOM, INSECURE: all the same once the host is up
    const RANDOM_INSECURE: u64 = 6;
    if a[2] & !FLAGS != 0 || a[2] & RANDOM_INSECURE == RANDOM_INSECURE {
        return Err(EINVAL);
    }
    let total = a[1].min(BYTES_MAX);
    let mut n = 0;
    while n < total {
        let bytes = k.random_bytes((total - n) as usize);
        if let Err(e) = user::copy_out(a[0] + n, &bytes) {
            return if n > 0 { done(n as i64) } else { Err(e) };
        }
        n += bytes.len() as u64;
    }
    done(n as i64)
}

pub fn getcpu(_: &mut Kernel, a: &Args) -> Reply {
    for at in [a[0], a[1]] {
        if at != 0 {
            user::write(at, &0u32)?;
        }
    }
    done(0)
}

pub fn sched_getaffinity(k: &mut Kernel, a: &Args) -> Reply {
    thread_exists(k, a[0])?;
    if a[1] < 8 || a[1] % 8 != 0 {
        return Err(EINVAL);
    }
    user::write(a[2], &1u64)?; // one processor: all threads of a domain share one
    done(8)
}

fn thread_exists(k: &Kernel, tid: u64) -> Result<(), i64> {
    let tid = tid as i32;
    if tid == 0 || tid == k.process.pid || k.threads.by_tid(tid).is_some() { Ok(()) } else { Err(raw::ESRCH) }
}

/// Scheduling wishes: accepted, without effect on the one order there is.
pub fn sched_accept(k: &mut Kernel, a: &Args) -> Reply {
    thread_exists(k, a[0])?;
    done(0)
}

pub fn sched_getparam(k: &mut Kernel, a: &Args) -> Reply {
    thread_exists(k, a[0])?;
    user::write(a[1], &0u32)?;
    done(0)
}

pub fn getpriority(_: &mut Kernel, _: &Args) -> Reply {
    done(20) // nice 0
}

pub fn zero(_: &mut Kernel, _: &Args) -> Reply {
    done(0)
}

pub fn membarrier(_: &mut Kernel, a: &Args) -> Reply {
    // One kernel thread: every barrier holds already. 0 asks which commands there are.
    const SUPPORTED: i64 = 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6;
    if a[0] == 0 { done(SUPPORTED) } else { done(0) }
}

pub fn getrlimit(k: &mut Kernel, a: &Args) -> Reply {
    let l = *k.process.limits.0.get(a[0] as usize).ok_or(EINVAL)?;
    user::write(a[1], &l)?;
    done(0)
}

pub fn setrlimit(k: &mut Kernel, a: &Args) -> Reply {
    let new = user::read::<[u64; 2]>(a[1])?;
    set_limit(k, a[0], new)
}

pub fn prlimit64(k: &mut Kernel, a: &Args) -> Reply {
    if a[0] != 0 && a[0] as i32 != k.process.pid {
        return Err(raw::ESRCH);
    }
    let old = *k.process.limits.0.get(a[1] as usize).ok_or(EINVAL)?;
    if a[2] != 0 {
        let new = user::read::<[u64; 2]>(a[2])?;
        set_limit(k, a[1], new)?;
    }
    if a[3] != 0 {
        user::write(a[3], &old)?;
    }
    done(0)
}

fn set_limit(k: &mut Kernel, which: u64, new: [u64; 2]) -> Reply {
    let old = k.process.limits.0.get_mut(which as usize).ok_or(EINVAL)?;
    if new[0] > new[1] {
        return Err(EINVAL);
    }
    if which == NOFILE && new[1] > u64::from(GUEST_FDS_MAX) {
        return Err(EPERM);
    }
    *old = new;
    if which == FSIZE {
        const SETRLIMIT: u32 = 160;
        // The kernel cuts writes and says EFBIG; its signal, which would come whenever it likes, is off: `too_large`
        // sends ours.
        let (ignore, real) = ([1u64, 0, 0, 0], [new[0], INFINITY]);
        // SAFETY: both read the words that they are given. The guest's own action is the shim's table's.
        unsafe {
            raw!(raw::nr::RT_SIGACTION, SIGXFSZ, ignore.as_ptr() as u64, 0, 8);
            raw!(SETRLIMIT, FSIZE, real.as_ptr() as u64);
        }
    }
    if which == NOFILE {
        const SETRLIMIT: u32 = 160;
        let real = [new[0], u64::from(GUEST_FDS_MAX)];
        // SAFETY: reads two words. Lowering the real limit makes EMFILE come where it should.
        unsafe { raw!(SETRLIMIT, NOFILE, real.as_ptr() as u64) };
    }
    done(0)
}

pub fn prctl(k: &mut Kernel, a: &Args) -> Reply {
    const SET_PDEATHSIG: u64 = 1;
    const GET_PDEATHSIG: u64 = 2;
    const GET_DUMPABLE: u64 = 3;
    const SET_DUMPABLE: u64 = 4;
    const SET_NAME: u64 = 15;
    const GET_NAME: u64 = 16;
    match a[0] {
        SET_NAME => {
            let s = user::string(a[1])?;
            k.threads.cur().set_name(&s);
            let name = k.threads.cur().name;
            if k.threads.current == 0 {
                // SAFETY: reads a string of at most 16 bytes: for ps.
                unsafe { raw!(raw::nr::PRCTL, SET_NAME, name.as_ptr() as u64) };
            }
            done(0)
        }
        GET_NAME => {
            let name = k.threads.cur().name;
            user::copy_out(a[1], &name)?;
            done(0)
        }
        SET_DUMPABLE => {
            // Kept to ourselves: a process that can't be read can't be looked after.
            k.process.dumpable = a[1] != 0;
            done(0)
        }
        GET_DUMPABLE => done(k.process.dumpable.into()),
        SET_PDEATHSIG => {
            // Of no effect: the parent is the engine, and its end ends the guest anyway.
            if a[1] > super::signal::SIGNALS as u64 {
                return Err(EINVAL);
            }
            k.process.parent_death_signal = a[1] as u32;
            done(0)
        }
        GET_PDEATHSIG => {
            user::write(a[1], &k.process.parent_death_signal)?;
            done(0)
        }
        // KEEPCAPS, TIMING, SECUREBITS, CAPBSET_READ/DROP, TIMERSLACK, NO_NEW_PRIVS, THP, CAP_AMBIENT
        7 | 8 | 13 | 23 | 24 | 27 | 28 | 29 | 30 | 38 | 39 | 41 | 42 | 47 => both::run(k, raw::nr::PRCTL as u32, a),
        // SET_MM and SET_VMA: how mappings are called or what /proc shows
        35 | 0x5356_4d41 => Err(EINVAL),
        o => {
            k.refuse_number("prctl", o);
            Err(EINVAL)
        }
    }
}

pub fn capget(k: &mut Kernel, a: &Args) -> Reply {
    let mut header = user::read::<[u32; 2]>(a[0])?;
    header[1] = 0; // this process, by whatever id the guest knows it
    let mut data = [0u8; 24];
    // SAFETY: writes a version into `header` and at most 24 bytes of data.
    let r = unsafe { raw!(125, header.as_mut_ptr() as u64, if a[1] == 0 { 0 } else { data.as_mut_ptr() as u64 }) };
    user::write(a[0], &header[0])?;
    if r == 0 && a[1] != 0 {
        user::copy_out(a[1], &data)?;
        k.digest.bytes(&data);
    }
    done(r)
}

pub fn capset(_: &mut Kernel, a: &Args) -> Reply {
    let mut header = user::read::<[u32; 2]>(a[0])?;
    header[1] = 0;
    // SAFETY: reads 24 bytes of the guest's memory.
    done(unsafe { raw!(126, header.as_mut_ptr() as u64, a[1]) })
}

pub fn no_such_call(_: &mut Kernel, _: &Args) -> Reply {
    Err(ENOSYS)
}

pub fn rseq(_: &mut Kernel, _: &Args) -> Reply {
    Err(ENOSYS) // glibc asks for the processor by a call then
}
