"""JUnit's XML, which CI systems read: suites of cases that passed, failed or gave no verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Case(NamedTuple):
    """A check; `failure` and `error` (no verdict) are a short message and a text."""

    name: str
    failure: tuple[str, str] | None = None
    error: tuple[str, str] | None = None
    time_s: float | None = None
    skipped: bool = False


def document(title: str, suites: Sequence[tuple[str, Sequence[Case]]]) -> str:
    """The document of suites, each with its name."""
    from xml.etree import ElementTree as xml

    root = xml.Element("testsuites", name=title)
    for name, cases in suites:
        found = {
            "tests": len(cases),
            "failures": sum(c.failure is not None for c in cases),
            "errors": sum(c.error is not None for c in cases),
        }
        skipped = {"skipped": str(n)} if (n := sum(c.skipped for c in cases)) else {}
        counts = {k: str(v) for k, v in found.items()} | skipped
        suite = xml.SubElement(root, "testsuite", {"name": _clean(name), **counts})
        for c in cases:
            time = {"time": f"{c.time_s:.3f}"} if c.time_s is not None else {}
            case = xml.SubElement(suite, "testcase", {"classname": _clean(name), "name": _clean(c.name), **time})
            for tag, told in (("failure", c.failure), ("error", c.error)):
                if told is not None:
                    xml.SubElement(case, tag, message=_clean(told[0])).text = _clean(told[1])
            if c.skipped:
                xml.SubElement(case, "skipped")
    xml.indent(root)
    return xml.tostring(root, encoding="unicode", xml_declaration=False)


def _clean(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
