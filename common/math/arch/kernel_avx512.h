/*
 * kernel_avx512.h - the 512-bit kernels that do not depend on how bytes are multiplied: float gemm,
 * conversions, rows, attention, and the frame of the quantised gemm.  Included by each AVX-512 table,
 * which adds its own sums over a block and is compiled for its own instruction set.
 *
 * Float tiles are 12 rows x 32 columns: 24 accumulators of the 32 registers, two weight vectors, and the
 * broadcast is a memory operand of the fused multiply-add.  A single row takes four panels at a time.
 * Tails are masked.  AVX-512 F, BW, DQ and VL.
 */
#ifndef TY_MATH_KERNEL_AVX512_H
#define TY_MATH_KERNEL_AVX512_H

#include "common/math/grad_rows.h"
#include "common/math/kernel.h"

#ifndef TY_EMULATE_AVX512 /* a test brings the intrinsics itself, emulated */
#include <immintrin.h>
#endif
#include <math.h>
#include <stddef.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { NR = 32, MR = 12, QMR = 6 };

/* ---- float gemm ---- */

typedef enum { F32, F16, BF16 } form;

INLINE const char *at(const void *w, form f, int64_t i) {
    return (const char *)w + i * (f == F32 ? 4 : 2);
}

INLINE __m512 widen(__m256i h, form f) {
    if (f == F16) return _mm512_cvtph_ps(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

/* Sixteen weights from any address, as f32. */
INLINE __m512 load16(const void *w, form f, int64_t i) {
    const char *p = at(w, f, i);
    if (f == F32) return _mm512_loadu_ps(p);
    return widen(_mm256_loadu_si256((const __m256i *)(const void *)p), f);
}

INLINE void tile(form f, int m, int64_t k, const float *a, int64_t lda, const void *w, float *c,
                 int64_t ldc, bool add) {
    __m512 acc[MR][2];
    for (int i = 0; i < m; i++) {
        acc[i][0] = add ? _mm512_loadu_ps(c + i * ldc) : _mm512_setzero_ps();
        acc[i][1] = add ? _mm512_loadu_ps(c + i * ldc + 16) : _mm512_setzero_ps();
    }
    for (int64_t t = 0; t < k; t++) {
        __m512 w0 = load16(w, f, t * NR), w1 = load16(w, f, t * NR + 16);
        for (int i = 0; i < m; i++) {
            __m512 x = _mm512_set1_ps(a[i * lda + t]);
            acc[i][0] = _mm512_fmadd_ps(x, w0, acc[i][0]);
            acc[i][1] = _mm512_fmadd_ps(x, w1, acc[i][1]);
        }
    }
    for (int i = 0; i < m; i++) {
        _mm512_storeu_ps(c + i * ldc, acc[i][0]);
        _mm512_storeu_ps(c + i * ldc + 16, acc[i][1]);
    }
}

/* One row, four panels side by side. */
INLINE void row4(form f, int64_t k, const float *a, const void *w, int64_t step, float *c,
                 bool add) {
    __m512 acc[4][2];
    for (int p = 0; p < 4; p++) {
        acc[p][0] = add ? _mm512_loadu_ps(c + p * NR) : _mm512_setzero_ps();
        acc[p][1] = add ? _mm512_loadu_ps(c + p * NR + 16) : _mm512_setzero_ps();
    }
    for (int64_t t = 0; t < k; t++) {
        __m512 x = _mm512_set1_ps(a[t]);
        for (int p = 0; p < 4; p++) {
            acc[p][0] = _mm512_fmadd_ps(x, load16(w, f, p * step + t * NR), acc[p][0]);
            acc[p][1] = _mm512_fmadd_ps(x, load16(w, f, p * step + t * NR + 16), acc[p][1]);
        }
    }
    for (int p = 0; p < 4; p++) {
        _mm512_storeu_ps(c + p * NR, acc[p][0]);
        _mm512_storeu_ps(c + p * NR + 16, acc[p][1]);
    }
}

INLINE void gemm(form f, int m, int64_t k, const float *a, int64_t lda, const void *w, int64_t step,
                 int n_panel, float *c, int64_t ldc, bool add) {
    int p = 0;
    if (m == 1)
        for (; p + 4 <= n_panel; p += 4) row4(f, k, a, at(w, f, p * step), step, c + p * NR, add);
    for (; p < n_panel; p++) {
        const void *panel = at(w, f, p * step);
        float *out = c + p * NR;
        switch (m) {
        case 1: tile(f, 1, k, a, lda, panel, out, ldc, add); break;
        case 2: tile(f, 2, k, a, lda, panel, out, ldc, add); break;
        case 3: tile(f, 3, k, a, lda, panel, out, ldc, add); break;
        case 4: tile(f, 4, k, a, lda, panel, out, ldc, add); break;
        case 5: tile(f, 5, k, a, lda, panel, out, ldc, add); break;
        case 6: tile(f, 6, k, a, lda, panel, out, ldc, add); break;
        case 7: tile(f, 7, k, a, lda, panel, out, ldc, add); break;
        case 8: tile(f, 8, k, a, lda, panel, out, ldc, add); break;
        case 9: tile(f, 9, k, a, lda, panel, out, ldc, add); break;
        case 10: tile(f, 10, k, a, lda, panel, out, ldc, add); break;
        case 11: tile(f, 11, k, a, lda, panel, out, ldc, add); break;
        case 12: tile(f, 12, k, a, lda, panel, out, ldc, add); break;
        default: break;
        }
    }
}

static void gemm_f32(int m, int64_t k, const float *a, int64_t lda, const float *w, int64_t step,
                     int n_panel, float *c, int64_t ldc, bool add) {
    gemm(F32, m, k, a, lda, w, step, n_panel, c, ldc, add);
}

static void gemm_f16(int m, int64_t k, const float *a, int64_t lda, const uint16_t *w, int64_t step,
                     int n_panel, float *c, int64_t ldc, bool add) {
    gemm(F16, m, k, a, lda, w, step, n_panel, c, ldc, add);
}

static void gemm_bf16(int m, int64_t k, const float *a, int64_t lda, const uint16_t *w,
                      int64_t step, int n_panel, float *c, int64_t ldc, bool add) {
    gemm(BF16, m, k, a, lda, w, step, n_panel, c, ldc, add);
}

/* ---- float product, operands where they are stored ---- */

/* The first n (0..16) lanes on. */
INLINE __mmask16 first_lanes(int64_t n) {
    return (__mmask16)((1u << n) - 1u);
}

/* `vecs` vectors of columns; all lanes of them, unless `part` says that `last` are those of the last one.  more: a whole
 * tile of rows follows. */
INLINE void tile_in_place(int m, int vecs, bool part, __mmask16 last, int64_t k, const float *a,
                          int64_t a_row, int64_t a_step, const float *b, int64_t ldb, float *c,
                          int64_t ldc, bool add, bool more) {
    __m512 acc[MR][2];
    for (int i = 0; i < m; i++)
        for (int v = 0; v < vecs; v++) {
            const float *at = c + i * ldc + 16 * v;
            acc[i][v] = !add                    ? _mm512_setzero_ps()
                        : part && v + 1 == vecs ? _mm512_maskz_loadu_ps(last, at)
                                                : _mm512_loadu_ps(at);
        }
    /* Rows of c are fetched while there is something to compute: those that are stored at the end, or read at the
     * beginning of the next tile. */
    if (!add)
        for (int i = 0; i < m; i++)
            for (int v = 0; v < vecs; v++) __builtin_prefetch(c + i * ldc + 16 * v, 1, 3);
    else if (more)
        for (int i = 0; i < m; i++)
            for (int v = 0; v < vecs; v++) __builtin_prefetch(c + (m + i) * ldc + 16 * v, 1, 3);
    for (int64_t t = 0; t < k; t++, a += a_step, b += ldb) {
        __m512 w[2];
        for (int v = 0; v < vecs; v++)
            w[v] = part && v + 1 == vecs ? _mm512_maskz_loadu_ps(last, b + 16 * v)
                                         : _mm512_loadu_ps(b + 16 * v);
        for (int i = 0; i < m; i++) {
            __m512 x = _mm512_set1_ps(a[i * a_row]);
            for (int v = 0; v < vecs; v++) acc[i][v] = _mm512_fmadd_ps(x, w[v], acc[i][v]);
        }
    }
    for (int i = 0; i < m; i++)
        for (int v = 0; v < vecs; v++) {
            float *at = c + i * ldc + 16 * v;
            if (part && v + 1 == vecs)
                _mm512_mask_storeu_ps(at, last, acc[i][v]);
            else
                _mm512_storeu_ps(at, acc[i][v]);
        }
}

/* All rows of `vecs` vectors of columns. */
INLINE void strip_in_place(int vecs, bool part, __mmask16 last, int64_t m, int64_t k,
                           const float *a, int64_t a_row, int64_t a_step, const float *b,
                           int64_t ldb, float *c, int64_t ldc, bool add) {
#define TILE(rows)                                                                                 \
    tile_in_place(rows, vecs, part, last, k, a, a_row, a_step, b, ldb, c, ldc, add, m >= 2 * MR)
    for (; m >= MR; m -= MR, a += MR * a_row, c += MR * ldc) TILE(MR);
    switch (m) {
    case 1: TILE(1); break;
    case 2: TILE(2); break;
    case 3: TILE(3); break;
    case 4: TILE(4); break;
    case 5: TILE(5); break;
    case 6: TILE(6); break;
    case 7: TILE(7); break;
    case 8: TILE(8); break;
    case 9: TILE(9); break;
    case 10: TILE(10); break;
    case 11: TILE(11); break;
    default: break;
    }
#undef TILE
}

static void product_f32(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row,
                        int64_t a_step, const float *b, int64_t ldb, float *c, int64_t ldc,
                        bool add) {
    for (; n >= NR; n -= NR, b += NR, c += NR) {
        /* What is constant costs the inner loop no register: a panel, rows of a, columns of a. */
        if (a_step == 1 && ldb == NR)
            strip_in_place(2, false, 0, m, k, a, a_row, 1, b, NR, c, ldc, add);
        else if (a_step == 1)
            strip_in_place(2, false, 0, m, k, a, a_row, 1, b, ldb, c, ldc, add);
        else if (a_row == 1)
            strip_in_place(2, false, 0, m, k, a, 1, a_step, b, ldb, c, ldc, add);
        else
            strip_in_place(2, false, 0, m, k, a, a_row, a_step, b, ldb, c, ldc, add);
    }
    if (n > 16)
        strip_in_place(2, true, first_lanes(n - 16), m, k, a, a_row, a_step, b, ldb, c, ldc, add);
    else if (n > 0)
        strip_in_place(1, true, first_lanes(n), m, k, a, a_row, a_step, b, ldb, c, ldc, add);
}

/* ---- quantised gemm: the frame ---- */

INLINE __m512i load_q(const uint8_t *p) {
    return _mm512_load_si512((const __m512i *)(const void *)p);
}

/* Four activations, in every lane. */
INLINE __m512i spread4(const int8_t *q) {
    int32_t v;
    memcpy(&v, q, 4);
    return _mm512_set1_epi32(v);
}

INLINE __m512 scales16(const uint8_t *block, int h) {
    return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)(block + 32 * h)));
}

/* Integer sums of one block: x[i] the rows' 32 activations, nsum minus their sums, q the packed bytes
 * after the scales. */
typedef void block_sums(int m, const int8_t *const *x, const int32_t *nsum, const uint8_t *q,
                        __m512i sum[QMR][2]);

/* A block of the panel 2 KiB ahead, for the few rows that run at the speed of memory. */
INLINE void fetch_ahead(const uint8_t *block, int bytes) {
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch(block + 2048 + i, 0, 3);
}

INLINE void tile_q(block_sums *block, int block_bytes, int m, int64_t n_block, const ty_qrows *x,
                   const uint8_t *w, float *c, int64_t ldc) {
    __m512 y[QMR][2];
    const int8_t *q[QMR] = {0};
    for (int i = 0; i < m; i++) {
        q[i] = x->q + i * x->ldq;
        y[i][0] = y[i][1] = _mm512_setzero_ps();
    }
    for (int64_t b = 0; b < n_block; b++) {
        __m512i sum[QMR][2];
        int32_t nsum[QMR] = {0};
        __m512 s0 = scales16(w, 0), s1 = scales16(w, 1);
        if (m <= 3) fetch_ahead(w, block_bytes);
        for (int i = 0; i < m; i++) nsum[i] = x->nsum[i * x->ldd + b];
        block(m, q, nsum, w + 2 * NR, sum);
        for (int i = 0; i < m; i++) {
            __m512 d = _mm512_set1_ps(x->d[i * x->ldd + b]);
            y[i][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][0]), _mm512_mul_ps(s0, d), y[i][0]);
            y[i][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][1]), _mm512_mul_ps(s1, d), y[i][1]);
            q[i] += 32;
        }
        w += block_bytes;
    }
    for (int i = 0; i < m; i++) {
        _mm512_storeu_ps(c + i * ldc, y[i][0]);
        _mm512_storeu_ps(c + i * ldc + 16, y[i][1]);
    }
}

INLINE void gemm_q(block_sums *block, int block_bytes, int m, int64_t n_block, const ty_qrows *x,
                   const void *w, int64_t step, int n_panel, float *c, int64_t ldc) {
    for (int p = 0; p < n_panel; p++) {
        const uint8_t *panel = (const uint8_t *)w + p * step;
        float *out = c + p * NR;
        switch (m) {
        case 1: tile_q(block, block_bytes, 1, n_block, x, panel, out, ldc); break;
        case 2: tile_q(block, block_bytes, 2, n_block, x, panel, out, ldc); break;
        case 3: tile_q(block, block_bytes, 3, n_block, x, panel, out, ldc); break;
        case 4: tile_q(block, block_bytes, 4, n_block, x, panel, out, ldc); break;
        case 5: tile_q(block, block_bytes, 5, n_block, x, panel, out, ldc); break;
        case 6: tile_q(block, block_bytes, 6, n_block, x, panel, out, ldc); break;
        default: break;
        }
    }
}

/* ---- conversions ---- */

INLINE __m512 load_part(const float *x, int64_t n) {
    return _mm512_maskz_loadu_ps(first_lanes(n), x);
}

INLINE void store_part(float *x, int64_t n, __m512 v) {
    _mm512_mask_storeu_ps(x, first_lanes(n), v);
}

INLINE int64_t lanes_left(int64_t n) {
    return n < 16 ? n : 16;
}

INLINE __m512 load_half_part(const uint16_t *x, int64_t n, form f) {
    uint16_t part[16] = {0};
    memcpy(part, x, (size_t)n * sizeof *x);
    return load16(part, f, 0);
}

INLINE void widen_half(form f, const uint16_t *src, int64_t n, float *dst) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) _mm512_storeu_ps(dst + i, load16(src, f, i));
    if (i < n) store_part(dst + i, n - i, load_half_part(src + i, n - i, f));
}

static void widen_f16(const uint16_t *src, int64_t n, float *dst) {
    widen_half(F16, src, n, dst);
}

static void widen_bf16(const uint16_t *src, int64_t n, float *dst) {
    widen_half(BF16, src, n, dst);
}

/* Byte i of each lane, as stored unsigned, less `zero`, times the scale. */
INLINE __m512 byte_value(__m512i v, int shift, int mask, int zero, __m512 s) {
    __m512i one = _mm512_and_si512(_mm512_srli_epi32(v, (unsigned)shift), _mm512_set1_epi32(mask));
    return _mm512_mul_ps(s, _mm512_cvtepi32_ps(_mm512_sub_epi32(one, _mm512_set1_epi32(zero))));
}

INLINE void widen_q8_bytes(const uint8_t *block, int64_t n_block, int zero, float *dst) {
    for (int64_t b = 0; b < n_block; b++, block += NR * 34, dst += 32 * NR)
        for (int h = 0; h < 2; h++) {
            __m512 s = scales16(block, h);
            for (int j = 0; j < 8; j++) {
                __m512i v = load_q(block + 2 * NR + 128 * j + 64 * h);
                /* Signed bytes become unsigned ones of zero point 128 by their top bit. */
                if (zero == 0) v = _mm512_xor_si512(v, _mm512_set1_epi8((char)0x80));
                float *out = dst + 4 * j * NR + 16 * h;
                _mm512_storeu_ps(out, byte_value(v, 0, 255, 128, s));
                _mm512_storeu_ps(out + NR, byte_value(v, 8, 255, 128, s));
                _mm512_storeu_ps(out + 2 * NR, byte_value(v, 16, 255, 128, s));
                _mm512_storeu_ps(out + 3 * NR, byte_value(v, 24, 255, 128, s));
            }
        }
}

static void widen_q4(const void *w, int64_t n_block, float *dst) {
    const uint8_t *block = w;
    for (int64_t b = 0; b < n_block; b++, block += NR * 18, dst += 32 * NR)
        for (int h = 0; h < 2; h++) {
            __m512 s = scales16(block, h);
            for (int j = 0; j < 4; j++) {
                __m512i v = load_q(block + 2 * NR + 128 * j + 64 * h);
                float *low = dst + 4 * j * NR + 16 * h, *high = low + 16 * NR;
                _mm512_storeu_ps(low, byte_value(v, 0, 15, 8, s));
                _mm512_storeu_ps(low + NR, byte_value(v, 8, 15, 8, s));
                _mm512_storeu_ps(low + 2 * NR, byte_value(v, 16, 15, 8, s));
                _mm512_storeu_ps(low + 3 * NR, byte_value(v, 24, 15, 8, s));
                _mm512_storeu_ps(high, byte_value(v, 4, 15, 8, s));
                _mm512_storeu_ps(high + NR, byte_value(v, 12, 15, 8, s));
                _mm512_storeu_ps(high + 2 * NR, byte_value(v, 20, 15, 8, s));
                _mm512_storeu_ps(high + 3 * NR, byte_value(v, 28, 15, 8, s));
            }
        }
}

INLINE __m512 round16(__m512 x) {
    __m512i u = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    r = _mm512_mask_mov_epi32(r, nan, _mm512_or_si512(u, _mm512_set1_epi32(0x400000)));
    return _mm512_castsi512_ps(_mm512_and_si512(r, _mm512_set1_epi32((int)0xffff0000u)));
}

static void round_bf16(const float *src, int64_t n, float *dst) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) _mm512_storeu_ps(dst + i, round16(_mm512_loadu_ps(src + i)));
    if (i < n) store_part(dst + i, n - i, round16(load_part(src + i, n - i)));
}

static void narrow_f16(const float *src, int64_t n, uint16_t *dst) {
    for (int64_t i = 0; i < n; i += 16) {
        uint16_t part[16];
        int64_t left = lanes_left(n - i);
        __m256i h = _mm512_cvtps_ph(load_part(src + i, left),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm256_storeu_si256((__m256i *)(void *)part, h);
        memcpy(dst + i, part, (size_t)left * sizeof *dst);
    }
}

INLINE __m256 lower8(__m512 v) {
    return _mm512_castps512_ps256(v);
}

INLINE __m256 upper8(__m512 v) {
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1));
}

INLINE float high(__m512 v) {
    __m256 h = _mm256_max_ps(lower8(v), upper8(v));
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

INLINE int32_t sum_i32(__m512i v) {
    __m256i h = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

static void quantize(const float *x, int64_t n_block, int8_t *q, float *d, int32_t *nsum) {
    for (int64_t b = 0; b < n_block; b++, x += 32, q += 32) {
        __m512 v0 = _mm512_loadu_ps(x), v1 = _mm512_loadu_ps(x + 16);
        float amax = high(_mm512_max_ps(_mm512_abs_ps(v0), _mm512_abs_ps(v1)));
        __m512 inverse = _mm512_set1_ps(amax > 0 ? 127.0f / amax : 0);
        __m512i n0 = _mm512_cvtps_epi32(_mm512_mul_ps(v0, inverse));
        __m512i n1 = _mm512_cvtps_epi32(_mm512_mul_ps(v1, inverse));
        _mm_storeu_si128((__m128i *)(void *)q, _mm512_cvtepi32_epi8(n0));
        _mm_storeu_si128((__m128i *)(void *)(q + 16), _mm512_cvtepi32_epi8(n1));
        d[b] = amax / 127.0f;
        nsum[b] = -sum_i32(_mm512_add_epi32(n0, n1));
    }
}

/* ---- rows ---- */

INLINE float sum_ps(__m512 v) {
    __m256 h = _mm256_add_ps(lower8(v), upper8(v));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

INLINE double sum_pd(__m512d v) {
    __m256d h = _mm256_add_pd(_mm512_castpd512_pd256(v), _mm512_extractf64x4_pd(v, 1));
    __m128d s = _mm_add_pd(_mm256_castpd256_pd128(h), _mm256_extractf128_pd(h, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}

/* Sum of (x - mean)^2, or of x: in double, so that a row's length costs no digits. */
INLINE double row_sum(const float *x, int64_t n, double mean, bool square) {
    __m512d s0 = _mm512_setzero_pd(), s1 = s0, m = _mm512_set1_pd(mean);
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 on = first_lanes(lanes_left(n - i));
        __m512 v = _mm512_maskz_loadu_ps(on, x + i);
        __m512d a = _mm512_cvtps_pd(lower8(v)), b = _mm512_cvtps_pd(upper8(v));
        if (square) {
            a = _mm512_maskz_sub_pd((__mmask8)on, a, m);
            b = _mm512_maskz_sub_pd((__mmask8)(on >> 8), b, m);
            s0 = _mm512_fmadd_pd(a, a, s0);
            s1 = _mm512_fmadd_pd(b, b, s1);
        } else {
            s0 = _mm512_add_pd(s0, a);
            s1 = _mm512_add_pd(s1, b);
        }
    }
    return sum_pd(_mm512_add_pd(s0, s1));
}

static void layernorm(const float *x, int64_t n, const float *w, const float *b, float eps,
                      float *y) {
    if (n <= 0) return;
    double mean = row_sum(x, n, 0, false) / (double)n;
    double var = row_sum(x, n, mean, true) / (double)n;
    __m512 inv = _mm512_set1_ps((float)(1.0 / sqrt(var + (double)eps)));
    __m512 m = _mm512_set1_ps((float)mean);
    for (int64_t i = 0; i < n; i += 16) {
        int64_t left = lanes_left(n - i);
        __m512 v = _mm512_mul_ps(_mm512_sub_ps(load_part(x + i, left), m), inv);
        __m512 bias = b ? load_part(b + i, left) : _mm512_setzero_ps();
        store_part(y + i, left, _mm512_fmadd_ps(v, load_part(w + i, left), bias));
    }
}

static void rmsnorm(const float *x, int64_t n, const float *w, float eps, float *y) {
    if (n <= 0) return;
    double mean = row_sum(x, n, 0, true) / (double)n;
    __m512 inv = _mm512_set1_ps((float)(1.0 / sqrt(mean + (double)eps)));
    for (int64_t i = 0; i < n; i += 16) {
        int64_t left = lanes_left(n - i);
        __m512 v = _mm512_mul_ps(load_part(x + i, left), inv);
        store_part(y + i, left, _mm512_mul_ps(v, load_part(w + i, left)));
    }
}

/* e^x: x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial for e^r (relative error 1e-7), 2^n by its
 * bits.  Below -87.3 the result is 0, above 88 that of 88. */
INLINE __m512 exp16(__m512 x) {
    __mmask16 keep = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.3f), _CMP_NLT_UQ);
    __m512 v = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(88.0f)), _mm512_set1_ps(-87.3f));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(v, _mm512_set1_ps(0x1.715476p0f)), 8);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e4p-1f), v);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.7f7d1cp-20f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_fmadd_ps(_mm512_mul_ps(r, r), p, _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    __m512i e =
        _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23);
    return _mm512_maskz_mul_ps(keep, p, _mm512_castsi512_ps(e));
}

/* x / (1 + e^(-slope x)) */
INLINE __m512 gate16(__m512 x, float slope) {
    __m512 e = exp16(_mm512_mul_ps(x, _mm512_set1_ps(-slope)));
    return _mm512_div_ps(x, _mm512_add_ps(e, _mm512_set1_ps(1.0f)));
}

static void quick_gelu(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        int64_t left = lanes_left(n - i);
        store_part(x + i, left, gate16(load_part(x + i, left), 1.702f));
    }
}

/* x / (1 + e^(-2 sqrt(2 / pi) (x + 0.044715 x^3))) */
INLINE __m512 gelu16(__m512 x) {
    __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_mul_ps(x, _mm512_set1_ps(0.044715f)));
    __m512 u = _mm512_mul_ps(_mm512_add_ps(x, cube), _mm512_set1_ps(-1.5957691216f));
    return _mm512_div_ps(x, _mm512_add_ps(exp16(u), _mm512_set1_ps(1.0f)));
}

static void gelu_tanh(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        int64_t left = lanes_left(n - i);
        store_part(x + i, left, gelu16(load_part(x + i, left)));
    }
}

static void silu_mul(const float *gate, const float *up, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i += 16) {
        int64_t left = lanes_left(n - i);
        __m512 g = gate16(load_part(gate + i, left), 1.0f);
        store_part(out + i, left, _mm512_mul_ps(g, load_part(up + i, left)));
    }
}

static float max_of(const float *x, int64_t n) {
    __m512 m = _mm512_set1_ps(-INFINITY);
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 on = first_lanes(lanes_left(n - i));
        m = _mm512_mask_max_ps(m, on, _mm512_maskz_loadu_ps(on, x + i), m);
    }
    return high(m);
}

static float exp_sum(float *x, int64_t n, float shift) {
    __m512 s0 = _mm512_setzero_ps(), s1 = s0, by = _mm512_set1_ps(shift);
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m512 a = exp16(_mm512_sub_ps(_mm512_loadu_ps(x + i), by));
        __m512 b = exp16(_mm512_sub_ps(_mm512_loadu_ps(x + i + 16), by));
        _mm512_storeu_ps(x + i, a);
        _mm512_storeu_ps(x + i + 16, b);
        s0 = _mm512_add_ps(s0, a);
        s1 = _mm512_add_ps(s1, b);
    }
    for (; i < n; i += 16) {
        int64_t left = lanes_left(n - i);
        __m512 a = exp16(_mm512_sub_ps(load_part(x + i, left), by));
        store_part(x + i, left, a);
        s0 = _mm512_mask_add_ps(s0, first_lanes(left), s0, a);
    }
    return sum_ps(_mm512_add_ps(s0, s1));
}

static void scale_by(float *x, int64_t n, float s) {
    __m512 by = _mm512_set1_ps(s);
    for (int64_t i = 0; i < n; i += 16) {
        int64_t left = lanes_left(n - i);
        store_part(x + i, left, _mm512_mul_ps(load_part(x + i, left), by));
    }
}

/* ---- attention over a run of keys and values ---- */

INLINE __m512 load_row(const void *row, form f, int64_t i, int64_t d) {
    if (d - i >= 16) return load16(row, f, i);
    if (f == F32) return load_part((const float *)row + i, d - i);
    return load_half_part((const uint16_t *)row + i, d - i, f);
}

INLINE __m256 halves(__m512 v) {
    return _mm256_add_ps(lower8(v), upper8(v));
}

/* Up to two queries with four keys: one chain per pair over d, then each chain's lanes added in one
 * fixed way. */
INLINE void dots(form f, int rows, const float *const *q, const void *const *k, int d,
                 __m128 out[2]) {
    __m512 acc[2][4];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < 4; j++) acc[i][j] = _mm512_setzero_ps();
    for (int64_t t = 0; t < d; t += 16) {
        __m512 x[2], y;
        for (int i = 0; i < rows; i++) x[i] = load_row(q[i], F32, t, d);
        for (int j = 0; j < 4; j++) {
            y = load_row(k[j], f, t, d);
            for (int i = 0; i < rows; i++) acc[i][j] = _mm512_fmadd_ps(x[i], y, acc[i][j]);
        }
    }
    for (int i = 0; i < rows; i++) {
        __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(halves(acc[i][0]), halves(acc[i][1])),
                                  _mm256_hadd_ps(halves(acc[i][2]), halves(acc[i][3])));
        out[i] = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    }
}

/* Keys past the end repeat the last one; their results are dropped. */
INLINE void score_rows(form f, int rows, const float *const *q, int n_k, const void *k, int64_t ldk,
                       int d, float scale, float *s, int64_t lds) {
    for (int j = 0; j < n_k; j += 4) {
        const void *key[4];
        __m128 out[2];
        for (int t = 0; t < 4; t++) key[t] = at(k, f, (j + t < n_k ? j + t : n_k - 1) * ldk);
        dots(f, rows, q, key, d, out);
        for (int i = 0; i < rows; i++) {
            float v[4];
            _mm_storeu_ps(v, _mm_mul_ps(out[i], _mm_set1_ps(scale)));
            memcpy(s + i * lds + j, v, (size_t)(n_k - j < 4 ? n_k - j : 4) * sizeof *v);
        }
    }
}

INLINE void scores(form f, int n_q, const float *q, int64_t ldq, int n_k, const void *k,
                   int64_t ldk, int d, float scale, float *s, int64_t lds) {
    int i = 0;
    for (; i + 2 <= n_q; i += 2) {
        const float *rows[2] = {q + i * ldq, q + (i + 1) * ldq};
        score_rows(f, 2, rows, n_k, k, ldk, d, scale, s + i * lds, lds);
    }
    if (i < n_q) {
        const float *rows[2] = {q + i * ldq, NULL};
        score_rows(f, 1, rows, n_k, k, ldk, d, scale, s + i * lds, lds);
    }
}

static void scores_f32(int n_q, const float *q, int64_t ldq, int n_k, const float *k, int64_t ldk,
                       int d, float scale, float *s, int64_t lds) {
    scores(F32, n_q, q, ldq, n_k, k, ldk, d, scale, s, lds);
}

static void scores_f16(int n_q, const float *q, int64_t ldq, int n_k, const uint16_t *k,
                       int64_t ldk, int d, float scale, float *s, int64_t lds) {
    scores(F16, n_q, q, ldq, n_k, k, ldk, d, scale, s, lds);
}

/* `rows` rows by 16 * `vecs` columns of acc stay in registers while the values pass. */
INLINE void value_tile(form f, int rows, int vecs, const float *p, int64_t ldp, int n_k,
                       const void *v, int64_t ldv, float *acc, int64_t ldacc) {
    __m512 sum[2][8];
    for (int i = 0; i < rows; i++)
        for (int c = 0; c < vecs; c++) sum[i][c] = _mm512_loadu_ps(acc + i * ldacc + 16 * c);
    for (int j = 0; j < n_k; j++)
        for (int c = 0; c < vecs; c++) {
            __m512 x = load16(v, f, j * ldv + 16 * c);
            for (int i = 0; i < rows; i++)
                sum[i][c] = _mm512_fmadd_ps(_mm512_set1_ps(p[i * ldp + j]), x, sum[i][c]);
        }
    for (int i = 0; i < rows; i++)
        for (int c = 0; c < vecs; c++) _mm512_storeu_ps(acc + i * ldacc + 16 * c, sum[i][c]);
}

/* The last d % 16 columns. */
INLINE void value_tail(form f, const float *p, int n_k, const void *v, int64_t ldv, int64_t n,
                       float *acc) {
    __m512 sum = load_part(acc, n);
    for (int j = 0; j < n_k; j++) {
        __m512 x = f == F32 ? load_part((const float *)v + j * ldv, n)
                            : load_half_part((const uint16_t *)v + j * ldv, n, f);
        sum = _mm512_fmadd_ps(_mm512_set1_ps(p[j]), x, sum);
    }
    store_part(acc, n, sum);
}

INLINE void values(form f, int n_q, const float *p, int64_t ldp, int n_k, const void *v,
                   int64_t ldv, int d, float *acc, int64_t ldacc) {
    for (int i = 0; i < n_q;) {
        int rows = n_q - i >= 2 ? 2 : 1;
        const float *pi = p + i * ldp;
        float *out = acc + i * ldacc;
        int t = 0;
        if (rows == 2)
            for (; t + 64 <= d; t += 64)
                value_tile(f, 2, 4, pi, ldp, n_k, at(v, f, t), ldv, out + t, ldacc);
        else
            for (; t + 128 <= d; t += 128)
                value_tile(f, 1, 8, pi, ldp, n_k, at(v, f, t), ldv, out + t, ldacc);
        for (; t + 16 <= d; t += 16)
            for (int r = 0; r < rows; r++)
                value_tile(f, 1, 1, pi + r * ldp, ldp, n_k, at(v, f, t), ldv, out + r * ldacc + t,
                           ldacc);
        for (int r = 0; r < rows && t < d; r++)
            value_tail(f, pi + r * ldp, n_k, at(v, f, t), ldv, d - t, out + r * ldacc + t);
        i += rows;
    }
}

static void values_f32(int n_q, const float *p, int64_t ldp, int n_k, const float *v, int64_t ldv,
                       int d, float *acc, int64_t ldacc) {
    values(F32, n_q, p, ldp, n_k, v, ldv, d, acc, ldacc);
}

static void values_f16(int n_q, const float *p, int64_t ldp, int n_k, const uint16_t *v,
                       int64_t ldv, int d, float *acc, int64_t ldacc) {
    values(F16, n_q, p, ldp, n_k, v, ldv, d, acc, ldacc);
}

/* What every 512-bit table has in common; the table adds its name, q8_zero and quantised gemm. */
#define TY_AVX512_KERNELS                                                                          \
    .nr = NR, .mr = MR, .qmr = QMR, .gemm_f32 = gemm_f32, .product_f32 = product_f32,              \
    .gemm_f16 = gemm_f16, .gemm_bf16 = gemm_bf16, .widen_f16 = widen_f16,                          \
    .widen_bf16 = widen_bf16, .widen_q4 = widen_q4, .round_bf16 = round_bf16,                      \
    .quantize = quantize, .layernorm = layernorm, .rmsnorm = rmsnorm, .quick_gelu = quick_gelu,    \
    .gelu_tanh = gelu_tanh, .silu_mul = silu_mul, .max = max_of, .exp_sum = exp_sum, TY_GRAD_ROWS, \
    .scale = scale_by, .scores_f32 = scores_f32, .scores_f16 = scores_f16,                         \
    .values_f32 = values_f32, .values_f16 = values_f16, .narrow_f16 = narrow_f16

#endif
