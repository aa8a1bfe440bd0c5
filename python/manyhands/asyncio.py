"""Results of pools and executors in coroutines. No thread waits for them: the pool tells the event loop.

    value = await pool.apply_async(function, arguments)
    values = await asyncio.gather(*(executor.submit(function, x) for x in items))
    async for value in pool.imap(function, items): ...

`loop.run_in_executor(executor, function)` works as with the standard library's executor.
"""

from __future__ import annotations

import asyncio
import collections
import weakref
from concurrent.futures import CancelledError, Future
from typing import Any, AsyncIterator, Callable, Generator

from . import _core
from ._errors import TimeoutError

__all__ = ["wrap"]


class _Bell:
    """Wakes a loop once for many results: each wake is a system call, during which another thread takes the interpreter over."""

    def __init__(self) -> None:
        self.functions: collections.deque[Callable[[], object]] = collections.deque()
        self.rung = False

    def call(self, loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
        """Have the loop call function(), from any thread."""
        self.functions.append(function)
        if self.rung:
            return
        self.rung = True
        try:
            loop.call_soon_threadsafe(self.answer)
        except RuntimeError:  # the loop has been closed: nobody waits any more
            pass

    def answer(self) -> None:
        self.rung = False  # first: what comes from now on rings again
        while self.functions:
            self.functions.popleft()()


_bells: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Bell] = weakref.WeakKeyDictionary()


def _bell_of(loop: asyncio.AbstractEventLoop) -> _Bell:
    bell = _bells.get(loop)
    if bell is None:
        bell = _bells[loop] = _Bell()
    return bell


def _settle(future: asyncio.Future[Any], take: Callable[[float], Any]) -> None:
    if future.done():
        return
    try:
        future.set_result(take(0))
    except CancelledError:
        future.cancel()
    except StopIteration as e:  # which no coroutine can raise
        error = RuntimeError("the call raised StopIteration")
        error.__cause__ = e
        future.set_exception(error)
    except BaseException as e:
        future.set_exception(e)


def wrap(result: Any) -> asyncio.Future[Any]:
    """An asyncio future for a pool's `AsyncResult` or an executor's future; cancelling it cancels what has not started.

    Raises RuntimeError when no event loop is running, TypeError for anything else.

    >>> import asyncio, math, manyhands
    >>> async def root(pool):
    ...     return await manyhands.asyncio.wrap(pool.apply_async(math.sqrt, (9,)))
    >>> with manyhands.Pool(1) as pool:
    ...     asyncio.run(root(pool))
    3.0
    """
    if isinstance(result, _core.AsyncResult):
        tell, take = result._when_done, result.get
    elif isinstance(result, _core.FutureBase):
        tell, take = result.add_done_callback, result.result
    elif isinstance(result, Future):
        return asyncio.wrap_future(result, loop=asyncio.get_running_loop())
    else:
        raise TypeError(f"an AsyncResult or a concurrent.futures.Future is needed, not {type(result).__name__}")
    loop = asyncio.get_running_loop()
    bell = _bell_of(loop)
    future = loop.create_future()
    future.add_done_callback(lambda ended: ended.cancelled() and result.cancel())
    tell(lambda _: bell.call(loop, lambda: _settle(future, take)))
    return future


def _await(result: Any) -> Generator[Any, Any, Any]:
    return wrap(result).__await__()


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)


async def _iterate(results: Any) -> AsyncIterator[Any]:
    """`async for` over what `imap` and `imap_unordered` return."""
    loop = asyncio.get_running_loop()
    bell = _bell_of(loop)
    while True:
        try:
            item = results.next(0)
        except StopIteration:
            return
        except TimeoutError as e:
            if type(e) is not TimeoutError:  # a task's own
                raise
            come = loop.create_future()
            results._when_ready(lambda: bell.call(loop, lambda: _wake(come)))
            await come
        else:
            yield item
            del item
