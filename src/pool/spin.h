/* How long to look before sleeping: as long as looking has paid off lately. */
#ifndef MH_POOL_SPIN_H
#define MH_POOL_SPIN_H

#include "base/number.h"
#include "manyhands/base.h"

enum {
    MH__SPIN_DEFAULT_NS = 30000, /* about what two sleeps and wakes cost */
    MH__SPIN_LEAST_NS = 1000,    /* a shorter spin is none */
    MH__SPIN_PROBE = 32          /* after so many sleeps without a spin, try once */
};

typedef struct mh__spin {
    int64_t most_ns;  /* 0: never */
    int64_t limit_ns; /* at present */
    bool fixed;       /* the user chose most_ns: always spin for it */
    uint32_t sleeps;
} mh__spin;

/* A spinner for the pool option spin_ns (0: adapts; negative: never) where `cores` can run at once. */
static inline mh__spin mh__spin_init(int64_t option_ns, size_t cores)
{
    if (option_ns > 0)
        return (mh__spin){.most_ns = option_ns, .limit_ns = option_ns, .fixed = true};
    int64_t most = option_ns < 0 || cores < 2 ? 0 : MH__SPIN_DEFAULT_NS;
    return (mh__spin){.most_ns = most, .limit_ns = most};
}

/* How long to spin this time. */
static inline int64_t mh__spin_budget(mh__spin *s)
{
    if (s->limit_ns < MH__SPIN_LEAST_NS && s->most_ns && ++s->sleeps % MH__SPIN_PROBE == 0)
        return s->most_ns;
    return s->limit_ns < MH__SPIN_LEAST_NS ? 0 : s->limit_ns;
}

/* What came of it: found after spent_ns, or nothing. */
static inline void mh__spin_learn(mh__spin *s, bool found, int64_t spent_ns)
{
    if (s->fixed)
        return;
    if (found)
        s->limit_ns = MH__MIN(s->most_ns, MH__MAX(s->limit_ns, 2 * spent_ns + MH__SPIN_LEAST_NS));
    else
        s->limit_ns -= s->limit_ns / 4;
}

#endif
