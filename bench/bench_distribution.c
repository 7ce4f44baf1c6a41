/*
 * bench_distribution - what it costs that the stages are processes: the same questions through `tyto run`'s
 * pipeline in this process and through the services over HTTP, in turns, on models of random weights.
 *
 * Each question is asked both ways, one right after the other and the first way in turn, and what counts is the median of the pairs'
 * differences: a machine that others use is faster in one minute than in the next, but not in one second.  Both sides
 * have every core to themselves while they answer, for the other side then sleeps.  Every question is a new one,
 * and its picture has a new comment in its bytes, so that no cache helps either side.  First token: from the whole request in
 * hand to the first text; tokens/s: the tokens after the first over the time after the first.
 */
#include "bench/harness.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/options.h"
#include "common/math/cpu.h"
#include "orchestration/ask_options.h"
#include "orchestration/http_client.h"
#include "orchestration/local_pipeline.h"
#include "orchestration/picture_url.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct {
    int threads, port, rounds;
    const char *out, *models, *tyto, *image, *only;
    bool quick, strict, full;
} opt;

static const ty_option table[] = {
    TY_OPT_INT("threads", "TYTO_THREADS", opt.threads, 0, 0, 1024, "0 = one per core"),
    TY_OPT_INT("port", NULL, opt.port, 18470, 1, 65535, "where the services listen meanwhile"),
    TY_OPT_INT("rounds", NULL, opt.rounds, 9, 1, 1000, "questions of each kind; medians count"),
    TY_OPT_STR("out", NULL, opt.out, "bench/out/distribution.json", "FILE", "where the JSON goes"),
    TY_OPT_STR("models", NULL, opt.models, "bench/out/models", "DIR", "where models are kept"),
    TY_OPT_STR("tyto", NULL, opt.tyto, "build/bin/tyto", "FILE", "the command"),
    TY_OPT_STR("image", NULL, opt.image, "tests/golden/images/photo_47.jpg", "FILE", "a JPEG"),
    TY_OPT_STR("only", NULL, opt.only, "", "NAME", "one of 110m, 7b"),
    TY_OPT_FLAG("quick", NULL, opt.quick, "three rounds"),
    TY_OPT_FLAG("full", NULL, opt.full, "all 32 layers of the 7B decoder (eight otherwise)"),
    TY_OPT_FLAG("strict", NULL, opt.strict, "fail when the wanted figures are missed"),
    TY_OPT_END,
};

/* Wanted: what the distribution may cost. */
static const double FIRST_TOKEN_MS = 5, TOKENS_SHARE = 0.03;

static pid_t start(const char *const *argv) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (freopen("/dev/null", "w", stdout)) execv(opt.tyto, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    if (pid < 0) bench_stop("fork", strerror(errno));
    return pid;
}

/* ---- a question, and what is measured of it ---- */

enum { ROUNDS_MAX = 1000 };

typedef struct {
    int64_t since_us, first_us, last_us;
    int n_token;
} watch;

typedef struct {
    double first_ms[ROUNDS_MAX], rate[ROUNDS_MAX];
} series;

static void keep(series *s, int round, const watch *w) {
    if (w->n_token < 2 || w->last_us <= w->first_us) bench_stop("an answer", "has no second token");
    s->first_ms[round] = (double)(w->first_us - w->since_us) * 1e-3;
    s->rate[round] = (w->n_token - 1) / ((double)(w->last_us - w->first_us) * 1e-6);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_value);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

/* The picture with a comment segment after its first two bytes: other bytes, the same pixels. */
static unsigned char *picture(int serial, size_t *size) {
    char *file = NULL;
    size_t file_size = 0;
    ty_err err = {0};
    char note[32];
    if (ty_file_read(opt.image, 64 << 20, &file, &file_size, &err) != TY_OK)
        bench_stop("picture", err.text);
    size_t n =
        (size_t)snprintf(note, sizeof note, "question %d %lld", serial, (long long)ty_now_us());
    unsigned char *p = malloc(file_size + 4 + n);
    if (!p || file_size < 4) bench_stop("picture", "no memory, or no JPEG");
    memcpy(p, file, 2);
    p[2] = 0xFF, p[3] = 0xFE, p[4] = 0, p[5] = (unsigned char)(n + 2);
    memcpy(p + 6, note, n);
    memcpy(p + 6 + n, file + 2, file_size - 2);
    *size = file_size + 4 + n;
    free(file);
    return p;
}

static json_t *url_part(void *ctx, int i) {
    (void)i;
    return json_pack("{s:s, s:{s:s}}", "type", "image_url", "image_url", "url", (const char *)ctx);
}

/* The request's JSON; picture's base64 for the services, its place alone for this process. */
static json_t *question(const char *model, int serial, int n_token, int with_picture, char *url) {
    char text[160];
    snprintf(text, sizeof text,
             "Question %d at %lld: what would you tell somebody who has never been here?", serial,
             (long long)ty_now_us());
    json_t *turn = url ? ask_turn("user", with_picture, url_part, url, text)
                       : ask_turn("user", with_picture, ask_image_here, NULL, text);
    json_t *r =
        json_pack("{s:[o], s:i, s:b}", "messages", turn, "max_tokens", n_token, "ignore_eos", 1);
    if (r && model) {
        json_object_set_new(r, "model", json_string(model));
        json_object_set_new(r, "stream", json_true());
    }
    if (!r) bench_stop("request", "out of memory");
    return r;
}

/* ---- in this process ---- */

static void on_text(void *ctx, const char *text, size_t len) {
    watch *w = ctx;
    (void)text;
    if (!len) return;
    w->last_us = ty_now_us();
    if (!w->first_us) w->first_us = w->last_us;
}

static void ask_here(local_pipeline *p, int serial, int n_token, int with_picture, watch *w) {
    local_pictures pictures = {0};
    local_timings t = {0};
    local_answer a = {0};
    ty_chat_request r = {0};
    ty_err err = {0};
    char path[64] = "";
    json_t *json = question(NULL, serial, n_token, with_picture, NULL);
    if (ask_parse(json, &r, &err) != TY_OK) bench_stop("request", err.text);
    if (with_picture) {
        size_t size;
        unsigned char *bytes = picture(serial, &size);
        snprintf(path, sizeof path, "/tmp/tyto-bench-%d.jpg", (int)getpid());
        FILE *f = fopen(path, "wb");
        if (!f || fwrite(bytes, 1, size, f) != size || fclose(f) != 0)
            bench_stop(path, strerror(errno));
        free(bytes);
    }
    const char *paths[1] = {path};
    w->since_us = ty_now_us();
    if (with_picture && local_see(p, paths, 1, &pictures, &t, &err) != TY_OK)
        bench_stop("picture", err.text);
    if (local_ask(p, &r, &pictures, on_text, w, NULL, &a, &t, &err) != TY_OK)
        bench_stop("answer", err.text);
    w->n_token = a.n_token;
    if (with_picture) unlink(path);
    free(a.text);
    local_pictures_clear(&pictures);
    ty_chat_request_clear(&r);
    json_decref(json);
}

/* ---- through the services ---- */

static void on_event(void *ctx, const char *data, size_t len) {
    watch *w = ctx;
    json_t *event = json_loadb(data, len, 0, NULL);
    const json_t *delta =
        json_object_get(json_array_get(json_object_get(event, "choices"), 0), "delta");
    const char *text = json_string_value(json_object_get(delta, "content"));
    if (text) on_text(w, text, strlen(text));
    json_decref(event);
}

static bool on_data(void *ctx, const char *data, size_t len) {
    return http_sse_feed(ctx, data, len) == TY_OK;
}

static void ask_services(const char *model, int serial, int n_token, int with_picture, watch *w) {
    char url[96], *data_url = NULL;
    http_sse sse = {.line = ty_buf_make(1 << 20), .on_event = on_event, .ctx = w};
    ty_err err = {0};
    http_reply reply;
    if (with_picture) {
        size_t size;
        unsigned char *bytes = picture(serial, &size);
        if (picture_url_of_bytes(bytes, size, &data_url, &err) != TY_OK)
            bench_stop("picture", err.text);
        free(bytes);
    }
    json_t *json =
        question(model, serial, n_token, with_picture, data_url ? data_url : (char[]){""});
    char *body = json_dumps(json, JSON_COMPACT);
    snprintf(url, sizeof url, "http://127.0.0.1:%d/v1/chat/completions", opt.port);
    http_call call = {
        .url = url, .body = body, .timeout_ms = 600000, .on_data = on_data, .ctx = &sse};
    w->since_us = ty_now_us();
    if (http_client_call(&call, &reply, &err) != TY_OK) bench_stop(url, err.text);
    if (reply.status != 200) bench_stop(url, "refused");
    w->n_token = n_token;
    ty_buf_clear(&reply.body);
    ty_buf_clear(&sse.line);
    free(body);
    free(data_url);
    json_decref(json);
}

/* ---- one model, both ways ---- */

typedef struct {
    json_t *rows;
    int missed; /* that cost more than is wanted */
} comparison;

static void compare(comparison *c, local_pipeline *p, const char *model, int n_token,
                    int with_picture) {
    static series here, there;
    static double later_ms[ROUNDS_MAX], ratio[ROUNDS_MAX];
    int rounds = opt.quick ? 3 : opt.rounds;
    for (int i = -1; i < rounds; i++) { /* the first warms up */
        watch a = {0}, b = {0};
        if (i % 2 != 0) ask_services(model, i, n_token, with_picture, &b);
        ask_here(p, i, n_token, with_picture, &a);
        if (i % 2 == 0) ask_services(model, i, n_token, with_picture, &b);
        if (i < 0) continue;
        keep(&here, i, &a), keep(&there, i, &b);
        later_ms[i] = there.first_ms[i] - here.first_ms[i];
        ratio[i] = there.rate[i] / here.rate[i];
    }
    double later = median(later_ms, rounds), change = median(ratio, rounds) - 1;
    double f1 = median(here.first_ms, rounds), f2 = median(there.first_ms, rounds);
    double r1 = median(here.rate, rounds), r2 = median(there.rate, rounds);
    bool bad = later > FIRST_TOKEN_MS || change < -TOKENS_SHARE;
    c->missed += bad;
    printf("%-22s %-8s %10.2f %10.2f %+8.2f %10.1f %10.1f %+7.1f %%%s\n", model,
           with_picture ? "picture" : "text", f1, f2, later, r1, r2, 100 * change,
           bad ? "  MISSED" : "");
    fflush(stdout);
    json_array_append_new(c->rows,
                          json_pack("{s:s, s:b, s:f, s:f, s:f, s:f, s:f, s:f}", "model", model,
                                    "picture", with_picture, "later_ms", later, "tokens_s_change",
                                    change, "first_ms_one_process", f1, "first_ms_services", f2,
                                    "tokens_s_one_process", r1, "tokens_s_services", r2));
}

static void wait_ready(pid_t pid) {
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d/readyz", opt.port);
    for (int i = 0; i < 1200; i++) {
        http_reply reply = {0};
        ty_err err = {0};
        http_call call = {.url = url, .timeout_ms = 2000};
        bool ready = http_client_call(&call, &reply, &err) == TY_OK && reply.status == 200;
        ty_buf_clear(&reply.body);
        if (ready) return;
        if (waitpid(pid, NULL, WNOHANG) == pid) break;
        usleep(100000);
    }
    bench_stop("tyto up", "did not become ready");
}

static void bench_ways(comparison *c, const char *name, const char *const *synth, int n_token) {
    char dir[512], listen[32];
    bench_model(dir, sizeof dir, opt.tyto, opt.models, name, synth);
    snprintf(listen, sizeof listen, "127.0.0.1:%d", opt.port);
    char state[] = "/tmp/tyto-bench-XXXXXX";
    if (!mkdtemp(state)) bench_stop("mkdtemp", strerror(errno));
    const char *up[] = {opt.tyto, "up",      "--pipeline", dir, "--listen",
                        listen,   "--state", state,        NULL};
    pid_t pid = start(up);
    local_pipeline *p = NULL;
    local_options lo = {.dir = dir,
                        .kv = TY_F32,
                        .compute = (ty_compute)ty_compute_parse("auto"),
                        .threads = opt.threads};
    ty_err err = {0};
    if (local_create(&p, &lo, &err) != TY_OK) bench_stop(dir, err.text);
    wait_ready(pid);
    compare(c, p, name, n_token, 0);
    compare(c, p, name, n_token, 1);
    local_destroy(&p);
    (void)kill(pid, SIGTERM);
    (void)waitpid(pid, NULL, 0);
    const char *rm[] = {"/bin/rm", "-rf", state, NULL};
    pid = fork();
    if (pid == 0) {
        execv(rm[0], (char *const *)(uintptr_t)rm);
        _exit(127);
    }
    if (pid > 0) (void)waitpid(pid, NULL, 0);
}

int main(int argc, char **argv) {
    ty_options_next next = ty_options_parse(
        table, "bench_distribution", "What separate processes cost against one.", argc, argv, NULL);
    if (next != TY_OPTIONS_GO) return next == TY_OPTIONS_DONE ? 0 : 2;
    char threads[16];
    snprintf(threads, sizeof threads, "%d", opt.threads);
    if (setenv("TYTO_THREADS", threads, 1) != 0) bench_stop("setenv", strerror(errno));
    bench_make_parents(opt.out);
    comparison c = {.rows = json_array()};
    printf("\n%s, kernels %s: one process and the services\n", ty_cpu_name(), ty_cpu_kernels());
    printf("%-22s %-8s %10s %10s %8s %10s %10s %9s\n", "", "", "first ms", "services", "more",
           "tokens/s", "services", "change");
    if (bench_wanted(opt.only, "110m"))
        bench_ways(&c, "dist-110m-q8_0",
                   (const char *[]){"--llm", "110m", "--vit", "tiny", "--type", "q8_0", NULL}, 96);
    if (bench_wanted(opt.only, "7b") && opt.full)
        bench_ways(&c, "dist-7b-q4_0",
                   (const char *[]){"--llm", "7b", "--vit", "tiny", "--type", "q4_0", NULL}, 24);
    else if (bench_wanted(opt.only, "7b"))
        bench_ways(&c, "dist-7b-q4_0-8",
                   (const char *[]){"--llm", "7b", "--layers", "8", "--vit", "tiny", "--type",
                                    "q4_0", NULL},
                   32);
    printf("wanted: first token at most %.0f ms more, tokens/s at most %.0f %% less; %d missed\n",
           FIRST_TOKEN_MS, 100 * TOKENS_SHARE, c.missed);
    json_t *root = json_pack("{s:s, s:s, s:o}", "cpu", ty_cpu_name(), "kernels", ty_cpu_kernels(),
                             "rows", c.rows);
    if (json_dump_file(root, opt.out, JSON_INDENT(1)) != 0) bench_stop(opt.out, strerror(errno));
    json_decref(root);
    return opt.strict && c.missed ? 1 : 0;
}
