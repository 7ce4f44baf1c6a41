/* decoder.c, task.c: the engine's promises with a toy model: each request ends exactly once, in an
 * answer or a typed error, whatever comes beside it, and its pages come back. */
#include "tests/support/ty_test.h"

#include "common/base/clock.h"
#include "services/decoder/decoder.h"
#include "services/decoder/kv.h"
#include "tests/support/process.h"
#include "tests/support/toy_llama.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXT = 64, WIDTH = 32, MAX_TOKENS = 128 };

static ty_pool *pool;
static char model_path[256];

static decoder *make(decoder_options o) {
    decoder *d = NULL;
    ty_err err = {0};
    o.run.pool = pool;
    if (decoder_create(&d, model_path, &o, &err) != TY_OK) fail_msg("%s", err.text);
    return d;
}

/* A request and what came of it. */
typedef struct {
    decoder *d;
    ty_chat_request chat;
    decoder_request r;
    uint64_t handle;
    int n_done, n;
    ty_status st;
    char error[512];
    int32_t id[MAX_TOKENS];
    char text[4096], streamed[4096];
    decoder_result result;
    int cancel_at; /* cancels itself at this token; -1 never */
} job;

static void on_token(void *ctx, const decoder_token *t, int index, const char *text, size_t len) {
    job *j = ctx;
    assert_int_equal(j->n_done, 0);
    assert_int_equal(index, j->n);
    assert_true(j->n < MAX_TOKENS);
    j->id[j->n++] = t->id;
    strncat(j->streamed, text, len);
    if (index == j->cancel_at) decoder_cancel(j->d, j->handle);
}

static void on_done(void *ctx, ty_status st, const decoder_result *r, const ty_err *err) {
    job *j = ctx;
    j->n_done++;
    j->st = st;
    if (st != TY_OK) {
        assert_int_equal(err->code, st);
        snprintf(j->error, sizeof(j->error), "%s", err->text);
        return;
    }
    j->result = *r;
    assert_int_equal(r->n_token, j->n);
    snprintf(j->text, sizeof(j->text), "%.*s", (int)r->text_len, r->text);
    assert_string_equal(j->text, j->streamed);
}

static job *new_job(decoder *d, const char *prompt, int max_tokens) {
    job *j = calloc(1, sizeof(*j));
    assert_non_null(j);
    assert_int_equal(ty_chat_request_init(&j->chat), TY_OK);
    j->d = d;
    j->cancel_at = -1;
    j->chat.prompt = strdup(prompt);
    j->chat.sampling.max_tokens = max_tokens;
    j->chat.sampling.ignore_eos = true;
    j->r = (decoder_request){.request = &j->chat,
                             .sink = {.ctx = j, .on_token = on_token, .on_done = on_done}};
    return j;
}

static void free_job(job *j) {
    ty_chat_request_clear(&j->chat);
    free(j);
}

static ty_status submit(job *j) {
    ty_err err = {0};
    ty_status st = decoder_submit(j->d, &j->r, &j->handle, &err);
    if (st != TY_OK) snprintf(j->error, sizeof(j->error), "%s", err.text);
    return st;
}

static void run_all(decoder *d) {
    for (int i = 0; decoder_step(d) > 0; i++) assert_true(i < 100000);
    decoder_stats s;
    decoder_get_stats(d, &s);
    assert_int_equal(s.pages_used, 0);
    assert_int_equal(s.pages_cached + s.pages_free, s.pages_total);
    assert_int_equal(s.live_rows, 0);
    assert_int_equal(s.live_requests, 0);
    assert_int_equal(s.queued, 0);
}

static job *run_one(decoder *d, const char *prompt, int max_tokens) {
    job *j = new_job(d, prompt, max_tokens);
    if (submit(j) != TY_OK) fail_msg("%s", j->error);
    run_all(d);
    assert_int_equal(j->n_done, 1);
    return j;
}

static void an_idle_decoder_has_nothing_to_do(void **state) {
    (void)state;
    decoder *d = make((decoder_options){0});
    assert_int_equal(decoder_step(d), 0);
    decoder_cancel(d, 77);
    decoder_destroy(&d);
}

static void max_tokens_ends_an_answer(void **state) {
    (void)state;
    decoder *d = make((decoder_options){0});
    job *j = run_one(d, "Hello there", 9);
    assert_int_equal(j->st, TY_OK);
    assert_int_equal(j->n, 9);
    assert_int_equal(j->result.finish, DECODER_LENGTH);
    assert_true(j->result.queue_us >= 0 && j->result.prefill_us > 0 && j->result.decode_us > 0);
    free_job(j);
    j = run_one(d, "Hello there", 0);
    assert_int_equal(j->st, TY_OK);
    assert_int_equal(j->n, 0);
    free_job(j);
    decoder_destroy(&d);
}

static void the_context_ends_an_answer(void **state) {
    (void)state;
    decoder *d = make((decoder_options){0});
    job *j = run_one(d, "Hello there", 5000);
    assert_int_equal(j->st, TY_OK);
    assert_int_equal(j->result.n_prompt + j->n, CONTEXT);
    assert_int_equal(j->result.finish, DECODER_LENGTH);
    free_job(j);
    decoder_destroy(&d);
}

static void a_prompt_longer_than_the_context_is_refused_with_both_numbers(void **state) {
    (void)state;
    decoder *d = make((decoder_options){.context = 32});
    char prompt[100] = "";
    memset(prompt, 'q', sizeof(prompt) - 1);
    job *j = new_job(d, prompt, 4);
    assert_int_equal(submit(j), TY_ECONTEXT);
    assert_non_null(strstr(j->error, "32"));
    assert_int_equal(j->n_done, 0);
    free_job(j);
    decoder_destroy(&d);
}

static void a_request_that_could_never_start_is_refused(void **state) {
    (void)state;
    size_t page = 2 * 2 * 2 * 8 * KV_PAGE * sizeof(float);
    decoder *d = make((decoder_options){.kv_bytes = 2 * page, .max_rows = 2});
    job *j = new_job(d, "Hello", 50);
    assert_int_equal(submit(j), TY_ELIMIT);
    assert_non_null(strstr(j->error, "--kv-mib"));
    j->chat.sampling.max_tokens = 4;
    j->chat.sampling.num_beams = 3;
    assert_int_equal(submit(j), TY_ELIMIT);
    j->chat.sampling.num_beams = 1;
    assert_int_equal(submit(j), TY_OK);
    run_all(d);
    assert_int_equal(j->n_done, 1);
    free_job(j);
    decoder_destroy(&d);
}

static void a_full_queue_is_an_overload(void **state) {
    (void)state;
    decoder *d = make((decoder_options){.max_queue = 2});
    job *j[3];
    for (int i = 0; i < 3; i++) {
        j[i] = new_job(d, "Hello", 3);
        assert_int_equal(submit(j[i]), i < 2 ? TY_OK : TY_EOVERLOAD);
    }
    run_all(d);
    assert_int_equal(j[0]->n_done + j[1]->n_done, 2);
    assert_int_equal(j[2]->n_done, 0);
    for (int i = 0; i < 3; i++) free_job(j[i]);
    decoder_destroy(&d);
}

static void pictures_that_do_not_match_are_refused(void **state) {
    (void)state;
    decoder *d = make((decoder_options){0});
    float visual[2 * 3 * WIDTH] = {0};
    job *j = new_job(d, "See <image> and\n <image> there", 3);
    assert_int_equal(submit(j), TY_EINVAL);
    j->r.visual = visual;
    j->r.visual_rows = 3;
    j->r.n_visual = 1;
    assert_int_equal(submit(j), TY_EINVAL);
    j->r.n_visual = 2;
    visual[7] = NAN;
    assert_int_equal(submit(j), TY_EINVAL);
    assert_non_null(strstr(j->error, "finite"));
    visual[7] = 0.5f;
    assert_int_equal(submit(j), TY_OK);
    run_all(d);
    assert_int_equal(j->st, TY_OK);
    assert_int_equal(j->result.n_visual, 6);
    free_job(j);
    decoder_destroy(&d);
}

static void logprobs_with_beams_are_refused(void **state) {
    (void)state;
    decoder *d = make((decoder_options){0});
    job *j = new_job(d, "Hello", 3);
    j->chat.sampling.num_beams = 2;
    j->chat.sampling.logprobs = true;
    assert_int_equal(submit(j), TY_EUNSUPPORTED);
    free_job(j);
    decoder_destroy(&d);
}

static void cancel_ends_a_request_and_frees_its_pages_at_once(void **state) {
    (void)state;
    decoder *d = make((decoder_options){0});
    job *j = new_job(d, "Hello there", 40), *k = new_job(d, "Hi", 40);
    assert_int_equal(submit(j), TY_OK);
    assert_int_equal(submit(k), TY_OK);
    decoder_cancel(d, k->handle); /* still queued */
    assert_int_equal(k->n_done, 1);
    assert_int_equal(k->st, TY_ECANCELED);
    for (int i = 0; i < 5; i++) assert_int_equal(decoder_step(d), 1);
    decoder_stats s;
    decoder_get_stats(d, &s);
    assert_true(s.pages_used > 0);
    decoder_cancel(d, j->handle);
    assert_int_equal(j->n_done, 1);
    assert_int_equal(j->st, TY_ECANCELED);
    decoder_get_stats(d, &s);
    assert_int_equal(s.pages_used, 0);
    decoder_cancel(d, j->handle);
    assert_int_equal(j->n_done, 1);
    free_job(j);
    free_job(k);
    decoder_destroy(&d);
}

static void a_sink_may_cancel_its_own_request(void **state) {
    (void)state;
    decoder *d = make((decoder_options){0});
    for (int beams = 1; beams <= 3; beams += 2) {
        job *j = new_job(d, "Hello there", 10);
        j->chat.sampling.num_beams = beams;
        j->cancel_at = 2;
        assert_int_equal(submit(j), TY_OK);
        run_all(d);
        assert_int_equal(j->n_done, 1);
        assert_int_equal(j->st, TY_ECANCELED);
        assert_int_equal(j->n, 3);
        free_job(j);
    }
    decoder_destroy(&d);
}

static void a_deadline_ends_what_waits_and_what_runs(void **state) {
    (void)state;
    decoder *d = make((decoder_options){.max_rows = 1});
    job *j = new_job(d, "Hello there", 40), *k = new_job(d, "Hi", 40);
    assert_int_equal(submit(j), TY_OK);
    assert_int_equal(decoder_step(d), 1);
    k->r.deadline_unix_us = ty_now_unix_us() - 1;
    assert_int_equal(submit(k), TY_OK);
    assert_int_equal(decoder_step(d), 1);
    assert_int_equal(k->st, TY_ETIMEOUT);
    assert_int_equal(k->n, 0);
    free_job(k);
    k = new_job(d, "Hi", 40);
    k->r.deadline_unix_us = ty_now_unix_us() + 20000;
    decoder_cancel(d, j->handle);
    assert_int_equal(submit(k), TY_OK);
    while (ty_now_unix_us() <= k->r.deadline_unix_us) assert_true(decoder_step(d) <= 1);
    run_all(d);
    assert_int_equal(k->n_done, 1);
    assert_true(k->st == TY_ETIMEOUT || k->n == 40);
    free_job(j);
    free_job(k);
    decoder_destroy(&d);
}

static void a_stop_string_ends_an_answer_before_it(void **state) {
    (void)state;
    decoder *d = make((decoder_options){0});
    job *whole = run_one(d, "Hello there", 30);
    const char *text = whole->text;
    size_t n = strlen(text), from = n / 2;
    while (from > 0 && ((unsigned char)text[from] & 0xC0) == 0x80) from--;
    job *j = new_job(d, "Hello there", 30);
    snprintf(j->chat.sampling.stop[0], TY_STOP_BYTES, "%.6s", text + from);
    j->chat.sampling.n_stop = 1;
    assert_int_equal(submit(j), TY_OK);
    run_all(d);
    const char *first = strstr(text, j->chat.sampling.stop[0]);
    assert_non_null(first);
    assert_int_equal(strlen(j->text), first - text);
    assert_memory_equal(j->text, text, strlen(j->text));
    assert_int_equal(j->result.finish, DECODER_STOP);
    assert_true(j->n < whole->n);
    free_job(j);
    free_job(whole);
    decoder_destroy(&d);
}

static void sampling_is_the_same_alone_and_in_a_batch(void **state) {
    (void)state;
    decoder *d = make((decoder_options){0});
    job *alone[8], *mixed[8];
    for (int i = 0; i < 8; i++)
        for (int k = 0; k < 2; k++) {
            job *j = new_job(d, i % 2 ? "Hello there" : "What is it?", 12);
            j->chat.sampling.temperature = 1.5;
            j->chat.sampling.seed = (uint64_t)i / 4;
            (k ? mixed : alone)[i] = j;
        }
    for (int i = 0; i < 8; i++) {
        assert_int_equal(submit(alone[i]), TY_OK);
        run_all(d);
    }
    for (int i = 0; i < 8; i++) assert_int_equal(submit(mixed[i]), TY_OK);
    run_all(d);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(mixed[i]->n, 12);
        assert_memory_equal(alone[i]->id, mixed[i]->id, sizeof(alone[i]->id));
    }
    assert_memory_equal(alone[0]->id, alone[2]->id, sizeof(alone[0]->id)); /* the same seed */
    assert_true(memcmp(alone[0]->id, alone[4]->id, sizeof(alone[0]->id)) != 0);
    assert_int_equal(mixed[0]->result.max_batch, 8);
    for (int i = 0; i < 8; i++) {
        free_job(alone[i]);
        free_job(mixed[i]);
    }
    decoder_destroy(&d);
}

static void logits_that_are_no_numbers_fail_the_request_alone(void **state) {
    (void)state;
    const char *path = test_path("%s/wild.gguf", test_temp_dir());
    toy_llama t = toy_llama_default();
    t.scale = 1e30f;
    toy_llama_write(&t, path);
    decoder *d = NULL;
    decoder_options o = {.run.pool = pool};
    assert_int_equal(decoder_create(&d, path, &o, NULL), TY_OK);
    job *j = new_job(d, "Hello", 3);
    assert_int_equal(submit(j), TY_OK);
    run_all(d);
    assert_int_equal(j->n_done, 1);
    assert_int_equal(j->st, TY_EINTERNAL);
    assert_non_null(strstr(j->error, "finite"));
    free_job(j);
    decoder_destroy(&d);
}

static void destroy_ends_what_is_open(void **state) {
    (void)state;
    decoder *d = make((decoder_options){.max_rows = 1});
    job *j = new_job(d, "Hello there", 40), *k = new_job(d, "Hi", 40);
    assert_int_equal(submit(j), TY_OK);
    assert_int_equal(submit(k), TY_OK);
    assert_int_equal(decoder_step(d), 2);
    decoder_destroy(&d);
    assert_int_equal(j->st, TY_ECANCELED);
    assert_int_equal(k->st, TY_ECANCELED);
    assert_int_equal(j->n_done + k->n_done, 2);
    free_job(j);
    free_job(k);
}

/* Random requests, cancels and deadlines through few pages: all end once, answers equal those that the
 * same requests get alone, and nothing leaks. */
static void a_random_life_leaves_nothing_behind(void **state) {
    (void)state;
    enum { JOBS = 300 };
    static const char *const PROMPT[] = {"Hello there", "What is the capital of France?", "x",
                                         "A longer prompt that takes a few pages"};
    static job *all[JOBS];
    size_t page = 2 * 2 * 2 * 8 * KV_PAGE * sizeof(float);
    decoder *d = make((decoder_options){
        .kv_bytes = 14 * page, .max_rows = 6, .prefill_chunk = 7, .max_queue = 12});
    decoder *lone = make((decoder_options){.prefix_mib = -1}); /* every prompt from its first row */
    unsigned r = 11;
    int answered = 0, ended = 0;
    for (int i = 0; i < JOBS; i++) {
        r = r * 1664525u + 1013904223u;
        job *j = all[i] = new_job(d, PROMPT[(r >> 9) % 4], (int)(r >> 12) % 24);
        j->chat.sampling.num_beams = (r >> 17) % 3 == 0 ? 1 + (int)(r >> 19) % 3 : 1;
        j->chat.sampling.temperature = (r >> 22) % 2 ? 0.8 : 0;
        j->chat.sampling.seed = r;
        if ((r >> 24) % 8 == 0) j->r.deadline_unix_us = ty_now_unix_us() + (r >> 8) % 3000;
        if ((r >> 27) % 8 == 0) j->cancel_at = (int)(r >> 10) % 5;
        if (submit(j) != TY_OK) j->n_done = -1; /* refused: queue full or too many beams' pages */
        for (unsigned k = 0; k < (r >> 14) % 5; k++) (void)decoder_step(d);
        job *other = all[(r >> 11) % (unsigned)(i + 1)];
        if ((r >> 29) == 0 && other->n_done == 0) decoder_cancel(d, other->handle);
    }
    run_all(d);
    for (int i = 0; i < JOBS; i++) {
        job *j = all[i];
        if (j->n_done == -1) continue;
        assert_int_equal(j->n_done, 1);
        ended++;
        if (j->st == TY_OK) {
            answered++;
            job *k = new_job(lone, j->chat.prompt, 0);
            k->chat.sampling = j->chat.sampling;
            assert_int_equal(submit(k), TY_OK);
            run_all(lone);
            assert_int_equal(k->n, j->n);
            assert_memory_equal(k->id, j->id, sizeof(k->id));
            free_job(k);
        } else {
            assert_true(j->st == TY_ECANCELED || j->st == TY_ETIMEOUT);
        }
    }
    assert_true(answered > 50 && ended > answered);
    for (int i = 0; i < JOBS; i++) free_job(all[i]);
    decoder_destroy(&d);
    decoder_destroy(&lone);
}

static int setup(void **state) {
    (void)state;
    toy_llama t = toy_llama_default();
    snprintf(model_path, sizeof(model_path), "%s/toy.gguf", test_temp_dir());
    toy_llama_write(&t, model_path);
    return ty_pool_create(&pool, 2, NULL) == TY_OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    ty_pool_destroy(&pool);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_idle_decoder_has_nothing_to_do),
        cmocka_unit_test(max_tokens_ends_an_answer),
        cmocka_unit_test(the_context_ends_an_answer),
        cmocka_unit_test(a_prompt_longer_than_the_context_is_refused_with_both_numbers),
        cmocka_unit_test(a_request_that_could_never_start_is_refused),
        cmocka_unit_test(a_full_queue_is_an_overload),
        cmocka_unit_test(pictures_that_do_not_match_are_refused),
        cmocka_unit_test(logprobs_with_beams_are_refused),
        cmocka_unit_test(cancel_ends_a_request_and_frees_its_pages_at_once),
        cmocka_unit_test(a_sink_may_cancel_its_own_request),
        cmocka_unit_test(a_deadline_ends_what_waits_and_what_runs),
        cmocka_unit_test(a_stop_string_ends_an_answer_before_it),
        cmocka_unit_test(sampling_is_the_same_alone_and_in_a_batch),
        cmocka_unit_test(logits_that_are_no_numbers_fail_the_request_alone),
        cmocka_unit_test(destroy_ends_what_is_open),
        cmocka_unit_test(a_random_life_leaves_nothing_behind),
    };
    return cmocka_run_group_tests_name("decoder", tests, setup, teardown);
}
