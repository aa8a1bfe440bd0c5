"""The pool beside the standard library's: one body for both, so that what holds for theirs holds for ours."""

from __future__ import annotations

import collections
import importlib
import itertools
import os
import threading
from typing import Any

import numpy
import pytest
import tasks
from tasks import VALUES, add, divide, echo, echo_all, nothing, pid, raise_it, read_file, same, square, value_named

pytestmark = pytest.mark.timeout(60)
SOON = 30  # seconds after which something has certainly hung
KINDS = ["multiprocessing.Pool", "manyhands.Pool", "multiprocessing.ThreadPool", "manyhands.ThreadPool"]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def lib(kind):
    return importlib.import_module(kind.partition(".")[0])


@pytest.fixture(scope="module")
def new(kind, lib):
    """Makes a pool of the kind. Forks: the test program's main module is no business of the workers."""
    if kind.endswith("ThreadPool"):
        return importlib.import_module(lib.__name__ + ".pool").ThreadPool
    return lib.get_context("fork").Pool


@pytest.fixture(scope="module")
def pool(new):
    with new(2) as made:
        yield made


@pytest.fixture
def processes_only(kind):
    if kind.endswith("ThreadPool"):
        pytest.skip("does not apply: of processes only")


@pytest.fixture
def gate(tmp_path):
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


# ---- values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VALUES)
def test_value_comes_back_as_it_went(pool, name):
    v = VALUES[name]
    assert same(pool.apply(echo, (v,)), v)
    assert same(pool.apply(echo_all, (v, v), {"k": v}), ((v, v), {"k": v}))
    assert same(pool.apply(value_named, (name,)), v)
    assert same(pool.apply_async(echo, [v]).get(SOON), v)
    for many in ([v], [v] * 7, [1, v, "x", v, None, 2.5, v], [v, 1, True], [(v, 1), (v, 2)], [(1, v), (2, "x")]):
        assert same(pool.map(echo, many), many)
        assert same(pool.map(echo, many, 3), many)
    many = [v, 0, v]
    assert same(pool.starmap(echo_all, [(w, w) for w in many]), [((w, w), {}) for w in many])
    assert same(pool.map_async(echo, many).get(SOON), many)
    assert same(pool.starmap_async(echo, [[w] for w in many], 2).get(SOON), many)
    assert same(list(pool.imap(echo, many)), many)
    assert same(list(pool.imap(echo, many, 2)), many)
    assert same(list(pool.imap_unordered(echo, [v, v], 2)), [v, v])
    assert same(pool.map(value_named, [name] * 3), [v] * 3)
    assert same(pool.map(value_named, ["1", name, "str", name], 4), [1, v, "abc", v])


def test_every_value_in_one_list(pool):
    values = list(VALUES.values())
    for chunksize in (None, 1, len(values)):
        assert same(pool.map(echo, values, chunksize), values)
    assert same(pool.apply(echo_all, values), (tuple(values), {}))


def test_value_that_contains_itself(pool):
    back = pool.apply(echo, (tasks.make_recursive(),))
    assert back[0] == 1 and back[1] is back


def grow(a: list[int]) -> int:
    a.append(0)
    return len(a)


def test_the_same_object_twice_in_a_chunk_is_one_object_there(pool, processes_only):
    item = [0]
    assert pool.map(grow, [item] * 4, chunksize=4) == [2, 3, 4, 5]
    assert item == [0]
    first, second = pool.map(echo, [item, item], chunksize=2)
    assert first is second and first is not item


ARRAYS = {
    "float64": numpy.arange(10.0), "0-d": numpy.array(3.5), "empty": numpy.zeros((0, 3)), "one": numpy.ones(1), "bool": numpy.array([True, False]),
    "int8": numpy.arange(-5, 5, dtype=numpy.int8), "big-endian": numpy.arange(5, dtype=">i4"), "complex": numpy.array([1 + 2j, -0.0]),
    "float16": numpy.array([1.5, numpy.nan], dtype=numpy.float16), "nan": numpy.array([numpy.nan, -0.0, numpy.inf]),
    "text": numpy.array(["a", "bcd\u65e5"]), "bytes": numpy.array([b"a", b"bcd"]), "objects": numpy.array([None, [1], "x"], dtype=object),
    "dates": numpy.array(["2020-01-01", "NaT"], dtype="M8[D]"), "records": numpy.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
    "Fortran": numpy.asfortranarray(numpy.arange(12.0).reshape(3, 4)), "3-d": numpy.arange(24).reshape(2, 3, 4),
    "slice": numpy.arange(20)[::3], "reversed": numpy.arange(5)[::-1], "column": numpy.arange(12).reshape(3, 4)[:, 1],
    "broadcast": numpy.broadcast_to(numpy.arange(3), (4, 3)), "large": numpy.arange(100_000.0), "large Fortran": numpy.asfortranarray(numpy.ones((300, 200))),
    "large slice": numpy.arange(100_000)[::2], "large objects": numpy.array([str(i) for i in range(2000)], dtype=object),
    "scalar": numpy.float32(1.5), "int scalar": numpy.int64(7), "large bytes scalar": numpy.bytes_(b"x" * 5000),
    "just beside": numpy.zeros(4096, dtype=numpy.uint8), "just inside": numpy.zeros(4095, dtype=numpy.uint8),
}


def same_array(a: Any, b: Any) -> bool:
    if type(a) is not type(b) or a.shape != b.shape:
        return False
    if a.dtype == object or a.dtype.byteorder == ">":  # of which the standard library makes one of the machine's order
        return a.tolist() == b.tolist()
    if a.dtype != b.dtype:
        return False
    return numpy.ascontiguousarray(a).tobytes() == numpy.ascontiguousarray(b).tobytes()


@pytest.mark.parametrize("name", ARRAYS)
def test_array_comes_back_as_it_went(pool, name):
    a = ARRAYS[name]
    backs = [pool.apply(echo, (a,)), *pool.map(echo, [a] * 3), *pool.map(echo, [a, 1, a], 3)[::2], *pool.imap(echo, [a, a]),
             *pool.starmap(echo, [(a,)]), pool.apply(echo, ({"k": [a]},))["k"][0]]
    for back in backs:
        assert same_array(a, back)
        if isinstance(a, numpy.ndarray) and (a.flags.c_contiguous or a.flags.f_contiguous):
            assert back.flags.c_contiguous == a.flags.c_contiguous and back.flags.f_contiguous == a.flags.f_contiguous
        assert back.flags.aligned


def change(a: Any) -> Any:
    a.fill(7)
    return a


@pytest.mark.parametrize("size", [3, 100_000])
def test_arrays_in_tasks_and_results_are_ones_own(pool, processes_only, size):
    a = numpy.zeros(size)
    back = pool.apply(change, (a,))
    assert not a.any() and (back == 7).all()
    back += 1  # the result is the caller's
    backs = pool.map(change, [a] * 6, 2)
    backs[0].fill(1)
    assert not a.any() and (backs[2] == 7).all() and (backs[5] == 7).all()
    assert (list(pool.imap(change, [a, a]))[1] == 7).all()


@pytest.mark.parametrize("size", [3, 100_000])
def test_an_array_that_was_read_only_can_be_written_there(pool, processes_only, size):
    # as with the standard library, whose pickles do not know the flag
    a = numpy.zeros(size)
    a.flags.writeable = False
    assert (pool.apply(change, (a,)) == 7).all()
    assert pool.apply(echo, (a,)).flags.writeable and pool.map(echo, [a])[0].flags.writeable


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_large_values_side_by_side(pool, count):
    items = [bytes([i % 256]) * (2_000_000 // count) for i in range(count)]
    assert pool.map(echo, items) == items
    assert list(pool.imap(echo, items, 3)) == items


# ---- input -------------------------------------------------------------------------------------------------


class OldSequence:
    """Iterates by numbers, as before there were iterators."""

    def __getitem__(self, i: int) -> int:
        if i >= 10:
            raise IndexError
        return i


class Sized:
    """Has a length and iterates, and has no item by number."""

    def __len__(self) -> int:
        return 10

    def __iter__(self) -> Any:
        return iter(range(10))


INPUTS = {
    "list": lambda: list(range(10)), "tuple": lambda: tuple(range(10)), "range": lambda: range(10), "generator": lambda: (i for i in range(10)),
    "iterator": lambda: iter(range(10)), "map": lambda: map(int, "0123456789"), "dict": lambda: dict.fromkeys(range(10)),
    "keys": lambda: dict.fromkeys(range(10)).keys(), "values": lambda: {str(i): i for i in range(10)}.values(),
    "deque": lambda: collections.deque(range(10)), "bytes": lambda: bytes(range(10)), "array": lambda: numpy.arange(10), "old sequence": OldSequence,
    "sized": Sized, "islice": lambda: itertools.islice(itertools.count(), 10), "memoryview": lambda: memoryview(bytes(range(10))),
    "list subclass": lambda: tasks.List(range(10)), "str": lambda: "0123456789", "set": lambda: set(range(10)), "zip": lambda: zip(range(10)),
}


@pytest.mark.parametrize("name", INPUTS)
def test_input_of_any_kind(pool, name):
    expected = list(INPUTS[name]())
    for chunksize in (1, 3, 10, 1000):
        assert pool.map(echo, INPUTS[name](), chunksize) == expected
        assert list(pool.imap(echo, INPUTS[name](), chunksize)) == expected
        assert pool.map_async(echo, INPUTS[name](), chunksize).get(SOON) == expected
        assert sorted(pool.imap_unordered(echo, INPUTS[name](), chunksize)) == sorted(expected)
    back = pool.map(echo, INPUTS[name]())
    assert back == expected and type(back) is list and list(map(type, back)) == list(map(type, expected))


@pytest.mark.parametrize("empty", [[], (), {}, "", range(0), iter([])], ids=lambda e: type(e).__name__)
def test_empty_input(pool, empty):
    good: list[Any] = []
    assert pool.map(square, empty) == []
    assert pool.map(square, empty, 5) == []
    assert pool.starmap(square, empty) == []
    assert list(pool.imap(square, empty)) == []
    assert list(pool.imap_unordered(square, empty, 3)) == []
    result = pool.map_async(square, empty)
    assert result.get(SOON) == [] and result.ready() and result.successful()
    assert pool.starmap_async(square, empty, callback=good.append).get(SOON) == []


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize("chunksize", [None, 1, 2, 5, 1000, 2**40])
def test_order_whatever_the_chunks(pool, count, chunksize):
    expected = [i * i for i in range(count)]
    assert pool.map(square, range(count), chunksize) == expected
    assert pool.starmap(add, zip(range(count), range(count)), chunksize) == [2 * i for i in range(count)]
    if count <= 64:
        assert list(pool.imap(square, range(count), min(chunksize or 1, sys_maxsize))) == expected


sys_maxsize = 2**31


def test_many_items(pool):
    n = 200_000
    assert pool.map(square, range(n)) == [i * i for i in range(n)]
    assert sum(pool.imap(square, range(n), 1000)) == sum(i * i for i in range(n))
    assert pool.map(nothing, range(n)) == [None] * n


def test_rows_of_any_kind(pool):
    rows = [(1, 2), [3, 4], range(5, 7), "ab", {7: 0, 8: 0}, (i for i in (9, 10)), numpy.arange(2)]
    if pool.__class__.__name__ == "ThreadPool":
        assert pool.starmap(add, rows) == [3, 7, 11, "ab", 15, 19, 1]
    else:
        del rows[5]  # no generator travels
        assert pool.starmap(add, rows) == [3, 7, 11, "ab", 15, 1]
    assert pool.starmap(echo_all, [(), (1,), (1, 2)]) == [((), {}), ((1,), {}), ((1, 2), {})]
    assert pool.starmap_async(echo_all, [(), (1, 2)], 2).get(SOON) == [((), {}), ((1, 2), {})]


def test_callables_of_any_kind(pool):
    import functools

    assert pool.map(functools.partial(add, 10), [1]) == [11]
    assert pool.map("abcabc".count, ["a", "x"]) == [2, 0]
    assert pool.map(tasks.Point, [1, 2]) == [tasks.Point(1), tasks.Point(2)]
    assert pool.map(str, [1, None]) == ["1", "None"]
    assert pool.map(int.bit_length, [255]) == [8]
    assert pool.apply(dict, (), {"a": 1}) == {"a": 1}
    assert pool.apply(sorted, ([2, 1],), {"reverse": True}) == [2, 1]
    assert pool.map(Adder(5).plus, [1, 2]) == [6, 7]
    assert pool.map(Adder(5), [1, 2]) == [6, 7]
    assert pool.map(Adder.of_class, [1]) == ["Adder1"] and pool.map(Adder.of_none, [1]) == [1]


def test_stop_iteration_is_an_exception_like_others(pool):
    with pytest.raises(StopIteration) as caught:
        pool.apply(raise_it, (StopIteration(3),))
    assert caught.value.value == 3


class Adder:
    def __init__(self, a: int) -> None:
        self.a = a

    def plus(self, b: int) -> int:
        return self.a + b

    __call__ = plus

    @classmethod
    def of_class(cls, b: int) -> str:
        return cls.__name__ + str(b)

    @staticmethod
    def of_none(b: int) -> int:
        return b


def test_arguments_of_apply(pool):
    assert pool.apply(echo_all) == ((), {})
    assert pool.apply(echo_all, [1, 2]) == ((1, 2), {})
    assert pool.apply(echo_all, "ab") == (("a", "b"), {})
    assert pool.apply(echo_all, range(3)) == ((0, 1, 2), {})
    assert pool.apply(echo_all, (), {"a": 1}) == ((), {"a": 1})
    assert pool.apply(echo_all, kwds={"z": 1, "a": 2}) == ((), {"z": 1, "a": 2})
    assert list(pool.apply(echo_all, kwds={"z": 1, "a": 2})[1]) == ["z", "a"]
    assert pool.apply(echo_all, (1,), collections.OrderedDict(b=1)) == ((1,), {"b": 1})
    assert pool.apply_async(func=echo_all, args=(1,), kwds={"a": 2}, callback=None, error_callback=None).get(SOON) == ((1,), {"a": 2})
    assert pool.map(func=square, iterable=[2], chunksize=1) == [4]
    assert list(pool.imap(func=square, iterable=[2], chunksize=1)) == [4]
    assert list(pool.imap_unordered(func=square, iterable=[2], chunksize=1)) == [4]
    assert pool.starmap(func=add, iterable=[(1, 2)], chunksize=1) == [3]
    assert pool.map_async(func=square, iterable=[2], chunksize=1, callback=None, error_callback=None).get(timeout=SOON) == [4]
    assert pool.starmap_async(add, [(1, 2)], 1, None, None).get(SOON) == [3]


# ---- exceptions ---------------------------------------------------------------------------------------------


class Plain(Exception):
    pass


class WithState(Exception):
    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.code = 17
        self.detail = {"a": [1]}


ERRORS = [
    ValueError(), ValueError("v"), ValueError(1, "two", None), KeyError("k"), KeyError((1, 2)), IndexError("i"), ZeroDivisionError("z"),
    OSError(2, "gone", "/nowhere"), FileNotFoundError(2, "gone"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), AssertionError("a"),
    StopAsyncIteration(), AttributeError("a"), NameError("n"), ImportError("i", name="x", path="/p"), NotImplementedError(),
    RuntimeError("r"), MemoryError("m"), RecursionError("r"), EOFError(), TimeoutError("t"), BrokenPipeError(32, "pipe"), SyntaxError("s"),
    Plain("p"), WithState("w", 2), tasks.TwoArguments(1, 2), Plain(VALUES["nested"]), ValueError("x" * 100_000), ValueError("\ud800"),
    UserWarning("w"), ConnectionRefusedError("c"), ArithmeticError(float("nan")), Exception("plain"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_exception_comes_back_as_it_was(pool, kind, error):
    def caught(call: Any) -> BaseException:
        try:
            call()
        except BaseException as e:
            return e
        raise AssertionError("nothing was raised")

    calls = [
        lambda: pool.apply(raise_it, (error,)),
        lambda: pool.apply_async(raise_it, (error,)).get(SOON),
        lambda: pool.map(raise_it, [error]),
        lambda: pool.map_async(raise_it, [error, error], 1).get(SOON),
        lambda: pool.starmap(raise_it, [(error,)]),
        lambda: pool.starmap_async(raise_it, [(error,)]).get(SOON),
        lambda: next(pool.imap(raise_it, [error])),
        lambda: next(pool.imap_unordered(raise_it, [error])),
    ]
    for call in calls:
        e = caught(call)
        assert same(e, error), e
        if kind.endswith(".Pool"):
            text = str(e.__cause__)
            assert type(e.__cause__).__name__ == "RemoteTraceback"
            assert text.startswith('\n"""\nTraceback (most recent call last):\n') and text.endswith('\n"""')
            assert "in raise_it\n    raise error\n" in text and type(error).__name__ in text
    assert same(pool.map(echo, [error, error]), [error, error])  # as a value it is one


def raise_chained(x: int) -> None:
    try:
        divide(0)
    except ZeroDivisionError as e:
        raise KeyError("second") from e


def raise_in_handler(x: int) -> None:
    try:
        divide(0)
    except ZeroDivisionError:
        raise KeyError("third")  # noqa: B904


def test_the_workers_traceback_tells_the_whole_chain(pool, processes_only):
    with pytest.raises(KeyError, match="second") as caught:
        pool.apply(raise_chained, (1,))
    text = str(caught.value.__cause__)
    assert "ZeroDivisionError: division by zero" in text and "direct cause" in text and text.index("Zero") < text.index("KeyError")
    with pytest.raises(KeyError, match="third") as caught:
        pool.map(raise_in_handler, [1])
    assert "During handling of the above exception" in str(caught.value.__cause__)


def test_notes_and_groups(pool):
    if not hasattr(Exception, "add_note"):
        pytest.skip("does not apply: from Python 3.11 on")
    noted = ValueError("v")
    noted.add_note("a note")
    with pytest.raises(ValueError) as caught:
        pool.apply(raise_it, (noted,))
    assert caught.value.__notes__ == ["a note"]
    group = ExceptionGroup("g", [ValueError(1), ExceptionGroup("h", [KeyError(2)])])  # noqa: F821
    with pytest.raises(ExceptionGroup) as caught:  # noqa: F821
        pool.map(raise_it, [group])
    assert str(caught.value) == str(group) and same(caught.value.exceptions[0].args, (1,))


def test_what_fails_is_the_item_and_the_rest_is_done(pool, tmp_path):
    done = tmp_path / "done"
    with pytest.raises(ZeroDivisionError):
        pool.starmap(divide_and_note, [(str(done), x) for x in (1, 2, 0, 3, 6)], 1)
    assert sorted(done.read_text().split()) == ["1.0", "2.0", "3.0", "6.0"]
    assert pool.map(divide, [1, 2]) == [6.0, 3.0]
    results = [pool.apply_async(divide, (x,)) for x in (1, 0, 2, 0)]
    for r in results:
        r.wait(SOON)
    assert [r.successful() for r in results] == [True, False, True, False]


def divide_and_note(path: str, x: int) -> None:
    tasks.append(path, f"{divide(x)} ")


def test_a_hundred_failures_hurt_nothing(pool):
    for _ in range(100):
        with pytest.raises(ZeroDivisionError):
            pool.apply(divide, (0,))
    assert pool.map(square, range(20)) == [i * i for i in range(20)]


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_lazy_raises_in_its_place_and_goes_on(pool, method):
    it = getattr(pool, method)(divide, [1, 0, 2, 0, 3])
    got: list[Any] = []
    while True:
        try:
            got.append(next(it))
        except ZeroDivisionError:
            got.append(None)
        except StopIteration:
            break
    assert len(got) == 5 and got.count(None) == 2 and {2.0, 3.0, 6.0} < set(got)
    assert method == "imap_unordered" or got == [6.0, None, 3.0, None, 2.0]


def broken_input(good: int) -> Any:
    yield from range(good)
    raise LookupError("input", good)


@pytest.mark.parametrize("method", ["map", "map_async", "starmap", "starmap_async"])
def test_input_that_raises_midway(pool, method):
    with pytest.raises(LookupError) as caught:
        getattr(pool, method)(square, broken_input(5))
    assert caught.value.args == ("input", 5)
    assert pool.map(square, [3]) == [9]


@pytest.mark.parametrize("good, chunksize", [(0, 1), (1, 1), (5, 1), (6, 3)])
def test_lazy_input_that_raises_midway(pool, good, chunksize):
    it = pool.imap(square, broken_input(good), chunksize)
    assert [next(it) for _ in range(good)] == [i * i for i in range(good)]
    with pytest.raises(LookupError):
        next(it)
    with pytest.raises(StopIteration):
        next(it)
    with pytest.raises(LookupError):
        list(pool.imap_unordered(square, broken_input(good), chunksize))
    assert pool.map(square, [3]) == [9]


# ---- AsyncResult ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["apply_async", "map_async", "starmap_async"])
def test_before_and_after(pool, lib, gate, method):
    argument = {"apply_async": (str(gate),), "map_async": [str(gate)], "starmap_async": [(str(gate),)]}[method]
    expected = "open" if method == "apply_async" else ["open"]
    result = getattr(pool, method)(read_file, argument)
    assert result.ready() is False
    with pytest.raises(ValueError, match="not ready$"):
        result.successful()
    for timeout in (0, 0.01, -1):
        assert result.wait(timeout) is None
        with pytest.raises(lib.TimeoutError):
            result.get(timeout)
    gate.write_text("open")
    assert result.wait() is None and result.ready() is True and result.successful() is True
    assert result.get() == expected and result.get(0) == expected and result.get(timeout=None) == expected


def test_failed_result_raises_each_time(pool):
    result = pool.map_async(divide, [1, 0])
    result.wait(SOON)
    assert result.ready() and result.successful() is False
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            result.get(0)


def test_the_result_is_one_object(pool):
    result = pool.apply_async(echo, ([1],))
    assert result.get(SOON) is result.get()
    result = pool.map_async(echo, [1, 2])
    assert result.get(SOON) is result.get()


def test_callbacks_come_before_the_result(pool):
    for _ in range(20):
        good: list[Any] = []
        bad: list[Any] = []
        assert pool.apply_async(square, (3,), callback=good.append, error_callback=bad.append).get(SOON) == 9
        assert (good, bad) == ([9], [])
        pool.apply_async(divide, (0,), callback=good.append, error_callback=bad.append).wait(SOON)
        assert good == [9] and [type(e) for e in bad] == [ZeroDivisionError]
        pool.map_async(square, range(10), 1, good.append, bad.append).wait(SOON)
        assert good == [9, [i * i for i in range(10)]]
        pool.starmap_async(divide, [(1,), (0,), (0,)], 1, good.append, bad.append).wait(SOON)
        assert len(good) == 2 and [type(e) for e in bad] == [ZeroDivisionError] * 2


def test_callbacks_run_in_another_thread_of_this_process(pool):
    seen: list[Any] = []
    pool.apply_async(square, (3,), callback=lambda r: seen.append((os.getpid(), threading.current_thread()))).wait(SOON)
    (process, thread), = seen
    assert process == os.getpid() and thread is not threading.main_thread()


def test_threads_share_a_pool(pool):
    errors: list[BaseException] = []

    def work(n: int) -> None:
        try:
            for i in range(10):
                assert pool.apply(add, (n, i)) == n + i
                assert pool.map(square, range(n)) == [j * j for j in range(n)]
                assert list(pool.imap(square, range(n), 2)) == [j * j for j in range(n)]
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors


# ---- lazy iteration ---------------------------------------------------------------------------------------------


def test_lazy_is_an_iterator(pool):
    it = pool.imap(square, [1, 2, 3])
    assert iter(it) is it and next(it) == 1 and it.next() == 4 and it.next(timeout=SOON) == 9
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(it)


def test_lazy_unordered_gives_what_is_ready(pool, lib, gate, tmp_path):
    ready = tmp_path / "ready"
    ready.write_text("ready")
    it = pool.imap_unordered(read_file, [str(gate), str(ready)])
    assert it.next(timeout=SOON) == "ready"
    with pytest.raises(lib.TimeoutError):
        it.next(timeout=0.01)
    gate.write_text("late")
    assert it.next(timeout=SOON) == "late"


def test_lazy_ordered_waits_for_the_first(pool, lib, gate, tmp_path):
    ready = tmp_path / "ready"
    ready.write_text("ready")
    it = pool.imap(read_file, [str(gate), str(ready)])
    with pytest.raises(lib.TimeoutError):
        it.next(timeout=0.05)
    gate.write_text("late")
    assert [it.next(timeout=SOON), next(it)] == ["late", "ready"]


def test_several_lazy_iterators_at_once(pool):
    its = [pool.imap(square, range(n, n + 50), n + 1) for n in range(5)]
    columns = [list(it) for it in reversed(its)]
    assert columns == [[i * i for i in range(n, n + 50)] for n in reversed(range(5))]
    assert list(zip(pool.imap(square, range(20)), pool.imap(echo, range(20), 3))) == [(i * i, i) for i in range(20)]


def test_lazy_in_lazy(pool):
    assert list(pool.imap(square, pool.imap(square, range(200)))) == [i**4 for i in range(200)]


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("chunksize", [1, 10])
def test_ours_pulls_as_results_are_taken(pool, kind, method, chunksize):
    if kind != "manyhands.Pool":
        pytest.skip("does not apply: the standard library pulls all at once")
    pulled = 0

    def endless() -> Any:
        nonlocal pulled
        for i in itertools.count():
            pulled = i + 1
            yield i

    it = getattr(pool, method)(square, endless(), chunksize)
    before = pulled
    assert 0 < before <= 16 * chunksize  # two workers: a few tasks for each
    for _ in range(3):
        pool.apply(square, (1,))  # time goes by, and nobody takes results
    assert pulled == before
    for n in range(1, 200):
        next(it)
        assert pulled <= n + 1024 * chunksize
    assert pulled >= 200
    del it
    assert pool.map(square, range(10)) == [i * i for i in range(10)]


# ---- life ----------------------------------------------------------------------------------------------------------

METHODS = ["apply", "apply_async", "map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered"]


@pytest.mark.parametrize("end", ["close", "terminate", "with"])
def test_after_the_end_nothing_is_taken(new, end):
    made = new(1)
    if end == "with":
        with made as entered:
            assert entered is made and made.map(square, [2]) == [4]
    else:
        getattr(made, end)()
    for method in METHODS:
        with pytest.raises(ValueError, match="^Pool not running$"):
            getattr(made, method)(square, [1])
    with pytest.raises(ValueError, match="^Pool not running$"):
        made.__enter__()
    made.join()
    with pytest.raises(ValueError, match="^Pool not running$"):
        made.map(square, [1])


def test_join_only_after_an_end(new):
    with new(1) as made:
        with pytest.raises(ValueError, match="^Pool is still running$"):
            made.join()
        assert made.map(square, [2]) == [4]


@pytest.mark.parametrize("calls", ["close close join join", "terminate terminate join join", "close terminate join", "terminate close join",
                                   "close join close terminate join"])
def test_ends_in_any_order(new, calls):
    made = new(2)
    assert made.map(square, range(5)) == [0, 1, 4, 9, 16]
    for call in calls.split():
        assert getattr(made, call)() is None


def test_what_was_given_before_close_is_done(new, tmp_path):
    done = tmp_path / "done"
    seen: list[Any] = []
    made = new(2)
    results = [made.apply_async(square, (i,), callback=seen.append) for i in range(50)]
    mapped = made.map_async(square, range(500), 3)
    it = made.imap(square, range(100), 3)
    made.starmap_async(tasks.append, [(str(done), "x")] * 20, 1)
    made.close()
    made.join()
    assert [r.get(0) for r in results] == [i * i for i in range(50)] and len(seen) == 50
    assert mapped.get(0) == [i * i for i in range(500)]
    assert list(it) == [i * i for i in range(100)]
    assert done.read_text() == "x" * 20


def test_an_exception_in_with_goes_through(new):
    with pytest.raises(KeyError, match="mine"), new(1) as made:
        made.apply_async(square, (1,))
        raise KeyError("mine")
    with pytest.raises(ValueError, match="Pool not running"):
        made.map(square, [1])


def test_more_workers_than_work(new):
    with new(6) as made:
        assert made.map(square, [3]) == [9]
        assert made.apply(square, (4,)) == 16


def test_one_after_another(new):
    for n in range(5):
        with new(1 + n % 2) as made:
            assert made.map(square, range(n)) == [i * i for i in range(n)]


def test_two_pools_at_once(new):
    with new(1) as a, new(1) as b:
        results = [p.map_async(square, range(50), 1) for p in (a, b)]
        assert [r.get(SOON) for r in results] == [[i * i for i in range(50)]] * 2


def test_repr_and_pickle(new):
    import pickle

    with new(2) as made:
        assert repr(made).endswith("Pool state=RUN pool_size=2>") and ".pool." in repr(made)
        with pytest.raises(NotImplementedError, match="^pool objects cannot be passed between processes or pickled$"):
            pickle.dumps(made)
        made.close()
        assert "state=CLOSE" in repr(made)
        made.terminate()
        assert "state=TERMINATE" in repr(made)


state: dict[str, Any] = {}


def prepare(path: str, *args: Any) -> None:
    state["args"] = args
    tasks.append(path, f"{os.getpid()}\n")


def prepared(_: Any) -> Any:
    return state.get("args")


def test_initializer_runs_once_in_each_worker(new, kind, tmp_path):
    log = tmp_path / "log"
    made = new(3, prepare, (str(log), 1, "two", [3]))
    assert made.map(prepared, range(30), 1) == [(1, "two", [3])] * 30
    pids = set(made.map(pid, range(30), 1))
    made.close()
    made.join()
    ran = log.read_text().split()
    assert len(ran) == 3 and pids <= set(map(int, ran))
    assert len(set(ran)) == (3 if kind.endswith(".Pool") else 1)


def test_maxtasksperchild_recycles(new, processes_only, tmp_path):
    log = tmp_path / "log"
    with new(1, prepare, (str(log),), 2) as made:
        pids = [made.apply(pid) for _ in range(6)]
        pids += made.map(pid, range(4), 1)
        assert [len(list(g)) for _, g in itertools.groupby(pids)] == [2] * 5 and len(set(pids)) == 5
        assert list(map(int, log.read_text().split()))[:5] == list(dict.fromkeys(pids))
        assert made.map(prepared, range(3), 1) == [()] * 3
    with new(2, maxtasksperchild=1) as made:
        pids = made.map(pid, range(8), 1)
        assert len(set(pids)) == 8
        assert len(set(made.map(pid, range(8), 4))) == 2  # a chunk is one task


def test_no_recycling_unless_asked(new, processes_only):
    with new(1) as made:
        assert len(set(made.map(pid, range(200), 1))) == 1


def about_worker(_: Any) -> Any:
    import multiprocessing
    import sys

    me = multiprocessing.current_process()
    return me.name, me.daemon, multiprocessing.parent_process().pid, me.pid == os.getpid(), sys.stdin.read(), multiprocessing.active_children()


def test_a_worker_knows_what_it_is(new, processes_only):
    with new(2) as made:
        for name, daemon, parent, own, stdin, children in made.map(about_worker, range(10), 1):
            assert name.startswith("ForkPoolWorker-") and daemon is True and parent == os.getpid() and own and stdin == "" and children == []


def start_process(lib_name: str) -> None:
    lib = importlib.import_module(lib_name)
    lib.Process(target=nothing).start()


def test_only_our_workers_may_have_children(new, lib, processes_only):
    if lib.__name__ == "manyhands":
        with new(1) as made:
            assert made.apply(start_process, (lib.__name__,)) is None
        return
    with new(1) as made, pytest.raises(AssertionError, match="^daemonic processes are not allowed to have children$"):
        made.apply(start_process, (lib.__name__,))


def set_environment(_: Any) -> str:
    os.environ["MH_TEST_SET"] = "1"
    os.chdir("/")
    return os.getcwd()


def test_what_a_worker_changes_stays_there(new, processes_only):
    before = os.getcwd()
    with new(1) as made:
        assert made.apply(set_environment, (0,)) == "/"
        assert made.apply(os.getenv, ("MH_TEST_SET",)) == "1" and made.apply(os.getcwd) == "/"
    assert os.getcwd() == before and "MH_TEST_SET" not in os.environ
