"""The generators' reports: read from words that they really printed, and from runs of the image itself."""

from __future__ import annotations

import json

import pytest
from capabilities import need

from bench import experiments, targets
from bench.core import plan, worker
from bench.core.target import Cell, Parts
from bench.experiments import generators

STRESS = """
stress-ng: metrc: [99] stressor       bogo ops real time  usr time  sys time   bogo ops/s     bogo ops/s
stress-ng: metrc: [99]                           (secs)    (secs)    (secs)   (real time) (usr+sys time)
stress-ng: metrc: [99] null               2000      0.25      0.02      0.18      8620.15        9422.54
"""
IPERF3 = """begin
{"end": {"sum_received": {"bits_per_second": 5e9}, "sum": {"packets": 100, "seconds": 2, "lost_packets": 25}}}
vmm-marker"""


def test_reports_are_read_as_they_are_printed() -> None:
    assert generators.stress("null", "calls_per_second")(STRESS) == {"calls_per_second": 8620.15}
    assert generators.cores_used("null")(STRESS) == {"used_cores": pytest.approx(0.8)}
    assert generators.iperf3_stream(IPERF3) == {"received_bits_per_second": 5e9}
    assert generators.iperf3_flood(IPERF3) == {"sent_packets_per_second": 50.0, "lost_ratio": 0.25}
    assert generators.round_trip("sockperf: Summary: Latency is 12.500 usec") == {"round_trip_s": 25e-6}


def test_the_latency_of_a_flushed_write_is_the_flushs() -> None:
    job = {"write": {"bw_bytes": 4096, "iops": 1, "clat_ns": {"mean": 9e3}},
           "sync": {"lat_ns": {"N": 0, "mean": 0}}}  # fmt: skip
    assert generators.fio("write")(json.dumps({"jobs": [job]}))["fio_latency_s"] == pytest.approx(9e-6)
    job["sync"] = {"lat_ns": {"N": 50, "mean": 3e6, "percentile": {"50.000000": 2e6}}}
    assert generators.fio("write")(json.dumps({"jobs": [job]}))["fio_latency_s"] == pytest.approx(2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["e11", "e12", "e14"])
def test_every_generator_runs_in_a_container_and_tells_its_numbers(name: str, home: object) -> None:
    need("root", "busybox", "guest-helper", "overlay", "cgroup", "mmdebstrap")
    made = targets.load(["ct"])["ct"]
    for group in plan.load(experiments.plan_path(name)).groups:
        cell = next(cell for cell in group.cells() if cell.target == "ct")
        made.prepare(cell)
        parts = _measured(cell)
        assert (parts.error, parts.status) == (None, "ok")
        rates = {key: value for key, value in parts.values.items() if key not in ("work_s", "lost_ratio")}
        assert len(rates) >= 2
        assert all(value > 0 for value in rates.values()), rates
        assert parts.values["inside_clock_ratio"] == pytest.approx(1, abs=0.2)
    made.cleanup()


@pytest.mark.slow
def test_a_generator_that_fails_is_a_failed_sample_with_its_words(home: object) -> None:
    need("root", "busybox", "guest-helper", "overlay", "cgroup", "mmdebstrap")
    made = targets.load(["ct"])["ct"]
    cell = Cell("e14-disk-io", "workload", generators.IMAGE, "ct")
    made.prepare(cell)
    (ran,) = worker.runs(
        lambda: generators.measured(made, cell, "fio --rw=sideways", generators.fio("read")), 1, 60.0
    )
    made.cleanup()
    assert ran.parts[0].status == "failed"
    assert "sideways" in (ran.parts[0].error or "")


def _measured(cell: Cell) -> Parts:
    made = targets.load(["ct"])["ct"]
    (ran,) = worker.runs(lambda: experiments.measure_of(cell)(made, cell), 1, 60.0)
    return ran.parts[0]
