/*
 * stage_options.h - the options that every stage's program has in common, their checks, and the pieces of
 * a contract.  A stage's main.c lists TY_STAGE_OPTIONS in its table beside its own lines:
 *
 *     static ty_stage_options opt;
 *     static const ty_option table[] = {TY_STAGE_OPTIONS(opt, "vit.0", 8), TY_COMPUTE_OPTIONS(opt),
 *                                       TY_OPT_END};
 *
 * With --in the program runs one offline command; with --connect it serves.
 */
#ifndef TY_WIRE_STAGE_OPTIONS_H
#define TY_WIRE_STAGE_OPTIONS_H

#include "common/base/options.h"
#include "common/wire/keys.h"
#include "common/wire/worker.h"

typedef struct {
    const char *model, *out, *connect, *worker, *pipeline, *log_level, *compute, *cache_url, *keys;
    ty_option_list in;
    int batch, credits, threads, cache_ttl_s, drain_s;
    bool dump, insecure_tcp;
} ty_stage_options;

#define TY_STAGE_OPTIONS(o, worker_name, batch_default)                                            \
    TY_OPT_STR("model", "TYTO_MODEL", (o).model, NULL, "FILE", "the stage's GGUF file"),           \
        TY_OPT_LIST("in", (o).in, "FILE", "offline: the input"),                                   \
        TY_OPT_STR("out", NULL, (o).out, NULL, "FILE", "offline: the safetensors file to write"),  \
        TY_OPT_FLAG("dump", NULL, (o).dump, "offline: add the intermediate tensors"),              \
        TY_OPT_STR("connect", "TYTO_BROKER", (o).connect, NULL, "ENDPOINT",                        \
                   "serve: all brokers' worker endpoints, commas between"),                        \
        TY_WIRE_SECURITY_OPTIONS((o).keys, (o).insecure_tcp),                                      \
        TY_OPT_NAME("worker", "TYTO_WORKER", (o).worker, worker_name, "NAME",                      \
                    "serve: this worker's name, the same over restarts; %h = the host's"),         \
        TY_OPT_STR("pipeline", "TYTO_PIPELINE", (o).pipeline, "", "NAME",                          \
                   "serve: the pipeline's name, for people"),                                      \
        TY_OPT_INT("batch", "TYTO_BATCH", (o).batch, batch_default, 1, 1024,                       \
                   "serve: most tasks computed together"),                                         \
        TY_OPT_INT("credits", "TYTO_CREDITS", (o).credits, 0, 0, 4096,                             \
                   "serve: tasks taken ahead; 0 = twice the batch"),                               \
        TY_OPT_INT("drain-s", "TYTO_DRAIN_S", (o).drain_s, 30, 0, 3600,                            \
                   "serve: after SIGTERM, how long what is computed may take"),                    \
        TY_OPT_INT("threads", "TYTO_THREADS", (o).threads, 0, 0, 1024, "0 = one per core"),        \
        TY_OPT_STR("log-level", "TYTO_LOG_LEVEL", (o).log_level, "info", "LEVEL",                  \
                   "debug, info, warn or error")
#define TY_COMPUTE_OPTIONS(o)                                                                      \
    TY_OPT_STR("compute", "TYTO_COMPUTE", (o).compute, "auto", "TYPE",                             \
               "arithmetic: auto (f32; int8 for quantised weights), f32, bf16 or int8")

#define TY_CACHE_OPTIONS(o)                                                                        \
    TY_OPT_STR(                                                                                    \
        "cache-url", "TYTO_CACHE_URL", (o).cache_url, "", "URL",                                   \
        "serve: Redis that keeps outputs by picture: redis://[:PASSWORD@]HOST:PORT[/DB] or "       \
        "unix:///PATH; none = do without"),                                                        \
        TY_OPT_INT("cache-ttl-s", "TYTO_CACHE_TTL_S", (o).cache_ttl_s, 86400, 0, 1 << 30,          \
                   "serve: seconds that an output is kept; 0 = until the cache is full")

/* Checks what the table cannot: a model; --in with --out, or --connect; the log level (then starts the
 * log under the worker's name).  max_in: most --in files.  A failure is a usage error, with
 * the remedy. */
ty_status ty_stage_options_check(const ty_stage_options *o, int max_in, ty_err *err);
/* True: one offline command. */
bool ty_stage_is_offline(const ty_stage_options *o);

/* A contract's tensor, -1 = any.  n_dim up to 4.  Storage is the caller's. */
typedef struct {
    Tyto__TensorSpec spec;
    int64_t shape[4];
    Tyto__TensorSpec *list[1]; /* of the one spec, as ty_worker_contract wants it */
} ty_stage_spec;
void ty_stage_spec_init(ty_stage_spec *s, const char *name, Tyto__DType dtype, int n_dim,
                        const int64_t *shape);
/* The contract of a stage that takes one tensor and gives one. */
ty_worker_contract ty_stage_contract(const ty_stage_options *o, const char *model_id,
                                     ty_stage_spec *takes, ty_stage_spec *gives);

/* A job's only tensor, of this type and shape (-1 = any).  On failure the job is closed with the error
 * and NULL returned. */
const void *ty_stage_input(ty_job *j, const ty_stage_spec *takes, ty_tensor *t);
/* Closes the job with one f32 tensor, copied from data; with an error when there is no memory.  any: what a
 * dimension of -1 is this time. */
void ty_stage_output(ty_job *j, const ty_stage_spec *gives, int64_t any, const float *data);
/* Closes the jobs that are left (not NULL) with the error. */
void ty_stage_fail_all(ty_job **jobs, int n, ty_status st, const ty_err *err);

#endif
