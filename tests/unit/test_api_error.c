/* api_error.h, json_text.h: what a client is told. */
#include "tests/support/ty_test.h"

#include "services/gateway/api_error.h"
#include "services/gateway/json_text.h"

#include <string.h>

static void api_error_knows_every_status(void **state) {
    (void)state;
    for (int s = TY_OK + 1; s < TY_STATUS_COUNT; s++) {
        api_error e;
        api_error_set(&e, (ty_status)s, "", "what", NULL);
        assert_in_range(e.http, 400, 599);
        if (s != TY_EINTERNAL) assert_string_not_equal(e.code, "internal_error");
        assert_memory_equal(e.message, "what", 4);
    }
}

static void api_error_names_what_the_store_refused(void **state) {
    (void)state;
    static const struct {
        ty_status st;
        const char *what;
        int http;
        const char *code;
    } want[] = {{TY_ENOTFOUND, "conversation", 404, "conversation_not_found"},
                {TY_ENOTFOUND, "file", 404, "file_not_found"},
                {TY_EEXIST, "conversation", 409, "conversation_busy"},
                {TY_ECANCELED, "conversation", 409, "conversation_busy"},
                {TY_ELIMIT, "file", 403, "quota_exceeded"},
                {TY_EUNAVAILABLE, "file", 503, "store_unavailable"},
                {TY_EIO, "conversation", 503, "store_unavailable"},
                {TY_EOVERLOAD, "conversation", 503, "store_unavailable"},
                {TY_EINVAL, "conversation", 400, "invalid_value"},
                {TY_EINTERNAL, "conversation", 500, "internal_error"}};
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        api_error e;
        api_error_store(&e, want[i].st, want[i].what, "text", "p");
        assert_int_equal(e.http, want[i].http);
        assert_string_equal(e.code, want[i].code);
        assert_memory_equal(e.message, "text", 4);
        assert_int_equal(e.retry_after_s > 0, want[i].http == 503);
    }
}

static void api_error_tells_causes_apart(void **state) {
    (void)state;
    static const struct {
        ty_status st;
        const char *stage;
        int http;
        const char *code;
    } want[] = {{TY_EIMAGE, "preprocess", 400, "invalid_image"},
                {TY_ELIMIT, "preprocess", 400, "image_too_large"},
                {TY_EUNSUPPORTED, "preprocess", 400, "unsupported_image"},
                {TY_ECONTEXT, "decoder", 400, "context_length_exceeded"},
                {TY_ETIMEOUT, "", 504, "timeout"},
                {TY_EUNAVAILABLE, "vit", 503, "unavailable"},
                {TY_EOVERLOAD, NULL, 503, "overloaded"},
                {TY_ECONTRACT, "", 503, "pipeline_contract"},
                {TY_EINTERNAL, "vit", 500, "internal_error"}};
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        api_error e;
        api_error_set(&e, want[i].st, want[i].stage, "text", "p");
        assert_int_equal(e.http, want[i].http);
        assert_string_equal(e.code, want[i].code);
        assert_int_equal(e.retry_after_s != 0, want[i].http == 503);
    }
}

static void api_error_json_has_openais_shape(void **state) {
    (void)state;
    api_error e;
    api_error_make(&e, 404, "model_not_found", NULL, "no \"x\" \xff");
    json_t *j = api_error_json(&e);
    json_t *w = json_loads("{\"error\":{\"message\":\"no \\\"x\\\" \\ufffd\",\"type\":"
                           "\"not_found_error\",\"param\":null,\"code\":\"model_not_found\"}}",
                           0, NULL);
    assert_true(json_equal(j, w));
    json_decref(j);
    json_decref(w);
}

static void json_text_replaces_what_is_no_utf8(void **state) {
    (void)state;
    static const struct {
        const char *in, *out;
    } want[] = {{"", ""},
                {"a\xc3\xa4\xe2\x82\xac\xf0\x9f\xa6\x89", "a\xc3\xa4\xe2\x82\xac\xf0\x9f\xa6\x89"},
                {"\xc3", "\xef\xbf\xbd"},
                {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},                 /* overlong */
                {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* surrogate */
                {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
                {"x\xe2\x82y", "x\xef\xbf\xbd\xef\xbf\xbdy"}};
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        json_t *s = json_text(want[i].in, strlen(want[i].in));
        assert_non_null(s);
        assert_string_equal(json_string_value(s), want[i].out);
        json_decref(s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(api_error_knows_every_status),
        cmocka_unit_test(api_error_tells_causes_apart),
        cmocka_unit_test(api_error_names_what_the_store_refused),
        cmocka_unit_test(api_error_json_has_openais_shape),
        cmocka_unit_test(json_text_replaces_what_is_no_utf8),
    };
    return cmocka_run_group_tests_name("api_error", tests, NULL, NULL);
}
