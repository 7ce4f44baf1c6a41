/*
 * attention.c - attention with its backward (grad.h).  A task is one head of one sequence.  It gathers
 * the head's rows into dense matrices, then takes TILE queries at a time:
 *
 *     S = scale Q K^T        P = softmax(S), recomputed by the backward
 *     ctx = P V
 *     dP = dO V^T            dS = scale P (dP - rowsum(P dP))
 *     dQ = dS K              dK += dS^T Q          dV += P^T dO
 *
 * so memory grows with the length of a sequence, not with its square.  Causal tiles stop at their last
 * query.
 */
#include "training/grad.h"
#include "common/math/kernel.h"
#include "common/math/matmul.h"

#include <stdlib.h>
#include <string.h>

enum { TILE = 128 };

typedef struct {
    const grad_attention *a;
    int64_t max_q, max_kv;
    float *ctx;
    const float *dctx;
    float *dq, *dk, *dv;
    int64_t ldo;
    uint8_t *scratch;
    size_t member_bytes;
} job;

/* A member's dense matrices. */
typedef struct {
    float *q, *k, *v, *o; /* [n_q, d], [n_kv, d], [n_kv, d], [n_q, d]: ctx or its gradient */
    float *dq, *dk, *dv;  /* backward */
    float *s, *ds;        /* [TILE, n_kv] */
    void *product;        /* ty_matmul_serial's */
    int64_t n_q, n_kv;
} frame;

static size_t rounded(size_t floats) {
    return (floats + 15) / 16 * 16;
}

static size_t place(const job *j, frame *f, uint8_t *at) {
    size_t q = rounded((size_t)(j->max_q * j->a->d)), kv = rounded((size_t)(j->max_kv * j->a->d));
    size_t s = rounded((size_t)(TILE * j->max_kv));
    if (f) {
        float *x = (float *)(void *)at;
        *f = (frame){.q = x, .o = x + q, .dq = x + 2 * q};
        x += 3 * q;
        f->k = x;
        f->v = x + kv;
        f->dk = x + 2 * kv;
        f->dv = x + 3 * kv;
        f->s = x + 4 * kv;
        f->ds = f->s + s;
        f->product = f->ds + s;
    }
    return (3 * q + 4 * kv + 2 * s) * sizeof(float) + ty_matmul_scratch();
}

static int64_t row_at(const int *row, int64_t i) {
    return row ? row[i] : i;
}

static void gather(const float *src, int64_t ld, const int *row, int64_t first, int64_t n, int d,
                   float *dst) {
    for (int64_t i = 0; i < n; i++)
        memcpy(dst + i * d, src + row_at(row, first + i) * ld, (size_t)d * sizeof *dst);
}

static void scatter(const float *src, int64_t ld, const int *row, int64_t first, int64_t n, int d,
                    float *dst) {
    for (int64_t i = 0; i < n; i++)
        memcpy(dst + row_at(row, first + i) * ld, src + i * d, (size_t)d * sizeof *dst);
}

/* c (+)= a b, all dense. */
static void product(const frame *f, int64_t M, int64_t N, int64_t K, const float *a, int64_t lda,
                    bool a_km, const float *b, int64_t ldb, bool b_nk, float *c, int64_t ldc,
                    bool add) {
    ty_matmul m = {.M = M,
                   .N = N,
                   .K = K,
                   .a = a,
                   .lda = lda,
                   .a_stored_km = a_km,
                   .b = b,
                   .b_type = TY_F32,
                   .ldb = ldb,
                   .b_stored_nk = b_nk,
                   .c = c,
                   .ldc = ldc,
                   .add = add};
    ty_matmul_serial(&m, f->product);
}

/* P of queries [t, t + rows) into f->s, rows n_kv apart; *seen: keys that the tile can see. */
static void probabilities(const job *j, const frame *f, int64_t t, int64_t rows, int64_t *seen) {
    const ty_kernels *kn = ty_kernels_get();
    const grad_attention *a = j->a;
    int64_t n = a->causal ? t + rows : f->n_kv, ld = f->n_kv;
    *seen = n;
    product(f, rows, n, a->d, f->q + t * a->d, a->d, false, f->k, a->d, true, f->s, ld, false);
    for (int64_t i = 0; i < rows; i++) {
        float *s = f->s + i * ld;
        int64_t m = a->causal ? t + i + 1 : n;
        kn->scale(s, m, a->scale);
        float sum = kn->exp_sum(s, m, kn->max(s, m));
        kn->scale(s, m, 1.0f / sum);
        memset(s + m, 0, (size_t)(n - m) * sizeof *s);
    }
}

/* f->ds holds dP; it becomes dS. */
static void through_softmax(const job *j, const frame *f, int64_t rows, int64_t n) {
    enum { LANES = 16 };
    for (int64_t i = 0; i < rows; i++) {
        const float *p = f->s + i * f->n_kv;
        float *d = f->ds + i * f->n_kv, lane[LANES] = {0}, sum = 0;
        int64_t c = 0;
        for (; c + LANES <= n; c += LANES)
            for (int l = 0; l < LANES; l++) lane[l] += p[c + l] * d[c + l];
        for (int l = 0; c < n; c++, l++) lane[l] += p[c] * d[c];
        for (int l = 0; l < LANES; l++) sum += lane[l];
        for (c = 0; c < n; c++) d[c] = j->a->scale * p[c] * (d[c] - sum);
    }
}

static void load(const job *j, frame *f, int s, int h) {
    const grad_attention *a = j->a;
    f->n_q = a->q_start[s + 1] - a->q_start[s];
    f->n_kv = a->kv_start[s + 1] - a->kv_start[s];
    gather(a->q + h * a->hdq, a->ldq, a->q_row, a->q_start[s], f->n_q, a->d, f->q);
    gather(a->k + h * a->hdk, a->ldk, a->kv_row, a->kv_start[s], f->n_kv, a->d, f->k);
    gather(a->v + h * a->hdv, a->ldv, a->kv_row, a->kv_start[s], f->n_kv, a->d, f->v);
}

static void forward_task(void *ctx, int task, int member) {
    const job *j = ctx;
    const grad_attention *a = j->a;
    int s = task / a->n_head, h = task % a->n_head;
    frame f;
    place(j, &f, j->scratch + (size_t)member * j->member_bytes);
    load(j, &f, s, h);
    for (int64_t t = 0, n; t < f.n_q; t += TILE) {
        int64_t rows = f.n_q - t < TILE ? f.n_q - t : TILE;
        probabilities(j, &f, t, rows, &n);
        product(&f, rows, a->d, n, f.s, f.n_kv, false, f.v, a->d, false, f.o + t * a->d, a->d,
                false);
    }
    scatter(f.o, j->ldo, a->q_row, a->q_start[s], f.n_q, a->d, j->ctx + h * a->d);
}

static void backward_task(void *ctx, int task, int member) {
    const job *j = ctx;
    const grad_attention *a = j->a;
    int s = task / a->n_head, h = task % a->n_head, d = a->d;
    frame f;
    place(j, &f, j->scratch + (size_t)member * j->member_bytes);
    load(j, &f, s, h);
    gather(j->dctx + h * d, j->ldo, a->q_row, a->q_start[s], f.n_q, d, f.o);
    memset(f.dk, 0, (size_t)(f.n_kv * d) * sizeof(float));
    memset(f.dv, 0, (size_t)(f.n_kv * d) * sizeof(float));
    for (int64_t t = 0, n; t < f.n_q; t += TILE) {
        int64_t rows = f.n_q - t < TILE ? f.n_q - t : TILE, ld = f.n_kv;
        const float *q = f.q + t * d, *o = f.o + t * d;
        probabilities(j, &f, t, rows, &n);
        product(&f, rows, n, d, o, d, false, f.v, d, true, f.ds, ld, false);
        product(&f, n, d, rows, f.s, ld, true, o, d, false, f.dv, d, true);
        through_softmax(j, &f, rows, n);
        product(&f, rows, d, n, f.ds, ld, false, f.k, d, false, f.dq + t * d, d, false);
        product(&f, n, d, rows, f.ds, ld, true, q, d, false, f.dk, d, true);
    }
    scatter(f.dq, a->ldq, a->q_row, a->q_start[s], f.n_q, d, j->dq + h * a->hdq);
    scatter(f.dk, a->ldk, a->kv_row, a->kv_start[s], f.n_kv, d, j->dk + h * a->hdk);
    scatter(f.dv, a->ldv, a->kv_row, a->kv_start[s], f.n_kv, d, j->dv + h * a->hdv);
}

static ty_status run(ty_pool *p, job *j, void (*task)(void *, int, int), ty_err *err) {
    const grad_attention *a = j->a;
    for (int s = 0; s < a->n_seq; s++) {
        int64_t q = a->q_start[s + 1] - a->q_start[s], kv = a->kv_start[s + 1] - a->kv_start[s];
        if (q > j->max_q) j->max_q = q;
        if (kv > j->max_kv) j->max_kv = kv;
    }
    j->member_bytes = (place(j, NULL, NULL) + 63) / 64 * 64;
    size_t bytes = j->member_bytes * (size_t)ty_pool_size(p);
    j->scratch =
        p ? ty_pool_scratch(p, TY_POOL_SCRATCH_ATTENTION, bytes) : aligned_alloc(64, bytes);
    if (!j->scratch) return ty_fail(err, TY_ENOMEM, "attention: no memory for %zu bytes", bytes);
    ty_pool_run(p, a->n_seq * a->n_head, task, j);
    if (!p) free(j->scratch);
    return TY_OK;
}

ty_status attention_forward(ty_pool *p, const grad_attention *a, float *ctx, int64_t ldo,
                            ty_err *err) {
    job j = {.a = a, .ctx = ctx, .ldo = ldo};
    return run(p, &j, forward_task, err);
}

ty_status attention_backward(ty_pool *p, const grad_attention *a, const float *dctx, int64_t ldo,
                             float *dq, float *dk, float *dv, ty_err *err) {
    job j = {.a = a, .dctx = dctx, .ldo = ldo, .dq = dq, .dk = dk, .dv = dv};
    return run(p, &j, backward_task, err);
}
