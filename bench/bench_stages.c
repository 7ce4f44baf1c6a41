/*
 * bench_stages - the stages themselves (the files that the services ship) on models of random weights:
 * ViT-L/14 and its abstractor at 224 and 448 pixels in f32 and Q8_0, the 7B decoder in Q4_0, Q8_0 and,
 * one layer, f32, and mPLUG-Owl2's beside it on a prompt with a picture.
 *
 * Models come from `tyto synth` and are kept in bench/out/models.  A 7B decoder is cut to some layers
 * unless --full is given: every layer is alike, and eight of them are far over the caches.
 */
#include "bench/harness.h"
#include "bench/limits.h"
#include "bench/report.h"

#include "common/base/clock.h"
#include "common/base/options.h"
#include "common/math/cpu.h"
#include "services/abstractor/abstractor.h"
#include "services/decoder/decoder.h"
#include "services/vit/vit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    int threads;
    const char *out, *models, *tyto, *only;
    bool strict, quick, full;
} opt;

static const ty_option table[] = {
    TY_OPT_INT("threads", "TYTO_THREADS", opt.threads, 0, 0, 1024, "0 = one per core"),
    TY_OPT_STR("out", NULL, opt.out, "bench/out/stages.json", "FILE", "where the JSON goes"),
    TY_OPT_STR("models", NULL, opt.models, "bench/out/models", "DIR", "where models are kept"),
    TY_OPT_STR("tyto", NULL, opt.tyto, "build/bin/tyto", "FILE", "the command that makes models"),
    TY_OPT_STR("only", NULL, opt.only, "", "PART", "vision, decoder or multiway; absent: all"),
    TY_OPT_FLAG("strict", NULL, opt.strict, "fail when a floor is missed"),
    TY_OPT_FLAG("quick", NULL, opt.quick, "two runs of each and four layers of the decoder"),
    TY_OPT_FLAG("full", NULL, opt.full, "all 32 layers of the decoder (11 GB of files)"),
    TY_OPT_END,
};

typedef struct {
    ty_pool *pool;
    limits lim;
    report *rep;
} bench;

/* ---- ViT and abstractor ---- */

static int repeats(void) {
    return opt.quick ? 2 : 4;
}

typedef struct {
    vit *v;
    abstractor *a;
    const float *in;
    float *out;
    int n, n_token;
} vision_run;

static void run_vit(void *ctx) {
    vision_run *r = ctx;
    ty_err err = {0};
    if (vit_run(r->v, r->in, r->n, r->out, NULL, &err) != TY_OK) bench_stop("vit", err.text);
}

static void run_abstractor(void *ctx) {
    vision_run *r = ctx;
    ty_err err = {0};
    if (abstractor_run(r->a, r->in, r->n, r->n_token, r->out, NULL, &err) != TY_OK)
        bench_stop("abstractor", err.text);
}

static void add_vision(bench *b, const char *group, int n, double flops, double peak, double floor,
                       void (*run)(void *), vision_run *r) {
    char name[64];
    r->n = n;
    bench_time t = bench_best_of(repeats(), run, r);
    snprintf(name, sizeof name, "%d picture%s", n, n > 1 ? "s" : "");
    report_add(b->rep, &(report_row){.group = group,
                                     .name = name,
                                     .ms = t.ms,
                                     .cores = t.cores,
                                     .ops = flops * n,
                                     .peak_gops = peak,
                                     .floor = floor});
}

/* family: v1 sees 224 pixels, v2 448, where a call takes one picture. */
static void bench_vision(bench *b, const char *family, const char *type, double peak,
                         double floor) {
    char dir[256], path[300], group[64];
    const char *args[] = {"--shape", "vit-l", "--family", family, "--type", type, NULL};
    ty_run_options run = {.pool = b->pool};
    ty_err err = {0};
    bool v2 = strcmp(family, "v2") == 0;
    int most = v2 ? 1 : 8;
    snprintf(group, sizeof group, v2 ? "vit-l-448-%s" : "vit-l-%s", type);
    bench_model(dir, sizeof dir, opt.tyto, opt.models, group, args);
    vision_run r = {0};
    snprintf(path, sizeof path, "%s/vit.gguf", dir);
    if (vit_create(&r.v, path, &run, &err) != TY_OK) bench_stop(path, err.text);
    int S = vit_image_size(r.v), T = vit_n_token(r.v), C = vit_width(r.v);
    float *pixels = bench_floats((size_t)(most * 3 * S) * (size_t)S);
    float *features = bench_floats((size_t)(most * T) * (size_t)C);
    r.in = pixels;
    r.out = features;
    snprintf(group, sizeof group, "stage vit, ViT-L/14 at %d px %s", S, type);
    for (int n = 1; n <= most; n += 7)
        add_vision(b, group, n, vit_flops(r.v), peak, floor, run_vit, &r);
    vit_destroy(&r.v);
    snprintf(path, sizeof path, "%s/abstractor.gguf", dir);
    if (abstractor_create(&r.a, path, &run, &err) != TY_OK) bench_stop(path, err.text);
    float *tokens =
        bench_floats((size_t)(most * abstractor_n_out(r.a)) * (size_t)abstractor_width_out(r.a));
    r.in = features;
    r.out = tokens;
    r.n_token = T;
    snprintf(group, sizeof group, "stage abstractor, %d tokens, 6 layers %s", T, type);
    for (int n = 1; n <= most; n += 7)
        add_vision(b, group, n, abstractor_flops(r.a, T), peak, 0, run_abstractor, &r);
    abstractor_destroy(&r.a);
    free(pixels);
    free(features);
    free(tokens);
}

/* ---- decoder ---- */

typedef struct {
    decoder_result result;
    int done;
} answer;

static void on_token(void *ctx, const decoder_token *token, int index, const char *text,
                     size_t len) {
    (void)ctx, (void)token, (void)index, (void)text, (void)len;
}

static void on_done(void *ctx, ty_status st, const decoder_result *result, const ty_err *err) {
    answer *a = ctx;
    if (st != TY_OK) bench_stop("decoder", err->text);
    a->result = *result;
    a->done++;
}

/* n requests at once; the last one's result stands for all. */
static answer ask(decoder *d, const char *prompt, int max_tokens, int n) {
    answer a = {.done = 0};
    ty_chat_request req;
    ty_err err = {0};
    if (ty_chat_request_init(&req) != TY_OK) bench_stop("request", "out of memory");
    req.prompt = strdup(prompt);
    req.sampling.max_tokens = max_tokens;
    req.sampling.temperature = 0;
    decoder_request r = {.request = &req,
                         .sink = {.ctx = &a, .on_token = on_token, .on_done = on_done}};
    for (int i = 0; i < n; i++) {
        uint64_t handle = 0;
        if (decoder_submit(d, &r, &handle, &err) != TY_OK) bench_stop("decoder", err.text);
    }
    while (decoder_step(d) > 0) {
    }
    ty_chat_request_clear(&req);
    return a;
}

static char *words(int n) {
    char *text = malloc((size_t)n * 2 + 1);
    if (!text) bench_stop("prompt", "out of memory");
    for (int i = 0; i < n; i++) memcpy(text + 2 * i, i % 2 ? "a " : "b ", 2);
    text[2 * n] = '\0';
    return text;
}

/* Weights of a pass over the 7B shape, in elements. */
static double weights(int layers) {
    return layers * (4.0 * 4096 * 4096 + 3.0 * 4096 * 11008) + 32000.0 * 4096;
}

static void add_prefill(bench *b, decoder *d, const char *group, int n_word, double peak,
                        double floor) {
    char *prompt = words(n_word), name[64];
    double best = 1e30, cores = 0;
    answer a = ask(d, prompt, 1, 1);
    for (int i = 0; i < repeats(); i++) {
        double cpu = limits_cpu_seconds();
        a = ask(d, prompt, 1, 1);
        double ms = (double)a.result.prefill_us * 1e-3;
        if (ms < best) {
            best = ms;
            cores = (limits_cpu_seconds() - cpu) * 1e3 / ms;
        }
    }
    snprintf(name, sizeof name, "prefill of %d rows, %.1f rows/s", a.result.n_prompt,
             a.result.n_prompt / best * 1e3);
    report_add(b->rep, &(report_row){.group = group,
                                     .name = name,
                                     .ms = best,
                                     .cores = cores,
                                     .ops = a.result.flops,
                                     .peak_gops = peak,
                                     .floor = floor});
    free(prompt);
}

typedef struct {
    double ms, cores, read; /* read: the rate around it, GB/s */
} decode_run;

static int by_share_of_read(const void *a, const void *b) {
    const decode_run *x = a, *y = b;
    double u = x->ms * x->read, v = y->ms * y->read;
    return u < v ? -1 : u > v;
}

/* One answer, and the read rate just before and after it.  On a machine shared with others the rate jumps to the
 * double and back within seconds: a run with unlike rates around it says nothing. */
static bool run_decode(bench *b, decoder *d, int n, decode_run *out) {
    enum { TOKENS = 17 };
    double before = limits_read_gbs(b->pool, ty_pool_size(b->pool)), cpu = limits_cpu_seconds();
    int64_t t = ty_now_us();
    answer a = ask(d, "b a b", TOKENS, n);
    double wall = (double)(ty_now_us() - t) * 1e-3;
    *out = (decode_run){.ms = (double)a.result.decode_us * 1e-3 / (TOKENS - 1),
                        .cores = (limits_cpu_seconds() - cpu) * 1e3 / wall};
    double after = limits_read_gbs(b->pool, ty_pool_size(b->pool));
    out->read = (before + after) / 2;
    return before < after * 1.1 && after < before * 1.1;
}

/* The run of the median share of the read rate. */
static void add_decode(bench *b, decoder *d, const char *group, int n, double bytes, double ops,
                       double floor) {
    decode_run run[15];
    int wanted = 2 * repeats() + 1, kept = 0;
    char name[64];
    for (int i = 0; i < 4 * wanted && kept < wanted; i++)
        if (run_decode(b, d, n, &run[kept]) || (kept == 0 && i == 4 * wanted - 1)) kept++;
    qsort(run, (size_t)kept, sizeof *run, by_share_of_read);
    decode_run m = run[kept / 2];
    snprintf(name, sizeof name, "decode, %d row%s, %.1f tokens/s", n, n > 1 ? "s" : "",
             n / m.ms * 1e3);
    report_add(b->rep, &(report_row){.group = group,
                                     .name = name,
                                     .ms = m.ms,
                                     .cores = m.cores,
                                     .ops = ops * n,
                                     .bytes = bytes,
                                     .read_gbs = m.read,
                                     .floor = floor});
}

static decoder *open_7b(bench *b, const char *family, const char *type, int layers) {
    char dir[256], path[300], name[64], count[16];
    const char *args[] = {"--llm",  "7b", "--vit",    "none", "--layers", count,
                          "--type", type, "--family", family, NULL};
    decoder_options o = {.run = {.pool = b->pool}, .kv = TY_F32, .context = 1024, .prefix_mib = -1};
    decoder *d = NULL;
    ty_err err = {0};
    snprintf(count, sizeof count, "%d", layers);
    snprintf(name, sizeof name, strcmp(family, "v2") == 0 ? "7b-v2-%s-%d" : "7b-%s-%d", type,
             layers);
    bench_model(dir, sizeof dir, opt.tyto, opt.models, name, args);
    snprintf(path, sizeof path, "%s/decoder.gguf", dir);
    if (decoder_create(&d, path, &o, &err) != TY_OK) bench_stop(path, err.text);
    return d;
}

static void bench_decoder(bench *b, const char *type, int layers, double peak, double floor) {
    char group[64];
    decoder *d = open_7b(b, "v1", type, layers);
    snprintf(group, sizeof group, "stage decoder, 7B %s, %d layer%s", type, layers,
             layers > 1 ? "s" : "");
    const ty_dtype_info *info = ty_dtype_get(ty_dtype_parse(type));
    double n = weights(layers), bytes = n * info->bytes / info->block;
    bool quantised = info->block > 1;
    add_decode(b, d, group, 1, bytes, 2 * n, quantised ? 0.8 : 0);
    add_decode(b, d, group, 8, bytes, 2 * n, 0);
    add_prefill(b, d, group, 62, peak, 0);
    add_prefill(b, d, group, 254, peak, floor);
    decoder_destroy(&d);
}

/* ---- mPLUG-Owl2's decoder beside a plain one ---- */

enum { PICTURE_ROWS = 65 };

/* Prefill of a prompt with one picture and n_word words behind it. */
static decoder_result look(decoder *d, const char *placeholder, const float *picture, int n_word) {
    char *rest = words(n_word), prompt[4096];
    answer a = {.done = 0};
    ty_chat_request req;
    ty_err err = {0};
    uint64_t handle = 0;
    if (ty_chat_request_init(&req) != TY_OK) bench_stop("request", "out of memory");
    snprintf(prompt, sizeof prompt, "b %s%s", placeholder, rest);
    req.prompt = strdup(prompt);
    req.sampling.max_tokens = 1;
    req.sampling.temperature = 0;
    decoder_request r = {.request = &req,
                         .visual = picture,
                         .n_visual = 1,
                         .visual_rows = PICTURE_ROWS,
                         .sink = {.ctx = &a, .on_token = on_token, .on_done = on_done}};
    if (decoder_submit(d, &r, &handle, &err) != TY_OK) bench_stop("decoder", err.text);
    while (decoder_step(d) > 0) {
    }
    ty_chat_request_clear(&req);
    free(rest);
    return a.result;
}

/* The two take turns, so that the machine's moods meet both, and what is compared is CPU time, which
 * neighbours do not lengthen.  The second row's share is of the plain decoder's rate: 97 % is 3 % more
 * time. */
static void add_multiway(bench *b, const char *group, decoder *plain, decoder *v2, int n_word) {
    float *picture = bench_floats((size_t)PICTURE_ROWS * 4096);
    double best[2] = {1e30, 1e30}, rate = 0;
    decoder_result last[2];
    for (int i = 0; i <= 2 * repeats(); i++)
        for (int k = 0; k < 2; k++) {
            double cpu = limits_cpu_seconds();
            last[k] = k ? look(v2, "<|image|>", picture, n_word)
                        : look(plain, "<image>", picture, n_word);
            double ms = (limits_cpu_seconds() - cpu) * 1e3;
            if (i > 0 && ms < best[k]) best[k] = ms;
        }
    if (last[0].n_prompt != last[1].n_prompt || last[1].n_visual != PICTURE_ROWS)
        bench_stop("prompt", "the two prompts differ");
    for (int k = 0; k < 2; k++) {
        char name[64];
        snprintf(name, sizeof name, "%s, prefill of %d rows, %d visual, CPU", k ? "v2" : "plain",
                 last[k].n_prompt, PICTURE_ROWS);
        report_add(b->rep, &(report_row){.group = group,
                                         .name = name,
                                         .ms = best[k],
                                         .cores = 1, /* of its CPU time */
                                         .ops = last[k].flops,
                                         .peak_gops = rate,
                                         .floor = k ? 0.97 : 0});
        rate = last[k].flops / best[k] * 1e-6;
    }
    free(picture);
}

static void bench_multiway(bench *b, const char *type, int layers) {
    char group[64];
    decoder *plain = open_7b(b, "v1", type, layers), *v2 = open_7b(b, "v2", type, layers);
    snprintf(group, sizeof group, "mPLUG-Owl2's decoder, 7B %s, %d layer%s", type, layers,
             layers > 1 ? "s" : "");
    add_multiway(b, group, plain, v2, 31);
    add_multiway(b, group, plain, v2, 62);
    const ty_dtype_info *info = ty_dtype_get(ty_dtype_parse(type));
    double n = weights(layers), bytes = n * info->bytes / info->block; /* the text way's alone */
    add_decode(b, v2, group, 1, bytes, 2 * n, info->block > 1 ? 0.8 : 0);
    decoder_destroy(&plain);
    decoder_destroy(&v2);
}

int main(int argc, char **argv) {
    bench b = {0};
    ty_err err = {0};
    ty_options_next next = ty_options_parse(
        table, "bench_stages [options]", "The stages on random weights of mPLUG-Owl 7B's shapes.",
        argc, argv, NULL);
    if (next != TY_OPTIONS_GO) return next == TY_OPTIONS_DONE ? 0 : 2;
    if (ty_cpu_check(&err) != TY_OK || ty_pool_create(&b.pool, opt.threads, &err) != TY_OK)
        bench_stop("start", err.text);
    if (!limits_measure(b.pool, &b.lim)) bench_stop("read rate", "out of memory");
    b.rep = report_open(&b.lim, ty_pool_size(b.pool));
    if (!b.rep) bench_stop("report", "out of memory");
    int layers = opt.full ? 32 : opt.quick ? 4 : 8;
    if (bench_wanted(opt.only, "vision")) {
        bench_vision(&b, "v1", "f32", b.lim.f32_gflops, 0.6);
        bench_vision(&b, "v1", "q8_0", b.lim.int8_gops, 0);
        bench_vision(&b, "v2", "f32", b.lim.f32_gflops, 0.6);
        bench_vision(&b, "v2", "q8_0", b.lim.int8_gops, 0);
    }
    if (bench_wanted(opt.only, "decoder")) {
        bench_decoder(&b, "q4_0", layers, b.lim.int8_gops, 0.25);
        bench_decoder(&b, "q8_0", layers, b.lim.int8_gops, 0.25);
        bench_decoder(&b, "f32", 1, b.lim.f32_gflops, 0);
    }
    if (bench_wanted(opt.only, "multiway")) {
        bench_multiway(&b, "q4_0", layers);
        bench_multiway(&b, "q8_0", layers);
        bench_multiway(&b, "f32", 1);
    }
    int missed = report_close(b.rep, opt.out);
    limits_close();
    ty_pool_destroy(&b.pool);
    return missed < 0 || (opt.strict && missed > 0) ? 1 : 0;
}
