/*
 * tyto-preprocess - the preprocess stage: picture files -> pixel_values, for some files (--in) or as a
 * worker of the broker (--connect).
 */
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/math/cpu.h"
#include "common/math/pool.h"
#include "common/model/safetensors.h"
#include "common/model/video_frames.h"
#include "common/wire/stage_options.h"
#include "services/preprocess/preprocess.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ty_stage_options opt;
static struct {
    int size, max_mb, max_mpixels, max_ms;
    const char *mode;
    bool upright;
} own;

static const ty_option table[] = {
    TY_STAGE_OPTIONS(opt, "preprocess.0", 8),
    TY_OPT_INT("size", NULL, own.size, 0, 0, PREPROCESS_SIZE_MAX,
               "offline: pixels of the output's edge; 0 = the model's"),
    TY_OPT_STR("mode", NULL, own.mode, NULL, "MODE",
               "offline: native, rgb, pad, resize or crop; absent = the model's"),
    TY_OPT_FLAG("upright", NULL, own.upright,
                "offline: turn pictures as their EXIF orientation says"),
    TY_OPT_INT("max-mb", "TYTO_IMAGE_MAX_MB", own.max_mb, 32, 1, 1024, "largest picture file, MiB"),
    TY_OPT_INT("max-mpixels", "TYTO_IMAGE_MAX_MPIXELS", own.max_mpixels, 64, 1, 1024,
               "largest picture, 2^20 pixels"),
    TY_OPT_INT("max-ms", "TYTO_IMAGE_MAX_MS", own.max_ms, 10000, 1, 600000,
               "longest time for one picture, milliseconds"),
    TY_OPT_END};

static const char about[] =
    "The preprocess stage: JPEG, PNG or WebP to normalised pixels [3, S, S].\n"
    "  tyto-preprocess --model P/preprocess.gguf --in a.jpg [--in b.png ...] --out x.safetensors\n"
    "writes pixel_values [n, 3, S, S]; with --dump also NAME/rgb [h, w, 3], the decoded picture.\n"
    "A model that sees videos takes GIF, animated WebP, AVI, MP4 and Matroska too, to\n"
    "pixel_values [n, 3, T, S, S].";

static size_t pixel_count(int size) {
    return 3 * (size_t)size * (size_t)size;
}

/* ---- offline ---- */

/* The decoded picture under the goldens' name for it: the file's name without its folder. */
static ty_status add_decoded(preprocess *p, const char *path, const char *bytes, size_t n_bytes,
                             ty_safetensors_writer *w, ty_err *err) {
    uint8_t *rgb = NULL;
    char name[512];
    int width, height;
    const char *slash = strrchr(path, '/');
    ty_status st =
        preprocess_decode(p, (const uint8_t *)bytes, n_bytes, &rgb, &width, &height, err);
    if (st != TY_OK) return st;
    snprintf(name, sizeof name, "%s/rgb", slash ? slash + 1 : path);
    const int64_t shape[] = {height, width, 3};
    st = ty_safetensors_add(w, name, TY_U8, 3, shape, rgb, err);
    free(rgb);
    return st;
}

/* What the files have become so far: all are pictures, or all are videos. */
typedef struct {
    preprocess *p;
    int mode, size, n;
    bool videos;
    float *pixels; /* room for each file's frames */
    ty_safetensors_writer *w;
} batch_of_files;

static ty_status run_picture(batch_of_files *b, const char *path, const uint8_t *bytes,
                             size_t n_bytes, ty_err *err) {
    const preprocess_how how = {.mode = b->mode, .size = b->size, .upright = own.upright};
    float *pixels = b->pixels + (size_t)b->n * pixel_count(b->size);
    ty_status st = preprocess_run(b->p, bytes, n_bytes, &how, pixels, err);
    return st == TY_OK && opt.dump
               ? add_decoded(b->p, path, (const char *)bytes, n_bytes, b->w, err)
               : st;
}

/* A video's frames, in the file's order [3, T, S, S]. */
static ty_status run_video(batch_of_files *b, const uint8_t *bytes, size_t n_bytes, ty_err *err) {
    int n_frame = preprocess_frames(b->p);
    size_t each = (size_t)n_frame * pixel_count(b->size);
    float *frames = malloc((each ? each : 1) * sizeof *frames);
    if (!frames) return ty_fail(err, TY_ENOMEM, "no memory for the frames");
    ty_status st = preprocess_run_video(b->p, bytes, n_bytes, b->size, frames, err);
    if (st == TY_OK)
        ty_video_frames_to_file(frames, 1, n_frame, (int64_t)b->size * b->size,
                                b->pixels + (size_t)b->n * each);
    free(frames);
    return st;
}

static ty_status one_file(batch_of_files *b, const char *path, ty_err *err) {
    char *bytes = NULL;
    size_t n_bytes = 0;
    ty_status st = ty_file_read(path, (size_t)own.max_mb << 20, &bytes, &n_bytes, err);
    if (st != TY_OK) return st;
    const uint8_t *data = (const uint8_t *)bytes;
    bool video = preprocess_frames(b->p) > 0 && preprocess_is_video(data, n_bytes);
    if (b->n == 0) b->videos = video;
    if (video != b->videos)
        st = ty_fail(err, TY_EINVAL, "pictures and videos do not go into one file: give %s alone",
                     b->videos ? "the videos" : "the pictures");
    else
        st = video ? run_video(b, data, n_bytes, err) : run_picture(b, path, data, n_bytes, err);
    if (st != TY_OK) ty_err_context(err, "%s", path);
    free(bytes);
    b->n++;
    return st;
}

static ty_status write_pixels(const batch_of_files *b, ty_err *err) {
    const int64_t pictures[] = {b->n, 3, b->size, b->size};
    const int64_t videos[] = {b->n, 3, preprocess_frames(b->p), b->size, b->size};
    ty_status st = ty_safetensors_add(b->w, "pixel_values", TY_F32, b->videos ? 5 : 4,
                                      b->videos ? videos : pictures, b->pixels, err);
    return st == TY_OK ? ty_safetensors_write(b->w, opt.out, err) : st;
}

static ty_status offline(preprocess *p, int mode, ty_err *err) {
    batch_of_files b = {.p = p, .mode = mode, .size = own.size ? own.size : preprocess_size(p)};
    size_t frames = preprocess_frames(p) > 0 ? (size_t)preprocess_frames(p) : 1;
    b.pixels = malloc((size_t)opt.in.n * frames * pixel_count(b.size) * sizeof *b.pixels);
    ty_status st = ty_safetensors_writer_create(&b.w, err);
    if (st == TY_OK && !b.pixels)
        st = ty_fail(err, TY_ENOMEM, "no memory for %d pictures of %d x %d", opt.in.n, b.size,
                     b.size);
    for (int i = 0; i < opt.in.n && st == TY_OK; i++) st = one_file(&b, opt.in.item[i], err);
    if (st == TY_OK) st = write_pixels(&b, err);
    ty_safetensors_writer_destroy(&b.w);
    free(b.pixels);
    return st;
}

/* ---- as a worker ---- */

typedef struct {
    preprocess *p;
    ty_pool *pool;
    ty_stage_spec takes, gives;
} service;

/* One picture of a batch. */
typedef struct {
    const uint8_t *bytes; /* NULL: the job is closed already */
    size_t n_bytes;
    bool video;
    preprocess_how how;
    float *pixels;
    ty_status st;
    ty_err err;
} item;

typedef struct {
    service *s;
    item *items;
} work;

static void compute(void *ctx, int i, int member) {
    (void)member;
    work *w = ctx;
    item *it = &w->items[i];
    preprocess *p = w->s->p;
    if (!it->bytes || it->st != TY_OK) return;
    it->st = it->video ? preprocess_run_video(p, it->bytes, it->n_bytes, 0, it->pixels, &it->err)
                       : preprocess_run(p, it->bytes, it->n_bytes, &it->how, it->pixels, &it->err);
}

static void take(service *s, ty_job *job, item *it) {
    ty_tensor t;
    it->bytes = ty_stage_input(job, &s->takes, &t);
    if (!it->bytes) return;
    it->n_bytes = t.size_bytes;
    const Tyto__Envelope *env = ty_job_envelope(job);
    const char *mode = env->picture ? env->picture->mode : "";
    int frames = preprocess_frames(s->p);
    it->video = strcmp(mode, PREPROCESS_VIDEO) == 0;
    it->how.mode =
        *mode && !it->video ? preprocess_mode_parse(mode) : (int)preprocess_default_mode(s->p);
    it->how.upright = env->picture && env->picture->upright;
    it->pixels = malloc((it->video && frames ? (size_t)frames : 1) *
                        pixel_count(preprocess_size(s->p)) * sizeof *it->pixels);
    if (it->how.mode < 0)
        it->st = ty_fail(&it->err, TY_EINVAL,
                         "mode \"%.32s\": want native, rgb, pad, resize, crop or video", mode);
    else if (!it->pixels)
        it->st = ty_fail(&it->err, TY_ENOMEM, "preprocess: no memory for a picture");
}

/* Pictures go to the threads one by one; a bad one fails alone. */
static void batch(void *ctx, ty_job **jobs, int n) {
    service *s = ctx;
    item *items = calloc((size_t)n, sizeof *items);
    if (!items) {
        ty_err err = {0};
        ty_stage_fail_all(jobs, n, ty_fail(&err, TY_ENOMEM, "preprocess: no memory"), &err);
        return;
    }
    for (int i = 0; i < n; i++) take(s, jobs[i], &items[i]);
    ty_pool_run(s->pool, n, compute, &(work){s, items});
    for (int i = 0; i < n; i++) {
        if (items[i].bytes && items[i].st == TY_OK)
            ty_stage_output(jobs[i], &s->gives, items[i].video ? preprocess_frames(s->p) : 1,
                            items[i].pixels);
        else if (items[i].bytes)
            ty_job_fail(jobs[i], items[i].st, items[i].err.text);
        free(items[i].pixels);
    }
    free(items);
}

static ty_status serve(preprocess *p, ty_err *err) {
    static const ty_stage stage = {.name = "preprocess", .batch = batch};
    const int64_t file[] = {-1}, pixels[] = {-1, 3, preprocess_size(p), preprocess_size(p)};
    int frames = preprocess_frames(p) > 0; /* their number in front, 1 for a picture */
    service s = {.p = p};
    ty_stage_spec_init(&s.takes, "picture", TYTO__DTYPE__DTYPE_U8, 1, file);
    ty_stage_spec_init(&s.gives, "pixel_values", TYTO__DTYPE__DTYPE_F32, 3 + frames,
                       pixels + 1 - frames);
    ty_worker_contract c = ty_stage_contract(&opt, preprocess_model_id(p), &s.takes, &s.gives);
    c.cpu = ty_cpu_name();
    c.arithmetic = ty_arithmetic("");
    ty_status st = ty_pool_create(&s.pool, opt.threads, err);
    if (st != TY_OK) return st;
    ty_info("serve model=%s id=%s mode=%s batch=%d", opt.model, preprocess_model_id(p),
            preprocess_mode_name(preprocess_default_mode(p)), opt.batch);
    st = ty_worker_run(&stage, &s, &c, err);
    ty_pool_destroy(&s.pool);
    return st;
}

/* ---- the process ---- */

static ty_status run(int mode, ty_err *err) {
    preprocess *p = NULL;
    const preprocess_limits limits = {.max_bytes = (size_t)own.max_mb << 20,
                                      .max_pixels = (int64_t)own.max_mpixels << 20,
                                      .max_ms = own.max_ms};
    ty_status st = preprocess_create(&p, opt.model, &limits, err);
    if (st == TY_OK) st = ty_stage_is_offline(&opt) ? offline(p, mode, err) : serve(p, err);
    preprocess_destroy(&p);
    return st;
}

int main(int argc, char **argv) {
    ty_err err = {0};
    switch (ty_options_parse(table, "tyto-preprocess [options]", about, argc, argv, NULL)) {
    case TY_OPTIONS_DONE: return 0;
    case TY_OPTIONS_USAGE: return 2;
    case TY_OPTIONS_GO: break;
    }
    int mode = own.mode ? preprocess_mode_parse(own.mode) : -1;
    ty_status st = ty_stage_options_check(&opt, TY_OPTION_LIST_MAX, &err);
    if (st == TY_OK && own.mode && mode < 0)
        st = ty_fail(&err, TY_EINVAL, "--mode %s: want native, rgb, pad, resize or crop", own.mode);
    if (st == TY_OK && !ty_stage_is_offline(&opt) && (own.mode || own.size))
        st =
            ty_fail(&err, TY_EINVAL,
                    "--mode and --size go with --in: a service has its model's, which `tyto import "
                    "--mode` sets");
    if (st == TY_OK) st = ty_cpu_check(&err);
    int usage = st != TY_OK;
    if (st == TY_OK) st = run(mode, &err);
    if (st == TY_OK) return 0;
    fprintf(stderr, "tyto-preprocess: %s\n", err.text);
    return usage ? 2 : 1;
}
