/* API keys: what `tyto keys --api` makes is what the gateway lets in, and the file does not give it away. */
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "orchestration/api_key.h"
#include "services/gateway/auth.h"
#include "tests/support/process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool allows(const char *path, const char *key) {
    auth *a;
    ty_err err;
    char header[API_KEY_TEXT + 16];
    if (auth_create(&a, path, &err) != TY_OK) fail_msg("%s", err.text);
    snprintf(header, sizeof(header), "Bearer %s", key);
    bool yes = auth_allows(a, header);
    auth_destroy(&a);
    return yes;
}

static void keys_open_the_gateway_and_are_not_in_the_file(void **state) {
    (void)state;
    const char *path = test_path("%s/api.keys", test_temp_dir());
    char key[2][API_KEY_TEXT], *text;
    size_t size;
    ty_err err;
    struct stat s;
    assert_int_equal(api_key_add(path, "the first", key[0], &err), TY_OK);
    assert_int_equal(stat(path, &s), 0);
    assert_int_equal(s.st_mode & 0777, 0600);
    assert_int_equal(api_key_add(path, "", key[1], &err), TY_OK);
    assert_string_not_equal(key[0], key[1]);
    assert_int_equal(strlen(key[0]), strlen("tyto-") + 43);
    assert_true(allows(path, key[0]) && allows(path, key[1]));
    assert_false(allows(path, "tyto-another"));
    assert_int_equal(ty_file_read(path, 1 << 16, &text, &size, &err), TY_OK);
    assert_null(strstr(text, key[0] + strlen("tyto-")));
    assert_non_null(strstr(text, "# the first\nsha256:"));
    free(text);
}

static void line_without_an_end_stays_a_line_of_its_own(void **state) {
    (void)state;
    const char *path = test_path("%s/open.keys", test_temp_dir());
    char key[API_KEY_TEXT];
    ty_err err;
    assert_int_equal(ty_file_write_atomic(path, "by-hand", 7, &err), TY_OK);
    assert_int_equal(api_key_add(path, "", key, &err), TY_OK);
    assert_true(allows(path, "by-hand") && allows(path, key));
    auth *a;
    assert_int_equal(auth_create(&a, path, &err), TY_OK);
    assert_int_equal(auth_plain_keys(a), 1);
    auth_destroy(&a);
}

static void what_cannot_be_is_refused(void **state) {
    (void)state;
    char key[API_KEY_TEXT];
    ty_err err;
    const char *path = test_path("%s/none/api.keys", test_temp_dir());
    assert_int_equal(api_key_add(path, "", key, &err), TY_EIO);
    assert_int_equal(api_key_add(path, "two\nlines", key, &err), TY_EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_open_the_gateway_and_are_not_in_the_file),
        cmocka_unit_test(line_without_an_end_stays_a_line_of_its_own),
        cmocka_unit_test(what_cannot_be_is_refused),
    };
    return cmocka_run_group_tests_name("api_key", tests, NULL, NULL);
}
