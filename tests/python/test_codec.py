"""The codec: whatever goes in comes out, of the same type; what is not a block is refused."""

import math
import random
import struct

import pytest

from manyhands import _core


class Int(int):
    pass


class Str(str):
    pass


class Point:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Point and other.x == self.x


def same(a, b):
    """Equal, of exactly the same types, NaN payloads and signs of zero included."""
    if type(a) is not type(b):
        return False
    if type(a) is float:
        return struct.pack("d", a) == struct.pack("d", b)
    if type(a) in (list, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if type(a) is dict:
        return len(a) == len(b) and all(k in b and same(v, b[k]) for k, v in a.items())
    return a == b


NAN = struct.unpack("d", struct.pack("Q", 0x7FF8_0000_DEAD_BEEF))[0]

ROUND_TRIPS = [
    [],
    [None],
    [None] * 1000,
    [True, False, True],
    [0, 1, -1, 2**30, -(2**30), 2**31, 2**60, -(2**60), 2**62, 2**63 - 1, -(2**63)],
    [2**63], [-(2**63) - 1], [1, 2**100],  # beyond 64 bits
    [0.0, -0.0, math.inf, -math.inf, NAN, 5e-324, 1.7e308],
    [b"", b"abc", bytes(range(256)), b"x" * 100000],
    ["", "abc", "é", "日本", "\U0001f600", "a\0b", "\ud800", "x" * 100000],
    [1, True], [True, 1], [1, 1.0], [0, False, None, "", b"", 0.0],  # equal is not the same
    [Int(3)], [3, Int(3)], [Str("a")], ["a", Str("a")],
    [(1, 2), (3, 4)], [()], [(), ()], [(1, "a", 2.5, b"x", None, True)], [(1, "a"), (2, "b")],
    [(1, (2, (3, (4,))))], [(1, (2, (3, (4, (5,)))))], [(1, (2, "x"))] * 10,
    [(1,), (1, 2)], [(1, 2), (1, "x")], [(1, [2])], [tuple(range(16))], [tuple(range(17))],
    [{"a": [1, 2, {3}]}, [1], {4}], [Point(1), Point("x")],
    [("é", b"z"), ("\U0001f600", b"")], [("aé", 1), ("b\U0001f600", 2)] * 3,
]


@pytest.mark.parametrize("items", ROUND_TRIPS, ids=[str(i) for i in range(len(ROUND_TRIPS))])
def test_round_trip(items):
    assert same(_core.decode(_core.encode(items)), items)


def random_scalar(r: random.Random):
    return r.choice([
        lambda: None, lambda: r.random() < 0.5, lambda: r.randint(-(2**r.randint(1, 70)), 2**r.randint(1, 70)), lambda: r.gauss(0, 1e9),
        lambda: r.randbytes(r.randint(0, 40)), lambda: "".join(map(chr, (r.randint(0, r.choice([127, 255, 0xD7FF, 0x10FFFF])) for _ in range(r.randint(0, 20))))),
    ])()


def random_item(r: random.Random, depth: int = 0):
    if depth < 5 and r.random() < 0.3:
        kind = r.choice([tuple, list])
        return kind(random_item(r, depth + 1) for _ in range(r.randint(0, 5)))
    return random_scalar(r)


def random_items(r: random.Random):
    """Lists in which many items have one type, as calls have."""
    count = r.choice([1, 1, 2, 3, 10, 100])
    shape = r.random()
    if shape < 0.5:
        one = random_item(r)
        return [one] * count
    if shape < 0.8:
        maker = r.choice([lambda: r.randint(-(2**62), 2**62), r.random, lambda: str(r.random()), lambda: r.randbytes(5), lambda: (r.random(), str(r.random()))])
        items = [maker() for _ in range(count)]
        if r.random() < 0.3:
            items[r.randrange(count)] = random_item(r)
        return items
    return [random_item(r) for _ in range(count)]


@pytest.mark.parametrize("seed", range(20))
def test_round_trip_random(seed):
    r = random.Random(seed)
    for _ in range(300):
        items = random_items(r)
        assert same(_core.decode(_core.encode(items)), items), items


@pytest.mark.parametrize("seed", range(20))
def test_hostile_bytes(seed):
    """Bytes that were changed, cut or added give a list or a ValueError: no crash, nothing read beyond the end."""
    r = random.Random(seed)
    for _ in range(300):
        items = random_items(r)
        block = bytearray(_core.encode(items))
        if block[0] == 8:  # a pickle: pickles are not defended against, their frame is
            lengths = block[8:24]
            block = block[:8] + bytearray(x ^ (1 << r.randrange(8)) if r.random() < 0.3 else x for x in lengths) + block[24:]
            if block[8:24] == lengths:
                continue
        else:
            for _ in range(r.randint(1, 4)):
                what = r.random()
                if what < 0.5 and block:
                    block[r.randrange(len(block))] = r.randrange(256)
                elif what < 0.8:
                    del block[r.randint(0, len(block)):]
                else:
                    block += r.randbytes(r.randint(0, 20))
            if len(block) > 0 and block[0] == 8:
                continue
        try:
            assert isinstance(_core.decode(bytes(block)), list)
        except (ValueError, EOFError, MemoryError, SystemError):
            pass
        except Exception as e:
            assert type(e).__module__ == "_pickle", e


@pytest.mark.parametrize("block, why", [
    (b"", "empty"), (b"\x03\0\0\0\x01\0\0\0", "an int without its bytes"), (b"\x09\0\0\0\0\0\0\0", "no such kind"),
    (b"\x03\0\0\0\xff\xff\xff\xff" + bytes(64), "more ints than bytes"), (b"\x05\0\0\0\x01\0\0\0\xff\xff\xff\xff\0\0\0\0", "bytes beyond it"),
    (b"\x06\0\0\0\x01\0\0\0\x07\0\0\0\0\0\0\0aaaaaaaa", "text of a width that is not"), (b"\x07\0\x11\0\x01\0\0\0", "too wide a tuple"),
    (b"\x07\0\x01\0\x02\0\0\0\x01\0\0\0\x01\0\0\0", "columns of different lengths"), (b"\x01\0\0\0\xff\xff\xff\xff", "too many Nones"),
    (b"\x08\0\0\0\x01\0\0\0" + struct.pack("QQ", 2**63, 0), "a pickle beyond it"), (b"\x08\0\0\0\x01\0\0\0" + struct.pack("QQ", 0, 2**61), "buffers beyond it"),
    (b"\x07\0\x01\0\x01\0\0\0" * 6 + b"\x01\0\0\0\x01\0\0\0", "tuples too deep"),
    (b"\x06\0\0\0\x01\0\0\0\x06\0\0\0\0\0\0\0\xff\xff\xff\xff\0\0\0\0", "no such code point"),
])
def test_refused(block, why):
    with pytest.raises((ValueError, SystemError)):
        _core.decode(block)


def test_arrays_lie_beside_the_pickle():
    numpy = pytest.importorskip("numpy")
    small, big = numpy.arange(10.0), numpy.arange(10000.0)
    fixed = big.copy()
    fixed.flags.writeable = False
    block = _core.encode([small, big, fixed, {"a": big}])
    a, b, c, d = _core.decode(block)
    assert (a == small).all() and (b == big).all() and (c == fixed).all() and (d["a"] == big).all()
    assert a.flags.writeable and b.flags.writeable and c.flags.writeable
    b += 1  # its own memory
    assert _core.decode(block)[1][0] == 0


def test_identity_inside_a_chunk_is_kept():
    one = [1]
    a, b = _core.decode(_core.encode([one, one]))
    assert a is b
