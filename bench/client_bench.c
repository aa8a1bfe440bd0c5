/* No-op calls of a client at a controller: client_bench CONNECTION_FILE fast|stock one|many|large SECONDS
 *
 * "one": one call at a time; prints the median and the 99th percentile in microseconds. "many": as many as the view keeps under way; prints calls a second, and the
 * processor time of this process for each call in microseconds. "large": 64 MiB to an engine and 64 MiB from one, in MB/s. */
#include <manyhands/client.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCH = 100000, SAMPLES = 200000, LARGE = 64 << 20 };

static void must(mh_err err, const char *what)
{
    if (!err)
        return;
    fprintf(stderr, "client_bench: %s: %s: %s\n", what, mh_err_text(err), mh_err_detail());
    exit(1);
}

static double cpu_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void run_one(mh_balanced_view *v, double seconds)
{
    static int64_t ns[SAMPLES];
    size_t count = 0;
    int64_t x = 3, end = mh_now() + (int64_t)(seconds * 1e9);
    while (mh_now() < end && count < SAMPLES) {
        mh_client_future *f = NULL;
        mh_client_result r;
        int64_t start = mh_now();
        must(mh_balanced_view_submit(v, "square", (mh_bytes){&x, sizeof x}, NULL, &f), "submit");
        must(mh_client_future_result(f, mh_deadline_in(10 * MH_SECOND), &r), "result");
        must(r.err, "call");
        mh_client_future_release(&f);
        ns[count++] = mh_now() - start;
    }
    qsort(ns, count, sizeof *ns, by_value);
    printf("{\"count\": %zu, \"p50_us\": %.1f, \"p99_us\": %.1f}\n", count, (double)ns[count / 2] / 1e3, (double)ns[count * 99 / 100] / 1e3);
}

static void run_many(mh_balanced_view *v, double seconds)
{
    static int64_t in[BATCH], out[BATCH];
    double cpu = cpu_s();
    int64_t count = 0, start = mh_now(), end = start + (int64_t)(seconds * 1e9);
    for (int i = 0; i < BATCH; i++)
        in[i] = i;
    for (; mh_now() < end; count += BATCH / 10)
        must(mh_balanced_view_map(v, "square", in, sizeof *in, BATCH / 10, out, sizeof *out, 1, mh_deadline_in(60 * MH_SECOND)), "map");
    double s = (double)(mh_now() - start) / 1e9;
    printf("{\"count\": %lld, \"per_second\": %.0f, \"client_us\": %.2f}\n", (long long)count, (double)count / s, (cpu_s() - cpu) / (double)count * 1e6);
}

/* The best of the calls made in `seconds`: others have this machine, too. */
static double best_mb_s(mh_direct_view *v, const char *function, mh_bytes input, double seconds)
{
    int64_t best = INT64_MAX, end = mh_now() + (int64_t)(seconds * 1e9);
    while (mh_now() < end) {
        mh_client_future *f = NULL;
        mh_client_result r;
        int64_t start = mh_now(), said[2] = {0};
        must(mh_direct_view_apply(v, function, input, &f), "apply");
        must(mh_client_future_result(f, mh_deadline_in(30 * MH_SECOND), &r), "result");
        must(r.err, "call");
        memcpy(said, r.value.data, r.value.size < sizeof said ? r.value.size : sizeof said);
        if (r.value.size == LARGE) { /* somebody looks at all of it */
            static char copy[LARGE];
            memcpy(copy, r.value.data, LARGE);
        } else if (said[0] != LARGE) {
            must(MH_ERR_CORRUPT, function);
        }
        int64_t ns = mh_now() - start;
        best = ns < best ? ns : best;
        mh_client_future_release(&f);
    }
    return LARGE / 1e6 / ((double)best / 1e9);
}

static void run_large(mh_client *c, double seconds)
{
    mh_client_engine engine;
    size_t count = 1;
    mh_direct_view *v = NULL;
    static char bytes[LARGE];
    int64_t size = LARGE;
    memset(bytes, 7, sizeof bytes);
    mh_client_engines(c, &engine, &count);
    must(count ? MH_OK : MH_ERR_NOT_FOUND, "an engine");
    must(mh_client_direct_view(c, &engine.id, 1, &v), "direct view");
    double push = best_mb_s(v, "measure", (mh_bytes){bytes, sizeof bytes}, seconds / 2), pull = best_mb_s(v, "fill", (mh_bytes){&size, sizeof size}, seconds / 2);
    printf("{\"count\": 1, \"push_mb_s\": %.0f, \"pull_mb_s\": %.0f}\n", push, pull);
    mh_direct_view_destroy(&v);
}

int main(int argc, char **argv)
{
    mh_client *c = NULL;
    mh_balanced_view *v = NULL;
    mh_client_stats stats;
    if (argc != 5)
        return 2;
    bool is_fast = !strcmp(argv[2], "fast");
    must(mh_client_open(&c, &(mh_client_options){.connection_file = argv[1], .no_fast_lane = !is_fast}), "opening");
    mh_client_stats_read(c, &stats);
    if (stats.has_fast_lane != is_fast)
        fprintf(stderr, "client_bench: no such lane\n");
    must(mh_client_balanced_view(c, NULL, &v), "view");
    if (!strcmp(argv[3], "large"))
        run_large(c, atof(argv[4]));
    else
        (strcmp(argv[3], "one") ? run_many : run_one)(v, atof(argv[4]));
    mh_balanced_view_destroy(&v);
    mh_client_close(&c);
    return 0;
}
