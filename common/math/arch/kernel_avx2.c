/*
 * kernel_avx2.c - the kernels for AVX2 with FMA and F16C: 256-bit, 16 registers, no int8 dot product.
 *
 * Float tiles are 6 rows x 16 columns: 12 accumulators, two weight vectors, one broadcast.  A single
 * row takes four panels at a time instead, for eight independent chains.
 *
 * Integer tiles are 4 rows x 16 columns.  vpmaddubsw multiplies unsigned by signed bytes and adds
 * pairs into 16 bits that saturate:
 *   Q4_0  nibbles are unsigned as stored; a whole block fits 16 bits (8 pairs of at most 2 * 15 * 127),
 *         so pairs are added there and widened once a block.  The zero point 8 is the accumulator's
 *         initial value, -8 * sum(x).
 *   Q8_0  |w| times x with w's sign fits a pair (2 * 128 * 127) but not two: widened at once.
 */
#include "common/math/grad_rows.h"
#include "common/math/kernel.h"

#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { NR = 16, MR = 6, QMR = 4 };

/* ---- float gemm ---- */

typedef enum { F32, F16, BF16 } form;

INLINE const char *at(const void *w, form f, int64_t i) {
    return (const char *)w + i * (f == F32 ? 4 : 2);
}

/* Eight weights from any address, as f32. */
INLINE __m256 load8(const void *w, form f, int64_t i) {
    const char *p = at(w, f, i);
    if (f == F32) return _mm256_loadu_ps((const float *)(const void *)p);
    __m128i h = _mm_loadu_si128((const __m128i *)(const void *)p);
    if (f == F16) return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

INLINE void tile(form f, int m, int64_t k, const float *a, int64_t lda, const void *w, float *c,
                 int64_t ldc, bool add) {
    __m256 acc[MR][2];
    for (int i = 0; i < m; i++) {
        acc[i][0] = add ? _mm256_loadu_ps(c + i * ldc) : _mm256_setzero_ps();
        acc[i][1] = add ? _mm256_loadu_ps(c + i * ldc + 8) : _mm256_setzero_ps();
    }
    for (int64_t t = 0; t < k; t++) {
        __m256 w0 = load8(w, f, t * NR), w1 = load8(w, f, t * NR + 8);
        for (int i = 0; i < m; i++) {
            __m256 x = _mm256_broadcast_ss(a + i * lda + t);
            acc[i][0] = _mm256_fmadd_ps(x, w0, acc[i][0]);
            acc[i][1] = _mm256_fmadd_ps(x, w1, acc[i][1]);
        }
    }
    for (int i = 0; i < m; i++) {
        _mm256_storeu_ps(c + i * ldc, acc[i][0]);
        _mm256_storeu_ps(c + i * ldc + 8, acc[i][1]);
    }
}

/* One row, four panels side by side. */
INLINE void row4(form f, int64_t k, const float *a, const void *w, int64_t step, float *c,
                 bool add) {
    __m256 acc[4][2];
    for (int p = 0; p < 4; p++) {
        acc[p][0] = add ? _mm256_loadu_ps(c + p * NR) : _mm256_setzero_ps();
        acc[p][1] = add ? _mm256_loadu_ps(c + p * NR + 8) : _mm256_setzero_ps();
    }
    for (int64_t t = 0; t < k; t++) {
        __m256 x = _mm256_broadcast_ss(a + t);
        for (int p = 0; p < 4; p++) {
            acc[p][0] = _mm256_fmadd_ps(x, load8(w, f, p * step + t * NR), acc[p][0]);
            acc[p][1] = _mm256_fmadd_ps(x, load8(w, f, p * step + t * NR + 8), acc[p][1]);
        }
    }
    for (int p = 0; p < 4; p++) {
        _mm256_storeu_ps(c + p * NR, acc[p][0]);
        _mm256_storeu_ps(c + p * NR + 8, acc[p][1]);
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

/* The first n (0..8) lanes on. */
INLINE __m256i first_lanes(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* `vecs` vectors of columns; all lanes of them, unless `part` says that `last` are those of the last one. */
INLINE void tile_in_place(int m, int vecs, bool part, __m256i last, int64_t k, const float *a,
                          int64_t a_row, int64_t a_step, const float *b, int64_t ldb, float *c,
                          int64_t ldc, bool add) {
    __m256 acc[MR][2];
    for (int i = 0; i < m; i++)
        for (int v = 0; v < vecs; v++) {
            const float *at = c + i * ldc + 8 * v;
            acc[i][v] = !add                    ? _mm256_setzero_ps()
                        : part && v + 1 == vecs ? _mm256_maskload_ps(at, last)
                                                : _mm256_loadu_ps(at);
        }
    for (int64_t t = 0; t < k; t++, a += a_step, b += ldb) {
        __m256 w[2];
        for (int v = 0; v < vecs; v++)
            w[v] = part && v + 1 == vecs ? _mm256_maskload_ps(b + 8 * v, last)
                                         : _mm256_loadu_ps(b + 8 * v);
        for (int i = 0; i < m; i++) {
            __m256 x = _mm256_broadcast_ss(a + i * a_row);
            for (int v = 0; v < vecs; v++) acc[i][v] = _mm256_fmadd_ps(x, w[v], acc[i][v]);
        }
    }
    for (int i = 0; i < m; i++)
        for (int v = 0; v < vecs; v++) {
            float *at = c + i * ldc + 8 * v;
            if (part && v + 1 == vecs)
                _mm256_maskstore_ps(at, last, acc[i][v]);
            else
                _mm256_storeu_ps(at, acc[i][v]);
        }
}

/* All rows of `vecs` vectors of columns. */
INLINE void strip_in_place(int vecs, bool part, __m256i last, int64_t m, int64_t k, const float *a,
                           int64_t a_row, int64_t a_step, const float *b, int64_t ldb, float *c,
                           int64_t ldc, bool add) {
#define TILE(rows) tile_in_place(rows, vecs, part, last, k, a, a_row, a_step, b, ldb, c, ldc, add)
    for (; m >= MR; m -= MR, a += MR * a_row, c += MR * ldc) TILE(MR);
    switch (m) {
    case 1: TILE(1); break;
    case 2: TILE(2); break;
    case 3: TILE(3); break;
    case 4: TILE(4); break;
    case 5: TILE(5); break;
    default: break;
    }
#undef TILE
}

static void product_f32(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row,
                        int64_t a_step, const float *b, int64_t ldb, float *c, int64_t ldc,
                        bool add) {
    const __m256i all = _mm256_set1_epi32(-1);
    for (; n >= NR; n -= NR, b += NR, c += NR) {
        /* What is constant costs the inner loop no register: a panel, rows of a, columns of a. */
        if (a_step == 1 && ldb == NR)
            strip_in_place(2, false, all, m, k, a, a_row, 1, b, NR, c, ldc, add);
        else if (a_step == 1)
            strip_in_place(2, false, all, m, k, a, a_row, 1, b, ldb, c, ldc, add);
        else if (a_row == 1)
            strip_in_place(2, false, all, m, k, a, 1, a_step, b, ldb, c, ldc, add);
        else
            strip_in_place(2, false, all, m, k, a, a_row, a_step, b, ldb, c, ldc, add);
    }
    if (n > 8)
        strip_in_place(2, true, first_lanes(n - 8), m, k, a, a_row, a_step, b, ldb, c, ldc, add);
    else if (n > 0)
        strip_in_place(1, true, first_lanes(n), m, k, a, a_row, a_step, b, ldb, c, ldc, add);
}

/* ---- quantised gemm ---- */

INLINE __m256i load_q(const uint8_t *p) {
    return _mm256_load_si256((const __m256i *)(const void *)p);
}

/* Four activations, in every lane. */
INLINE __m256i spread4(const int8_t *q) {
    int32_t v;
    memcpy(&v, q, 4);
    return _mm256_set1_epi32(v);
}

/* The block's scales: eight columns from half h. */
INLINE __m256 scales8(const uint8_t *block, int h) {
    return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)(block + 16 * h)));
}

INLINE void add_block(float *y, __m256i sum, __m256 s, float d) {
    __m256 f = _mm256_cvtepi32_ps(sum);
    _mm256_store_ps(y, _mm256_fmadd_ps(f, _mm256_mul_ps(s, _mm256_set1_ps(d)), _mm256_load_ps(y)));
}

INLINE void block_q8(int m, const int8_t *const *x, const uint8_t *q, __m256i sum[QMR][2]) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int i = 0; i < m; i++) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
    for (int j = 0; j < 8; j++) {
        __m256i w0 = load_q(q + 64 * j), w1 = load_q(q + 64 * j + 32);
        __m256i a0 = _mm256_abs_epi8(w0), a1 = _mm256_abs_epi8(w1);
        for (int i = 0; i < m; i++) {
            __m256i v = spread4(x[i] + 4 * j);
            __m256i p0 = _mm256_maddubs_epi16(a0, _mm256_sign_epi8(v, w0));
            __m256i p1 = _mm256_maddubs_epi16(a1, _mm256_sign_epi8(v, w1));
            sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(p0, ones));
            sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(p1, ones));
        }
    }
}

INLINE void block_q4(int m, const int8_t *const *x, const int32_t *nsum, const uint8_t *q,
                     __m256i sum[QMR][2]) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    /* 8 * nsum in each column's upper 16 bits, 0 in its lower: madd adds the two below. */
    for (int i = 0; i < m; i++)
        sum[i][0] = sum[i][1] = _mm256_slli_epi32(_mm256_set1_epi32(nsum[i]), 19);
    for (int j = 0; j < 4; j++) {
        __m256i v0 = load_q(q + 64 * j), v1 = load_q(q + 64 * j + 32);
        __m256i l0 = _mm256_and_si256(v0, low), l1 = _mm256_and_si256(v1, low);
        __m256i h0 = _mm256_and_si256(_mm256_srli_epi16(v0, 4), low);
        __m256i h1 = _mm256_and_si256(_mm256_srli_epi16(v1, 4), low);
        for (int i = 0; i < m; i++) {
            __m256i xl = spread4(x[i] + 4 * j), xh = spread4(x[i] + 16 + 4 * j);
            sum[i][0] = _mm256_add_epi16(sum[i][0], _mm256_maddubs_epi16(l0, xl));
            sum[i][1] = _mm256_add_epi16(sum[i][1], _mm256_maddubs_epi16(l1, xl));
            sum[i][0] = _mm256_add_epi16(sum[i][0], _mm256_maddubs_epi16(h0, xh));
            sum[i][1] = _mm256_add_epi16(sum[i][1], _mm256_maddubs_epi16(h1, xh));
        }
    }
    for (int i = 0; i < m; i++) {
        sum[i][0] = _mm256_madd_epi16(sum[i][0], ones);
        sum[i][1] = _mm256_madd_epi16(sum[i][1], ones);
    }
}

/* A block of the panel 2 KiB ahead: one or two rows run at the speed of memory, and the hardware's own
 * prefetch alone leaves a third of a core's read rate unused. */
INLINE void fetch_ahead(const uint8_t *block, int bytes) {
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch(block + 2048 + i, 0, 3);
}

INLINE void tile_q(bool four, int m, int64_t n_block, const ty_qrows *x, const uint8_t *w, float *c,
                   int64_t ldc) {
    _Alignas(32) float y[QMR][NR];
    const int8_t *q[QMR] = {0};
    for (int i = 0; i < m; i++) {
        q[i] = x->q + i * x->ldq;
        _mm256_store_ps(y[i], _mm256_setzero_ps());
        _mm256_store_ps(y[i] + 8, _mm256_setzero_ps());
    }
    for (int64_t b = 0; b < n_block; b++) {
        __m256i sum[QMR][2];
        int32_t nsum[QMR] = {0};
        __m256 s0 = scales8(w, 0), s1 = scales8(w, 1);
        if (m <= 3) fetch_ahead(w, NR * (four ? 18 : 34));
        for (int i = 0; i < m && four; i++) nsum[i] = x->nsum[i * x->ldd + b];
        if (four)
            block_q4(m, q, nsum, w + 2 * NR, sum);
        else
            block_q8(m, q, w + 2 * NR, sum);
        for (int i = 0; i < m; i++) {
            float d = x->d[i * x->ldd + b];
            add_block(y[i], sum[i][0], s0, d);
            add_block(y[i] + 8, sum[i][1], s1, d);
            q[i] += 32;
        }
        w += NR * (four ? 18 : 34);
    }
    for (int i = 0; i < m; i++) memcpy(c + i * ldc, y[i], sizeof y[i]);
}

INLINE void gemm_q(bool four, int m, int64_t n_block, const ty_qrows *x, const void *w,
                   int64_t step, int n_panel, float *c, int64_t ldc) {
    for (int p = 0; p < n_panel; p++) {
        const uint8_t *panel = (const uint8_t *)w + p * step;
        float *out = c + p * NR;
        switch (m) {
        case 1: tile_q(four, 1, n_block, x, panel, out, ldc); break;
        case 2: tile_q(four, 2, n_block, x, panel, out, ldc); break;
        case 3: tile_q(four, 3, n_block, x, panel, out, ldc); break;
        case 4: tile_q(four, 4, n_block, x, panel, out, ldc); break;
        default: break;
        }
    }
}

static void gemm_q8(int m, int64_t n_block, const ty_qrows *x, const void *w, int64_t step,
                    int n_panel, float *c, int64_t ldc) {
    gemm_q(false, m, n_block, x, w, step, n_panel, c, ldc);
}

static void gemm_q4(int m, int64_t n_block, const ty_qrows *x, const void *w, int64_t step,
                    int n_panel, float *c, int64_t ldc) {
    gemm_q(true, m, n_block, x, w, step, n_panel, c, ldc);
}

/* ---- conversions ---- */

INLINE __m256 load_part(const float *x, int64_t n) {
    return _mm256_maskload_ps(x, first_lanes(n));
}

INLINE void store_part(float *x, int64_t n, __m256 v) {
    _mm256_maskstore_ps(x, first_lanes(n), v);
}

INLINE __m256 load_half_part(const uint16_t *x, int64_t n, form f) {
    uint16_t part[8] = {0};
    memcpy(part, x, (size_t)n * sizeof *x);
    return load8(part, f, 0);
}

INLINE void widen_half(form f, const uint16_t *src, int64_t n, float *dst) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(dst + i, load8(src, f, i));
    if (i < n) store_part(dst + i, n - i, load_half_part(src + i, n - i, f));
}

static void widen_f16(const uint16_t *src, int64_t n, float *dst) {
    widen_half(F16, src, n, dst);
}

static void widen_bf16(const uint16_t *src, int64_t n, float *dst) {
    widen_half(BF16, src, n, dst);
}

static void widen_q8(const void *w, int64_t n_block, float *dst) {
    const uint8_t *block = w;
    for (int64_t b = 0; b < n_block; b++, block += NR * 34, dst += 32 * NR)
        for (int h = 0; h < 2; h++) {
            __m256 s = scales8(block, h);
            for (int j = 0; j < 8; j++) {
                __m256i v = load_q(block + 2 * NR + 64 * j + 32 * h);
                for (int i = 0; i < 4; i++) {
                    __m256i one = _mm256_srai_epi32(_mm256_slli_epi32(v, 24 - 8 * i), 24);
                    _mm256_storeu_ps(dst + (4 * j + i) * NR + 8 * h,
                                     _mm256_mul_ps(s, _mm256_cvtepi32_ps(one)));
                }
            }
        }
}

static void widen_q4(const void *w, int64_t n_block, float *dst) {
    const uint8_t *block = w;
    const __m256i low = _mm256_set1_epi32(15), eight = _mm256_set1_epi32(8);
    for (int64_t b = 0; b < n_block; b++, block += NR * 18, dst += 32 * NR)
        for (int h = 0; h < 2; h++) {
            __m256 s = scales8(block, h);
            for (int j = 0; j < 8; j++) {
                __m256i v = load_q(block + 2 * NR + 64 * (j & 3) + 32 * h);
                for (int i = 0; i < 4; i++) {
                    __m256i one =
                        _mm256_and_si256(_mm256_srli_epi32(v, 8 * i + (j < 4 ? 0 : 4)), low);
                    _mm256_storeu_ps(
                        dst + (4 * j + i) * NR + 8 * h,
                        _mm256_mul_ps(s, _mm256_cvtepi32_ps(_mm256_sub_epi32(one, eight))));
                }
            }
        }
}

INLINE __m256 round8(__m256 x) {
    __m256i u = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
    __m256i nan = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    r = _mm256_blendv_epi8(r, nan, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
    return _mm256_castsi256_ps(_mm256_and_si256(r, _mm256_set1_epi32((int)0xffff0000u)));
}

static void round_bf16(const float *src, int64_t n, float *dst) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(dst + i, round8(_mm256_loadu_ps(src + i)));
    if (i < n) store_part(dst + i, n - i, round8(load_part(src + i, n - i)));
}

static void narrow_f16(const float *src, int64_t n, uint16_t *dst) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(void *)(dst + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT));
    if (i == n) return;
    uint16_t part[8];
    _mm_storeu_si128((__m128i *)(void *)part,
                     _mm256_cvtps_ph(load_part(src + i, n - i), _MM_FROUND_TO_NEAREST_INT));
    memcpy(dst + i, part, (size_t)(n - i) * sizeof *dst);
}

INLINE float high(__m256 v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

INLINE int32_t sum_i32(__m256i v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

static void quantize(const float *x, int64_t n_block, int8_t *q, float *d, int32_t *nsum) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    for (int64_t b = 0; b < n_block; b++, x += 32, q += 32) {
        __m256 v[4], top = _mm256_setzero_ps();
        for (int i = 0; i < 4; i++) {
            v[i] = _mm256_loadu_ps(x + 8 * i);
            top = _mm256_max_ps(_mm256_andnot_ps(sign, v[i]), top);
        }
        float amax = high(top);
        __m256 inverse = _mm256_set1_ps(amax > 0 ? 127.0f / amax : 0);
        __m256i n[4];
        for (int i = 0; i < 4; i++) n[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
        __m256i sum = _mm256_add_epi32(_mm256_add_epi32(n[0], n[1]), _mm256_add_epi32(n[2], n[3]));
        __m256i p =
            _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3]));
        p = _mm256_permutevar8x32_epi32(p, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_storeu_si256((__m256i *)(void *)q, p);
        d[b] = amax / 127.0f;
        nsum[b] = -sum_i32(sum);
    }
}

/* ---- rows ---- */

INLINE float sum_ps(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

INLINE double sum_pd(__m256d v) {
    __m128d s = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}

INLINE __m256d lower(__m256 v) {
    return _mm256_cvtps_pd(_mm256_castps256_ps128(v));
}

INLINE __m256d upper(__m256 v) {
    return _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
}

/* Sum of (x - mean)^2, or of x: in double, so that a row's length costs no digits. */
INLINE double row_sum(const float *x, int64_t n, double mean, bool square) {
    __m256d s0 = _mm256_setzero_pd(), s1 = s0, m = _mm256_set1_pd(mean);
    for (int64_t i = 0; i < n; i += 8) {
        __m256 v = n - i >= 8 ? _mm256_loadu_ps(x + i) : load_part(x + i, n - i);
        __m256d a = lower(v), b = upper(v);
        if (square) {
            a = _mm256_sub_pd(a, m);
            b = _mm256_sub_pd(b, m);
            if (n - i < 8) { /* the absent lanes hold -mean now */
                __m256i on = first_lanes(n - i);
                a = _mm256_and_pd(
                    a, _mm256_castsi256_pd(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(on))));
                b = _mm256_and_pd(
                    b, _mm256_castsi256_pd(_mm256_cvtepi32_epi64(_mm256_extracti128_si256(on, 1))));
            }
            s0 = _mm256_fmadd_pd(a, a, s0);
            s1 = _mm256_fmadd_pd(b, b, s1);
        } else {
            s0 = _mm256_add_pd(s0, a);
            s1 = _mm256_add_pd(s1, b);
        }
    }
    return sum_pd(_mm256_add_pd(s0, s1));
}

static void layernorm(const float *x, int64_t n, const float *w, const float *b, float eps,
                      float *y) {
    if (n <= 0) return;
    double mean = row_sum(x, n, 0, false) / (double)n;
    double var = row_sum(x, n, mean, true) / (double)n;
    __m256 inv = _mm256_set1_ps((float)(1.0 / sqrt(var + (double)eps)));
    __m256 m = _mm256_set1_ps((float)mean);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(x + i), m), inv);
        __m256 bias = b ? _mm256_loadu_ps(b + i) : _mm256_setzero_ps();
        _mm256_storeu_ps(y + i, _mm256_fmadd_ps(v, _mm256_loadu_ps(w + i), bias));
    }
    if (i < n) {
        __m256 v = _mm256_mul_ps(_mm256_sub_ps(load_part(x + i, n - i), m), inv);
        __m256 bias = b ? load_part(b + i, n - i) : _mm256_setzero_ps();
        store_part(y + i, n - i, _mm256_fmadd_ps(v, load_part(w + i, n - i), bias));
    }
}

static void rmsnorm(const float *x, int64_t n, const float *w, float eps, float *y) {
    if (n <= 0) return;
    double mean = row_sum(x, n, 0, true) / (double)n;
    __m256 inv = _mm256_set1_ps((float)(1.0 / sqrt(mean + (double)eps)));
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), inv),
                                              _mm256_loadu_ps(w + i)));
    if (i < n)
        store_part(
            y + i, n - i,
            _mm256_mul_ps(_mm256_mul_ps(load_part(x + i, n - i), inv), load_part(w + i, n - i)));
}

/* e^x: x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial for e^r (relative error 1e-7), 2^n by its
 * bits.  Below -87.3 the result is 0, above 88 that of 88. */
INLINE __m256 exp8(__m256 x) {
    __m256 zero = _mm256_cmp_ps(x, _mm256_set1_ps(-87.3f), _CMP_LT_OQ);
    __m256 v = _mm256_max_ps(_mm256_min_ps(x, _mm256_set1_ps(88.0f)), _mm256_set1_ps(-87.3f));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(v, _mm256_set1_ps(0x1.715476p0f)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e4p-1f), v);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.7f7d1cp-20f), r);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_fmadd_ps(_mm256_mul_ps(r, r), p, _mm256_add_ps(r, _mm256_set1_ps(1.0f)));
    __m256i e =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_andnot_ps(zero, _mm256_mul_ps(p, _mm256_castsi256_ps(e)));
}

/* x / (1 + e^(-slope x)) */
INLINE __m256 gate8(__m256 x, float slope) {
    __m256 e = exp8(_mm256_mul_ps(x, _mm256_set1_ps(-slope)));
    return _mm256_div_ps(x, _mm256_add_ps(e, _mm256_set1_ps(1.0f)));
}

static void quick_gelu(float *x, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, gate8(_mm256_loadu_ps(x + i), 1.702f));
    if (i < n) store_part(x + i, n - i, gate8(load_part(x + i, n - i), 1.702f));
}

/* x / (1 + e^(-2 sqrt(2 / pi) (x + 0.044715 x^3))) */
static inline __m256 gelu8(__m256 x) {
    __m256 cube = _mm256_mul_ps(_mm256_mul_ps(x, x), _mm256_mul_ps(x, _mm256_set1_ps(0.044715f)));
    __m256 u = _mm256_mul_ps(_mm256_add_ps(x, cube), _mm256_set1_ps(-1.5957691216f));
    return _mm256_div_ps(x, _mm256_add_ps(exp8(u), _mm256_set1_ps(1.0f)));
}

static void gelu_tanh(float *x, int64_t n) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, gelu8(_mm256_loadu_ps(x + i)));
    if (i < n) store_part(x + i, n - i, gelu8(load_part(x + i, n - i)));
}

static void silu_mul(const float *gate, const float *up, int64_t n, float *out) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(out + i, _mm256_mul_ps(gate8(_mm256_loadu_ps(gate + i), 1.0f),
                                                _mm256_loadu_ps(up + i)));
    if (i < n)
        store_part(
            out + i, n - i,
            _mm256_mul_ps(gate8(load_part(gate + i, n - i), 1.0f), load_part(up + i, n - i)));
}

static float max_of(const float *x, int64_t n) {
    const __m256 none = _mm256_set1_ps(-INFINITY);
    __m256 m0 = none, m1 = none;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        m0 = _mm256_max_ps(_mm256_loadu_ps(x + i), m0);
        m1 = _mm256_max_ps(_mm256_loadu_ps(x + i + 8), m1);
    }
    for (; i < n; i += 8) {
        __m256 on = _mm256_castsi256_ps(first_lanes(n - i < 8 ? n - i : 8));
        __m256 v = _mm256_blendv_ps(none, load_part(x + i, n - i < 8 ? n - i : 8), on);
        m0 = _mm256_max_ps(v, m0);
    }
    return high(_mm256_max_ps(m0, m1));
}

static float exp_sum(float *x, int64_t n, float shift) {
    __m256 s0 = _mm256_setzero_ps(), s1 = s0, by = _mm256_set1_ps(shift);
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256 a = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i), by));
        __m256 b = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i + 8), by));
        _mm256_storeu_ps(x + i, a);
        _mm256_storeu_ps(x + i + 8, b);
        s0 = _mm256_add_ps(s0, a);
        s1 = _mm256_add_ps(s1, b);
    }
    for (; i < n; i += 8) {
        int64_t left = n - i < 8 ? n - i : 8;
        __m256 a = exp8(_mm256_sub_ps(load_part(x + i, left), by));
        store_part(x + i, left, a);
        s0 = _mm256_add_ps(s0, _mm256_and_ps(a, _mm256_castsi256_ps(first_lanes(left))));
    }
    return sum_ps(_mm256_add_ps(s0, s1));
}

static void scale_by(float *x, int64_t n, float s) {
    __m256 by = _mm256_set1_ps(s);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), by));
    if (i < n) store_part(x + i, n - i, _mm256_mul_ps(load_part(x + i, n - i), by));
}

/* ---- attention over a run of keys and values ---- */

INLINE __m256 load_row(const void *row, form f, int64_t i, int64_t d) {
    if (d - i >= 8) return load8(row, f, i);
    if (f == F32) return load_part((const float *)row + i, d - i);
    return load_half_part((const uint16_t *)row + i, d - i, f);
}

/* Two queries with four keys: one chain per pair over d, then each chain's lanes added in one fixed
 * way.  Rows past the end repeat the last one; their results are dropped. */
INLINE void dots(form f, int rows, const float *const *q, const void *const *k, int d,
                 __m128 out[2]) {
    __m256 acc[2][4];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < 4; j++) acc[i][j] = _mm256_setzero_ps();
    for (int64_t t = 0; t < d; t += 8) {
        __m256 x[2], y;
        for (int i = 0; i < rows; i++) x[i] = load_row(q[i], F32, t, d);
        for (int j = 0; j < 4; j++) {
            y = load_row(k[j], f, t, d);
            for (int i = 0; i < rows; i++) acc[i][j] = _mm256_fmadd_ps(x[i], y, acc[i][j]);
        }
    }
    for (int i = 0; i < rows; i++) {
        __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(acc[i][0], acc[i][1]),
                                  _mm256_hadd_ps(acc[i][2], acc[i][3]));
        out[i] = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    }
}

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

/* `rows` rows by 8 * `vecs` columns of acc stay in registers while the values pass. */
INLINE void value_tile(form f, int rows, int vecs, const float *p, int64_t ldp, int n_k,
                       const void *v, int64_t ldv, float *acc, int64_t ldacc) {
    __m256 sum[2][8];
    for (int i = 0; i < rows; i++)
        for (int c = 0; c < vecs; c++) sum[i][c] = _mm256_loadu_ps(acc + i * ldacc + 8 * c);
    for (int j = 0; j < n_k; j++)
        for (int c = 0; c < vecs; c++) {
            __m256 x = load8(v, f, j * ldv + 8 * c);
            for (int i = 0; i < rows; i++)
                sum[i][c] = _mm256_fmadd_ps(_mm256_broadcast_ss(p + i * ldp + j), x, sum[i][c]);
        }
    for (int i = 0; i < rows; i++)
        for (int c = 0; c < vecs; c++) _mm256_storeu_ps(acc + i * ldacc + 8 * c, sum[i][c]);
}

/* The last d % 8 columns. */
INLINE void value_tail(form f, const float *p, int n_k, const void *v, int64_t ldv, int64_t n,
                       float *acc) {
    __m256 sum = load_part(acc, n);
    for (int j = 0; j < n_k; j++) {
        __m256 x = f == F32 ? load_part((const float *)v + j * ldv, n)
                            : load_half_part((const uint16_t *)v + j * ldv, n, f);
        sum = _mm256_fmadd_ps(_mm256_broadcast_ss(p + j), x, sum);
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
            for (; t + 32 <= d; t += 32)
                value_tile(f, 2, 4, pi, ldp, n_k, at(v, f, t), ldv, out + t, ldacc);
        else
            for (; t + 64 <= d; t += 64)
                value_tile(f, 1, 8, pi, ldp, n_k, at(v, f, t), ldv, out + t, ldacc);
        for (; t + 8 <= d; t += 8)
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

const ty_kernels ty_kernels_avx2 = {
    .name = "avx2",
    .nr = NR,
    .mr = MR,
    .qmr = QMR,
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
