/* linear.h: against double arithmetic for every storage and compute, and batch invariance. */
#include "tests/support/ty_test.h"

#include "common/math/linear.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint32_t rng = 12345;

static float uniform(void) {
    rng = rng * 1664525u + 1013904223u;
    return (float)(rng >> 8) / (float)(1 << 23) - 1.0f;
}

static float *random_floats(size_t n) {
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = uniform();
    return x;
}

/* W [N, K] of type t, its owner the caller; wide gets the values it stands for. */
static ty_tensor make_weight(ty_dtype t, int64_t N, int64_t K, float **wide) {
    size_t n = (size_t)(N * K), bytes = ty_dtype_bytes(t, n);
    float *x = random_floats(n);
    void *data = malloc(bytes);
    assert_non_null(data);
    ty_dtype_from_f32(t, x, n, data);
    ty_dtype_to_f32(t, data, 0, n, x);
    *wide = x;
    return (ty_tensor){.dtype = t, .n_dim = 2, .shape = {N, K}, .data = data, .size_bytes = bytes};
}

/* Largest error of y against x W^T + b in double, relative to the largest |y|. */
static double error_of(const float *y, int64_t ldy, const float *x, int64_t ldx, int M,
                       const float *w, const float *b, int64_t N, int64_t K) {
    double worst = 0, top = 1e-9;
    for (int i = 0; i < M; i++)
        for (int64_t n = 0; n < N; n++) {
            double want = b ? (double)b[n] : 0;
            for (int64_t k = 0; k < K; k++) want += (double)x[i * ldx + k] * (double)w[n * K + k];
            worst = fmax(worst, fabs(want - (double)y[i * ldy + n]));
            top = fmax(top, fabs(want));
        }
    return worst / top;
}

static void check_layer(ty_dtype t, ty_compute c, int64_t N, int64_t K, int M, double limit) {
    float *wide = NULL, *bias = random_floats((size_t)N);
    ty_tensor w = make_weight(t, N, K, &wide);
    const float *const biases[1] = {bias};
    int64_t ldx = K + 3, ldy = N + 5;
    float *x = random_floats((size_t)(M * ldx)), *y = random_floats((size_t)(M * ldy));
    float guard = y[N];
    ty_pool *pool = NULL;
    ty_linear *l = NULL;
    assert_int_equal(ty_pool_create(&pool, 2, NULL), TY_OK);
    assert_int_equal(ty_linear_create(&l, &w, biases, 1, c, pool, NULL), TY_OK);
    assert_int_equal(ty_linear_out(l), N);
    assert_int_equal(ty_linear_in(l), K);
    assert_int_equal(ty_linear_apply(l, pool, x, ldx, M, y, ldy), TY_OK);
    double e = error_of(y, ldy, x, ldx, M, wide, bias, N, K);
    if (!(e <= limit))
        fail_msg("%s compute %d %lldx%lld M %d: error %g", ty_dtype_name((int)t), c, (long long)N,
                 (long long)K, M, e);
    assert_true(y[N] == guard); /* the gap between rows is untouched */
    ty_linear_destroy(&l);
    assert_null(l);
    ty_pool_destroy(&pool);
    free(x);
    free(y);
    free(bias);
    free(wide);
    free((void *)(uintptr_t)w.data);
}

static const ty_dtype floats[] = {TY_F32, TY_F16, TY_BF16};

static void linear_equals_double_when_f32(void **state) {
    (void)state;
    for (int t = 0; t < 3; t++)
        for (int M = 1; M < 30; M += 3)
            check_layer(floats[t], TY_COMPUTE_AUTO, 1 + 13 * M, 7 + 5 * M, M, 2e-6);
    check_layer(TY_F32, TY_COMPUTE_F32, 70, 600, 260, 4e-6);
    check_layer(TY_F16, TY_COMPUTE_F32, 33, 513, 129, 4e-6);
    check_layer(TY_Q8_0, TY_COMPUTE_F32, 33, 544, 9, 4e-6);
    check_layer(TY_Q4_0, TY_COMPUTE_F32, 49, 320, 1, 4e-6);
}

/* int8 activations: error of a rounding per element, 1/254 of the block's largest, averaged out. */
static void linear_is_near_double_when_int8(void **state) {
    (void)state;
    for (int M = 1; M < 20; M += 2) {
        check_layer(TY_Q8_0, TY_COMPUTE_AUTO, 1 + 17 * M, 32 * (1 + M), M, 8e-3);
        check_layer(TY_Q4_0, TY_COMPUTE_AUTO, 1 + 17 * M, 32 * (1 + M), M, 8e-3);
        check_layer(TY_F32, TY_COMPUTE_INT8, 40, 64, M, 1.6e-2);
    }
    check_layer(TY_F32, TY_COMPUTE_INT8, 40, 65, 3, 2e-6); /* no whole blocks: f32 */
}

/* bf16: both factors rounded, 2^-9 each. */
static void linear_is_near_double_when_bf16(void **state) {
    (void)state;
    for (int t = 0; t < 3; t++)
        for (int M = 1; M < 20; M += 6) check_layer(floats[t], TY_COMPUTE_BF16, 50, 100, M, 8e-3);
    check_layer(TY_Q8_0, TY_COMPUTE_BF16, 50, 96, 3, 8e-3);
    check_layer(TY_Q4_0, TY_COMPUTE_BF16, 50, 96, 11, 8e-3);
}

/* Row i has the same bits alone, among few and among many. */
static void check_invariance(ty_dtype t, ty_compute c, int64_t N, int64_t K) {
    enum { M = 300 };
    float *wide = NULL;
    ty_tensor w = make_weight(t, N, K, &wide);
    float *x = random_floats((size_t)(M * K)), *all = random_floats((size_t)(M * N));
    float *some = random_floats((size_t)(M * N));
    ty_pool *pool = NULL;
    ty_linear *l = NULL;
    assert_int_equal(ty_pool_create(&pool, 3, NULL), TY_OK);
    assert_int_equal(ty_linear_create(&l, &w, NULL, 1, c, pool, NULL), TY_OK);
    assert_int_equal(ty_linear_apply(l, pool, x, K, M, all, N), TY_OK);
    const int counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 13, 61, 121, 257};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        int at = M - counts[i] < 40 ? M - counts[i] : 40 - (int)i;
        assert_int_equal(ty_linear_apply(l, i % 2 ? pool : NULL, x + at * K, K, counts[i], some, N),
                         TY_OK);
        assert_memory_equal(some, all + at * N, (size_t)(counts[i] * N) * sizeof(float));
    }
    ty_linear_destroy(&l);
    ty_pool_destroy(&pool);
    free(x);
    free(all);
    free(some);
    free(wide);
    free((void *)(uintptr_t)w.data);
}

static void linear_is_batch_invariant(void **state) {
    (void)state;
    const ty_dtype types[] = {TY_F32, TY_F16, TY_BF16, TY_Q8_0, TY_Q4_0};
    for (int t = 0; t < 5; t++)
        for (int c = TY_COMPUTE_AUTO; c <= TY_COMPUTE_INT8; c++)
            check_invariance(types[t], (ty_compute)c, 75, 288);
    check_invariance(TY_F32, TY_COMPUTE_AUTO, 200, 700);
}

/* Some of the weights alone: the same bits in their columns, the others untouched. */
static void check_parts(const ty_linear *l, const float *x, int64_t K, const float *whole) {
    static const int begin[] = {0, 40, 47, 147};
    for (int first = 0; first < 3; first++)
        for (int n = 1; first + n <= 3; n++) {
            float *y = calloc(9 * 147, sizeof *y);
            assert_non_null(y);
            assert_int_equal(ty_linear_apply_parts(l, NULL, first, n, x, K, 9, y, 147), TY_OK);
            for (int i = 0; i < 9 * 147; i++) {
                bool inside = i % 147 >= begin[first] && i % 147 < begin[first + n];
                assert_true(y[i] == (inside ? whole[i] : 0));
            }
            free(y);
        }
}

/* Weights of different types side by side, as in a fused QKV. */
static void linear_joins_outputs_of_several_weights(void **state) {
    (void)state;
    const int64_t N[3] = {40, 7, 100}, K = 64;
    const ty_dtype types[3] = {TY_Q8_0, TY_F32, TY_F16};
    ty_tensor w[3];
    float *wide[3], *bias = random_floats(7), *x = random_floats((size_t)(9 * K));
    const float *const biases[3] = {NULL, bias, NULL};
    for (int i = 0; i < 3; i++) w[i] = make_weight(types[i], N[i], K, &wide[i]);
    float *y = random_floats(9 * 147);
    ty_linear *l = NULL;
    assert_int_equal(ty_linear_create(&l, w, biases, 3, TY_COMPUTE_AUTO, NULL, NULL), TY_OK);
    assert_int_equal(ty_linear_out(l), 147);
    assert_true(ty_linear_bytes(l) >= 40 * 68 + 7 * 64 * 4 + 100 * 64 * 2);
    assert_int_equal(ty_linear_apply(l, NULL, x, K, 9, y, 147), TY_OK);
    assert_true(error_of(y, 147, x, K, 9, wide[0], NULL, 40, K) < 8e-3);
    assert_true(error_of(y + 40, 147, x, K, 9, wide[1], bias, 7, K) < 2e-6);
    assert_true(error_of(y + 47, 147, x, K, 9, wide[2], NULL, 100, K) < 2e-6);
    check_parts(l, x, K, y);
    ty_linear_destroy(&l);
    for (int i = 0; i < 3; i++) {
        free(wide[i]);
        free((void *)(uintptr_t)w[i].data);
    }
    free(bias);
    free(x);
    free(y);
}

static void linear_refuses_wrong_shapes(void **state) {
    (void)state;
    float data[64] = {0};
    ty_linear *l = NULL;
    ty_err e = {0};
    ty_tensor w[2] = {
        {.dtype = TY_F32, .n_dim = 2, .shape = {2, 8}, .data = data, .size_bytes = 64},
        {.dtype = TY_F32, .n_dim = 2, .shape = {2, 9}, .data = data, .size_bytes = 72}};
    assert_int_equal(ty_linear_create(&l, w, NULL, 2, TY_COMPUTE_AUTO, NULL, &e), TY_ESHAPE);
    assert_non_null(strstr(e.text, "[2,9]"));
    assert_null(l);
    w[0].size_bytes = 63;
    assert_int_equal(ty_linear_create(&l, w, NULL, 1, TY_COMPUTE_AUTO, NULL, &e), TY_ESHAPE);
    w[0].size_bytes = 64;
    w[0].dtype = TY_I32;
    assert_int_equal(ty_linear_create(&l, w, NULL, 1, TY_COMPUTE_AUTO, NULL, &e), TY_ESHAPE);
    assert_int_equal(ty_linear_create(&l, w, NULL, 0, TY_COMPUTE_AUTO, NULL, &e), TY_ESHAPE);
    w[0].dtype = TY_F32;
    assert_int_equal(ty_linear_create(&l, w, NULL, 1, TY_COMPUTE_AUTO, NULL, &e), TY_OK);
    assert_int_equal(ty_linear_apply(l, NULL, data, 8, 0, data, 2), TY_OK);
    ty_linear_destroy(&l);
    ty_linear_destroy(&l);
    assert_int_equal(ty_compute_parse("int8"), TY_COMPUTE_INT8);
    assert_int_equal(ty_compute_parse("fp8"), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_equals_double_when_f32),
        cmocka_unit_test(linear_is_near_double_when_int8),
        cmocka_unit_test(linear_is_near_double_when_bf16),
        cmocka_unit_test(linear_is_batch_invariant),
        cmocka_unit_test(linear_joins_outputs_of_several_weights),
        cmocka_unit_test(linear_refuses_wrong_shapes),
    };
    return cmocka_run_group_tests_name("linear", tests, NULL, NULL);
}
