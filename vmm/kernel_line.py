"""The guest kernel's command line: console, what TCG needs, what the helper reads, then the user's words."""

from __future__ import annotations

from vmm.launch import Launch
from vmm.spec import MachineSpec, Nic, Share

# Under TCG the PIT and the timer check race the host's scheduler: boots of many machines at once hang in
# "Unable to calibrate against PIT" without these.
_QUIET = ("quiet", "loglevel=1")
# Nobody loads a policy where one command is all that runs, and each exec would pass by AppArmor and TOMOYO:
# 4 % of the code that a clone runs, all of it cold.
_NO_POLICIES = "lsm=landlock,yama"
# Nor do sessions compete there, a watch for lockups wakes an idle guest every four seconds, and accounts of
# pressure (PSI) are 7 % of the code that a clone runs.
_ALONE = ("noautogroup", "nowatchdog", "psi=0")
_LEAN = (
    "i8042.noaux",
    "i8042.nomux",
    "i8042.nopnp",
    "i8042.dumbkbd",
    "cryptomgr.notests",
    "random.trust_cpu=on",
)


def kernel_line(spec: MachineSpec, launch: Launch) -> str:
    """The whole `-append` text of a machine whose kernel QEMU loads."""
    words = [f"console={console(spec)}", "panic=-1"]
    words += (*_QUIET, _NO_POLICIES, *_ALONE) if spec.command_mode else ()
    if spec.arch == "x86_64":
        words += ["reboot=t", *_LEAN]
    words += _for_tcg(spec, launch)
    if spec.max_memory_bytes:
        words.append("memhp_default_state=online")
    if spec.init is not None and not _may_have_seed(spec):
        words.append("cloud-init=disabled")
    words += _for_helper(spec)
    if spec.append:
        words.append(spec.append)
    return " ".join(words)


def _may_have_seed(spec: MachineSpec) -> bool:
    """Whether cloud-init may find one; else its generator would look through all devices at each boot."""
    return bool(spec.seed) or len(spec.disks) > 1


def console(spec: MachineSpec) -> str:
    """The serial console's device name in the guest."""
    return "ttyAMA0" if spec.arch == "aarch64" else "ttyS0"


def _for_tcg(spec: MachineSpec, launch: Launch) -> list[str]:
    if launch.accel != "tcg" or spec.arch != "x86_64":
        return []
    known = [f"tsc_early_khz={launch.tsc_khz}", f"lpj={2 * launch.tsc_khz}"] if launch.tsc_khz else []
    # Nothing in a microvm could check the TSC, and Linux leaves its tick on where no clock was checked.
    trusted = ["tsc=reliable"] if known and spec.boot == "microvm" else []
    # An emulated CPU speculates nothing; each indirect jump would go by a detour all the same; checks of
    # what is copied to and from user space, and a choice of memory where there is one, are cold code too.
    lean = ["mitigations=off", "hardened_usercopy=off", "numa=off"]
    return ["no_timer_check", *lean, *known, *trusted]


def _for_helper(spec: MachineSpec) -> list[str]:
    words = []
    if spec.root:
        words += [f"vmm.root={spec.root}", f"vmm.rootfstype={spec.root_type}"]
    if spec.init is not None:
        words.append(f"vmm.init={spec.init}")
    if spec.hostname:
        words.append(f"vmm.hostname={spec.hostname}")
        # systemd would take the name in the image's /etc/hostname, which all machines of it have in common;
        # a seed names the machine itself
        words += [f"systemd.hostname={spec.hostname}"] if spec.init and not spec.seed else []
    words += [_address(nic) for nic in spec.nics[:1] if spec.command_mode]
    words += [_mount(share, number) for number, share in enumerate(spec.shares)]
    return words


def _address(nic: Nic) -> str:
    """The first card's address, told to a guest that runs no DHCP client; QEMU's own NAT has just one."""
    return "vmm.ip=" + (nic.ip if nic.kind != "user" else "10.0.2.15/24,10.0.2.2")


def _mount(share: Share, number: int) -> str:
    ro = ",ro" if share.read_only else ""
    return f"vmm.mount={share.tag or f'share{number}'},{share.target},{share.kind}{ro}"
