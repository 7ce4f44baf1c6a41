/*
 * kernel_avx512vnni.c - the kernels for AVX-512 with VNNI: vpdpbusd adds four products of unsigned and
 * signed bytes to a 32-bit sum, two a clock.  Q8_0 bytes are packed unsigned (q + 128); the zero points
 * 128 and 8 cost nothing, being the accumulators' initial value.
 */
#include "common/math/arch/kernel_avx512.h"

INLINE void start(int m, const int32_t *nsum, unsigned shift, __m512i sum[QMR][2]) {
    for (int i = 0; i < m; i++)
        sum[i][0] = sum[i][1] = _mm512_slli_epi32(_mm512_set1_epi32(nsum[i]), shift);
}

INLINE void block_q8(int m, const int8_t *const *x, const int32_t *nsum, const uint8_t *q,
                     __m512i sum[QMR][2]) {
    start(m, nsum, 7, sum);
    for (int j = 0; j < 8; j++) {
        __m512i w0 = load_q(q + 128 * j), w1 = load_q(q + 128 * j + 64);
        for (int i = 0; i < m; i++) {
            __m512i v = spread4(x[i] + 4 * j);
            sum[i][0] = _mm512_dpbusd_epi32(sum[i][0], w0, v);
            sum[i][1] = _mm512_dpbusd_epi32(sum[i][1], w1, v);
        }
    }
}

INLINE void block_q4(int m, const int8_t *const *x, const int32_t *nsum, const uint8_t *q,
                     __m512i sum[QMR][2]) {
    const __m512i low = _mm512_set1_epi8(15);
    start(m, nsum, 3, sum);
    for (int j = 0; j < 4; j++) {
        __m512i v0 = load_q(q + 128 * j), v1 = load_q(q + 128 * j + 64);
        __m512i l0 = _mm512_and_si512(v0, low), l1 = _mm512_and_si512(v1, low);
        __m512i h0 = _mm512_and_si512(_mm512_srli_epi16(v0, 4), low);
        __m512i h1 = _mm512_and_si512(_mm512_srli_epi16(v1, 4), low);
        for (int i = 0; i < m; i++) {
            __m512i xl = spread4(x[i] + 4 * j), xh = spread4(x[i] + 16 + 4 * j);
            sum[i][0] = _mm512_dpbusd_epi32(sum[i][0], l0, xl);
            sum[i][1] = _mm512_dpbusd_epi32(sum[i][1], l1, xl);
            sum[i][0] = _mm512_dpbusd_epi32(sum[i][0], h0, xh);
            sum[i][1] = _mm512_dpbusd_epi32(sum[i][1], h1, xh);
        }
    }
}

static void gemm_q8(int m, int64_t n_block, const ty_qrows *x, const void *w, int64_t step,
                    int n_panel, float *c, int64_t ldc) {
    gemm_q(block_q8, NR * 34, m, n_block, x, w, step, n_panel, c, ldc);
}

static void gemm_q4(int m, int64_t n_block, const ty_qrows *x, const void *w, int64_t step,
                    int n_panel, float *c, int64_t ldc) {
    gemm_q(block_q4, NR * 18, m, n_block, x, w, step, n_panel, c, ldc);
}

static void widen_q8(const void *w, int64_t n_block, float *dst) {
    widen_q8_bytes(w, n_block, 128, dst);
}

const ty_kernels ty_kernels_avx512vnni = {
    .name = "avx512vnni",
    .q8_zero = 128,
    .gemm_q8 = gemm_q8,
    .gemm_q4 = gemm_q4,
    .widen_q8 = widen_q8,
    TY_AVX512_KERNELS,
};
