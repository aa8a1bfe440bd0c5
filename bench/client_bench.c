/* No-op calls of a client at a controller: client_bench CONNECTION_FILE fast|stock one|many SECONDS
 *
 * "one": one call at a time; prints the median and the 99th percentile in microseconds. "many": as many as the view keeps under way; prints calls a second, and the
 * processor time of this process for each call in microseconds. */
#include <manyhands/client.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCH = 100000, SAMPLES = 200000 };

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
    (strcmp(argv[3], "one") ? run_many : run_one)(v, atof(argv[4]));
    mh_balanced_view_destroy(&v);
    mh_client_close(&c);
    return 0;
}
