/* worker_cache.c - see worker_cache.h. */
#include "common/wire/worker_cache.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/store/token_cache.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { KEEP_BYTES_MAX = 64 << 20, HOPS_MAX = 8, SAID_EVERY_US = 10000000 };

typedef struct kept {
    TAILQ_ENTRY(kept) next;
    char key[TY_CACHE_KEY_SIZE];
    ty_message *m; /* its one tensor */
    size_t bytes;
} kept;
TAILQ_HEAD(kept_list, kept);

struct ty_worker_cache {
    ty_token_cache *store; /* the thread's */
    pthread_t thread;
    pthread_cond_t work;
    struct ty_job_list looking; /* guarded, as all below */
    struct kept_list keeping;
    size_t keeping_bytes;
    bool in_hand; /* a job is being looked up */
    bool stop;
    int64_t said_us; /* the thread's: when it last complained */
};

/* ---- keys ---- */

/* The record of a finished hop, NULL when there is none. */
static const Tyto__Timing *record_of(const Tyto__Envelope *e, const char *stage) {
    for (size_t i = 0; i < e->n_timings; i++)
        if (strcmp(e->timings[i]->stage, stage) == 0) return e->timings[i];
    return NULL;
}

/* False: the task's output has no key (no picture, or a worker on the way does not say how it computes). */
static bool make_key(const ty_worker *w, const Tyto__Envelope *e, char key[TY_CACHE_KEY_SIZE]) {
    ty_stage_key step[HOPS_MAX];
    if (!e->picture || !ty_sha256_valid(e->picture->sha256)) return false;
    if (e->hop >= e->n_itinerary || e->hop >= HOPS_MAX) return false;
    for (uint32_t i = 0; i <= e->hop; i++) {
        const Tyto__Hop *h = e->itinerary[i];
        const Tyto__Timing *t = record_of(e, h->stage);
        const char *arithmetic = i == e->hop ? w->contract->arithmetic : t ? t->arithmetic : "";
        if (!arithmetic || !*arithmetic) return false;
        step[i] = (ty_stage_key){h->model, arithmetic};
    }
    ty_picture_key p = {e->picture->sha256, e->picture->mode, e->picture->upright};
    ty_token_cache_key(key, w->stage->name, &p, step, (int)e->hop + 1);
    return true;
}

/* ---- looking up ---- */

static bool is_output(const ty_worker *w, const ty_tensor *t) {
    const Tyto__TensorSpec *want = w->contract->gives[0];
    if (ty_message_dtype(t->dtype) != want->dtype || (size_t)t->n_dim != want->n_shape)
        return false;
    for (int i = 0; i < t->n_dim; i++)
        if (want->shape[i] >= 0 && want->shape[i] != t->shape[i]) return false;
    return true;
}

/* Now and then a word about a server that does not answer. */
static void complain(ty_worker_cache *c, const char *what, const ty_err *err) {
    int64_t now = ty_now_us();
    if (c->said_us && now - c->said_us < SAID_EVERY_US) return;
    c->said_us = now;
    ty_warn("cache %s: %s", what, err->text);
}

static bool find(ty_worker *w, ty_job *j) {
    ty_tensor t;
    void *owned;
    ty_err err = {0};
    ty_worker_cache *c = w->cache;
    int64_t begun = ty_now_us();
    ty_status st = ty_token_cache_get(c->store, j->cache_key, &t, &owned, &err);
    j->cache_us = (uint64_t)(ty_now_us() - begun);
    j->cache = st == TY_EUNAVAILABLE ? TYTO__CACHE_USE__CACHE_ERROR : TYTO__CACHE_USE__CACHE_MISS;
    if (st == TY_EUNAVAILABLE) complain(c, "away", &err);
    if (st != TY_OK) return false;
    const Tyto__TensorSpec *gives = w->contract->gives[0];
    if (!is_output(w, &t)) {
        free(owned);
        return false;
    }
    st = ty_job_add_output(j, gives->name, gives->dtype, t.n_dim, t.shape, owned, t.size_bytes,
                           &err);
    if (st == TY_OK) j->cache = TYTO__CACHE_USE__CACHE_HIT;
    return st == TY_OK;
}

static void look_up(ty_worker *w, ty_job *j) {
    if (find(w, j)) {
        j->start_us = ty_now_us();
        ty_job_done(j, NULL);
        j = NULL;
    }
    pthread_mutex_lock(&w->lock);
    w->cache->in_hand = false;
    if (j) TAILQ_INSERT_TAIL(&w->waiting, j, next);
    pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->lock);
}

bool ty_worker_cache_take(ty_worker *w, ty_job *j) {
    char key[TY_CACHE_KEY_SIZE];
    ty_worker_cache *c = w->cache;
    if (!c || !make_key(w, j->task->env, key)) return false;
    j->cache_key = strdup(key);
    if (!j->cache_key) return false;
    pthread_mutex_lock(&w->lock);
    TAILQ_INSERT_TAIL(&c->looking, j, next);
    pthread_cond_signal(&c->work);
    pthread_mutex_unlock(&w->lock);
    return true;
}

bool ty_worker_cache_busy(const ty_worker *w) {
    return w->cache && (w->cache->in_hand || !TAILQ_EMPTY(&w->cache->looking));
}

ty_job *ty_worker_cache_find(ty_worker *w, const ty_worker_link *l, uint64_t dispatch) {
    ty_job *j = w->cache ? TAILQ_FIRST(&w->cache->looking) : NULL;
    while (j && (j->link != l || j->task->env->dispatch != dispatch)) j = TAILQ_NEXT(j, next);
    if (j) TAILQ_REMOVE(&w->cache->looking, j, next);
    return j;
}

void ty_worker_cache_move(ty_worker *w, const ty_worker_link *l, struct ty_job_list *to) {
    ty_job *j = w->cache ? TAILQ_FIRST(&w->cache->looking) : NULL;
    while (j) {
        ty_job *after = TAILQ_NEXT(j, next);
        if (!l || j->link == l) {
            TAILQ_REMOVE(&w->cache->looking, j, next);
            TAILQ_INSERT_TAIL(to, j, next);
        }
        j = after;
    }
}

/* ---- keeping ---- */

static void keep_free(kept *k) {
    ty_message_destroy(&k->m);
    free(k);
}

void ty_worker_cache_keep(ty_worker *w, const ty_job *j, const ty_message *result) {
    ty_worker_cache *c = w->cache;
    if (!c || !j->cache_key || j->cache != TYTO__CACHE_USE__CACHE_MISS) return;
    if (result->n_frame != 1) return;
    kept *k = calloc(1, sizeof(*k));
    if (!k) return;
    memcpy(k->key, j->cache_key, strlen(j->cache_key) + 1);
    k->bytes = result->env->tensors[0]->byte_count;
    if (ty_message_dup(result, &k->m, NULL) != TY_OK) {
        keep_free(k);
        return;
    }
    pthread_mutex_lock(&w->lock);
    bool full = c->keeping_bytes + k->bytes > KEEP_BYTES_MAX;
    if (!full) {
        c->keeping_bytes += k->bytes;
        TAILQ_INSERT_TAIL(&c->keeping, k, next);
        pthread_cond_signal(&c->work);
    }
    pthread_mutex_unlock(&w->lock);
    if (full) {
        ty_debug("cache not kept: %d MiB wait already", KEEP_BYTES_MAX >> 20);
        keep_free(k);
    }
}

static void put(ty_worker_cache *c, kept *k) {
    ty_tensor t;
    ty_err err = {0};
    ty_status st = ty_message_tensor(k->m, 0, NULL, &t, &err);
    if (st == TY_OK) st = ty_token_cache_put(c->store, k->key, &t, &err);
    if (st != TY_OK) complain(c, "not written", &err);
    keep_free(k);
}

/* ---- the thread ---- */

/* The next job, or the next output to keep; false: the end. */
static bool next_work(ty_worker *w, ty_job **j, kept **k) {
    ty_worker_cache *c = w->cache;
    *j = NULL;
    *k = NULL;
    pthread_mutex_lock(&w->lock);
    while (!c->stop && TAILQ_EMPTY(&c->looking) && TAILQ_EMPTY(&c->keeping))
        pthread_cond_wait(&c->work, &w->lock);
    if (!c->stop) *j = TAILQ_FIRST(&c->looking);
    if (*j) {
        TAILQ_REMOVE(&c->looking, *j, next);
        c->in_hand = true;
    } else {
        *k = TAILQ_FIRST(&c->keeping);
    }
    if (*k) {
        TAILQ_REMOVE(&c->keeping, *k, next);
        c->keeping_bytes -= (*k)->bytes;
    }
    pthread_mutex_unlock(&w->lock);
    return *j || *k;
}

static void *body(void *arg) {
    ty_worker *w = arg;
    ty_job *j;
    kept *k;
    sigset_t pipe; /* hiredis writes to a server that may be gone */
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe, NULL);
    while (next_work(w, &j, &k)) {
        if (j)
            look_up(w, j);
        else
            put(w->cache, k);
    }
    return NULL;
}

static void cache_free(ty_worker *w) {
    ty_worker_cache *c = w->cache;
    for (kept *k; (k = TAILQ_FIRST(&c->keeping));) {
        TAILQ_REMOVE(&c->keeping, k, next);
        keep_free(k);
    }
    for (ty_job *j; (j = TAILQ_FIRST(&c->looking));) {
        TAILQ_REMOVE(&c->looking, j, next);
        ty_job_destroy(j);
    }
    pthread_cond_destroy(&c->work);
    ty_token_cache_destroy(&c->store);
    free(c);
    w->cache = NULL;
}

ty_status ty_worker_cache_start(ty_worker *w, ty_err *err) {
    const ty_worker_contract *k = w->contract;
    if (!k->cache_url || !*k->cache_url || !w->stage->batch || k->n_gives != 1) return TY_OK;
    ty_worker_cache *c = calloc(1, sizeof(*c));
    if (!c) return ty_fail(err, TY_ENOMEM, "no memory for the cache's thread");
    w->cache = c;
    TAILQ_INIT(&c->looking);
    TAILQ_INIT(&c->keeping);
    pthread_cond_init(&c->work, NULL);
    ty_status st = ty_token_cache_create(&c->store, k->cache_url, k->cache_ttl_s, err);
    int rc = st == TY_OK ? pthread_create(&c->thread, NULL, body, w) : 0;
    if (rc != 0) st = ty_fail(err, TY_EIO, "the cache's thread: %s", strerror(rc));
    if (st != TY_OK) cache_free(w);
    return st;
}

void ty_worker_cache_stop(ty_worker *w) {
    if (!w->cache || w->cache->stop) return;
    pthread_mutex_lock(&w->lock);
    w->cache->stop = true;
    pthread_cond_signal(&w->cache->work);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->cache->thread, NULL);
}

void ty_worker_cache_destroy(ty_worker *w) {
    if (w->cache) cache_free(w);
}
