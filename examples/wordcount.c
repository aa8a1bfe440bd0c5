/* Count the words in this machine's documentation, sequentially and on a pool of processes.
 *
 *     wordcount [folder [stored megabytes [part of the name [batch]]]]
 *
 * The C twin of wordcount.py: it reads text files below the folder (decompressing .gz), those whose names have that part (such as "changelog"),
 * counts their words twice, checks that both counts are equal, and prints the twenty most frequent words and the ratio of the times.
 * With a number of a batch the worker that counts it is killed in the middle, and the batch is counted again.
 */
#include <manyhands.h>

#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

#define BATCH_BYTES ((size_t)1 << 20) /* stored bytes in one task */
#define WORD_MAX 63                   /* longer runs of letters are cut */
#define RETRIES 3                     /* of a batch whose worker was killed */

static void die(const char *what, mh_err err)
{
    fprintf(stderr, "wordcount: %s: %s: %s\n", what, mh_err_text(err), mh_err_detail());
    exit(1);
}

static void *need(void *block)
{
    if (!block)
        die("memory", MH_ERR_NO_MEMORY);
    return block;
}

/* ---- a table of words ------------------------------------------------------------------------ */

typedef struct word {
    uint64_t count;
    uint32_t hash;
    uint8_t size; /* 0: an empty place */
    char text[WORD_MAX];
} word;

typedef struct table {
    word *words; /* open addressing, a power of two of places */
    size_t places, used;
} table;

static void table_init(table *t, size_t places)
{
    *t = (table){need(calloc(places, sizeof(word))), places, 0};
}

static void table_add(table *t, const char *text, uint8_t size, uint32_t hash, uint64_t count);

static void table_grow(table *t)
{
    table old = *t;
    table_init(t, old.places * 2);
    for (size_t i = 0; i < old.places; i++)
        if (old.words[i].size)
            table_add(t, old.words[i].text, old.words[i].size, old.words[i].hash, old.words[i].count);
    free(old.words);
}

static void table_add(table *t, const char *text, uint8_t size, uint32_t hash, uint64_t count)
{
    if (t->used * 2 >= t->places)
        table_grow(t);
    for (size_t i = hash & (t->places - 1);; i = (i + 1) & (t->places - 1)) {
        word *w = &t->words[i];
        if (w->size == 0) {
            w->hash = hash;
            w->size = size;
            memcpy(w->text, text, size);
            t->used++;
        } else if (w->hash != hash || w->size != size || memcmp(w->text, text, size) != 0) {
            continue;
        }
        w->count += count;
        return;
    }
}

static void table_merge(table *into, const word *words, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (words[i].size && words[i].size <= WORD_MAX)
            table_add(into, words[i].text, words[i].size, words[i].hash, words[i].count);
}

/* ---- counting one file ----------------------------------------------------------------------- */

static bool is_letter(unsigned char c) { return (unsigned char)((c | 0x20) - 'a') < 26; }

static void count_text(table *t, const unsigned char *text, size_t size)
{
    for (size_t i = 0; i < size;) {
        char found[WORD_MAX];
        uint8_t length = 0;
        uint32_t hash = 2166136261u; /* FNV-1a */
        for (; i < size && is_letter(text[i]); i++) {
            if (length == WORD_MAX)
                continue;
            found[length] = (char)(text[i] | 0x20);
            hash = (hash ^ (uint8_t)found[length++]) * 16777619u;
        }
        if (length)
            table_add(t, found, length, hash, 1);
        else
            i++;
    }
}

/* gzread passes plain files through as they are. Files that are binary or cannot be read count nothing. */
static void count_file(table *t, const char *path)
{
    static unsigned char *text;
    static size_t capacity;
    size_t size = 0;
    gzFile file = gzopen(path, "rb");
    if (!file)
        return;
    for (;;) {
        if (size == capacity)
            text = need(realloc(text, capacity = capacity ? capacity * 2 : 1 << 20));
        int got = gzread(file, text + size, (unsigned)(capacity - size));
        if (got <= 0)
            break;
        size += (size_t)got;
    }
    gzclose(file);
    if (!memchr(text, 0, size < 4096 ? size : 4096))
        count_text(t, text, size);
}

/* ---- the task: paths, each ended by a zero byte, in; words out -------------------------------- */

static void count_paths(table *t, const char *paths, size_t size)
{
    for (const char *path = paths; path < paths + size; path += strlen(path) + 1)
        count_file(t, path);
}

static uint64_t kill_batch = UINT64_MAX; /* set before the pool is made */

static mh_err count_task(mh_task *task, void *ctx)
{
    (void)ctx;
    mh_bytes paths = mh_task_input(task);
    if (!paths.size || ((const char *)paths.data)[paths.size - 1])
        return MH_ERR_INVALID;
    table t;
    table_init(&t, 1 << 12);
    count_paths(&t, paths.data, paths.size);
    if (mh_task_tag(task) == kill_batch && mh_task_attempt(task) == 1)
        raise(SIGKILL);
    void *out;
    mh_err err = mh_task_reply_reserve(task, t.used * sizeof(word), &out);
    size_t used = 0;
    for (size_t i = 0; !err && i < t.places; i++)
        if (t.words[i].size)
            ((word *)out)[used++] = t.words[i];
    if (!err)
        mh_task_reply_size(task, used * sizeof(word));
    free(t.words);
    return err;
}

/* ---- the files, in batches ------------------------------------------------------------------- */

typedef struct batch {
    char *paths;
    size_t size, stored;
} batch;

static struct {
    batch *batches;
    size_t count, stored, most;
    const char *part;
} input;

static void add_path(const char *path, size_t stored)
{
    if (!input.count || input.batches[input.count - 1].stored >= BATCH_BYTES) {
        input.batches = need(realloc(input.batches, (input.count + 1) * sizeof(batch)));
        input.batches[input.count++] = (batch){0};
    }
    batch *b = &input.batches[input.count - 1];
    size_t size = strlen(path) + 1;
    b->paths = need(realloc(b->paths, b->size + size));
    memcpy(b->paths + b->size, path, size);
    b->size += size;
    b->stored += stored;
    input.stored += stored;
}

static bool is_prose(const char *path)
{
    static const char *const other[] = {".html", ".htm", ".js", ".css", ".svg", ".png", ".gif", ".jpg", ".json", ".xml", ".pdf"};
    const char *suffix = strrchr(path, '.');
    for (size_t i = 0; suffix && i < sizeof other / sizeof other[0]; i++)
        if (strcmp(suffix, other[i]) == 0)
            return false;
    return true;
}

static int visit(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)at;
    if (type == FTW_F && is_prose(path) && strstr(strrchr(path, '/'), input.part) && input.stored + (size_t)st->st_size <= input.most)
        add_path(path, (size_t)st->st_size);
    return 0;
}

/* ---- both ways ------------------------------------------------------------------------------- */

static void count_on_pool(table *t, mh_pool *pool)
{
    mh_stream *stream = NULL;
    mh_err err = mh_stream_create(&stream, pool, &(mh_stream_options){.defaults = {.lost_retries = RETRIES}});
    if (err)
        die("stream", err);
    size_t given = 0, taken = 0;
    while (taken < input.count) {
        for (; given < input.count; given++) {
            batch *b = &input.batches[given];
            err = mh_stream_submit(stream, (mh_bytes){b->paths, b->size}, given);
            if (err == MH_ERR_FULL)
                break;
            if (err)
                die("submit", err);
        }
        mh_result result;
        err = mh_stream_take(stream, MH_FOREVER, &result);
        if (err == MH_ERR_INTERRUPTED)
            continue;
        if (err || result.err)
            die("a batch of files", err ? err : result.err);
        table_merge(t, result.reply.data, result.reply.size / sizeof(word));
        mh_result_release(&result);
        fprintf(stderr, "\rcounting words: %3zu %%", ++taken * 100 / input.count);
    }
    fputc('\n', stderr);
    mh_stream_destroy(&stream);
}

static void check_equal(table *a, const table *b)
{
    bool equal = a->used == b->used;
    for (size_t i = 0; equal && i < b->places; i++) {
        const word *w = &b->words[i];
        if (!w->size)
            continue;
        size_t at = w->hash & (a->places - 1);
        while (a->words[at].size && (a->words[at].size != w->size || memcmp(a->words[at].text, w->text, w->size) != 0))
            at = (at + 1) & (a->places - 1);
        equal = a->words[at].count == w->count;
    }
    if (!equal) {
        fputs("wordcount: the pool's counts differ from the sequential ones\n", stderr);
        exit(1);
    }
}

static int by_count(const void *a, const void *b)
{
    const word *x = a, *y = b;
    return x->count != y->count ? (x->count < y->count ? 1 : -1) : strncmp(x->text, y->text, WORD_MAX);
}

static double seconds_since(int64_t start) { return (double)(mh_now() - start) / MH_SECOND; }

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : "/usr/share/doc";
    input.most = (argc > 2 ? strtoull(argv[2], NULL, 10) : 100) * 1000000;
    input.part = argc > 3 ? argv[3] : "";
    if (argc > 4)
        kill_batch = strtoull(argv[4], NULL, 10);
    if (nftw(folder, visit, 32, FTW_PHYS) < 0 || !input.count) {
        fprintf(stderr, "wordcount: no files below %s\n", folder);
        return 1;
    }
    table sequential, parallel;
    table_init(&sequential, 1 << 16);
    table_init(&parallel, 1 << 16);

    mh_pool *pool = NULL; /* before the sequential run, so that the workers are small copies */
    mh_err err = mh_pool_create(&pool, &(mh_pool_options){.run = count_task});
    if (err)
        die("pool", err);

    int64_t start = mh_now();
    for (size_t i = 0; i < input.count; i++)
        count_paths(&sequential, input.batches[i].paths, input.batches[i].size);
    double alone = seconds_since(start);

    start = mh_now();
    count_on_pool(&parallel, pool);
    double together = seconds_since(start);
    mh_pool_destroy(&pool);
    check_equal(&sequential, &parallel);

    qsort(parallel.words, parallel.places, sizeof(word), by_count);
    printf("%zu different words in %zu MB of files, both counts equal\n", parallel.used, input.stored / 1000000);
    printf("sequential %.2f s, pool %.2f s: %.2f times faster\n", alone, together, alone / together);
    for (size_t i = 0; i < 20 && i < parallel.used; i++)
        printf("%3zu. %-12.*s %10" PRIu64 "\n", i + 1, parallel.words[i].size, parallel.words[i].text, parallel.words[i].count);
    for (size_t i = 0; i < input.count; i++)
        free(input.batches[i].paths);
    free(input.batches);
    free(sequential.words);
    free(parallel.words);
    return 0;
}
