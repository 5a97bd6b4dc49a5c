"""Of an index of many architectures, the manifest for this one (OCI image-spec v1.1, image-index.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from host.errors import BadData, NotFound
from images.config import host_architecture
from images.store import DOCKER_INDEX, INDEX, listed

_VARIANTS = {"arm64": ("", "v8"), "arm": ("v7", "v6", "v5", "")}


def is_index(document: Mapping[str, Any], media_type: str = "") -> bool:
    """Whether a document is an index; BadData where it claims to be a manifest too (CVE-2021-41190)."""
    told = document.get("mediaType", media_type)
    if told in (INDEX, DOCKER_INDEX) or "manifests" in document:
        if "layers" in document or "config" in document or told not in (INDEX, DOCKER_INDEX, "", None):
            raise BadData("cannot use the index", why="it claims to be an index and a manifest at once")
        return True
    return False


def choose(document: Mapping[str, Any], name: str, architecture: str = "") -> dict[str, Any]:
    """The descriptor for an architecture (this host's). NotFound names those that there are."""
    wanted = architecture or host_architecture()
    entries = listed(document, name)
    for variant in _VARIANTS.get(wanted, ("",)):
        for entry in entries:
            told = entry.get("platform") or {}
            ours = told.get("architecture") == wanted and told.get("os", "linux") == "linux"
            if ours and (told.get("variant", "") == variant or wanted not in _VARIANTS):
                return dict(entry)
    known = sorted({_words(e) for e in entries} - {"unknown/unknown"})
    raise NotFound(f"no image for linux/{wanted} in", name, f"it has {', '.join(known) or 'nothing'}")


def _words(entry: Mapping[str, Any]) -> str:
    told = entry.get("platform") or {}
    parts = (told.get("os", "?"), told.get("architecture", "?"), told.get("variant", ""))
    return "/".join(str(part) for part in parts if part)
