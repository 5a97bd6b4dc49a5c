"""Starts with and without a network; and two instances of a kind that speak with each other."""

from __future__ import annotations

from dataclasses import replace

from bench.core import workload
from bench.core.target import Cell, Held, Parts, Target
from bench.experiments import generators

PORT = 7007
SERVERS = f"iperf3 -s >/dev/null 2>&1 & sockperf server --tcp -p {PORT + 1} >/dev/null 2>&1 & sleep 0.5"
LISTENER = f"nc -l -p {PORT} >/dev/null 2>&1 & sleep 0.3"
WORK = {
    "rr": ("sockperf ping-pong --tcp -i {address} -p 7008 -t 1", generators.round_trip),
    "stream": ("iperf3 -c {address} -t 1 -J", generators.iperf3_stream),
    "flood": ("iperf3 -c {address} -t 1 -u -b 0 -l 64 -J", generators.iperf3_flood),
}


def measure(target: Target, cell: Cell) -> Parts:
    """A start for command mode; else a server in a held instance and a client in a fresh one."""
    if cell.mode == "command":
        return target.run_once(cell)
    work = str(cell.param("work", "stream"))
    serving = replace(cell, params=(*cell.params, ("hold", LISTENER if work == "ports" else SERVERS)))
    with target.hold(serving) as held:
        if work == "ports":
            return _second_listener(target, cell)
        address = _address(held)
        if not address:
            return workload.skipped(f"{target.name} has no address that another instance can reach")
        command, read = WORK[work]
        return generators.measured(target, cell, command.format(address=address), read)


def _address(held: Held) -> str:
    address = getattr(held, "address", None)
    return str(address()) if address is not None else ""


def _second_listener(target: Target, cell: Cell) -> Parts:
    """`same_port_twice` is 1 where a second instance may listen on the first one's port."""
    body = f"{LISTENER}; kill -0 $! 2>/dev/null && echo same_port_twice=1 || echo same_port_twice=0; kill $!"
    return workload.script(target, cell, body)
