/* preprocess.c - see preprocess.h: decode, bring to S x S as one of the five modes does, normalise. */
#include "services/preprocess/preprocess.h"

#include "common/base/clock.h"
#include "common/model/meta.h"
#include "services/preprocess/image_decode.h"
#include "services/preprocess/orientation.h"
#include "services/preprocess/libav.h"
#include "services/preprocess/resize.h"
#include "services/preprocess/video.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const mode_names[] = {"native", "rgb", "pad", "resize", "crop"};
enum { N_MODES = sizeof mode_names / sizeof *mode_names, FRAMES_MAX = 64 };

struct preprocess {
    int size;
    preprocess_mode mode;
    int n_frame;
    preprocess_limits limits;
    uint8_t pad[3];      /* the canvas colour of PREPROCESS_PAD */
    float value[3][256]; /* of a channel's 8-bit level, rescaled and normalised */
    char id[TY_MODEL_ID_SIZE];
};

/* What the steps of one picture share. */
typedef struct {
    const preprocess *p;
    int size;
    int64_t deadline_us;
} job;

int preprocess_mode_parse(const char *name) {
    for (int m = 0; m < N_MODES; m++)
        if (strcmp(name, mode_names[m]) == 0) return m;
    return -1;
}

const char *preprocess_mode_name(preprocess_mode m) {
    return mode_names[m];
}

int preprocess_size(const preprocess *p) {
    return p->size;
}

preprocess_mode preprocess_default_mode(const preprocess *p) {
    return p->mode;
}

int preprocess_frames(const preprocess *p) {
    return p->n_frame;
}

const char *preprocess_model_id(const preprocess *p) {
    return p->id;
}

/* ---- the model file ---- */

/* x = (level * scale - mean) / std: the product in double, rounded to float, then float arithmetic,
 * as the reference's image processor does it in NumPy. */
static void fill_values(preprocess *p, const double *mean, const double *std, double scale) {
    for (int c = 0; c < 3; c++) {
        for (int v = 0; v < 256; v++)
            p->value[c][v] = ((float)(v * scale) - (float)mean[c]) / (float)std[c];
        double level = mean[c] * 255;
        p->pad[c] = (uint8_t)(level < 0 ? 0 : level > 255 ? 255 : level);
    }
}

static ty_status read_triple(const ty_gguf *g, const char *key, double *out, ty_err *err) {
    int64_t n;
    ty_status st = ty_gguf_array_len(g, key, &n, err);
    if (st != TY_OK) return st;
    if (n != 3)
        return ty_fail(err, TY_EFORMAT, "%s: %s has %lld numbers, want 3", ty_gguf_path(g), key,
                       (long long)n);
    for (int i = 0; i < 3 && st == TY_OK; i++) {
        st = ty_gguf_array_float(g, key, i, &out[i], err);
        if (st == TY_OK && !isfinite(out[i]))
            st = ty_fail(err, TY_EFORMAT, "%s: %s holds a number that is not finite",
                         ty_gguf_path(g), key);
    }
    return st;
}

static ty_status read_mode(preprocess *p, const ty_gguf *g, ty_err *err) {
    const char *text;
    size_t len;
    ty_status st = ty_gguf_get_str(g, "preprocess.mode", &text, &len, err);
    if (st != TY_OK) return st;
    for (int m = 0; m < N_MODES; m++) {
        if (len != strlen(mode_names[m]) || memcmp(text, mode_names[m], len) != 0) continue;
        p->mode = (preprocess_mode)m;
        return TY_OK;
    }
    return ty_fail(err, TY_EFORMAT,
                   "%s: preprocess.mode is \"%.*s\", want native, rgb, pad, resize or crop",
                   ty_gguf_path(g), (int)(len < 64 ? len : 64), text);
}

static ty_status read_model(preprocess *p, const ty_gguf *g, ty_err *err) {
    double mean[3], std[3];
    float scale;
    ty_status st = ty_meta_architecture(g, "mplug_owl_preprocess", "preprocess", err);
    if (st == TY_OK)
        st = ty_meta_size(g, "preprocess.image_size", PREPROCESS_SIZE_MAX, &p->size, err);
    if (st == TY_OK) st = ty_meta_positive(g, "preprocess.rescale_factor", &scale, err);
    if (st == TY_OK) st = read_triple(g, "preprocess.image_mean", mean, err);
    if (st == TY_OK) st = read_triple(g, "preprocess.image_std", std, err);
    if (st == TY_OK) st = read_mode(p, g, err);
    if (st == TY_OK && ty_gguf_has(g, "preprocess.frame_count"))
        st = ty_meta_size(g, "preprocess.frame_count", FRAMES_MAX, &p->n_frame, err);
    if (st != TY_OK) return st;
    for (int c = 0; c < 3; c++)
        if (std[c] <= 0)
            return ty_fail(err, TY_EFORMAT, "%s: preprocess.image_std holds %g, want above 0",
                           ty_gguf_path(g), std[c]);
    /* The file holds a float; the reference multiplies by the double 1/255. */
    fill_values(p, mean, std, scale == (float)(1.0 / 255) ? 1.0 / 255 : (double)scale);
    ty_gguf_identity(g, p->id);
    return TY_OK;
}

static preprocess *new_preprocess(const preprocess_limits *limits) {
    preprocess *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    if (limits) p->limits = *limits;
    if (!p->limits.max_bytes) p->limits.max_bytes = (size_t)32 << 20;
    if (!p->limits.max_pixels) p->limits.max_pixels = (int64_t)64 << 20;
    if (!p->limits.max_ms) p->limits.max_ms = 10 * 1000;
    return p;
}

ty_status preprocess_create_from(preprocess **out, int size, const double mean[3],
                                 const double std[3], double scale, preprocess_mode mode,
                                 ty_err *err) {
    *out = NULL;
    if (size < 1 || size > PREPROCESS_SIZE_MAX)
        return ty_fail(err, TY_EINVAL, "preprocess: a size of %d, want 1..%d", size,
                       PREPROCESS_SIZE_MAX);
    preprocess *p = new_preprocess(NULL);
    if (!p) return ty_fail(err, TY_ENOMEM, "preprocess: no memory");
    p->size = size;
    p->mode = mode;
    fill_values(p, mean, std, scale);
    *out = p;
    return TY_OK;
}

ty_status preprocess_create(preprocess **out, const char *model_path,
                            const preprocess_limits *limits, ty_err *err) {
    *out = NULL;
    ty_gguf *g = NULL;
    preprocess *p = new_preprocess(limits);
    if (!p) return ty_fail(err, TY_ENOMEM, "preprocess: no memory");
    ty_status st = ty_gguf_open(&g, model_path, err);
    if (st == TY_OK) st = read_model(p, g, err);
    const libav *av;
    if (st == TY_OK && p->n_frame)
        st = libav_open(&av, err); /* now, rather than at the first video */
    ty_gguf_close(&g);
    if (st != TY_OK) {
        preprocess_destroy(&p);
        return st;
    }
    *out = p;
    return TY_OK;
}

void preprocess_destroy(preprocess **p) {
    free(*p);
    *p = NULL;
}

/* ---- bringing a picture to S x S ---- */

static resize_plan plan(const job *j, int w, int h, int out_w, int out_h) {
    return resize_plan_whole(w, h, out_w, out_h, j->p->limits.max_pixels, j->deadline_us);
}

static ty_status make(image *im, const char *what, image_mode mode, int64_t w, int64_t h,
                      const job *j, ty_err *err) {
    image_limits limits = {j->p->limits.max_pixels, j->deadline_us};
    memset(im, 0, sizeof *im);
    return image_alloc(im, what, mode, w, h, &limits, err);
}

/* Takes the place of *im, whose pixels are freed. */
static void replace(image *im, image *with) {
    image_clear(im);
    *im = *with;
    memset(with, 0, sizeof *with);
}

static unsigned mul_255(unsigned x, unsigned y) {
    unsigned t = x * y + 128;
    return ((t >> 8) + t) >> 8;
}

/* Colour times alpha, so that transparent pixels do not bleed into their neighbours. */
static void premultiply(image *im) {
    int bands = image_bands(im->mode), alpha = bands - 1;
    size_t n = (size_t)im->w * (size_t)im->h;
    for (uint8_t *p = im->data; n--; p += bands)
        for (int b = 0; b < alpha; b++) p[b] = (uint8_t)mul_255(p[b], p[alpha]);
}

static void unpremultiply(image *im) {
    int bands = image_bands(im->mode), alpha = bands - 1;
    size_t n = (size_t)im->w * (size_t)im->h;
    for (uint8_t *p = im->data; n--; p += bands) {
        if (p[alpha] == 0 || p[alpha] == 255) continue;
        for (int b = 0; b < alpha; b++) {
            unsigned v = 255u * p[b] / p[alpha];
            p[b] = (uint8_t)(v > 255 ? 255 : v);
        }
    }
}

/* Pillow's Image.resize in the picture's own mode, to w x h; the same size is a copy there, without
 * the detour over premultiplied alpha. */
static ty_status resize_own_mode(const job *j, image *im, int w, int h, ty_err *err) {
    if (im->w == w && im->h == h) return TY_OK;
    image to;
    ty_status st = make(&to, "resize", im->mode, w, h, j, err);
    if (st != TY_OK) return st;
    memcpy(to.palette, im->palette, sizeof to.palette);
    resize_plan rp = plan(j, im->w, im->h, w, h);
    bool alpha = im->mode == IMAGE_LA || im->mode == IMAGE_RGBA;
    if (alpha) premultiply(im);
    if (im->mode == IMAGE_P || im->mode == IMAGE_1)
        st = resize_nearest(&rp, 1, im->data, to.data, err);
    else if (im->mode == IMAGE_I16)
        st = resize_bicubic_16(&rp, (const uint16_t *)(const void *)im->data,
                               (uint16_t *)(void *)to.data, err);
    else
        st = resize_bicubic(&rp, image_bands(im->mode), im->data, to.data, err);
    if (st == TY_OK) {
        if (alpha) unpremultiply(&to);
        replace(im, &to);
    }
    image_clear(&to);
    return st;
}

static ty_status to_rgb(const job *j, image *im, ty_err *err) {
    if (im->mode == IMAGE_RGB) return TY_OK;
    image rgb;
    ty_status st = make(&rgb, "convert", IMAGE_RGB, im->w, im->h, j, err);
    if (st != TY_OK) return st;
    image_to_rgb(im, rgb.data);
    replace(im, &rgb);
    return TY_OK;
}

static void fill(image *im, const uint8_t *colour) {
    size_t n = (size_t)im->w * (size_t)im->h;
    for (size_t i = 0; i < n; i++) memcpy(im->data + 3 * i, colour, 3);
}

/* A square canvas of the mean colour with the picture in its middle. */
static ty_status pad_to_square(const job *j, image *im, ty_err *err) {
    if (im->w == im->h) return TY_OK;
    int side = im->w > im->h ? im->w : im->h;
    image to;
    ty_status st = make(&to, "pad", IMAGE_RGB, side, side, j, err);
    if (st != TY_OK) return st;
    fill(&to, j->p->pad);
    size_t row = (size_t)im->w * 3;
    size_t at = ((size_t)((side - im->h) / 2) * (size_t)side + (size_t)((side - im->w) / 2)) * 3;
    for (int y = 0; y < im->h; y++)
        memcpy(to.data + at + (size_t)y * (size_t)side * 3, im->data + (size_t)y * row, row);
    replace(im, &to);
    return TY_OK;
}

/* The short edge to S, the long one in proportion, then the middle S x S; what is cut off is not
 * computed. */
static ty_status shortest_edge_crop(const job *j, image *im, ty_err *err) {
    int s = j->size, short_edge = im->w < im->h ? im->w : im->h;
    double longest = (double)s * (im->w > im->h ? im->w : im->h) / short_edge;
    if (longest > INT_MAX / 8)
        return ty_fail(err, TY_ELIMIT, "crop: %d x %d pixels are too extreme", im->w, im->h);
    int out_w = im->w <= im->h ? s : (int)longest, out_h = im->w <= im->h ? (int)longest : s;
    resize_plan rp = plan(j, im->w, im->h, out_w, out_h);
    rp.win_x = (out_w - s) / 2;
    rp.win_y = (out_h - s) / 2;
    rp.win_w = rp.win_h = s;
    image to;
    ty_status st = make(&to, "crop", IMAGE_RGB, s, s, j, err);
    if (st != TY_OK) return st;
    st = resize_bicubic(&rp, 3, im->data, to.data, err);
    if (st == TY_OK) replace(im, &to);
    image_clear(&to);
    return st;
}

static ty_status fit(const job *j, preprocess_mode mode, image *im, ty_err *err) {
    ty_status st = TY_OK;
    int side = im->w > im->h ? im->w : im->h;
    if (mode == PREPROCESS_NATIVE) st = resize_own_mode(j, im, j->size, j->size, err);
    if (st == TY_OK) st = to_rgb(j, im, err);
    if (st != TY_OK) return st;
    switch (mode) {
    case PREPROCESS_CROP: return shortest_edge_crop(j, im, err);
    case PREPROCESS_PAD: st = pad_to_square(j, im, err); break;
    case PREPROCESS_RESIZE: st = resize_own_mode(j, im, side, side, err); break;
    case PREPROCESS_NATIVE:
    case PREPROCESS_RGB: break;
    }
    return st == TY_OK ? resize_own_mode(j, im, j->size, j->size, err) : st;
}

/* ---- one picture ---- */

static ty_status check_bytes(const preprocess *p, size_t n_bytes, ty_err *err) {
    if (n_bytes <= p->limits.max_bytes) return TY_OK;
    return ty_fail(err, TY_ELIMIT,
                   "the picture's file has %zu bytes, the limit is %zu; send a smaller one",
                   n_bytes, p->limits.max_bytes);
}

static ty_status decode(preprocess *p, const uint8_t *bytes, size_t n_bytes, job *j, image *im,
                        ty_err *err) {
    memset(im, 0, sizeof *im);
    *j = (job){p, p->size, ty_now_us() + (int64_t)p->limits.max_ms * 1000};
    ty_status st = check_bytes(p, n_bytes, err);
    if (st != TY_OK) return st;
    image_limits limits = {p->limits.max_pixels, j->deadline_us};
    return image_decode(bytes, n_bytes, &limits, im, err);
}

static ty_status turn(const job *j, const uint8_t *bytes, size_t n_bytes, image *im, ty_err *err) {
    image_limits limits = {j->p->limits.max_pixels, j->deadline_us};
    return orientation_apply(im, orientation_of(bytes, n_bytes), &limits, err);
}

static ty_status run(preprocess *p, const uint8_t *bytes, size_t n_bytes, const preprocess_how *how,
                     image *im, ty_err *err) {
    job j;
    int mode = how ? how->mode : -1, size = how ? how->size : 0;
    if (size < 0 || size > PREPROCESS_SIZE_MAX || mode >= N_MODES)
        return ty_fail(err, TY_EINVAL, "preprocess: size %d or mode %d is out of range", size,
                       mode);
    ty_status st = decode(p, bytes, n_bytes, &j, im, err);
    if (size) j.size = size;
    if (st == TY_OK && how && how->upright) st = turn(&j, bytes, n_bytes, im, err);
    if (st == TY_OK) st = fit(&j, mode < 0 ? p->mode : (preprocess_mode)mode, im, err);
    if (st != TY_OK) image_clear(im);
    return st;
}

ty_status preprocess_decode(preprocess *p, const uint8_t *bytes, size_t n_bytes, uint8_t **rgb,
                            int *w, int *h, ty_err *err) {
    job j;
    image im;
    *rgb = NULL;
    ty_status st = decode(p, bytes, n_bytes, &j, &im, err);
    if (st == TY_OK) st = to_rgb(&j, &im, err);
    if (st == TY_OK) {
        *rgb = im.data;
        *w = im.w;
        *h = im.h;
        return TY_OK;
    }
    image_clear(&im);
    return st;
}

ty_status preprocess_rgb(preprocess *p, const uint8_t *bytes, size_t n_bytes,
                         const preprocess_how *how, uint8_t *rgb, ty_err *err) {
    image im;
    ty_status st = run(p, bytes, n_bytes, how, &im, err);
    if (st != TY_OK) return st;
    memcpy(rgb, im.data, (size_t)im.w * (size_t)im.h * 3);
    image_clear(&im);
    return TY_OK;
}

void preprocess_normalise(const preprocess *p, const uint8_t *rgb, int size, float *pixels) {
    size_t n = (size_t)size * (size_t)size;
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < 3; c++) pixels[c * n + i] = p->value[c][rgb[3 * i + c]];
}

ty_status preprocess_run(preprocess *p, const uint8_t *bytes, size_t n_bytes,
                         const preprocess_how *how, float *pixels, ty_err *err) {
    image im;
    ty_status st = run(p, bytes, n_bytes, how, &im, err);
    if (st != TY_OK) return st;
    preprocess_normalise(p, im.data, im.w, pixels);
    image_clear(&im);
    return TY_OK;
}

/* ---- one video ---- */

bool preprocess_is_video(const uint8_t *bytes, size_t n_bytes) {
    return video_recognise(bytes, n_bytes);
}

ty_status preprocess_run_video(preprocess *p, const uint8_t *bytes, size_t n_bytes, int size,
                               float *pixels, ty_err *err) {
    if (!p->n_frame)
        return ty_fail(err, TY_EUNSUPPORTED,
                       "this model sees pictures alone, no videos; send one of its frames");
    if (size < 0 || size > PREPROCESS_SIZE_MAX)
        return ty_fail(err, TY_EINVAL, "preprocess: size %d is out of range", size);
    ty_status st = check_bytes(p, n_bytes, err);
    if (st != TY_OK) return st;
    if (!size) size = p->size;
    size_t each = 3 * (size_t)size * (size_t)size;
    uint8_t *rgb = malloc((size_t)p->n_frame * each);
    if (!rgb) return ty_fail(err, TY_ENOMEM, "preprocess: no memory for %d frames", p->n_frame);
    const image_limits limits = {p->limits.max_pixels,
                                 ty_now_us() + (int64_t)p->limits.max_ms * 1000};
    st = video_decode(bytes, n_bytes, &limits, p->n_frame, size, rgb, err);
    for (size_t t = 0; st == TY_OK && t < (size_t)p->n_frame; t++)
        preprocess_normalise(p, rgb + t * each, size, pixels + t * each);
    free(rgb);
    return st;
}
