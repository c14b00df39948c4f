use ft_runtime::guest::*;
use std::os::fd::AsRawFd;
fn main() {
    let a: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    let shim = ShimImage::embedded().unwrap();
    let mut spec = LaunchSpec { program: a[0].clone().into(), argv: a.clone(), env: std::env::vars_os().collect(), cwd: std::env::current_dir().unwrap(), umask: 0o22,
        role: 1, flags: if std::env::var_os("T").is_some() {1} else {0}, memory_every: 0, seed: 7, at_random: [9; 16], stdout: None, stderr: None, pre_exec: None, adoptee: None };
    let mut g = launch(&mut spec, &shim).unwrap();
    let seg = g.segment;
    let _ = g.doorbell.as_raw_fd();
    let mut rings: Vec<_> = (0..4).map(|d| unsafe { seg.from_guest_consumer(d) }).collect();
    let mut done = None;
    loop {
        for (d, r) in rings.iter_mut().enumerate() {
            while let Some(()) = r.with_next(|b| { 
                match ft_log::entry::FromGuest::decode(b).unwrap() {
                    ft_log::entry::FromGuest::Act(ft_log::entry::Act::Trace{thread,call,args,result,..}) => eprintln!("[{d}] {thread} {call} {args:x?} = {result:x}"),
                    ft_log::entry::FromGuest::Act(ft_log::entry::Act::Refused{text}) => eprintln!("[{d}] REFUSED {}", String::from_utf8_lossy(text)),
                    m if std::env::var_os("T").is_some() => eprintln!("[{d}] {m:?}"), _ => {} }
                (true, ()) }).unwrap() {}
        }
        if let Some(s) = done { eprintln!("status {s:?}"); break }
        if let Some(s) = g.try_wait().unwrap() { done = Some(s); }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
