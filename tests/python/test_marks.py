"""Marks: which names a dictionary had at one moment, as forked workers' modules are remembered."""

import sys

import pytest

from manyhands import _core


def test_marks_are_of_their_moment():
    names = {"one": 1, "two": 2}
    marks = _core.marks(names)
    names["three"] = 3
    del names["one"]
    assert [name for name in ("one", "two", "three", "four", "") if _core.is_marked(marks, name)] == ["one", "two"]
    assert not _core.is_marked(_core.marks({}), "one")


def test_marks_of_what_is_loaded():
    marks = _core.marks(sys.modules)
    assert all(_core.is_marked(marks, name) for name in sys.modules)
    assert not _core.is_marked(marks, "no.such.module")


def test_marking_leaves_the_names_counts_alone():
    name = "a name of its own: " + str(id(pytest))
    names = {name: 1}
    before = sys.getrefcount(name)
    marks = _core.marks(names)
    assert _core.is_marked(marks, name) and sys.getrefcount(name) == before


def test_other_keys_are_no_names():
    assert _core.is_marked(_core.marks({1: "a", "b": 2}), "b")


@pytest.mark.parametrize("arguments", [([],), (None,), ()])
def test_marks_are_made_of_a_dict(arguments):
    with pytest.raises(TypeError):
        _core.marks(*arguments)


@pytest.mark.parametrize("arguments", [("text", "name"), (b"", 1), (b"",)])
def test_marks_are_asked_for_a_name(arguments):
    with pytest.raises(TypeError):
        _core.is_marked(*arguments)


def test_marks_that_are_none_mark_nothing():
    assert not _core.is_marked(b"short", "name")
