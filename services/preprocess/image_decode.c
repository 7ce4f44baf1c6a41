/* image_decode.c - see image_decode.h: which format it is, and what the formats share. */
#include "services/preprocess/image_decode.h"

#include "common/base/clock.h"

#include <stdlib.h>
#include <string.h>

int image_bands(image_mode m) {
    switch (m) {
    case IMAGE_LA:
    case IMAGE_I16: return 2;
    case IMAGE_RGB: return 3;
    case IMAGE_RGBA:
    case IMAGE_CMYK: return 4;
    default: return 1;
    }
}

const char *image_mode_name(image_mode m) {
    static const char *const names[] = {"1", "L", "LA", "I;16", "P", "RGB", "RGBA", "CMYK"};
    return names[m];
}

ty_status image_alloc(image *out, const char *format, image_mode mode, int64_t w, int64_t h,
                      const image_limits *limits, ty_err *err) {
    if (w < 1 || h < 1)
        return ty_fail(err, TY_EIMAGE, "%s: the picture is %lld x %lld pixels, it has none", format,
                       (long long)w, (long long)h);
    if (w > limits->max_pixels / h)
        return ty_fail(err, TY_ELIMIT,
                       "%s: the picture is %lld x %lld pixels, the limit is %lld pixels; send a "
                       "smaller one",
                       format, (long long)w, (long long)h, (long long)limits->max_pixels);
    size_t size = (size_t)w * (size_t)h * (size_t)image_bands(mode);
    out->data = malloc(size);
    if (!out->data)
        return ty_fail(err, TY_ENOMEM, "%s: no memory for %zu bytes of pixels", format, size);
    out->mode = mode;
    out->w = (int)w;
    out->h = (int)h;
    return TY_OK;
}

ty_status image_check_time(const char *format, const image_limits *limits, ty_err *err) {
    if (ty_now_us() <= limits->deadline_us) return TY_OK;
    return ty_fail(err, TY_ELIMIT, "%s: decoding took longer than the limit; send a simpler file",
                   format);
}

static int starts_with(const uint8_t *bytes, size_t n, const char *magic, size_t len) {
    return n >= len && memcmp(bytes, magic, len) == 0;
}

ty_status image_decode(const uint8_t *bytes, size_t n_bytes, const image_limits *limits, image *out,
                       ty_err *err) {
    memset(out, 0, sizeof *out);
    ty_status st;
    if (n_bytes == 0) return ty_fail(err, TY_EIMAGE, "the picture is empty (0 bytes)");
    if (starts_with(bytes, n_bytes, "\xff\xd8\xff", 3))
        st = image_decode_jpeg(bytes, n_bytes, limits, out, err);
    else if (starts_with(bytes, n_bytes, "\x89PNG\r\n\x1a\n", 8))
        st = image_decode_png(bytes, n_bytes, limits, out, err);
    else if (starts_with(bytes, n_bytes, "RIFF", 4) && n_bytes >= 12 &&
             memcmp(bytes + 8, "WEBP", 4) == 0)
        st = image_decode_webp(bytes, n_bytes, limits, out, err);
    else
        st = ty_fail(err, TY_EUNSUPPORTED,
                     "the picture is neither JPEG, PNG nor WebP%s; convert it to one of them",
                     starts_with(bytes, n_bytes, "GIF8", 4) ? " (it is a GIF)" : "");
    if (st != TY_OK) image_clear(out);
    return st;
}

/* x * y / 255, rounded, for 8-bit x and y. */
static uint8_t mul_255(unsigned x, unsigned y) {
    unsigned t = x * y + 128;
    return (uint8_t)(((t >> 8) + t) >> 8);
}

static void pixel_to_rgb(const image *im, const uint8_t *p, uint8_t *rgb) {
    switch (im->mode) {
    case IMAGE_P: memcpy(rgb, im->palette + 3 * p[0], 3); return;
    case IMAGE_CMYK:
        for (int c = 0; c < 3; c++) {
            unsigned white = 255u - p[3];
            rgb[c] = (uint8_t)(white - mul_255(p[c], white));
        }
        return;
    case IMAGE_I16: {
        uint16_t v;
        memcpy(&v, p, 2);
        memset(rgb, v > 255 ? 255 : v, 3);
        return;
    }
    case IMAGE_RGB:
    case IMAGE_RGBA: memcpy(rgb, p, 3); return;
    default: memset(rgb, p[0], 3);
    }
}

void image_to_rgb(const image *im, uint8_t *rgb) {
    size_t n = (size_t)im->w * (size_t)im->h;
    int bands = image_bands(im->mode);
    if (im->mode == IMAGE_RGB) {
        memcpy(rgb, im->data, n * 3);
        return;
    }
    for (size_t i = 0; i < n; i++) pixel_to_rgb(im, im->data + i * (size_t)bands, rgb + i * 3);
}

void image_clear(image *im) {
    free(im->data);
    memset(im, 0, sizeof *im);
}
