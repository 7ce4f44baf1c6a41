/*
 * test_deadlines.c - a request whose time is over ends with a typed error wherever it is: in a queue, in a worker that
 * hangs (SIGSTOP), with a broker that hangs, in the middle of an answer.  Nothing of it stays behind.
 */
#include "tests/support/fleet_rig.h"
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include "common/base/clock.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A request has 2 s; the answer must be there soon after, on a machine that is busy, too. */
enum { DEADLINE_MS = 2000, LATEST_MS = 12000, VIT = 1, DECODER = 3 };

static fleet_rig fleet;
static char *picture, *text, *long_text, *long_stream;

#if defined(__SANITIZE_THREAD__)
static const char llm[] = "2,64,4,176,2000";
#elif defined(__SANITIZE_ADDRESS__)
static const char llm[] = "4,320,5,848,6000";
#else
static const char llm[] = "6,448,7,1184,8000"; /* 1,900 tokens take it 5 s and more */
#endif

static int set_up(void **state) {
    (void)state;
    const char *dir = test_synth("slow", llm, "tiny", "1");
    /* One task at a time: the second waits in the broker. */
    static const char *const one[] = {"--batch", "1", "--credits", "1", NULL};
    static const char *const deadline[] = {"--timeout-s", "2", NULL};
    fleet_rig_start(&fleet, &(fleet_rig_options){.pipeline = dir,
                                                 .brokers = 1,
                                                 .gateways = 1,
                                                 .workers = {1, 1, 1, 1},
                                                 .gateway_options = deadline,
                                                 .worker_options = one});
    picture =
        test_request("slow", "What is this?",
                     test_path("%s/images/photo_47.jpg", test_golden_dir()), "\"max_tokens\": 2");
    text = test_request("slow", "Hello", NULL, "\"max_tokens\": 2");
    long_text = test_request("slow", "Tell me a story.", NULL,
                             "\"max_tokens\": 1900, \"ignore_eos\": true");
    long_stream = test_request("slow", "Tell me a story.", NULL,
                               "\"max_tokens\": 1900, \"ignore_eos\": true, \"stream\": true");
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    fleet_rig_stop(&fleet);
    free(picture);
    free(text);
    free(long_text);
    free(long_stream);
    return 0;
}

/* 504 with the code, in time; or, once the stream had begun, the same as its last event. */
static void times_out(const char *body, const char *says) {
    test_question q = {.body = body};
    int64_t begun = ty_now_us();
    test_ask_all(&fleet.api[0], &q, 1);
    int64_t ms = (ty_now_us() - begun) / 1000;
    bool streamed = q.status == 200 && q.finishes == 0;
    if ((q.status != 504 && !streamed) || !q.raw || !strstr(q.raw, "\"code\":\"timeout\""))
        fleet_rig_fail(&fleet, test_path("status %d: %s", q.status, q.raw ? q.raw : q.text));
    if (!strstr(q.raw, says)) fail_msg("\"%s\" does not say \"%s\"", q.raw, says);
    assert_in_range(ms, DEADLINE_MS - 200, LATEST_MS);
    print_message("%lld ms: %.160s\n", (long long)ms, q.raw);
    test_question_clear(&q);
}

/* Nothing is held any more, and the next one is answered. */
static void all_is_well(const char *body) {
    fleet_rig_wait_ready(&fleet, 1);
    fleet_rig_wait_metric(&fleet, 0, "tyto_gateway_requests_in_flight", "", 0);
    fleet_rig_wait_metric(&fleet, 0, "tyto_stage_in_flight", "", 0);
    fleet_rig_wait_metric(&fleet, 0, "tyto_stage_queued", "", 0);
    fleet_rig_wait_metric(&fleet, 0, "tyto_stage_pages", "use=\"used\"", 0);
    test_question q = {.body = body};
    test_ask_all(&fleet.api[0], &q, 1);
    if (q.status != 200) fleet_rig_fail(&fleet, test_path("status %d: %s", q.status, q.raw));
    test_question_clear(&q);
}

static void deadline_passes_while_the_decoder_answers(void **state) {
    (void)state;
    times_out(long_text, "deadline passed");
    all_is_well(text);
    times_out(long_stream, "deadline passed");
    all_is_well(text);
}

/* Three at once, and one place: the two that wait end as well. */
static void deadline_passes_in_the_queue_of_a_busy_decoder(void **state) {
    (void)state;
    enum { N = 3 };
    test_question q[N] = {{.body = long_text}, {.body = long_text}, {.body = long_text}};
    int64_t begun = ty_now_us();
    test_ask_all(&fleet.api[0], q, N);
    assert_in_range((ty_now_us() - begun) / 1000, DEADLINE_MS - 200, LATEST_MS);
    for (int i = 0; i < N; i++) {
        if (q[i].status != 504 || !strstr(q[i].raw, "\"code\":\"timeout\""))
            fleet_rig_fail(&fleet, test_path("status %d: %s", q[i].status, q[i].raw));
        print_message("%.160s\n", q[i].raw);
        test_question_clear(&q[i]);
    }
    all_is_well(text);
}

static void deadline_passes_in_a_worker_that_hangs(void **state) {
    (void)state;
    static const int stages[] = {0, VIT, DECODER};
    for (int i = 0; i < 3; i++) {
        pid_t pid = fleet.worker[stages[i]][0];
        kill(pid, SIGSTOP);
        times_out(picture, "deadline passed");
        kill(pid, SIGCONT);
        all_is_well(picture);
    }
}

static void deadline_passes_while_no_worker_is_left(void **state) {
    (void)state;
    assert_int_equal(fleet_rig_end(&fleet.worker[VIT][0], SIGKILL), -SIGKILL);
    times_out(picture, "deadline passed");
    fleet_rig_worker(&fleet, VIT, 0);
    all_is_well(picture);
}

static void deadline_passes_while_the_broker_hangs(void **state) {
    (void)state;
    kill(fleet.broker[0], SIGSTOP);
    times_out(picture, "deadline passed");
    kill(fleet.broker[0], SIGCONT);
    all_is_well(picture);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deadline_passes_while_the_decoder_answers),
        cmocka_unit_test(deadline_passes_in_the_queue_of_a_busy_decoder),
        cmocka_unit_test(deadline_passes_in_a_worker_that_hangs),
        cmocka_unit_test(deadline_passes_while_no_worker_is_left),
        cmocka_unit_test(deadline_passes_while_the_broker_hangs),
    };
    if (argc == 2) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("deadlines", tests, set_up, tear_down);
}
