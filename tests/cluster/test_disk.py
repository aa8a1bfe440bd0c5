"""A task log that can't be written, or read: a full disk, another writer, damage."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from peers import COMMAND, SOON_S, Client, Controller, Engine, receive, wait_for


def test_a_full_disk(tmp_path: Path) -> None:
    """Tasks are refused, results held; when there is room both go on, and nothing was lost."""
    folder, log = tmp_path / "security", tmp_path / "log"
    folder.mkdir(mode=0o700)
    script = f'mount -t tmpfs -o size=3m,mode=700 none {folder} && exec {COMMAND} controller --profile-dir={tmp_path} --reuse'
    process = subprocess.Popen(["unshare", "-m", "--propagation", "private", "sh", "-c", script], stderr=log.open("w"))
    inside = Path(f"/proc/{process.pid}/root{folder}")
    try:
        wait_for(lambda: (inside / "ipcontroller-client.json").exists() or process.poll() is not None)
        if process.poll() is not None:
            pytest.skip(f"no file system can be mounted here: {log.read_text()}")
        controller: Any = type("Info", (), {side: json.loads((inside / f"ipcontroller-{side}.json").read_text()) for side in ("client", "engine")})
        client, engine = Client(controller, is_named=True), Engine(controller)
        accepted = client.submit(x_ack=True)
        request = engine.take()
        assert receive(client.task).content["msg_ids"] == [accepted]
        with (inside / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
            while True:
                filler.write(b"x" * 4096)
        result = os.urandom(300_000)
        engine.answer(request, buffers=(result,))
        wait_for(lambda: "results held until there is room" in log.read_text())
        refused = client.submit(x_ack=True)
        answer = receive(client.task)
        assert answer.parent["msg_id"] == refused and answer.content["ename"] == "OSError"
        assert not client.task.poll(700) and not engine.shell.poll(0) # tried again meanwhile
        (inside / "filler").unlink()
        answer = receive(client.task)
        assert answer.parent["msg_id"] == accepted and answer.buffers == [result]
        assert "is written again" in log.read_text()
        again = client.submit(x_ack=True)
        engine.answer(engine.take())
        assert {receive(client.task).kind for _ in range(2)} == {"x_accepted", "apply_reply"}
        assert client.ask("history_request").content["history"] == [accepted, again]
        for peer in (client, engine):
            peer.close()
    finally:
        process.terminate()
        process.wait(SOON_S)


def test_a_log_that_another_program_has_locked(tmp_path: Path) -> None:
    """For a while: the start waits for it. For longer: it is refused, and the file left as it is."""
    controller = Controller(tmp_path, "--reuse")
    client = Client(controller, is_named=True)
    sent = client.submit(x_ack=True)
    assert receive(client.task).kind == "x_accepted"
    assert controller.stop() == 0
    path = tmp_path / "security" / "ipcontroller-tasks.sqlite"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    done = subprocess.run([COMMAND, "controller", f"--profile-dir={tmp_path}", "--reuse"], capture_output=True, text=True, timeout=SOON_S)
    assert done.returncode == 1 and "in use" in done.stderr
    late = subprocess.Popen([COMMAND, "controller", f"--profile-dir={tmp_path}", "--reuse"], stderr=subprocess.DEVNULL)
    other.execute("COMMIT")
    other.close()
    try:
        assert sent in client.ask("history_request").content["history"]
    finally:
        late.terminate()
        assert late.wait(SOON_S) == 0
        client.close()


def test_a_damaged_log_without_restore(tmp_path: Path) -> None:
    """It is nobody's any more: the controller begins without it, and says where it is."""
    (tmp_path / "security").mkdir(mode=0o700)
    path = tmp_path / "security" / "ipcontroller-tasks.sqlite"
    path.write_bytes(b"no database" * 1000)
    path.chmod(0o600)
    controller = Controller(tmp_path)
    assert f"{path}.damaged" in (tmp_path / "log").read_text()
    assert Path(f"{path}.damaged").read_bytes() == b"no database" * 1000
    assert controller.stop() == 0
