#!/bin/sh
# Run Meson's tests of a folder that is built, and keep their log:  tools/c_tests.sh FOLDER LOG.json [ARGUMENT of meson test...]
set -u
folder=$1 log=$2
shift 2
written=$folder/meson-logs/testlog.json
rm -f "$written" # none is written when no test is chosen, and an old one must not stand in for it
meson test -C "$folder" --no-rebuild --num-processes "${JOBS:-$(nproc)}" --print-errorlogs "$@"
status=$?
[ ! -f "$written" ] || cp "$written" "$log"
exit $status
