/*
 * tyto-vit - the ViT stage: pixel_values -> image_features, for one file (--in) or as a worker of the
 * broker (--connect).
 */
#include "common/base/log.h"
#include "common/math/cpu.h"
#include "common/model/offline.h"
#include "common/model/video_frames.h"
#include "common/wire/stage_options.h"
#include "services/vit/vit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ty_stage_options opt;

static const ty_option table[] = {TY_STAGE_OPTIONS(opt, "vit.0", 8), TY_COMPUTE_OPTIONS(opt),
                                  TY_CACHE_OPTIONS(opt), TY_OPT_END};

static const char about[] =
    "The ViT stage: pictures of [3, S, S] normalised pixels to patch features [patches + 1, C].\n"
    "  tyto-vit --model P/vit.gguf --in x.safetensors --out y.safetensors [--dump]\n"
    "reads pixel_values [n, 3, S, S] (or [3, S, S]) and writes image_features [n, patches + 1, "
    "C];\nof a model that sees videos also [n, 3, T, S, S], which gives [n, T, patches + 1, C].";

/* ---- offline ---- */

/* [3, T, S, S] alone is one video: four dimensions, of which the second is not the colours. */
static void take_single_video(ty_offline_input *x, const vit *v) {
    if (!vit_sees_videos(v) || x->n_dim != 4 || x->shape[0] != 3 || x->shape[1] == 3) return;
    memmove(x->shape + 1, x->shape, 4 * sizeof x->shape[0]);
    x->shape[0] = 1;
    x->n_dim = 5;
}

static ty_status check_pixels(const ty_offline_input *x, int size, ty_err *err) {
    char is[128];
    ty_tensor t = {.n_dim = x->n_dim};
    memcpy(t.shape, x->shape, sizeof t.shape);
    const int64_t *edge = x->shape + x->n_dim - 2;
    if (x->shape[1] == 3 && edge[0] == size && edge[1] == size) return TY_OK;
    return ty_fail(err, TY_ESHAPE,
                   "%s: pixel_values is %s, this model wants [n,3,%d,%d]; make it with "
                   "tyto-preprocess --size %d",
                   opt.in.item[0], ty_tensor_shape_text(&t, is, sizeof is), size, size, size);
}

/* Features of n pictures, or of n videos of n_frame frames each (n_frame > 0). */
static ty_status compute_features(vit *v, const ty_offline_input *x, int64_t n_frame,
                                  float *features, const ty_dump *dump, ty_err *err) {
    int64_t n = x->shape[0], plane = (int64_t)vit_image_size(v) * vit_image_size(v);
    if (!n_frame) return vit_run(v, x->data, (int)n, features, dump, err);
    float *frames = malloc((size_t)(n * n_frame * 3 * plane) * sizeof *frames);
    if (!frames) return ty_fail(err, TY_ENOMEM, "no memory for the frames");
    ty_video_frames_from_file(x->data, n, n_frame, plane, frames);
    ty_status st = vit_run_videos(v, frames, (int)n, (int)n_frame, features, dump, err);
    free(frames);
    return st;
}

static ty_status write_features(vit *v, const ty_offline_input *x, ty_safetensors_writer *w,
                                ty_err *err) {
    int64_t n_frame = x->n_dim == 5 ? x->shape[2] : 0;
    const int64_t shape[] = {x->shape[0], n_frame ? n_frame : vit_n_token(v),
                             n_frame ? vit_n_token(v) : vit_width(v), vit_width(v)};
    int64_t rows = x->shape[0] * (n_frame ? n_frame : 1) * vit_n_token(v);
    float *features = malloc((size_t)(rows * vit_width(v)) * sizeof *features);
    if (!features) return ty_fail(err, TY_ENOMEM, "no memory for image_features");
    ty_offline_dump sink;
    ty_dump dump = ty_offline_dump_into(&sink, w);
    ty_status st = compute_features(v, x, n_frame, features, opt.dump ? &dump : NULL, err);
    if (st == TY_OK) st = ty_offline_dump_status(&sink, err);
    if (st == TY_OK)
        st = ty_safetensors_add(w, "image_features", TY_F32, n_frame ? 4 : 3, shape, features, err);
    if (st == TY_OK) st = ty_safetensors_write(w, opt.out, err);
    free(features);
    return st;
}

static ty_status offline(vit *v, ty_err *err) {
    ty_offline_input x;
    ty_safetensors_writer *w = NULL;
    ty_status st = ty_offline_open(&x, opt.in.item[0], "pixel_values", 4, vit_sees_videos(v),
                                   "tyto-preprocess", err);
    if (st != TY_OK) return st;
    take_single_video(&x, v);
    st = check_pixels(&x, vit_image_size(v), err);
    if (st == TY_OK) st = ty_safetensors_writer_create(&w, err);
    if (st == TY_OK) st = write_features(v, &x, w, err);
    ty_safetensors_writer_destroy(&w);
    ty_offline_close(&x);
    return st;
}

/* ---- as a worker ---- */

/* Tensors of a model that sees videos have the number of frames in front, 1 for a picture. */
typedef struct {
    vit *v;
    ty_stage_spec takes, gives;
    float *pixels, *features; /* for `room` pictures or frames, one behind the other */
    int64_t room;
} service;

static ty_status make_room(service *s, int64_t n, ty_err *err) {
    if (n <= s->room) return TY_OK;
    size_t in = 3 * (size_t)vit_image_size(s->v) * (size_t)vit_image_size(s->v);
    size_t out = (size_t)vit_n_token(s->v) * (size_t)vit_width(s->v);
    free(s->pixels);
    free(s->features);
    s->room = 0;
    s->pixels = malloc((size_t)n * in * sizeof *s->pixels);
    s->features = malloc((size_t)n * out * sizeof *s->features);
    if (!s->pixels || !s->features)
        return ty_fail(err, TY_ENOMEM, "vit: no memory for %lld pictures", (long long)n);
    s->room = n;
    return TY_OK;
}

static int frames_of(const service *s, const ty_tensor *pixels) {
    return vit_sees_videos(s->v) ? (int)pixels->shape[0] : 1;
}

/* n pictures, or videos of n_frame frames each; closes them all. */
static void run_group(service *s, ty_job **jobs, int n, int n_frame, const ty_tensor *pixels) {
    ty_err err = {0};
    size_t in = pixels[0].size_bytes;
    size_t out = (size_t)n_frame * (size_t)vit_n_token(s->v) * (size_t)vit_width(s->v);
    ty_status st = make_room(s, (int64_t)n * n_frame, &err);
    for (int i = 0; i < n && st == TY_OK; i++)
        memcpy((char *)s->pixels + (size_t)i * in, pixels[i].data, in);
    if (st == TY_OK) st = vit_run_videos(s->v, s->pixels, n, n_frame, s->features, NULL, &err);
    if (st != TY_OK) {
        ty_stage_fail_all(jobs, n, st, &err);
        return;
    }
    for (int i = 0; i < n; i++) {
        ty_job_set_flops(jobs[i], vit_video_flops(s->v, n_frame));
        ty_stage_output(jobs[i], &s->gives, n_frame, s->features + (size_t)i * out);
    }
}

/* Everything that waits in one matrix, neighbours with the same number of frames together; a task with a
 * bad tensor fails alone. */
static void batch(void *ctx, ty_job **jobs, int n) {
    service *s = ctx;
    ty_tensor *t = calloc((size_t)n, sizeof *t);
    int good = 0;
    if (!t) {
        ty_err err = {0};
        ty_stage_fail_all(jobs, n, ty_fail(&err, TY_ENOMEM, "vit: no memory"), &err);
        return;
    }
    for (int i = 0; i < n; i++)
        if (ty_stage_input(jobs[i], &s->takes, &t[good])) jobs[good++] = jobs[i];
    for (int from = 0, to; from < good; from = to) {
        int n_frame = frames_of(s, &t[from]);
        for (to = from + 1; to < good && frames_of(s, &t[to]) == n_frame;) to++;
        run_group(s, jobs + from, to - from, n_frame, t + from);
    }
    free(t);
}

static ty_status serve(vit *v, ty_err *err) {
    static const ty_stage stage = {.name = "vit", .batch = batch};
    const int64_t pixels[] = {-1, 3, vit_image_size(v), vit_image_size(v)};
    const int64_t features[] = {-1, vit_n_token(v), vit_width(v)};
    int frames = vit_sees_videos(v); /* one dimension more in front */
    service s = {.v = v};
    ty_stage_spec_init(&s.takes, "pixel_values", TYTO__DTYPE__DTYPE_F32, 3 + frames,
                       pixels + 1 - frames);
    ty_stage_spec_init(&s.gives, "image_features", TYTO__DTYPE__DTYPE_F32, 2 + frames,
                       features + 1 - frames);
    ty_worker_contract c = ty_stage_contract(&opt, vit_model_id(v), &s.takes, &s.gives);
    c.cpu = ty_cpu_name();
    c.kernels = ty_cpu_kernels();
    c.arithmetic = ty_arithmetic(opt.compute);
    ty_info("serve model=%s id=%s kernels=%s batch=%d", opt.model, vit_model_id(v),
            ty_cpu_kernels(), opt.batch);
    ty_status st = ty_worker_run(&stage, &s, &c, err);
    free(s.pixels);
    free(s.features);
    return st;
}

/* ---- the process ---- */

static ty_status run(ty_compute compute, ty_err *err) {
    ty_pool *pool = NULL;
    vit *v = NULL;
    ty_status st = ty_pool_create(&pool, opt.threads, err);
    if (st == TY_OK)
        st = vit_create(&v, opt.model, &(ty_run_options){.compute = compute, .pool = pool}, err);
    if (st == TY_OK) st = ty_stage_is_offline(&opt) ? offline(v, err) : serve(v, err);
    vit_destroy(&v);
    ty_pool_destroy(&pool);
    return st;
}

int main(int argc, char **argv) {
    ty_err err = {0};
    switch (ty_options_parse(table, "tyto-vit [options]", about, argc, argv, NULL)) {
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
    fprintf(stderr, "tyto-vit: %s\n", err.text);
    return usage ? 2 : 1;
}
