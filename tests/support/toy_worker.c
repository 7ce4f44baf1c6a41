/* toy_worker.c - see toy_worker.h. */
#include "tests/support/toy_worker.h"

#include "common/base/log.h"
#include "common/wire/worker.h"
#include "tests/support/process.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OPEN_MAX_JOBS = 64, N_ARG = 15 };

bool test_toy_is_asked(int argc, char **argv) {
    return argc > 1 && strcmp(argv[1], "--toy-worker") == 0;
}

/* ---- pure ---- */

static void compute(const test_toy *t, ty_job *j) {
    ty_err err;
    ty_tensor x;
    if (ty_job_tensor(j, 0, NULL, &x, &err) != TY_OK) {
        ty_job_fail(j, TY_EINVAL, "no tensor");
        return;
    }
    const float *in = x.data;
    if (in[0] == 666.0F) raise(SIGKILL);
    if (in[0] == 404.0F) return;
    if (in[0] == 500.0F) {
        ty_job_fail(j, TY_EIMAGE, "not a picture");
        return;
    }
    float *out = malloc(x.size_bytes);
    for (size_t i = 0; i < x.size_bytes / sizeof(*out); i++) out[i] = in[i] + 1;
    if (ty_job_add_output(j, t->gives, TYTO__DTYPE__DTYPE_F32, x.n_dim, x.shape, out, x.size_bytes,
                          &err) != TY_OK) {
        ty_job_fail(j, err.code, err.text);
        return;
    }
    ty_job_set_flops(j, 8);
    ty_job_done(j, NULL);
}

static void batch(void *ctx, ty_job **jobs, int n) {
    const test_toy *t = ctx;
    ty_info("computing jobs=%d", n);
    test_nap_ms(t->delay_ms);
    for (int i = 0; i < n; i++) compute(t, jobs[i]);
}

/* ---- streaming ---- */

typedef struct {
    test_toy toy;
    ty_job *job[OPEN_MAX_JOBS];
    int given[OPEN_MAX_JOBS];
    Tyto__Progress__State told[OPEN_MAX_JOBS];
    int n;
} stream;

static void submit(void *ctx, ty_job *j) {
    stream *s = ctx;
    if (s->n == OPEN_MAX_JOBS) {
        ty_job_fail(j, TY_EOVERLOAD, "full");
        return;
    }
    const Tyto__DecodeTask *d = ty_job_envelope(j)->task->decode;
    s->given[s->n] = d ? (int)d->n_forced : 0;
    s->told[s->n] = TYTO__PROGRESS__STATE__BEGINS;
    s->job[s->n++] = j;
}

static void forget(stream *s, int i) {
    s->n--;
    s->job[i] = s->job[s->n];
    s->given[i] = s->given[s->n];
    s->told[i] = s->told[s->n];
}

static void give_token(ty_job *j, int index) {
    char text[16];
    Tyto__Chunk *c = ty_pb_new(&tyto__chunk__descriptor);
    Tyto__TokenInfo *x = ty_pb_new(&tyto__token_info__descriptor);
    snprintf(text, sizeof(text), "%d ", index);
    ty_pb_set_str(&x->text, text);
    x->id = index;
    c->first = (uint32_t)index;
    ty_pb_append(&c->tokens, &c->n_tokens, x);
    ty_job_chunk(j, c, NULL);
}

static void end_stream(ty_job *j, int tokens, int rows) {
    Tyto__DecodeResult *r = ty_pb_new(&tyto__decode_result__descriptor);
    ty_pb_set_str(&r->finish_reason, "stop");
    r->completion_tokens = (uint32_t)tokens;
    ty_job_set_decode_timing(j, &(ty_decode_timing){1, 20, 300, (uint32_t)rows, 0, 1, NULL});
    ty_job_done(j, r);
}

/* Those that are not in the step wait, and say so, as a decoder does. */
static void tell_progress(stream *s, int rows) {
    for (int i = 0; i < s->n; i++) {
        Tyto__Progress__State p =
            i < rows ? TYTO__PROGRESS__STATE__BEGINS : TYTO__PROGRESS__STATE__WAITS;
        if (p != s->told[i]) ty_job_progress(s->job[i], p);
        s->told[i] = p;
    }
}

static bool is_poison(ty_job *j) {
    ty_tensor x;
    return ty_job_tensor_count(j) > 0 && ty_job_tensor(j, 0, NULL, &x, NULL) == TY_OK &&
           ((const float *)x.data)[0] == 666.0F;
}

static int step(void *ctx) {
    stream *s = ctx;
    int rows = s->toy.at_once && s->n > s->toy.at_once ? s->toy.at_once : s->n;
    tell_progress(s, rows);
    test_nap_ms(s->toy.delay_ms);
    for (int i = rows - 1; i >= 0; i--) {
        if (is_poison(s->job[i])) {
            if (s->n > TOY_POISON_CROWD) raise(SIGKILL); /* they have said that they wait */
            continue;
        }
        if (s->given[i] < s->toy.tokens) {
            give_token(s->job[i], s->given[i]++);
        } else {
            end_stream(s->job[i], s->given[i], rows);
            forget(s, i);
        }
    }
    return s->n;
}

static void cancel(void *ctx, ty_job *j) {
    stream *s = ctx;
    for (int i = 0; i < s->n; i++)
        if (s->job[i] == j) {
            forget(s, i);
            break;
        }
    ty_job_fail(j, TY_ECANCELED, "cancelled");
}

/* ---- the process ---- */

static Tyto__TensorSpec *spec(Tyto__TensorSpec *s, int64_t *shape, const char *name, int cols) {
    tyto__tensor_spec__init(s);
    shape[0] = -1;
    shape[1] = cols;
    s->name = (char *)(uintptr_t)name;
    s->dtype = TYTO__DTYPE__DTYPE_F32;
    s->shape = shape;
    s->n_shape = 2;
    return s;
}

int test_toy_main(int argc, char **argv) {
    /* Never the tests themselves: they would start workers again. */
    if (argc != N_ARG + 2) return 2;
    char **a = argv + 2;
    stream s = {.toy = {.worker = a[0],
                        .stage = a[1],
                        .connect = a[2],
                        .model = a[3],
                        .takes = a[4],
                        .gives = a[5],
                        .takes_cols = atoi(a[6]),
                        .gives_cols = atoi(a[7]),
                        .batch_limit = atoi(a[8]),
                        .credits = atoi(a[9]),
                        .delay_ms = atoi(a[10]),
                        .tokens = atoi(a[11]),
                        .drain_ms = atoi(a[12]),
                        .at_once = atoi(a[13]),
                        .adapter = a[14]}};
    const test_toy *t = &s.toy;
    ty_stage stage = {.name = t->stage};
    if (t->tokens > 0) {
        stage.submit = submit;
        stage.step = step;
        stage.cancel = cancel;
    } else {
        stage.batch = batch;
    }
    Tyto__TensorSpec specs[2];
    int64_t shapes[2][2];
    Tyto__TensorSpec *takes[] = {spec(&specs[0], shapes[0], t->takes, t->takes_cols)};
    Tyto__TensorSpec *gives[] = {spec(&specs[1], shapes[1], t->gives, t->gives_cols)};
    ty_worker_contract c = {.connect = t->connect,
                            .worker = t->worker,
                            .pipeline = "toy",
                            .model_id = t->model,
                            .batch_limit = t->batch_limit,
                            .credits = t->credits,
                            .drain_ms = t->drain_ms,
                            .takes = takes,
                            .n_takes = 1,
                            .gives = gives,
                            .n_gives = 1,
                            .adapters = &t->adapter,
                            .n_adapters = *t->adapter ? 1 : 0};
    ty_err err = {0};
    ty_log_init(t->worker, TY_LOG_INFO);
    void *ctx = t->tokens > 0 ? (void *)&s : (void *)&s.toy;
    ty_status st = ty_worker_run(&stage, ctx, &c, &err);
    if (st != TY_OK) ty_error("ends: %s", err.text);
    /* So that a test can tell which refusal it was. */
    return st == TY_OK ? 0 : 100 + (int)st;
}

pid_t test_toy_spawn(const test_toy *t, const char *log_path) {
    char number[8][16], model[64];
    const int value[8] = {t->takes_cols ? t->takes_cols : 4,
                          t->gives_cols ? t->gives_cols : 4,
                          t->batch_limit ? t->batch_limit : 4,
                          t->credits ? t->credits : 8,
                          t->delay_ms,
                          t->tokens,
                          t->drain_ms,
                          t->at_once};
    for (int i = 0; i < 8; i++) snprintf(number[i], sizeof(number[i]), "%d", value[i]);
    snprintf(model, sizeof(model), "model-%s", t->stage);
    const char *argv[] = {"/proc/self/exe",
                          "--toy-worker",
                          t->worker,
                          t->stage,
                          t->connect,
                          t->model ? t->model : model,
                          t->takes,
                          t->gives,
                          number[0],
                          number[1],
                          number[2],
                          number[3],
                          number[4],
                          number[5],
                          number[6],
                          number[7],
                          t->adapter ? t->adapter : "",
                          NULL};
    return test_spawn((char *const *)(uintptr_t)argv, log_path);
}
