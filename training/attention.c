/*
 * attention.c - attention with its backward (grad.h).  A task is one head of one sequence.  Rows that a list
 * names are gathered into dense matrices, others stay where they are.  Then it takes TILE queries at a time:
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

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Queries at a time; a causal tile computes the square in front of its last query, so a small one wastes less. */
enum { TILE = 128, CAUSAL_TILE = 48 };

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

/* A head's rows: the caller's, or a member's dense copy of them. */
typedef struct {
    float *x;
    int64_t ld;
} matrix;

typedef struct {
    matrix q, k, v, o; /* [n_q, d], [n_kv, d], [n_kv, d], [n_q, d]: ctx or its gradient */
    matrix dq, dk, dv; /* backward */
    float *s, *ds;     /* [TILE, n_kv] */
    void *product;     /* ty_matmul_serial's */
    int64_t n_q, n_kv;
} frame;

static size_t rounded(size_t floats) {
    return (floats + 15) / 16 * 16;
}

static size_t place(const job *j, frame *f, uint8_t *at) {
    int64_t d = j->a->d;
    size_t q = rounded((size_t)(j->max_q * d)), kv = rounded((size_t)(j->max_kv * d));
    size_t s = rounded((size_t)(TILE * j->max_kv));
    if (f) {
        float *x = (float *)(void *)at;
        *f = (frame){.q = {x, d}, .o = {x + q, d}, .dq = {x + 2 * q, d}};
        x += 3 * q;
        f->k = (matrix){x, d};
        f->v = (matrix){x + kv, d};
        f->dk = (matrix){x + 2 * kv, d};
        f->dv = (matrix){x + 3 * kv, d};
        f->s = x + 4 * kv;
        f->ds = f->s + s;
        f->product = f->ds + s;
    }
    return (3 * q + 4 * kv + 2 * s) * sizeof(float) + ty_matmul_scratch();
}

/* Rows of one head: `at` is column 0 of the head in row 0 of all. */
typedef struct {
    float *at;
    int64_t ld, first, n;
    const int *row; /* NULL: row i is i */
    int d;
} head_rows;

/* Do products read and write them where they are? */
static bool stay(head_rows h) {
    return !h.row && !ty_matmul_collides(h.ld);
}

static float *row_of(head_rows h, int64_t i) {
    int64_t r = h.first + i;
    return h.at + (h.row ? h.row[r] : r) * h.ld;
}

/* m becomes them where they stay, else has room for a copy. */
static void find(head_rows h, matrix *m) {
    if (stay(h)) *m = (matrix){row_of(h, 0), h.ld};
}

/* The same, and the copy is made. */
static void take(head_rows h, matrix *m) {
    find(h, m);
    for (int64_t i = 0; i < h.n && !stay(h); i++)
        memcpy(m->x + i * m->ld, row_of(h, i), (size_t)h.d * sizeof(float));
}

/* Back from a copy. */
static void give(head_rows h, const matrix *m) {
    for (int64_t i = 0; i < h.n && !stay(h); i++)
        memcpy(row_of(h, i), m->x + i * m->ld, (size_t)h.d * sizeof(float));
}

static void clear_rows(matrix m, int64_t n, int d) {
    for (int64_t i = 0; i < n; i++) memset(m.x + i * m.ld, 0, (size_t)d * sizeof(float));
}

static matrix from_row(matrix m, int64_t row) {
    return (matrix){m.x + row * m.ld, m.ld};
}

/* c (+)= a b */
static void product(const frame *f, int64_t M, int64_t N, int64_t K, matrix a, bool a_km, matrix b,
                    bool b_nk, matrix c, bool add) {
    ty_matmul m = {.M = M,
                   .N = N,
                   .K = K,
                   .a = a.x,
                   .lda = a.ld,
                   .a_stored_km = a_km,
                   .b = b.x,
                   .b_type = TY_F32,
                   .ldb = b.ld,
                   .b_stored_nk = b_nk,
                   .c = c.x,
                   .ldc = c.ld,
                   .add = add};
    ty_matmul_serial(&m, f->product);
}

/* P of queries [t, t + rows) into f->s, rows n_kv apart; *seen: keys that the tile can see. */
static void probabilities(const job *j, const frame *f, int64_t t, int64_t rows, int64_t *seen) {
    const ty_kernels *kn = ty_kernels_get();
    const grad_attention *a = j->a;
    int64_t n = a->causal ? t + rows : f->n_kv, ld = f->n_kv;
    *seen = n;
    product(f, rows, n, a->d, from_row(f->q, t), false, f->k, true, (matrix){f->s, ld}, false);
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
    const ty_kernels *kn = ty_kernels_get();
    for (int64_t i = 0; i < rows; i++)
        kn->softmax_grad(f->s + i * f->n_kv, n, j->a->scale, f->ds + i * f->n_kv);
}

/* Of sequence s, by the starts and the list of its side.  What is only read comes here too: take() writes nothing there. */
static head_rows rows_of(const int *start, const int *row, int s, const float *x, int64_t ld,
                         int d) {
    return (head_rows){(float *)(uintptr_t)x, ld, start[s], start[s + 1] - start[s], row, d};
}

static head_rows queries(const grad_attention *a, int s, const float *x, int64_t ld) {
    return rows_of(a->q_start, a->q_row, s, x, ld, a->d);
}

static head_rows keys(const grad_attention *a, int s, const float *x, int64_t ld) {
    return rows_of(a->kv_start, a->kv_row, s, x, ld, a->d);
}

static void load(const job *j, frame *f, int s, int h) {
    const grad_attention *a = j->a;
    head_rows q = queries(a, s, a->q + h * a->hdq, a->ldq);
    head_rows k = keys(a, s, a->k + h * a->hdk, a->ldk), v = keys(a, s, a->v + h * a->hdv, a->ldv);
    f->n_q = q.n;
    f->n_kv = k.n;
    take(q, &f->q);
    take(k, &f->k);
    take(v, &f->v);
}

static void forward_task(void *ctx, int task, int member) {
    const job *j = ctx;
    const grad_attention *a = j->a;
    int s = task / a->n_head, h = task % a->n_head;
    frame f;
    place(j, &f, j->scratch + (size_t)member * j->member_bytes);
    load(j, &f, s, h);
    head_rows out = queries(a, s, j->ctx + h * a->d, j->ldo);
    find(out, &f.o);
    const int64_t tile = a->causal ? CAUSAL_TILE : TILE;
    for (int64_t t = 0, n; t < f.n_q; t += tile) {
        int64_t rows = f.n_q - t < tile ? f.n_q - t : tile;
        probabilities(j, &f, t, rows, &n);
        product(&f, rows, a->d, n, (matrix){f.s, f.n_kv}, false, f.v, false, from_row(f.o, t),
                false);
    }
    give(out, &f.o);
}

static void backward_task(void *ctx, int task, int member) {
    const job *j = ctx;
    const grad_attention *a = j->a;
    int s = task / a->n_head, h = task % a->n_head, d = a->d;
    frame f;
    place(j, &f, j->scratch + (size_t)member * j->member_bytes);
    load(j, &f, s, h);
    take(queries(a, s, j->dctx + h * d, j->ldo), &f.o);
    head_rows dq = queries(a, s, j->dq + h * a->hdq, a->ldq);
    head_rows dk = keys(a, s, j->dk + h * a->hdk, a->ldk),
              dv = keys(a, s, j->dv + h * a->hdv, a->ldv);
    find(dq, &f.dq);
    find(dk, &f.dk);
    find(dv, &f.dv);
    if (a->causal || f.n_q == 0) { /* else the first tile writes all of them */
        clear_rows(f.dk, f.n_kv, d);
        clear_rows(f.dv, f.n_kv, d);
    }
    const int64_t tile = a->causal ? CAUSAL_TILE : TILE;
    for (int64_t t = 0, n; t < f.n_q; t += tile) {
        int64_t rows = f.n_q - t < tile ? f.n_q - t : tile;
        matrix q = from_row(f.q, t), o = from_row(f.o, t), p = {f.s, f.n_kv}, ds = {f.ds, f.n_kv};
        probabilities(j, &f, t, rows, &n);
        product(&f, rows, n, d, o, false, f.v, true, ds, false);
        bool add = a->causal || t > 0;
        product(&f, n, d, rows, p, true, o, false, f.dv, add);
        through_softmax(j, &f, rows, n);
        product(&f, rows, d, n, ds, false, f.k, false, from_row(f.dq, t), false);
        product(&f, n, d, rows, ds, true, q, false, f.dk, add);
    }
    give(dq, &f.dq);
    give(dk, &f.dk);
    give(dv, &f.dv);
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

grad_attention grad_attention_of(const float *q, const float *k, const float *v, int64_t ld,
                                 int64_t hd, int n_head, int d, int n_seq, const int *q_start,
                                 const int *kv_start) {
    return (grad_attention){.q = q,
                            .k = k,
                            .v = v,
                            .ldq = ld,
                            .ldk = ld,
                            .ldv = ld,
                            .hdq = hd,
                            .hdk = hd,
                            .hdv = hd,
                            .n_seq = n_seq,
                            .n_head = n_head,
                            .d = d,
                            .q_start = q_start,
                            .kv_start = kv_start,
                            .scale = 1.0f / sqrtf((float)d)};
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
