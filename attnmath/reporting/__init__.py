"""Documents: plain data for the templates in `templates/`, which hold no logic of their own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from attnmath.errors import Unknown

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

    >>> render("no-such-document", {})
    Traceback (most recent call last):
        ...
    attnmath.errors.Unknown: unknown template 'no-such-document': the templates are equations.md, equations.tex
    """
    env = _environment()
    if template + ".j2" not in env.list_templates():
        raise Unknown("template", template, [t.removesuffix(".j2") for t in env.list_templates()])
    return env.get_template(template + ".j2").render(data)


def _environment() -> SandboxedEnvironment:
    from jinja2 import FileSystemLoader, StrictUndefined, select_autoescape
    from jinja2.sandbox import SandboxedEnvironment

    env = SandboxedEnvironment(
        loader=FileSystemLoader(folder()),
        autoescape=select_autoescape(("html.j2", "htm.j2", "xml.j2", "svg.j2"), default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters |= {"tex": tex, "md": md}
    return env


TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


def tex(text: str) -> str:
    """Text as LaTeX shows it.

    >>> tex("50% of W_Q")
    '50\\\\% of W\\\\_Q'
    """
    return "".join(TEX.get(c, c) for c in text)


def md(text: str) -> str:
    """Text as Markdown shows it.

    >>> md("a*b | <i>")
    'a\\\\*b \\\\| &lt;i&gt;'
    """
    out = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "*_`|[]#" else c for c in out)
