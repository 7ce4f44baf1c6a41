/*
 * image_decode.h - a picture file's bytes -> pixels in the file's own mode, as Pillow opens it.
 *
 * The reference opens pictures with Pillow and resizes them before it converts to RGB, so the mode
 * decides the answer: a palette is resized by nearest neighbour, alpha is premultiplied, CMYK is
 * resized in CMYK.  EXIF orientation, colour profiles and gamma are not applied, as there.
 *
 *   JPEG  1 component -> L, 3 -> RGB, 4 -> CMYK (stored inverted, Adobe's convention, always)
 *   PNG   gray 1 bit -> 1, 2..8 -> L, 16 -> I16; gray + alpha -> LA; palette -> P; RGB, RGBA (16 bits:
 *         the high byte).  tRNS changes no pixel: alpha is dropped in the end, never composited
 *   WebP  RGB or RGBA; an animation is refused
 *
 * The bytes come from strangers.  Size is checked from the header before pixels are allocated, time
 * while decoding; a cut file is an error, also where the library would fill up with gray.
 */
#ifndef TY_IMAGE_DECODE_H
#define TY_IMAGE_DECODE_H

#include "common/base/err.h"

#include <stddef.h>
#include <stdint.h>

typedef enum {
    IMAGE_1,    /* bilevel, a byte a pixel: 0 or 255 */
    IMAGE_L,    /* gray */
    IMAGE_LA,   /* gray, alpha */
    IMAGE_I16,  /* gray, 16 bits in the machine's byte order */
    IMAGE_P,    /* index into the palette */
    IMAGE_RGB,  /* */
    IMAGE_RGBA, /* */
    IMAGE_CMYK, /* 0 = no ink */
} image_mode;

typedef struct {
    image_mode mode;
    int w, h;
    uint8_t *data;            /* [h, w, image_bands] rows without padding; owned */
    uint8_t palette[256 * 3]; /* P only: RGB */
} image;

typedef struct {
    int64_t max_pixels;  /* width x height */
    int64_t deadline_us; /* of ty_now_us() */
} image_limits;

/* Bytes of a pixel: 1, 2, 3 or 4 (I16: 2). */
int image_bands(image_mode m);
/* "RGB", "I;16": Pillow's names. */
const char *image_mode_name(image_mode m);

/* Told apart by the first bytes.  On failure *out is empty.
 * Fails: TY_EUNSUPPORTED (no JPEG, PNG or WebP; animation), TY_EIMAGE (with the library's words),
 * TY_ELIMIT (pixels, time), TY_ENOMEM. */
ty_status image_decode(const uint8_t *bytes, size_t n_bytes, const image_limits *limits, image *out,
                       ty_err *err);
/* rgb [h, w, 3] from any mode, as Pillow's convert("RGB"): alpha dropped, 16 bits clipped to 8. */
void image_to_rgb(const image *im, uint8_t *rgb);
void image_clear(image *im);

/* The decoders of one format each. */
ty_status image_decode_jpeg(const uint8_t *bytes, size_t n_bytes, const image_limits *limits,
                            image *out, ty_err *err);
ty_status image_decode_png(const uint8_t *bytes, size_t n_bytes, const image_limits *limits,
                           image *out, ty_err *err);
ty_status image_decode_webp(const uint8_t *bytes, size_t n_bytes, const image_limits *limits,
                            image *out, ty_err *err);

/* For them: checks the size against the limit, then allocates data.  format: "PNG". */
ty_status image_alloc(image *out, const char *format, image_mode mode, int64_t w, int64_t h,
                      const image_limits *limits, ty_err *err);
/* TY_ELIMIT once the deadline has passed. */
ty_status image_check_time(const char *format, const image_limits *limits, ty_err *err);

#endif
