/* job.c - one job as the stage sees it: inputs, outputs, numbers for the receipt, and its end. */
#include "common/wire/worker_cache.h"

#include "common/base/clock.h"
#include "common/base/log.h"

#include <stdlib.h>

ty_job *ty_job_create(ty_worker *w, ty_worker_link *l, ty_message **task) {
    ty_job *j = calloc(1, sizeof(*j));
    if (!j) return NULL;
    j->w = w;
    j->link = l;
    j->epoch = l->epoch;
    j->batch = 1;
    j->task = *task;
    *task = NULL;
    return j;
}

void ty_job_destroy(ty_job *j) {
    if (!j) return;
    ty_message_destroy(&j->task);
    ty_message_destroy(&j->reply);
    free(j->tensor);
    free(j->cache_key);
    free(j);
}

ty_status ty_job_verify(ty_job *j, ty_err *err) {
    int n = ty_job_tensor_count(j);
    if (n == 0) return TY_OK;
    j->tensor = calloc((size_t)n, sizeof(*j->tensor));
    if (!j->tensor) return ty_fail(err, TY_ENOMEM, "no memory for %d tensors", n);
    for (int i = 0; i < n; i++) {
        ty_status st = ty_message_tensor(j->task, i, NULL, &j->tensor[i], err);
        if (st != TY_OK) return st;
    }
    return TY_OK;
}

const Tyto__Envelope *ty_job_envelope(const ty_job *j) {
    return j->task->env;
}

int ty_job_tensor_count(const ty_job *j) {
    return (int)j->task->env->n_tensors;
}

ty_status ty_job_tensor(ty_job *j, int i, const char **name, ty_tensor *t, ty_err *err) {
    if (i < 0 || i >= ty_job_tensor_count(j))
        return ty_fail(err, TY_ENOTFOUND, "no tensor %d in a task of %d", i,
                       ty_job_tensor_count(j));
    *t = j->tensor[i];
    if (name) *name = j->task->env->tensors[i]->name;
    return TY_OK;
}

void *ty_job_user(const ty_job *j) {
    return j->user;
}

void ty_job_set_user(ty_job *j, void *user) {
    j->user = user;
}

int64_t ty_job_deadline_unix_us(const ty_job *j) {
    return j->task->env->deadline_unix_us;
}

static void free_output(void *data, void *hint) {
    (void)hint;
    free(data);
}

ty_status ty_job_add_output(ty_job *j, const char *name, Tyto__DType dtype, int n_dim,
                            const int64_t *shape, void *malloced, size_t size, ty_err *err) {
    if (!j->reply) j->reply = ty_message_new();
    if (!j->reply) {
        free(malloced);
        return ty_fail(err, TY_ENOMEM, "no memory for an output");
    }
    return ty_message_add_tensor(j->reply, name, dtype, n_dim, shape, malloced, size, free_output,
                                 NULL, err);
}

void ty_job_set_flops(ty_job *j, double flops) {
    j->flops = flops;
}

void ty_job_set_decode_timing(ty_job *j, const ty_decode_timing *t) {
    j->has_decode = true;
    j->decode = *t;
    j->batch = t->batch;
}

/* ---- answers ---- */

static uint64_t since(int64_t from, int64_t to) {
    return to > from ? (uint64_t)(to - from) : 0;
}

static uint64_t frame_bytes(const ty_message *m) {
    uint64_t n = 0;
    for (size_t i = 0; m && i < m->env->n_tensors; i++) n += m->env->tensors[i]->byte_count;
    return n;
}

/* What this hop cost, measured here. */
static Tyto__Timing *make_timing(const ty_job *j) {
    Tyto__Timing *t = ty_pb_new(&tyto__timing__descriptor);
    if (!t) return NULL;
    if (ty_pb_set_str(&t->stage, j->w->stage->name) != TY_OK ||
        ty_pb_set_str(&t->worker, j->w->contract->worker) != TY_OK ||
        ty_pb_set_str(&t->arithmetic, j->w->contract->arithmetic) != TY_OK ||
        ty_pb_set_str(&t->adapter, j->decode.adapter) != TY_OK) {
        tyto__timing__free_unpacked(t, NULL);
        return NULL;
    }
    t->attempt = j->task->env->attempt;
    t->batch = j->batch;
    t->worker_queue_us = since(j->task->received_us, j->start_us) + j->decode.queue_us;
    t->compute_us = j->has_decode ? j->decode.prefill_us + j->decode.decode_us
                                  : since(j->start_us, ty_now_us());
    t->wire_us = since(j->task->env->sent_unix_us, j->task->received_unix_us);
    t->bytes_in = frame_bytes(j->task);
    t->bytes_out = frame_bytes(j->reply);
    t->flops = j->flops;
    t->prefill_us = j->decode.prefill_us;
    t->decode_us = j->decode.decode_us;
    t->cached_tokens = j->decode.cached_tokens;
    t->prefill_tokens = j->decode.prefill_tokens;
    t->cache = j->cache;
    t->cache_us = j->cache_us;
    return t;
}

static void log_done(const ty_job *j, const Tyto__Timing *t) {
    ty_info("req=%s part=%u %s attempt=%u batch=%u queue_us=%llu compute_us=%llu bytes_out=%llu",
            j->task->env->request_id, j->task->env->part,
            t->cache == TYTO__CACHE_USE__CACHE_HIT ? "cached" : "run", t->attempt, t->batch,
            (unsigned long long)t->worker_queue_us, (unsigned long long)t->compute_us,
            (unsigned long long)t->bytes_out);
}

static ty_message *make_result(ty_job *j, Tyto__DecodeResult **decode) {
    ty_message *m = j->reply ? j->reply : ty_message_new();
    Tyto__Result *r = ty_pb_new(&tyto__result__descriptor);
    Tyto__Timing *t = make_timing(j);
    if (!m || !r || !t || ty_message_copy_ids(m, j->task) != TY_OK ||
        ty_pb_append(&m->env->timings, &m->env->n_timings, t) != TY_OK) {
        if (m != j->reply) ty_message_destroy(&m);
        if (r) tyto__result__free_unpacked(r, NULL);
        if (t) tyto__timing__free_unpacked(t, NULL);
        return NULL;
    }
    log_done(j, t);
    r->decode = *decode;
    *decode = NULL;
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_RESULT, r);
    j->reply = NULL;
    return m;
}

static ty_message *make_error(const ty_job *j, ty_status st, const char *text) {
    ty_message *m = ty_message_new();
    if (!m || ty_message_copy_ids(m, j->task) != TY_OK) {
        ty_message_destroy(&m);
        return NULL;
    }
    ty_message_set_error(m, st, text, j->w->stage->name);
    return m;
}

/* Takes the job out of `open` and sends its answer; NULL (no memory, or abandoned) sends none: the
 * deadline then ends the task at the broker. */
static void close_job(ty_job *j, ty_message *answer) {
    ty_worker *w = j->w;
    if (j->open) {
        pthread_mutex_lock(&w->lock);
        TAILQ_REMOVE(&w->open, j, next);
        pthread_mutex_unlock(&w->lock);
    }
    if (answer)
        ty_worker_post(w, j->link, j->epoch, answer, true);
    else if (!j->abandoned)
        ty_error("req=%s part=%u lost: no memory for its answer", j->task->env->request_id,
                 j->task->env->part);
    ty_job_destroy(j);
}

void ty_job_fail(ty_job *j, ty_status st, const char *text) {
    if (st == TY_OK) st = TY_EINTERNAL;
    if (j->timed_out && st == TY_ECANCELED) {
        st = TY_ETIMEOUT;
        text = "the deadline passed while it was computed";
    }
    if (!j->abandoned)
        ty_warn("req=%s part=%u failed status=%s text=\"%s\"", j->task->env->request_id,
                j->task->env->part, ty_status_name(st), text ? text : "");
    close_job(j, j->abandoned ? NULL : make_error(j, st, text));
}

ty_status ty_job_chunk(ty_job *j, Tyto__Chunk *chunk, ty_err *err) {
    ty_message *m = ty_message_new();
    if (!m || ty_message_copy_ids(m, j->task) != TY_OK) {
        ty_message_destroy(&m);
        tyto__chunk__free_unpacked(chunk, NULL);
        return ty_fail(err, TY_ENOMEM, "no memory for a chunk");
    }
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_CHUNK, chunk);
    if (j->abandoned)
        ty_message_destroy(&m);
    else
        ty_worker_post(j->w, j->link, j->epoch, m, false);
    return TY_OK;
}

void ty_job_progress(ty_job *j, Tyto__Progress__State state) {
    ty_message *m = j->abandoned ? NULL : ty_message_new();
    Tyto__Progress *p = m ? ty_pb_new(&tyto__progress__descriptor) : NULL;
    if (!p || ty_message_copy_ids(m, j->task) != TY_OK) {
        if (p) tyto__progress__free_unpacked(p, NULL);
        ty_message_destroy(&m); /* only a hint is lost */
        return;
    }
    p->state = state;
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_PROGRESS, p);
    ty_worker_post(j->w, j->link, j->epoch, m, false);
}

void ty_job_done(ty_job *j, Tyto__DecodeResult *decode) {
    ty_message *m = j->abandoned ? NULL : make_result(j, &decode);
    if (decode) tyto__decode_result__free_unpacked(decode, NULL);
    if (m) ty_worker_cache_keep(j->w, j, m);
    close_job(j, m);
}
