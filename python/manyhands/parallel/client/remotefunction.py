"""Functions that run on a view's engines when they are called."""

from __future__ import annotations

import warnings
from inspect import signature
from typing import TYPE_CHECKING, Any, Callable

from ..remotefunction import _map
from ..serialize import PrePickled
from . import map as Map
from .asyncresult import AsyncMapResult

if TYPE_CHECKING:
    from .view import View

__all__ = ["ParallelFunction", "RemoteFunction", "parallel", "remote"]


def remote(view: View, block: bool | None = None, **flags: Any) -> Callable[[Callable[..., Any]], RemoteFunction]:
    """Decorator: calls of the function run on the view's engines."""
    return lambda f: RemoteFunction(view, f, block=block, **flags)


def parallel(view: View, dist: str = "b", block: bool | None = None, ordered: bool = True, **flags: Any) -> Callable[[Callable[..., Any]], ParallelFunction]:
    """Decorator: calls of the function are given parts of their sequences, on the view's engines."""
    return lambda f: ParallelFunction(view, f, dist=dist, block=block, ordered=ordered, **flags)


def getname(f: Any) -> str:
    """How a callable is called: its `__name__`, or `name`, or itself as text."""
    for attribute in ("__name__", "name"):
        try:
            return str(getattr(f, attribute))
        except Exception:
            continue
    return str(f)


class RemoteFunction:
    """A function f that runs on the view's engines.

    block: whether calls wait (default: as the view does); flags: those of the view during calls (see `View.temp_flags`).
    """

    view: Any = None
    func: Any = None
    block: bool | None = None
    flags: dict[str, Any] = {}

    def __init__(self, view: View, f: Callable[..., Any], block: bool | None = None, **flags: Any) -> None:
        self.view = view
        self.func = f
        self.block = block
        self.flags = flags
        self.__name__ = getname(f)
        if getattr(f, "__doc__", None):
            self.__doc__ = f"{type(self).__name__} wrapping:\n{f.__doc__}"
        try:
            self.__signature__ = signature(f)
        except (TypeError, ValueError):
            pass  # not every callable has one

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        block = self.view.block if self.block is None else self.block
        with self.view.temp_flags(block=block, **self.flags):
            return self.view.apply(self.func, *args, **kwargs)


_SHORT = 64
_map_pickled: PrePickled | None = None


def pickled_map() -> PrePickled:
    """What engines call to map, pickled once."""
    global _map_pickled
    if _map_pickled is None:
        _map_pickled = PrePickled(_map)
    return _map_pickled


class ParallelFunction(RemoteFunction):
    """A function whose calls are given parts of their sequences; `map()` calls it for each item.

    dist       'b' contiguous parts, 'r' each n-th item
    chunksize  items in each task, on a load-balanced view
    ordered    False: iterating over the result gives parts as they come
    return_exceptions   errors stand in the result instead of being raised
    """

    chunksize: int | None = None
    ordered: bool | None = None
    mapObject: Any = None

    def __init__(self, view: View, f: Callable[..., Any], dist: str = "b", block: bool | None = None, chunksize: int | None = None,
                 ordered: bool = True, return_exceptions: bool = False, **flags: Any) -> None:
        super().__init__(view, f, block=block, **flags)
        self.chunksize = chunksize
        self.ordered = ordered
        self.return_exceptions = return_exceptions
        self.mapObject = Map.dists[dist]()

    def __call__(self, *sequences: Any, **kwargs: Any) -> Any:
        is_map = kwargs.pop("__ipp_mapping", False)
        if kwargs:
            raise TypeError(f"Unexpected keyword arguments: {kwargs}")
        sequences = tuple(seq if hasattr(seq, "__len__") else list(seq) for seq in sequences)
        lengths = [len(seq) for seq in sequences]
        if max(lengths, default=0) == 0:
            return []
        if not is_map and min(lengths) != max(lengths):
            raise ValueError(f"all sequences must have equal length, but have {lengths}")
        parts = self.view._map_targets(max(lengths), self.chunksize)
        if self.chunksize and not self.view._is_balanced:
            warnings.warn("`chunksize` is ignored unless load balancing", UserWarning, stacklevel=3)
        futures, sizes = self._send(sequences, max(lengths), parts, is_map)
        result = AsyncMapResult(self.view.client, futures, self.mapObject, fname=getname(self.func), ordered=bool(self.ordered),
                                return_exceptions=self.return_exceptions, chunk_sizes=sizes)
        if self.block:
            try:
                return result.get()
            except KeyboardInterrupt:
                pass
        return result

    def _send(self, sequences: tuple[Any, ...], length: int, targets: list[Any], is_map: bool) -> tuple[list[Any], dict[str, int]]:
        futures: list[Any] = []
        sizes: dict[str, int] = {}
        function = PrePickled(self.func)
        send = self.view._sender(pickled_map() if is_map else function, (function,) if is_map else (), self.flags)
        get_part, count = self.mapObject.getPartition, len(targets)
        for index, target in enumerate(targets):
            args = [get_part(seq, index, count, length) for seq in sequences]
            if is_map:  # which is read without its class being looked up
                args = [list(arg) if type(arg) is range and len(arg) < _SHORT else arg for arg in args]
            if not any(len(arg) for arg in args):
                continue
            future = send(target, args)
            if is_map:
                size = min(len(arg) for arg in args)
                if size != 1:
                    sizes[future.msg_id] = size
            futures.append(future)
        return futures, sizes

    def map(self, *sequences: Any) -> Any:
        """Call the function for each item; sequences that are too long are cut by the shortest in each part."""
        return self(*sequences, __ipp_mapping=True)
