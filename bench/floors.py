"""What a row cannot go below on this machine, measured in the same run, so that a target that is out of reach is seen to be."""

import os

import contenders as c

FORK = "os.fork, _exit, waitpid"
FORKS = "two of os.fork, _exit, waitpid"
CALLER = "the caller's share: its ints read and made"
OBJECTS = "an object for each call, and no pool"
BYTE = "a byte there and back through pipes"
MEMCPY = "each array copied twice"


def bare_forks(count):
    """Children that do nothing, all at once."""
    pids = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)


def caller(numbers):
    """Of a map over ints: reading them all, and making as many. No worker can do that for the process that has the list."""
    from manyhands import _core

    return c.seconds(lambda: _core.decode(_core.encode(numbers)))


class NoPool:
    """What a caller's own loop costs: an object made for each call, and asked for its result."""

    def __init__(self, args):
        self.args = args

    def get(self):
        return None

    @staticmethod
    def apply_async(function, args):
        return NoPool(args)


class Echo:
    """Another process that answers each byte; it ends with this object."""

    def __init__(self):
        there, self._out = os.pipe()
        self._in, back = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._out)
            while byte := os.read(there, 1):
                os.write(back, byte)
            os._exit(0)
        os.close(there)
        os.close(back)

    def call(self):
        os.write(self._out, b"x")
        os.read(self._in, 1)

    def __del__(self):
        os.close(self._out)
        os.close(self._in)
        os.waitpid(self._pid, 0)


def copy_twice(arrays):
    """Into memory that is there already, once for the way to a worker and once for the way back."""
    import numpy

    room = numpy.empty_like(arrays[0])
    for array in arrays:
        numpy.copyto(room, array)
        numpy.copyto(room, array)
