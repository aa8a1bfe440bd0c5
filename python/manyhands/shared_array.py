"""NumPy arrays in shared memory, which travel between processes without being copied.

    >>> import numpy, manyhands
    >>> from manyhands import shared_array
    >>> a = shared_array.zeros((4, 3))
    >>> def fill(part, value):
    ...     part[:] = value
    >>> with manyhands.Pool(2) as pool:
    ...     _ = pool.starmap(fill, [(a[0], 1.0), (a[1:3, 1:], 2.0)])
    >>> a
    SharedArray([[1., 1., 1.],
                 [0., 2., 2.],
                 [0., 2., 2.],
                 [0., 0., 0.]])

What travels. An array made here, and every view of it (slice, transpose, reshape), goes by reference wherever processes of a program send each other
objects: arguments and results of pools and executors, arguments of processes, queues, pipes, managers. Both sides then work on
one memory: what one writes the other reads. In a plain pickle (a file, another machine) it is a copy, a plain `numpy.ndarray`.

How long it lives. As long as any process has the array or a view of it, or a reference is on its way. Nobody unlinks anything; when the program has
ended, in whatever way, nothing is left. Two limits: a reference that is sent and never received (a queue that nobody reads) keeps the
memory until the program ends; and one message that is received twice (a task that is tried again) finds the memory the second time only if somebody
has it, so keep the array while tasks with retries use it.

What computes with it gets plain arrays: `a + 1` and `a.copy()` are the caller's own. Locks are the caller's business, too.
"""

from __future__ import annotations

import weakref
from multiprocessing.reduction import ForkingPickler
from typing import Any, Callable

import numpy

from . import _core

__all__ = ["SharedArray", "array", "asarray", "empty", "full", "is_shared", "like", "ones", "parallel", "readonly", "zeros"]

_np: Any = numpy
_opened: weakref.WeakValueDictionary[str, _core.Segment] = weakref.WeakValueDictionary()


def _segment_of(array: Any) -> _core.Segment | None:
    """The segment that an array lies in, or None."""
    base = array
    while isinstance(base, numpy.ndarray):
        base = base.base
    return base if type(base) is _core.Segment else None


class SharedArray(numpy.ndarray[Any, Any]):
    """A `numpy.ndarray` in shared memory, or a view of one. Made by the functions of this module."""

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        # Results of computations are plain: only what lies in shared memory is a SharedArray.
        if array is self or _segment_of(array) is not None:
            return array
        plain = array.view(numpy.ndarray)
        return plain[()] if plain.ndim == 0 else plain

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.view(numpy.ndarray).__reduce_ex__(protocol)

    def __reduce__(self) -> Any:
        return self.view(numpy.ndarray).__reduce__()

    def copy(self, order: Any = "C") -> Any:
        """A plain array with a copy of it."""
        return self.view(numpy.ndarray).copy(order)


def _reduce(array: SharedArray) -> Any:
    """By reference, when the memory is shared and will be found."""
    segment = _segment_of(array)
    if segment is None or array.size == 0 or not segment.post():
        return array.__reduce_ex__(4)
    offset = array.__array_interface__["data"][0] - segment.address
    kind = array.dtype.str if array.dtype.isbuiltin == 1 else array.dtype  # a text is a tenth of the work
    return _attach, (segment.name, array.shape, kind, array.strides, offset, array.flags.writeable)


ForkingPickler.register(SharedArray, _reduce)


def _attach(name: str, shape: Any, dtype: Any, strides: Any, offset: int, writeable: bool) -> SharedArray:
    segment = _opened.get(name)
    if segment is not None and not (writeable and segment.readonly):
        segment.arrive()
    else:
        try:
            segment = _core.Segment.open_counted(name, not writeable)
        except FileNotFoundError as problem:
            raise FileNotFoundError(problem.errno, f"the shared array is gone: all who had it dropped it before this reference to it was received "
                                    f"(or received again), or it was made on another machine ({name})") from None
        _opened[name] = segment
    memory: Any = segment
    made = SharedArray(shape, dtype, memory, offset, strides)
    if not writeable:
        made.flags.writeable = False
    return made


def empty(shape: Any, dtype: Any = float) -> SharedArray:
    """A shared array whose values are not set (they are zero); `shape` is an int or a tuple of ints.

    Raises TypeError for a dtype that holds Python objects, and OSError with ENOSPC, naming the size, when /dev/shm has no room.
    """
    kind = numpy.dtype(dtype)
    if kind.hasobject:
        raise TypeError(f"an array of {kind} holds references to objects of this process: it cannot be shared")
    sizes = tuple(int(n) for n in shape) if _np.iterable(shape) else (int(shape),)
    if any(n < 0 for n in sizes):
        raise ValueError(f"negative dimensions are not allowed: {sizes}")
    size = kind.itemsize
    for n in sizes:
        size *= n
    segment = _core.Segment.create_counted(max(size, 1))
    _opened[segment.name] = segment
    memory: Any = segment
    return SharedArray(sizes, kind, memory)


def zeros(shape: Any, dtype: Any = float) -> SharedArray:
    """A shared array of zeros."""
    return empty(shape, dtype)


def ones(shape: Any, dtype: Any = float) -> SharedArray:
    """A shared array of ones."""
    return full(shape, 1, dtype)


def full(shape: Any, fill_value: Any, dtype: Any = None) -> SharedArray:
    """A shared array whose every value is `fill_value`; its dtype is that of the value when none is given."""
    made = empty(shape, numpy.asarray(fill_value).dtype if dtype is None else dtype)
    made[...] = fill_value
    return made


def array(object: Any, dtype: Any = None) -> SharedArray:
    """A shared array with a copy of `object`, which is anything that `numpy.asarray` takes."""
    source = numpy.asarray(object, dtype)
    made = empty(source.shape, source.dtype)
    made[...] = source
    return made


def asarray(object: Any, dtype: Any = None) -> SharedArray:
    """`object` itself when it is a shared array (of that dtype), else a shared copy."""
    if is_shared(object) and isinstance(object, SharedArray) and (dtype is None or object.dtype == dtype):
        return object
    return array(object, dtype)


def like(prototype: Any, dtype: Any = None, shape: Any = None) -> SharedArray:
    """A shared array of the shape and dtype of another array, unless told otherwise; its values are zero."""
    prototype = numpy.asanyarray(prototype)
    return empty(prototype.shape if shape is None else shape, prototype.dtype if dtype is None else dtype)


def readonly(array: SharedArray) -> SharedArray:
    """A view that cannot be written to, here or where it is received: there the memory itself is mapped for reading only."""
    if not is_shared(array):
        raise TypeError(f"not a shared array: {type(array).__name__}")
    view = array.view()
    view.flags.writeable = False
    return view


def is_shared(array: Any) -> bool:
    """Whether an array lies in shared memory of this module's."""
    return isinstance(array, numpy.ndarray) and _segment_of(array) is not None


# ---- computing with all workers ---------------------------------------------------------------------------------------


def _run(function: Callable[..., Any], arrays: tuple[Any, ...], out: Any) -> None:
    if isinstance(function, numpy.ufunc):
        function(*arrays, out=out)
    else:
        out[...] = function(*arrays)


def parallel(pool: Any, function: Callable[..., Any], *arrays: Any, out: Any = None, chunks: int | None = None) -> SharedArray:
    """`function(*arrays)` for a function that works item by item along the first axis (a ufunc, or anything like it), computed by a pool's workers.

    All arrays must be as long as the first. Shared ones are not copied; others are, once, into shared memory. The result is `out`, or a new
    shared array with the dtype and shape that the function gives for the first item. `chunks` pieces, by default four for each worker.

        >>> import numpy, manyhands
        >>> from manyhands import shared_array
        >>> a = shared_array.array([1.0, 4.0, 9.0])
        >>> with manyhands.Pool(2) as pool:
        ...     shared_array.parallel(pool, numpy.sqrt, a)
        SharedArray([1., 2., 3.])
    """
    if not arrays:
        raise TypeError("parallel() needs at least one array")
    shared = [asarray(a) for a in arrays]
    length = len(shared[0])
    if any(len(a) != length for a in shared):
        raise ValueError(f"arrays of different lengths: {[len(a) for a in shared]}")
    if out is None:
        first = numpy.asarray(function(*(a[:1] for a in shared)))
        out = empty((length, *first.shape[1:]), first.dtype)
    elif not is_shared(out) or not isinstance(out, SharedArray):
        raise TypeError("out must be a shared array, or the workers' results would be lost")
    elif len(out) != length:
        raise ValueError(f"out has {len(out)} items, the arrays have {length}")
    count = min(length, chunks or 4 * getattr(pool, "_processes", 4))
    bounds = [length * i // max(count, 1) for i in range(count + 1)]
    pool.starmap(_run, [(function, tuple(a[i:j] for a in shared), out[i:j]) for i, j in zip(bounds, bounds[1:])], 1)
    return out  # type: ignore[no-any-return]
