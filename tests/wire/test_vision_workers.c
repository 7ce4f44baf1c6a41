/*
 * The three vision services as real processes behind a broker; the test is the gateway.  A batch's bad
 * pictures fail alone, the others give the bits that the stages give when called directly, and so does their cache,
 * whatever its server does.
 */
#include "tests/support/ty_test.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/store/token_cache.h"
#include "services/abstractor/abstractor.h"
#include "services/preprocess/preprocess.h"
#include "services/vit/vit.h"
#include "tests/support/process.h"
#include "tests/support/redis.h"
#include "tests/support/service.h"
#include "tests/support/wire_rig.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N_STAGES = 3 };
static const char *const stages[N_STAGES] = {"preprocess", "vit", "abstractor"};
static const char *const pictures[] = {"cmyk.jpg", "photo_47.jpg", "palette.png", "rgba.png",
                                       "gray.jpg", "extreme.png",  "photo_9.jpg", "gray_alpha.png"};
enum { N_PICTURES = sizeof pictures / sizeof *pictures };

/* The stages in this process. */
static struct {
    const char *pipeline;
    ty_pool *pool;
    preprocess *p;
    vit *v;
    abstractor *a;
} direct;

static int open_stages(void **state) {
    (void)state;
    ty_err err = {0};
    direct.pipeline = test_import("v1-micro", "vision", NULL);
    if (ty_pool_create(&direct.pool, 1, &err) != TY_OK) return -1;
    const ty_run_options opt = {.compute = TY_COMPUTE_AUTO, .pool = direct.pool};
    const char *dir = direct.pipeline;
    if (preprocess_create(&direct.p, test_path("%s/preprocess.gguf", dir), NULL, &err) != TY_OK ||
        vit_create(&direct.v, test_path("%s/vit.gguf", dir), &opt, &err) != TY_OK ||
        abstractor_create(&direct.a, test_path("%s/abstractor.gguf", dir), &opt, &err) != TY_OK) {
        print_error("%s\n", err.text);
        return -1;
    }
    return 0;
}

static int close_stages(void **state) {
    (void)state;
    abstractor_destroy(&direct.a);
    vit_destroy(&direct.v);
    preprocess_destroy(&direct.p);
    ty_pool_destroy(&direct.pool);
    return 0;
}

static char *read_picture(const char *name, size_t *n) {
    ty_err err = {0};
    char *data = NULL;
    const char *path = test_path("%s/images/%s", test_golden_dir(), name);
    if (ty_file_read(path, 1 << 24, &data, n, &err) != TY_OK) fail_msg("%s", err.text);
    return data;
}

static size_t token_floats(void) {
    return (size_t)abstractor_n_out(direct.a) * (size_t)abstractor_width_out(direct.a);
}

/* The visual tokens of one picture, without any wire. */
static float *tokens_of(const char *name) {
    size_t n, s = (size_t)preprocess_size(direct.p);
    char *bytes = read_picture(name, &n);
    ty_err err = {0};
    float *pixels = malloc(3 * s * s * sizeof *pixels);
    float *features =
        malloc((size_t)vit_n_token(direct.v) * (size_t)vit_width(direct.v) * sizeof *features);
    float *tokens = malloc(token_floats() * sizeof *tokens);
    assert_true(pixels && features && tokens);
    if (preprocess_run(direct.p, (uint8_t *)bytes, n, NULL, pixels, &err) != TY_OK ||
        vit_run(direct.v, pixels, 1, features, NULL, &err) != TY_OK ||
        abstractor_run(direct.a, features, 1, vit_n_token(direct.v), tokens, NULL, &err) != TY_OK)
        fail_msg("%s: %s", name, err.text);
    free(bytes);
    free(pixels);
    free(features);
    return tokens;
}

/* Broker and one worker a stage. */
static void start(rig *r) {
    static const char *models[N_STAGES];
    models[0] = preprocess_model_id(direct.p);
    models[1] = vit_model_id(direct.v);
    models[2] = abstractor_model_id(direct.a);
    rig_start_of(r, N_STAGES, stages, models, NULL);
    for (int i = 0; i < N_STAGES; i++) {
        const char *argv[] = {test_bin(test_path("tyto-%s", stages[i])),
                              "--model",
                              test_path("%s/%s.gguf", direct.pipeline, stages[i]),
                              "--connect",
                              r->workers,
                              "--worker",
                              test_path("%s.0", stages[i]),
                              "--batch",
                              "8",
                              "--credits",
                              "32",
                              "--threads",
                              "2",
                              NULL};
        r->worker[i] =
            test_spawn((char *const *)(uintptr_t)argv, test_path("%s/%s.log", r->dir, stages[i]));
    }
    rig_wait_ready(r, true);
}

static void free_bytes(void *data, void *hint) {
    (void)hint;
    free(data);
}

static void submit(rig *r, int part, void *bytes, size_t n, const char *mode) {
    ty_err err = {0};
    char sha256[TY_SHA256_HEX];
    ty_message *m = rig_empty_task(r, "req", part);
    m->env->picture = ty_pb_new(&tyto__picture__descriptor);
    assert_non_null(m->env->picture);
    ty_sha256_hex(bytes, n, sha256);
    ty_pb_set_str(&m->env->picture->sha256, sha256);
    ty_pb_set_str(&m->env->picture->mode, mode);
    const int64_t shape[] = {(int64_t)n};
    if (ty_message_add_tensor(m, "picture", TYTO__DTYPE__DTYPE_U8, 1, shape, bytes, n, free_bytes,
                              NULL, &err) != TY_OK)
        fail_msg("%s", err.text);
    rig_send(r, m);
}

static void submit_picture(rig *r, int part, const char *file) {
    size_t n;
    char *bytes = read_picture(file, &n);
    submit(r, part, bytes, n, "");
}

static void expect_tokens(ty_message *m, const char *file) {
    ty_tensor t;
    ty_err err = {0};
    const char *name;
    float *want = tokens_of(file);
    if (ty_message_tensor(m, 0, &name, &t, &err) != TY_OK) fail_msg("%s", err.text);
    assert_string_equal(name, "visual_tokens");
    assert_int_equal(t.n_dim, 2);
    assert_int_equal(t.shape[0], abstractor_n_out(direct.a));
    assert_int_equal(t.shape[1], abstractor_width_out(direct.a));
    assert_int_equal(t.size_bytes, token_floats() * sizeof *want);
    if (memcmp(t.data, want, t.size_bytes) != 0) fail_msg("%s: other tokens", file);
    free(want);
}

/* All pictures at once to a vit worker that stands still until all wait for it: how many it then took together. */
static uint32_t round_of_all(rig *r) {
    uint32_t most = 0;
    bool seen[N_PICTURES] = {false};
    kill(r->worker[1], SIGSTOP);
    for (int i = 0; i < N_PICTURES; i++) submit_picture(r, i, pictures[i]);
    rig_wait_in_flight(r, 1, N_PICTURES);
    kill(r->worker[1], SIGCONT);
    for (int i = 0; i < N_PICTURES; i++) {
        ty_message *m = rig_expect(r, TYTO__ENVELOPE__BODY_RESULT);
        uint32_t part = m->env->part;
        assert_true(part < N_PICTURES && !seen[part]);
        seen[part] = true;
        expect_tokens(m, pictures[part]);
        assert_int_equal(m->env->n_timings, N_STAGES);
        for (int k = 0; k < N_STAGES; k++)
            assert_string_equal(m->env->timings[k]->stage, stages[k]);
        assert_true(m->env->timings[1]->flops == vit_flops(direct.v));
        assert_true(m->env->timings[2]->flops == abstractor_flops(direct.a, vit_n_token(direct.v)));
        if (m->env->timings[1]->batch > most) most = m->env->timings[1]->batch;
        ty_message_destroy(&m);
    }
    return most;
}

/* A worker that wakes may begin with the first picture before it has read the others: so several rounds, of
 * which one must show a batch; the bits are compared in each. */
static void workers_batch_what_waits_and_give_the_same_bits(void **state) {
    (void)state;
    enum { ROUNDS = 20 };
    rig r;
    uint32_t most = 0;
    start(&r);
    for (int i = 0; i < ROUNDS && most < 4; i++) {
        uint32_t n = round_of_all(&r);
        if (n > most) most = n;
    }
    assert_true(most >= 4);
    rig_stop(&r);
}

static char *copy(const void *bytes, size_t n) {
    char *c = malloc(n);
    assert_non_null(c);
    memcpy(c, bytes, n);
    return c;
}

static void bad_pictures_fail_alone(void **state) {
    (void)state;
    enum { N_TASKS = 6 };
    rig r;
    size_t n;
    int good = 0;
    start(&r);
    kill(r.worker[0], SIGSTOP); /* so that good and bad stand in one batch */
    submit_picture(&r, 0, pictures[0]);
    char *cut = read_picture("photo_47.jpg", &n);
    submit(&r, 1, cut, n / 2, "");
    submit_picture(&r, 2, pictures[2]);
    submit(&r, 3, copy("hello", 5), 5, "");
    char *whole = read_picture("gray.jpg", &n);
    submit(&r, 4, whole, n, "sideways");
    submit_picture(&r, 5, pictures[3]);
    rig_wait_in_flight(&r, 0, N_TASKS);
    kill(r.worker[0], SIGCONT);
    static const struct {
        const char *status, *says;
    } want[N_TASKS] = {{NULL, NULL},           {"EIMAGE", "cut short"},
                       {NULL, NULL},           {"EUNSUPPORTED", "JPEG"},
                       {"EINVAL", "sideways"}, {NULL, NULL}};
    for (int i = 0; i < N_TASKS; i++) {
        ty_message *m = rig_wait(&r, RIG_WAIT_S * 1000);
        if (!m) fail_msg("only %d replies came", i);
        uint32_t part = m->env->part;
        assert_true(part < N_TASKS);
        if (want[part].status) {
            assert_int_equal(m->env->body_case, TYTO__ENVELOPE__BODY_ERROR);
            assert_string_equal(m->env->error->status, want[part].status);
            assert_non_null(strstr(m->env->error->text, want[part].says));
            assert_string_equal(m->env->error->stage, "preprocess");
        } else {
            assert_int_equal(m->env->body_case, TYTO__ENVELOPE__BODY_RESULT);
            expect_tokens(m, pictures[part == 5 ? 3 : part]);
            good++;
        }
        ty_message_destroy(&m);
    }
    assert_int_equal(good, 3);
    rig_stop(&r);
}

/* ---- the cache ---- */

static long long entries(const char *url) {
    ty_redis *c = NULL;
    redisReply *reply = NULL;
    const char *argv[] = {"DBSIZE"};
    size_t len[] = {6};
    assert_int_equal(ty_redis_create(&c, url, 5000, NULL), TY_OK);
    assert_int_equal(ty_redis_command(c, 1, argv, len, &reply, NULL), TY_OK);
    long long n = reply->integer;
    freeReplyObject(reply);
    ty_redis_destroy(&c);
    return n;
}

typedef struct {
    Tyto__CacheUse vit, abstractor;
} uses;

/* Sends the picture and checks its tokens, bit for bit; says whether they came from the cache. */
static uses ask(rig *r, const char *file, const char *mode) {
    static int part;
    size_t n;
    char *bytes = read_picture(file, &n);
    submit(r, part++, bytes, n, mode);
    ty_message *m = rig_expect(r, TYTO__ENVELOPE__BODY_RESULT);
    expect_tokens(m, file);
    assert_int_equal(m->env->n_timings, N_STAGES);
    assert_int_equal(m->env->timings[0]->cache, TYTO__CACHE_USE__CACHE_OFF);
    assert_true(*m->env->timings[0]->arithmetic);
    uses u = {m->env->timings[1]->cache, m->env->timings[2]->cache};
    ty_message_destroy(&m);
    return u;
}

/* Asks until both stages make that use of the cache. */
static void ask_until(rig *r, const char *file, Tyto__CacheUse want) {
    uses u;
    for (int64_t until = ty_now_us() + RIG_WAIT_S * 1000000LL; ty_now_us() < until;
         test_nap_ms(20)) {
        u = ask(r, file, "");
        if (u.vit == want && u.abstractor == want) return;
    }
    fail_msg("vit %d, abstractor %d, want %d", (int)u.vit, (int)u.abstractor, (int)want);
}

#define HIT  TYTO__CACHE_USE__CACHE_HIT
#define MISS TYTO__CACHE_USE__CACHE_MISS
#define AWAY TYTO__CACHE_USE__CACHE_ERROR

static void cache_gives_the_same_bits_whatever_its_server_does(void **state) {
    (void)state;
    rig r;
    test_redis cache;
    test_redis_start(&cache, test_temp_dir(), 0);
    setenv("TYTO_CACHE_URL", cache.url, 1);
    start(&r);
    unsetenv("TYTO_CACHE_URL");
    uses u = ask(&r, pictures[0], "");
    assert_int_equal(u.vit, MISS);
    assert_int_equal(u.abstractor, MISS);
    for (int i = 0; i < 500 && entries(cache.url) < 2; i++) test_nap_ms(20);
    assert_int_equal(entries(cache.url), 2);
    u = ask(&r, pictures[0], "");
    assert_int_equal(u.vit, HIT);
    assert_int_equal(u.abstractor, HIT);
    u = ask(&r, pictures[0], "native"); /* what "" stands for here, but the key does not know */
    assert_int_equal(u.vit, MISS);
    u = ask(&r, pictures[1], "");
    assert_int_equal(u.vit, MISS);
    /* hanging: the first waits for a moment, then it is left alone */
    kill(cache.pid, SIGSTOP);
    ask_until(&r, pictures[0], AWAY);
    kill(cache.pid, SIGCONT);
    ask_until(&r, pictures[0], HIT);
    /* gone, and back without its memory */
    test_redis_kill(&cache);
    ask_until(&r, pictures[0], AWAY);
    test_redis_start(&cache, cache.dir, 0);
    assert_int_equal(entries(cache.url), 0); /* the two stages find it again each in its time */
    ask_until(&r, pictures[0], HIT);
    rig_stop(&r);
    test_redis_kill(&cache);
}

int main(int argc, char **argv) {
    (void)argc;
    (void)argv;
    signal(SIGPIPE, SIG_IGN); /* hiredis */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(workers_batch_what_waits_and_give_the_same_bits),
        cmocka_unit_test(bad_pictures_fail_alone),
        cmocka_unit_test(cache_gives_the_same_bits_whatever_its_server_does),
    };
    return cmocka_run_group_tests_name("vision_workers", tests, open_stages, close_stages);
}
