/* A pool whose results go to one loop: that leads, for as long as the pool lives, as a waiting caller does. So a worker wakes it and no thread between. For a pool that
 * one thread alone uses, with one stream.
 *
 *     int fds[MH__LEAD_FDS];
 *     mh__stream_lead(stream, fds);                          // once
 *     for (;;) {
 *         while (!mh__stream_before_sleep(stream, &until))   // false: results are there
 *             ... mh__stream_take_led(stream, ...) ...
 *         ... sleep until one of fds is readable, or `until`, or what else there is ...
 *         mh__stream_after_sleep(stream, is_readable);
 *     }
 */
#ifndef MH_POOL_LEAD_H
#define MH_POOL_LEAD_H

#include "manyhands/pool.h"

enum { MH__LEAD_FDS = 2 };

/* The descriptors stay the pool's. */
void mh__stream_lead(mh_stream *s, int fds[MH__LEAD_FDS]);
/* Collect; whether nothing is there to take, so that workers will wake the loop, which is to look again at `until`. spins: look for a while first. */
bool mh__stream_before_sleep(mh_stream *s, bool spins, mh_deadline *until);
/* fds[i] is readable: bit i. */
void mh__stream_after_sleep(mh_stream *s, unsigned is_readable);
/* What is there, up to `capacity`; the number. */
size_t mh__stream_take_led(mh_stream *s, mh_result *results, size_t capacity);

#endif
