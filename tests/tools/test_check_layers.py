import subprocess
import sys
from pathlib import Path

import check_layers
import pytest

ROOT = Path(__file__).resolve().parents[2]

# path, one include line, the rule that it breaks ("" for none)
TABLE = [
    # downwards, not upwards, not sideways
    ("src/pool/a.c", '#include "proc/process.h"', ""),
    ("src/pool/a.c", '#include "sched/sched.h"', ""),
    ("src/pool/a.c", '#include "base/error.h"', ""),
    ("src/pool/a.c", '#include "pool/b.h"', ""),
    ("src/shm/a.c", '#include "pool/slot.h"', "shm may not know pool"),
    ("src/sync/a.c", '#include "shm/arena.h"', "sync may not know shm"),
    ("src/pool/a.c", '#include "net/socket.h"', "pool may not know net"),
    ("src/pool/a.c", '#include "cluster/hub.h"', "pool may not know cluster"),
    ("src/os/a.c", '#include "sched/sched.h"', "os may not know sched"),
    ("src/base/a.c", '#include "os/clock.h"', "base may not know os"),
    ("src/pool/a.c", '#include "b.h"', "by module"),
    # sched and wire: standard C and base
    ("src/sched/a.c", '#include "base/list.h"', ""),
    ("src/sched/a.c", "#include <string.h>", ""),
    ("src/sched/a.c", '#include "os/clock.h"', "sched may not know os"),
    ("src/wire/a.c", '#include "manyhands/shm.h"', "wire may not know shm"),
    ("src/sched/a.c", "#include <time.h>", "sched is pure"),
    ("src/wire/a.c", "#include <unistd.h>", "wire is pure"),
    ("src/sched/a_test.c", "#include <unistd.h>", ""),
    ("src/sched/a_test.c", '#include "os/clock.h"', "sched may not know os"),
    # the system only in os
    ("src/os/a.c", "#include <sys/mman.h>", ""),
    ("src/os/a.c", "#include <linux/futex.h>", ""),
    ("src/proc/a.c", "#include <sys/wait.h>", "only in src/os"),
    ("src/sync/a.c", "#include <pthread.h>", "only in src/os"),
    ("src/sync/a.h", "#include <threads.h>", "only in src/os"),
    ("src/sync/a.c", "#include <stdatomic.h>", ""),
    ("src/queue/a.c", "#include <immintrin.h>", ""),
    ("src/sync/a_test.c", "#include <sys/wait.h>", ""),
    ("src/sync/a_bench.c", "#include <pthread.h>", ""),
    ("src/base/a_fuzz.c", "#include <unistd.h>", ""),
    # libraries, each in its place
    ("src/net/a.c", "#include <zmq.h>", ""),
    ("src/cluster/a.c", "#include <zmq.h>", "only in net"),
    ("src/net/a_test.c", "#include <zmq.h>", ""),
    ("src/os/a.c", "#include <hwloc.h>", ""),
    ("src/pool/a.c", "#include <hwloc.h>", "only in os"),
    ("src/pool/a.c", "#include <Python.h>", "only in python"),
    ("python/src/a.c", "#include <Python.h>", ""),
    ("python/src/a.c", "#include <unistd.h>", "only in src/os"),
    # public headers
    ("include/manyhands/pool.h", "#include <stdint.h>", ""),
    ("include/manyhands/pool.h", '#include "manyhands/base.h"', ""),
    ("include/manyhands/shm.h", '#include "manyhands/pool.h"', "header of shm may not know pool"),
    ("include/manyhands/sync.h", '#include "manyhands/shm.h"', "header of sync may not know shm"),
    ("include/manyhands/pool.h", "#include <pthread.h>", "only in src/os"),
    ("include/manyhands/pool.h", '#include "pool/slot.h"', "public headers only"),
    ("include/manyhands.h", '#include "manyhands/pool.h"', ""),
    ("src/pool/a.c", '#include "manyhands/queue.h"', ""),
    ("src/queue/a.c", "#include <manyhands/pool.h>", "queue may not know pool"),
    ("src/queue/a.c", '#include "manyhands.h"', "single public headers"),
    ("src/queue/a.c", '#include "manyhands/nothing.h"', "unknown public header"),
    # those above: public headers only
    ("cli/main.c", "#include <manyhands.h>", ""),
    ("cli/main.c", '#include "commands.h"', ""),
    ("cli/main.c", '#include "pool/slot.h"', "public headers only"),
    ("cli/main.c", "#include <unistd.h>", "only in src/os"),
    ("examples/a.c", '#include "manyhands/pool.h"', ""),
    ("examples/a.c", '#include "base/list.h"', "public headers only"),
    ("examples/a.c", "#include <dirent.h>", ""),
    ("python/src/a.c", '#include "pool/slot.h"', "public headers only"),
    ("tests/crash/a_test.c", '#include "pool/slot.h"', ""),
    ("tests/crash/a_test.c", "#include <sys/ptrace.h>", ""),
    # how an include can be written
    ("src/sync/a.c", "  #  include   <pthread.h>", "only in src/os"),
    ("src/sync/a.c", "// #include <pthread.h>", ""),
    ("src/sync/a.c", "/* as in\n#include <pthread.h>\n*/", ""),
    ("src/sync/a.c", '"/*"\n#include <pthread.h>', "only in src/os"),
    # the tree itself
    ("src/a.c", '#include "base/error.h"', "in a module's folder"),
    ("src/colour/a.c", '#include "base/error.h"', "unknown module"),
]


@pytest.mark.parametrize("path, text, rule", TABLE)
def test_rule(path: str, text: str, rule: str) -> None:
    faults = list(check_layers.check_text(path, text))
    if rule:
        assert len(faults) == 1
        assert rule in faults[0]
    else:
        assert faults == []


def test_fault_names_file_and_line() -> None:
    text = "/* a\n * b */\n\n#include <stdio.h>\n#include <poll.h>\n"
    assert list(check_layers.check_text("src/shm/a.c", text)) == [
        "src/shm/a.c:5: poll.h: system header <poll.h> only in src/os"]


def test_source_that_nothing_builds(tmp_path: Path) -> None:
    (tmp_path / "src/base").mkdir(parents=True)
    (tmp_path / "src/base/meson.build").write_text("lib_sources += files('a.c')\n")
    for name in ("a.c", "b.c"):
        (tmp_path / "src/base" / name).write_text("")
    run = subprocess.run([sys.executable, ROOT / "tools/check_layers.py", tmp_path], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stdout == "src/base/b.c:1: not named in src/base/meson.build, so nothing compiles it\n"
