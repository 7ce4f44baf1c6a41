/* kernel_check.c - integer and chained results must have the reference's bits, the rest its value
 * within rounding; lengths 0 to 101, unaligned, with guards behind what may be written. */
#include "tests/support/ty_test.h"

#include "common/math/dtype.h"
#include "tests/support/kernel_check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const ty_kernels *const ref = &ty_kernels_ref;
static uint32_t rng = 99;

static uint32_t draw(void) {
    rng = rng * 1664525u + 1013904223u;
    return rng >> 8;
}

static float uniform(float scale) {
    return scale * ((float)draw() / (float)(1 << 23) - 1.0f);
}

static void fill(float *x, int64_t n, float scale) {
    for (int64_t i = 0; i < n; i++) x[i] = uniform(scale);
}

static void *zeroed(size_t n) {
    size_t size = (n + 127) / 64 * 64;
    void *p = aligned_alloc(64, size);
    assert_non_null(p);
    memset(p, 0, size);
    return p;
}

/* ---- packing as kernel.h says, element by element ---- */

static int64_t round_up(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}

/* w [N][K] of `size`-byte elements -> panels of nr; *step in elements. */
static void *pack_floats(const void *w, int size, int64_t N, int64_t K, int nr, int64_t *step) {
    *step = round_up(K * nr, 64);
    uint8_t *out = zeroed((size_t)(round_up(N, nr) / nr * *step * size));
    for (int64_t n = 0; n < N; n++)
        for (int64_t k = 0; k < K; k++)
            memcpy(out + (n / nr * *step + k * nr + n % nr) * size,
                   (const uint8_t *)w + (n * K + k) * size, (size_t)size);
    return out;
}

/* w: N rows of nb file blocks -> panels; *step in bytes. */
static uint8_t *pack_blocks(const uint8_t *w, ty_dtype t, int64_t N, int64_t nb,
                            const ty_kernels *kn, int64_t *step) {
    int nr = kn->nr, size = t == TY_Q8_0 ? 34 : 18;
    *step = round_up(nb * nr * size, 64);
    uint8_t *out = zeroed((size_t)(round_up(N, nr) / nr * *step));
    for (int64_t n = 0; n < N; n++)
        for (int64_t b = 0; b < nb; b++) {
            const uint8_t *src = w + (n * nb + b) * size;
            uint8_t *dst = out + n / nr * *step + b * nr * size;
            int col = (int)(n % nr);
            memcpy(dst + 2 * col, src, 2);
            for (int i = 0; i < size - 2; i++)
                dst[2 * nr + (i / 4 * nr + col) * 4 + i % 4] =
                    t == TY_Q8_0 ? (uint8_t)(src[2 + i] + kn->q8_zero) : src[2 + i];
        }
    return out;
}

/* ---- gemm ---- */

static void run_floats(const ty_kernels *kn, ty_dtype t, int m, int64_t k, const float *a,
                       int64_t lda, const void *w, int64_t step, int n_panel, float *c, int64_t ldc,
                       bool add) {
    for (int i = 0; i < m; i += kn->mr) {
        int rows = m - i < kn->mr ? m - i : kn->mr;
        const float *x = a + i * lda;
        float *y = c + i * ldc;
        if (t == TY_F32) kn->gemm_f32(rows, k, x, lda, w, step, n_panel, y, ldc, add);
        if (t == TY_F16) kn->gemm_f16(rows, k, x, lda, w, step, n_panel, y, ldc, add);
        if (t == TY_BF16) kn->gemm_bf16(rows, k, x, lda, w, step, n_panel, y, ldc, add);
    }
}

static void check_gemm_shape(const ty_kernels *kn, ty_dtype t, int m, int64_t K, int n_panel,
                             bool add) {
    int64_t N = (int64_t)n_panel * kn->nr, lda = K + 3, ldc = N + 7, step, ref_step;
    int size = t == TY_F32 ? 4 : 2;
    float *wide = zeroed((size_t)(N * K * 4)), *a = zeroed((size_t)(m * lda * 4 + 4));
    void *w = zeroed((size_t)(N * K * size));
    float *want = zeroed((size_t)(m * ldc * 4)), *got = zeroed((size_t)(m * ldc * 4));
    fill(wide, N * K, 1);
    fill(a, m * lda + 1, 1);
    fill(want, m * ldc, 1);
    memcpy(got, want, (size_t)(m * ldc * 4));
    ty_dtype_from_f32(t, wide, (size_t)(N * K), w);
    void *panels = pack_floats(w, size, N, K, kn->nr, &step);
    void *ref_panels = pack_floats(w, size, N, K, ref->nr, &ref_step);
    run_floats(ref, t, m, K, a + 1, lda, ref_panels, ref_step, (int)(N / ref->nr), want, ldc, add);
    run_floats(kn, t, m, K, a + 1, lda, panels, step, n_panel, got, ldc, add);
    assert_memory_equal(got, want, (size_t)(m * ldc * 4));
    free(wide);
    free(a);
    free(w);
    free(want);
    free(got);
    free(panels);
    free(ref_panels);
}

void check_gemm_floats(const ty_kernels *kn) {
    const ty_dtype types[] = {TY_F32, TY_F16, TY_BF16};
    for (int t = 0; t < 3; t++) {
        for (int64_t K = 0; K <= 101; K++)
            check_gemm_shape(kn, types[t], 1 + (int)K % kn->mr, K, 1 + (int)K % 5, K % 2);
        for (int m = 1; m <= kn->mr; m++)
            check_gemm_shape(kn, types[t], m, 37, 1 + m % 6, m % 3 == 0);
        for (int p = 1; p <= 9; p++) check_gemm_shape(kn, types[t], 1, 19, p, p % 2);
    }
}

/* Both ways of storing a, and b in rows or as a panel. */
static void check_product_shape(const ty_kernels *kn, int64_t m, int64_t n, int64_t k, bool turned,
                                bool add) {
    int64_t lda = (turned ? m : k) + 3, ldb = n == kn->nr ? n : n + 5, ldc = n + 7;
    size_t na = (size_t)((turned ? k : m) * lda + 1), nb = (size_t)(k * ldb + 1);
    size_t nc = (size_t)(m * ldc + 1);
    float *a = zeroed(na * 4), *b = zeroed(nb * 4), *got = zeroed(nc * 4), *want = zeroed(nc * 4);
    fill(a, (int64_t)na, 1);
    fill(b, (int64_t)nb, 1);
    fill(want, (int64_t)nc, 1);
    memcpy(got, want, nc * 4);
    int64_t row = turned ? 1 : lda, step = turned ? lda : 1;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            float sum = add ? want[1 + i * ldc + j] : 0;
            for (int64_t t = 0; t < k; t++)
                sum = fmaf(a[1 + i * row + t * step], b[1 + t * ldb + j], sum);
            want[1 + i * ldc + j] = sum;
        }
    kn->product_f32(m, n, k, a + 1, row, step, b + 1, ldb, got + 1, ldc, add);
    assert_memory_equal(got, want, nc * 4);
    free(a);
    free(b);
    free(got);
    free(want);
}

void check_products(const ty_kernels *kn) {
    for (int way = 0; way < 4; way++) {
        for (int64_t m = 0; m <= 2 * kn->mr + 1; m++)
            check_product_shape(kn, m, kn->nr, 17, way & 1, way & 2);
        for (int64_t n = 0; n <= 2 * kn->nr + 1; n++)
            check_product_shape(kn, 1 + n % (kn->mr + 2), n, 17, way & 1, way & 2);
        for (int64_t k = 0; k <= 9; k++)
            check_product_shape(kn, 5, kn->nr + 3, k, way & 1, way & 2);
    }
}

/* File blocks: random bytes, or the extremes that could overflow a narrow sum. */
static void draw_blocks(uint8_t *w, ty_dtype t, int64_t n, int extreme) {
    int size = t == TY_Q8_0 ? 34 : 18;
    for (int64_t b = 0; b < n; b++, w += size) {
        uint16_t d = ty_f32_to_f16(uniform(0.1f));
        memcpy(w, &d, 2);
        for (int i = 2; i < size; i++) {
            const uint8_t ends[2] = {t == TY_Q8_0 ? 0x80 : 0x00, t == TY_Q8_0 ? 0x7f : 0xff};
            w[i] = extreme ? ends[extreme == 3 ? (int)(draw() & 1) : extreme - 1] : (uint8_t)draw();
        }
    }
}

typedef struct {
    int8_t *q;
    float *d;
    int32_t *nsum;
    ty_qrows rows;
} activations;

static activations make_activations(int m, int64_t nb, int extreme) {
    activations a = {.q = zeroed((size_t)(m * (nb * 32 + 4))),
                     .d = zeroed((size_t)(m * (nb + 1)) * 4),
                     .nsum = zeroed((size_t)(m * (nb + 1)) * 4)};
    a.rows = (ty_qrows){.q = a.q, .d = a.d, .nsum = a.nsum, .ldq = nb * 32 + 4, .ldd = nb + 1};
    for (int i = 0; i < m; i++)
        for (int64_t b = 0; b < nb; b++) {
            int32_t sum = 0;
            for (int k = 0; k < 32; k++) {
                int8_t v = (int8_t)((int)(draw() % 255) - 127);
                if (extreme) v = (draw() & 1) || extreme < 3 ? (i % 2 ? -127 : 127) : -127;
                a.q[i * a.rows.ldq + b * 32 + k] = v;
                sum += v;
            }
            a.d[i * a.rows.ldd + b] = uniform(0.1f);
            a.nsum[i * a.rows.ldd + b] = -sum;
        }
    return a;
}

static void run_blocks(const ty_kernels *kn, ty_dtype t, int m, int64_t nb, const ty_qrows *x,
                       const void *w, int64_t step, int n_panel, float *c, int64_t ldc) {
    for (int i = 0; i < m; i += kn->qmr) {
        ty_qrows part = *x;
        part.q += i * x->ldq;
        part.d += i * x->ldd;
        part.nsum += i * x->ldd;
        (t == TY_Q8_0 ? kn->gemm_q8 : kn->gemm_q4)(m - i < kn->qmr ? m - i : kn->qmr, nb, &part, w,
                                                   step, n_panel, c + i * ldc, ldc);
    }
}

static void check_quant_shape(const ty_kernels *kn, ty_dtype t, int m, int64_t nb, int n_panel,
                              int extreme) {
    int64_t N = (int64_t)n_panel * kn->nr, ldc = N + 5, step, ref_step;
    uint8_t *w = zeroed((size_t)(N * nb * 34));
    draw_blocks(w, t, N * nb, extreme);
    activations a = make_activations(m, nb, extreme);
    uint8_t *panels = pack_blocks(w, t, N, nb, kn, &step);
    uint8_t *ref_panels = pack_blocks(w, t, N, nb, ref, &ref_step);
    float *want = zeroed((size_t)(m * ldc * 4)), *got = zeroed((size_t)(m * ldc * 4));
    fill(want, m * ldc, 1);
    memcpy(got, want, (size_t)(m * ldc * 4));
    run_blocks(ref, t, m, nb, &a.rows, ref_panels, ref_step, (int)(N / ref->nr), want, ldc);
    run_blocks(kn, t, m, nb, &a.rows, panels, step, n_panel, got, ldc);
    assert_memory_equal(got, want, (size_t)(m * ldc * 4));
    free(w);
    free(a.q);
    free(a.d);
    free(a.nsum);
    free(panels);
    free(ref_panels);
    free(want);
    free(got);
}

void check_gemm_quantised(const ty_kernels *kn) {
    const ty_dtype types[] = {TY_Q8_0, TY_Q4_0};
    for (int t = 0; t < 2; t++)
        for (int m = 1; m <= kn->qmr; m++)
            for (int64_t nb = 0; nb <= 5; nb++) {
                check_quant_shape(kn, types[t], m, nb, 1 + (int)nb % 4, 0);
                check_quant_shape(kn, types[t], m, nb, 1, 1 + (int)nb % 3);
            }
}

/* ---- conversions ---- */

static void check_widen_half(const ty_kernels *kn, int64_t n) {
    uint16_t *h = zeroed((size_t)n * 2 + 2);
    float *got = zeroed((size_t)n * 4 + 8), *want = zeroed((size_t)n * 4 + 8);
    for (int64_t i = 0; i <= n; i++) {
        h[i] = (uint16_t)draw();
        if ((h[i] & 0x7c00) == 0x7c00) h[i] ^= 0x4000; /* no infinities, no NaN */
        if ((h[i] & 0x7f80) == 0x7f80) h[i] ^= 0x4000;
    }
    got[n + 1] = want[n + 1] = 7;
    kn->widen_f16(h + 1, n, got + 1);
    ref->widen_f16(h + 1, n, want + 1);
    assert_memory_equal(got, want, (size_t)n * 4 + 8);
    kn->widen_bf16(h + 1, n, got + 1);
    ref->widen_bf16(h + 1, n, want + 1);
    assert_memory_equal(got, want, (size_t)n * 4 + 8);
    free(h);
    free(got);
    free(want);
}

static void check_narrow(const ty_kernels *kn, int64_t n) {
    float *x = zeroed((size_t)n * 4 + 8), *got = zeroed((size_t)n * 4 + 8);
    float *want = zeroed((size_t)n * 4 + 8);
    const float odd[] = {0.0f, -0.0f, 1e-8f, 6e-8f, 1e-40f, 65519.0f, 65520.0f, 1e30f, 0x1.01p0f};
    for (int64_t i = 0; i <= n; i++)
        x[i] = i % 3 ? uniform(i % 2 ? 1 : 1e-5f) : odd[i / 3 % 9] * (i % 2 ? 1.0f : -1.0f);
    memset(got, 0x55, (size_t)n * 4 + 8);
    memset(want, 0x55, (size_t)n * 4 + 8);
    kn->narrow_f16(x + 1, n, (uint16_t *)(void *)got + 1);
    ref->narrow_f16(x + 1, n, (uint16_t *)(void *)want + 1);
    assert_memory_equal(got, want, (size_t)n * 4 + 8);
    if (n > 2) x[2] = INFINITY;
    kn->round_bf16(x + 1, n, got + 1);
    ref->round_bf16(x + 1, n, want + 1);
    assert_memory_equal(got, want, (size_t)n * 4 + 8);
    free(x);
    free(got);
    free(want);
}

static void check_quantize(const ty_kernels *kn, int64_t nb) {
    float *x = zeroed((size_t)nb * 128 + 4), *d = zeroed((size_t)nb * 8 + 8);
    int8_t *q = zeroed((size_t)nb * 64 + 2);
    int32_t *sum = zeroed((size_t)nb * 8 + 8);
    int8_t *q2 = q + nb * 32 + 1;
    float *d2 = d + nb + 1;
    int32_t *sum2 = sum + nb + 1;
    fill(x, nb * 32 + 1, 3);
    for (int64_t i = 0; i < nb * 32; i++)
        if (i / 32 % 3 == 1) x[i + 1] = i / 32 % 2 ? 0 : (float)((int)(draw() % 255) - 127) / 2.0f;
    kn->quantize(x + 1, nb, q, d, sum);
    ref->quantize(x + 1, nb, q2, d2, sum2);
    if (nb) {
        assert_memory_equal(q, q2, (size_t)nb * 32);
        assert_memory_equal(d, d2, (size_t)nb * 4);
        assert_memory_equal(sum, sum2, (size_t)nb * 4);
    }
    assert_int_equal(q[nb * 32], 0);
    free(x);
    free(d);
    free(q);
    free(sum);
}

static void check_widen_blocks(const ty_kernels *kn, ty_dtype t, int64_t nb) {
    int64_t N = kn->nr, step;
    uint8_t *w = zeroed((size_t)(N * nb * 34));
    draw_blocks(w, t, N * nb, 0);
    uint8_t *panel = pack_blocks(w, t, N, nb, kn, &step);
    float *got = zeroed((size_t)(nb * 32 * N * 4)), *row = zeroed((size_t)nb * 32 * 4);
    (t == TY_Q8_0 ? kn->widen_q8 : kn->widen_q4)(panel, nb, got);
    for (int64_t n = 0; n < N; n++) {
        ty_dtype_to_f32(t, w, (size_t)(n * nb * 32), (size_t)nb * 32, row);
        for (int64_t k = 0; k < nb * 32; k++) assert_true(got[k * N + n] == row[k]);
    }
    free(w);
    free(panel);
    free(got);
    free(row);
}

void check_conversions(const ty_kernels *kn) {
    for (int64_t n = 0; n <= 101; n++) {
        check_widen_half(kn, n);
        check_narrow(kn, n);
    }
    for (int64_t nb = 0; nb < 9; nb++) {
        check_quantize(kn, nb);
        check_widen_blocks(kn, TY_Q8_0, nb);
        check_widen_blocks(kn, TY_Q4_0, nb);
    }
}

/* ---- rows ---- */

enum { LONGEST = 101, ROOM = LONGEST + 8 };

static void near_row(const float *got, const float *want, int64_t n, double rel, const char *what) {
    for (int64_t i = 0; i < n; i++) {
        double w = (double)want[i], g = (double)got[i];
        if (!(fabs(g - w) <= rel * fabs(w) + 1e-30))
            fail_msg("%s of %lld: [%lld] is %.9g, want %.9g", what, (long long)n, (long long)i, g,
                     w);
    }
    assert_true(got[n] == 7 && want[n] == 7); /* the guard */
}

static void check_norms(const ty_kernels *kn, int64_t n, const float *x) {
    float w[ROOM], b[ROOM], got[ROOM], want[ROOM];
    fill(w, ROOM, 1);
    fill(b, ROOM, 1);
    got[n + 1] = want[n + 1] = 7;
    /* bias and product may cancel: compare them apart */
    kn->layernorm(x + 1, n, w + 1, NULL, 1e-5f, got + 1);
    ref->layernorm(x + 1, n, w + 1, NULL, 1e-5f, want + 1);
    near_row(got + 1, want + 1, n, 5e-7, "layernorm");
    memset(w, 0, sizeof w);
    kn->layernorm(x + 1, n, w + 1, b + 1, 1e-5f, got + 1);
    near_row(got + 1, (b[n + 1] = 7, b + 1), n, 0, "layernorm's bias");
    fill(w, ROOM, 1);
    kn->rmsnorm(x + 1, n, w + 1, 1e-6f, got + 1);
    ref->rmsnorm(x + 1, n, w + 1, 1e-6f, want + 1);
    near_row(got + 1, want + 1, n, 3e-7, "rmsnorm");
}

static void check_activations(const ty_kernels *kn, int64_t n, const float *x) {
    float got[ROOM], want[ROOM], up[ROOM];
    fill(up, ROOM, 1);
    memcpy(got, x, sizeof got);
    got[n + 1] = want[n + 1] = 7;
    kn->quick_gelu(got + 1, n);
    for (int64_t i = 1; i <= n; i++)
        want[i] = (float)((double)x[i] / (1 + exp(-1.702 * (double)x[i])));
    near_row(got + 1, want + 1, n, 4e-6, "quick_gelu"); /* -1.702 x is rounded before exp */
    memcpy(got, x, sizeof got);
    got[n + 1] = want[n + 1] = 7;
    kn->gelu_tanh(got + 1, n);
    for (int64_t i = 1; i <= n; i++) {
        double v = (double)x[i];
        double u = 2 * 0.7978845608028654 * (v + 0.044715 * v * v * v);
        want[i] = (float)(v / (1 + exp(-u))); /* (1 + tanh(u / 2)) / 2, which would cancel */
    }
    near_row(got + 1, want + 1, n, 2e-5, "gelu_tanh"); /* u is rounded before exp */
    kn->silu_mul(x + 1, up + 1, n, got + 1);
    for (int64_t i = 1; i <= n; i++)
        want[i] = (float)((double)x[i] / (1 + exp(-(double)x[i])) * (double)up[i]);
    near_row(got + 1, want + 1, n, 4e-7, "silu_mul");
}

static void check_softmax_parts(const ty_kernels *kn, int64_t n, const float *x) {
    float got[ROOM], want[ROOM];
    memcpy(got, x, sizeof got);
    float top = kn->max(x + 1, n);
    assert_true(top == ref->max(x + 1, n));
    if (n == 0) top = 0;
    if (n > 5) got[4] = -INFINITY;
    got[n + 1] = want[n + 1] = 7;
    double sum = 0;
    for (int64_t i = 1; i <= n; i++) {
        want[i] = (float)exp((double)(got[i] - top));
        sum += (double)want[i];
    }
    double s = (double)kn->exp_sum(got + 1, n, top);
    near_row(got + 1, want + 1, n, 2e-7, "exp_sum");
    assert_true(fabs(s - sum) <= 4e-7 * sum);
    kn->scale(got + 1, n, 0.5f);
    for (int64_t i = 1; i <= n; i++) want[i] *= 0.5f;
    near_row(got + 1, want + 1, n, 2e-7, "scale");
}

/* Against the plain formulas in double; outputs in place of inputs, as the trainer has them. */
static void check_norm_grad(const ty_kernels *kn, int64_t n, const float *x, bool centre,
                            bool add) {
    float dy[ROOM], w[ROOM], dx[ROOM], dw[ROOM], db[ROOM], mean, inv;
    double m = 0, square = 0, g_sum = 0, gx_sum = 0;
    fill(dy, ROOM, 1);
    fill(w, ROOM, 1);
    memcpy(dx, dy, sizeof dx);
    memcpy(dw, w, sizeof dw);
    memcpy(db, w, sizeof db);
    kn->norm_stats(x, n, centre, 1e-3f, &mean, &inv);
    for (int64_t i = 0; i < n && centre; i++) m += (double)x[i] / (double)n;
    for (int64_t i = 0; i < n; i++) square += ((double)x[i] - m) * ((double)x[i] - m) / (double)n;
    double scale = 1 / sqrt(square + 1e-3);
    assert_true(fabs((double)mean - m) < 1e-5 && fabs((double)inv / scale - 1) < 1e-5);
    for (int64_t i = 0; i < n; i++) {
        double g = (double)dy[i] * (double)w[i];
        g_sum += g / (double)n;
        gx_sum += g * ((double)x[i] - m) * scale / (double)n;
    }
    kn->norm_grad(x, dy, w, n, centre, mean, inv, add ? dx : NULL, dx);
    kn->norm_grad_columns(x, dy, n, mean, inv, dw, db);
    for (int64_t i = 0; i < n; i++) {
        double hat = ((double)x[i] - m) * scale, g = (double)dy[i] * (double)w[i];
        double want = scale * (g - (centre ? g_sum : 0) - hat * gx_sum);
        assert_true(fabs((double)dx[i] - want - (add ? (double)dy[i] : 0)) < 1e-4 * (1 + scale));
        assert_true(fabs((double)(dw[i] - w[i]) - (double)dy[i] * hat) < 1e-5);
        assert_true(fabs((double)(db[i] - w[i]) - (double)dy[i]) < 1e-6);
    }
    assert_memory_equal(dx + n, dy + n, sizeof(float) * (size_t)(ROOM - n)); /* the guard */
    assert_memory_equal(dw + n, w + n, sizeof(float) * (size_t)(ROOM - n));
    if (!add) { /* and dx where dy is */
        kn->norm_grad(x, dy, w, n, centre, mean, inv, NULL, dy);
        assert_memory_equal(dx, dy, sizeof dx);
    }
}

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

static void check_activation_grads(const ty_kernels *kn, int64_t n, const float *x) {
    float up[ROOM], dy[ROOM], d[ROOM], dup[ROOM];
    fill(up, ROOM, 1);
    fill(dy, ROOM, 1);
    memcpy(d, dy, sizeof d);
    kn->quick_gelu_grad(x, d, n, d);
    for (int64_t i = 0; i < n; i++) {
        double v = (double)x[i], s = sigmoid(1.702 * v);
        assert_true(fabs((double)d[i] - (double)dy[i] * s * (1 + 1.702 * v * (1 - s))) < 2e-5);
    }
    assert_memory_equal(d + n, dy + n, sizeof(float) * (size_t)(ROOM - n));
    memcpy(d, dy, sizeof d);
    memcpy(dup, up, sizeof dup);
    kn->silu_mul_grad(x, up, d, n, d, dup);
    for (int64_t i = 0; i < n; i++) {
        double v = (double)x[i], s = sigmoid(v), g = (double)dy[i];
        assert_true(fabs((double)d[i] - g * (double)up[i] * s * (1 + v * (1 - s))) < 2e-5);
        assert_true(fabs((double)dup[i] - g * v * s) < 2e-5);
    }
    assert_memory_equal(dup + n, up + n, sizeof(float) * (size_t)(ROOM - n));
}

static void check_softmax_grad(const ty_kernels *kn, int64_t n, const float *x) {
    float p[ROOM], d[ROOM], y[ROOM];
    double dot = 0;
    fill(p, ROOM, 1);
    memcpy(d, x, sizeof d);
    memcpy(y, x, sizeof y);
    kn->softmax_grad(p, n, 0.3f, d);
    kn->add_row(p, n, y);
    for (int64_t i = 0; i < n; i++) dot += (double)p[i] * (double)x[i];
    for (int64_t i = 0; i < n; i++) {
        double want = 0.3 * (double)p[i] * ((double)x[i] - dot);
        assert_true(fabs((double)d[i] - want) < 1e-5 * (1 + fabs(dot)));
        assert_true(y[i] == x[i] + p[i]);
    }
    assert_memory_equal(d + n, x + n, sizeof(float) * (size_t)(ROOM - n));
    assert_memory_equal(y + n, x + n, sizeof(float) * (size_t)(ROOM - n));
}

void check_grad_rows(const ty_kernels *kn) {
    for (int64_t n = 1; n <= LONGEST; n++) {
        float x[ROOM];
        fill(x, ROOM, n % 2 ? 1 : 9);
        for (int way = 0; way < 4; way++) check_norm_grad(kn, n, x, way & 1, way & 2);
        check_activation_grads(kn, n, x);
        check_softmax_grad(kn, n, x);
    }
    float x[600], dy[600], d[600]; /* more than is worked on at a time */
    fill(x, 600, 3);
    fill(dy, 600, 1);
    kn->quick_gelu_grad(x, dy, 600, d);
    for (int i = 0; i < 600; i++) {
        float one;
        kn->quick_gelu_grad(x + i, dy + i, 1, &one);
        assert_true(fabsf(one - d[i]) < 1e-6f);
    }
}

void check_rows(const ty_kernels *kn) {
    for (int64_t n = 0; n <= LONGEST; n++) {
        float x[ROOM];
        fill(x, ROOM, n % 2 ? 1 : 20);
        check_norms(kn, n, x);
        check_activations(kn, n, x);
        check_softmax_parts(kn, n, x);
    }
    float far[20];
    for (int i = 0; i < 20; i++) far[i] = i % 2 ? -200 : 200;
    kn->quick_gelu(far, 20);
    for (int i = 0; i < 20; i++) assert_true(i % 2 ? fabsf(far[i]) < 1e-30f : far[i] == 200);
    for (int i = 0; i < 20; i++) far[i] = i % 2 ? -200 : 200;
    kn->gelu_tanh(far, 20);
    for (int i = 0; i < 20; i++) assert_true(i % 2 ? fabsf(far[i]) < 1e-30f : far[i] == 200);
}

/* ---- attention ---- */

typedef struct {
    float *q, *k32, *v32, *p, *got, *want;
    uint16_t *k16, *v16;
    int n_q, n_k, d;
    int64_t ld;
} attention;

static void run_scores(const ty_kernels *kn, const attention *a, bool half, int j0, int j1,
                       float *s) {
    if (half)
        kn->scores_f16(a->n_q, a->q + 1, a->ld, j1 - j0, a->k16 + 1 + j0 * a->ld, a->ld, a->d, 0.3f,
                       s + j0, a->n_k + 1);
    else
        kn->scores_f32(a->n_q, a->q + 1, a->ld, j1 - j0, a->k32 + 1 + j0 * a->ld, a->ld, a->d, 0.3f,
                       s + j0, a->n_k + 1);
}

static void run_values(const ty_kernels *kn, const attention *a, bool half, int j0, int j1,
                       float *acc) {
    if (half)
        kn->values_f16(a->n_q, a->p + j0, a->n_k, j1 - j0, a->v16 + 1 + j0 * a->ld, a->ld, a->d,
                       acc, a->d + 1);
    else
        kn->values_f32(a->n_q, a->p + j0, a->n_k, j1 - j0, a->v32 + 1 + j0 * a->ld, a->ld, a->d,
                       acc, a->d + 1);
}

static void near_all(const float *got, const float *want, int64_t n, double limit) {
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)(got[i] - want[i])) <= limit))
            fail_msg("[%lld] is %.9g, want %.9g", (long long)i, (double)got[i], (double)want[i]);
}

static void check_attention_shape(const ty_kernels *kn, int n_q, int n_k, int d) {
    attention a = {.n_q = n_q, .n_k = n_k, .d = d, .ld = d + 3};
    size_t nq = (size_t)(n_q * a.ld + 1), nk = (size_t)(n_k * a.ld + 1);
    size_t ns = (size_t)(n_q * (n_k + 1)), nv = (size_t)(n_q * (d + 1));
    size_t no = ns > nv ? ns : nv;
    a.q = zeroed(nq * 4);
    a.k32 = zeroed(nk * 4);
    a.v32 = zeroed(nk * 4);
    a.k16 = zeroed(nk * 2);
    a.v16 = zeroed(nk * 2);
    a.p = zeroed((size_t)(n_q * n_k) * 4);
    a.got = zeroed(no * 4);
    a.want = zeroed(no * 4);
    fill(a.q, (int64_t)nq, 1);
    fill(a.k32, (int64_t)nk, 1);
    fill(a.v32, (int64_t)nk, 1);
    fill(a.p, n_q * n_k, 1);
    ref->narrow_f16(a.k32, (int64_t)nk, a.k16);
    ref->narrow_f16(a.v32, (int64_t)nk, a.v16);
    for (int half = 0; half < 2; half++) {
        fill(a.want, (int64_t)no, 1);
        memcpy(a.got, a.want, no * 4);
        run_scores(ref, &a, half, 0, n_k, a.want);
        run_scores(kn, &a, half, 0, n_k, a.got);
        near_all(a.got, a.want, (int64_t)ns, 3e-6);
        memcpy(a.want, a.got, no * 4);
        run_scores(kn, &a, half, n_k / 3, n_k, a.got); /* cut in pages: the same bits */
        run_scores(kn, &a, half, 0, n_k / 3, a.got);
        assert_memory_equal(a.got, a.want, ns * 4);
        fill(a.want, (int64_t)no, 1);
        memcpy(a.got, a.want, no * 4);
        run_values(ref, &a, half, 0, n_k, a.want);
        run_values(kn, &a, half, 0, n_k / 3, a.got);
        run_values(kn, &a, half, n_k / 3, n_k, a.got);
        assert_memory_equal(a.got, a.want, nv * 4);
    }
    free(a.q);
    free(a.k32);
    free(a.v32);
    free(a.k16);
    free(a.v16);
    free(a.p);
    free(a.got);
    free(a.want);
}

void check_attention_rows(const ty_kernels *kn) {
    for (int d = 1; d <= LONGEST; d++) check_attention_shape(kn, 1 + d % 5, 1 + d % 11, d);
    const int usual[] = {64, 80, 128, 256};
    for (int i = 0; i < 4; i++)
        for (int n_q = 1; n_q <= 4; n_q++) check_attention_shape(kn, n_q, 19, usual[i]);
}
