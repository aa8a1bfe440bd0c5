/* Named places at which a test makes this process die, stop or fail. */
#ifndef MH_POOL_POINT_H
#define MH_POOL_POINT_H

/* NULL except in tests, which set it before they start a worker. */
extern void (*mh__point_hook)(const char *name);

static inline void mh__point(const char *name)
{
    if (__builtin_expect(mh__point_hook != 0, 0))
        mh__point_hook(name);
}

#endif
