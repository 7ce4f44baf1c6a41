/*
 * worker.h - the life that all stages share when they serve: hello with a contract, credits,
 * heartbeats, deadlines, cancels, checksums, timing records, drain on SIGTERM.
 *
 * Two threads: the I/O thread owns the ZeroMQ sockets; the caller's thread computes.  They meet in two queues; a token alone
 * leaves by the thread that made it when the other sleeps.
 *
 * A pure stage (preprocess, vit, abstractor) gives `batch`: it is called with everything that waits, up
 * to batch_limit.  A streaming stage (decoder) gives `submit`, `step`, `cancel`: jobs stay open
 * until ty_job_done or ty_job_fail.
 */
#ifndef TY_WIRE_WORKER_H
#define TY_WIRE_WORKER_H

#include "common/base/options.h"
#include "common/wire/message.h"

typedef struct ty_job ty_job;

/* One job as the stage sees it; compute thread only. */
const Tyto__Envelope *ty_job_envelope(const ty_job *j);
int ty_job_tensor_count(const ty_job *j);
/* Verified input tensor i; borrowed while the job is open. */
ty_status ty_job_tensor(ty_job *j, int i, const char **name, ty_tensor *t, ty_err *err);
void *ty_job_user(const ty_job *j); /* the stage's own pointer for an open job */
void ty_job_set_user(ty_job *j, void *user);
int64_t ty_job_deadline_unix_us(const ty_job *j);

/* Output of a pure stage: bytes are the stage's until it calls done; ownership passes (free()). */
ty_status ty_job_add_output(ty_job *j, const char *name, Tyto__DType dtype, int n_dim,
                            const int64_t *shape, void *malloced, size_t size, ty_err *err);
/* Numbers for the receipt; batch and compute of pure stages are the worker's own measurement. */
void ty_job_set_flops(ty_job *j, double flops);
typedef struct {
    uint64_t queue_us, prefill_us, decode_us;
    uint32_t batch, cached_tokens, prefill_tokens; /* as in Timing */
    const char *adapter; /* its name, NULL = none; must live as long as the job */
} ty_decode_timing;
void ty_job_set_decode_timing(ty_job *j, const ty_decode_timing *t);
/* Streaming: sends a chunk now (taken over; malloc'ed like all protobuf-c messages here). */
ty_status ty_job_chunk(ty_job *j, Tyto__Chunk *chunk, ty_err *err);
/* Streaming: tells the broker how far the job has come (Progress). */
void ty_job_progress(ty_job *j, Tyto__Progress__State state);
/* Close the job: exactly one of the two, then the job is gone.  decode: NULL for pure stages. */
void ty_job_done(ty_job *j, Tyto__DecodeResult *decode);
void ty_job_fail(ty_job *j, ty_status st, const char *text);

/* Memory that the stage counts in pages: used by jobs, kept for later ones (free when needed), in all. */
typedef struct {
    uint32_t used, cached, total;
} ty_stage_pages;

typedef struct {
    const char *name; /* "vit" */
    /* Pure: computes n jobs (same contract) together; must close every one. */
    void (*batch)(void *ctx, ty_job **jobs, int n);
    /* Streaming: takes a job (may fail it at once). */
    void (*submit)(void *ctx, ty_job *job);
    /* One unit of work; returns the number of open jobs. */
    int (*step)(void *ctx);
    /* The job is no longer wanted (client gone, deadline): the stage closes it with ty_job_fail(TY_ECANCELED). */
    void (*cancel)(void *ctx, ty_job *job);
    /* Streaming, NULL = it counts none: asked after each step, told with the heartbeats. */
    void (*pages)(void *ctx, ty_stage_pages *p);
} ty_stage;

typedef struct {
    const char *
        connect; /* broker's worker endpoint: "ipc:///run/…/worker.sock", comma-separated for several */
    const char *keys;   /* directory of the keys for tcp endpoints; NULL or "" = none */
    bool insecure_tcp;  /* without keys: tcp beyond this machine all the same */
    const char *worker; /* "vit.0" */
    const char *pipeline;
    const char *model_id;
    int batch_limit, credits;
    int drain_ms;                      /* after SIGTERM, for what is being computed; 0 = 30000 */
    Tyto__TensorSpec **takes, **gives; /* borrowed */
    int n_takes, n_gives;
    const char *const *adapters; /* identities of the adapters that a task may name (Hop.adapter) */
    int n_adapters;
    const char *cpu, *kernels; /* of this machine, for people; NULL = not said */
    /* What the output depends on beside model and input (Hello.arithmetic); NULL = not said: nothing made of
     * it is cached. */
    const char *arithmetic;
    /* A pure stage with one output: where outputs are kept by picture; NULL or "" = nowhere. */
    const char *cache_url;
    int cache_ttl_s; /* of an entry; 0 = until evicted */
} ty_worker_contract;

/* Runs until SIGTERM/SIGINT (then drains: takes no more, hands back what it has not begun, finishes what is
 * open, says goodbye; after drain_ms, or at a second signal, the rest is left to other workers) or until a
 * broker refuses it (TY_ECONTRACT, TY_EVERSION, TY_EEXIST: a newer worker has its name).  A broker that
 * goes away is awaited; what it had asked for is dropped when it is gone for long, or comes back as
 * another.  One at a time in a process (TY_EEXIST).  Also fails with TY_EINVAL (an endpoint), TY_EIO, TY_ENOMEM, and as ty_keys_load. */
ty_status ty_worker_run(const ty_stage *stage, void *ctx, const ty_worker_contract *c, ty_err *err);

#endif
