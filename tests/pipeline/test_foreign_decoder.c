/* test_foreign_decoder.c - an ordinary LLaMA file, made elsewhere, as the decoder behind mPLUG-Owl's vision: it answers
 * when its width fits, and is refused with both widths when not. */
#include "tests/support/process.h"
#include "tests/support/service.h"
#include "tests/support/toy_llama.h"
#include "tests/support/ty_test.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ARG(x) ((char *)(x))

/* v1-micro's abstractor gives rows of 48. */
enum { WIDTH = 48, OTHER_WIDTH = 32 };

/* A pipeline of v1-micro's vision and a toy LLaMA with shared K/V heads; its directory, borrowed. */
static const char *mixed(const char *name, int n_head) {
    static char dir[512];
    const char *micro = test_import("v1-micro", "micro", NULL);
    toy_llama t = toy_llama_default();
    t.n_head = n_head;
    t.context = 512;
    snprintf(dir, sizeof dir, "%s/%s", test_temp_dir(), name);
    assert_int_equal(mkdir(dir, 0755), 0);
    toy_llama_write(&t, test_path("%s/ordinary.gguf", dir));
    FILE *f = fopen(test_path("%s/pipeline.json", dir), "w");
    assert_non_null(f);
    fprintf(f,
            "{\"format\": \"tyto-pipeline\", \"version\": 1, \"family\": \"mplug_owl_v1\", "
            "\"stages\": {\"preprocess\": \"%s/preprocess.gguf\", \"vit\": \"%s/vit.gguf\", "
            "\"abstractor\": \"%s/abstractor.gguf\", \"decoder\": \"ordinary.gguf\"}}",
            micro, micro, micro);
    assert_int_equal(fclose(f), 0);
    return dir;
}

static const char *photo(void) {
    return test_path("%s/images/photo_47.jpg", test_golden_dir());
}

static test_output run(const char *pipeline) {
    return TEST_RUN(ARG(test_bin("tyto")), ARG("run"), ARG("--pipeline"), ARG(pipeline),
                    ARG("--image"), ARG(photo()), ARG("--prompt"), ARG("What is this?"),
                    ARG("--max-tokens"), ARG("12"), ARG("--quiet"));
}

static void an_ordinary_llama_answers_about_a_picture(void **state) {
    (void)state;
    const char *pipeline = mixed("fits", WIDTH / 8);
    test_output o = run(pipeline);
    if (o.exit_code != 0) fail_msg("%s", o.err);
    o.out[o.out_size - 1] = '\0'; /* the newline */
    test_service s = test_service_up(pipeline, NULL);
    char *body = test_request("fits", "What is this?", photo(), "\"max_tokens\": 12");
    test_question q = {.body = body};
    test_ask_all(&s, &q, 1);
    if (q.status != 200) fail_msg("%d: %s", q.status, q.raw);
    assert_string_equal(q.text, o.out);
    test_question_clear(&q);
    free(body);
    test_service_down(&s);
    test_output_clear(&o);
}

static void names_both(const char *text) {
    if (!text || !strstr(text, "48") || !strstr(text, "32") || !strstr(text, "abstractor"))
        fail_msg("\"%s\" does not name both widths", text ? text : "");
}

/* What `tyto status` says that the service waits for. */
static bool waits_for_widths(const test_service *s) {
    json_t *status = test_service_status(s);
    const char *why = json_string_value(json_object_get(status, "waiting_for"));
    bool yes = why && strstr(why, "abstractor gives");
    if (yes) names_both(why);
    json_decref(status);
    return yes;
}

/* The service says so as soon as both workers have said hello, and refuses the question. */
static void check_service_refuses(const char *pipeline) {
    char address[32];
    test_service s = {.port = test_free_port()};
    snprintf(address, sizeof address, "127.0.0.1:%d", s.port);
    snprintf(s.state, sizeof s.state, "%s/state", test_temp_dir());
    snprintf(s.url, sizeof s.url, "http://%s", address);
    pid_t up =
        test_spawn((char *[]){ARG(test_bin("tyto")), ARG("up"), ARG("--pipeline"), ARG(pipeline),
                              ARG("--listen"), address, ARG("--state"), s.state, NULL},
                   NULL);
    int tries = 0;
    while (!waits_for_widths(&s) && ++tries < 400) test_nap_ms(50);
    assert_true(tries < 400);
    char *body = test_request("other", "What is this?", photo(), "\"max_tokens\": 12");
    test_question q = {.body = body};
    test_ask_all(&s, &q, 1);
    assert_int_equal(q.status, 503);
    assert_non_null(strstr(q.raw, "\"pipeline_contract\""));
    names_both(q.raw);
    test_question_clear(&q);
    free(body);
    test_stop(up, SIGTERM, 30);
}

static void a_width_that_does_not_fit_is_refused_with_both_numbers(void **state) {
    (void)state;
    const char *pipeline = mixed("other", OTHER_WIDTH / 8);
    test_output o = run(pipeline);
    assert_int_equal(o.exit_code, 1);
    names_both(o.err);
    test_output_clear(&o);
    check_service_refuses(pipeline);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_ordinary_llama_answers_about_a_picture),
        cmocka_unit_test(a_width_that_does_not_fit_is_refused_with_both_numbers),
    };
    return cmocka_run_group_tests_name("foreign_decoder", tests, NULL, NULL);
}
