"""Every example of the pages for users runs and prints what the page says; a warning that is not shown is an error."""

import doctest
from pathlib import Path

import pytest

import hybridml as hml

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = {"function.md": 100, "models.md": 20}  # and how many examples there are at least


@pytest.mark.parametrize("page", PAGES)
def test_every_example(page):
    text = (DOCS / page).read_text()
    # Fences would be read as expected output; empty lines keep the line numbers.
    plain = "\n".join("" if line.startswith("```") else line for line in text.split("\n"))
    test = doctest.DocTestParser().get_doctest(plain, {}, page, str(DOCS / page), 0)
    assert len(test.examples) >= PAGES[page]
    said = []
    try:
        doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    finally:
        hml.run_functions_eagerly(False)
    assert not said, "".join(said)


@pytest.mark.parametrize("page", PAGES)
def test_lines_are_short(page):
    assert [line for line in (DOCS / page).read_text().split("\n") if len(line) > 130] == []
