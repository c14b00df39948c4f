//! Processes: ids, fork children as domains of their own, waiting, the end.

use super::signal::{SIGCHLD, SigInfo};
use super::threads::{Block, clone_flag};
use super::{Args, Kernel, Outcome, Reply, both, done, values};
use crate::digest::Digest;
use crate::raw::{self, EAGAIN, ECHILD, EINVAL, ENOSYS, ESRCH, nr};
use crate::trap::entry;
use crate::trap::frame::reg;
use crate::user;
use alloc::vec::Vec;
use ft_log::entry::Act;
use ft_log::ids::DomainId;
use ft_log::shared::DOMAINS_MAX;

pub struct Child {
    pub domain: DomainId,
    pub pid: i32,
    pub host_pid: i32,
    /// As in wait4, once it has ended.
    pub status: Option<i32>,
}

pub struct Process {
    pub domain: u16,
    pub pid: i32,
    ppid: i32,
    pub pgid: i32,
    sid: i32,
    pub children: Vec<Child>,
    pub limits: values::Limits,
    pub dumpable: bool,
    pub parent_death_signal: u32,
}

impl Process {
    pub fn new(pid: i32) -> Self {
        Self {
            domain: 0,
            pid,
            ppid: 1,
            pgid: pid,
            sid: pid,
            children: Vec::new(),
            limits: values::Limits::default(),
            dumpable: true,
            parent_death_signal: 0,
        }
    }

    /// Whether one of them still runs.
    pub fn has_children(&self) -> bool {
        self.children.iter().any(|c| c.status.is_none())
    }

    pub fn child_by_pid(&self, pid: i32) -> Option<&Child> {
        self.children.iter().find(|c| c.pid == pid)
    }

    fn free_domain(&self) -> Option<u16> {
        let used = |d: u16| self.children.iter().any(|c| c.domain.0 == d && c.status.is_none());
        (1..DOMAINS_MAX as u16).find(|&d| !used(d))
    }
}

/// The real user id, as the kernel has it.
pub fn uid() -> u32 {
    const GETUID: u32 = 102;
    // SAFETY: reads an id.
    unsafe { raw!(GETUID) as u32 }
}

pub fn getpid(k: &mut Kernel, _: &Args) -> Reply {
    done(k.process.pid.into())
}

pub fn getppid(k: &mut Kernel, _: &Args) -> Reply {
    done(k.process.ppid.into())
}

pub fn getpgrp(k: &mut Kernel, _: &Args) -> Reply {
    done(k.process.pgid.into())
}

pub fn getpgid(k: &mut Kernel, a: &Args) -> Reply {
    own_pid(k, a[0])?;
    done(k.process.pgid.into())
}

pub fn getsid(k: &mut Kernel, a: &Args) -> Reply {
    own_pid(k, a[0])?;
    done(k.process.sid.into())
}

fn own_pid(k: &Kernel, pid: u64) -> Result<(), i64> {
    if pid == 0 || pid as i32 == k.process.pid { Ok(()) } else { Err(ESRCH) }
}

pub fn setpgid(k: &mut Kernel, a: &Args) -> Reply {
    own_pid(k, a[0])?;
    k.process.pgid = if a[1] == 0 { k.process.pid } else { a[1] as i32 };
    done(0)
}

pub fn setsid(k: &mut Kernel, _: &Args) -> Reply {
    if k.process.pgid == k.process.pid {
        return Err(raw::EPERM);
    }
    (k.process.sid, k.process.pgid) = (k.process.pid, k.process.pid);
    done(k.process.sid.into())
}

pub fn fork_call(k: &mut Kernel, _: &Args) -> Reply {
    fork(k, u64::from(SIGCHLD), 0, 0, 0, 0)
}

pub fn vfork(k: &mut Kernel, _: &Args) -> Reply {
    k.refuse("vfork", "starting other programs from the guest is not yet supported");
    Err(ENOSYS)
}

pub fn fork(k: &mut Kernel, flags: u64, stack: u64, parent_tid: u64, child_tid: u64, tls: u64) -> Reply {
    const KNOWN: u64 = 0xff
        | clone_flag::PARENT_SETTID
        | clone_flag::CHILD_SETTID
        | clone_flag::CHILD_CLEARTID
        | clone_flag::SETTLS;
    if flags & clone_flag::VM != 0 {
        k.refuse("clone with shared memory (vfork, posix_spawn)", "starting other programs from the guest is not yet supported");
        return Err(ENOSYS);
    }
    if flags & !KNOWN != 0 {
        k.refuse_number("clone flags", flags & !KNOWN);
        return Err(EINVAL);
    }
    if k.memory.shared_writable() {
        k.refuse("fork with shared writable memory", "processes that share memory are not yet supported");
        return Err(EAGAIN);
    }
    if k.process.domain != 0 {
        k.refuse("fork in a fork child", "only the service's first process may fork");
        return Err(EAGAIN);
    }
    let Some(domain) = k.process.free_domain() else { return Err(EAGAIN) };
    let pid = k.new_id();
    if flags & clone_flag::PARENT_SETTID != 0 {
        user::write(parent_tid, &pid)?;
    }
    // SAFETY: a plain fork; the child goes on below on its own copy of everything but the shared segment, of
    // which it uses only its own domain's slot.
    let host = unsafe { raw!(nr::CLONE, SIGCHLD, 0, 0, 0, 0) };
    if host < 0 {
        return Err(-host);
    }
    if host > 0 {
        k.share_pipes_with(domain);
        k.process.children.push(Child { domain: DomainId(domain), pid, host_pid: host as i32, status: None });
        k.act(&Act::Fork { child: DomainId(domain), host_pid: host as u32, guest_pid: pid as u32 });
        return done(pid.into());
    }
    k.become_child(domain, pid);
    let t = k.threads.current;
    if flags & clone_flag::CHILD_SETTID != 0 {
        user::write(child_tid, &pid)?;
    }
    if flags & clone_flag::CHILD_CLEARTID != 0 {
        k.threads.cur().clear_tid = child_tid;
    }
    if flags & clone_flag::SETTLS != 0 {
        crate::trap::frame::set_fs_base(tls);
    }
    if stack != 0 {
        k.regs_mut(t)[reg::RSP] = stack;
    }
    done(0)
}

impl Kernel {
    /// The first steps of a fork child.
    fn become_child(&mut self, domain: u16, pid: i32) {
        entry::dispatch();
        const PR_SET_PDEATHSIG: u32 = 1;
        // SAFETY: the child must not outlive its parent.
        unsafe { raw!(nr::PRCTL, PR_SET_PDEATHSIG, 9) };
        self.inputs = self.inputs.of_child(domain);
        self.digest = Digest::new(self.digest.value ^ u64::from(domain));
        self.process.ppid = self.process.pid;
        self.process.domain = domain;
        self.process.pid = pid;
        self.process.children.clear();
        self.threads.keep_only_current(pid);
        self.timers.clear();
        self.signals.clear_pending();
        self.disown_sockets();
        self.forget_remote_pipes();
        self.share_pipes_with(0);
        self.poll_point(true);
    }

    /// A fork child ended; an input.
    pub fn child_exited(&mut self, domain: DomainId, status: i32) {
        let Some(i) = self.process.children.iter().position(|c| c.domain == domain && c.status.is_none()) else {
            panic!("exit of a child that isn't there");
        };
        let c = &mut self.process.children[i];
        c.status = Some(status);
        let (pid, host) = (c.pid, c.host_pid);
        // Not before it is really gone, on this host too: what it wrote is then complete.
        loop {
            // SAFETY: reaps our own child.
            let r = unsafe { raw!(nr::WAIT4, host, 0, 0, 0) };
            if r != -raw::EINTR {
                break;
            }
        }
        self.unshare_pipes_with(domain.0);
        self.changed = true;
        const CLD_EXITED: i32 = 1;
        const CLD_KILLED: i32 = 2;
        let (code, value) = if status & 0x7f == 0 { (CLD_EXITED, status >> 8) } else { (CLD_KILLED, status & 0x7f) };
        let value = value as u32 as u64;
        if self.signals.reaps_children() {
            self.process.children.remove(i);
        }
        self.post_to_process(SigInfo { signo: SIGCHLD, code, first: [pid as u32, uid()], value });
    }

    /// The domain's end: the last entry of its log, then the process is gone. `status` as in wait4.
    pub fn terminate(&mut self, status: i32) -> ! {
        self.end_of_log(status);
        if status & 0x7f != 0 {
            self.show_registers();
            entry::die_by(status as u32 & 0x7f);
        }
        raw::exit_process(status >> 8)
    }
}

pub fn exit_group(k: &mut Kernel, a: &Args) -> Reply {
    k.terminate((a[0] as i32 & 0xff) << 8)
}

/// A child that matches, ended or not.
fn find(k: &Kernel, pid: i32) -> Result<Option<usize>, i64> {
    let matches = |c: &Child| pid == -1 || pid == 0 || c.pid == pid || pid == -k.process.pgid;
    if !k.process.children.iter().any(matches) {
        return Err(ECHILD);
    }
    Ok(k.process.children.iter().position(|c| matches(c) && c.status.is_some()))
}

pub fn wait4(k: &mut Kernel, a: &Args) -> Reply {
    const WNOHANG: u64 = 1;
    if a[2] & WNOHANG != 0 && !k.threads.cur().call.again {
        k.poll_point(false);
    }
    match find(k, a[0] as i32)? {
        Some(i) => {
            let c = &k.process.children[i];
            let (pid, status) = (c.pid, c.status.unwrap_or(0));
            if a[1] != 0 {
                user::write(a[1], &status)?;
            }
            if a[3] != 0 {
                user::copy_out(a[3], &[0; 144])?; // the child's times are not measured
            }
            k.process.children.remove(i);
            done(pid.into())
        }
        None if a[2] & WNOHANG != 0 => done(0),
        None => Ok(Outcome::Block(Block::Object)),
    }
}

pub fn waitid(k: &mut Kernel, a: &Args) -> Reply {
    const P_ALL: u64 = 0;
    const P_PID: u64 = 1;
    const WNOHANG: u64 = 1;
    const WEXITED: u64 = 4;
    const WNOWAIT: u64 = 0x0100_0000;
    let pid = match a[0] {
        P_ALL => -1,
        P_PID => a[1] as i32,
        _ => return Err(EINVAL),
    };
    if a[3] & WEXITED == 0 {
        return Err(EINVAL);
    }
    if a[3] & WNOHANG != 0 && !k.threads.cur().call.again {
        k.poll_point(false);
    }
    match find(k, pid)? {
        Some(i) => {
            let c = &k.process.children[i];
            let status = c.status.unwrap_or(0);
            let (code, value) = if status & 0x7f == 0 { (1, status >> 8) } else { (2, status & 0x7f) };
            let info = SigInfo { signo: SIGCHLD, code, first: [c.pid as u32, uid()], value: value as u32 as u64 };
            if a[2] != 0 {
                user::copy_out(a[2], &info.bytes())?;
            }
            if a[3] & WNOWAIT == 0 {
                k.process.children.remove(i);
            }
            done(0)
        }
        None if a[3] & WNOHANG != 0 => {
            if a[2] != 0 {
                user::copy_out(a[2], &[0; 128])?;
            }
            done(0)
        }
        None => Ok(Outcome::Block(Block::Object)),
    }
}

pub fn execve(k: &mut Kernel, _: &Args) -> Reply {
    k.refuse("execve", "starting other programs from the guest is not yet supported");
    Err(ENOSYS)
}

/// Ids and credentials: each host's own, equal by construction.
pub fn ids(k: &mut Kernel, a: &Args) -> Reply {
    both::plain(k, a)
}
