"""Finding a def by its indentation: the same tree as by reading all of Python's tokens, and quickly where that is enough."""

import ast
import inspect
import textwrap

import pytest

from hybridml.trace.autograph import source


def plain(x):
    y = x + 1
    # a comment

    return y


def with_a_header_of_several_lines(
    x,
    y=(1, 2),
):
    return x


# fmt: off
def with_text_at_the_margin(x):
    text = """
at the margin
"""
    return x, text


def with_a_continued_line(x):
    y = x + \
1
    return y


def with_brackets_at_the_margin(x):
    y = [
x,
]
    return y
# fmt: on


def decorated(f):
    return f


@decorated
@decorated
def under_decorators(x):
    def inner(y):
        return y

    return inner(x)


class Inside:
    def method(self, x):
        if x:
            return 1
        return 2


FUNCTIONS = [
    plain, with_a_header_of_several_lines, with_text_at_the_margin, with_a_continued_line, with_brackets_at_the_margin, under_decorators,
    Inside.method,
]  # fmt: skip


@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.__name__)
def test_the_tree_is_the_functions_own(f):
    found = source.find(f)
    expected = ast.parse(textwrap.dedent(inspect.getsource(f))).body[0]
    assert ast.dump(found) == ast.dump(expected)
    assert source._first_line(found) == f.__code__.co_firstlineno


def test_tokens_are_read_only_where_indentation_does_not_tell(monkeypatch):
    asked = []
    real = inspect.getblock
    monkeypatch.setattr(inspect, "getblock", lambda lines: asked.append(1) or real(lines))
    for f in (plain, with_a_header_of_several_lines, under_decorators, Inside.method):
        source.find(f)
    assert not asked
    source.find(with_text_at_the_margin)
    assert asked
