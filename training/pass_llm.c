/*
 * pass_llm.c - LLaMA, and v2's multiway LLaMA, forward and backward (pass.h).
 *
 * Rows of text and rows of pictures are two runs of memory (batch.h).  In v2 each run goes through its
 * own copy of the norms and of the K and V projections; all else, and all of v1, takes the rows as one.
 */
#include "common/math/nn.h"
#include "training/grad.h"
#include "training/pass.h"

#include <math.h>
#include <string.h>

/* Rows of way w: all of them where there is but one way. */
typedef struct {
    int64_t first, n;
} run_of_rows;

static run_of_rows rows_of(const owl *m, const owl_batch *b, int way) {
    if (m->n_way == 1) return (run_of_rows){0, b->n_row};
    return way == OWL_TEXT ? (run_of_rows){0, b->n_text} : (run_of_rows){b->n_text, b->n_visual};
}

static void each_norm(train_run *r, const owl *m, const owl_batch *b, const owl_norm *n,
                      const float *x, float *y) {
    for (int w = 0; w < m->n_way && r->st == TY_OK; w++) {
        run_of_rows s = rows_of(m, b, w);
        op_norm(r, &n[w], x + s.first * m->llm.width, s.n, y + s.first * m->llm.width);
    }
}

static void each_norm_back(train_run *r, const owl *m, const owl_batch *b, const owl_norm *n,
                           const float *x, const float *dy, float *dx) {
    for (int w = 0; w < m->n_way && r->st == TY_OK; w++) {
        run_of_rows s = rows_of(m, b, w);
        int64_t at = s.first * m->llm.width;
        op_norm_back(r, &n[w], x + at, dy + at, s.n, dx + at, true);
    }
}

static void each_linear(train_run *r, const owl *m, const owl_batch *b, const owl_linear *l,
                        const float *x, float *y) {
    for (int w = 0; w < m->n_way && r->st == TY_OK; w++) {
        run_of_rows s = rows_of(m, b, w);
        op_linear(r, &l[w], x + s.first * m->llm.width, s.n, y + s.first * m->llm.width);
    }
}

static void each_linear_back(train_run *r, const owl *m, const owl_batch *b, const owl_linear *l,
                             const float *x, const float *dy, float *dx) {
    for (int w = 0; w < m->n_way && r->st == TY_OK; w++) {
        run_of_rows s = rows_of(m, b, w);
        int64_t at = s.first * m->llm.width;
        op_linear_back(r, &l[w], x + at, dy + at, s.n, dx + at, true);
    }
}

/* Turns every row by its position; back: the other way round, which is the gradient. */
static void rope(train_run *r, const owl *m, const owl_batch *b, float *x, bool back) {
    int d = m->llm.width / m->llm.n_head, half = d / 2;
    float other[1024];
    if (r->st != TY_OK) return;
    for (int i = 0; i < b->n_row; i++) {
        const float *cos = m->cos + (size_t)b->position[i] * (size_t)half;
        const float *sin = m->sin + (size_t)b->position[i] * (size_t)half;
        for (int j = 0; j < half && back; j++) other[j] = -sin[j];
        ty_rope_half(x + (int64_t)i * m->llm.width, m->llm.n_head, d, cos, back ? other : sin);
    }
}

static grad_attention attention_of(const owl *m, const owl_batch *b, const llm_kept *k) {
    int64_t c = m->llm.width, d = c / m->llm.n_head;
    return (grad_attention){.q = k->q,
                            .k = k->k,
                            .v = k->v,
                            .ldq = c,
                            .ldk = c,
                            .ldv = c,
                            .hdq = d,
                            .hdk = d,
                            .hdv = d,
                            .n_seq = b->n_sample,
                            .n_head = m->llm.n_head,
                            .d = (int)d,
                            .q_start = b->start,
                            .q_row = b->order,
                            .kv_start = b->start,
                            .kv_row = b->order,
                            .scale = 1.0f / sqrtf((float)d),
                            .causal = true};
}

static void keep(train_run *r, const owl *m, const owl_batch *b, llm_kept *k) {
    int64_t plane = (int64_t)b->n_row * m->llm.width, wide = (int64_t)b->n_row * m->llm.n_ff;
    k->normed = op_floats(r, plane);
    k->q = op_floats(r, plane);
    k->k = op_floats(r, plane);
    k->v = op_floats(r, plane);
    k->ctx = op_floats(r, plane);
    k->middle = op_floats(r, plane);
    k->normed2 = op_floats(r, plane);
    k->gate = op_floats(r, wide);
    k->up = op_floats(r, wide);
    k->act = op_floats(r, wide);
}

static void layer_forward(train_run *r, const owl *m, const llm_pass *p, int i, llm_kept *k,
                          float *out) {
    const owl_llm_layer *l = &m->llm_layer[i];
    const owl_batch *b = p->b;
    int64_t n = b->n_row, c = m->llm.width, f = m->llm.n_ff;
    each_norm(r, m, b, l->before_attention, p->x[i], k->normed);
    op_linear(r, &l->q, k->normed, n, k->q);
    each_linear(r, m, b, l->k, k->normed, k->k);
    each_linear(r, m, b, l->v, k->normed, k->v);
    rope(r, m, b, k->q, false);
    rope(r, m, b, k->k, false);
    if (r->st != TY_OK) return;
    grad_attention a = attention_of(m, b, k);
    op_fail(r, attention_forward(r->pool, &a, k->ctx, c, &r->err));
    op_linear(r, &l->o, k->ctx, n, k->middle);
    op_add(r, k->middle, p->x[i], n * c);
    each_norm(r, m, b, l->before_mlp, k->middle, k->normed2);
    op_linear(r, &l->gate, k->normed2, n, k->gate);
    op_linear(r, &l->up, k->normed2, n, k->up);
    if (r->st == TY_OK) ty_silu_mul(r->pool, k->gate, k->up, n, f, f, k->act, f);
    if (!out) return;
    op_linear(r, &l->down, k->act, n, out);
    op_add(r, out, k->middle, n * c);
}

/* What the layers of one backward work in. */
typedef struct {
    float *plane, *dq, *dk, *dv, *wide, *wide2;
} room;

/* d: the gradient of the layer's output, becomes that of its input. */
static void layer_backward(train_run *r, const owl *m, const llm_pass *p, int i, const llm_kept *k,
                           float *d, const room *w) {
    const owl_llm_layer *l = &m->llm_layer[i];
    const owl_batch *b = p->b;
    int64_t n = b->n_row, c = m->llm.width;
    op_linear_back(r, &l->down, k->act, d, n, w->wide, false);
    if (r->st == TY_OK)
        grad_silu_mul(r->pool, k->gate, k->up, w->wide, n * m->llm.n_ff, w->wide2, w->wide);
    op_linear_back(r, &l->gate, k->normed2, w->wide2, n, w->plane, false);
    op_linear_back(r, &l->up, k->normed2, w->wide, n, w->plane, true);
    each_norm_back(r, m, b, l->before_mlp, k->middle, w->plane, d);
    op_linear_back(r, &l->o, k->ctx, d, n, w->plane, false);
    if (r->st != TY_OK) return;
    grad_attention a = attention_of(m, b, k);
    op_fail(r, attention_backward(r->pool, &a, w->plane, c, w->dq, w->dk, w->dv, &r->err));
    rope(r, m, b, w->dq, true);
    rope(r, m, b, w->dk, true);
    op_linear_back(r, &l->q, k->normed, w->dq, n, w->plane, false);
    each_linear_back(r, m, b, l->k, k->normed, w->dk, w->plane);
    each_linear_back(r, m, b, l->v, k->normed, w->dv, w->plane);
    each_norm_back(r, m, b, l->before_attention, p->x[i], w->plane, d);
}

void llm_forward(train_run *r, const owl *m, const owl_batch *b, const float *tokens, llm_pass *p) {
    int layers = m->llm.n_layer, n_kept = r->recompute ? 1 : layers;
    int64_t c = m->llm.width;
    *p = (llm_pass){.b = b};
    p->x = ty_arena_array(r->arena, (size_t)layers + 1, sizeof *p->x);
    p->kept = ty_arena_array(r->arena, (size_t)n_kept, sizeof *p->kept);
    if (!p->x || !p->kept) {
        op_fail(r, ty_fail(&r->err, TY_ENOMEM, "no memory for the layers"));
        return;
    }
    if (m->llm.width / m->llm.n_head > 2048)
        op_fail(r, ty_fail(&r->err, TY_EUNSUPPORTED, "heads wider than 2048"));
    for (int i = 0; i <= layers && r->st == TY_OK; i++) p->x[i] = op_floats(r, b->n_row * c);
    for (int i = 0; i < n_kept && r->st == TY_OK; i++) keep(r, m, b, &p->kept[i]);
    if (r->st != TY_OK) return;
    for (int i = 0; i < b->n_text; i++) param_floats(m->embed, b->token[i] * c, c, p->x[0] + i * c);
    for (int i = 0; i < b->n_visual; i++)
        memcpy(p->x[0] + (b->n_text + i) * c, tokens + b->visual[i] * c, (size_t)c * sizeof(float));
    for (int i = 0; i < layers && r->st == TY_OK; i++)
        layer_forward(r, m, p, i, &p->kept[r->recompute ? 0 : i], p->x[i + 1]);
}

void llm_loss(train_run *r, const owl *m, llm_pass *p, float weight, float *d) {
    enum { PIECE = 256 };
    const owl_batch *b = p->b;
    int64_t c = m->llm.width, v = m->llm.n_vocab;
    float *x = op_floats(r, PIECE * c), *normed = op_floats(r, PIECE * c);
    float *dn = op_floats(r, PIECE * c), *logits = op_floats(r, PIECE * v), loss[PIECE];
    if (r->st != TY_OK) return;
    const float *last = p->x[m->llm.n_layer];
    if (d) memset(d, 0, (size_t)(b->n_row * c) * sizeof *d);
    for (int t = 0; t < b->n_target && r->st == TY_OK; t += PIECE) {
        int n = b->n_target - t < PIECE ? b->n_target - t : PIECE;
        for (int i = 0; i < n; i++)
            memcpy(x + i * c, last + b->target_row[t + i] * c, (size_t)c * sizeof *x);
        op_norm(r, &m->final_norm, x, n, normed);
        op_linear(r, &m->head, normed, n, logits);
        if (r->st != TY_OK) return;
        grad_cross_entropy(r->pool, logits, n, v, b->target + t, weight, loss);
        for (int i = 0; i < n; i++) p->loss += (double)loss[i];
        if (!d) continue;
        op_linear_back(r, &m->head, normed, logits, n, dn, false);
        op_norm_back(r, &m->final_norm, x, dn, n, dn, false);
        for (int i = 0; i < n; i++)
            memcpy(d + b->target_row[t + i] * c, dn + i * c, (size_t)c * sizeof *d);
    }
}

/* The gradient of the embeddings' rows: to the table and to the visual tokens. */
static void embed_back(const owl *m, const owl_batch *b, const float *d, float *d_tokens) {
    int64_t c = m->llm.width;
    m->embed->touched = true;
    for (int i = 0; i < b->n_text && m->embed->grad; i++) {
        if (b->token[i] == m->padding_id) continue;
        float *g = m->embed->grad + b->token[i] * c;
        for (int64_t k = 0; k < c; k++) g[k] += d[i * c + k];
    }
    if (!d_tokens) return;
    memset(d_tokens, 0,
           (size_t)b->n_picture * (size_t)(m->abstractor.n_query + 1) * (size_t)c * sizeof *d);
    for (int i = 0; i < b->n_visual; i++)
        memcpy(d_tokens + b->visual[i] * c, d + (b->n_text + i) * c, (size_t)c * sizeof *d);
}

/* The lowest layer that has something to train: below it no gradient is needed. */
static int lowest_layer(const owl *m, const float *d_tokens) {
    if (d_tokens || m->embed->grad) return 0;
    for (int i = 0; i < m->llm.n_layer; i++) {
        const owl_llm_layer *l = &m->llm_layer[i];
        const owl_linear *all[] = {&l->q, &l->k[0], &l->v[0], &l->k[1], &l->v[1],
                                   &l->o, &l->gate, &l->up,   &l->down};
        for (int k = 0; k < 9; k++)
            if (all[k]->lora_a || (all[k]->w && all[k]->w->grad)) return i;
        for (int w = 0; w < m->n_way; w++)
            if (l->before_attention[w].w->grad || l->before_mlp[w].w->grad) return i;
    }
    return m->llm.n_layer;
}

void llm_backward(train_run *r, const owl *m, llm_pass *p, float *d, float *d_tokens) {
    const owl_batch *b = p->b;
    int64_t plane = (int64_t)b->n_row * m->llm.width, wide = (int64_t)b->n_row * m->llm.n_ff;
    int lowest = lowest_layer(m, d_tokens);
    room w = {op_floats(r, plane), op_floats(r, plane), op_floats(r, plane),
              op_floats(r, plane), op_floats(r, wide),  op_floats(r, wide)};
    for (int i = m->llm.n_layer - 1; i >= lowest && r->st == TY_OK; i--) {
        llm_kept *k = &p->kept[r->recompute ? 0 : i];
        if (r->recompute) layer_forward(r, m, p, i, k, NULL);
        layer_backward(r, m, p, i, k, d, &w);
        op_complete(r, m->llm_layer[i].before_attention[0].w);
    }
    if (r->st == TY_OK && lowest == 0) embed_back(m, b, d, d_tokens);
}
