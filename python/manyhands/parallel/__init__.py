"""Engines, a controller and their clients: parallel Python over many processes and machines, with ipyparallel's interface.

    import manyhands.parallel as ipp

What needs the network is loaded when it is first asked for, so that engines load none of it.
"""

from __future__ import annotations

import importlib
import typing as _typing
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION

from . import error, serialize
from .dependency import Dependency, depend, dependent, require
from .error import (
    AlreadyDisplayedError,
    CompositeError,
    DependencyTimeout,
    EngineError,
    ImpossibleDependency,
    InvalidDependency,
    IPythonError,
    KernelError,
    NoEnginesRegistered,
    RemoteError,
    TaskAborted,
    TaskRejectError,
    TaskTimeout,
    TimeoutError,
    UnmetDependency,
    collect_exceptions,
    unwrap_exception,
    wrap_exception,
)
from .serialize import (
    PrePickled,
    Reference,
    can,
    can_map,
    deserialize_object,
    pack_apply_message,
    serialize_object,
    uncan,
    uncan_map,
    unpack_apply_message,
    use_cloudpickle,
    use_dill,
    use_pickle,
)
from .util import interactive

if _typing.TYPE_CHECKING:
    from .client.asyncresult import AsyncHubResult as AsyncHubResult
    from .client.asyncresult import AsyncMapResult as AsyncMapResult
    from .client.asyncresult import AsyncResult as AsyncResult
    from .client.client import Client as Client
    from .client.remotefunction import ParallelFunction as ParallelFunction
    from .client.remotefunction import RemoteFunction as RemoteFunction
    from .client.remotefunction import parallel as parallel
    from .client.remotefunction import remote as remote
    from .client.view import BroadcastView as BroadcastView
    from .client.view import DirectView as DirectView
    from .client.view import LoadBalancedView as LoadBalancedView
    from .client.view import ViewExecutor as ViewExecutor
    from .cluster import Cluster as Cluster
    from .cluster import ClusterManager as ClusterManager

__all__ = [
    "ALL_COMPLETED", "AlreadyDisplayedError", "AsyncHubResult", "AsyncMapResult", "AsyncResult", "BroadcastView", "Client", "Cluster", "ClusterManager", "CompositeError",
    "Dependency", "DependencyTimeout", "DirectView", "EngineError", "FIRST_COMPLETED", "FIRST_EXCEPTION", "IPythonError",
    "ImpossibleDependency", "InvalidDependency", "KernelError", "LoadBalancedView", "NoEnginesRegistered", "ParallelFunction", "PrePickled",
    "Reference", "RemoteError", "RemoteFunction", "TaskAborted", "TaskRejectError", "TaskTimeout", "TimeoutError", "UnmetDependency",
    "ViewExecutor", "can", "can_map", "collect_exceptions", "depend", "dependent", "deserialize_object", "error", "interactive", "pack_apply_message", "parallel",
    "register_joblib_backend", "remote", "require", "serialize", "serialize_object", "uncan", "uncan_map", "unpack_apply_message",
    "unwrap_exception", "use_cloudpickle", "use_dill", "use_pickle", "wrap_exception",
]

_LATER = {
    "AsyncHubResult": "client.asyncresult", "AsyncMapResult": "client.asyncresult", "AsyncResult": "client.asyncresult",
    "BroadcastView": "client.view", "Client": "client.client", "Cluster": "cluster", "ClusterManager": "cluster", "DirectView": "client.view",
    "LoadBalancedView": "client.view", "ParallelFunction": "client.remotefunction", "RemoteFunction": "client.remotefunction",
    "ViewExecutor": "client.view", "parallel": "client.remotefunction", "remote": "client.remotefunction",
}


def __getattr__(name: str) -> _typing.Any:
    if name == "__version__":
        from .. import __version__

        return __version__
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


def register_joblib_backend(name: str = "ipyparallel", make_default: bool = False) -> None:
    """Make engines a backend of joblib, under a name; they are looked for when it is used."""
    from .joblib import register

    register(name=name, make_default=make_default)
