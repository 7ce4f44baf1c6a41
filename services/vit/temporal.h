/*
 * temporal.h - what the video variant's ViT has before each layer (NOTES §12): every patch looks at itself in
 * the frames beside its own.
 *
 *     y = up(quick_gelu(conv(down(ln(x)))))     conv: over time, kernel 3, each channel for itself, zeros
 *     x += y for patches;  x += x for the cls token (the reference's residual adds it to itself)
 *
 * A single frame passes as in the ViT of still pictures: the module is left out.
 */
#ifndef TY_VIT_TEMPORAL_H
#define TY_VIT_TEMPORAL_H

#include "common/model/weights.h"

typedef struct {
    float *ln_weight, *ln_bias; /* [C] */
    float *kernel, *conv_bias;  /* [W, 3], [W] */
    ty_linear *down, *up;       /* [W, C], [C, W] */
} vit_temporal;

/* Layer i's, of width C -> W -> C.  On failure the caller clears. */
ty_status vit_temporal_load(vit_temporal *t, const ty_weights *w, int i, int64_t c, int64_t width,
                            ty_err *err);
void vit_temporal_clear(vit_temporal *t);

/* x [n_video, n_frame, n_token, C] in place, the cls token first in each frame.  scratch_c [rows, C],
 * scratch_w [rows, 2 W].  Fails: TY_ENOMEM. */
ty_status vit_temporal_apply(const vit_temporal *t, ty_pool *pool, float *x, int n_video,
                             int n_frame, int n_token, float *scratch_c, float *scratch_w);
/* Floating-point operations for one row. */
double vit_temporal_flops(const vit_temporal *t);

#endif
