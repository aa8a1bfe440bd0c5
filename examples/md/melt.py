"""Molecular dynamics of a Lennard-Jones melt: the kernel in C, the team a manyhands.Pool, the state one shared array.

    python examples/md/melt.py [--cells N] [--steps N] [--workers N | --engines N | --cluster NAME] [--kill STEP] [--plot FOLDER]

Prints the energies as LAMMPS does for its benchmark in.lj (which the defaults are), and draws atoms and energies into FOLDER.
"""

import argparse
import ctypes
import hashlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy
from tqdm import tqdm

import manyhands
from manyhands import shared_array

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import engines # noqa: E402
import native # noqa: E402
import team # noqa: E402


class Options(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("cells", "steps", "thermo", "workers", "kill_step")]


class Bytes(ctypes.Structure):
    _fields_ = [("data", ctypes.c_char_p), ("size", ctypes.c_size_t)]


RECORD = numpy.dtype([("step", "u8"), ("temperature", "f8"), ("pair_energy", "f8"), ("total_energy", "f8")])


def library() -> ctypes.CDLL:
    lib = native.load("md/liblj.so")
    memory, options = ctypes.c_void_p, ctypes.POINTER(Options)
    for name, result, arguments in (
            ("lj_check", ctypes.c_int, [options]), ("lj_bytes", ctypes.c_size_t, [options]),
            ("lj_init", ctypes.c_int, [memory, options]), ("lj_begin", ctypes.c_int, [memory]),
            ("lj_work", ctypes.c_int, [memory, ctypes.c_uint32]), ("lj_abort", None, [memory]),
            ("lj_step", ctypes.c_uint32, [memory]), ("lj_atoms", ctypes.c_size_t, [memory]), ("lj_edge", ctypes.c_double, [memory]),
            ("lj_records", ctypes.c_void_p, [memory, ctypes.POINTER(ctypes.c_size_t)]),
            ("lj_copy", None, [memory, memory, memory]),
            ("lj_leg_begin", ctypes.c_int, [memory]), ("lj_leg_end", ctypes.c_bool, [memory]),
            ("lj_part_bytes", ctypes.c_size_t, [memory, ctypes.c_uint32, ctypes.c_uint32]),
            ("lj_part_pack", None, [memory, ctypes.c_uint32, ctypes.c_uint32, memory]),
            ("lj_part_unpack", ctypes.c_int, [memory, ctypes.c_uint32, ctypes.c_uint32, Bytes]),
            ("lj_part_options", ctypes.c_int, [Bytes, options]), ("lj_part_reply_bytes", ctypes.c_size_t, [Bytes]),
            ("lj_part_work", ctypes.c_int, [memory, Bytes, ctypes.c_void_p, memory])):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def work(state: numpy.ndarray, rank: int) -> int:
    """One member of the team: what a worker of the pool runs until the last step."""
    return library().lj_work(state.ctypes.data, rank)


_memory = numpy.zeros(0, "u1") # an engine's own


def member(mesh: ctypes.c_void_p, parcel: bytes) -> int | bytes:
    """One leg of one member of a team of engines: its reply, or an mh_err."""
    global _memory
    lib, options = library(), Options()
    given = Bytes(parcel, len(parcel))
    err = lib.lj_part_options(given, options)
    if not err and len(_memory) != lib.lj_bytes(options):
        _memory = numpy.zeros(lib.lj_bytes(options), "u1") # what is not touched takes no memory
    reply = ctypes.create_string_buffer(lib.lj_part_reply_bytes(given))
    err = err or lib.lj_part_work(_memory.ctypes.data, given, mesh, reply)
    return err or reply.raw


@dataclass
class Result:
    positions: numpy.ndarray # [atom, 3]
    velocities: numpy.ndarray
    records: numpy.ndarray   # of RECORD
    edge: float              # of the box
    seconds: float           # of the steps

    def digest(self) -> str:
        """Of every bit of the final state: the same for any number of workers."""
        return hashlib.sha256(self.positions.tobytes() + self.velocities.tobytes()).hexdigest()[:16]


class Melt:
    """A simulation that is not run yet. Its state lies in one shared array, which the workers map."""

    def __init__(self, cells: int = 20, steps: int = 100, thermo: int = 10, workers: int = 0, kill_step: int = 0):
        self.lib = library()
        self.options = Options(cells, steps, thermo, workers or manyhands.cpu_count(), kill_step)
        native.check("options", self.lib.lj_check(self.options))
        self.state = shared_array.zeros(self.lib.lj_bytes(self.options), "u1")
        self.memory = self.state.ctypes.data
        native.check("start", self.lib.lj_init(self.memory, self.options))

    def run(self, progress: bool = False) -> Result:
        """Run all steps; with one worker in this process."""
        start = time.perf_counter()
        if self.options.workers == 1:
            native.check("begin", self.lib.lj_begin(self.memory))
            native.check("simulation", self.lib.lj_work(self.memory, 0))
        else:
            with tqdm(total=self.options.steps, unit="step", disable=not progress) as bar:
                def show() -> None:
                    bar.update(min(self.lib.lj_step(self.memory), self.options.steps) - bar.n)
                team.run(self.options.workers, lambda: self.lib.lj_begin(self.memory), work, (self.state,),
                         lambda: self.lib.lj_abort(self.memory), show)
        return self._result(time.perf_counter() - start)

    def run_on(self, client, *, network: str = "127.0.0.1", progress: bool = False) -> Result:
        """Run all steps on a cluster's engines. The Melt was made with workers=1."""
        lib, crew = self.lib, engines.Team(client, network=network)
        crew.meet() # so that it does not count
        start = time.perf_counter()
        with tqdm(total=self.options.steps, unit="step", disable=not progress) as bar:
            goes_on = True
            while goes_on:
                native.check("atoms", lib.lj_leg_begin(self.memory))
                replies = crew.leg(member, self._pack)
                for rank, reply in enumerate(replies):
                    native.check("reply", lib.lj_part_unpack(self.memory, rank, len(replies), Bytes(reply, len(reply))))
                goes_on = lib.lj_leg_end(self.memory)
                bar.update(min(lib.lj_step(self.memory), self.options.steps) - bar.n)
        return self._result(time.perf_counter() - start)

    def _pack(self, count: int) -> list[bytes]:
        parcels = [ctypes.create_string_buffer(self.lib.lj_part_bytes(self.memory, rank, count)) for rank in range(count)]
        for rank, parcel in enumerate(parcels):
            self.lib.lj_part_pack(self.memory, rank, count, parcel)
        return [parcel.raw for parcel in parcels]

    def _result(self, seconds: float) -> Result:
        positions, velocities = numpy.empty((2, self.lib.lj_atoms(self.memory), 3))
        self.lib.lj_copy(self.memory, positions.ctypes.data, velocities.ctypes.data)
        count = ctypes.c_size_t()
        address = self.lib.lj_records(self.memory, count)
        records = numpy.frombuffer(ctypes.string_at(address, count.value * RECORD.itemsize), RECORD)
        return Result(positions, velocities, records, self.lib.lj_edge(self.memory), seconds)


def plot(result: Result, folder: Path) -> None:
    """atoms.png: a slice of the box, coloured by speed. energy.png: the energies, and how far their sum drifts."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    inside = result.positions % result.edge
    near = inside[:, 2] < 1.5
    figure, axes = pyplot.subplots(figsize=(6, 5.4), layout="constrained")
    dots = axes.scatter(*inside[near, :2].T, c=numpy.linalg.norm(result.velocities[near], axis=1), s=18, cmap="plasma")
    axes.set(title=f"{near.sum()} of {len(inside)} atoms after the last step", aspect="equal", xlabel="x", ylabel="y")
    figure.colorbar(dots, label="speed")
    figure.savefig(folder / "atoms.png", dpi=120)
    figure, (top, bottom) = pyplot.subplots(2, sharex=True, figsize=(6, 5.4), layout="constrained")
    kinetic = result.records["total_energy"] - result.records["pair_energy"]
    for name, values in (("pair", result.records["pair_energy"]), ("kinetic", kinetic), ("total", result.records["total_energy"])):
        top.plot(result.records["step"], values, label=name)
    top.set(ylabel="energy of an atom")
    top.legend()
    bottom.plot(result.records["step"], result.records["total_energy"] - result.records["total_energy"][0], color="C2")
    bottom.set(xlabel="step", ylabel="drift of the total")
    figure.savefig(folder / "energy.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=20, help="lattice cells along each edge, 4 atoms each (default: 20)")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--thermo", type=int, default=10, help="steps between two records (default: 10)")
    parser.add_argument("--workers", type=int, default=0, help="default: the cores; 1: no pool")
    parser.add_argument("--kill", type=int, default=0, metavar="STEP", help="a worker, or an engine, is killed in the middle of that step")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw atoms and energies into this folder")
    engines.add_options(parser)
    options = parser.parse_args()
    with engines.connect(options) as client:
        melt = Melt(options.cells, options.steps, options.thermo, options.workers if client is None else 1, options.kill)
        result = melt.run(True) if client is None else melt.run_on(client, network=options.network, progress=True)
    print(f"{'step':>8}  temperature  pair energy  total energy")
    for record in result.records:
        print(f"{record['step']:8}  {record['temperature']:11.7f}  {record['pair_energy']:11.7f}  {record['total_energy']:12.7f}")
    print(f"{len(result.positions)} atoms: {result.seconds:.3f} s; state {result.digest()}")
    if options.plot:
        plot(result, options.plot)


if __name__ == "__main__":
    from melt import main # as engines know it

    main()
