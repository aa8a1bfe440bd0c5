"""Find what moves in a video: the pixels' work in C, frames in one shared array, the pieces of work tasks of a manyhands.Pool.

    python examples/video/detect.py [--workers N | --engines N | --cluster NAME] [--slots N] [--boxes FILE] [--kill BATCH] [--plot FOLDER] [IN [OUT]]

IN is by default the video of pedestrians that Debian's package opencv-doc has. OUT is an .avi with what was found drawn into it.
"""

import argparse
import ctypes
import queue
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
from tqdm import tqdm

import manyhands
from manyhands import shared_array
from manyhands.shared_memory import SharedMemory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import engines # noqa: E402
import native # noqa: E402

VIDEO = "/usr/share/doc/opencv-doc/examples/data/vtest.avi"
BANDS = 8
RETRIES = 3
EMPTY = 23 # MH_ERR_EMPTY
BOX = numpy.dtype([("x", "u2"), ("y", "u2"), ("width", "u2"), ("height", "u2"), ("area", "u4")])
FRAME = numpy.dtype([("digest", "u8"), ("box_count", "u4"), ("packet_size", "u4"), ("is_key", "u4"), ("unused", "u4")])


class Size(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("width", "height", "rate", "rate_divisor", "unused")]


class Bytes(ctypes.Structure):
    _fields_ = [("data", ctypes.c_char_p), ("size", ctypes.c_size_t)]


class Sums(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("frames", "boxes", "digest", "packets", "bytes")]


def library() -> ctypes.CDLL:
    lib = native.load("video/libmotion.so")
    memory, handle, size, number = ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(Size), ctypes.c_uint32
    out = ctypes.POINTER(ctypes.c_void_p)
    for name, result, arguments in (
            ("motion_open", ctypes.c_int, [out, ctypes.c_char_p, size]),
            ("motion_limit", None, [handle, ctypes.c_uint64]),
            ("motion_read", ctypes.c_int, [handle, memory, number, ctypes.POINTER(ctypes.c_bool)]), ("motion_close", None, [out]),
            ("motion_bytes", ctypes.c_size_t, [size, number]), ("motion_init", ctypes.c_int, [memory, size, number]),
            ("motion_scan", ctypes.c_int, [memory, number, number]), ("motion_finish_bytes", ctypes.c_size_t, [memory]),
            ("motion_finish", ctypes.c_int, [memory, number, ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)]),
            ("motion_kill", None, [memory, number]), ("motion_create", ctypes.c_int, [out, ctypes.c_char_p, size]),
            ("motion_write", ctypes.c_int, [handle, Bytes, ctypes.c_void_p]), ("motion_sum", Sums, [handle]), ("motion_end", ctypes.c_int, [out])):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


# ---- what workers do ----------------------------------------------------------------------------

def scan(state: numpy.ndarray, batch: int, band: int) -> None:
    native.check("scanning", library().motion_scan(state.ctypes.data, batch, band))


def finish(state: numpy.ndarray, batch: int) -> bytes:
    lib = library()
    room, used = ctypes.create_string_buffer(lib.motion_finish_bytes(state.ctypes.data)), ctypes.c_size_t()
    native.check("finishing", lib.motion_finish(state.ctypes.data, batch, room, len(room), used))
    return room.raw[:used.value]


_attached: tuple[str, SharedMemory | None, numpy.ndarray] = ("", None, numpy.zeros(0, "u1")) # an engine's


def attach(name: str) -> numpy.ndarray:
    """The frames of the client, which is on this host."""
    global _attached
    if _attached[0] != name:
        try:
            memory = SharedMemory(name)
        except FileNotFoundError:
            raise SystemExit(f"{socket.gethostname()} does not have the client's memory: engines for a video must be on the client's host") from None
        _attached = (name, memory, numpy.frombuffer(memory.buf, "u1"))
    return _attached[2]


def scan_on_engine(name: str, batch: int, band: int) -> None:
    scan(attach(name), batch, band)


def finish_on_engine(name: str, batch: int) -> bytes:
    return finish(attach(name), batch)


# ---- what the parent does -----------------------------------------------------------------------

@dataclass
class Result:
    boxes: list[numpy.ndarray] = field(default_factory=list) # of each frame, of BOX
    digest: int = 0    # of all drawn pixels: the same for any number of workers
    packets: int = 0   # and of all encoded bytes
    seconds: float = 0


class Detector:
    """Reads a video, finds what moves, writes the video with boxes. At most `slots` batches of 12 frames are in memory at a time."""

    def __init__(self, source: str, target: str | None = None, slots: int = 6, frames: int | None = None, *, for_engines: bool = False):
        self.lib, self.slots, self.size = library(), slots, Size()
        self.reader, self.writer = ctypes.c_void_p(), ctypes.c_void_p()
        native.check(source, self.lib.motion_open(self.reader, str(source).encode(), self.size))
        if frames is not None:
            self.lib.motion_limit(self.reader, frames)
        native.check(str(target), self.lib.motion_create(self.writer, str(target).encode() if target else None, self.size))
        size = self.lib.motion_bytes(self.size, slots)
        self.memory = SharedMemory(create=True, size=size) if for_engines else None # by its name any process of ours may have it
        self.state = shared_array.zeros(size, "u1") if self.memory is None else numpy.frombuffer(self.memory.buf, "u1")
        native.check("memory", self.lib.motion_init(self.state.ctypes.data, self.size, slots))
        self.result = Result()

    def kill_worker(self, batch: int) -> None:
        """For tests: one that scans this batch is killed, and one that finishes it."""
        self.lib.motion_kill(self.state.ctypes.data, batch)

    def run(self, workers: int = 0, progress: bool = False) -> Result:
        start = time.perf_counter()
        with manyhands.Pool(workers or None) as pool, tqdm(unit="frame", disable=not progress) as self.bar:
            def give(task, tell):
                function = scan if len(task) == 2 else finish
                pool.apply_async(function, (self.state, *task), callback=tell, error_callback=tell, retries=(RETRIES, 0))
            self._run(give)
        return self._end(start)

    def run_on(self, client, progress: bool = False) -> Result:
        """On a cluster's engines, by a load-balanced view. The Detector was made for_engines."""
        start = time.perf_counter()
        view = client.load_balanced_view()
        view.retries = RETRIES
        with tqdm(unit="frame", disable=not progress) as self.bar:
            def give(task, tell):
                function = scan_on_engine if len(task) == 2 else finish_on_engine
                done = view.apply_async(engines.call, *engines.name_of(function), self.memory.name, *task)
                done.add_done_callback(lambda done: tell(done.exception() or done.result()))
            try:
                self._run(give)
            finally:
                self.memory.unlink()
        return self._end(start)

    def _end(self, start: float) -> Result:
        sums = self.lib.motion_sum(self.writer)
        self.result.digest, self.result.packets = sums.digest, sums.packets
        native.check("writing", self.lib.motion_end(self.writer))
        self.lib.motion_close(self.reader)
        self.result.seconds = time.perf_counter() - start
        return self.result

    def _run(self, give: Callable[[tuple[int, ...], Callable[[Any], None]], None]) -> None:
        """give((batch, band), tell) has a band scanned, give((batch,), tell) a batch finished; either calls tell with what comes of it."""
        ended: queue.SimpleQueue = queue.SimpleQueue()
        read = written = finish_next = outstanding = 0
        scanned, busy, finished, read_out = [0] * BANDS, [False] * BANDS, {}, False

        def submit(*task):
            give(task, lambda value: ended.put((task, value)))

        while not read_out or written < read:
            may_read = not read_out and read - written < self.slots
            if may_read:
                read_out, complete = self._read_frame(read)
                read += complete
            while outstanding and (not may_read or not ended.empty()):
                (batch, *band), value = ended.get()
                outstanding -= 1
                may_read = True # one is enough to go on with
                if isinstance(value, BaseException):
                    raise value
                if band:
                    scanned[band[0]], busy[band[0]] = batch + 1, False
                else:
                    finished[batch] = value
            while written in finished:
                self._write(finished.pop(written))
                written += 1
            for band in range(BANDS):
                if not busy[band] and scanned[band] < read:
                    busy[band] = True
                    submit(scanned[band], band)
                    outstanding += 1
            for finish_next in range(finish_next, min(scanned)):
                submit(finish_next)
                outstanding += 1
            finish_next = min(scanned)

    def _read_frame(self, batch: int) -> tuple[bool, bool]:
        """(whether there are no more, whether the batch is complete)"""
        complete = ctypes.c_bool()
        err = self.lib.motion_read(self.reader, self.state.ctypes.data, batch, complete)
        if err == EMPTY:
            return True, False
        native.check("reading", err)
        return False, complete.value

    def _write(self, batch: bytes) -> None:
        native.check("writing", self.lib.motion_write(self.writer, Bytes(batch, len(batch)), None))
        at = 0
        while at < len(batch):
            frame = numpy.frombuffer(batch, FRAME, 1, at)[0]
            at += FRAME.itemsize
            count = int(frame["box_count"])
            self.result.boxes.append(numpy.frombuffer(batch, BOX, count, at))
            at += (count * BOX.itemsize + 7) // 8 * 8 + (int(frame["packet_size"]) + 7) // 8 * 8
            self.bar.update()


def plot(result: Result, size: Size, folder: Path) -> None:
    """motion.png: how much moved when, and where."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    where = numpy.zeros((size.height, size.width))
    for boxes in result.boxes:
        for box in boxes:
            where[box["y"]:box["y"] + box["height"], box["x"]:box["x"] + box["width"]] += 1
    figure, (top, bottom) = pyplot.subplots(2, figsize=(6, 7), height_ratios=(1, 3), layout="constrained")
    top.plot([len(boxes) for boxes in result.boxes], linewidth=0.8)
    top.set(xlabel="frame", ylabel="boxes")
    image = bottom.imshow(where, cmap="magma")
    bottom.set(title="frames in which a box was there")
    figure.colorbar(image)
    figure.savefig(folder / "motion.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default=VIDEO, metavar="IN")
    parser.add_argument("target", nargs="?", metavar="OUT")
    parser.add_argument("--workers", type=int, default=0, help="default: the cores")
    parser.add_argument("--slots", type=int, default=6, help="batches of 12 frames in memory at a time (default: 6)")
    parser.add_argument("--frames", type=int, help="only the first so many")
    parser.add_argument("--boxes", type=Path, metavar="FILE", help="a line for each box: frame,x,y,width,height,area")
    parser.add_argument("--kill", type=int, metavar="BATCH", help="workers, or engines, are killed in the middle of this batch")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw when and where something moved")
    engines.add_options(parser)
    options = parser.parse_args()
    with engines.connect(options) as client:
        detector = Detector(options.source, options.target, options.slots, options.frames, for_engines=client is not None)
        if options.kill is not None:
            detector.kill_worker(options.kill)
        result = detector.run(options.workers, True) if client is None else detector.run_on(client, True)
    print(f"{len(result.boxes)} frames, {sum(map(len, result.boxes))} boxes: {result.seconds:.3f} s")
    print(f"frames {result.digest:016x} packets {result.packets:016x}")
    if options.boxes:
        options.boxes.write_text("".join(f"{n}," + ",".join(map(str, box.tolist())) + "\n" for n, boxes in enumerate(result.boxes) for box in boxes))
    if options.plot:
        plot(result, detector.size, options.plot)


if __name__ == "__main__":
    from detect import main # as engines know it

    main()
