"""The public interface in a program with type annotations: see test_package.py."""

from __future__ import annotations

from typing import Any

import manyhands
from manyhands.pool import AsyncResult, Pool, ThreadPool


def square(x: int) -> int:
    return x * x


def send(queue: Any, name: str) -> None:
    queue.put(name)


def use_pool(pool: Pool) -> int:
    squares: list[int] = pool.map(square, range(4), chunksize=2, retries=1, timeout=10.0)
    result: AsyncResult = pool.apply_async(square, (3,), error_callback=print)
    lazily: int = sum(pool.imap_unordered(square, [1, 2]))
    return sum(squares) + lazily + int(result.get(timeout=10))


def use_processes() -> str:
    context = manyhands.get_context("fork")
    queue = context.SimpleQueue()
    process = manyhands.Process(target=send, args=(queue, "sent"), name="sender", daemon=True)
    process.start()
    text = str(queue.get())
    process.join(timeout=10)
    assert process.exitcode == 0 and process.name == "sender" and not process.is_alive()
    return text


def use_locks() -> int:
    value = manyhands.Value("i", 1)
    with manyhands.Lock(), manyhands.RLock(), manyhands.Semaphore(2):
        with value.get_lock():
            value.value += 1
    event = manyhands.Event()
    event.set()
    assert event.wait(1)
    return int(value.value)


def use_errors() -> bool:
    try:
        raise manyhands.WorkerLost(signal=9, task=1, attempt=1, pid=2)
    except manyhands.TaskTimeout:
        return False
    except manyhands.WorkerLost as e:
        return isinstance(e, manyhands.ProcessError) and e.exitcode == -9


if __name__ == "__main__":
    with manyhands.Pool(2) as pool:
        assert use_pool(pool) == 14 + 5 + 9
    with ThreadPool(2) as threads:
        assert threads.map(square, [1, 2, 3]) == [1, 4, 9]
    assert use_processes() == "sent"
    assert use_locks() == 2
    assert use_errors()
    print("done")
