"""Nothing that is text can become markup."""

import json
from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from birdjepa.report.html import Html, breakable, data_block, escape, join, table, tag


class Reader(HTMLParser):
    """Texts, elements and attributes as a browser would find them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(alphabet=st.characters(codec=None, exclude_categories=())))
def test_text_and_attributes_come_back_as_text(text: str):
    reader = Reader()
    reader.feed(tag("p", {"title": text}, text))
    reader.close()
    assert reader.elements == ["p"]
    written = "".join(reader.texts)
    assert len(written) == len(text)
    assert all(one in (other, "\ufffd") for one, other in zip(written, text, strict=True))
    assert reader.attributes[0][0] == "title"
    written.encode("utf-8")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text())
def test_data_blocks_hold_any_text_and_no_markup(text: str):
    block = data_block("d", {"label": text})
    inner = block.removeprefix('<script type="application/json" id="d">').removesuffix("</script>")
    assert "<" not in inner
    assert "&" not in inner
    assert json.loads(inner) == {"label": text}


def test_attributes():
    assert tag("i", {"a": None, "b": False, "c": True, "d": 1 / 3, "e": 2}) == '<i c d="0.33333" e="2"></i>'
    assert tag("img", {"alt": "x"}) == '<img alt="x">'


def test_markup_is_kept_and_text_is_not():
    assert join(("<b>", Html("<b>"))) == "&lt;b&gt;<b>"
    assert isinstance(escape("x"), Html)


def test_names_break_at_their_joints_only():
    assert breakable("a_b/c<d_") == "a_<wbr>b/<wbr>c&lt;d_"


def test_tables_align_numbers():
    written = table(("name", "n"), [("<i>", "1")], numeric=(1,), caption="c")
    assert '<td class="number">1</td>' in written
    assert "<td>&lt;i&gt;</td>" in written
    assert "<caption>c</caption>" in written
