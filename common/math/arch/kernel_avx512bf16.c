/*
 * kernel_avx512bf16.c - products of pairs of bf16 (kernel.h, ty_pair_kernels): vdpbf16ps multiplies and
 * adds two k of sixteen outputs at once, twice what a fused multiply-add does.
 *
 * A tile is 12 rows x 32 columns, as in kernel_avx512.h: the broadcast of a's pair is a memory operand.
 * Packing goes by squares of 16 x 16 pairs where rows and columns change places.
 */
#include "common/math/kernel.h"

#include <immintrin.h>
#include <stddef.h>

#define INLINE static inline __attribute__((always_inline))

enum { NR = 32, MR = 12, SIDE = 16 };

/* ---- the product ---- */

INLINE void tile(int m, int64_t n_pair, const uint32_t *a, int64_t lda, const uint32_t *w, float *c,
                 int64_t ldc, bool add) {
    __m512 acc[MR][2];
    for (int i = 0; i < m; i++) {
        acc[i][0] = add ? _mm512_loadu_ps(c + i * ldc) : _mm512_setzero_ps();
        acc[i][1] = add ? _mm512_loadu_ps(c + i * ldc + 16) : _mm512_setzero_ps();
    }
    for (int64_t t = 0; t < n_pair; t++) {
        __m512bh w0 = (__m512bh)_mm512_loadu_si512(w + t * NR);
        __m512bh w1 = (__m512bh)_mm512_loadu_si512(w + t * NR + 16);
        for (int i = 0; i < m; i++) {
            __m512bh x = (__m512bh)_mm512_set1_epi32((int)a[i * lda + t]);
            acc[i][0] = _mm512_dpbf16_ps(acc[i][0], x, w0);
            acc[i][1] = _mm512_dpbf16_ps(acc[i][1], x, w1);
        }
    }
    for (int i = 0; i < m; i++) {
        _mm512_storeu_ps(c + i * ldc, acc[i][0]);
        _mm512_storeu_ps(c + i * ldc + 16, acc[i][1]);
    }
}

static void gemm(int m, int64_t n_pair, const uint32_t *a, int64_t lda, const uint32_t *w, float *c,
                 int64_t ldc, bool add) {
    switch (m) {
    case 1: tile(1, n_pair, a, lda, w, c, ldc, add); break;
    case 2: tile(2, n_pair, a, lda, w, c, ldc, add); break;
    case 3: tile(3, n_pair, a, lda, w, c, ldc, add); break;
    case 4: tile(4, n_pair, a, lda, w, c, ldc, add); break;
    case 5: tile(5, n_pair, a, lda, w, c, ldc, add); break;
    case 6: tile(6, n_pair, a, lda, w, c, ldc, add); break;
    case 7: tile(7, n_pair, a, lda, w, c, ldc, add); break;
    case 8: tile(8, n_pair, a, lda, w, c, ldc, add); break;
    case 9: tile(9, n_pair, a, lda, w, c, ldc, add); break;
    case 10: tile(10, n_pair, a, lda, w, c, ldc, add); break;
    case 11: tile(11, n_pair, a, lda, w, c, ldc, add); break;
    case 12: tile(12, n_pair, a, lda, w, c, ldc, add); break;
    default: break;
    }
}

/* ---- packing ---- */

/* A mask of the first n of sixteen. */
INLINE __mmask16 first(int64_t n) {
    return n >= SIDE ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1);
}

/* Sixteen pairs of thirty-two neighbours, of which n are there. */
INLINE __m512i neighbours(const float *x, int64_t n) {
    __m512 low = _mm512_maskz_loadu_ps(first(n), x);
    __m512 high = n > SIDE ? _mm512_maskz_loadu_ps(first(n - SIDE), x + SIDE) : _mm512_setzero_ps();
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* Sixteen pairs of one row and the next (NULL: zeros), of which n are there. */
INLINE __m512i rows_of_two(const float *x, const float *next, int64_t n) {
    static const uint16_t ORDER[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                       21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                       11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512 low = _mm512_maskz_loadu_ps(first(n), x);
    __m512 high = next ? _mm512_maskz_loadu_ps(first(n), next) : _mm512_setzero_ps();
    return _mm512_permutexvar_epi16(_mm512_loadu_si512(ORDER),
                                    (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

/* Rows of sixteen become columns: by pairs, by fours, then quarters of the registers. */
INLINE void turn(__m512i v[SIDE]) {
    __m512i u[SIDE];
    for (int i = 0; i < SIDE; i += 2) {
        u[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        u[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < SIDE; i += 4) {
        v[i] = _mm512_unpacklo_epi64(u[i], u[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(u[i], u[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(u[i + 1], u[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(u[i + 1], u[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        u[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
        u[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
        u[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
        u[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_i32x4(u[i], u[i + 8], 0x88);
        v[i + 8] = _mm512_shuffle_i32x4(u[i], u[i + 8], 0xdd);
        v[i + 4] = _mm512_shuffle_i32x4(u[i + 4], u[i + 12], 0x88);
        v[i + 12] = _mm512_shuffle_i32x4(u[i + 4], u[i + 12], 0xdd);
    }
}

INLINE void store(uint32_t *dst, int64_t ld, int64_t rows, int64_t cols, const __m512i v[SIDE]) {
    for (int i = 0; i < SIDE && i < rows; i++)
        _mm512_mask_storeu_epi32(dst + i * ld, first(cols), v[i]);
}

static void along(const float *x, int64_t lds, int64_t rows, int64_t k, uint32_t *dst, int64_t ld) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t t = 0; t < k; t += 2 * SIDE)
            _mm512_mask_storeu_epi32(dst + r * ld + t / 2, first((k - t + 1) / 2),
                                     neighbours(x + r * lds + t, k - t));
}

static void along_turned(const float *x, int64_t lds, int64_t rows, int64_t k, uint32_t *dst,
                         int64_t ld) {
    for (int64_t r = 0; r < rows; r += SIDE)
        for (int64_t t = 0; t < k; t += 2 * SIDE) {
            __m512i v[SIDE];
            for (int i = 0; i < SIDE; i++)
                v[i] = r + i < rows ? neighbours(x + (r + i) * lds + t, k - t)
                                    : _mm512_setzero_si512();
            turn(v);
            store(dst + t / 2 * ld + r, ld, (k - t + 1) / 2, rows - r, v);
        }
}

static void across(const float *x, int64_t lds, int64_t k, int64_t cols, uint32_t *dst,
                   int64_t ld) {
    for (int64_t t = 0; t < k; t += 2)
        for (int64_t c = 0; c < cols; c += SIDE) {
            const float *at = x + t * lds + c;
            _mm512_mask_storeu_epi32(dst + t / 2 * ld + c, first(cols - c),
                                     rows_of_two(at, t + 1 < k ? at + lds : NULL, cols - c));
        }
}

static void across_turned(const float *x, int64_t lds, int64_t k, int64_t cols, uint32_t *dst,
                          int64_t ld) {
    for (int64_t t = 0; t < k; t += 2 * SIDE)
        for (int64_t c = 0; c < cols; c += SIDE) {
            __m512i v[SIDE];
            for (int i = 0; i < SIDE; i++) {
                const float *at = x + (t + 2 * i) * lds + c;
                v[i] = t + 2 * i < k
                           ? rows_of_two(at, t + 2 * i + 1 < k ? at + lds : NULL, cols - c)
                           : _mm512_setzero_si512();
            }
            turn(v);
            store(dst + c * ld + t / 2, ld, cols - c, (k - t + 1) / 2, v);
        }
}

const ty_pair_kernels ty_pair_kernels_avx512bf16 = {
    .name = "avx512bf16",
    .nr = NR,
    .mr = MR,
    .gemm = gemm,
    .along = along,
    .along_turned = along_turned,
    .across = across,
    .across_turned = across_turned,
};
