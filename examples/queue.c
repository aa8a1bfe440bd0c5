/* Numbers through a queue to child processes, and their sum back through a pipe.
 *
 *     queue [count]
 */
#include <manyhands/queue.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(mh_err err, const char *what)
{
    if (!err)
        return;
    fprintf(stderr, "queue: %s: %s: %s\n", what, mh_err_text(err), mh_err_detail());
    exit(1);
}

/* Adds up what comes until the queue is closed and empty. */
static void add(mh_queue *q, mh_pipe *out)
{
    int64_t sum = 0, number;
    size_t size;
    mh_err err;
    while ((err = mh_queue_pop_into(q, &number, sizeof number, MH_FOREVER, &size)) == MH_OK)
        sum += number;
    if (err != MH_ERR_CLOSED)
        check(err, "pop");
    check(mh_pipe_send(out, (mh_bytes){&sum, sizeof sum}, MH_FOREVER), "send");
}

int main(int argc, char **argv)
{
    enum { CHILDREN = 2 };
    int64_t count = argc > 1 ? atoll(argv[1]) : 1000000, sum = 0;
    mh_queue *q = NULL;
    mh_pipe *receiver = NULL, *sender = NULL;
    mh_buf *part = NULL;
    check(mh_queue_create(&q, NULL), "queue");
    check(mh_pipe_create(&receiver, &sender, NULL), "pipe");
    for (int i = 0; i < CHILDREN; i++)
        if (fork() == 0) {
            mh_pipe_destroy(&receiver);
            add(q, sender);
            _exit(0);
        }
    mh_pipe_destroy(&sender); /* so that the children are the only ones who hold that end */
    int64_t start = mh_now();
    for (int64_t i = 1; i <= count; i++)
        check(mh_queue_push(q, (mh_bytes){&i, sizeof i}, MH_FOREVER), "push");
    mh_queue_close(q);
    mh_err err;
    while ((err = mh_pipe_receive(receiver, MH_FOREVER, &part)) == MH_OK) { /* until both children are gone */
        sum += *(int64_t *)mh_buf_data(part);
        mh_buf_destroy(&part);
    }
    if (err != MH_ERR_CLOSED)
        check(err, "receive");
    double ms = (double)(mh_now() - start) / (double)MH_MILLISECOND;
    printf("the sum of 1 to %lld is %lld, by %d processes in %.1f ms\n", (long long)count, (long long)sum, CHILDREN, ms);
    while (wait(NULL) > 0)
        ;
    mh_queue_destroy(&q);
    mh_pipe_destroy(&receiver);
    return sum == count * (count + 1) / 2 ? 0 : 1;
}
