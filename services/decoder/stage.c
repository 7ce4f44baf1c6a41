#include "services/decoder/stage.h"

#include "common/base/clock.h"
#include "common/wire/chat_codec.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PIECE_BYTES_MAX = 1 << 12 };

/* What an open job needs besides the engine's own request. */
typedef struct decoder_open_job {
    decoder_service *s;
    struct decoder_open_job *prev, *next;
    ty_job *job;
    uint64_t handle;
    bool failed;       /* a chunk could not be made or sent */
    int64_t sent_us;   /* when the last chunk left; 0: none has */
    Tyto__Chunk *held; /* tokens on their way to be one; NULL: none */
} open_job;

/*
 * Behind an answer's first token the next step would fill every core at once, and the threads that carry the token
 * to the client would wait for the scheduler's tick, 3 to 4 ms; so that step is followed by a pause in which they run:
 * seven threads one after the other, 0.6 ms.
 */
enum { FIRST_TOKEN_PAUSE_US = 600 };

static void link_job(decoder_service *s, open_job *o) {
    o->next = s->open;
    if (o->next) o->next->prev = o;
    s->open = o;
}

static void unlink_job(open_job *o) {
    if (o->next) o->next->prev = o->prev;
    if (o->prev)
        o->prev->next = o->next;
    else
        o->s->open = o->next;
}

/* ---- chunks ---- */

static bool set_piece(const decoder *d, int32_t id, ProtobufCBinaryData *out) {
    ty_buf b = ty_buf_make(PIECE_BYTES_MAX);
    if (ty_tokenizer_decode_one(decoder_tokenizer(d), id, false, &b) != TY_OK) {
        ty_buf_clear(&b);
        return false;
    }
    out->len = b.len;
    out->data = (uint8_t *)ty_buf_take(&b);
    return out->data != NULL;
}

static bool set_alternatives(const decoder *d, const decoder_token *t, Tyto__TokenInfo *info) {
    if (t->n_top == 0) return true;
    info->top = calloc((size_t)t->n_top, sizeof(*info->top));
    if (!info->top) return false;
    for (int i = 0; i < t->n_top; i++) {
        Tyto__TokenAlternative *a = malloc(sizeof(*a));
        if (!a) return false;
        tyto__token_alternative__init(a);
        info->top[info->n_top++] = a;
        a->id = t->top[i].id;
        a->logprob = (double)t->top[i].logprob;
        if (!set_piece(d, a->id, &a->piece)) return false;
    }
    return true;
}

static bool set_text(Tyto__TokenInfo *info, const char *text, size_t len) {
    if (len == 0) return true;
    info->text = strndup(text, len);
    return info->text != NULL;
}

/* False when out of memory. */
static bool hold(open_job *o, const decoder_token *t, int index, const char *text, size_t len,
                 bool logprobs) {
    const decoder *d = o->s->d;
    if (!o->held) {
        o->held = ty_pb_new(&tyto__chunk__descriptor);
        if (!o->held) return false;
        o->held->first = (uint32_t)index;
    }
    Tyto__TokenInfo *info = ty_pb_new(&tyto__token_info__descriptor);
    if (!info) return false;
    info->id = t->id;
    info->logprob = (double)t->logprob;
    if (set_text(info, text, len) &&
        (!logprobs || (set_piece(d, t->id, &info->piece) && set_alternatives(d, t, info))) &&
        ty_pb_append(&o->held->tokens, &o->held->n_tokens, info) == TY_OK)
        return true;
    tyto__token_info__free_unpacked(info, NULL);
    return false;
}

/* False when it could not be sent. */
static bool send_held(open_job *o) {
    Tyto__Chunk *c = o->held;
    o->held = NULL;
    if (!c) return true;
    o->sent_us = ty_now_us();
    return ty_job_chunk(o->job, c, NULL) == TY_OK;
}

/* A job that comes may make the next step a long one: nobody's token waits for that. */
static void send_all_held(decoder_service *s) {
    for (open_job *o = s->open, *next; o; o = next) {
        next = o->next;
        o->failed = !send_held(o);
        if (o->failed) decoder_cancel(s->d, o->handle); /* calls finish: o is gone */
    }
}

static void send_token(void *ctx, const decoder_token *t, int index, const char *text, size_t len) {
    open_job *o = ctx;
    const Tyto__Sampling *s = ty_job_envelope(o->job)->task->decode->sampling;
    bool logprobs = s && s->logprobs;
    /* A search that starts over elsewhere may find another answer: it goes out whole, in the result. */
    if (s && s->num_beams > 1) return;
    bool first = o->sent_us == 0, due = first || ty_now_us() - o->sent_us >= o->s->chunk_us;
    o->failed = !hold(o, t, index, text, len, logprobs) || (due && !send_held(o));
    o->s->first_token |= first;
    if (o->failed) decoder_cancel(o->s->d, o->handle); /* calls finish: o is gone */
}

static void send_progress(void *ctx, decoder_progress p) {
    static const Tyto__Progress__State state[] = {[DECODER_BEGINS] = TYTO__PROGRESS__STATE__BEGINS,
                                                  [DECODER_WAITS] = TYTO__PROGRESS__STATE__WAITS,
                                                  [DECODER_MOVES] = TYTO__PROGRESS__STATE__MOVES};
    const open_job *o = ctx;
    ty_job_progress(o->job, state[p]);
}

/* ---- the end ---- */

/* The identity of the adapter that the job wants, "" for none. */
static const char *adapter_of(const ty_job *job) {
    const Tyto__Envelope *e = ty_job_envelope(job);
    return e->hop < e->n_itinerary ? e->itinerary[e->hop]->adapter : "";
}

static Tyto__DecodeResult *make_result(const decoder_result *r) {
    Tyto__DecodeResult *out = malloc(sizeof(*out));
    if (!out) return NULL;
    tyto__decode_result__init(out);
    out->finish_reason = strdup(r->finish == DECODER_STOP ? "stop" : "length");
    out->prompt_tokens = (uint32_t)r->n_prompt;
    out->visual_tokens = (uint32_t)r->n_visual;
    out->cached_tokens = (uint32_t)(r->n_cached < r->n_prompt ? r->n_cached : r->n_prompt);
    out->completion_tokens = (uint32_t)r->n_token;
    out->score = r->score;
    out->text = strndup(r->text, r->text_len);
    out->ids = malloc((size_t)(r->n_token + 1) * sizeof(int32_t));
    if (!out->finish_reason || !out->text || !out->ids) {
        tyto__decode_result__free_unpacked(out, NULL);
        return NULL;
    }
    if (r->n_token > 0) memcpy(out->ids, r->token, (size_t)r->n_token * sizeof(int32_t));
    out->n_ids = (size_t)r->n_token;
    return out;
}

/* By the name that it has here, for the receipt; NULL: none. */
static const char *adapter_name(const decoder *d, const ty_job *job) {
    int i = decoder_find_adapter(d, adapter_of(job));
    return i >= 0 ? decoder_adapter_name(d, i) : NULL;
}

static void finish(void *ctx, ty_status st, const decoder_result *r, const ty_err *err) {
    open_job *o = ctx;
    ty_job *job = o->job;
    Tyto__DecodeResult *result = NULL;
    const char *adapter = adapter_name(o->s->d, job);
    bool lost = o->failed || !send_held(o);
    if (o->held) tyto__chunk__free_unpacked(o->held, NULL);
    unlink_job(o);
    free(o);
    if (st != TY_OK && !lost) {
        ty_job_fail(job, st, err->text);
        return;
    }
    if (!lost) result = make_result(r);
    if (!result) {
        ty_job_fail(job, TY_ENOMEM, "no memory for the answer's messages");
        return;
    }
    ty_job_set_flops(job, r->flops);
    ty_job_set_decode_timing(job, &(ty_decode_timing){.queue_us = (uint64_t)r->queue_us,
                                                      .prefill_us = (uint64_t)r->prefill_us,
                                                      .decode_us = (uint64_t)r->decode_us,
                                                      .batch = (uint32_t)r->max_batch,
                                                      .cached_tokens = (uint32_t)r->n_cached,
                                                      .prefill_tokens = (uint32_t)r->n_prefilled,
                                                      .adapter = adapter});
    ty_job_done(job, result);
}

/* ---- jobs in ---- */

/* One picture's tokens: [rows, D] (or [1, rows, D]) f32, rows the same in all. */
static ty_status check_picture(const decoder *d, const char *name, const ty_tensor *t, int *rows,
                               ty_err *err) {
    char shape[128];
    int n = t->n_dim;
    bool ok = t->dtype == TY_F32 && (n == 2 || (n == 3 && t->shape[0] == 1));
    if (strcmp(name, "visual_tokens") != 0)
        return ty_fail(err, TY_EFORMAT, "tensor \"%s\" is none that a decoder takes", name);
    if (ok)
        ok = t->shape[n - 1] == decoder_width(d) && t->shape[n - 2] >= 1 &&
             t->shape[n - 2] <= decoder_context(d);
    if (ok && *rows > 0 && t->shape[n - 2] != *rows) ok = false;
    if (!ok)
        return ty_fail(err, TY_ESHAPE, "visual_tokens is %s %s, want f32 [rows,%d], rows equal",
                       ty_dtype_name((int)t->dtype), ty_tensor_shape_text(t, shape, sizeof(shape)),
                       decoder_width(d));
    *rows = (int)t->shape[n - 2];
    return TY_OK;
}

/* Collects the job's pictures side by side into *visual (free() it). */
static ty_status take_pictures(const decoder *d, ty_job *job, float **visual, decoder_request *r,
                               ty_err *err) {
    int n = ty_job_tensor_count(job);
    *visual = NULL;
    if (n > TY_CHAT_IMAGES_MAX)
        return ty_fail(err, TY_ELIMIT, "%d pictures, at most %d", n, TY_CHAT_IMAGES_MAX);
    for (int i = 0; i < n; i++) {
        const char *name;
        ty_tensor t;
        ty_status st = ty_job_tensor(job, i, &name, &t, err);
        if (st == TY_OK) st = check_picture(d, name, &t, &r->visual_rows, err);
        if (st != TY_OK) return st;
        if (!*visual) *visual = malloc(t.size_bytes * (size_t)n);
        if (!*visual) return ty_fail(err, TY_ENOMEM, "no memory for %d pictures", n);
        memcpy((char *)*visual + t.size_bytes * (size_t)i, t.data, t.size_bytes);
    }
    r->visual = *visual;
    r->n_visual = n;
    return TY_OK;
}

static ty_status start(decoder *d, ty_job *job, open_job *o, ty_err *err) {
    const Tyto__Envelope *env = ty_job_envelope(job);
    ty_chat_request request = {0};
    float *visual = NULL;
    if (!env->task || !env->task->decode)
        return ty_fail(err, TY_EFORMAT, "the task for the decoder holds no DecodeTask");
    ty_status st = ty_chat_codec_decode(env->task->decode, &request, err);
    if (st != TY_OK) return st;
    if (env->task->decode->n_forced > (size_t)decoder_context(d)) {
        ty_chat_request_clear(&request);
        return ty_fail(err, TY_EINVAL, "%zu tokens are forced, the context holds %d",
                       env->task->decode->n_forced, decoder_context(d));
    }
    decoder_request r = {
        .request = &request,
        .forced = env->task->decode->forced,
        .n_forced = (int)env->task->decode->n_forced,
        .adapter = adapter_of(job),
        .deadline_unix_us = ty_job_deadline_unix_us(job),
        .sink = {
            .ctx = o, .on_token = send_token, .on_done = finish, .on_progress = send_progress}};
    st = take_pictures(d, job, &visual, &r, err);
    if (st == TY_OK) st = decoder_submit(d, &r, &o->handle, err);
    free(visual);
    ty_chat_request_clear(&request);
    return st;
}

static void submit(void *ctx, ty_job *job) {
    ty_err err = {0};
    decoder_service *s = ctx;
    open_job *o = calloc(1, sizeof(*o));
    if (!o) {
        ty_job_fail(job, TY_ENOMEM, "no memory for a request");
        return;
    }
    send_all_held(s);
    *o = (open_job){.s = s, .job = job};
    link_job(s, o);
    ty_job_set_user(job, o);
    ty_status st = start(s->d, job, o, &err);
    if (st == TY_OK) return;
    unlink_job(o);
    free(o);
    ty_job_fail(job, st, err.text);
}

static int step(void *ctx) {
    decoder_service *s = ctx;
    s->first_token = false;
    int left = decoder_step(s->d);
    if (s->first_token)
        (void)nanosleep(&(struct timespec){.tv_nsec = FIRST_TOKEN_PAUSE_US * 1000}, NULL);
    return left;
}

static void cancel(void *ctx, ty_job *job) {
    const decoder_service *s = ctx;
    const open_job *o = ty_job_user(job);
    decoder_cancel(s->d, o->handle);
}

static void pages(void *ctx, ty_stage_pages *p) {
    const decoder_service *service = ctx;
    decoder_stats s;
    decoder_get_stats(service->d, &s);
    p->used = (uint32_t)s.pages_used;
    p->cached = (uint32_t)s.pages_cached;
    p->total = (uint32_t)s.pages_total;
}

const ty_stage decoder_stage = {
    .name = "decoder", .submit = submit, .step = step, .cancel = cancel, .pages = pages};
