"""Molecular dynamics: right, the same to the last bit by any team, also by one that loses a member."""

import re

import numpy
import pytest

SMALL = ("--cells", 8, "--steps", 45, "--quiet")


def state(output):
    return re.search(r"^state (\w+)$", output, re.M)[1]


def test_pair_energy_is_that_of_lammps(run_built):
    output = run_built("md/melt", "--workers", 2, "--thermo", 100, "--quiet")
    assert re.search(r"^ +0 +1\.4400000 +-6\.7733681 +-4\.6134356$", output, re.M) # what LAMMPS prints for its in.lj
    assert re.search(r"^ +100 +0\.7574531 +-5\.7585055 +-4\.6223613$", output, re.M)


def test_any_number_of_workers_gives_the_same_bits(run_built):
    alone = state(run_built("md/melt", *SMALL, "--workers", 1))
    assert {state(run_built("md/melt", *SMALL, "--workers", n)) for n in (2, 3, 5)} == {alone}


@pytest.mark.parametrize("step", [1, 20, 30, 45])
def test_a_killed_worker_changes_nothing(run_built, step):
    alone = state(run_built("md/melt", *SMALL, "--workers", 1))
    assert state(run_built("md/melt", *SMALL, "--workers", 2, "--kill", step)) == alone


@pytest.mark.parametrize("wrong, says", [(("--cells", 4), "cells: 5 to 100"), (("--workers", 257), "workers: 1 to 256"),
                                         (("--thermo", 0), "thermo: at least 1"), (("--steps", "x"), '"x" is not a number')])
def test_bad_options_are_named(run_built, wrong, says):
    assert says in run_built("md/melt", *wrong, fails=True)


def test_python_face():
    from melt import Melt

    alone = Melt(cells=6, steps=45, workers=1).run()
    together = Melt(cells=6, steps=45, workers=2).run()
    bereft = Melt(cells=6, steps=45, workers=2, kill_step=33).run()
    assert alone.digest() == together.digest() == bereft.digest()
    assert numpy.array_equal(alone.records, bereft.records)
    assert len(alone.positions) == 4 * 6 ** 3 and list(alone.records["step"]) == [0, 10, 20, 30, 40]


def test_momentum_stays_and_energy_nearly():
    from melt import Melt

    result = Melt(cells=6, steps=200, thermo=1, workers=1).run()
    assert abs(result.velocities.sum(axis=0)).max() < 1e-8
    assert numpy.ptp(result.records["total_energy"]) < 0.02
