/*
 * grad.c - backward of norms, activations, biases, and the loss (grad.h): rows of kernel.h.
 */
#include "training/grad.h"
#include "common/math/kernel.h"

#include <math.h>
#include <string.h>

enum { TASK_ELEMENTS = 16384, COLUMNS = 64 };

/* ---- splitting ---- */

typedef struct {
    int64_t rows, n, per;
    const float *x, *dy, *w, *up, *base;
    float *dx, *d_up;
    float *mean, *inv; /* a row's statistics */
    float eps;
    bool centre;
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

/* ---- norms ---- */

static void norm_task(void *ctx, int task, int member) {
    const job *j = ctx;
    const ty_kernels *kn = ty_kernels_get();
    (void)member;
    for (int64_t r = task * j->per; r < last_row(j, task); r++) {
        int64_t at = r * j->n;
        kn->norm_stats(j->x + at, j->n, j->centre, j->eps, &j->mean[r], &j->inv[r]);
        if (j->dx)
            kn->norm_grad(j->x + at, j->dy + at, j->w, j->n, j->centre, j->mean[r], j->inv[r],
                          j->base ? j->base + at : NULL, j->dx + at);
    }
}

void grad_norm(ty_pool *p, const float *x, const float *dy, int64_t rows, int64_t n, const float *w,
               bool centre, float eps, const float *base, float *dx, float *mean, float *inv) {
    job j = {.rows = rows,
             .n = n,
             .x = x,
             .dy = dy,
             .w = w,
             .base = base,
             .dx = dx,
             .mean = mean,
             .inv = inv,
             .eps = eps,
             .centre = centre};
    over_rows(p, &j, norm_task);
}

void grad_norm_weights(const float *x, const float *dy, int64_t rows, int64_t n, int64_t ld,
                       const float *mean, const float *inv, float *dw, float *db) {
    const ty_kernels *kn = ty_kernels_get();
    float w[COLUMNS], b[COLUMNS];
    for (int64_t c = 0; c < n; c += COLUMNS) {
        int64_t some = n - c < COLUMNS ? n - c : COLUMNS;
        size_t bytes = (size_t)some * sizeof *w;
        for (int64_t i = 0; i < some; i++) {
            w[i] = dw ? dw[c + i] : 0;
            b[i] = db ? db[c + i] : 0;
        }
        for (int64_t r = 0; r < rows; r++)
            kn->norm_grad_columns(x + r * ld + c, dy + r * ld + c, some, mean[r], inv[r], w, b);
        if (dw) memcpy(dw + c, w, bytes);
        if (db) memcpy(db + c, b, bytes);
    }
}

void grad_bias(const float *dy, int64_t rows, int64_t n, int64_t ld, float *sum) {
    const ty_kernels *kn = ty_kernels_get();
    float some_sum[COLUMNS];
    for (int64_t c = 0; c < n; c += COLUMNS) {
        int64_t some = n - c < COLUMNS ? n - c : COLUMNS;
        memcpy(some_sum, sum + c, (size_t)some * sizeof *sum);
        for (int64_t r = 0; r < rows; r++) kn->add_row(dy + r * ld + c, some, some_sum);
        memcpy(sum + c, some_sum, (size_t)some * sizeof *sum);
    }
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
