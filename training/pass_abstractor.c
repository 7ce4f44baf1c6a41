/*
 * pass_abstractor.c - the visual abstractor forward and backward (pass.h), both versions; the forward is
 * that of services/abstractor/abstractor.c, but for attention (attention.c).  A layer, with x the queries and e the image's features:
 *
 *     xn = norm1(x), en = normk(e), kv_in = [xn ; en]
 *     q = query(xn + q_pos), k = key(kv_in + k_pos), v = value(kv_in)         positions: v2 alone
 *     y = xn + out_proj(attention)                  the residual is the normed x
 *     x' = y + w2(ffn_ln(silu(w1 z) w3 z)), z = norm2(y)
 */
#include "common/math/kernel.h"
#include "common/math/nn.h"
#include "training/grad.h"
#include "training/pass.h"

#include <math.h>
#include <string.h>

static void keep(train_run *r, const owl *m, const abstractor_pass *p, abstractor_kept *k) {
    const ty_abstractor_dims *d = &m->abstractor;
    int64_t plane = p->rows * d->width, kv = p->kv_rows * d->width, wide = p->rows * d->n_ff;
    bool positions = m->version == 2;
    k->normed = op_floats(r, plane);
    k->kv_in = op_floats(r, kv);
    k->q_in = positions ? op_floats(r, plane) : k->normed;
    k->k_in = positions ? op_floats(r, kv) : k->kv_in;
    k->q = op_floats(r, plane);
    k->k = op_floats(r, kv);
    k->v = op_floats(r, kv);
    k->ctx = op_floats(r, plane);
    k->y = op_floats(r, plane);
    k->normed2 = op_floats(r, plane);
    k->gate = op_floats(r, wide);
    k->up = op_floats(r, wide);
    k->act = op_floats(r, wide);
    k->mlp = op_floats(r, wide);
}

/* kv_in of every picture, its normed queries first; v2: the positions' sums too. */
static void gather(train_run *r, const owl *m, const owl_abstractor_layer *l,
                   const abstractor_pass *p, abstractor_kept *k) {
    int64_t c = m->abstractor.width, q = m->abstractor.n_query * c, e = p->n_token * c;
    for (int b = 0; b < p->n && r->st == TY_OK; b++) {
        float *kv = k->kv_in + b * (q + e);
        memcpy(kv, k->normed + b * q, (size_t)q * sizeof *kv);
        op_norm(r, &l->normk, p->features + b * e, p->n_token, kv + q);
        if (m->version != 2) continue;
        for (int64_t i = 0; i < q; i++) k->q_in[b * q + i] = k->normed[b * q + i] + l->q_pos[i];
        for (int64_t i = 0; i < q + e; i++) k->k_in[b * (q + e) + i] = kv[i] + l->k_pos[i];
    }
}

static grad_attention attention_of(const owl *m, const abstractor_pass *p,
                                   const abstractor_kept *k) {
    int c = m->abstractor.width, d = c / m->abstractor.n_head;
    return grad_attention_of(k->q, k->k, k->v, c, d, m->abstractor.n_head, d, p->n, p->q_start,
                             p->kv_start);
}

static void layer_forward(train_run *r, const owl *m, const abstractor_pass *p, int i,
                          abstractor_kept *k, float *out) {
    const owl_abstractor_layer *l = &m->abstractor_layer[i];
    int64_t c = m->abstractor.width, f = m->abstractor.n_ff;
    op_norm(r, &l->norm1, p->x[i], p->rows, k->normed);
    gather(r, m, l, p, k);
    op_linear(r, &l->query, k->q_in, p->rows, k->q);
    op_linear(r, &l->key, k->k_in, p->kv_rows, k->k);
    op_linear(r, &l->value, k->kv_in, p->kv_rows, k->v);
    if (r->st != TY_OK) return;
    grad_attention a = attention_of(m, p, k);
    op_fail(r, attention_forward(r->pool, &a, k->ctx, c, &r->err));
    op_linear(r, &l->out_proj, k->ctx, p->rows, k->y);
    op_add(r, k->y, k->normed, p->rows * c);
    op_norm(r, &l->norm2, k->y, p->rows, k->normed2);
    op_linear(r, &l->w1, k->normed2, p->rows, k->gate);
    op_linear(r, &l->w3, k->normed2, p->rows, k->up);
    if (r->st == TY_OK) ty_silu_mul(r->pool, k->gate, k->up, p->rows, f, f, k->act, f);
    op_norm(r, &l->ffn_ln, k->act, p->rows, k->mlp);
    if (!out) return;
    op_linear(r, &l->w2, k->mlp, p->rows, out);
    op_add(r, out, k->y, p->rows * c);
}

void abstractor_forward(train_run *r, const owl *m, const float *features, int n, int n_token,
                        abstractor_pass *p) {
    const ty_abstractor_dims *d = &m->abstractor;
    int layers = d->n_layer, n_kept = r->recompute ? 1 : layers, n_kv = d->n_query + n_token;
    int64_t plane = (int64_t)d->n_query * d->width, out = (int64_t)d->n_query * d->n_out;
    *p = (abstractor_pass){.n = n,
                           .n_token = n_token,
                           .n_kv = n_kv,
                           .features = features,
                           .rows = (int64_t)n * d->n_query,
                           .kv_rows = (int64_t)n * n_kv};
    p->x = ty_arena_array(r->arena, (size_t)layers + 1, sizeof *p->x);
    p->kept = ty_arena_array(r->arena, (size_t)n_kept, sizeof *p->kept);
    p->q_start = ty_arena_array(r->arena, 2 * ((size_t)n + 1), sizeof *p->q_start);
    if (!p->x || !p->kept || !p->q_start) {
        op_fail(r, ty_fail(&r->err, TY_ENOMEM, "no memory for the abstractor"));
        return;
    }
    for (int i = 0; i <= layers && r->st == TY_OK; i++) p->x[i] = op_floats(r, n * plane);
    for (int i = 0; i < n_kept && r->st == TY_OK; i++) keep(r, m, p, &p->kept[i]);
    p->fc = op_floats(r, n * out);
    p->tokens = op_floats(r, n * (out + d->n_out));
    if (r->st != TY_OK) return;
    p->kv_start = p->q_start + n + 1;
    for (int b = 0; b <= n; b++) {
        p->q_start[b] = b * d->n_query;
        p->kv_start[b] = b * n_kv;
        if (b < n) memcpy(p->x[0] + b * plane, m->query->value, (size_t)plane * sizeof(float));
    }
    for (int i = 0; i < layers && r->st == TY_OK; i++)
        layer_forward(r, m, p, i, &p->kept[r->recompute ? 0 : i], p->x[i + 1]);
    if (r->st == TY_OK) op_linear(r, &m->visual_fc, p->x[layers], p->rows, p->fc);
    for (int b = 0; b < n && r->st == TY_OK; b++) {
        float *tokens = p->tokens + b * (out + d->n_out);
        memcpy(tokens, p->fc + b * out, (size_t)out * sizeof *tokens);
        memcpy(tokens + out, m->eos->value, (size_t)d->n_out * sizeof *tokens);
    }
}

double abstractor_rows_loss(train_run *r, const owl *m, const owl_batch *b,
                            const abstractor_pass *p, float weight, float *d) {
    int64_t width = m->abstractor.n_out, rows = (int64_t)p->n * (m->abstractor.n_query + 1);
    float *want = op_floats(r, width);
    double sum = 0;
    for (int64_t i = 0; i < rows && r->st == TY_OK; i++) {
        const float *token = p->tokens + i * width;
        double off = 0, all = 0;
        param_floats(m->embed, b->target[i] * width, width, want);
        for (int64_t k = 0; k < width; k++) {
            off += pow((double)(token[k] - want[k]), 2);
            all += pow((double)want[k], 2);
        }
        if (all <= 0) all = (double)width; /* a padding row */
        sum += off / all;
        for (int64_t k = 0; k < width && d; k++)
            d[i * width + k] = weight * 2 / (float)all * (token[k] - want[k]);
    }
    return sum;
}

/* ---- backward ---- */

static void take_room(train_run *r, const owl *m, abstractor_pass *p, bool below) {
    const ty_abstractor_dims *n = &m->abstractor;
    int64_t plane = p->rows * n->width, kv = p->kv_rows * n->width, wide = p->rows * n->n_ff;
    int64_t image = (int64_t)p->n * p->n_token * n->width;
    float **planes[] = {&p->d, &p->d_y, &p->d_normed, &p->d_below, &p->plane, &p->d_ctx, &p->dq};
    for (size_t i = 0; i < sizeof planes / sizeof *planes; i++) *planes[i] = op_floats(r, plane);
    p->wide = op_floats(r, wide);
    p->wide2 = op_floats(r, wide);
    p->wide3 = op_floats(r, wide);
    p->kv = op_floats(r, kv);
    p->dk = op_floats(r, kv);
    p->dv = op_floats(r, kv);
    p->image = op_floats(r, image);
    p->d_features = below ? op_floats(r, image) : NULL;
    if (p->d_features) memset(p->d_features, 0, (size_t)image * sizeof *p->d_features);
}

void abstractor_back_begin(train_run *r, const owl *m, abstractor_pass *p, const float *d,
                           bool below) {
    int64_t width = m->abstractor.n_out, out = m->abstractor.n_query * width;
    take_room(r, m, p, below);
    if (r->st != TY_OK) return;
    p->d_tokens = d;
    for (int b = 0; b < p->n;
         b++) /* visual_fc's rows: all but the end row, which all pictures share */
        memcpy(p->fc + b * out, d + b * (out + width), (size_t)out * sizeof *d);
    op_linear_back(r, &m->visual_fc, p->x[m->abstractor.n_layer], p->fc, p->rows, p->d, false);
}

/* The gradient of kv_in to its two parts: the queries' is added to d_normed, the image's goes through normk. */
static void kv_back(train_run *r, const owl *m, const owl_abstractor_layer *l,
                    const abstractor_pass *p) {
    int64_t c = m->abstractor.width, q = m->abstractor.n_query * c, e = p->n_token * c;
    const ty_kernels *kn = ty_kernels_get();
    if (r->st != TY_OK) return;
    for (int b = 0; b < p->n; b++) {
        const float *kv = p->kv + b * (q + e);
        kn->add_row(kv, q, p->d_normed + b * q);
        memcpy(p->image + b * e, kv + q, (size_t)e * sizeof *kv);
    }
    op_norm_back(r, &l->normk, p->features, p->image, (int64_t)p->n * p->n_token, p->d_features,
                 p->d_features);
}

static void attend_back(train_run *r, const owl *m, const abstractor_pass *p,
                        const abstractor_kept *k) {
    if (r->st != TY_OK) return;
    grad_attention a = attention_of(m, p, k);
    op_fail(r, attention_backward(r->pool, &a, p->d_ctx, m->abstractor.width, p->dq, p->dk, p->dv,
                                  &r->err));
}

void abstractor_back_layer(train_run *r, const owl *m, abstractor_pass *p, int i) {
    const owl_abstractor_layer *l = &m->abstractor_layer[i];
    abstractor_kept *k = &p->kept[r->recompute ? 0 : i];
    int64_t c = m->abstractor.width, f = m->abstractor.n_ff;
    if (r->recompute) layer_forward(r, m, p, i, k, NULL);
    op_linear_back(r, &l->w2, k->mlp, p->d, p->rows, p->wide, false);
    op_norm_back(r, &l->ffn_ln, k->act, p->wide, p->rows, NULL, p->wide3);
    if (r->st == TY_OK)
        grad_silu_mul(r->pool, k->gate, k->up, p->wide3, p->rows * f, p->wide2, p->wide3);
    op_linear_back(r, &l->w1, k->normed2, p->wide2, p->rows, p->plane, false);
    op_linear_back(r, &l->w3, k->normed2, p->wide3, p->rows, p->plane, true);
    op_norm_back(r, &l->norm2, k->y, p->plane, p->rows, p->d, p->d_y);
    op_linear_back(r, &l->out_proj, k->ctx, p->d_y, p->rows, p->d_ctx, false);
    attend_back(r, m, p, k);
    op_copy(r, p->d_normed, p->d_y, p->rows * c);
    op_linear_back(r, &l->query, k->q_in, p->dq, p->rows, p->d_normed, true);
    op_linear_back(r, &l->key, k->k_in, p->dk, p->kv_rows, p->kv, false);
    op_linear_back(r, &l->value, k->kv_in, p->dv, p->kv_rows, p->kv, true);
    kv_back(r, m, l, p);
    op_norm_back(r, &l->norm1, p->x[i], p->d_normed, p->rows, NULL, p->d_below);
    float *free_now = p->d;
    p->d = p->d_below;
    p->d_below = free_now;
}

void abstractor_add_end_grads(const owl *m, const abstractor_pass *p) {
    int64_t width = m->abstractor.n_out, tokens = (m->abstractor.n_query + 1) * width;
    const ty_kernels *kn = ty_kernels_get();
    if (p->n > 0) m->eos->touched = true;
    for (int b = 0; b < p->n && m->eos->grad; b++)
        kn->add_row(p->d_tokens + (b + 1) * tokens - width, width, m->eos->grad);
}

void abstractor_add_query_grads(const owl *m, const abstractor_pass *p) {
    int64_t queries = (int64_t)m->abstractor.n_query * m->abstractor.width;
    const ty_kernels *kn = ty_kernels_get();
    if (p->n > 0) m->query->touched = true;
    for (int b = 0; b < p->n && m->query->grad; b++)
        kn->add_row(p->d + b * queries, queries, m->query->grad);
}
