"""The word count, when the worker that counts a batch is killed."""

import pytest

FOLDER = "/usr/share/doc"


@pytest.mark.parametrize("batch", [0, 1])
def test_a_killed_worker_changes_no_count(run_built, batch):
    output = run_built("example-wordcount", FOLDER, 2, "changelog", batch)
    assert "both counts equal" in output # the program compares with its own sequential count


def test_python_face():
    import wordcount

    files = wordcount.find_files([FOLDER], 2_000_000, "changelog")
    words, size, *_ = wordcount.measure(files, 2, kill=1) # which compares with its own sequential count
    assert size > 0 and words == wordcount.merge(map(wordcount.count_files, wordcount.batches(files)))[0]
