"""Engines as workers of dask.distributed. The scheduler of dask runs in this process, on a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import util

if TYPE_CHECKING:
    from .client import Client

__all__ = ["become_dask", "stop_dask"]


@util.interactive
def _start_worker(address: str, nanny: bool, options: dict[str, Any]) -> str:
    """On an engine: a worker on a thread of its own, with an event loop of its own."""
    import asyncio
    import threading

    import distributed  # type: ignore[import-not-found, import-untyped, unused-ignore]

    if globals().get("distributed_worker") is not None:
        return str(globals()["distributed_worker"].address)
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="dask worker", daemon=True).start()

    async def start() -> Any:
        return await (distributed.Nanny if nanny else distributed.Worker)(address, **options)

    worker = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    globals().update(distributed_worker=worker, dask_worker=worker, _dask_loop=loop)
    return str(worker.address)


@util.interactive
def _stop_worker() -> None:
    """On an engine: end its worker."""
    import asyncio

    names = globals()
    worker, loop = names.pop("distributed_worker", None), names.pop("_dask_loop", None)
    names.pop("dask_worker", None)
    if worker is not None:
        asyncio.run_coroutine_threadsafe(worker.close(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)


def _import_distributed() -> Any:
    try:
        import distributed
    except ImportError as e:
        raise ImportError("become_dask needs dask.distributed, here and on the engines: pip install distributed") from e
    return distributed


def become_dask(client: Client, targets: Any, port: int, nanny: bool, scheduler_args: dict[str, Any] | None, worker_args: dict[str, Any]) -> Any:
    """See Client.become_dask."""
    distributed = _import_distributed()
    options = dict(scheduler_args or {})
    if port:
        options["scheduler_port"] = port
    cluster = getattr(client, "_dask_cluster", None)
    if cluster is None:
        cluster = distributed.LocalCluster(n_workers=0, dashboard_address=options.pop("dashboard_address", None), **options)
        client._dask_cluster = cluster
    worker_args.setdefault("nthreads", 1)
    client.direct_view(targets).apply_sync(_start_worker, cluster.scheduler_address, nanny, worker_args)
    return distributed.Client(cluster.scheduler_address)


def stop_dask(client: Client, targets: Any) -> None:
    """See Client.stop_dask."""
    client.direct_view(targets).apply_sync(_stop_worker)
    cluster, client._dask_cluster = getattr(client, "_dask_cluster", None), None
    if cluster is not None:
        cluster.close()
