"""spec: a config.json to begin with, as `runc spec` writes one."""

from __future__ import annotations

import json
import os
from typing import Any

from containers.oci.states import VERSION
from containers.spec import DEFAULT_CAPABILITIES, DEFAULT_PATH
from host.errors import InUse

_PRIVATE = ("pid", "network", "ipc", "uts", "mount", "cgroup")
_NO = ["nosuid", "noexec", "nodev"]
MASKED = (
    *("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats"),
    *("sched_debug", "scsi", "timer_list", "timer_stats"),
)
READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")


def document(rootless: bool = False) -> dict[str, Any]:
    """The configuration of a shell in ./rootfs."""
    held = [f"CAP_{name}" for name in DEFAULT_CAPABILITIES]
    config: dict[str, Any] = {
        "ociVersion": VERSION,
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [f"PATH={DEFAULT_PATH}"],
            "cwd": "/",
            "capabilities": {"bounding": held, "effective": held, "permitted": held},
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs"},
        "hostname": "vmm",
        "mounts": _mounts(),
        "linux": {
            "namespaces": [{"type": kind} for kind in _PRIVATE],
            "maskedPaths": [f"/proc/{name}" for name in MASKED] + ["/sys/firmware"],
            "readonlyPaths": [f"/proc/{name}" for name in READ_ONLY],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        },
    }
    if rootless:
        linux = config["linux"]
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
        del linux["resources"]
    return config


def _mounts() -> list[dict[str, Any]]:
    def one(destination: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
        return {"destination": destination, "type": kind, "source": source, "options": options}

    return [
        one("/proc", "proc", "proc", []),
        one("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        one(
            "/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
        ),
        one("/dev/shm", "tmpfs", "shm", [*_NO, "mode=1777", "size=65536k"]),
        one("/dev/mqueue", "mqueue", "mqueue", _NO),
        one("/sys", "sysfs", "sysfs", [*_NO, "ro"]),
        one("/sys/fs/cgroup", "cgroup", "cgroup", [*_NO, "relatime", "ro"]),
    ]


def write(bundle: str, rootless: bool) -> None:
    """Write BUNDLE/config.json; InUse where there is one."""
    path = os.path.join(bundle, "config.json")
    if os.path.exists(path):
        raise InUse("cannot write", path, "it exists")
    with open(path, "x", encoding="utf-8") as file:
        json.dump(document(rootless), file, indent=2)
        file.write("\n")
