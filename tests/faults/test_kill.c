/*
 * test_kill.c - kill -9 of a vision worker and of a decoder while they hold tasks that they have not
 * acknowledged, with 50 requests in flight: all 50 are answered, each once and as if nothing had been.
 *
 * The model has random weights and is slow enough that both workers are surely busy when they die; that
 * they were is seen in the receipts: an attempt of 2 or more.
 */
#include "tests/support/http_client.h"
#include "tests/support/process.h"
#include "tests/support/service.h"
#include "tests/support/ty_test.h"

#include "common/base/clock.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARG(x) ((char *)(x))

enum { IN_FLIGHT = 50, KINDS = 5, WAIT_US = 60000000 };

static const char *pipeline;

/* Sanitizers make the programs ten and more times slower: a smaller model is as slow there. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const char llm[] = "2,128,4,352,2000", eye[] = "tiny", eye_layers[] = "4";
#else
static const char llm[] = "2,288,6,768,32000", eye[] = "b16", eye_layers[] = "3";
#endif

static int make_model(void **state) {
    (void)state;
    pipeline = test_synth("slow", llm, eye, eye_layers);
    return 0;
}

typedef struct {
    const char *text, *picture;
    int max_tokens;
} question;

/* Stories are long: they are in their middle when the first answers have come, and a decoder dies. */
static const question kinds[KINDS] = {{"What is in this picture?", "photo_47.jpg", 24},
                                      {"Describe it.", "photo_9.jpg", 24},
                                      {"Hello", NULL, 24},
                                      {"How many?", "photo_48.jpg", 24},
                                      {"Tell me a story.", NULL, 300}};

static char *request_of(const question *k, bool stream) {
    char more[96];
    snprintf(more, sizeof(more), "\"max_tokens\": %d, \"ignore_eos\": true%s", k->max_tokens,
             stream ? ", \"stream\": true" : "");
    const char *path = k->picture ? test_path("%s/images/%s", test_golden_dir(), k->picture) : NULL;
    return test_request("slow", k->text, path, more);
}

static void kill_worker(const test_service *s, const char *name) {
    int before = 0, after = 0;
    pid_t pid = test_service_pid(s, name, &before);
    assert_true(pid > 0);
    assert_int_equal(kill(pid, SIGKILL), 0);
    for (int64_t until = ty_now_us() + WAIT_US; ty_now_us() < until; test_nap_ms(10)) {
        pid_t now = test_service_pid(s, name, &after);
        if (now > 0 && now != pid && after > before) return;
    }
    fail_msg("%s was not started again", name);
}

static int count_done(const test_question *q) {
    int n = 0;
    for (int i = 0; i < IN_FLIGHT; i++) n += q[i].done;
    return n;
}

/* The answers that nobody disturbs. */
static void ask_in_peace(const test_service *s, char **want) {
    for (int k = 0; k < KINDS; k++) {
        char *body = request_of(&kinds[k], false);
        test_question q = {.body = body};
        test_ask_all(s, &q, 1);
        if (q.status != 200) fail_msg("status %d: %s", q.status, q.raw);
        assert_true(strlen(q.text) > 0);
        want[k] = strdup(q.text);
        test_question_clear(&q);
        free(body);
    }
}

typedef struct {
    test_service s;
    char *want[KINDS], *body[IN_FLIGHT];
    test_question q[IN_FLIGHT];
    void *asking;
} crowd;

/* A service, the answers in peace, then 50 requests for crowd_ask.  Without the cache every picture is computed each time, so that
 * there is something to lose. */
static crowd *crowd_begin(char *const *options, bool cache) {
    crowd *c = calloc(1, sizeof(*c));
    char *all[16];
    int n = 0;
    assert_non_null(c);
    for (; options && options[n]; n++) all[n] = options[n];
    if (!cache) {
        all[n++] = (char *)"--cache-url";
        all[n++] = (char *)"none";
    }
    all[n] = NULL;
    c->s = test_service_up(pipeline, all);
    ask_in_peace(&c->s, c->want);
    for (int i = 0; i < IN_FLIGHT; i++)
        c->q[i].body = c->body[i] = request_of(&kinds[i % KINDS], (i / KINDS) % 2 == 1);
    return c;
}

static crowd *crowd_ask(crowd *c) {
    c->asking = test_ask_begin(&c->s, c->q, IN_FLIGHT);
    return c;
}

static void crowd_end(crowd *c) {
    for (int i = 0; i < IN_FLIGHT; i++) {
        test_question_clear(&c->q[i]);
        free(c->body[i]);
    }
    for (int k = 0; k < KINDS; k++) free(c->want[k]);
    test_service_down(&c->s);
    free(c);
}

/* Each answered, each once, and as in peace. */
static void check_all(const crowd *c) {
    for (int i = 0; i < IN_FLIGHT; i++) {
        const test_question *q = &c->q[i];
        if (q->status != 200) fail_msg("request %d: status %d: %s", i, q->status, q->raw);
        assert_int_equal(q->finishes, 1);
        assert_string_equal(q->text, c->want[i % KINDS]);
    }
}

typedef struct {
    const char *name;
    int ms, done; /* killed when so much time has passed and so many answers have come */
} victim;

static void kill_in_the_crowd(crowd *c, const victim *v, int n) {
    for (int i = 0; i < n; i++) {
        test_nap_ms(v[i].ms);
        while (count_done(c->q) < v[i].done) test_nap_ms(5);
        assert_true(count_done(c->q) < IN_FLIGHT); /* else the model is too quick for this test */
        kill_worker(&c->s, v[i].name);
    }
    test_ask_join(c->asking);
}

/* Requests whose receipt shows that something of them was with a worker that died. */
static void check_attempts(const crowd *c, const char *stage) {
    int again = 0;
    for (int i = 0; i < IN_FLIGHT; i++)
        again += test_receipt_max(c->q[i].timings, stage, "attempt") >= 2;
    print_message("%s: %d of %d requests needed another attempt\n", stage, again, IN_FLIGHT);
    assert_true(again > 0);
}

/* Tasks that are with the workers of a stage, as /metrics says. */
static double in_flight(const test_service *s, const char *stage) {
    test_reply r = TEST_GET(s->port, "/metrics");
    double sum = 0;
    for (const char *p = r.body; p; p = strchr(p, '\n')) {
        p += *p == '\n';
        size_t n = strcspn(p, "\n");
        char line[256];
        snprintf(line, sizeof(line), "%.*s", (int)(n < 255 ? n : 255), p);
        if (strncmp(line, "tyto_stage_in_flight{", 21) == 0 && strstr(line, stage))
            sum += strtod(strrchr(line, ' '), NULL);
    }
    test_reply_clear(&r);
    return sum;
}

typedef struct {
    const char *name, *stage;
    int enough; /* of the stage in flight, so that this one surely has some */
} holder;

/* Those that die are stopped before the crowd comes: what one is given it holds until it is killed. */
static void kill_holders(const holder h[2], char *const *options) {
    setenv("TYTO_BROKER_HEARTBEAT_MS", "20000", 1); /* a stopped one is not yet a dead one */
    crowd *c = crowd_begin(options, false);
    for (int i = 0; i < 2; i++)
        assert_int_equal(kill(test_service_pid(&c->s, h[i].name, NULL), SIGSTOP), 0);
    crowd_ask(c);
    for (int i = 0; i < 2; i++) {
        while (in_flight(&c->s, h[i].stage) < h[i].enough) test_nap_ms(5);
        kill_worker(&c->s, h[i].name);
    }
    test_ask_join(c->asking);
    unsetenv("TYTO_BROKER_HEARTBEAT_MS");
    check_all(c);
    check_attempts(c, "vit");
    check_attempts(c, "decoder");
    crowd_end(c);
}

static void all_are_answered_when_the_only_vit_and_decoder_are_killed(void **state) {
    (void)state;
    kill_holders((holder[]){{"vit.0", "stage=\"vit\"", 1}, {"decoder.0", "stage=\"decoder\"", 1}},
                 NULL);
}

/* The other has the same credits, so this one is given something as soon as the stage has more than the other may be
 * preferred by (a decoder that knows the prompt, by BROKER_AFFINITY_TASKS). */
static void all_are_answered_when_one_of_two_is_killed(void **state) {
    (void)state;
    kill_holders((holder[]){{"vit.1", "stage=\"vit\"", 2}, {"decoder.1", "stage=\"decoder\"", 6}},
                 (char *[]){ARG("--vit"), ARG("2"), ARG("--decoder"), ARG("2"), NULL});
}

/* The gateway sends again what the broker took with it. */
static void all_are_answered_when_the_broker_is_killed(void **state) {
    (void)state;
    const victim victims[] = {{"broker.0", 200, 0}};
    crowd *c = crowd_ask(crowd_begin(NULL, false));
    kill_in_the_crowd(c, victims, 1);
    check_all(c);
    crowd_end(c);
}

/* Lookups under way end as misses, and what was known is computed again. */
static void all_are_answered_when_the_cache_is_killed(void **state) {
    (void)state;
    const victim victims[] = {{"redis.cache", 0, 1}, {"redis.cache", 0, 2}};
    crowd *c = crowd_ask(crowd_begin(NULL, true));
    kill_in_the_crowd(c, victims, 2);
    check_all(c);
    crowd_end(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_are_answered_when_the_only_vit_and_decoder_are_killed),
        cmocka_unit_test(all_are_answered_when_one_of_two_is_killed),
        cmocka_unit_test(all_are_answered_when_the_broker_is_killed),
        cmocka_unit_test(all_are_answered_when_the_cache_is_killed),
    };
    return cmocka_run_group_tests(tests, make_model, NULL);
}
