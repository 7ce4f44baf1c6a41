/* kernel.h: the choice of a table, and every table that this machine runs against kernel_ref. */
#include "tests/support/kernel_check.h"
#include "tests/support/ty_test.h"

#include "common/math/cpu.h"

#include <stdlib.h>
#include <string.h>

static void for_each_table(void (*check)(const ty_kernels *)) {
    bool runs = false;
    const ty_kernels *k;
    int n = 0;
    for (int i = 0; (k = ty_kernels_at(i, &runs)) != NULL; i++) {
        print_message("%s: %s\n", k->name, runs ? "checked" : "does not run here");
        if (runs) check(k);
        n += runs;
    }
    assert_true(n >= 1);
}

static void kernels_gemm_floats_like_the_reference(void **state) {
    (void)state;
    for_each_table(check_gemm_floats);
}

static void kernels_multiply_where_operands_are(void **state) {
    (void)state;
    for_each_table(check_products);
}

static void kernels_gemm_blocks_like_the_reference(void **state) {
    (void)state;
    for_each_table(check_gemm_quantised);
}

static void kernels_convert_like_the_reference(void **state) {
    (void)state;
    for_each_table(check_conversions);
}

static void kernels_rows_like_the_reference(void **state) {
    (void)state;
    for_each_table(check_rows);
}

static void kernels_rows_of_the_backward_are_right(void **state) {
    (void)state;
    for_each_table(check_grad_rows);
}

static void kernels_attend_like_the_reference(void **state) {
    (void)state;
    for_each_table(check_attention_rows);
}

static void kernels_are_found_by_name(void **state) {
    (void)state;
    assert_ptr_equal(ty_kernels_named("ref"), &ty_kernels_ref);
    assert_null(ty_kernels_named("mmx"));
    assert_null(ty_kernels_at(-1, NULL));
    assert_non_null(ty_kernels_named(ty_cpu_kernels()));
    assert_true(strlen(ty_cpu_name()) > 0);
}

static void cpu_check_names_what_runs(void **state) {
    (void)state;
    ty_err e = {0};
    const char *was = getenv("TYTO_CPU");
    char *keep = was ? strdup(was) : NULL;
    setenv("TYTO_CPU", "mmx", 1);
    assert_int_equal(ty_cpu_check(&e), TY_EINVAL);
    assert_non_null(strstr(e.text, "mmx"));
    assert_non_null(strstr(e.text, "ref"));
    setenv("TYTO_CPU", "ref", 1);
    assert_int_equal(ty_cpu_check(&e), TY_OK);
    unsetenv("TYTO_CPU");
    assert_int_equal(ty_cpu_check(&e), TY_OK);
    if (keep) setenv("TYTO_CPU", keep, 1);
    free(keep);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kernels_gemm_floats_like_the_reference),
        cmocka_unit_test(kernels_multiply_where_operands_are),
        cmocka_unit_test(kernels_gemm_blocks_like_the_reference),
        cmocka_unit_test(kernels_convert_like_the_reference),
        cmocka_unit_test(kernels_rows_like_the_reference),
        cmocka_unit_test(kernels_rows_of_the_backward_are_right),
        cmocka_unit_test(kernels_attend_like_the_reference),
        cmocka_unit_test(kernels_are_found_by_name),
        cmocka_unit_test(cpu_check_names_what_runs),
    };
    return cmocka_run_group_tests_name("kernel", tests, NULL, NULL);
}
