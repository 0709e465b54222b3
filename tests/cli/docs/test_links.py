"""Links of README and docs lead to files and headings that are there."""

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent.parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def links_of(page):
    for token in MarkdownIt().parse(page.read_text()):
        for part in token.children or ():
            target = part.attrGet("href") or part.attrGet("src")
            if target and not re.match(r"[a-z]+:", target):
                yield target


def headings_of(page):
    """As GitHub names them."""
    tokens = MarkdownIt().parse(page.read_text())
    names = [tokens[at + 1].content for at, it in enumerate(tokens) if it.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in names}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_somewhere(page):
    for target in links_of(page):
        path, _, heading = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), f"{target}: there is no such file"
        if heading:
            assert heading in headings_of(found), f"{target}: there is no such heading"


def test_each_page_of_the_docs_is_linked():
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in links_of(page)
        if not target.startswith("#")
    }
    assert [page for page in (ROOT / "docs").glob("*.md") if page not in linked] == []
