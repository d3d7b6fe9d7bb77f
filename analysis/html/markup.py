"""Elements of an HTML page; every text and every attribute is escaped when they are written."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any
from xml.etree.ElementTree import Element, tostring

Child = Element | str | None


def element(tag: str, *children: Child, **attributes: Any) -> Element:
    """Make an element of HTML or SVG.

    Args:
        tag: its name.
        *children: elements and texts in order; None is left out.
        **attributes: `data_task` stands for data-task and `class_` for class. None and False leave
            the attribute out, True is an attribute without a value.
    """
    node = Element(tag)
    for name, value in attributes.items():
        if value is not None and value is not False:
            text = "" if value is True else str(value)
            node.set(name.rstrip("_").replace("_", "-"), text)
    for child in children:
        if isinstance(child, Element):
            node.append(child)
        elif child is not None and len(node):
            node[-1].tail = (node[-1].tail or "") + child
        elif child is not None:
            node.text = (node.text or "") + child
    return node


def write(node: Element) -> str:
    """Write an element as HTML."""
    return tostring(node, encoding="unicode", method="html")


def grid(
    title: str,
    heads: Sequence[str],
    rows: Sequence[Element],
    tags: Sequence[Mapping[str, Any]] | None = None,
) -> Element:
    """Make a table that the page's script can sort, in a frame that scrolls where it is too wide.

    Args:
        title: what the table shows, for those who do not see it.
        heads: the headings of the columns.
        rows: what `row` returns for each row.
        tags: further attributes of each heading.
    """
    tags = tags or [{}] * len(heads)
    cells = [
        element("th", head, scope="col", **more) for head, more in zip(heads, tags, strict=True)
    ]
    table = element(
        "table",
        element("caption", title, class_="unseen"),
        element("thead", element("tr", *cells)),
        element("tbody", *rows),
        class_="sortable",
    )
    return element("div", table, class_="scroll", role="region", aria_label=title, tabindex="0")


def row(
    texts: Sequence[str],
    tags: Sequence[Mapping[str, Any]] | None = None,
    values: Sequence[float | None] = (),
    **attributes: Any,
) -> Element:
    """Make a row of a table, whose first cell is its heading.

    Args:
        texts: the texts of the cells.
        tags: further attributes of each cell.
        values: the numbers that the cells are sorted by, instead of their texts.
        **attributes: attributes of the row.
    """
    cells = []
    for i, text in enumerate(texts):
        more = dict(tags[i]) if tags else {}
        if i < len(values) and values[i] is not None:
            more["data_value"] = f"{values[i]:.10g}"
        cells.append(element("td" if i else "th", text, scope=None if i else "row", **more))
    return element("tr", *cells, **attributes)


def definition_list(facts: Mapping[str, str]) -> Element:
    """List names and what they stand for."""
    pairs = [(element("dt", name), element("dd", text)) for name, text in facts.items()]
    return element("dl", *chain.from_iterable(pairs))


def folded(title: str, *children: Child, **attributes: Any) -> Element:
    """Make a part that is closed until a reader opens it, or prints the page."""
    return element("details", element("summary", title), *children, **attributes)


def command(lines: Sequence[str], label: str) -> Element:
    """Show commands, one on a line."""
    code = element("code", "\n".join(lines))
    return element("pre", code, tabindex="0", role="region", aria_label=label)


def prose(text: str, **attributes: Any) -> Element:
    """Make a paragraph in which `words` between backticks are code."""
    parts: list[Child] = [
        element("code", part) if i % 2 else part for i, part in enumerate(text.split("`"))
    ]
    return element("p", *parts, **attributes)


def checkbox(name: str, value: str, *content: Child, **attributes: Any) -> Element:
    """Make a ticked box with its label; the attributes are the label's."""
    box = element("input", type="checkbox", name=name, value=value, checked=True)
    return element("label", box, *content, **attributes)
