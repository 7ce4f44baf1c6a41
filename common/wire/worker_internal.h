/*
 * worker_internal.h - what the files of the worker share: job.c (a job as the stage sees it), worker.c
 * (the compute thread and the run as a whole), worker_io.c (the thread that owns the sockets).
 *
 * A job may first be with the cache (worker_cache.h), lives in `waiting` (received, not begun), then in `open` (with
 * the stage), until it is closed;
 * its Result or Error then goes into its link's outbox.  The mutex guards those lists and the flags
 * below it; everything else belongs to one thread, as said beside it.
 *
 * The links belong to who holds `sockets`: the I/O thread, which lets go of it while it sleeps, so that a token then
 * leaves from the thread that made it, without waking another for that.  It is taken before `lock`, never behind it.
 */
#ifndef TY_WIRE_WORKER_INTERNAL_H
#define TY_WIRE_WORKER_INTERNAL_H

#include "common/wire/credit.h"
#include "common/wire/endpoints.h"
#include "common/wire/socket.h"
#include "common/wire/worker.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

typedef struct ty_worker ty_worker;
typedef struct ty_worker_link ty_worker_link;
typedef struct ty_worker_cache ty_worker_cache;

/* A message on its way to the I/O thread. */
typedef struct ty_outgoing {
    TAILQ_ENTRY(ty_outgoing) next;
    ty_message *m;
    uint32_t epoch; /* of its link when its task came */
    bool closes;    /* a Result, an Error or a HandedBack: its task is no longer held */
} ty_outgoing;

struct ty_job {
    TAILQ_ENTRY(ty_job) next; /* guarded */
    bool open;                /* guarded: in the list `open` */
    bool cancel_wanted;       /* guarded: the broker asked */
    bool orphan;              /* guarded: the broker that asked knows nothing of it any more */
    uint32_t epoch;           /* of its link when it came */

    ty_worker *w;
    ty_worker_link *link;
    ty_message *task;
    ty_message *reply; /* its tensors are the outputs; NULL until there is one */
    ty_tensor *tensor; /* verified inputs, as many as the envelope has */
    void *user;
    int64_t start_us; /* when the stage got it */
    bool cancel_told; /* the stage knows */
    bool timed_out;   /* that is why */
    bool abandoned;   /* nobody waits for an answer: say nothing */
    double flops;
    uint32_t batch;
    bool has_decode;
    ty_decode_timing decode;
    char *cache_key; /* NULL: not looked up */
    Tyto__CacheUse cache;
    uint64_t cache_us;
};
TAILQ_HEAD(ty_job_list, ty_job);
TAILQ_HEAD(ty_outbox, ty_outgoing);

/* The connection to one broker. */
struct ty_worker_link {
    char *endpoint;
    struct ty_outbox outbox; /* guarded */

    /* Guarded by `sockets` */
    void *socket;
    bool welcomed, said_waiting;
    int heartbeat_ms;
    int64_t heard_us, beat_us; /* monotonic: last sign of the broker, our last one */
    int64_t opened_us;
    uint64_t broker;  /* its incarnation; 0 = none yet */
    uint32_t epoch;   /* grows when its tasks are dropped: what they still say is not sent */
    uint32_t offered; /* credits in the last hello */
};

struct ty_worker {
    const ty_stage *stage;
    void *ctx;
    const ty_worker_contract *contract;
    uint64_t incarnation;
    void *zmq;
    ty_keys keys; /* of our stage */
    ty_socket_security security;
    ty_worker_link link[TY_ENDPOINTS_MAX];
    ty_credit credit[TY_ENDPOINTS_MAX]; /* of each link; I/O thread */
    int n_link;
    ty_worker_cache *cache; /* NULL: none */
    int64_t drain_until_us; /* I/O thread; monotonic */
    int wake_fd;            /* eventfd: the outbox has something, or a signal came */

    pthread_mutex_t sockets;
    pthread_mutex_t lock;
    pthread_cond_t work; /* something for the compute thread */
    struct ty_job_list waiting, open;
    ty_stage_pages pages;
    bool draining; /* SIGTERM: take no more */
    bool leave;    /* a second one, or a refusal: answer nothing more */
    bool finished; /* the compute thread is done: flush and go */
    ty_err refused;
};

/* SIGTERM and SIGINT so far in this run. */
int ty_worker_signals(void);

/* job.c */
ty_job *ty_job_create(ty_worker *w, ty_worker_link *l, ty_message **task);
void ty_job_destroy(ty_job *j);
/* Checks every input tensor once; ty_job_tensor then only hands them out. */
ty_status ty_job_verify(ty_job *j, ty_err *err);

/* worker.c: the I/O thread looks around. */
void ty_worker_wake(ty_worker *w);
/* worker.c: puts a message into the outbox and wakes the I/O thread; takes it over.  epoch: of its task. */
void ty_worker_post(ty_worker *w, ty_worker_link *l, uint32_t epoch, ty_message *m, bool closes);

/* Frees what is in a list, and empties it. */
void ty_worker_drop_jobs(struct ty_job_list *list);
void ty_worker_drop_outbox(struct ty_outbox *list);

/* worker_io.c: sends it at once (consumed; true) if the I/O thread sleeps and nothing waits before it. */
bool ty_worker_send_now(ty_worker *w, ty_worker_link *l, uint32_t epoch, ty_message **m);
/* worker_io.c: the I/O thread's body; arg is the ty_worker. */
void *ty_worker_io(void *arg);

#endif
