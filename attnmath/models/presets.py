"""Well-known models by name, and models in the local cache of a hub."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from attnmath.errors import InputError
from attnmath.files import parse_toml

HERE = os.path.join(os.path.dirname(__file__), "presets.toml")


@lru_cache
def _tables() -> dict[str, str]:
    """The text of each preset, by name; none is parsed before it is asked for."""
    with open(HERE, encoding="utf-8") as file:
        parts = re.split(r'^\["(.+)"\]$', file.read(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def names() -> tuple[str, ...]:
    """The presets that exist.

    >>> "llama-3.1-8b" in names()
    True
    """
    return tuple(_tables())


def get(name: str) -> tuple[dict[str, Any], str]:
    """(the fields of a preset's config, where they come from); KeyError if there is none.

    >>> get("qwen3-8b")[0]["hidden_size"]
    4096
    """
    found: dict[str, Any] = parse_toml(_tables()[name], f"presets.toml, {name}")
    source = found.pop("source")
    return found, source


def cached(name: str, env: Mapping[str, str] = os.environ) -> str | None:
    """The config.json of `org/name` in the local cache of a hub, of the revision that is called main; None if there is none.

    >>> cached("org/name", {"HF_HUB_CACHE": "no-such-folder"}) is None
    True
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) or ".." in name:
        return None
    home = env.get("HF_HOME") or os.path.join(
        env.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    folder = os.path.join(env.get("HF_HUB_CACHE") or os.path.join(home, "hub"), "models--" + name.replace("/", "--"))
    head = os.path.join(folder, "refs", "main")
    revisions = []
    if os.path.isfile(head):
        with open(head, encoding="utf-8", errors="replace") as file:
            revisions = [file.read(200).strip()]
    elif os.path.isdir(os.path.join(folder, "snapshots")):
        revisions = sorted(os.listdir(os.path.join(folder, "snapshots")))
    for revision in revisions:
        path = os.path.join(folder, "snapshots", revision, "config.json")
        if re.fullmatch(r"[\w.-]+", revision) and os.path.isfile(path):
            return path
    if os.path.isdir(folder):
        raise InputError(f"{name}: the local cache has the model, but no config.json of its main revision")
    return None
