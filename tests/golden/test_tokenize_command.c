/*
 * `tyto tokenize` as a person runs it, on the pipeline that import makes of v1-micro: the reference's
 * vectors in every mode, bytes that are no text, and its exit codes.
 */
#include "tests/support/ty_test.h"

#include "tests/support/process.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *decoder; /* decoder.gguf */

static char *arg(const char *text) {
    return (char *)(uintptr_t)text;
}

static int import_once(void **state) {
    (void)state;
    static char path[4096];
    const char *out = test_path("%s/p", test_temp_dir());
    test_output o = TEST_RUN(arg(test_bin("tyto")), arg("import"),
                             arg(test_path("%s/v1-micro", test_golden_dir())), arg(out));
    if (o.exit_code) print_error("%s", o.err);
    int rc = o.exit_code;
    test_output_clear(&o);
    snprintf(path, sizeof path, "%s/decoder.gguf", out);
    decoder = path;
    return rc;
}

/* The ids that the command prints for `len` bytes. */
static json_t *run(const char *mode, bool bos, const void *text, size_t len) {
    char *argv[] = {arg(test_bin("tyto")),
                    arg("tokenize"),
                    arg("--model"),
                    arg(decoder),
                    arg("--mode"),
                    arg(mode),
                    bos ? arg("--bos") : NULL,
                    NULL};
    test_output o = test_run(argv, text, len, 60);
    if (o.exit_code) fail_msg("exit %d: %s", o.exit_code, o.err);
    json_t *ids = json_loads(o.out, 0, NULL);
    assert_true(json_is_array(ids));
    assert_string_equal(o.err, "");
    test_output_clear(&o);
    return ids;
}

static void check(const json_t *line, const char *key, const char *mode, bool bos) {
    const char *hex = json_string_value(json_object_get(line, "utf8_hex"));
    json_t *want = json_object_get(line, key);
    unsigned char text[4096];
    size_t len = strlen(hex) / 2;
    if (!want || len > sizeof text) return;
    for (size_t i = 0; i < len; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        text[i] = (unsigned char)byte;
    }
    json_t *got = run(mode, bos, text, len);
    if (!json_equal(got, want)) fail_msg("%s, mode %s: other ids", hex, mode);
    json_decref(got);
}

static void prints_the_golden_ids(void **state) {
    (void)state;
    FILE *f =
        fopen(test_path("%s/tokenizer/tokenizer_vectors_small.jsonl", test_golden_dir()), "r");
    assert_non_null(f);
    char *text = NULL;
    size_t cap = 0;
    int n = 0;
    for (ssize_t len; (len = getline(&text, &cap, f)) > 0; n++) {
        json_t *line = json_loadb(text, (size_t)len, JSON_ALLOW_NUL, NULL);
        assert_non_null(line);
        if (json_object_get(line, "utf8_hex")) {
            check(line, "ids_spm", "spm", false);
            check(line, "ids_hf_slow", "slow", false);
            check(line, "ids_hf_slow_bos", "slow", true);
            check(line, "ids_hf_fast", "fast", false);
        }
        json_decref(line);
    }
    assert_true(n > 20);
    free(text);
    fclose(f);
}

static void takes_nul_and_broken_bytes(void **state) {
    (void)state;
    json_t *ids = run("spm", true, "\0\n\xFF", 3);
    const int want[] = {1, -1, 3 + 0, 3 + '\n', 3 + 0xEF, 3 + 0xBF, 3 + 0xBD};
    assert_int_equal(json_array_size(ids), 7);
    for (size_t i = 0; i < 7; i++)
        if (want[i] >= 0) assert_int_equal(json_integer_value(json_array_get(ids, i)), want[i]);
    json_decref(ids);
}

static void exit_codes_tell_usage_from_failure(void **state) {
    (void)state;
    char *tyto = arg(test_bin("tyto")), *cmd = arg("tokenize");
    test_output o = TEST_RUN(tyto, cmd);
    assert_int_equal(o.exit_code, 2);
    test_output_clear(&o);
    o = TEST_RUN(tyto, cmd, arg("--model"), arg(decoder), arg("--mode"), arg("quick"));
    assert_int_equal(o.exit_code, 2);
    assert_string_equal(o.out, "");
    test_output_clear(&o);
    o = TEST_RUN(tyto, cmd, arg("--model"), arg("/nonexistent.gguf"));
    assert_int_equal(o.exit_code, 1);
    assert_non_null(strstr(o.err, "/nonexistent.gguf"));
    test_output_clear(&o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prints_the_golden_ids),
        cmocka_unit_test(takes_nul_and_broken_bytes),
        cmocka_unit_test(exit_codes_tell_usage_from_failure),
    };
    return cmocka_run_group_tests_name("tokenize command", tests, import_once, NULL);
}
