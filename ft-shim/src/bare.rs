//! What libc and std would give: mem*, panic, unwinding symbols. All hidden: nothing of it is visible to the guest.

use core::arch::global_asm;

global_asm!(
    r#"
.macro FT_FN name
 .globl \name
 .hidden \name
 .type \name,@function
\name:
.endm
.text
FT_FN memcpy
 mov rax, rdi
 mov rcx, rdx
 rep movsb
 ret
FT_FN memmove
 mov rax, rdi
 mov r8, rdi
 sub r8, rsi
 cmp r8, rdx
 jb 1f
 mov rcx, rdx
 rep movsb
 ret
1: mov rcx, rdx
 lea rdi, [rdi+rdx-1]
 lea rsi, [rsi+rdx-1]
 std
 rep movsb
 cld
 ret
FT_FN memset
 mov r8, rdi
 mov eax, esi
 mov rcx, rdx
 rep stosb
 mov rax, r8
 ret
FT_FN memcmp
 xor eax, eax
 xor ecx, ecx
2: cmp rcx, rdx
 je 3f
 movzx eax, byte ptr [rdi+rcx]
 movzx r8d, byte ptr [rsi+rcx]
 inc rcx
 sub eax, r8d
 je 2b
3: ret
FT_FN bcmp
 jmp memcmp
FT_FN strlen
 xor eax, eax
4: cmp byte ptr [rdi+rax], 0
 je 5f
 inc rax
 jmp 4b
5: ret
FT_FN rust_eh_personality
 ud2
FT_FN _Unwind_Resume
 ud2
"#
);

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    use core::fmt::Write;
    struct Line([u8; 512], usize);
    impl Write for Line {
        fn write_str(&mut self, s: &str) -> core::fmt::Result {
            let n = s.len().min(self.0.len() - self.1);
            self.0[self.1..self.1 + n].copy_from_slice(&s.as_bytes()[..n]);
            self.1 += n;
            Ok(())
        }
    }
    let mut line = Line([0; 512], 0);
    let _ = write!(line, "ft-shim: {info}\n");
    crate::raw::complain(&line.0[..line.1]);
    crate::raw::exit_process(134)
}
