#include "training/pictures.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "services/preprocess/resize.h"
#include "training/random.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { AUGMENT_STREAM = 1 << 21, MAX_PIXELS = 64 << 20, MAX_MS = 10000 };

static void read_triple(const json_t *o, const char *key, double out[3]) {
    const json_t *j = json_object_get(o, key);
    for (size_t i = 0; i < 3 && json_array_size(j) == 3; i++)
        out[i] = json_number_value(json_array_get(j, i));
}

ty_status pictures_open(pictures *p, const char *dir, int size, int version, bool augment,
                        ty_err *err) {
    double mean[3] = {0.48145466, 0.4578275, 0.40821073},
           std[3] = {0.26862954, 0.26130258, 0.27577711};
    char path[4200], *text = NULL;
    size_t n;
    *p = (pictures){
        .size = size, .mode = version == 2 ? PREPROCESS_PAD : PREPROCESS_RGB, .augment = augment};
    snprintf(path, sizeof path, "%s/preprocessor_config.json", dir);
    ty_status st = ty_file_read(path, 1 << 20, &text, &n, err);
    if (st != TY_OK && st != TY_ENOTFOUND) return st;
    json_t *o = st == TY_OK ? json_loadb(text, n, 0, NULL) : NULL;
    free(text);
    read_triple(o, "image_mean", mean);
    read_triple(o, "image_std", std);
    json_decref(o);
    for (int i = 0; i < 3; i++)
        if (!(std[i] > 0))
            return ty_fail(err, TY_EFORMAT, "%s: image_std holds %g, want above 0", path, std[i]);
    return preprocess_create_from(&p->stage, size, mean, std, 1.0 / 255, p->mode, err);
}

void pictures_close(pictures *p) {
    preprocess_destroy(&p->stage);
}

/* The part that RandomResizedCrop takes: ten tries, then the middle. */
typedef struct {
    int x, y, w, h;
} part;

static part choose(int w, int h, uint64_t seed, uint64_t draw) {
    double low = log(3.0 / 4), high = log(4.0 / 3);
    for (int i = 0; i < 10; i++) {
        uint64_t at = 40 * draw + 4 * (uint64_t)i;
        double area = (double)w * h * (0.5 + 0.5 * random_unit(seed, AUGMENT_STREAM, at));
        double ratio = exp(low + (high - low) * random_unit(seed, AUGMENT_STREAM, at + 1));
        int pw = (int)lround(sqrt(area * ratio)), ph = (int)lround(sqrt(area / ratio));
        if (pw < 1 || ph < 1 || pw > w || ph > h) continue;
        return (part){(int)(random_unit(seed, AUGMENT_STREAM, at + 2) * (w - pw + 1)),
                      (int)(random_unit(seed, AUGMENT_STREAM, at + 3) * (h - ph + 1)), pw, ph};
    }
    int pw = w, ph = h;
    if ((double)w / h < 3.0 / 4) ph = (int)lround(w / (3.0 / 4));
    if ((double)w / h > 4.0 / 3) pw = (int)lround(h * (4.0 / 3));
    return (part){(w - pw) / 2, (h - ph) / 2, pw, ph};
}

static void mirror(uint8_t *rgb, int s) {
    for (int y = 0; y < s; y++, rgb += 3 * s)
        for (int a = 0, b = s - 1; a < b; a++, b--)
            for (int c = 0; c < 3; c++) {
                uint8_t swap = rgb[3 * a + c];
                rgb[3 * a + c] = rgb[3 * b + c];
                rgb[3 * b + c] = swap;
            }
}

/* A part of rgb, cut out and resized into out [S, S, 3]. */
static ty_status cut(const pictures *p, const uint8_t *rgb, int w, const part *r, uint8_t *out,
                     ty_err *err) {
    uint8_t *piece = malloc((size_t)r->w * (size_t)r->h * 3);
    if (!piece) return ty_fail(err, TY_ENOMEM, "no memory for a picture");
    for (int y = 0; y < r->h; y++)
        memcpy(piece + (size_t)y * (size_t)r->w * 3,
               rgb + ((size_t)(r->y + y) * (size_t)w + (size_t)r->x) * 3, (size_t)r->w * 3);
    resize_plan plan = resize_plan_whole(r->w, r->h, p->size, p->size, MAX_PIXELS,
                                         ty_now_us() + MAX_MS * (int64_t)1000);
    ty_status st = TY_OK;
    if (r->w == p->size && r->h == p->size)
        memcpy(out, piece, (size_t)p->size * (size_t)p->size * 3);
    else
        st = resize_bicubic(&plan, 3, piece, out, err);
    free(piece);
    return st;
}

static ty_status augmented(const pictures *p, const char *bytes, size_t n, uint64_t seed,
                           uint64_t draw, float *pixels, ty_err *err) {
    uint8_t *rgb = NULL, *out = malloc((size_t)p->size * (size_t)p->size * 3);
    int w = 0, h = 0;
    ty_status st = out ? TY_OK : ty_fail(err, TY_ENOMEM, "no memory for a picture");
    if (st == TY_OK) st = preprocess_decode(p->stage, (const uint8_t *)bytes, n, &rgb, &w, &h, err);
    if (st == TY_OK) {
        part r = choose(w, h, seed, draw);
        st = cut(p, rgb, w, &r, out, err);
    }
    if (st == TY_OK && random_unit(seed, AUGMENT_STREAM + 1, draw) < 0.5) mirror(out, p->size);
    if (st == TY_OK) preprocess_normalise(p->stage, out, p->size, pixels);
    free(rgb);
    free(out);
    return st;
}

ty_status pictures_load(const pictures *p, const char *path, uint64_t seed, uint64_t draw,
                        float *pixels, ty_err *err) {
    char *bytes = NULL;
    size_t n;
    ty_status st = ty_file_read(path, (size_t)32 << 20, &bytes, &n, err);
    if (st == TY_OK)
        st = p->augment ? augmented(p, bytes, n, seed, draw, pixels, err)
                        : preprocess_run(p->stage, (const uint8_t *)bytes, n, NULL, pixels, err);
    free(bytes);
    if (st != TY_OK) ty_err_context(err, "%s", path);
    return st;
}
