/*
 * kernel_ref.c - the kernels in plain C: the truth that every other table is compared with, and
 * what runs on a machine that no table was written for.  Written to be read, not to be fast.
 */
#include "common/math/dtype.h"
#include "common/math/grad_rows.h"
#include "common/math/kernel.h"

#include <math.h>
#include <string.h>

enum { NR = 16, MR = 4 };

static void gemm_f32(int m, int64_t k, const float *a, int64_t lda, const float *w, int64_t step,
                     int n_panel, float *c, int64_t ldc, bool add) {
    for (int i = 0; i < m; i++)
        for (int p = 0; p < n_panel; p++) {
            const float *panel = w + p * step;
            float *out = c + i * ldc + (int64_t)p * NR;
            if (!add) memset(out, 0, NR * sizeof *out);
            for (int64_t t = 0; t < k; t++)
                for (int j = 0; j < NR; j++)
                    out[j] = fmaf(a[i * lda + t], panel[t * NR + j], out[j]);
        }
}

static void product_f32(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row,
                        int64_t a_step, const float *b, int64_t ldb, float *c, int64_t ldc,
                        bool add) {
    for (int64_t i = 0; i < m; i++) {
        float *out = c + i * ldc;
        for (int64_t j = 0; j < n && !add; j++) out[j] = 0;
        for (int64_t t = 0; t < k; t++)
            for (int64_t j = 0; j < n; j++)
                out[j] = fmaf(a[i * a_row + t * a_step], b[t * ldb + j], out[j]);
    }
}

typedef float to_float(uint16_t h);

static float from_bf16(uint16_t h) {
    return ty_bf16_to_f32(h);
}

static void gemm_half(to_float *widen, int m, int64_t k, const float *a, int64_t lda,
                      const uint16_t *w, int64_t step, int n_panel, float *c, int64_t ldc,
                      bool add) {
    for (int p = 0; p < n_panel; p++) {
        const uint16_t *panel = w + p * step;
        float *out = c + (int64_t)p * NR;
        if (!add)
            for (int i = 0; i < m; i++) memset(out + i * ldc, 0, NR * sizeof *out);
        for (int64_t t = 0; t < k; t++)
            for (int j = 0; j < NR; j++) {
                float v = widen(panel[t * NR + j]);
                for (int i = 0; i < m; i++)
                    out[i * ldc + j] = fmaf(a[i * lda + t], v, out[i * ldc + j]);
            }
    }
}

static void gemm_f16(int m, int64_t k, const float *a, int64_t lda, const uint16_t *w, int64_t step,
                     int n_panel, float *c, int64_t ldc, bool add) {
    gemm_half(ty_f16_to_f32, m, k, a, lda, w, step, n_panel, c, ldc, add);
}

static void gemm_bf16(int m, int64_t k, const float *a, int64_t lda, const uint16_t *w,
                      int64_t step, int n_panel, float *c, int64_t ldc, bool add) {
    gemm_half(from_bf16, m, k, a, lda, w, step, n_panel, c, ldc, add);
}

static float block_scale(const uint8_t *block, int col) {
    uint16_t h;
    memcpy(&h, block + 2 * col, 2);
    return ty_f16_to_f32(h);
}

static int q8_at(const uint8_t *block, int col, int k) {
    return (int8_t)block[2 * NR + (k / 4 * NR + col) * 4 + k % 4];
}

static int q4_at(const uint8_t *block, int col, int k) {
    uint8_t b = block[2 * NR + (k % 16 / 4 * NR + col) * 4 + k % 4];
    return (k < 16 ? b & 15 : b >> 4) - 8;
}

typedef int weight_at(const uint8_t *block, int col, int k);

static void gemm_q(weight_at *at, int64_t block_bytes, int m, int64_t n_block, const ty_qrows *x,
                   const void *w, int64_t step, int n_panel, float *c, int64_t ldc) {
    for (int i = 0; i < m; i++)
        for (int col = 0; col < n_panel * NR; col++) {
            const uint8_t *panel = (const uint8_t *)w + col / NR * step;
            float y = 0;
            for (int64_t b = 0; b < n_block; b++) {
                const uint8_t *block = panel + b * block_bytes;
                int32_t sum = 0;
                for (int k = 0; k < 32; k++)
                    sum += at(block, col % NR, k) * x->q[i * x->ldq + b * 32 + k];
                y = fmaf((float)sum, block_scale(block, col % NR) * x->d[i * x->ldd + b], y);
            }
            c[i * ldc + col] = y;
        }
}

static void gemm_q8(int m, int64_t n_block, const ty_qrows *x, const void *w, int64_t step,
                    int n_panel, float *c, int64_t ldc) {
    gemm_q(q8_at, ty_q8_block_bytes(NR), m, n_block, x, w, step, n_panel, c, ldc);
}

static void gemm_q4(int m, int64_t n_block, const ty_qrows *x, const void *w, int64_t step,
                    int n_panel, float *c, int64_t ldc) {
    gemm_q(q4_at, ty_q4_block_bytes(NR), m, n_block, x, w, step, n_panel, c, ldc);
}

static void widen_f16(const uint16_t *src, int64_t n, float *dst) {
    for (int64_t i = 0; i < n; i++) dst[i] = ty_f16_to_f32(src[i]);
}

static void widen_bf16(const uint16_t *src, int64_t n, float *dst) {
    for (int64_t i = 0; i < n; i++) dst[i] = ty_bf16_to_f32(src[i]);
}

static void widen_q(weight_at *at, int64_t block_bytes, const void *w, int64_t n_block,
                    float *dst) {
    for (int64_t b = 0; b < n_block; b++) {
        const uint8_t *block = (const uint8_t *)w + b * block_bytes;
        for (int k = 0; k < 32; k++)
            for (int col = 0; col < NR; col++)
                dst[(b * 32 + k) * NR + col] = block_scale(block, col) * (float)at(block, col, k);
    }
}

static void widen_q8(const void *w, int64_t n_block, float *dst) {
    widen_q(q8_at, ty_q8_block_bytes(NR), w, n_block, dst);
}

static void widen_q4(const void *w, int64_t n_block, float *dst) {
    widen_q(q4_at, ty_q4_block_bytes(NR), w, n_block, dst);
}

static void round_bf16(const float *src, int64_t n, float *dst) {
    for (int64_t i = 0; i < n; i++) dst[i] = ty_bf16_to_f32(ty_f32_to_bf16(src[i]));
}

static void quantize(const float *x, int64_t n_block, int8_t *q, float *d, int32_t *nsum) {
    for (int64_t b = 0; b < n_block; b++, x += 32, q += 32) {
        float amax = 0;
        for (int i = 0; i < 32; i++) amax = fmaxf(amax, fabsf(x[i]));
        float inverse = amax > 0 ? 127.0f / amax : 0;
        int32_t sum = 0;
        for (int i = 0; i < 32; i++) {
            q[i] = (int8_t)rintf(x[i] * inverse);
            sum += q[i];
        }
        d[b] = amax / 127.0f;
        nsum[b] = -sum;
    }
}

static void layernorm(const float *x, int64_t n, const float *w, const float *b, float eps,
                      float *y) {
    double sum = 0, var = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i];
    double mean = n ? sum / (double)n : 0;
    for (int64_t i = 0; i < n; i++) var += ((double)x[i] - mean) * ((double)x[i] - mean);
    float inv = n ? (float)(1.0 / sqrt(var / (double)n + (double)eps)) : 0;
    for (int64_t i = 0; i < n; i++) y[i] = (x[i] - (float)mean) * inv * w[i] + (b ? b[i] : 0.0f);
}

static void rmsnorm(const float *x, int64_t n, const float *w, float eps, float *y) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    float inv = n ? (float)(1.0 / sqrt(sum / (double)n + (double)eps)) : 0;
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * inv * w[i];
}

static void quick_gelu(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = x[i] / (1.0f + expf(-1.702f * x[i]));
}

/* (1 + tanh(u)) / 2 = 1 / (1 + e^-2u) */
static void gelu_tanh(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] / (1.0f + expf(-1.5957691216f * (x[i] + 0.044715f * x[i] * x[i] * x[i])));
}

static void silu_mul(const float *gate, const float *up, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i++) out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

static float max_of(const float *x, int64_t n) {
    float m = -INFINITY;
    for (int64_t i = 0; i < n; i++) m = fmaxf(m, x[i]);
    return m;
}

static float exp_sum(float *x, int64_t n, float shift) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        x[i] = expf(x[i] - shift);
        sum += (double)x[i];
    }
    return (float)sum;
}

static void scale_by(float *x, int64_t n, float s) {
    for (int64_t i = 0; i < n; i++) x[i] *= s;
}

static void scores_f32(int n_q, const float *q, int64_t ldq, int n_k, const float *k, int64_t ldk,
                       int d, float scale, float *s, int64_t lds) {
    for (int i = 0; i < n_q; i++)
        for (int j = 0; j < n_k; j++) {
            float dot = 0;
            for (int t = 0; t < d; t++) dot = fmaf(q[i * ldq + t], k[j * ldk + t], dot);
            s[i * lds + j] = dot * scale;
        }
}

static void scores_f16(int n_q, const float *q, int64_t ldq, int n_k, const uint16_t *k,
                       int64_t ldk, int d, float scale, float *s, int64_t lds) {
    for (int i = 0; i < n_q; i++)
        for (int j = 0; j < n_k; j++) {
            float dot = 0;
            for (int t = 0; t < d; t++)
                dot = fmaf(q[i * ldq + t], ty_f16_to_f32(k[j * ldk + t]), dot);
            s[i * lds + j] = dot * scale;
        }
}

static void values_f32(int n_q, const float *p, int64_t ldp, int n_k, const float *v, int64_t ldv,
                       int d, float *acc, int64_t ldacc) {
    for (int i = 0; i < n_q; i++)
        for (int j = 0; j < n_k; j++)
            for (int t = 0; t < d; t++)
                acc[i * ldacc + t] = fmaf(p[i * ldp + j], v[j * ldv + t], acc[i * ldacc + t]);
}

static void values_f16(int n_q, const float *p, int64_t ldp, int n_k, const uint16_t *v,
                       int64_t ldv, int d, float *acc, int64_t ldacc) {
    for (int i = 0; i < n_q; i++)
        for (int j = 0; j < n_k; j++)
            for (int t = 0; t < d; t++)
                acc[i * ldacc + t] =
                    fmaf(p[i * ldp + j], ty_f16_to_f32(v[j * ldv + t]), acc[i * ldacc + t]);
}

static void narrow_f16(const float *src, int64_t n, uint16_t *dst) {
    for (int64_t i = 0; i < n; i++) dst[i] = ty_f32_to_f16(src[i]);
}

const ty_kernels ty_kernels_ref = {
    .name = "ref",
    .nr = NR,
    .mr = MR,
    .qmr = MR,
    .q8_zero = 0,
    .gemm_f32 = gemm_f32,
    .product_f32 = product_f32,
    .gemm_f16 = gemm_f16,
    .gemm_bf16 = gemm_bf16,
    .gemm_q8 = gemm_q8,
    .gemm_q4 = gemm_q4,
    .widen_f16 = widen_f16,
    .widen_bf16 = widen_bf16,
    .widen_q8 = widen_q8,
    .widen_q4 = widen_q4,
    .round_bf16 = round_bf16,
    .quantize = quantize,
    .layernorm = layernorm,
    .rmsnorm = rmsnorm,
    .quick_gelu = quick_gelu,
    .gelu_tanh = gelu_tanh,
    .silu_mul = silu_mul,
    .max = max_of,
    .exp_sum = exp_sum,
    TY_GRAD_ROWS,
    .scale = scale_by,
    .scores_f32 = scores_f32,
    .scores_f16 = scores_f16,
    .values_f32 = values_f32,
    .values_f16 = values_f16,
    .narrow_f16 = narrow_f16,
};

/* ---- pairs of bf16 ---- */

static uint32_t pair(float low, float high) {
    return (uint32_t)ty_f32_to_bf16(high) << 16 | ty_f32_to_bf16(low);
}

/* The high half first, as the instruction is described. */
static void gemm_pairs(int m, int64_t n_pair, const uint32_t *a, int64_t lda, const uint32_t *w,
                       float *c, int64_t ldc, bool add) {
    for (int i = 0; i < m; i++) {
        float *out = c + i * ldc;
        if (!add) memset(out, 0, NR * sizeof *out);
        for (int64_t t = 0; t < n_pair; t++)
            for (int j = 0; j < NR; j++) {
                uint32_t x = a[i * lda + t], y = w[t * NR + j];
                out[j] =
                    fmaf(from_bf16((uint16_t)(x >> 16)), from_bf16((uint16_t)(y >> 16)), out[j]);
                out[j] = fmaf(from_bf16((uint16_t)x), from_bf16((uint16_t)y), out[j]);
            }
    }
}

/* Element (i, k) of x at i * si + k * sk; pair (i, t) of dst at i * di + t * dt. */
static void pack_pairs(const float *x, int64_t si, int64_t sk, int64_t n, int64_t k, uint32_t *dst,
                       int64_t di, int64_t dt) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t t = 0; t < k; t += 2)
            dst[i * di + t / 2 * dt] =
                pair(x[i * si + t * sk], t + 1 < k ? x[i * si + (t + 1) * sk] : 0);
}

static void along(const float *x, int64_t lds, int64_t rows, int64_t k, uint32_t *dst, int64_t ld) {
    pack_pairs(x, lds, 1, rows, k, dst, ld, 1);
}

static void along_turned(const float *x, int64_t lds, int64_t rows, int64_t k, uint32_t *dst,
                         int64_t ld) {
    pack_pairs(x, lds, 1, rows, k, dst, 1, ld);
}

static void across(const float *x, int64_t lds, int64_t k, int64_t cols, uint32_t *dst,
                   int64_t ld) {
    pack_pairs(x, 1, lds, cols, k, dst, 1, ld);
}

static void across_turned(const float *x, int64_t lds, int64_t k, int64_t cols, uint32_t *dst,
                          int64_t ld) {
    pack_pairs(x, 1, lds, cols, k, dst, ld, 1);
}

const ty_pair_kernels ty_pair_kernels_ref = {
    .name = "ref",
    .nr = NR,
    .mr = MR,
    .gemm = gemm_pairs,
    .along = along,
    .along_turned = along_turned,
    .across = across,
    .across_turned = across_turned,
};
