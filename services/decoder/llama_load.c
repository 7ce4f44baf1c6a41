/*
 * llama_load.c - the LLaMA network out of its GGUF file: weights, rotary tables, scratch.  Its sizes:
 * llama_meta.c.
 */
#include "common/base/file.h"
#include "services/decoder/bloom.h"
#include "services/decoder/llama_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- weights ---- */

static ty_status load_vector(const ty_gguf *g, const char *name, int n, float **out, ty_err *err) {
    ty_tensor t;
    ty_status st = ty_gguf_find_shape(g, name, 1, (int64_t[]){n}, &t, err);
    if (st != TY_OK) return st;
    *out = malloc((size_t)n * sizeof(float));
    if (!*out) return ty_fail(err, TY_ENOMEM, "no memory for %s", name);
    ty_dtype_to_f32(t.dtype, t.data, 0, (size_t)n, *out);
    return TY_OK;
}

/* One linear layer from the tensors blk.<l>.<name[i]>.weight, outputs side by side. */
static ty_status load_linear(const llama *m, const ty_gguf *g, const ty_run_options *run, int l,
                             int n, const char *const *name, const int *rows, int cols,
                             ty_linear **out, ty_err *err) {
    ty_tensor w[3] = {{0}};
    for (int i = 0; i < n; i++) {
        char full[64];
        snprintf(full, sizeof(full), "blk.%d.%s.weight", l, name[i]);
        ty_status st = ty_gguf_find_shape(g, full, 2, (int64_t[]){rows[i], cols}, &w[i], err);
        if (st != TY_OK) return st;
    }
    ty_status st = ty_linear_create(out, w, NULL, n, run->compute, m->pool, err);
    if (st != TY_OK) ty_err_context(err, "layer %d, %s", l, name[0]);
    for (int i = 0; i < n; i++) ty_file_release(w[i].data, w[i].size_bytes); /* it has a copy */
    return st;
}

/* blk.<l>.<name>.weight [d_model] */
static ty_status load_gain(const llama *m, const ty_gguf *g, int l, const char *name, float **out,
                           ty_err *err) {
    char full[64];
    snprintf(full, sizeof(full), "blk.%d.%s.weight", l, name);
    return load_vector(g, full, m->dims.d_model, out, err);
}

/* What visual rows have of their own. */
static ty_status load_visual(llama *m, const ty_gguf *g, const ty_run_options *run, int l,
                             ty_err *err) {
    static const char *const KV[] = {"vis_attn_k", "vis_attn_v"};
    const llama_dims *d = &m->dims;
    llama_layer *w = &m->layer[l];
    int nkv = d->n_kv_head * d->d_head;
    ty_status st = load_gain(m, g, l, "vis_attn_norm", &w->visual_attn_norm, err);
    if (st == TY_OK) st = load_gain(m, g, l, "vis_ffn_norm", &w->visual_ffn_norm, err);
    if (st == TY_OK)
        st = load_linear(m, g, run, l, 2, KV, (int[]){nkv, nkv}, d->d_model, &w->visual_kv, err);
    return st;
}

static ty_status load_layer(llama *m, const ty_gguf *g, const ty_run_options *run, int l,
                            ty_err *err) {
    static const char *const QKV[] = {"attn_q", "attn_k", "attn_v"}, *const O[] = {"attn_output"},
                             *const GATE_UP[] = {"ffn_gate", "ffn_up"},
                             *const DOWN[] = {"ffn_down"};
    const llama_dims *d = &m->dims;
    llama_layer *w = &m->layer[l];
    int nq = d->n_head * d->d_head, nkv = d->n_kv_head * d->d_head;
    ty_status st = load_gain(m, g, l, "attn_norm", &w->attn_norm, err);
    if (st == TY_OK) st = load_gain(m, g, l, "ffn_norm", &w->ffn_norm, err);
    if (st == TY_OK)
        st = load_linear(m, g, run, l, 3, QKV, (int[]){nq, nkv, nkv}, d->d_model, &w->qkv, err);
    if (st == TY_OK) st = load_linear(m, g, run, l, 1, O, (int[]){d->d_model}, nq, &w->o, err);
    if (st == TY_OK)
        st = load_linear(m, g, run, l, 2, GATE_UP, (int[]){d->d_ff, d->d_ff}, d->d_model,
                         &w->gate_up, err);
    if (st == TY_OK)
        st = load_linear(m, g, run, l, 1, DOWN, (int[]){d->d_model}, d->d_ff, &w->down, err);
    return st == TY_OK && d->multiway ? load_visual(m, g, run, l, err) : st;
}

/* Embeddings and head; a file without output.weight ties the head to the embeddings. */
static ty_status load_ends(llama *m, const ty_gguf *g, const ty_run_options *run, ty_err *err) {
    llama_dims *d = &m->dims;
    ty_status st =
        ty_gguf_find_shape(g, "token_embd.weight", 2, (int64_t[]){-1, d->d_model}, &m->embd, err);
    if (st != TY_OK) return st;
    if (m->embd.shape[0] < 1 || m->embd.shape[0] > 1 << 24)
        return ty_fail(err, TY_ESHAPE, "%s: token_embd.weight has %lld rows", ty_gguf_path(g),
                       (long long)m->embd.shape[0]);
    d->n_vocab = (int)m->embd.shape[0];
    ty_tensor head = m->embd;
    if (ty_gguf_find(g, "output.weight", &head, NULL) == TY_OK)
        st = ty_gguf_find_shape(g, "output.weight", 2, (int64_t[]){d->n_vocab, d->d_model}, &head,
                                err);
    else
        head = m->embd;
    if (st == TY_OK) st = ty_linear_create(&m->output, &head, NULL, 1, run->compute, m->pool, err);
    ty_file_release(head.data, head.size_bytes);
    return st;
}

/* What BLOOM does not have: layers, final norm, rotary table. */
static ty_status load_llama(llama *m, const ty_gguf *g, const ty_run_options *run, ty_err *err) {
    ty_status st = load_vector(g, "output_norm.weight", m->dims.d_model, &m->out_norm, err);
    for (int l = 0; l < m->dims.n_layer && st == TY_OK; l++) st = load_layer(m, g, run, l, err);
    return st == TY_OK ? llama_rope_create(&m->rope, g, &m->dims, m->context, err) : st;
}

/* Is `name`, which stands behind "blk.<l>.", a tensor that the forward reads? */
static bool in_layer(const llama_dims *d, const char *name) {
    static const char *const KNOWN[] = {"attn_norm.weight",
                                        "ffn_norm.weight",
                                        "attn_q.weight",
                                        "attn_k.weight",
                                        "attn_v.weight",
                                        "ffn_down.weight",
                                        "ffn_gate.weight",
                                        "attn_output.weight",
                                        "ffn_up.weight",
                                        "attn_rot_embd",
                                        NULL};
    static const char *const VISUAL[] = {"vis_attn_norm.weight", "vis_ffn_norm.weight",
                                         "vis_attn_k.weight", "vis_attn_v.weight", NULL};
    if (d->bloom) return bloom_knows(name);
    for (const char *const *k = KNOWN; *k; k++)
        if (strcmp(name, *k) == 0) return true;
    for (const char *const *k = VISUAL; d->multiway && *k; k++)
        if (strcmp(name, *k) == 0) return true;
    return false;
}

/* A tensor that the forward would leave out would change the answer silently: refuse it. */
static ty_status check_nothing_else(const ty_gguf *g, const llama_dims *d, ty_err *err) {
    for (int i = 0; i < ty_gguf_tensor_count(g); i++) {
        const char *name = ty_gguf_tensor_name(g, i);
        if (strcmp(name, "token_embd.weight") == 0 || strcmp(name, "output_norm.weight") == 0 ||
            strcmp(name, "output.weight") == 0)
            continue;
        if (d->bloom ? bloom_knows(name) : strcmp(name, "rope_freqs.weight") == 0) continue;
        int l = -1, at = 0;
        bool known = sscanf(name, "blk.%d.%n", &l, &at) == 1 && at > 0 && l >= 0 && l < d->n_layer;
        if (!known || !in_layer(d, name + at))
            return ty_fail(err, TY_EUNSUPPORTED,
                           "%s: tensor %s is not part of %s and would be ignored", ty_gguf_path(g),
                           name,
                           d->multiway ? "mPLUG-Owl2's decoder"
                           : d->bloom  ? "BLOOM"
                                       : "a plain LLaMA");
    }
    return TY_OK;
}

static float *rows_of(int rows, int64_t width) {
    size_t bytes = (size_t)rows * (size_t)width * sizeof(float);
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static ty_status make_scratch(llama *m, int context, ty_err *err) {
    const llama_dims *d = &m->dims;
    int n = m->max_rows;
    m->x = rows_of(n, d->d_model);
    m->y = rows_of(n, d->d_model);
    m->qkv = rows_of(n, ty_linear_out(m->layer[0].qkv));
    m->ctx = rows_of(n, (int64_t)d->n_head * d->d_head);
    m->ff = rows_of(n, ty_linear_out(m->layer[0].gate_up));
    m->final_ = rows_of(m->max_logits, d->d_model);
    m->block = malloc((size_t)n * sizeof(*m->block));
    m->order = malloc((size_t)n * sizeof(*m->order));
    m->pos = malloc((size_t)n * sizeof(*m->pos));
    m->row_seq = malloc((size_t)n * sizeof(*m->row_seq));
    m->run = malloc((size_t)n * sizeof(*m->run));
    if (!m->x || !m->y || !m->qkv || !m->ctx || !m->ff || !m->final_ || !m->block || !m->order ||
        !m->pos || !m->row_seq || !m->run)
        return ty_fail(err, TY_ENOMEM, "no memory for the decoder's scratch of %d rows", n);
    return attend_scratch_create(&m->attend, d->n_head, d->n_kv_head, context, m->pool, err);
}

static ty_status load(llama *m, const ty_gguf *g, const ty_run_options *run, int context,
                      ty_err *err) {
    ty_status st = llama_read_dims(g, &m->dims, err);
    if (st != TY_OK) return st;
    if (context > m->dims.context)
        return ty_fail(err, TY_EINVAL, "context %d is more than the model's own %d", context,
                       m->dims.context);
    m->context = context > 0 ? context : m->dims.context;
    st = check_nothing_else(g, &m->dims, err);
    m->layer = calloc((size_t)m->dims.n_layer, sizeof(*m->layer));
    if (!m->layer) return ty_fail(err, TY_ENOMEM, "no memory for the layers");
    if (st == TY_OK) st = load_ends(m, g, run, err);
    if (st == TY_OK) st = (m->dims.bloom ? bloom_load : load_llama)(m, g, run, err);
    if (st == TY_OK) st = make_scratch(m, m->context, err);
    return st;
}

ty_status llama_create(llama **out, const ty_gguf *g, const ty_run_options *run, int context,
                       int max_rows, int max_logits, ty_err *err) {
    *out = NULL;
    llama *m = calloc(1, sizeof(*m));
    if (!m) return ty_fail(err, TY_ENOMEM, "no memory for the model");
    m->pool = run->pool;
    m->max_rows = max_rows;
    m->max_logits = max_logits;
    ty_status st = load(m, g, run, context, err);
    if (st != TY_OK) {
        llama_destroy(&m);
        return st;
    }
    *out = m;
    return TY_OK;
}

void llama_destroy(llama **mm) {
    llama *m = *mm;
    if (!m) return;
    for (int l = 0; m->layer && l < m->dims.n_layer; l++) {
        llama_layer *w = &m->layer[l];
        free(w->attn_bias);
        free(w->ffn_bias);
        free(w->attn_norm);
        free(w->ffn_norm);
        ty_linear_destroy(&w->qkv);
        ty_linear_destroy(&w->o);
        ty_linear_destroy(&w->gate_up);
        ty_linear_destroy(&w->down);
        free(w->visual_attn_norm);
        free(w->visual_ffn_norm);
        ty_linear_destroy(&w->visual_kv);
    }
    free(m->layer);
    free(m->embd_norm);
    free(m->embd_bias);
    free(m->out_norm);
    free(m->out_bias);
    free(m->slope);
    ty_linear_destroy(&m->output);
    llama_rope_clear(&m->rope);
    free(m->x);
    free(m->y);
    free(m->qkv);
    free(m->ctx);
    free(m->ff);
    free(m->final_);
    free(m->block);
    free(m->order);
    free(m->pos);
    free(m->row_seq);
    free(m->run);
    free(m->low);
    free(m->delta);
    attend_scratch_destroy(&m->attend);
    free(m);
    *mm = NULL;
}
