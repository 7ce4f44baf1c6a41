/*
 * state.h - what the broker knows, for its own files alone.
 *
 *   peer.c    one connection: what is sent at once, what waits, when it was last heard
 *   queue.c   tasks and their queues, per (stage, model)
 *   workers.c  workers: hello, dispatch, results, loss
 *   affinity.c which worker had which beginnings of prompts
 *   gateways.c gateways: hello, tasks, cancels, news about pipelines
 *   zap.c     which keys may connect, and as what
 *   broker.c  the sockets, the loop, the clock
 *
 * Everything belongs to the one thread of broker_run.  Peers that are found dead in the middle of
 * something are only marked (`lost`) and removed by the loop, so that no list changes under a walk.
 */
#ifndef TY_BROKER_STATE_H
#define TY_BROKER_STATE_H

#include "common/wire/message.h"
#include "services/broker/broker.h"
#include "services/broker/zap.h"

#include <stdatomic.h>
#include <stdint.h>
#include <sys/queue.h>

enum {
    BROKER_ID_MAX = 255,       /* a ROUTER's routing id */
    BROKER_OUTBOX_MAX = 16384, /* messages that wait for a peer which does not read; more = lost */
    BROKER_QUEUES_MAX = 256,   /* (stage, model) pairs */
    BROKER_HOPS_MAX = 8,
    BROKER_AFFINITY_TASKS = 4, /* more than others have, a worker may have and still be preferred */
    /* A worker's death is blamed on its tasks at their first step (or of which nothing is known), which share the
     * blame.  A task that was alone in it three times is not tried again; a token of its answer clears it. */
    BROKER_BLAME_ALONE = 4,
    BROKER_BLAME_MAX = 12,
};

typedef struct broker_peer {
    void *socket; /* borrowed: the ROUTER it came by */
    uint8_t id[BROKER_ID_MAX];
    size_t id_len;
    int64_t heard_us; /* monotonic */
    STAILQ_HEAD(, broker_waiting) outbox;
    int n_outbox;
    const char *lost; /* why, when it is to be removed; a literal */
} broker_peer;

typedef struct broker_task broker_task;
TAILQ_HEAD(broker_task_list, broker_task);

typedef struct broker_queue {
    TAILQ_ENTRY(broker_queue) next;
    char *stage, *model;
    struct broker_task_list tasks; /* by priority, then arrival */
    int n, n_in_flight;
    int n_worker;           /* alive, not draining */
    bool had_worker;        /* ever */
    int64_t alone_since_us; /* monotonic: since when n_worker is 0 */
} broker_queue;

typedef struct broker_worker {
    TAILQ_ENTRY(broker_worker) next;
    broker_peer peer;
    ty_message *hello; /* its env->hello is the contract */
    broker_queue *q;
    uint32_t credits; /* tasks it takes before it grants more */
    bool draining;
    struct broker_task_list tasks; /* in flight, oldest first */
    int n_task;
    bool counts_pages; /* of its memory: of its last heartbeat */
    uint32_t pages_used, pages_cached, pages_total;
} broker_worker;

typedef struct broker_gateway {
    TAILQ_ENTRY(broker_gateway) next;
    broker_peer peer;
    ty_message *hello; /* env->gateway_hello */
} broker_gateway;

struct broker_task {
    TAILQ_ENTRY(broker_task) next; /* in its queue, or in its worker's list */
    TAILQ_ENTRY(broker_task) all;
    broker_gateway *gw;
    broker_queue *q;      /* of its current hop */
    broker_worker *owner; /* NULL while it waits */
    ty_message *m;     /* the Task as the next dispatch sends it; env->attempt is that dispatch's */
    uint64_t dispatch; /* number of the last dispatch */
    int64_t queued_us; /* monotonic: when it came into the queue */
    uint64_t waited_us;          /* there, until the last dispatch */
    uint32_t first_attempt;      /* of each hop */
    Tyto__Progress__State state; /* with its worker */
    int deaths, blame;           /* workers lost with it since its answer moved last */
};

typedef struct broker_affinity broker_affinity;

struct broker {
    broker_options opt;
    void *zmq, *gw_socket, *wk_socket;
    broker_zap *zap;      /* NULL: no keys */
    bool workers_secured; /* by keys: what a worker's may be is checked */
    int wake_fd;
    atomic_bool stop;

    TAILQ_HEAD(, broker_worker) workers;
    TAILQ_HEAD(, broker_gateway) gateways;
    TAILQ_HEAD(, broker_queue) queues;
    TAILQ_HEAD(, broker_task) tasks;
    int n_queue, n_task;
    broker_affinity *affinity;
    uint64_t incarnation; /* told in every Welcome */
    uint64_t next_dispatch;

    bool changed; /* who may take what, or who is lost: more than a chunk has come */
    bool news;    /* a pipeline's state may have changed */
    int64_t news_us, beat_us, judged_us;
    /* Of the last look at the clock: when it was, whether a peer took nothing, the first deadline (0: none). */
    int64_t clock_us;
    bool unsent;
    int64_t deadline_unix_us;
    bool draining;
    int64_t drain_until_us;
    int64_t refused_log_us; /* log limiter */
    int n_refused;
};

/* ---- peer.c ---- */

void broker_peer_init(broker_peer *p, void *socket, const ty_message *from);
void broker_peer_clear(broker_peer *p);
bool broker_peer_is(const broker_peer *p, const ty_message *from);
/* Sends or keeps the message for later; takes it over (NULL: it could not be made, out of memory).
 * Marks the peer lost when it is gone or reads nothing. */
void broker_peer_tell(broker_peer *p, ty_message *m);
/* Sends what waits. */
void broker_peer_flush(broker_peer *p);
/* A new message with that body (taken over); NULL when out of memory. */
ty_message *broker_make(Tyto__Envelope__BodyCase c, void *body);
/* Answers the sender of `m` (consumed) with an Error, once, without keeping it. */
void broker_refuse(void *socket, ty_message **m, ty_status st, const char *text);
/* A Welcome that accepts nothing. */
ty_message *broker_make_refusal(ty_status st, const char *text);

/* ---- queue.c ---- */

/* The queue of a stage and model, made when there is none.  Fails: TY_EOVERLOAD, TY_ENOMEM. */
ty_status broker_queue_get(broker *b, const char *stage, const char *model, broker_queue **out,
                           ty_err *err);
broker_queue *broker_queue_find(broker *b, const char *stage, const char *model);
/* Has the worker what the hop names beside stage and model? */
bool broker_worker_fits(const broker_worker *w, const Tyto__Hop *hop);
/* Is there a worker that may take tasks for the hop? */
bool broker_queue_serves(const broker *b, const broker_queue *q, const Tyto__Hop *hop);
/* Counts the workers that may take tasks from it. */
void broker_queue_count(broker *b, broker_queue *q);
/* A task for the gateway's message, not yet in a queue; takes *m over on success. */
ty_status broker_task_create(broker *b, broker_gateway *gw, ty_message **m, broker_task **out,
                             ty_err *err);
/* Into the queue of its current hop: behind its equals, or before them.  Fails like broker_queue_get,
 * and TY_EOVERLOAD when `limited` and the queue is full. */
ty_status broker_task_queue(broker *b, broker_task *t, bool front, bool limited, ty_err *err);
/* Out of its queue or its worker's list. */
void broker_task_detach(broker_task *t);
/* Frees it, wherever it is. */
void broker_task_drop(broker *b, broker_task *t);
/* Ends it: the gateway gets an Error. */
void broker_task_fail(broker *b, broker_task *t, ty_status st, const char *text, const char *stage);
/* Ends those that wait in a queue: the broker drains. */
void broker_tasks_hand_back(broker *b);
/* Tells the worker that has it to let go. */
void broker_task_tell_cancel(broker_task *t);
/* Ends it without a word to the gateway; a worker that has it is told. */
void broker_task_cancel(broker *b, broker_task *t);
broker_task *broker_task_find(broker *b, const broker_gateway *gw, const char *request_id,
                              uint32_t part);
/* Deadlines, and stages that nobody serves.  The first deadline of those that are left; 0: none has one. */
int64_t broker_tasks_expire(broker *b, int64_t now_us);
void broker_queues_destroy(broker *b);

/* ---- workers.c ---- */

void broker_worker_message(broker *b, ty_message **m);
void broker_worker_bad_message(broker *b, ty_message **m, const ty_err *why);
/* Hands waiting tasks to workers with free credits. */
void broker_dispatch(broker *b);
/* Removes those that are lost; false: none was. */
bool broker_workers_reap(broker *b);
void broker_worker_destroy(broker *b, broker_worker *w);

/* ---- affinity.c: which worker had which beginnings of prompts last ---- */

/* Bounded: what was used longest ago is forgotten.  NULL when out of memory. */
broker_affinity *broker_affinity_create(void);
void broker_affinity_destroy(broker_affinity **a);
/* The worker gets this task. */
void broker_affinity_note(broker_affinity *a, const broker_task *t, broker_worker *w);
/* The one that had the longest of the task's beginnings; NULL: none is known. */
broker_worker *broker_affinity_find(broker_affinity *a, const broker_task *t);
/* The worker is gone, and all it held. */
void broker_affinity_forget(broker_affinity *a, const broker_worker *w);

/* ---- gateways.c ---- */

void broker_gateway_message(broker *b, ty_message **m);
void broker_gateways_reap(broker *b);
void broker_gateway_destroy(broker *b, broker_gateway *g);
/* Sends every gateway the state of its pipelines. */
void broker_gateways_news(broker *b);

#endif
