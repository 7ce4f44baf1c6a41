/*
 * test_up.c - `tyto up` with real processes: what it starts, that its answers are `tyto run`'s, what it
 * leaves behind.
 */
#include "tests/support/process.h"
#include "tests/support/service.h"
#include "tests/support/ty_test.h"

#include "common/base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARG(x) ((char *)(x))

static const char *const stages[] = {"broker", "gateway",    "preprocess",
                                     "vit",    "abstractor", "decoder"};
enum { N_STAGE = 6, N_STORE = 2, QUESTIONS = 8, ROUNDS = 20 };

static const char *pipeline; /* v1-micro, imported once */

static int import_once(void **state) {
    (void)state;
    pipeline = test_import("v1-micro", "micro", NULL);
    return 0;
}

static bool gone(pid_t pid) {
    for (int64_t until = ty_now_us() + 10000000; ty_now_us() < until;) {
        if (kill(pid, 0) != 0 && errno == ESRCH) return true;
        test_nap_ms(5);
    }
    return false;
}

/* Directory entries other than ".", "..", `but` and `but2`. */
static int entries_but(const char *dir, const char *but, const char *but2) {
    DIR *d = opendir(dir);
    int n = 0;
    if (!d) return 0;
    for (struct dirent *e; (e = readdir(d));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
             strcmp(e->d_name, but) != 0 && strcmp(e->d_name, but2) != 0;
    closedir(d);
    return n;
}

/* Pids of all processes of a service; returns how many. */
static int all_pids(const test_service *s, pid_t *pids, int room) {
    json_t *all = test_service_status(s), *p;
    size_t i;
    int n = 0;
    json_array_foreach(json_object_get(all, "processes"), i, p) {
        assert_true(n < room);
        pids[n++] = (pid_t)json_integer_value(json_object_get(p, "pid"));
    }
    json_decref(all);
    return n;
}

/* ---- what runs ---- */

static void status_lists_a_process_for_each_stage_when_up(void **state) {
    (void)state;
    test_service s = test_service_up(pipeline, (char *[]){ARG("--vit"), ARG("2"), NULL});
    json_t *all = test_service_status(&s), *p;
    int seen[N_STAGE] = {0};
    size_t i;
    json_array_foreach(json_object_get(all, "processes"), i, p) {
        const char *stage = json_string_value(json_object_get(p, "stage"));
        const char *model = json_string_value(json_object_get(p, "model"));
        for (int k = 0; k < N_STAGE; k++) {
            if (strcmp(stage, stages[k]) != 0) continue;
            seen[k]++;
            if (k >= 2) assert_string_equal(model, "micro");
        }
        assert_string_equal(json_string_value(json_object_get(p, "state")), "running");
        assert_int_equal(json_integer_value(json_object_get(p, "restarts")), 0);
        assert_int_equal(kill((pid_t)json_integer_value(json_object_get(p, "pid")), 0), 0);
    }
    for (int k = 0; k < N_STAGE; k++) assert_int_equal(seen[k], k == 3 ? 2 : 1);
    json_decref(all);
    test_service_down(&s);
}

static void down_leaves_only_data_and_logs_when_all_is_over(void **state) {
    (void)state;
    test_service s = test_service_up(pipeline, NULL);
    pid_t pids[32];
    int n = all_pids(&s, pids, 32);
    assert_int_equal(n, N_STAGE + N_STORE);
    test_output o = TEST_RUN(ARG(test_bin("tyto")), ARG("down"), ARG("--state"), s.state);
    assert_int_equal(o.exit_code, 0);
    test_output_clear(&o);
    assert_int_equal(test_stop(s.pid, 0, 10), 0);
    for (int i = 0; i < n; i++) assert_true(gone(pids[i]));
    assert_int_equal(entries_but(s.state, "log", "data"), 0);
    o = TEST_RUN(ARG(test_bin("tyto")), ARG("status"), ARG("--state"), s.state);
    assert_int_equal(o.exit_code, 1);
    assert_non_null(strstr(o.err, "not running"));
    test_output_clear(&o);
    o = TEST_RUN(ARG(test_bin("tyto")), ARG("down"), ARG("--state"), s.state);
    assert_int_equal(o.exit_code, 1);
    test_output_clear(&o);
}

static void children_die_when_the_supervisor_is_killed(void **state) {
    (void)state;
    test_service s = test_service_up(pipeline, NULL);
    pid_t pids[32];
    int n = all_pids(&s, pids, 32);
    assert_int_equal(test_stop(s.pid, SIGKILL, 10), -SIGKILL);
    for (int i = 0; i < n; i++) assert_true(gone(pids[i]));
    assert_null(test_service_status(&s));
    /* and the same directory serves again */
    char listen[64];
    snprintf(listen, sizeof(listen), "127.0.0.1:%d", test_free_port());
    test_output o = TEST_RUN(ARG(test_bin("tyto")), ARG("up"), ARG("--pipeline"), ARG(pipeline),
                             ARG("--state"), s.state, ARG("--listen"), listen, ARG("--detach"));
    if (o.exit_code != 0) print_error("%s%s", o.out, o.err);
    assert_int_equal(o.exit_code, 0);
    assert_non_null(strstr(o.out, listen));
    test_output_clear(&o);
    n = all_pids(&s, pids, 32);
    assert_int_equal(n, N_STAGE + N_STORE);
    o = TEST_RUN(ARG(test_bin("tyto")), ARG("down"), ARG("--state"), s.state);
    assert_int_equal(o.exit_code, 0);
    test_output_clear(&o);
    for (int i = 0; i < n; i++) assert_true(gone(pids[i]));
}

static void up_refuses_when_state_or_port_is_taken(void **state) {
    (void)state;
    test_service s = test_service_up(pipeline, NULL);
    char listen[64];
    snprintf(listen, sizeof(listen), "127.0.0.1:%d", s.port);
    test_output o = TEST_RUN(ARG(test_bin("tyto")), ARG("up"), ARG("--pipeline"), ARG(pipeline),
                             ARG("--state"), s.state, ARG("--listen"), listen);
    assert_int_equal(o.exit_code, 1);
    assert_non_null(strstr(o.err, "is in use by a running"));
    test_output_clear(&o);
    o = TEST_RUN(ARG(test_bin("tyto")), ARG("up"), ARG("--pipeline"), ARG(pipeline),
                 ARG("--temporary"), ARG("--listen"), listen);
    assert_int_equal(o.exit_code, 1);
    assert_non_null(strstr(o.err, "is taken by another program"));
    assert_non_null(strstr(o.err, "--listen"));
    test_output_clear(&o);
    test_service_down(&s);
}

static void up_says_what_the_log_says_when_a_stage_cannot_start(void **state) {
    (void)state;
    test_output o =
        TEST_RUN(ARG(test_bin("tyto")), ARG("up"), ARG("--pipeline"), ARG(pipeline), ARG("--state"),
                 ARG(test_path("%s/s", test_temp_dir())), ARG("--listen"),
                 ARG(test_path("127.0.0.1:%d", test_free_port())), ARG("--compute"), ARG("f8"));
    assert_int_equal(o.exit_code, 1);
    assert_non_null(strstr(o.err, "does not start"));
    assert_non_null(strstr(o.err, "compute"));
    test_output_clear(&o);
}

/* ---- what it answers ---- */

typedef struct {
    const char *text, *picture;
} question;

static const question questions[QUESTIONS] = {
    {"What is in this picture?", "photo_47.jpg"},
    {"Hello", NULL},
    {"Describe it.", "photo_48.jpg"},
    {"How many people are there?", "photo_9.jpg"},
    {"Tell me a story about a fox.", NULL},
    {"What colour is it?", "progressive_444.jpg"},
    {"Where was this taken?", "photo_9.jpg"},
    {"Why?", NULL},
};

static char *picture_path(const question *q) {
    return q->picture ? ARG(test_path("%s/images/%s", test_golden_dir(), q->picture)) : NULL;
}

/* What `tyto run` says; free() it. */
static char *run_text(const char *pipe, const question *q) {
    char *argv[20] = {
        ARG(test_bin("tyto")), ARG("run"),     ARG("--pipeline"),   ARG(pipe), ARG("--prompt"),
        ARG(q->text),          ARG("--quiet"), ARG("--max-tokens"), ARG("40"), ARG("--ignore-eos")};
    int n = 10;
    if (q->picture) {
        argv[n++] = ARG("--image");
        argv[n++] = picture_path(q);
    }
    test_output o = test_run(argv, NULL, 0, 60);
    if (o.exit_code != 0) fail_msg("tyto run: %s", o.err);
    assert_true(o.out_size > 0 && o.out[o.out_size - 1] == '\n');
    o.out[o.out_size - 1] = '\0';
    free(o.err);
    return o.out;
}

static void check_answer(const test_question *q, const char *want) {
    if (q->status != 200) fail_msg("status %d: %s", q->status, q->raw);
    assert_string_equal(q->text, want);
    assert_int_equal(q->finishes, 1);
    assert_true(json_number_value(json_object_get(q->timings, "wall_ms")) > 0);
}

static void check_receipt(const test_question *q, bool picture) {
    assert_int_equal(test_receipt_max(q->timings, "decoder", "attempt"), 1);
    for (int k = 2; k < 5; k++)
        assert_int_equal(test_receipt_max(q->timings, stages[k], "attempt"), picture ? 1 : 0);
}

/* All eight again and again, until batches are seen: that they meet is the machine's to say. */
static void check_together(const test_service *s, char **body, char **want) {
    int vision = 0, decoder = 0;
    for (int round = 0; round < ROUNDS && (vision < 2 || decoder < 2); round++) {
        test_question q[QUESTIONS] = {{0}};
        for (int i = 0; i < QUESTIONS; i++) q[i].body = body[i];
        test_ask_all(s, q, QUESTIONS);
        for (int i = 0; i < QUESTIONS; i++) {
            check_answer(&q[i], want[i]);
            check_receipt(&q[i], questions[i].picture != NULL);
            int v = test_receipt_max(q[i].timings, "vit", "batch");
            int d = test_receipt_max(q[i].timings, "decoder", "batch");
            vision = v > vision ? v : vision;
            decoder = d > decoder ? d : decoder;
            test_question_clear(&q[i]);
        }
    }
    assert_true(vision >= 2);
    assert_true(decoder >= 2);
}

static void answers_equal_run_when_alone_and_among_eight(const char *transport) {
    /* without the cache: each picture is computed again, in batches */
    test_service s = test_service_up(pipeline, (char *[]){ARG("--transport"), ARG(transport),
                                                          ARG("--cache-url"), ARG("none"), NULL});
    char *want[QUESTIONS], *body[QUESTIONS];
    for (int i = 0; i < QUESTIONS; i++) {
        const char *more = i % 2 ? "\"max_tokens\": 40, \"ignore_eos\": true"
                                 : "\"max_tokens\": 40, \"ignore_eos\": true, \"stream\": true";
        want[i] = run_text(pipeline, &questions[i]);
        assert_true(strlen(want[i]) > 0);
        body[i] = test_request("micro", questions[i].text, picture_path(&questions[i]), more);
        test_question alone = {.body = body[i]};
        test_ask_all(&s, &alone, 1);
        check_answer(&alone, want[i]);
        check_receipt(&alone, questions[i].picture != NULL);
        test_question_clear(&alone);
    }
    check_together(&s, body, want);
    for (int i = 0; i < QUESTIONS; i++) {
        free(want[i]);
        free(body[i]);
    }
    test_service_down(&s);
}

static void answers_equal_run_over_ipc(void **state) {
    (void)state;
    answers_equal_run_when_alone_and_among_eight("ipc");
}

static void answers_equal_run_over_tcp(void **state) {
    (void)state;
    answers_equal_run_when_alone_and_among_eight("tcp");
}

static void ask_streams_the_answer_when_the_service_runs(void **state) {
    (void)state;
    test_service s = test_service_up(pipeline, NULL);
    char *want = run_text(pipeline, &questions[0]);
    test_output o =
        TEST_RUN(ARG(test_bin("tyto")), ARG("ask"), ARG("--url"), s.url, ARG("--prompt"),
                 ARG(questions[0].text), ARG("--image"), picture_path(&questions[0]),
                 ARG("--max-tokens"), ARG("40"), ARG("--ignore-eos"));
    if (o.exit_code != 0) print_error("%s", o.err);
    assert_int_equal(o.exit_code, 0);
    o.out[o.out_size - 1] = '\0';
    assert_string_equal(o.out, want);
    for (int k = 2; k < N_STAGE; k++) assert_non_null(strstr(o.err, stages[k]));
    test_output_clear(&o);
    free(want);
    test_service_down(&s);
}

static void check_model(const test_service *s, const char *model, const char *pipe) {
    char *want = run_text(pipe, &questions[0]);
    char *body = test_request(model, questions[0].text, picture_path(&questions[0]),
                              "\"max_tokens\": 40, \"ignore_eos\": true");
    test_question q = {.body = body};
    test_ask_all(s, &q, 1);
    check_answer(&q, want);
    test_question_clear(&q);
    free(body);
    free(want);
}

static void two_pipelines_answer_side_by_side_when_both_are_up(void **state) {
    (void)state;
    const char *other =
        test_import("v1-micro", "other", (char *[]){ARG("--type"), ARG("q8_0"), NULL});
    /* in two services... */
    test_service a = test_service_up(pipeline, NULL);
    test_service b = test_service_up(other, NULL);
    check_model(&a, "micro", pipeline);
    check_model(&b, "other", other);
    test_service_down(&a);
    check_model(&b, "other", other);
    test_service_down(&b);
    /* ...and in one */
    test_service c = test_service_up(pipeline, (char *[]){ARG("--pipeline"), ARG(other), NULL});
    check_model(&c, "micro", pipeline);
    check_model(&c, "other", other);
    test_service_down(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_lists_a_process_for_each_stage_when_up),
        cmocka_unit_test(down_leaves_only_data_and_logs_when_all_is_over),
        cmocka_unit_test(children_die_when_the_supervisor_is_killed),
        cmocka_unit_test(up_refuses_when_state_or_port_is_taken),
        cmocka_unit_test(up_says_what_the_log_says_when_a_stage_cannot_start),
        cmocka_unit_test(answers_equal_run_over_ipc),
        cmocka_unit_test(answers_equal_run_over_tcp),
        cmocka_unit_test(ask_streams_the_answer_when_the_service_runs),
        cmocka_unit_test(two_pipelines_answer_side_by_side_when_both_are_up),
    };
    return cmocka_run_group_tests(tests, import_once, NULL);
}
