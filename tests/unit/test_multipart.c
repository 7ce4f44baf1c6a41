/* multipart.h: forms as clients send them, and every cut of one. */
#include "tests/support/ty_test.h"

#include "services/gateway/multipart.h"

#include <stdlib.h>
#include <string.h>

static const char type[] = "multipart/form-data; boundary=abc";
static const char form[] =
    "--abc\r\n"
    "Content-Disposition: form-data; name=\"purpose\"\r\n\r\n"
    "vision\r\n"
    "--abc\r\n"
    "content-disposition: form-data; name=\"file\"; filename=\"a \\\"b\\\".jpg\"\r\n"
    "Content-Type: image/jpeg\r\n\r\n"
    "\xff\xd8\r\n--ab\r\n\r\n"
    "--abc--\r\n";

static void form_is_read_field_by_field(void **state) {
    (void)state;
    multipart m;
    ty_err err = {0};
    assert_true(multipart_is(type));
    assert_false(multipart_is("application/json"));
    assert_false(multipart_is(NULL));
    assert_int_equal(multipart_parse(&m, type, form, sizeof(form) - 1, &err), TY_OK);
    assert_int_equal(m.n, 2);
    const multipart_field *purpose = multipart_find(&m, "purpose");
    const multipart_field *file = multipart_find(&m, "file");
    assert_int_equal(purpose->size, 6);
    assert_memory_equal(purpose->data, "vision", 6);
    assert_string_equal(purpose->filename, "");
    assert_string_equal(file->filename, "a \"b\".jpg");
    assert_int_equal(file->size, 10); /* what only looks like a boundary is data */
    assert_memory_equal(file->data, "\xff\xd8\r\n--ab\r\n", 10);
    assert_null(multipart_find(&m, "other"));
    assert_int_equal(multipart_parse(&m, "multipart/form-data; x=1; boundary=\"abc\"", form,
                                     sizeof(form) - 1, &err),
                     TY_OK);
}

static void every_cut_is_refused(void **state) {
    (void)state;
    multipart m;
    ty_err err = {0};
    size_t whole = sizeof(form) - 1 - 2; /* the last line's end may be missing */
    for (size_t n = 0; n < whole; n++) {
        char *cut = malloc(n ? n : 1); /* of its own size, for the sanitizer */
        assert_non_null(cut);
        memcpy(cut, form, n);
        assert_int_equal(multipart_parse(&m, type, cut, n, &err), TY_EINVAL);
        free(cut);
    }
}

static void wrong_forms_are_refused(void **state) {
    (void)state;
    multipart m;
    ty_err err = {0};
    static const char too_long[] = "multipart/form-data; boundary="
                                   "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                                   "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const char *const types[] = {"multipart/form-data", "multipart/form-data; boundary=",
                                 "multipart/form-data; boundary=xyz", too_long};
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        assert_int_equal(multipart_parse(&m, types[i], form, sizeof(form) - 1, &err), TY_EINVAL);
    static const char nameless[] = "--abc\r\nContent-Type: text/plain\r\n\r\nx\r\n--abc--\r\n";
    assert_int_equal(multipart_parse(&m, type, nameless, sizeof(nameless) - 1, &err), TY_EINVAL);
    char many[4096] = "";
    for (int i = 0; i <= MULTIPART_FIELDS; i++)
        strcat(many, "--abc\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n");
    strcat(many, "--abc--");
    assert_int_equal(multipart_parse(&m, type, many, strlen(many), &err), TY_EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(form_is_read_field_by_field),
        cmocka_unit_test(every_cut_is_refused),
        cmocka_unit_test(wrong_forms_are_refused),
    };
    return cmocka_run_group_tests_name("multipart", tests, NULL, NULL);
}
