#!/bin/sh
# Install the Python package and the command into .venv, unless what they are made of is older than the last time.
#
# Not editable: an editable install would look for work in every import, and so in every worker that is spawned.
set -eu
cd "$(dirname "$0")/.."
stamp=.venv/.package

# Folders count too, so that a removed file is noticed.
newer() {
    find include src cli python meson.build meson_options.txt pyproject.toml -newer "$stamp" \
        -not -name '*_test.c' -not -name '*_bench.c' -not -name '*_fuzz.c' -not -path '*/__pycache__*' -print -quit
}
[ ! -f "$stamp" ] || [ -n "$(newer)" ] || exit 0

touch "$stamp.new" # before the build, so that a file edited meanwhile is newer
rm -f "$stamp"
PATH="$PWD/.venv/bin:$PATH" .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --no-build-isolation --no-deps --force-reinstall \
    --config-settings=build-dir=build-python --config-settings=compile-args="-j${JOBS:-$(nproc)}" .
mv "$stamp.new" "$stamp"
