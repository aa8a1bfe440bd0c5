"""Tasks of a manyhands.Pool that work as one team over shared memory; what team.h is for C programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from native import check

import manyhands

TRIES = 5    # teams that lose a member until we give up
BROKEN = 13  # MH_ERR_BROKEN: another member of the team gave up or died


def run(workers: int, begin: Callable[[], int], work: Callable[..., int], arguments: tuple[Any, ...], abort: Callable[[], None],
        progress: Callable[[], None]) -> None:
    """Call work(*arguments, rank), which returns an mh_err, for each rank in a worker of its own, all at once.

    When one is killed the others wait for it and cannot know: abort() makes them give up, and after begin() a new team goes on.
    """
    with manyhands.Pool(workers) as pool:
        for _ in range(TRIES):
            check("begin", begin())
            if _try(pool, workers, work, arguments, abort, progress):
                return
    raise SystemExit(f"{TRIES} teams in a row lost a member")


def _try(pool, workers, work, arguments, abort, progress) -> bool:
    """Whether no member was lost."""
    members = {pool.apply_async(work, (*arguments, rank)) for rank in range(workers)}
    lost, errors = False, set()
    while members:
        next(iter(members)).wait(0.02)
        for member in [m for m in members if m.ready()]:
            members.remove(member)
            try:
                errors.add(member.get())
            except manyhands.WorkerLost:
                lost = True
                abort()
        progress()
    if not lost:
        check("work", next(iter(errors - {0, BROKEN}), max(errors)))
    return not lost
