"""Peers made of plain ZeroMQ, JSON and HMAC, which say exactly what a test wants them to."""

from __future__ import annotations

import atexit
import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import zmq

COMMAND = Path(os.environ.get("MANYHANDS_COMMAND", Path(sys.executable).parent / "manyhands"))
DELIMITER = b"<IDS|MSG>"
SOON_S = 30


class Controller:
    """A controller process with a profile folder of its own."""

    def __init__(self, folder: Path, *options: str, environment: dict[str, str] | None = None, name: str = "ipcontroller") -> None:
        self.folder, self.name = folder, name
        self.log = open(folder / "log", "ab")
        self.process = subprocess.Popen([COMMAND, "controller", f"--profile-dir={folder}", *options],
                                        stderr=self.log, env=environment)
        wait_for(lambda: self.client_file.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, (folder / "log").read_text()
        self.client = json.loads(self.client_file.read_text())
        self.engine = json.loads(self.engine_file.read_text())

    @property
    def client_file(self) -> Path:
        return self.folder / "security" / f"{self.name}-client.json"

    @property
    def engine_file(self) -> Path:
        return self.folder / "security" / f"{self.name}-engine.json"

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(SOON_S)
        self.log.close()
        return status

    def memory_kb(self) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def wait_for(condition: Any, seconds: float = SOON_S) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.005)


class Peer:
    def __init__(self, info: dict[str, Any], name: str | None = None) -> None:
        self.info = info
        self.key = info["key"].encode()
        self.name = name or uuid.uuid4().hex
        self.context = zmq.Context()
        atexit.register(self.context.destroy, linger=0)  # what a test that failed left open would be waited for
        self.count = 0

    def socket(self, kind: int, *channels: str, identity: bytes = b"") -> zmq.Socket[bytes]:
        s = self.context.socket(kind)
        s.linger = 0
        if identity:
            s.identity = identity
        for channel in channels:
            port = self.info[channel]
            s.connect(f"{self.info['interface']}:{port[0] if isinstance(port, list) else port}")
        return s

    def sign(self, frames: list[bytes]) -> bytes:
        return hmac.new(self.key, b"".join(frames), hashlib.sha256).hexdigest().encode()

    def frames(self, kind: str, content: object = None, *, metadata: object = None, parent: bytes = b"{}",
               buffers: tuple[bytes, ...] = (), msg_id: str | None = None) -> list[bytes]:
        """A whole signed message, without identities."""
        if msg_id is None:
            msg_id = f"{self.name}_{self.count}"
            self.count += 1
        header = {"msg_id": msg_id, "msg_type": kind, "session": self.name, "username": "test",
                  "date": "2031-01-01T00:00:00.000000Z", "version": "5.3"}
        signed = [json.dumps(header).encode(), parent, json.dumps(metadata or {}).encode(), json.dumps(content or {}).encode()]
        return [DELIMITER, self.sign(signed), *signed, *buffers]

    def close(self) -> None:
        self.context.destroy(linger=0)


class Message:
    """What came: identities, the four JSON frames read, buffers."""

    def __init__(self, frames: list[bytes]) -> None:
        at = frames.index(DELIMITER)
        self.idents = frames[:at]
        self.signature, self.raw_header = frames[at + 1], frames[at + 2]
        self.header, self.parent, self.metadata, self.content = (json.loads(f) for f in frames[at + 2:at + 6])
        self.buffers = frames[at + 6:]
        self.kind = self.header["msg_type"]


def receive(socket: zmq.Socket[bytes], seconds: float = SOON_S) -> Message:
    assert socket.poll(int(seconds * 1000)), "no answer"
    return Message(socket.recv_multipart())


class Client(Peer):
    """With a name of its own (as stock clients have) it is still known to a controller that was started again."""

    def __init__(self, controller: Controller, *, is_named: bool = False) -> None:
        super().__init__(controller.client)
        identity = self.name.encode() if is_named else b""
        self.query = self.socket(zmq.DEALER, "registration", identity=identity)
        self.task = self.socket(zmq.DEALER, "task", identity=identity)
        self.mux = self.socket(zmq.DEALER, "mux", identity=identity)
        self.control = self.socket(zmq.DEALER, "control")
        self.notification = self.socket(zmq.SUB, "notification")
        self.notification.subscribe(b"")

    def ask(self, kind: str, content: object = None) -> Message:
        self.query.send_multipart(self.frames(kind, content))
        return receive(self.query)

    def engines(self) -> dict[str, str]:
        engines: dict[str, str] = self.ask("connection_request").content["engines"]
        return engines

    def submit(self, **metadata: Any) -> str:
        frames = self.frames("apply_request", metadata=metadata, buffers=(b"f", b"args"))
        self.task.send_multipart(frames)
        msg_id: str = json.loads(frames[2])["msg_id"]
        return msg_id


class Engine(Peer):
    """Registers, and gets what the controller sends it; answers only when told to."""

    def __init__(self, controller: Controller, **content: Any) -> None:
        super().__init__(controller.engine)
        identity = self.name.encode()
        self.shell = self.socket(zmq.ROUTER, "task", "mux", identity=identity)
        self.registrar = self.socket(zmq.DEALER, "registration", identity=identity)
        self.registrar.send_multipart(self.frames("registration_request", {"uuid": self.name, **content}))
        self.reply = receive(self.registrar)
        self.id = self.reply.content.get("id")

    def take(self) -> Message:
        return receive(self.shell)

    def answer(self, request: Message, status: str = "ok", *, met: bool = True, buffers: tuple[bytes, ...] = (b"result",)) -> None:
        metadata = {"status": status, "dependencies_met": met, "engine": self.name, "started": "2031-01-01T00:00:01Z"}
        content = {"status": status}
        if status == "error":
            content |= {"ename": "ValueError", "evalue": "test", "traceback": ""}
        kind = request.kind.replace("_request", "_reply")
        frames = self.frames(kind, content, metadata=metadata, parent=request.raw_header, buffers=buffers)
        self.shell.send_multipart([*request.idents, *frames])
