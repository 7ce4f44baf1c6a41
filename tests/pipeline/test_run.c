/* test_run.c - `tyto run` and `tyto chat`: the pipeline in one process, from the command line. */
#include "tests/support/process.h"
#include "tests/support/service.h"
#include "tests/support/ty_test.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARG(x) ((char *)(x))
#define RUN(...)                                                                                   \
    TEST_RUN(ARG(test_bin("tyto")), ARG("run"), ARG("--pipeline"), ARG(pipeline), __VA_ARGS__)

static const char *pipeline, *photo;

static int import_once(void **state) {
    (void)state;
    static char path[512];
    pipeline = test_import("v1-micro", "micro", NULL);
    snprintf(path, sizeof(path), "%s/images/photo_47.jpg", test_golden_dir());
    photo = path;
    return 0;
}

static char *text_of(test_output o) {
    if (o.exit_code != 0) fail_msg("exit code %d: %s", o.exit_code, o.err);
    free(o.err);
    return o.out;
}

static void run_prints_the_answer_alone_when_asked(void **state) {
    (void)state;
    test_output o = RUN(ARG("--image"), ARG(photo), ARG("--prompt"), ARG("What is this?"),
                        ARG("--max-tokens"), ARG("12"));
    assert_int_equal(o.exit_code, 0);
    for (const char *const *w =
             (const char *const[]){"preprocess", "vit", "abstractor", "prefill", "decode", NULL};
         *w; w++)
        assert_non_null(strstr(o.err, *w));
    char *json = text_of(RUN(ARG("--image"), ARG(photo), ARG("--prompt"), ARG("What is this?"),
                             ARG("--max-tokens"), ARG("12"), ARG("--json")));
    json_t *all = json_loads(json, 0, NULL);
    assert_non_null(all);
    o.out[o.out_size - 1] = '\0'; /* the newline */
    assert_string_equal(o.out, json_string_value(json_object_get(all, "text")));
    json_t *usage = json_object_get(all, "usage");
    assert_int_equal(json_integer_value(json_object_get(usage, "completion_tokens")), 12);
    assert_true(json_integer_value(json_object_get(usage, "visual_tokens")) > 1);
    json_decref(all);
    free(json);
    test_output_clear(&o);
}

static void raw_equals_prompt_when_it_is_the_template(void **state) {
    (void)state;
    char *a = text_of(RUN(ARG("--image"), ARG(photo), ARG("--prompt"), ARG("Why?"), ARG("--system"),
                          ARG("Be kind."), ARG("--quiet"), ARG("--max-tokens"), ARG("16")));
    char *b = text_of(RUN(ARG("--image"), ARG(photo), ARG("--raw"),
                          ARG("Be kind.\nHuman: <image>\nHuman: Why?\nAI: "), ARG("--quiet"),
                          ARG("--max-tokens"), ARG("16")));
    assert_string_equal(a, b);
    free(a);
    free(b);
}

static void same_seed_same_answer_when_sampling(void **state) {
    (void)state;
    char *out[3];
    static const char *const seeds[] = {"7", "7", "8"};
    for (int i = 0; i < 3; i++)
        out[i] = text_of(RUN(ARG("--prompt"), ARG("Hello"), ARG("--temperature"), ARG("1.5"),
                             ARG("--seed"), ARG(seeds[i]), ARG("--quiet"), ARG("--max-tokens"),
                             ARG("24"), ARG("--ignore-eos")));
    assert_string_equal(out[0], out[1]);
    assert_string_not_equal(out[0], out[2]);
    for (int i = 0; i < 3; i++) free(out[i]);
}

static void check_failure(test_output o, int code, const char *says) {
    if (o.exit_code != code || !strstr(o.err, says))
        fail_msg("exit code %d, want %d; stderr \"%s\", want \"%s\"", o.exit_code, code, o.err,
                 says);
    assert_int_equal(o.out_size, 0);
    test_output_clear(&o);
}

static void run_fails_and_names_the_fault_when_the_input_is_bad(void **state) {
    (void)state;
    const char *cut = test_path("%s/cut.jpg", test_temp_dir());
    FILE *f = fopen(cut, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite("\xff\xd8\xff\xe0junk", 1, 8, f), 8);
    assert_int_equal(fclose(f), 0);
    check_failure(RUN(ARG("--image"), ARG(cut), ARG("--prompt"), ARG("x")), 1, cut);
    check_failure(RUN(ARG("--image"), ARG("no.jpg"), ARG("--prompt"), ARG("x")), 1, "no.jpg");
    check_failure(RUN(ARG("--image"), ARG(photo), ARG("--raw"), ARG("no placeholder")), 1,
                  "<image>");
    check_failure(RUN(ARG("--prompt"), ARG("x"), ARG("--template"), ARG("zzz")), 1, "zzz");
    check_failure(RUN(ARG("--prompt"), ARG("x"), ARG("--context"), ARG("8")), 1, "context");
}

static void run_is_a_usage_error_when_the_options_are_wrong(void **state) {
    (void)state;
    check_failure(RUN(ARG("--image"), ARG(photo)), 2, "--prompt");
    check_failure(RUN(ARG("--prompt"), ARG("x"), ARG("--raw"), ARG("y")), 2, "--raw");
    check_failure(RUN(ARG("--prompt"), ARG("x"), ARG("--top-p"), ARG("1.5")), 2, "--top-p");
    check_failure(RUN(ARG("--prompt"), ARG("x"), ARG("--nonsense")), 2, "nonsense");
    check_failure(RUN(ARG("--prompt"), ARG("x"), ARG("--compute"), ARG("f8")), 2, "--compute");
    test_output o = TEST_RUN(ARG(test_bin("tyto")), ARG("nonsense"));
    assert_int_equal(o.exit_code, 2);
    test_output_clear(&o);
    o = TEST_RUN(ARG(test_bin("tyto")), ARG("--version"));
    assert_int_equal(o.exit_code, 0);
    assert_non_null(strstr(o.out, "tyto "));
    test_output_clear(&o);
}

/* Two turns in one conversation; the first is what `tyto run` says, a bad picture does not end it. */
static void chat_answers_line_by_line_when_stdin_is_no_terminal(void **state) {
    (void)state;
    char input[1024];
    snprintf(input, sizeof(input), "/image %s\nWhat is this?\n/image no.jpg\nWhy?\n/reset\nHello\n",
             photo);
    char *argv[] = {ARG(test_bin("tyto")), ARG("chat"), ARG("--pipeline"),   ARG(pipeline),
                    ARG("--max-tokens"),   ARG("6"),    ARG("--ignore-eos"), NULL};
    test_output o = test_run(argv, input, strlen(input), 60);
    assert_int_equal(o.exit_code, 0);
    assert_non_null(strstr(o.err, "no.jpg"));
    char *first = text_of(RUN(ARG("--image"), ARG(photo), ARG("--prompt"), ARG("What is this?"),
                              ARG("--quiet"), ARG("--max-tokens"), ARG("6"), ARG("--ignore-eos")));
    char *last = text_of(RUN(ARG("--prompt"), ARG("Hello"), ARG("--quiet"), ARG("--max-tokens"),
                             ARG("6"), ARG("--ignore-eos")));
    assert_int_equal(strncmp(o.out, first, strlen(first)), 0);
    size_t n = strlen(last);
    assert_true(o.out_size > strlen(first) + n);
    assert_string_equal(o.out + o.out_size - n, last);
    free(first);
    free(last);
    test_output_clear(&o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(run_prints_the_answer_alone_when_asked),
        cmocka_unit_test(raw_equals_prompt_when_it_is_the_template),
        cmocka_unit_test(same_seed_same_answer_when_sampling),
        cmocka_unit_test(run_fails_and_names_the_fault_when_the_input_is_bad),
        cmocka_unit_test(run_is_a_usage_error_when_the_options_are_wrong),
        cmocka_unit_test(chat_answers_line_by_line_when_stdin_is_no_terminal),
    };
    return cmocka_run_group_tests(tests, import_once, NULL);
}
