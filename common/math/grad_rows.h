/*
 * grad_rows.h - rows of the backward in plain C.  Each table includes it, so that the compiler makes vectors of that
 * table's width of the same loops: sums are in LANES parts, so no order changes, and all tables give the
 * same bits but for exp_sum's.  kernel.h has what each function does.
 */
#ifndef TY_MATH_GRAD_ROWS_H
#define TY_MATH_GRAD_ROWS_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

/* Before a loop whose output may be one of its inputs, but never overlaps one otherwise. */
#ifdef __clang__
#define EACH_ALONE _Pragma("clang loop vectorize(assume_safety)")
#else
#define EACH_ALONE _Pragma("GCC ivdep")
#endif

enum { GRAD_LANES = 16 };

static inline float fold_lanes(const float lane[GRAD_LANES]) {
    float sum = 0;
    for (int i = 0; i < GRAD_LANES; i++) sum += lane[i];
    return sum;
}

static void add_row(const float *x, int64_t n, float *y) {
    EACH_ALONE
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

static void norm_stats(const float *x, int64_t n, bool centre, float eps, float *mean, float *inv) {
    enum { LANES = GRAD_LANES };
    float lane[LANES] = {0}, m = 0;
    int64_t full = n / LANES * LANES;
    if (centre) {
        for (int64_t i = 0; i < full; i += LANES)
            for (int l = 0; l < LANES; l++) lane[l] += x[i + l];
        for (int64_t i = full; i < n; i++) lane[i - full] += x[i];
        m = fold_lanes(lane) / (float)n;
        for (int l = 0; l < LANES; l++) lane[l] = 0;
    }
    for (int64_t i = 0; i < full; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] += (x[i + l] - m) * (x[i + l] - m);
    for (int64_t i = full; i < n; i++) lane[i - full] += (x[i] - m) * (x[i] - m);
    *mean = m;
    *inv = 1.0f / sqrtf(fold_lanes(lane) / (float)n + eps);
}

static void norm_grad(const float *x, const float *dy, const float *w, int64_t n, bool centre,
                      float mean, float inv, bool add, float *dx) {
    enum { LANES = GRAD_LANES };
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
    float shift = centre ? fold_lanes(g_sum) / (float)n : 0, slope = fold_lanes(gx_sum) / (float)n;
    if (add) {
        EACH_ALONE
        for (int64_t i = 0; i < n; i++)
            dx[i] += inv * (dy[i] * w[i] - shift - (x[i] - mean) * inv * slope);
    } else {
        EACH_ALONE
        for (int64_t i = 0; i < n; i++)
            dx[i] = inv * (dy[i] * w[i] - shift - (x[i] - mean) * inv * slope);
    }
}

static void norm_grad_columns(const float *x, const float *dy, int64_t n, float mean, float inv,
                              float *dw, float *db) {
    EACH_ALONE
    for (int64_t i = 0; i < n; i++) {
        dw[i] += dy[i] * ((x[i] - mean) * inv);
        db[i] += dy[i];
    }
}

static void softmax_grad(const float *p, int64_t n, float scale, float *d) {
    enum { LANES = GRAD_LANES };
    float lane[LANES] = {0};
    int64_t full = n / LANES * LANES;
    for (int64_t i = 0; i < full; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] += p[i + l] * d[i + l];
    for (int64_t i = full; i < n; i++) lane[i - full] += p[i] * d[i];
    float sum = fold_lanes(lane);
    EACH_ALONE
    for (int64_t i = 0; i < n; i++) d[i] = scale * p[i] * (d[i] - sum);
}

static float exp_sum(float *x, int64_t n, float shift);

/* out[i] = sigmoid(slope x[i]), by e^-|z|, which neither overflows nor loses the small side. */
static void sigmoid(const float *x, int64_t n, float slope, float *out) {
    EACH_ALONE
    for (int64_t i = 0; i < n; i++) out[i] = -fabsf(slope * x[i]);
    exp_sum(out, n, 0);
    EACH_ALONE
    for (int64_t i = 0; i < n; i++) out[i] = (x[i] >= 0 ? 1.0f : out[i]) / (1.0f + out[i]);
}

enum { GRAD_CHUNK = 256 };

static void quick_gelu_grad(const float *x, const float *dy, int64_t n, float *dx) {
    float s[GRAD_CHUNK];
    for (int64_t i = 0; i < n; i += GRAD_CHUNK) {
        int64_t some = n - i < GRAD_CHUNK ? n - i : GRAD_CHUNK;
        sigmoid(x + i, some, 1.702f, s);
        EACH_ALONE
        for (int64_t c = 0; c < some; c++)
            dx[i + c] = dy[i + c] * s[c] * (1 + 1.702f * x[i + c] * (1 - s[c]));
    }
}

static void silu_mul_grad(const float *gate, const float *up, const float *dy, int64_t n,
                          float *d_gate, float *d_up) {
    float s[GRAD_CHUNK];
    for (int64_t i = 0; i < n; i += GRAD_CHUNK) {
        int64_t some = n - i < GRAD_CHUNK ? n - i : GRAD_CHUNK;
        sigmoid(gate + i, some, 1.0f, s);
        EACH_ALONE
        for (int64_t c = 0; c < some; c++) {
            float d = dy[i + c], g = gate[i + c];
            d_gate[i + c] = d * up[i + c] * s[c] * (1 + g * (1 - s[c]));
            d_up[i + c] = d * g * s[c];
        }
    }
}

/* What a table has of these. */
#define TY_GRAD_ROWS                                                                               \
    .add_row = add_row, .norm_stats = norm_stats, .norm_grad = norm_grad,                          \
    .norm_grad_columns = norm_grad_columns, .softmax_grad = softmax_grad,                          \
    .quick_gelu_grad = quick_gelu_grad, .silu_mul_grad = silu_mul_grad

#endif
