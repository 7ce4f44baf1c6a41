#include "services/decoder/llama.h"

#include "common/math/nn.h"
#include "services/decoder/attend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Fewer elements than this are not worth waking the pool for. */
enum { POOL_MIN = 1 << 14 };

typedef struct {
    float *attn_norm, *ffn_norm; /* [d_model] */
    ty_linear *qkv;              /* [(n_head + 2 n_kv_head) d_head, d_model] */
    ty_linear *o;                /* [d_model, n_head d_head] */
    ty_linear *gate_up;          /* [2 d_ff, d_model] */
    ty_linear *down;             /* [d_model, d_ff] */
} layer;

struct llama {
    llama_dims dims;
    ty_pool *pool;
    ty_tensor embd; /* token_embd.weight, mapped, its stored type */
    layer *layer;   /* [n_layer] */
    float *out_norm;
    ty_linear *output;
    float *cos, *sin; /* [context][d_head / 2] */
    int context, max_rows, max_logits;
    /* scratch, [max_rows] rows of: */
    float *x, *y;  /* d_model: the residual stream; a sublayer's input and output */
    float *qkv;    /* (n_head + 2 n_kv_head) d_head */
    float *ctx;    /* n_head d_head */
    float *ff;     /* 2 d_ff: gate | up */
    float *final_; /* [max_logits, d_model] */
    attend_block *block;
    int *pos;               /* [max_rows] position of each row */
    const kv_seq **row_seq; /* [max_rows] */
    attend_scratch *attend;
};

/* ---- metadata ---- */

static ty_status get_int(const ty_gguf *g, const char *key, int64_t lo, int64_t hi, int *out,
                         ty_err *err) {
    int64_t v;
    ty_status st = ty_gguf_get_int(g, key, &v, err);
    if (st != TY_OK) return st;
    if (v < lo || v > hi)
        return ty_fail(err, TY_EFORMAT, "%s: %s is %lld, want %lld..%lld", ty_gguf_path(g), key,
                       (long long)v, (long long)lo, (long long)hi);
    *out = (int)v;
    return TY_OK;
}

static ty_status opt_int(const ty_gguf *g, const char *key, int64_t lo, int64_t hi, int def,
                         int *out, ty_err *err) {
    *out = def;
    return ty_gguf_has(g, key) ? get_int(g, key, lo, hi, out, err) : TY_OK;
}

static ty_status opt_float(const ty_gguf *g, const char *key, double def, double *out,
                           ty_err *err) {
    *out = def;
    if (!ty_gguf_has(g, key)) return TY_OK;
    ty_status st = ty_gguf_get_float(g, key, out, err);
    if (st == TY_OK && !(*out > 0 && isfinite(*out)))
        return ty_fail(err, TY_EFORMAT, "%s: %s is %g, want a positive number", ty_gguf_path(g),
                       key, *out);
    return st;
}

static ty_status unsupported(const ty_gguf *g, const char *key, int got, int want, ty_err *err) {
    return ty_fail(err, TY_EUNSUPPORTED, "%s: %s is %d, only %d is supported", ty_gguf_path(g), key,
                   got, want);
}

static bool is_text(const char *s, size_t len, const char *want) {
    return len == strlen(want) && memcmp(s, want, len) == 0;
}

static ty_status check_architecture(const ty_gguf *g, ty_err *err) {
    const char *a;
    size_t len;
    ty_status st = ty_gguf_get_str(g, "general.architecture", &a, &len, err);
    if (st != TY_OK) return st;
    if (!is_text(a, len, "llama"))
        return ty_fail(err, TY_EUNSUPPORTED,
                       "%s: architecture is \"%.*s\", the decoder runs "
                       "\"llama\"; is this the pipeline's decoder.gguf?",
                       ty_gguf_path(g), (int)(len > 64 ? 64 : len), a);
    int experts;
    st = opt_int(g, "llama.expert_count", 0, 1 << 20, 0, &experts, err);
    if (st == TY_OK && experts > 0) return unsupported(g, "llama.expert_count", experts, 0, err);
    return st;
}

/* Linear scaling divides the position; other kinds change frequencies and are refused. */
static ty_status read_rope(const ty_gguf *g, llama_dims *d, ty_err *err) {
    int rot;
    ty_status st = opt_int(g, "llama.rope.dimension_count", 1, 1 << 16, d->d_head, &rot, err);
    if (st == TY_OK && rot != d->d_head)
        st = unsupported(g, "llama.rope.dimension_count", rot, d->d_head, err);
    if (st == TY_OK) st = opt_float(g, "llama.rope.freq_base", 10000, &d->rope_base, err);
    if (st == TY_OK) st = opt_float(g, "llama.rope.scale_linear", 1, &d->rope_scale, err);
    if (st != TY_OK || !ty_gguf_has(g, "llama.rope.scaling.type")) return st;
    const char *type;
    size_t len;
    st = ty_gguf_get_str(g, "llama.rope.scaling.type", &type, &len, err);
    if (st != TY_OK || is_text(type, len, "none")) return st;
    if (!is_text(type, len, "linear"))
        return ty_fail(err, TY_EUNSUPPORTED,
                       "%s: rope scaling \"%.*s\" is not supported, only \"linear\"",
                       ty_gguf_path(g), (int)(len > 64 ? 64 : len), type);
    return opt_float(g, "llama.rope.scaling.factor", d->rope_scale, &d->rope_scale, err);
}

static ty_status read_heads(const ty_gguf *g, llama_dims *d, ty_err *err) {
    ty_status st = get_int(g, "llama.attention.head_count", 1, 1 << 12, &d->n_head, err);
    if (st == TY_OK)
        st = opt_int(g, "llama.attention.head_count_kv", 1, 1 << 12, d->n_head, &d->n_kv_head, err);
    if (st != TY_OK) return st;
    if (d->n_head % d->n_kv_head != 0 || d->n_head / d->n_kv_head > ATTEND_GROUP_MAX)
        return ty_fail(err, TY_EFORMAT, "%s: %d heads cannot share %d KV heads", ty_gguf_path(g),
                       d->n_head, d->n_kv_head);
    int def = d->d_model % d->n_head == 0 ? d->d_model / d->n_head : 0, v;
    st = opt_int(g, "llama.attention.key_length", 2, 1 << 12, def, &d->d_head, err);
    if (st == TY_OK)
        st = opt_int(g, "llama.attention.value_length", 2, 1 << 12, d->d_head, &v, err);
    if (st != TY_OK) return st;
    if (d->d_head < 2 || d->d_head % 2 != 0)
        return ty_fail(err, TY_EFORMAT, "%s: width %d and %d heads give no even head size",
                       ty_gguf_path(g), d->d_model, d->n_head);
    if (v != d->d_head) return unsupported(g, "llama.attention.value_length", v, d->d_head, err);
    return TY_OK;
}

static ty_status read_dims(const ty_gguf *g, llama_dims *d, ty_err *err) {
    ty_status st = check_architecture(g, err);
    if (st == TY_OK) st = get_int(g, "llama.block_count", 1, 1 << 12, &d->n_layer, err);
    if (st == TY_OK) st = get_int(g, "llama.embedding_length", 1, 1 << 17, &d->d_model, err);
    if (st == TY_OK) st = get_int(g, "llama.feed_forward_length", 1, 1 << 19, &d->d_ff, err);
    if (st == TY_OK) st = get_int(g, "llama.context_length", 1, 1 << 20, &d->context, err);
    if (st == TY_OK)
        st = opt_float(g, "llama.attention.layer_norm_rms_epsilon", 1e-6, &d->eps, err);
    if (st == TY_OK) st = read_heads(g, d, err);
    if (st == TY_OK) st = read_rope(g, d, err);
    return st;
}

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
    ty_tensor w[3];
    for (int i = 0; i < n; i++) {
        char full[64];
        snprintf(full, sizeof(full), "blk.%d.%s.weight", l, name[i]);
        ty_status st = ty_gguf_find_shape(g, full, 2, (int64_t[]){rows[i], cols}, &w[i], err);
        if (st != TY_OK) return st;
    }
    ty_status st = ty_linear_create(out, w, NULL, n, run->compute, m->pool, err);
    if (st != TY_OK) ty_err_context(err, "layer %d, %s", l, name[0]);
    return st;
}

static ty_status load_layer(llama *m, const ty_gguf *g, const ty_run_options *run, int l,
                            ty_err *err) {
    static const char *const QKV[] = {"attn_q", "attn_k", "attn_v"}, *const O[] = {"attn_output"},
                             *const GATE_UP[] = {"ffn_gate", "ffn_up"},
                             *const DOWN[] = {"ffn_down"};
    const llama_dims *d = &m->dims;
    layer *w = &m->layer[l];
    int nq = d->n_head * d->d_head, nkv = d->n_kv_head * d->d_head;
    char name[64];
    snprintf(name, sizeof(name), "blk.%d.attn_norm.weight", l);
    ty_status st = load_vector(g, name, d->d_model, &w->attn_norm, err);
    snprintf(name, sizeof(name), "blk.%d.ffn_norm.weight", l);
    if (st == TY_OK) st = load_vector(g, name, d->d_model, &w->ffn_norm, err);
    if (st == TY_OK)
        st = load_linear(m, g, run, l, 3, QKV, (int[]){nq, nkv, nkv}, d->d_model, &w->qkv, err);
    if (st == TY_OK) st = load_linear(m, g, run, l, 1, O, (int[]){d->d_model}, nq, &w->o, err);
    if (st == TY_OK)
        st = load_linear(m, g, run, l, 2, GATE_UP, (int[]){d->d_ff, d->d_ff}, d->d_model,
                         &w->gate_up, err);
    if (st == TY_OK)
        st = load_linear(m, g, run, l, 1, DOWN, (int[]){d->d_model}, d->d_ff, &w->down, err);
    return st;
}

/* Embeddings, final norm and head; a file without output.weight ties the head to the embeddings. */
static ty_status load_ends(llama *m, const ty_gguf *g, const ty_run_options *run, ty_err *err) {
    llama_dims *d = &m->dims;
    ty_status st =
        ty_gguf_find_shape(g, "token_embd.weight", 2, (int64_t[]){-1, d->d_model}, &m->embd, err);
    if (st != TY_OK) return st;
    if (m->embd.shape[0] < 1 || m->embd.shape[0] > 1 << 24)
        return ty_fail(err, TY_ESHAPE, "%s: token_embd.weight has %lld rows", ty_gguf_path(g),
                       (long long)m->embd.shape[0]);
    d->n_vocab = (int)m->embd.shape[0];
    st = load_vector(g, "output_norm.weight", d->d_model, &m->out_norm, err);
    if (st != TY_OK) return st;
    ty_tensor head = m->embd;
    if (ty_gguf_find(g, "output.weight", &head, NULL) == TY_OK)
        st = ty_gguf_find_shape(g, "output.weight", 2, (int64_t[]){d->n_vocab, d->d_model}, &head,
                                err);
    else
        head = m->embd;
    if (st == TY_OK) st = ty_linear_create(&m->output, &head, NULL, 1, run->compute, m->pool, err);
    return st;
}

/* A tensor that the forward would leave out would change the answer silently: refuse it. */
static ty_status check_nothing_else(const ty_gguf *g, const llama_dims *d, ty_err *err) {
    static const char *const KNOWN[] = {"attn_norm.weight", "ffn_norm.weight",    "attn_q.weight",
                                        "attn_k.weight",    "attn_v.weight",      "ffn_down.weight",
                                        "ffn_gate.weight",  "attn_output.weight", "ffn_up.weight",
                                        "attn_rot_embd"};
    for (int i = 0; i < ty_gguf_tensor_count(g); i++) {
        const char *name = ty_gguf_tensor_name(g, i);
        if (strcmp(name, "token_embd.weight") == 0 || strcmp(name, "output_norm.weight") == 0 ||
            strcmp(name, "output.weight") == 0)
            continue;
        int l = -1, at = 0;
        bool known = false;
        if (sscanf(name, "blk.%d.%n", &l, &at) == 1 && at > 0 && l >= 0 && l < d->n_layer)
            for (size_t k = 0; k < sizeof(KNOWN) / sizeof(KNOWN[0]) && !known; k++)
                known = strcmp(name + at, KNOWN[k]) == 0;
        if (!known)
            return ty_fail(err, TY_EUNSUPPORTED,
                           "%s: tensor %s is not part of a plain LLaMA and would be ignored",
                           ty_gguf_path(g), name);
    }
    return TY_OK;
}

/* As Hugging Face computes them, in f32: inv_freq = 1 / base^(2j/d), angle = pos * inv_freq. */
static ty_status make_rope(llama *m, int context, ty_err *err) {
    int half = m->dims.d_head / 2;
    size_t n = (size_t)context * (size_t)half;
    m->cos = malloc(n * sizeof(float));
    m->sin = malloc(n * sizeof(float));
    if (!m->cos || !m->sin) return ty_fail(err, TY_ENOMEM, "no memory for the rotary tables");
    for (int j = 0; j < half; j++) {
        float power = (float)pow((double)(float)m->dims.rope_base,
                                 (double)((float)(2 * j) / (float)m->dims.d_head));
        float inv_freq = 1.0f / power;
        for (int pos = 0; pos < context; pos++) {
            float angle = (float)pos / (float)m->dims.rope_scale * inv_freq;
            m->cos[(size_t)pos * (size_t)half + (size_t)j] = (float)cos((double)angle);
            m->sin[(size_t)pos * (size_t)half + (size_t)j] = (float)sin((double)angle);
        }
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
    m->ff = rows_of(n, 2 * (int64_t)d->d_ff);
    m->final_ = rows_of(m->max_logits, d->d_model);
    m->block = malloc((size_t)n * sizeof(*m->block));
    m->pos = malloc((size_t)n * sizeof(*m->pos));
    m->row_seq = malloc((size_t)n * sizeof(*m->row_seq));
    if (!m->x || !m->y || !m->qkv || !m->ctx || !m->ff || !m->final_ || !m->block || !m->pos ||
        !m->row_seq)
        return ty_fail(err, TY_ENOMEM, "no memory for the decoder's scratch of %d rows", n);
    return attend_scratch_create(&m->attend, d->n_head, d->n_kv_head, context, m->pool, err);
}

static ty_status load(llama *m, const ty_gguf *g, const ty_run_options *run, int context,
                      ty_err *err) {
    ty_status st = read_dims(g, &m->dims, err);
    if (st != TY_OK) return st;
    if (context > m->dims.context)
        return ty_fail(err, TY_EINVAL, "context %d is more than the model's own %d", context,
                       m->dims.context);
    m->context = context > 0 ? context : m->dims.context;
    st = check_nothing_else(g, &m->dims, err);
    m->layer = calloc((size_t)m->dims.n_layer, sizeof(*m->layer));
    if (!m->layer) return ty_fail(err, TY_ENOMEM, "no memory for the layers");
    if (st == TY_OK) st = load_ends(m, g, run, err);
    for (int l = 0; l < m->dims.n_layer && st == TY_OK; l++) st = load_layer(m, g, run, l, err);
    if (st == TY_OK) st = make_rope(m, m->context, err);
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
        layer *w = &m->layer[l];
        free(w->attn_norm);
        free(w->ffn_norm);
        ty_linear_destroy(&w->qkv);
        ty_linear_destroy(&w->o);
        ty_linear_destroy(&w->gate_up);
        ty_linear_destroy(&w->down);
    }
    free(m->layer);
    free(m->out_norm);
    ty_linear_destroy(&m->output);
    free(m->cos);
    free(m->sin);
    free(m->x);
    free(m->y);
    free(m->qkv);
    free(m->ctx);
    free(m->ff);
    free(m->final_);
    free(m->block);
    free(m->pos);
    free(m->row_seq);
    attend_scratch_destroy(&m->attend);
    free(m);
    *mm = NULL;
}

const llama_dims *llama_get_dims(const llama *m) {
    return &m->dims;
}

/* ---- forward ---- */

static void embed(const llama *m, const llama_row *r, float *x) {
    size_t d = (size_t)m->dims.d_model;
    if (r->visual)
        memcpy(x, r->visual, d * sizeof(float));
    else
        ty_dtype_to_f32(m->embd.dtype, m->embd.data, (size_t)r->id * d, d, x);
}

/* Grows the sequences, embeds the rows, cuts the attention blocks.  Returns the number of rows. */
static ty_status place_rows(llama *m, kv_pool *kv, const llama_span *span, int n_span, int *n_row,
                            int *n_block, ty_err *err) {
    int n = 0, blocks = 0;
    for (int s = 0; s < n_span; s++) {
        int pos = span[s].seq->len;
        ty_status st = kv_seq_grow(kv, span[s].seq, pos + span[s].n, err);
        if (st != TY_OK) return st;
        for (int i = 0; i < span[s].n; i++) {
            if (i % ATTEND_ROWS == 0) {
                int left = span[s].n - i;
                m->block[blocks++] =
                    (attend_block){.seq = span[s].seq,
                                   .row = n + i,
                                   .n_row = left < ATTEND_ROWS ? left : ATTEND_ROWS,
                                   .pos = pos + i};
            }
            m->pos[n + i] = pos + i;
            m->row_seq[n + i] = span[s].seq;
            embed(m, &span[s].row[i], m->x + (int64_t)(n + i) * m->dims.d_model);
        }
        n += span[s].n;
    }
    *n_row = n;
    *n_block = blocks;
    return TY_OK;
}

typedef struct {
    llama *m;
    kv_pool *kv;
    int layer;
} rope_job;

/* Turns q and k of one row by its position and stores k and v. */
static void rope_task(void *ctx, int row, int member) {
    (void)member;
    const rope_job *j = ctx;
    llama *m = j->m;
    const llama_dims *d = &m->dims;
    int nq = d->n_head * d->d_head, nkv = d->n_kv_head * d->d_head, half = d->d_head / 2;
    float *q = m->qkv + (int64_t)row * (nq + 2 * nkv), *k = q + nq, *v = k + nkv;
    const float *cs = m->cos + (int64_t)m->pos[row] * half,
                *sn = m->sin + (int64_t)m->pos[row] * half;
    ty_rope_pair(q, d->n_head, d->d_head, cs, sn);
    ty_rope_pair(k, d->n_kv_head, d->d_head, cs, sn);
    kv_put(j->kv, m->row_seq[row], m->pos[row], j->layer, k, v);
}

static ty_pool *pool_for(const llama *m, int n, int64_t width) {
    return n * width < POOL_MIN ? NULL : m->pool;
}

static ty_status attention(llama *m, kv_pool *kv, int l, int n, int n_block) {
    const llama_dims *d = &m->dims;
    int D = d->d_model, nq = d->n_head * d->d_head;
    int64_t ld = ty_linear_out(m->layer[l].qkv);
    ty_pool *p = pool_for(m, n, D);
    ty_rmsnorm(p, m->x, n, D, m->layer[l].attn_norm, (float)d->eps, m->y);
    ty_status st = ty_linear_apply(m->layer[l].qkv, m->pool, m->y, D, n, m->qkv, ld);
    if (st != TY_OK) return st;
    ty_pool_run(p, n, rope_task, &(rope_job){m, kv, l});
    attend(m->pool,
           &(attend_args){.kv = kv,
                          .layer = l,
                          .n_head = d->n_head,
                          .block = m->block,
                          .n_block = n_block,
                          .q = m->qkv,
                          .ldq = ld,
                          .ctx = m->ctx,
                          .ldo = nq},
           m->attend);
    st = ty_linear_apply(m->layer[l].o, m->pool, m->ctx, nq, n, m->y, D);
    if (st == TY_OK) ty_add(p, m->x, m->y, (int64_t)n * D);
    return st;
}

static ty_status feed_forward(llama *m, int l, int n) {
    const llama_dims *d = &m->dims;
    int D = d->d_model, F = d->d_ff;
    ty_pool *p = pool_for(m, n, D);
    ty_rmsnorm(p, m->x, n, D, m->layer[l].ffn_norm, (float)d->eps, m->y);
    ty_status st = ty_linear_apply(m->layer[l].gate_up, m->pool, m->y, D, n, m->ff, 2 * (int64_t)F);
    if (st != TY_OK) return st;
    ty_silu_mul(pool_for(m, n, F), m->ff, m->ff + F, n, F, 2 * (int64_t)F, m->ff, 2 * (int64_t)F);
    st = ty_linear_apply(m->layer[l].down, m->pool, m->ff, 2 * (int64_t)F, n, m->y, D);
    if (st == TY_OK) ty_add(p, m->x, m->y, (int64_t)n * D);
    return st;
}

static void trace_state(const llama *m, const llama_trace *t, int k, int n, const float *x) {
    size_t D = (size_t)m->dims.d_model;
    if (t) memcpy(t->data + (size_t)k * t->stride, x, (size_t)n * D * sizeof(float));
}

/* Final norm and output head of the rows that want logits. */
static ty_status head(llama *m, const llama_span *span, int n_span, float *logits) {
    int D = m->dims.d_model, row = 0, n = 0;
    for (int s = 0; s < n_span; s++) {
        for (int i = span[s].n - span[s].n_logits; i < span[s].n; i++)
            memcpy(m->final_ + (int64_t)n++ * D, m->x + (int64_t)(row + i) * D,
                   (size_t)D * sizeof(float));
        row += span[s].n;
    }
    if (n == 0) return TY_OK;
    ty_rmsnorm(pool_for(m, n, D), m->final_, n, D, m->out_norm, (float)m->dims.eps, m->final_);
    return ty_linear_apply(m->output, m->pool, m->final_, D, n, logits, m->dims.n_vocab);
}

static ty_status check_spans(const llama *m, const llama_span *span, int n_span, ty_err *err) {
    int rows = 0, logits = 0;
    for (int s = 0; s < n_span; s++) {
        rows += span[s].n;
        logits += span[s].n_logits;
        if (span[s].seq->len + span[s].n > m->context)
            return ty_fail(err, TY_ECONTEXT, "position %d is outside the context of %d",
                           span[s].seq->len + span[s].n - 1, m->context);
        for (int i = 0; i < span[s].n; i++)
            if (!span[s].row[i].visual &&
                (span[s].row[i].id < 0 || span[s].row[i].id >= m->dims.n_vocab))
                return ty_fail(err, TY_EINTERNAL, "token id %d is outside the vocabulary of %d",
                               span[s].row[i].id, m->dims.n_vocab);
    }
    if (rows > m->max_rows || logits > m->max_logits)
        return ty_fail(err, TY_EINTERNAL, "a batch of %d rows and %d logits, room for %d and %d",
                       rows, logits, m->max_rows, m->max_logits);
    return TY_OK;
}

ty_status llama_forward(llama *m, kv_pool *kv, const llama_span *span, int n_span, float *logits,
                        const llama_trace *trace, ty_err *err) {
    int n = 0, n_block = 0;
    ty_status st = check_spans(m, span, n_span, err);
    if (st == TY_OK) st = place_rows(m, kv, span, n_span, &n, &n_block, err);
    if (st != TY_OK) return st;
    for (int l = 0; l < m->dims.n_layer && st == TY_OK; l++) {
        trace_state(m, trace, l, n, m->x);
        st = attention(m, kv, l, n, n_block);
        if (st == TY_OK) st = feed_forward(m, l, n);
    }
    if (st == TY_OK && trace) {
        ty_rmsnorm(m->pool, m->x, n, m->dims.d_model, m->out_norm, (float)m->dims.eps, m->y);
        trace_state(m, trace, m->dims.n_layer, n, m->y);
    }
    if (st == TY_OK) st = head(m, span, n_span, logits);
    if (st != TY_OK) return ty_fail(err, st, "the forward pass of %d rows failed", n);
    return TY_OK;
}

double llama_flops(const llama *m, int pos, int n, int n_logits) {
    const llama_dims *d = &m->dims;
    double nq = (double)d->n_head * d->d_head, nkv = (double)d->n_kv_head * d->d_head;
    double D = d->d_model;
    double per_row = D * (2 * nq + 2 * nkv) + 3 * D * (double)d->d_ff;
    double keys = (double)n * pos + (double)n * (n + 1) / 2; /* sum of pos + 1 + i */
    return 2 * d->n_layer * (per_row * n + 2 * nq * keys) + 2 * D * (double)d->n_vocab * n_logits;
}

size_t llama_weight_bytes(const llama *m) {
    size_t n = ty_linear_bytes(m->output);
    for (int l = 0; l < m->dims.n_layer; l++)
        n += ty_linear_bytes(m->layer[l].qkv) + ty_linear_bytes(m->layer[l].o) +
             ty_linear_bytes(m->layer[l].gate_up) + ty_linear_bytes(m->layer[l].down);
    return n;
}
