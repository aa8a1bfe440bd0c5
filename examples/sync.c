/* Two processes count under one mutex; one of them is killed while it holds it, and the other repairs and goes on. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "manyhands/sync.h"

struct shared {
    mh_mutex mutex;
    long count, half_done; /* guarded by mutex; half_done is 0 whenever the data are whole */
};

static void check(mh_err err, const char *what)
{
    if (err) {
        fprintf(stderr, "%s: %s (%s)\n", what, mh_err_text(err), mh_err_detail());
        exit(1);
    }
}

static void count_and_die(struct shared *sh)
{
    for (int i = 0; i < 1000; i++) {
        check(mh_mutex_lock(&sh->mutex, MH_FOREVER), "lock");
        sh->count++;
        check(mh_mutex_unlock(&sh->mutex), "unlock");
    }
    check(mh_mutex_lock(&sh->mutex, MH_FOREVER), "lock");
    sh->half_done = 1;
    abort(); /* with the mutex held */
}

int main(void)
{
    struct shared *sh = mmap(NULL, sizeof *sh, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (sh == MAP_FAILED)
        return 1;
    check(mh_mutex_init(&sh->mutex, 0), "init");
    pid_t child = fork();
    if (child == 0)
        count_and_die(sh);

    waitpid(child, NULL, 0);
    mh_err err = mh_mutex_lock(&sh->mutex, mh_deadline_in(MH_SECOND));
    printf("after %ld counts: %s\n", sh->count, mh_err_text(err));
    if (err == MH_ERR_OWNER_DIED) {
        sh->half_done = 0;
        err = mh_mutex_recover(&sh->mutex);
    }
    check(err, "lock or recover");
    sh->count++;
    check(mh_mutex_unlock(&sh->mutex), "unlock");
    printf("repaired; count is %ld\n", sh->count);
    mh_mutex_fini(&sh->mutex);
    return sh->count == 1001 && sh->half_done == 0 ? 0 : 1;
}
