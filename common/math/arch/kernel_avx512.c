/*
 * kernel_avx512.c - the kernels for AVX-512 (F, BW, DQ, VL) without VNNI: bytes are multiplied by
 * vpmaddubsw into 16-bit pairs, as in kernel_avx2.c, but signs are applied with masks (there is no
 * 512-bit vpsignb) and six rows are taken at a time.
 */
#include "common/math/arch/kernel_avx512.h"

/* |w| times x with w's sign: a pair fits 16 bits (2 * 128 * 127), two do not. */
INLINE void block_q8(int m, const int8_t *const *x, const int32_t *nsum, const uint8_t *q,
                     __m512i sum[QMR][2]) {
    const __m512i ones = _mm512_set1_epi16(1), zero = _mm512_setzero_si512();
    (void)nsum;
    for (int i = 0; i < m; i++) sum[i][0] = sum[i][1] = zero;
    for (int j = 0; j < 8; j++) {
        __m512i w0 = load_q(q + 128 * j), w1 = load_q(q + 128 * j + 64);
        __mmask64 n0 = _mm512_movepi8_mask(w0), n1 = _mm512_movepi8_mask(w1);
        __m512i a0 = _mm512_abs_epi8(w0), a1 = _mm512_abs_epi8(w1);
        for (int i = 0; i < m; i++) {
            __m512i v = spread4(x[i] + 4 * j);
            __m512i p0 = _mm512_maddubs_epi16(a0, _mm512_mask_sub_epi8(v, n0, zero, v));
            __m512i p1 = _mm512_maddubs_epi16(a1, _mm512_mask_sub_epi8(v, n1, zero, v));
            sum[i][0] = _mm512_add_epi32(sum[i][0], _mm512_madd_epi16(p0, ones));
            sum[i][1] = _mm512_add_epi32(sum[i][1], _mm512_madd_epi16(p1, ones));
        }
    }
}

/* Nibbles are unsigned; a block's pairs fit 16 bits with the zero point as initial value: 8 * nsum in
 * each column's upper half, 0 in its lower. */
INLINE void block_q4(int m, const int8_t *const *x, const int32_t *nsum, const uint8_t *q,
                     __m512i sum[QMR][2]) {
    const __m512i low = _mm512_set1_epi8(15), ones = _mm512_set1_epi16(1);
    for (int i = 0; i < m; i++)
        sum[i][0] = sum[i][1] = _mm512_slli_epi32(_mm512_set1_epi32(nsum[i]), 19);
    for (int j = 0; j < 4; j++) {
        __m512i v0 = load_q(q + 128 * j), v1 = load_q(q + 128 * j + 64);
        __m512i l0 = _mm512_and_si512(v0, low), l1 = _mm512_and_si512(v1, low);
        __m512i h0 = _mm512_and_si512(_mm512_srli_epi16(v0, 4), low);
        __m512i h1 = _mm512_and_si512(_mm512_srli_epi16(v1, 4), low);
        for (int i = 0; i < m; i++) {
            __m512i xl = spread4(x[i] + 4 * j), xh = spread4(x[i] + 16 + 4 * j);
            sum[i][0] = _mm512_add_epi16(sum[i][0], _mm512_maddubs_epi16(l0, xl));
            sum[i][1] = _mm512_add_epi16(sum[i][1], _mm512_maddubs_epi16(l1, xl));
            sum[i][0] = _mm512_add_epi16(sum[i][0], _mm512_maddubs_epi16(h0, xh));
            sum[i][1] = _mm512_add_epi16(sum[i][1], _mm512_maddubs_epi16(h1, xh));
        }
    }
    for (int i = 0; i < m; i++) {
        sum[i][0] = _mm512_madd_epi16(sum[i][0], ones);
        sum[i][1] = _mm512_madd_epi16(sum[i][1], ones);
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
    widen_q8_bytes(w, n_block, 0, dst);
}

const ty_kernels ty_kernels_avx512 = {
    .name = "avx512",
    .q8_zero = 0,
    .gemm_q8 = gemm_q8,
    .gemm_q4 = gemm_q4,
    .widen_q8 = widen_q8,
    TY_AVX512_KERNELS,
};
