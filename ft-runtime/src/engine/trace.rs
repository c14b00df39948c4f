//! One line per call, for comparing two runs by eye or by diff.

use ft_log::entry::Act;
use ft_log::ids::DomainId;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

pub struct Trace {
    out: BufWriter<File>,
}

impl Trace {
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { out: BufWriter::with_capacity(1 << 16, File::create(path)?) })
    }

    pub fn line(&mut self, domain: DomainId, act: &Act) -> io::Result<()> {
        let Act::Trace { thread, call, args, result, digest } = act else { return Ok(()) };
        write!(self.out, "d{domain} t{thread} ")?;
        match call_name(usize::from(*call)) {
            Some(name) => write!(self.out, "{name}(")?,
            None => write!(self.out, "call_{call}(")?,
        }
        for (k, a) in args.iter().enumerate() {
            write!(self.out, "{}{a:#x}", if k == 0 { "" } else { ", " })?;
        }
        writeln!(self.out, ") = {result:#x} {digest:016x}")
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Name of a system call, from the shim's table.
pub fn call_name(number: usize) -> Option<&'static str> {
    ft_shim::table::name(u32::try_from(number).ok()?)
}

/// What the shim's table does with a call.
pub fn call_class(number: usize) -> &'static str {
    u32::try_from(number).map_or("", ft_shim::table::class_name)
}
