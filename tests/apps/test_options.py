"""Option pricing: agrees with Black and Scholes and with QuantLib's examples; the same bits from any pool."""

import re

import pytest

PUT = (36, 40, 0.06, 0.2, 1) # QuantLib's example EquityOption, for which it prints 3.844308


def read(output):
    value, error, bits, exact = re.search(r"Monte Carlo +(\S+), standard error (\S+) \((\S+)\)\nBlack-Scholes (\S+),", output).groups()
    return float(value), float(error), bits, float(exact)


@pytest.mark.parametrize("option, exact", [((), 3.844308), (("--call", "--spot", 7, "--strike", 8, "--rate", 0.05, "--dividend", 0.05, "--volatility", 0.1), 0.030024),
                                           (("--call", "--spot", 100, "--strike", 1), 99.058235)]) # the last: spot - strike * exp(-rate)
def test_value(run_built, option, exact):
    value, error, _, black_scholes = read(run_built("options/options", "--paths", 2, *option))
    assert black_scholes == pytest.approx(exact, abs=1e-6)
    assert abs(value - exact) < 4 * error


@pytest.mark.parametrize("how", [("--workers", 2), ("--workers", 3), ("--workers", 2, "--kill", 0), ("--workers", 2, "--kill", 15)])
def test_any_pool_gives_the_same_bits(run_built, how):
    alone = read(run_built("options/options", "--paths", 1, "--workers", 1))
    assert read(run_built("options/options", "--paths", 1, *how)) == alone


def test_python_face(run_built):
    import options

    value, *_ = options.price(*PUT, millions=1, workers=2, kill=5)
    assert value == float.fromhex(read(run_built("options/options", "--paths", 1, "--workers", 1))[2])


@pytest.mark.parametrize("wrong, says", [(("--spot", 0), "spot: more than 0"), (("--volatility", -1), "volatility"), (("--paths", 0), "paths"),
                                         (("--years", "long"), '"long" is not a number')])
def test_bad_options_are_named(run_built, wrong, says):
    assert says in run_built("options/options", *wrong, fails=True)
