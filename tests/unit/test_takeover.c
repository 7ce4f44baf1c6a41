/* decoder.c, task.c: an answer that another decoder takes over in its middle, with the tokens so far forced on
 * it, is the answer of one decoder: tokens, text as it is streamed, log-probabilities, its end. */
#include "tests/support/ty_test.h"

#include "services/decoder/decoder.h"
#include "tests/support/process.h"
#include "tests/support/toy_llama.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXT = 64, TOKENS = 30 };

static ty_pool *pool;
static char model_path[256];
static const char prompt[] = "Hello there, what is it?";

static decoder *make(int prefix_mib) {
    decoder *d = NULL;
    ty_err err = {0};
    decoder_options o = {.run.pool = pool, .prefix_mib = prefix_mib};
    if (decoder_create(&d, model_path, &o, &err) != TY_OK) fail_msg("%s", err.text);
    return d;
}

typedef struct {
    int first, n, done; /* tokens [first, n) came */
    int32_t id[TOKENS];
    float logprob[TOKENS], top[TOKENS];
    size_t until[TOKENS + 1]; /* bytes of text streamed after so many tokens */
    char text[4096], streamed[4096];
    decoder_result r;
} answer;

static void on_token(void *ctx, const decoder_token *t, int index, const char *text, size_t len) {
    answer *a = ctx;
    assert_int_equal(index, a->n);
    assert_true(index < TOKENS);
    a->id[index] = t->id;
    a->logprob[index] = t->logprob;
    a->top[index] = t->n_top > 1 ? t->top[1].logprob : 0;
    strncat(a->streamed, text, len);
    a->until[++a->n] = strlen(a->streamed);
}

static void on_done(void *ctx, ty_status st, const decoder_result *r, const ty_err *err) {
    answer *a = ctx;
    if (st != TY_OK) fail_msg("%s", err->text);
    a->r = *r;
    a->done++;
    snprintf(a->text, sizeof(a->text), "%.*s", (int)r->text_len, r->text);
}

static ty_status submit(decoder *d, const ty_sampling *s, const int32_t *forced, int n, answer *a,
                        ty_err *err) {
    ty_chat_request chat;
    uint64_t handle;
    memset(a, 0, sizeof(*a));
    a->first = a->n = n;
    assert_int_equal(ty_chat_request_init(&chat), TY_OK);
    chat.prompt = strdup(prompt);
    chat.sampling = *s;
    decoder_request r = {.request = &chat,
                         .forced = forced,
                         .n_forced = n,
                         .sink = {.ctx = a, .on_token = on_token, .on_done = on_done}};
    ty_status st = decoder_submit(d, &r, &handle, err);
    ty_chat_request_clear(&chat);
    return st;
}

static void run(decoder *d, const ty_sampling *s, const int32_t *forced, int n, answer *a) {
    ty_err err = {0};
    if (submit(d, s, forced, n, a, &err) != TY_OK) fail_msg("%s", err.text);
    while (decoder_step(d) > 0)
        ;
    assert_int_equal(a->done, 1);
    decoder_stats stats;
    decoder_get_stats(d, &stats);
    assert_int_equal(stats.pages_used, 0);
}

static void check_rest(const answer *whole, const answer *rest, int n) {
    assert_int_equal(rest->n, whole->n);
    for (int i = n; i < whole->n; i++) {
        assert_int_equal(rest->id[i], whole->id[i]);
        assert_memory_equal(&rest->logprob[i], &whole->logprob[i], sizeof(float));
        assert_memory_equal(&rest->top[i], &whole->top[i], sizeof(float));
    }
    assert_string_equal(rest->streamed, whole->streamed + whole->until[n]);
    assert_string_equal(rest->text, whole->text);
    assert_int_equal(rest->r.finish, whole->r.finish);
    assert_int_equal(rest->r.n_token, whole->r.n_token);
    assert_int_equal(rest->r.n_prompt, whole->r.n_prompt);
}

static ty_sampling greedy(void) {
    ty_sampling s;
    ty_sampling_default(&s);
    s.max_tokens = TOKENS;
    s.ignore_eos = true;
    return s;
}

/* Cut everywhere, taken over by a decoder that never saw it and by the one that has it all. */
static void cut_everywhere(ty_sampling s) {
    decoder *cold = make(-1), *warm = make(0);
    answer whole, rest;
    run(warm, &s, NULL, 0, &whole);
    assert_true(whole.n > 1);
    for (int n = 0; n <= whole.n; n++) {
        run(cold, &s, whole.id, n, &rest);
        check_rest(&whole, &rest, n);
        run(warm, &s, whole.id, n, &rest);
        check_rest(&whole, &rest, n);
        if (n < whole.n) assert_int_equal(rest.r.n_prefilled, 1);
    }
    decoder_destroy(&cold);
    decoder_destroy(&warm);
}

static void greedy_goes_on(void **state) {
    (void)state;
    cut_everywhere(greedy());
}

static void sampling_draws_on(void **state) {
    (void)state;
    ty_sampling s = greedy();
    s.temperature = 1.3;
    s.top_k = 40;
    s.top_p = 0.95;
    s.seed = 77;
    s.has_seed = true;
    cut_everywhere(s);
}

static void rules_about_repetition_see_the_forced_tokens(void **state) {
    (void)state;
    ty_sampling s = greedy();
    s.repetition_penalty = 1.4;
    s.no_repeat_ngram_size = 2;
    cut_everywhere(s);
    s.temperature = 0.9;
    s.seed = 3;
    cut_everywhere(s);
}

static void logprobs_go_on(void **state) {
    (void)state;
    ty_sampling s = greedy();
    s.logprobs = true;
    s.top_logprobs = 3;
    s.repetition_penalty = 1.2;
    cut_everywhere(s);
}

/* The stop string lies across tokens, so that a cut falls into it: what was held back stays so. */
static void a_stop_string_is_found_across_the_cut(void **state) {
    (void)state;
    ty_sampling s = greedy();
    decoder *d = make(-1);
    answer whole;
    run(d, &s, NULL, 0, &whole);
    decoder_destroy(&d);
    size_t from = strlen(whole.text) * 2 / 3;
    while (from > 0 && ((unsigned char)whole.text[from] & 0xC0) == 0x80) from--;
    snprintf(s.stop[0], TY_STOP_BYTES, "%.9s", whole.text + from);
    s.n_stop = 1;
    cut_everywhere(s);
}

static void the_end_of_text_ends_it(void **state) {
    (void)state;
    ty_sampling s = greedy();
    s.ignore_eos = false;
    s.temperature = 2.5; /* the toy says its end sooner or later */
    decoder *d = make(-1);
    answer whole;
    for (s.seed = 0; s.seed < 2000; s.seed++) {
        run(d, &s, NULL, 0, &whole);
        if (whole.r.finish == DECODER_STOP && whole.n > 2) break;
    }
    decoder_destroy(&d);
    assert_int_equal(whole.r.finish, DECODER_STOP);
    cut_everywhere(s);
}

static void what_cannot_be_a_beginning_is_refused(void **state) {
    (void)state;
    static const int32_t id[CONTEXT + 1] = {5, 6, 7};
    ty_sampling s = greedy();
    decoder *d = make(0);
    answer a;
    ty_err err = {0};
    s.max_tokens = 2;
    assert_int_equal(submit(d, &s, id, 3, &a, &err), TY_EINVAL);
    assert_non_null(strstr(err.text, "ends after 2"));
    s.max_tokens = 0;
    assert_int_equal(submit(d, &s, id, 1, &a, &err), TY_EINVAL);
    s.max_tokens = 9;
    assert_int_equal(submit(d, &s, id, CONTEXT + 1, &a, &err), TY_EINVAL);
    assert_int_equal(submit(d, &s, (int32_t[]){1 << 30}, 1, &a, &err), TY_EINVAL);
    assert_int_equal(submit(d, &s, (int32_t[]){-1}, 1, &a, &err), TY_EINVAL);
    s.num_beams = 2;
    assert_int_equal(submit(d, &s, id, 1, &a, &err), TY_EINVAL);
    assert_int_equal(decoder_step(d), 0);
    decoder_destroy(&d);
}

static int setup(void **state) {
    (void)state;
    toy_llama t = toy_llama_default();
    snprintf(model_path, sizeof(model_path), "%s/toy.gguf", test_temp_dir());
    toy_llama_write(&t, model_path);
    return ty_pool_create(&pool, 1, NULL) == TY_OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    ty_pool_destroy(&pool);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_goes_on),
        cmocka_unit_test(sampling_draws_on),
        cmocka_unit_test(rules_about_repetition_see_the_forced_tokens),
        cmocka_unit_test(logprobs_go_on),
        cmocka_unit_test(a_stop_string_is_found_across_the_cut),
        cmocka_unit_test(the_end_of_text_ends_it),
        cmocka_unit_test(what_cannot_be_a_beginning_is_refused),
    };
    return cmocka_run_group_tests_name("takeover", tests, setup, teardown);
}
