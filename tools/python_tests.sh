#!/bin/bash
# Run the tests of the package and of the project's programs, in two lanes beside each other:
#     tools/python_tests.sh FOLDER for the reports [ARGUMENT of pytest...]
#
# Not one program with several workers: that would have threads, and with threads processes start in another way.
set -um # as jobs of their own: what a script just puts in the background ignores SIGINT
cd "$(dirname "$0")/.."
results=$1
shift

# What looks for things left in /dev/shm, and what puts things there, one after the other.
shared="tests/python/test_joblib.py tests/python/test_leaks.py tests/python/test_managers.py tests/python/test_orphans.py
    tests/python/test_shared_array.py tests/python/test_shared_memory.py tests/python/test_surface.py
    tests/hang tests/docs tests/dropin tests/examples"
# What is a stage of its own.
apart="tests/conformance tests/cluster"

ignored=
for path in $apart $shared; do ignored="$ignored --ignore=$path"; done

# What the second says waits until the first has ended.
# shellcheck disable=SC2086  # lists of paths
.venv/bin/python -m pytest -q --junit-xml="$results/others.xml" $ignored "$@" tests >"$results/others.txt" 2>&1 &
others=$!
trap 'kill $others 2>/dev/null' INT TERM
# shellcheck disable=SC2086
.venv/bin/python -m pytest -q --junit-xml="$results/shared.xml" "$@" $shared
status=$?
wait $others || status=$?
cat "$results/others.txt"
exit $status
