/* decoder.c, task.c: a prompt that goes on from the pages of earlier ones gets the answer of a cold run: the
 * same tokens, and their log-probabilities bit for bit. */
#include "tests/support/ty_test.h"

#include "common/base/clock.h"
#include "services/decoder/decoder.h"
#include "services/decoder/kv.h"
#include "tests/support/process.h"
#include "tests/support/toy_llama.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXT = 1024, WIDTH = 32, ROWS = 5, TOKENS = 24, PICTURES = 4 };

static ty_pool *pool;
static char model_path[2][256]; /* f32, q8_0 */
static float picture[PICTURES][ROWS * WIDTH];

static decoder *make(int model, decoder_options o) {
    decoder *d = NULL;
    ty_err err = {0};
    o.run.pool = pool;
    if (decoder_create(&d, model_path[model], &o, &err) != TY_OK) fail_msg("%s", err.text);
    return d;
}

typedef struct {
    int n, done;
    int32_t id[TOKENS];
    float logprob[TOKENS], top[TOKENS];
    char text[4096];
    decoder_result r;
} answer;

static void on_token(void *ctx, const decoder_token *t, int index, const char *text, size_t len) {
    (void)text, (void)len;
    answer *a = ctx;
    assert_int_equal(index, a->n);
    a->id[a->n] = t->id;
    a->logprob[a->n] = t->logprob;
    a->top[a->n++] = t->n_top > 1 ? t->top[1].logprob : 0;
}

static void on_done(void *ctx, ty_status st, const decoder_result *r, const ty_err *err) {
    answer *a = ctx;
    if (st != TY_OK) fail_msg("%s", err->text);
    snprintf(a->text, sizeof(a->text), "%.*s", (int)r->text_len, r->text);
    a->r = *r;
    a->done++;
}

/* Submits a prompt whose pictures are picture[p[i]]. */
static void submit(decoder *d, const char *prompt, const int *p, int n_p, int beams, answer *a) {
    static float visual[PICTURES * ROWS * WIDTH];
    ty_chat_request chat;
    ty_err err = {0};
    uint64_t handle;
    memset(a, 0, sizeof(*a));
    assert_int_equal(ty_chat_request_init(&chat), TY_OK);
    chat.prompt = strdup(prompt);
    chat.sampling.max_tokens = TOKENS;
    chat.sampling.ignore_eos = true;
    chat.sampling.num_beams = beams;
    chat.sampling.logprobs = beams == 1;
    chat.sampling.top_logprobs = beams == 1 ? 2 : 0;
    for (int i = 0; i < n_p; i++)
        memcpy(visual + i * ROWS * WIDTH, picture[p[i]], sizeof(picture[0]));
    decoder_request r = {.request = &chat,
                         .visual = visual,
                         .n_visual = n_p,
                         .visual_rows = ROWS,
                         .sink = {.ctx = a, .on_token = on_token, .on_done = on_done}};
    if (decoder_submit(d, &r, &handle, &err) != TY_OK) fail_msg("%s", err.text);
    ty_chat_request_clear(&chat);
}

static void run(decoder *d) {
    while (decoder_step(d) > 0)
        ;
    decoder_stats s;
    decoder_get_stats(d, &s);
    assert_int_equal(s.pages_used, 0);
    assert_int_equal(s.pages_cached + s.pages_free, s.pages_total);
}

static void ask(decoder *d, const char *prompt, const int *p, int n_p, int beams, answer *a) {
    submit(d, prompt, p, n_p, beams, a);
    run(d);
    assert_int_equal(a->done, 1);
    assert_int_equal(a->r.n_cached + a->r.n_prefilled, a->r.n_prompt);
}

static void check_same(const answer *a, const answer *b) {
    assert_string_equal(a->text, b->text);
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->id, b->id, sizeof(a->id));
    assert_memory_equal(a->logprob, b->logprob, sizeof(a->logprob));
    assert_memory_equal(a->top, b->top, sizeof(a->top));
}

/* Six turns, pictures in the first, third and fifth: each whole prompt against a decoder that keeps
 * nothing. */
static void converse(int model, decoder_options o) {
    static const int shown[] = {0, 1, 2};
    static char prompt[8192];
    decoder_options cold_o = o;
    cold_o.prefix_mib = -1;
    decoder *warm = make(model, o), *cold = make(model, cold_o);
    answer a, b;
    int had = 0;
    prompt[0] = '\0';
    for (int turn = 0; turn < 6; turn++) {
        size_t n = strlen(prompt);
        snprintf(prompt + n, sizeof(prompt) - n,
                 "%sHuman: %sWhat is it, number %d?\nAI: ", turn ? "\n" : "",
                 turn % 2 ? "" : "<image>\nHuman: ", turn);
        ask(warm, prompt, shown, turn / 2 + 1, 1, &a);
        ask(cold, prompt, shown, turn / 2 + 1, 1, &b);
        check_same(&a, &b);
        assert_int_equal(b.r.n_cached, 0);
        /* All of the turn before is found, but its last few rows: "AI: " and the answer tokenise
         * differently together. */
        if (turn) assert_in_range(a.r.n_cached, had - 4, a.r.n_prompt - 1);
        had = a.r.n_prompt;
        n = strlen(prompt);
        snprintf(prompt + n, sizeof(prompt) - n, "%s", a.text);
    }
    decoder_destroy(&warm);
    decoder_destroy(&cold);
}

static void a_conversation_reuses_its_turns_exactly(void **state) {
    (void)state;
    converse(0, (decoder_options){0});
}

static void whatever_the_types_and_chunks_are(void **state) {
    (void)state;
    converse(0, (decoder_options){.prefill_chunk = 3});
    converse(0, (decoder_options){.kv = TY_F16});
    converse(0, (decoder_options){.run.compute = TY_COMPUTE_BF16});
    converse(1, (decoder_options){.run.compute = TY_COMPUTE_INT8});
    converse(1, (decoder_options){.run.compute = TY_COMPUTE_F32, .prefill_chunk = 7});
}

static void the_same_prompt_again_computes_one_row(void **state) {
    (void)state;
    decoder *d = make(0, (decoder_options){0});
    answer a, b;
    ask(d, "Tell me all about it, please.", NULL, 0, 1, &a);
    ask(d, "Tell me all about it, please.", NULL, 0, 1, &b);
    check_same(&a, &b);
    assert_int_equal(a.r.n_prefilled, a.r.n_prompt);
    assert_int_equal(b.r.n_prefilled, 1);
    decoder_destroy(&d);
}

static void another_picture_under_the_same_text_is_another_prompt(void **state) {
    (void)state;
    static const char prompt[] = "Human: <image>\nHuman: What is in this picture?\nAI: ";
    decoder *d = make(0, (decoder_options){0}),
            *cold = make(0, (decoder_options){.prefix_mib = -1});
    answer a, b, c;
    ask(d, prompt, (int[]){0}, 1, 1, &a);
    ask(d, prompt, (int[]){3}, 1, 1, &b); /* differs in its last number alone */
    ask(cold, prompt, (int[]){3}, 1, 1, &c);
    check_same(&b, &c);
    assert_memory_not_equal(a.logprob, b.logprob, sizeof(a.logprob));
    assert_true(b.r.n_cached < b.r.n_prompt - ROWS);
    ask(d, prompt, (int[]){0}, 1, 1, &c);
    check_same(&a, &c);
    assert_int_equal(c.r.n_prefilled, 1);
    decoder_destroy(&d);
    decoder_destroy(&cold);
}

static void beams_reuse_and_leave_their_prompt(void **state) {
    (void)state;
    static const char prompt[] =
        "Human: <image>\nHuman: What is in this picture, in some words?\nAI: ";
    decoder *d = make(0, (decoder_options){0}),
            *cold = make(0, (decoder_options){.prefix_mib = -1});
    answer a, b, c;
    ask(cold, prompt, (int[]){0}, 1, 3, &c);
    ask(d, prompt, (int[]){0}, 1, 3, &a);
    ask(d, prompt, (int[]){0}, 1, 3, &b);
    check_same(&a, &c);
    check_same(&b, &c);
    assert_int_equal(b.r.n_cached, b.r.n_prompt / KV_PAGE * KV_PAGE);
    decoder_destroy(&d);
    decoder_destroy(&cold);
}

/* Those that wait behind the first one's chunk find what it has left while it runs. */
static void a_running_request_shares_its_prompt(void **state) {
    (void)state;
    decoder *d = make(0, (decoder_options){.prefill_chunk = 64});
    char prompt[600];
    answer a[3], cold;
    for (int i = 0; i < 3; i++) {
        snprintf(prompt, sizeof(prompt), "%0100d%0100d of them, number %d", 7, 9, i);
        submit(d, prompt, NULL, 0, 1, &a[i]);
    }
    run(d);
    assert_int_equal(a[0].r.n_cached, 0);
    assert_true(a[1].r.n_cached >= 64 && a[2].r.n_cached >= 128);
    decoder_destroy(&d);
    d = make(0, (decoder_options){.prefix_mib = -1});
    ask(d, prompt, NULL, 0, 1, &cold);
    check_same(&a[2], &cold);
    decoder_destroy(&d);
}

static void a_cancelled_request_leaves_what_was_computed(void **state) {
    (void)state;
    decoder *d = make(0, (decoder_options){.prefill_chunk = 32});
    ty_chat_request chat;
    uint64_t handle;
    answer a;
    decoder_stats s;
    assert_int_equal(ty_chat_request_init(&chat), TY_OK);
    chat.prompt = calloc(1, 512);
    snprintf(chat.prompt, 512, "%0200d", 3);
    decoder_request r = {.request = &chat};
    assert_int_equal(decoder_submit(d, &r, &handle, NULL), TY_OK);
    (void)decoder_step(d);
    decoder_cancel(d, handle);
    decoder_get_stats(d, &s);
    assert_int_equal(s.pages_used, 0);
    assert_int_equal(s.pages_cached, 2);
    ask(d, chat.prompt, NULL, 0, 1, &a);
    assert_int_equal(a.r.n_cached, 32);
    ty_chat_request_clear(&chat);
    decoder_destroy(&d);
}

/* With the least memory that the request needs, kept pages are never in its way. */
static void kept_pages_give_way_to_requests(void **state) {
    (void)state;
    size_t page = (size_t)2 * 2 * 2 * 8 * KV_PAGE * sizeof(float);
    char prompt[256];
    answer a, cold;
    decoder *d = make(0, (decoder_options){.kv_bytes = 11 * page, .context = 9 * KV_PAGE});
    decoder *c = make(0, (decoder_options){.prefix_mib = -1, .context = 9 * KV_PAGE});
    for (int i = 0; i < 30; i++) {
        snprintf(prompt, sizeof(prompt), "%0*d and so on", 20 + 17 * (i % 5), i % 3);
        ask(d, prompt, NULL, 0, 1 + i % 2, &a);
        ask(c, prompt, NULL, 0, 1 + i % 2, &cold);
        check_same(&a, &cold);
    }
    decoder_destroy(&d);
    decoder_destroy(&c);
}

static int setup(void **state) {
    (void)state;
    unsigned r = 3;
    for (int k = 0; k < 2; k++) {
        toy_llama t = toy_llama_default();
        t.context = CONTEXT;
        t.dtype = k ? TY_Q8_0 : TY_F32;
        snprintf(model_path[k], sizeof(model_path[k]), "%s/toy%d.gguf", test_temp_dir(), k);
        toy_llama_write(&t, model_path[k]);
    }
    for (int p = 0; p < PICTURES - 1; p++)
        for (int i = 0; i < ROWS * WIDTH; i++) {
            r = r * 1664525u + 1013904223u;
            picture[p][i] = (float)(r >> 8) / (float)(1 << 23) - 1.0f;
        }
    memcpy(picture[PICTURES - 1], picture[0], sizeof(picture[0]));
    picture[PICTURES - 1][ROWS * WIDTH - 1] += 0.5f;
    return ty_pool_create(&pool, 2, NULL) == TY_OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    ty_pool_destroy(&pool);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_conversation_reuses_its_turns_exactly),
        cmocka_unit_test(whatever_the_types_and_chunks_are),
        cmocka_unit_test(the_same_prompt_again_computes_one_row),
        cmocka_unit_test(another_picture_under_the_same_text_is_another_prompt),
        cmocka_unit_test(beams_reuse_and_leave_their_prompt),
        cmocka_unit_test(a_running_request_shares_its_prompt),
        cmocka_unit_test(a_cancelled_request_leaves_what_was_computed),
        cmocka_unit_test(kept_pages_give_way_to_requests),
    };
    return cmocka_run_group_tests_name("reuse", tests, setup, teardown);
}
