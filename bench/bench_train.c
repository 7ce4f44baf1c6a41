/*
 * bench_train - one layer forward and backward, as the trainer runs it: ViT-L/14 over pictures, LLaMA at
 * 7B width over a batch of text; f32, every weight trained, the gradient of the input too.
 *
 * bench/torch_layers.py times the same two layers in PyTorch.
 */
#include "bench/limits.h"
#include "bench/report.h"

#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/base/options.h"
#include "common/math/cpu.h"
#include "training/pass.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static struct {
    int threads, pictures, samples, length, runs;
    const char *out, *models;
    bool quick, recompute;
} opt;

static const ty_option table[] = {
    TY_OPT_INT("threads", "TYTO_THREADS", opt.threads, 0, 0, 1024, "0 = one per core"),
    TY_OPT_INT("pictures", NULL, opt.pictures, 4, 1, 256, "of a ViT pass"),
    TY_OPT_INT("samples", NULL, opt.samples, 2, 1, 256, "of a LLaMA pass"),
    TY_OPT_INT("length", NULL, opt.length, 256, 2, 2048, "tokens of each"),
    TY_OPT_INT("runs", NULL, opt.runs, 8, 1, 1000, "of which the best counts"),
    TY_OPT_STR("out", NULL, opt.out, "bench/out/train.json", "FILE", "where the JSON goes"),
    TY_OPT_STR("models", NULL, opt.models, "bench/out/models", "DIR",
               "where configurations are kept"),
    TY_OPT_FLAG("quick", NULL, opt.quick, "two runs of each"),
    TY_OPT_FLAG("recompute", NULL, opt.recompute, "with layers run forward again"),
    TY_OPT_END,
};

/* One layer of each tower at its released width; vocabulary and abstractor as small as they can be. */
static const char CONFIG[] = "{\"model_type\": \"mplug-owl\", \"num_query_tokens\": 1, "
                             "\"vision_config\": {\"hidden_size\": 1024, "
                             "\"intermediate_size\": 4096, \"num_hidden_layers\": 1, "
                             "\"num_attention_heads\": 16, \"image_size\": 224, "
                             "\"patch_size\": 14}, \"visual_abstractor_config\": {\"hidden_size\": "
                             "1024, \"intermediate_size\": 32, "
                             "\"num_hidden_layers\": 1, \"num_attention_heads\": 16}, "
                             "\"text_config\": {\"model_type\": \"llama\", "
                             "\"hidden_size\": 4096, \"intermediate_size\": 11008, "
                             "\"num_hidden_layers\": 1, \"num_attention_heads\": 32, "
                             "\"vocab_size\": 32, \"max_position_embeddings\": 2048}}";

typedef struct {
    owl *m;
    train_run run;
    limits lim;
    report *rep;
} bench;

static void stop(const char *what, const char *why) {
    fprintf(stderr, "bench: %s: %s\n", what, why);
    exit(1);
}

static bool all(void *ctx, const char *name) {
    (void)ctx, (void)name;
    return true;
}

static void make_folders(const char *path) {
    char part[4096];
    for (size_t i = 1; i <= strlen(path) && i < sizeof part; i++) {
        if (path[i] != '/' && path[i] != 0) continue;
        memcpy(part, path, i);
        part[i] = 0;
        if (mkdir(part, 0777) != 0 && errno != EEXIST) stop(part, strerror(errno));
    }
}

static owl *open_model(void) {
    char dir[4000], path[4100];
    ty_err err = {0};
    owl *m = NULL;
    snprintf(dir, sizeof dir, "%s/train-layers", opt.models);
    snprintf(path, sizeof path, "%s/config.json", dir);
    make_folders(dir);
    if (ty_file_write_atomic(path, CONFIG, strlen(CONFIG), &err) != TY_OK ||
        owl_new(&m, dir, all, NULL, -1, 1, &err) != TY_OK ||
        param_settle(&m->params, 0, 1, &err) != TY_OK)
        stop("model", err.text);
    return m;
}

static void fill(float *x, int64_t n) {
    uint32_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) / (float)(1 << 23) - 1;
    }
}

/* Both passes of the ViT; d is its output's gradient. */
static void vit_once(bench *b, const float *pixels, const float *d) {
    vit_pass p;
    vit_forward(&b->run, b->m, pixels, opt.pictures, &p);
    float *grad = op_floats(&b->run, p.rows * b->m->vit.width);
    if (b->run.st != TY_OK) stop("vit", b->run.err.text);
    memcpy(grad, d, (size_t)(p.rows * b->m->vit.width) * sizeof *d);
    vit_backward(&b->run, b->m, &p, grad);
}

static void llm_once(bench *b, const owl_batch *batch, const float *d) {
    llm_pass p;
    llm_forward(&b->run, b->m, batch, NULL, &p);
    float *grad = op_floats(&b->run, (int64_t)batch->n_row * b->m->llm.width);
    if (b->run.st != TY_OK) stop("llm", b->run.err.text);
    memcpy(grad, d, (size_t)batch->n_row * (size_t)b->m->llm.width * sizeof *d);
    llm_backward(&b->run, b->m, &p, grad, NULL);
}

/* Attention's own products: two forward, five backward (one of them run again), n x n x width each; a causal
 * one needs half. */
static double attention_flops(int n_seq, double n, double width, bool causal) {
    return n_seq * 7 * 2 * n * n * width * (causal ? 0.5 : 1);
}

static void measure(bench *b, const char *group, const char *name, const float *pixels,
                    const owl_batch *batch, const float *d, double attention, int units) {
    report_row row = {
        .group = group, .name = name, .ms = 1e30, .peak_gops = b->lim.f32_gflops, .floor = 0.8};
    for (int i = 0; i < (opt.quick ? 2 : opt.runs) + 1; i++) {
        ty_arena_reset(b->run.arena);
        b->run.flops = 0;
        int64_t start = ty_now_us();
        double cpu = limits_cpu_seconds();
        if (pixels)
            vit_once(b, pixels, d);
        else
            llm_once(b, batch, d);
        if (b->run.st != TY_OK) stop(name, b->run.err.text);
        double ms = (double)(ty_now_us() - start) / 1e3;
        if (i == 0 || ms >= row.ms) continue; /* the first warms up */
        row.ms = ms;
        row.cores = (limits_cpu_seconds() - cpu) / (ms / 1e3);
        row.ops = b->run.flops + attention;
    }
    report_add(b->rep, &row);
    char note[128];
    snprintf(note, sizeof note, "%s: %.2f samples/s", group, units / row.ms * 1e3);
    report_note(b->rep, note);
}

static void bench_vit(bench *b) {
    int64_t pixels = (int64_t)opt.pictures * 3 * 224 * 224, rows = (int64_t)opt.pictures * 257;
    float *x = malloc((size_t)pixels * sizeof *x), *d = malloc((size_t)rows * 1024 * sizeof *d);
    char name[64];
    if (!x || !d) stop("vit", "no memory");
    fill(x, pixels);
    fill(d, rows * 1024);
    snprintf(name, sizeof name, "forward + backward, %d pictures", opt.pictures);
    measure(b, "ViT-L/14 layer", name, x, NULL, d, attention_flops(opt.pictures, 257, 1024, false),
            opt.pictures);
    free(x);
    free(d);
}

static void bench_llm(bench *b) {
    owl_sample *s = calloc((size_t)opt.samples, sizeof *s);
    int32_t *id = malloc((size_t)opt.length * sizeof *id);
    float *d = malloc((size_t)opt.samples * (size_t)opt.length * 4096 * sizeof *d);
    owl_batch batch;
    ty_err err = {0};
    char name[64];
    if (!s || !id || !d) stop("llm", "no memory");
    for (int i = 0; i < opt.length; i++) id[i] = 1 + i % 31;
    for (int i = 0; i < opt.samples; i++) s[i] = (owl_sample){id, id, opt.length, 0};
    fill(d, (int64_t)opt.samples * opt.length * 4096);
    if (owl_batch_make(&batch, 1, 2, 32, 2048, s, opt.samples, NULL, &err) != TY_OK)
        stop("batch", err.text);
    snprintf(name, sizeof name, "forward + backward, %d x %d tokens", opt.samples, opt.length);
    measure(b, "7B LLaMA layer", name, NULL, &batch, d,
            attention_flops(opt.samples, opt.length, 4096, true), opt.samples);
    owl_batch_clear(&batch);
    free(s);
    free(id);
    free(d);
}

int main(int argc, char **argv) {
    ty_err err = {0};
    bench b = {0};
    switch (ty_options_parse(table, "bench_train [options]",
                             "the trainer's layers beside the machine's peak", argc, argv, NULL)) {
    case TY_OPTIONS_DONE: return 0;
    case TY_OPTIONS_USAGE: return 2;
    case TY_OPTIONS_GO: break;
    }
    if (ty_cpu_check(&err) != TY_OK || ty_pool_create(&b.run.pool, opt.threads, &err) != TY_OK)
        stop("threads", err.text);
    b.run.arena = ty_arena_create(0);
    b.run.recompute = opt.recompute;
    if (!b.run.arena || !limits_measure(b.run.pool, &b.lim)) stop("limits", "no memory");
    b.rep = report_open(&b.lim, ty_pool_size(b.run.pool));
    if (!b.rep) stop("report", "no memory");
    b.m = open_model();
    bench_vit(&b);
    bench_llm(&b);
    int missed = report_close(b.rep, opt.out);
    owl_close(&b.m);
    ty_arena_destroy(&b.run.arena);
    ty_pool_destroy(&b.run.pool);
    limits_close();
    return missed < 0;
}
