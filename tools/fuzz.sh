#!/bin/sh
# Search with each fuzz target for FUZZ_SECONDS (default 60), from its corpus:  tools/fuzz.sh [TARGET...]
#
# What is found lies in build-fuzz/corpus; copy what is worth keeping to tests/corpus, where every build
# replays it. A crash leaves its input in build-fuzz and fails the run.
set -u
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-60}
tools/setup.sh build long || exit 1
CC=clang tools/configure.sh build-fuzz -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false &&
    ninja -C build-fuzz -j "${JOBS:-$(nproc)}" || exit 1

# shellcheck disable=SC2046  # names without blanks
[ $# -gt 0 ] || set -- $(find build-fuzz/tests -maxdepth 1 -type f -name '*_fuzz' -exec basename {} \; | sort)
failed=0
for target; do
    echo "fuzz: $target for $seconds s"
    mkdir -p "build-fuzz/corpus/$target"
    seeds=
    [ ! -d "tests/corpus/$target" ] || seeds=../tests/corpus/$target
    # shellcheck disable=SC2086
    (cd build-fuzz && "tests/$target" -max_total_time="$seconds" -max_len=4096 -timeout=10 -print_final_stats=1 \
        "corpus/$target" $seeds >"$target.log" 2>&1) || {
        failed=1
        echo "fuzz: $target FAILED"
        tail -n 40 "build-fuzz/$target.log"
    }
    echo "fuzz: $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "build-fuzz/$target.log") executions"
done
exit $failed
