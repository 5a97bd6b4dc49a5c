"""linux.resources of a bundle as control files and values of cgroup v1 or v2, and its device rules."""

from __future__ import annotations

import os
from typing import Any

from containers.oci.bundle import Config, nested
from containers.oci.groups import Group, Value, hierarchies
from host.errors import BadData

_WEIGHT_FILES = ("blkio.bfq.weight", "blkio.weight")


def values(version: int, resources: Config) -> list[Value]:
    """The control files and values of linux.resources; pure."""
    if version == 1:
        return [*_memory_v1(resources), *_cpu_v1(resources), *_others_v1(resources)]
    return [*_memory_v2(resources), *_cpu_v2(resources), *_others_v2(resources)]


def _present(part: Config, names: dict[str, tuple[str, str]]) -> list[Value]:
    return [
        Value(controller, file, str(part[key]))
        for key, (controller, file) in names.items()
        if part.get(key) is not None and part[key] != ""
    ]


def _memory_v1(resources: Config) -> list[Value]:
    memory = nested(resources, "memory")
    names = {
        "limit": ("memory", "memory.limit_in_bytes"),
        "swap": ("memory", "memory.memsw.limit_in_bytes"),
        "reservation": ("memory", "memory.soft_limit_in_bytes"),
        "kernelTCP": ("memory", "memory.kmem.tcp.limit_in_bytes"),
        "swappiness": ("memory", "memory.swappiness"),
    }
    wanted = _present(
        {key: value for key, value in memory.items() if value != 0 or key == "swappiness"}, names
    )
    if memory.get("disableOOMKiller"):
        wanted.append(Value("memory", "memory.oom_control", "1"))
    return wanted


def _cpu_v1(resources: Config) -> list[Value]:
    cpu = nested(resources, "cpu")
    names = {
        "shares": ("cpu", "cpu.shares"),
        "period": ("cpu", "cpu.cfs_period_us"),
        "quota": ("cpu", "cpu.cfs_quota_us"),
        "burst": ("cpu", "cpu.cfs_burst_us"),
        "realtimePeriod": ("cpu", "cpu.rt_period_us"),
        "realtimeRuntime": ("cpu", "cpu.rt_runtime_us"),
        "cpus": ("cpuset", "cpuset.cpus"),
        "mems": ("cpuset", "cpuset.mems"),
        "idle": ("cpu", "cpu.idle"),
    }
    return _present({key: value for key, value in cpu.items() if value != 0}, names)


def _others_v1(resources: Config) -> list[Value]:
    wanted = _pids_value(resources)
    block = nested(resources, "blockIO")
    if block.get("weight"):
        wanted.append(Value("blkio", _weight_file(), str(block["weight"])))
    for one in block.get("weightDevice") or ():
        if one.get("weight") is not None:
            wanted.append(Value("blkio", f"{_weight_file()}_device", f"{_device(one)} {one['weight']}"))
    for key, file in _THROTTLE.items():
        wanted += [
            Value("blkio", f"blkio.throttle.{file}", f"{_device(one)} {one['rate']}")
            for one in block.get(key) or ()
        ]
    for one in resources.get("hugepageLimits") or ():
        wanted.append(Value("hugetlb", f"hugetlb.{one['pageSize']}.limit_in_bytes", str(one["limit"])))
    network = nested(resources, "network")
    if network.get("classID"):
        wanted.append(Value("net_cls", "net_cls.classid", str(network["classID"])))
    for one in network.get("priorities") or ():
        wanted.append(Value("net_prio", "net_prio.ifpriomap", f"{one['name']} {one['priority']}"))
    return wanted


_THROTTLE = {
    "throttleReadBpsDevice": "read_bps_device",
    "throttleWriteBpsDevice": "write_bps_device",
    "throttleReadIOPSDevice": "read_iops_device",
    "throttleWriteIOPSDevice": "write_iops_device",
}


def _device(one: Config) -> str:
    return f"{one['major']}:{one['minor']}"


def _weight_file() -> str:
    """The kernel's scheduler decides the name: cfq had blkio.weight, bfq has its own."""
    for one in hierarchies():
        if "blkio" in one.controllers and os.path.exists(f"{one.mountpoint}/blkio.weight"):
            return "blkio.weight"
    return _WEIGHT_FILES[0]


def _pids_value(resources: Config) -> list[Value]:
    limit = nested(resources, "pids").get("limit") if nested(resources, "pids") else None
    if limit is None or limit == 0:
        return []
    return [Value("pids", "pids.max", "max" if limit < 0 else str(limit))]


def _memory_v2(resources: Config) -> list[Value]:
    memory = nested(resources, "memory")
    limit, swap = memory.get("limit"), memory.get("swap")
    wanted = []
    if swap:
        beyond = "max" if swap < 0 else str(swap - (limit or 0))
        wanted.append(Value("memory", "memory.swap.max", beyond))
    if limit:
        wanted.append(Value("memory", "memory.max", "max" if limit < 0 else str(limit)))
    if memory.get("reservation"):
        wanted.append(Value("memory", "memory.low", str(memory["reservation"])))
    return wanted


def _cpu_v2(resources: Config) -> list[Value]:
    cpu = nested(resources, "cpu")
    wanted = _present(
        {key: value for key, value in cpu.items() if value != 0},
        {"cpus": ("cpuset", "cpuset.cpus"), "mems": ("cpuset", "cpuset.mems"), "idle": ("cpu", "cpu.idle")},
    )
    if cpu.get("shares"):  # 2..262144 onto 1..10000, as runc and crun map them
        wanted.append(Value("cpu", "cpu.weight", str(1 + (max(2, cpu["shares"]) - 2) * 9999 // 262142)))
    if cpu.get("quota") or cpu.get("period"):
        quota = cpu.get("quota") or -1
        wanted.append(
            Value("cpu", "cpu.max", f"{'max' if quota < 0 else quota} {cpu.get('period') or 100000}")
        )
    return wanted


def _others_v2(resources: Config) -> list[Value]:
    wanted = _pids_value(resources)
    block = nested(resources, "blockIO")
    if block.get("weight"):
        wanted.append(Value("io", "io.bfq.weight", str(block["weight"])))
    for key, word in zip(_THROTTLE, ("rbps", "wbps", "riops", "wiops"), strict=True):
        wanted += [
            Value("io", "io.max", f"{_device(one)} {word}={one['rate']}") for one in block.get(key) or ()
        ]
    for one in resources.get("hugepageLimits") or ():
        wanted.append(Value("hugetlb", f"hugetlb.{one['pageSize']}.max", str(one["limit"])))
    for file, value in nested(resources, "unified").items():
        if "/" in file:
            raise BadData("cannot set", file, "not the name of a control file")
        wanted += [Value(file.split(".")[0], file, line) for line in str(value).splitlines()]
    return wanted


# What every container may have: the nodes that we make, terminals, and making (not opening) any node.
DEFAULT_RULES: tuple[Config, ...] = (
    {"type": "c", "access": "m"},
    {"type": "b", "access": "m"},
    *({"type": "c", "major": 1, "minor": minor, "access": "rwm"} for minor in (3, 5, 7, 8, 9)),
    {"type": "c", "major": 5, "minor": 0, "access": "rwm"},
    {"type": "c", "major": 5, "minor": 1, "access": "rwm"},
    {"type": "c", "major": 5, "minor": 2, "access": "rwm"},
    {"type": "c", "major": 136, "access": "rwm"},
)


def device_values(rules: list[Config]) -> list[Value]:
    """The v1 control writes of linux.resources.devices, in order, and of what every container may have."""
    wanted = []
    for rule in rules:
        wanted.append(Value("devices", "devices.allow" if rule.get("allow") else "devices.deny", _rule(rule)))
    if any(not rule.get("allow") for rule in rules):
        wanted += [Value("devices", "devices.allow", _rule(rule)) for rule in DEFAULT_RULES]
    return wanted


def _rule(rule: Config) -> str:
    kind = rule.get("type") or "a"
    if kind == "a":
        return "a"

    def shown(value: Any) -> str:
        return "*" if value is None or value < 0 else str(value)

    access = rule.get("access") or "rwm"
    return f"{kind} {shown(rule.get('major'))}:{shown(rule.get('minor'))} {access}"


def filter_devices_v2(group: Group, rules: list[Config]) -> None:
    """v2 has no files for device rules but eBPF programs (cgroup-v2.rst, Device)."""
    from host.linux import device_filter

    if any(not rule.get("allow") for rule in rules):
        wanted = [device_filter.parse(bool(rule.get("allow")), _rule(rule)) for rule in rules]
        wanted += [device_filter.parse(True, _rule(rule)) for rule in DEFAULT_RULES]
        (_, directory), *_ = group.directories()
        device_filter.attach(directory, wanted)
