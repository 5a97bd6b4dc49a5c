"""The same machine through libvirt."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

from bench.core import facts
from bench.core.target import Unavailable
from bench.targets.vm import Machine


class LibvirtMachine(Machine):
    """`vmm run --vm --driver libvirt --rm --network none`, without the start of Python."""

    name = "vm-libvirt"
    driver = "libvirt"
    daemons = ("libvirtd", "virtlogd", "virtlockd", "dnsmasq")  # doctor tells of them, and how to end them

    def why_unavailable(self) -> Unavailable | None:
        """libvirtd and its Python binding."""
        if shutil.which("libvirtd") is None:
            return Unavailable("libvirt is not installed", "apt-get install libvirt-daemon-system")
        if find_spec("libvirt") is None:
            return Unavailable("the Python binding of libvirt is not installed", "make setup")
        return super().why_unavailable()

    def versions(self) -> dict[str, str]:
        """QEMU's and libvirt's."""
        return {**super().versions(), "libvirt": facts.version_of("libvirt")}
