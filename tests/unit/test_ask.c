/* ask.h: a request's life against a broker made of two queues. */
#include "tests/support/ty_test.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "services/gateway/ask.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SENT_MAX = 64, ROWS = 3, WIDTH = 2 };

/* What the ask did. */
typedef struct {
    ty_message *sent[SENT_MAX];
    int link[SENT_MAX];
    int n_sent, up; /* up: the link that takes messages, -1 none */
    char text[256]; /* tokens' texts in a row */
    int done, parts, resent, late;
    ty_status failed;
    char fail_text[640], fail_stage[32];
    int fail_picture, sends;
    bool cache; /* there is one, and it was asked so often */
    int looked_up;
} world;

static ty_status on_send(void *ctx, int *link, ty_message **m, ty_err *err) {
    world *w = ctx;
    if (w->up < 0) return ty_fail(err, TY_EUNAVAILABLE, "no broker answers");
    assert_true(w->n_sent < SENT_MAX);
    if (*link < 0) *link = w->up;
    w->link[w->n_sent] = *link;
    w->sent[w->n_sent++] = *m;
    *m = NULL;
    return TY_OK;
}

static void on_part(void *ctx, int part, const ty_message *m, int sends) {
    (void)part, (void)m;
    ((world *)ctx)->parts++;
    ((world *)ctx)->sends = sends;
}

static void on_token(void *ctx, const Tyto__TokenInfo *t, bool more) {
    world *w = ctx;
    (void)more;
    strncat(w->text, t->text, sizeof(w->text) - strlen(w->text) - 1);
}

static void on_done(void *ctx, const Tyto__DecodeResult *r) {
    (void)r;
    ((world *)ctx)->done++;
}

static void on_fail(void *ctx, ty_status st, const char *stage, const char *text, int picture) {
    world *w = ctx;
    assert_int_equal(w->failed, TY_OK); /* once */
    w->failed = st;
    w->fail_picture = picture;
    snprintf(w->fail_text, sizeof(w->fail_text), "%s", text);
    snprintf(w->fail_stage, sizeof(w->fail_stage), "%s", stage);
}

static void on_event(void *ctx, ask_event what, const char *stage) {
    (void)stage;
    world *w = ctx;
    w->resent += what == ASK_RESENT;
    w->late += what == ASK_LATE;
}

static bool look_up(void *ctx, const Tyto__Envelope *task) {
    world *w = ctx;
    if (!w->cache) return false;
    assert_int_equal(strlen(task->picture->sha256), 64);
    w->looked_up++;
    return true;
}

static ask *start(world *w, int n_pictures, const char *const *files, int64_t deadline_us,
                  int64_t part_timeout_us) {
    static ty_pipeline p = {.name = "p"};
    for (int k = 0; k < TY_STAGE_COUNT; k++) {
        snprintf(p.path[k], sizeof(p.path[k]), "/x");
        snprintf(p.model_id[k], sizeof(p.model_id[k]), "m%d", k);
    }
    ask_picture pic[8];
    for (int i = 0; i < n_pictures; i++)
        pic[i] = (ask_picture){.bytes = (uint8_t *)strdup(files[i]), .size = strlen(files[i])};
    ask_options o = {.request_id = "r1",
                     .pipeline = &p,
                     .deadline_us = ty_now_us() + deadline_us,
                     .part_timeout_us = part_timeout_us,
                     .max_sends = 3,
                     .sink = {w, on_send, on_part, on_token, on_done, on_fail, on_event},
                     .look_up = look_up,
                     .look_up_ctx = w};
    Tyto__DecodeTask *d = ty_pb_new(&tyto__decode_task__descriptor);
    ask *a = NULL;
    ty_err e = {0};
    assert_int_equal(ask_create(&a, &o, pic, n_pictures, d, &e), TY_OK);
    ask_start(a);
    return a;
}

static void end(world *w, ask **a) {
    ask_destroy(a);
    for (int i = 0; i < w->n_sent; i++) ty_message_destroy(&w->sent[i]);
}

/* An answer to message `s`, with its ids. */
static ty_message *answer(const ty_message *s) {
    ty_message *m = ty_message_new();
    assert_non_null(m);
    assert_int_equal(ty_message_copy_ids(m, s), TY_OK);
    return m;
}

static void free_bytes(void *data, void *hint) {
    (void)hint;
    free(data);
}

static void add_tokens(ty_message *m, float value) {
    size_t size = sizeof(float) * ROWS * WIDTH;
    float *x = malloc(size);
    assert_non_null(x);
    for (int i = 0; i < ROWS * WIDTH; i++) x[i] = value;
    assert_int_equal(ty_message_add_tensor(m, "visual_tokens", TYTO__DTYPE__DTYPE_F32, 2,
                                           (const int64_t[]){ROWS, WIDTH}, x, size, free_bytes,
                                           NULL, NULL),
                     TY_OK);
}

static void give_tokens(ask *a, world *w, int s, float value) {
    ty_message *m = answer(w->sent[s]);
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_RESULT, ty_pb_new(&tyto__result__descriptor));
    add_tokens(m, value);
    ask_message(a, w->link[s], &m);
    assert_null(m);
}

static void give_chunk(ask *a, world *w, int s, int first, const char *letters) {
    ty_message *m = answer(w->sent[s]);
    Tyto__Chunk *c = ty_pb_new(&tyto__chunk__descriptor);
    c->first = (uint32_t)first;
    for (; *letters; letters++) {
        Tyto__TokenInfo *t = ty_pb_new(&tyto__token_info__descriptor);
        char one[2] = {*letters, '\0'};
        t->id = *letters;
        assert_int_equal(ty_pb_set_str(&t->text, one), TY_OK);
        assert_int_equal(ty_pb_append(&c->tokens, &c->n_tokens, t), TY_OK);
    }
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_CHUNK, c);
    ask_message(a, w->link[s], &m);
}

static void give_done(ask *a, world *w, int s) {
    ty_message *m = answer(w->sent[s]);
    Tyto__Result *r = ty_pb_new(&tyto__result__descriptor);
    r->decode = ty_pb_new(&tyto__decode_result__descriptor);
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_RESULT, r);
    ask_message(a, w->link[s], &m);
}

static void give_error(ask *a, world *w, int s, ty_status st, const char *stage) {
    ty_message *m = answer(w->sent[s]);
    ty_message_set_error(m, st, "because", stage);
    ask_message(a, w->link[s], &m);
}

static const Tyto__Envelope *env(const world *w, int s) {
    assert_true(s < w->n_sent);
    return w->sent[s]->env;
}

static void ask_sends_pictures_then_the_decode_task(void **state) {
    (void)state;
    world w = {0};
    const char *files[] = {"one", "two"};
    ask *a = start(&w, 2, files, 10000000, 10000000);
    assert_int_equal(w.n_sent, 2);
    assert_int_equal(env(&w, 0)->n_itinerary, 3);
    assert_string_equal(env(&w, 0)->itinerary[2]->stage, "abstractor");
    assert_string_equal(env(&w, 0)->itinerary[1]->model, "m1");
    assert_int_equal(env(&w, 1)->part, 1);
    assert_int_equal(env(&w, 1)->generation, 1);
    assert_int_equal(env(&w, 1)->attempt, 1);
    assert_memory_equal(zmq_msg_data(&w.sent[1]->frame[0]), "two", 3);
    give_tokens(a, &w, 1, 2);
    assert_int_equal(w.n_sent, 2);
    give_tokens(a, &w, 0, 1);
    assert_int_equal(w.n_sent, 3);
    assert_int_equal(env(&w, 2)->part, 2);
    assert_int_equal(env(&w, 2)->n_tensors, 2);
    for (int i = 0; i < 2; i++) { /* in the pictures' order, not in that of arrival */
        ty_tensor t;
        assert_int_equal(ty_message_tensor(w.sent[2], i, NULL, &t, NULL), TY_OK);
        assert_true(((const float *)t.data)[0] == (float)(i + 1));
    }
    give_chunk(a, &w, 2, 0, "ab");
    give_chunk(a, &w, 2, 2, "c");
    give_done(a, &w, 2);
    assert_string_equal(w.text, "abc");
    assert_int_equal(w.done, 1);
    assert_int_equal(w.parts, 3);
    assert_true(ask_finished(a));
    assert_int_equal(w.n_sent, 3); /* nothing to cancel */
    end(&w, &a);
}

static float first_float(const ty_message *m, int i) {
    float x;
    memcpy(&x, zmq_msg_data((zmq_msg_t *)(uintptr_t)&m->frame[i]), sizeof(x));
    return x;
}

/* Three pictures: one is known, one is not, one is the first again. */
static void ask_sends_only_what_the_cache_does_not_know(void **state) {
    (void)state;
    world w = {.cache = true};
    ask *a = start(&w, 3, (const char *const[]){"one", "two", "one"}, 5000000, 5000000);
    assert_int_equal(w.looked_up, 2);
    assert_int_equal(w.n_sent, 0);
    ty_message *none = NULL, *known = ty_message_new();
    add_tokens(known, 7);
    ask_looked_up(a, 1, &none);
    assert_int_equal(w.n_sent, 1);
    assert_int_equal(w.sent[0]->env->part, 1);
    ask_looked_up(a, 0, &known);
    assert_null(known);
    assert_int_equal(w.parts, 1);
    assert_int_equal(w.sends, 0);
    ty_message *late = ty_message_new();
    ask_looked_up(a, 0, &late); /* once is enough */
    assert_null(late);
    assert_int_equal(w.parts, 1);
    give_tokens(a, &w, 0, 8);
    assert_int_equal(w.n_sent, 2);
    assert_int_equal(w.sent[1]->n_frame, 3);
    assert_true(first_float(w.sent[1], 0) == 7);
    assert_true(first_float(w.sent[1], 1) == 8);
    assert_true(first_float(w.sent[1], 2) == 7);
    give_done(a, &w, 1);
    assert_int_equal(w.done, 1);
    end(&w, &a);
}

static void ask_skips_vision_without_pictures(void **state) {
    (void)state;
    world w = {0};
    ask *a = start(&w, 0, NULL, 10000000, 10000000);
    assert_int_equal(w.n_sent, 1);
    assert_int_equal(env(&w, 0)->n_itinerary, 1);
    assert_string_equal(env(&w, 0)->itinerary[0]->stage, "decoder");
    give_done(a, &w, 0);
    assert_int_equal(w.done, 1);
    end(&w, &a);
}

static void ask_sends_the_same_picture_once(void **state) {
    (void)state;
    world w = {0};
    const char *files[] = {"one", "two", "one"};
    ask *a = start(&w, 3, files, 10000000, 10000000);
    assert_int_equal(w.n_sent, 2);
    give_tokens(a, &w, 0, 1);
    give_tokens(a, &w, 1, 2);
    assert_int_equal(w.n_sent, 3);
    assert_int_equal(env(&w, 2)->n_tensors, 3);
    assert_true(env(&w, 2)->tensors[2]->xxh3 == env(&w, 2)->tensors[0]->xxh3);
    ask_cancel(a);
    assert_int_equal(env(&w, 3)->body_case, TYTO__ENVELOPE__BODY_CANCEL);
    assert_int_equal(env(&w, 3)->part, 3);
    assert_int_equal(w.n_sent, 4);
    end(&w, &a);
}

static void ask_sends_again_when_the_broker_is_lost(void **state) {
    (void)state;
    world w = {0};
    ask *a = start(&w, 0, NULL, 10000000, 10000000);
    give_chunk(a, &w, 0, 0, "ab");
    w.up = -1; /* no other broker yet */
    ask_link_lost(a, 0);
    ask_tick(a);
    assert_int_equal(w.n_sent, 1);
    w.up = 1;
    for (int i = 0; i < 100 && w.n_sent < 2; i++) {
        ask_tick(a);
        (void)nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    assert_int_equal(w.n_sent, 2);
    assert_int_equal(env(&w, 1)->generation, 2);
    assert_int_equal(env(&w, 1)->attempt, 2);
    assert_int_equal(w.link[1], 1);
    give_chunk(a, &w, 0, 2, "x"); /* the old one's: late */
    give_done(a, &w, 0);
    assert_int_equal(w.late, 2);
    const Tyto__DecodeTask *d = env(&w, 1)->task->decode;
    assert_int_equal(d->n_forced, 2); /* what the sink has */
    assert_int_equal(d->forced[0], 'a');
    assert_int_equal(d->forced[1], 'b');
    assert_int_equal(env(&w, 0)->task->decode->n_forced, 0);
    give_chunk(a, &w, 1, 1, "b"); /* nothing repeats */
    give_chunk(a, &w, 1, 1, "bcd");
    give_done(a, &w, 1);
    assert_string_equal(w.text, "abcd");
    assert_int_equal(w.done, 1);
    assert_int_equal(w.sends, 2);
    end(&w, &a);
}

static void ask_counts_attempts_on_from_the_highest_seen(void **state) {
    (void)state;
    world w = {0};
    const char *files[] = {"one"};
    ask *a = start(&w, 1, files, 10000000, 10000000);
    ty_message *m = answer(w.sent[0]);
    m->env->attempt = 4;
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_REDISPATCHED,
                        ty_pb_new(&tyto__redispatched__descriptor));
    ask_message(a, 0, &m);
    give_error(a, &w, 0, TY_ECHECKSUM, "vit");
    assert_int_equal(env(&w, 1)->attempt, 5);
    assert_int_equal(env(&w, 1)->generation, 2);
    ask_cancel(a);
    end(&w, &a);
}

static void ask_fails_at_once_for_lasting_causes(void **state) {
    (void)state;
    world w = {0};
    const char *files[] = {"one", "two"};
    ask *a = start(&w, 2, files, 10000000, 10000000);
    give_error(a, &w, 1, TY_EIMAGE, "preprocess");
    assert_int_equal(w.failed, TY_EIMAGE);
    assert_int_equal(w.fail_picture, 1);
    assert_string_equal(w.fail_stage, "preprocess");
    assert_string_equal(w.fail_text, "because");
    assert_int_equal(w.n_sent, 3); /* the other picture is cancelled */
    assert_int_equal(env(&w, 2)->body_case, TYTO__ENVELOPE__BODY_CANCEL);
    assert_int_equal(env(&w, 2)->part, 0);
    give_tokens(a, &w, 0, 1); /* ignored */
    assert_int_equal(w.n_sent, 3);
    end(&w, &a);
}

static void ask_gives_up_after_its_sends(void **state) {
    (void)state;
    world w = {0};
    ask *a = start(&w, 0, NULL, 10000000, 10000000);
    for (int i = 0; i < 3; i++) give_error(a, &w, i, TY_ENOMEM, "decoder");
    assert_int_equal(w.n_sent, 3);
    assert_int_equal(w.resent, 2);
    assert_int_equal(w.failed, TY_ENOMEM);
    assert_non_null(strstr(w.fail_text, "sent 3 times"));
    end(&w, &a);
}

static void ask_goes_on_as_long_as_its_answer_moves(void **state) {
    (void)state;
    world w = {0};
    ask *a = start(&w, 0, NULL, 10000000, 10000000);
    for (int i = 0; i < 8; i++) {
        give_chunk(a, &w, i, i, (char[2]){(char)('a' + i), '\0'});
        give_error(a, &w, i, i % 2 ? TY_EINTERNAL : TY_EIO,
                   "decoder"); /* attempt 4 and more: not poison */
        assert_int_equal(w.n_sent, i + 2);
        assert_int_equal(env(&w, i + 1)->task->decode->n_forced, i + 1);
    }
    give_error(a, &w, 8, TY_EIO, "decoder");
    assert_int_equal(w.n_sent, 10);
    give_error(a, &w, 9, TY_EIO, "decoder"); /* three sends without a token */
    assert_int_equal(w.failed, TY_EIO);
    assert_string_equal(w.text, "abcdefgh");
    end(&w, &a);
}

static void ask_blames_a_task_that_broke_three_workers(void **state) {
    (void)state;
    world w = {0};
    ask *a = start(&w, 0, NULL, 10000000, 10000000);
    ty_message *m = answer(w.sent[0]);
    m->env->attempt = 3; /* the broker gave it to three workers */
    ty_message_set_error(m, TY_EINTERNAL, "3 workers died with this task", "decoder");
    ask_message(a, 0, &m);
    assert_int_equal(w.n_sent, 1);
    assert_int_equal(w.failed, TY_EINTERNAL);
    end(&w, &a);
}

static void ask_sends_again_what_is_not_heard_of(void **state) {
    (void)state;
    world w = {0};
    ask *a = start(&w, 0, NULL, 10000000, 1000);
    (void)nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
    ask_tick(a);
    assert_int_equal(w.n_sent, 3);
    assert_int_equal(env(&w, 1)->body_case, TYTO__ENVELOPE__BODY_CANCEL);
    assert_int_equal(env(&w, 1)->generation, 1);
    assert_int_equal(env(&w, 2)->generation, 2);
    ask_cancel(a);
    end(&w, &a);
}

static void ask_fails_at_its_deadline(void **state) {
    (void)state;
    world w = {0};
    const char *files[] = {"one"};
    ask *a = start(&w, 1, files, 2000, 10000000);
    (void)nanosleep(&(struct timespec){.tv_nsec = 4000000}, NULL);
    ask_tick(a);
    assert_int_equal(w.failed, TY_ETIMEOUT);
    assert_non_null(strstr(w.fail_text, "picture"));
    assert_true(ask_finished(a));
    end(&w, &a);
}

static int64_t due_in_ms(const ask *a) {
    return (ask_due_us(a) - ty_now_us()) / 1000;
}

static void ask_says_when_it_is_due(void **state) {
    (void)state;
    world w = {0};
    const char *files[] = {"one"};
    ask *a = start(&w, 1, files, 60000000, 30000000);
    assert_in_range(due_in_ms(a), 20000, 30000); /* no word of the picture */
    w.up = -1;
    ask_link_lost(a, 0);
    assert_in_range(due_in_ms(a), 0, 1000); /* it is sent again soon */
    ask_cancel(a);
    end(&w, &a);
    w = (world){0};
    a = start(&w, 1, files, 10000000, 30000000);
    assert_in_range(due_in_ms(a), 5000, 10000); /* its deadline */
    ask_cancel(a);
    end(&w, &a);
}

static void ask_refuses_a_gap_and_a_wrong_tensor(void **state) {
    (void)state;
    world w = {0};
    ask *a = start(&w, 0, NULL, 10000000, 10000000);
    give_chunk(a, &w, 0, 0, "a");
    give_chunk(a, &w, 0, 2, "c"); /* token 1 is missing */
    assert_int_equal(w.n_sent, 3);
    assert_int_equal(env(&w, 2)->generation, 2);
    assert_string_equal(w.text, "a");
    ask_cancel(a);
    end(&w, &a);

    w = (world){0};
    const char *files[] = {"one"};
    a = start(&w, 1, files, 10000000, 10000000);
    ty_message *m = answer(w.sent[0]);
    ty_message_set_body(m, TYTO__ENVELOPE__BODY_RESULT, ty_pb_new(&tyto__result__descriptor));
    ask_message(a, 0, &m); /* no tensor at all */
    assert_int_equal(w.failed, TY_ENOTFOUND);
    end(&w, &a);
}

int main(void) {
    ty_log_init("ask", TY_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ask_sends_pictures_then_the_decode_task),
        cmocka_unit_test(ask_sends_only_what_the_cache_does_not_know),
        cmocka_unit_test(ask_skips_vision_without_pictures),
        cmocka_unit_test(ask_sends_the_same_picture_once),
        cmocka_unit_test(ask_sends_again_when_the_broker_is_lost),
        cmocka_unit_test(ask_counts_attempts_on_from_the_highest_seen),
        cmocka_unit_test(ask_fails_at_once_for_lasting_causes),
        cmocka_unit_test(ask_gives_up_after_its_sends),
        cmocka_unit_test(ask_goes_on_as_long_as_its_answer_moves),
        cmocka_unit_test(ask_blames_a_task_that_broke_three_workers),
        cmocka_unit_test(ask_sends_again_what_is_not_heard_of),
        cmocka_unit_test(ask_fails_at_its_deadline),
        cmocka_unit_test(ask_says_when_it_is_due),
        cmocka_unit_test(ask_refuses_a_gap_and_a_wrong_tensor),
    };
    return cmocka_run_group_tests_name("ask", tests, NULL, NULL);
}
