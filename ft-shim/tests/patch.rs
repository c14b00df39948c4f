//! What is said of instructions, functions and call sites, against another decoder and this machine's libraries.

use ft_shim::kernel::cpuid;
use ft_shim::trap::functions::{Function, Memory};
use ft_shim::trap::instructions::{self, Flow, LENGTH_MAX, SYSCALL};
use ft_shim::trap::patch::{self, JUMP_BYTES, Plan, SPAN_BYTES_MAX, STUB_BYTES};
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register};
use object::{Object, ObjectSegment, SegmentFlags};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A library as a loader maps it at [`BASE`].
struct Library {
    path: PathBuf,
    memory: Vec<u8>,
    text: Range<u64>,
}

const BASE: u64 = 0x7e00_0000_0000;

impl Library {
    fn load(path: &Path) -> Option<Self> {
        const PF_X: u32 = 1;
        let file = std::fs::read(path).ok()?;
        let elf = object::File::parse(&*file).ok()?;
        let end = elf.segments().map(|s| s.address() + s.size()).max()?;
        let (mut memory, mut text) = (vec![0; end as usize], 0..0);
        for s in elf.segments() {
            let data = s.data().ok()?;
            memory[s.address() as usize..][..data.len()].copy_from_slice(data);
            if matches!(s.flags(), SegmentFlags::Elf { p_flags } if p_flags & PF_X != 0) {
                text = BASE + s.address()..BASE + s.address() + s.size();
            }
        }
        Some(Self { path: path.into(), memory, text })
    }

    fn read(&self, at: u64, to: &mut [u8]) -> bool {
        let found = at.checked_sub(BASE).and_then(|i| self.memory.get(i as usize..)?.get(..to.len()));
        found.is_some_and(|b| {
            to.copy_from_slice(b);
            true
        })
    }

    fn bytes(&self, range: &Range<u64>) -> &[u8] {
        &self.memory[(range.start - BASE) as usize..(range.end - BASE) as usize]
    }

    fn function_at(&self, at: u64) -> Option<Function> {
        Memory { read: &mut |at, to| self.read(at, to) }.function_at(at)
    }

    /// All instructions, as far as a decoder that begins anew after each bad byte can tell.
    fn instructions(&self) -> Vec<Instruction> {
        let code = self.bytes(&self.text);
        Decoder::with_ip(64, code, self.text.start, DecoderOptions::NONE).into_iter().collect()
    }
}

fn libraries() -> Vec<Library> {
    let dirs = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64"];
    let found: Vec<_> = ["libc.so.6", "libstdc++.so.6", "libcrypto.so.3", "ld-linux-x86-64.so.2"]
        .iter()
        .filter_map(|name| dirs.iter().find_map(|d| Library::load(&Path::new(d).join(name))))
        .collect();
    assert!(found.iter().any(|l| l.path.ends_with("libc.so.6")), "no libc found");
    found
}

fn touches_memory(i: &Instruction) -> bool {
    let operands = (0..i.op_count()).any(|k| !matches!(i.op_kind(k), OpKind::Register) && !is_immediate(i.op_kind(k)));
    operands && !matches!(i.mnemonic(), iced_x86::Mnemonic::Lea | iced_x86::Mnemonic::Nop)
}

fn is_immediate(k: OpKind) -> bool {
    use OpKind::*;
    matches!(k, Immediate8 | Immediate16 | Immediate32 | Immediate64 | Immediate8to16 | Immediate8to32 | Immediate8to64 | Immediate32to64)
}

/// What both decoders say of the same bytes. False: ours refuses them.
fn agree(theirs: &Instruction, code: &[u8]) -> bool {
    let Some(ours) = instructions::decode(code) else { return false };
    assert_eq!(ours.length, theirs.len(), "{theirs:?} {code:x?}");
    let next = theirs.ip() + theirs.len() as u64;
    match theirs.flow_control() {
        FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch | FlowControl::Call | FlowControl::XbeginXabortXend
            if theirs.op_count() > 0 && matches!(theirs.op0_kind(), OpKind::NearBranch64) =>
        {
            assert_eq!(ours.flow, Flow::Direct(theirs.near_branch64().wrapping_sub(next) as i32), "{theirs:?}");
        }
        FlowControl::IndirectBranch => assert_eq!(ours.flow, Flow::Indirect, "{theirs:?}"),
        _ => assert_eq!(ours.flow, Flow::Next, "{theirs:?}"),
    }
    if ours.movable {
        assert!(!touches_memory(theirs) && !theirs.is_ip_rel_memory_operand(), "{theirs:?}");
        assert!(theirs.flow_control() == FlowControl::Next && !theirs.is_stack_instruction(), "{theirs:?}");
        let odd = |r: Register| r.is_segment_register() || r.is_cr() || r.is_dr();
        assert!((0..theirs.op_count()).all(|k| theirs.op_kind(k) != OpKind::Register || !odd(theirs.op_register(k))), "{theirs:?}");
    }
    true
}

#[test]
fn libraries_decode_as_elsewhere() {
    for l in libraries() {
        let all = l.instructions();
        let valid: Vec<_> = all.iter().filter(|i| !i.is_invalid()).collect();
        let known = valid.iter().filter(|i| agree(i, l.bytes(&(i.ip()..i.ip() + i.len() as u64)))).count();
        assert!(known * 1000 >= valid.len() * 999, "{}: {known} of {}", l.path.display(), valid.len());
    }
}

#[test]
fn every_cpuid_of_a_function_is_found_and_nothing_else_is_taken_for_one() {
    let mut replaced = 0;
    for l in libraries() {
        let theirs: BTreeSet<u64> = l.instructions().iter().filter(|i| i.code() == Code::Cpuid).map(Instruction::ip).collect();
        for at in cpuid::candidates(l.bytes(&l.text)).map(|i| l.text.start + i as u64) {
            // Outside of functions are tables, in which a decoder finds anything.
            let Some(f) = l.function_at(at) else { continue };
            let found = cpuid::is_instruction(l.bytes(&f.range), (at - f.range.start) as usize);
            assert_eq!(found, theirs.contains(&at), "{}: {at:#x}", l.path.display());
            replaced += usize::from(found);
        }
    }
    assert!(replaced > 50, "{replaced}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_length_is_wrong(code in proptest::array::uniform16(any::<u8>()), prefix in prop_oneof![
        Just(&[][..]), Just(&[0x66][..]), Just(&[0xf3][..]), Just(&[0x48][..]), Just(&[0x0f][..]), Just(&[0x66, 0x0f][..]),
        Just(&[0x0f, 0x38][..]), Just(&[0x0f, 0x3a][..]), Just(&[0xc5][..]), Just(&[0xc4][..]), Just(&[0x62][..]),
    ]) {
        let bytes: Vec<u8> = prefix.iter().chain(&code).copied().take(LENGTH_MAX).collect();
        let theirs = Decoder::with_ip(64, &bytes, 0x1000, DecoderOptions::NONE).decode();
        // What is no instruction would fault wherever it is; what ours refuses keeps trapping.
        if !theirs.is_invalid() && theirs.code() != Code::INVALID {
            agree(&theirs, &bytes);
        } else if let Some(ours) = instructions::decode(&bytes) {
            prop_assert!(!ours.movable, "{bytes:x?}");
        }
    }
}

/// Sites of a library, by what decoding it from its start on finds.
fn sites(l: &Library, all: &[Instruction]) -> Vec<u64> {
    let is_call = |i: &&Instruction| i.code() == Code::Syscall && l.bytes(&(i.ip()..i.ip() + 2)) == SYSCALL;
    all.iter().filter(is_call).map(Instruction::ip).collect()
}

fn closed(l: &Library, f: &Function, plan: &Plan) -> bool {
    let span = f.range.start + plan.span.start as u64..f.range.start + plan.span.end as u64;
    plan.inner.is_empty() || !patch::may_branch_into(l.bytes(&f.text), f.text.start, &span)
}

#[test]
fn nearly_every_site_has_a_plan_and_every_plan_is_sound() {
    for l in libraries() {
        let all = l.instructions();
        let starts: BTreeSet<u64> = all.iter().map(Instruction::ip).collect();
        let branches: BTreeSet<u64> = all.iter().map(Instruction::near_branch_target).collect();
        let sites = sites(&l, &all);
        let mut planned = 0;
        for &site in &sites {
            let Some(f) = l.function_at(site) else { continue };
            assert!(f.range.contains(&site) && f.text == l.text, "{site:#x}");
            let code = l.bytes(&f.range);
            let plans = patch::plans(code, (site - f.range.start) as usize, &f);
            planned += usize::from(plans.iter().any(|p| closed(&l, &f, p)));
            for p in plans.iter().filter(|p| closed(&l, &f, p)) {
                check_plan(p, (site - f.range.start) as usize);
                for at in p.span.start + 1..p.span.end {
                    let at = f.range.start + at as u64;
                    assert!(!branches.contains(&at), "{}: a branch to {at:#x}, inside of {p:x?}", l.path.display());
                }
                for at in p.inner.iter().chain([&p.span.start, &p.span.end]) {
                    assert!(starts.contains(&(f.range.start + *at as u64)), "{site:#x}: {p:x?}");
                }
            }
        }
        eprintln!("{}: {planned} of {} sites", l.path.display(), sites.len());
        assert!(sites.len() < 20 || planned * 100 >= sites.len() * 85, "{}: {planned} of {} sites", l.path.display(), sites.len());
    }
}

#[test]
fn a_damaged_table_gives_no_wrong_place() {
    let mut l = libraries().pop().expect("a library");
    let all = l.instructions();
    let sites = sites(&l, &all);
    let mut random = 1u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    let whole = l.memory.clone();
    for _ in 0..20_000 {
        let site = sites[next(sites.len())];
        // The headers as often as all the rest.
        let below = if next(2) == 0 { 1024 } else { whole.len() };
        let damaged: Vec<usize> = (0..1 + next(4)).map(|_| next(below)).collect();
        for &at in &damaged {
            l.memory[at] = next(256) as u8;
        }
        if let Some(f) = l.function_at(site) {
            assert!(f.range.contains(&site) && f.text.contains(&site) && f.range.end <= f.text.end, "{f:x?}");
        }
        damaged.iter().for_each(|&at| l.memory[at] = whole[at]);
    }
}

fn check_plan(p: &Plan, site: usize) {
    assert!(p.span.len() >= JUMP_BYTES && p.span.len() <= SPAN_BYTES_MAX, "{p:?}");
    assert!(p.before.is_empty() != p.after.is_empty(), "{p:?}");
    if p.after.is_empty() {
        // The call itself stays, for whoever jumps to it or makes it again.
        assert_eq!((p.span.end, p.before.clone()), (site, p.span.clone()), "{p:?}");
    } else {
        assert_eq!((p.span.start, p.after.start, p.after.end), (site, site + SYSCALL.len(), p.span.end), "{p:?}");
        assert_eq!(p.inner.first(), Some(&p.after.start), "{p:?}");
    }
}

fn function(bytes: usize) -> Function {
    Function { range: 0x1000..0x1000 + bytes as u64, text: 0..0x10_0000, entered_otherwise: false }
}

#[track_caller]
fn plans(code: &[u8]) -> Vec<Plan> {
    let site = code.windows(2).position(|w| w == SYSCALL).expect("a call");
    patch::plans(code, site, &function(code.len()))
}

#[test]
fn a_number_before_the_call_is_displaced() {
    let p = plans(&[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3]);
    assert_eq!(p, [Plan { span: 0..5, before: 0..5, after: 7..7, inner: vec![] }]);
}

#[test]
fn a_comparison_after_it_is() {
    let p = plans(&[0x31, 0xc0, 0x0f, 0x05, 0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0x77, 0, 0xc3]);
    assert_eq!(p, [Plan { span: 2..10, before: 2..2, after: 4..10, inner: vec![4] }]);
}

#[test]
fn what_only_looks_like_a_number_is_not() {
    // mov dword [rsp - 0x48], 0x10; syscall; ret: its last bytes would be `mov eax, 0x10`.
    assert_eq!(plans(&[0xc7, 0x44, 0x24, 0xb8, 0x10, 0, 0, 0, 0x0f, 0x05, 0xc3]), []);
}

#[test]
fn a_branch_to_between_forbids_it() {
    let compared = |first: &[u8]| [first, &[0x0f, 0x05, 0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0xc3]].concat();
    assert_eq!(plans(&compared(&[0x74, 0])).len(), 1, "to the call itself");
    assert_eq!(plans(&compared(&[0x74, 2])), [], "to behind it");
    assert_eq!(plans(&compared(&[0x74, 8])).len(), 1, "to after the comparison");
    assert_eq!(plans(&compared(&[0xff, 0xe0])), [], "jmp rax goes anywhere");
    assert_eq!(plans(&compared(&[0x06])), [], "not decoded");
    let landing = Function { entered_otherwise: true, ..function(9) };
    assert_eq!(patch::plans(&compared(&[]), 0, &landing), []);
}

#[test]
fn a_branch_from_elsewhere_is_seen() {
    let span = 0x2000..0x2008;
    for (target, seen) in [(0x2000, false), (0x2001, true), (0x2007, true), (0x2008, false)] {
        for at in [0x1000u64, 0x3001] {
            let by = (target - (at as i64 + 5)) as i32;
            let mut code = vec![0x90; 16];
            code[3] = 0xe9;
            code[4..8].copy_from_slice(&by.to_le_bytes());
            assert_eq!(patch::may_branch_into(&code, at - 3, &span), seen, "{target:#x} from {at:#x}");
        }
        let by = (target - 0x1fd2) as i8;
        assert_eq!(patch::may_branch_shortly_into(&[0x90, 0x74, by as u8], 0x1fcf, &span), seen, "{target:#x}");
    }
}

#[test]
fn a_stub_does_what_it_displaced() {
    let (at, next, back) = (0x7000_0100, 0x6fff_f002, 0x6fff_f008);
    let after = [0x48, 0x3d, 1, 0xf0, 0xff, 0xff];
    let s = patch::stub(&[], &after, at, next, back, 0x7000_0000).expect("in reach");
    assert!(s.code.len() <= STUB_BYTES);
    let text: Vec<String> = Decoder::with_ip(64, &s.code, at, DecoderOptions::NONE)
        .into_iter()
        .map(|i| format!("{:?} {:x}", i.code(), if i.is_ip_rel_memory_operand() { i.ip_rel_memory_address() } else { i.near_branch_target() }))
        .collect();
    let tail = at + s.after as u64;
    let want = ["Mov_r64_imm64 0".into(), format!("Lea_r64_m {tail:x}"), "Jmp_rm64 70000000".into(), "Cmp_RAX_imm32 0".into(), format!("Jmp_rel32_64 {back:x}")];
    assert_eq!(text, want);

    let before = [0xb8, 39, 0, 0, 0];
    let s = patch::stub(&before, &[], at, next, next, 0x7000_0000).expect("in reach");
    assert_eq!(s.code[..5], before);
    assert!(patch::stub(&before, &[], at, next, next, at + (1 << 32)).is_none(), "out of reach");
    assert_eq!(patch::jump(0x1000, 0x1005 + (1 << 31)), None);
    assert_eq!(patch::jump(0x1000, 0x1000), Some([0xe9, 0xfb, 0xff, 0xff, 0xff]));
}
