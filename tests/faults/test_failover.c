/*
 * test_failover.c - decoders (and brokers) killed at random in the middle of many answers: greedy ones, sampled
 * ones, beams, with rules about repetition, stop strings and log-probabilities, streamed and not.  Each is
 * answered, once, and token for token as if nothing had been.
 *
 * TYTO_FAILOVER_STREAMS=N: so many at once (24); TYTO_FAILOVER_SEED=N: other moments.
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

enum { DECODERS = 3, DECODER = 3 /* its stage */, BROKERS = 2, KINDS = 10, STREAMS_MAX = 256 };

static fleet_rig fleet;
static unsigned dice;
static int n_stream = 24;

/* Sanitizers make the programs ten and more times slower: a smaller model is as slow there. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const char llm[] = "2,64,4,172,600";
enum { TOKENS = 60 };
#else
static const char llm[] = "2,192,6,512,8000";
enum { TOKENS = 160 };
#endif

typedef enum { GREEDY, SAMPLED, BEAMS, CLASSES } class;
static const char *const class_name[CLASSES] = {"greedy", "sampled", "beams"};

static const struct {
    class is;
    const char *text, *picture, *more;
} kinds[KINDS] = {
    {GREEDY, "Tell me a story.", NULL, ""},
    {GREEDY, "What is in this picture?", "photo_47.jpg", ""},
    {GREEDY, "Say it again.", NULL, ", \"repetition_penalty\": 1.3, \"no_repeat_ngram_size\": 3"},
    {GREEDY, "And its numbers?", NULL, ", \"logprobs\": true, \"top_logprobs\": 2"},
    {GREEDY, "Until when?", NULL, ", \"stop\": [\"no such words\", \"qqqq\"]"},
    {SAMPLED, "Draw.", NULL, ", \"temperature\": 0.9, \"top_p\": 0.95, \"seed\": 7"},
    {SAMPLED, "Draw once more.", NULL,
     ", \"temperature\": 1.2, \"top_k\": 50, \"seed\": 8, \"logprobs\": true"},
    {SAMPLED, "Draw, not twice.", NULL,
     ", \"temperature\": 0.7, \"seed\": 9, \"repetition_penalty\": 1.2"},
    {BEAMS, "Search for it.", NULL, ", \"num_beams\": 3"},
    {BEAMS, "Search well.", NULL, ", \"num_beams\": 4, \"no_repeat_ngram_size\": 2"},
};

static char *request_of(int kind, bool stream) {
    char more[256];
    snprintf(more, sizeof(more), "\"max_tokens\": %d, \"ignore_eos\": true%s%s",
             kinds[kind].is == BEAMS ? TOKENS / 2 : TOKENS, kinds[kind].more,
             stream ? ", \"stream\": true" : "");
    const char *picture = kinds[kind].picture;
    return test_request("slow", kinds[kind].text,
                        picture ? test_path("%s/images/%s", test_golden_dir(), picture) : NULL,
                        more);
}

static int roll(int n) {
    dice = dice * 1664525u + 1013904223u;
    return (int)((dice >> 8) % (unsigned)n);
}

/* ---- the crowd ---- */

static test_question want[KINDS];

typedef struct {
    test_question q[STREAMS_MAX];
    void *asking;
    int64_t begun_us;
} crowd;

static void crowd_begin(crowd *c) {
    memset(c, 0, sizeof(*c));
    for (int i = 0; i < n_stream; i++) c->q[i].body = request_of(i % KINDS, i / KINDS % 4 != 3);
    c->begun_us = ty_now_us();
    c->asking = test_ask_begin(&fleet.api[0], c->q, n_stream);
}

static int crowd_done(const crowd *c) {
    int n = 0;
    for (int i = 0; i < n_stream; i++) n += c->q[i].done;
    return n;
}

/* Some are in their middle. */
static void crowd_wait_streaming(const crowd *c) {
    for (int n = 0; n < 3; test_nap_ms(2)) {
        n = 0;
        for (int i = 0; i < n_stream; i++) n += c->q[i].pieces > 2;
    }
    assert_int_equal(crowd_done(c), 0);
}

static void check(const test_question *q, int i) {
    const test_question *w = &want[i % KINDS];
    if (q->status != 200 || q->finishes != 1 || strcmp(q->text, w->text) != 0 ||
        strcmp(q->logprobs, w->logprobs) != 0)
        fleet_rig_fail(&fleet,
                       test_path("request %d (%s \"%s\"): status %d, %d ends: %s\nwant %s", i,
                                 class_name[kinds[i % KINDS].is], kinds[i % KINDS].text, q->status,
                                 q->finishes, q->raw ? q->raw : q->text, w->text));
}

/* Each is answered as in peace.  must_hit: of each class some had to go on elsewhere. */
static void crowd_end(crowd *c, int kills, bool must_hit) {
    int again[CLASSES] = {0}, n[CLASSES] = {0}, most = 0;
    test_ask_join(c->asking);
    for (int i = 0; i < n_stream; i++) {
        check(&c->q[i], i);
        int attempt = test_receipt_max(c->q[i].timings, "decoder", "attempt");
        again[kinds[i % KINDS].is] += attempt > 1;
        n[kinds[i % KINDS].is]++;
        if (attempt > most) most = attempt;
        free(ARG(c->q[i].body));
        test_question_clear(&c->q[i]);
    }
    print_message("%d kills, %.1f s, at most %d attempts; went on elsewhere:", kills,
                  (double)(ty_now_us() - c->begun_us) / 1e6, most);
    for (int k = 0; k < CLASSES; k++) print_message(" %d of %d %s", again[k], n[k], class_name[k]);
    print_message("\n");
    for (int k = 0; must_hit && k < CLASSES; k++) assert_true(again[k] > 0);
}

static void kill_decoder(int i) {
    assert_int_equal(fleet_rig_end(&fleet.worker[DECODER][i], SIGKILL), -SIGKILL);
    fleet_rig_worker(&fleet, DECODER, i);
}

/* No slot is left behind. */
static void check_idle(void) {
    fleet_rig_wait_metric(&fleet, 0, "tyto_stage_in_flight", "", 0);
    fleet_rig_wait_metric(&fleet, 0, "tyto_stage_queued", "", 0);
    fleet_rig_wait_metric(&fleet, 0, "tyto_gateway_requests_in_flight", "", 0);
}

/* ---- tests ---- */

static void no_token_is_lost_or_repeated_when_decoders_die(void **state) {
    (void)state;
    static crowd c;
    int kills = 0;
    fleet_rig_wait_ready(&fleet, BROKERS);
    crowd_begin(&c);
    crowd_wait_streaming(&c);
    for (; kills < DECODERS; kills++) kill_decoder(kills); /* all that runs is hit */
    for (; crowd_done(&c) < n_stream * 3 / 4; kills++) {
        test_nap_ms((100 + roll(500)) * n_stream / 24); /* more of them are slower */
        kill_decoder(roll(DECODERS));
    }
    crowd_end(&c, kills, true);
    fleet_rig_wait_ready(&fleet, BROKERS);
    check_idle();
}

static void nor_when_brokers_die_too(void **state) {
    (void)state;
    static crowd c;
    int kills = 0;
    fleet_rig_wait_ready(&fleet, BROKERS);
    crowd_begin(&c);
    crowd_wait_streaming(&c);
    for (; crowd_done(&c) < n_stream / 2 && kills < 8; kills++) {
        int b = roll(BROKERS);
        if (kills % 2 == 0) {
            assert_int_equal(fleet_rig_end(&fleet.broker[b], SIGKILL), -SIGKILL);
            fleet_rig_broker(&fleet, b);
        } else {
            kill_decoder(roll(DECODERS));
        }
        test_nap_ms(200 + roll(600));
    }
    crowd_end(&c, kills, false);
    fleet_rig_wait_ready(&fleet, BROKERS);
    check_idle();
}

static int set_up(void **state) {
    (void)state;
    const char *streams = getenv("TYTO_FAILOVER_STREAMS"), *seed = getenv("TYTO_FAILOVER_SEED");
    if (streams) n_stream = atoi(streams);
    if (n_stream < KINDS || n_stream > STREAMS_MAX) n_stream = 24;
    dice = seed ? (unsigned)atoi(seed) : 1;
    const char *dir = test_synth("slow", llm, "tiny", "1");
    /* Small chunks, so that a stream is in its middle long before the first answers are whole. */
    assert_int_equal(setenv("TYTO_CHUNK_MS", "10", 1), 0);
    fleet_rig_start(&fleet, &(fleet_rig_options){.pipeline = dir,
                                                 .brokers = BROKERS,
                                                 .gateways = 1,
                                                 .workers = {1, 1, 1, DECODERS}});
    for (int k = 0; k < KINDS; k++) want[k].body = request_of(k, true);
    test_ask_all(&fleet.api[0], want, KINDS);
    for (int k = 0; k < KINDS; k++)
        if (want[k].status != 200 || strlen(want[k].text) < TOKENS)
            fail_msg("status %d: %s", want[k].status, want[k].raw ? want[k].raw : want[k].text);
    assert_true(strlen(want[3].logprobs) > TOKENS && strlen(want[6].logprobs) > TOKENS);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    for (int k = 0; k < KINDS; k++) {
        free(ARG(want[k].body));
        test_question_clear(&want[k]);
    }
    fleet_rig_stop(&fleet);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_token_is_lost_or_repeated_when_decoders_die),
        cmocka_unit_test(nor_when_brokers_die_too),
    };
    return cmocka_run_group_tests_name("failover", tests, set_up, tear_down);
}
