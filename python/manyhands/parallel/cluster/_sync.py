"""Coroutine methods with a twin that waits: `start()` and `start_sync()`."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any


class AsyncFirst:
    """Every coroutine method x has a twin x_sync: run here where no event loop runs, else in a thread that has one."""

    def _in_thread(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        outcome: list[Any] = []

        def run() -> None:
            try:
                outcome.extend((True, asyncio.run(coroutine)))
            except BaseException as error:  # goes to the caller, as it is
                outcome.extend((False, error))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join()
        is_good, value = outcome
        if not is_good:
            raise value
        return value

    def _synchronize(self, method: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any) -> Any:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            loop = asyncio.new_event_loop()
            try:
                return loop.run_until_complete(method(*args, **kwargs))
            finally:
                loop.close()
        return self._in_thread(method(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_sync") and not name.startswith("_"):
            method = getattr(type(self), name[:-5], None)
            if inspect.iscoroutinefunction(method):
                return partial(self._synchronize, getattr(self, name[:-5]))
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        twins = [f"{name}_sync" for name, value in inspect.getmembers(type(self), inspect.iscoroutinefunction) if not name.startswith("_")]
        return [*super().__dir__(), *twins]
