"""The system calls a container may make: an allow-list, ENOSYS for the unknown, EPERM for the dangerous.

ENOSYS lets a libc newer than this list fall back as on an old kernel; EPERM tells the dangerous call apart.
The program is compiled once by libseccomp and kept by the digest of its profile; loading it imports nothing.
"""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

from host.errors import BadData, HostUnfit, Usage
from host.typing import Any

ALLOWED = tuple(
    """
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair access
    cachestat chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat
    faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat
    fcntl fcntl64 fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64
    fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat
    ioctl lchown lchown32 lgetxattr link linkat listxattr listxattrat llistxattr _llseek lremovexattr lseek
    lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2
    pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr
    removexattrat rename renameat renameat2 rmdir sendfile sendfile64 setxattr setxattrat splice stat stat64
    statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask unlink
    unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev epoll_create epoll_create1
    epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
    fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch _newselect pipe pipe2 poll
    ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64 brk madvise membarrier memfd_create memfd_secret
    mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap
    pkey_alloc pkey_free pkey_mprotect process_madvise process_mrelease remap_file_pages map_shadow_stack
    alarm arch_prctl capget capset clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 execve execveat exit exit_group fork futex futex_requeue
    futex_time64 futex_wait futex_waitv futex_wake get_robust_list get_thread_area getcpu getegid getegid32
    geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpgid getpgrp getpid getppid
    getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid gettid
    gettimeofday getuid getuid32 ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset
    landlock_restrict_self nanosleep pause pidfd_getfd pidfd_open pidfd_send_signal prctl prlimit64
    process_vm_readv process_vm_writev ptrace restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
    sched_setparam sched_setscheduler sched_yield seccomp set_robust_list set_thread_area set_tid_address
    setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32
    setrlimit setsid setuid setuid32 sigaltstack signal sigprocmask sigreturn sysinfo tgkill time
    timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
    times tkill ugetrlimit uname vfork wait4 waitid waitpid io_cancel io_destroy io_getevents io_pgetevents
    io_pgetevents_time64 io_setup io_submit ipc mq_getsetattr mq_notify mq_open mq_timedreceive
    mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl
    semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget cacheflush breakpoint set_tls
    sync_file_range2 modify_ldt adjtimex clock_adjtime clock_adjtime64
    """.split()  # noqa: SIM905 - a table of words
)

# Told apart from the unknown: a program that asks for these should hear "not permitted".
REFUSED = tuple(
    """
    acct add_key bpf chroot clock_settime clock_settime64 create_module delete_module fanotify_init
    finit_module fsconfig fsmount fsopen fspick get_kernel_syms get_mempolicy init_module io_uring_enter
    io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind
    migrate_pages mount mount_setattr move_mount move_pages nfsservctl open_by_handle_at open_tree
    perf_event_open pivot_root quotactl quotactl_fd reboot request_key set_mempolicy set_mempolicy_home_node
    sethostname setdomainname setns settimeofday stime swapoff swapon _sysctl sysfs syslog umount umount2
    unshare uselib userfaultfd ustat vhangup vm86 vm86old
    """.split()  # noqa: SIM905 - a table of words
)

# Refused by default, allowed with the capability without which they would fail anyway.
BY_CAPABILITY = {
    "SYS_ADMIN": "bpf clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount "
    "mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname "
    "sethostname setns syslog umount umount2 unshare",
    "SYS_CHROOT": "chroot",
    "SYS_BOOT": "reboot kexec_load kexec_file_load",
    "SYS_MODULE": "delete_module init_module finit_module",
    "SYS_PACCT": "acct",
    "SYS_PTRACE": "kcmp",
    "SYS_RAWIO": "iopl ioperm",
    "SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "SYS_TTY_CONFIG": "vhangup",
    "SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node migrate_pages move_pages",
    "SYSLOG": "syslog",
    "BPF": "bpf",
    "PERFMON": "perf_event_open",
    "DAC_READ_SEARCH": "open_by_handle_at",
}
_NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW* of clone(2) but NEWTIME, which clone(2) cannot express
_PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)
_AF_ALG, _AF_VSOCK = 38, 40
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_VERSION = 2  # part of the digest: a changed compiler must not meet an old program


def program(profile: str, capabilities: frozenset[str], cache: Path) -> bytes:
    """The BPF of `profile` ("default", "compat", "unconfined", a file), compiled once, then from `cache`.

    Raises HostUnfit where libseccomp is missing at the first use, Usage for an unknown profile.
    """
    if profile == "unconfined":
        return b""
    if profile.startswith("/"):
        from containers import profiles

        return profiles.program(profile, capabilities, cache)
    if profile not in ("default", "compat"):
        raise Usage(
            "cannot use the seccomp profile",
            profile,
            "not known",
            "use default, compat, unconfined or a file",
        )
    foreign = profile == "compat"
    path = cache / f"seccomp-{_digest(capabilities, foreign)}.bpf"
    try:
        compiled = path.read_bytes()
    except FileNotFoundError:
        return _compile_into(path, capabilities, foreign)
    if not compiled or len(compiled) % 8:
        raise BadData("cannot use the seccomp program", str(path), "not whole BPF instructions", f"rm {path}")
    return compiled


def _digest(capabilities: frozenset[str], foreign: bool) -> str:
    import zlib

    relevant = sorted(capabilities & BY_CAPABILITY.keys())
    words = " ".join([str(_VERSION), platform_machine(), str(foreign), *relevant, *ALLOWED, *REFUSED])
    return f"{zlib.crc32(words.encode()):08x}-{len(words):x}"


def platform_machine() -> str:
    """The machine's architecture in the kernel's word."""
    return os.uname().machine


def _compile_into(path: Path, capabilities: frozenset[str], foreign: bool) -> bytes:
    from host import records

    compiled = compile_default(capabilities, foreign)
    path.parent.mkdir(parents=True, exist_ok=True)
    records.write_bytes(path, compiled)
    return compiled


def compile_default(capabilities: frozenset[str], foreign: bool = False) -> bytes:
    """Compile the default profile with libseccomp as a binary tree: 400 compares would cost every call.

    `foreign` lets 32-bit programs run too ("compat"); it doubles the program and its time to load.
    """
    try:
        import pyseccomp as seccomp
    except (ImportError, RuntimeError, OSError) as error:
        hint = "apt-get install libseccomp2, or use --security-opt seccomp=unconfined"
        raise HostUnfit("cannot compile the seccomp filter", why=str(error), hint=hint) from None
    rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.ENOSYS))
    rules.set_attr(seccomp.Attr.CTL_OPTIMIZE, 2)
    if foreign and platform_machine() == "x86_64":
        rules.add_arch(seccomp.Arch.X86)
    granted = {name for one in capabilities for name in BY_CAPABILITY.get(one, "").split()}
    for name in {*ALLOWED, *granted, "socket", "clone"}:
        _add(rules, seccomp.ALLOW, name)
    for name in set(REFUSED) - granted:
        _add(rules, seccomp.ERRNO(errno.EPERM), name)
    for value in _PERSONALITIES:
        _add(rules, seccomp.ALLOW, "personality", seccomp.Arg(0, seccomp.EQ, value))
    architectures = [platform_machine(), *(["i386"] if foreign else [])]
    guards = [guard(one, "SYS_ADMIN" in capabilities) for one in architectures if one in _GUARDED]
    return b"".join(guards) + _exported(rules)


def _add(rules: Any, action: int, name: str, *conditions: Any) -> None:
    try:
        rules.add_rule(action, name, *conditions)
    except (OSError, ValueError):
        pass  # libseccomp does not know the call: the kernel answers ENOSYS through the default


# BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JSET|K, BPF_RET|K: linux/bpf_common.h
_LOAD, _EQUAL, _ANY_BIT, _ANSWER = 0x20, 0x15, 0x45, 0x06
_REFUSE = 0x00050000 | errno.EPERM  # SECCOMP_RET_ERRNO
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT, _SECOND_ARGUMENT_AT = 0, 4, 16, 24  # struct seccomp_data
# linux/audit.h; the numbers of ioctl, socket and clone in asm/unistd.h
_GUARDED = {
    "x86_64": (0xC000003E, 16, 41, 56),
    "i386": (0x40000003, 54, 359, 120),
    "aarch64": (0xC00000B7, 29, 198, 220),
}


def guard(architecture: str, namespaces: bool) -> bytes:
    """Refuse three calls by an argument, for one architecture: what libseccomp cannot say of an allowed call.

    ioctl: bytes pushed into a terminal (CVE-2017-5226, CVE-2019-10063); the kernel takes an unsigned int, so
    the low half counts. socket: AF_ALG and AF_VSOCK. clone: new namespaces, unless `namespaces` allows them.
    Goes before libseccomp's program: BPF jumps are relative.
    """
    tests = [
        (1, _SECOND_ARGUMENT_AT, [(_EQUAL, _TIOCSTI), (_EQUAL, _TIOCLINUX)]),
        (2, _FIRST_ARGUMENT_AT, [(_EQUAL, _AF_ALG), (_EQUAL, _AF_VSOCK)]),
    ]
    if not namespaces:
        tests.append((3, _FIRST_ARGUMENT_AT, [(_ANY_BIT, _NEW_NAMESPACES)]))
    numbers = _GUARDED[architecture]
    body: list[tuple[int, int, int, int]] = [(_LOAD, 0, 0, _NUMBER_AT)]
    for which, offset, refused in tests:
        # over this test's block where it is another call: load, the comparisons, reload of the number
        body.append((_EQUAL, 0, len(refused) + 3, numbers[which]))
        body.append((_LOAD, 0, 0, offset))
        for position, (jump, value) in enumerate(refused):
            last = position == len(refused) - 1
            body.append((jump, len(refused) - 1 - position, 1 if last else 0, value))
        body.append((_ANSWER, 0, 0, _REFUSE))
        body.append((_LOAD, 0, 0, _NUMBER_AT))
    lines = [(_LOAD, 0, 0, _ARCHITECTURE_AT), (_EQUAL, 0, len(body), numbers[0]), *body]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def _exported(rules: Any) -> bytes:
    fd = os.memfd_create("bpf")
    with os.fdopen(fd, "w+b") as file:
        rules.export_bpf(file)
        file.seek(0)
        compiled: bytes = file.read()
        return compiled
