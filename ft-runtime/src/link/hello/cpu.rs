//! The processor as the guest sees it: what cpuid tells after the shim has masked it.

use super::{Found, Item, SAME_MACHINE, union};
use serde::{Deserialize, Serialize};
use std::arch::x86_64::__cpuid_count;
use std::collections::BTreeMap;

/// Descriptions of caches, of parts of the extended state: no processor has as many.
const CACHES_MAX: u32 = 16;
const STATE_PARTS: u32 = 64;
const EXTENDED: u32 = 0x8000_0000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    pub vendor: String,
    pub brand: String,
    pub family: u32,
    pub model: u32,
    pub stepping: u32,
    /// Of the features that the kernel enabled.
    pub xsave_bytes: u32,
    /// "leaf.subleaf", hexadecimal -> eax, ebx, ecx, edx.
    pub leaves: BTreeMap<String, [u32; 4]>,
}

fn cpuid(leaf: u32, sub: u32) -> [u32; 4] {
    let r = __cpuid_count(leaf, sub);
    ft_shim::trap::fault::masked_cpuid(leaf, sub, [r.eax, r.ebx, r.ecx, r.edx])
}

fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).filter(|b| *b != 0).collect();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

impl Cpu {
    pub fn here() -> Self {
        let [standard_max, b, c, d] = cpuid(0, 0);
        let [extended_max, ..] = cpuid(EXTENDED, 0);
        let mut leaves = BTreeMap::new();
        let mut add = |leaf: u32, sub: u32| {
            let max = if leaf >= EXTENDED { extended_max } else { standard_max };
            let r = if leaf <= max { cpuid(leaf, sub) } else { [0; 4] };
            if r != [0; 4] {
                leaves.insert(format!("{leaf:#x}.{sub}"), r);
            }
            r
        };
        add(0, 0);
        let [signature, ..] = add(1, 0);
        add(2, 0);
        for sub in 0..CACHES_MAX {
            if add(4, sub)[0] & 0x1f == 0 {
                break;
            }
        }
        for sub in 0..=2 {
            add(7, sub);
        }
        let [.., xsave_bytes, _, _] = add(0xd, 0);
        for sub in 1..STATE_PARTS {
            add(0xd, sub);
        }
        let brand: Vec<u32> = (2..=4).flat_map(|n| add(EXTENDED + n, 0)).collect();
        for leaf in [0, 1, 5, 6, 7, 8] {
            add(EXTENDED + leaf, 0);
        }
        for sub in 0..CACHES_MAX {
            if add(EXTENDED + 0x1d, sub)[0] & 0x1f == 0 {
                break;
            }
        }
        let (family, model) = family_model(signature);
        Self {
            vendor: text(&[b, d, c]),
            brand: text(&brand),
            family,
            model,
            stepping: signature & 0xf,
            xsave_bytes,
            leaves,
        }
    }
}

fn family_model(signature: u32) -> (u32, u32) {
    let (family, model) = (signature >> 8 & 0xf, signature >> 4 & 0xf);
    let extended_family = if family == 0xf { signature >> 20 & 0xff } else { 0 };
    let extended_model = if matches!(family, 6 | 0xf) { signature >> 16 & 0xf } else { 0 };
    (family + extended_family, model + (extended_model << 4))
}

/// Leaf, register (0: eax), names from bit 0 on; "" has no name here.
const FEATURES: [(&str, usize, &str); 6] = [
    (
        "0x1.0",
        2,
        "sse3 pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca sse4_1 \
         sse4_2 x2apic movbe popcnt tsc_deadline aes xsave osxsave avx f16c",
    ),
    (
        "0x1.0",
        3,
        "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts acpi mmx fxsr sse \
         sse2 ss ht tm ia64 pbe",
    ),
    (
        "0x7.0",
        1,
        "fsgsbase tsc_adjust sgx bmi1 - avx2 fdp_excptn_only smep bmi2 erms invpcid - cqm zero_fcs_fds mpx rdt_a \
         avx512f avx512dq - adx smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw \
         avx512vl",
    ),
    (
        "0x7.0",
        2,
        "prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq avx512_vnni \
         avx512_bitalg tme avx512_vpopcntdq - la57 - - - - - - key_locker bus_lock_detect cldemote - movdiri movdir64b \
         enqcmd sgx_lc pks",
    ),
    (
        "0x7.0",
        3,
        "- sgx_keys avx512_4vnniw avx512_4fmaps fsrm uintr - - avx512_vp2intersect srbds_ctrl md_clear - - - serialize \
         hybrid - - pconfig arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile amx_int8 ibrs_ibpb stibp flush_l1d \
         arch_capabilities core_capabilities ssbd",
    ),
    ("0x7.1", 0, "sha512 sm3 sm4 rao_int avx_vnni avx512_bf16 lass cmpccxadd - - fzrm fsrs fsrc"),
];

/// Features in `only` and not in `other`.
fn names(names: &str, only: u32, other: u32) -> Vec<String> {
    let names: Vec<&str> = names.split_whitespace().collect();
    let bits = (0..32).filter(|b| only & !other & 1 << b != 0);
    bits.map(|b| match names.get(b) {
        Some(&name) if name != "-" => name.to_owned(),
        _ => format!("bit {b}"),
    })
    .collect()
}

pub(super) fn compare(f: &mut Found, ours: &Cpu, theirs: &Cpu) {
    let model = |c: &Cpu| (c.vendor.clone(), c.family, c.model, c.stepping);
    let show = |(vendor, family, model, stepping): &(String, u32, u32, u32)| {
        format!("{vendor} family {family} model {model} stepping {stepping}")
    };
    f.compare(Item::CpuModel, &model(ours), &model(theirs), show, SAME_MACHINE);
    f.compare(Item::CpuBrand, &ours.brand, &theirs.brand, |b| format!("{b:?}"), SAME_MACHINE);
    let leaf = |c: &Cpu, name: &str| c.leaves.get(name).copied().unwrap_or_default();
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for (name, register, bits) in FEATURES {
        let (a, b) = (leaf(ours, name)[register], leaf(theirs, name)[register]);
        here.extend(names(bits, a, b));
        there.extend(names(bits, b, a));
    }
    if here != there {
        let list = |v: Vec<String>| if v.is_empty() { "none more".into() } else { v.join(" ") };
        f.add(Item::CpuFeatures, list(here), list(there), SAME_MACHINE);
    }
    f.compare(
        Item::XsaveSize,
        &ours.xsave_bytes,
        &theirs.xsave_bytes,
        u32::to_string,
        "boot both kernels with the same options for extended state (xsave, AMX, PKU)",
    );
    for (name, a, b) in union(&ours.leaves, &theirs.leaves) {
        // What was told above in words is not told in numbers.
        let rest = |r: Option<&[u32; 4]>| {
            let mut r = r.copied().unwrap_or_default();
            for (_, register, _) in FEATURES.iter().filter(|(leaf, ..)| leaf == name) {
                r[*register] = 0;
            }
            match name.as_str() {
                "0x1.0" => r[0] = 0,
                "0xd.0" => r[1] = 0,
                "0x80000002.0" | "0x80000003.0" | "0x80000004.0" => r = [0; 4],
                _ => {}
            }
            r
        };
        let numbers = |r: &[u32; 4]| r.map(|w| format!("{w:08x}")).join(" ");
        f.compare(Item::CpuLeaf(name.clone()), &rest(a), &rest(b), numbers, SAME_MACHINE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_read_as_the_vendors_say() {
        assert_eq!(family_model(0x0005_0657), (6, 0x55)); // Cascade Lake
        assert_eq!(family_model(0x00a2_0f12), (0x19, 0x21)); // Zen 3
    }

    #[test]
    fn the_processor_is_the_guests_view() {
        let c = Cpu::here();
        assert_eq!(c, Cpu::here());
        assert_eq!(c.leaves["0x1.0"][2] >> 30, 0, "RDRAND and hypervisor are hidden");
        assert_eq!(c.leaves["0x1.0"][1] >> 16, 1, "which processor this is, is hidden");
    }

    #[test]
    fn every_feature_has_a_place() {
        for (leaf, register, bits) in FEATURES {
            assert!(bits.split_whitespace().count() <= 32, "{leaf} {register}");
        }
        assert_eq!(names(FEATURES[2].2, 1 << 16 | 1 << 5 | 1 << 4, 1 << 5), ["bit 4", "avx512f"]);
    }
}
