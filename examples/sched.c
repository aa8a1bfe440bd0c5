/* The scheduler by itself: two workers that exist only here, three tasks, and a worker that dies while running one. */
#include <manyhands/sched.h>

#include <stdio.h>

static int complain(mh_err err)
{
    fprintf(stderr, "%s: %s\n", mh_err_text(err), mh_err_detail());
    return 1;
}

int main(void)
{
    mh_sched *s = NULL;
    mh_sched_worker workers[2];
    mh_sched_task tasks[3];
    mh_sched_action todo[8];
    bool has_died = false;
    mh_err err = mh_sched_create(&s, NULL);
    for (int i = 0; !err && i < 2; i++)
        err = mh_sched_worker_join(s, &(mh_sched_worker_options){.capacity = 2}, &workers[i]);
    for (uint64_t i = 0; !err && i < 3; i++)
        err = mh_sched_submit(s, &(mh_sched_submit_options){.tag = i, .lost_retries = 3}, &tasks[i]);

    for (size_t n; !err && (n = mh_sched_actions(s, todo, 8)) > 0;) {
        for (size_t i = 0; !err && i < n; i++) {
            const mh_sched_action *a = &todo[i];
            if (a->kind == MH_SCHED_DONE) {
                printf("task %d done after %u attempts\n", (int)a->tag, a->attempts);
            } else if (a->kind == MH_SCHED_ASSIGN && a->tag == 1 && !has_died) {
                has_died = true;
                printf("task 1 to worker %u, which dies of it\n", a->worker.index);
                err = mh_sched_worker_leave(s, a->worker, MH_SCHED_DIED, a->task);
            } else if (a->kind == MH_SCHED_ASSIGN) {
                printf("task %d to worker %u, attempt %u\n", (int)a->tag, a->worker.index, a->attempts);
                err = mh_sched_result(s, a->worker, a->task, a->epoch, MH_SCHED_OK, 1000);
            }
        }
    }
    mh_sched_destroy(&s);
    return err ? complain(err) : 0;
}
