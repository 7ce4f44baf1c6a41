/*
 * tyto-abstractor - the abstractor stage: image_features -> visual_tokens, for one file (--in) or as a
 * worker of the broker (--connect).
 */
#include "common/base/log.h"
#include "common/math/cpu.h"
#include "common/model/offline.h"
#include "common/wire/stage_options.h"
#include "services/abstractor/abstractor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ty_stage_options opt;

static const ty_option table[] = {TY_STAGE_OPTIONS(opt, "abstractor.0", 8), TY_COMPUTE_OPTIONS(opt),
                                  TY_CACHE_OPTIONS(opt), TY_OPT_END};

static const char about[] =
    "The abstractor stage: patch features [tokens, C] to visual tokens [queries + 1, D].\n"
    "  tyto-abstractor --model P/abstractor.gguf --in y.safetensors --out z.safetensors [--dump]\n"
    "reads image_features [n, tokens, C] (or [tokens, C]), writes visual_tokens [n, queries + 1, "
    "D];\nof a model that sees videos also [n, T, tokens, C].";

/* ---- offline ---- */

static ty_status check_features(const ty_offline_input *x, int width, ty_err *err) {
    char is[128];
    ty_tensor t = {.n_dim = x->n_dim};
    memcpy(t.shape, x->shape, sizeof t.shape);
    if (x->shape[x->n_dim - 1] == width) return TY_OK;
    return ty_fail(err, TY_ESHAPE,
                   "%s: image_features is %s, this model wants [n,tokens,%d]; make it with this "
                   "pipeline's tyto-vit",
                   opt.in.item[0], ty_tensor_shape_text(&t, is, sizeof is), width);
}

static ty_status write_tokens(abstractor *a, const ty_offline_input *x, ty_safetensors_writer *w,
                              ty_err *err) {
    const int64_t shape[] = {x->shape[0], abstractor_n_out(a), abstractor_width_out(a)};
    float *tokens = malloc((size_t)(shape[0] * shape[1] * shape[2]) * sizeof *tokens);
    if (!tokens) return ty_fail(err, TY_ENOMEM, "no memory for visual_tokens");
    ty_offline_dump sink;
    ty_dump dump = ty_offline_dump_into(&sink, w);
    int n_frame = x->n_dim == 4 ? (int)x->shape[1] : 1;
    ty_status st =
        abstractor_run_videos(a, x->data, (int)x->shape[0], n_frame, (int)x->shape[x->n_dim - 2],
                              tokens, opt.dump ? &dump : NULL, err);
    if (st == TY_OK) st = ty_offline_dump_status(&sink, err);
    if (st == TY_OK) st = ty_safetensors_add(w, "visual_tokens", TY_F32, 3, shape, tokens, err);
    if (st == TY_OK) st = ty_safetensors_write(w, opt.out, err);
    free(tokens);
    return st;
}

static ty_status offline(abstractor *a, ty_err *err) {
    ty_offline_input x;
    ty_safetensors_writer *w = NULL;
    ty_status st = ty_offline_open(&x, opt.in.item[0], "image_features", 3,
                                   abstractor_sees_videos(a), "tyto-vit", err);
    if (st != TY_OK) return st;
    st = check_features(&x, abstractor_width_in(a), err);
    if (st == TY_OK) st = ty_safetensors_writer_create(&w, err);
    if (st == TY_OK) st = write_tokens(a, &x, w, err);
    ty_safetensors_writer_destroy(&w);
    ty_offline_close(&x);
    return st;
}

/* ---- as a worker ---- */

typedef struct {
    abstractor *a;
    ty_stage_spec takes, gives;
    float *features, *tokens; /* grown to the largest batch, one picture behind the other */
    size_t features_bytes, tokens_bytes;
} service;

static ty_status grow(float **buf, size_t *have, size_t want, ty_err *err) {
    if (want <= *have) return TY_OK;
    free(*buf);
    *have = 0;
    *buf = malloc(want);
    if (!*buf)
        return ty_fail(err, TY_ENOMEM, "abstractor: no memory for a batch (%zu bytes)", want);
    *have = want;
    return TY_OK;
}

static int frames_of(const service *s, const ty_tensor *features) {
    return abstractor_sees_videos(s->a) ? (int)features->shape[0] : 1;
}

static int tokens_of(const ty_tensor *features) {
    return (int)features->shape[features->n_dim - 2];
}

/* n pictures or videos of the same number of frames and tokens; closes them all. */
static void run_group(service *s, ty_job **jobs, int n, const ty_tensor *features) {
    int n_frame = frames_of(s, features), n_token = tokens_of(features);
    ty_err err = {0};
    size_t in = features[0].size_bytes;
    size_t out = (size_t)abstractor_n_out(s->a) * (size_t)abstractor_width_out(s->a);
    ty_status st = grow(&s->features, &s->features_bytes, (size_t)n * in, &err);
    if (st == TY_OK) st = grow(&s->tokens, &s->tokens_bytes, (size_t)n * out * sizeof(float), &err);
    for (int i = 0; i < n && st == TY_OK; i++)
        memcpy((char *)s->features + (size_t)i * in, features[i].data, in);
    if (st == TY_OK)
        st = abstractor_run_videos(s->a, s->features, n, n_frame, n_token, s->tokens, NULL, &err);
    if (st != TY_OK) {
        ty_stage_fail_all(jobs, n, st, &err);
        return;
    }
    for (int i = 0; i < n; i++) {
        ty_job_set_flops(jobs[i], abstractor_flops(s->a, n_frame * n_token));
        ty_stage_output(jobs[i], &s->gives, 0, s->tokens + (size_t)i * out);
    }
}

/* Everything that waits in one matrix; a task with a bad tensor fails alone.  Pictures of another ViT
 * may have another number of tokens, videos have frames: neighbours of the same numbers go together. */
static void batch(void *ctx, ty_job **jobs, int n) {
    service *s = ctx;
    ty_tensor *t = calloc((size_t)n, sizeof *t);
    int good = 0;
    if (!t) {
        ty_err err = {0};
        ty_stage_fail_all(jobs, n, ty_fail(&err, TY_ENOMEM, "abstractor: no memory"), &err);
        return;
    }
    for (int i = 0; i < n; i++)
        if (ty_stage_input(jobs[i], &s->takes, &t[good])) jobs[good++] = jobs[i];
    for (int from = 0, to; from < good; from = to) {
        for (to = from + 1; to < good && tokens_of(&t[to]) == tokens_of(&t[from]) &&
                            frames_of(s, &t[to]) == frames_of(s, &t[from]);)
            to++;
        run_group(s, jobs + from, to - from, t + from);
    }
    free(t);
}

static ty_status serve(abstractor *a, ty_err *err) {
    static const ty_stage stage = {.name = "abstractor", .batch = batch};
    const int64_t features[] = {-1, abstractor_n_token(a), abstractor_width_in(a)};
    int frames = abstractor_sees_videos(a); /* one dimension more in front */
    const int64_t tokens[] = {abstractor_n_out(a), abstractor_width_out(a)};
    service s = {.a = a};
    ty_stage_spec_init(&s.takes, "image_features", TYTO__DTYPE__DTYPE_F32, 2 + frames,
                       features + 1 - frames);
    ty_stage_spec_init(&s.gives, "visual_tokens", TYTO__DTYPE__DTYPE_F32, 2, tokens);
    ty_worker_contract c = ty_stage_contract(&opt, abstractor_model_id(a), &s.takes, &s.gives);
    c.cpu = ty_cpu_name();
    c.kernels = ty_cpu_kernels();
    c.arithmetic = ty_arithmetic(opt.compute);
    ty_info("serve model=%s id=%s kernels=%s batch=%d", opt.model, abstractor_model_id(a),
            ty_cpu_kernels(), opt.batch);
    ty_status st = ty_worker_run(&stage, &s, &c, err);
    free(s.features);
    free(s.tokens);
    return st;
}

/* ---- the process ---- */

static ty_status run(ty_compute compute, ty_err *err) {
    ty_pool *pool = NULL;
    abstractor *a = NULL;
    ty_status st = ty_pool_create(&pool, opt.threads, err);
    if (st == TY_OK)
        st = abstractor_create(&a, opt.model, &(ty_run_options){.compute = compute, .pool = pool},
                               err);
    if (st == TY_OK) st = ty_stage_is_offline(&opt) ? offline(a, err) : serve(a, err);
    abstractor_destroy(&a);
    ty_pool_destroy(&pool);
    return st;
}

int main(int argc, char **argv) {
    ty_err err = {0};
    switch (ty_options_parse(table, "tyto-abstractor [options]", about, argc, argv, NULL)) {
    case TY_OPTIONS_DONE: return 0;
    case TY_OPTIONS_USAGE: return 2;
    case TY_OPTIONS_GO: break;
    }
    int compute = ty_compute_parse(opt.compute);
    ty_status st = ty_stage_options_check(&opt, 1, &err);
    if (st == TY_OK && compute < 0)
        st = ty_fail(&err, TY_EINVAL, "--compute %s: want auto, f32, bf16 or int8", opt.compute);
    if (st == TY_OK) st = ty_cpu_check(&err);
    int usage = st != TY_OK;
    if (st == TY_OK) st = run((ty_compute)compute, &err);
    if (st == TY_OK) return 0;
    fprintf(stderr, "tyto-abstractor: %s\n", err.text);
    return usage ? 2 : 1;
}
