/* Model of sleeping and waking: a worker sleeps on its doorbell (worker.c), the parent in its poller (wait.c, driver.c).
 *
 * Each side publishes and then looks whether the other sleeps; each sleeper says so and then looks once more. Memory is
 * sequentially consistent here, as the fences in the code make it where it matters. Checked: nobody sleeps while there
 * is something for it to do, without even the bounded re-checks that the code has on top. Each MUTANT leaves one rule out.
 */
#ifndef MUTANT
#define MUTANT 0
#endif

#define TASKS 3

byte ready, done;  /* tasks published; answers published */
bool asleep;       /* the worker's word */
bool doorbell;     /* the futex: has it been rung since it was read */
byte notify;       /* the parent's word on the board: 1 when it wants to be rung */
bool bell;         /* the parent's eventfd */

active proctype parent()
{
    byte sent, got;
    do
    :: sent < TASKS ->
#if MUTANT == 1
        bool was = asleep; /* look before publishing */
        ready++;
        sent++;
        if
        :: was -> atomic { asleep = false; doorbell = true }
        :: else
        fi
#else
        ready++;
        sent++;
        if
        :: asleep -> asleep = false; doorbell = true
        :: else
        fi
#endif
    :: got < done -> got++
    :: sent == TASKS && got == TASKS -> break
    :: sent == TASKS && got < TASKS ->
        /* sleep */
#if MUTANT == 2
        if
        :: done > got -> goto awake /* look before saying that we sleep */
        :: else
        fi;
        notify = 1;
#else
        notify = 1;
        if
        :: done > got -> notify = 0; goto awake
        :: else
        fi;
#endif
        bell;
        bell = false;
awake:
        skip
    od
}

active proctype worker()
{
    byte ran;
    bool rung;
    do
    :: ran == TASKS -> break
    :: ran < ready ->
#if MUTANT == 3
        rung = notify == 1; /* look before publishing */
        done++;
        ran++;
#else
        done++;
        ran++;
        rung = notify == 1;
#endif
        if
        :: rung ->
            atomic { rung = notify == 1; notify = 0 };
            if
            :: rung -> bell = true
            :: else
            fi
        :: else
        fi
    :: ran == ready && ran < TASKS ->
        doorbell = false; /* read its value */
        asleep = true;
#if MUTANT == 4
        skip;
#else
        if
        :: ran < ready -> asleep = false; goto awake
        :: else
        fi;
#endif
        doorbell; /* returns at once when it was rung since */
        asleep = false;
awake:
        skip
    od
}
