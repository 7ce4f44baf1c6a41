/* The general product against the plain triple loop: all four ways of storing, edges, types. */
#include "tests/support/ty_test.h"
#include "common/math/kernel.h"
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

/* What the products make of an operand. */
static double operand(ty_products p, float x) {
    return (double)(p == TY_PRODUCTS_BF16 ? ty_bf16_to_f32(ty_f32_to_bf16(x)) : x);
}

/* One product, on a pool and alone, against doubles; both must agree to the bit. */
static void check_as(ty_products p, int64_t M, int64_t N, int64_t K, bool a_km, bool b_nk,
                     ty_dtype type, bool add, ty_pool *pool) {
    /* Where one of them fits, rows 512 apart too: they are copied first. */
    int64_t lda = (a_km ? M : K) + 3, ldb = ((b_nk ? K : N) + 31) / 32 * 32, ldc = N + 1;
    if (M % 2 == 0 && lda < 512) lda = 512;
    if (K % 2 && ldb < 512) ldb = 512;
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
                sum += operand(p, a[a_km ? k * lda + i : i * lda + k]) *
                       operand(p, b[b_nk ? j * ldb + k : k * ldb + j]);
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
                   .add = add,
                   .products = p};
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

static void check(int64_t M, int64_t N, int64_t K, bool a_km, bool b_nk, ty_dtype type, bool add,
                  ty_pool *pool) {
    check_as(TY_PRODUCTS_F32, M, N, K, a_km, b_nk, type, add, pool);
    check_as(TY_PRODUCTS_BF16, M, N, K, a_km, b_nk, type, add, pool);
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

/* The kernels in use beside the plain C ones: the pairs bit by bit, the sums within f32's rounding. */
static void pairs_are_packed_and_multiplied_like_the_reference(void **s) {
    (void)s;
    enum { ROWS = 37, K = 101, LD = 128, PAIRS = (K + 1) / 2 };
    const ty_pair_kernels *fast = ty_pair_kernels_get(), *ref = &ty_pair_kernels_ref;
    float *x = random_floats(LD * LD);
    static uint32_t got[LD * LD], want[LD * LD];
    x[3] = 1.00390625f; /* halfway between two bf16: to the even one */
    x[4] = 1.01171875f;
    for (int way = 0; way < 4; way++) {
        memset(got, 0xaa, sizeof got);
        memset(want, 0xaa, sizeof want);
        if (way == 0) fast->along(x, LD, ROWS, K, got, LD), ref->along(x, LD, ROWS, K, want, LD);
        if (way == 1) {
            fast->along_turned(x, LD, ROWS, K, got, LD);
            ref->along_turned(x, LD, ROWS, K, want, LD);
        }
        if (way == 2) fast->across(x, LD, K, ROWS, got, LD), ref->across(x, LD, K, ROWS, want, LD);
        if (way == 3) {
            fast->across_turned(x, LD, K, ROWS, got, LD);
            ref->across_turned(x, LD, K, ROWS, want, LD);
        }
        assert_memory_equal(got, want, sizeof got);
    }
    ref->along(x, LD, fast->mr, K, want, LD);
    for (int add = 0; add < 2; add++)
        for (int m = 1; m <= fast->mr; m++) {
            float *c = random_floats(fast->mr * LD), *d = malloc((size_t)m * LD * sizeof *d);
            assert_non_null(d);
            memcpy(d, c, (size_t)m * LD * sizeof *d);
            ref->across(x, LD, K, fast->nr, got, fast->nr);
            fast->gemm(m, PAIRS, want, LD, got, c, LD, add);
            for (int p = 0; p < fast->nr; p += ref->nr) {
                ref->across(x + p, LD, K, ref->nr, got, ref->nr);
                for (int i = 0; i < m; i++)
                    ref->gemm(1, PAIRS, want + i * LD, LD, got, d + i * LD + p, LD, add);
            }
            for (int i = 0; i < m * LD; i++)
                if (fabsf(c[i] - d[i]) > 1e-6f * K)
                    fail_msg("%g != %g", (double)c[i], (double)d[i]);
            free(c);
            free(d);
        }
    free(x);
}

static void products_have_names(void **s) {
    (void)s;
    ty_err err = {0};
    assert_int_equal(ty_products_parse("f32"), TY_PRODUCTS_F32);
    assert_int_equal(ty_products_parse("bf16"), TY_PRODUCTS_BF16);
    assert_int_equal(ty_products_parse("f16"), -1);
    assert_string_equal(ty_products_name(TY_PRODUCTS_BF16), "bf16");
    assert_int_equal(ty_products_check(TY_PRODUCTS_F32, &err), TY_OK);
    bool fast = ty_pair_kernels_get() != &ty_pair_kernels_ref;
    assert_int_equal(ty_products_check(TY_PRODUCTS_BF16, &err), fast ? TY_OK : TY_EUNSUPPORTED);
    if (!fast) assert_non_null(strstr(err.text, "AVX512-BF16"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(product_equals_the_plain_loop),
        cmocka_unit_test(product_widens_b_of_every_type),
        cmocka_unit_test(product_over_nothing_is_zero_or_untouched),
        cmocka_unit_test(pairs_are_packed_and_multiplied_like_the_reference),
        cmocka_unit_test(products_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
