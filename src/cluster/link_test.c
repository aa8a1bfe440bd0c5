/* Frames between an engine and its executor: what fits arrives, what does not fit is refused. */
#include "base/memory.h"
#include "cluster/link.h"

#include "mh_test.h"

#include <string.h>

static void frames_arrive_as_they_were_sent(void **state)
{
    (void)state;
    static char big[100000];
    mh_pipe *a = NULL, *b = NULL;
    mh__link_message m;
    const mh_bytes table[][3] = {
        {{"one", 3}, {"", 0}, {"three", 5}},
        {{big, sizeof big}, {"x", 1}, {"", 0}},
    };
    memset(big, 7, sizeof big);
    assert_ok(mh_pipe_create(&a, &b, &(mh_pipe_options){.duplex = true}));
    for (size_t row = 0; row < 2; row++) {
        for (size_t count = 0; count <= 3; count++) {
            assert_ok(mh__link_send(a, MH__LINK_REPLY, table[row], count, MH_NOW));
            assert_ok(mh__link_receive(b, MH_NOW, &m));
            assert_int_equal(m.kind, MH__LINK_REPLY);
            assert_int_equal(m.count, count);
            for (size_t i = 0; i < count; i++) {
                assert_int_equal(m.frames[i].size, table[row][i].size);
                assert_memory_equal(m.frames[i].data, table[row][i].data, m.frames[i].size);
            }
            mh__link_message_clear(&m);
        }
    }
    assert_err(mh__link_receive(b, MH_NOW, &m), MH_ERR_EMPTY);
    assert_err(mh__link_send(a, 1, table[0], MH__LINK_FRAMES_MAX + 1, MH_NOW), MH_ERR_LIMIT);
    mh_pipe_destroy(&a);
    assert_err(mh__link_receive(b, MH_NOW, &m), MH_ERR_CLOSED);
    mh_pipe_destroy(&b);
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    static const struct {
        uint32_t count;
        uint64_t sizes[2];
        size_t size; /* of the message */
        mh_err expected;
    } table[] = {
        {0, {0}, 8, MH_OK},
        {1, {3}, 19, MH_OK},
        {2, {0, 0}, 32, MH_OK},                           /* after two sizes, two empty frames */
        {0, {0}, 7, MH_ERR_CORRUPT},                      /* no head */
        {0, {0}, 9, MH_ERR_CORRUPT},                      /* a byte too many */
        {1, {3}, 18, MH_ERR_CORRUPT},                     /* a byte too few */
        {1, {3}, 12, MH_ERR_CORRUPT},                     /* no room for the size */
        {1, {UINT64_MAX}, 64, MH_ERR_CORRUPT},            /* wraps */
        {2, {UINT64_MAX - 15, 32}, 64, MH_ERR_CORRUPT},   /* their sum wraps */
        {2, {1, 1}, 34, MH_ERR_CORRUPT},                  /* the second lies at the next multiple of 16 */
        {MH__LINK_FRAMES_MAX + 1, {0}, 64, MH_ERR_CORRUPT},
        {UINT32_MAX, {0}, 64, MH_ERR_CORRUPT},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        unsigned char message[128] = {0};
        uint32_t kind, head[2] = {1, table[i].count};
        mh_bytes *frames = NULL;
        size_t count;
        memcpy(message, head, sizeof head);
        memcpy(message + sizeof head, table[i].sizes, sizeof table[i].sizes);
        assert_err(mh__link_parse((mh_bytes){message, table[i].size}, &kind, &frames, &count), table[i].expected);
        mh__free(frames);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_arrive_as_they_were_sent),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests_name("link", tests, NULL, NULL);
}
