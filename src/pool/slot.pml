/* Model of slot.h: the parent and its worker, which may die or be fenced off at every step, and the next worker.
 *
 * Checked: a task's answer is taken once; what is taken is the answer to what was asked; no two workers run one task unless
 * it was counted as lost in between, and only a task in RUN is; nobody waits for ever. Each MUTANT leaves one rule out.
 */
#ifndef MUTANT
#define MUTANT 0
#endif

#define SLOTS 2
#define TASKS 3
#define WORKERS 2 /* the second takes over with a ring of its own */
#define REVOKES 1
#define NONE 255

mtype = { FREE, READY, RUN, DONE, SKIP, PASSED };

typedef slot {
    mtype state; /* state and epoch are one word: always changed together, in one atomic step */
    byte epoch;
    byte request;
    byte reply;
};
typedef ring {
    slot s[SLOTS];
};
ring rings[WORKERS];

bool dead[WORKERS];    /* what the pidfd says */
bool started[WORKERS];
bool closing;
byte may_fail = 1;     /* deaths or fences left */

/* the parent's private books */
byte hand;             /* the worker in office */
byte head, tail;
byte epoch;
byte filled[SLOTS];    /* epoch of each slot's last filling */
byte task_in[SLOTS];   /* the task in each slot, or NONE */
bool waiting[TASKS];   /* to be put into a slot */
byte taken[TASKS];     /* answers taken */
byte lost[TASKS];
byte revokes = REVOKES;

byte runs[TASKS];      /* ghost: how often each was started */

#define AT(n) ((n) % SLOTS)
#define S(n) rings[hand].s[AT(n)]
#define IS(n, what) (S(n).state == what && S(n).epoch == filled[AT(n)])

/* ---- the parent ---- */

inline fill(t)
{
    waiting[t] = false;
    epoch++;
#if MUTANT == 1
    atomic { S(tail).state = READY; S(tail).epoch = epoch } /* publish before the request is there */
    S(tail).request = t;
#else
    S(tail).request = t;
    atomic { S(tail).state = READY; S(tail).epoch = epoch }
#endif
    filled[AT(tail)] = epoch;
    task_in[AT(tail)] = t;
    tail++;
}

inline take(n)
{
    assert(task_in[AT(n)] != NONE);
    assert(S(n).reply == task_in[AT(n)]);
    taken[task_in[AT(n)]]++;
    assert(taken[task_in[AT(n)]] == 1);
    task_in[AT(n)] = NONE;
}

inline collect()
{
    if
    :: IS(head, DONE) -> take(head)
    :: IS(head, PASSED) -> assert(task_in[AT(head)] == NONE)
    fi;
    head++;
}

/* Take back the task in slot n; then give back to the tail what holds nothing any more. */
inline revoke(n)
{
    revokes--;
    ok = false;
#if MUTANT == 2
    if /* look first, store then: the worker may take it in between */
    :: IS(n, READY) -> ok = true
    :: else
    fi;
    if
    :: ok -> S(n).state = SKIP
    :: else
    fi;
#else
    atomic {
        if
        :: IS(n, READY) -> S(n).state = SKIP; ok = true
        :: else
        fi
    };
#endif
    if
    :: ok ->
        waiting[task_in[AT(n)]] = true;
        task_in[AT(n)] = NONE;
        do
        :: tail == head -> break
        :: else ->
            ok = false;
            atomic {
                if
                :: IS(tail - 1, SKIP) -> S(tail - 1).state = FREE; ok = true
#if MUTANT == 3
                :: IS(tail - 1, PASSED) -> S(tail - 1).state = FREE; ok = true /* the worker is beyond it */
#endif
                :: else
                fi
            };
            if
            :: ok -> tail--
            :: else -> break
            fi
        od
    :: else
    fi;
}

/* The worker is gone, or fenced off in slot `fenced`: its answers count, the task that it ran is lost, the others wait again. */
inline leave()
{
#if MUTANT == 4
    skip; /* forget the answers that are there */
#else
    do /* take every answer first */
    :: head != tail && IS(head, DONE) -> take(head); head++
    :: head != tail && IS(head, PASSED) -> head++
    :: else -> break
    od;
#endif
    do
    :: head == tail -> break
    :: else ->
        if
        :: task_in[AT(head)] != NONE ->
            if
            :: IS(head, RUN) || fenced == AT(head) -> lost[task_in[AT(head)]]++
            :: else
            fi;
            waiting[task_in[AT(head)]] = true;
            task_in[AT(head)] = NONE
        :: else
        fi;
        head++
    od;
    hand++;
    head = 0; tail = 0; epoch = 0; fenced = NONE;
    started[hand] = true;
}

/* A task is too late, and its worker a thread, which can't be killed. */
inline fence()
{
#if MUTANT == 5
    may_fail--; /* give its tasks away without raising the epoch */
    fenced = AT(head);
    leave();
#else
    ok = false;
    atomic {
        if
        :: IS(head, RUN) -> S(head).state = FREE; S(head).epoch = 100; ok = true; may_fail--
        :: else
        fi
    };
    if
    :: ok -> fenced = AT(head); leave()
    :: else
    fi;
#endif
}

#define ALL (taken[0] + taken[1] + taken[2])

active proctype parent()
{
    bool ok;
    byte fenced = NONE;
    byte i;
    for (i : 0 .. TASKS - 1) { waiting[i] = true }
    for (i : 0 .. SLOTS - 1) { task_in[i] = NONE }
    started[0] = true;
    do
    :: ALL == TASKS -> break
    :: tail - head < SLOTS && waiting[0] -> fill(0)
    :: tail - head < SLOTS && !waiting[0] && waiting[1] -> fill(1) /* which one does not matter: always the first */
    :: tail - head < SLOTS && !waiting[0] && !waiting[1] && waiting[2] -> fill(2)
    :: head != tail && (IS(head, DONE) || IS(head, PASSED)) -> collect()
    :: revokes > 0 && head != tail && task_in[AT(head)] != NONE -> revoke(head)
    :: revokes > 0 && tail - head == 2 && task_in[AT(tail - 1)] != NONE -> revoke(tail - 1)
    :: may_fail > 0 && hand == 0 && head != tail && IS(head, RUN) -> fence()
    :: dead[hand] -> leave()
    od;
    closing = true;
}

/* ---- the worker ---- */

#define MINE rings[me].s[at]
#define MAY_DIE if :: may_fail > 0 && me == 0 -> may_fail--; dead[0] = true; goto ended :: skip fi

active [WORKERS] proctype worker()
{
    byte me = _pid - 1;
    byte at, seen, t;
    bool ok;
    mtype state;
end:
    started[me];
look:
    ok = false; t = 0; /* forget what does not matter any more: fewer states */
    atomic { state = MINE.state; seen = MINE.epoch };
    MAY_DIE;
    if
    :: state == READY ->
        ok = false;
        atomic { /* the CAS to RUN */
            if
#if MUTANT == 6
            :: MINE.state == READY -> MINE.state = RUN; MINE.epoch = seen; ok = true /* whatever the epoch */
#else
            :: MINE.state == READY && MINE.epoch == seen -> MINE.state = RUN; ok = true
#endif
            :: else
            fi;
            if
            :: ok ->
#if MUTANT == 1
                skip
#else
                t = MINE.request; /* ghost: no reader can see it earlier than here */
                assert(taken[t] == 0);
                runs[t]++;
                assert(runs[t] <= 1 + lost[t]);
#endif
            :: else
            fi
        };
        if
        :: !ok -> goto look
        :: else
        fi;
        MAY_DIE;
        t = MINE.request;
        MAY_DIE;
#if MUTANT == 7
        ok = false; /* publish before the reply is there */
        atomic { if :: MINE.state == RUN && MINE.epoch == seen -> MINE.state = DONE; ok = true :: else fi };
        MINE.reply = t;
#else
        MINE.reply = t;
        MAY_DIE;
        ok = false;
#if MUTANT == 8
        atomic { MINE.state = DONE; ok = true }; /* a store: it does not notice the fence */
#else
        atomic { if :: MINE.state == RUN && MINE.epoch == seen -> MINE.state = DONE; ok = true :: else fi };
#endif
#endif
        if
        :: ok -> at = (at + 1) % SLOTS
        :: else -> goto ended /* fenced off */
        fi;
        MAY_DIE;
        goto look
    :: state == SKIP ->
#if MUTANT == 9
        at = (at + 1) % SLOTS; /* go over it without saying so */
#else
        ok = false;
        atomic { if :: MINE.state == SKIP && MINE.epoch == seen -> MINE.state = PASSED; ok = true :: else fi };
        if
        :: ok -> at = (at + 1) % SLOTS
        :: else
        fi;
#endif
        goto look
    :: else ->
end_idle:
        if
        :: MINE.state == READY || MINE.state == SKIP -> goto look
        :: closing -> skip
        fi
    fi;
ended:
    skip
}
