"""Functions and values for the workers of the tests, in a module that any of them can import."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import fractions
import math
import os
import pathlib
import re
import signal
import struct
import sys
import types
import uuid
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# ---- kinds of values --------------------------------------------------------------------------------------


class Int(int):
    pass


class Float(float):
    pass


class Text(str):
    pass


class Bytes(bytes):
    pass


class Tuple(tuple):
    pass


class List(list):
    pass


class Dict(dict):
    pass


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Pair(NamedTuple):
    a: object
    b: object


@dataclass
class Point:
    x: int
    y: float = 0.5
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Frozen:
    x: int


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a: object) -> None:
        self.a = a

    def __eq__(self, other: object) -> bool:
        return type(other) is Slotted and same(other.a, self.a)


class Reduced:
    """Travels as what it says itself."""

    def __init__(self, a: object) -> None:
        self.a = a

    def __reduce__(self) -> Any:
        return Reduced, (self.a,)

    def __eq__(self, other: object) -> bool:
        return type(other) is Reduced and same(other.a, self.a)


class Recursive(list):
    pass


def make_recursive() -> list[Any]:
    a: list[Any] = [1]
    a.append(a)
    return a


class TwoArguments(Exception):
    """Loses an argument when it is pickled the plain way, but not this one."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b

    def __reduce__(self) -> Any:
        return type(self), (self.a, self.b)

    def __eq__(self, other: object) -> bool:
        return type(other) is TwoArguments and (other.a, other.b) == (self.a, self.b)


VALUES: dict[str, Any] = {
    "None": None, "True": True, "False": False, "Ellipsis": ..., "NotImplemented": NotImplemented,
    "0": 0, "1": 1, "-1": -1, "255": 255, "2**30-1": 2**30 - 1, "2**30": 2**30, "-2**30": -(2**30), "2**60": 2**60, "2**62": 2**62,
    "2**63-1": 2**63 - 1, "2**63": 2**63, "-2**63": -(2**63), "-2**63-1": -(2**63) - 1, "2**64": 2**64, "10**1000": 10**1000,
    "-10**300": -(10**300), "int subclass": Int(5), "bool-like int": Int(1), "float subclass": Float(1.5), "str subclass": Text("t"),
    "bytes subclass": Bytes(b"b"), "tuple subclass": Tuple((1, 2)), "list subclass": List([1]), "dict subclass": Dict(a=1),
    "0.0": 0.0, "-0.0": -0.0, "1.5": 1.5, "nan": math.nan, "nan with payload": struct.unpack("d", struct.pack("Q", 0x7FF8_0000_DEAD_BEEF))[0],
    "negative nan": struct.unpack("d", struct.pack("Q", 0xFFF8_0000_0000_0001))[0], "inf": math.inf, "-inf": -math.inf, "smallest": 5e-324,
    "largest": sys.float_info.max, "complex": complex(-0.0, math.inf),
    "empty str": "", "str": "abc", "latin-1": "caf\xe9", "two bytes": "\u65e5\u672c", "non-BMP": "a\U0001f600b", "surrogate": "\ud800",
    "surrogate pair apart": "\ud83d\ude00", "surrogateescape": b"\xff\xfe".decode("utf-8", "surrogateescape"), "NUL": "a\0b\0",
    "combining": "e\u0301", "long str": "x" * 100_000, "long wide str": "\U0001f600" * 20_000,
    "empty bytes": b"", "bytes": b"abc", "all bytes": bytes(range(256)), "long bytes": b"\0\xff" * 100_000, "bytearray": bytearray(b"xyz"),
    "long bytearray": bytearray(50_000), "array": array.array("d", [1.5, -0.0]),
    "()": (), "(1,)": (1,), "pair": (1, "a"), "deep tuple": (1, (2.5, (None, ("x", (b"y", (True,)))))), "tuple of 100": tuple(range(100)),
    "[]": [], "[1]": [1], "nested": [[1, [2, [3, [{"a": (4, {5})}]]]], {"k": [None, True, 1, 1.0]}],
    "{}": {}, "dict": {"a": 1, 2: "b", None: [3], (1, 2): {4}}, "dict order": {"z": 1, "a": 2, "m": 3},
    "set": {1, 2, 3}, "frozenset": frozenset("abc"), "range": range(3, 100, 7), "slice": slice(1, None, 2),
    "OrderedDict": collections.OrderedDict(b=1, a=2), "Counter": collections.Counter("hello"), "deque": collections.deque([1, 2], maxlen=5),
    "defaultdict": collections.defaultdict(list, a=[1]), "mappingproxy-like": types.SimpleNamespace(a=1, b=[2]),
    "Decimal": decimal.Decimal("1.10"), "Fraction": fractions.Fraction(1, 3), "datetime": datetime.datetime(2020, 2, 29, 1, 2, 3, 4),
    "timedelta": datetime.timedelta(days=-1, microseconds=1), "UUID": uuid.UUID(int=5), "Path": pathlib.PurePosixPath("/a/b"),
    "Enum": Colour.RED, "IntEnum": Level.LOW, "namedtuple": Pair(1, [2]), "dataclass": Point(1, -0.0, ["t"]), "frozen dataclass": Frozen(3),
    "slots": Slotted([1]), "reduce": Reduced("r"), "pattern": re.compile("a+", re.I), "class": Point, "function": len, "method": "abc".upper,
    "exception": ValueError("v", 1), "exception class": KeyError, "OSError": OSError(2, "gone", "/nowhere"), "two arguments": TwoArguments(1, 2),
    "signal": signal.SIGTERM,
}


def same(a: Any, b: Any) -> bool:
    """Equal and of exactly the same types all the way down; for floats the same bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, (list, tuple, collections.deque)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(k, l) and same(v, w) for (k, v), (l, w) in zip(a.items(), b.items()))
    if isinstance(a, BaseException):
        return same(a.args, b.args) and same(a.__dict__, b.__dict__) and str(a) == str(b)
    if isinstance(a, types.BuiltinMethodType):
        return a.__name__ == b.__name__ and a.__self__ == b.__self__
    if isinstance(a, Point):
        return same(vars(a), vars(b))
    return bool(a == b)


# ---- functions for workers ---------------------------------------------------------------------------------


def echo(value: Any) -> Any:
    return value


def echo_all(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def value_named(name: str) -> Any:
    return VALUES[name]


def square(x: Any) -> Any:
    return x * x


def throw(kind: type[BaseException], *args: Any) -> None:
    raise kind(*args)


def add(a: Any, b: Any) -> Any:
    return a + b


def nothing(*args: Any) -> None:
    return None


def pid(*args: Any) -> int:
    return os.getpid()


def raise_it(error: BaseException) -> None:
    raise error


def divide(x: Any) -> float:
    return 6 / x


def read_file(path: str) -> str:
    """Waits until somebody writes, when the path is a FIFO."""
    with open(path) as file:
        return file.read()


def append(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, text.encode())
    os.close(fd)
