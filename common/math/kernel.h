/*
 * kernel.h - the contract of every kernel, once, and the table that holds them.
 *
 * A table is one instruction set's own code: kernel_ref.c is plain C and the truth, arch/kernel_*.c
 * are checked against it.  ty_kernels_get() is the table in use; linear.c and nn.c are its main
 * callers, and the decoder's attention over KV pages calls the row kernels below directly.
 * Kernels are single-threaded, allocate nothing and cannot fail.
 *
 * Reduction order is part of the contract, because answers must not depend on the batch:
 *   gemm_f32, f16, bf16, product_f32   one fused multiply-add chain per output, k rising from 0
 *   gemm_q8, q4           per output: the exact integer sum of each block of 32, then one fused
 *                         multiply-add chain over blocks, fma(sum, d_w * d_x, y)
 * so these give the same bits in every table.  The row kernels choose their order from the row
 * length alone; tables agree within rounding.
 */
#ifndef TY_MATH_KERNEL_H
#define TY_MATH_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

enum { TY_KERNEL_MAX_NR = 64, TY_KERNEL_MAX_MR = 16 };

/* Activation rows quantised by ty_kernels.quantize: blocks of 32, x = d * q. */
typedef struct {
    const int8_t *q;     /* row i at q + i * ldq, -127..127 */
    const float *d;      /* row i at d + i * ldd: a scale per block */
    const int32_t *nsum; /* row i at nsum + i * ldd: minus the sum of the block's q */
    int64_t ldq, ldd;
} ty_qrows;

/*
 * Weight panels: `nr` columns (rows of W), outputs of one panel lie together.
 *   float     [k][nr] elements
 *   Q8_0      per block of 32 k: nr f16 scales, then [8][nr][4] bytes: k = 4 j + i at [j][col][i],
 *             each byte q + q8_zero
 *   Q4_0      per block of 32 k: nr f16 scales, then [4][nr][4] bytes: the low nibble of [j][col][i]
 *             is k = 4 j + i, its high nibble k = 16 + 4 j + i, as stored in the file (0..15)
 * A panel starts on a 64-byte boundary; `step` is the distance between panels, in elements for
 * floats and in bytes for quantised panels.
 */
typedef struct ty_kernels {
    const char *name;
    int nr;      /* columns of a panel, at most TY_KERNEL_MAX_NR */
    int mr, qmr; /* rows that gemm_* and gemm_q* take at most in one call */
    int q8_zero; /* 0: packed Q8_0 bytes are signed, 128: unsigned */

    /* c[m][n_panel * nr] = (add ? c : 0) + a[m][k] * w: 1 <= m <= mr, k >= 0. */
    void (*gemm_f32)(int m, int64_t k, const float *a, int64_t lda, const float *w, int64_t step,
                     int n_panel, float *c, int64_t ldc, bool add);
    void (*gemm_f16)(int m, int64_t k, const float *a, int64_t lda, const uint16_t *w, int64_t step,
                     int n_panel, float *c, int64_t ldc, bool add);
    void (*gemm_bf16)(int m, int64_t k, const float *a, int64_t lda, const uint16_t *w,
                      int64_t step, int n_panel, float *c, int64_t ldc, bool add);
    /* c[m][n] = (add ? c : 0) + a b, each where it is stored: element (i, t) of a at a[i * a_row + t * a_step],
     * row t of b at b + t * ldb; any m, n, k >= 0.  Quickest where m is many mr and n many nr. */
    void (*product_f32)(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row,
                        int64_t a_step, const float *b, int64_t ldb, float *c, int64_t ldc,
                        bool add);
    /* c[m][n_panel * nr] = x * w over n_block blocks: 1 <= m <= qmr. */
    void (*gemm_q8)(int m, int64_t n_block, const ty_qrows *x, const void *w, int64_t step,
                    int n_panel, float *c, int64_t ldc);
    void (*gemm_q4)(int m, int64_t n_block, const ty_qrows *x, const void *w, int64_t step,
                    int n_panel, float *c, int64_t ldc);

    /* Panels (or any run) to f32, the same values as ty_dtype_to_f32. */
    void (*widen_f16)(const uint16_t *src, int64_t n, float *dst);
    void (*widen_bf16)(const uint16_t *src, int64_t n, float *dst);
    /* n_block blocks of one packed panel -> float panel [32 n_block][nr]. */
    void (*widen_q8)(const void *w, int64_t n_block, float *dst);
    void (*widen_q4)(const void *w, int64_t n_block, float *dst);
    /* x[i] rounded to bf16 (nearest even), kept as f32; dst may be src. */
    void (*round_bf16)(const float *src, int64_t n, float *dst);
    /* d = max|x| / 127 of each block, q = x / d to nearest even; n_block blocks of 32. */
    void (*quantize)(const float *x, int64_t n_block, int8_t *q, float *d, int32_t *nsum);

    /* Rows: n elements, n >= 0, any alignment. */
    void (*layernorm)(const float *x, int64_t n, const float *w, const float *b, float eps,
                      float *y);
    void (*rmsnorm)(const float *x, int64_t n, const float *w, float eps, float *y);
    void (*quick_gelu)(float *x, int64_t n);
    /* x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), in place */
    void (*gelu_tanh)(float *x, int64_t n);
    void (*silu_mul)(const float *gate, const float *up, int64_t n, float *out);
    /* Largest element; -INFINITY for n = 0. */
    float (*max)(const float *x, int64_t n);
    /* x[i] = exp(x[i] - shift) (0 where that underflows, -INFINITY included); returns the sum. */
    float (*exp_sum)(float *x, int64_t n, float shift);
    /* x[i] *= s */
    void (*scale)(float *x, int64_t n, float s);

    /*
     * Rows of the backward (grad_rows.h); an output may be an input.
     *   add_row            y += x
     *   norm_stats         *mean (0 unless `centre`) and *inv = 1 / sqrt(mean of (x - *mean)^2 + eps)
     *   norm_grad          with g = dy w and xhat = (x - mean) inv:
     *                      dx = base (NULL: 0) + inv (g - shift - xhat mean(g xhat)), shift = mean(g) where
     *                      `centre`, else 0
     *   norm_grad_columns  dw += dy xhat, db += dy
     *   softmax_grad       d = scale p (d - p . d)
     *   quick_gelu_grad    dx = dy f'(x), f(x) = x sigmoid(1.702 x)
     *   silu_mul_grad      of f = gate sigmoid(gate) up
     */
    void (*add_row)(const float *x, int64_t n, float *y);
    void (*norm_stats)(const float *x, int64_t n, bool centre, float eps, float *mean, float *inv);
    void (*norm_grad)(const float *x, const float *dy, const float *w, int64_t n, bool centre,
                      float mean, float inv, const float *base, float *dx);
    void (*norm_grad_columns)(const float *x, const float *dy, int64_t n, float mean, float inv,
                              float *dw, float *db);
    void (*softmax_grad)(const float *p, int64_t n, float scale, float *d);
    void (*quick_gelu_grad)(const float *x, const float *dy, int64_t n, float *dx);
    void (*silu_mul_grad)(const float *gate, const float *up, const float *dy, int64_t n,
                          float *d_gate, float *d_up);

    /*
     * Attention of a few query rows over a run of keys and values, say one KV page, f32 or f16:
     *   scores   s[i][j] = scale * q_i . k_j          i < n_q, j < n_k, d elements each
     *   values   acc[i]  = acc[i] + sum_j p[i][j] v_j  j rising, one fma chain per element
     * A whole row's softmax over pages: scores for each page into one row s, shift = max(s),
     * sum = exp_sum(s), values page by page into acc (zeroed first), scale(acc, d, 1 / sum).
     * s[i][j] depends on q_i and k_j alone and acc[i] on row i alone, so pages and batches may be cut
     * anywhere without changing a bit.
     */
    void (*scores_f32)(int n_q, const float *q, int64_t ldq, int n_k, const float *k, int64_t ldk,
                       int d, float scale, float *s, int64_t lds);
    void (*scores_f16)(int n_q, const float *q, int64_t ldq, int n_k, const uint16_t *k,
                       int64_t ldk, int d, float scale, float *s, int64_t lds);
    void (*values_f32)(int n_q, const float *p, int64_t ldp, int n_k, const float *v, int64_t ldv,
                       int d, float *acc, int64_t ldacc);
    void (*values_f16)(int n_q, const float *p, int64_t ldp, int n_k, const uint16_t *v,
                       int64_t ldv, int d, float *acc, int64_t ldacc);
    /* dst[i] = f16(src[i]), nearest even: storing K and V. */
    void (*narrow_f16)(const float *src, int64_t n, uint16_t *dst);
} ty_kernels;

/*
 * Products of operands rounded to bf16 (nearest even; numbers below 2^-126 may become 0), two k at a
 * time: a pair holds k = 2 t in its low half, 2 t + 1 in its high half, 0 where k is odd and ends.
 * Products of a pair are added to one f32 chain per output, t rising from 0, so the bits depend on the
 * table and not on how a product is cut.  Tables round inside a pair in their own way.
 */
typedef struct ty_pair_kernels {
    const char *name;
    int nr; /* columns of a panel, at most TY_KERNEL_MAX_NR */
    int mr; /* rows that gemm takes at most in one call, at most TY_KERNEL_MAX_MR */

    /* c[m][nr] = (add ? c : 0) + a w: a [m][n_pair], w a panel [n_pair][nr]; 1 <= m <= mr. */
    void (*gemm)(int m, int64_t n_pair, const uint32_t *a, int64_t lda, const uint32_t *w, float *c,
                 int64_t ldc, bool add);

    /* Packing: x is f32, lds floats between its rows, ld pairs between rows of dst.
     *   along          x [rows][k] -> dst[r][t]       along_turned   x [rows][k] -> dst[t][r]
     *   across         x [k][cols] -> dst[t][c]       across_turned  x [k][cols] -> dst[c][t] */
    void (*along)(const float *x, int64_t lds, int64_t rows, int64_t k, uint32_t *dst, int64_t ld);
    void (*along_turned)(const float *x, int64_t lds, int64_t rows, int64_t k, uint32_t *dst,
                         int64_t ld);
    void (*across)(const float *x, int64_t lds, int64_t k, int64_t cols, uint32_t *dst, int64_t ld);
    void (*across_turned)(const float *x, int64_t lds, int64_t k, int64_t cols, uint32_t *dst,
                          int64_t ld);
} ty_pair_kernels;

/* The table in use (see cpu.h); never NULL. */
const ty_kernels *ty_kernels_get(void);
/* A table by name, NULL when there is none or this CPU cannot run it. */
const ty_kernels *ty_kernels_named(const char *name);
/* The i-th table of this build, best first, with whether it runs here; NULL past the end. */
const ty_kernels *ty_kernels_at(int i, bool *runs);

/* AVX512-BF16's where ty_kernels_get() is an AVX-512 table and the CPU has the instructions, else the
 * plain C ones; never NULL. */
const ty_pair_kernels *ty_pair_kernels_get(void);

/* ---- for math/ alone ---- */

/* Bytes of one block of 32 k of a packed quantised panel. */
static inline int64_t ty_q8_block_bytes(int nr) {
    return (int64_t)nr * (2 + 32);
}
static inline int64_t ty_q4_block_bytes(int nr) {
    return (int64_t)nr * (2 + 16);
}

extern const ty_kernels ty_kernels_ref;
extern const ty_pair_kernels ty_pair_kernels_ref;
#if defined(__x86_64__)
extern const ty_pair_kernels ty_pair_kernels_avx512bf16;
extern const ty_kernels ty_kernels_avx2, ty_kernels_avx512, ty_kernels_avx512vnni;
#endif

#endif
