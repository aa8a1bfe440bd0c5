#!/bin/bash
# Run the tests of the package and of the project's programs, where it is possible in two lanes beside each other:
#     tools/python_tests.sh FOLDER for the reports [ARGUMENT of pytest...]
#
# Not one program with several workers: that would have threads, and with threads processes start in another way.
set -u
cd "$(dirname "$0")/.."
results=$1
shift

# About half of the time. Most of those that look for things left in /dev/shm are here, with most of those that put things there.
first="tests/python/test_joblib.py tests/python/test_leaks.py tests/python/test_managers.py tests/python/test_orphans.py
    tests/python/test_shared_array.py tests/python/test_shared_memory.py tests/python/test_surface.py
    tests/hang tests/docs tests/dropin tests/examples tests/apps tests/cli tests/hosts tests/packaging tests/tools"
# What is a stage of its own.
apart="tests/conformance tests/cluster tests/chaos"

ignored=
for path in $apart $first; do ignored="$ignored --ignore=$path"; done

# shellcheck disable=SC2086  # lists of paths
first() { env --default-signal=INT,HUP .venv/bin/python -m pytest -q --junit-xml="$results/shared.xml" "$@" $first; }
# shellcheck disable=SC2086
second() { "${alone[@]}" .venv/bin/python -m pytest -q --junit-xml="$results/others.xml" $ignored "$@" tests; }

alone=(tools/own_shm.sh)
if "${alone[@]}" true 2>/dev/null; then
    second "$@" >"$results/others.txt" 2>&1 & # says what it has to say when the first has ended
    others=$!
    trap 'kill $others 2>/dev/null' INT TERM
    first "$@"
    status=$?
    wait $others || status=$?
    cat "$results/others.txt"
else
    alone=()
    first "$@"
    status=$?
    second "$@" || status=$?
fi
exit $status
