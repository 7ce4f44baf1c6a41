/*
 * ops.c - the operations of a pass: layers of owl.h on rows, forward and backward (pass.h).  A backward computes the
 * gradients of inputs, and notes what it has of the weights' (weight_grads.h).
 */
#include "training/pass.h"
#include "common/math/kernel.h"
#include "common/math/matmul.h"
#include "training/grad.h"
#include "training/random.h"

#include <string.h>

void op_fail(train_run *r, ty_status st) {
    if (r->st == TY_OK) r->st = st;
}

float *op_floats(train_run *r, int64_t n) {
    if (r->st != TY_OK) return NULL;
    float *x = ty_arena_array(r->arena, (size_t)n, sizeof *x);
    if (!x)
        op_fail(r,
                ty_fail(&r->err, TY_ENOMEM,
                        "no memory for activations (%zu bytes are in use): make the batch smaller",
                        ty_arena_bytes(r->arena)));
    return x;
}

static void product(train_run *r, const ty_matmul *m) {
    if (r->st != TY_OK) return;
    r->flops += 2.0 * (double)m->M * (double)m->N * (double)m->K;
    ty_matmul mine = *m;
    mine.products = r->products;
    op_fail(r, ty_matmul_run(&mine, r->pool, &r->err));
}

/* A weight as [out, in]: the patch convolution has four dimensions. */
static int64_t out_of(const param *w) {
    return w->shape[0];
}
static int64_t in_of(const param *w) {
    return w->count / w->shape[0];
}

/* y (+)= x w^T */
static void times_w(train_run *r, const param *w, const float *x, int64_t rows, float *y,
                    bool add) {
    ty_matmul m = {.M = rows,
                   .N = out_of(w),
                   .K = in_of(w),
                   .a = x,
                   .lda = in_of(w),
                   .b = w->data,
                   .b_type = w->type,
                   .ldb = in_of(w),
                   .b_stored_nk = true,
                   .c = y,
                   .ldc = out_of(w),
                   .add = add};
    product(r, &m);
}

/* dx (+)= dy w */
static void times_w_back(train_run *r, const param *w, const float *dy, int64_t rows, float *dx,
                         bool add) {
    ty_matmul m = {.M = rows,
                   .N = in_of(w),
                   .K = out_of(w),
                   .a = dy,
                   .lda = out_of(w),
                   .b = w->data,
                   .b_type = w->type,
                   .ldb = in_of(w),
                   .c = dx,
                   .ldc = in_of(w),
                   .add = add};
    product(r, &m);
}

static void note(train_run *r, weight_grad g) {
    if (r->st != TY_OK) return;
    g.n_text = r->n_text >= 0 && r->n_text < g.rows ? r->n_text : g.rows;
    op_fail(r, weight_grads_note(&r->later, &g, &r->err));
}

/* w's gradient += dy^T x */
static void weight_gradient(train_run *r, param *w, const float *x, const float *dy, int64_t rows) {
    if (w->grad)
        note(r, (weight_grad){.kind = WEIGHT_PRODUCT, .w = w, .x = x, .dy = dy, .rows = rows});
}

enum { PIECE = 1 << 14 }; /* elements that are worth another thread */

typedef struct {
    const float *x;
    float *y;
    int64_t rows, n, per;
} row_job;

static void bias_task(void *ctx, int task, int member) {
    const row_job *j = ctx;
    const ty_kernels *kn = ty_kernels_get();
    (void)member;
    int64_t end = (task + 1) * j->per < j->rows ? (task + 1) * j->per : j->rows;
    for (int64_t r = task * j->per; r < end; r++) kn->add_row(j->x, j->n, j->y + r * j->n);
}

static void add_bias(train_run *r, const param *b, int64_t rows, float *y) {
    if (r->st != TY_OK) return;
    row_job j = {b->value, y, rows, b->count, (PIECE + b->count - 1) / b->count};
    ty_pool_run(r->pool, (int)((rows + j.per - 1) / j.per), bias_task, &j);
}

static void copy_task(void *ctx, int task, int member) {
    const row_job *j = ctx;
    (void)member;
    int64_t at = (int64_t)task * PIECE, n = j->n - at < PIECE ? j->n - at : PIECE;
    memcpy(j->y + at, j->x + at, (size_t)n * sizeof *j->x);
}

void op_copy(train_run *r, float *y, const float *x, int64_t n) {
    if (r->st != TY_OK) return;
    row_job j = {.x = x, .y = y, .n = n};
    ty_pool_run(r->pool, (int)((n + PIECE - 1) / PIECE), copy_task, &j);
}

/* Copied a little at a time, so that it is in L1 when it becomes what it shall be. */
static void quick_gelu_task(void *ctx, int task, int member) {
    enum { SOME = 1024 };
    const row_job *j = ctx;
    const ty_kernels *kn = ty_kernels_get();
    (void)member;
    int64_t at = (int64_t)task * PIECE, end = j->n - at < PIECE ? j->n : at + PIECE;
    for (; at < end; at += SOME) {
        int64_t n = end - at < SOME ? end - at : SOME;
        memcpy(j->y + at, j->x + at, (size_t)n * sizeof *j->x);
        kn->quick_gelu(j->y + at, n);
    }
}

void op_quick_gelu(train_run *r, float *y, const float *x, int64_t n) {
    if (r->st != TY_OK) return;
    row_job j = {.x = x, .y = y, .n = n};
    ty_pool_run(r->pool, (int)((n + PIECE - 1) / PIECE), quick_gelu_task, &j);
}

static void scale(float *x, int64_t n, float s) {
    for (int64_t i = 0; i < n; i++) x[i] *= s;
}

/* Of this pass and this adapter: the same forward, run again, and backward. */
static uint64_t dropout_stream(const train_run *r, const owl_linear *l) {
    return r->draw << 16 | (uint64_t)l->lora_id;
}

/* x with the adapter's dropout; x itself where there is none. */
static const float *dropped(train_run *r, const owl_linear *l, const float *x, int64_t rows) {
    int64_t n = rows * in_of(l->lora_a);
    if (r->lora_dropout <= 0) return x;
    float *y = op_floats(r, n);
    if (y) random_dropout(r->seed, dropout_stream(r, l), r->lora_dropout, x, n, y);
    return y;
}

/* scale (x a^T): what both directions of a low-rank layer need. */
static float *low_rank(train_run *r, const owl_linear *l, const float *x, int64_t rows) {
    int64_t rank = out_of(l->lora_a);
    float *u = op_floats(r, rows * rank);
    times_w(r, l->lora_a, x, rows, u, false);
    if (r->st == TY_OK) scale(u, rows * rank, l->scale);
    return u;
}

void op_linear(train_run *r, const owl_linear *l, const float *x, int64_t rows, float *y) {
    if (r->st != TY_OK || rows <= 0) return;
    times_w(r, l->w, x, rows, y, false);
    if (l->b) add_bias(r, l->b, rows, y);
    if (l->lora_a)
        times_w(r, l->lora_b, low_rank(r, l, dropped(r, l, x, rows), rows), rows, y, true);
}

static void low_rank_back(train_run *r, const owl_linear *l, const float *x, const float *dy,
                          int64_t rows, float *dx) {
    int64_t rank = out_of(l->lora_a), n = rows * in_of(l->lora_a);
    x = dropped(r, l, x, rows);
    weight_gradient(r, l->lora_b, low_rank(r, l, x, rows), dy, rows);
    float *du = op_floats(r, rows * rank);
    times_w_back(r, l->lora_b, dy, rows, du, false);
    if (r->st == TY_OK) scale(du, rows * rank, l->scale);
    weight_gradient(r, l->lora_a, x, du, rows);
    if (!dx) return;
    if (r->lora_dropout <= 0) {
        times_w_back(r, l->lora_a, du, rows, dx, true);
        return;
    }
    float *through = op_floats(r, n);
    times_w_back(r, l->lora_a, du, rows, through, false);
    if (r->st == TY_OK)
        random_dropout(r->seed, dropout_stream(r, l), r->lora_dropout, through, n, through);
    op_add(r, dx, through, n);
}

void op_linear_back(train_run *r, const owl_linear *l, const float *x, const float *dy,
                    int64_t rows, float *dx, bool add) {
    if (r->st != TY_OK) return;
    weight_gradient(r, l->w, x, dy, rows);
    if (l->b && l->b->grad)
        note(r, (weight_grad){.kind = WEIGHT_BIAS, .w = l->b, .dy = dy, .rows = rows});
    if (dx) times_w_back(r, l->w, dy, rows, dx, add);
    if (l->lora_a) low_rank_back(r, l, x, dy, rows, dx);
}

void op_norm(train_run *r, const owl_norm *n, const float *x, int64_t rows, float *y) {
    if (r->st != TY_OK) return;
    if (n->b)
        ty_layernorm(r->pool, x, rows, n->w->count, n->w->value, n->b->value, n->eps, y);
    else
        ty_rmsnorm(r->pool, x, rows, n->w->count, n->w->value, n->eps, y);
}

void op_norm_back(train_run *r, const owl_norm *n, const float *x, const float *dy, int64_t rows,
                  const float *base, float *dx) {
    float *mean = op_floats(r, 2 * rows), *inv = mean + rows;
    if (r->st != TY_OK) return;
    grad_norm(r->pool, x, dy, rows, n->w->count, n->w->value, n->b != NULL, n->eps, base, dx, mean,
              inv);
    if (n->w->grad || (n->b && n->b->grad))
        note(r, (weight_grad){.kind = WEIGHT_NORM,
                              .w = n->w,
                              .b = n->b,
                              .x = x,
                              .dy = dy,
                              .mean = mean,
                              .inv = inv,
                              .rows = rows});
}

void op_add_weight_grads(train_run *r) {
    weight_grads *mine = &r->later;
    if (r->st == TY_OK)
        op_fail(r, weight_grads_add(&mine, 1, r->pool, r->products, &r->flops, &r->err));
}

void op_add(train_run *r, float *y, const float *x, int64_t n) {
    if (r->st == TY_OK) ty_add(r->pool, y, x, n);
}
