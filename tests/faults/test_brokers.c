/*
 * test_brokers.c - two brokers, two gateways, workers at both.  Load is spread; the loss of a broker (kill -9, SIGSTOP,
 * SIGTERM) under load changes no answer, and one that comes back is used again.
 */
#include "tests/support/fleet_rig.h"
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include "common/base/clock.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARG(x) ((char *)(x))

enum { IN_FLIGHT = 24, KINDS = 4, GATEWAYS = 2 };

static fleet_rig fleet;
static char *want[KINDS], *body[IN_FLIGHT];

static const struct {
    const char *text, *picture;
    int tokens;
} kinds[KINDS] = {{"What is in this picture?", "photo_47.jpg", 24},
                  {"Hello", NULL, 12},
                  {"How many?", "photo_48.jpg", 24},
                  {"Tell me a story.", NULL, 60}};

/* Sanitizers make the programs ten and more times slower: a smaller model is as slow there. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const char llm[] = "2,128,4,352,2000", eye[] = "tiny", eye_layers[] = "4";
#else
static const char llm[] = "2,192,6,512,8000", eye[] = "b16", eye_layers[] = "1";
#endif

static char *request_of(int kind, bool stream) {
    char more[96];
    snprintf(more, sizeof(more), "\"max_tokens\": %d, \"ignore_eos\": true%s", kinds[kind].tokens,
             stream ? ", \"stream\": true" : "");
    const char *picture = kinds[kind].picture;
    return test_request("slow", kinds[kind].text,
                        picture ? test_path("%s/images/%s", test_golden_dir(), picture) : NULL,
                        more);
}

static int set_up(void **state) {
    (void)state;
    const char *dir = test_synth("slow", llm, eye, eye_layers);
    static const char *const debug[] = {"--log-level", "debug", NULL};
    fleet_rig_start(&fleet, &(fleet_rig_options){.pipeline = dir,
                                                 .brokers = 2,
                                                 .gateways = GATEWAYS,
                                                 .workers = {1, 2, 1, 2},
                                                 .broker_options = debug});
    for (int k = 0; k < KINDS; k++) {
        test_question q = {.body = request_of(k, false)};
        test_ask_all(&fleet.api[0], &q, 1);
        if (q.status != 200) fail_msg("status %d: %s", q.status, q.raw);
        want[k] = strdup(q.text);
        free(ARG(q.body));
        test_question_clear(&q);
    }
    for (int i = 0; i < IN_FLIGHT; i++) body[i] = request_of(i % KINDS, (i / KINDS) % 2 == 1);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    for (int i = 0; i < IN_FLIGHT; i++) free(body[i]);
    for (int k = 0; k < KINDS; k++) free(want[k]);
    fleet_rig_stop(&fleet);
    return 0;
}

/* ---- load on both gateways ---- */

typedef struct {
    test_question q[GATEWAYS][IN_FLIGHT / GATEWAYS];
    void *asking[GATEWAYS];
} crowd;

static void crowd_begin(crowd *c) {
    *c = (crowd){0};
    for (int g = 0; g < GATEWAYS; g++) {
        for (int i = 0; i < IN_FLIGHT / GATEWAYS; i++)
            c->q[g][i].body = body[g * (IN_FLIGHT / GATEWAYS) + i];
        c->asking[g] = test_ask_begin(&fleet.api[g], c->q[g], IN_FLIGHT / GATEWAYS);
    }
}

/* Waits until work of both gateways is under way, and not all done. */
static void crowd_wait_busy(const crowd *c) {
    for (int done = 0;; test_nap_ms(5)) {
        done = 0;
        for (int g = 0; g < GATEWAYS; g++)
            for (int i = 0; i < IN_FLIGHT / GATEWAYS; i++) done += c->q[g][i].done;
        if (done >= 2) {
            assert_true(done < IN_FLIGHT);
            return;
        }
    }
}

/* Everyone was answered, once and as in peace: no client needed a second try. */
static void crowd_end(crowd *c) {
    int again = 0;
    for (int g = 0; g < GATEWAYS; g++) {
        if (c->asking[g]) test_ask_join(c->asking[g]);
        for (int i = 0; i < IN_FLIGHT / GATEWAYS; i++) {
            test_question *q = &c->q[g][i];
            const char *text = want[(g * (IN_FLIGHT / GATEWAYS) + i) % KINDS];
            if (q->status != 200 || q->finishes != 1 || strcmp(q->text, text) != 0)
                fleet_rig_fail(&fleet,
                               test_path("gateway %d request %d: status %d, %d ends: %s", g, i,
                                         q->status, q->finishes, q->raw ? q->raw : q->text));
            again += test_receipt_max(q->timings, "decoder", "attempt") > 1 ||
                     test_receipt_max(q->timings, "vit", "attempt") > 1;
            test_question_clear(q);
        }
    }
    print_message("%d of %d requests needed another attempt\n", again, IN_FLIGHT);
}

static int tasks_of(int broker) {
    return fleet_rig_log_count(&fleet, test_path("broker.%d", broker), " done");
}

/* ---- the tests ---- */

static void load_is_spread_over_both(void **state) {
    (void)state;
    crowd c;
    int before[2] = {tasks_of(0), tasks_of(1)};
    crowd_begin(&c);
    crowd_end(&c);
    int n[2] = {tasks_of(0) - before[0], tasks_of(1) - before[1]};
    print_message("tasks: %d by one broker, %d by the other\n", n[0], n[1]);
    assert_int_equal(n[0] + n[1], IN_FLIGHT + IN_FLIGHT / 2); /* half of them have a picture */
    assert_true(n[0] >= 3 && n[1] >= 3);
}

static void killed_broker_loses_nothing_and_is_used_again(void **state) {
    (void)state;
    crowd c;
    for (int victim = 0; victim < 2; victim++) {
        int64_t begun = ty_now_us();
        crowd_begin(&c);
        crowd_wait_busy(&c);
        assert_int_equal(fleet_rig_end(&fleet.broker[victim], SIGKILL), -SIGKILL);
        crowd_end(&c);
        print_message("broker.%d killed: all answered %.1f s after the start\n", victim,
                      (double)(ty_now_us() - begun) / 1e6);
        fleet_rig_wait_ready(&fleet, 1);
        fleet_rig_broker(&fleet, victim);
        fleet_rig_wait_ready(&fleet, 2);
        int before = tasks_of(victim);
        crowd_begin(&c);
        crowd_end(&c);
        assert_true(tasks_of(victim) > before);
    }
}

static void stopped_broker_loses_nothing_and_is_used_again(void **state) {
    (void)state;
    crowd c;
    crowd_begin(&c);
    crowd_wait_busy(&c);
    kill(fleet.broker[0], SIGSTOP);
    crowd_end(&c);
    kill(fleet.broker[0], SIGCONT);
    fleet_rig_wait_ready(&fleet, 2);
    crowd_begin(&c);
    crowd_end(&c);
}

/* Those whose connection broke ask again, by the other gateway, as a client behind a balancer does. */
static void killed_gateway_is_not_seen_by_clients_that_retry(void **state) {
    (void)state;
    crowd c;
    int again = 0;
    crowd_begin(&c);
    crowd_wait_busy(&c);
    assert_int_equal(fleet_rig_end(&fleet.gateway[1], SIGKILL), -SIGKILL);
    test_ask_join(c.asking[1]);
    for (int i = 0; i < IN_FLIGHT / GATEWAYS; i++) {
        test_question *q = &c.q[1][i];
        if (q->status == 200 && q->finishes == 1) continue;
        test_question_clear(q);
        test_ask_all(&fleet.api[0], q, 1);
        again++;
    }
    print_message("%d of %d asked again\n", again, IN_FLIGHT / GATEWAYS);
    assert_true(again > 0);
    c.asking[1] = NULL;
    crowd_end(&c);
    /* What the dead one wanted is nobody's any more. */
    fleet_rig_wait_metric(&fleet, 0, "tyto_stage_in_flight", "", 0);
    fleet_rig_wait_metric(&fleet, 0, "tyto_stage_queued", "", 0);
    fleet_rig_gateway(&fleet, 1);
    fleet_rig_wait_ready(&fleet, 2);
}

static void drained_broker_loses_nothing(void **state) {
    (void)state;
    crowd c;
    crowd_begin(&c);
    crowd_wait_busy(&c);
    assert_int_equal(fleet_rig_end(&fleet.broker[1], SIGTERM), 0);
    crowd_end(&c);
    fleet_rig_broker(&fleet, 1);
    fleet_rig_wait_ready(&fleet, 2);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(load_is_spread_over_both),
        cmocka_unit_test(killed_broker_loses_nothing_and_is_used_again),
        cmocka_unit_test(stopped_broker_loses_nothing_and_is_used_again),
        cmocka_unit_test(killed_gateway_is_not_seen_by_clients_that_retry),
        cmocka_unit_test(drained_broker_loses_nothing),
    };
    if (argc == 2) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("brokers", tests, set_up, tear_down);
}
