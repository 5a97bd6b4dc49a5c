"""The helper as pid 1 of a real machine (TCG): what is promised in PROTOCOL.md, over a real virtio port."""

import hashlib
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import need

from host.errors import Failure
from host.exec_request import ExecRequest
from host.paths import guest_helper
from host.stdio import Stdio
from images.initrds import initrd
from images.kernels import GuestKernel, guest_kernel
from vmm import frames, usage
from vmm.channel import Channel, HungUp
from vmm.launch import host_tsc_khz

pytestmark = pytest.mark.machine
APPLETS = (
    *("sh", "echo", "cat", "true", "sleep", "yes", "id", "ls", "head", "stty", "hostname", "date"),
    *("sha256sum", "pwd", "grep"),
)
PATH = ("PATH=/bin",)


class Guest:
    """A microvm that runs a busybox tree under the helper; `path` is the socket of its port."""

    def __init__(self, folder: Path, kernel: GuestKernel, disk: Path) -> None:
        self.path = folder / "guest"
        modules = ("virtio_mmio", "virtio_blk", "virtio_console", "virtio_rng", "ext4")
        khz = host_tsc_khz()
        line = "console=ttyS0 panic=-1 reboot=t quiet no_timer_check "
        line += f"tsc_early_khz={khz} lpj={2 * khz} vmm.root=/dev/vda vmm.hostname=first"
        argv = ["qemu-system-x86_64", "-M", "microvm,acpi=on", "-accel", "tcg,tb-size=32", "-m", "128"]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        argv += ["-serial", f"file:{folder}/serial", "-kernel", str(kernel.vmlinux), "-append", line]
        argv += ["-initrd", str(initrd(folder, kernel, guest_helper(), modules))]
        argv += ["-drive", f"if=none,id=d,format=raw,snapshot=on,file={disk}"]
        argv += ["-device", "virtio-blk-device,drive=d", "-device", "virtio-serial-device"]
        argv += ["-chardev", f"socket,id=g,path={self.path},server=on,wait=off"]
        argv += ["-device", "virtserialport,chardev=g,name=vmm.guest"]
        for name in ("log", "status"):
            argv += ["-chardev", f"file,id={name},path={folder}/{name}"]
            argv += ["-device", f"virtserialport,chardev={name},name=vmm.{name}"]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)

    def call(self) -> Channel:
        """A new host for its port; the one before must have left."""
        from vmm.channel import connect

        channel = connect(self.path, 20)
        channel.hello(60)
        return channel

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[GuestKernel, Path]:
    """A kernel, and a disk with busybox, two users and a group."""
    need("qemu", "kernel", "guest-helper", "busybox")
    home = tmp_path_factory.mktemp("guest-parts")
    tree = home / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "etc").mkdir()
    (tree / "bin" / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (tree / "bin" / "busybox").chmod(0o755)
    (tree / "bin" / "plain").write_text("no program")
    for applet in APPLETS:
        (tree / "bin" / applet).symlink_to("busybox")
    (tree / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\n")
    (tree / "etc" / "group").write_text("root:x:0:\nbob:x:1001:\nwheel:x:10:root,bob\n")
    disk = home / "disk"
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, disk, "64M"], check=True)
    return guest_kernel(home), disk


@pytest.fixture(scope="module")
def guest(parts: tuple[GuestKernel, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    one = Guest(tmp_path_factory.mktemp("g"), *parts)
    yield one
    one.end()


@pytest.fixture
def channel(guest: Guest) -> Iterator[Channel]:
    one = guest.call()
    yield one
    one.close()


class Told:
    """Descriptors for a command, and what it says on them."""

    def __init__(self, given: bytes | None = None) -> None:
        self._out, out = os.pipe()
        self._err, err = os.pipe()
        stdin = os.memfd_create("stdin")
        os.write(stdin, given or b"")
        os.lseek(stdin, 0, os.SEEK_SET)
        self.stdio = Stdio(stdin, out, err, interactive=given is not None)
        self.out, self.err = b"", b""
        self._readers = [threading.Thread(target=self._read, args=(name,)) for name in ("out", "err")]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str) -> None:
        while data := os.read(getattr(self, f"_{name}"), 65536):
            setattr(self, name, getattr(self, name) + data)

    def __enter__(self) -> "Told":
        return self

    def __exit__(self, *_: object) -> None:
        for fd in (self.stdio.stdin, self.stdio.stdout, self.stdio.stderr):
            os.close(fd)
        for reader in self._readers:
            reader.join(10)
        os.close(self._out)
        os.close(self._err)


def run(channel: Channel, *argv: str, given: bytes | None = None, **words: str) -> tuple[int, bytes, bytes]:
    request = ExecRequest(argv, PATH, interactive=given is not None)._replace(**words)  # type: ignore[arg-type]
    with Told(given) as told:
        status = channel.run(request, told.stdio)
    return status, told.out, told.err


def test_output_and_status(channel: Channel) -> None:
    assert run(channel, "sh", "-c", "echo one; echo two >&2; exit 7") == (7, b"one\n", b"two\n")
    assert run(channel, "sh", "-c", "kill -9 $$") == (137, b"", b"")


def test_what_cannot_run(channel: Channel) -> None:
    assert run(channel, "nosuch")[0] == 127
    assert run(channel, "/bin/plain")[0] == 126
    with pytest.raises(Failure, match="No such file"):
        run(channel, "true", cwd="/nowhere")
    with pytest.raises(Failure, match="the user of 'true'"):
        run(channel, "true", user="alice")


def test_poised_it_stays_awake_until_a_command_came(guest: Guest, channel: Channel) -> None:
    """A template is frozen so: a clone's guest need not be woken."""

    def worked_s() -> float:
        before_ns = usage.cpu_ns(guest.process.pid)
        time.sleep(0.3)
        return (usage.cpu_ns(guest.process.pid) - before_ns) / 1e9

    assert worked_s() < 0.1
    channel.poise()
    channel.settle(20)
    assert worked_s() > 0.2
    assert run(channel, "echo", "one") == (0, b"one\n", b"")
    assert worked_s() < 0.1


def test_users_are_read_from_the_image(channel: Channel) -> None:
    assert run(channel, "sh", "-c", "id; echo $HOME", user="bob")[1].split(b"\n")[:2] == [
        b"uid=1000(bob) gid=1001(bob) groups=10(wheel)",
        b"/home/bob",
    ]
    assert run(channel, "id", user="4000:10")[1] == b"uid=4000 gid=10(wheel)\n"
    assert run(channel, "pwd", cwd="/etc")[1] == b"/etc\n"


def test_nothing_is_lost_either_way(channel: Channel) -> None:
    data = os.urandom(3 << 20)
    assert run(channel, "cat", given=data) == (0, data, b"")
    digest = hashlib.sha256(data).hexdigest().encode()
    assert run(channel, "sha256sum", given=data)[1].split()[0] == digest


def test_both_streams_to_their_end(channel: Channel) -> None:
    script = "yes out | head -n 100000 & yes err | head -n 50000 >&2; wait"
    status, out, err = run(channel, "sh", "-c", script)
    assert (status, len(out), len(err)) == (0, 400_000, 200_000)


def test_a_signal_passes_input_that_nobody_reads(channel: Channel) -> None:
    """Credit keeps the way free: the command reads nothing, and still gets its signal."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    os.write(write_end, b"x" * 60000)
    null = os.open(os.devnull, os.O_WRONLY)
    request = ExecRequest(("sleep", "100"), PATH, interactive=True)
    wake = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    try:
        stdio = Stdio(read_end, null, null, interactive=True)
        status = channel.run(request, stdio, on_started=lambda _: wake.start())
    finally:
        for fd in (read_end, write_end, null):
            os.close(fd)
    assert status == 128 + signal.SIGTERM


def test_a_terminal_has_the_size_that_was_asked_for(channel: Channel) -> None:
    request = ExecRequest(("sh", "-c", "stty size; echo err >&2"), PATH, tty=True, rows=33, cols=77)
    with Told() as told:
        assert channel.run(request, told.stdio) == 0
    assert told.out == b"33 77\r\nerr\r\n"


def test_several_commands_at_once(channel: Channel) -> None:
    script = "for i in 1 2 3; do echo %d; sleep 0.1; done; exit %d"
    ids = [channel.begin(ExecRequest(("sh", "-c", script % (n, n)), PATH)) for n in range(5)]
    said = {id_: b"" for id_ in ids}
    ends: dict[int, int] = {}
    while len(ends) < 5:
        for frame in channel.receive(time.monotonic() + 20, "the commands"):
            if frame.type == frames.STDOUT:
                said[frame.id] += frame.payload
            elif frame.type == frames.EXIT:
                ends[frame.id] = struct.unpack_from("<I", frame.payload)[0]
    assert [said[id_] for id_ in ids] == [b"%d\n" % n * 3 for n in range(5)]
    assert [ends[id_] for id_ in ids] == list(range(5))


def test_a_host_that_leaves_in_the_middle_of_a_frame(guest: Guest) -> None:
    first = guest.call()
    first.begin(ExecRequest(("yes",), PATH))
    whole = frames.encode(frames.EXEC, 9, frames.exec_payload(("echo", "half"), PATH, "/", "", 0))
    first.socket.setblocking(True)
    first.socket.sendall(whole[:40])
    first.close()
    second = guest.call()
    try:
        assert run(second, "echo", "whole") == (0, b"whole\n", b"")
    finally:
        second.close()


def test_a_slow_reader_holds_the_command_up(channel: Channel) -> None:
    """What the helper cannot get rid of it does not read: the guest's memory is not our buffer."""
    id_ = channel.begin(ExecRequest(("yes",), PATH))
    time.sleep(3.0)
    used = run_aside(channel, id_)
    # The queue of a virtio port takes 128 frames of 32 KiB, the socket some more.
    assert used < 5 << 20, used


def run_aside(channel: Channel, id_: int) -> int:
    """The bytes that a flooding command has got out, when nobody read for a while; the command is ended."""
    channel.send(frames.SIGNAL, id_, struct.pack("<I", signal.SIGKILL))
    got = 0
    while True:
        for frame in channel.receive(time.monotonic() + 20, "the end"):
            got += len(frame.payload) if frame.type == frames.STDOUT else 0
            if frame.type == frames.EXIT and frame.id == id_:
                return got


def test_identity_files_clock_and_randomness(channel: Channel) -> None:
    channel.identity(hostname="renamed")
    channel.put("/a/new/folder/file", b"text", 0o640, 1000, 1001)
    channel.reseed()
    channel.set_time()
    channel.settle(10)
    script = "hostname; cat /a/new/folder/file; ls -ln /a/new/folder/file | head -c 24; echo; date +%s"
    lines = run(channel, "sh", "-c", script)[1].decode().split("\n")
    assert lines[0] == "renamed"
    assert lines[1].startswith("text-rw-r-----")
    assert lines[1].split()[-1] == "1000"
    assert abs(int(lines[-2]) - time.time()) < 3
    channel.identity(network="10.0.0.2/24")
    with pytest.raises(Failure, match="cannot set the address in the machine: No such device"):
        channel.settle(10)


def test_orphans_are_reaped(channel: Channel) -> None:
    run(channel, "sh", "-c", "(sleep 0.1 &) ; (sleep 0.1 &)")
    time.sleep(0.5)
    zombies = run(channel, "sh", "-c", "cat /proc/[0-9]*/stat | grep -c ' Z ' || true")[1]
    assert zombies.strip() in (b"0", b"")


def test_a_bad_frame_is_passed_over(channel: Channel) -> None:
    channel.socket.setblocking(True)
    channel.socket.sendall(b"rubbish" + frames.MAGIC + b"v" * 50)
    channel.socket.setblocking(False)
    payload = bytearray(frames.exec_payload(("echo", "changed"), PATH, "/", "", 0))
    payload[-2] ^= 1
    channel.send(frames.EXEC, 77, bytes(payload))
    (frame,) = channel.receive(time.monotonic() + 10, "the refusal")
    assert (frame.id, struct.unpack_from("<I", frame.payload)[0]) == (77, 125)
    assert run(channel, "echo", "fine")[1] == b"fine\n"


@pytest.mark.slow
def test_the_main_command_ends_the_machine(parts: tuple[GuestKernel, Path], tmp_path: Path) -> None:
    one = Guest(tmp_path, *parts)
    try:
        channel = one.call()
        assert channel.start_main(ExecRequest(("sh", "-c", "echo out; echo err >&2; exit 3"), PATH)) > 1
        channel.close()
        one.process.wait(20)
        assert (tmp_path / "status").read_bytes() == b"exit 3\n"
        log, said = (tmp_path / "log").read_bytes(), []
        while log:
            stream, _, length = struct.unpack_from("<BQI", log)
            said.append((stream, log[13 : 13 + length]))
            log = log[13 + length :]
        assert sorted(said) == [(1, b"out\n"), (2, b"err\n")]
    finally:
        one.end()


@pytest.mark.slow
def test_qemu_that_dies_is_told(parts: tuple[GuestKernel, Path], tmp_path: Path) -> None:
    one = Guest(tmp_path, *parts)
    channel = one.call()
    threading.Timer(0.3, one.process.kill).start()
    with pytest.raises(HungUp), Told() as told:
        channel.run(ExecRequest(("sleep", "100"), PATH), told.stdio)
    channel.close()
    one.end()
    assert isinstance(channel.socket, socket.socket)
