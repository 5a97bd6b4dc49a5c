"""A host that joins: a Dask worker with the resource `bench=1`, and an agent for one block at a time."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from bench.core import facts
from host.errors import DeadlinePassed, Failure

RESOURCE = "bench"
ENGINE_SHARE = 0.01
RETRY_S = 1.0
_agent: subprocess.Popen[str] | None = None


def measure_block(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The task: one block measured by this host's agent; its samples as lines, and what the engine cost.

    A sample during which this worker process itself used more than 1 % of a processor is flagged `engine`.
    """
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    lines, end = _asked(asked)
    took_s = time.monotonic() - began_s
    share = (time.process_time() - began_cpu_s) / max(took_s, 1e-9)
    return {"lines": lines, "took_s": took_s, "engine_share": share, "host": facts.identity(), **end}


def _asked(asked: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    agent = _running_agent()
    assert agent.stdin is not None
    assert agent.stdout is not None
    agent.stdin.write(json.dumps(dict(asked)) + "\n")
    agent.stdin.flush()
    lines: list[dict[str, Any]] = []
    for text in agent.stdout:
        told = json.loads(text)
        if told.get("end"):
            return lines, {"warm_s": told["warm_s"], "block_s": told["block_s"]}
        lines.append(told["sample"])
    raise Failure("the agent of this host ended in the middle of a block", facts.identity())


def _running_agent() -> subprocess.Popen[str]:
    global _agent
    if _agent is None or _agent.poll() is not None:
        argv = [sys.executable, "-m", "bench.cluster.agent"]
        _agent = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return _agent


def serve(address: str, name: str | None, give_up_s: float | None = None) -> int:
    """Join the scheduler, and join again whenever it comes back; ends with Ctrl-C.

    Raises DeadlinePassed when the scheduler stayed away for `give_up_s` seconds.
    """
    if name:
        os.environ["VMM_BENCH_HOST"] = name
    os.nice(19)  # heartbeats shall not disturb what is measured
    gone_s = time.monotonic()
    try:
        while True:
            if asyncio.run(_joined(address)):
                gone_s = time.monotonic()
            if give_up_s is not None and time.monotonic() - gone_s > give_up_s:
                raise DeadlinePassed("cannot join", address, f"no scheduler answered for {give_up_s:g} s")
            time.sleep(RETRY_S)
    finally:
        if _agent is not None:
            _agent.terminate()
            _agent.wait(30)


async def _joined(address: str) -> bool:
    """Work for the scheduler until it goes; False where it was not there."""
    from distributed import Worker

    try:
        async with Worker(
            address,
            nthreads=1,
            name=facts.identity(),
            resources={RESOURCE: 1},
            memory_limit=0,
            dashboard=False,
            death_timeout=10,
        ) as worker:
            await worker.finished()
    except (OSError, TimeoutError):
        return False
    return True
