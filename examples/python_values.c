/* Use the namespaces of Python engines, ours or stock ones, from C.
 *
 *     python_values profile/security/ipcontroller-client.json
 */
#include <manyhands/client.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ENGINES_MAX = 64, NUMBERS = 10 };

static mh_bytes text(const char *s) { return (mh_bytes){s, strlen(s)}; }

static mh_err run_everywhere(mh_direct_view *v, const char *code, mh_deadline until)
{
    mh_client_future *futures[ENGINES_MAX];
    mh_client_result r;
    mh_err err = mh_direct_view_execute(v, code, futures);
    for (size_t i = 0; i < mh_direct_view_count(v) && !err; i++) {
        err = mh_client_future_result(futures[i], until, &r);
        if (!err && r.err)
            printf("engine %lld: %s: %s\n", (long long)r.engine_id, r.ename, r.evalue);
    }
    for (size_t i = 0; i < mh_direct_view_count(v) && !err; i++)
        mh_client_future_release(&futures[i]);
    return err;
}

static mh_err print_pulled(mh_direct_view *v, const char *name, mh_deadline until)
{
    mh_buf *values[ENGINES_MAX];
    mh_err err = mh_direct_view_pull(v, name, values, until);
    for (size_t i = 0; i < mh_direct_view_count(v) && !err; i++) {
        printf("%s of engine %zu: %.*s\n", name, i, (int)mh_buf_size(values[i]), (const char *)mh_buf_data(values[i]));
        mh_buf_destroy(&values[i]);
    }
    return err;
}

static mh_err use(mh_direct_view *v, mh_deadline until)
{
    int32_t numbers[NUMBERS];
    mh_buf *all = NULL;
    for (int32_t i = 0; i < NUMBERS; i++)
        numbers[i] = i;
    mh_err err = mh_direct_view_push(v, "config", text("{\"scale\": 3, \"name\": \"it's \\\"quoted\\\" \\u00e9\"}"), until);
    if (!err)
        err = mh_direct_view_scatter(v, "raw", numbers, sizeof numbers[0], NUMBERS, until);
    if (!err)
        err = run_everywhere(v, "import array\nscaled = array.array('i', raw)\nfor i in range(len(scaled)): scaled[i] *= config['scale']", until);
    if (!err)
        err = print_pulled(v, "config", until);
    if (!err)
        err = mh_direct_view_gather(v, "scaled", &all, until);
    if (!err)
        memcpy(numbers, mh_buf_data(all), mh_buf_size(all) < sizeof numbers ? mh_buf_size(all) : sizeof numbers);
    for (int i = 0; i < NUMBERS && !err; i++)
        printf("%d%c", numbers[i], i + 1 < NUMBERS ? ' ' : '\n');
    mh_buf_destroy(&all);
    if (!err)
        err = run_everywhere(v, "1/0", until);
    if (!err && print_pulled(v, "nothing", until) == MH_ERR_TASK_FAILED)
        printf("no such value: %s\n", mh_err_detail());
    return err;
}

int main(int argc, char **argv)
{
    mh_client *c = NULL;
    mh_direct_view *v = NULL;
    if (argc != 2) {
        fprintf(stderr, "usage: python_values CONNECTION_FILE\n");
        return 2;
    }
    mh_err err = mh_client_open(&c, &(mh_client_options){.connection_file = argv[1]});
    if (!err)
        err = mh_client_direct_view(c, NULL, 0, &v);
    if (!err && mh_direct_view_count(v) > ENGINES_MAX)
        err = MH_ERR_LIMIT;
    if (!err)
        err = use(v, mh_deadline_in(60 * MH_SECOND));
    mh_direct_view_destroy(&v);
    mh_client_close(&c);
    if (err)
        fprintf(stderr, "python_values: %s: %s\n", mh_err_text(err), mh_err_detail());
    return err ? 1 : 0;
}
