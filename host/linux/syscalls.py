"""The system calls that Python does not offer, each under its own name: the only place with ctypes.

Every wrapper raises OSError with the call's errno and, where it has one, the path. Paths are bytes: between
clone(2) and execve(2) nothing may look up a codec, since codecs are modules and modules are files.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Sequence
from ctypes import c_char_p, c_int, c_long, c_uint, c_ulong, c_void_p

from host.linux.constants import *  # noqa: F403 - whoever makes the calls has their numbers at hand
from host.linux.constants import (
    CLOSE_RANGE_CLOEXEC,
    LINUX_CAPABILITY_VERSION_3,
    MOVE_MOUNT_F_EMPTY_PATH,
    MOVE_MOUNT_T_EMPTY_PATH,
    PR_SET_SECCOMP,
    SECCOMP_MODE_FILTER,
)

# asm-generic/unistd.h and asm/unistd_64.h agree on every number from 424 on
_NR_PIDFD_SEND_SIGNAL = 424
_NR_CLONE3 = 435
_NR_OPENAT2 = 437
_NR_PIDFD_GETFD = 438

# sys/socket.h, net/if.h, linux/sockios.h
_AF_INET = 2
_SOCK_DGRAM = 2
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _prototype(name: str, *argtypes: type) -> ctypes._NamedFuncPointer:
    function: ctypes._NamedFuncPointer = getattr(_libc, name)
    function.argtypes = list(argtypes)
    return function


# `syscall` is variadic: a long for every argument is what the kernel's calling convention wants.
_syscall = _prototype("syscall", c_long, c_long, c_long, c_long, c_long, c_long)
_syscall.restype = c_long
_clone3 = ctypes.CDLL(None, use_errno=True)["syscall"]
_clone3.argtypes, _clone3.restype = [c_long, c_char_p, c_long], c_long
_openat2 = ctypes.CDLL(None, use_errno=True)["syscall"]
_openat2.argtypes, _openat2.restype = [c_long, c_int, c_char_p, c_char_p, c_long], c_long
_unshare = _prototype("unshare", c_int)
_setns = _prototype("setns", c_int, c_int)
_mount = _prototype("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_umount2 = _prototype("umount2", c_char_p, c_int)
_pivot_root = _prototype("pivot_root", c_char_p, c_char_p)
_open_tree = _prototype("open_tree", c_int, c_char_p, c_uint)
_move_mount = _prototype("move_mount", c_int, c_char_p, c_int, c_char_p, c_uint)
_mount_setattr = _prototype("mount_setattr", c_int, c_char_p, c_uint, c_char_p, c_ulong)
_sethostname = _prototype("sethostname", c_char_p, c_ulong)
_prctl = _prototype("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_prctl_pointer = ctypes.CDLL(None, use_errno=True)["prctl"]
_prctl_pointer.argtypes = [c_int, c_ulong, c_void_p]
_capset = _prototype("capset", c_char_p, c_char_p)
_close_range = _prototype("close_range", c_uint, c_uint, c_int)
_personality = _prototype("personality", c_ulong)
_execve = _prototype("execve", c_char_p, c_void_p, c_void_p)
_socket = _prototype("socket", c_int, c_int, c_int)
_ioctl = _prototype("ioctl", c_int, c_ulong, c_char_p)
_signal = _prototype("signal", c_int, c_void_p)
_sigset = ctypes.create_string_buffer(128)
_sigemptyset = _prototype("sigemptyset", c_char_p)
_sigprocmask = _prototype("sigprocmask", c_int, c_char_p, c_char_p)
_inotify_init1 = _prototype("inotify_init1", c_int)
_inotify_add_watch = _prototype("inotify_add_watch", c_int, c_char_p, c_uint)
_fsopen = _prototype("fsopen", c_char_p, c_uint)
_fsconfig = _prototype("fsconfig", c_int, c_uint, c_char_p, c_char_p, c_int)
_fsmount = _prototype("fsmount", c_int, c_uint, c_uint)
_setfsuid = _prototype("setfsuid", c_uint)
_setfsgid = _prototype("setfsgid", c_uint)


def _failed(path: bytes | None = None) -> OSError:
    # No strerror: the parent words the error, this may run where libc must load nothing.
    return OSError(ctypes.get_errno(), "", path)


def clone3(flags: int, exit_signal: int, cgroup_fd: int = -1) -> int:
    """Clone this process without sharing memory; 0 in the child. Only safe while single-threaded: clone3(2).

    glibc does not learn of it, so its locks must be free, which one thread guarantees.
    """
    into_cgroup = 0x200000000 if cgroup_fd >= 0 else 0
    args = struct.pack("11Q", flags | into_cgroup, 0, 0, 0, exit_signal, 0, 0, 0, 0, 0, max(cgroup_fd, 0))
    pid: int = _clone3(_NR_CLONE3, args, len(args))
    if pid < 0:
        raise _failed()
    return pid


def unshare(flags: int) -> None:
    """unshare(2)."""
    if _unshare(flags):
        raise _failed()


def setns(fd: int, kind: int) -> None:
    """setns(2); `fd` is a namespace file or a pidfd."""
    if _setns(fd, kind):
        raise _failed()


def mount(
    source: bytes | None, target: bytes, fstype: bytes | None, flags: int, data: bytes | None = None
) -> None:
    """mount(2); None stays NULL, since empty data costs the kernel a page."""
    if _mount(source, target, fstype, flags, data):
        raise _failed(target)


def umount2(target: bytes, flags: int) -> None:
    """umount2(2)."""
    if _umount2(target, flags):
        raise _failed(target)


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """pivot_root(2)."""
    if _pivot_root(new_root, put_old):
        raise _failed(new_root)


def open_tree(fd: int, path: bytes, flags: int) -> int:
    """open_tree(2): a descriptor of a mount, with OPEN_TREE_CLONE of a detached copy."""
    tree: int = _open_tree(fd, path, flags)
    if tree < 0:
        raise _failed(path)
    return tree


def move_mount(from_fd: int, to_fd: int, to_path: bytes = b"") -> None:
    """move_mount(2) of the tree behind `from_fd` onto `to_path`, or onto `to_fd` itself without one."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if to_path else MOVE_MOUNT_T_EMPTY_PATH)
    if _move_mount(from_fd, b"", to_fd, to_path, flags):
        raise _failed(to_path)


def mount_setattr(
    fd: int, path: bytes, flags: int, attr_set: int, attr_clear: int = 0, userns_fd: int = 0, spread: int = 0
) -> None:
    """mount_setattr(2); `spread` is MS_PRIVATE, MS_SLAVE or MS_SHARED."""
    attr = struct.pack("4Q", attr_set, attr_clear, spread, userns_fd)
    if _mount_setattr(fd, path, flags, attr, len(attr)):
        raise _failed(path)


def sethostname(name: bytes) -> None:
    """sethostname(2)."""
    if _sethostname(name, len(name)):
        raise _failed(name)


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """prctl(2) with integer arguments."""
    answer: int = _prctl(option, a, b, c, d)
    if answer < 0:
        raise _failed()
    return answer


def personality(persona: int) -> None:
    """personality(2)."""
    if _personality(persona) == -1:
        raise _failed()


_NR_BPF = {"x86_64": 321, "aarch64": 280}.get(os.uname().machine, 280)  # asm-generic has 280
_BPF_PROG_LOAD, _BPF_PROG_ATTACH, _BPF_PROG_TYPE_CGROUP_DEVICE, _BPF_CGROUP_DEVICE = 5, 8, 15, 6
_BPF_F_ALLOW_MULTI = 2


def _bpf(command: int, attributes: bytes) -> int:
    held = ctypes.create_string_buffer(attributes, len(attributes))
    answer: int = _syscall(_NR_BPF, command, ctypes.addressof(held), len(attributes), 0, 0)
    if answer < 0:
        raise _failed()
    return answer


def bpf_load_device_filter(program: bytes) -> int:
    """A descriptor of an eBPF program of type BPF_PROG_TYPE_CGROUP_DEVICE: bpf(2), BPF_PROG_LOAD."""
    code = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"GPL")
    head = struct.pack(
        "IIQQIIQII", _BPF_PROG_TYPE_CGROUP_DEVICE, len(program) // 8,
        ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0, 0,
    )  # fmt: skip
    return _bpf(_BPF_PROG_LOAD, head)


def bpf_attach_device_filter(cgroup_fd: int, program_fd: int) -> None:
    """Attach a device filter to a cgroup v2 directory; all that are attached must allow
    (BPF_F_ALLOW_MULTI).
    """
    _bpf(_BPF_PROG_ATTACH, struct.pack("IIII", cgroup_fd, program_fd, _BPF_CGROUP_DEVICE, _BPF_F_ALLOW_MULTI))


def seccomp_filter(program: bytes) -> None:
    """Install a BPF program (struct sock_filter[]) for this process: seccomp(2), SECCOMP_MODE_FILTER."""
    instructions = ctypes.create_string_buffer(program, len(program))
    fprog = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))
    )
    if _prctl_pointer(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(fprog)):
        raise _failed()


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) of this process; each set is a mask with bit n for capability n."""
    low, high = 0xFFFFFFFF, 32
    sets = (effective, permitted, inheritable)
    header = struct.pack("Ii", LINUX_CAPABILITY_VERSION_3, 0)
    if _capset(header, struct.pack("6I", *(one & low for one in sets), *(one >> high for one in sets))):
        raise _failed()


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = CLOSE_RANGE_CLOEXEC) -> None:
    """close_range(2); by default marks the descriptors close-on-exec."""
    if _close_range(first, last, flags):
        raise _failed()


def openat2(fd: int, path: bytes, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2)."""
    how = struct.pack("3Q", flags | os.O_CLOEXEC, mode, resolve)
    opened: int = _openat2(_NR_OPENAT2, fd, path, how, len(how))
    if opened < 0:
        raise _failed(path)
    return opened


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """pidfd_send_signal(2)."""
    if _syscall(_NR_PIDFD_SEND_SIGNAL, pidfd, number, 0, 0, 0):
        raise _failed()


class Words:
    """A NULL-terminated char*[] for execve, built while building is still allowed."""

    __slots__ = ("_array", "address")

    def __init__(self, words: Sequence[bytes]) -> None:
        self._array = (c_char_p * (len(words) + 1))(*words, None)
        self.address = ctypes.addressof(self._array)


def execve(path: bytes, argv: Words, env: Words) -> None:
    """execve(2): returns only by raising."""
    _execve(path, argv.address, env.address)
    raise _failed(path)


def loopback_up() -> None:
    """Bring `lo` up in this network namespace: netdevice(7), SIOCSIFFLAGS with IFF_UP."""
    fd = _socket(_AF_INET, _SOCK_DGRAM | os.O_CLOEXEC, 0)
    if fd < 0:
        raise _failed()
    try:
        if _ioctl(fd, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP)):
            raise _failed(b"lo")
    finally:
        os.close(fd)


def default_signals(ignored: Iterable[int] = range(1, 65)) -> None:
    """The `ignored` signals back to their default and none blocked: execve(2) keeps both."""
    for number in ignored:
        _signal(number, None)
    _sigemptyset(_sigset)
    _sigprocmask(2, _sigset, None)


def inotify(path: bytes, mask: int) -> int:
    """A descriptor that becomes readable when `path` changes: inotify_init1(2), inotify_add_watch(2)."""
    fd: int = _inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise _failed()
    if _inotify_add_watch(fd, path, mask) < 0:
        error = _failed(path)
        os.close(fd)
        raise error
    return fd


def overlay(options: bytes) -> int:
    """A descriptor of an overlay mount that is attached nowhere: fsopen(2), fsconfig(2), fsmount(2).

    `options` are those of mount(8), with `\\` before a comma or colon that belongs to a path.
    """
    words = split_options(options)
    try:
        return _overlay([short for option in words for short in _short(option)])
    except OSError as error:
        if error.errno != errno.EINVAL or not any(map(_is_long, words)):
            raise
    opened: list[int] = []
    try:
        return _overlay([short for option in words for short in _by_descriptor(option, opened)])
    finally:
        for fd in opened:
            os.close(fd)


def _overlay(words: list[bytes]) -> int:
    context: int = _fsopen(b"overlay", 1)  # FSOPEN_CLOEXEC
    if context < 0:
        raise _failed()
    try:
        for word in words:
            key, _, value = word.partition(b"=")
            command = 1 if value else 0  # FSCONFIG_SET_STRING, FSCONFIG_SET_FLAG
            if _fsconfig(context, command, key, value or None, 0):
                raise _failed(word)
        if _fsconfig(context, 6, None, None, 0):  # FSCONFIG_CMD_CREATE
            raise _failed(b"overlay")
        mounted: int = _fsmount(context, 1, 0)  # FSMOUNT_CLOEXEC
        if mounted < 0:
            raise _failed(b"overlay")
        return mounted
    finally:
        os.close(context)


def _short(option: bytes) -> list[bytes]:
    """The option in pieces that fsconfig(2) takes: values of 255 bytes; each `lowerdir+` a layer (6.7)."""
    return [b"lowerdir+=" + one for one in _layers(option)] if _is_long(option) else [option]


def _is_long(option: bytes) -> bool:
    return len(option) > 255 and option.startswith(b"lowerdir=")


def _layers(option: bytes) -> list[bytes]:
    import re

    return re.split(rb"(?<!\\):", option.removeprefix(b"lowerdir="))


def _by_descriptor(option: bytes, opened: list[int]) -> list[bytes]:
    """The same where the kernel has no `lowerdir+`: short names for up to sixteen layers."""
    if not _is_long(option):
        return [option]
    for path in _layers(option):
        opened.append(os.open(path.replace(b"\\:", b":"), os.O_PATH | os.O_CLOEXEC))
    return [b"lowerdir=" + b":".join(b"/proc/self/fd/%d" % fd for fd in opened)]


def set_file_system_ids(uid: int, gid: int, capabilities: int) -> None:
    """setfsgid(2) and setfsuid(2); the effective `capabilities` that leaving 0 takes away are put back."""
    _setfsgid(gid)
    _setfsuid(uid)
    capset(capabilities, capabilities, 0)


def split_options(options: bytes) -> list[bytes]:
    """Mount options at the commas that no backslash protects, the protection of commas taken off."""
    words, word, position = [], b"", 0
    while position < len(options):
        one = options[position : position + 1]
        if one == b"\\":
            two = options[position : position + 2]
            word += two[1:] if two == b"\\," else two
            position += 2
            continue
        if one == b",":
            words.append(word)
            word = b""
        else:
            word += one
        position += 1
    return [*words, word]


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2): a copy of another process's descriptor."""
    got: int = _syscall(_NR_PIDFD_GETFD, pidfd, fd, 0, 0, 0)
    if got < 0:
        raise _failed()
    return got
