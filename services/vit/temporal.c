/* temporal.c - see temporal.h. */
#include "services/vit/temporal.h"

#include "common/math/nn.h"

#include <stdio.h>
#include <stdlib.h>

enum { NAME_SIZE = 128 };

static const float LN_EPS = 1e-5f; /* PyTorch's own */

static const char *in_layer(char *buf, int i, const char *name) {
    snprintf(buf, NAME_SIZE, "encoder.layers.%d.temporal.%s", i, name);
    return buf;
}

static ty_status load_linear(const ty_weights *w, int i, const char *name, int64_t out, int64_t in,
                             ty_linear **l, ty_err *err) {
    char buf[NAME_SIZE];
    const char *full = in_layer(buf, i, name);
    return ty_weights_linear(w, 1, &full, &out, in, l, err);
}

ty_status vit_temporal_load(vit_temporal *t, const ty_weights *w, int i, int64_t c, int64_t width,
                            ty_err *err) {
    char buf[NAME_SIZE];
    const int64_t kernel[] = {width, 3};
    ty_status st = ty_weights_norm(w, in_layer(buf, i, "ln"), c, &t->ln_weight, &t->ln_bias, err);
    if (st == TY_OK)
        st = ty_weights_floats(w, in_layer(buf, i, "conv.weight"), 2, kernel, &t->kernel, err);
    if (st == TY_OK)
        st = ty_weights_floats(w, in_layer(buf, i, "conv.bias"), 1, &width, &t->conv_bias, err);
    if (st == TY_OK) st = load_linear(w, i, "down_proj", width, c, &t->down, err);
    return st == TY_OK ? load_linear(w, i, "up_proj", c, width, &t->up, err) : st;
}

void vit_temporal_clear(vit_temporal *t) {
    free(t->ln_weight);
    free(t->ln_bias);
    free(t->kernel);
    free(t->conv_bias);
    ty_linear_destroy(&t->down);
    ty_linear_destroy(&t->up);
}

typedef struct {
    const vit_temporal *t;
    const float *in; /* [n_video, n_frame, n_token, W] */
    float *out;
    float *x;       /* [.., C] */
    const float *y; /* what is added to it */
    int n_frame, n_token;
} job;

/* One frame of one video: each channel over the frame before, this one, the one behind. */
static void convolve(void *ctx, int frame, int member) {
    (void)member;
    const job *j = ctx;
    int64_t w = ty_linear_out(j->t->down), plane = j->n_token * w;
    const float *now = j->in + frame * plane;
    const float *before = frame % j->n_frame > 0 ? now - plane : NULL;
    const float *behind = (frame + 1) % j->n_frame > 0 ? now + plane : NULL;
    float *out = j->out + frame * plane;
    for (int64_t k = 0; k < plane; k++) {
        const float *kernel = j->t->kernel + 3 * (k % w);
        float y = j->t->conv_bias[k % w] + kernel[1] * now[k];
        if (before) y += kernel[0] * before[k];
        if (behind) y += kernel[2] * behind[k];
        out[k] = y;
    }
}

static void add_frame(void *ctx, int frame, int member) {
    (void)member;
    const job *j = ctx;
    int64_t c = ty_linear_out(j->t->up), plane = j->n_token * c;
    float *x = j->x + frame * plane;
    const float *y = j->y + frame * plane;
    for (int64_t k = 0; k < c; k++) x[k] += x[k];
    for (int64_t k = c; k < plane; k++) x[k] += y[k];
}

ty_status vit_temporal_apply(const vit_temporal *t, ty_pool *pool, float *x, int n_video,
                             int n_frame, int n_token, float *scratch_c, float *scratch_w) {
    int frames = n_video * n_frame, rows = frames * n_token;
    int64_t c = ty_linear_out(t->up), w = ty_linear_out(t->down);
    float *narrow = scratch_w, *mixed = scratch_w + rows * w;
    job j = {t, narrow, mixed, x, scratch_c, n_frame, n_token};
    ty_layernorm(pool, x, rows, c, t->ln_weight, t->ln_bias, LN_EPS, scratch_c);
    ty_status st = ty_linear_apply(t->down, pool, scratch_c, c, rows, narrow, w);
    if (st != TY_OK) return st;
    ty_pool_run(pool, frames, convolve, &j);
    ty_quick_gelu(pool, mixed, rows, w, w);
    st = ty_linear_apply(t->up, pool, mixed, w, rows, scratch_c, c);
    if (st == TY_OK) ty_pool_run(pool, frames, add_frame, &j);
    return st;
}

double vit_temporal_flops(const vit_temporal *t) {
    double c = (double)ty_linear_out(t->up), w = (double)ty_linear_out(t->down);
    return 4 * c * w + 6 * w;
}
