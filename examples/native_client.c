/* Count primes on a cluster without any Python: a client in C, engines that run native_tasks.c.
 *
 *     manyhands controller --profile-dir=$PWD/profile &
 *     manyhands engine --file=$PWD/profile/security/ipcontroller-engine.json --library=$PWD/libnative_tasks.so &
 *     native_client profile/security/ipcontroller-client.json 1000000
 */
#include <manyhands/client.h>

#include <stdio.h>
#include <stdlib.h>

enum { PARTS = 100 };

typedef struct range {
    uint64_t first, count;
} range;

static mh_err count_primes(mh_client *c, uint64_t limit, uint64_t *found)
{
    range in[PARTS];
    uint64_t out[PARTS];
    mh_balanced_view *v = NULL;
    for (uint64_t i = 0; i < PARTS; i++) {
        uint64_t begin = limit / PARTS * i, end = i + 1 < PARTS ? limit / PARTS * (i + 1) : limit;
        in[i] = (range){begin, end - begin};
    }
    mh_err err = mh_client_balanced_view(c, &(mh_balanced_options){.retries = 3}, &v);
    if (!err)
        err = mh_balanced_view_map(v, "count_primes", in, sizeof in[0], PARTS, out, sizeof out[0], 1, mh_deadline_in(600 * MH_SECOND));
    for (int i = 0; !err && i < PARTS; i++)
        *found += out[i];
    mh_balanced_view_destroy(&v);
    return err;
}

/* What a failure looks like. */
static mh_err fail_once(mh_client *c)
{
    mh_balanced_view *v = NULL;
    mh_client_future *f = NULL;
    mh_client_result r;
    mh_err err = mh_client_balanced_view(c, NULL, &v);
    if (!err)
        err = mh_balanced_view_submit(v, "count_primes", (mh_bytes){"x", 1}, NULL, &f);
    if (!err)
        err = mh_client_future_result(f, mh_deadline_in(60 * MH_SECOND), &r);
    if (!err)
        printf("a wrong input on engine %lld: %s: %s: %s\n", (long long)r.engine_id, mh_err_text(r.err), r.ename, r.evalue);
    mh_client_future_release(&f);
    mh_balanced_view_destroy(&v);
    return err;
}

int main(int argc, char **argv)
{
    mh_client *c = NULL;
    uint64_t found = 0;
    if (argc < 2) {
        fprintf(stderr, "usage: native_client CONNECTION_FILE [LIMIT]\n");
        return 2;
    }
    uint64_t limit = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000000;
    mh_err err = mh_client_open(&c, &(mh_client_options){.connection_file = argv[1]});
    if (!err)
        err = count_primes(c, limit, &found);
    if (!err)
        printf("%llu primes below %llu\n", (unsigned long long)found, (unsigned long long)limit);
    if (!err)
        err = fail_once(c);
    mh_client_close(&c);
    if (err)
        fprintf(stderr, "native_client: %s: %s\n", mh_err_text(err), mh_err_detail());
    return err ? 1 : 0;
}
