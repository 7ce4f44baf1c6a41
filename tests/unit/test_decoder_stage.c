/* stage.c of the decoder: jobs of the wire through the engine with a toy model.  The worker's side of a
 * job (worker.h) is played by this file, so that every message and every failure can be looked at. */
#include "tests/support/ty_test.h"

/* The worker's side is this file's: stage.c is compiled here against it. */
#define ty_job_envelope          fake_job_envelope
#define ty_job_tensor_count      fake_job_tensor_count
#define ty_job_tensor            fake_job_tensor
#define ty_job_user              fake_job_user
#define ty_job_set_user          fake_job_set_user
#define ty_job_deadline_unix_us  fake_job_deadline_unix_us
#define ty_job_set_flops         fake_job_set_flops
#define ty_job_set_decode_timing fake_job_set_decode_timing
#define ty_job_chunk             fake_job_chunk
#define ty_job_progress          fake_job_progress
#define ty_job_done              fake_job_done
#define ty_job_fail              fake_job_fail
#include "services/decoder/stage.c"

#include "tests/support/process.h"
#include "tests/support/toy_llama.h"

#include <stdio.h>

enum { WIDTH = 32, ROWS = 3, PICTURES_MAX = 3 };

static decoder_service service;

struct ty_job {
    Tyto__Envelope env;
    Tyto__Task task;
    int n_tensor;
    const char *name;
    ty_tensor tensor[PICTURES_MAX];
    void *user;
    int64_t deadline;
    /* what came of it */
    int n_done, n_chunk, fail_chunk; /* fail_chunk: the n-th chunk cannot be sent; -1 never */
    ty_status st;
    char error[512], streamed[4096];
    Tyto__Progress__State told[8];
    int n_told;
    uint32_t next_token;
    ty_decode_timing timing;
    size_t pieces;
    Tyto__DecodeResult *result;
};

/* ---- the worker's side ---- */

const Tyto__Envelope *ty_job_envelope(const ty_job *j) {
    return &j->env;
}
int ty_job_tensor_count(const ty_job *j) {
    return j->n_tensor;
}
ty_status ty_job_tensor(ty_job *j, int i, const char **name, ty_tensor *t, ty_err *err) {
    (void)err;
    *name = j->name;
    *t = j->tensor[i];
    return TY_OK;
}
void *ty_job_user(const ty_job *j) {
    return j->user;
}
void ty_job_set_user(ty_job *j, void *user) {
    j->user = user;
}
int64_t ty_job_deadline_unix_us(const ty_job *j) {
    return j->deadline;
}
void ty_job_set_flops(ty_job *j, double flops) {
    (void)j;
    assert_true(flops >= 0);
}
void ty_job_set_decode_timing(ty_job *j, const ty_decode_timing *t) {
    assert_true(t->queue_us < 60000000 && t->prefill_us < 60000000 && t->decode_us < 60000000);
    j->timing = *t;
}
ty_status ty_job_chunk(ty_job *j, Tyto__Chunk *c, ty_err *err) {
    assert_int_equal(j->n_done, 0);
    assert_true(service.chunk_us > 0 || c->n_tokens == 1);
    assert_int_equal(c->first, j->next_token);
    j->next_token += (uint32_t)c->n_tokens;
    for (size_t i = 0; i < c->n_tokens; i++) {
        strncat(j->streamed, c->tokens[i]->text, sizeof(j->streamed) - strlen(j->streamed) - 1);
        j->pieces += c->tokens[i]->piece.len + c->tokens[i]->n_top;
    }
    bool fails = j->n_chunk++ == j->fail_chunk;
    tyto__chunk__free_unpacked(c, NULL);
    return fails ? ty_fail(err, TY_ENOMEM, "no") : TY_OK;
}
void ty_job_progress(ty_job *j, Tyto__Progress__State state) {
    assert_int_equal(j->n_done, 0);
    assert_int_equal(j->n_chunk, 0);
    j->told[j->n_told++ % 8] = state;
}
void ty_job_done(ty_job *j, Tyto__DecodeResult *r) {
    j->n_done++;
    j->result = r;
}
void ty_job_fail(ty_job *j, ty_status st, const char *text) {
    j->n_done++;
    j->st = st;
    snprintf(j->error, sizeof(j->error), "%s", text);
}

/* ---- jobs ---- */

static decoder *d;
static ty_pool *pool;
static float PIXELS[PICTURES_MAX][ROWS * WIDTH];

static ty_job *new_job(const char *prompt, int n_picture) {
    ty_job *j = calloc(1, sizeof(*j));
    ty_chat_request r;
    assert_non_null(j);
    assert_int_equal(ty_chat_request_init(&r), TY_OK);
    r.prompt = strdup(prompt);
    r.sampling.max_tokens = 6;
    r.sampling.ignore_eos = true;
    tyto__envelope__init(&j->env);
    tyto__task__init(&j->task);
    j->env.task = &j->task;
    assert_int_equal(ty_chat_codec_encode(&r, &j->task.decode, NULL), TY_OK);
    ty_chat_request_clear(&r);
    j->name = "visual_tokens";
    j->n_tensor = n_picture;
    j->fail_chunk = -1;
    for (int i = 0; i < n_picture; i++)
        j->tensor[i] = (ty_tensor){.dtype = TY_F32,
                                   .n_dim = 2,
                                   .shape = {ROWS, WIDTH},
                                   .data = PIXELS[i],
                                   .size_bytes = sizeof(PIXELS[i])};
    return j;
}

static void free_job(ty_job *j) {
    tyto__decode_task__free_unpacked(j->task.decode, NULL);
    if (j->result) tyto__decode_result__free_unpacked(j->result, NULL);
    free(j);
}

static void run_all(void) {
    while (decoder_stage.step(&service) > 0) {
    }
    decoder_stats s;
    decoder_get_stats(d, &s);
    assert_int_equal(s.pages_used, 0);
}

static void a_job_streams_and_ends_with_the_whole_answer(void **state) {
    (void)state;
    ty_job *j = new_job("See <image> and <image> there", 2);
    decoder_stage.submit(&service, j);
    run_all();
    assert_int_equal(j->n_done, 1);
    if (!j->result) fail_msg("%s", j->error);
    assert_string_equal(j->result->text, j->streamed);
    assert_string_equal(j->result->finish_reason, "length");
    assert_int_equal(j->result->completion_tokens, 6);
    assert_int_equal(j->result->n_ids, 6);
    assert_int_equal(j->result->visual_tokens, 2 * ROWS);
    assert_true(j->result->prompt_tokens > 2 * ROWS);
    assert_int_equal(j->n_chunk, 6);
    assert_int_equal(j->timing.batch, 1);
    assert_int_equal(j->pieces, 0);
    free_job(j);
}

/* The first at once; the others together, when another job comes or the answer ends, and nothing is lost in a
 * failure between. */
static void tokens_close_together_travel_together(void **state) {
    (void)state;
    service.chunk_us = INT64_C(60000000);
    ty_job *j = new_job("Hello there", 0), *k = new_job("Hello there", 0);
    j->task.decode->sampling->logprobs = true;
    decoder_stage.submit(&service, j);
    for (int i = 0; i < 3; i++) decoder_stage.step(&service);
    assert_int_equal(j->n_chunk, 1);
    assert_int_equal(j->next_token, 1);
    decoder_stage.submit(&service, k);
    assert_int_equal(j->n_chunk, 2);
    assert_int_equal(j->next_token, 3);
    k->fail_chunk = 1;
    run_all();
    assert_int_equal(j->n_chunk, 3);
    assert_int_equal(j->next_token, 6);
    assert_string_equal(j->result->text, j->streamed);
    assert_true(j->pieces >= 6);
    assert_true(k->n_done == 1 && !k->result && k->st == TY_ENOMEM);
    assert_null(service.open);
    service.chunk_us = 0;
    free_job(j);
    free_job(k);
}

static void jobs_at_once_share_batches(void **state) {
    (void)state;
    ty_job *j[8];
    for (int i = 0; i < 8; i++) {
        j[i] = new_job("Hello there", 0);
        decoder_stage.submit(&service, j[i]);
    }
    run_all();
    for (int i = 0; i < 8; i++) {
        assert_int_equal(j[i]->n_done, 1);
        assert_int_equal(j[i]->timing.batch, 8);
        assert_string_equal(j[i]->streamed, j[0]->streamed);
    }
    for (int i = 0; i < 8; i++) free_job(j[i]);
}

/* The default is 64 rows: some jobs wait, and say so; the others have nothing to say. */
static void jobs_that_wait_say_so(void **state) {
    (void)state;
    enum { JOBS = 70 };
    static ty_job *j[JOBS];
    int waited = 0;
    for (int i = 0; i < JOBS; i++) {
        j[i] = new_job("Hello there", 0);
        decoder_stage.submit(&service, j[i]);
    }
    run_all();
    for (int i = 0; i < JOBS; i++) {
        assert_true(j[i]->n_told == 0 || j[i]->n_told == 2);
        if (j[i]->n_told == 0) continue;
        assert_int_equal(j[i]->told[0], TYTO__PROGRESS__STATE__WAITS);
        assert_int_equal(j[i]->told[1], TYTO__PROGRESS__STATE__BEGINS);
        waited++;
    }
    assert_int_equal(j[0]->n_told, 0);
    assert_in_range(waited, JOBS - 64, JOBS - 1);
    for (int i = 0; i < JOBS; i++) free_job(j[i]);
}

static void logprobs_come_with_pieces(void **state) {
    (void)state;
    ty_job *j = new_job("Hello there", 0);
    j->task.decode->sampling->logprobs = true;
    j->task.decode->sampling->top_logprobs = 4;
    decoder_stage.submit(&service, j);
    run_all();
    if (!j->result) fail_msg("%s", j->error);
    assert_true(j->pieces >= 6 * 5); /* a byte or more, and 4 alternatives, per token */
    free_job(j);
}

static void refused(ty_job *j, ty_status want, const char *says) {
    decoder_stage.submit(&service, j);
    run_all();
    assert_int_equal(j->n_done, 1);
    if (j->st != want) fail_msg("%s: %s", ty_status_name(j->st), j->error);
    if (!strstr(j->error, says)) fail_msg("\"%s\" does not say \"%s\"", j->error, says);
    free_job(j);
}

static void bad_jobs_fail_with_the_reason(void **state) {
    (void)state;
    refused(new_job("See <image> there", 2), TY_EINVAL, "placeholder");
    refused(new_job("See <image><image> there", 2), TY_EINVAL, "side by side");
    ty_job *j = new_job("See <image> there", 1);
    j->name = "pixel_values";
    refused(j, TY_EFORMAT, "pixel_values");
    j = new_job("See <image> there", 1);
    j->tensor[0].shape[1] = WIDTH / 2;
    j->tensor[0].shape[0] = ROWS * 2;
    refused(j, TY_ESHAPE, "[6,16]");
    j = new_job("See <image> and <image> there", 2);
    j->tensor[1].shape[0] = ROWS - 1;
    j->tensor[1].size_bytes -= WIDTH * sizeof(float);
    refused(j, TY_ESHAPE, "[2,32]");
    j = new_job("Hello", 0);
    j->task.decode->sampling->num_beams = 1000;
    refused(j, TY_EINVAL, "num_beams");
    j = new_job("Hello", 0);
    j->task.decode->forced = calloc(7, sizeof(int32_t));
    j->task.decode->n_forced = 7;
    refused(j, TY_EINVAL, "ends after 6");
    j = new_job("Hello", 0);
    j->task.decode->forced = calloc(1, sizeof(int32_t));
    j->task.decode->forced[0] = -1;
    j->task.decode->n_forced = 1;
    refused(j, TY_EINVAL, "forced token 0 is -1");
    j = new_job("Hello", 0);
    j->task.decode->forced = calloc(1, sizeof(int32_t));
    j->task.decode->n_forced = 1;
    j->task.decode->sampling->num_beams = 2;
    refused(j, TY_EINVAL, "beams");
    char prompt[400] = "";
    for (int i = 0; i < 60; i++) strcat(prompt, "q! ");
    refused(new_job(prompt, 0), TY_ECONTEXT, "64");
}

static void a_task_of_another_kind_fails(void **state) {
    (void)state;
    ty_job *j = new_job("Hello", 0);
    Tyto__DecodeTask *kept = j->task.decode;
    j->task.decode = NULL;
    decoder_stage.submit(&service, j);
    assert_int_equal(j->st, TY_EFORMAT);
    j->task.decode = kept;
    free_job(j);
}

static void a_cancelled_job_is_closed_at_once(void **state) {
    (void)state;
    ty_job *j = new_job("Hello there", 0);
    decoder_stage.submit(&service, j);
    assert_int_equal(decoder_stage.step(&service), 1);
    decoder_stage.cancel(&service, j);
    assert_int_equal(j->n_done, 1);
    assert_int_equal(j->st, TY_ECANCELED);
    run_all();
    assert_int_equal(j->n_done, 1);
    free_job(j);
}

static void a_job_whose_chunk_is_lost_fails(void **state) {
    (void)state;
    ty_job *j = new_job("Hello there", 0);
    j->fail_chunk = 2;
    decoder_stage.submit(&service, j);
    run_all();
    assert_int_equal(j->n_done, 1);
    assert_int_equal(j->st, TY_ENOMEM);
    assert_int_equal(j->n_chunk, 3);
    free_job(j);
}

static void beams_give_their_answer_in_the_result_alone(void **state) {
    (void)state;
    ty_job *j = new_job("Hello there", 0);
    j->task.decode->sampling->num_beams = 3;
    decoder_stage.submit(&service, j);
    run_all();
    if (!j->result) fail_msg("%s", j->error);
    assert_int_equal(j->n_chunk, 0);
    assert_int_equal(j->n_told, 1); /* it has no token to show that it moves */
    assert_int_equal(j->told[0], TYTO__PROGRESS__STATE__MOVES);
    assert_int_equal(j->result->n_ids, 6);
    assert_true(strlen(j->result->text) > 0);
    free_job(j);
}

static void a_job_goes_on_behind_its_forced_tokens(void **state) {
    (void)state;
    ty_job *whole = new_job("Hello there, you", 0);
    decoder_stage.submit(&service, whole);
    run_all();
    if (!whole->result) fail_msg("%s", whole->error);
    for (size_t n = 0; n <= 6; n++) {
        ty_job *j = new_job("Hello there, you", 0);
        j->task.decode->forced = malloc(6 * sizeof(int32_t));
        memcpy(j->task.decode->forced, whole->result->ids, 6 * sizeof(int32_t));
        j->task.decode->n_forced = n;
        j->next_token = (uint32_t)n;
        decoder_stage.submit(&service, j);
        run_all();
        if (!j->result) fail_msg("%s", j->error);
        assert_int_equal(j->n_chunk, 6 - n);
        assert_int_equal(j->result->n_ids, 6);
        assert_memory_equal(j->result->ids, whole->result->ids, 6 * sizeof(int32_t));
        assert_string_equal(j->result->text, whole->result->text);
        assert_true(j->result->cached_tokens <= j->result->prompt_tokens);
        if (n < 6)
            assert_int_equal(j->timing.cached_tokens + j->timing.prefill_tokens,
                             j->result->prompt_tokens + n);
        free_job(j);
    }
    free_job(whole);
}

static int setup(void **state) {
    (void)state;
    toy_llama t = toy_llama_default();
    const char *path = test_path("%s/toy.gguf", test_temp_dir());
    toy_llama_write(&t, path);
    for (int i = 0; i < PICTURES_MAX * ROWS * WIDTH; i++)
        PIXELS[i / (ROWS * WIDTH)][i % (ROWS * WIDTH)] = 0.1f * (float)(i % 13 - 6);
    if (ty_pool_create(&pool, 1, NULL) != TY_OK) return -1;
    decoder_options o = {.run.pool = pool};
    if (decoder_create(&d, path, &o, NULL) != TY_OK) return -1;
    service.d = d;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    decoder_destroy(&d);
    ty_pool_destroy(&pool);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_streams_and_ends_with_the_whole_answer),
        cmocka_unit_test(tokens_close_together_travel_together),
        cmocka_unit_test(jobs_at_once_share_batches),
        cmocka_unit_test(jobs_that_wait_say_so),
        cmocka_unit_test(logprobs_come_with_pieces),
        cmocka_unit_test(bad_jobs_fail_with_the_reason),
        cmocka_unit_test(a_task_of_another_kind_fails),
        cmocka_unit_test(a_cancelled_job_is_closed_at_once),
        cmocka_unit_test(a_job_whose_chunk_is_lost_fails),
        cmocka_unit_test(beams_give_their_answer_in_the_result_alone),
        cmocka_unit_test(a_job_goes_on_behind_its_forced_tokens),
    };
    return cmocka_run_group_tests_name("decoder_stage", tests, setup, teardown);
}
