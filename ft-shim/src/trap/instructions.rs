//! Lengths of x86-64 instructions, where they branch to, and which of them can be executed elsewhere.
//!
//! Decodes forward from a known start only. What it doesn't know it refuses: then a call site keeps trapping.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Next,
    /// A direct branch or call, by so much from the instruction's end.
    Direct(i32),
    /// A jump to where a register or memory says.
    Indirect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub length: usize,
    pub flow: Flow,
    /// Works on registers and constants alone: it does the same at any address and can't fault.
    pub movable: bool,
}

/// `syscall`.
pub const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// No instruction is longer.
pub const LENGTH_MAX: usize = 15;

/// What follows the opcode.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tail {
    Nothing,
    Imm8,
    Imm16,
    /// 16 bits with prefix 66, else 32.
    Imm32,
    /// As `Imm32`, but 64 bits with REX.W.
    Imm64,
    Enter,
    Address,
    Rel8,
    Rel32,
    ModRm,
    ModRmImm8,
    ModRmImm32,
    /// An immediate with reg 0 and 1 only.
    Group3Byte,
    Group3,
}

#[derive(Clone, Copy, Default)]
struct Prefixes {
    operand: bool,
    address: bool,
    /// Lock, repeat or a segment.
    other: bool,
    rex: u8,
}

impl Prefixes {
    fn wide(&self) -> bool {
        self.rex & 8 != 0
    }
}

/// The instruction at the start of `code`; `None` for one that is cut off or not known here.
pub fn decode(code: &[u8]) -> Option<Instruction> {
    let code = &code[..code.len().min(LENGTH_MAX)];
    let mut p = Prefixes::default();
    let mut at = 0;
    loop {
        match *code.get(at)? {
            0x66 => p.operand = true,
            0x67 => p.address = true,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0xf0 | 0xf2 | 0xf3 => p.other = true,
            _ => break,
        }
        at += 1;
    }
    if let rex @ 0x40..=0x4f = *code.get(at)? {
        p.rex = rex;
        at += 1;
    }
    let opcode = *code.get(at)?;
    at += 1;
    let (map, opcode, tail) = match opcode {
        0xc4 | 0xc5 | 0x62 => {
            if p.rex != 0 || p.operand {
                return None;
            }
            let (map, skipped) = match opcode {
                0xc5 => (1, 1),
                0xc4 => (*code.get(at)? & 0x1f, 2),
                _ => (evex_map(code.get(at..at + 3)?)?, 3),
            };
            p.other = true;
            at += skipped;
            let opcode = *code.get(at)?;
            at += 1;
            (map, opcode, vector_tail(map, opcode)?)
        }
        0x0f => {
            let opcode = *code.get(at)?;
            at += 1;
            match opcode {
                0x38 | 0x3a => {
                    let third = *code.get(at)?;
                    at += 1;
                    let tail = if opcode == 0x38 { Tail::ModRm } else { Tail::ModRmImm8 };
                    (if opcode == 0x38 { 2 } else { 3 }, third, tail)
                }
                _ => (1, opcode, two_byte_tail(opcode, code.get(at).copied())?),
            }
        }
        _ => (0, opcode, one_byte_tail(opcode, code.get(at).copied())?),
    };
    let modrm = code.get(at).copied().unwrap_or(0);
    let reg = modrm >> 3 & 7;
    let immediate = if p.operand && !p.wide() { 2 } else { 4 };
    let has_modrm = matches!(
        tail,
        Tail::ModRm | Tail::ModRmImm8 | Tail::ModRmImm32 | Tail::Group3Byte | Tail::Group3
    );
    if has_modrm {
        at += modrm_length(code.get(at..)?)?;
    }
    let operand_at = at;
    at += match tail {
        Tail::Nothing | Tail::ModRm => 0,
        Tail::Imm8 | Tail::Rel8 | Tail::ModRmImm8 => 1,
        Tail::Imm16 => 2,
        Tail::Enter => 3,
        Tail::Imm32 | Tail::ModRmImm32 => immediate,
        Tail::Imm64 => if p.wide() { 8 } else { immediate },
        Tail::Address => if p.address { 4 } else { 8 },
        // With prefix 66 processors disagree on the length, but for REX.W.
        Tail::Rel32 if p.operand && !p.wide() => return None,
        Tail::Rel32 => 4,
        Tail::Group3Byte => usize::from(reg < 2),
        Tail::Group3 => if reg < 2 { immediate } else { 0 },
    };
    let operand = code.get(operand_at..at)?;
    let flow = match (map, opcode, tail) {
        (_, _, Tail::Rel8) => Flow::Direct(i32::from(operand[0] as i8)),
        (_, _, Tail::Rel32) => Flow::Direct(i32::from_le_bytes(operand.try_into().ok()?)),
        // xbegin: where it goes when the transaction aborts.
        (0, 0xc7, _) if modrm == 0xf8 => Flow::Direct(i32::from_le_bytes(operand.try_into().ok()?)),
        (0, 0xff, _) if reg == 4 || reg == 5 => Flow::Indirect,
        _ => Flow::Next,
    };
    let movable = flow == Flow::Next && !p.other && !p.address && is_movable(map, opcode, modrm);
    Some(Instruction { length: at, flow, movable })
}

fn modrm_length(code: &[u8]) -> Option<usize> {
    let modrm = *code.first()?;
    let (mode, rm) = (modrm >> 6, modrm & 7);
    if mode == 3 {
        return Some(1);
    }
    let (sib, base) = if rm == 4 { (1, *code.get(1)? & 7) } else { (0, rm) };
    let displacement = match mode {
        0 if base == 5 => 4,
        0 => 0,
        1 => 1,
        _ => 4,
    };
    Some(1 + sib + displacement)
}

fn one_byte_tail(opcode: u8, next: Option<u8>) -> Option<Tail> {
    let reg = next.map(|m| m >> 3 & 7);
    Some(match opcode {
        0x00..=0x3f => match opcode & 7 {
            0..=3 => Tail::ModRm,
            4 => Tail::Imm8,
            5 => Tail::Imm32,
            _ => return None,
        },
        0x50..=0x5f | 0x6c..=0x6f | 0x90..=0x99 | 0x9b..=0x9f | 0xa4..=0xa7 | 0xaa..=0xaf => Tail::Nothing,
        0x63 | 0x84..=0x8e | 0xd0..=0xd3 | 0xd8..=0xdf => Tail::ModRm,
        0x8f | 0xfe if reg == Some(0) || (opcode == 0xfe && reg == Some(1)) => Tail::ModRm,
        0x68 | 0xa9 => Tail::Imm32,
        0x69 | 0x81 => Tail::ModRmImm32,
        0x6a | 0xa8 | 0xb0..=0xb7 | 0xcd | 0xe4..=0xe7 => Tail::Imm8,
        0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 => Tail::ModRmImm8,
        0x70..=0x7f | 0xe0..=0xe3 | 0xeb => Tail::Rel8,
        0xa0..=0xa3 => Tail::Address,
        0xb8..=0xbf => Tail::Imm64,
        0xc2 | 0xca => Tail::Imm16,
        0xc3 | 0xc9 | 0xcb | 0xcc | 0xcf | 0xd7 | 0xec..=0xef | 0xf1 | 0xf4 | 0xf5 | 0xf8..=0xfd => Tail::Nothing,
        0xc6 if reg == Some(0) || next == Some(0xf8) => Tail::ModRmImm8,
        0xc7 if reg == Some(0) || next == Some(0xf8) => Tail::ModRmImm32,
        0xc8 => Tail::Enter,
        0xe8 | 0xe9 => Tail::Rel32,
        0xf6 => Tail::Group3Byte,
        0xf7 => Tail::Group3,
        0xff if reg.is_some_and(|r| r < 7) => Tail::ModRm,
        _ => return None,
    })
}

fn two_byte_tail(opcode: u8, next: Option<u8>) -> Option<Tail> {
    Some(match opcode {
        0x05..=0x09 | 0x0b | 0x0e | 0x30..=0x35 | 0x37 | 0x77 | 0xa0..=0xa2 | 0xa8..=0xaa | 0xc8..=0xcf => Tail::Nothing,
        0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => Tail::ModRmImm8,
        0x80..=0x8f => Tail::Rel32,
        0x00 if next.is_some_and(|m| m >> 3 & 7 < 6) => Tail::ModRm,
        0x01..=0x03 | 0x0d | 0x10..=0x1f | 0x28..=0x2f | 0x40..=0x6f | 0x74..=0x76 | 0x7c..=0x7f => Tail::ModRm,
        0x90..=0x9f | 0xa3 | 0xa5 | 0xab | 0xad..=0xb9 | 0xbb..=0xc1 | 0xc3 | 0xc7 | 0xd0..=0xff => Tail::ModRm,
        _ => return None,
    })
}

fn vector_tail(map: u8, opcode: u8) -> Option<Tail> {
    Some(match (map, opcode) {
        (1, 0x77) => Tail::Nothing,
        (1, 0x70..=0x73 | 0xc2 | 0xc4..=0xc6) | (3, _) => Tail::ModRmImm8,
        (1 | 2 | 5 | 6, _) => Tail::ModRm,
        _ => return None,
    })
}

fn evex_map(payload: &[u8]) -> Option<u8> {
    // Two bits that are fixed but for extensions that are not known here.
    (payload[0] & 8 == 0 && payload[1] & 4 != 0).then_some(payload[0] & 7)
}

fn is_movable(map: u8, opcode: u8, modrm: u8) -> bool {
    let registers = modrm >> 6 == 3;
    let reg = modrm >> 3 & 7;
    match (map, opcode) {
        // add, or, and, sub, xor, cmp; adc and sbb too.
        (0, 0x00..=0x3f) => opcode & 7 >= 4 || registers,
        (0, 0x63 | 0x80 | 0x81 | 0x83..=0x85 | 0x88..=0x8b) => registers,
        // lea reads no memory; relative to rip it would be another address.
        (0, 0x8d) => !registers && modrm & 0xc7 != 5,
        (0, 0x90 | 0xa8 | 0xa9 | 0xb0..=0xbf) => true,
        (0, 0xc0 | 0xc1 | 0xd0..=0xd3) => registers,
        (0, 0xc6 | 0xc7) => registers && reg == 0,
        // test, not, neg: the rest multiplies and divides.
        (0, 0xf6 | 0xf7) => registers && reg < 4,
        (1, 0x1f) => reg == 0 && modrm & 0xc7 != 5,
        (1, 0x40..=0x4f | 0x90..=0x9f | 0xb6 | 0xb7 | 0xbe | 0xbf) => registers,
        _ => false,
    }
}
