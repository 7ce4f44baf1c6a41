/*
 * tyto-vit - the ViT stage: pixel_values -> image_features, for one file (--in) or as a worker of the
 * broker (--connect).
 */
#include "common/base/log.h"
#include "common/math/cpu.h"
#include "common/model/offline.h"
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
    "C].";

/* ---- offline ---- */

static ty_status check_pixels(const ty_offline_input *x, int size, ty_err *err) {
    if (x->shape[1] == 3 && x->shape[2] == size && x->shape[3] == size) return TY_OK;
    return ty_fail(err, TY_ESHAPE,
                   "%s: pixel_values is [%lld,%lld,%lld,%lld], this model wants [n,3,%d,%d]; make "
                   "it with tyto-preprocess --size %d",
                   opt.in.item[0], (long long)x->shape[0], (long long)x->shape[1],
                   (long long)x->shape[2], (long long)x->shape[3], size, size, size);
}

static ty_status write_features(vit *v, const ty_offline_input *x, ty_safetensors_writer *w,
                                ty_err *err) {
    const int64_t shape[] = {x->shape[0], vit_n_token(v), vit_width(v)};
    float *features = malloc((size_t)(shape[0] * shape[1] * shape[2]) * sizeof *features);
    if (!features) return ty_fail(err, TY_ENOMEM, "no memory for image_features");
    ty_offline_dump sink;
    ty_dump dump = ty_offline_dump_into(&sink, w);
    ty_status st = vit_run(v, x->data, (int)x->shape[0], features, opt.dump ? &dump : NULL, err);
    if (st == TY_OK) st = ty_offline_dump_status(&sink, err);
    if (st == TY_OK) st = ty_safetensors_add(w, "image_features", TY_F32, 3, shape, features, err);
    if (st == TY_OK) st = ty_safetensors_write(w, opt.out, err);
    free(features);
    return st;
}

static ty_status offline(vit *v, ty_err *err) {
    ty_offline_input x;
    ty_safetensors_writer *w = NULL;
    ty_status st = ty_offline_open(&x, opt.in.item[0], "pixel_values", 4, "tyto-preprocess", err);
    if (st != TY_OK) return st;
    st = check_pixels(&x, vit_image_size(v), err);
    if (st == TY_OK) st = ty_safetensors_writer_create(&w, err);
    if (st == TY_OK) st = write_features(v, &x, w, err);
    ty_safetensors_writer_destroy(&w);
    ty_offline_close(&x);
    return st;
}

/* ---- as a worker ---- */

typedef struct {
    vit *v;
    ty_stage_spec takes, gives;
    float *pixels, *features; /* for `room` pictures, one behind the other */
    int room;
} service;

static ty_status make_room(service *s, int n, ty_err *err) {
    if (n <= s->room) return TY_OK;
    size_t in = 3 * (size_t)vit_image_size(s->v) * (size_t)vit_image_size(s->v);
    size_t out = (size_t)vit_n_token(s->v) * (size_t)vit_width(s->v);
    free(s->pixels);
    free(s->features);
    s->room = 0;
    s->pixels = malloc((size_t)n * in * sizeof *s->pixels);
    s->features = malloc((size_t)n * out * sizeof *s->features);
    if (!s->pixels || !s->features)
        return ty_fail(err, TY_ENOMEM, "vit: no memory for %d pictures", n);
    s->room = n;
    return TY_OK;
}

/* Everything that waits in one matrix; a task with a bad tensor fails alone. */
static void batch(void *ctx, ty_job **jobs, int n) {
    service *s = ctx;
    ty_err err = {0};
    ty_tensor t;
    int good = 0;
    size_t out = (size_t)vit_n_token(s->v) * (size_t)vit_width(s->v);
    ty_status st = make_room(s, n, &err);
    if (st != TY_OK) {
        ty_stage_fail_all(jobs, n, st, &err);
        return;
    }
    for (int i = 0; i < n; i++) {
        const void *pixels = ty_stage_input(jobs[i], &s->takes, &t);
        if (!pixels) continue;
        memcpy((char *)s->pixels + (size_t)good * t.size_bytes, pixels, t.size_bytes);
        jobs[good++] = jobs[i];
    }
    if (good) st = vit_run(s->v, s->pixels, good, s->features, NULL, &err);
    if (st != TY_OK) {
        ty_stage_fail_all(jobs, good, st, &err);
        return;
    }
    for (int i = 0; i < good; i++) {
        ty_job_set_flops(jobs[i], vit_flops(s->v));
        ty_stage_output(jobs[i], &s->gives, s->features + (size_t)i * out);
    }
}

static ty_status serve(vit *v, ty_err *err) {
    static const ty_stage stage = {.name = "vit", .batch = batch};
    const int64_t pixels[] = {3, vit_image_size(v), vit_image_size(v)};
    const int64_t features[] = {vit_n_token(v), vit_width(v)};
    service s = {.v = v};
    ty_stage_spec_init(&s.takes, "pixel_values", TYTO__DTYPE__DTYPE_F32, 3, pixels);
    ty_stage_spec_init(&s.gives, "image_features", TYTO__DTYPE__DTYPE_F32, 2, features);
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
