"""What commands of docker and podman are called here: for the hint when somebody types one."""

from __future__ import annotations

OURS = {
    "build": "image build",
    "buildx": "image build",
    "compose": "up",
    "container": "ls",
    "history": "image history",
    "images": "image ls",
    "load": "image load",
    "login": "image login",
    "pull": "image pull",
    "push": "image push",
    "rmi": "image rm",
    "save": "image save",
    "search": "image search",
    "system": "df",
    "tag": "image tag",
    "unpause": "resume",
}


def hint(command: str, known: list[str]) -> str:
    """What was meant, as far as that can be guessed."""
    if command in OURS:
        return f"here it is `vmm {OURS[command]}`"
    from difflib import get_close_matches

    near = get_close_matches(command, known, 1, 0.5)
    return f"did you mean `vmm {near[0]}`?" if near else "vmm --help lists the commands"
