"""The words of `vmm run` that go into a machine's cloud-init seed: user-data, network, keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from host.errors import Usage

if TYPE_CHECKING:
    from instances.requests import RunRequest
    from instances.wiring import Identity


def wanted(request: RunRequest) -> bool:
    """Whether the machine gets a seed at all."""
    return bool(request.cloud_init or request.network_config or request.ssh_keys)


def write(request: RunRequest, who: Identity) -> str:
    """The seed's ISO in the machine's folder, or nothing where none is wanted.

    The user's files go in as they are, once cloud-init would obey them; the keys lie beside them.
    """
    if not wanted(request):
        return ""
    from images import seeds

    user_data = _text(request.cloud_init, "--cloud-init")
    seeds.check_user_data(user_data, request.cloud_init or "")
    network = _text(request.network_config, "--network-config")
    if request.network_config:
        seeds.check_network(network, request.network_config)
    hostname = request.hostname or who.name.replace("_", "-").replace(".", "-")
    meta = {"instance-id": who.id, "local-hostname": hostname}
    made = seeds.Seed(user_data, meta, network, vendor_data=_keys(request.ssh_keys))
    return str(seeds.write(who.folder / "seed.iso", made))


def _keys(files: tuple[str, ...]) -> str:
    """The keys as vendor data, which cloud-init merges with the user's own words."""
    if not files:
        return ""
    lines = ("#cloud-config", "ssh_authorized_keys:", *(_public_key(file) for file in files))
    return "".join(f"{line}\n" for line in lines)


def _public_key(file: str) -> str:
    import json

    text = _text(file, "--ssh-key").strip()
    if "PRIVATE KEY" in text or len(text.split()) < 2 or "\n" in text:
        hint = f"give the public half, for example {file}.pub"
        raise Usage("cannot use the key", file, "it is not one line of a public key", hint)
    return f"  - {json.dumps(text)}"


def _text(file: str | None, flag: str) -> str:
    if file is None:
        return ""
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Usage(f"cannot read the file of {flag}", file, why) from None
