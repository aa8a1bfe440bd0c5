"""Molecular dynamics beside LAMMPS, OpenMP and NumPy."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from apps import CORES, ENGINES, KERNEL, ONE_THREAD, OURS, ROOT, Application, Contender, run_face, run_json, run_program, version_of

sys.path += [str(ROOT / "examples" / "md")]

STEPS = 100
MELT = ROOT / "build" / "examples" / "md" / "melt"
LAMMPS = """
units lj
atom_style atomic
lattice fcc 0.8442
region box block 0 20 0 20 0 20
create_box 1 box
create_atoms 1 box
mass 1 1.0
velocity all create 1.44 87287 loop geom
pair_style lj/cut 2.5
pair_coeff 1 1 1.0 1.0 2.5
neighbor 0.3 bin
neigh_modify delay 0 every 20 check no
fix 1 all nve
run %d
""" # the benchmark in.lj, which Debian's packages do not have


def ours(*arguments: Any) -> dict[str, Any]:
    text = run_program([MELT, "--steps", STEPS, "--thermo", STEPS, "--quiet", *arguments])
    first, last = re.findall(r"^ *\d+ +\S+ +(\S+) +(\S+)$", text, re.M)[0::1]
    return {"seconds": float(re.search(r"steps in (\S+) s", text)[1]), "pair_energy": float(last[0]), "drift": float(last[1]) - float(first[1]),
            "state": re.search(r"state (\w+)", text)[1]}


def engines() -> dict[str, Any]:
    found = run_face("md/melt.py", r"^ *100 +\S+ +(\S+) +\S+\n.* atoms: (\S+) s; state (\w+)", "--engines", CORES, "--steps", STEPS, "--thermo", STEPS)
    return {"seconds": float(found[2]), "pair_energy": float(found[1]), "state of the Python face": found[3]}


def lammps(folder: Path, ranks: int) -> dict[str, Any]:
    (folder / "in.lj").write_text(LAMMPS % STEPS)
    text = run_program(["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", ranks, "lmp", "-log", "none", "-in", folder / "in.lj"], **ONE_THREAD)
    rows = re.findall(r"^ +(\d+) +\S+ +(\S+) +\S+ +(\S+) +\S+ *$", text, re.M)
    return {"seconds": float(re.search(r"Loop time of (\S+)", text)[1]), "pair_energy": float(rows[-1][1]), "drift": float(rows[-1][2]) - float(rows[0][2])}


def lammps_version() -> str:
    run = subprocess.run(["lmp", "-h"], capture_output=True, text=True)
    return next((line for line in run.stdout.splitlines() if "Simulator" in line), "LAMMPS: not there").rpartition(" - ")[2]


def numpy_peer(start: Path, workers: int) -> dict[str, Any]:
    return run_json([sys.executable, ROOT / "bench/peers/md_numpy.py", "--steps", STEPS, "--start", start, "--workers", workers], **ONE_THREAD)


def check(results: dict[str, dict[str, Any]]) -> list[str]:
    published = {"pair_energy": -5.7585055, "drift": -4.6223613 + 4.6134356} # what it prints, if it is not here
    mine, other = results[OURS], results.get("LAMMPS, 1 rank", published)
    alone = run_face("md/melt.py", r"state (\w+)", "--workers", 1, "--steps", STEPS, "--thermo", STEPS)[1]
    if results[ENGINES]["state of the Python face"] != alone:
        raise SystemExit("the engines' final state differs from that of one process")
    # the peer with a pool makes some lists some steps later, and which fast atoms a list has not yet depends on that, with LAMMPS as here
    if any(abs(r["pair_energy"] - other["pair_energy"]) > (5e-6 if "multi" in name else 2e-7) for name, r in results.items()):
        raise SystemExit(f"pair energies at step {STEPS} differ: { {name: r['pair_energy'] for name, r in results.items()} }")
    if len({r["state"] for r in results.values() if "state" in r}) != 1:
        raise SystemExit("the final states of our runs differ")
    if abs(mine["drift"]) > abs(other["drift"]) + 2e-7:
        raise SystemExit(f"energy drifts by {mine['drift']}, with LAMMPS by {other['drift']}")
    return [f"pair energy at step {STEPS}: {mine['pair_energy']:.7f}, LAMMPS {other['pair_energy']:.7f}, all contenders within 2e-7 (NumPy with multiprocessing: 5e-6)",
            f"drift of the total energy: {mine['drift']:.7f}, LAMMPS {other['drift']:.7f}",
            f"pool, one process, OpenMP, and a cluster's engines: the same bits (state {mine['state']})"]


def plot(folder: Path) -> list[str]:
    import melt
    result = melt.Melt(steps=STEPS, thermo=2).run()
    melt.plot(result, folder)
    return ["atoms.png", "energy.png"]


def make(folder: Path) -> Application:
    scratch = Path(tempfile.mkdtemp())
    start = scratch / "velocities"
    subprocess.run([MELT, "--steps", "0", "--workers", "1", "--start", start], check=True, stdout=subprocess.DEVNULL)
    atoms, visits = 32000, STEPS + STEPS / 20
    return Application(
        "Molecular dynamics", f"A Lennard-Jones melt of 32,000 atoms, {STEPS} steps, as LAMMPS's in.lj "
        f"({lammps_version()}, {version_of(['mpirun', '--version'])})",
        [Contender(OURS, lambda: ours("--workers", CORES)),
         Contender(ENGINES, engines, rounds=2, note="halo exchange by sockets; the client gathers and sorts all atoms every 20 steps"),
         Contender(KERNEL, lambda: ours("--workers", 1)),
         Contender("the same kernel, OpenMP", lambda: ours("--workers", CORES, "--openmp")),
         Contender("LAMMPS, 1 rank", lambda: lammps(scratch, 1), needs="lmp",
                   note="half lists by Newton's third law: half of the work; Debian's build has no vector code"),
         Contender(f"LAMMPS, {CORES} ranks", lambda: lammps(scratch, CORES), needs="lmp", note="MPI; the same"),
         Contender("NumPy", lambda: numpy_peer(start, 1), rounds=1, needs="scipy", note="pairs from SciPy's k-d tree"),
         Contender("NumPy, multiprocessing", lambda: numpy_peer(start, CORES), rounds=1, needs="scipy", note="positions are pickled for each step")],
        check, python="NumPy, multiprocessing", python_aim=4.5,
        bytes_moved=visits * atoms * (4 * 80 + 3 * 32 + 2 * 32), plot=plot)
