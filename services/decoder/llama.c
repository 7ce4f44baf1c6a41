/* llama.c - see llama.h: the forward pass.  llama_load.c makes the network. */
#include "services/decoder/llama_impl.h"

#include "common/math/nn.h"
#include "services/decoder/adapt.h"
#include "services/decoder/multiway.h"
#include "services/decoder/order.h"

#include <string.h>

/* Fewer elements than this are not worth waking the pool for. */
enum { POOL_MIN = 1 << 14 };

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
    if (!r->visual && m->embd_norm)
        ty_layernorm(NULL, x, 1, (int64_t)d, m->embd_norm, m->embd_bias, (float)m->dims.eps, x);
}

/* Puts a row that stands at `row` of the batch into the attention blocks: behind its predecessor
 * while that has room and stands right before it. */
static void add_to_block(llama *m, llama_rows *rows, bool follows, const kv_seq *seq, int row,
                         int pos) {
    if (follows && rows->n_block > 0) {
        attend_block *b = &m->block[rows->n_block - 1];
        if (b->n_row < ATTEND_ROWS && b->row + b->n_row == row) {
            b->n_row++;
            return;
        }
    }
    m->block[rows->n_block++] = (attend_block){.seq = seq, .row = row, .n_row = 1, .pos = pos};
}

/* Grows the sequences, embeds the rows, cuts the attention blocks. */
static ty_status place_rows(llama *m, kv_pool *kv, const llama_span *span, int n_span,
                            llama_rows *rows, ty_err *err) {
    rows->n_text = order_rows(span, n_span, m->dims.multiway, m->order, m->run, &rows->n_run);
    for (int s = 0; s < n_span; s++) {
        int pos = span[s].seq->len;
        ty_status st = kv_seq_grow(kv, span[s].seq, pos + span[s].n, err);
        if (st != TY_OK) return st;
        for (int i = 0; i < span[s].n; i++) {
            int row = m->order[rows->n++];
            add_to_block(m, rows, i > 0, span[s].seq, row, pos + i);
            m->pos[row] = pos + i;
            m->row_seq[row] = span[s].seq;
            embed(m, &span[s].row[i], m->x + (int64_t)row * m->dims.d_model);
        }
    }
    return TY_OK;
}

typedef struct {
    llama *m;
    kv_pool *kv;
    int layer;
} rope_job;

/* Turns q and k of one row by its position (ALiBi leaves them alone) and stores k and v. */
static void place_task(void *ctx, int row, int member) {
    (void)member;
    const rope_job *j = ctx;
    llama *m = j->m;
    const llama_dims *d = &m->dims;
    int nq = d->n_head * d->d_head, nkv = d->n_kv_head * d->d_head;
    int64_t at = (int64_t)m->pos[row] * (d->d_head / 2);
    float *q = m->qkv + (int64_t)row * (nq + 2 * nkv), *k = q + nq, *v = k + nkv;
    if (!m->slope) {
        ty_rope_pair(q, d->n_head, d->d_head, m->rope.cos + at, m->rope.sin + at);
        ty_rope_pair(k, d->n_kv_head, d->d_head, m->rope.cos + at, m->rope.sin + at);
    }
    kv_put(j->kv, m->row_seq[row], m->pos[row], j->layer, k, v);
}

static ty_pool *pool_for(const llama *m, int n, int64_t width) {
    return n * width < POOL_MIN ? NULL : m->pool;
}

/* y = the network's kind of norm of n rows of x; bias NULL: RMSNorm. */
static void norm(const llama *m, const float *x, int n, const float *gain, const float *bias,
                 float *y) {
    int D = m->dims.d_model;
    ty_pool *p = pool_for(m, n, D);
    if (bias)
        ty_layernorm(p, x, n, D, gain, bias, (float)m->dims.eps, y);
    else
        ty_rmsnorm(p, x, n, D, gain, (float)m->dims.eps, y);
}

/* y = norm(x) of all rows of the batch, visual rows by their own gain where they have one. */
static void norm_rows(const llama *m, const llama_rows *rows, const float *gain, const float *bias,
                      const float *visual) {
    if (rows->n_text < rows->n)
        multiway_norm(m, pool_for(m, rows->n, m->dims.d_model), rows, gain, visual, m->x, m->y);
    else
        norm(m, m->x, rows->n, gain, bias, m->y);
}

static ty_status attention(llama *m, kv_pool *kv, int l, const llama_rows *rows) {
    const llama_dims *d = &m->dims;
    const llama_layer *w = &m->layer[l];
    int D = d->d_model, n = rows->n, nq = d->n_head * d->d_head;
    int64_t ld = ty_linear_out(w->qkv);
    ty_pool *p = pool_for(m, n, D);
    norm_rows(m, rows, w->attn_norm, w->attn_bias, w->visual_attn_norm);
    ty_status st = rows->n_text < n ? multiway_qkv(m, w, rows)
                                    : ty_linear_apply(w->qkv, m->pool, m->y, D, n, m->qkv, ld);
    if (st == TY_OK) st = adapt_add(m, rows, l, ADAPT_QKV, m->y, D, m->qkv, ld);
    if (st != TY_OK) return st;
    ty_pool_run(p, n, place_task, &(rope_job){m, kv, l});
    attend(m->pool,
           &(attend_args){.kv = kv,
                          .layer = l,
                          .n_head = d->n_head,
                          .block = m->block,
                          .n_block = rows->n_block,
                          .q = m->qkv,
                          .ldq = ld,
                          .ctx = m->ctx,
                          .ldo = nq,
                          .slope = m->slope},
           m->attend);
    st = ty_linear_apply(w->o, m->pool, m->ctx, nq, n, m->y, D);
    if (st == TY_OK) st = adapt_add(m, rows, l, ADAPT_O, m->ctx, nq, m->y, D);
    if (st == TY_OK) ty_add(p, m->x, m->y, (int64_t)n * D);
    return st;
}

static ty_status feed_forward(llama *m, int l, const llama_rows *rows) {
    const llama_dims *d = &m->dims;
    const llama_layer *w = &m->layer[l];
    int D = d->d_model, F = d->d_ff, n = rows->n;
    int64_t ld = ty_linear_out(w->gate_up);
    norm_rows(m, rows, w->ffn_norm, w->ffn_bias, w->visual_ffn_norm);
    ty_status st = ty_linear_apply(w->gate_up, m->pool, m->y, D, n, m->ff, ld);
    if (st == TY_OK) st = adapt_add(m, rows, l, ADAPT_GATE_UP, m->y, D, m->ff, ld);
    if (st != TY_OK) return st;
    if (d->bloom)
        ty_gelu_tanh(pool_for(m, n, F), m->ff, n, F, ld);
    else
        ty_silu_mul(pool_for(m, n, F), m->ff, m->ff + F, n, F, ld, m->ff, ld);
    st = ty_linear_apply(w->down, m->pool, m->ff, ld, n, m->y, D);
    if (st == TY_OK) st = adapt_add(m, rows, l, ADAPT_DOWN, m->ff, ld, m->y, D);
    if (st == TY_OK) ty_add(pool_for(m, n, D), m->x, m->y, (int64_t)n * D);
    return st;
}

static void trace_state(const llama *m, const llama_trace *t, int k, int n, const float *x) {
    size_t D = (size_t)m->dims.d_model;
    for (int i = 0; t && i < n; i++)
        memcpy(t->data + (size_t)k * t->stride + (size_t)i * D, x + (size_t)m->order[i] * D,
               D * sizeof(float));
}

/* Final norm and output head of the rows that want logits. */
static ty_status head(llama *m, const llama_span *span, int n_span, float *logits) {
    int D = m->dims.d_model, row = 0, n = 0;
    for (int s = 0; s < n_span; s++) {
        for (int i = span[s].n - span[s].n_logits; i < span[s].n; i++)
            memcpy(m->final_ + (int64_t)n++ * D, m->x + (int64_t)m->order[row + i] * D,
                   (size_t)D * sizeof(float));
        row += span[s].n;
    }
    if (n == 0) return TY_OK;
    norm(m, m->final_, n, m->out_norm, m->out_bias, m->final_);
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
    llama_rows rows = {0};
    ty_status st = check_spans(m, span, n_span, err);
    if (st == TY_OK) st = place_rows(m, kv, span, n_span, &rows, err);
    if (st != TY_OK) return st;
    int n = rows.n;
    for (int l = 0; l < m->dims.n_layer && st == TY_OK; l++) {
        trace_state(m, trace, l, n, m->x);
        st = attention(m, kv, l, &rows);
        if (st == TY_OK) st = feed_forward(m, l, &rows);
    }
    if (st == TY_OK && trace) {
        norm(m, m->x, n, m->out_norm, m->out_bias, m->y);
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
    double per_row = D * (2 * nq + 2 * nkv) + (d->bloom ? 2 : 3) * D * (double)d->d_ff;
    double keys = (double)n * pos + (double)n * (n + 1) / 2; /* sum of pos + 1 + i */
    return 2 * d->n_layer * (per_row * n + 2 * nq * keys) + 2 * D * (double)d->n_vocab * n_logits;
}
