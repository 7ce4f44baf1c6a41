/*
 * Every backward of training/grad.h against differences of its forward, written again in doubles:
 *     d/dx sum(r . f(x)) ~ (sum(r . f(x + h)) - sum(r . f(x - h))) / 2h,  r random.
 * In doubles with h = 1e-5 that is exact to 1e-8 or so; what is left is the f32 of the backward.
 */
#include "tests/support/ty_test.h"
#include "training/grad.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint32_t state = 7;
static double noise(void) {
    state = state * 1664525u + 1013904223u;
    return (double)(state >> 8) / (double)(1 << 23) - 1.0;
}

/* A function's inputs side by side, all free: fn gives the weighted sum of its outputs. */
typedef struct {
    double (*fn)(const double *in, const double *r, const void *shape);
    const void *shape;
    int n_in, n_out;
    int every; /* of so many inputs one is checked */
} function;

static void check(const function *f, const float *got, const double *in, const double *r,
                  const char *what) {
    double *x = malloc((size_t)f->n_in * sizeof *x), h = 1e-5;
    memcpy(x, in, (size_t)f->n_in * sizeof *x);
    for (int i = 0; i<f->n_in; i += f->every> 0 ? f->every : 1) {
        x[i] = in[i] + h;
        double up = f->fn(x, r, f->shape);
        x[i] = in[i] - h;
        double want = (up - f->fn(x, r, f->shape)) / (2 * h);
        x[i] = in[i];
        if (fabs((double)got[i] - want) > 2e-5 * (1 + fabs(want)))
            fail_msg("%s: gradient %d is %g, want %g", what, i, (double)got[i], want);
    }
    free(x);
}

/* n random numbers that f32 holds exactly, as both. */
static void fill(double *d, float *s, int n) {
    for (int i = 0; i < n; i++) d[i] = (double)(s[i] = (float)noise());
}

enum { ROWS = 3, N = 37 };

/* in: x [ROWS, N], w [N], b [N] */
static double layernorm(const double *in, const double *r, const void *shape) {
    const double *w = in + ROWS * N, *b = w + N;
    double sum = 0;
    bool rms = *(const bool *)shape;
    for (int i = 0; i < ROWS; i++) {
        const double *x = in + i * N;
        double mean = 0, var = 0;
        for (int c = 0; c < N && !rms; c++) mean += x[c] / N;
        for (int c = 0; c < N; c++) var += (x[c] - mean) * (x[c] - mean) / N;
        for (int c = 0; c < N; c++)
            sum += r[i * N + c] * ((x[c] - mean) / sqrt(var + 1e-5) * w[c] + (rms ? 0 : b[c]));
    }
    return sum;
}

static void norm_case(bool rms, ty_pool *pool) {
    enum { IN = ROWS * N + 2 * N };
    double in[IN], r[ROWS * N];
    float x[IN], dy[ROWS * N], got[IN] = {0};
    fill(in, x, IN);
    fill(r, dy, ROWS * N);
    const float *w = x + ROWS * N;
    float *dw = got + ROWS * N, *db = dw + N;
    float mean[ROWS], inv[ROWS];
    grad_norm(pool, x, dy, ROWS, N, w, !rms, 1e-5f, NULL, got, mean, inv);
    grad_norm_weights(x, dy, ROWS, N, N, mean, inv, dw, rms ? NULL : db);
    function f = {layernorm, &rms, IN, ROWS * N, 1};
    check(&f, got, in, r, rms ? "rmsnorm" : "layernorm");
    /* on a base, and in place: dx may be base or dy */
    float twice[ROWS * N];
    memcpy(twice, got, sizeof twice);
    grad_norm(pool, x, dy, ROWS, N, w, !rms, 1e-5f, twice, twice, mean, inv);
    for (int i = 0; i < ROWS * N; i++)
        assert_true(fabsf(twice[i] - 2 * got[i]) <= 1e-6f * (1 + fabsf(got[i])));
    grad_norm(pool, x, dy, ROWS, N, w, !rms, 1e-5f, NULL, dy, mean, inv);
    assert_memory_equal(dy, got, sizeof dy);
}

static void norm_backward_equals_differences(void **s) {
    (void)s;
    ty_pool *pool = NULL;
    assert_int_equal(ty_pool_create(&pool, 2, NULL), TY_OK);
    for (int i = 0; i < 2; i++) {
        norm_case(i == 1, NULL);
        norm_case(i == 1, pool);
    }
    ty_pool_destroy(&pool);
}

static double quick_gelu(const double *in, const double *r, const void *shape) {
    double sum = 0;
    for (int i = 0; i < *(const int *)shape; i++) sum += r[i] * in[i] / (1 + exp(-1.702 * in[i]));
    return sum;
}

static double silu_mul(const double *in, const double *r, const void *shape) {
    int n = *(const int *)shape;
    double sum = 0;
    for (int i = 0; i < n; i++) sum += r[i] * in[i] / (1 + exp(-in[i])) * in[n + i];
    return sum;
}

static void activation_backward_equals_differences(void **s) {
    (void)s;
    enum { M = 300 };
    double in[2 * M], r[M];
    float x[2 * M], dy[M], got[2 * M];
    int n = M;
    fill(in, x, 2 * M);
    fill(r, dy, M);
    /* far out too, where e^x alone would overflow */
    in[0] = (double)(x[0] = 90), in[1] = (double)(x[1] = -90);
    function gelu = {quick_gelu, &n, M, M, 1}, silu = {silu_mul, &n, 2 * M, M, 1};
    grad_quick_gelu(NULL, x, dy, M, got);
    check(&gelu, got, in, r, "quick_gelu");
    grad_silu_mul(NULL, x, x + M, dy, M, got, got + M);
    check(&silu, got, in, r, "silu_mul");
}

static const int32_t TARGET[ROWS] = {0, N - 1, 5};

static double cross_entropy(const double *in, const double *r, const void *shape) {
    (void)shape;
    double loss = 0;
    for (int i = 0; i < ROWS; i++) {
        double sum = 0;
        for (int c = 0; c < N; c++) sum += exp(in[i * N + c]);
        loss += r[0] * (log(sum) - in[i * N + TARGET[i]]);
    }
    return loss;
}

static void cross_entropy_equals_differences(void **s) {
    (void)s;
    double in[ROWS * N], weight = 0.25, sum = 0;
    float x[ROWS * N], loss[ROWS];
    fill(in, x, ROWS * N);
    grad_cross_entropy(NULL, x, ROWS, N, TARGET, 0.25f, loss);
    function f = {cross_entropy, NULL, ROWS * N, 1, 1};
    check(&f, x, in, &weight, "cross-entropy");
    for (int i = 0; i < ROWS; i++) sum += (double)loss[i] * weight;
    assert_true(fabs(sum - cross_entropy(in, &weight, NULL)) < 1e-5);
}

static void bias_gradient_adds_up_columns(void **s) {
    (void)s;
    float dy[ROWS * 100], sum[100];
    for (int i = 0; i < ROWS * 100; i++) dy[i] = (float)i;
    for (int c = 0; c < 99; c++) sum[c] = 1;
    grad_bias(dy, ROWS, 99, 100, sum);
    for (int c = 0; c < 99; c++) assert_true(sum[c] == 1 + (float)(3 * c + 300));
}

/* ---- attention ---- */

enum { HEADS = 2, D = 5, C = HEADS * D };
typedef struct {
    int n_seq, n_row;
    const int *start, *row;
    bool causal;
} attention_shape;

/* in: q, k, v [n_row, C] */
static double attention(const double *in, const double *r, const void *shape) {
    const attention_shape *a = shape;
    const double *q = in, *k = in + a->n_row * C, *v = k + a->n_row * C;
    double sum = 0;
    for (int s = 0; s < a->n_seq; s++)
        for (int h = 0; h < HEADS; h++)
            for (int t = a->start[s]; t < a->start[s + 1]; t++) {
                int end = a->causal ? t + 1 : a->start[s + 1], first = a->start[s];
                double p[512], total = 0;
                for (int j = first; j < end; j++) {
                    p[j] = 0;
                    for (int i = 0; i < D; i++)
                        p[j] += q[a->row[t] * C + h * D + i] * k[a->row[j] * C + h * D + i];
                    total += p[j] = exp(0.4 * p[j]);
                }
                for (int j = first; j < end; j++)
                    for (int i = 0; i < D; i++)
                        sum += r[a->row[t] * C + h * D + i] * p[j] / total *
                               v[a->row[j] * C + h * D + i];
            }
    return sum;
}

static void attention_case(bool causal, int n_row, const int *start, int n_seq, const int *row,
                           ty_pool *pool) {
    int n = n_row * C;
    double *in = malloc((size_t)(3 * n) * sizeof *in), *r = malloc((size_t)n * sizeof *r);
    float *x = malloc((size_t)(3 * n) * sizeof *x), *dctx = malloc((size_t)n * sizeof *dctx);
    float *got = malloc((size_t)(3 * n) * sizeof *got), *ctx = malloc((size_t)n * sizeof *ctx);
    fill(in, x, 3 * n);
    fill(r, dctx, n);
    grad_attention a = {.q = x,
                        .k = x + n,
                        .v = x + 2 * n,
                        .ldq = C,
                        .ldk = C,
                        .ldv = C,
                        .hdq = D,
                        .hdk = D,
                        .hdv = D,
                        .n_seq = n_seq,
                        .n_head = HEADS,
                        .d = D,
                        .q_start = start,
                        .q_row = row,
                        .kv_start = start,
                        .kv_row = row,
                        .scale = 0.4f,
                        .causal = causal};
    assert_int_equal(attention_forward(pool, &a, ctx, C, NULL), TY_OK);
    attention_shape shape = {n_seq, n_row, start, row, causal};
    double sum = 0;
    for (int i = 0; i < n; i++) sum += r[i] * (double)ctx[i];
    assert_true(fabs(sum - attention(in, r, &shape)) < 1e-4);
    assert_int_equal(attention_backward(pool, &a, dctx, C, got, got + n, got + 2 * n, NULL), TY_OK);
    function f = {attention, &shape, 3 * n, n, n_row > 50 ? 17 : 1};
    check(&f, got, in, r, causal ? "causal attention" : "attention");
    free(in);
    free(r);
    free(x);
    free(dctx);
    free(got);
    free(ctx);
}

static void attention_backward_equals_differences(void **s) {
    (void)s;
    static const int start[] = {0, 7, 8, 19};
    int row[19], long_row[140]; /* longer than a tile of queries */
    static const int long_start[] = {0, 140};
    ty_pool *pool = NULL;
    for (int i = 0; i < 19; i++) row[i] = i * 8 % 19;
    for (int i = 0; i < 140; i++) long_row[i] = 139 - i;
    assert_int_equal(ty_pool_create(&pool, 3, NULL), TY_OK);
    for (int causal = 0; causal < 2; causal++) {
        attention_case(causal, 19, start, 3, row, causal ? pool : NULL);
        attention_case(causal, 140, long_start, 1, long_row, pool);
    }
    ty_pool_destroy(&pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_backward_equals_differences),
        cmocka_unit_test(activation_backward_equals_differences),
        cmocka_unit_test(cross_entropy_equals_differences),
        cmocka_unit_test(bias_gradient_adds_up_columns),
        cmocka_unit_test(attention_backward_equals_differences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
