//! What `ft` refuses says what, why and what to do. The table in docs/OPERATIONS.md names these tests. Needs root.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const FT: &str = env!("CARGO_BIN_EXE_ft");
const FT_FAILED: Option<i32> = Some(125);

fn said(o: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr))
}

fn solo(command: &[&str]) -> Output {
    Command::new(FT).args(["run", "--solo", "--"]).args(command).stdin(Stdio::null()).output().unwrap()
}

fn refused(o: &Output, parts: &[&str]) {
    let text = said(o);
    assert_eq!(o.status.code(), FT_FAILED, "{text}");
    assert!(text.starts_with("ft: ") && parts.iter().all(|p| text.contains(p)), "{text}");
}

#[test]
fn a_call_or_flag_that_cannot_be_done_in_lockstep_is_named_and_the_program_goes_on() {
    // io_uring_setup, a number that is none, mmap with MAP_HUGETLB, clone with CLONE_NEWUSER, a netlink socket.
    let calls = "exec 'true'; syscall(425,8,0); syscall(999); syscall(9,0,4096,3,0x40022,-1,0); syscall(56,0x10000000,0,0,0,0); \
                 syscall(41,16,3,0); exit 3";
    let o = solo(&["perl", "-e", calls]);
    let text = said(&o);
    assert_eq!(o.status.code(), Some(3), "{text}");
    for named in
        ["execve", "io_uring_setup", "system call 0x3e7", "mmap with MAP_HUGETLB", "clone flags 0x10000000", "socket family 0x10"]
    {
        assert_eq!(text.matches(&format!("refused: {named}: ")).count(), 1, "{named}: {text}");
    }
}

#[test]
fn a_port_in_use_is_the_servers_to_tell() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let script = "use Socket; socket(S,2,1,0); bind(S,sockaddr_in($ARGV[0],inet_aton('127.0.0.1'))) and listen(S,5) or die \"$!\\n\"";
    let o = solo(&["perl", "-e", script, &port]);
    assert_eq!((o.status.code(), said(&o).as_str()), (Some(98), "Address already in use\n"));
}

/// `program` on a host whose kernel answers one call with an error, whatever it can do really.
fn without(call: libc::c_long, first_argument: u32, errno: i32, program: &str) -> Output {
    let mut c = Command::new(FT);
    c.args(["run", "--solo", "--", program]).stdin(Stdio::null());
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    const NUMBER_AT: u32 = 0;
    const ARGUMENT_AT: u32 = 16;
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let ret = libc::BPF_RET | libc::BPF_K;
    let mut filter = [
        op(load, 0, 0, NUMBER_AT),
        op(equal, 0, 3, call as u32),
        op(load, 0, 0, ARGUMENT_AT),
        op(equal, 0, 1, first_argument),
        op(ret, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        op(ret, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: a plain system call with a program that it only reads.
    unsafe {
        c.pre_exec(move || {
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
            let r = libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program);
            if r == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
    c.output().unwrap()
}

#[test]
fn a_kernel_or_processor_that_lacks_a_feature_is_refused_by_its_name() {
    let o = without(libc::SYS_prctl, 59, libc::EINVAL, "true");
    refused(&o, &["this host cannot run guests", "Syscall User Dispatch", "CONFIG_GENERIC_ENTRY"]);
}

/// Prints what must not be seen: RDRAND, a hypervisor, the processor's number.
const CPUID_READER: &str = "#include <cpuid.h>\n#include <stdio.h>\nint main(void) { unsigned a, b, c, d; __cpuid(1, a, b, c, d); \
     printf(\"%d %d %d\\n\", c >> 30 & 1, c >> 31, b >> 24); return 0; }\n";

#[test]
fn cpuid_is_masked_also_where_the_processor_cannot_trap_it() {
    const ARCH_SET_CPUID: u32 = 0x1012;
    let dir = tempfile::tempdir().unwrap();
    let (source, program) = (dir.path().join("reader.c"), dir.path().join("reader"));
    std::fs::write(&source, CPUID_READER).unwrap();
    for how in ["-pie", "-no-pie", "-static", "-static-pie"] {
        let built = Command::new("gcc").args(["-O1", how, "-o"]).args([&program, &source]).status().unwrap();
        assert!(built.success());
        let o = without(libc::SYS_arch_prctl, ARCH_SET_CPUID, libc::ENODEV, program.to_str().unwrap());
        assert_eq!((o.status.code(), said(&o).as_str()), (Some(0), "0 0 0\n"), "{how}");
    }
}

struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap() };
        let o = Command::new(FT).arg("keygen").arg(host.path("key")).output().unwrap();
        let key = String::from_utf8(o.stdout).unwrap();
        let text = format!(
            "[service]\nname = \"s\"\ncommand = [\"sleep\", \"1000\"]\naddresses = [\"192.0.2.1/24\"]\ninterface = \"lo\"\n\
             [host]\nname = \"a\"\nstart = \"backup\"\n[peer]\nname = \"b\"\nkey = \"{}\"\naddress = \"127.0.0.1:1\"\n\
             [link]\nlisten = \"127.0.0.1:2\"\nkey_file = {:?}\n[arbiter]\nkind = \"none\"\n[control]\nsocket = {:?}\n",
            key.trim(),
            host.path("key"),
            host.path("s.sock"),
        );
        std::fs::write(host.path("s.toml"), text).unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// By `ft run`, as `wrapper` starts it.
    fn run(&self, wrapper: &[&str]) -> Output {
        let mut c = Command::new(wrapper[0]);
        c.args(&wrapper[1..]).args([FT, "run", "--config"]).arg(self.path("s.toml"));
        c.stdin(Stdio::null()).output().unwrap()
    }
}

#[test]
fn a_host_without_the_rights_for_a_gate_is_refused_before_it_waits_for_anybody() {
    let h = Host::new();
    let o = h.run(&["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]);
    refused(&o, &["CAP_NET_ADMIN is missing", "Run `ft` as root"]);
    let o = h.run(&["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]);
    refused(&o, &["CAP_SYS_ADMIN is missing", "AmbientCapabilities="]);
    let o = h.run(&["unshare", "--user", "--map-root-user"]);
    refused(&o, &["user namespace", "no lease program", "run it as root of the host"]);
}

#[test]
fn a_configuration_that_cannot_be_read_is_named_with_line_and_suggestion() {
    let h = Host::new();
    let text = std::fs::read_to_string(h.path("s.toml")).unwrap();
    std::fs::write(h.path("s.toml"), text.replace("interface = ", "interfaces = ")).unwrap();
    refused(&h.run(&["env"]), &["s.toml", "line 5", "unknown field `interfaces`", "did you mean `interface`?"]);
    std::fs::remove_file(h.path("s.toml")).unwrap();
    refused(&h.run(&["env"]), &["s.toml", "check that the file exists"]);
}
