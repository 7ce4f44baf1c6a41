/* lookup.c - see lookup.h. */
#include "services/gateway/lookup.h"

#include "common/base/clock.h"
#include "common/store/redis_async.h"
#include "common/store/token_cache.h"

#include <stdlib.h>
#include <string.h>

/* One question under way. */
typedef struct question {
    struct lookup *l;
    char *request_id;
    int part;
    int64_t begun_us;
    struct question *next;
} question;

struct lookup {
    ty_redis_async *redis;
    char *gateway;
    lookup_fn fn;
    void *ctx;
    question *open;
};

static void question_free(question *q) {
    free(q->request_id);
    free(q);
}

static void unlink_question(question *q) {
    question **p = &q->l->open;
    while (*p && *p != q) p = &(*p)->next;
    if (*p) *p = q->next;
}

/* The hop that was not made, as a worker would have recorded it. */
static ty_status add_record(const question *q, ty_message *m) {
    Tyto__Timing *t = ty_pb_new(&tyto__timing__descriptor);
    if (!t) return TY_ENOMEM;
    t->attempt = 1;
    t->cache = TYTO__CACHE_USE__CACHE_HIT;
    t->cache_us = (uint64_t)(ty_now_us() - q->begun_us);
    t->bytes_out = m->env->tensors[0]->byte_count;
    if (ty_pb_set_str(&t->stage, "abstractor") == TY_OK &&
        ty_pb_set_str(&t->worker, q->l->gateway) == TY_OK &&
        ty_pb_append(&m->env->timings, &m->env->n_timings, t) == TY_OK)
        return TY_OK;
    tyto__timing__free_unpacked(t, NULL);
    return TY_ENOMEM;
}

static void free_bytes(void *data, void *hint) {
    (void)hint;
    free(data);
}

/* The message that the abstractor's result would have been; takes owned over. */
static ty_message *make_message(const question *q, const ty_tensor *t, void *owned) {
    ty_message *m = ty_message_new();
    if (!m) {
        free(owned);
        return NULL;
    }
    m->env->part = (uint32_t)q->part;
    m->env->sent_unix_us = m->received_unix_us = ty_now_unix_us();
    ty_status st = ty_message_add_tensor(m, "visual_tokens", ty_message_dtype(t->dtype), t->n_dim,
                                         t->shape, owned, t->size_bytes, free_bytes, NULL, NULL);
    if (st == TY_OK) st = add_record(q, m);
    if (st != TY_OK) ty_message_destroy(&m);
    return m;
}

static void on_reply(void *ctx, const redisReply *r, const ty_err *lost) {
    (void)lost;
    question *q = ctx;
    ty_tensor t;
    void *owned = NULL;
    ty_err err = {0};
    ty_message *m = NULL;
    Tyto__CacheUse use = TYTO__CACHE_USE__CACHE_MISS;
    if (!r || r->type == REDIS_REPLY_ERROR)
        use = TYTO__CACHE_USE__CACHE_ERROR;
    else if (ty_token_cache_read(r, &t, &owned, &err) == TY_OK && t.dtype == TY_F32 && t.n_dim == 2)
        m = make_message(q, &t, owned);
    else
        free(owned);
    unlink_question(q);
    q->l->fn(q->l->ctx, q->request_id, q->part, &m, m ? TYTO__CACHE_USE__CACHE_HIT : use);
    ty_message_destroy(&m);
    question_free(q);
}

static bool make_key(const Tyto__Envelope *e, const char *const *arithmetic,
                     char key[TY_CACHE_KEY_SIZE]) {
    ty_stage_key step[LOOKUP_HOPS_MAX];
    if (!e->picture || !ty_sha256_valid(e->picture->sha256)) return false;
    if (e->n_itinerary == 0 || e->n_itinerary > LOOKUP_HOPS_MAX) return false;
    for (size_t i = 0; i < e->n_itinerary; i++) {
        if (!arithmetic[i] || !*arithmetic[i]) return false;
        step[i] = (ty_stage_key){e->itinerary[i]->model, arithmetic[i]};
    }
    ty_picture_key p = {e->picture->sha256, e->picture->mode, e->picture->upright};
    ty_token_cache_key(key, e->itinerary[e->n_itinerary - 1]->stage, &p, step, (int)e->n_itinerary);
    return true;
}

bool lookup_start(lookup *l, const Tyto__Envelope *task, const char *const *arithmetic) {
    char key[TY_CACHE_KEY_SIZE], get[] = "GET", *argv[] = {get, key};
    if (!ty_redis_async_up(l->redis) || !make_key(task, arithmetic, key)) return false;
    size_t len[] = {strlen(get), strlen(key)};
    const ty_store_command c = {2, argv, len};
    question *q = calloc(1, sizeof(*q));
    if (!q) return false;
    *q = (question){.l = l,
                    .request_id = strdup(task->request_id),
                    .part = (int)task->part,
                    .begun_us = ty_now_us()};
    if (!q->request_id || ty_redis_async_send(l->redis, &c, on_reply, q, NULL, NULL) != TY_OK) {
        question_free(q);
        return false;
    }
    q->next = l->open;
    l->open = q;
    return true;
}

void lookup_tick(lookup *l) {
    ty_redis_async_tick(l->redis);
}

ty_status lookup_create(lookup **out, struct event_base *base, const char *url, const char *gateway,
                        lookup_fn fn, void *ctx, ty_err *err) {
    *out = NULL;
    lookup *l = calloc(1, sizeof(*l));
    if (!l) return ty_fail(err, TY_ENOMEM, "no memory for the cache's client");
    l->fn = fn;
    l->ctx = ctx;
    l->gateway = strdup(gateway);
    ty_status st = l->gateway ? ty_redis_async_create(&l->redis, base, url, LOOKUP_TIMEOUT_MS, err)
                              : ty_fail(err, TY_ENOMEM, "no memory for the cache's client");
    if (st == TY_OK)
        *out = l;
    else
        lookup_destroy(&l);
    return st;
}

void lookup_destroy(lookup **lp) {
    if (!lp || !*lp) return;
    lookup *l = *lp;
    ty_redis_async_destroy(&l->redis); /* forgets what is under way */
    for (question *q; (q = l->open);) {
        l->open = q->next;
        question_free(q);
    }
    free(l->gateway);
    free(l);
    *lp = NULL;
}
