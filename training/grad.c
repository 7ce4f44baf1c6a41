/*
 * grad.c - backward of norms, activations, biases, and the loss (grad.h): rows of kernel.h, over the pool.
 */
#include "training/grad.h"
#include "common/math/kernel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TASK_ELEMENTS = 16384, COLUMNS = 64 };

/* ---- splitting ---- */

typedef struct {
    int64_t rows, n, ld, per;
    const float *x, *dy, *w, *up;
    float *dx, *dw, *db, *d_up;
    float *mean, *inv; /* a row's statistics */
    float eps;
    bool add, centre;
    const int32_t *target;
    float weight;
    float *loss;
} job;

static int64_t last_row(const job *j, int task) {
    int64_t end = (task + 1) * j->per;
    return end < j->rows ? end : j->rows;
}

static void over_rows(ty_pool *p, job *j, void (*fn)(void *, int, int)) {
    if (j->rows <= 0) return;
    j->per = j->n > 0 ? (TASK_ELEMENTS + j->n - 1) / j->n : j->rows;
    ty_pool_run(p, (int)((j->rows + j->per - 1) / j->per), fn, j);
}

static void over_columns(ty_pool *p, job *j, void (*fn)(void *, int, int)) {
    int tasks = (int)((j->n + COLUMNS - 1) / COLUMNS);
    ty_pool_run(j->rows * j->n < TASK_ELEMENTS ? NULL : p, tasks, fn, j);
}

/* ---- norms ---- */

static void norm_columns(void *ctx, int task, int member) {
    const job *j = ctx;
    const ty_kernels *kn = ty_kernels_get();
    int64_t c0 = (int64_t)task * COLUMNS, n = j->n - c0 < COLUMNS ? j->n - c0 : COLUMNS;
    float dw[COLUMNS] = {0}, db[COLUMNS] = {0};
    (void)member;
    for (int64_t r = 0; r < j->rows; r++)
        kn->norm_grad_columns(j->x + r * j->n + c0, j->dy + r * j->n + c0, n, j->mean[r], j->inv[r],
                              dw, db);
    if (j->dw) kn->add_row(dw, n, j->dw + c0);
    if (j->db) kn->add_row(db, n, j->db + c0);
}

static void norm_stats(void *ctx, int task, int member) {
    const job *j = ctx;
    const ty_kernels *kn = ty_kernels_get();
    (void)member;
    for (int64_t r = task * j->per; r < last_row(j, task); r++)
        kn->norm_stats(j->x + r * j->n, j->n, j->centre, j->eps, &j->mean[r], &j->inv[r]);
}

static void norm_rows(void *ctx, int task, int member) {
    const job *j = ctx;
    const ty_kernels *kn = ty_kernels_get();
    (void)member;
    for (int64_t r = task * j->per; r < last_row(j, task); r++) {
        int64_t at = r * j->n;
        kn->norm_grad(j->x + at, j->dy + at, j->w, j->n, j->centre, j->mean[r], j->inv[r], j->add,
                      j->dx + at);
    }
}

/* Columns before rows: dx may be dy. */
static ty_status norm_backward(ty_pool *p, job *j, ty_err *err) {
    if (j->rows <= 0) return TY_OK;
    j->mean = malloc(2 * (size_t)j->rows * sizeof *j->mean);
    if (!j->mean)
        return ty_fail(err, TY_ENOMEM, "norm backward: no memory for %zu rows", (size_t)j->rows);
    j->inv = j->mean + j->rows;
    over_rows(p, j, norm_stats);
    if (j->dw || j->db) over_columns(p, j, norm_columns);
    if (j->dx) over_rows(p, j, norm_rows);
    free(j->mean);
    return TY_OK;
}

ty_status grad_layernorm(ty_pool *p, const float *x, const float *dy, int64_t rows, int64_t n,
                         const float *w, float eps, float *dx, bool add, float *dw, float *db,
                         ty_err *err) {
    job j = {.rows = rows,
             .n = n,
             .x = x,
             .dy = dy,
             .w = w,
             .eps = eps,
             .centre = true,
             .dx = dx,
             .add = add,
             .dw = dw,
             .db = db};
    return norm_backward(p, &j, err);
}

ty_status grad_rmsnorm(ty_pool *p, const float *x, const float *dy, int64_t rows, int64_t n,
                       const float *w, float eps, float *dx, bool add, float *dw, ty_err *err) {
    job j = {
        .rows = rows, .n = n, .x = x, .dy = dy, .w = w, .eps = eps, .dx = dx, .add = add, .dw = dw};
    return norm_backward(p, &j, err);
}

/* ---- activations ---- */

static void quick_gelu_task(void *ctx, int task, int member) {
    const job *j = ctx;
    int64_t i = task * j->per;
    (void)member;
    ty_kernels_get()->quick_gelu_grad(j->x + i, j->dy + i, last_row(j, task) - i, j->dx + i);
}

void grad_quick_gelu(ty_pool *p, const float *x, const float *dy, int64_t n, float *dx) {
    job j = {.rows = n, .n = 1, .x = x, .dy = dy, .dx = dx};
    over_rows(p, &j, quick_gelu_task);
}

static void silu_mul_task(void *ctx, int task, int member) {
    const job *j = ctx;
    int64_t i = task * j->per;
    (void)member;
    ty_kernels_get()->silu_mul_grad(j->x + i, j->up + i, j->dy + i, last_row(j, task) - i,
                                    j->dx + i, j->d_up + i);
}

void grad_silu_mul(ty_pool *p, const float *gate, const float *up, const float *dy, int64_t n,
                   float *d_gate, float *d_up) {
    job j = {.rows = n, .n = 1, .x = gate, .up = up, .dy = dy, .dx = d_gate, .d_up = d_up};
    over_rows(p, &j, silu_mul_task);
}

static void bias_task(void *ctx, int task, int member) {
    const job *j = ctx;
    const ty_kernels *kn = ty_kernels_get();
    (void)member;
    int64_t c0 = (int64_t)task * COLUMNS, n = j->n - c0 < COLUMNS ? j->n - c0 : COLUMNS;
    float sum[COLUMNS] = {0};
    for (int64_t r = 0; r < j->rows; r++) kn->add_row(j->dy + r * j->ld + c0, n, sum);
    kn->add_row(sum, n, j->db + c0);
}

void grad_bias(ty_pool *p, const float *dy, int64_t rows, int64_t n, int64_t ld, float *sum) {
    job j = {.rows = rows, .n = n, .ld = ld, .dy = dy, .db = sum};
    over_columns(p, &j, bias_task);
}

/* ---- loss ---- */

static void cross_entropy_task(void *ctx, int task, int member) {
    const job *j = ctx;
    const ty_kernels *kn = ty_kernels_get();
    (void)member;
    for (int64_t r = task * j->per; r < last_row(j, task); r++) {
        float *x = j->dx + r * j->n, max = kn->max(x, j->n);
        float right = x[j->target[r]] - max, sum = kn->exp_sum(x, j->n, max);
        j->loss[r] = logf(sum) - right;
        kn->scale(x, j->n, j->weight / sum);
        x[j->target[r]] -= j->weight;
    }
}

void grad_cross_entropy(ty_pool *p, float *logits, int64_t rows, int64_t n, const int32_t *target,
                        float weight, float *loss) {
    job j = {.rows = rows, .n = n, .dx = logits, .target = target, .weight = weight, .loss = loss};
    over_rows(p, &j, cross_entropy_task);
}
