"""Video: the parallel output is the sequential one, frame by frame and byte by byte, also when workers are killed."""

import re
from pathlib import Path

import pytest

VIDEO = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")
FRAMES = 100 # eight batches and a part of one


def sums(output):
    return re.search(r"^frames \w+ packets \w+$", output, re.M)[0]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    import subprocess

    import native

    folder = tmp_path_factory.mktemp("alone")
    run = subprocess.run([native.path("video/detect"), "--workers", "1", "--frames", str(FRAMES), "--boxes", folder / "boxes", VIDEO, folder / "out.avi"],
                         capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    return sums(run.stdout), (folder / "boxes").read_text(), (folder / "out.avi").read_bytes()


@pytest.mark.parametrize("how", [("--workers", 2), ("--workers", 3, "--slots", 1), ("--workers", 2, "--slots", 9),
                                 ("--workers", 2, "--kill", 0), ("--workers", 2, "--kill", 5), ("--workers", 2, "--kill", 8)])
def test_pool_makes_the_same_file(run_built, tmp_path, alone, how):
    output = run_built("video/detect", *how, "--frames", FRAMES, "--boxes", tmp_path / "boxes", VIDEO, tmp_path / "out.avi")
    assert sums(output) == alone[0]
    assert (tmp_path / "boxes").read_text() == alone[1]
    assert (tmp_path / "out.avi").read_bytes() == alone[2]


def test_what_is_written_can_be_read(run_built, tmp_path, alone):
    (tmp_path / "in.avi").write_bytes(alone[2])
    assert re.match(rf"{FRAMES} frames of 768 x 576, ", run_built("video/detect", "--workers", 1, tmp_path / "in.avi"))


def test_memory_does_not_grow_with_the_video(run_built):
    short, long = (re.search(r"(\d+) MB of shared memory", run_built("video/detect", "--frames", n, VIDEO))[1] for n in (30, FRAMES))
    assert short == long


def test_python_face(alone, tmp_path):
    from detect import Detector

    detector = Detector(VIDEO, tmp_path / "out.avi", frames=FRAMES)
    detector.kill_worker(3)
    result = detector.run(workers=2)
    assert f"frames {result.digest:016x} packets {result.packets:016x}" == alone[0]
    assert (tmp_path / "out.avi").read_bytes() == alone[2]
    assert sum(map(len, result.boxes)) == alone[1].count("\n") and len(result.boxes) == FRAMES


@pytest.mark.parametrize("content, says", [(b"this is no video", "cannot be opened"), (None, "cannot be opened")])
def test_bad_input_is_named(run_built, tmp_path, content, says):
    path = tmp_path / "in.avi"
    if content:
        path.write_bytes(content)
    error = run_built("video/detect", path, fails=True)
    assert str(path) in error and says in error


def test_damaged_video_ends(run_built, tmp_path):
    """What cannot be decoded is an error or is left out, never a hang or a crash."""
    import subprocess

    import native

    whole = VIDEO.read_bytes()
    damaged = bytearray(whole[:400_000])
    damaged[100_000:300_000:97] = bytes(len(range(100_000, 300_000, 97)))
    (tmp_path / "in.avi").write_bytes(damaged)
    run = subprocess.run([native.path("video/detect"), "--workers", "2", tmp_path / "in.avi"], capture_output=True, timeout=100)
    assert run.returncode in (0, 1)
