/* Model of who is rung when a task ends: one word on the board, two callers of whom one leads, the housekeeper, and two workers of
 * whom one may die between taking the word and ringing (wait.c, keeper.c, driver.c; mh__worker_tell in worker.c).
 *
 * The parent's threads meet under one lock, so what they do between two sleeps is one step here, but for storing the word and looking
 * once more. Checked: without any of the bounded re-checks that the code has on top, every caller that stays gets its answer and every
 * callback is called. Each MUTANT leaves one rule out.
 */
#ifndef MUTANT
#define MUTANT 0
#endif

#define CALLERS 2
#define TASKS 3 /* 0 and 1 are waited for by the callers; 2 has a callback, and nobody waits */
#define NOBODY 255

mtype = { NONE, LEADER, LAZY, KEEPER };

mtype notify = NONE;
bool published[TASKS], finished[TASKS]; /* READY; DONE, as the workers leave them */
bool collected[TASKS];
byte to_call, called; /* callbacks due; called */
bool lead_bell, keep_bell;
bool dead; /* a worker's pidfd, which both sleepers poll; noticed once by each */
bool lead_saw, keep_saw;
bool is_led, keeper_awake, keeper_rung;
bool lock;
byte sleeping = NOBODY; /* the leader, while it does */
bool waits[CALLERS], woken[CALLERS];
bool left[CALLERS];
byte gone; /* callers that are through */
byte may_give_up = 1, may_die = 1;

#define DROP lock = false
#define FINISHED(t) (finished[t] && !collected[t])
#define ANY_FINISHED (FINISHED(0) || FINISHED(1) || FINISHED(2))
#define IS_OPEN(t) (published[t] && !collected[t])
#define WANTS_CALLS IS_OPEN(2)

inline ring_keeper()
{
    if
    :: !keeper_rung -> keeper_rung = true; keep_bell = true
    :: else
    fi
}

inline collect(t)
{
    if
    :: FINISHED(t) ->
        collected[t] = true;
        if
        :: t >= CALLERS -> to_call++
        :: t < CALLERS && waits[t] -> woken[t] = true /* whose condition holds now */
        :: t < CALLERS && !waits[t] && sleeping == t -> lead_bell = true
        :: else
        fi
    :: else
    fi
}

/* With the lock held, as all that follow: nobody else of the parent looks meanwhile. */
inline drive() { atomic { collect(0); collect(1); collect(2) } }

inline arm_begin()
{
    if
    :: keeper_awake -> skip
    :: else ->
        if
        :: to_call > 0 -> ring_keeper()
        :: else
        fi;
        if
        :: is_led -> skip
        :: !is_led && WANTS_CALLS -> notify = KEEPER; looks = true
        :: else -> notify = NONE
        fi
    fi
}

inline arm_end()
{
#if MUTANT == 1
    looks = false; /* do not look once more */
#else
    if
    :: looks && ANY_FINISHED -> ring_keeper()
    :: else
    fi;
    looks = false
#endif
}

inline pass_lead_on()
{
#if MUTANT == 2
    arm_begin(); /* forget who waits */
#else
    if
    :: waits[0] -> woken[0] = true
    :: !waits[0] && waits[1] -> woken[1] = true
    :: else -> arm_begin()
    fi
#endif
}

inline submit(t)
{
    atomic {
        !lock -> lock = true;
        published[t] = true;
        if
        :: drive() /* now and then */
        :: skip
        fi;
        arm_begin()
    };
    atomic { arm_end() }
}

inline lead(me)
{
    atomic { is_led = true };
    do
    :: true ->
        atomic {
            drive();
            if
            :: to_call > 0 -> ring_keeper()
            :: else
            fi;
            if
            :: collected[me] -> break
            :: else
            fi;
#if MUTANT == 3
            if /* look before saying that we sleep */
            :: ANY_FINISHED -> goto again
            :: else
            fi
#else
            if
            :: notify = LEADER
            :: me == 0 -> notify = LAZY
            fi
#endif
        };
        atomic {
#if MUTANT == 3
            notify = LEADER;
#else
            if
            :: ANY_FINISHED -> notify = NONE; goto again
            :: else
            fi;
#endif
            sleeping = me;
            DROP
        };
        atomic {
            if
            :: lead_bell -> lead_bell = false
            :: dead && !lead_saw -> lead_saw = true
            :: me == 1 && may_give_up > 0 -> may_give_up--; left[me] = true /* its deadline, or a signal */
            fi
        };
        atomic {
            !lock -> lock = true;
            sleeping = NOBODY;
            if
            :: left[me] -> drive(); break
            :: else
            fi
        };
again:
        skip
    od;
    atomic { is_led = false; pass_lead_on() };
    atomic { arm_end() }
}

inline follow(me)
{
    atomic { woken[me] = false; waits[me] = true; DROP };
    atomic {
        if
        :: woken[me]
        :: me == 1 && may_give_up > 0 -> may_give_up--; left[me] = true
        fi
    };
    atomic { !lock -> lock = true; waits[me] = false }
}

active [CALLERS] proctype caller()
{
    byte me = _pid;
    bool looks;
    if
    :: me == 1 -> submit(2); DROP
    :: else
    fi;
    submit(me);
    do
    :: collected[me] || left[me] -> break
    :: else ->
        if
        :: !is_led -> lead(me); break
        :: else -> follow(me)
        fi
    od;
#if MUTANT == 4
    skip;
#else
    if /* the lead may have been offered to us while we were called away */
    :: !is_led -> atomic { pass_lead_on() }; atomic { arm_end() }
    :: else
    fi;
#endif
    atomic {
        DROP;
        assert(collected[me] || left[me]);
        gone++
    }
}

active proctype keeper()
{
    bool looks;
    do
    :: true ->
        atomic {
            !lock -> lock = true;
#if MUTANT == 5
            skip; /* stay rung: the next ring is lost */
#else
            keeper_rung = false;
#endif
            keeper_awake = true;
            if
            :: dead -> keep_saw = true /* it reaps */
            :: else
            fi;
            drive();
            called = called + to_call;
            to_call = 0;
            if
            :: called == 1 && gone == CALLERS -> break /* only so that the model ends */
            :: else
            fi;
            keeper_awake = false;
            arm_begin()
        };
        atomic { arm_end(); DROP };
        atomic {
            if
            :: keep_bell -> keep_bell = false
            :: dead && !keep_saw -> keep_saw = true
            :: called == 1 && gone == CALLERS -> skip
            fi
        }
    od;
    DROP
}

inline tell(idle)
{
    word = notify;
    if
    :: word == LEADER || word == KEEPER || (word == LAZY && idle) ->
        atomic { word = notify; notify = NONE };
        if
        :: atomic { may_die > 0 && me == 0 -> may_die--; dead = true; goto ended } /* with the word taken, and nobody rung */
        :: word == LEADER || word == LAZY -> lead_bell = true
        :: word == KEEPER -> keep_bell = true
        :: word == NONE -> skip
        fi
    :: else
    fi;
    word = NONE
}

#define WORK(t) (published[t] && !finished[t])

/* The first runs task 0, the second 1 and 2 as they come. */
active [2] proctype worker()
{
    byte me = _pid - CALLERS - 1;
    bool last;
    mtype word = NONE;
    do
    :: atomic {
            WORK(me) || (me == 1 && WORK(2));
            if
            :: WORK(me) -> last = me == 0 || finished[2];
#if MUTANT != 6
                finished[me] = true
#endif
            :: me == 1 && WORK(2) -> last = finished[1];
#if MUTANT != 6
                finished[2] = true
#endif
            fi
        };
        tell(!WORK(me) && (me == 0 || !WORK(2))); /* once, though the code tells twice when it has nothing left */
#if MUTANT == 6
        atomic { /* told before it is DONE */
            if
            :: WORK(me) -> finished[me] = true
            :: else -> finished[2] = true
            fi
        };
#endif
        if
        :: last -> break
        :: else
        fi
    od;
ended:
    skip
}
