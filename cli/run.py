"""vmm run, vmm create: the words of a new instance."""

from __future__ import annotations

import argparse
import os
import sys

from host.errors import Usage
from host.sizes import parse_bytes, parse_seconds
from host.typing import TYPE_CHECKING, Any
from instances import requests
from instances.kinds import CONTAINER, MACHINE

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from host.edges import Edges

    _T = TypeVar("_T")


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags of run and create; both kinds first, then what only one of them knows."""
    command = parser.get_default("command")
    parser.usage = f"vmm {command} [--ct|--vm] [options] IMAGE [COMMAND...]"
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--ct", dest="kind", action="store_const", const=CONTAINER, help="a container (the default)"
    )
    kind.add_argument("--vm", dest="kind", action="store_const", const=MACHINE, help="a virtual machine")
    if command == "run":
        parser.add_argument("-d", "--detach", action="store_true", help="let it run, print its id")
        parser.add_argument("--detach-keys", help="keys that leave a container's terminal (ctrl-p,ctrl-q)")
    parser.add_argument("-i", "--interactive", action="store_true", help="pass our stdin on")
    parser.add_argument("-t", "--tty", action="store_true", help="give the command a terminal")
    parser.add_argument("--rm", action="store_true", help="remove it when it has ended")
    parser.add_argument("--name", help="its name (made up when not given)")
    if command == "run":
        parser.add_argument("--verbose", action="store_true", help="say on stderr where the time went")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    _common(parser)
    _machine(parser.add_argument_group("machines only"))
    _container(parser.add_argument_group("containers only"))
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="tiny, debian, or an image of the store")
    command_help = "instead of the image's own"
    add = parser.add_argument
    # argparse takes an empty remainder for a missing word
    add("arguments", metavar="COMMAND", nargs=argparse.REMAINDER, help=command_help).required = False


def _common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-m", "--memory", metavar="SIZE", help="memory limit, or the machine's memory")
    add("--cpus", metavar="N", help="processors; a container takes fractions")
    add("-e", "--env", metavar="K=V", action="append", default=[], help="a variable; K alone passes ours on")
    add("--env-file", metavar="FILE", action="append", default=[], help="variables, one K=V a line")
    add("-l", "--label", metavar="K=V", action="append", default=[], help="a label to find it by")
    add(
        "-v",
        "--volume",
        metavar="SRC:DST[:ro]",
        action="append",
        default=[],
        help="a folder or a named volume",
    )
    add(
        "--mount",
        metavar="WORDS",
        action="append",
        default=[],
        help="type=bind|volume|tmpfs,src=S,dst=D[,ro]",
    )
    add("-p", "--publish", metavar="[IP:]H:G[/udp]", action="append", default=[], help="publish a port")
    add("--network", metavar="N", help="none, host, a network's name, or container:NAME")
    add("--network-alias", metavar="NAME", action="append", default=[], help="one more name on the network")
    add("--ip", metavar="ADDRESS", help="a fixed address on the network")
    add("--entrypoint", metavar="PROGRAM", help="instead of the image's own; an empty word clears it")
    add("-u", "--user", metavar="USER[:GROUP]", help="whom the command runs as")
    add("-w", "--workdir", metavar="DIR", help="where the command runs")
    add("--hostname", metavar="NAME", help="its own name inside")
    add("--stop-signal", metavar="SIGNAL", help="what stop sends first")


def _machine(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--driver", choices=("qemu", "libvirt"), help="who runs QEMU ($VMM_DRIVER)")
    add("--connect", metavar="URI", help="which libvirt ($LIBVIRT_DEFAULT_URI): qemu+ssh://HOST/system")
    add("--accel", choices=("auto", "kvm", "tcg"), help="hardware or software processor")
    add("--boot", choices=("bios", "uefi", "direct", "pvh", "microvm", "clone"), help="how it starts")
    add("--machine", metavar="TYPE", help="QEMU's machine type")
    add("--arch", metavar="ARCH", help="another instruction set (aarch64)")
    add("--disk", metavar="SIZE", help="size of its disk")
    add("--disk-format", choices=("qcow2", "raw", "vmdk", "vdi", "vpc"), help="format of its disk")
    add("--cloud-init", metavar="FILE", help="user-data for cloud-init")
    add("--network-config", metavar="FILE", help="network configuration for cloud-init, version 2")
    add("--ssh-key", metavar="FILE", action="append", default=[], help="a public key to let in")
    add("--ssh-user", metavar="NAME", help="a user with sudo, made by cloud-init")
    add("--package", metavar="NAME", action="append", default=[], help="a package that cloud-init installs")
    add("--write-file", metavar="SRC:DST", action="append", default=[], help="a file that cloud-init writes")
    add("--kernel", metavar="FILE", help="cloud, generic, or a kernel file")
    add("--initrd", metavar="FILE", help="an initial RAM disk instead of ours")
    add("--append", metavar="WORDS", help="words for the kernel's command line")
    add("--from", dest="template", metavar="TEMPLATE", help="start as a clone of a frozen machine; no IMAGE")
    add(
        "--keep-identity",
        action="store_true",
        help="with --from: the template's host name, machine-id and SSH host keys; for one clone at a time",
    )
    add("--cloneable", action="store_true", help="can be frozen as a template while it runs; no balloon")
    add("--tpm", action="store_true", help="a TPM 2.0 (swtpm)")
    add("--autostart", action="store_true", help="start with the host (libvirt)")


def _container(group: argparse._ArgumentGroup) -> None:
    for flags in (_container_files, _container_rights, _container_limits, _container_life, _container_spaces):
        flags(group.add_argument)


def _container_files(add: Callable[..., object]) -> None:
    add("--read-only", action="store_true", help="nothing can write to the root file system")
    add("--volumes-from", metavar="NAME[:ro]", action="append", default=[], help="the mounts of another one")
    add("--tmpfs", metavar="DST[:OPTIONS]", action="append", default=[], help="a file system in memory")
    add("--shm-size", metavar="SIZE", help="size of /dev/shm (64M)")
    add("--device", metavar="SRC[:DST[:rwm]]", action="append", default=[], help="a device of the host")


def _container_rights(add: Callable[..., object]) -> None:
    add("--cap-add", metavar="CAP", action="append", default=[], help="give a capability")
    add("--cap-drop", metavar="CAP", action="append", default=[], help="take a capability, or ALL")
    options = "seccomp=FILE|unconfined, no-new-privileges"
    add("--security-opt", metavar="OPT", action="append", default=[], help=options)
    add("--privileged", action="store_true", help="no isolation from the host's devices and kernel")
    add("--group-add", metavar="GROUP", action="append", default=[], help="one more group of the user")


def _container_limits(add: Callable[..., object]) -> None:
    add("--pids-limit", metavar="N", type=int, help="most processes (-1: no limit)")
    add("--memory-swap", metavar="SIZE", help="memory and swap together")
    add("--cpu-shares", metavar="N", type=int, help="weight against neighbours (1024)")
    add("--cpuset-cpus", metavar="LIST", help="which processors")
    add("--oom-score-adj", metavar="N", type=int, help="who goes first when memory is short (-1000 to 1000)")
    add("--blkio-weight", metavar="N", type=int, help="share of the disks against neighbours (10 to 1000)")
    for way, unit in (("read", "bps"), ("write", "bps"), ("read", "iops"), ("write", "iops")):
        what = "bytes" if unit == "bps" else "requests"
        flag, form = f"--device-{way}-{unit}", "/dev/NAME:RATE"
        add(flag, metavar=form, action="append", default=[], help=f"most {what} a second")
    add("--ulimit", metavar="NAME=SOFT[:HARD]", action="append", default=[], help="a resource limit")
    add("--sysctl", metavar="K=V", action="append", default=[], help="a kernel setting of its namespaces")


def _container_life(add: Callable[..., object]) -> None:
    add("--init", action="store_true", help="our init reaps and passes signals on")
    add("--restart", metavar="POLICY", default="no", help="no, on-failure[:N], always, unless-stopped")
    add("--health-cmd", metavar="COMMAND", help="asked now and then whether it is well")
    add("--health-interval", metavar="TIME", help="how often (30s)")
    add("--health-timeout", metavar="TIME", help="how long it may take to answer (30s)")
    add("--health-start-period", metavar="TIME", help="failures do not count so early (0s)")
    add("--health-retries", metavar="N", type=int, help="failures in a row that mean ill (3)")
    add("--health-on-failure", choices=("none", "kill", "restart", "stop"), help="what to do then")
    add("--no-healthcheck", action="store_true", help="not even the image's own")
    log = "max-size (10M), or max-file: how many of them (3)"
    add("--log-opt", metavar="K=V", action="append", default=[], help=log)


def _container_spaces(add: Callable[..., object]) -> None:
    add("--userns", metavar="MODE", help="auto: ids of its own on the host")
    add("--pid", metavar="MODE", help="host, or container:NAME")
    add("--ipc", metavar="MODE", help="host, or container:NAME")
    add("--uts", metavar="MODE", help="host")
    add("--time-offset", metavar="TIME", help="a time namespace whose uptime begins that much later")
    add("--link", metavar="NAME[:ALIAS]", action="append", default=[], help="a neighbour's name inside")
    add("--add-host", metavar="NAME:ADDRESS", action="append", default=[], help="a line for /etc/hosts")
    add("--dns", metavar="ADDRESS", action="append", default=[], help="a resolver")


def request(args: argparse.Namespace) -> requests.RunRequest:
    """The RunRequest of the parsed words; raises Usage and Unsupported."""
    environ = dict(os.environ)
    image, command = _image_and_command(args)
    made = requests.RunRequest(
        image=image,
        command=command,
        kind=args.kind or (MACHINE if args.template else os.environ.get("VMM_KIND") or CONTAINER),
        name=args.name,
        detach=getattr(args, "detach", False),
        interactive=args.interactive,
        tty=args.tty,
        rm=args.rm,
        memory_bytes=_maybe(args.memory, lambda text: parse_bytes(text, "memory size")),
        cpus=_maybe(args.cpus, cpus_of),
        env=(*_env_files(args.env_file, environ), *requests.parse_env(args.env, environ)),
        labels=_pairs(args.label, "label"),
        volumes=(*map(requests.parse_volume, args.volume), *_mounts(args, requests.Volume)),
        ports=tuple(port for text in args.publish for port in requests.parse_port(text)),
        network=args.network,
        aliases=tuple(args.network_alias),
        ip=args.ip,
        entrypoint=None if args.entrypoint is None else tuple(filter(None, (args.entrypoint,))),
        user=args.user,
        workdir=args.workdir,
        hostname=args.hostname,
        stop_signal=args.stop_signal,
        detach_keys=_keys(getattr(args, "detach_keys", None)),
        restart=args.restart,
    )
    return requests.check(made._replace(**_machine_words(args), **_container_words(args)))


def _keys(text: str | None) -> bytes:
    if text is None:
        return b""
    from cli import keys

    return keys.parse(text)


def _image_and_command(args: argparse.Namespace) -> tuple[str, tuple[str, ...]]:
    """IMAGE and COMMAND; with --from the template knows its image, and every word is the command's."""
    words = (*((args.image,) if args.image else ()), *args.arguments)
    if args.template:
        return "", words
    if not words:
        raise Usage("no image is named", hint=f"vmm {args.command} tiny echo hi")
    return words[0], words[1:]


def _machine_words(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "driver": args.driver,
        "connect": args.connect,
        "accel": args.accel,
        "boot": args.boot,
        "machine": args.machine,
        "arch": args.arch,
        "disk_bytes": _maybe(args.disk, lambda text: parse_bytes(text, "disk size")),
        "disk_format": args.disk_format,
        "cloud_init": args.cloud_init,
        "network_config": args.network_config,
        "ssh_user": args.ssh_user,
        "packages": tuple(args.package),
        "write_files": tuple(_written(text) for text in args.write_file),
        "ssh_keys": tuple(args.ssh_key),
        "kernel": args.kernel,
        "initrd": args.initrd,
        "append": args.append,
        "template": args.template,
        "keep_identity": args.keep_identity,
        "cloneable": args.cloneable,
        "tpm": args.tpm,
        "autostart": args.autostart,
    }


def _written(text: str) -> tuple[str, str]:
    source, _, target = text.rpartition(":")
    if not source or not target.startswith("/"):
        hint = "for example --write-file motd.txt:/etc/motd"
        raise Usage("cannot read the file to write", repr(text), "not SRC:DST with an absolute DST", hint)
    return source, target


def _container_words(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "read_only": args.read_only,
        "tmpfs": (*args.tmpfs, *_mounts(args, str)),
        "volumes_from": tuple(args.volumes_from),
        "cap_add": tuple(args.cap_add),
        "cap_drop": tuple(args.cap_drop),
        "security_opt": tuple(args.security_opt),
        "pids_limit": args.pids_limit,
        "memory_swap_bytes": _maybe(args.memory_swap, lambda text: parse_bytes(text, "swap size")),
        "cpu_shares": args.cpu_shares,
        "cpuset": args.cpuset_cpus,
        "health_cmd": args.health_cmd,
        "health_interval_s": _maybe(args.health_interval, parse_seconds),
        "health_timeout_s": _maybe(args.health_timeout, parse_seconds),
        "health_start_s": _maybe(args.health_start_period, parse_seconds),
        "oom_score_adj": args.oom_score_adj,
        "io_weight": args.blkio_weight,
        "io_rates": _io_rates(args),
        "groups": tuple(args.group_add),
        "time_offset_s": _maybe(args.time_offset, parse_seconds),
        "health_retries": args.health_retries,
        "health_action": args.health_on_failure,
        "no_healthcheck": args.no_healthcheck,
        "log_opts": _pairs(args.log_opt, "log option"),
        "userns": args.userns,
        "pid": args.pid,
        "ipc": args.ipc,
        "uts": args.uts,
        "init": args.init,
        "links": tuple(args.link),
        "devices": tuple(args.device),
        "privileged": args.privileged,
        "ulimits": tuple(args.ulimit),
        "sysctls": _pairs(args.sysctl, "sysctl"),
        "shm_bytes": _maybe(args.shm_size, lambda text: parse_bytes(text, "shm size")),
        "add_hosts": tuple(args.add_host),
        "dns": tuple(args.dns),
    }


def _mounts(args: argparse.Namespace, kind: type[_T]) -> list[_T]:
    return [one for one in map(requests.parse_mount, args.mount) if isinstance(one, kind)]


def _io_rates(args: argparse.Namespace) -> tuple[tuple[str, str, str], ...]:
    kinds = ((way, unit) for unit in ("bps", "iops") for way in ("read", "write"))
    return tuple((way, unit, text) for way, unit in kinds for text in getattr(args, f"device_{way}_{unit}"))


def _maybe(text: str | None, parse: Callable[[str], _T]) -> _T | None:
    return None if text is None else parse(text)


def cpus_of(text: str) -> float:
    """Processors as people write them; raises Usage."""
    try:
        count = float(text)
    except ValueError:
        count = 0.0
    if not 0 < count <= 4096:
        raise Usage(
            "cannot read the number of processors",
            repr(text),
            "not a positive number",
            "for example 1 or 0.5",
        )
    return count


def _pairs(words: list[str], what: str) -> tuple[tuple[str, str], ...]:
    pairs = [word.partition("=") for word in words]
    for key, _, _ in pairs:
        if not key:
            raise Usage(f"cannot read the {what}", hint=f"for example --{what} key=value")
    return tuple((key, value) for key, _, value in pairs)


def _env_files(files: list[str], environ: dict[str, str]) -> tuple[tuple[str, str], ...]:
    lines: list[str] = []
    for file in files:
        try:
            with open(file, encoding="utf-8") as text:
                lines += [
                    line.rstrip("\n") for line in text if line.strip() and not line.lstrip().startswith("#")
                ]
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "not UTF-8"
            raise Usage("cannot read the file of --env-file", file, why) from None
    return requests.parse_env(lines, environ)


def with_image(wanted: requests.RunRequest) -> requests.RunRequest:
    """The request itself; a clone of a template has the template's image, and of a whole system its init."""
    if not wanted.template:
        return wanted
    from instances import frozen

    return wanted._replace(
        image=frozen.image_of(wanted.template), command=wanted.command or frozen.init_of(wanted.template)
    )


def main(args: argparse.Namespace) -> int:
    """Make the instance, and for run: start it, or see it through to its end."""
    from host.stdio import Stdio
    from instances import runs

    wanted = with_image(request(args))
    if args.dry_run:
        print(runs.plan(wanted))
        return 0
    if args.command == "create":
        print(runs.create(wanted).id)
        return 0
    from host.edges import Edges

    edges = Edges()
    if wanted.detach:
        print(runs.run_detached(wanted, edges).id)
        _told(args, edges)
        return 0
    if wanted.tty and not os.isatty(0) and wanted.interactive:
        raise Usage("cannot use -t", why="stdin is not a terminal", hint="leave -t out")
    sys.stdout.flush()
    status = runs.run(wanted, Stdio(tty=wanted.tty, interactive=wanted.interactive), edges)
    _told(args, edges)
    return status


def _told(args: argparse.Namespace, edges: Edges) -> None:
    if args.verbose:
        from cli import verbose

        verbose.tell(edges)
