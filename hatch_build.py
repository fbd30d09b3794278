"""Compile the package when it is installed editable, as pip does by itself for a wheel: start-up is a contract."""

from __future__ import annotations

import compileall
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Compile(BuildHookInterface):
    """Runs once per build; only an editable one leaves the sources where they are."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            compileall.compile_dir(str(Path(self.root) / "attnmath"), quiet=1)
