"""The sheet as one HTML page: no script, nothing fetched, and nothing in it is markup but our own."""

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

from nightschool_daemon.reporting.sheet import PAGE_LETTERS, Sheet, clean, shortened

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = "page.html"


def html_of(sheet: Sheet) -> str:
    """The whole page."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalized
    )
    environment.filters |= {"commands": _commands, "drawn": _drawn, "cut": _cut, "figure": _figure}
    text = (files("nightschool_daemon.reporting") / "data" / TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(text).render(sheet=sheet)


def _finalized(value: object) -> object:
    """Whoever wrote it: no character that HTML forbids."""
    from markupsafe import Markup

    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _commands(text: str) -> "Markup":
    """A sentence of ours, whose commands stand between backticks."""
    from markupsafe import Markup, escape

    parts: Sequence[Markup] = [escape(one) for one in clean(text).split("`")]
    return Markup().join(
        Markup("<code>{}</code>").format(one) if number % 2 else one for number, one in enumerate(parts)
    )


def _drawn(svg: str) -> "Markup":
    """A plot that our own worker drew."""
    from markupsafe import Markup

    return Markup(svg)  # noqa: S704 - matplotlib escapes what it letters


def _cut(text: str) -> str:
    return shortened(text, PAGE_LETTERS)


def _figure(number: float | None, form: str) -> str:
    """A number, or a dash where there is none."""
    return "-" if number is None else form % number
