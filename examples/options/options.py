"""Price a European option by Monte Carlo: blocks of paths in C, as an imap on a manyhands.Pool, or on a cluster's engines.

    python examples/options/options.py [--paths MILLIONS] [--workers N | --engines N | --cluster NAME] [--kill BLOCK] [--plot FOLDER]

Prints the value with its standard error, and what Black and Scholes say.
"""

import argparse
import ctypes
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import engines # noqa: E402
import native # noqa: E402

BLOCK = 65536 # paths
SEED = 42


class Option(ctypes.Structure):
    _fields_ = [*[(name, ctypes.c_double) for name in ("spot", "strike", "rate", "dividend", "volatility", "years")],
                ("is_call", ctypes.c_int32), ("unused", ctypes.c_int32)]


class Sums(ctypes.Structure):
    _fields_ = [("value", ctypes.c_double), ("square", ctypes.c_double)]


class Result(ctypes.Structure):
    _fields_ = [("value", ctypes.c_double), ("error", ctypes.c_double)]


def library() -> ctypes.CDLL:
    lib = native.load("options/libprice.so")
    option, sums = ctypes.POINTER(Option), ctypes.POINTER(Sums)
    lib.price_check.restype, lib.price_check.argtypes = ctypes.c_char_p, [option]
    lib.price_block.restype, lib.price_block.argtypes = None, [option, ctypes.c_uint64, ctypes.c_uint64, sums]
    lib.price_sum.restype, lib.price_sum.argtypes = Result, [option, sums, ctypes.c_size_t]
    lib.price_black_scholes.restype, lib.price_black_scholes.argtypes = ctypes.c_double, [option]
    return lib


def block(numbers: tuple) -> tuple[float, float]:
    """What the paths of one block pay, and the squares of it: what a worker runs."""
    *terms, number = numbers
    sums = Sums()
    library().price_block(Option(*terms), SEED, number, sums)
    return sums.value, sums.square


def price(spot, strike, rate, volatility, years, *, dividend=0.0, call=False, millions=20.0, workers=0, progress=False, client=None, kill=None):
    """(value, standard error, value of each number of blocks from 1 on)"""
    terms = (spot, strike, rate, dividend, volatility, years, int(call), 0)
    wrong = library().price_check(Option(*terms))
    if wrong:
        raise ValueError(wrong.decode())
    blocks = -int(-millions * 1e6 // BLOCK)
    with engines.Workers(workers, client, kill) as those:
        done = list(those.imap(block, [(*terms, number) for number in range(blocks)], "pricing" if progress else None))
    sums = (Sums * blocks)(*done)
    results = [library().price_sum(Option(*terms), sums, count) for count in range(1, blocks + 1)]
    return results[-1].value, results[-1].error, [(r.value, r.error) for r in results]


def plot(on_the_way: list[tuple[float, float]], exact: float, folder: Path) -> None:
    """pricing.png: how the value comes to rest."""
    import matplotlib
    matplotlib.use("Agg")
    import numpy
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    value, error = numpy.array(on_the_way).T
    paths = numpy.arange(1, len(value) + 1) * BLOCK / 1e6
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.fill_between(paths, value - 2 * error, value + 2 * error, alpha=0.3, label="two standard errors")
    axes.plot(paths, value, label="Monte Carlo")
    axes.axhline(exact, color="C1", linestyle=":", label="Black and Scholes")
    axes.set(xlabel="million paths", ylabel="value")
    axes.legend()
    figure.savefig(folder / "pricing.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--paths", type=float, default=20, metavar="MILLIONS")
    parser.add_argument("--workers", type=int, default=0, help="default: the cores")
    parser.add_argument("--kill", type=int, metavar="BLOCK", help="the worker, or engine, that has this block is killed")
    parser.add_argument("--call", action="store_true", help="the right to buy (default: to sell)")
    for name, value in (("spot", 36), ("strike", 40), ("rate", 0.06), ("dividend", 0), ("volatility", 0.2), ("years", 1)):
        parser.add_argument(f"--{name}", type=float, default=value, help=f"default: {value}")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw how the value comes to rest")
    engines.add_options(parser)
    o = parser.parse_args()
    with engines.connect(o) as client:
        start = time.perf_counter()
        value, error, on_the_way = price(o.spot, o.strike, o.rate, o.volatility, o.years, dividend=o.dividend, call=o.call, millions=o.paths,
                                         workers=o.workers, progress=True, client=client, kill=o.kill)
        seconds = time.perf_counter() - start
    exact = library().price_black_scholes(Option(o.spot, o.strike, o.rate, o.dividend, o.volatility, o.years, o.call, 0))
    print(f"{len(on_the_way) * BLOCK} paths in {seconds:.3f} s")
    print(f"Monte Carlo   {value:.6f}, standard error {error:.6f} ({value.hex()})\nBlack-Scholes {exact:.6f}")
    if o.plot:
        plot(on_the_way, exact, o.plot)


if __name__ == "__main__":
    from options import main # as engines know it

    main()
