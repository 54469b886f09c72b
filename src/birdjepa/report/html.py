"""Markup from text: everything that is not markup already gets escaped, so no file name or label can become code."""

import html
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

VOID = frozenset(("img", "link", "meta", "br", "wbr"))
"""Elements without content or end tag."""


class Html(str):
    """Markup. Only this module makes it from parts; a plain str is text."""


def tag(name: str, attributes: Mapping[str, Any] | None = None, *children: str) -> Html:
    """An element. Attributes that are None or False are left out, True ones have no value; children that are not Html
    are escaped.
    """
    written = "".join(_attribute(key, value) for key, value in (attributes or {}).items())
    if name in VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def join(parts: Iterable[str]) -> Html:
    """Markup and texts one after the other."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def escape(text: str) -> Html:
    """Text as markup; what HTML cannot hold (control characters, half surrogates of odd file names) becomes U+FFFD."""
    return Html(html.escape("".join(char if _allowed(char) else "\ufffd" for char in text)))


def breakable(text: str) -> Html:
    """Text that may be broken after the joints of a name or path, and need not be elsewhere."""
    return Html(re.sub(r"([/_])(?=[^/_])", r"\1<wbr>", escape(text)))


def data_block(identifier: str, value: Any) -> Html:
    """JSON for the page's script, inert whatever it holds."""
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")
    return Html(f'<script type="application/json" id="{escape(identifier)}">{text}</script>')


def table(
    header: Iterable[str], rows: Iterable[Iterable[str]], *, numeric: Iterable[int] = (), caption: str = ""
) -> Html:
    """A table that scrolls by itself where it is too wide; columns whose number is in `numeric` are set flush right."""
    right = set(numeric)

    def cells(name: str, row: Iterable[str]) -> Html:
        return join(tag(name, {"class": "number" if i in right else None}, cell) for i, cell in enumerate(row))

    head = tag("thead", {}, tag("tr", {}, cells("th", header)))
    body = tag("tbody", {}, *(tag("tr", {}, cells("td", row)) for row in rows))
    above = [tag("caption", {}, caption)] if caption else []
    return tag("div", {"class": "scroll"}, tag("table", {}, *above, head, body))


def paragraph(*children: str) -> Html:
    return tag("p", {}, *children)


def note(*children: str) -> Html:
    """Small print: where a number comes from, or why something is not there."""
    return tag("p", {"class": "note"}, *children)


def section(identifier: str, title: str, lead: str, *children: str) -> Html:
    """A part of the page with the one sentence that says what to look for."""
    heading = tag("h2", {"id": f"{identifier}-title"}, title)
    return tag(
        "section",
        {"id": identifier, "aria-labelledby": f"{identifier}-title"},
        heading,
        tag("p", {"class": "lead"}, lead),
        *children,
    )


def _attribute(key: str, value: Any) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return f" {key}"
    return f' {key}="{escape(f"{value:.5g}" if isinstance(value, float) else str(value))}"'


def _allowed(char: str) -> bool:
    code = ord(char)
    return char in "\t\n\r" or (0x20 <= code < 0x7F) or (code >= 0xA0 and not 0xD800 <= code <= 0xDFFF)
