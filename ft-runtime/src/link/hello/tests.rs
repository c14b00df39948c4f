use super::*;
use crate::link::frame::BODY_BYTES_MAX;

fn subject_here(program: &str, state_dirs: &[PathBuf]) -> Hello {
    let env = [("PATH".into(), "/bin".into())];
    let s = Subject {
        host: HostId(7),
        program: Path::new(program),
        argv: &["server".into(), "--port=1".into()],
        env: &env,
        cwd: Path::new("/"),
        umask: 0o22,
        state_dirs,
        service: Some("10.0.0.1:6379".parse().unwrap()),
        process: None,
        config: b"lag_ms_max = 5",
    };
    let mut h = Hello::here(&s).unwrap();
    h.read_state(&mut |_| ControlFlow::Continue(())).unwrap();
    h
}

fn sample() -> Hello {
    let mut h = subject_here("/bin/sh", &[]);
    h.state_dirs = vec![StateDir {
        path: OsStr::new("/var/lib/redis").into(),
        sha256: "aa".into(),
        entries: 2,
        bytes: 10,
        parts: vec![Part { name: OsStr::new("dump.rdb").into(), sha256: "bb".into() }],
    }];
    h
}

#[test]
fn a_host_can_pair_with_its_like() {
    let h = sample();
    assert_eq!(differences(&h, &h), []);
    let mut names = h.libraries.iter().map(|d| lossy(&d.path));
    assert!(names.any(|n| n.ends_with("/libc.so.6")), "{:?}", h.libraries);
    assert!(h.libraries.iter().any(|d| lossy(&d.path).ends_with("/ld-linux-x86-64.so.2")));
    assert!(h.libraries.iter().all(|d| d.sha256.len() == 64));
}

#[test]
fn each_item_is_named() {
    type Change = (&'static str, fn(&mut Hello));
    let changes: [Change; 30] = [
        ("version of ft", |h| h.ft_version = "9.9".into()),
        ("version of the link's protocol", |h| h.protocol += 1),
        ("build of ft's shim", |h| h.shim_sha256 = "00".into()),
        ("program", |h| h.program.sha256 = "00".into()),
        ("program", |h| h.program.path = OsStr::new("/opt/server").into()),
        ("library libc.so.6", |h| {
            let libc = h.libraries.iter_mut().find(|d| lossy(&d.path).ends_with("/libc.so.6")).unwrap();
            libc.sha256 = "00".into();
        }),
        ("library libextra.so", |h| {
            h.libraries.push(FileDigest { path: OsStr::new("/lib/libextra.so").into(), sha256: "00".into() });
        }),
        ("order of libraries", |h| h.libraries.reverse()),
        ("arguments", |h| h.argv.push(OsStr::new("-v").into())),
        ("environment variable PATH", |h| h.env[0].sha256 = "00".into()),
        ("environment variable LANG", |h| {
            h.env.push(Variable { name: OsStr::new("LANG").into(), sha256: "00".into() })
        }),
        ("order of environment variables", |h| h.env.push(h.env[0].clone())),
        ("working directory", |h| h.cwd = OsStr::new("/tmp").into()),
        ("umask", |h| h.umask = 0o77),
        ("user and groups", |h| h.user.uid += 1),
        ("user and groups", |h| h.user.groups.push(77)),
        ("kernel release", |h| h.kernel_release.push_str("-other")),
        ("hardware capabilities told by the kernel", |h| h.start_vector.hwcap2 ^= 2),
        ("processor model", |h| h.cpu.stepping += 1),
        ("processor name", |h| h.cpu.brand.push('X')),
        ("processor features", |h| h.cpu.leaves.entry("0x7.0".into()).or_default()[1] ^= 1 << 16),
        ("processor features", |h| h.cpu.leaves.entry("0x7.1".into()).or_default()[0] ^= 1 << 4),
        ("processor description (cpuid leaf 0x80000008.0)", |h| {
            h.cpu.leaves.entry("0x80000008.0".into()).or_default()[2] ^= 1;
        }),
        ("size of the processor's extended state", |h| h.cpu.xsave_bytes += 64),
        ("list of state directories", |h| h.state_dirs.clear()),
        ("content of state directory /var/lib/redis", |h| {
            h.state_dirs[0].sha256 = "cc".into();
            h.state_dirs[0].parts[0].sha256 = "dd".into();
        }),
        ("limit of processes", |h| h.limits.get_mut("processes").unwrap().0 ^= 1),
        ("limit of cpu time", |h| assert!(h.limits.remove("cpu time").is_some())),
        ("service address", |h| h.service = None),
        ("shared configuration", |h| h.config_sha256 = "00".into()),
    ];
    let ours = sample();
    for (name, change) in changes {
        let mut theirs = ours.clone();
        change(&mut theirs);
        let found = differences(&ours, &theirs);
        assert_eq!(found.len(), 1, "{name}: {found:#?}");
        let d = &found[0];
        assert_eq!(d.item.to_string(), name);
        assert!(d.ours != d.theirs || matches!(d.item, Item::VariableOrder), "{d}");
        assert!(!d.ours.is_empty() && !d.theirs.is_empty() && !d.advice.is_empty(), "{d}");
    }
}

#[test]
fn hosts_differ_in_who_they_are_and_each_must_be_the_configured_one() {
    let ours = sample();
    let theirs = Hello { host: HostId(0xbeef), ..ours.clone() };
    assert_eq!(differences(&ours, &theirs), []);
    assert_eq!(host_difference(HostId(0xbeef), theirs.host), None);
    let told = host_difference(HostId(0xfee), theirs.host).unwrap().to_string();
    assert!(told.starts_with("host at the other end: id fee") && told.contains("id beef"), "{told}");
}

#[test]
fn differences_are_told_in_words() {
    let ours = sample();
    let mut theirs = ours.clone();
    theirs.cpu.leaves.entry("0x7.0".into()).or_default()[1] ^= 1 << 17;
    theirs.state_dirs[0].sha256 = "cc".into();
    theirs.state_dirs[0].parts[0].sha256 = "dd".into();
    let told: Vec<String> = differences(&ours, &theirs).iter().map(ToString::to_string).collect();
    assert!(told[0].contains("avx512dq"), "{told:?}");
    assert!(told[1].contains("at dump.rdb"), "{told:?}");
}

#[test]
fn many_differences_and_long_or_evil_values_stay_readable() {
    let ours = sample();
    let mut theirs = ours.clone();
    theirs.argv = vec![OsStr::new(&"\x1b[31m".repeat(100_000)).into()];
    theirs.env = (0..1000).map(|n| Variable { name: OsText(format!("V{n}").into()), sha256: String::new() }).collect();
    let found = differences(&ours, &theirs);
    assert_eq!(found.len(), DIFFERENCES_MAX);
    for d in found {
        let text = d.to_string();
        assert!(text.len() < 2000 && !text.contains('\x1b'), "{text}");
    }
}

#[test]
fn a_hello_travels_in_frames() {
    let mut h = sample();
    h.argv = vec![OsStr::from_bytes(b"not utf-8 \xff").into(), OsText("x".repeat(200_000).into())];
    let frames = h.to_frames();
    assert!(frames.len() > 3 && frames.iter().all(|f| f.len() <= BODY_BYTES_MAX));
    let mut reader = HelloReader::default();
    let (last, others) = frames.split_last().unwrap();
    for f in others {
        assert!(reader.push(f).unwrap().is_none());
    }
    assert_eq!(reader.push(last).unwrap().unwrap(), h);
}

#[test]
fn a_foreign_hello_is_refused() {
    let foreign = |bodies: &[&[u8]]| {
        let mut reader = HelloReader::default();
        bodies.iter().map(|b| reader.push(b)).find_map(Result::err)
    };
    assert!(matches!(foreign(&[b""]), Some(HelloError::Foreign(_))));
    assert!(matches!(foreign(&[b"\x07{}"]), Some(HelloError::Foreign(_))));
    assert!(matches!(foreign(&[b"\x01{}"]), Some(HelloError::Foreign(_))));
    let big = vec![0; BODY_BYTES_MAX];
    let endless = vec![&big[..]; HELLO_BYTES_MAX / BODY_BYTES_MAX + 1];
    assert!(matches!(foreign(&endless), Some(HelloError::Foreign(_))));
}

#[test]
fn scripts_and_static_programs() {
    let dir = std::env::temp_dir().join(format!("ft-hello-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let script = dir.join("server");
    std::fs::write(&script, "#! /bin/sh -e\nexit 0\n").unwrap();
    let h = subject_here(script.to_str().unwrap(), std::slice::from_ref(&dir));
    assert_eq!(h.libraries[0].path.0, "/bin/sh");
    assert!(h.libraries.iter().any(|d| lossy(&d.path).ends_with("/libc.so.6")));
    assert_eq!((h.state_dirs[0].entries, h.state_dirs[0].parts.len()), (1, 1));
    std::fs::remove_dir_all(&dir).unwrap();
    if Path::new("/sbin/ldconfig").exists() {
        assert_eq!(subject_here("/sbin/ldconfig", &[]).libraries, []);
    }
}

#[test]
fn neither_what_a_running_service_has_written_nor_a_newer_kernel_keeps_a_host_from_joining() {
    let ours = sample();
    let mut theirs = sample();
    theirs.state_dirs[0].sha256 = "cc".into();
    theirs.kernel_release.push_str("-newer");
    assert_eq!(differences(&ours, &theirs).len(), 2);
    theirs.serves = true;
    assert_eq!((differences(&ours, &theirs), differences(&theirs, &ours)), (vec![], vec![]));
    theirs.state_dirs[0].path = OsStr::new("/elsewhere").into();
    assert_eq!(differences(&ours, &theirs)[0].item, Item::StateDirectories);
}

#[test]
fn clocks_that_are_far_apart_are_named() {
    let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    assert_eq!(clock_difference(at(5_000), at(5_900)), None);
    for (ours, theirs) in [(5_000, 7_000), (7_000, 5_000)] {
        let said = clock_difference(at(ours), at(theirs)).unwrap().to_string();
        assert!(said.starts_with("time of day: 1970-01-01T00:00:0") && said.contains("NTP"), "{said}");
    }
}
