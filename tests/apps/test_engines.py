"""Each application on a cluster's engines, one of which is killed in the middle: the same result, to the last bit."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORRUPT = 14 # MH_ERR_CORRUPT
VIDEO = "/usr/share/doc/opencv-doc/examples/data/vtest.avi"


def run(program, *arguments, fails=False):
    """Not in this process: a client has threads, and with threads processes start in another way."""
    done = subprocess.run([sys.executable, ROOT / "examples" / program, *map(str, arguments)], capture_output=True, text=True, timeout=100)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The connection file of a cluster of three engines, which are started again when they die."""
    folder = tmp_path_factory.mktemp("profile")
    command = Path(sys.executable).with_name("manyhands")
    keeper = subprocess.Popen([command, "start", "-n", "3", "--restart", f"--profile-dir={folder}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert keeper.stdout.readline()
    yield folder / "security" / "ipcontroller-client.json"
    keeper.send_signal(signal.SIGINT)
    keeper.communicate(timeout=60)


def find(pattern, done):
    found = re.search(pattern, done.stdout, re.M)
    assert found, done.stdout + done.stderr
    return found[1]


def test_molecular_dynamics(cluster):
    small = ("--cells", 8, "--steps", 45)
    alone = find(r"; state (\w+)$", run("md/melt.py", *small, "--workers", 1))
    bereft = run("md/melt.py", *small, "--cluster", cluster, "--kill", 33)
    assert find(r"; state (\w+)$", bereft) == alone
    assert bereft.stderr.count("an engine was lost") == 1 and "45/45" in bereft.stderr # the bar


def test_neural_network(cluster):
    small = ("--epochs", 1, "--hidden", 16, "--samples", 8192, "--batch", 512)
    alone = find(r"; state (\w+)$", run("nn/train.py", *small, "--workers", 1))
    bereft = run("nn/train.py", *small, "--cluster", cluster, "--kill", 9)
    assert find(r"; state (\w+)$", bereft) == alone
    assert bereft.stderr.count("an engine was lost") == 1 and "16/16" in bereft.stderr


def test_video(cluster, tmp_path):
    first = ("--frames", 60, "--slots", 2, VIDEO)
    alone = find(r"^(frames .*)$", run("video/detect.py", "--workers", 2, *first, tmp_path / "pool.avi"))
    bereft = run("video/detect.py", "--cluster", cluster, "--kill", 2, *first, tmp_path / "engines.avi")
    assert find(r"^(frames .*)$", bereft) == alone
    assert (tmp_path / "engines.avi").read_bytes() == (tmp_path / "pool.avi").read_bytes()
    assert "60frame" in bereft.stderr


def test_options(cluster):
    alone = find(r"\((0x\S+)\)$", run("options/options.py", "--paths", 1, "--workers", 1))
    bereft = run("options/options.py", "--paths", 1, "--cluster", cluster, "--kill", 3)
    assert find(r"\((0x\S+)\)$", bereft) == alone and "16/16" in bereft.stderr


def test_words(cluster):
    bereft = run("wordcount.py", "--name", "changelog", "--megabytes", 2, "--cluster", cluster, "--kill", 1)
    assert "both counts equal" in bereft.stdout # the program compares with its own sequential count


def test_squares(cluster):
    assert "all results equal" in run("squares.py", "--count", 300_000, "--cluster", cluster, "--kill", 1).stdout


@pytest.mark.parametrize("wrong, says", [(("--engines", 0), "--engines 0: at least 1"), (("--cluster", "/nowhere/client.json"), "/nowhere/client.json")])
def test_a_cluster_that_is_not_there_is_named(wrong, says):
    assert says in run("options/options.py", *wrong, fails=True).stderr


# ---- what engines tell each other by ------------------------------------------------------------

class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


class Message(ctypes.Structure):
    _fields_ = [("parts", ctypes.POINTER(Vector)), ("count", ctypes.c_size_t)]


def message(*buffers):
    parts = (Vector * len(buffers))(*(Vector(ctypes.addressof(b), len(b)) for b in buffers))
    made = Message(ctypes.cast(parts, ctypes.POINTER(Vector)), len(buffers))
    made.kept = parts, buffers
    return made


def soon():
    import time

    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 60 * 10 ** 9


def join_all(lib, addresses, meshes, secrets):
    errors = [None] * len(meshes)

    def join(rank):
        errors[rank] = lib.mesh_join(meshes[rank], rank, len(meshes), b"".join(addresses), secrets[rank], soon())
    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(len(meshes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def listen_all(lib, count):
    meshes, addresses = [ctypes.c_void_p() for _ in range(count)], []
    for mesh in meshes:
        address = ctypes.create_string_buffer(192)
        assert lib.mesh_listen(mesh, b"127.0.0.1", address) == 0
        addresses.append(address.raw)
    return meshes, addresses


def elsewhere(address):
    """The same on a host that only TCP reaches."""
    _, name, digits, port = address.rstrip(b"\0").split()
    return b"another-host %s %s %s" % (name, digits, port) + bytes(192 - len(b"another-host %s %s %s" % (name, digits, port)))


@pytest.mark.parametrize("where", [lambda address: address, elsewhere], ids=["unix", "tcp"])
def test_mesh_exchanges_and_notices_who_is_gone(where):
    import engines

    lib, size = engines.library(), 3_000_000
    meshes, addresses = listen_all(lib, 2)
    assert join_all(lib, [where(a) for a in addresses], meshes, [b"s" * 32] * 2) == [0, 0]
    given = [ctypes.create_string_buffer(os.urandom(size), size) for _ in range(2)]
    taken = [(ctypes.create_string_buffer(1000), ctypes.create_string_buffer(size - 1000)) for _ in range(2)]
    errors = [None, None]

    def exchange(rank):
        none = message()
        out, into = message(given[rank]), message(*taken[rank])
        errors[rank] = lib.mesh_exchange(meshes[rank], (Message * 2)(*((none, out) if rank == 0 else (out, none))),
                                         (Message * 2)(*((none, into) if rank == 0 else (into, none))), soon())
    threads = [threading.Thread(target=exchange, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [0, 0]
    assert [a.raw + b.raw for a, b in taken] == [given[1].raw, given[0].raw]
    lib.mesh_close(meshes[1])
    exchange(0)
    assert errors[0] == engines.BROKEN
    lib.mesh_close(meshes[0])


def test_mesh_turns_strangers_away():
    import engines

    lib = engines.library()
    meshes, addresses = listen_all(lib, 2)
    errors = [None]
    # the second does not know the secret: it is told nothing, and the first waits for one who does
    waiting = threading.Thread(target=lambda: errors.__setitem__(0, lib.mesh_join(meshes[0], 0, 2, b"".join(addresses), b"s" * 32, soon())))
    waiting.start()
    assert lib.mesh_join(meshes[1], 1, 2, b"".join(addresses), b"?" * 32, soon()) == engines.BROKEN
    other = ctypes.c_void_p()
    address = ctypes.create_string_buffer(192)
    assert lib.mesh_listen(other, b"127.0.0.1", address) == 0
    assert lib.mesh_join(other, 1, 2, addresses[0] + address.raw, b"s" * 32, soon()) == 0
    waiting.join()
    assert errors == [0]
    for mesh in (*meshes, other):
        lib.mesh_close(mesh)


def test_mesh_refuses_another_length():
    import engines

    lib = engines.library()
    meshes, addresses = listen_all(lib, 2)
    assert join_all(lib, addresses, meshes, [b"s" * 32] * 2) == [0, 0]
    buffer, none = ctypes.create_string_buffer(b"x" * 100, 100), message()
    assert lib.mesh_exchange(meshes[0], (Message * 2)(none, message(buffer)), (Message * 2)(none, none), soon()) == 0
    short = ctypes.create_string_buffer(99)
    assert lib.mesh_exchange(meshes[1], (Message * 2)(none, none), (Message * 2)(message(short), none), soon()) == CORRUPT
    for mesh in meshes:
        lib.mesh_close(mesh)


def test_a_wrong_parcel_is_refused():
    from melt import Bytes, Melt, member

    melt = Melt(cells=5, steps=10, workers=1)
    assert melt.lib.lj_leg_begin(melt.memory) == 0
    parcel = melt._pack(1)[0]
    for wrong in (b"", parcel[:50], parcel[:-1], parcel + b"x", b"x" + parcel[1:]):
        assert member(ctypes.c_void_p(), wrong) == CORRUPT, len(wrong)
    assert melt.lib.lj_part_unpack(melt.memory, 0, 1, Bytes(b"short", 5)) == CORRUPT
