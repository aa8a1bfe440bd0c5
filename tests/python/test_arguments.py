"""Wrong arguments: the same call with both libraries raises the same exception, at once, with the same words where they are the library's own."""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.pool
import os
from typing import Any

import pytest
import tasks
from tasks import add, echo, square

import manyhands
import manyhands.pool

pytestmark = pytest.mark.timeout(60)
LIBRARIES = ["multiprocessing", "manyhands"]


class Raises:
    """Whatever is asked of it, it raises."""

    def __len__(self) -> int:
        raise LookupError("len")

    def __iter__(self) -> Any:
        raise LookupError("iter")

    def __call__(self) -> None:
        raise LookupError("call")


class NoIterator:
    def __iter__(self) -> Any:
        return 5


class NegativeLength(list):
    def __len__(self) -> int:
        return -1


class Index:
    def __init__(self, n: int) -> None:
        self.n = n

    def __index__(self) -> int:
        return self.n


MAKING = {
    "no workers": dict(processes=0), "negative workers": dict(processes=-3), "workers as text": dict(processes="2"), "workers as float": dict(processes=1.5),
    "workers as list": dict(processes=[2]), "workers as nan": dict(processes=float("nan")), "initializer a number": dict(processes=1, initializer=5),
    "initializer a text": dict(processes=1, initializer="x"), "initargs a number": dict(processes=1, initializer=square, initargs=5),
    "initargs none": dict(processes=1, initializer=square, initargs=None), "initargs raise": dict(processes=1, initializer=square, initargs=Raises()),
    "no tasks": dict(processes=1, maxtasksperchild=0), "negative tasks": dict(processes=1, maxtasksperchild=-1), "tasks as float": dict(processes=1, maxtasksperchild=1.0),
    "tasks as text": dict(processes=1, maxtasksperchild="1"), "unknown option": dict(processes=1, nonsense=1),
}
# "initargs" are only unpacked in the worker by the standard library, which then starts workers for ever: ours may raise what it likes, but at once.
OURS_ALONE = {"initargs a number", "initargs none", "initargs raise"}


def outcome(call: Any) -> tuple[str, str]:
    try:
        value = call()
    except BaseException as e:
        return type(e).__name__, str(e)
    return "value", repr(value)


@pytest.mark.parametrize("name", MAKING)
def test_making_a_pool(name):
    def make(library: str) -> Any:
        def call() -> Any:
            pool = importlib.import_module(library).get_context("fork").Pool(**MAKING[name])
            try:
                return pool.map(abs, [1])
            finally:
                pool.terminate()
                pool.join()
        return call

    ours = outcome(make("manyhands"))
    if name in OURS_ALONE:
        assert ours[0] != "value"
        return
    standard = outcome(make("multiprocessing"))
    assert ours[0] == standard[0], (standard, ours)
    if standard[0] == "ValueError":
        assert ours[1] == standard[1]


@pytest.fixture(scope="module")
def pools():
    made = [importlib.import_module(library).get_context("fork").Pool(1) for library in reversed(LIBRARIES)]  # ours first: it forks without threads
    yield list(reversed(made))
    for pool in made:
        pool.terminate()
        pool.join()


ALL = ["map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered"]
WAITING = ["map", "starmap"]

CALLS: dict[str, Any] = {}
for method in ALL:
    lazy = method.startswith("imap")
    take = next if lazy else (lambda r: r)
    CALLS |= {
        f"{method}()": lambda p, m=method: getattr(p, m)(),
        f"{method} of nothing": lambda p, m=method: getattr(p, m)(square),
        f"{method} over a number": lambda p, m=method, t=take: t(getattr(p, m)(square, 5)),
        f"{method} over None": lambda p, m=method, t=take: t(getattr(p, m)(square, None)),
        f"{method} over a function": lambda p, m=method, t=take: t(getattr(p, m)(square, square)),
        f"{method} over what has no iterator": lambda p, m=method, t=take: t(getattr(p, m)(square, NoIterator())),
        f"{method} with an unknown option": lambda p, m=method: getattr(p, m)(square, [1], nonsense=1),
        f"{method} with the wrong name": lambda p, m=method: getattr(p, m)(function=square, iterable=[1]),
        f"{method} twice named": lambda p, m=method: getattr(p, m)(square, [1], func=square),
        f"{method} with chunksize twice": lambda p, m=method: getattr(p, m)(square, [1], 1, chunksize=1),
        f"{method} with a chunksize of text": lambda p, m=method: getattr(p, m)(square, [1, 2], "1"),
    }
    if lazy:
        CALLS |= {
            f"{method} with chunksize 0": lambda p, m=method: getattr(p, m)(square, [1], 0),
            f"{method} with chunksize -1": lambda p, m=method: getattr(p, m)(square, [1], chunksize=-1),
            f"{method} with chunksize None": lambda p, m=method: getattr(p, m)(square, [1], None),
            f"{method} with callback": lambda p, m=method: getattr(p, m)(square, [1], 1, print),
            f"{method} next wrong": lambda p, m=method: getattr(p, m)(square, [1]).next("x"),
            f"{method} next unknown": lambda p, m=method: getattr(p, m)(square, [1]).next(nonsense=1),
            f"{method} next many": lambda p, m=method: getattr(p, m)(square, [1]).next(1, 2),
        }
for method in ["apply", "apply_async"]:
    take = (lambda r: r.get(20)) if method.endswith("async") else (lambda r: r)
    CALLS |= {
        f"{method}()": lambda p, m=method: getattr(p, m)(),
        f"{method} with an unknown option": lambda p, m=method: getattr(p, m)(square, nonsense=1),
        f"{method} with the wrong name": lambda p, m=method: getattr(p, m)(function=square),
        f"{method} with kwargs for kwds": lambda p, m=method: getattr(p, m)(square, kwargs={}),
        f"{method} twice named": lambda p, m=method: getattr(p, m)(square, (1,), args=(1,)),
        f"{method} with too many": lambda p, m=method: getattr(p, m)(square, (1,), {}, None, None, None, None),
        f"{method} of a number": lambda p, m=method, t=take: t(getattr(p, m)(5)),
        f"{method} of None": lambda p, m=method, t=take: t(getattr(p, m)(None)),
        f"{method} with args a number": lambda p, m=method, t=take: t(getattr(p, m)(square, 5)),
        f"{method} with args None": lambda p, m=method, t=take: t(getattr(p, m)(square, None)),
        f"{method} with kwds a list": lambda p, m=method, t=take: t(getattr(p, m)(square, (1,), [1])),
        f"{method} with kwds a number": lambda p, m=method, t=take: t(getattr(p, m)(square, (1,), 5)),
        f"{method} with kwds None": lambda p, m=method, t=take: t(getattr(p, m)(square, (1,), None)),
        f"{method} with keys that are no text": lambda p, m=method, t=take: t(getattr(p, m)(echo, (), {1: 2})),
        f"{method} of too few": lambda p, m=method, t=take: t(getattr(p, m)(add, (1,))),
        f"{method} of too many": lambda p, m=method, t=take: t(getattr(p, m)(add, (1, 2, 3))),
        f"{method} of an unknown keyword": lambda p, m=method, t=take: t(getattr(p, m)(add, (1, 2), {"c": 3})),
    }
CALLS |= {
    "map of None": lambda p: p.map(None, [1]),
    "map of a number": lambda p: p.map(5, [1]),
    "map over what raises": lambda p: p.map(square, (i for i in Raises())),
    "map_async of a text": lambda p: p.map_async("x", [1]).get(20),
    "starmap over numbers": lambda p: p.starmap(square, [1, 2]),
    "starmap over None": lambda p: p.starmap(square, [None]),
    "starmap of too many": lambda p: p.starmap(add, [(1, 2, 3)]),
    "starmap of too few": lambda p: p.starmap(add, [()]),
    "starmap_async over numbers": lambda p: p.starmap_async(square, [1, 2]).get(20),
    "imap of None": lambda p: next(p.imap(None, [1])),
    "get of text": lambda p: p.apply_async(os.getpid).get("x"),
    "get unknown": lambda p: p.apply_async(os.getpid).get(nonsense=1),
    "get many": lambda p: p.apply_async(os.getpid).get(1, 2),
    "wait unknown": lambda p: p.map_async(abs, [1]).wait(seconds=1),
    "ready with": lambda p: p.apply_async(os.getpid).ready(1),
    "successful with": lambda p: p.apply_async(os.getpid).successful(1),
    "join": lambda p: p.join(), "join with": lambda p: p.join(5), "close with": lambda p: p.close(1), "terminate with": lambda p: p.terminate(1),
    "no such attribute": lambda p: p.submit(square, 1), "len": len, "iter": iter, "call": lambda p: p(), "index": lambda p: p[0],
    "pickle": lambda p: __import__("pickle").dumps(p), "copy": lambda p: __import__("copy").copy(p),
    "as an argument": lambda p: p.apply(echo, (p,)),
}
WORDS_OF_THE_LIBRARY = ("ValueError", "NotImplementedError", "AssertionError", "LookupError", "AttributeError")


@pytest.mark.parametrize("name", CALLS)
def test_calls(pools, name):
    standard, ours = (outcome(lambda p=p: CALLS[name](p)) for p in pools)
    assert ours[0] == standard[0] != "value", (standard, ours)
    if ours[0] in WORDS_OF_THE_LIBRARY and "object has no attribute" not in ours[1]:
        assert ours[1] == standard[1]
    elif "nonsense" in standard[1]:
        assert "nonsense" in ours[1]
    for pool in pools:
        assert pool.apply(square, (3,)) == 9


@pytest.mark.parametrize("library", LIBRARIES)
def test_negative_and_zero_chunks_of_map(library):
    """The standard library makes nothing of them, silently: an empty or a wrong list. Ours says so."""
    with importlib.import_module(library).get_context("fork").Pool(1) as pool:
        for chunksize in (0, -1):
            if library == "manyhands":
                with pytest.raises(ValueError, match=f"Chunksize must be 1\\+, not {chunksize}"):
                    pool.map(square, [1, 2], chunksize)
                with pytest.raises(ValueError, match="Chunksize must be 1"):
                    pool.map_async(square, [1, 2], chunksize)
        assert pool.map(square, [1, 2], 1) == [1, 4]


@pytest.mark.parametrize("method", ALL)
def test_chunks_of_a_size_that_is_no_integer(pools, method):
    """The standard library's map never answers."""
    with pytest.raises(TypeError, match="float"):
        getattr(pools[1], method)(square, [1, 2], 1.5)


OPTIONS = {
    "timeout": [0, -1, float("nan"), float("inf"), "x", [], 1e300], "retries": [-1, "x", 1.5, (1,), (1, 2, 3, 4), (1, 2, -1), (-1, 0), (0, -1), ("a", 0), [], 10**30],
}


@pytest.mark.parametrize("option, value", [(o, v) for o, values in OPTIONS.items() for v in values], ids=str)
def test_our_own_options(option, value):
    """They are refused at once, by every method and by the pool, and nothing runs."""
    with manyhands.get_context("fork").Pool(1) as pool:
        before = pool.stats()["submitted"]
        for method in ["apply", "apply_async", *ALL]:
            args = (square, (1,)) if method.startswith("apply") else (square, [(1,)])
            with pytest.raises((ValueError, TypeError, OverflowError)):
                getattr(pool, method)(*args, **{option: value})
        with pytest.raises((ValueError, TypeError, OverflowError)):
            manyhands.get_context("fork").Pool(1, **{option: value})
        assert pool.stats()["submitted"] == before
        assert pool.map(square, [2]) == [4]


@pytest.mark.parametrize("option, value", [("maxbytesperchild", 0), ("maxbytesperchild", -1), ("maxbytesperchild", "x"), ("maxbytesperchild", 1.5)])
def test_our_own_options_of_the_pool(option, value):
    with pytest.raises((ValueError, TypeError)):
        manyhands.get_context("fork").Pool(1, **{option: value})


def test_our_options_are_keyword_only():
    with manyhands.get_context("fork").Pool(1) as pool:
        for call in (lambda: pool.map(square, [1], 1, True), lambda: pool.imap(square, [1], 1, True), lambda: pool.map_async(square, [1], 1, None, None, 5),
                     lambda: pool.apply(square, (1,), {}, 5), lambda: pool.apply_async(square, (1,), {}, None, None, 5)):
            with pytest.raises(TypeError):
                call()


def test_wrong_start_methods():
    for call in (lambda m: m.get_context("nonsense"), lambda m: m.get_context(5), lambda m: m.set_start_method("nonsense", force=True),
                 lambda m: m.get_context("fork").set_start_method("spawn"), lambda m: m.get_context("fork").get_context("nonsense")):
        standard, ours = (outcome(lambda m=m: call(m)) for m in (multiprocessing, manyhands))
        assert standard == ours
    multiprocessing.set_start_method(None, force=True)
    manyhands.set_start_method(None, force=True)


def test_the_same_public_names():
    """Who says `import manyhands as multiprocessing` finds every name."""
    for name in multiprocessing.__all__:
        assert hasattr(manyhands, name), name
    for name in ("Pool", "ThreadPool"):
        ours, standard = getattr(manyhands.pool, name), getattr(multiprocessing.pool, name)
        for attribute in dir(standard):
            if not attribute.startswith("_") and attribute != "Process":  # of which the documentation says nothing
                assert callable(getattr(ours, attribute)), (name, attribute)
    for name in ("TimeoutError", "ProcessError", "BufferTooShort", "AuthenticationError"):
        assert issubclass(getattr(manyhands, name), getattr(multiprocessing, name))
    for name in dir(multiprocessing.Process):
        if not name.startswith("_"):
            assert hasattr(manyhands.Process, name), name
    with multiprocessing.get_context("fork").Pool(1) as standard_pool, manyhands.get_context("fork").Pool(1) as our_pool:
        for make in (lambda p: p.apply_async(square, (1,)), lambda p: p.map_async(square, [1]), lambda p: p.imap(square, [1])):
            ours, standard = make(our_pool), make(standard_pool)
            assert {n for n in dir(standard) if not n.startswith("_")} <= set(dir(ours))


def test_isinstance():
    assert issubclass(manyhands.pool.ThreadPool, multiprocessing.pool.ThreadPool)
    with manyhands.get_context("fork").Pool(1) as pool:
        assert isinstance(pool, manyhands.pool.Pool) and isinstance(pool.apply_async(square, (1,)), manyhands.pool.AsyncResult)
    assert isinstance(manyhands.Process(), multiprocessing.process.BaseProcess)
    assert tasks.same(manyhands.cpu_count(), multiprocessing.cpu_count())
