"""The words of `vmm run` that go into a machine's cloud-init seed: user-data, network, keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from host.errors import NotFound, Unsupported, Usage

if TYPE_CHECKING:
    from images.store import Image
    from instances.requests import RunRequest
    from instances.wiring import Identity

# The user that a disk without our helper is given, so that `vmm exec` has somebody to log in as.
DEFAULT_USER = "vmm"
_FLAGS = {
    "cloud_init": "--cloud-init", "network_config": "--network-config", "ssh_keys": "--ssh-key",
    "ssh_user": "--ssh-user", "packages": "--package", "write_files": "--write-file",
}  # fmt: skip


def wanted(request: RunRequest, image: Image) -> bool:
    """Whether the machine gets a seed: where its words ask for one, and where it boots without our helper."""
    return any(getattr(request, field) for field in _FLAGS) or _boots_itself(image)


def _boots_itself(image: Image) -> bool:
    return bool(image.disk) and not image.cdrom


def login(request: RunRequest, image: Image) -> str:
    """Whom we log in as: the user asked for, else one that the seed makes; root where our helper is."""
    return request.ssh_user or (DEFAULT_USER if _boots_itself(image) else "")


def refuse_without_init(request: RunRequest) -> None:
    """Unsupported for words that only cloud-init could obey, in a machine that starts no init."""
    for field, flag in _FLAGS.items():
        if getattr(request, field):
            hint = "a whole system: vmm run --vm ... debian /sbin/init"
            raise Unsupported(f"{flag} needs an init that starts cloud-init", request.image, hint=hint)


def write(request: RunRequest, image: Image, who: Identity) -> str:
    """The seed's ISO in the machine's folder, or nothing where none is wanted.

    The user's files go in as they are, once cloud-init would obey them; what flags say lies beside them as
    vendor data, which cloud-init merges.
    """
    if not wanted(request, image):
        return ""
    from images import seeds
    from vmm import ssh

    user_data = _text(request.cloud_init, "--cloud-init")
    seeds.check_user_data(user_data, request.cloud_init or "")
    network = _text(request.network_config, "--network-config")
    if request.network_config:
        seeds.check_network(network, request.network_config)
    hostname = request.hostname or who.name.replace("_", "-").replace(".", "-")
    meta = {"instance-id": who.id, "local-hostname": hostname}
    keys = [_public_key(file) for file in request.ssh_keys]
    if login(request, image):  # else our helper gives our key to root, whom cloud-init keeps from logging in
        keys.insert(0, ssh.make_key(who.folder, who.name))
    vendor = vendor_data(keys, login(request, image), request.packages, request.write_files)
    made = seeds.Seed(user_data, meta, network, vendor_data=vendor)
    return str(seeds.write(who.folder / "seed.iso", made))


def vendor_data(
    keys: list[str], user: str, packages: tuple[str, ...], files: tuple[tuple[str, str], ...]
) -> str:
    """The cloud-config of keys, a user with sudo, packages, and files (of this host, path inside)."""
    import json

    told: dict[str, object] = {"ssh_authorized_keys": keys} if keys else {}
    if user and user != "root":
        own = {"name": user, "sudo": "ALL=(ALL) NOPASSWD:ALL", "shell": "/bin/sh", "lock_passwd": True}
        told["users"] = ["default", {**own, "ssh_authorized_keys": keys}]
    if packages:
        told |= {"package_update": True, "packages": list(packages)}
    if files:
        told["write_files"] = [_file(source, target) for source, target in files]
    return f"#cloud-config\n{json.dumps(told)}\n" if told else ""  # JSON is YAML


def _file(source: str, target: str) -> dict[str, str]:
    import base64

    path = Path(source)
    try:
        data, mode = path.read_bytes(), path.stat().st_mode & 0o777
    except OSError as error:
        raise NotFound("cannot read the file of --write-file", source, error.strerror or "") from None
    content = base64.b64encode(data).decode()
    return {"path": target, "content": content, "encoding": "b64", "permissions": f"{mode:04o}"}


def _public_key(file: str) -> str:
    text = _text(file, "--ssh-key").strip()
    if "PRIVATE KEY" in text or len(text.split()) < 2 or "\n" in text:
        hint = f"give the public half, for example {file}.pub"
        raise Usage("cannot use the key", file, "it is not one line of a public key", hint)
    return text


def _text(file: str | None, flag: str) -> str:
    if file is None:
        return ""
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Usage(f"cannot read the file of {flag}", file, why) from None
