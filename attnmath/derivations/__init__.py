"""The derivations: one file each, found by existing. A file's docstring is its title, its PAGE what is derived."""

from __future__ import annotations

import ast
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING

from attnmath.errors import AttnmathError, Unknown

if TYPE_CHECKING:
    from attnmath.proving.page import Derivation


@cache
def titles() -> dict[str, str]:
    """Every derivation's name and title; no page is loaded for it.

    >>> titles()["softmax"]
    'The softmax: shifts, temperature, its Jacobian, and the log-sum-exp behind it'
    """
    out = {}
    for file in sorted(files(__package__).iterdir(), key=lambda f: f.name):
        if file.name.endswith(".py") and not file.name.startswith("_"):
            title = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
            out[file.name.removesuffix(".py").replace("_", "-")] = title.rstrip(".")
    return out


@cache
def get(name: str) -> Derivation:
    """A derivation by name: its page, with `prove()`. Raises Unknown, an InputError, with the nearest names.

    >>> get("softmax").steps[0].says
    'The weights add up to one'
    """
    if name not in titles():
        raise Unknown("derivation", name, titles())
    page: Derivation = import_module(f"{__package__}.{name.replace('-', '_')}").PAGE
    if page.name != name or page.title != titles()[name]:
        raise AttnmathError(f"{name}: its page says that it is {page.name!r}, {page.title!r}")
    return page
