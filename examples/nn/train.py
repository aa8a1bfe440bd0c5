"""Train a perceptron on Fashion-MNIST: forward and backward in C with a BLAS, the team a manyhands.Pool, all data in one shared array.

    python examples/nn/train.py [--hidden N] [--epochs N] [--batch N] [--samples N] [--workers N | --engines N | --cluster NAME]
                                [--kill STEP] [--plot FOLDER]

The data are those of Debian's package dataset-fashion-mnist.
"""

import argparse
import ctypes
import gzip
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

FOLDER = Path("/usr/share/datasets/fashion-mnist")


class Options(ctypes.Structure):
    _fields_ = [*[(name, ctypes.c_uint32) for name in ("inputs", "hidden", "classes", "samples", "tests", "batch", "shard", "epochs", "workers", "seed",
                                                       "kill_step", "unused")], ("rate", ctypes.c_double), ("momentum", ctypes.c_double)]


class Bytes(ctypes.Structure):
    _fields_ = [("data", ctypes.c_char_p), ("size", ctypes.c_size_t)]


def library(name: str = "net") -> ctypes.CDLL:
    """`net` computes with floats, `net64` with doubles."""
    lib = native.load(f"nn/lib{name}.so")
    memory, options, number = ctypes.c_void_p, ctypes.POINTER(Options), ctypes.c_uint32
    for function, result, arguments in (
            ("check", ctypes.c_int, [options]), ("bytes", ctypes.c_size_t, [options]), ("init", ctypes.c_int, [memory, options]),
            ("images", memory, [memory]), ("labels", memory, [memory]), ("test_images", memory, [memory]), ("test_labels", memory, [memory]),
            ("begin", ctypes.c_int, [memory]), ("work", ctypes.c_int, [memory, number]), ("abort", None, [memory]),
            ("step", number, [memory]), ("steps", number, [memory]), ("losses", memory, [memory]), ("records", memory, [memory]),
            ("parameters", memory, [memory]), ("parameter_count", ctypes.c_size_t, [memory]),
            ("gradient", ctypes.c_int, [memory, number, number, memory, ctypes.POINTER(ctypes.c_double)]),
            ("part_bytes", ctypes.c_size_t, [memory, number, number]), ("part_pack", None, [memory, number, number, memory]),
            ("part_unpack", ctypes.c_int, [memory, number, number, Bytes]), ("leg_end", ctypes.c_bool, [memory]),
            ("part_reply_bytes", ctypes.c_size_t, [memory, Bytes]), ("part_work", ctypes.c_int, [memory, Bytes, memory, memory])):
        found = getattr(lib, f"net_{function}")
        found.restype, found.argtypes = result, arguments
    return lib


def work(state: numpy.ndarray, rank: int) -> int:
    """One member of the team: what a worker of the pool runs until the last epoch."""
    return library().net_work(state.ctypes.data, rank)


_network: "Network" # an engine's own


def prepare(options: dict, *data: numpy.ndarray) -> None:
    """What an engine does before the first leg: lay out its memory, with the data that it is given."""
    global _network
    _network = Network(*data, **options)
    native.check("begin", _network.lib.net_begin(_network.memory))


def member(mesh: ctypes.c_void_p, parcel: bytes) -> int | bytes:
    """One leg of one member of a team of engines: its reply, or an mh_err."""
    lib, given = _network.lib, Bytes(parcel, len(parcel))
    reply = ctypes.create_string_buffer(lib.net_part_reply_bytes(_network.memory, given))
    return lib.net_part_work(_network.memory, given, mesh, reply) or reply.raw


def read_idx(path: Path) -> numpy.ndarray:
    """[record, byte] of an IDX file of bytes."""
    with gzip.open(path) as file:
        dimensions = file.read(4)[3]
        shape = numpy.frombuffer(file.read(4 * dimensions), ">u4")
        return numpy.frombuffer(file.read(), numpy.uint8).reshape(shape[0], -1)


def fashion_mnist(folder: Path = FOLDER) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """(images [n, 784], labels [n], test images, test labels), all bytes"""
    images, labels, test_images, test_labels = (read_idx(folder / f"{name}-ubyte.gz") for name in (
        "train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"))
    return images, labels[:, 0], test_images, test_labels[:, 0]


@dataclass
class Result:
    losses: numpy.ndarray     # of each step
    accuracies: numpy.ndarray # of the tests after each epoch
    epoch_losses: numpy.ndarray
    parameters: numpy.ndarray
    seconds: float

    def digest(self) -> str:
        """Of every bit of parameters and losses: the same for any number of workers."""
        return hashlib.sha256(self.parameters.tobytes() + self.losses.tobytes()).hexdigest()[:16]


class Network:
    """A perceptron with one hidden layer that is not trained yet. Data, parameters and gradients lie in one shared array."""

    def __init__(self, images, labels, test_images, test_labels, *, hidden=128, epochs=10, batch=256, shard=128, rate=0.1, momentum=0.9, workers=0,
                 seed=1, kill_step=0, double=False):
        self.data = images, labels, test_images, test_labels
        self.settings = {"hidden": hidden, "epochs": epochs, "batch": batch, "shard": shard, "rate": rate, "momentum": momentum, "workers": 1, "seed": seed,
                         "double": double}
        self.real = numpy.float64 if double else numpy.float32
        self.lib = library("net64" if double else "net")
        self.options = Options(images.shape[1], hidden, int(max(labels.max(), test_labels.max())) + 1, len(images), len(test_images), batch, shard,
                               epochs, workers or manyhands.cpu_count(), seed, kill_step, 0, rate, momentum)
        native.check("options", self.lib.net_check(self.options))
        self.state = shared_array.zeros(self.lib.net_bytes(self.options), "u1")
        self.memory = self.state.ctypes.data
        native.check("memory", self.lib.net_init(self.memory, self.options))
        for name, values in (("images", images), ("labels", labels), ("test_images", test_images), ("test_labels", test_labels)):
            ctypes.memmove(getattr(self.lib, f"net_{name}")(self.memory), numpy.ascontiguousarray(values, numpy.uint8).ctypes.data, values.size)

    def _view(self, address: int, count: int, dtype) -> numpy.ndarray:
        at = address - self.memory
        return self.state[at:at + count * numpy.dtype(dtype).itemsize].view(dtype)

    @property
    def parameters(self) -> numpy.ndarray:
        """In the memory itself: what is written there counts."""
        return self._view(self.lib.net_parameters(self.memory), self.lib.net_parameter_count(self.memory), self.real)

    def gradient(self, first: int, count: int) -> tuple[numpy.ndarray, float]:
        """(gradient, loss) of some samples, for checks"""
        gradient, loss = numpy.empty(self.lib.net_parameter_count(self.memory), self.real), ctypes.c_double()
        native.check("gradient", self.lib.net_gradient(self.memory, first, count, gradient.ctypes.data, loss))
        return gradient, loss.value

    def train(self, progress: bool = False) -> Result:
        start, steps = time.perf_counter(), self.lib.net_steps(self.memory)
        if self.options.workers == 1:
            native.check("begin", self.lib.net_begin(self.memory))
            native.check("training", self.lib.net_work(self.memory, 0))
        else:
            with tqdm(total=steps, unit="step", disable=not progress) as bar:
                team.run(self.options.workers, lambda: self.lib.net_begin(self.memory), work, (self.state,), lambda: self.lib.net_abort(self.memory),
                         lambda: bar.update(self.lib.net_step(self.memory) - bar.n))
        return self._result(time.perf_counter() - start)

    def train_on(self, client, *, network: str = "127.0.0.1", progress: bool = False) -> Result:
        """Train on a cluster's engines, each of which gets all data."""
        lib, steps = self.lib, self.lib.net_steps(self.memory)
        crew = engines.Team(client, network=network, setup=prepare, data=(self.settings, *self.data))
        crew.meet() # sends the data
        start = time.perf_counter()
        with tqdm(total=steps, unit="step", disable=not progress) as bar:
            goes_on = True
            while goes_on:
                replies = crew.leg(member, self._pack)
                for rank, reply in enumerate(replies):
                    native.check("reply", lib.net_part_unpack(self.memory, rank, len(replies), Bytes(reply, len(reply))))
                goes_on = lib.net_leg_end(self.memory)
                bar.update(lib.net_step(self.memory) - bar.n)
        return self._result(time.perf_counter() - start)

    def _pack(self, count: int) -> list[bytes]:
        parcels = [ctypes.create_string_buffer(self.lib.net_part_bytes(self.memory, rank, count)) for rank in range(count)]
        for rank, parcel in enumerate(parcels):
            self.lib.net_part_pack(self.memory, rank, count, parcel)
        return [parcel.raw for parcel in parcels]

    def _result(self, seconds: float) -> Result:
        steps, epochs = self.lib.net_steps(self.memory), self.options.epochs
        records = self._view(self.lib.net_records(self.memory), 2 * epochs, "f8").reshape(epochs, 2).copy()
        losses = self._view(self.lib.net_losses(self.memory), steps, "f8").copy()
        return Result(losses, records[:, 1], records[:, 0], self.parameters.copy(), seconds)


def plot(result: Result, folder: Path) -> None:
    """learning.png: the loss of each step, and how many of the tests are told right."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    per_epoch = len(result.losses) / len(result.accuracies)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained")
    left.plot(numpy.arange(len(result.losses)) / per_epoch, result.losses, linewidth=0.4, color="C7")
    left.plot(numpy.arange(len(result.accuracies)) + 0.5, result.epoch_losses, "o-", color="C0")
    left.set(xlabel="epoch", ylabel="loss", yscale="log")
    right.plot(numpy.arange(len(result.accuracies)) + 1, result.accuracies, "o-", color="C1")
    right.axhline(0.88, linestyle=":", color="C7")
    right.set(xlabel="epoch", ylabel="of the tests are told right")
    figure.savefig(folder / "learning.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--samples", type=int, default=60000, help="learn from only so many")
    parser.add_argument("--workers", type=int, default=0, help="default: the cores; 1: no pool")
    parser.add_argument("--kill", type=int, default=0, metavar="STEP", help="a worker, or an engine, is killed in the middle of that step")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw learning curves into this folder")
    engines.add_options(parser)
    options = parser.parse_args()
    with engines.connect(options) as client:
        images, labels, *tests = fashion_mnist()
        network = Network(images[:options.samples], labels[:options.samples], *tests, hidden=options.hidden, epochs=options.epochs, batch=options.batch, shard=options.batch // 2,
                          workers=options.workers if client is None else 1, kill_step=options.kill)
        if client is None:
            result = network.train(progress=True)
        else:
            result = network.train_on(client, network=options.network, progress=True)
    for epoch, (loss, accuracy) in enumerate(zip(result.epoch_losses, result.accuracies), 1):
        print(f"epoch {epoch:3}: loss {loss:.4f}, test accuracy {accuracy:.4f}")
    print(f"{options.epochs} epochs in {result.seconds:.3f} s; state {result.digest()}")
    if options.plot:
        plot(result, options.plot)


if __name__ == "__main__":
    from train import main # as engines know it

    main()
