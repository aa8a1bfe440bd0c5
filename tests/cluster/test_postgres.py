"""The task log in a PostgreSQL database, at a server of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers import COMMAND, SOON_S, Client, Controller, Engine, receive, wait_for

TOOLS = next((path for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True) if (path / "initdb").exists()), None)


class Server:
    def __init__(self, folder: Path) -> None:
        assert TOOLS, "PostgreSQL is not installed: tools/setup.sh test installs it"
        self.folder = folder
        self.as_user: list[str] = []
        if os.geteuid() == 0: # a server refuses to be root's
            shutil.chown(folder, "postgres")
            self.as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]
        self.run("initdb", "-D", str(folder / "data"), "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C")
        self.start()

    def run(self, tool: str, *arguments: str) -> None:
        subprocess.run([*self.as_user, TOOLS / tool, *arguments], check=True, capture_output=True, timeout=60, cwd=self.folder) # type: ignore[operator]

    def start(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-w", "-o",
                 f"-k {self.folder} -c listen_addresses='' -c fsync=off -c shared_buffers=16MB", "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.folder}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folder = Path("/tmp") / f"pg-{os.getpid()}" # short: it holds a socket
    folder.mkdir(mode=0o755)
    server = Server(folder)
    yield server
    server.stop()
    shutil.rmtree(folder)


def refused(folder: Path, *options: str) -> str:
    done = subprocess.run([COMMAND, "controller", f"--profile-dir={folder}", *options], capture_output=True, text=True, timeout=SOON_S)
    assert done.returncode == 1
    return done.stderr


def test_tasks_survive_controller_and_server(server: Server, tmp_path: Path) -> None:
    options = ("--reuse", f"--database={server.url}", "--cluster-id=a\"b")
    controller = Controller(tmp_path, *options, name='ipcontroller-a"b')
    client, engine = Client(controller, is_named=True), Engine(controller)
    assert "in use by another controller" in refused(tmp_path / "other", *options)
    big = os.urandom(300_000)
    client.task.send_multipart(client.frames("apply_request", metadata={"retries": 1, "x_ack": True}, buffers=(b"f", big)))
    accepted = receive(client.task)
    assert accepted.kind == "x_accepted" and accepted.content["durable"] is True
    request = engine.take()
    server.stop()
    engine.answer(request, buffers=(big[::-1],)) # held until the server is there again
    second = client.submit()
    assert not client.task.poll(300)
    server.start()
    answer = receive(client.task)
    assert answer.buffers == [big[::-1]]
    engine.take()
    wait_for(lambda: client.ask("result_request", {"msg_ids": [second], "status_only": True}).content["pending"] == [second])
    controller.process.kill()
    controller.process.wait()
    engine.close()
    controller = Controller(tmp_path, *options, name='ipcontroller-a"b')
    history = client.ask("history_request").content["history"]
    assert history == [accepted.content["msg_ids"][0], second]
    result = client.ask("result_request", {"msg_ids": history[:1]})
    assert result.buffers == [big[::-1]]
    client.close()
    controller.stop()
    assert "rows of another controller" in refused(tmp_path, f"--database={server.url}", '--cluster-id=a"b')


def test_passwords_are_not_for_command_lines(tmp_path: Path) -> None:
    for url in ("postgresql://me:secret@127.0.0.1/x", "postgresql://me@127.0.0.1/x?password=secret"):
        said = refused(tmp_path, f"--database={url}")
        assert "PGPASSWORD" in said and "secret" not in said


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    said = refused(tmp_path, f"--database=postgresql://me@/x?host={tmp_path}")
    assert "PostgreSQL" in said and "No such file" in said
