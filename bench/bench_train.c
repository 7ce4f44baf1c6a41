/*
 * bench_train - forward and backward as the trainer runs them, f32, every weight trained: one layer of ViT-L/14
 * over pictures and one of LLaMA at 7B width over text, the gradients of their inputs too; and the whole
 * owlet, pictures to loss.
 *
 * With --python each is timed in PyTorch too (bench/torch_layers.py), just before and just after.  Only products
 * that are needed count: no score of a causal future, none that is computed again.
 */
#include "bench/harness.h"
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

static struct {
    int threads, pictures, samples, length, owlets, runs;
    const char *out, *models, *owlet, *only, *python;
    bool quick, recompute;
} opt;

static const ty_option table[] = {
    TY_OPT_INT("threads", "TYTO_THREADS", opt.threads, 0, 0, 1024, "0 = one per core"),
    TY_OPT_INT("pictures", NULL, opt.pictures, 4, 1, 256, "of a ViT pass"),
    TY_OPT_INT("samples", NULL, opt.samples, 2, 1, 256, "of a LLaMA pass"),
    TY_OPT_INT("length", NULL, opt.length, 256, 2, 2048, "tokens of each"),
    TY_OPT_INT("owlets", NULL, opt.owlets, 8, 1, 256,
               "samples of an owlet's pass: a picture, 64 tokens"),
    TY_OPT_STR("owlet", NULL, opt.owlet, "training/owlet/base", "DIR", "the owlet's config.json"),
    TY_OPT_STR("only", NULL, opt.only, "", "NAME", "one of vit, llm, owlet"),
    TY_OPT_STR("python", NULL, opt.python, "", "FILE",
               "an interpreter with torch: times PyTorch too"),
    TY_OPT_INT("runs", NULL, opt.runs, 8, 1, 1000, "of which the best counts"),
    TY_OPT_STR("out", NULL, opt.out, "bench/out/train.json", "FILE", "where the JSON goes"),
    TY_OPT_STR("models", NULL, opt.models, "bench/out/models", "DIR",
               "where configurations are kept"),
    TY_OPT_FLAG("quick", NULL, opt.quick, "two runs of each"),
    TY_OPT_FLAG("recompute", NULL, opt.recompute, "with layers run forward again"),
    TY_OPT_END,
};

/* A model with one layer of one tower at its released width, all else as small as it can be. */
static const char CONFIG[] =
    "{\"model_type\": \"mplug-owl\", \"num_query_tokens\": 1, "
    "\"vision_config\": {\"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": 1, "
    "\"num_attention_heads\": %d, \"image_size\": 224, \"patch_size\": 14}, "
    "\"visual_abstractor_config\": {\"hidden_size\": %d, \"intermediate_size\": 32, "
    "\"num_hidden_layers\": 1, \"num_attention_heads\": 1}, "
    "\"text_config\": {\"model_type\": \"llama\", \"hidden_size\": %d, \"intermediate_size\": %d, "
    "\"num_hidden_layers\": 1, \"num_attention_heads\": %d, \"vocab_size\": 32, "
    "\"max_position_embeddings\": 2048}}";

typedef struct {
    owl *m;
    train_run run;
    limits lim;
    report *rep;
} bench;

static bool all(void *ctx, const char *name) {
    (void)ctx, (void)name;
    return true;
}

static owl *open_model(const char *dir) {
    ty_err err = {0};
    owl *m = NULL;
    if (owl_new(&m, dir, all, NULL, -1, 1, &err) != TY_OK ||
        param_settle(&m->params, 0, 1, &err) != TY_OK)
        bench_stop("model", err.text);
    return m;
}

/* The ViT at its width and a small LLaMA, or the other way round. */
static owl *open_layer(bool vit) {
    char dir[4000], path[4100], text[sizeof CONFIG + 64];
    ty_err err = {0};
    snprintf(dir, sizeof dir, "%s/train-%s", opt.models, vit ? "vit" : "llm");
    snprintf(path, sizeof path, "%s/config.json", dir);
    snprintf(text, sizeof text, CONFIG, vit ? 1024 : 32, vit ? 4096 : 32, vit ? 16 : 1,
             vit ? 1024 : 32, vit ? 32 : 4096, vit ? 32 : 11008, vit ? 1 : 32);
    bench_make_parents(path);
    if (ty_file_write_atomic(path, text, strlen(text), &err) != TY_OK)
        bench_stop("model", err.text);
    return open_model(dir);
}

/* Both passes of the ViT's layer; d is its output's gradient. */
static void vit_once(bench *b, const float *pixels, const float *d) {
    vit_pass p;
    vit_forward(&b->run, b->m, pixels, opt.pictures, &p);
    vit_back_begin(&b->run, b->m, &p, d);
    vit_back_layer(&b->run, b->m, &p, 0);
    vit_back_end(&b->run, b->m, &p);
    op_add_weight_grads(&b->run);
    if (b->run.st == TY_OK) vit_add_embedding_grads(b->m, &p);
}

static void llm_once(bench *b, const owl_batch *batch, const float *d) {
    llm_pass p;
    int64_t all = (int64_t)batch->n_row * b->m->llm.width;
    llm_forward(&b->run, b->m, batch, NULL, &p);
    llm_back_begin(&b->run, b->m, &p);
    p.d = op_floats(&b->run, all);
    op_copy(&b->run, p.d, d, all);
    llm_back_layer(&b->run, b->m, &p, 0);
    op_add_weight_grads(&b->run);
    if (b->run.st == TY_OK) llm_add_embedding_grads(b->m, &p);
}

static void owlet_once(bench *b, const owl_batch *batch) {
    double loss;
    ty_err err = {0};
    if (pass_run(&b->run, b->m, batch, 1.0f / (float)batch->n_target, true, &loss, &err) != TY_OK)
        bench_stop("owlet", err.text);
}

/* The products of attention that are needed, two forward and four backward; a causal one needs half. */
static double attention_flops(double n_seq, double n_q, double n_kv, double width, bool causal) {
    return n_seq * 6 * 2 * n_q * (causal ? (n_kv + 1) / 2 : n_kv) * width;
}

/* PyTorch's best time for the same work, in ms; 0: none asked for. */
static double torch_ms(const char *what, int threads) {
    char command[8192], line[512];
    double ms = 0;
    if (!*opt.python) return 0;
    snprintf(command, sizeof command,
             "'%s' bench/torch_layers.py --only %s --threads %d --pictures %d --samples %d "
             "--length %d --owlets %d --owlet '%s' --runs %d",
             opt.python, what, threads, opt.pictures, opt.samples, opt.length, opt.owlets,
             opt.owlet, opt.quick ? 2 : opt.runs);
    FILE *f = popen(command, "r");
    if (!f) bench_stop(command, strerror(errno));
    while (fgets(line, sizeof line, f))
        if (strncmp(line, "best_ms ", 8) == 0) ms = strtod(line + 8, NULL);
    if (pclose(f) != 0 || ms <= 0) bench_stop(command, "failed");
    return ms;
}

typedef struct {
    const char *what, *group; /* what: its name for --only and for PyTorch */
    char name[64];
    const float *pixels; /* a ViT's */
    const owl_batch *batch;
    const float *d; /* the gradient of the output; NULL: the whole model, down from the loss */
    double attention;
    int units;
} subject;

static void once(bench *b, const subject *s) {
    if (!s->d)
        owlet_once(b, s->batch);
    else if (s->pixels)
        vit_once(b, s->pixels, s->d);
    else
        llm_once(b, s->batch, s->d);
}

static void measure(bench *b, const subject *s) {
    report_row row = {.group = s->group,
                      .name = s->name,
                      .ms = 1e30,
                      .peak_gops = b->lim.f32_gflops,
                      .floor = 0.8};
    double before = torch_ms(s->what, ty_pool_size(b->run.pool));
    for (int i = 0; i < (opt.quick ? 2 : opt.runs) + 1; i++) {
        ty_arena_reset(b->run.arena);
        param_zero_grads(&b->m->params);
        b->run.flops = 0;
        int64_t start = ty_now_us();
        double cpu = limits_cpu_seconds();
        once(b, s);
        if (b->run.st != TY_OK) bench_stop(s->name, b->run.err.text);
        double ms = (double)(ty_now_us() - start) / 1e3;
        if (i == 0 || ms >= row.ms) continue; /* the first warms up */
        row.ms = ms;
        row.cores = (limits_cpu_seconds() - cpu) / (ms / 1e3);
        row.ops = b->run.flops + s->attention;
    }
    double after = torch_ms(s->what, ty_pool_size(b->run.pool));
    double peer = before < after ? before : after;
    if (peer > 0 && peer / row.ms >= 2) row.floor = 0; /* either is enough */
    report_add(b->rep, &row);
    char note[256];
    int at = snprintf(note, sizeof note, "%s: %.2f samples/s", s->group, s->units / row.ms * 1e3);
    if (peer > 0)
        snprintf(note + at, sizeof note - (size_t)at,
                 "; PyTorch %.1f ms, %.2f samples/s: %.2f times", peer, s->units / peer * 1e3,
                 peer / row.ms);
    report_note(b->rep, note);
}

static void bench_vit(bench *b) {
    int64_t pixels = (int64_t)opt.pictures * 3 * 224 * 224, rows = (int64_t)opt.pictures * 257;
    float *x = bench_floats((size_t)pixels), *d = bench_floats((size_t)rows * 1024);
    subject s = {.what = "vit",
                 .group = "ViT-L/14 layer",
                 .pixels = x,
                 .d = d,
                 .attention = attention_flops(opt.pictures, 257, 257, 1024, false),
                 .units = opt.pictures};
    snprintf(s.name, sizeof s.name, "forward + backward, %d pictures", opt.pictures);
    b->m = open_layer(true);
    measure(b, &s);
    owl_close(&b->m);
    free(x);
    free(d);
}

/* n samples of `length` ids, each with a picture's placeholders in front when there are any. */
static void make_batch(owl_batch *batch, int version, int visual, int n_vocab, int n_ctx, int n,
                       int length, const float *pixels) {
    owl_sample *s = calloc((size_t)n, sizeof *s);
    int total = visual + length;
    int32_t *id = malloc((size_t)total * sizeof *id), *label = malloc((size_t)total * sizeof *id);
    ty_err err = {0};
    if (!s || !id || !label) bench_stop("batch", "no memory");
    for (int i = 0; i < total; i++) {
        id[i] = i < visual ? -1 : 1 + i % (n_vocab - 1);
        label[i] = i < visual + length / 2 ? OWL_IGNORE : id[i]; /* a question, then its answer */
    }
    for (int i = 0; i < n; i++) s[i] = (owl_sample){id, label, total, visual > 0};
    if (owl_batch_make(batch, version, visual, n_vocab, n_ctx, s, n, pixels, &err) != TY_OK)
        bench_stop("batch", err.text);
    free(s);
    free(id);
    free(label);
}

static void bench_llm(bench *b) {
    float *d = bench_floats((size_t)opt.samples * (size_t)opt.length * 4096);
    owl_batch batch;
    make_batch(&batch, 0, 0, 32, 2048, opt.samples, opt.length, NULL);
    subject s = {.what = "llm",
                 .group = "7B LLaMA layer",
                 .batch = &batch,
                 .d = d,
                 .attention = attention_flops(opt.samples, opt.length, opt.length, 4096, true),
                 .units = opt.samples};
    snprintf(s.name, sizeof s.name, "forward + backward, %d x %d tokens", opt.samples, opt.length);
    b->m = open_layer(false);
    measure(b, &s);
    owl_close(&b->m);
    owl_batch_clear(&batch);
    free(d);
}

static void bench_owlet(bench *b) {
    enum { TEXT = 64 };
    owl *m = b->m = open_model(opt.owlet);
    int side = m->vit.image_size, cells = side / m->vit.patch_size;
    int q = m->abstractor.n_query, tokens = cells * cells + 1;
    int64_t pixels = (int64_t)opt.owlets * 3 * side * side;
    float *x = bench_floats((size_t)pixels);
    owl_batch batch;
    make_batch(&batch, 1, q + 1, m->llm.n_vocab, m->llm.n_ctx, opt.owlets, TEXT, x);
    double n = opt.owlets, rows = batch.n_row / n;
    subject s = {.what = "owlet",
                 .group = "owlet",
                 .batch = &batch,
                 .units = opt.owlets,
                 .attention =
                     m->vit.n_layer * attention_flops(n, tokens, tokens, m->vit.width, false) +
                     m->abstractor.n_layer *
                         attention_flops(n, q, q + tokens, m->abstractor.width, false) +
                     m->llm.n_layer * attention_flops(n, rows, rows, m->llm.width, true)};
    snprintf(s.name, sizeof s.name, "forward + backward, %d pictures, %d rows", opt.owlets,
             batch.n_row);
    measure(b, &s);
    owl_close(&b->m);
    owl_batch_clear(&batch);
    free(x);
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
        bench_stop("threads", err.text);
    b.run.arena = ty_arena_create(PASS_ARENA_BLOCK);
    b.run.recompute = opt.recompute;
    if (!b.run.arena || !limits_measure(b.run.pool, &b.lim)) bench_stop("limits", "no memory");
    b.rep = report_open(&b.lim, ty_pool_size(b.run.pool));
    if (!b.rep) bench_stop("report", "no memory");
    if (bench_wanted(opt.only, "vit")) bench_vit(&b);
    if (bench_wanted(opt.only, "llm")) bench_llm(&b);
    if (bench_wanted(opt.only, "owlet")) bench_owlet(&b);
    int missed = report_close(b.rep, opt.out);
    train_run_clear(&b.run);
    ty_arena_destroy(&b.run.arena);
    ty_pool_destroy(&b.run.pool);
    limits_close();
    return missed < 0;
}
