"""Every example of docs/function.md runs and prints what the page says; a warning that is not shown is an error."""

import doctest
from pathlib import Path

import hybridml as hml

PAGE = Path(__file__).resolve().parent.parent / "docs" / "function.md"


def test_every_example():
    text = PAGE.read_text()
    # Fences would be read as expected output; empty lines keep the line numbers.
    plain = "\n".join("" if line.startswith("```") else line for line in text.split("\n"))
    test = doctest.DocTestParser().get_doctest(plain, {}, "function.md", str(PAGE), 0)
    assert len(test.examples) > 100
    said = []
    try:
        doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    finally:
        hml.run_functions_eagerly(False)
    assert not said, "".join(said)


def test_lines_are_short():
    assert [line for line in PAGE.read_text().split("\n") if len(line) > 130] == []
