#include "services/decoder/rope.h"

#include <math.h>
#include <stdlib.h>

/* What divides frequency j besides the scaling: 1, or LLaMA 3's factor. */
static ty_status read_factors(const ty_gguf *g, int half, float *factor, ty_err *err) {
    ty_tensor t;
    for (int j = 0; j < half; j++) factor[j] = 1;
    if (ty_gguf_find(g, "rope_freqs.weight", &t, NULL) != TY_OK) return TY_OK;
    ty_status st = ty_gguf_find_shape(g, "rope_freqs.weight", 1, (int64_t[]){half}, &t, err);
    if (st != TY_OK) return st;
    ty_dtype_to_f32(t.dtype, t.data, 0, (size_t)half, factor);
    for (int j = 0; j < half; j++)
        if (!(factor[j] > 0 && isfinite(factor[j])))
            return ty_fail(err, TY_EFORMAT, "%s: rope_freqs.weight holds %g, want numbers above 0",
                           ty_gguf_path(g), (double)factor[j]);
    return TY_OK;
}

/* The frequency that turns `turns` times within the trained context. */
static double turning(const llama_dims *d, double turns) {
    const llama_rope_dims *r = &d->rope;
    return d->d_head * log(r->trained / (turns * 2 * acos(-1.0))) / (2 * log(r->base));
}

/* How much of frequency j keeps its trained speed: YaRN leaves the fast ones alone. */
static double kept(const llama_dims *d, int j) {
    const llama_rope_dims *r = &d->rope;
    if (!r->yarn) return 0;
    double low = fmax(0, floor(turning(d, r->beta_fast)));
    double high = fmin(d->d_head - 1, ceil(turning(d, r->beta_slow)));
    double ramp = (j - low) / fmax(0.001, high - low);
    return 1 - fmin(1, fmax(0, ramp));
}

/* In f32 as Hugging Face computes them: inv_freq = 1 / base^(2j/d), angle = pos / factor * inv_freq. */
static void fill(llama_rope *r, const llama_dims *d, int context, const float *factor) {
    int half = d->d_head / 2;
    for (int j = 0; j < half; j++) {
        float power =
            (float)pow((double)(float)d->rope.base, (double)((float)(2 * j) / (float)d->d_head));
        float inv_freq = 1.0f / power / factor[j], keep = (float)kept(d, j);
        for (int p = 0; p < context; p++) {
            float angle = (float)p / (float)d->rope.factor * inv_freq;
            if (keep > 0) angle = angle * (1 - keep) + (float)p * inv_freq * keep;
            size_t at = (size_t)p * (size_t)half + (size_t)j;
            r->cos[at] = (float)(cos((double)angle) * d->rope.magnitude);
            r->sin[at] = (float)(sin((double)angle) * d->rope.magnitude);
        }
    }
}

ty_status llama_rope_create(llama_rope *r, const ty_gguf *g, const llama_dims *d, int context,
                            ty_err *err) {
    int half = d->d_head / 2;
    size_t n = (size_t)context * (size_t)half;
    float *factor = malloc((size_t)half * sizeof(float));
    r->cos = malloc(n * sizeof(float));
    r->sin = malloc(n * sizeof(float));
    ty_status st = factor && r->cos && r->sin
                       ? read_factors(g, half, factor, err)
                       : ty_fail(err, TY_ENOMEM, "no memory for the rotary tables");
    if (st == TY_OK) fill(r, d, context, factor);
    free(factor);
    return st;
}

void llama_rope_clear(llama_rope *r) {
    free(r->cos);
    free(r->sin);
    *r = (llama_rope){0};
}
