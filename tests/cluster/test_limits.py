"""What peers may not do to a controller, as far as they need no key for it."""

from __future__ import annotations

import socket
import struct
import time

import zmq

from peers import SOON_S, receive

GREETING = b"\xff" + b"\0" * 7 + b"\x01\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" * 32


def connect(cluster, channel: str) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", cluster.controller.client[channel]))
    peer.settimeout(SOON_S)
    return peer


def ready() -> bytes:
    body = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER" + b"\x08Identity" + struct.pack(">I", 0)
    return bytes([4, len(body)]) + body


def read_to_the_end(peer: socket.socket) -> bytes:
    data = b""
    try:
        while part := peer.recv(4096):
            data += part
    except ConnectionResetError:
        pass
    return data


def test_who_announces_four_gigabytes_is_cut_off(cluster) -> None:
    before = cluster.controller.memory_kb()
    peer = connect(cluster, "task")
    peer.sendall(GREETING + ready())
    data = b""
    while b"READY" not in data: # they speak the same language until then
        data += peer.recv(4096)
    peer.sendall(b"\x02" + struct.pack(">Q", 1 << 32))
    read_to_the_end(peer)
    assert cluster.controller.memory_kb() < before + 10_000
    client, engine = cluster.client(), cluster.engine()
    client.submit()
    engine.answer(engine.take())
    assert receive(client.task).content == {"status": "ok"}


def test_who_says_nothing_is_cut_off_and_costs_little(cluster) -> None:
    client, engine = cluster.client(), cluster.engine()
    before = cluster.controller.memory_kb()
    silent = [connect(cluster, "task") for _ in range(500)]
    silent[0].sendall(GREETING[:10]) # or stops in the middle of a word
    for _ in range(20):
        client.submit()
        engine.answer(engine.take())
        assert receive(client.task).content == {"status": "ok"}
    assert cluster.controller.memory_kb() < before + 40_000
    began = time.monotonic()
    for peer in silent:
        read_to_the_end(peer)
        peer.close()
    assert time.monotonic() - began < SOON_S
    client.submit()
    engine.answer(engine.take())
    assert receive(client.task).content == {"status": "ok"}


def test_a_peer_without_curve_gets_nowhere(tmp_path) -> None:
    """With CURVE, who does not encrypt does not even end the handshake."""
    from peers import Controller, Peer
    controller = Controller(tmp_path, "--enable-curve")
    assert controller.client["curve_serverkey"] and controller.client["key"] == ""
    plain = Peer(controller.client)
    query = plain.socket(zmq.DEALER, "registration")
    query.send_multipart(plain.frames("connection_request"))
    assert not query.poll(500)
    encrypted = Peer(controller.client)
    public, secret = zmq.curve_keypair()
    curve = encrypted.context.socket(zmq.DEALER)
    curve.linger = 0
    curve.curve_serverkey = controller.client["curve_serverkey"].encode()
    curve.curve_publickey, curve.curve_secretkey = public, secret
    curve.connect(f"{controller.client['interface']}:{controller.client['registration']}")
    frames = encrypted.frames("connection_request")
    frames[1] = b"" # no key: no signature
    curve.send_multipart(frames)
    assert receive(curve).content["engines"] == {}
    plain.close()
    encrypted.close()
    controller.stop()
