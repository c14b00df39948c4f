//! Every system call has one row: its class, how many arguments count, and what answers it. Total: what has no
//! row of its own is refused by name.

use crate::kernel::{Args, Kernel, Reply, both, clock, epoll, eventfd, fds, files, futex, locks, memory, pipe, poll};
use crate::kernel::{process, signal, signalfd, socket, threads, timerfd, timers, transfer, values};
use crate::raw::ENOSYS;

/// How both hosts come to the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A function of the domain's state alone.
    Emulate,
    /// Emulated, executed or recorded, by what the descriptor is.
    Descriptor,
    /// Executed on both hosts, on equal state.
    Both,
    /// Executed on the primary, taken from the log on the backup.
    Record,
    /// The same answer on every host.
    Virtual,
    /// A documented errno, and a line for the operator.
    Refuse,
}

pub struct Row {
    pub name: &'static str,
    pub class: Class,
    arity: u8,
    answer: Option<fn(&mut Kernel, &Args) -> Reply>,
}

const fn row(name: &'static str, class: Class, arity: u8, answer: fn(&mut Kernel, &Args) -> Reply) -> Row {
    Row { name, class, arity, answer: Some(answer) }
}

const fn refused(name: &'static str) -> Row {
    Row { name, class: Class::Refuse, arity: 0, answer: None }
}

/// One more than the highest number known.
const COUNT: usize = 468;

use Class::{Both, Descriptor, Emulate, Record, Refuse, Virtual};

/// By number. `None`: no such call in the kernels this was written for.
#[rustfmt::skip]
static ROWS: [Option<Row>; COUNT] = [
    Some(row("read", Descriptor, 3, transfer::read)), // 0
    Some(row("write", Descriptor, 3, transfer::write)), // 1
    Some(row("open", Both, 3, files::open)), // 2
    Some(row("close", Descriptor, 1, fds::close)), // 3
    Some(row("stat", Record, 2, files::stat)), // 4
    Some(row("fstat", Record, 2, files::fstat)), // 5
    Some(row("lstat", Record, 2, files::lstat)), // 6
    Some(row("poll", Emulate, 3, poll::poll)), // 7
    Some(row("lseek", Descriptor, 3, files::lseek)), // 8
    Some(row("mmap", Both, 6, memory::mmap)), // 9
    Some(row("mprotect", Both, 3, memory::mprotect)), // 10
    Some(row("munmap", Both, 2, memory::munmap)), // 11
    Some(row("brk", Both, 1, memory::brk)), // 12
    Some(row("rt_sigaction", Emulate, 4, signal::rt_sigaction)), // 13
    Some(row("rt_sigprocmask", Emulate, 4, signal::rt_sigprocmask)), // 14
    Some(row("rt_sigreturn", Emulate, 0, signal::rt_sigreturn)), // 15
    Some(row("ioctl", Descriptor, 3, fds::ioctl)), // 16
    Some(row("pread64", Descriptor, 4, transfer::pread64)), // 17
    Some(row("pwrite64", Descriptor, 4, transfer::pwrite64)), // 18
    Some(row("readv", Descriptor, 3, transfer::readv)), // 19
    Some(row("writev", Descriptor, 3, transfer::writev)), // 20
    Some(row("access", Both, 2, files::access)), // 21
    Some(row("pipe", Emulate, 1, pipe::pipe)), // 22
    Some(row("select", Emulate, 5, poll::select)), // 23
    Some(row("sched_yield", Emulate, 0, threads::sched_yield)), // 24
    Some(row("mremap", Both, 5, memory::mremap)), // 25
    Some(row("msync", Both, 3, both::plain)), // 26
    Some(row("mincore", Virtual, 3, memory::mincore)), // 27
    Some(row("madvise", Both, 3, memory::madvise)), // 28
    Some(refused("shmget")), // 29
    Some(refused("shmat")), // 30
    Some(refused("shmctl")), // 31
    Some(row("dup", Descriptor, 1, fds::dup)), // 32
    Some(row("dup2", Descriptor, 2, fds::dup2)), // 33
    Some(row("pause", Emulate, 0, signal::pause)), // 34
    Some(row("nanosleep", Emulate, 2, clock::nanosleep)), // 35
    Some(row("getitimer", Emulate, 2, timers::getitimer)), // 36
    Some(row("alarm", Emulate, 1, timers::alarm)), // 37
    Some(row("setitimer", Emulate, 3, timers::setitimer)), // 38
    Some(row("getpid", Emulate, 0, process::getpid)), // 39
    Some(row("sendfile", Descriptor, 4, transfer::sendfile)), // 40
    Some(row("socket", Emulate, 3, socket::socket)), // 41
    Some(row("connect", Emulate, 3, socket::connect)), // 42
    Some(row("accept", Emulate, 3, socket::accept)), // 43
    Some(row("sendto", Emulate, 6, transfer::sendto)), // 44
    Some(row("recvfrom", Emulate, 6, transfer::recvfrom)), // 45
    Some(row("sendmsg", Emulate, 3, transfer::sendmsg)), // 46
    Some(row("recvmsg", Emulate, 3, transfer::recvmsg)), // 47
    Some(row("shutdown", Emulate, 2, socket::shutdown)), // 48
    Some(row("bind", Emulate, 3, socket::bind)), // 49
    Some(row("listen", Emulate, 2, socket::listen)), // 50
    Some(row("getsockname", Emulate, 3, socket::getsockname)), // 51
    Some(row("getpeername", Emulate, 3, socket::getpeername)), // 52
    Some(row("socketpair", Emulate, 4, pipe::socketpair)), // 53
    Some(row("setsockopt", Emulate, 5, socket::setsockopt)), // 54
    Some(row("getsockopt", Emulate, 5, socket::getsockopt)), // 55
    Some(row("clone", Emulate, 5, threads::clone)), // 56
    Some(row("fork", Emulate, 0, process::fork_call)), // 57
    Some(row("vfork", Emulate, 0, process::vfork)), // 58
    Some(row("execve", Refuse, 3, process::execve)), // 59
    Some(row("exit", Emulate, 1, threads::exit)), // 60
    Some(row("wait4", Emulate, 4, process::wait4)), // 61
    Some(row("kill", Emulate, 2, signal::kill)), // 62
    Some(row("uname", Record, 1, values::uname)), // 63
    Some(refused("semget")), // 64
    Some(refused("semop")), // 65
    Some(refused("semctl")), // 66
    Some(refused("shmdt")), // 67
    Some(refused("msgget")), // 68
    Some(refused("msgsnd")), // 69
    Some(refused("msgrcv")), // 70
    Some(refused("msgctl")), // 71
    Some(row("fcntl", Descriptor, 3, fds::fcntl)), // 72
    Some(row("flock", Both, 2, locks::flock)), // 73
    Some(row("fsync", Both, 1, both::on_file)), // 74
    Some(row("fdatasync", Both, 1, both::on_file)), // 75
    Some(row("truncate", Both, 2, both::plain)), // 76
    Some(row("ftruncate", Both, 2, both::on_file)), // 77
    Some(row("getdents", Record, 3, files::getdents)), // 78
    Some(row("getcwd", Both, 2, both::text)), // 79
    Some(row("chdir", Both, 1, both::plain)), // 80
    Some(row("fchdir", Both, 1, both::on_file)), // 81
    Some(row("rename", Both, 2, both::plain)), // 82
    Some(row("mkdir", Both, 2, both::plain)), // 83
    Some(row("rmdir", Both, 1, both::plain)), // 84
    Some(row("creat", Both, 2, files::creat)), // 85
    Some(row("link", Both, 2, both::plain)), // 86
    Some(row("unlink", Both, 1, both::plain)), // 87
    Some(row("symlink", Both, 2, both::plain)), // 88
    Some(row("readlink", Both, 3, files::readlink)), // 89
    Some(row("chmod", Both, 2, both::plain)), // 90
    Some(row("fchmod", Both, 2, both::on_file)), // 91
    Some(row("chown", Both, 3, both::plain)), // 92
    Some(row("fchown", Both, 3, both::on_file)), // 93
    Some(row("lchown", Both, 3, both::plain)), // 94
    Some(row("umask", Both, 1, both::plain)), // 95
    Some(row("gettimeofday", Emulate, 2, clock::gettimeofday)), // 96
    Some(row("getrlimit", Virtual, 2, values::getrlimit)), // 97
    Some(row("getrusage", Record, 2, values::getrusage)), // 98
    Some(row("sysinfo", Record, 1, values::sysinfo)), // 99
    Some(row("times", Record, 1, values::times)), // 100
    Some(refused("ptrace")), // 101
    Some(row("getuid", Both, 0, process::ids)), // 102
    Some(refused("syslog")), // 103
    Some(row("getgid", Both, 0, process::ids)), // 104
    Some(row("setuid", Both, 1, process::ids)), // 105
    Some(row("setgid", Both, 1, process::ids)), // 106
    Some(row("geteuid", Both, 0, process::ids)), // 107
    Some(row("getegid", Both, 0, process::ids)), // 108
    Some(row("setpgid", Emulate, 2, process::setpgid)), // 109
    Some(row("getppid", Emulate, 0, process::getppid)), // 110
    Some(row("getpgrp", Emulate, 0, process::getpgrp)), // 111
    Some(row("setsid", Emulate, 0, process::setsid)), // 112
    Some(row("setreuid", Both, 2, process::ids)), // 113
    Some(row("setregid", Both, 2, process::ids)), // 114
    Some(row("getgroups", Both, 2, process::ids)), // 115
    Some(row("setgroups", Both, 2, process::ids)), // 116
    Some(row("setresuid", Both, 3, process::ids)), // 117
    Some(row("getresuid", Both, 3, process::ids)), // 118
    Some(row("setresgid", Both, 3, process::ids)), // 119
    Some(row("getresgid", Both, 3, process::ids)), // 120
    Some(row("getpgid", Emulate, 1, process::getpgid)), // 121
    Some(row("setfsuid", Both, 1, process::ids)), // 122
    Some(row("setfsgid", Both, 1, process::ids)), // 123
    Some(row("getsid", Emulate, 1, process::getsid)), // 124
    Some(row("capget", Both, 2, values::capget)), // 125
    Some(row("capset", Both, 2, values::capset)), // 126
    Some(row("rt_sigpending", Emulate, 2, signal::rt_sigpending)), // 127
    Some(row("rt_sigtimedwait", Emulate, 4, signal::rt_sigtimedwait)), // 128
    Some(row("rt_sigqueueinfo", Emulate, 3, signal::rt_sigqueueinfo)), // 129
    Some(row("rt_sigsuspend", Emulate, 2, signal::rt_sigsuspend)), // 130
    Some(row("sigaltstack", Emulate, 2, signal::sigaltstack)), // 131
    Some(row("utime", Both, 2, both::plain)), // 132
    Some(row("mknod", Both, 3, both::plain)), // 133
    Some(refused("uselib")), // 134
    Some(row("personality", Virtual, 1, values::zero)), // 135
    Some(refused("ustat")), // 136
    Some(row("statfs", Record, 2, values::statfs)), // 137
    Some(row("fstatfs", Record, 2, values::statfs)), // 138
    Some(refused("sysfs")), // 139
    Some(row("getpriority", Virtual, 2, values::getpriority)), // 140
    Some(row("setpriority", Virtual, 3, values::zero)), // 141
    Some(row("sched_setparam", Virtual, 2, values::sched_accept)), // 142
    Some(row("sched_getparam", Virtual, 2, values::sched_getparam)), // 143
    Some(row("sched_setscheduler", Virtual, 3, values::sched_accept)), // 144
    Some(row("sched_getscheduler", Virtual, 1, values::sched_accept)), // 145
    Some(row("sched_get_priority_max", Virtual, 1, both::plain)), // 146
    Some(row("sched_get_priority_min", Virtual, 1, both::plain)), // 147
    Some(refused("sched_rr_get_interval")), // 148
    Some(row("mlock", Both, 2, both::plain)), // 149
    Some(row("munlock", Both, 2, both::plain)), // 150
    Some(row("mlockall", Both, 1, both::plain)), // 151
    Some(row("munlockall", Both, 0, both::plain)), // 152
    Some(refused("vhangup")), // 153
    Some(refused("modify_ldt")), // 154
    Some(refused("pivot_root")), // 155
    Some(refused("_sysctl")), // 156
    Some(row("prctl", Both, 5, values::prctl)), // 157
    Some(row("arch_prctl", Emulate, 2, threads::arch_prctl)), // 158
    Some(refused("adjtimex")), // 159
    Some(row("setrlimit", Virtual, 2, values::setrlimit)), // 160
    Some(row("chroot", Both, 1, both::plain)), // 161
    Some(row("sync", Both, 0, both::plain)), // 162
    Some(refused("acct")), // 163
    Some(refused("settimeofday")), // 164
    Some(refused("mount")), // 165
    Some(refused("umount2")), // 166
    Some(refused("swapon")), // 167
    Some(refused("swapoff")), // 168
    Some(refused("reboot")), // 169
    Some(refused("sethostname")), // 170
    Some(refused("setdomainname")), // 171
    Some(refused("iopl")), // 172
    Some(refused("ioperm")), // 173
    Some(refused("create_module")), // 174
    Some(refused("init_module")), // 175
    Some(refused("delete_module")), // 176
    Some(refused("get_kernel_syms")), // 177
    Some(refused("query_module")), // 178
    Some(refused("quotactl")), // 179
    Some(refused("nfsservctl")), // 180
    Some(refused("getpmsg")), // 181
    Some(refused("putpmsg")), // 182
    Some(refused("afs_syscall")), // 183
    Some(refused("tuxcall")), // 184
    Some(refused("security")), // 185
    Some(row("gettid", Emulate, 0, threads::gettid)), // 186
    Some(row("readahead", Both, 3, both::on_file)), // 187
    Some(row("setxattr", Both, 5, both::plain)), // 188
    Some(row("lsetxattr", Both, 5, both::plain)), // 189
    Some(row("fsetxattr", Both, 5, both::on_file)), // 190
    Some(row("getxattr", Both, 4, both::text)), // 191
    Some(row("lgetxattr", Both, 4, both::text)), // 192
    Some(row("fgetxattr", Both, 4, both::text)), // 193
    Some(row("listxattr", Both, 3, both::text)), // 194
    Some(row("llistxattr", Both, 3, both::text)), // 195
    Some(row("flistxattr", Both, 3, both::text)), // 196
    Some(row("removexattr", Both, 2, both::plain)), // 197
    Some(row("lremovexattr", Both, 2, both::plain)), // 198
    Some(row("fremovexattr", Both, 2, both::on_file)), // 199
    Some(row("tkill", Emulate, 2, signal::tkill)), // 200
    Some(row("time", Emulate, 1, clock::time)), // 201
    Some(row("futex", Emulate, 6, futex::futex)), // 202
    Some(row("sched_setaffinity", Virtual, 3, values::sched_accept)), // 203
    Some(row("sched_getaffinity", Virtual, 3, values::sched_getaffinity)), // 204
    Some(refused("set_thread_area")), // 205
    Some(refused("io_setup")), // 206
    Some(refused("io_destroy")), // 207
    Some(refused("io_getevents")), // 208
    Some(refused("io_submit")), // 209
    Some(refused("io_cancel")), // 210
    Some(refused("get_thread_area")), // 211
    Some(refused("lookup_dcookie")), // 212
    Some(row("epoll_create", Emulate, 1, epoll::epoll_create)), // 213
    Some(refused("epoll_ctl_old")), // 214
    Some(refused("epoll_wait_old")), // 215
    Some(refused("remap_file_pages")), // 216
    Some(row("getdents64", Record, 3, files::getdents64)), // 217
    Some(row("set_tid_address", Emulate, 1, threads::set_tid_address)), // 218
    Some(refused("restart_syscall")), // 219
    Some(refused("semtimedop")), // 220
    Some(row("fadvise64", Both, 4, both::on_positioned)), // 221
    Some(row("timer_create", Emulate, 3, timers::timer_create)), // 222
    Some(row("timer_settime", Emulate, 4, timers::timer_settime)), // 223
    Some(row("timer_gettime", Emulate, 2, timers::timer_gettime)), // 224
    Some(row("timer_getoverrun", Emulate, 1, timers::timer_getoverrun)), // 225
    Some(row("timer_delete", Emulate, 1, timers::timer_delete)), // 226
    Some(row("clock_settime", Emulate, 2, clock::clock_settime)), // 227
    Some(row("clock_gettime", Emulate, 2, clock::clock_gettime)), // 228
    Some(row("clock_getres", Emulate, 2, clock::clock_getres)), // 229
    Some(row("clock_nanosleep", Emulate, 4, clock::clock_nanosleep)), // 230
    Some(row("exit_group", Emulate, 1, process::exit_group)), // 231
    Some(row("epoll_wait", Emulate, 4, epoll::epoll_wait)), // 232
    Some(row("epoll_ctl", Emulate, 4, epoll::epoll_ctl)), // 233
    Some(row("tgkill", Emulate, 3, signal::tgkill)), // 234
    Some(row("utimes", Both, 2, both::plain)), // 235
    Some(refused("vserver")), // 236
    Some(refused("mbind")), // 237
    Some(refused("set_mempolicy")), // 238
    Some(refused("get_mempolicy")), // 239
    Some(refused("mq_open")), // 240
    Some(refused("mq_unlink")), // 241
    Some(refused("mq_timedsend")), // 242
    Some(refused("mq_timedreceive")), // 243
    Some(refused("mq_notify")), // 244
    Some(refused("mq_getsetattr")), // 245
    Some(refused("kexec_load")), // 246
    Some(row("waitid", Emulate, 5, process::waitid)), // 247
    Some(refused("add_key")), // 248
    Some(refused("request_key")), // 249
    Some(refused("keyctl")), // 250
    Some(row("ioprio_set", Virtual, 3, values::zero)), // 251
    Some(row("ioprio_get", Virtual, 2, values::zero)), // 252
    Some(refused("inotify_init")), // 253
    Some(refused("inotify_add_watch")), // 254
    Some(refused("inotify_rm_watch")), // 255
    Some(refused("migrate_pages")), // 256
    Some(row("openat", Both, 4, files::openat)), // 257
    Some(row("mkdirat", Both, 3, both::plain)), // 258
    Some(row("mknodat", Both, 4, both::plain)), // 259
    Some(row("fchownat", Both, 5, both::plain)), // 260
    Some(row("futimesat", Both, 3, both::plain)), // 261
    Some(row("newfstatat", Record, 4, files::newfstatat)), // 262
    Some(row("unlinkat", Both, 3, both::plain)), // 263
    Some(row("renameat", Both, 4, both::plain)), // 264
    Some(row("linkat", Both, 5, both::plain)), // 265
    Some(row("symlinkat", Both, 3, both::plain)), // 266
    Some(row("readlinkat", Both, 4, files::readlinkat)), // 267
    Some(row("fchmodat", Both, 3, both::plain)), // 268
    Some(row("faccessat", Both, 3, files::faccessat)), // 269
    Some(row("pselect6", Emulate, 6, poll::pselect6)), // 270
    Some(row("ppoll", Emulate, 5, poll::ppoll)), // 271
    Some(refused("unshare")), // 272
    Some(row("set_robust_list", Emulate, 2, threads::set_robust_list)), // 273
    Some(refused("get_robust_list")), // 274
    Some(refused("splice")), // 275
    Some(refused("tee")), // 276
    Some(row("sync_file_range", Both, 4, both::on_positioned)), // 277
    Some(refused("vmsplice")), // 278
    Some(refused("move_pages")), // 279
    Some(row("utimensat", Both, 4, both::plain)), // 280
    Some(row("epoll_pwait", Emulate, 5, epoll::epoll_pwait)), // 281
    Some(row("signalfd", Emulate, 3, signalfd::signalfd)), // 282
    Some(row("timerfd_create", Emulate, 2, timerfd::timerfd_create)), // 283
    Some(row("eventfd", Emulate, 1, eventfd::eventfd)), // 284
    Some(row("fallocate", Both, 4, both::on_positioned)), // 285
    Some(row("timerfd_settime", Emulate, 4, timerfd::timerfd_settime)), // 286
    Some(row("timerfd_gettime", Emulate, 2, timerfd::timerfd_gettime)), // 287
    Some(row("accept4", Emulate, 4, socket::accept4)), // 288
    Some(row("signalfd4", Emulate, 4, signalfd::signalfd4)), // 289
    Some(row("eventfd2", Emulate, 2, eventfd::eventfd2)), // 290
    Some(row("epoll_create1", Emulate, 1, epoll::epoll_create1)), // 291
    Some(row("dup3", Descriptor, 3, fds::dup3)), // 292
    Some(row("pipe2", Emulate, 2, pipe::pipe2)), // 293
    Some(refused("inotify_init1")), // 294
    Some(row("preadv", Descriptor, 4, transfer::preadv)), // 295
    Some(row("pwritev", Descriptor, 4, transfer::pwritev)), // 296
    Some(row("rt_tgsigqueueinfo", Emulate, 4, signal::rt_tgsigqueueinfo)), // 297
    Some(refused("perf_event_open")), // 298
    Some(row("recvmmsg", Emulate, 5, transfer::recvmmsg)), // 299
    Some(refused("fanotify_init")), // 300
    Some(refused("fanotify_mark")), // 301
    Some(row("prlimit64", Virtual, 4, values::prlimit64)), // 302
    Some(refused("name_to_handle_at")), // 303
    Some(refused("open_by_handle_at")), // 304
    Some(refused("clock_adjtime")), // 305
    Some(row("syncfs", Both, 1, both::on_file)), // 306
    Some(row("sendmmsg", Emulate, 4, transfer::sendmmsg)), // 307
    Some(refused("setns")), // 308
    Some(row("getcpu", Virtual, 3, values::getcpu)), // 309
    Some(refused("process_vm_readv")), // 310
    Some(refused("process_vm_writev")), // 311
    Some(refused("kcmp")), // 312
    Some(refused("finit_module")), // 313
    Some(refused("sched_setattr")), // 314
    Some(refused("sched_getattr")), // 315
    Some(row("renameat2", Both, 5, both::plain)), // 316
    Some(refused("seccomp")), // 317
    Some(row("getrandom", Record, 3, values::getrandom)), // 318
    Some(row("memfd_create", Both, 2, files::memfd_create)), // 319
    Some(refused("kexec_file_load")), // 320
    Some(refused("bpf")), // 321
    Some(row("execveat", Refuse, 5, process::execve)), // 322
    Some(refused("userfaultfd")), // 323
    Some(row("membarrier", Emulate, 2, values::membarrier)), // 324
    Some(row("mlock2", Both, 3, both::plain)), // 325
    Some(row("copy_file_range", Both, 6, both::on_file)), // 326
    Some(row("preadv2", Descriptor, 6, transfer::preadv)), // 327
    Some(row("pwritev2", Descriptor, 6, transfer::pwritev)), // 328
    Some(row("pkey_mprotect", Both, 4, memory::pkey_mprotect)), // 329
    Some(refused("pkey_alloc")), // 330
    Some(refused("pkey_free")), // 331
    Some(row("statx", Record, 5, files::statx)), // 332
    Some(refused("io_pgetevents")), // 333
    Some(row("rseq", Refuse, 4, values::rseq)), // 334
    None, // 335
    None, // 336
    None, // 337
    None, // 338
    None, // 339
    None, // 340
    None, // 341
    None, // 342
    None, // 343
    None, // 344
    None, // 345
    None, // 346
    None, // 347
    None, // 348
    None, // 349
    None, // 350
    None, // 351
    None, // 352
    None, // 353
    None, // 354
    None, // 355
    None, // 356
    None, // 357
    None, // 358
    None, // 359
    None, // 360
    None, // 361
    None, // 362
    None, // 363
    None, // 364
    None, // 365
    None, // 366
    None, // 367
    None, // 368
    None, // 369
    None, // 370
    None, // 371
    None, // 372
    None, // 373
    None, // 374
    None, // 375
    None, // 376
    None, // 377
    None, // 378
    None, // 379
    None, // 380
    None, // 381
    None, // 382
    None, // 383
    None, // 384
    None, // 385
    None, // 386
    None, // 387
    None, // 388
    None, // 389
    None, // 390
    None, // 391
    None, // 392
    None, // 393
    None, // 394
    None, // 395
    None, // 396
    None, // 397
    None, // 398
    None, // 399
    None, // 400
    None, // 401
    None, // 402
    None, // 403
    None, // 404
    None, // 405
    None, // 406
    None, // 407
    None, // 408
    None, // 409
    None, // 410
    None, // 411
    None, // 412
    None, // 413
    None, // 414
    None, // 415
    None, // 416
    None, // 417
    None, // 418
    None, // 419
    None, // 420
    None, // 421
    None, // 422
    None, // 423
    Some(refused("pidfd_send_signal")), // 424
    Some(refused("io_uring_setup")), // 425
    Some(refused("io_uring_enter")), // 426
    Some(refused("io_uring_register")), // 427
    Some(refused("open_tree")), // 428
    Some(refused("move_mount")), // 429
    Some(refused("fsopen")), // 430
    Some(refused("fsconfig")), // 431
    Some(refused("fsmount")), // 432
    Some(refused("fspick")), // 433
    Some(refused("pidfd_open")), // 434
    Some(row("clone3", Emulate, 2, threads::clone3)), // 435
    Some(row("close_range", Descriptor, 3, fds::close_range)), // 436
    Some(refused("openat2")), // 437
    Some(refused("pidfd_getfd")), // 438
    Some(row("faccessat2", Both, 4, files::faccessat)), // 439
    Some(refused("process_madvise")), // 440
    Some(row("epoll_pwait2", Emulate, 5, epoll::epoll_pwait2)), // 441
    Some(refused("mount_setattr")), // 442
    Some(refused("quotactl_fd")), // 443
    Some(refused("landlock_create_ruleset")), // 444
    Some(refused("landlock_add_rule")), // 445
    Some(refused("landlock_restrict_self")), // 446
    Some(refused("memfd_secret")), // 447
    Some(refused("process_mrelease")), // 448
    Some(refused("futex_waitv")), // 449
    Some(refused("set_mempolicy_home_node")), // 450
    Some(refused("cachestat")), // 451
    Some(row("fchmodat2", Both, 4, both::plain)), // 452
    Some(refused("map_shadow_stack")), // 453
    Some(refused("futex_wake")), // 454
    Some(refused("futex_wait")), // 455
    Some(refused("futex_requeue")), // 456
    Some(refused("statmount")), // 457
    Some(refused("listmount")), // 458
    Some(refused("lsm_get_self_attr")), // 459
    Some(refused("lsm_set_self_attr")), // 460
    Some(refused("lsm_list_modules")), // 461
    Some(refused("mseal")), // 462
    Some(refused("setxattrat")), // 463
    Some(refused("getxattrat")), // 464
    Some(refused("listxattrat")), // 465
    Some(refused("removexattrat")), // 466
    Some(refused("open_tree_attr")), // 467
];

fn find(number: u32) -> Option<&'static Row> {
    ROWS.get(number as usize)?.as_ref()
}

/// The call's name, for people.
pub fn name(number: u32) -> Option<&'static str> {
    find(number).map(|r| r.name)
}

/// The call's class, for people.
pub fn class_name(number: u32) -> &'static str {
    match find(number).map_or(Refuse, |r| r.class) {
        Emulate => "emulate",
        Descriptor => "by descriptor",
        Both => "both",
        Record => "record",
        Virtual => "virtual",
        Refuse => "refuse",
    }
}

/// How many arguments the call has, as far as the digest is concerned.
pub fn arity(number: u16) -> usize {
    find(number.into()).map_or(0, |r| r.arity.into())
}

/// Answers a call.
pub fn run(k: &mut Kernel, number: u32, a: &Args) -> Reply {
    if k.tells_changes {
        k.tell_change(number, a);
    }
    match find(number) {
        Some(Row { answer: Some(f), .. }) => f(k, a),
        Some(r) => {
            k.refuse(r.name, "this system call is not supported in lockstep");
            Err(ENOSYS)
        }
        None => {
            k.refuse_number("system call", number.into());
            Err(ENOSYS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn census_of_classes() {
        let count = |c| ROWS.iter().flatten().filter(|r| r.class == c).count();
        let census = [Emulate, Descriptor, Both, Record, Virtual, Refuse].map(count);
        // A changed number means a changed promise: docs/DETERMINISM.md lists the same.
        assert_eq!(census, CENSUS);
    }

    #[test]
    fn only_refused_calls_have_no_answer() {
        for r in ROWS.iter().flatten() {
            assert!(r.answer.is_some() || r.class == Refuse, "{} has no answer", r.name);
        }
    }

    const CENSUS: [usize; 6] = [87, 19, 96, 14, 18, 145];
}
