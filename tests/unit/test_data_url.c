/* data_url.h: what is taken, what is refused and how it is named. */
#include "tests/support/ty_test.h"

#include "services/gateway/data_url.h"

#include <stdlib.h>
#include <string.h>

static void good(const char *url, const char *want, size_t n) {
    uint8_t *p = NULL;
    size_t size = 0;
    ty_err e = {0};
    assert_int_equal(data_url_decode(url, strlen(url), false, 100, &p, &size, &e), TY_OK);
    assert_int_equal(size, n);
    assert_memory_equal(p, want, n);
    free(p);
}

static void bad(const char *url, size_t max, ty_status want, const char *says) {
    uint8_t *p = (uint8_t *)1;
    size_t size = 1;
    ty_err e = {0};
    assert_int_equal(data_url_decode(url, strlen(url), false, max, &p, &size, &e), want);
    assert_null(p);
    if (!strstr(e.text, says)) fail_msg("\"%s\" does not say \"%s\"", e.text, says);
}

static void data_url_decodes_every_padding(void **state) {
    (void)state;
    good("data:image/png;base64,YWJj", "abc", 3);
    good("data:image/jpeg;base64,YWI=", "ab", 2);
    good("DATA:IMAGE/x;charset=utf-8;BASE64,YQ==", "a", 1);
    good("data:image/webp;base64,AAD/+A==", "\0\0\xff\xf8", 4);
}

static void data_url_refuses_what_is_not_base64(void **state) {
    (void)state;
    bad("data:image/png;base64,YW\nJj", 100, TY_EINVAL, "byte 2 of the base64 (0x0a)");
    bad("data:image/png;base64,YW-_", 100, TY_EINVAL, "byte 2");
    bad("data:image/png;base64,YWJjY", 100, TY_EINVAL, "multiple of 4");
    bad("data:image/png;base64,YQ=", 100, TY_EINVAL, "multiple of 4");
    bad("data:image/png;base64,Y===", 100, TY_EINVAL, "byte 3");
    bad("data:image/png;base64,YQ==YQ==", 100, TY_EINVAL, "byte 4");
    bad("data:image/png;base64,", 100, TY_EINVAL, "no data");
    bad("data:image/png,YWJj", 100, TY_EINVAL, "not base64");
    bad("data:image/png;base64", 100, TY_EINVAL, "comma");
}

static void data_url_refuses_other_schemes_and_types(void **state) {
    (void)state;
    bad("https://example.org/a.png", 100, TY_EUNSUPPORTED, "not fetched");
    bad("HTTP://example.org/a.png", 100, TY_EUNSUPPORTED, "not fetched");
    bad("file:///etc/passwd", 100, TY_EUNSUPPORTED, "no data URL");
    bad("", 100, TY_EUNSUPPORTED, "no data URL");
    bad("data:text/plain;base64,YWJj", 100, TY_EUNSUPPORTED, "text/plain");
    bad("data:;base64,YWJj", 100, TY_EUNSUPPORTED, "media type");
}

static void data_url_stops_at_the_limit(void **state) {
    (void)state;
    good("data:image/png;base64,YWJj", "abc", 3);
    bad("data:image/png;base64,YWJj", 2, TY_ELIMIT, "at most 2");
    bad("data:image/png;base64,YWJjYWJjYWJjYWJj", 2, TY_ELIMIT, "at most 2");
}

static void a_video_may_be_video_or_image(void **state) {
    (void)state;
    static const struct {
        const char *url;
        bool video;
        ty_status want;
    } all[] = {{"data:video/mp4;base64,AAAA", true, TY_OK},
               {"data:image/gif;base64,AAAA", true, TY_OK},
               {"data:audio/ogg;base64,AAAA", true, TY_EUNSUPPORTED},
               {"http://a/b.mp4", true, TY_EUNSUPPORTED},
               {"data:video/mp4;base64,AAAA", false, TY_EUNSUPPORTED}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        uint8_t *p = NULL;
        size_t size;
        ty_err err = {0};
        assert_int_equal(
            data_url_decode(all[i].url, strlen(all[i].url), all[i].video, 100, &p, &size, &err),
            all[i].want);
        free(p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_video_may_be_video_or_image),
        cmocka_unit_test(data_url_decodes_every_padding),
        cmocka_unit_test(data_url_refuses_what_is_not_base64),
        cmocka_unit_test(data_url_refuses_other_schemes_and_types),
        cmocka_unit_test(data_url_stops_at_the_limit),
    };
    return cmocka_run_group_tests_name("data_url", tests, NULL, NULL);
}
