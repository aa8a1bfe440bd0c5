"""The machines that ipyparallel's own tests of batch systems and ssh want: a Slurm on this host, and an sshd where theirs has a container."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import slurm
import sshd

import ipp_redirect

PORT, USER, HOME, PYTHON = 2222, "ciuser", "/home/ciuser", "/opt/conda/bin/python3"  # as their tests name them
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWNET = 0x20000, 0x4000000, 0x40000000


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@contextlib.contextmanager
def _encrypted(folder: Path) -> Iterator[None]:
    """They have the controller listen everywhere, which ours does encrypted or not at all."""
    command = os.environ[ipp_redirect.COMMAND]
    wrapped = _script(folder / "manyhands", f'case "$1 $*" in "controller "*--ip=0.0.0.0*) exec {command} "$@" --enable-curve;; esac; exec {command} "$@"')
    with _environment({ipp_redirect.COMMAND: str(wrapped)}):
        yield


@contextlib.contextmanager
def with_slurm() -> Iterator[str | None]:
    """Why it is not possible, or None while it runs. Their folder /data, which all hosts share, is a temporary one."""
    if missing := slurm.why_not():
        yield missing
        return
    conftest = importlib.import_module("ipyparallel.tests.conftest")
    make = conftest.temporary_ipython_dir
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="conformance-slurm-") as folder:
        made = slurm.Slurm(Path(folder), nodes=2, cpus=4)
        conftest.temporary_ipython_dir = lambda prefix=None: make()
        try:
            with _environment(made.environment), _encrypted(Path(folder)):
                yield None
        finally:
            conftest.temporary_ipython_dir = make
            made.close()


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _make_host(folder: Path) -> None:
    """In namespaces of this process's own: a network with nothing but itself, and the folders that their container has."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no namespaces")
    libc.sethostname(b"localhost", 9)  # by its own name the host is not found in this network
    _mount("--make-rprivate", "/")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    (folder / "opt-before").mkdir()
    _mount("--rbind", "/opt", str(folder / "opt-before"))
    for place in ("/opt", "/home", "/run"):
        _mount("-t", "tmpfs", "tmpfs", place)
    for kept in (folder / "opt-before").iterdir():
        Path("/opt", kept.name).symlink_to(kept)
    Path(PYTHON).parent.mkdir(parents=True)
    for name in ("security", "log", "pid"):
        Path(HOME, ".ipython", "profile_default", name).mkdir(parents=True)
    names = [ipp_redirect.PAIRING, ipp_redirect.COMMAND, *(name for name in os.environ if name.startswith("OMPI_"))]
    settings = " ".join(f"{name}='{os.environ[name]}'" for name in names)
    _script(Path(PYTHON), f'exec env {settings} IPYTHONDIR={HOME}/.ipython {sys.executable} "$@"')


@contextlib.contextmanager
def with_sshd() -> Iterator[str | None]:
    """Why it is not possible, or None while it runs. For a process that does nothing else after: it stays in its namespaces."""
    missing = sshd.why_not() or (None if os.geteuid() == 0 else "making namespaces needs root")
    if missing:
        yield missing
        return
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="conformance-ssh-") as name:
        folder = Path(name)
        with _encrypted(folder):
            _make_host(folder)
            server = sshd.Sshd(folder, USER, Path(HOME), port=PORT, address="127.0.0.1")
            # their container is asked for the key through docker
            _script(folder / "docker", f'case "$1" in compose) echo running;; exec) cat {server.key};; esac')
            (folder / "ci" / "ssh").mkdir(parents=True)
            with open(folder / "log", "w") as log:
                process = subprocess.Popen(["sh", "-c", server.script], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                with _environment({"CI_DIR": str(folder / "ci"), "PATH": f"{folder}:{sshd.PLACES}"}):
                    yield None
            finally:
                process.kill()
                process.wait()
                subprocess.run(["umount", "-l", str(folder / "opt-before")])


# Files of theirs that need one.
PLACES = {"test_slurm": with_slurm, "test_ssh": with_sshd}
