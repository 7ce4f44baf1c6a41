/* auth.h: key files and the Authorization header. */
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "services/gateway/auth.h"

#include <string.h>

static const char *key_file(const char *text) {
    const char *path = test_path("%s/keys", test_temp_dir());
    ty_err e = {0};
    assert_int_equal(ty_file_write_atomic(path, text, strlen(text), &e), TY_OK);
    return path;
}

static void auth_allows_everybody_without_keys(void **state) {
    (void)state;
    auth *a = NULL;
    assert_int_equal(auth_create(&a, NULL, NULL), TY_OK);
    assert_false(auth_has_keys(a));
    assert_true(auth_allows(a, NULL));
    auth_destroy(&a);
    assert_null(a);
}

static void auth_knows_plain_keys_and_digests(void **state) {
    (void)state;
    auth *a = NULL;
    ty_err e = {0};
    /* sha256 of "abc" (FIPS 180-4, appendix B.1) */
    const char *path =
        key_file("# keys\n\n  plain-key \r\n"
                 "sha256:BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD\n");
    assert_int_equal(auth_create(&a, path, &e), TY_OK);
    assert_true(auth_has_keys(a));
    assert_true(auth_allows(a, "Bearer plain-key"));
    assert_true(auth_allows(a, "bearer abc"));
    assert_false(auth_allows(a, "Bearer plain-ke"));
    assert_false(auth_allows(a, "Bearer plain-key2"));
    assert_false(auth_allows(a, "Bearer "));
    assert_false(auth_allows(a, "Bearer # keys"));
    assert_false(auth_allows(a, "plain-key"));
    assert_false(auth_allows(a, NULL));
    auth_destroy(&a);
}

static void auth_names_the_line_that_is_wrong(void **state) {
    (void)state;
    auth *a = NULL;
    ty_err e = {0};
    assert_int_equal(auth_create(&a, key_file("k\nsha256:12\n"), &e), TY_EFORMAT);
    assert_non_null(strstr(e.text, "line 2"));
    assert_null(a);
    assert_int_equal(auth_create(&a, key_file("# nothing\n"), &e), TY_EFORMAT);
    assert_int_equal(auth_create(&a, "/nonexistent/keys", &e), TY_ENOTFOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auth_allows_everybody_without_keys),
        cmocka_unit_test(auth_knows_plain_keys_and_digests),
        cmocka_unit_test(auth_names_the_line_that_is_wrong),
    };
    return cmocka_run_group_tests_name("auth", tests, NULL, NULL);
}
