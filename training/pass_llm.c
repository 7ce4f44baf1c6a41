/*
 * pass_llm.c - LLaMA, and v2's multiway LLaMA, forward and backward (pass.h).
 *
 * Rows of text and rows of pictures are two runs of memory (batch.h).  In v2 each run goes through its
 * own copy of the norms and of the K and V projections; all else, and all of v1, takes the rows as one.
 */
#include "common/math/kernel.h"
#include "common/math/nn.h"
#include "training/grad.h"
#include "training/pass.h"

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

/* Weights of one way see rows of one kind; returns what to go back to. */
static int64_t enter_ways(train_run *r, const owl *m) {
    int64_t n_text = r->n_text;
    if (m->n_way > 1) r->n_text = -1;
    return n_text;
}

static void each_norm_back(train_run *r, const owl *m, const owl_batch *b, const owl_norm *n,
                           const float *x, const float *dy, const float *base, float *dx) {
    int64_t n_text = enter_ways(r, m);
    for (int w = 0; w < m->n_way && r->st == TY_OK; w++) {
        run_of_rows s = rows_of(m, b, w);
        int64_t at = s.first * m->llm.width;
        op_norm_back(r, &n[w], x + at, dy + at, s.n, base + at, dx + at);
    }
    r->n_text = n_text;
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
    int64_t n_text = enter_ways(r, m);
    for (int w = 0; w < m->n_way && r->st == TY_OK; w++) {
        run_of_rows s = rows_of(m, b, w);
        int64_t at = s.first * m->llm.width;
        op_linear_back(r, &l[w], x + at, dy + at, s.n, dx + at, true);
    }
    r->n_text = n_text;
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
    int c = m->llm.width, d = c / m->llm.n_head;
    grad_attention a = grad_attention_of(k->q, k->k, k->v, c, d, m->llm.n_head, d, b->n_sample,
                                         b->start, b->start);
    a.q_row = a.kv_row = b->order;
    a.causal = true;
    return a;
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

/* ---- the loss ---- */

/* A target: the next of all passes' in turn. */
typedef struct {
    llm_pass *const *p;
    int part, i;
} cursor;

static float *next_row(cursor *at, float *const *rows, int64_t c) {
    while (at->i == at->p[at->part]->b->n_target) {
        at->part++;
        at->i = 0;
    }
    return rows[at->part] + at->p[at->part]->b->target_row[at->i++] * c;
}

static int n_target(llm_pass *const *p, int n) {
    int sum = 0;
    for (int i = 0; i < n; i++) sum += p[i]->b->n_target;
    return sum;
}

enum { PIECE = 256 };

typedef struct {
    float *x, *normed, *d_normed, *dx, *logits, loss[PIECE];
    int32_t target[PIECE];
    float **last, **d; /* of each pass: the last layer's output, its gradient */
} loss_room;

static bool take_loss_room(train_run *r, const owl *m, llm_pass *const *p, int n, bool backward,
                           loss_room *w) {
    int64_t c = m->llm.width;
    w->x = op_floats(r, PIECE * c);
    w->normed = op_floats(r, PIECE * c);
    w->d_normed = op_floats(r, PIECE * c);
    w->dx = op_floats(r, PIECE * c);
    w->logits = op_floats(r, PIECE * (int64_t)m->llm.n_vocab);
    w->last = ty_arena_array(r->arena, 2 * (size_t)n, sizeof *w->last);
    if (!w->last) op_fail(r, ty_fail(&r->err, TY_ENOMEM, "no memory for %d parts", n));
    if (r->st != TY_OK || !w->last) return false;
    w->d = w->last + n;
    for (int i = 0; i < n; i++) {
        int64_t all = p[i]->b->n_row * c;
        w->last[i] = p[i]->x[m->llm.n_layer];
        w->d[i] = p[i]->d = backward ? op_floats(r, all) : NULL;
        if (w->d[i]) memset(w->d[i], 0, (size_t)all * sizeof *w->d[i]);
    }
    return r->st == TY_OK;
}

double llm_loss(train_run *r, const owl *m, llm_pass *const *p, int n, float weight,
                bool backward) {
    int64_t c = m->llm.width, v = m->llm.n_vocab;
    size_t row = (size_t)c * sizeof(float);
    int all = n_target(p, n);
    double sum = 0;
    loss_room w = {0};
    if (!take_loss_room(r, m, p, n, backward, &w)) return 0;
    cursor read = {.p = p}, write = {.p = p};
    for (int t = 0; t < all && r->st == TY_OK; t += PIECE) {
        int some = all - t < PIECE ? all - t : PIECE;
        for (int i = 0; i < some; i++) {
            memcpy(w.x + i * c, next_row(&read, w.last, c), row);
            w.target[i] = p[read.part]->b->target[read.i - 1];
        }
        op_norm(r, &m->final_norm, w.x, some, w.normed);
        op_linear(r, &m->head, w.normed, some, w.logits);
        if (r->st != TY_OK) break;
        grad_cross_entropy(r->pool, w.logits, some, v, w.target, weight, w.loss);
        for (int i = 0; i < some; i++) sum += (double)w.loss[i];
        if (!backward) continue;
        op_linear_back(r, &m->head, w.normed, w.logits, some, w.d_normed, false);
        op_norm_back(r, &m->final_norm, w.x, w.d_normed, some, NULL, w.dx);
        op_add_weight_grads(r);
        for (int i = 0; i < some && r->st == TY_OK; i++)
            memcpy(next_row(&write, w.d, c), w.dx + i * c, row);
    }
    return sum;
}

/* ---- backward ---- */

void llm_back_begin(train_run *r, const owl *m, llm_pass *p) {
    int64_t plane = (int64_t)p->b->n_row * m->llm.width, wide = (int64_t)p->b->n_row * m->llm.n_ff;
    float **planes[] = {&p->d_middle, &p->d_below, &p->plane, &p->plane2, &p->dq, &p->dk, &p->dv};
    for (size_t i = 0; i < sizeof planes / sizeof *planes; i++) *planes[i] = op_floats(r, plane);
    p->wide = op_floats(r, wide);
    p->wide2 = op_floats(r, wide);
}

int llm_lowest_layer(const owl *m, bool below) {
    if (below || m->embed->grad) return 0;
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

static void attend_back(train_run *r, const owl *m, const llm_pass *p, const llm_kept *k) {
    if (r->st != TY_OK) return;
    grad_attention a = attention_of(m, p->b, k);
    op_fail(r,
            attention_backward(r->pool, &a, p->plane2, m->llm.width, p->dq, p->dk, p->dv, &r->err));
    rope(r, m, p->b, p->dq, true);
    rope(r, m, p->b, p->dk, true);
}

void llm_back_layer(train_run *r, const owl *m, llm_pass *p, int i) {
    const owl_llm_layer *l = &m->llm_layer[i];
    const owl_batch *b = p->b;
    llm_kept *k = &p->kept[r->recompute ? 0 : i];
    int64_t n = b->n_row;
    if (r->recompute) layer_forward(r, m, p, i, k, NULL);
    r->n_text = b->n_text; /* of what both kinds of rows share */
    op_linear_back(r, &l->down, k->act, p->d, n, p->wide, false);
    if (r->st == TY_OK)
        grad_silu_mul(r->pool, k->gate, k->up, p->wide, n * m->llm.n_ff, p->wide2, p->wide);
    op_linear_back(r, &l->gate, k->normed2, p->wide2, n, p->plane, false);
    op_linear_back(r, &l->up, k->normed2, p->wide, n, p->plane, true);
    each_norm_back(r, m, b, l->before_mlp, k->middle, p->plane, p->d, p->d_middle);
    op_linear_back(r, &l->o, k->ctx, p->d_middle, n, p->plane2, false);
    attend_back(r, m, p, k);
    op_linear_back(r, &l->q, k->normed, p->dq, n, p->plane2, false);
    each_linear_back(r, m, b, l->k, k->normed, p->dk, p->plane2);
    each_linear_back(r, m, b, l->v, k->normed, p->dv, p->plane2);
    each_norm_back(r, m, b, l->before_attention, p->x[i], p->plane2, p->d_middle, p->d_below);
    r->n_text = -1;
    float *free_now = p->d;
    p->d = p->d_below;
    p->d_below = free_now;
}

void llm_back_tokens(const owl *m, const llm_pass *p, float *d_tokens) {
    const owl_batch *b = p->b;
    int64_t c = m->llm.width;
    memset(d_tokens, 0,
           (size_t)b->n_picture * (size_t)(m->abstractor.n_query + 1) * (size_t)c *
               sizeof *d_tokens);
    for (int i = 0; i < b->n_visual; i++)
        memcpy(d_tokens + b->visual[i] * c, p->d + (b->n_text + i) * c,
               (size_t)c * sizeof *d_tokens);
}

void llm_add_embedding_grads(const owl *m, const llm_pass *p) {
    const owl_batch *b = p->b;
    const ty_kernels *kn = ty_kernels_get();
    int64_t c = m->llm.width;
    m->embed->touched = true;
    for (int i = 0; i < b->n_text && m->embed->grad; i++)
        if (b->token[i] != m->padding_id)
            kn->add_row(p->d + i * c, c, m->embed->grad + b->token[i] * c);
}
