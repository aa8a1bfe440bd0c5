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

own_shm=
if tools/own_shm.sh true 2>/dev/null; then own_shm=tools/own_shm.sh; fi

# beside NAME COMMAND...: a stage that runs beside those that follow, up to `gather`, which shows what it said. Where it cannot have a
# /dev/shm of its own it runs at once.
beside=
beside() {
    if [ -z "$own_shm" ]; then
        stage "$@"
        return
    fi
    stage "$@" >"$results/beside.txt" 2>&1 &
    beside=$!
    trap 'kill $beside 2>/dev/null' INT TERM
}

gather() {
    [ -n "$beside" ] || return
    wait "$beside"
    cat "$results/beside.txt"
    beside=
}

build() {
    tools/setup.sh $groups &&
        tools/configure.sh build -Dtests=true &&
        make --no-print-directory build
}

# A program of its own: stock clients leave threads behind, and a program with threads starts processes in another way. It waits more than it
# works, so it runs beside others.
cluster_tests() {
    $own_shm .venv/bin/python -m pytest -q --junit-xml="$results/cluster.xml" tests/cluster tests/chaos "$@"
}

# CPython's own tests and ipyparallel's: they run in parallel and look at clocks, so alone.
conformance() {
    .venv/bin/python -m pytest -q --junit-xml="$results/conformance.xml" tests/conformance "$@"
}

rm -rf "$results"
mkdir -p "$results"
if stage "build" build; then
    stage "layers" .venv/bin/python tools/check_layers.py
    if [ "$mode" = short ]; then
        stage "C tests" tools/c_tests.sh build "$results/c.json" --no-suite long
        beside "cluster" cluster_tests -m "not long"
        stage "Python tests" tools/python_tests.sh "$results" -m "not long"
        gather
        stage "conformance" conformance -m "not long"
        beside "other Pythons" env --default-signal=INT,HUP tools/versions.sh short
        stage "sanitizers" tools/sanitize.sh "$results"
        gather
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
