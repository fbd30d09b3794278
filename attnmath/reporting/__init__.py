"""Documents: plain data for the templates in `templates/`, which hold no logic of their own."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from attnmath.errors import InputError, Unknown

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FOLDERS = (
    os.path.join(HERE, "templates"),
    os.path.join(os.path.dirname(HERE), "templates"),
)  # in a wheel; in a checkout


def folder() -> str:
    """Where the templates are: inside the package if it was installed from a wheel, else beside it.

    >>> import os
    >>> "equations.md.j2" in os.listdir(folder())
    True
    """
    for path in FOLDERS:
        if os.path.isfile(os.path.join(path, "equations.md.j2")):
            return path
    raise FileNotFoundError(f"no templates in {' or '.join(FOLDERS)}: the installation is broken")


def render(template: str, data: dict[str, Any]) -> str:
    """A template filled in; Unknown if there is none of that name.

    >>> render("no-such-document", {})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    attnmath.errors.Unknown: unknown template 'no-such-document': the templates are derivation.md, ...
    """
    env = _environment()
    if template + ".j2" not in env.list_templates():
        raise Unknown("template", template, [t.removesuffix(".j2") for t in env.list_templates()])
    return env.get_template(template + ".j2").render(data)


def _environment() -> SandboxedEnvironment:
    from jinja2 import FileSystemLoader, StrictUndefined, select_autoescape
    from jinja2.sandbox import SandboxedEnvironment

    from attnmath.cli.render import exact, scaled

    env = SandboxedEnvironment(
        loader=FileSystemLoader(folder()),
        autoescape=select_autoescape(("html.j2", "htm.j2", "xml.j2", "svg.j2"), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters |= {"tex": tex, "md": md, "mathml": mathml, "exact": exact, "scaled": scaled}
    return env


TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\N{LESS-THAN OR EQUAL TO}": r"$\le$",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


def tex(text: str) -> str:
    """Text as LaTeX shows it.

    >>> tex("50% of W_Q")
    '50\\\\% of W\\\\_Q'
    """
    return re.sub(r"([-'])(?=\1)", r"\1{}", "".join(TEX.get(c, c) for c in text))  # -- is no dash, '' no quote


URL = re.compile(r"(https?://[^\s<>|\\`$]*[^\s<>|\\`$.,;:)\]'\"])")


def md(text: str) -> str:
    """Text as Markdown shows it; an address becomes a link, since escapes inside one would be part of it.

    >>> md("a*b | <i>"), md("see https://x.org/a_b#c.")
    ('a\\\\*b \\\\| &lt;i&gt;', 'see <https://x.org/a_b#c>.')
    """
    return "".join(f"<{part}>" if k % 2 else _md(part) for k, part in enumerate(URL.split(text)))


def _md(text: str) -> str:
    out = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\*_`|[]#$~" else c for c in out)


def mathml(latex: str, text: str, block: bool = False) -> str:
    """A formula as one <math> element; what the converter does not know comes as `text` in <code>, with a note.

    The converter prints a macro that it does not know as text and raises nothing, so its output is read again. Raises
    InputError if it is not installed.

    >>> print(mathml("", "a < b"))
    <code>a &lt; b</code> <small>(as text: no MathML for it)</small>
    """
    from html import escape
    from xml.etree import ElementTree

    from markupsafe import Markup

    for macro, better in (
        (r"\iff", r"\;\iff\;"),
        (r"^{\prime\prime}", "\N{DOUBLE PRIME}"),
        (r"^{\prime}", "\N{PRIME}"),
    ):
        latex = latex.replace(macro, better)  # a raised prime comes out too small to see
    try:
        out = _converted(latex, "block" if block else "inline") if latex else ""
        if out and "\\" not in "".join(ElementTree.fromstring(out).itertext()):
            return Markup(out)
    except InputError:
        raise
    except Exception:  # the converter's errors have no common base, and it raises others too
        out = ""
    return Markup(f"<code>{escape(text)}</code> <small>(as text: no MathML for it)</small>")


def _converted(latex: str, display: str) -> str:
    try:
        from latex2mathml.converter import convert
    except ImportError:
        raise InputError("formulas in HTML need the package latex2mathml: pip install latex2mathml") from None
    return str(convert(latex, display=display))
