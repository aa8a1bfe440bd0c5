"""How large the C library is, and what it needs: TARGETS that a careless inclusion would break without anybody seeing it."""

import re
import subprocess
from pathlib import Path

import pytest

BUILD = Path(__file__).resolve().parents[2] / "build"

# The small library has the aim of 400 kB. The large one holds the small one's objects, controller, engine and client.
LIMITS = {"libmanyhands.so": 400_000, "libmanyhands-cluster.so": 800_000}
NEEDED = {"libmanyhands.so": {"hwloc", "c"}, "libmanyhands-cluster.so": {"hwloc", "zmq", "nettle", "sqlite3", "pq", "c"}}


@pytest.mark.parametrize("name", LIMITS)
def test_stripped_it_is_small(name, tmp_path):
    subprocess.run(["strip", "-o", tmp_path / name, (BUILD / name).resolve()], check=True)
    size = (tmp_path / name).stat().st_size
    assert size < LIMITS[name], f"{name} takes {size:,} bytes"


@pytest.mark.parametrize("name", NEEDED)
def test_it_needs_what_debian_has_and_no_more(name):
    shown = subprocess.run(["readelf", "--dynamic", BUILD / name], check=True, capture_output=True, text=True).stdout
    needed = set(re.findall(r"\(NEEDED\).*\[lib([^.\]]+)\.so", shown)) - {"m", "pthread", "asan", "ubsan", "tsan"}
    assert needed == NEEDED[name]
