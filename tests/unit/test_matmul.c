/* The general product against the plain triple loop: all four ways of storing, edges, types. */
#include "tests/support/ty_test.h"
#include "common/math/matmul.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint32_t state = 1;
static float noise(void) {
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (float)(1 << 23) - 1.0f;
}

static float *random_floats(int64_t n) {
    float *x = malloc((size_t)(n > 0 ? n : 1) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) x[i] = noise();
    return x;
}

/* One product, on a pool and alone, against doubles; both must agree to the bit. */
static void check(int64_t M, int64_t N, int64_t K, bool a_km, bool b_nk, ty_dtype type, bool add,
                  ty_pool *pool) {
    int64_t lda = (a_km ? M : K) + 3, ldb = ((b_nk ? K : N) + 31) / 32 * 32, ldc = N + 1;
    float *a = random_floats((a_km ? K : M) * lda), *b = random_floats((b_nk ? N : K) * ldb);
    float *c = random_floats(M * ldc), *want = malloc((size_t)(M * ldc) * sizeof *want);
    float *alone = malloc((size_t)(M * ldc) * sizeof *alone);
    size_t nb = (size_t)((b_nk ? N : K) * ldb);
    void *stored = malloc(nb * 4 + 64);
    assert_non_null(want);
    assert_non_null(alone);
    assert_non_null(stored);
    ty_dtype_from_f32(type, b, nb, stored);
    ty_dtype_to_f32(type, stored, 0, nb, b);
    memcpy(want, c, (size_t)(M * ldc) * sizeof *c);
    memcpy(alone, c, (size_t)(M * ldc) * sizeof *c);
    for (int64_t i = 0; i < M; i++)
        for (int64_t j = 0; j < N; j++) {
            double sum = add ? (double)c[i * ldc + j] : 0;
            for (int64_t k = 0; k < K; k++)
                sum += (double)a[a_km ? k * lda + i : i * lda + k] *
                       (double)b[b_nk ? j * ldb + k : k * ldb + j];
            want[i * ldc + j] = (float)sum;
        }
    ty_matmul m = {.M = M,
                   .N = N,
                   .K = K,
                   .a = a,
                   .lda = lda,
                   .a_stored_km = a_km,
                   .b = stored,
                   .b_type = type,
                   .ldb = ldb,
                   .b_stored_nk = b_nk,
                   .c = c,
                   .ldc = ldc,
                   .add = add};
    assert_int_equal(ty_matmul_run(&m, pool, NULL), TY_OK);
    m.c = alone;
    assert_int_equal(ty_matmul_run(&m, NULL, NULL), TY_OK);
    for (int64_t i = 0; i < M * ldc; i++) {
        /* K terms of size one, each rounded at 2^-24 of a sum that stays below sqrt(K) or so */
        if (fabsf(c[i] - want[i]) > 1e-6f * (float)K + 1e-6f)
            fail_msg("%g != %g", (double)c[i], (double)want[i]);
    }
    assert_memory_equal(c, alone, (size_t)(M * ldc) * sizeof *c);
    free(a);
    free(b);
    free(c);
    free(want);
    free(alone);
    free(stored);
}

static void product_equals_the_plain_loop(void **s) {
    (void)s;
    static const int64_t sizes[][3] = {{1, 1, 1},      {2, 33, 5},     {13, 31, 257},
                                       {121, 40, 300}, {5, 600, 64},   {130, 97, 513},
                                       {257, 520, 31}, /* and past a block: */
                                       {1930, 33, 70}, {24, 2100, 70}, {25, 70, 1100}};
    ty_pool *pool = NULL;
    assert_int_equal(ty_pool_create(&pool, 3, NULL), TY_OK);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int way = 0; way < 8; way++)
            check(sizes[i][0], sizes[i][1], sizes[i][2], way & 1, way & 2, TY_F32, way & 4, pool);
    ty_pool_destroy(&pool);
}

static void product_widens_b_of_every_type(void **s) {
    (void)s;
    static const ty_dtype types[] = {TY_F16, TY_BF16, TY_Q8_0, TY_Q4_0};
    ty_pool *pool = NULL;
    assert_int_equal(ty_pool_create(&pool, 2, NULL), TY_OK);
    for (size_t i = 0; i < 4; i++)
        for (int way = 0; way < 2; way++) {
            check(17, 96, 320, false, way == 1, types[i], false, pool);
            check(40, 70, 288, true, way == 1, types[i], true, pool);
        }
    ty_pool_destroy(&pool);
}

static void product_over_nothing_is_zero_or_untouched(void **s) {
    (void)s;
    float c[2] = {3, 4}, x = 1;
    ty_matmul m = {.M = 1,
                   .N = 2,
                   .K = 0,
                   .a = &x,
                   .lda = 1,
                   .b = &x,
                   .b_type = TY_F32,
                   .ldb = 2,
                   .c = c,
                   .ldc = 2,
                   .add = true};
    assert_int_equal(ty_matmul_run(&m, NULL, NULL), TY_OK);
    assert_true(c[0] == 3 && c[1] == 4);
    m.add = false;
    assert_int_equal(ty_matmul_run(&m, NULL, NULL), TY_OK);
    assert_true(c[0] == 0 && c[1] == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(product_equals_the_plain_loop),
        cmocka_unit_test(product_widens_b_of_every_type),
        cmocka_unit_test(product_over_nothing_is_zero_or_untouched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
