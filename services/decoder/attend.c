#include "services/decoder/attend.h"

#include "common/math/kernel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct attend_scratch {
    float *s;         /* [members][rows][ld] scores, then probabilities */
    int64_t ld;       /* floats of a row: context, rounded up to a cache line */
    int64_t per_part; /* floats of one member */
};

ty_status attend_scratch_create(attend_scratch **out, int n_head, int n_kv_head, int context,
                                const ty_pool *pool, ty_err *err) {
    *out = NULL;
    attend_scratch *s = calloc(1, sizeof(*s));
    int group = n_head / n_kv_head, rows = group > ATTEND_ROWS ? group : ATTEND_ROWS;
    int members = pool ? ty_pool_size(pool) : 1;
    if (s) {
        s->ld = ((int64_t)context + 15) / 16 * 16;
        s->per_part = s->ld * rows;
        s->s = aligned_alloc(64, (size_t)(s->per_part * members) * sizeof(float));
    }
    if (!s || !s->s) {
        attend_scratch_destroy(&s);
        return ty_fail(err, TY_ENOMEM, "no memory for attention scores");
    }
    *out = s;
    return TY_OK;
}

void attend_scratch_destroy(attend_scratch **s) {
    if (!*s) return;
    free((*s)->s);
    free(*s);
    *s = NULL;
}

typedef struct {
    const attend_args *a;
    attend_scratch *scratch;
    const ty_kernels *k;
} job;

/* Some query rows of one block that share the KV head: n_q rows, ldq apart, output ldo apart. */
typedef struct {
    const kv_seq *seq;
    int head, n_q;
    const float *q;
    int64_t ldq;
    float *ctx;
    int64_t ldo;
    int see, more;      /* row i sees see + i * more positions */
    const float *slope; /* of row i: slope[i * slope_step]; NULL: none */
    int slope_step;
    float *s;
} part;

static void scores(const job *j, const part *p, int i, int n_q, int page, int n_k) {
    const kv_shape *sh = kv_pool_shape(j->a->kv);
    const void *k = kv_tile(j->a->kv, p->seq->page[page], j->a->layer, p->head, 0);
    const float *q = p->q + i * p->ldq;
    float *s = p->s + i * j->scratch->ld + (int64_t)page * KV_PAGE;
    float scale = 1.0f / sqrtf((float)sh->d);
    if (sh->dtype == TY_F32)
        j->k->scores_f32(n_q, q, p->ldq, n_k, k, sh->d, sh->d, scale, s, j->scratch->ld);
    else
        j->k->scores_f16(n_q, q, p->ldq, n_k, k, sh->d, sh->d, scale, s, j->scratch->ld);
}

static void values(const job *j, const part *p, int i, int n_q, int page, int n_k) {
    const kv_shape *sh = kv_pool_shape(j->a->kv);
    const void *v = kv_tile(j->a->kv, p->seq->page[page], j->a->layer, p->head, 1);
    float *acc = p->ctx + i * p->ldo;
    const float *s = p->s + i * j->scratch->ld + (int64_t)page * KV_PAGE;
    if (sh->dtype == TY_F32)
        j->k->values_f32(n_q, s, j->scratch->ld, n_k, v, sh->d, sh->d, acc, p->ldo);
    else
        j->k->values_f16(n_q, s, j->scratch->ld, n_k, v, sh->d, sh->d, acc, p->ldo);
}

/* Calls fn on every page: pages that all rows see whole together, the rest row by row, so that no row
 * ever touches a key behind its own position. */
static void walk(const job *j, const part *p,
                 void (*fn)(const job *, const part *, int, int, int, int)) {
    int whole = p->see / KV_PAGE;
    for (int page = 0; page < whole; page++) fn(j, p, 0, p->n_q, page, KV_PAGE);
    for (int i = 0; i < p->n_q; i++) {
        int see = p->see + i * p->more;
        for (int page = whole; page * KV_PAGE < see; page++) {
            int n = see - page * KV_PAGE;
            fn(j, p, i, 1, page, n < KV_PAGE ? n : KV_PAGE);
        }
    }
}

static void add_slope(float *s, int see, float slope) {
    for (int t = 0; t < see; t++) s[t] += slope * (float)(t - see + 1);
}

static void attend_part(const job *j, const part *p) {
    int d = kv_pool_shape(j->a->kv)->d;
    float sum[ATTEND_GROUP_MAX] = {0};
    walk(j, p, scores);
    for (int i = 0; i < p->n_q; i++) {
        float *s = p->s + i * j->scratch->ld;
        int see = p->see + i * p->more;
        if (p->slope) add_slope(s, see, p->slope[i * p->slope_step]);
        sum[i] = j->k->exp_sum(s, see, j->k->max(s, see));
        memset(p->ctx + i * p->ldo, 0, (size_t)d * sizeof(float));
    }
    walk(j, p, values);
    for (int i = 0; i < p->n_q; i++) j->k->scale(p->ctx + i * p->ldo, d, 1.0f / sum[i]);
}

/* One row: the group's heads are the query rows.  Several rows: each head for itself, its query
 * rows are the block's. */
static void attend_task(void *ctx, int task, int member) {
    const job *j = ctx;
    const attend_args *a = j->a;
    const kv_shape *sh = kv_pool_shape(a->kv);
    const attend_block *b = &a->block[task / sh->n_kv_head];
    int head = task % sh->n_kv_head, group = a->n_head / sh->n_kv_head, first = head * group;
    part p = {.seq = b->seq,
              .head = head,
              .see = b->pos + 1,
              .s = j->scratch->s + member * j->scratch->per_part};
    const float *q = a->q + b->row * a->ldq;
    float *out = a->ctx + b->row * a->ldo;
    if (b->n_row == 1) {
        p.n_q = group;
        p.q = q + (int64_t)first * sh->d;
        p.ctx = out + (int64_t)first * sh->d;
        p.ldq = p.ldo = sh->d;
        p.slope = a->slope ? a->slope + first : NULL;
        p.slope_step = 1;
        attend_part(j, &p);
        return;
    }
    p.n_q = b->n_row;
    p.more = 1;
    p.ldq = a->ldq;
    p.ldo = a->ldo;
    for (int h = first; h < first + group; h++) {
        p.q = q + (int64_t)h * sh->d;
        p.ctx = out + (int64_t)h * sh->d;
        p.slope = a->slope ? a->slope + h : NULL;
        attend_part(j, &p);
    }
}

void attend(ty_pool *pool, const attend_args *a, attend_scratch *scratch) {
    job j = {.a = a, .scratch = scratch, .k = ty_kernels_get()};
    ty_pool_run(pool, a->n_block * kv_pool_shape(a->kv)->n_kv_head, attend_task, &j);
}
