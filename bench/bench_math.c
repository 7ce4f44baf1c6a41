/*
 * bench_math - the arithmetic of each stage at ViT-L/14 and 7B shapes, beside what the machine can do
 * and beside OpenBLAS.
 *
 * Every figure is the best of several runs.  Weights that decoding streams are cut from a set far over
 * the caches (a pass over it is one run), and the read rate that they are compared with is measured
 * again right before, because memory is shared with the machine's other tenants.
 */
#include "bench/harness.h"
#include "bench/limits.h"
#include "bench/report.h"

#include "common/base/options.h"
#include "common/math/blas.h"
#include "common/math/cpu.h"
#include "common/math/linear.h"
#include "common/math/nn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COPIES = 128, REPEAT = 7 };

static struct {
    int threads;
    const char *out;
    bool strict, quick;
} opt;

static const ty_option table[] = {
    TY_OPT_INT("threads", "TYTO_THREADS", opt.threads, 0, 0, 1024, "0 = one per core"),
    TY_OPT_STR("out", NULL, opt.out, "bench/out/math.json", "FILE", "where the JSON goes"),
    TY_OPT_FLAG("strict", NULL, opt.strict, "fail when a floor is missed"),
    TY_OPT_FLAG("quick", NULL, opt.quick, "two runs of each instead of seven"),
    TY_OPT_END,
};

typedef struct {
    ty_pool *pool;
    limits lim;
    report *rep;
} bench;

/* A layer's shape; N_i side by side where fused. */
typedef struct {
    const char *name;
    int N, K;
} shape;

/* Random blocks of the type, one row repeated: speed does not depend on values. */
static ty_tensor random_weight(ty_dtype t, int N, int K) {
    size_t row = ty_dtype_bytes(t, (size_t)K);
    float *x = bench_floats((size_t)K);
    uint8_t *data = malloc(row * (size_t)N);
    if (!data) bench_stop("weights", "out of memory");
    for (int n = 0; n < N; n++) ty_dtype_from_f32(t, x, (size_t)K, data + row * (size_t)n);
    free(x);
    return (ty_tensor){
        .dtype = t, .n_dim = 2, .shape = {N, K}, .data = data, .size_bytes = row * (size_t)N};
}

static ty_linear *make_layer(bench *b, const ty_tensor *w, ty_compute c) {
    ty_linear *l = NULL;
    ty_err err = {0};
    if (ty_linear_create(&l, w, NULL, 1, c, b->pool, &err) != TY_OK) bench_stop("layer", err.text);
    return l;
}

typedef struct {
    ty_linear *layer[MAX_COPIES];
    int n, M;
    ty_pool *pool;
    const float *x;
    float *y;
    int64_t N, K;
} layer_run;

static void run_layers(void *ctx) {
    layer_run *r = ctx;
    for (int i = 0; i < r->n; i++)
        if (ty_linear_apply(r->layer[i], r->pool, r->x, r->K, r->M, r->y, r->N) != TY_OK)
            bench_stop("bench", "out of memory");
}

/* One layer, M rows; with `memory` as many copies as fill 400 MB, so that the caches do not help. */
static void bench_layer(bench *b, const char *group, shape s, ty_dtype t, ty_compute c, int M,
                        bool memory, double floor) {
    ty_tensor w = random_weight(t, s.N, s.K);
    float *x = bench_floats((size_t)M * (size_t)s.K), *y = bench_floats((size_t)M * (size_t)s.N);
    layer_run r = {.n = 1, .M = M, .pool = b->pool, .x = x, .y = y, .N = s.N, .K = s.K};
    r.layer[0] = make_layer(b, &w, c);
    double bytes = (double)ty_linear_bytes(r.layer[0]);
    for (; memory && r.n < MAX_COPIES && bytes * r.n < 400e6; r.n++)
        r.layer[r.n] = make_layer(b, &w, c);
    char name[64];
    bool int8 = c == TY_COMPUTE_INT8 || (c == TY_COMPUTE_AUTO && (t == TY_Q8_0 || t == TY_Q4_0));
    snprintf(name, sizeof name, "%-9s %4d x %5d x %5d %s%s", s.name, M, s.N, s.K,
             ty_dtype_name((int)t), int8 && t != TY_Q8_0 && t != TY_Q4_0 ? " as int8" : "");
    double read = memory ? limits_read_gbs(b->pool, ty_pool_size(b->pool)) : 0;
    bench_time best = bench_best_of(opt.quick ? 2 : REPEAT, run_layers, &r);
    report_add(b->rep, &(report_row){.group = group,
                                     .name = name,
                                     .ms = best.ms / r.n,
                                     .cores = best.cores,
                                     .ops = 2.0 * M * s.N * s.K,
                                     .bytes = memory ? bytes : 0,
                                     .peak_gops = int8 ? b->lim.int8_gops : b->lim.f32_gflops,
                                     .read_gbs = read,
                                     .floor = floor});
    for (int i = 0; i < r.n; i++) ty_linear_destroy(&r.layer[i]);
    free(x);
    free(y);
    free((void *)(uintptr_t)w.data);
}

/* ---- OpenBLAS on the same shape: columns shared out over the pool, as our own layers are ---- */

typedef struct {
    ty_pool *pool;
    const float *x, *w;
    float *y;
    int M, N, K, columns;
} blas_run;

static void blas_task(void *ctx, int task, int member) {
    const blas_run *r = ctx;
    int c = task * r->columns, n = r->N - c < r->columns ? r->N - c : r->columns;
    (void)member;
    ty_blas_gemm(r->M, n, r->K, r->x, r->K, r->w + (int64_t)c * r->K, r->K, r->y + c, r->N);
}

static void run_blas(void *ctx) {
    blas_run *r = ctx;
    ty_pool_run(r->pool, (r->N + r->columns - 1) / r->columns, blas_task, r);
}

static void bench_blas(bench *b, const char *group, shape s, int M) {
    if (ty_blas_open(NULL) != TY_OK) return;
    float *x = bench_floats((size_t)M * (size_t)s.K), *y = bench_floats((size_t)M * (size_t)s.N);
    float *w = bench_floats((size_t)s.N * (size_t)s.K);
    blas_run r = {.pool = b->pool, .x = x, .w = w, .y = y, .M = M, .N = s.N, .K = s.K};
    r.columns = s.N / ty_pool_size(b->pool);
    char name[64];
    snprintf(name, sizeof name, "%-9s %4d x %5d x %5d f32 OpenBLAS", s.name, M, s.N, s.K);
    bench_time best = bench_best_of(opt.quick ? 2 : REPEAT, run_blas, &r);
    report_add(b->rep, &(report_row){.group = group,
                                     .name = name,
                                     .ms = best.ms,
                                     .cores = best.cores,
                                     .ops = 2.0 * M * s.N * s.K,
                                     .peak_gops = b->lim.f32_gflops});
    free(x);
    free(y);
    free(w);
}

/* ---- attention ---- */

typedef struct {
    ty_pool *pool;
    ty_attention a;
} attention_run;

static void run_attention(void *ctx) {
    attention_run *r = ctx;
    if (ty_attention_full(r->pool, &r->a, NULL) != TY_OK) bench_stop("bench", "out of memory");
}

static void bench_attention(bench *b, const char *group, int n_batch, int n_q, int n_kv) {
    enum { HEADS = 16, D = 64, C = HEADS * D };
    size_t rows = (size_t)n_batch * (size_t)n_kv;
    float *x = bench_floats(rows * 3 * C), *ctx = bench_floats(rows * C);
    attention_run r = {.pool = b->pool, .a = ty_attention_of_qkv(x, n_batch, n_kv, HEADS, D, ctx)};
    r.a.n_q = n_q;
    char name[64];
    snprintf(name, sizeof name, "attention %d x %d on %d, 16 heads", n_batch, n_q, n_kv);
    bench_time best = bench_best_of(opt.quick ? 2 : REPEAT, run_attention, &r);
    report_add(b->rep, &(report_row){.group = group,
                                     .name = name,
                                     .ms = best.ms,
                                     .cores = best.cores,
                                     .ops = 4.0 * n_batch * n_q * n_kv * C,
                                     .peak_gops = b->lim.f32_gflops});
    free(x);
    free(ctx);
}

/* ---- the suite ---- */

static void bench_vit(bench *b) {
    static const shape layer[] = {
        {"qkv", 3072, 1024}, {"dense", 1024, 1024}, {"fc1", 4096, 1024}, {"fc2", 1024, 4096}};
    for (int i = 0; i < 4; i++) {
        bench_layer(b, "ViT-L/14, one picture", layer[i], TY_F32, TY_COMPUTE_AUTO, 257, false, 0.6);
        bench_blas(b, "ViT-L/14, one picture", layer[i], 257);
    }
    bench_attention(b, "ViT-L/14, one picture", 1, 257, 257);
    for (int i = 0; i < 4; i++) {
        bench_layer(b, "ViT-L/14, eight pictures", layer[i], TY_F32, TY_COMPUTE_AUTO, 8 * 257,
                    false, 0.6);
        bench_blas(b, "ViT-L/14, eight pictures", layer[i], 8 * 257);
    }
    bench_attention(b, "ViT-L/14, eight pictures", 8, 257, 257);
    bench_layer(b, "ViT-L/14, shorter weights", layer[2], TY_F16, TY_COMPUTE_AUTO, 257, false, 0);
    bench_layer(b, "ViT-L/14, shorter weights", layer[2], TY_BF16, TY_COMPUTE_AUTO, 257, false, 0);
    for (int i = 0; i < 4; i++)
        bench_layer(b, "ViT-L/14, shorter weights", layer[i], TY_Q8_0, TY_COMPUTE_AUTO, 257, false,
                    0);
}

static void bench_abstractor(bench *b) {
    static const shape kv = {"k+v", 2048, 1024}, q = {"query", 1024, 1024};
    static const shape up = {"w1+w3", 5632, 1024}, down = {"w2", 1024, 2816};
    bench_layer(b, "abstractor", q, TY_F32, TY_COMPUTE_AUTO, 64, false, 0.6);
    bench_layer(b, "abstractor", kv, TY_F32, TY_COMPUTE_AUTO, 321, false, 0.6);
    bench_layer(b, "abstractor", up, TY_F32, TY_COMPUTE_AUTO, 64, false, 0.6);
    bench_layer(b, "abstractor", down, TY_F32, TY_COMPUTE_AUTO, 64, false, 0.6);
    bench_attention(b, "abstractor", 1, 64, 321);
}

static const shape llama[] = {
    {"qkv", 12288, 4096}, {"o", 4096, 4096}, {"gate+up", 22016, 4096}, {"down", 4096, 11008}};

static void bench_decode(bench *b) {
    static const ty_dtype quantised[] = {TY_Q4_0, TY_Q8_0};
    static const ty_dtype floats[] = {TY_F32, TY_F16, TY_BF16};
    for (int t = 0; t < 2; t++)
        for (int i = 0; i < 4; i++)
            bench_layer(b, "7B decode, one row", llama[i], quantised[t], TY_COMPUTE_AUTO, 1, true,
                        0.8);
    for (int t = 0; t < 3; t++)
        for (int i = 0; i < 4; i += 2)
            bench_layer(b, "7B decode, one row, floats", llama[i], floats[t], TY_COMPUTE_AUTO, 1,
                        true, 0);
    for (int t = 0; t < 2; t++)
        for (int M = 4; M <= 16; M *= 2)
            bench_layer(b, "7B decode, several rows", llama[0], quantised[t], TY_COMPUTE_AUTO, M,
                        true, 0);
}

static void bench_prefill(bench *b) {
    static const ty_dtype quantised[] = {TY_Q4_0, TY_Q8_0};
    for (int t = 0; t < 2; t++)
        for (int M = 128; M <= 512; M *= 4)
            for (int i = 0; i < 4; i++)
                bench_layer(b, M == 128 ? "7B prefill, 128 rows" : "7B prefill, 512 rows", llama[i],
                            quantised[t], TY_COMPUTE_AUTO, M, false, 0.25);
    bench_layer(b, "7B prefill, f32", llama[1], TY_F32, TY_COMPUTE_AUTO, 128, false, 0.6);
    bench_blas(b, "7B prefill, f32", llama[1], 128);
    bench_layer(b, "7B prefill, f32", llama[3], TY_F32, TY_COMPUTE_AUTO, 512, false, 0.6);
    bench_blas(b, "7B prefill, f32", llama[3], 512);
}

int main(int argc, char **argv) {
    bench b = {0};
    ty_err err = {0};
    ty_options_next next =
        ty_options_parse(table, "bench_math [options]",
                         "Kernels and layers at the shapes of mPLUG-Owl 7B.", argc, argv, NULL);
    if (next != TY_OPTIONS_GO) return next == TY_OPTIONS_DONE ? 0 : 2;
    if (ty_cpu_check(&err) != TY_OK || ty_pool_create(&b.pool, opt.threads, &err) != TY_OK)
        bench_stop("threads", err.text);
    (void)ty_blas_open(NULL); /* so that the report can name the peer */
    if (!limits_measure(b.pool, &b.lim)) bench_stop("read rate", "out of memory");
    b.rep = report_open(&b.lim, ty_pool_size(b.pool));
    if (!b.rep) bench_stop("report", "out of memory");
    bench_vit(&b);
    bench_abstractor(&b);
    bench_decode(&b);
    bench_prefill(&b);
    int missed = report_close(b.rep, opt.out);
    limits_close();
    ty_pool_destroy(&b.pool);
    return missed < 0 || (opt.strict && missed > 0) ? 1 : 0;
}
