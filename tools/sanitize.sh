#!/bin/sh
# The C tests under each sanitizer, in build folders of their own:  tools/sanitize.sh [FOLDER for the logs]
set -u
cd "$(dirname "$0")/.."
jobs=${JOBS:-$(nproc)}
results=${1:-}
failed=0

# The thread sanitizer's map of memory does not fit every kernel's address randomisation; some containers forbid
# turning that off.
fixed_addresses=
if setarch -R true 2>/dev/null; then fixed_addresses="setarch -R"; fi

run() {
    # less optimized, for what the sanitizers add makes compiling slow
    tools/configure.sh "build-$1" -Dtests=true "-Db_sanitize=$2" -Db_lundef=false -Doptimization=1 &&
        ninja -C "build-$1" -j "$jobs" &&
        $fixed_addresses tools/c_tests.sh "build-$1" "${results:-build-$1}/$1.json" --suite unit --timeout-multiplier 5 ||
        failed=1
}

export ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1:${ASAN_OPTIONS-}"
export UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1:${UBSAN_OPTIONS-}"
export TSAN_OPTIONS="halt_on_error=1:second_deadlock_stack=1:${TSAN_OPTIONS-}"
tools/setup.sh build test || exit 1
run asan address,undefined
run tsan thread
exit $failed
