"""vmm network: networks that containers and machines join, with NAT, names and addresses."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cli import table
from host import paths
from host.errors import Failure, Unsupported, Usage

if TYPE_CHECKING:
    from host.linux.net.networks import Network


def configure(parser: argparse.ArgumentParser) -> None:
    """The words of vmm network."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    create = verbs.add_parser("create", help="make a network")
    create.add_argument("names", metavar="NAME", nargs=1)
    create.add_argument(
        "--subnet", default="", metavar="A.B.C.0/24", help="default: a free piece of 10.213.0.0/16"
    )
    create.add_argument("--internal", action="store_true", help="no way out to other networks")
    create.add_argument(
        "--lease", action="append", default=[], metavar="NAME=IP", help="keep an address for a name"
    )
    create.add_argument("--label", action="append", default=[], metavar="K=V")
    listed = verbs.add_parser("ls", help="list networks")
    listed.add_argument("-q", "--quiet", action="store_true", help="names only")
    listed.add_argument("--json", action="store_true", help="one JSON document")
    listed.add_argument("--format", metavar="FORM", help="a line for each, for example '{name} {subnet}'")
    inspect = verbs.add_parser("inspect", help="all that is known of networks")
    inspect.add_argument("names", metavar="NAME", nargs="+")
    inspect.add_argument("--format", metavar="FORM")
    explain = verbs.add_parser("explain", help="the commands that would make a network by hand")
    explain.add_argument("names", metavar="NAME", nargs=1)
    remove = verbs.add_parser("rm", help="remove networks that nobody is on")
    remove.add_argument("names", metavar="NAME", nargs="+")
    verbs.add_parser("prune", help="remove all networks that nobody is on, and repair the others")
    for verb, line in (
        ("connect", "put a container on one more network"),
        ("disconnect", "take it off again"),
    ):
        joining = verbs.add_parser(verb, help=line)
        joining.add_argument("names", metavar="NETWORK", nargs=1)
        joining.add_argument("instance", metavar="INSTANCE")
        if verb == "connect":
            joining.add_argument("--ip", default="", metavar="ADDRESS")
            joining.add_argument("--alias", action="append", default=[], metavar="NAME")


def main(args: argparse.Namespace) -> int:
    """Do one verb."""
    if args.verb == "ls":
        return _ls(args)
    if args.verb == "prune":
        return _prune()
    acts = {
        "create": _create,
        "inspect": _inspect,
        "explain": _explain,
        "rm": _rm,
        "connect": _connect,
        "disconnect": _disconnect,
    }
    return acts[args.verb](args)


def _pairs(texts: list[str], flag: str) -> dict[str, str]:
    pairs = dict(text.partition("=")[::2] for text in texts)
    if not all(key and "=" in text for key, text in zip(pairs, texts, strict=False)):
        raise Usage(f"cannot read {flag}", " ".join(texts), hint=f"write it as {flag} NAME=VALUE")
    return pairs


def _create(args: argparse.Namespace) -> int:
    from host.linux.net import networks

    labels, leases = _pairs(args.label, "--label"), _pairs(args.lease, "--lease")
    network = networks.create(paths.home(), args.names[0], args.subnet, args.internal, labels, leases)
    print(network.name)
    return 0


def _facts(network: Network) -> dict[str, Any]:
    from host.linux.net import names, netlink

    members = [lease.to_record() | {"alive": lease.alive()} for lease in network.leases.all()]
    serves = names.running(network.folder)
    return network.to_record() | {
        "up": netlink.index_of(network.bridge) > 0,
        "name_server_pid": serves or None,
        "members": members,
    }


def _ls(args: argparse.Namespace) -> int:
    from host.linux.net import networks

    shown = [_facts(network) for network in networks.listing(paths.home())]
    if args.json:
        print(table.document(networks=shown))
    elif args.quiet:
        table.say("\n".join(one["name"] for one in shown))
    elif args.format:
        table.say("\n".join(table.formed(args.format, one) for one in shown))
    else:
        print(table.columns(["NAME", "SUBNET", "BRIDGE", "STATE", "MEMBERS"], [_row(one) for one in shown]))
    return 0


def _row(one: dict[str, Any]) -> list[str]:
    state = ("up" if one["up"] else "down") + (", internal" if one["internal"] else "")
    members = sum(member["alive"] for member in one["members"])
    return [one["name"], one["subnet"], one["bridge"], state, str(members)]


def _inspect(args: argparse.Namespace) -> int:
    from host.linux.net import networks

    shown = [_facts(networks.load(paths.home(), name)) for name in args.names]
    if args.format:
        print("\n".join(table.formed(args.format, one) for one in shown))
    else:
        print(table.document(networks=shown))
    return 0


def _explain(args: argparse.Namespace) -> int:
    from host.linux.net import networks

    print("\n".join(networks.plan_up(networks.load(paths.home(), args.names[0]))))
    return 0


def _rm(args: argparse.Namespace) -> int:
    """Remove each; the first failure is raised after the others were tried."""
    from host.linux.net import networks

    failures: list[Failure] = []
    for name in args.names:
        try:
            networks.remove(paths.home(), name)
            print(name)
        except Failure as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return 0


def _prune() -> int:
    from host.errors import InUse
    from host.linux.net import networks
    from host.linux.net.repairs import repair

    for line in repair(paths.home()):
        print(line)
    for network in networks.listing(paths.home()):
        try:
            networks.remove(paths.home(), network.name)
            print(network.name)
        except InUse:
            continue
    return 0


def _container(word: str, verb: str) -> Any:
    from instances import kinds, registry

    instance = registry.find(word)
    if instance.kind != kinds.CONTAINER:
        hint = f"give it a network at birth: vmm run --vm --network NAME {instance.image}"
        raise Unsupported(f"cannot {verb}", instance.name, "a machine's network cards stay as they are", hint)
    return instance


def _connect(args: argparse.Namespace) -> int:
    from containers import networking
    from containers.spec import ContainerSpec
    from instances import kinds, registry

    instance = _container(args.instance, "connect")
    with registry.held(instance):
        spec, pid = ContainerSpec.from_record(instance.spec), kinds.optional(instance, "pid")()
        network = args.names[0]
        networking.connect(paths.home(), instance.folder, spec, pid, network, args.ip, tuple(args.alias))
    return 0


def _disconnect(args: argparse.Namespace) -> int:
    from containers import networking
    from containers.spec import ContainerSpec
    from instances import registry

    instance = _container(args.instance, "disconnect")
    with registry.held(instance):
        spec = ContainerSpec.from_record(instance.spec)
        networking.disconnect(paths.home(), instance.folder, spec, args.names[0])
    return 0
