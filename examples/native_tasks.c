/* A task library: C functions that an engine runs by name, bytes in and bytes out.
 *
 *     manyhands engine --library=$PWD/libnative_tasks.so
 *
 * native_client.c calls them. */
#include <manyhands/engine.h>

#include <string.h>

/* How many of the numbers from first to first + count - 1 are prime. */
typedef struct range {
    uint64_t first, count;
} range;

static bool is_prime(uint64_t n)
{
    if (n < 4)
        return n > 1;
    if (n % 2 == 0)
        return false;
    for (uint64_t d = 3; d * d <= n; d += 2)
        if (n % d == 0)
            return false;
    return true;
}

static mh_err count_primes(mh_task *task, void *ctx)
{
    range r;
    uint64_t found = 0;
    (void)ctx;
    if (mh_task_input(task).size != sizeof r) {
        static const char why[] = "the input is not a range";
        mh_err err = mh_task_reply(task, (mh_bytes){why, sizeof why - 1});
        return err ? err : MH_ERR_TASK_FAILED;
    }
    memcpy(&r, mh_task_input(task).data, sizeof r);
    for (uint64_t i = 0; i < r.count; i++)
        found += is_prime(r.first + i);
    return mh_task_reply(task, (mh_bytes){&found, sizeof found});
}

static const mh_task_entry entries[] = {{"count_primes", count_primes}};
MH_API const mh_task_library mh_tasks = {MH_TASK_LIBRARY_ABI, 1, entries, NULL};
