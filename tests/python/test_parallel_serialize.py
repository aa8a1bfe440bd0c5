"""Objects on ipyparallel's wire: what is canned here is read by the stock package, and the other way round."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
from typing import Any

import pytest

from manyhands.parallel import Reference, depend, error, interactive, require
from manyhands.parallel.serialize import canning, deserialize_object, names, pack_apply_message, serialize_object, unpack_apply_message

numpy = pytest.importorskip("numpy")


@interactive
def twice(x):  # type: ignore[no-untyped-def]
    return 2 * x


def with_closure() -> Any:
    factor = 3

    def scaled(x: int, *, offset: int = 1) -> int:
        return factor * x + offset

    return interactive_like(scaled)


def interactive_like(f: Any) -> Any:
    f.__module__ = "__main__"
    return f


OBJECTS = {
    "number": 5,
    "text": "hello",
    "nested": {"a": range(5), "b": {1: b"hello"}},
    "bytes": b"x" * 2000,
    "list": [b"y" * 2000, 1, "z" * 3000],
    "many": list(range(1000)),
    "set": {1, 2},
    "array": numpy.arange(1000.0),
    "small array": numpy.ones((2, 2)),
    "empty array": numpy.zeros(0),
    "scalar array": numpy.array(3.0),
    "records": numpy.array([(1, b"a")], dtype=[("n", int), ("s", "|S10")]),
    "objects": numpy.array([{"a": 1}, None], dtype=object),
    "dict of arrays": {"b": numpy.ones(500), "a": numpy.zeros(500)},
    "partial": functools.partial(max, b"q" * 3000, key=len),
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, numpy.ndarray):
        return bool(a.dtype == b.dtype and a.shape == b.shape and (a == b).all())
    if isinstance(a, functools.partial):
        return (a.func, a.args, a.keywords) == (b.func, b.args, b.keywords)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return bool(a == b)


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_arrive(name: str) -> None:
    buffers = serialize_object(OBJECTS[name])
    found, left = deserialize_object([memoryview(b) for b in buffers])
    assert left == [] and same(OBJECTS[name], found)


@pytest.mark.parametrize(("obj", "count"), [(b"x" * 1024, 1), (b"x" * 1025, 2), ([b"x" * 1025] * 63, 64), ([b"x" * 1025] * 64, 1),
                                            (numpy.ones(512), 2)])
def test_what_is_big_travels_beside_the_pickle(obj: Any, count: int) -> None:
    assert len(serialize_object(obj)) == count


def test_functions_and_classes_arrive() -> None:
    @interactive
    class Point:
        size = 2

    f, _ = deserialize_object(serialize_object(twice))
    g, _ = deserialize_object(serialize_object(with_closure()))
    cls, _ = deserialize_object(serialize_object({"Point": Point}))
    assert f(4) == 8 and g(4) == 13 and g(4, offset=0) == 12
    assert g.__annotations__ == {"x": "int", "offset": "int", "return": "int"}
    assert cls["Point"].size == 2


def test_a_call_arrives_and_names_are_looked_up_where_it_runs() -> None:
    buffers = pack_apply_message(twice, (Reference("a"), numpy.arange(1000)), {"b": b"z" * 5000, "a": 1})
    f, args, kwargs = unpack_apply_message(buffers, {"a": 42})
    assert f(3) == 6 and args[0] == 42 and args[1].sum() == 499500 and kwargs == {"a": 1, "b": b"z" * 5000}
    with pytest.raises(NameError):
        unpack_apply_message(buffers, {})
    with pytest.raises(TypeError, match="illegal name"):
        Reference(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", [slice(0, 1), slice(0, 2), slice(0, -1)])
def test_missing_buffers_are_named(cut: slice) -> None:
    buffers = pack_apply_message(twice, (numpy.arange(1000), b"x" * 5000), {})
    with pytest.raises(ValueError, match="buffer|arguments"):
        unpack_apply_message(buffers[cut])
    with pytest.raises(ValueError, match="more buffers"):
        unpack_apply_message([*buffers, b"one more"])


def test_conditions_are_tried_on_arrival() -> None:
    @depend(interactive(lambda wanted: wanted), False)
    def task() -> int:
        return 1

    @require("math", "no_such_module_anywhere")
    def other() -> int:
        return 2

    for f in (task, other):
        with pytest.raises(error.UnmetDependency):
            deserialize_object(serialize_object(f), {})

    @require("math", interactive(twice))
    def root() -> float:
        return math.sqrt(twice(8))  # type: ignore[name-defined, no-any-return]  # noqa: F821

    assert task() == 1 and root.__name__ == "root"
    with pytest.raises(TypeError, match="by keyword"):
        require(5)


def test_pickles_name_the_stock_classes() -> None:
    text = serialize_object(numpy.ones(10))[0]
    assert b"ipyparallel.serialize.canning" in text and b"manyhands" not in text
    assert type(names.loads(text)) is canning.CannedArray


READ_BY_STOCK = """
import pickle, sys
from ipyparallel.serialize import deserialize_object, unpack_apply_message
from ipyparallel.serialize.canning import CannedArray
objects, call = pickle.load(sys.stdin.buffer)
for buffers in objects:
    found, left = deserialize_object(buffers)
    assert left == [], left
    print(type(found).__name__, flush=True)
f, args, kwargs = unpack_apply_message(call, {"a": 2})
print(f(*args, **kwargs))
"""

WRITTEN_BY_STOCK = """
import pickle, sys, functools, numpy
from ipyparallel import interactive, Reference, depend
from ipyparallel.serialize import serialize_object, pack_apply_message
@interactive
def add(x, y=1):
    return x + y
@depend(lambda: True)
def conditional():
    return 7
made = [[bytes(b) for b in serialize_object(o)] for o in (5, [b"x" * 2000], numpy.arange(1000), functools.partial(max, b"q" * 3000), {"b": 1})]
call = [bytes(b) for b in pack_apply_message(add, (Reference("a"),), {"y": 40})]
pickle.dump((made, call, serialize_object(conditional)), sys.stdout.buffer)
"""


def run_stock(program: str, data: bytes = b"") -> bytes:
    pytest.importorskip("ipyparallel")
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_the_stock_package_reads_ours() -> None:
    objects = [[bytes(b) for b in serialize_object(o)] for o in OBJECTS.values()]
    call = [bytes(b) for b in pack_apply_message(twice, (Reference("a"),), {})]
    lines = run_stock(READ_BY_STOCK, pickle.dumps((objects, call))).decode().split()
    assert lines == [type(o).__name__ for o in OBJECTS.values()] + ["4"]


def test_ours_reads_the_stock_package() -> None:
    objects, call, conditional = pickle.loads(run_stock(WRITTEN_BY_STOCK))
    found = [deserialize_object(buffers)[0] for buffers in objects]
    assert found[0] == 5 and found[1] == [b"x" * 2000] and found[2].sum() == 499500 and found[4] == {"b": 1}
    f, args, kwargs = unpack_apply_message(call, {"a": 2})
    assert f(*args, **kwargs) == 42
    assert deserialize_object(conditional, {})[0]() == 7


def test_other_picklers() -> None:
    captured = 5
    try:
        canning.use_cloudpickle()
        f, _ = deserialize_object(serialize_object(lambda x: x + captured))
        array, _ = deserialize_object(serialize_object(numpy.ones(500)))
        assert f(1) == 6 and array.sum() == 500
    finally:
        canning.use_pickle()
    assert isinstance(canning.can(twice), canning.CannedFunction)


def test_errors_say_where_they_were_raised() -> None:
    info = {"engine_id": 3, "method": "apply"}
    one = error.unwrap_exception({"ename": "ValueError", "evalue": "bad", "traceback": ["line 1", "line 2"], "engine_info": info})
    assert str(one) == "[3:apply] ValueError: bad" and one.render_traceback() == ["[3:apply]", "line 1", "line 2"]
    with pytest.raises(error.CompositeError) as caught:
        error.collect_exceptions([1, one, one], "map")
    assert len(caught.value.elist) == 2 and "map" in str(caught.value)
    with pytest.raises(error.RemoteError, match="bad"):
        caught.value.raise_exception(1)
    with pytest.raises(IndexError):
        caught.value.raise_exception(2)
    assert error.collect_exceptions([1, 2]) == [1, 2]
