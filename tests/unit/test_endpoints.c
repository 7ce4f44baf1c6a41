/* The list of brokers: what is taken, what is refused. */
#include "tests/support/ty_test.h"

#include "common/wire/endpoints.h"

#include <string.h>

static void list_is_split_at_commas(void **state) {
    (void)state;
    ty_endpoints e;
    ty_err err;
    assert_int_equal(ty_endpoints_parse(&e, "ipc:///a.sock", &err), TY_OK);
    assert_int_equal(e.n, 1);
    assert_string_equal(e.item[0], "ipc:///a.sock");
    ty_endpoints_clear(&e);
    assert_int_equal(ty_endpoints_parse(&e, " ipc:///a.sock ,tcp://[::1]:7,\ttcp://h:1 ", &err),
                     TY_OK);
    assert_int_equal(e.n, 3);
    assert_string_equal(e.item[0], "ipc:///a.sock");
    assert_string_equal(e.item[1], "tcp://[::1]:7");
    assert_string_equal(e.item[2], "tcp://h:1");
    ty_endpoints_clear(&e);
}

static void list_is_refused(const char *text, ty_status want, const char *says) {
    ty_endpoints e;
    ty_err err = {0};
    assert_int_equal(ty_endpoints_parse(&e, text, &err), want);
    if (!strstr(err.text, says)) fail_msg("\"%s\" does not say \"%s\"", err.text, says);
    ty_endpoints_clear(&e);
}

static void empty_and_double_and_too_many_are_refused(void **state) {
    (void)state;
    list_is_refused(NULL, TY_EINVAL, "no broker");
    list_is_refused("", TY_EINVAL, "no broker");
    list_is_refused(" ", TY_EINVAL, "empty");
    list_is_refused("ipc:///a,", TY_EINVAL, "empty");
    list_is_refused("ipc:///a,,ipc:///b", TY_EINVAL, "empty");
    list_is_refused("ipc:///a,ipc:///b, ipc:///a", TY_EINVAL, "ipc:///a stands twice");
    list_is_refused("a,b,c,d,e,f,g,h,i", TY_ELIMIT, "at most 8");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(list_is_split_at_commas),
        cmocka_unit_test(empty_and_double_and_too_many_are_refused),
    };
    return cmocka_run_group_tests_name("endpoints", tests, NULL, NULL);
}
