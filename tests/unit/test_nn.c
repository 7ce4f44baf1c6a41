/* nn.h: against the formulas in double, and independence of rows. */
#include "tests/support/ty_test.h"

#include "common/math/nn.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint32_t rng = 777;

static float uniform(void) {
    rng = rng * 1664525u + 1013904223u;
    return (float)(rng >> 8) / (float)(1 << 23) - 1.0f;
}

static float *random_floats(size_t n, float scale) {
    float *x = malloc((n ? n : 1) * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = scale * uniform();
    return x;
}

static ty_pool *pool;

static int open_pool(void **state) {
    (void)state;
    return ty_pool_create(&pool, 3, NULL) == TY_OK ? 0 : -1;
}

static int close_pool(void **state) {
    (void)state;
    ty_pool_destroy(&pool);
    return 0;
}

static void close_to(float got, double want, double rel) {
    if (!(fabs((double)got - want) <= rel * (fabs(want) + 1)))
        fail_msg("got %.9g want %.9g", (double)got, want);
}

static void norms_equal_their_formulas(void **state) {
    (void)state;
    for (int n = 1; n < 300; n += 37) {
        enum { ROWS = 70 };
        float *x = random_floats((size_t)(ROWS * n), 3), *y = random_floats((size_t)(ROWS * n), 1);
        float *w = random_floats((size_t)n, 1), *b = random_floats((size_t)n, 1);
        for (int kind = 0; kind < 3; kind++) {
            if (kind == 0) ty_layernorm(pool, x, ROWS, n, w, b, 1e-5f, y);
            if (kind == 1) ty_layernorm(NULL, x, ROWS, n, w, NULL, 1e-6f, y);
            if (kind == 2) ty_rmsnorm(pool, x, ROWS, n, w, 1e-6f, y);
            for (int r = 0; r < ROWS; r++) {
                const float *row = x + r * n;
                double mean = 0, var = 0;
                for (int i = 0; i < n && kind < 2; i++) mean += (double)row[i] / n;
                for (int i = 0; i < n; i++) var += pow((double)row[i] - mean, 2) / n;
                double inv = 1 / sqrt(var + (kind == 0 ? 1e-5 : 1e-6));
                for (int i = 0; i < n; i++)
                    close_to(y[r * n + i],
                             ((double)row[i] - mean) * inv * (double)w[i] +
                                 (kind == 0 ? (double)b[i] : 0),
                             2e-6);
            }
        }
        ty_layernorm(pool, x, ROWS, n, w, b, 1e-5f, y);
        ty_layernorm(pool, x, ROWS, n, w, b, 1e-5f, x); /* in place */
        assert_memory_equal(x, y, (size_t)(ROWS * n) * sizeof *x);
        free(x);
        free(y);
        free(w);
        free(b);
    }
}

static void activations_equal_their_formulas(void **state) {
    (void)state;
    enum { ROWS = 50, N = 101, LD = 2 * N + 3 };
    float *x = random_floats(ROWS * LD, 20), *was = random_floats(ROWS * LD, 1);
    float *out = random_floats(ROWS * N, 1);
    x[0] = 200;
    x[1] = -200;
    x[2] = 0;
    memcpy(was, x, ROWS * LD * sizeof *x);
    ty_silu_mul(pool, x, x + N, ROWS, N, LD, out, N);
    ty_quick_gelu(pool, x, ROWS, N, LD);
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < LD; i++) {
            double v = (double)was[r * LD + i];
            if (i >= N) {
                assert_true(x[r * LD + i] == was[r * LD + i]);
                continue;
            }
            close_to(x[r * LD + i], v / (1 + exp(-1.702 * v)), 3e-7);
            close_to(out[r * N + i], v / (1 + exp(-v)) * (double)was[r * LD + N + i], 4e-7);
        }
    ty_silu_mul(NULL, was, was + N, ROWS, N, LD, was, LD); /* out may be gate */
    for (int r = 0; r < ROWS; r++) assert_memory_equal(was + r * LD, out + r * N, N * sizeof *was);
    free(x);
    free(was);
    free(out);
}

static void add_adds(void **state) {
    (void)state;
    for (int n = 0; n < 100000; n = n * 3 + 1) {
        float *x = random_floats((size_t)n, 1), *y = random_floats((size_t)n, 1);
        float *was = random_floats((size_t)n, 1);
        if (n) memcpy(was, y, (size_t)n * sizeof *y);
        ty_add(pool, y, x, n);
        for (int i = 0; i < n; i++) assert_true(y[i] == was[i] + x[i]);
        free(x);
        free(y);
        free(was);
    }
}

static void rope_turns_pairs(void **state) {
    (void)state;
    enum { H = 3, D = 6 };
    float cs[3], sn[3], a[H * D], b[H * D], x[H * D];
    for (int j = 0; j < 3; j++) {
        cs[j] = cosf(0.3f * (float)(j + 1));
        sn[j] = sinf(0.3f * (float)(j + 1));
    }
    for (int i = 0; i < H * D; i++) x[i] = a[i] = b[i] = uniform();
    ty_rope_half(a, H, D, cs, sn);
    ty_rope_pair(b, H, D, cs, sn);
    for (int h = 0; h < H; h++)
        for (int j = 0; j < 3; j++) {
            const float *v = x + h * D, *u = a + h * D, *p = b + h * D;
            close_to(u[j], (double)(v[j] * cs[j] - v[j + 3] * sn[j]), 1e-6);
            close_to(u[j + 3], (double)(v[j + 3] * cs[j] + v[j] * sn[j]), 1e-6);
            close_to(p[2 * j], (double)(v[2 * j] * cs[j] - v[2 * j + 1] * sn[j]), 1e-6);
            close_to(p[2 * j + 1], (double)(v[2 * j + 1] * cs[j] + v[2 * j] * sn[j]), 1e-6);
        }
}

/* One output row of attention in double. */
static void attention_row(const ty_attention *a, int b, int t, int h, double *out) {
    double *s = calloc((size_t)a->n_kv, sizeof *s), top = -1e300, sum = 0;
    assert_non_null(s);
    const float *q = a->q + (b * a->n_q + t) * a->ldq + h * a->hdq;
    for (int j = 0; j < a->n_kv; j++) {
        const float *k = a->k + (b * a->n_kv + j) * a->ldk + h * a->hdk;
        for (int i = 0; i < a->d; i++) s[j] += (double)q[i] * (double)k[i];
        s[j] *= (double)a->scale;
        top = fmax(top, s[j]);
    }
    for (int j = 0; j < a->n_kv; j++) sum += s[j] = exp(s[j] - top);
    for (int i = 0; i < a->d; i++) {
        out[i] = 0;
        for (int j = 0; j < a->n_kv; j++)
            out[i] += s[j] / sum * (double)a->v[(b * a->n_kv + j) * a->ldv + h * a->hdv + i];
    }
    free(s);
}

static void check_attention(int n_batch, int n_q, int n_kv, int n_head, int d) {
    int64_t ld = 3 * n_head * d + 1, hd = 3 * d;
    size_t n = (size_t)(n_batch * (n_q > n_kv ? n_q : n_kv) * ld);
    float *x = random_floats(n, 1), *ctx = random_floats((size_t)(n_batch * n_q * n_head * d), 1);
    double *want = calloc((size_t)d, sizeof *want);
    assert_non_null(want);
    ty_attention a = {.q = x,
                      .k = x + d,
                      .v = x + 2 * d,
                      .ldq = ld,
                      .ldk = ld,
                      .ldv = ld,
                      .hdq = hd,
                      .hdk = hd,
                      .hdv = hd,
                      .n_batch = n_batch,
                      .n_q = n_q,
                      .n_kv = n_kv,
                      .n_head = n_head,
                      .d = d,
                      .scale = 1.0f / sqrtf((float)d),
                      .ctx = ctx,
                      .ldo = n_head * d};
    assert_int_equal(ty_attention_full(d % 2 ? NULL : pool, &a, NULL), TY_OK);
    for (int b = 0; b < n_batch; b++)
        for (int t = 0; t < n_q; t++)
            for (int h = 0; h < n_head; h++) {
                attention_row(&a, b, t, h, want);
                for (int i = 0; i < d; i++)
                    close_to(ctx[(b * n_q + t) * a.ldo + h * d + i], want[i], 2e-6);
            }
    free(x);
    free(ctx);
    free(want);
}

static void attention_equals_softmax_in_double(void **state) {
    (void)state;
    check_attention(1, 1, 1, 1, 1);
    check_attention(2, 5, 5, 4, 8);
    check_attention(1, 16, 73, 3, 32);
    check_attention(3, 50, 17, 2, 24);
    check_attention(1, 101, 101, 2, 64);
    check_attention(1, 7, 33, 1, 67);
}

/* A sample's rows have the same bits alone and in a batch. */
static void attention_is_batch_invariant(void **state) {
    (void)state;
    enum { B = 4, T = 60, H = 3, D = 20, C = H * D };
    float *x = random_floats(B * T * 3 * C, 2), *all = random_floats(B * T * C, 1);
    float *one = random_floats(T * C, 1);
    ty_attention a = {.q = x,
                      .k = x + C,
                      .v = x + 2 * C,
                      .ldq = 3 * C,
                      .ldk = 3 * C,
                      .ldv = 3 * C,
                      .hdq = D,
                      .hdk = D,
                      .hdv = D,
                      .n_batch = B,
                      .n_q = T,
                      .n_kv = T,
                      .n_head = H,
                      .d = D,
                      .scale = 0.2f,
                      .ctx = all,
                      .ldo = C};
    assert_int_equal(ty_attention_full(pool, &a, NULL), TY_OK);
    a.n_batch = 1;
    a.ctx = one;
    for (int b = 0; b < B; b++) {
        a.q = x + b * T * 3 * C;
        a.k = a.q + C;
        a.v = a.k + C;
        assert_int_equal(ty_attention_full(b % 2 ? pool : NULL, &a, NULL), TY_OK);
        assert_memory_equal(one, all + b * T * C, T * C * sizeof *one);
    }
    free(x);
    free(all);
    free(one);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_equal_their_formulas),
        cmocka_unit_test(activations_equal_their_formulas),
        cmocka_unit_test(add_adds),
        cmocka_unit_test(rope_turns_pairs),
        cmocka_unit_test(attention_equals_softmax_in_double),
        cmocka_unit_test(attention_is_batch_invariant),
    };
    return cmocka_run_group_tests_name("nn", tests, open_pool, close_pool);
}
