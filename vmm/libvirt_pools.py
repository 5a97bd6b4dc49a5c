"""A volume of one of libvirt's storage pools, as virsh and virt-manager show it, for a machine's disk."""

from __future__ import annotations

from pathlib import Path

import libvirt

from host.errors import NotFound, Unsupported, Usage
from vmm import libvirt_daemon


def volume(uri: str, words: str) -> Path:
    """The file of `POOL/VOLUME`; a pool that rests is started.

    Raises Usage, NotFound with libvirt's words, Unsupported for a volume that is no file of this host.
    """
    pool_name, _, name = words.partition("/")
    if not (pool_name and name):
        raise Usage("cannot read the volume", repr(words), "not POOL/VOLUME")
    link = libvirt_daemon.connection(uri)
    try:
        pool = link.storagePoolLookupByName(pool_name)
        if not pool.isActive():
            pool.create()
        pool.refresh()
        path = Path(pool.storageVolLookupByName(name).path())
    except libvirt.libvirtError as error:
        hint = f"virsh vol-list {pool_name}, or virsh pool-list --all"
        why = error.get_error_message() or str(error)
        raise NotFound("cannot use libvirt's volume", words, why, hint) from None
    finally:
        link.close()
    if not path.is_file():
        raise Unsupported("cannot use libvirt's volume", words, f"{path} is no file of this host")
    return path
