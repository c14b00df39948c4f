# What `ft replay --gdb` tells gdb before it attaches.
# There is no such place, so gdb takes no library for threads.
set libthread-db-search-path /nowhere
handle SIGSYS SIGILL SIGBUS SIGFPE SIGSEGV nostop noprint pass
# By this ft says that the recording has no more.
handle SIGSTOP stop print nopass
handle SIGPIPE SIGCHLD nostop noprint pass
python
import gdb
from gdb.unwinder import Unwinder, register_unwinder

HOLD, SHIM = @HOLD_REGISTERS@, range(@SHIM_START@, @SHIM_END@)
# As `gregs` of the kernel's ABI has them.
ORDER = ["r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp", "rip"]


def word(at):
    return int.from_bytes(bytes(gdb.selected_inferior().read_memory(at, 8)), "little")


class FrameId:
    def __init__(self, sp, pc):
        self.sp, self.pc = sp, pc


class OfShim(Unwinder):
    """What called the shim is the guest."""

    def __init__(self):
        super().__init__("ft-shim")

    def __call__(self, frame):
        pc = int(frame.read_register("rip"))
        if pc not in SHIM:
            return None
        registers = word(HOLD)
        if registers == 0:
            return None
        info = frame.create_unwind_info(FrameId(frame.read_register("rsp"), frame.read_register("rip")))
        kind = gdb.lookup_type("unsigned long")
        for k, name in enumerate(ORDER):
            info.add_saved_register(name, gdb.Value(word(registers + 8 * k).to_bytes(8, "little"), kind))
        return info


register_unwinder(None, OfShim(), replace=True)
end
# The shim ends the guest by a signal of its own: that is a crash. Others are the shim's daily bread.
catch signal SIGSEGV SIGBUS SIGILL SIGFPE
condition $bpnum $_siginfo.si_code <= 0
