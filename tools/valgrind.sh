#!/bin/sh
# The C tests that valgrind can run, under memcheck. Debian 12's valgrind knows no pidfd_open, so what starts processes by
# the library is left to the sanitizers; the rest of the tests of sync and shm map more than its address space holds.
set -u
cd "$(dirname "$0")/.."
failed=0
for test in base-base_test sched-sched_test sim-sim_test shm-heap_test sync-barrier_test sync-cond_test sync-event_test \
    sync-semaphore_test; do
    echo "valgrind: $test"
    valgrind -q --leak-check=full --error-exitcode=9 --child-silent-after-fork=yes "build/tests/$test" >"build/valgrind.log" 2>&1 || {
        failed=1
        tail -n 40 build/valgrind.log
    }
done
exit $failed
