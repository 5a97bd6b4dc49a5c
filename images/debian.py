"""The base image `debian`, made by mmdebstrap: systemd, sshd, and cloud-init that sleeps without a seed."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import IO

from host import commands
from host.errors import CommandFailed
from images import aptsources
from images import config as configs
from images.pack import Packed, pack_stream
from images.store import Image, Store, now_unix_s, rfc3339

PACKAGES = (
    "systemd-sysv", "udev", "dbus", "kmod", "mount", "e2fsprogs", "openssh-server", "cloud-init", "sudo",
    "iproute2", "iputils-ping", "netbase", "procps", "ca-certificates",
)  # fmt: skip
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DPKG_OPTIONS = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)
# What a short-lived machine never needs. Under TCG each unit costs 50 to 500 ms of its start.
_MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "fstrim.timer", "e2scrub_reap.service", "systemd-networkd-wait-online.service",
    "systemd-pstore.service", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
    "systemd-timesyncd.service", "systemd-rfkill.service", "systemd-rfkill.socket",
    "getty@tty1.service", "getty-static.service", "modprobe@configfs.service", "modprobe@drm.service",
    "modprobe@efi_pstore.service", "modprobe@fuse.service", "modprobe@dm_mod.service",
    "modprobe@loop.service", "kmod-static-nodes.service", "systemd-modules-load.service",
    "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount",
    "sys-fs-fuse-connections.mount", "dev-hugepages.mount", "proc-sys-fs-binfmt_misc.automount",
    "systemd-binfmt.service", "systemd-hwdb-update.service", "ldconfig.service",
    "systemd-firstboot.service", "systemd-machine-id-commit.service", "systemd-ask-password-wall.path",
    "systemd-ask-password-console.path", "dev-mqueue.mount", "systemd-network-generator.service",
    "systemd-repart.service", "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service",
)  # fmt: skip
# Programs that systemd starts before anything else, for disks that a machine of ours never has.
_MASKED_GENERATORS = (
    "systemd-bless-boot-generator", "systemd-cryptsetup-generator", "systemd-gpt-auto-generator",
    "systemd-hibernate-resume-generator", "systemd-integritysetup-generator",
    "systemd-veritysetup-generator",
)  # fmt: skip
_FILES = {
    "etc/hostname": "debian\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 debian\n::1 localhost ip6-localhost ip6-loopback\n",
    "etc/machine-id": "",
    "etc/resolv.conf": "",
    # Any network card asks DHCP; a file that cloud-init writes (10-cloud-init-*) comes before this one.
    "etc/systemd/network/90-dhcp.network": (
        "[Match]\nName=en* eth*\n\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n\n"
        "[DHCPv4]\nClientIdentifier=mac\nUseDomains=yes\n"
    ),
    # Names of servers reach resolv.conf without systemd-resolved and its start-up time: those of a static
    # network stand before anyone can watch for them, those of DHCP come later.
    "etc/systemd/system/resolv-conf.path": (
        "[Unit]\nDescription=Watch the name servers that networkd learned\n\n"
        "[Path]\nPathChanged=/run/systemd/netif/state\n\n[Install]\nWantedBy=multi-user.target\n"
    ),
    "etc/systemd/system/resolv-conf.service": (
        "[Unit]\nDescription=Write the name servers into resolv.conf\nAfter=resolv-conf.path ssh.service\n\n"
        "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'test -e /run/systemd/netif/state || exit 0; "
        ". /run/systemd/netif/state; : >/run/resolv.new; for server in $DNS; do "
        "echo nameserver $server >>/run/resolv.new; done; "
        "test ! -s /run/resolv.new || cat /run/resolv.new >/etc/resolv.conf'\n"
    ),
    # A disk larger than the image's file system: grown while mounted, a no-op of milliseconds otherwise.
    "etc/systemd/system/grow-root.service": (
        "[Unit]\nDescription=Grow the root file system to its disk\nConditionVirtualization=!container\n"
        "After=ssh.service\n\n[Service]\nType=oneshot\nExecStart=-/lib/systemd/systemd-growfs /\n\n"
        "[Install]\nWantedBy=multi-user.target\n"
    ),
    # No key lies in the image: each machine makes its own at its first start, the one kind that is fast to
    # make.
    "etc/ssh/sshd_config.d/10-hostkey.conf": "HostKey /etc/ssh/ssh_host_ed25519_key\nUseDNS no\n",
    # Debian's unit, but for two things: it makes its key, and it does not wait for the network, as a server
    # that listens on every address need not.
    "etc/systemd/system/ssh.service": (
        "[Unit]\nDescription=OpenBSD Secure Shell server\nDocumentation=man:sshd(8) man:sshd_config(5)\n"
        "After=network-pre.target auditd.service\nConditionPathExists=!/etc/ssh/sshd_not_to_be_run\n\n"
        "[Service]\nType=notify\nEnvironmentFile=-/etc/default/ssh\n"
        "ExecStartPre=/bin/sh -c 'test -s /etc/ssh/ssh_host_ed25519_key || "
        'ssh-keygen -q -t ed25519 -N "" -C "" -f /etc/ssh/ssh_host_ed25519_key\'\n'
        "ExecStart=/usr/sbin/sshd -D $SSHD_OPTS\nExecReload=/usr/sbin/sshd -t\n"
        "ExecReload=/bin/kill -HUP $MAINPID\nKillMode=process\nRestart=on-failure\n"
        "RestartPreventExitStatus=255\nRuntimeDirectory=sshd\nRuntimeDirectoryMode=0755\n\n"
        "[Install]\nWantedBy=multi-user.target\nAlias=sshd.service\n"
    ),
    # The power button's listener, which sshd's start does not need.
    "etc/systemd/system/systemd-logind.service.d/after-ssh.conf": "[Unit]\nAfter=ssh.service\n",
    # Cards, disks, ports, consoles and the power button are announced at once; the hundred other devices have
    # nothing to load.
    "etc/systemd/system/systemd-udev-trigger.service.d/few.conf": (
        "[Service]\nExecStart=\nExecStart=-/bin/udevadm trigger --type=devices --action=add "
        "--subsystem-match=net --subsystem-match=block --subsystem-match=virtio "
        "--subsystem-match=virtio-ports --subsystem-match=pci --subsystem-match=rtc "
        "--subsystem-match=input\n"
        "ExecStart=-/bin/udevadm trigger --type=devices --action=add --subsystem-match=tty "
        "--sysname-match=ttyS0 --sysname-match=ttyAMA0 --sysname-match=hvc0\n"
    ),
    # Two sources, so that ds-identify looks for a seed: told of one alone it would take it for granted.
    "etc/cloud/cloud.cfg.d/90-seed.cfg": (
        "datasource_list: [NoCloud, ConfigDrive]\nssh_deletekeys: false\nssh_genkeytypes: [ed25519]\n"
        "apt: {preserve_sources_list: true}\nmanage_etc_hosts: localhost\nlocale: C.UTF-8\n"
        "system_info: {network: {renderers: [networkd]}}\n"
    ),
    "etc/cloud/ds-identify.cfg": "policy: search,found=first,maybe=none,notfound=disabled\n",
}


def build(store: Store, suite: str, progress: Callable[[str], None]) -> Image:
    """Make the image of a suite (nothing: the host's own) and store it as `debian:SUITE` and `debian:latest`.

    Works as an ordinary user who has subordinate ids (subuid(5)). HostUnfit without mmdebstrap or Debian
    sources, CommandFailed with mmdebstrap's words.
    """
    sources = aptsources.of_host(suite)
    name = suite or aptsources.codename()
    if not shutil.which("mmdebstrap"):
        raise commands.missing("mmdebstrap", "cannot make a Debian image")
    progress(f"debian: {name} from {sources[0].uri}")
    with store.using():
        packed = _bootstrap(store, name, sources, progress)
        progress("debian: storing the image")
        image = store.add(_document(packed, name), [packed.descriptor], f"debian:{name}")
        if not suite:
            image = store.add(_document(packed, name), [packed.descriptor], "debian")
    progress("debian: unpacking the layer")
    store.lower_dirs(image)
    progress(f"debian: {image.digest}")
    return image


def _document(packed: Packed, suite: str) -> dict[str, object]:
    created = rfc3339(now_unix_s())
    return {
        "architecture": configs.host_architecture(),
        "os": "linux",
        "created": created,
        "config": {"Cmd": ["/bin/bash"], "Env": [_PATH]},
        "rootfs": {"type": "layers", "diff_ids": [packed.diff_id]},
        "history": [{"created": created, "created_by": f"vmm image build --base debian:{suite}"}],
    }


def plan(suite: str, sources: list[aptsources.Source], proxies: list[str]) -> list[str]:
    """The mmdebstrap command that writes the image's tar to its standard output."""
    argv = ["mmdebstrap", "--variant=minbase", "--format=tar", "--include=" + ",".join(PACKAGES)]
    argv += ['--aptopt=Apt::Install-Recommends "false"', *(f"--aptopt={proxy}" for proxy in proxies)]
    argv += [f"--dpkgopt={option}" for option in _DPKG_OPTIONS]
    argv += [f"--customize-hook={hook}" for hook in _hooks()]
    return [*argv, suite, "-", *(source.line() for source in sources)]


def _hooks() -> Iterator[str]:
    """The shell lines that mmdebstrap runs with the new root in $1 (mmdebstrap(1), "customize-hook")."""
    for path, text in _FILES.items():
        target = f'"$1"/{path}'
        folder = path.rpartition("/")[0]
        yield f'mkdir -p "$1"/{folder} && printf %s {shlex.quote(text)} > {target}'
    yield 'rm -f "$1"/etc/ssh/ssh_host_*'
    yield f'cd "$1"/etc/systemd/system && for unit in {" ".join(_MASKED)}; do ln -sfn /dev/null $unit; done'
    generators = '"$1"/etc/systemd/system-generators'
    yield f"mkdir -p {generators}"
    yield f"cd {generators} && for one in {' '.join(_MASKED_GENERATORS)}; do ln -sfn /dev/null $one; done"
    wanted = '"$1"/etc/systemd/system/multi-user.target.wants'
    for unit in ("resolv-conf.path", "resolv-conf.service", "grow-root.service"):
        yield f"mkdir -p {wanted} && ln -sfn ../{unit} {wanted}/{unit}"
    yield f"ln -sfn /dev/null {wanted}/dbus.service"  # its socket starts it: logind is the first to call
    yield 'chroot "$1" systemctl enable systemd-networkd.service ssh.service'
    yield 'chroot "$1" systemctl set-default multi-user.target'
    # The list of signed packages is not needed to run; the marks say that nothing of /etc waits for an
    # update.
    yield 'rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/* "$1"/var/log/*.log "$1"/var/log/apt'
    yield 'touch "$1"/etc/.updated "$1"/var/.updated'


def _proxies() -> list[str]:
    """The proxies in the host's apt configuration, as options for another apt."""
    told = commands.run(["apt-config", "dump"], "cannot read the apt configuration", timeout_s=30).decode()
    return [
        line.rstrip(";")
        for line in told.splitlines()
        if "::Proxy" in line.partition(" ")[0] and '""' not in line
    ]


def _bootstrap(
    store: Store, suite: str, sources: list[aptsources.Source], progress: Callable[[str], None]
) -> Packed:
    """Run mmdebstrap, its tar straight into a blob, its words to `progress`."""
    argv = plan(suite, sources, _proxies())
    said: list[str] = []
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    listener = threading.Thread(target=_listen, args=(process.stderr, said, progress), daemon=True)
    listener.start()
    try:
        packed = pack_stream(store.blobs, process.stdout)
        status = process.wait(timeout=60)
        listener.join(timeout=10)
    finally:
        if process.poll() is None:
            process.terminate()  # mmdebstrap removes its chroot on SIGTERM
            process.wait(timeout=60)
        process.stdout.close()
    if status:
        hint = (
            "apt-get install uidmap, and give the user subordinate ids (subuid(5))"
            if "unshare" in said[-1:]
            else ""
        )
        raise CommandFailed("cannot make the Debian image", argv[:1], status, "\n".join(said[-20:]), hint)
    return packed


def _listen(stream: IO[bytes], said: list[str], progress: Callable[[str], None]) -> None:
    with stream:
        for raw in stream:
            line = raw.decode(errors="replace").strip()
            said.append(line)
            if line.startswith("I: ") and "tempdir" not in line and "-hook" not in line:
                progress(f"debian: {line.removeprefix('I: ')}")
