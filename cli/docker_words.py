"""What commands of docker, podman, Incus and virsh are called here: for the hint when somebody types one."""

from __future__ import annotations

OURS = {
    "build": "image build",
    "buildx": "image build",
    "compose": "up",
    "container": "ls",
    "copy": "clone",
    "delete": "rm",
    "destroy": "kill",
    "dominfo": "inspect",
    "dumpxml": "explain",
    "file": "cp",
    "history": "image history",
    "images": "image ls",
    "info": "doctor",
    "launch": "run -d",
    "list": "ls",
    "load": "image load",
    "login": "image login",
    "pull": "image pull",
    "push": "image push",
    "reboot": "restart",
    "rmi": "image rm",
    "save": "image save",
    "search": "image search",
    "shutdown": "stop",
    "storage": "volume",
    "suspend": "pause",
    "system": "df",
    "tag": "image tag",
    "undefine": "rm",
    "unpause": "resume",
}


def hint(command: str, known: list[str]) -> str:
    """What was meant, as far as that can be guessed."""
    if command in OURS:
        return f"here it is `vmm {OURS[command]}`"
    from difflib import get_close_matches

    near = get_close_matches(command, known, 1, 0.6)
    return f"did you mean `vmm {near[0]}`?" if near else "vmm --help lists the commands"
