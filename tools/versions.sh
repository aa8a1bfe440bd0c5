#!/bin/sh
# Build and test the package with each other CPython that the machine has:  tools/versions.sh [short]
#
# Looked for as python3.N in PATH and under pyenv's versions. Each gets a virtual environment in build/versions, which lasts.
# With "short", the oldest and the newest, and a few tests of each; without, the package's tests that end soon, and CPython's own with fork.
set -eu
cd "$(dirname "$0")/.."
mode=${1:-long}
packages=. # of the test group, those that match
optimization=3
if [ "$mode" != long ]; then
    packages='^(pytest|numpy)'
    optimization=0 # compiling would take longer than the tests
fi
current=$(.venv/bin/python -c 'import sys; print(sys.version_info[1])')

find_python() {
    for candidate in "python3.$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$1".*/bin/python3."$1"; do
        # a shim of pyenv's may be in PATH without what it stands for
        if "$candidate" -c 'import ensurepip, sysconfig, os; assert os.path.exists(sysconfig.get_paths()["include"] + "/Python.h")' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

# test MINOR PYTHON
test_version() {
    venv=build/versions/3.$1
    [ -x "$venv/bin/python" ] || "$2" -m venv "$venv"
    # shellcheck disable=SC2046  # lists of words
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check $(tools/toml_list.sh pyproject.toml build-system requires) \
        $(tools/toml_list.sh pyproject.toml project dependencies) \
        $(tools/toml_list.sh pyproject.toml project.optional-dependencies test | tr ' ' '\n' | grep -E "$packages")
    PATH="$PWD/$venv/bin:$PATH" "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps \
        --force-reinstall --config-settings=build-dir="build/versions/build-3.$1" --config-settings=compile-args="-j${JOBS:-2}" \
        --config-settings=setup-args="-Doptimization=$optimization" .
    if [ "$mode" = short ]; then
        "$venv/bin/python" -m pytest -q -m "not long" tests/python/test_codec.py tests/python/test_surface.py
    else
        "$venv/bin/python" -m pytest -q -m "not long" tests/python &&
            "$venv/bin/python" tests/conformance/run.py -q --method fork --method main
    fi
}

failed=
minors="10 11 12 13"
[ "$mode" = long ] || minors="10 13"
for minor in $minors; do
    [ "$minor" != "$current" ] || continue
    python=$(find_python "$minor")
    [ -n "$python" ] || { echo "versions: no python3.$minor with its headers here"; continue; }
    echo "versions: $("$python" --version)"
    test_version "$minor" "$python" || failed="$failed 3.$minor"
done
[ -z "$failed" ] || { echo "versions: failed with$failed"; exit 1; }
