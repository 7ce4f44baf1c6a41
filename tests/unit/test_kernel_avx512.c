/* The AVX-512 kernels, their very source compiled with emulated intrinsics, against kernel_ref. */
#include "tests/support/ty_test.h"
#include "tests/support/simde_avx512.h"
#include "tests/support/kernel_check.h"

#define ty_kernels_avx512 emulated_kernels
#include "common/math/arch/kernel_avx512.c"
#undef ty_kernels_avx512

static void avx512_gemms_floats_like_the_reference(void **state) {
    (void)state;
    check_gemm_floats(&emulated_kernels);
}

static void avx512_multiplies_where_operands_are(void **state) {
    (void)state;
    check_products(&emulated_kernels);
}

static void avx512_gemms_blocks_like_the_reference(void **state) {
    (void)state;
    check_gemm_quantised(&emulated_kernels);
}

static void avx512_converts_like_the_reference(void **state) {
    (void)state;
    check_conversions(&emulated_kernels);
}

static void avx512_rows_like_the_reference(void **state) {
    (void)state;
    check_rows(&emulated_kernels);
}

static void avx512_rows_of_the_backward_are_right(void **state) {
    (void)state;
    check_grad_rows(&emulated_kernels);
}

static void avx512_attends_like_the_reference(void **state) {
    (void)state;
    check_attention_rows(&emulated_kernels);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(avx512_gemms_floats_like_the_reference),
        cmocka_unit_test(avx512_multiplies_where_operands_are),
        cmocka_unit_test(avx512_gemms_blocks_like_the_reference),
        cmocka_unit_test(avx512_converts_like_the_reference),
        cmocka_unit_test(avx512_rows_like_the_reference),
        cmocka_unit_test(avx512_rows_of_the_backward_are_right),
        cmocka_unit_test(avx512_attends_like_the_reference),
    };
    return cmocka_run_group_tests_name("kernel_avx512", tests, NULL, NULL);
}
