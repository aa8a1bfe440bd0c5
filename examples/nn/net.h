/* net.h: train a perceptron with one hidden layer by gradient descent, by a team of workers over one piece of shared memory.
 *
 *     net_options options = {.inputs = 784, .hidden = 128, .classes = 10, .samples = 60000, .tests = 10000, .batch = 256, .shard = 128,
 *                            .epochs = 10, .workers = 2, .seed = 1, .rate = 0.1, .momentum = 0.9};
 *     mh_err err = net_init(memory, &options);                 net_bytes(&options) bytes, zeroed, 64-byte aligned
 *     fill net_images(memory), net_labels(memory), net_test_images(memory), net_test_labels(memory)
 *     if (!err) err = net_begin(memory);
 *     ...                                 each worker, 0 to workers - 1, at the same time: net_work(memory, worker)
 *
 * Each batch is cut into shards; each worker computes the gradients of some into their places in shared memory. When all are there each
 * worker sums up its part of the gradient, always in the order of the shards, and moves its part of the parameters. So losses and parameters
 * do not depend, to the last bit, on how many workers there are.
 *
 * The team may lose members at any instruction: a step reads one copy of the parameters and writes the other.
 */
#ifndef NET_H
#define NET_H

#include <manyhands.h>

#define NET_EXPORT __attribute__((visibility("default")))

/* Computed with floats; with NET_DOUBLE the same source computes with doubles, so that gradients can be checked closely. */
#ifdef NET_DOUBLE
typedef double net_real;
#else
typedef float net_real;
#endif

typedef struct net_options {
    uint32_t inputs, hidden, classes; /* 1 to 65536, 1 to 65536, 2 to 256 */
    uint32_t samples, tests;          /* at least one batch; at most 16,777,216 */
    uint32_t batch, shard;            /* samples of a step, and of a piece of one; batch is a multiple of shard */
    uint32_t epochs;                  /* 1 to 10,000; each uses samples / batch * batch samples, in an order of its own */
    uint32_t workers;                 /* 1 to 256 */
    uint32_t seed;
    uint32_t kill_step;               /* for tests: a worker is killed in the middle of this step, once; 0: none is */
    uint32_t unused;
    double rate, momentum;            /* the rate falls in a line, to nothing at the end */
} net_options;

typedef struct net_record {
    double loss;     /* mean over the epoch, while it went on */
    double accuracy; /* of the tests after it, 0 to 1 */
} net_record;

/* errors: INVALID; the reason is on the error stream. */
NET_EXPORT mh_err net_check(const net_options *options);
NET_EXPORT size_t net_bytes(const net_options *options);
/* Lay out the memory and draw the parameters. errors: INVALID. */
NET_EXPORT mh_err net_init(void *memory, const net_options *options);
/* To be filled in: samples * inputs brightnesses, 0 to 255; samples labels below classes; the same of the tests. */
NET_EXPORT uint8_t *net_images(void *memory);
NET_EXPORT uint8_t *net_labels(void *memory);
NET_EXPORT uint8_t *net_test_images(void *memory);
NET_EXPORT uint8_t *net_test_labels(void *memory);

/* Before a team works: first, and after net_work failed. Nobody works meanwhile. errors: INVALID a label is too large. */
NET_EXPORT mh_err net_begin(void *memory);
/* Be member `rank` of the team until the last epoch has been tested.
 * errors: BROKEN another member gave up or died: net_begin, and work again; INVALID rank; NO_MEMORY; TIMEOUT. */
NET_EXPORT mh_err net_work(void *memory, uint32_t rank);
/* Make the others give up: whoever sees a member die calls it. */
NET_EXPORT void net_abort(void *memory);
/* Where the team meets. */
NET_EXPORT mh_barrier *net_barrier(void *memory);

/* ---- on engines, each with memory of its own ------------------------------------------------- *
 *
 * The client and each engine have a memory, made by net_init with the same options and filled with the same data. The client gives each engine a parcel: the
 * parameters and the velocity of the part that it moves. Engines do up to 64 steps, and in each sum up the gradients and tell each other the parameters they
 * moved (see net.c). Then the client gathers all. When an engine dies nothing is gathered, and the client gives the same parameters to those that are left.
 *
 *     bool goes_on = true;
 *     while (goes_on) {
 *         for each rank: net_part_pack(memory, rank, count, parcel), net_part_bytes(memory, rank, count) bytes
 *         engines:       net_part_work(own_memory, parcel, mesh, reply)
 *         for each rank: net_part_unpack(memory, rank, count, reply), when all are there
 *         goes_on = net_leg_end(memory);
 *     }
 *
 * Bits are those of net_work: shards are the same, only elsewhere.
 */
struct mesh; /* ../mesh/mesh.h */

/* 1 <= count <= 256, rank < count, net_step(memory) < net_steps(memory). */
NET_EXPORT size_t net_part_bytes(const void *memory, uint32_t rank, uint32_t count);
NET_EXPORT void net_part_pack(void *memory, uint32_t rank, uint32_t count, void *out);
/* From rank 0 on, all of them. errors: CORRUPT it is no reply to this part. */
NET_EXPORT mh_err net_part_unpack(void *memory, uint32_t rank, uint32_t count, mh_bytes reply);
/* Whether there is another leg. */
NET_EXPORT bool net_leg_end(void *memory);

/* In an engine: which options its memory must have been made with, but for workers, rate, momentum and kill_step. errors: CORRUPT. */
NET_EXPORT mh_err net_part_options(mh_bytes parcel, net_options *out);
/* 0: the parcel is none. */
NET_EXPORT size_t net_part_reply_bytes(const void *memory, mh_bytes parcel);
/* Be one of the team until the end of the leg. reply: net_part_reply_bytes(memory, parcel) bytes.
 * errors: CORRUPT the parcel; INVALID it is for another memory or rank, or shards and engines together are more than 512; NO_MEMORY;
 * those of mesh_exchange: BROKEN an engine is gone. */
NET_EXPORT mh_err net_part_work(void *memory, mh_bytes parcel, struct mesh *m, void *reply);

/* How many steps are done, of how many. */
NET_EXPORT uint32_t net_step(const void *memory);
NET_EXPORT uint32_t net_steps(const void *memory);
/* The loss of each step done. Borrowed, as the next ones. */
NET_EXPORT const double *net_losses(const void *memory);
/* Of each epoch done. */
NET_EXPORT const net_record *net_records(const void *memory);
/* The parameters: inputs x hidden weights, hidden biases, hidden x classes weights, classes biases; how many. To be written only between teams. */
NET_EXPORT net_real *net_parameters(void *memory);
NET_EXPORT size_t net_parameter_count(const void *memory);
/* The gradient of the mean loss of samples [first, first + count), count at most batch, for checks; and that loss. errors: INVALID, NO_MEMORY. */
NET_EXPORT mh_err net_gradient(void *memory, uint32_t first, uint32_t count, net_real *gradient, double *loss);

#endif
