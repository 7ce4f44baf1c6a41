/*
 * decoder.c - the engine: admission, one batch per step, accounting.
 *
 * A request waits in the queue until the pages that it can need at most are free (so that a started
 * request never waits for memory, and requests cannot block each other), in order of arrival.  A step
 * takes one row for each live sequence and at most prefill_chunk prompt rows of started requests.
 */
#include "services/decoder/decoder.h"

#include "common/base/clock.h"
#include "services/decoder/adapters.h"
#include "services/decoder/splice.h"
#include "services/decoder/task.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DEFAULT_ROWS = 64, DEFAULT_CHUNK = 256, DEFAULT_QUEUE = 1024, DEFAULT_CONTEXTS = 4 };

struct decoder {
    ty_gguf *gguf;
    ty_tokenizer *tokenizer;
    llama *model;
    kv_pool *kv;
    prefix_index *prefix;
    adapters adapters;
    char model_id[TY_MODEL_ID_SIZE];
    int context, max_rows, prefill_chunk;
    size_t max_queue;
    task_env env;

    task *queue, **queue_end; /* not started, oldest first */
    size_t n_queue;
    task **live; /* [max_rows] started, oldest first */
    int n_live, live_rows, pages_reserved;
    uint64_t next_handle;
    bool stepping; /* closed tasks are swept at the end of the step */

    float *logits;    /* [max_rows, V] */
    llama_span *span; /* [max_rows] */
    task **owner;     /* [max_rows] whose logits come with span i; NULL: none */

    int64_t tokens_out, prompt_rows_in, prompt_rows_reused, steps;
};

/* ---- create, destroy ---- */

static size_t ram_bytes(void) {
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGE_SIZE);
    return pages > 0 && size > 0 ? (size_t)pages * (size_t)size : (size_t)1 << 30;
}

/* Room for a few full contexts, at most a quarter of the memory; never less than one page. */
static size_t default_kv_bytes(const kv_shape *shape, int context) {
    size_t page = kv_page_bytes(shape);
    size_t want = page * (size_t)kv_pages_for(context) * DEFAULT_CONTEXTS;
    size_t limit = ram_bytes() / 4;
    if (want > limit) want = limit;
    return want > page ? want : page;
}

static int pages_to_keep(const decoder *d, int mib) {
    int all = kv_pool_pages(d->kv);
    if (mib <= 0) return mib < 0 ? 0 : all;
    size_t n = ((size_t)mib << 20) / kv_page_bytes(kv_pool_shape(d->kv));
    return n < (size_t)all ? (int)n : all;
}

static ty_status make_kv(decoder *d, const decoder_options *opt, ty_err *err) {
    const llama_dims *m = llama_get_dims(d->model);
    kv_shape shape = {
        .n_layer = m->n_layer, .n_kv_head = m->n_kv_head, .d = m->d_head, .dtype = opt->kv};
    size_t bytes = opt->kv_bytes ? opt->kv_bytes : default_kv_bytes(&shape, d->context);
    ty_status st = kv_pool_create(&d->kv, &shape, bytes, err);
    if (st != TY_OK) return st;
    return prefix_create(&d->prefix, d->kv, 1 + d->adapters.n, pages_to_keep(d, opt->prefix_mib),
                         err);
}

static ty_status make_buffers(decoder *d, ty_err *err) {
    size_t rows = (size_t)d->max_rows, V = (size_t)d->env.n_vocab;
    d->live = calloc(rows, sizeof(*d->live));
    d->span = calloc(rows, sizeof(*d->span));
    d->owner = calloc(rows, sizeof(*d->owner));
    d->logits = malloc(rows * V * sizeof(float));
    d->env.scratch = malloc(V * sizeof(*d->env.scratch));
    if (!d->live || !d->span || !d->owner || !d->logits || !d->env.scratch)
        return ty_fail(err, TY_ENOMEM, "no memory for %d rows of logits", d->max_rows);
    return TY_OK;
}

static ty_status read_visual_rows(decoder *d, ty_err *err) {
    int64_t v = 0;
    if (!ty_gguf_has(d->gguf, "tyto.visual_rows")) return TY_OK;
    ty_status st = ty_gguf_get_int(d->gguf, "tyto.visual_rows", &v, err);
    if (st == TY_OK && (v < 1 || v > 1 << 16))
        return ty_fail(err, TY_EFORMAT, "%s: tyto.visual_rows is %lld", ty_gguf_path(d->gguf),
                       (long long)v);
    d->env.visual_rows = (int)v;
    return st;
}

/* The family says how prompts are written; a file made elsewhere says none. */
static ty_status read_family(decoder *d, ty_err *err) {
    const char *text;
    size_t len;
    char family[64] = "";
    if (ty_gguf_has(d->gguf, "tyto.family")) {
        ty_status st = ty_gguf_get_str(d->gguf, "tyto.family", &text, &len, err);
        if (st != TY_OK) return st;
        snprintf(family, sizeof(family), "%.*s", (int)(len < 63 ? len : 63), text);
    }
    d->env.form = ty_prompt_form_of(family);
    return TY_OK;
}

static ty_status load(decoder *d, const char *path, const decoder_options *opt, ty_err *err) {
    ty_status st = ty_gguf_open(&d->gguf, path, err);
    if (st != TY_OK) return st;
    ty_gguf_identity(d->gguf, d->model_id);
    st = llama_create(&d->model, d->gguf, &opt->run, opt->context, d->max_rows + d->prefill_chunk,
                      d->max_rows > d->prefill_chunk ? d->max_rows : d->prefill_chunk, err);
    if (st != TY_OK) return st;
    const llama_dims *m = llama_get_dims(d->model);
    d->context = opt->context > 0 ? opt->context : m->context;
    st = ty_tokenizer_from_gguf(&d->tokenizer, d->gguf, err);
    if (st == TY_OK && ty_tokenizer_size(d->tokenizer) > m->n_vocab)
        st = ty_fail(err, TY_EFORMAT, "%s: %d tokens, but only %d embeddings", path,
                     ty_tokenizer_size(d->tokenizer), m->n_vocab);
    if (st == TY_OK) st = read_visual_rows(d, err);
    if (st == TY_OK) st = read_family(d, err);
    if (st == TY_OK)
        st = adapters_load(&d->adapters, d->model, opt->adapters, opt->n_adapters, err);
    if (st == TY_OK) st = make_kv(d, opt, err);
    if (st != TY_OK) return st;
    d->env.tokenizer = d->tokenizer;
    d->env.width = m->d_model;
    d->env.n_vocab = m->n_vocab;
    d->env.context = d->context;
    return make_buffers(d, err);
}

ty_status decoder_create(decoder **out, const char *model_path, const decoder_options *opt,
                         ty_err *err) {
    *out = NULL;
    decoder *d = calloc(1, sizeof(*d));
    if (!d) return ty_fail(err, TY_ENOMEM, "no memory for the decoder");
    d->queue_end = &d->queue;
    d->max_rows = opt->max_rows > 0 ? opt->max_rows : DEFAULT_ROWS;
    d->prefill_chunk = opt->prefill_chunk > 0 ? opt->prefill_chunk : DEFAULT_CHUNK;
    d->max_queue = opt->max_queue ? opt->max_queue : DEFAULT_QUEUE;
    ty_status st = load(d, model_path, opt, err);
    if (st != TY_OK) {
        decoder_destroy(&d);
        return st;
    }
    *out = d;
    return TY_OK;
}

void decoder_destroy(decoder **dd) {
    decoder *d = *dd;
    if (!d) return;
    while (d->queue) {
        task *t = d->queue;
        d->queue = t->next;
        task_fail(t, TY_ECANCELED, "the decoder shuts down");
        task_destroy(&t, d->kv);
    }
    for (int i = 0; i < d->n_live; i++) {
        task_fail(d->live[i], TY_ECANCELED, "the decoder shuts down");
        task_destroy(&d->live[i], d->kv);
    }
    free(d->live);
    free(d->span);
    free(d->owner);
    free(d->logits);
    free(d->env.scratch);
    adapters_clear(&d->adapters);
    llama_destroy(&d->model);
    prefix_destroy(&d->prefix);
    kv_pool_destroy(&d->kv);
    ty_tokenizer_destroy(&d->tokenizer);
    ty_gguf_close(&d->gguf);
    free(d);
    *dd = NULL;
}

const char *decoder_model_id(const decoder *d) {
    return d->model_id;
}
int decoder_width(const decoder *d) {
    return d->env.width;
}
int decoder_vocab(const decoder *d) {
    return d->env.n_vocab;
}
int decoder_context(const decoder *d) {
    return d->context;
}
const ty_tokenizer *decoder_tokenizer(const decoder *d) {
    return d->tokenizer;
}
int decoder_adapters(const decoder *d) {
    return d->adapters.n;
}
const char *decoder_adapter_name(const decoder *d, int i) {
    return d->adapters.item[i].name;
}
const char *decoder_adapter_id(const decoder *d, int i) {
    return d->adapters.item[i].id;
}
int decoder_find_adapter(const decoder *d, const char *id) {
    return adapters_find(&d->adapters, id);
}

/* ---- submit, cancel ---- */

/* What could never start must be refused now, not wait for ever. */
static ty_status can_ever_start(const decoder *d, const task *t, ty_err *err) {
    if (t->s.num_beams > d->max_rows)
        return ty_fail(err, TY_ELIMIT, "%d beams, but this decoder runs at most %d rows together",
                       t->s.num_beams, d->max_rows);
    if (t->pages > kv_pool_pages(d->kv))
        return ty_fail(err, TY_ELIMIT,
                       "the request can need %d KV pages of %d tokens, the decoder has %d; lower "
                       "max_tokens or num_beams, or give the decoder more KV memory (--kv-mib)",
                       t->pages, KV_PAGE, kv_pool_pages(d->kv));
    return TY_OK;
}

/* A task for the request, with its adapter. */
static ty_status make_task(task **t, const decoder *d, const decoder_request *r, int room,
                           ty_err *err) {
    *t = NULL;
    int i = r->adapter && *r->adapter ? decoder_find_adapter(d, r->adapter) : -1;
    if (i < 0 && r->adapter && *r->adapter)
        return ty_fail(err, TY_ENOTFOUND, "this decoder has no adapter %.40s", r->adapter);
    ty_status st = task_create(t, &d->env, r, room, err);
    if (st != TY_OK || i < 0) return st;
    (*t)->adapter = d->adapters.item[i].net;
    (*t)->tree = 1 + i;
    return TY_OK;
}

ty_status decoder_submit(decoder *d, const decoder_request *r, uint64_t *handle, ty_err *err) {
    if (d->n_queue >= d->max_queue)
        return ty_fail(err, TY_EOVERLOAD, "%zu requests wait already; try again later", d->n_queue);
    task *t;
    ty_status st = make_task(&t, d, r, 1, err);
    if (st == TY_OK) st = can_ever_start(d, t, err);
    if (st != TY_OK) {
        task_destroy(&t, d->kv);
        return st;
    }
    t->handle = *handle = ++d->next_handle;
    *d->queue_end = t;
    d->queue_end = &t->next;
    d->n_queue++;
    return TY_OK;
}

/* Takes closed tasks out of the queue and out of the batch. */
static void sweep(decoder *d) {
    task **at = &d->queue;
    while (*at) {
        task *t = *at;
        if (t->phase != TASK_CLOSED) {
            at = &t->next;
            continue;
        }
        *at = t->next;
        d->n_queue--;
        task_destroy(&t, d->kv);
    }
    d->queue_end = at;
    int kept = 0;
    for (int i = 0; i < d->n_live; i++) {
        task *t = d->live[i];
        if (t->phase != TASK_CLOSED) {
            d->live[kept++] = t;
            continue;
        }
        d->live_rows -= t->s.num_beams;
        d->pages_reserved -= t->pages;
        task_leave(t, d->prefix);
        task_destroy(&t, d->kv);
    }
    d->n_live = kept;
}

static task *find(const decoder *d, uint64_t handle) {
    for (task *t = d->queue; t; t = t->next)
        if (t->handle == handle) return t;
    for (int i = 0; i < d->n_live; i++)
        if (d->live[i]->handle == handle) return d->live[i];
    return NULL;
}

void decoder_cancel(decoder *d, uint64_t handle) {
    task *t = find(d, handle);
    if (!t) return;
    task_fail(t, TY_ECANCELED, "the request was cancelled");
    if (!d->stepping) sweep(d);
}

/* ---- one step ---- */

static void count_time(task *t, int64_t *bucket) {
    int64_t now = ty_now_us();
    *bucket += now - t->mark_us;
    t->mark_us = now;
}

static void check_deadline(task *t, int64_t now_unix_us) {
    if (t->deadline_unix_us > 0 && now_unix_us > t->deadline_unix_us)
        task_fail(t, TY_ETIMEOUT,
                  t->phase == TASK_QUEUED ? "the deadline passed while the request waited"
                                          : "the deadline passed before the answer was complete");
}

static void check_deadlines(decoder *d) {
    int64_t now = ty_now_unix_us();
    for (task *t = d->queue; t; t = t->next) check_deadline(t, now);
    for (int i = 0; i < d->n_live; i++) check_deadline(d->live[i], now);
    sweep(d);
}

/* Starts what fits, in order of arrival: a big request at the head holds the others back, so that it
 * is not overtaken for ever. */
static void admit(decoder *d) {
    while (d->queue) {
        task *t = d->queue;
        if (d->live_rows + t->s.num_beams > d->max_rows ||
            d->pages_reserved + t->pages > kv_pool_pages(d->kv))
            return;
        d->queue = t->next;
        if (!d->queue) d->queue_end = &d->queue;
        d->n_queue--;
        t->next = NULL;
        d->live[d->n_live++] = t;
        d->live_rows += t->s.num_beams;
        d->pages_reserved += t->pages;
        t->phase = TASK_PREFILL;
        count_time(t, &t->queue_us);
    }
}

typedef struct {
    int n_span, sequences, prompt_rows;
} batch;

/* Prompts come in order of arrival until the chunk is full; their spans stand behind the live rows. */
static batch gather(decoder *d) {
    batch b = {0};
    for (int i = 0; i < d->n_live; i++) {
        task *t = d->live[i];
        if (t->phase != TASK_DECODE) continue;
        int n = task_decode_spans(t, d->span + b.n_span);
        for (int k = 0; k < n; k++) {
            d->owner[b.n_span + k] = t;
            t->flops += llama_flops(d->model, t->seq[k].len, 1, 1) + adapt_flops(t->adapter);
        }
        b.n_span += n;
    }
    b.sequences = b.n_span;
    for (int i = 0; i < d->n_live && b.prompt_rows < d->prefill_chunk; i++) {
        task *t = d->live[i];
        if (t->phase != TASK_PREFILL) continue;
        if (t->n_done == 0) {
            task_tell(t, DECODER_BEGINS);
            task_reuse(t, d->prefix);
            d->prompt_rows_reused += t->n_cached;
        }
        llama_span *s = d->span + b.n_span;
        task_prefill_span(t, d->prefill_chunk - b.prompt_rows, s);
        t->flops +=
            llama_flops(d->model, s->seq->len, s->n, s->n_logits) + s->n * adapt_flops(t->adapter);
        b.prompt_rows += s->n;
        d->owner[b.n_span++] = t;
        b.sequences++;
    }
    return b;
}

/* Time of this step: queue for those that the full chunk left out. */
static void count_step(decoder *d, const batch *b) {
    for (int i = 0; i < b->n_span; i++) {
        task *t = d->owner[i];
        count_time(t, t->phase == TASK_PREFILL ? &t->prefill_us : &t->decode_us);
        if (b->sequences > t->max_batch) t->max_batch = b->sequences;
    }
    for (int i = 0; i < d->n_live; i++)
        if (d->live[i]->phase == TASK_PREFILL && d->live[i]->n_done == 0)
            count_time(d->live[i], &d->live[i]->queue_us);
    d->steps++;
    d->prompt_rows_in += b->prompt_rows;
}

static void close_if_done(decoder *d, task *t, ty_status st, bool done, const ty_err *err) {
    if (t->phase == TASK_CLOSED) return; /* cancelled by its own sink */
    if (st == TY_OK && !done) return;
    if (st == TY_OK) {
        task_succeed(t);
        return;
    }
    task_release(t, d->kv); /* nothing of it is left to the index */
    task_fail(t, st, err->text);
}

/* Hands each task its logits; spans of one task stand together. */
static void scatter(decoder *d, const batch *b) {
    float *row = d->logits;
    for (int i = 0; i < b->n_span;) {
        task *t = d->owner[i];
        int n = 0, n_logits = 0;
        for (; i + n < b->n_span && d->owner[i + n] == t; n++) n_logits += d->span[i + n].n_logits;
        if (t->phase == TASK_PREFILL) task_share_prompt(t, d->prefix);
        if (n_logits > 0 && t->phase != TASK_CLOSED) {
            ty_err err = {0};
            bool done = false;
            int before = t->seen.n;
            ty_status st = task_advance(t, &d->env, d->kv, row, &done, &err);
            d->tokens_out += t->seen.n - before;
            close_if_done(d, t, st, done, &err);
        }
        row += (size_t)n_logits * (size_t)d->env.n_vocab;
        i += n;
    }
}

/* What their new pages hold is not known: nothing of them is left to the index. */
static void fail_batch(decoder *d, const batch *b, ty_status st, const ty_err *err) {
    for (int i = 0; i < b->n_span; i++) {
        task_release(d->owner[i], d->kv);
        task_fail(d->owner[i], st, err->text);
    }
}

/* They need no forward. */
static void close_complete(decoder *d) {
    for (int i = 0; i < d->n_live; i++)
        if (d->live[i]->complete) task_succeed(d->live[i]);
}

/* Before the forward pass: if the process dies in it, they had no part in that. */
static void tell_who_waits(decoder *d) {
    for (task *t = d->queue; t; t = t->next) task_tell(t, DECODER_WAITS);
    for (int i = 0; i < d->n_live; i++)
        if (d->live[i]->phase == TASK_PREFILL && d->live[i]->n_done == 0)
            task_tell(d->live[i], DECODER_WAITS);
}

int decoder_step(decoder *d) {
    d->stepping = true;
    check_deadlines(d);
    admit(d);
    close_complete(d);
    batch b = gather(d);
    tell_who_waits(d);
    if (b.n_span > 0) {
        ty_err err = {0};
        ty_status st = llama_forward(d->model, d->kv, d->span, b.n_span, d->logits, NULL, &err);
        count_step(d, &b);
        if (st == TY_OK)
            scatter(d, &b);
        else
            fail_batch(d, &b, st, &err);
    }
    sweep(d);
    d->stepping = false;
    return (int)d->n_queue + d->n_live;
}

void decoder_get_stats(const decoder *d, decoder_stats *s) {
    *s = (decoder_stats){.queued = (int)d->n_queue,
                         .live_requests = d->n_live,
                         .live_rows = d->live_rows,
                         .pages_total = kv_pool_pages(d->kv),
                         .pages_used = kv_pool_used(d->kv),
                         .pages_cached = kv_pool_cached(d->kv),
                         .pages_free = kv_pool_free(d->kv),
                         .tokens_out = d->tokens_out,
                         .prompt_rows_in = d->prompt_rows_in,
                         .prompt_rows_reused = d->prompt_rows_reused,
                         .steps = d->steps};
}

/* ---- offline scores ---- */

typedef struct {
    float *logits; /* NULL: none */
    int want;      /* rows of it, from the end */
    float *hidden; /* [n_layer + 1][T, D], NULL: none */
} score_out;

static ty_status score_chunks(decoder *d, task *t, score_out *o, ty_err *err) {
    int T = t->prompt.n, first = T - o->want;
    size_t V = (size_t)d->env.n_vocab, D = (size_t)d->env.width;
    for (int at = 0; at < T;) {
        int n = T - at < d->prefill_chunk ? T - at : d->prefill_chunk;
        int from = first > at ? first : at, n_logits = at + n > from ? at + n - from : 0;
        llama_span s = {.seq = &t->seq[0],
                        .row = t->row + at,
                        .n = n,
                        .n_logits = n_logits,
                        .adapter = t->adapter};
        float *row = n_logits ? o->logits + (size_t)(from - first) * V : NULL;
        llama_trace trace = {.stride = (size_t)T * D};
        if (o->hidden) trace.data = o->hidden + (size_t)at * D;
        ty_status st = llama_forward(d->model, d->kv, &s, 1, row, o->hidden ? &trace : NULL, err);
        if (st != TY_OK) return st;
        at += n;
    }
    return TY_OK;
}

static void dump_hidden(const decoder *d, const float *hidden, int T, const ty_dump *dump) {
    int64_t shape[2] = {T, d->env.width};
    int n = llama_get_dims(d->model)->n_layer;
    ty_dump_put(dump, "inputs_embeds", 2, shape, hidden);
    for (int k = 0; k <= n; k++) {
        char name[32];
        snprintf(name, sizeof(name), "hidden%d", k);
        ty_dump_put(dump, name, 2, shape, hidden + (size_t)k * (size_t)(T * shape[1]));
    }
}

static ty_status score(decoder *d, task *t, int rows, float **logits, int64_t *n_rows,
                       const ty_dump *dump, ty_err *err) {
    int T = t->prompt.n, n_state = llama_get_dims(d->model)->n_layer + 1;
    score_out o = {.want = rows < 0 ? T : rows > T ? T : rows};
    if (kv_pages_for(T) > kv_pool_pages(d->kv) - d->pages_reserved)
        return ty_fail(err, TY_EOVERLOAD, "the prompt takes %d KV pages, %d are not reserved",
                       kv_pages_for(T), kv_pool_pages(d->kv) - d->pages_reserved);
    if (o.want > 0) o.logits = malloc((size_t)o.want * (size_t)d->env.n_vocab * sizeof(float));
    if (dump) o.hidden = malloc((size_t)n_state * (size_t)T * (size_t)d->env.width * sizeof(float));
    ty_status st = TY_OK;
    if ((o.want > 0 && !o.logits) || (dump && !o.hidden))
        st = ty_fail(err, TY_ENOMEM, "no memory for %d rows of logits", o.want);
    if (st == TY_OK && (o.logits || o.hidden)) st = score_chunks(d, t, &o, err);
    if (st == TY_OK && dump) dump_hidden(d, o.hidden, T, dump);
    free(o.hidden);
    if (st != TY_OK) {
        free(o.logits);
        return st;
    }
    *logits = o.logits;
    *n_rows = o.want;
    return TY_OK;
}

ty_status decoder_score(decoder *d, const decoder_request *r, int logits_rows, ty_ids *input_ids,
                        float **logits, int64_t *rows, const ty_dump *dump, ty_err *err) {
    task *t;
    *logits = NULL;
    *rows = 0;
    ty_status st = make_task(&t, d, r, 0, err);
    if (st != TY_OK) return st;
    if (splice_written(t->prompt.id, t->prompt.n, r->visual_rows, input_ids) != TY_OK)
        st = ty_fail(err, TY_ENOMEM, "no memory for the prompt's ids");
    if (st == TY_OK) st = score(d, t, logits_rows, logits, rows, dump, err);
    task_destroy(&t, d->kv);
    return st;
}
