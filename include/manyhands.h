/* manyhands.h: all public headers. Include single ones where that says more: "manyhands/pool.h". */
#ifndef MANYHANDS_H
#define MANYHANDS_H

#include "manyhands/base.h"
#include "manyhands/client.h"
#include "manyhands/cluster.h"
#include "manyhands/controller.h"
#include "manyhands/engine.h"
#include "manyhands/pool.h"
#include "manyhands/process.h"
#include "manyhands/queue.h"
#include "manyhands/sched.h"
#include "manyhands/shm.h"
#include "manyhands/sync.h"

#endif
