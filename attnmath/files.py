"""Files from users are data: read with bounds, and refused with file and line."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from attnmath.errors import InputError, printable

MAX_BYTES, MAX_TOML_BYTES = 4_000_000, 400_000
MAX_DEPTH = 64


def read_text(path: str, most: int = MAX_BYTES, why: str = "", strict: bool = True) -> str:
    """A file's text; InputError if it is no readable file of at most `most` bytes, or, if `strict`, not UTF-8.

    >>> read_text("no-such-file")
    Traceback (most recent call last):
        ...
    attnmath.errors.InputError: no-such-file: No such file or directory
    """
    try:
        if os.path.isdir(path):
            raise InputError(f"{printable(path)}: a directory, not a file")
        if os.path.exists(path) and not os.path.isfile(path):
            raise InputError(f"{printable(path)}: no regular file")
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{printable(path[:200])}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > most:
        raise InputError(f"{printable(path)}: more than {most:,} bytes{'; ' if why else ''}{why}")
    if not data.strip():
        raise InputError(f"{printable(path)}: the file is empty")
    try:
        text = data.decode("utf-8-sig", "strict" if strict else "replace")
    except UnicodeDecodeError as error:
        raise InputError(f"{printable(path)}: no text file (byte {error.start} is not UTF-8)") from None
    if strict and "\0" in text:
        raise InputError(f"{printable(path)}: no text file (it holds NUL bytes)")
    return text.replace("\r\n", "\n")


def read_toml(path: str) -> dict[str, Any]:
    """A TOML file; InputError with file and line if it is none.

    >>> read_toml("no-such-file")
    Traceback (most recent call last):
        ...
    attnmath.errors.InputError: no-such-file: No such file or directory
    """
    return parse_toml(read_text(path, MAX_TOML_BYTES), path)


def parse_toml(text: str, path: str) -> dict[str, Any]:
    """TOML; InputError, with the file that it is from and the line, if it is none.

    >>> parse_toml("[x]\\na = 1", "x.toml")
    {'x': {'a': 1}}
    """
    import tomllib

    for at, row in enumerate(text.split("\n"), 1):
        if len(row) > 4000 or re.match(r"\s*\[*\s*([\w-]+\s*\.\s*){8}", row):
            raise InputError(
                f"{path}, line {at}: a line or a dotted key too long for a table of figures: {row[:40]!r} ..."
            )
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: no valid TOML: {error}") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: {_why(error)}") from None


def read_json(path: str) -> dict[str, Any]:
    """A JSON file that holds one object; InputError, with file and line, for broken JSON and for duplicate keys.

    >>> read_json("no-such-file")
    Traceback (most recent call last):
        ...
    attnmath.errors.InputError: no-such-file: No such file or directory
    """
    import json

    text = read_text(path)
    _shallow(text, path)
    try:
        value = json.loads(
            text, object_pairs_hook=lambda pairs: _once(pairs, text, path), parse_constant=lambda c: _refuse(path, c)
        )
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: no valid JSON: {error.msg} (column {error.colno})") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: {_why(error)}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {_json_type(value)}")
    return value


def line_of(text: str, key: str) -> str:
    """`line N: ` of a key, where it stands once, plainly written; else nothing.

    >>> line_of('{\\n "heads": 4}', "heads")
    'line 2: '
    """
    found = _places(text, key)
    return f"line {text.count(chr(10), 0, found[0]) + 1}: " if len(found) == 1 else ""


def _places(text: str, key: str) -> list[int]:
    return [m.start() for m in re.finditer(rf'"{re.escape(key)}"\s*:', text)]


def _once(pairs: list[tuple[str, Any]], text: str, path: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            found = _places(text, key)
            line = f", line {text.count(chr(10), 0, found[1]) + 1}" if len(found) == 2 else ""
            raise InputError(f"{path}{line}: the key {key[:80]!r} stands twice in one object")
        out[key] = value
    return out


def _refuse(path: str, constant: str) -> Any:
    raise InputError(f"{path}: {constant} is no JSON number")


def _shallow(text: str, path: str) -> None:
    """Refuse deep nesting before the parser recurses into it; brackets inside strings do not count."""
    depth, inside, skip = 0, False, False
    for at, c in enumerate(text):
        if skip:
            skip = False
        elif inside:
            skip, inside = c == "\\", c != '"'
        elif c == '"':
            inside = True
        elif c in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise InputError(f"{path}, line {text.count(chr(10), 0, at) + 1}: nested more than {MAX_DEPTH} deep")
        elif c in "]}":
            depth -= 1


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    if "digits" in str(error):
        return f"a number of more than {sys.get_int_max_str_digits():,} digits"
    return str(error)


def _json_type(value: Any) -> str:
    return {list: "a list", str: "a string", bool: "true or false", type(None): "null"}.get(type(value), "a number")
