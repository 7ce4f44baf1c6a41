/*
 * broker.h - the one address that gateways and workers know: queues per (stage, model), credits,
 * heartbeats, deadlines, re-dispatch of a lost worker's tasks.
 *
 *     broker_create -> broker_run (until broker_stop, then drains) -> broker_destroy
 *
 * One thread and one poll loop; nothing in it blocks.  A task's frames are kept (by reference) until
 * its hop is acknowledged by a Result or an Error, so that a lost worker costs no data.
 */
#ifndef TY_BROKER_H
#define TY_BROKER_H

#include "common/base/err.h"

#include <stdbool.h>

typedef struct {
    const char *gateways, *workers; /* endpoints to bind: ipc:///path or tcp://host:port */
    const char *keys;               /* directory of the keys for tcp endpoints; NULL or "" = none */
    bool insecure_tcp;              /* without keys: tcp beyond this machine all the same */
    int heartbeat_ms;               /* 0 = TY_HEARTBEAT_MS; three missed = dead */
    int queue_limit;                /* tasks that wait per (stage, model); 0 = 1024 */
    int grace_ms;                   /* a stage that no worker has ever served: wait; 0 = 2000 */
    int lost_grace_ms;              /* a stage whose workers are gone: wait; 0 = 30000 */
    int drain_ms;                   /* after broker_stop: for tasks in flight; 0 = 10000 */
} broker_options;

typedef struct broker broker;

/* Reads the keys and binds both endpoints.  Fails: TY_EINVAL, TY_EEXIST, TY_EIO, TY_ENOMEM, and as
 * ty_keys_load. */
ty_status broker_create(const broker_options *o, broker **out, ty_err *err);
/* Serves until broker_stop, then takes no new task, hands back those that wait (EUNAVAILABLE: the gateways
 * send them by another broker), lets those in flight come to their end (at most drain_ms) and says
 * goodbye to all. */
ty_status broker_run(broker *b, ty_err *err);
/* May be called from a signal handler and from any thread. */
void broker_stop(broker *b);
void broker_destroy(broker **b);

#endif
