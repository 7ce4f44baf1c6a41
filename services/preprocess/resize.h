/*
 * resize.h - Pillow's two resizers, to the bit: antialiased bicubic and nearest neighbour.
 *
 * Bicubic: convolution with the a = -0.5 kernel, widened by the scale when shrinking (support
 * 2 x scale), in two passes; after each the sums are rounded and clipped to 8 bits.  The pass along the
 * rows comes first, except where the height shrinks far more than the width (since Pillow 13, with
 * which the goldens were made; before, it always came first: up to a few levels in tall pictures).
 * 8-bit coefficients are fixed-point with 22 fractional bits; 16-bit pictures use the coefficients as
 * doubles.  A direction whose size stays is not filtered.
 */
#ifndef TY_RESIZE_H
#define TY_RESIZE_H

#include "common/base/err.h"

#include <stdint.h>

/* What is computed of the resized picture: the whole is [out_h, out_w], dst gets the window
 * [win_h, win_w] at (win_x, win_y) only, as if cut out of it. */
typedef struct {
    int src_w, src_h, out_w, out_h;
    int win_x, win_y, win_w, win_h;
    int64_t max_pixels;  /* of the picture between the passes */
    int64_t deadline_us; /* of ty_now_us() */
} resize_plan;

/* The whole picture. */
resize_plan resize_plan_whole(int src_w, int src_h, int out_w, int out_h, int64_t max_pixels,
                              int64_t deadline_us);

/* src [src_h, src_w, bands] -> dst [win_h, win_w, bands], 1 to 4 bands, which do not mix.
 * Fails: TY_ELIMIT (pixels, time), TY_ENOMEM. */
ty_status resize_bicubic(const resize_plan *p, int bands, const uint8_t *src, uint8_t *dst,
                         ty_err *err);
/* The same for one band of 16 bits. */
ty_status resize_bicubic_16(const resize_plan *p, const uint16_t *src, uint16_t *dst, ty_err *err);
/* Pixels of `bytes` bytes; the whole picture: the window is ignored. */
ty_status resize_nearest(const resize_plan *p, int bytes, const uint8_t *src, uint8_t *dst,
                         ty_err *err);

#endif
