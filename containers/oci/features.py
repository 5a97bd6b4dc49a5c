"""What `vmm-oci features` says: the features structure of runtime-spec 1.2 (features.md)."""

from __future__ import annotations

from typing import Any

from containers import capabilities
from containers.oci import bundle, filters, hooks, mounting, namespaces


def document() -> dict[str, Any]:
    """The structure; what this kernel lacks is listed all the same, as the specification asks."""
    return {
        "ociVersionMin": bundle.OLDEST,
        "ociVersionMax": bundle.NEWEST,
        "hooks": list(hooks.NAMES),
        "mountOptions": sorted({*mounting.OPTIONS, *mounting.RECURSIVE}),
        "linux": {
            "namespaces": sorted(namespaces.KINDS),
            "capabilities": [f"CAP_{name}" for name in capabilities.NAMES],
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": False},
            "seccomp": {
                "enabled": True,
                "actions": sorted(filters.ACTIONS),
                "operators": sorted(filters.OPERATORS),
                "archs": sorted(filters.ARCHITECTURES),
            },
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": False}},
        },
        "annotations": {"org.vmm.runtime": "vmm-oci"},
    }
