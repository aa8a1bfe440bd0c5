"""Engines and clients on other hosts, over encrypted connections; one of the hosts cut off and brought back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hosts import COMMAND, NET, SOON_S, Hosts, Remote, wait_for, why_not

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def possible() -> None:
    if missing := why_not():
        pytest.skip(missing)


class Site:
    """A controller in the hub, an engine on h1 and one on h2, a client on h3."""

    def __init__(self, folder: Path) -> None:
        self.hosts = Hosts(3, folder)
        profile = folder / "ipython" / "profile_default"
        self.client_file = profile / "security" / "ipcontroller-client.json"
        self.engine_file = profile / "security" / "ipcontroller-engine.json"
        self.controller = self.hosts.start("hub", COMMAND, "controller", f"--ip={NET}.254", "--enable-curve", "--location=hub",
                                           stderr=self.hosts.log("hub", "controller"))
        wait_for(self.client_file.exists)
        self.engines = [self.engine(host) for host in ("h1", "h2")]
        self.client = Remote(self.hosts, "h3", self.client_file)
        wait_for(lambda: self.client.ask("sorted(rc.ids)") == [0, 1])
        names = self.client.ask("rc[:].apply_sync(socket.gethostname)")
        assert sorted(names) == ["h1", "h2"]
        self.id_of = dict(zip(names, self.client.ask("rc.ids")))

    def engine(self, host: str) -> subprocess.Popen[Any]:
        return self.hosts.start(host, COMMAND, "engine", f"--file={self.engine_file}", f"--python={sys.executable}", stderr=self.hosts.log(host, "engine"))

    def logs(self) -> str:
        return "".join(path.read_text() for path in self.hosts.folder.glob("*.log"))


@pytest.fixture
def site(possible: None, tmp_path: Path) -> Iterator[Site]:
    made = None
    try:
        made = Site(tmp_path)
        yield made
    except BaseException:
        print("".join(f"==== {path.name}\n{path.read_text()}" for path in tmp_path.glob("*.log")))
        raise
    finally:
        if made:
            made.hosts.close()


SNIFF = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
s.bind(("br0", 0))
s.settimeout(0.2)
seen, size = b"", 0
print("ready", flush=True)
while True:
    try:
        packet = s.recv(1 << 16)
    except TimeoutError:
        import select
        if select.select([sys.stdin], [], [], 0)[0]:
            break
        continue
    size += len(packet)
    seen = (seen + packet)[-(1 << 22):]
print(size, seen.count(b"a secret on the wire"), flush=True)
"""


def test_nothing_on_the_wire_can_be_read(site: Site) -> None:
    sniffer = site.hosts.start("hub", sys.executable, "-c", SNIFF, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert sniffer.stdout and sniffer.stdin and sniffer.stdout.readline() == "ready\n"
    text = "a secret on the wire" * 1000
    assert site.client.ask(f"rc[:].push(dict(a={text!r}), block=True) and 0 or rc[:]['a'] == [{text!r}] * 2")
    sniffer.stdin.write("end\n")
    sniffer.stdin.flush()
    size, found = map(int, sniffer.stdout.readline().split())
    assert size > 4 * len(text) and found == 0


def test_a_host_is_cut_off_and_comes_back(site: Site) -> None:
    """Its task moves; the rest goes on; its late answer counts for nothing; it is taken up again with all that it held."""
    lost = site.id_of["h2"]
    site.client.ask(f"rc[{lost}].push(dict(kept=42), block=True) and 0")
    site.client.ask("globals().update(view=rc.load_balanced_view()) or setattr(view, 'retries', 3) or 0")
    # one runs on each; that on h2 ends while it is cut off
    site.client.ask("globals().update(first=[view.apply_async(lambda: (__import__('time').sleep(2), __import__('socket').gethostname())[1]) for _ in range(2)]) or 0")
    wait_for(lambda: site.client.ask("[q['tasks'] for i, q in rc.queue_status().items() if i != 'unassigned']") == [1, 1])
    site.hosts.cut("h2")
    assert site.client.ask("[r.get(timeout=60) for r in first]") == ["h1", "h1"]
    wait_for(lambda: site.client.ask("rc.ids") == [site.id_of["h1"]])
    assert site.client.ask("view.map_sync(lambda x: x * x, range(20))") == [x * x for x in range(20)]

    site.hosts.heal("h2")
    wait_for(lambda: len(site.client.ask("rc.ids")) == 2)
    back = next(number for number in site.client.ask("rc.ids") if number != site.id_of["h1"])
    assert site.client.ask(f"rc[{back}].apply_sync(socket.gethostname)") == "h2"
    assert site.client.ask(f"rc[{back}]['kept']") == 42
    assert site.client.ask("[r.get(timeout=60) for r in first]") == ["h1", "h1"]
    assert site.client.ask("view.map_sync(lambda x: x * x, range(20))") == [x * x for x in range(20)]


IDLE = "[q['queue'] for i, q in rc.queue_status().items() if i != 'unassigned']"


def test_a_client_is_cut_off_for_a_moment(site: Site) -> None:
    """What it asked for is done meanwhile, and it gets the answers."""
    other = Remote(site.hosts, "hub", site.client_file)
    wait_for(lambda: other.ask(IDLE) == [0, 0])
    site.client.ask("globals().update(r=rc[:].apply_async(lambda: (__import__('time').sleep(1), 7)[1])) or 0")
    wait_for(lambda: other.ask(IDLE) == [1, 1])
    site.hosts.cut("h3")
    wait_for(lambda: other.ask(IDLE) == [0, 0])
    site.hosts.heal("h3")
    assert site.client.ask("r.get(timeout=60)") == [7, 7]


def test_a_client_is_cut_off_for_long(site: Site) -> None:
    """Longer than the controller holds its connections: it goes on without a restart."""
    site.hosts.cut("h3")
    wait_for(lambda: "h3" in lost_connections(site))
    site.hosts.heal("h3")
    assert site.client.ask("rc[:].apply_sync(int)") == [0, 0]
    assert site.client.ask("rc.load_balanced_view().map_sync(lambda x: x * x, range(20))") == [x * x for x in range(20)]


def lost_connections(site: Site) -> str:
    """"h3" once the controller has closed its connections to that host."""
    seen = site.hosts.run("hub", "ss", "-Htn", "state", "established", "dst", f"{NET}.3")
    return "" if seen.strip() else "h3"


def test_a_host_loses_power(site: Site) -> None:
    """No goodbye: only the silence tells."""
    lost = site.id_of["h2"]
    site.client.ask(f"globals().update(r=rc[{lost}].apply_async(__import__('time').sleep, 600)) or 0")
    site.hosts.cut("h2")
    site.engines[1].kill()
    wait_for(lambda: site.client.ask("rc.ids") == [site.id_of["h1"]])
    assert "EngineError" in site.client.ask("str(r.exception(timeout=60))")


def test_beyond_this_host_only_encrypted(possible: None, tmp_path: Path) -> None:
    hosts = Hosts(1, tmp_path)
    try:
        run = hosts.start("hub", COMMAND, "controller", f"--ip={NET}.254", stderr=subprocess.PIPE)
        _, said = run.communicate(timeout=SOON_S)
        assert run.returncode == 1 and "curve" in said.lower()
    finally:
        hosts.close()
