/*
 * test_drain.c - SIGTERM of each kind of process under load: it takes nothing new, hands back what it has not begun,
 * ends in time with 0, and no answer is another for it.
 */
#include "tests/support/fleet_rig.h"
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include "common/base/clock.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IN_FLIGHT = 24, KINDS = 2, PREPROCESS = 0, VIT = 1, ABSTRACTOR = 2, DECODER = 3 };

static fleet_rig fleet;
static char *body[KINDS], *want[KINDS];

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const char llm[] = "2,64,4,176,2000";
#else
static const char llm[] = "4,256,8,688,8000";
#endif

static int set_up(void **state) {
    (void)state;
    const char *dir = test_synth("slow", llm, "tiny", "2");
    /* Few at a time, so that some always wait; one second for what is being computed. */
    static const char *const few[] = {"--batch", "2", "--credits", "4", "--drain-s", "1", NULL};
    fleet_rig_start(&fleet, &(fleet_rig_options){.pipeline = dir,
                                                 .brokers = 2,
                                                 .gateways = 2,
                                                 .workers = {2, 2, 2, 2},
                                                 .worker_options = few});
    body[0] = test_request("slow", "What is this?",
                           test_path("%s/images/photo_47.jpg", test_golden_dir()),
                           "\"max_tokens\": 40, \"ignore_eos\": true");
    body[1] = test_request("slow", "Tell me a story.", NULL,
                           "\"max_tokens\": 150, \"ignore_eos\": true, \"stream\": true");
    for (int k = 0; k < KINDS; k++) {
        test_question q = {.body = body[k]};
        test_ask_all(&fleet.api[0], &q, 1);
        if (q.status != 200) fail_msg("status %d: %s", q.status, q.raw);
        want[k] = strdup(q.text);
        test_question_clear(&q);
    }
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    fleet_rig_stop(&fleet);
    for (int k = 0; k < KINDS; k++) {
        free(body[k]);
        free(want[k]);
    }
    return 0;
}

typedef struct {
    test_question q[IN_FLIGHT];
    void *asking;
} crowd;

static void crowd_begin(crowd *c, int gateway) {
    *c = (crowd){0};
    for (int i = 0; i < IN_FLIGHT; i++) c->q[i].body = body[i % KINDS];
    c->asking = test_ask_begin(&fleet.api[gateway], c->q, IN_FLIGHT);
}

static int count_done(const crowd *c) {
    int n = 0;
    for (int i = 0; i < IN_FLIGHT; i++) n += c->q[i].done;
    return n;
}

static void crowd_end(crowd *c) {
    test_ask_join(c->asking);
    for (int i = 0; i < IN_FLIGHT; i++) {
        test_question *q = &c->q[i];
        if (q->status != 200 || q->finishes != 1 || strcmp(q->text, want[i % KINDS]) != 0)
            fleet_rig_fail(&fleet, test_path("request %d: status %d, %d ends: %s", i, q->status,
                                             q->finishes, q->raw ? q->raw : q->text));
        test_question_clear(q);
    }
}

static void drains_a_worker(int stage) {
    crowd c;
    crowd_begin(&c, 0);
    while (count_done(&c) < (stage == DECODER ? 2 : 0)) test_nap_ms(2);
    int64_t begun = ty_now_us();
    assert_int_equal(fleet_rig_end(&fleet.worker[stage][1], SIGTERM), 0);
    print_message("%s.1 ended %lld ms after SIGTERM, %d of %d answered by then\n",
                  fleet_rig_stage[stage], (long long)(ty_now_us() - begun) / 1000, count_done(&c),
                  IN_FLIGHT);
    crowd_end(&c);
    assert_int_equal(
        fleet_rig_log_count(&fleet, test_path("%s.1", fleet_rig_stage[stage]), "draining: "), 1);
    fleet_rig_worker(&fleet, stage, 1);
    fleet_rig_wait_ready(&fleet, 2);
}

static void worker_of_any_stage_drains_under_load(void **state) {
    (void)state;
    for (int stage = 0; stage < FLEET_RIG_STAGES; stage++) drains_a_worker(stage);
}

/* Its clients get their answers; new ones are sent away. */
static void gateway_drains_under_load(void **state) {
    (void)state;
    crowd c;
    crowd_begin(&c, 1);
    while (count_done(&c) < 2) test_nap_ms(2);
    assert_true(count_done(&c) < IN_FLIGHT);
    assert_int_equal(fleet_rig_end(&fleet.gateway[1], SIGTERM), 0);
    crowd_end(&c);
    /* It says so on a connection that was there, and takes no other. */
    assert_int_equal(fleet_rig_log_count(&fleet, "gateway.1", " drains in_flight="), 1);
    test_question q = {.body = body[0]};
    test_ask_all(&fleet.api[1], &q, 1);
    assert_int_equal(q.status, 0);
    test_question_clear(&q);
    fleet_rig_gateway(&fleet, 1);
    fleet_rig_wait_ready(&fleet, 2);
}

static void broker_drains_under_load(void **state) {
    (void)state;
    crowd c[2];
    for (int g = 0; g < 2; g++) crowd_begin(&c[g], g);
    while (count_done(&c[0]) + count_done(&c[1]) < 2) test_nap_ms(2);
    assert_int_equal(fleet_rig_end(&fleet.broker[0], SIGTERM), 0);
    for (int g = 0; g < 2; g++) crowd_end(&c[g]);
    fleet_rig_broker(&fleet, 0);
    fleet_rig_wait_ready(&fleet, 2);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(worker_of_any_stage_drains_under_load),
        cmocka_unit_test(gateway_drains_under_load),
        cmocka_unit_test(broker_drains_under_load),
    };
    if (argc == 2) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("drain", tests, set_up, tear_down);
}
