#include "training/loader.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A ring: slot i % ahead belongs to the i-th micro-batch that is handed out. */
typedef enum { EMPTY, FILLING, FULL, HELD } slot_state;

typedef struct {
    slot_state state;
    ty_status st;
    ty_err err;
    loaded b;
} slot;

struct loader {
    loader_config c;
    int64_t first, next_fill, next_take;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool stop;
    int n_thread;
    pthread_t *thread;
    slot *ring;
};

/* ---- one micro-batch ---- */

static void skip(loaded *b, const ty_err *why) {
    if (b->n_skipped++ == 0) snprintf(b->skipped, sizeof b->skipped, "%s", why->text);
}

/* The sample's pictures behind those already there.  False: left out. */
static bool load_pictures(const loader *l, const sample *s, int64_t at, int *n_picture, loaded *b) {
    ty_err err = {0};
    size_t plane = 3 * (size_t)l->c.model->vit.image_size * (size_t)l->c.model->vit.image_size;
    for (int i = 0; i < s->n_picture; i++) {
        char path[4400];
        snprintf(path, sizeof path, "%s%s%s", s->picture[i][0] == '/' ? "" : l->c.data->folder,
                 s->picture[i][0] == '/' ? "" : "/", s->picture[i]);
        uint64_t draw = (uint64_t)at * SAMPLE_PICTURES + (uint64_t)i;
        if (pictures_load(l->c.pictures, path, l->c.seed, draw,
                          b->pixels + (size_t)(*n_picture + i) * plane, &err) == TY_OK)
            continue;
        skip(b, &err);
        return false;
    }
    *n_picture += s->n_picture;
    return true;
}

static ty_status splice(const loader *l, const owl_sample *s, int n, owl_batch *out,
                        const float *pixels, ty_err *err) {
    const owl *m = l->c.model;
    if (l->c.labels) return owl_batch_of_labels(out, l->c.labels, s, n, pixels, err);
    return owl_batch_make(out, m->version, m->abstractor.n_query + 1, m->llm.n_vocab, m->llm.n_ctx,
                          s, n, pixels, err);
}

static ty_status fill(const loader *l, int64_t index, dataset_order *order, loaded *b,
                      ty_err *err) {
    const owl *m = l->c.model;
    size_t plane = 3 * (size_t)m->vit.image_size * (size_t)m->vit.image_size;
    owl_sample *use = malloc((size_t)l->c.samples * sizeof *use);
    const sample **from = malloc((size_t)l->c.samples * sizeof *from);
    int n_picture = 0, most = 0;
    ty_status st = use && from ? TY_OK : ty_fail(err, TY_ENOMEM, "no memory for a micro-batch");
    memset(b, 0, sizeof *b);
    for (int i = 0; i < l->c.samples && st == TY_OK; i++) {
        st = dataset_at(l->c.data, l->c.seed, index * l->c.samples + i, order, &from[i], err);
        if (st == TY_OK) most += from[i]->n_picture;
    }
    if (st == TY_OK && most > 0 && !(b->pixels = malloc((size_t)most * plane * sizeof(float))))
        st = ty_fail(err, TY_ENOMEM, "no memory for %d pictures", most);
    for (int i = 0; i < l->c.samples && st == TY_OK; i++) {
        owl_sample one = {from[i]->id, from[i]->label, from[i]->n, from[i]->n_picture};
        owl_batch alone;
        ty_err why = {0};
        /* Alone first: a sample that does not fit is left out, not the batch. */
        if (splice(l, &one, 1, &alone, NULL, &why) != TY_OK) {
            skip(b, &why);
            continue;
        }
        owl_batch_clear(&alone);
        if (load_pictures(l, from[i], index * l->c.samples + i, &n_picture, b))
            use[b->n_sample++] = one;
    }
    if (st == TY_OK) st = splice(l, use, b->n_sample, &b->batch, b->pixels, err);
    free(use);
    free(from);
    return st;
}

static void clear(loaded *b) {
    owl_batch_clear(&b->batch);
    free(b->pixels);
    memset(b, 0, sizeof *b);
}

/* ---- the threads ---- */

static void *reader(void *ctx) {
    loader *l = ctx;
    dataset_order order = {-1, NULL};
    pthread_mutex_lock(&l->mutex);
    while (!l->stop) {
        slot *s = &l->ring[l->next_fill % l->c.ahead];
        if (s->state != EMPTY) {
            pthread_cond_wait(&l->changed, &l->mutex);
            continue;
        }
        int64_t index = l->first + l->next_fill++ * l->c.stride;
        s->state = FILLING;
        pthread_mutex_unlock(&l->mutex);
        s->st = fill(l, index, &order, &s->b, &s->err);
        pthread_mutex_lock(&l->mutex);
        s->state = FULL;
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->mutex);
    free(order.index);
    return NULL;
}

ty_status loader_open(loader **out, const loader_config *c, int64_t first, ty_err *err) {
    *out = NULL;
    loader *l = calloc(1, sizeof *l);
    if (!l) return ty_fail(err, TY_ENOMEM, "no memory for the reader threads");
    l->c = *c;
    l->first = first;
    l->ring = calloc((size_t)c->ahead, sizeof *l->ring);
    l->thread = calloc((size_t)c->threads, sizeof *l->thread);
    pthread_mutex_init(&l->mutex, NULL);
    pthread_cond_init(&l->changed, NULL);
    while (l->ring && l->thread && l->n_thread < c->threads &&
           pthread_create(&l->thread[l->n_thread], NULL, reader, l) == 0)
        l->n_thread++;
    *out = l;
    if (l->n_thread > 0) return TY_OK;
    loader_close(out);
    return ty_fail(err, TY_ENOMEM, "no reader thread could be started");
}

ty_status loader_next(loader *l, loaded **out, ty_err *err) {
    pthread_mutex_lock(&l->mutex);
    slot *s = &l->ring[l->next_take % l->c.ahead];
    while (s->state != FULL) pthread_cond_wait(&l->changed, &l->mutex);
    s->state = HELD;
    l->next_take++;
    pthread_mutex_unlock(&l->mutex);
    *out = &s->b;
    if (s->st != TY_OK && err) *err = s->err;
    return s->st;
}

void loader_done(loader *l, loaded *b) {
    clear(b);
    pthread_mutex_lock(&l->mutex);
    for (int i = 0; i < l->c.ahead; i++)
        if (&l->ring[i].b == b) l->ring[i].state = EMPTY;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mutex);
}

void loader_close(loader **out) {
    loader *l = *out;
    if (!l) return;
    pthread_mutex_lock(&l->mutex);
    l->stop = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mutex);
    for (int i = 0; i < l->n_thread; i++) pthread_join(l->thread[i], NULL);
    for (int i = 0; l->ring && i < l->c.ahead; i++) clear(&l->ring[i].b);
    pthread_mutex_destroy(&l->mutex);
    pthread_cond_destroy(&l->changed);
    free(l->ring);
    free(l->thread);
    free(l);
    *out = NULL;
}
