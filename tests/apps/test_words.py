"""The word count, when the worker that counts a batch is killed."""

import os
import signal

import pytest

FOLDER = "/usr/share/doc"


@pytest.mark.parametrize("batch", [0, 2])
def test_a_killed_worker_changes_no_count(run_built, batch):
    output = run_built("example-wordcount", FOLDER, 4, "changelog", batch)
    assert "both counts equal" in output # the program compares with its own sequential count


def mortal_count(paths):
    import wordcount

    counted = wordcount.count_files(paths)
    if not os.path.exists(os.environ["KILLED"]):
        open(os.environ["KILLED"], "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return counted


def test_python_face(tmp_path, monkeypatch):
    import wordcount

    import manyhands

    monkeypatch.setenv("KILLED", str(tmp_path / "killed"))
    groups = list(wordcount.batches(wordcount.find_files([FOLDER], 3_000_000, "changelog")))
    expected, size = wordcount.merge(map(wordcount.count_files, groups))
    with manyhands.Pool(2) as pool:
        words, _ = wordcount.merge(pool.imap_unordered(mortal_count, groups, retries=(3, 0)))
    assert (tmp_path / "killed").exists()
    assert words == expected and size > 0
