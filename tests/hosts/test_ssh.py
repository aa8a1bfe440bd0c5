"""Engines that a real ssh starts on hosts that have an sshd: over encrypted connections, ended with the cluster, on whichever host they are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]

import sshd as sshd_there
from hosts import COMMAND, NET, Hosts, Remote, wait_for, why_not

pytestmark = pytest.mark.timeout(240)


class Site:
    """Two hosts, each with an sshd and a home of its own; the hub starts clusters and has clients."""

    def __init__(self, folder: Path) -> None:
        self.hosts = Hosts(2, folder)
        self.profile = folder / "ipython" / "profile_default"
        names = ("h1", "h2")
        servers = [sshd_there.Sshd(folder, "worker", folder / f"home-{name}", hosts=tuple(f"{NET}.{i}" for i in (1, 2))) for name in names]
        self.servers = [self.hosts.start(name, "sh", "-c", server.script, stderr=self.hosts.log(name, "sshd")) for name, server in zip(names, servers)]
        profile_settings = f"""
c = get_config()
c.SSHLauncher.ssh_args = c.SSHLauncher.scp_args = ["-F", "{servers[0].client_file}"]
c.SSHLauncher.remote_command = "{COMMAND}"
"""
        self.profile.mkdir(parents=True)
        (self.profile / "ipcluster_config.py").write_text(profile_settings)
        ssh = ["ssh", "-F", str(servers[0].client_file)]
        for i in (1, 2):
            wait_for(lambda: subprocess.run(["ip", "netns", "exec", self.hosts._ns("hub"), *ssh, f"worker@{NET}.{i}", "true"], capture_output=True).returncode == 0, "sshd does not answer")

    def start(self, *arguments: str) -> tuple[subprocess.Popen[Any], dict[str, Any]]:
        process = self.hosts.start("hub", COMMAND, "start", "--json", f"--ip={NET}.254", "--enable-curve", *arguments, stdout=subprocess.PIPE,
                                   stderr=self.hosts.log("hub", "start"))
        assert process.stdout
        line = process.stdout.readline()
        assert line, "the cluster did not start"
        return process, json.loads(line)

    def engines(self) -> list[str]:
        """Command lines of engines that live, on any host."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (path.parent / "environ").read_bytes()
            except OSError:
                continue
            if line.startswith(f"{COMMAND} engine ") and str(self.hosts.folder).encode() in environment:
                found.append(line)
        return found

    def logs(self) -> str:
        paths = [*self.hosts.folder.glob("*.log"), *self.profile.glob("log/*")]
        return "".join(f"==== {path.name}\n{path.read_text(errors='replace')}" for path in paths)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    if missing := why_not() or sshd_there.why_not():
        pytest.skip(missing)
    made = None
    try:
        made = Site(tmp_path)
        yield made
    except BaseException:
        print(made.logs() if made else "")
        raise
    finally:
        if made:
            made.hosts.close()


def test_engines_on_hosts(site: Site) -> None:
    """As many on each as was asked for; they answer; a signal reaches the task; `stop` ends them where they are."""
    process, said = site.start(f"--hosts=worker@{NET}.1,worker@{NET}.2=2", "--shell=plain")
    assert said["engines"] == 3
    client = Remote(site.hosts, "hub", site.profile / "security" / "ipcontroller-client.json")
    assert sorted(client.ask("rc[:].apply_sync(socket.gethostname)")) == ["h1", "h2", "h2"]
    assert client.ask("rc.load_balanced_view().map_sync(lambda x: x * x, range(20))") == [x * x for x in range(20)]
    homes = set(client.ask("rc[:].apply_sync(os.getcwd)"))
    assert homes == {str(site.hosts.folder / "home-h1"), str(site.hosts.folder / "home-h2")}
    assert len(site.engines()) == 3
    key = json.loads((site.profile / "security" / "ipcontroller-client.json").read_text())["curve_serverkey"]
    assert key and not any(key in line for line in site.engines())
    first, = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()  # on its host, where numbers are others
    os.kill(int(first), signal.SIGTERM)
    wait_for(lambda: not site.engines(), "engines live on")
    wait_for(lambda: not any((site.profile / "security").iterdir()), "files are left")


@pytest.mark.long
def test_engines_end_with_who_watches(site: Site) -> None:
    process, _ = site.start(f"--hosts=worker@{NET}.1", "--shell=plain")
    assert len(site.engines()) == 1
    process.kill()  # and with it everything on the hub: the engine gives up by itself, when its controller does not come back
    wait_for(lambda: not site.engines(), "the engine lives on")
