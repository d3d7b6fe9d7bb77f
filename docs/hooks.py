"""What the documentation site needs besides Markdown: links that lead out of it become text."""

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?:results|algos|envs|runners|analysis)/[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Keep the words of links to files of the repository that are no pages, and drop the links."""
    return OUTSIDE.sub(r"\1", markdown)
