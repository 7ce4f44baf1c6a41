/*
 * pass_abstractor.c - the visual abstractor forward and backward (pass.h), both versions; the forward is
 * that of services/abstractor/abstractor.c.  A layer, with x the queries and e the image's features:
 *
 *     xn = norm1(x), en = normk(e), kv_in = [xn ; en]
 *     q = query(xn + q_pos), k = key(kv_in + k_pos), v = value(kv_in)         positions: v2 alone
 *     y = xn + out_proj(attention)                  the residual is the normed x
 *     x' = y + w2(ffn_ln(silu(w1 z) w3 z)), z = norm2(y)
 */
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

static void layer_forward(train_run *r, const owl *m, const abstractor_pass *p, int i,
                          abstractor_kept *k, float *out) {
    const owl_abstractor_layer *l = &m->abstractor_layer[i];
    int64_t c = m->abstractor.width, f = m->abstractor.n_ff, d = c / m->abstractor.n_head;
    op_norm(r, &l->norm1, p->x[i], p->rows, k->normed);
    gather(r, m, l, p, k);
    op_linear(r, &l->query, k->q_in, p->rows, k->q);
    op_linear(r, &l->key, k->k_in, p->kv_rows, k->k);
    op_linear(r, &l->value, k->kv_in, p->kv_rows, k->v);
    if (r->st != TY_OK) return;
    ty_attention a = {.q = k->q,
                      .k = k->k,
                      .v = k->v,
                      .ldq = c,
                      .ldk = c,
                      .ldv = c,
                      .hdq = d,
                      .hdk = d,
                      .hdv = d,
                      .n_batch = p->n,
                      .n_q = m->abstractor.n_query,
                      .n_kv = p->n_kv,
                      .n_head = m->abstractor.n_head,
                      .d = (int)d,
                      .scale = 1.0f / sqrtf((float)d),
                      .ctx = k->ctx,
                      .ldo = c};
    op_fail(r, ty_attention_full(r->pool, &a, &r->err));
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

/* What the layers of one backward work in. */
typedef struct {
    float *plane, *ctx, *dq; /* [rows, C] */
    float *wide, *wide2;     /* [rows, F] */
    float *kv, *dk, *dv;     /* [kv_rows, C] */
    float *image;            /* [n n_token, C] */
} room;

/* d_kv, the gradient of kv_in, to its two parts: the queries' is added to dxn, the image's goes through
 * normk. */
static void kv_back(train_run *r, const owl *m, const owl_abstractor_layer *l,
                    const abstractor_pass *p, const room *w, float *dxn, float *d_features) {
    int64_t c = m->abstractor.width, q = m->abstractor.n_query * c, e = p->n_token * c;
    if (r->st != TY_OK) return;
    for (int b = 0; b < p->n; b++) {
        const float *kv = w->kv + b * (q + e);
        for (int64_t i = 0; i < q; i++) dxn[b * q + i] += kv[i];
        memcpy(w->image + b * e, kv + q, (size_t)e * sizeof *kv);
    }
    op_norm_back(r, &l->normk, p->features, w->image, (int64_t)p->n * p->n_token, d_features, true);
}

/* d: the gradient of the layer's output, becomes that of its input. */
static void layer_backward(train_run *r, const owl *m, const abstractor_pass *p, int i,
                           const abstractor_kept *k, float *d, const room *w, float *d_features) {
    const owl_abstractor_layer *l = &m->abstractor_layer[i];
    const ty_abstractor_dims *n = &m->abstractor;
    int64_t c = n->width, head = c / n->n_head;
    op_linear_back(r, &l->w2, k->mlp, d, p->rows, w->wide, false);
    op_norm_back(r, &l->ffn_ln, k->act, w->wide, p->rows, w->wide, false);
    if (r->st == TY_OK)
        grad_silu_mul(r->pool, k->gate, k->up, w->wide, p->rows * n->n_ff, w->wide2, w->wide);
    op_linear_back(r, &l->w1, k->normed2, w->wide2, p->rows, w->plane, false);
    op_linear_back(r, &l->w3, k->normed2, w->wide, p->rows, w->plane, true);
    op_norm_back(r, &l->norm2, k->y, w->plane, p->rows, d, true);
    op_linear_back(r, &l->out_proj, k->ctx, d, p->rows, w->ctx, false);
    if (r->st != TY_OK) return;
    grad_attention a = {.q = k->q,
                        .k = k->k,
                        .v = k->v,
                        .ldq = c,
                        .ldk = c,
                        .ldv = c,
                        .hdq = head,
                        .hdk = head,
                        .hdv = head,
                        .n_seq = p->n,
                        .n_head = n->n_head,
                        .d = (int)head,
                        .q_start = p->q_start,
                        .kv_start = p->kv_start,
                        .scale = 1.0f / sqrtf((float)head)};
    op_fail(r, attention_backward(r->pool, &a, w->ctx, c, w->dq, w->dk, w->dv, &r->err));
    op_linear_back(r, &l->query, k->q_in, w->dq, p->rows, d, true);
    op_linear_back(r, &l->key, k->k_in, w->dk, p->kv_rows, w->kv, false);
    op_linear_back(r, &l->value, k->kv_in, w->dv, p->kv_rows, w->kv, true);
    kv_back(r, m, l, p, w, d, d_features);
    op_norm_back(r, &l->norm1, p->x[i], d, p->rows, d, false);
}

/* d [n, Q + 1, D] to visual_fc's rows and to the end row, which all pictures share. */
static void tokens_back(train_run *r, const owl *m, const abstractor_pass *p, const float *d,
                        float *dx) {
    int64_t width = m->abstractor.n_out, out = m->abstractor.n_query * width;
    if (r->st != TY_OK) return;
    m->eos->touched = true;
    for (int b = 0; b < p->n; b++, d += out + width) {
        memcpy(p->fc + b * out, d, (size_t)out * sizeof *d);
        for (int64_t i = 0; i < width && m->eos->grad; i++) m->eos->grad[i] += d[out + i];
    }
    op_linear_back(r, &m->visual_fc, p->x[m->abstractor.n_layer], p->fc, p->rows, dx, false);
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

void abstractor_backward(train_run *r, const owl *m, abstractor_pass *p, const float *d,
                         float *d_features) {
    const ty_abstractor_dims *n = &m->abstractor;
    int64_t plane = p->rows * n->width, kv = p->kv_rows * n->width, wide = p->rows * n->n_ff;
    int64_t image = (int64_t)p->n * p->n_token * n->width, queries = (int64_t)n->n_query * n->width;
    float *dx = op_floats(r, plane);
    room w = {op_floats(r, plane), op_floats(r, plane), op_floats(r, plane),
              op_floats(r, wide),  op_floats(r, wide),  op_floats(r, kv),
              op_floats(r, kv),    op_floats(r, kv),    op_floats(r, image)};
    if (r->st != TY_OK) return;
    if (d_features) memset(d_features, 0, (size_t)image * sizeof *d_features);
    tokens_back(r, m, p, d, dx);
    for (int i = n->n_layer - 1; i >= 0 && r->st == TY_OK; i--) {
        abstractor_kept *k = &p->kept[r->recompute ? 0 : i];
        if (r->recompute) layer_forward(r, m, p, i, k, NULL);
        layer_backward(r, m, p, i, k, dx, &w, d_features);
        op_complete(r, m->abstractor_layer[i].norm1.w);
    }
    if (r->st != TY_OK) return;
    m->query->touched = true;
    for (int b = 0; b < p->n && m->query->grad; b++)
        for (int64_t i = 0; i < queries; i++) m->query->grad[i] += dx[b * queries + i];
}
