"""The neural network: gradients are right, any team learns the same to the last bit, and learns well."""

import re

import numpy
import pytest

SMALL = ("--samples", 2048, "--epochs", 3, "--hidden", 32, "--quiet")


def state(output):
    return re.search(r"^state (\w+)$", output, re.M)[1]


@pytest.fixture(scope="module")
def data():
    from train import fashion_mnist

    return fashion_mnist()


def small(data, **options):
    from train import Network

    images, labels, test_images, test_labels = data
    return Network(images[:1024], labels[:1024], test_images[:500], test_labels[:500], **{"hidden": 16, "epochs": 2, **options})


def test_gradient_is_that_of_finite_differences(data):
    network = small(data, double=True, workers=1, batch=64, shard=64)
    gradient, _ = network.gradient(0, 64)
    parameters = network.parameters
    chosen = [*numpy.random.default_rng(1).choice(784 * 16, 40, replace=False), *range(784 * 16, len(parameters), 3)] # all four kinds
    for i in chosen:
        was, values = parameters[i], []
        for change in (-1e-6, 1e-6):
            parameters[i] = was + change
            values.append(network.gradient(0, 64)[1])
        parameters[i] = was
        assert (values[1] - values[0]) / 2e-6 == pytest.approx(gradient[i], rel=1e-5, abs=1e-8), i


def test_any_number_of_workers_learns_the_same(run_built):
    alone = state(run_built("nn/train", *SMALL, "--workers", 1, "--shard", 64))
    assert {state(run_built("nn/train", *SMALL, "--workers", n, "--shard", 64)) for n in (2, 3)} == {alone}


@pytest.mark.parametrize("step", [1, 8, 9, 23]) # 8 steps an epoch
def test_a_killed_worker_changes_nothing(run_built, step):
    alone = state(run_built("nn/train", *SMALL, "--workers", 1))
    assert state(run_built("nn/train", *SMALL, "--workers", 2, "--kill", step)) == alone


def test_shards_change_losses_by_rounding_only(data):
    whole, parts = small(data, workers=1, shard=256).train(), small(data, workers=1, shard=32).train()
    assert numpy.allclose(whole.losses, parts.losses, rtol=1e-4)


def test_python_face(data):
    alone, bereft = small(data, workers=1).train(), small(data, workers=2, kill_step=5).train()
    assert alone.digest() == bereft.digest()
    assert len(alone.losses) == 8 and alone.losses[-1] < alone.losses[0]


def test_learns_well(run_built):
    last = re.findall(r"^ +(\d+) +(\S+) +(\S+)$", run_built("nn/train", "--epochs", 10, "--quiet"), re.M)[-1]
    assert last[0] == "10" and float(last[2]) >= 0.88


@pytest.mark.parametrize("wrong, says", [(("--batch", 100, "--shard", 64), "a multiple of shard"), (("--epochs", 0), "epochs: 1 to 10,000"),
                                         (("--rate", "fast"), '"fast" is not a number'), (("/nowhere",), "dataset-fashion-mnist has it")])
def test_bad_input_is_named(run_built, wrong, says):
    assert says in run_built("nn/train", *wrong, fails=True)


@pytest.mark.filterwarnings("ignore")
def test_search_finds_what_a_loop_finds_though_a_worker_is_killed(tmp_path):
    import os
    import signal

    from search import search
    from sklearn.neural_network import MLPClassifier

    killed, parent = str(tmp_path / "killed"), os.getpid()

    class Mortal(MLPClassifier):
        def fit(self, x, y):
            if os.getpid() != parent and not os.path.exists(killed):
                open(killed, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().fit(x, y)

    ours, alone = search(300, 2, epochs=1, kind=Mortal), search(300, 1, backend="sequential", epochs=1)
    assert os.path.exists(killed)
    assert ours.best_params_ == alone.best_params_
    assert numpy.allclose(ours.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
