/* blas.h: the switch, and OpenBLAS under a layer, from several threads at once. */
#include "tests/support/ty_test.h"

#include "common/math/blas.h"
#include "common/math/linear.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void blas_switch_names_its_values(void **state) {
    (void)state;
    bool on = true;
    ty_err e = {0};
    unsetenv("TYTO_BLAS");
    assert_int_equal(ty_blas_wanted(&on, &e), TY_OK);
    assert_false(on);
    setenv("TYTO_BLAS", "own", 1);
    assert_int_equal(ty_blas_wanted(&on, &e), TY_OK);
    assert_false(on);
    setenv("TYTO_BLAS", "mkl", 1);
    assert_int_equal(ty_blas_wanted(&on, &e), TY_EINVAL);
    assert_non_null(strstr(e.text, "mkl"));
    unsetenv("TYTO_BLAS");
}

static float *ramp(int n, int step) {
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    for (int i = 0; i < n; i++) x[i] = (float)(i * step % 37 - 18) / 16;
    return x;
}

static void apply(bool blas, int M, int N, int K, const float *w, const float *x, float *y) {
    ty_tensor t = {
        .dtype = TY_F32, .n_dim = 2, .shape = {N, K}, .data = w, .size_bytes = (size_t)(N * K) * 4};
    ty_pool *pool = NULL;
    ty_linear *l = NULL;
    if (blas) setenv("TYTO_BLAS", "openblas", 1);
    assert_int_equal(ty_pool_create(&pool, 4, NULL), TY_OK);
    assert_int_equal(ty_linear_create(&l, &t, NULL, 1, TY_COMPUTE_AUTO, pool, NULL), TY_OK);
    for (int i = 0; i < 3; i++) assert_int_equal(ty_linear_apply(l, pool, x, K, M, y, N), TY_OK);
    ty_linear_destroy(&l);
    ty_pool_destroy(&pool);
    unsetenv("TYTO_BLAS");
}

/* Sums of products of small multiples of 1/256 are exact in f32: equal, in whatever order. */
static void blas_layers_equal_our_own(void **state) {
    (void)state;
    if (ty_blas_open(NULL) != TY_OK) skip();
    assert_int_equal(strncmp(ty_blas_name(), "openblas ", 9), 0);
    const int shapes[][3] = {{32, 40, 16}, {257, 300, 129}, {100, 1025, 64}, {5, 33, 20}};
    for (int i = 0; i < 4; i++) {
        int M = shapes[i][0], N = shapes[i][1], K = shapes[i][2];
        float *w = ramp(N * K, 11), *x = ramp(M * K, 7);
        float *own = ramp(M * N, 1), *other = ramp(M * N, 1);
        apply(false, M, N, K, w, x, own);
        apply(true, M, N, K, w, x, other);
        assert_memory_equal(own, other, (size_t)(M * N) * sizeof *own);
        free(w);
        free(x);
        free(own);
        free(other);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blas_switch_names_its_values),
        cmocka_unit_test(blas_layers_equal_our_own),
    };
    return cmocka_run_group_tests_name("blas", tests, NULL, NULL);
}
