/*
 * decoder.h - the LLM stage: prompt and visual tokens -> text, token by token.  Knows no socket.
 *
 * The engine batches continuously: decoder_submit queues a request, each decoder_step runs one batch
 * through the model (prefill chunks of new requests and one row per live sequence or beam, together),
 * samples, and calls the requests' sinks.  One thread calls all functions of one decoder.
 *
 * KV lives in pages of fixed size, refcounted, copied on write: beams share their prefix, and a prompt that
 * begins like an earlier one goes on from the pages that it left (prefix.h).  The answer is that of a cold run.
 */
#ifndef TY_DECODER_H
#define TY_DECODER_H

#include "common/chat/request.h"
#include "common/model/dump.h"
#include "common/model/run_options.h"
#include "common/model/tokenizer.h"

/* A LoRA adapter that requests may name (common/model/adapter.h). */
typedef struct {
    const char *name, *dir;
} decoder_adapter;

typedef struct {
    ty_run_options run;
    ty_dtype kv;       /* TY_F32 (default) or TY_F16 */
    int context;       /* positions a sequence may have; 0 = the model's own */
    int max_rows;      /* sequences and beams in flight together; 0 = 64 */
    int prefill_chunk; /* prompt rows in one step; 0 = 256 */
    size_t
        kv_bytes; /* memory for KV pages; 0 = room for 4 full contexts, at most a quarter of RAM */
    int prefix_mib; /* of them, for pages kept for later prompts; 0 = all that no request needs, -1 = none */
    size_t max_queue; /* submitted, not yet started; 0 = 1024.  Over it: TY_EOVERLOAD */
    const decoder_adapter *adapters; /* borrowed for the call */
    int n_adapters;
} decoder_options;

typedef struct decoder decoder;

ty_status decoder_create(decoder **out, const char *model_path, const decoder_options *opt,
                         ty_err *err);
void decoder_destroy(decoder **d);
const char *decoder_model_id(const decoder *d);
int decoder_width(const decoder *d); /* D */
int decoder_vocab(const decoder *d); /* V */
int decoder_context(const decoder *d);
const ty_tokenizer *decoder_tokenizer(const decoder *d);
/* Its adapters: the name as given, the identity that requests name it by (ty_adapter_identity). */
int decoder_adapters(const decoder *d);
const char *decoder_adapter_name(const decoder *d, int i);
const char *decoder_adapter_id(const decoder *d, int i);
/* The adapter of that identity, -1 when there is none. */
int decoder_find_adapter(const decoder *d, const char *id);

typedef struct {
    int32_t id;
    float logprob; /* of the raw model distribution; only with sampling.logprobs */
    int n_top;
    struct {
        int32_t id;
        float logprob;
    } top[TY_LOGPROBS_MAX];
} decoder_token;

typedef enum { DECODER_STOP, DECODER_LENGTH } decoder_finish; /* "stop" | "length" */

typedef struct {
    decoder_finish finish;
    int n_prompt;         /* spliced prompt rows, visual rows included */
    int n_visual;         /* of them visual */
    int n_cached;         /* rows of prompt and forced tokens whose KV was there already */
    int n_prefilled;      /* the others: computed before the first token */
    int n_token;          /* of the answer, forced ones and the ending eos included */
    const int32_t *token; /* the new tokens; with beams, of the best one.  Borrowed for the call */
    double score;         /* beams: length-penalised score */
    const char *text;
    size_t text_len; /* the whole answer, stop string cut off, specials skipped */
    int64_t queue_us, prefill_us,
        decode_us; /* waiting in the engine; steps that held prompt rows; the others */
    int max_batch; /* most sequences (beams counted each) that shared one of its steps, its own included */
    double flops;
} decoder_result;

/* How far a request has come, for who must know what a crash may be due to. */
typedef enum {
    DECODER_BEGINS, /* its first step comes now */
    DECODER_WAITS,  /* it is left out of the step that comes */
    DECODER_MOVES, /* its first step is over, and there is no token to show it: a search with beams */
} decoder_progress;

/* Callbacks; ctx as given.  on_token: one call per new token in order (forced ones are not new, index counts
 * them), with the text that became certain (whole UTF-8 characters; may be empty); with beams there is a
 * single burst at the end.
 * on_done: exactly once per submitted request, st == TY_OK with result, or a failure with text. */
typedef struct {
    void *ctx;
    void (*on_token)(void *ctx, const decoder_token *token, int index, const char *text,
                     size_t len);
    void (*on_done)(void *ctx, ty_status st, const decoder_result *result, const ty_err *err);
    /* May be NULL.  DECODER_BEGINS only after DECODER_WAITS; it must not cancel. */
    void (*on_progress)(void *ctx, decoder_progress p);
} decoder_sink;

typedef struct {
    const ty_chat_request *request; /* borrowed for the call */
    const int32_t *forced; /* [n_forced] the answer's first tokens, borrowed for the call */
    int n_forced;          /* the engine goes on behind them; not with beams */
    const char *adapter;   /* identity of the one that its rows have; NULL or "": none */
    const float *visual;   /* [n_visual, rows, D], borrowed for the call (copied) */
    int n_visual, visual_rows;
    int64_t deadline_unix_us; /* 0 = none; passed: TY_ETIMEOUT */
    bool
        adjacent_ok; /* two adjacent placeholders pass, as one picture (NOTES §5: the reference's quirk);
                         the offline command sets it, a service never does */
    decoder_sink sink;
} decoder_request;

/* Checks, renders, tokenises and queues.  A failure here calls no sink.  *handle names the request
 * for decoder_cancel.  Fails: TY_EINVAL (placeholders do not match the pictures, forced tokens that cannot be
 * an answer's beginning…), TY_ESHAPE (visual
 * width), TY_ENOTFOUND (no such adapter), TY_ECONTEXT (prompt + 1 does not fit; the text has both numbers), TY_EOVERLOAD. */
ty_status decoder_submit(decoder *d, const decoder_request *r, uint64_t *handle, ty_err *err);
/* on_done comes with TY_ECANCELED, before this returns.  Unknown handles are ignored. */
void decoder_cancel(decoder *d, uint64_t handle);
/* Runs one batch.  Returns the number of requests still queued or live: 0 = idle. */
int decoder_step(decoder *d);

/* Offline: the whole prompt's logits and intermediates, no batching.  ids as the goldens store them
 * (runs of -1).  logits_rows: 0 none, 1 the last, -1 all -> *logits [rows, V] (free() it). */
ty_status decoder_score(decoder *d, const decoder_request *r, int logits_rows, ty_ids *input_ids,
                        float **logits, int64_t *rows, const ty_dump *dump, ty_err *err);

/* For /metrics and leak checks. */
typedef struct {
    int queued, live_requests, live_rows;
    int pages_total, pages_used; /* used: by requests */
    int pages_cached;            /* kept for later prompts, and free when they are needed */
    int pages_free;              /* total = used + cached + free */
    int64_t tokens_out, prompt_rows_in, steps;
    int64_t prompt_rows_reused; /* not in prompt_rows_in */
} decoder_stats;
void decoder_get_stats(const decoder *d, decoder_stats *s);

#endif
