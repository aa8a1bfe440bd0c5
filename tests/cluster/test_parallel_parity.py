"""Names and signatures: what the stock package has, ours has too, so that programs run when their import line was changed."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

pytest.importorskip("ipyparallel")

MODULES = ["", "client.client", "client.view", "client.asyncresult", "client.remotefunction", "client.map", "client.futures", "client.magics",
           "client._joblib", "controller.dependency", "error", "serialize", "joblib"]
CLASSES = {
    "client.client": ["Client", "ExecuteReply", "Metadata"],
    "client.view": ["View", "DirectView", "BroadcastView", "LoadBalancedView", "ViewExecutor", "LazyMapIterator"],
    "client.asyncresult": ["AsyncResult", "AsyncMapResult", "AsyncHubResult"],
    "client.remotefunction": ["RemoteFunction", "ParallelFunction"],
    "client.map": ["Map", "RoundRobinMap"],
    "client.magics": ["ParallelMagics"],
    "client._joblib": ["IPythonParallelBackend"],
    "controller.dependency": ["Dependency", "depend", "dependent"],
    "error": ["CompositeError", "RemoteError", "AlreadyDisplayedError"],
}

# What ours does without, and why.
TRAITS = set(dir(importlib.import_module("traitlets").HasTraits)) | {"class_init", "instance_init", "trait_names"}
ABSENT = {
    "": {
        "Cluster", "ClusterManager",  # in manyhands.parallel.cluster: tested there
        "bind_kernel",  # engines are not kernels of Jupyter
        "client", "cluster", "controller", "apps", "engine", "traitlets",  # modules
        "load_jupyter_server_extension", "MultipleInstanceError", "os", "version_info",
    },
    "client.asyncresult": {"check_ready", "finished_tracker"},
    "client.view": {"save_ids", "sync_results"},
    "client.client": {"unpack_message"},
    "client.futures": {"future_add_done_callback", "future_set_exc_info", "future_set_result_unless_cancelled"},
    "client.magics": {"NO_LAST_RESULT", "exec_args", "output_args"},
    "client.remotefunction": {"sync_view_results"},
    "serialize": {"canning", "codeutil", "serialize"},
}
MEMBERS_ABSENT = {
    "Client": {"create_message_futures"},  # of its loop of ZeroMQ streams
    "AsyncMapResult": set(),
}


def both(module):
    suffix = f".{module}" if module else ""
    return importlib.import_module("ipyparallel" + suffix), importlib.import_module("manyhands.parallel" + suffix)


def is_their_own(value, module):
    return not inspect.ismodule(value) and (getattr(value, "__module__", None) or "").startswith("ipyparallel")


@pytest.mark.parametrize("module", MODULES)
def test_modules_have_the_names(module):
    stock, ours = both(module)
    public = set(getattr(stock, "__all__", ())) | {n for n, v in vars(stock).items() if not n.startswith("_") and is_their_own(v, stock)
                                                   and (not module or v.__module__ == stock.__name__)}
    missing = {name for name in public - ABSENT.get(module, set()) if not hasattr(ours, name)}
    assert missing == set()


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in CLASSES.items() for name in names])
def test_classes_have_the_members(module, name):
    stock, ours = (getattr(m, name) for m in both(module))
    members = {n for n in dir(stock) if not n.startswith("_")} - TRAITS - MEMBERS_ABSENT.get(name, set())
    built = {n for cls in ours.__mro__ for n in getattr(cls, "__annotations__", {})}
    missing = {n for n in members if not hasattr(ours, n) and n not in built} - SET_BY_INIT.get(name, set())
    assert missing == set()


SET_BY_INIT = {  # attributes of instances, which test_instances_have_the_attributes looks for
    "Client": {"block", "cluster", "curve_publickey", "curve_secretkey", "curve_serverkey", "debug", "history", "metadata", "profile", "results"},
    "View": {"client", "history", "results"}, "DirectView": {"client", "history", "results"}, "BroadcastView": {"client", "history", "results"},
    "LoadBalancedView": {"client", "history", "results"},
}


def parameters(f):
    return [(p.name, p.kind) for p in inspect.signature(f).parameters.values() if p.name != "self"]


def defaults(f):
    return {p.name: p.default for p in inspect.signature(f).parameters.values() if isinstance(p.default, (int, str, float, bool, type(None)))}


def functions():
    for module, names in CLASSES.items():
        stock, ours = both(module)
        for name in names:
            for member, value in inspect.getmembers(getattr(stock, name)):
                public = not member.startswith("_") or member in ("__init__", "_really_apply")
                own = (getattr(value, "__module__", None) or "").startswith("ipyparallel")
                if public and own and inspect.isroutine(value) and hasattr(getattr(ours, name), member):
                    yield pytest.param(value, getattr(getattr(ours, name), member), id=f"{name}.{member}")
    for module in MODULES:
        stock, ours = both(module)
        for name, value in vars(stock).items():
            if inspect.isfunction(value) and value.__module__ == stock.__name__ and not name.startswith("_") and hasattr(ours, name):
                yield pytest.param(value, getattr(ours, name), id=f"{module}.{name}")


DIFFERENT = {  # what takes a client and nothing else, by a name that a caller never gives
    "View.__init__", "DirectView.__init__", "BroadcastView.__init__", "LoadBalancedView.__init__",
}


@pytest.mark.parametrize(("stock", "ours"), list(functions()))
def test_signatures(stock, ours, request):
    """The same parameters in the same order, of the same kinds; ours may take more by keyword."""
    theirs, own = parameters(stock), parameters(ours)
    positional = [name for name, kind in theirs if kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    assert [name for name, kind in own if kind in kinds][: len(positional)] == positional
    takes_any = any(kind == inspect.Parameter.VAR_KEYWORD for _, kind in own)
    assert {name for name, kind in theirs if kind == inspect.Parameter.KEYWORD_ONLY} <= {name for name, _ in own} or takes_any
    for kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        assert not any(k == kind for _, k in theirs) or any(k == kind for _, k in own) or ours.__qualname__ == "Client.__init__"
    if request.node.callspec.id not in DIFFERENT:
        mine = defaults(ours)
        assert {n: d for n, d in defaults(stock).items() if n in mine and mine[n] != d} == {}


def test_magics_take_the_same_options():
    from ipyparallel.client import magics as stock

    from manyhands.parallel.client import magics as ours

    for name in ("pxconfig", "result", "cell_px"):
        found = [{option for action in getattr(m.ParallelMagics, name).parser._actions for option in action.option_strings} for m in (stock, ours)]
        assert found[0] <= found[1], name


def test_metadata_has_the_same_keys():
    from ipyparallel.client.client import Metadata as Stock

    from manyhands.parallel.client.client import Metadata

    assert Metadata() == Stock()


def test_dependencies_decide_alike():
    from ipyparallel import Dependency as Stock

    from manyhands.parallel import Dependency

    for ids in ([], ["a"], ["a", "b"]):
        for options in ({}, {"all": False}, {"success": False, "failure": True}, {"failure": True}, {"all": False, "failure": True, "success": False}):
            for completed, failed in ((set(), set()), ({"a"}, set()), ({"a", "b"}, set()), ({"a"}, {"b"}), (set(), {"a", "b"})):
                mine, theirs = Dependency(ids, **options), Stock(ids, **options)
                assert mine.check(completed, failed) == theirs.check(completed, failed), (ids, options, completed, failed)
                assert mine.unreachable(completed, failed) == theirs.unreachable(completed, failed), (ids, options, completed, failed)
                assert {k: sorted(v) if isinstance(v, list) else v for k, v in mine.as_dict().items()} == \
                       {k: sorted(v) if isinstance(v, list) else v for k, v in theirs.as_dict().items()}
                assert Dependency(mine.as_dict()).as_dict() == mine.as_dict()


def test_partitions_are_the_same():
    from ipyparallel.client.map import dists as stock

    from manyhands.parallel.client.map import dists

    for kind in ("b", "r"):
        for length in (0, 1, 5, 12):
            for count in (1, 3, 5):
                for sequence in (list(range(length)), "abcdefghijkl"[:length]):
                    parts = [dists[kind]().getPartition(sequence, p, count) for p in range(count)]
                    assert parts == [stock[kind]().getPartition(sequence, p, count) for p in range(count)]
                    if isinstance(sequence, list):
                        assert dists[kind]().joinPartitions(parts) == sequence
    with pytest.raises(ValueError):
        dists["b"]().getPartition([1], 3, 2)


def test_nothing_of_the_network_is_loaded_before_it_is_needed():
    program = ("import sys, manyhands, manyhands.parallel, manyhands.parallel.engine.executor; "
               "print([m for m in sys.modules if m.startswith(('manyhands.parallel._client', 'manyhands.parallel.client', 'zmq', 'IPython', 'tqdm'))], "
               "'libzmq' in open('/proc/self/maps').read())")
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[] False\n"


@pytest.mark.timeout(300)
def test_the_stub_of_the_extension(tmp_path):
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy.stubtest", "manyhands.parallel._client", "--ignore-unused-allowlist"]
    if "--ignore-disjoint-bases" in subprocess.run([*command, "--help"], capture_output=True, text=True).stdout:
        command.append("--ignore-disjoint-bases")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    lines = [line for line in done.stdout.splitlines() if line.startswith("error") and "Frame.__buffer__" not in line]
    assert not lines and "rror" not in done.stderr, done.stdout + done.stderr
