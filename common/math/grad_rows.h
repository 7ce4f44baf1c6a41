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
#include <string.h>

/* Before a loop whose output may be one of its inputs, but never overlaps one otherwise. */
#ifdef __clang__
#define EACH_ALONE _Pragma("clang loop vectorize(assume_safety)")
#else
#define EACH_ALONE _Pragma("GCC ivdep")
#endif

/* LANES floats: one register or a few of those that the table has.  How other files would pass them does not matter. */
#pragma GCC diagnostic ignored "-Wpsabi"
enum { LANES = 16 };
typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));

static inline lanes lanes_at(const float *x) {
    lanes v;
    memcpy(&v, x, sizeof v);
    return v;
}

static inline float fold_lanes(lanes v) {
    float lane[LANES], sum = 0;
    memcpy(lane, &v, sizeof v);
    for (int i = 0; i < LANES; i++) sum += lane[i];
    return sum;
}

static void add_row(const float *x, int64_t n, float *y) {
    EACH_ALONE
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

static void norm_stats(const float *x, int64_t n, bool centre, float eps, float *mean, float *inv) {
    int64_t full = n / LANES * LANES;
    lanes sum = {0}, squares = {0};
    float m = 0, rest = 0;
    if (centre) {
        for (int64_t i = 0; i < full; i += LANES) sum += lanes_at(x + i);
        for (int64_t i = full; i < n; i++) rest += x[i];
        m = (fold_lanes(sum) + rest) / (float)n;
    }
    for (int64_t i = 0; i < full; i += LANES) {
        lanes v = lanes_at(x + i) - m;
        squares += v * v;
    }
    rest = 0;
    for (int64_t i = full; i < n; i++) rest += (x[i] - m) * (x[i] - m);
    *mean = m;
    *inv = 1.0f / sqrtf((fold_lanes(squares) + rest) / (float)n + eps);
}

static void norm_grad(const float *x, const float *dy, const float *w, int64_t n, bool centre,
                      float mean, float inv, const float *base, float *dx) {
    int64_t full = n / LANES * LANES;
    lanes g_sum = {0}, gx_sum = {0};
    for (int64_t i = 0; i < full; i += LANES) {
        lanes g = lanes_at(dy + i) * lanes_at(w + i);
        g_sum += g;
        gx_sum += g * ((lanes_at(x + i) - mean) * inv);
    }
    float g_rest = 0, gx_rest = 0;
    for (int64_t i = full; i < n; i++) {
        g_rest += dy[i] * w[i];
        gx_rest += dy[i] * w[i] * ((x[i] - mean) * inv);
    }
    float shift = centre ? (fold_lanes(g_sum) + g_rest) / (float)n : 0;
    float slope = (fold_lanes(gx_sum) + gx_rest) / (float)n;
    if (base) {
        EACH_ALONE
        for (int64_t i = 0; i < n; i++)
            dx[i] = base[i] + inv * (dy[i] * w[i] - shift - (x[i] - mean) * inv * slope);
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
    int64_t full = n / LANES * LANES;
    lanes along = {0};
    float rest = 0;
    for (int64_t i = 0; i < full; i += LANES) along += lanes_at(p + i) * lanes_at(d + i);
    for (int64_t i = full; i < n; i++) rest += p[i] * d[i];
    float sum = fold_lanes(along) + rest;
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
