/* What every C test includes: cmocka and its prerequisites, and a few words that it lacks. */
#ifndef MH_TEST_H
#define MH_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "manyhands/base.h"

/* Skip the running test for a stated reason. tools/summary.py shows what "# skip: " and "# fail: " lines say. */
#define MH_SKIP(reason)                   \
    do {                                  \
        printf("# skip: %s\n", (reason)); \
        skip();                           \
    } while (0)

/* Assert that a call gave `expected`; a failure names both codes and the detail. */
#define assert_err(call, expected) mh_test_assert_err((call), (expected), #call, __FILE__, __LINE__)
#define assert_ok(call) mh_test_assert_err((call), MH_OK, #call, __FILE__, __LINE__)

static inline void mh_test_assert_err(mh_err got, mh_err expected, const char *call, const char *file, int line)
{
    if (got == expected)
        return;
    printf("# fail: %s gave %s (%s), expected %s\n", call, mh_err_name(got), mh_err_detail(), mh_err_name(expected));
    _fail(file, line);
}

#endif
