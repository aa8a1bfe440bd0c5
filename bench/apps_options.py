"""Option pricing by Monte Carlo, beside NumPy."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from apps import CORES, ENGINES, KERNEL, ONE_THREAD, OURS, ROOT, Application, Contender, run_face, run_json, run_program, version

PATHS = 100
OPTIONS = ROOT / "build" / "examples" / "options" / "options"
# the options of QuantLib's examples EquityOption (a put) and european-option (a call)
EXAMPLES = (("--spot", 36, "--strike", 40, "--rate", 0.06, "--dividend", 0, "--volatility", 0.2),
            ("--call", "--spot", 7, "--strike", 8, "--rate", 0.05, "--dividend", 0.05, "--volatility", 0.1))


def ours(workers: int, *option: Any) -> dict[str, Any]:
    text = run_program([OPTIONS, "--quiet", "--paths", PATHS, "--workers", workers, *option])
    value, error, bits = re.search(r"Monte Carlo +(\S+), standard error (\S+) \((\S+)\)", text).groups()
    return {"seconds": float(re.search(r"in (\S+) s", text)[1]), "value": float(value), "error": float(error), "bits": bits,
            "exact": float(re.search(r"Black-Scholes (\S+),", text)[1])}


def engines() -> dict[str, Any]:
    found = run_face("options/options.py", r"in (\S+) s\n.*\((\S+)\)", "--engines", CORES, "--paths", PATHS)
    return {"seconds": float(found[1]), "bits": float.fromhex(found[2]).hex()}


def peer(name: str) -> dict[str, Any]:
    return run_json([sys.executable, ROOT / "bench/peers/options_numpy.py", name, PATHS, CORES], **ONE_THREAD)


def quantlib(spot: float, strike: float, rate: float, dividend: float, volatility: float, call: bool) -> float:
    """Its analytic engine, for one year."""
    import QuantLib as ql
    today, days = ql.Date(17, 5, 1998), ql.Actual365Fixed()
    ql.Settings.instance().evaluationDate = today
    flat = [ql.YieldTermStructureHandle(ql.FlatForward(today, r, days)) for r in (dividend, rate)]
    spread = ql.BlackVolTermStructureHandle(ql.BlackConstantVol(today, ql.NullCalendar(), volatility, days))
    option = ql.VanillaOption(ql.PlainVanillaPayoff(ql.Option.Call if call else ql.Option.Put, strike), ql.EuropeanExercise(ql.Date(17, 5, 1999)))
    option.setPricingEngine(ql.AnalyticEuropeanEngine(ql.BlackScholesMertonProcess(ql.QuoteHandle(ql.SimpleQuote(spot)), *flat, spread)))
    return option.NPV()


def check(results: dict[str, dict[str, Any]]) -> list[str]:
    if len({float.fromhex(results[name]["bits"]) for name in (OURS, ENGINES, KERNEL)}) != 1:
        raise SystemExit("the pool's or the engines' value differs from that of one process")
    said = []
    for option in EXAMPLES if version("QuantLib") != "not there" else ():
        mine, (spot, strike, rate, dividend, volatility) = ours(CORES, *option), [v for v in option if not isinstance(v, str)]
        theirs = quantlib(spot, strike, rate, dividend, volatility, "--call" in option)
        if abs(mine["value"] - theirs) > 4 * mine["error"] or abs(mine["exact"] - theirs) > 1e-6:
            raise SystemExit(f"{option}: {mine}, QuantLib {theirs}")
        said.append(f"{mine['value']:.6f}, standard error {mine['error']:.6f}; Black-Scholes {mine['exact']:.6f}, QuantLib {theirs:.6f}")
    return [f"pool, one process and a cluster's engines: the same bits ({results[OURS]['bits']})", *said]


def plot(folder: Path) -> list[str]:
    sys.path.append(str(ROOT / "examples" / "options"))
    import options
    _, _, on_the_way = options.price(36, 40, 0.06, 0.2, 1)
    options.plot(on_the_way, 3.844308, folder)
    return ["pricing.png"]


def make(folder: Path) -> Application:
    return Application(
        "Option pricing", f"A European put by Monte Carlo, {PATHS} million paths (NumPy {version('numpy')}, QuantLib {version('QuantLib')}, joblib {version('joblib')}, dask "
        f"{version('dask')}, Ray {version('ray')}, ipyparallel {version('ipyparallel')}); in NumPy by blocks of a million",
        [Contender(OURS, lambda: ours(CORES)), Contender(KERNEL, lambda: ours(1)),
         Contender(ENGINES, engines, note="in Python, the kernel by ctypes"),
         Contender("NumPy", lambda: peer("loop"), needs="numpy"),
         Contender("NumPy, multiprocessing", lambda: peer("multiprocessing"), needs="numpy"),
         Contender("NumPy, joblib", lambda: peer("joblib"), rounds=2, needs="joblib"),
         Contender("NumPy, dask", lambda: peer("dask"), rounds=1, needs="dask"),
         Contender("NumPy, Ray", lambda: peer("ray"), rounds=1, needs="ray"),
         Contender("NumPy, ipyparallel", lambda: peer("ipyparallel"), rounds=1, needs="ipyparallel"),
         Contender("plain Python loop", lambda: peer("plain"), rounds=1, needs="numpy", note="measured with a twentieth of the paths")], check, plot=plot)
