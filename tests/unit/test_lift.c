/* lift.h: what is lifted, what stays, and that nothing else changes. */
#include "tests/support/ty_test.h"

#include "services/gateway/lift.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "data:" and n letters; free it. */
static char *url(size_t n) {
    char *p = malloc(n + 6);
    assert_non_null(p);
    memcpy(p, "data:", 5);
    memset(p + 5, 'A', n);
    p[n + 5] = '\0';
    return p;
}

static char *text(const char *format, const char *a, const char *b) {
    size_t n = strlen(format) + strlen(a) + strlen(b) + 1;
    char *p = malloc(n);
    assert_non_null(p);
    char *out = p;
    for (const char *f = format; *f; f++) {
        const char *s = *f == '1' ? a : *f == '2' ? b : NULL;
        if (s) {
            memcpy(out, s, strlen(s));
            out += strlen(s);
        } else {
            *out++ = *f;
        }
    }
    *out = '\0';
    return p;
}

static void lift_takes_large_data_urls_out(void **state) {
    (void)state;
    char *a = url(LIFT_MIN_BYTES), *b = url(3 * LIFT_MIN_BYTES);
    char *body = text("{\"x\": [\"1\", \"q\\\"\\\\\", \"2\"], \"y\": \"z\"}", a, b), rest[512];
    lift l;
    assert_int_equal(lift_init(&l, body, strlen(body), NULL), TY_OK);
    assert_int_equal(l.n, 2);
    snprintf(rest, sizeof(rest),
             "{\"x\": [\"lifted:%s:0\", \"q\\\"\\\\\", \"lifted:%s:1\"], \"y\": \"z\"}", l.secret,
             l.secret);
    assert_int_equal(l.len, strlen(rest));
    assert_memory_equal(l.json, rest, l.len);
    char name[LIFT_NAME_BYTES];
    snprintf(name, sizeof(name), "lifted:%s:1", l.secret);
    lift_url u = lift_find(&l, name);
    assert_int_equal(u.len, strlen(b));
    assert_memory_equal(u.bytes, b, u.len);
    u = lift_find(&l, "lifted:00:1"); /* not ours */
    assert_string_equal(u.bytes, "lifted:00:1");
    lift_clear(&l);
    free(body);
    free(a);
    free(b);
}

static void lift_leaves_the_rest_alone(void **state) {
    (void)state;
    char *small = url(LIFT_MIN_BYTES / 2), *large = url(LIFT_MIN_BYTES);
    large[20] = '\\'; /* an escape: the parser's */
    char *bodies[] = {text("{\"x\": \"1\"}", small, ""),
                      text("{\"x\": \"1\"}", large, ""),
                      text("\"x", "", ""),
                      text("", "", ""),
                      text("\\\"data:", "", ""),
                      text("\"1", small, "")};
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        lift l;
        assert_int_equal(lift_init(&l, bodies[i], strlen(bodies[i]), NULL), TY_OK);
        assert_int_equal(l.n, 0);
        assert_ptr_equal(l.json, bodies[i]);
        assert_int_equal(l.len, strlen(bodies[i]));
        lift_clear(&l);
        free(bodies[i]);
    }
    free(small);
    free(large);
}

static void lift_has_an_end(void **state) {
    (void)state;
    size_t one = LIFT_MIN_BYTES + 8, n = LIFT_MAX + 5;
    char *body = malloc(n * one + 1), *u = url(LIFT_MIN_BYTES - 5), *p = body;
    assert_non_null(body);
    for (size_t i = 0; i < n; i++) p += sprintf(p, "\"%s\",", u);
    lift l;
    assert_int_equal(lift_init(&l, body, strlen(body), NULL), TY_OK);
    assert_int_equal(l.n, LIFT_MAX);
    assert_non_null(strstr(l.json, u)); /* the others are still there */
    lift_clear(&l);
    free(body);
    free(u);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lift_takes_large_data_urls_out),
        cmocka_unit_test(lift_leaves_the_rest_alone),
        cmocka_unit_test(lift_has_an_end),
    };
    return cmocka_run_group_tests_name("lift", tests, NULL, NULL);
}
