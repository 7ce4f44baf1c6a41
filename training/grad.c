/*
 * grad.c - backward of norms, activations, biases, and the loss (grad.h).  Loops over lanes are written
 * out in blocks of LANES partial sums, so that the compiler vectorises them without being allowed to
 * reorder sums.
 */
#include "training/grad.h"
#include "common/math/kernel.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TASK_ELEMENTS = 16384, LANES = 16, COLUMNS = 64 };

/* ---- sums ---- */

static float fold(const float lane[LANES]) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += lane[i];
    return sum;
}

/* a . b */
static float dot(const float *a, const float *b, int64_t n) {
    float lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] += a[i + l] * b[i + l];
    for (int l = 0; i < n; i++, l++) lane[l] += a[i] * b[i];
    return fold(lane);
}

static float sum_of(const float *a, int64_t n) {
    float lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] += a[i + l];
    for (int l = 0; i < n; i++, l++) lane[l] += a[i];
    return fold(lane);
}

/* ---- splitting ---- */

typedef struct {
    int64_t rows, n, ld, per;
    const float *x, *dy, *w, *up;
    float *dx, *dw, *db, *d_up;
    float *mean, *inv; /* a row's statistics */
    float eps;
    bool add;
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

/* The part that both norms share: with g = dy w and xhat the normed x,
 *     dx = inv (g - shift - xhat mean(g xhat)),  shift = mean(g) for LayerNorm, 0 for RMSNorm. */
static void norm_row(const job *j, int64_t r, bool centre) {
    int64_t n = j->n;
    const float *x = j->x + r * n, *dy = j->dy + r * n, *w = j->w;
    float *dx = j->dx + r * n, mean = j->mean[r], inv = j->inv[r];
    float g_sum[LANES] = {0}, gx_sum[LANES] = {0};
    int64_t full = n / LANES * LANES;
    for (int64_t i = 0; i < full; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float g = dy[i + l] * w[i + l];
            g_sum[l] += g;
            gx_sum[l] += g * ((x[i + l] - mean) * inv);
        }
    for (int64_t i = full; i < n; i++) {
        float g = dy[i] * w[i];
        g_sum[i - full] += g;
        gx_sum[i - full] += g * ((x[i] - mean) * inv);
    }
    float shift = centre ? fold(g_sum) / (float)n : 0, slope = fold(gx_sum) / (float)n;
    for (int64_t i = 0; i < n; i++) {
        float v = inv * (dy[i] * w[i] - shift - (x[i] - mean) * inv * slope);
        dx[i] = j->add ? dx[i] + v : v;
    }
}

static void norm_columns(void *ctx, int task, int member) {
    const job *j = ctx;
    (void)member;
    int64_t c0 = (int64_t)task * COLUMNS, n = j->n - c0 < COLUMNS ? j->n - c0 : COLUMNS;
    float dw[COLUMNS] = {0}, db[COLUMNS] = {0};
    for (int64_t r = 0; r < j->rows; r++) {
        const float *x = j->x + r * j->n + c0, *dy = j->dy + r * j->n + c0;
        float mean = j->mean[r], inv = j->inv[r];
        for (int64_t c = 0; c < n; c++) {
            dw[c] += dy[c] * ((x[c] - mean) * inv);
            db[c] += dy[c];
        }
    }
    for (int64_t c = 0; c < n && j->dw; c++) j->dw[c0 + c] += dw[c];
    for (int64_t c = 0; c < n && j->db; c++) j->db[c0 + c] += db[c];
}

static void layernorm_stats(void *ctx, int task, int member) {
    const job *j = ctx;
    (void)member;
    for (int64_t r = task * j->per; r < last_row(j, task); r++) {
        const float *x = j->x + r * j->n;
        float mean = sum_of(x, j->n) / (float)j->n, lane[LANES] = {0};
        for (int64_t i = 0; i < j->n; i += LANES)
            for (int l = 0; l < LANES && i + l < j->n; l++)
                lane[l] += (x[i + l] - mean) * (x[i + l] - mean);
        j->mean[r] = mean;
        j->inv[r] = 1.0f / sqrtf(fold(lane) / (float)j->n + j->eps);
    }
}

static void rmsnorm_stats(void *ctx, int task, int member) {
    const job *j = ctx;
    (void)member;
    for (int64_t r = task * j->per; r < last_row(j, task); r++) {
        const float *x = j->x + r * j->n;
        j->mean[r] = 0;
        j->inv[r] = 1.0f / sqrtf(dot(x, x, j->n) / (float)j->n + j->eps);
    }
}

static void layernorm_rows(void *ctx, int task, int member) {
    const job *j = ctx;
    (void)member;
    for (int64_t r = task * j->per; r < last_row(j, task); r++) norm_row(j, r, true);
}

static void rmsnorm_rows(void *ctx, int task, int member) {
    const job *j = ctx;
    (void)member;
    for (int64_t r = task * j->per; r < last_row(j, task); r++) norm_row(j, r, false);
}

/* Columns before rows: dx may be dy. */
static ty_status norm_backward(ty_pool *p, job *j, void (*stats)(void *, int, int),
                               void (*rows)(void *, int, int), ty_err *err) {
    if (j->rows <= 0) return TY_OK;
    j->mean = malloc(2 * (size_t)j->rows * sizeof *j->mean);
    if (!j->mean)
        return ty_fail(err, TY_ENOMEM, "norm backward: no memory for %zu rows", (size_t)j->rows);
    j->inv = j->mean + j->rows;
    over_rows(p, j, stats);
    if (j->dw || j->db) over_columns(p, j, norm_columns);
    if (j->dx) over_rows(p, j, rows);
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
             .dx = dx,
             .add = add,
             .dw = dw,
             .db = db};
    return norm_backward(p, &j, layernorm_stats, layernorm_rows, err);
}

ty_status grad_rmsnorm(ty_pool *p, const float *x, const float *dy, int64_t rows, int64_t n,
                       const float *w, float eps, float *dx, bool add, float *dw, ty_err *err) {
    job j = {
        .rows = rows, .n = n, .x = x, .dy = dy, .w = w, .eps = eps, .dx = dx, .add = add, .dw = dw};
    return norm_backward(p, &j, rmsnorm_stats, rmsnorm_rows, err);
}

/* ---- activations ---- */

/* out[i] = sigmoid(slope x[i]), by e^-|z|, which neither overflows nor loses the small side. */
static void sigmoid(const ty_kernels *kn, const float *x, int64_t n, float slope, float *out) {
    for (int64_t i = 0; i < n; i++) out[i] = -fabsf(slope * x[i]);
    kn->exp_sum(out, n, 0);
    for (int64_t i = 0; i < n; i++) out[i] = (x[i] >= 0 ? 1.0f : out[i]) / (1.0f + out[i]);
}

enum { CHUNK = 256 };

static void quick_gelu_task(void *ctx, int task, int member) {
    const job *j = ctx;
    const ty_kernels *kn = ty_kernels_get();
    (void)member;
    for (int64_t i = task * j->per; i < last_row(j, task); i += CHUNK) {
        int64_t n = last_row(j, task) - i < CHUNK ? last_row(j, task) - i : CHUNK;
        const float *x = j->x + i, *dy = j->dy + i;
        float s[CHUNK], *dx = j->dx + i;
        sigmoid(kn, x, n, 1.702f, s);
        for (int64_t c = 0; c < n; c++) dx[c] = dy[c] * s[c] * (1 + 1.702f * x[c] * (1 - s[c]));
    }
}

void grad_quick_gelu(ty_pool *p, const float *x, const float *dy, int64_t n, float *dx) {
    job j = {.rows = n, .n = 1, .x = x, .dy = dy, .dx = dx};
    over_rows(p, &j, quick_gelu_task);
}

static void silu_mul_task(void *ctx, int task, int member) {
    const job *j = ctx;
    const ty_kernels *kn = ty_kernels_get();
    (void)member;
    for (int64_t i = task * j->per; i < last_row(j, task); i += CHUNK) {
        int64_t n = last_row(j, task) - i < CHUNK ? last_row(j, task) - i : CHUNK;
        const float *g = j->x + i, *up = j->up + i, *dy = j->dy + i;
        float s[CHUNK], *dg = j->dx + i, *du = j->d_up + i;
        sigmoid(kn, g, n, 1.0f, s);
        for (int64_t c = 0; c < n; c++) {
            float d = dy[c];
            dg[c] = d * up[c] * s[c] * (1 + g[c] * (1 - s[c]));
            du[c] = d * g[c] * s[c];
        }
    }
}

void grad_silu_mul(ty_pool *p, const float *gate, const float *up, const float *dy, int64_t n,
                   float *d_gate, float *d_up) {
    job j = {.rows = n, .n = 1, .x = gate, .up = up, .dy = dy, .dx = d_gate, .d_up = d_up};
    over_rows(p, &j, silu_mul_task);
}

static void bias_task(void *ctx, int task, int member) {
    const job *j = ctx;
    (void)member;
    int64_t c0 = (int64_t)task * COLUMNS, n = j->n - c0 < COLUMNS ? j->n - c0 : COLUMNS;
    float sum[COLUMNS] = {0};
    for (int64_t r = 0; r < j->rows; r++) {
        const float *dy = j->dy + r * j->ld + c0;
        for (int64_t c = 0; c < n; c++) sum[c] += dy[c];
    }
    for (int64_t c = 0; c < n; c++) j->db[c0 + c] += sum[c];
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
