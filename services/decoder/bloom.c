/* bloom.c - see bloom.h. */
#include "services/decoder/bloom.h"

#include "common/model/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void bloom_slopes(int n, float *slope) {
    int m = 1;
    while (2 * m <= n) m *= 2;
    for (int h = 0; h < n; h++)
        slope[h] =
            (float)(h < m ? pow(2, -8.0 / m * (h + 1)) : pow(2, -4.0 / m * (2 * (h - m) + 1)));
}

static ty_status load_linear(const ty_weights *src, int l, const char *name, int64_t out,
                             int64_t in, ty_linear **layer, ty_err *err) {
    char full[64];
    snprintf(full, sizeof(full), "blk.%d.%s", l, name);
    return ty_weights_linear(src, 1, (const char *const[]){full}, &out, in, layer, err);
}

static ty_status load_norm(const ty_weights *src, int l, const char *name, int64_t n, float **gain,
                           float **bias, ty_err *err) {
    char full[64];
    snprintf(full, sizeof(full), "blk.%d.%s", l, name);
    return ty_weights_norm(src, full, n, gain, bias, err);
}

static ty_status load_layer(const ty_weights *src, const llama_dims *d, int l, llama_layer *w,
                            ty_err *err) {
    int64_t D = d->d_model, F = d->d_ff, q = (int64_t)d->n_head * d->d_head;
    ty_status st = load_norm(src, l, "attn_norm", D, &w->attn_norm, &w->attn_bias, err);
    if (st == TY_OK) st = load_linear(src, l, "attn_qkv", 3 * q, D, &w->qkv, err);
    if (st == TY_OK) st = load_linear(src, l, "attn_output", D, q, &w->o, err);
    if (st == TY_OK) st = load_norm(src, l, "ffn_norm", D, &w->ffn_norm, &w->ffn_bias, err);
    if (st == TY_OK) st = load_linear(src, l, "ffn_up", F, D, &w->gate_up, err);
    return st == TY_OK ? load_linear(src, l, "ffn_down", D, F, &w->down, err) : st;
}

ty_status bloom_load(llama *m, const ty_gguf *g, const ty_run_options *run, ty_err *err) {
    const llama_dims *d = &m->dims;
    const ty_weights src = {.file = g, .compute = run->compute, .pool = m->pool};
    if (d->n_kv_head != d->n_head)
        return ty_fail(err, TY_EUNSUPPORTED, "%s: %d KV heads for %d heads; BLOOM has one for each",
                       ty_gguf_path(g), d->n_kv_head, d->n_head);
    m->slope = malloc((size_t)d->n_head * sizeof(float));
    if (!m->slope) return ty_fail(err, TY_ENOMEM, "no memory for %d slopes", d->n_head);
    bloom_slopes(d->n_head, m->slope);
    ty_status st =
        ty_weights_norm(&src, "token_embd_norm", d->d_model, &m->embd_norm, &m->embd_bias, err);
    for (int l = 0; l < d->n_layer && st == TY_OK; l++)
        st = load_layer(&src, d, l, &m->layer[l], err);
    return st == TY_OK
               ? ty_weights_norm(&src, "output_norm", d->d_model, &m->out_norm, &m->out_bias, err)
               : st;
}

bool bloom_knows(const char *name) {
    static const char *const PARTS[] = {"token_embd_norm", "output_norm", "attn_norm", "attn_qkv",
                                        "attn_output",     "ffn_norm",    "ffn_up",    "ffn_down"};
    for (size_t i = 0; i < sizeof(PARTS) / sizeof(PARTS[0]); i++) {
        size_t n = strlen(PARTS[i]);
        if (strncmp(name, PARTS[i], n) == 0 &&
            (strcmp(name + n, ".weight") == 0 || strcmp(name + n, ".bias") == 0))
            return true;
    }
    return false;
}
