#!/bin/sh
# Run all stages of `make check`, or with the argument "long" of `make check-long`, print what each took, and end with
# the line of tools/summary.py. A stage that fails does not stop the next: one run shows everything that is wrong.
set -u
cd "$(dirname "$0")/.."
mode=${1:-short}
results=$PWD/build/check
groups="build test apps"
[ "$mode" = short ] || groups="$groups long"

# stage NAME COMMAND...: what it says goes to the terminal, what comes of it to stages.txt
stage() {
    name=$1
    shift
    printf '\n==== %s ====\n' "$name"
    from=$(date +%s)
    "$@" </dev/null
    status=$?
    if [ $status = 0 ]; then outcome=passed; else outcome="failed ($status)"; fi
    printf '==== %s: %s in %s s ====\n' "$name" "$outcome" $(($(date +%s) - from))
    echo "$status $name" >>"$results/stages.txt"
    return $status
}

build() {
    tools/setup.sh $groups &&
        tools/configure.sh build -Dtests=true &&
        make --no-print-directory build
}

# Apart from the others: stock clients leave threads behind, and a program with threads starts processes in another way.
cluster_tests() {
    .venv/bin/python -m pytest -q --junit-xml="$results/cluster.xml" tests/cluster tests/chaos "$@"
}

# CPython's own tests: they run in parallel, so apart from the others.
conformance() {
    .venv/bin/python -m pytest -q --junit-xml="$results/conformance.xml" tests/conformance "$@"
}

rm -rf "$results"
mkdir -p "$results"
if stage "build" build; then
    stage "layers" .venv/bin/python tools/check_layers.py
    if [ "$mode" = short ]; then
        stage "C tests" tools/c_tests.sh build "$results/c.json" --no-suite long
        stage "Python tests" tools/python_tests.sh "$results" -m "not long"
        stage "cluster" cluster_tests -m "not long"
        stage "conformance" conformance -m "not long"
        stage "other Pythons" tools/versions.sh short
        stage "sanitizers" tools/sanitize.sh "$results"
    else
        stage "C tests" tools/c_tests.sh build "$results/c.json"
        stage "Python tests" tools/python_tests.sh "$results"
        stage "cluster" cluster_tests
        stage "conformance" conformance
        stage "other Pythons" tools/versions.sh
        stage "sanitizers" tools/sanitize.sh "$results"
        stage "valgrind" tools/valgrind.sh
        stage "fuzzing" tools/fuzz.sh
    fi
fi
python=.venv/bin/python
[ -x $python ] || python=python3
$python tools/summary.py "$results"
