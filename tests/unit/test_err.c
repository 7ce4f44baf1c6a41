/* err.h: codes, texts and names. */
#include "tests/support/ty_test.h"

#include "common/base/err.h"

static void err_fail_keeps_code_and_text(void **state) {
    (void)state;
    ty_err e = {0};
    assert_int_equal(ty_fail(&e, TY_EFORMAT, "bad magic %d", 7), TY_EFORMAT);
    assert_string_equal(e.text, "bad magic 7");
    assert_string_equal(ty_status_name(e.code), "EFORMAT");
}

static void err_context_goes_in_front(void **state) {
    (void)state;
    ty_err e = {0};
    ty_fail(&e, TY_EIO, "disk full");
    ty_err_context(&e, "%s", "vit.gguf");
    assert_string_equal(e.text, "vit.gguf: disk full");
    assert_int_equal(e.code, TY_EIO);
}

static void err_names_come_back(void **state) {
    (void)state;
    for (int s = 0; s < TY_STATUS_COUNT; s++)
        assert_int_equal(ty_status_from_name(ty_status_name((ty_status)s)), s);
    assert_int_equal(ty_status_from_name("nonsense"), TY_EINTERNAL);
    assert_string_equal(ty_status_name((ty_status)TY_STATUS_COUNT), "?");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(err_fail_keeps_code_and_text),
        cmocka_unit_test(err_context_goes_in_front),
        cmocka_unit_test(err_names_come_back),
    };
    return cmocka_run_group_tests_name("err", tests, NULL, NULL);
}
