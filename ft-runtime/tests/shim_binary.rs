//! Looks at the shim as it goes into guests, and at nothing else: the file embedded in `ft`.
//!
//! The guest's registers, its libc and its address space are not the shim's to touch. What would touch them shows in
//! the binary: an imported symbol (libc's memcpy uses AVX), a relocation that needs a linker, an instruction above
//! SSE2. Every finding names its culprit: the symbol, the section, or the function and address.

use ft_runtime::guest::EMBEDDED_SHIM;
use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, Instruction};
use object::elf::{DT_NEEDED, DT_TEXTREL, PF_W, PF_X, PT_DYNAMIC, PT_GNU_STACK, PT_INTERP, PT_LOAD, PT_TLS};
use object::elf::{R_X86_64_RELATIVE, SHT_RELR};
use object::read::elf::{Dyn, ElfFile64, ProgramHeader, SectionHeader};
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, RelocationFlags, SectionKind, SymbolKind};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const LE: LittleEndian = LittleEndian;

/// The one name a guest may see.
const EXPORT: &str = "ft_entry";

/// Everything that x86-64 without extensions has and that leaves no trace in wider registers.
const BASELINE: [CpuidFeature; 17] = {
    use CpuidFeature::*;
    [
        INTEL8086,
        INTEL186,
        INTEL286,
        INTEL386,
        INTEL486,
        X64,
        CMOV,
        CX8,
        CPUID,
        MULTIBYTENOP,
        PAUSE,
        SSE,
        SSE2,
        FXSR,
        SYSCALL,
        CET_IBT,
        CLFSH,
    ]
};

/// Instructions above the baseline, and the functions (by a part of their name) that may hold them.
const EXCEPTIONS: [(Matcher, &[&str]); 4] = [
    (|c| matches!(c, Code::Cpuid | Code::Xgetbv), &["cpuid"]),
    (|c| feature_is(c, CpuidFeature::FSGSBASE), &[ANY]),
    (is_xsave, &["xsave", "xrstor"]),
    (|c| matches!(c, Code::Rdtsc | Code::Rdtscp), &["tsc"]),
];
const ANY: &str = "";

type Matcher = fn(Code) -> bool;

fn feature_is(code: Code, feature: CpuidFeature) -> bool {
    code.cpuid_features() == [feature]
}

fn is_xsave(code: Code) -> bool {
    use CpuidFeature::{XSAVE, XSAVEC, XSAVEOPT};
    code != Code::Xgetbv && code.cpuid_features().iter().any(|f| [XSAVE, XSAVEC, XSAVEOPT].contains(f))
}

/// What is wrong with a shim; empty: nothing.
fn findings(file: &[u8]) -> Vec<String> {
    let elf = ElfFile64::<LittleEndian>::parse(file).expect("the shim is an ELF file");
    let mut found = Vec::new();
    check_symbols(&elf, &mut found);
    check_segments(&elf, file, &mut found);
    check_relocations(&elf, &mut found);
    check_instructions(&elf, &mut found);
    found
}

fn check_symbols(elf: &ElfFile64<LittleEndian>, found: &mut Vec<String>) {
    let mut exports = false;
    for symbol in elf.dynamic_symbols() {
        let name = symbol.name().unwrap_or("(unreadable name)");
        if symbol.is_undefined() {
            found.push(format!("undefined symbol {name}: it would be bound to the guest's own libraries"));
        } else if name == EXPORT {
            exports = true;
        } else {
            found.push(format!("exported symbol {name}: the guest could bind to it"));
        }
    }
    if !exports {
        found.push(format!("no exported symbol {EXPORT}"));
    }
}

fn check_segments(elf: &ElfFile64<LittleEndian>, file: &[u8], found: &mut Vec<String>) {
    let mut stack = false;
    for ph in elf.elf_program_headers() {
        let (kind, flags) = (ph.p_type(LE), ph.p_flags(LE));
        match kind {
            PT_LOAD if flags & PF_W != 0 && flags & PF_X != 0 => {
                found.push(format!("segment at {:#x} is writable and executable", ph.p_vaddr(LE)));
            }
            PT_GNU_STACK => {
                stack = true;
                if flags & PF_X != 0 {
                    found.push("it asks for an executable stack".into());
                }
            }
            PT_INTERP => found.push("it names a dynamic loader".into()),
            PT_TLS => found.push("it has thread-local storage, which the guest's fs register does not lead to".into()),
            PT_DYNAMIC => {
                let strings = elf.elf_section_table().iter().find(|s| s.sh_type(LE) == object::elf::SHT_STRTAB);
                for entry in ph.dynamic(LE, file).expect("a readable dynamic section").unwrap_or_default() {
                    match entry.tag32(LE) {
                        Some(DT_NEEDED) => {
                            let name = strings
                                .and_then(|s| s.data(LE, file).ok())
                                .and_then(|s| s.get(entry.d_val(LE) as usize..))
                                .and_then(|s| s.split(|b| *b == 0).next());
                            let name = String::from_utf8_lossy(name.unwrap_or(b"?"));
                            found.push(format!("it needs the library {name}"));
                        }
                        Some(DT_TEXTREL) => found.push("it has relocations in its text (DT_TEXTREL)".into()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if !stack {
        found.push("no PT_GNU_STACK: loaders would make its stack executable".into());
    }
}

fn check_relocations(elf: &ElfFile64<LittleEndian>, found: &mut Vec<String>) {
    if elf.elf_section_table().iter().any(|s| s.sh_type(LE) == SHT_RELR) {
        found.push("it has packed relocations (SHT_RELR), which the launcher does not apply".into());
    }
    for (at, r) in elf.dynamic_relocations().into_iter().flatten() {
        if r.flags() != (RelocationFlags::Elf { r_type: R_X86_64_RELATIVE }) {
            found.push(format!("relocation at {at:#x} is {:?} of {:?}, not relative", r.flags(), r.target()));
        }
    }
}

fn check_instructions(elf: &ElfFile64<LittleEndian>, found: &mut Vec<String>) {
    let functions: BTreeMap<u64, &str> = elf
        .symbols()
        .filter(|s| s.is_definition() && matches!(s.kind(), SymbolKind::Text | SymbolKind::Unknown | SymbolKind::Label))
        .filter_map(|s| Some((s.address(), s.name().ok().filter(|n| !n.is_empty())?)))
        .collect();
    if functions.is_empty() {
        found.push("no symbols: functions can't be named (was it stripped?)".into());
    }
    let function_at = |at| functions.range(..=at).next_back().map_or("(before the first function)", |(_, name)| name);
    for section in elf.sections().filter(|s| s.kind() == SectionKind::Text) {
        let code = section.data().expect("a readable section");
        let mut decoder = Decoder::with_ip(64, code, section.address(), DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            let at = instruction.ip();
            if instruction.is_invalid() {
                found.push(format!("{at:#x} in {}: no instruction", function_at(at)));
            } else if !is_allowed(&instruction, function_at(at)) {
                let code = instruction.code();
                found.push(format!("{at:#x} in {}: {code:?} needs {:?}", function_at(at), code.cpuid_features()));
            }
        }
    }
}

fn is_allowed(instruction: &Instruction, function: &str) -> bool {
    let code = instruction.code();
    if let Some((_, functions)) = EXCEPTIONS.iter().find(|(is, _)| is(code)) {
        return functions.iter().any(|part| function.contains(part));
    }
    code.cpuid_features().iter().all(|f| BASELINE.contains(f))
}

#[test]
fn the_embedded_shim_touches_nothing_of_the_guests() {
    assert!(!EMBEDDED_SHIM.is_empty(), "the shim does not build: see scripts/build-shim");
    let found = findings(EMBEDDED_SHIM);
    assert!(found.is_empty(), "{} findings:\n{}", found.len(), found.join("\n"));
}

/// Compiles a shim with something wrong in it.
fn shim_with(name: &str, body: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = dir.join(format!("{name}-{}.rs", std::process::id()));
    let so = source.with_extension("so");
    let text = format!(
        "#![no_std] use core::arch::{{asm, global_asm}}; \
         #[panic_handler] fn panic(_: &core::panic::PanicInfo) -> ! {{ loop {{}} }} \
         #[unsafe(no_mangle)] pub extern \"C\" fn ft_entry() {{ unsafe {{ asm!(\"nop\") }} }} \
         global_asm!(\"nop\"); {body}"
    );
    std::fs::write(&source, text).expect("a writable directory for tests");
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let status = Command::new(rustc)
        .args(["--edition=2024", "-O", "-Awarnings", "--crate-type=cdylib", "-Cpanic=abort", "-C"])
        .arg("link-args=-nostdlib -nostartfiles -Wl,-Bsymbolic -Wl,-z,now")
        .args([source.as_os_str(), "-o".as_ref(), so.as_os_str()])
        .status()
        .expect("rustc runs");
    assert!(status.success(), "{name} compiles");
    std::fs::read(so).expect("rustc wrote it")
}

fn only_finding(name: &str, body: &str) -> String {
    let found = findings(&shim_with(name, body));
    assert_eq!(found.len(), 1, "{name}: {found:#?}");
    found.into_iter().next().expect("just counted")
}

#[test]
fn the_check_names_the_culprit() {
    assert_eq!(findings(&shim_with("clean", "")), [""; 0]);

    let f = only_finding("export", "#[unsafe(no_mangle)] pub extern \"C\" fn helper() {}");
    assert!(f.contains("exported symbol helper"), "{f}");

    let import = "unsafe extern \"C\" { fn memcpy(); } #[used] static IMPORT: unsafe extern \"C\" fn() = memcpy;";
    let found = findings(&shim_with("import", import));
    assert!(found.iter().any(|f| f.contains("undefined symbol memcpy")), "{found:?}");
    assert!(found.iter().any(|f| f.contains("not relative")), "{found:?}");

    let function = |name: &str, code: &str| {
        format!(
            "#[inline(never)] fn {name}() {{ unsafe {{ asm!(\"{code}\", out(\"rax\") _, out(\"rcx\") _, out(\"rdx\") _) }} }} \
             #[used] static USE: fn() = {name};"
        )
    };
    let f = only_finding("avx", &function("widely", "vpxor ymm0, ymm0, ymm0"));
    assert!(f.contains("widely") && f.contains("AVX2"), "{f}");
    let f = only_finding("popcnt", &function("counting", "popcnt rax, rcx"));
    assert!(f.contains("counting") && f.contains("POPCNT"), "{f}");
    let f = only_finding("x87", &function("floating", "fld1"));
    assert!(f.contains("floating") && f.contains("FPU"), "{f}");
    let f = only_finding("xgetbv", &function("asking", "xgetbv"));
    assert!(f.contains("asking") && f.contains("Xgetbv"), "{f}");
    assert_eq!(findings(&shim_with("xgetbv_allowed", &function("read_cpuid", "xgetbv"))), [""; 0]);
    let f = only_finding("wx", "global_asm!(\".section .wx,\\\"awxR\\\",@progbits\", \".quad 0\");");
    assert!(f.contains("writable and executable"), "{f}");
}
