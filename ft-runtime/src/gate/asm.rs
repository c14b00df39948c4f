//! An assembler for eBPF with labels: enough for programs of a screenful. No compiler is needed at run time.
//!
//! Encoding: RFC 9669. A jump to a label that isn't there is a bug here and panics.

use std::collections::HashMap;

/// One instruction as the kernel takes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    opcode: u8,
    /// Destination low, source high.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// r0 holds results, r1-r5 arguments (lost in a call), r6-r9 are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(u8);

pub const R0: Register = Register(0);
pub const R1: Register = Register(1);
pub const R2: Register = Register(2);
pub const R3: Register = Register(3);
pub const R4: Register = Register(4);
pub const R5: Register = Register(5);
pub const R6: Register = Register(6);
pub const R7: Register = Register(7);
/// The end of the stack, which is 512 bytes.
pub const STACK: Register = Register(10);

/// Functions (`linux/bpf.h`): `bpf_map_lookup_elem`, `bpf_skb_store_bytes`, `bpf_redirect`, `bpf_skb_load_bytes`, `bpf_ktime_get_boot_ns`.
pub const MAP_LOOKUP: i32 = 1;
pub const STORE_BYTES: i32 = 9;
pub const REDIRECT: i32 = 23;
pub const LOAD_BYTES: i32 = 26;
pub const KTIME_GET_BOOT_NS: i32 = 125;
/// In the source field of a 64-bit load: the immediate is a map's descriptor, and the map is meant.
const PSEUDO_MAP: u8 = 1;
/// In the source field of a 64-bit load: the immediate is a map's descriptor, and its first value is meant.
const PSEUDO_MAP_VALUE: u8 = 2;

#[derive(Default)]
pub struct Assembler {
    code: Vec<Instruction>,
    jumps: Vec<(usize, &'static str)>,
    labels: HashMap<&'static str, usize>,
}

impl Assembler {
    pub fn new() -> Self {
        Self::default()
    }

    fn put(&mut self, opcode: u8, destination: Register, source: u8, offset: i16, immediate: i32) {
        self.code.push(Instruction { opcode, registers: destination.0 | source << 4, offset, immediate });
    }

    /// to = value
    pub fn set(&mut self, to: Register, value: i32) {
        self.put(0xb7, to, 0, 0, value);
    }

    /// to = the address of the first value of the map
    pub fn map_value(&mut self, to: Register, map: i32) {
        self.put(0x18, to, PSEUDO_MAP_VALUE, 0, map);
        self.put(0, R0, 0, 0, 0);
    }

    /// to = the map
    pub fn map(&mut self, to: Register, map: i32) {
        self.put(0x18, to, PSEUDO_MAP, 0, map);
        self.put(0, R0, 0, 0, 0);
    }

    /// to += value
    pub fn add(&mut self, to: Register, value: i32) {
        self.put(0x07, to, 0, 0, value);
    }

    /// to = (to - from) modulo 2^32
    pub fn subtract_32(&mut self, to: Register, from: Register) {
        self.put(0x1c, to, from.0, 0, 0);
    }

    /// to &= mask
    pub fn and(&mut self, to: Register, mask: i32) {
        self.put(0x57, to, 0, 0, mask);
    }

    /// Turns 32 bits from network order, and clears the rest.
    pub fn from_network_32(&mut self, register: Register) {
        self.put(0xdc, register, 0, 0, 32);
    }

    /// to = from
    pub fn copy(&mut self, to: Register, from: Register) {
        self.put(0xbf, to, from.0, 0, 0);
    }

    /// to = the byte at from + offset
    pub fn load_8(&mut self, to: Register, from: Register, offset: i16) {
        self.put(0x71, to, from.0, offset, 0);
    }

    /// to = 32 bits at from + offset
    pub fn load_32(&mut self, to: Register, from: Register, offset: i16) {
        self.put(0x61, to, from.0, offset, 0);
    }

    /// to = 64 bits at from + offset
    pub fn load(&mut self, to: Register, from: Register, offset: i16) {
        self.put(0x79, to, from.0, offset, 0);
    }

    /// 32 bits at to + offset = from
    pub fn store_32(&mut self, to: Register, offset: i16, from: Register) {
        self.put(0x63, to, from.0, offset, 0);
    }

    /// to >>= bits
    pub fn shift_right(&mut self, to: Register, bits: i32) {
        self.put(0x77, to, 0, 0, bits);
    }

    /// 64 bits at to + offset += from, atomically
    pub fn add_atomic(&mut self, to: Register, offset: i16, from: Register) {
        self.put(0xdb, to, from.0, offset, 0);
    }

    pub fn call(&mut self, function: i32) {
        self.put(0x85, R0, 0, 0, function);
    }

    /// Jumps if a < b, unsigned.
    pub fn jump_less(&mut self, a: Register, b: Register, label: &'static str) {
        self.jumps.push((self.code.len(), label));
        self.put(0xad, a, b.0, 0, 0);
    }

    /// Jumps if a == value.
    pub fn jump_equal(&mut self, a: Register, value: i32, label: &'static str) {
        self.jumps.push((self.code.len(), label));
        self.put(0x15, a, 0, 0, value);
    }

    /// Jumps if a != value.
    pub fn jump_unequal(&mut self, a: Register, value: i32, label: &'static str) {
        self.jumps.push((self.code.len(), label));
        self.put(0x55, a, 0, 0, value);
    }

    /// Jumps if a > value, unsigned.
    pub fn jump_greater(&mut self, a: Register, value: i32, label: &'static str) {
        self.jumps.push((self.code.len(), label));
        self.put(0x25, a, 0, 0, value);
    }

    pub fn jump(&mut self, label: &'static str) {
        self.jumps.push((self.code.len(), label));
        self.put(0x05, R0, 0, 0, 0);
    }

    pub fn label(&mut self, name: &'static str) {
        let former = self.labels.insert(name, self.code.len());
        assert!(former.is_none(), "label {name} stands twice");
    }

    /// Ends the program with this value.
    pub fn exit(&mut self, value: i32) {
        self.set(R0, value);
        self.leave();
    }

    /// Ends the program with what R0 holds.
    pub fn leave(&mut self) {
        self.put(0x95, R0, 0, 0, 0);
    }

    pub fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in &self.jumps {
            let target = *self.labels.get(label).unwrap_or_else(|| panic!("no label {label}"));
            let distance = target as isize - *at as isize - 1;
            self.code[*at].offset = i16::try_from(distance).expect("a program of a screenful");
        }
        self.code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_go_both_ways_and_encodings_are_the_kernel_s() {
        let mut a = Assembler::new();
        a.label("back");
        a.map_value(R1, 5);
        a.load(R6, R1, 8);
        a.jump_less(R0, R6, "on");
        a.jump_equal(R6, 1, "back");
        a.label("on");
        a.exit(2);
        let bytes: Vec<(u8, u8, i16, i32)> =
            a.finish().iter().map(|i| (i.opcode, i.registers, i.offset, i.immediate)).collect();
        assert_eq!(
            bytes,
            [
                (0x18, 0x21, 0, 5),
                (0, 0, 0, 0),
                (0x79, 0x16, 8, 0),
                (0xad, 0x60, 1, 0),
                (0x15, 0x06, -5, 1),
                (0xb7, 0, 0, 2),
                (0x95, 0, 0, 0),
            ]
        );
    }

    #[test]
    #[should_panic(expected = "no label nowhere")]
    fn a_jump_to_nowhere_is_a_bug() {
        let mut a = Assembler::new();
        a.jump_equal(R0, 0, "nowhere");
        a.finish();
    }
}
