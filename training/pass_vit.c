/*
 * pass_vit.c - the vision transformer forward and backward (pass.h).  The forward is that of
 * services/vit/vit.c, operation by operation, but keeps what the backward needs and attends as
 * the backward does (attention.c).
 */
#include "common/math/kernel.h"
#include "training/grad.h"
#include "training/pass.h"
#include "training/sample.h"

#include <string.h>

/* Picture b's patches, row-major, each as [3, p, p]: the order of the convolution's weight. */
static void unfold(const ty_vit_dims *d, const float *pixels, int n, float *out) {
    size_t s = (size_t)d->image_size, p = (size_t)d->patch_size, g = s / p;
    for (int b = 0; b < n; b++)
        for (size_t cell = 0; cell < g * g; cell++)
            for (size_t c = 0; c < 3; c++)
                for (size_t y = 0; y < p; y++, out += p)
                    memcpy(out,
                           pixels + (((size_t)b * 3 + c) * s + cell / g * p + y) * s + cell % g * p,
                           p * sizeof *out);
}

static int n_token(const owl *m) {
    return owl_patches(m) + 1;
}

static void embed(train_run *r, const owl *m, const float *pixels, vit_pass *p) {
    const ty_vit_dims *d = &m->vit;
    int64_t c = d->width, tokens = n_token(m), patch = 3 * (int64_t)d->patch_size * d->patch_size;
    int64_t n_patch = p->n * (tokens - 1);
    p->patches = op_floats(r, n_patch * patch);
    float *projected = op_floats(r, n_patch * c);
    p->embedded = op_floats(r, p->rows * c);
    if (r->st != TY_OK) return;
    unfold(d, pixels, p->n, p->patches);
    op_linear(r, &m->patch_embed, p->patches, n_patch, projected);
    const float *position = m->position->value;
    for (int64_t i = 0; i < p->rows && r->st == TY_OK; i++) {
        int64_t b = i / tokens, t = i % tokens;
        const float *x = t == 0 ? m->cls->value : projected + (b * (tokens - 1) + t - 1) * c;
        for (int64_t k = 0; k < c; k++) p->embedded[i * c + k] = x[k] + position[t * c + k];
    }
    op_norm(r, &m->vit_pre, p->embedded, p->rows, p->x[0]);
}

static void keep(train_run *r, const owl *m, const vit_pass *p, vit_kept *k) {
    int64_t plane = p->rows * m->vit.width, wide = p->rows * m->vit.n_ff;
    k->normed = op_floats(r, plane);
    k->qkv = op_floats(r, 3 * plane);
    k->ctx = op_floats(r, plane);
    k->middle = op_floats(r, plane);
    k->normed2 = op_floats(r, plane);
    k->wide = op_floats(r, wide);
    k->gelu = op_floats(r, wide);
}

/* Every picture sees all of itself; q, k and v of a head stand side by side. */
static grad_attention attention_of(const owl *m, const vit_pass *p, const vit_kept *k) {
    int c = m->vit.width, d = c / m->vit.n_head;
    return grad_attention_of(k->qkv, k->qkv + d, k->qkv + 2 * d, 3 * c, 3 * d, m->vit.n_head, d,
                             p->n, p->start, p->start);
}

static void attend(train_run *r, const owl *m, const vit_pass *p, const vit_kept *k) {
    if (r->st != TY_OK) return;
    grad_attention a = attention_of(m, p, k);
    op_fail(r, attention_forward(r->pool, &a, k->ctx, m->vit.width, &r->err));
}

static void attend_back(train_run *r, const owl *m, const vit_pass *p, const vit_kept *k,
                        const float *dctx, float *dqkv) {
    if (r->st != TY_OK) return;
    grad_attention a = attention_of(m, p, k);
    op_fail(r, attention_backward(r->pool, &a, dctx, m->vit.width, dqkv, dqkv + a.d, dqkv + 2 * a.d,
                                  &r->err));
}

static void layer_forward(train_run *r, const owl *m, const vit_pass *p, int i, vit_kept *k,
                          float *out) {
    const owl_vit_layer *l = &m->vit_layer[i];
    int64_t plane = p->rows * m->vit.width, wide = p->rows * m->vit.n_ff;
    op_norm(r, &l->before_attention, p->x[i], p->rows, k->normed);
    op_linear(r, &l->qkv, k->normed, p->rows, k->qkv);
    attend(r, m, p, k);
    op_linear(r, &l->dense, k->ctx, p->rows, k->middle);
    op_add(r, k->middle, p->x[i], plane);
    op_norm(r, &l->before_mlp, k->middle, p->rows, k->normed2);
    op_linear(r, &l->fc1, k->normed2, p->rows, k->wide);
    op_quick_gelu(r, k->gelu, k->wide, wide);
    if (!out) return;
    op_linear(r, &l->fc2, k->gelu, p->rows, out);
    op_add(r, out, k->middle, plane);
}

void vit_forward(train_run *r, const owl *m, const float *pixels, int n, vit_pass *p) {
    int layers = m->vit.n_layer, n_kept = r->recompute ? 1 : layers;
    *p = (vit_pass){.n = n, .rows = (int64_t)n * n_token(m)};
    p->x = ty_arena_array(r->arena, (size_t)layers + 1, sizeof *p->x);
    p->kept = ty_arena_array(r->arena, (size_t)n_kept, sizeof *p->kept);
    p->start = ty_arena_array(r->arena, (size_t)n + 1, sizeof *p->start);
    if (!p->x || !p->kept || !p->start) {
        op_fail(r, ty_fail(&r->err, TY_ENOMEM, "no memory for the ViT"));
        return;
    }
    for (int i = 0; i <= n; i++) p->start[i] = i * n_token(m);
    for (int i = 0; i <= layers && r->st == TY_OK; i++)
        p->x[i] = op_floats(r, p->rows * m->vit.width);
    for (int i = 0; i < n_kept && r->st == TY_OK; i++) keep(r, m, p, &p->kept[i]);
    p->features = op_floats(r, p->rows * m->vit.width);
    embed(r, m, pixels, p);
    for (int i = 0; i < layers && r->st == TY_OK; i++)
        layer_forward(r, m, p, i, &p->kept[r->recompute ? 0 : i], p->x[i + 1]);
    if (r->st == TY_OK) op_norm(r, &m->vit_post, p->x[layers], p->rows, p->features);
}

double vit_cells_loss(train_run *r, const owl *m, const owl_batch *b, const vit_pass *p,
                      float weight, float *d) {
    int64_t c = m->vit.width, cells = owl_patches(m), patches = p->n * cells,
            rows = patches * m->n_cell_text;
    float *x = op_floats(r, patches * c), *logits = op_floats(r, rows * SAMPLE_CLASSES);
    float *dx = d ? op_floats(r, patches * c) : NULL;
    float *loss = op_floats(r, rows);
    int32_t *target = ty_arena_array(r->arena, (size_t)rows, sizeof *target);
    double sum = 0;
    if (!target) op_fail(r, ty_fail(&r->err, TY_ENOMEM, "no memory for %d pictures", p->n));
    if (r->st != TY_OK || !target) return 0;
    for (int b0 = 0; b0 < p->n; b0++) /* all rows but the class token's */
        memcpy(x + b0 * cells * c, p->features + (b0 * (cells + 1) + 1) * c,
               (size_t)(cells * c) * sizeof *x);
    op_linear(r, &m->cells, x, patches, logits);
    if (r->st != TY_OK) return 0;
    for (int64_t i = 0; i < rows; i++) target[i] = b->target[i] < 0 ? 0 : b->target[i];
    grad_cross_entropy(r->pool, logits, rows, SAMPLE_CLASSES, target, weight, loss);
    for (int64_t i = 0; i < rows; i++) {
        if (b->target[i] >= 0)
            sum += (double)loss[i];
        else
            memset(logits + i * SAMPLE_CLASSES, 0, SAMPLE_CLASSES * sizeof *logits);
    }
    if (!d) return sum;
    op_linear_back(r, &m->cells, x, logits, patches, dx, false);
    if (r->st != TY_OK) return 0;
    memset(d, 0, (size_t)(p->rows * c) * sizeof *d);
    for (int b0 = 0; b0 < p->n; b0++)
        memcpy(d + (b0 * (cells + 1) + 1) * c, dx + b0 * cells * c,
               (size_t)(cells * c) * sizeof *x);
    return sum;
}

/* ---- backward ---- */

void vit_back_begin(train_run *r, const owl *m, vit_pass *p, const float *d) {
    int64_t plane = p->rows * m->vit.width;
    p->d = op_floats(r, plane);
    p->d_middle = op_floats(r, plane);
    p->d_below = op_floats(r, plane);
    p->plane = op_floats(r, plane);
    p->plane2 = op_floats(r, plane);
    p->wide = op_floats(r, p->rows * m->vit.n_ff);
    p->dqkv = op_floats(r, 3 * plane);
    op_norm_back(r, &m->vit_post, p->x[m->vit.n_layer], d, p->rows, NULL, p->d);
}

void vit_back_layer(train_run *r, const owl *m, vit_pass *p, int i) {
    const owl_vit_layer *l = &m->vit_layer[i];
    vit_kept *k = &p->kept[r->recompute ? 0 : i];
    if (r->recompute) layer_forward(r, m, p, i, k, NULL);
    op_linear_back(r, &l->fc2, k->gelu, p->d, p->rows, p->wide, false);
    if (r->st == TY_OK) grad_quick_gelu(r->pool, k->wide, p->wide, p->rows * m->vit.n_ff, p->wide);
    op_linear_back(r, &l->fc1, k->normed2, p->wide, p->rows, p->plane, false);
    op_norm_back(r, &l->before_mlp, k->middle, p->plane, p->rows, p->d, p->d_middle);
    op_linear_back(r, &l->dense, k->ctx, p->d_middle, p->rows, p->plane2, false);
    attend_back(r, m, p, k, p->plane2, p->dqkv);
    op_linear_back(r, &l->qkv, k->normed, p->dqkv, p->rows, p->plane2, false);
    op_norm_back(r, &l->before_attention, p->x[i], p->plane2, p->rows, p->d_middle, p->d_below);
    float *free_now = p->d;
    p->d = p->d_below;
    p->d_below = free_now;
}

void vit_back_end(train_run *r, const owl *m, vit_pass *p) {
    int64_t c = m->vit.width, tokens = n_token(m), n_patch = p->n * (tokens - 1);
    float *projected = op_floats(r, n_patch * c);
    op_norm_back(r, &m->vit_pre, p->embedded, p->d, p->rows, NULL, p->plane);
    if (r->st != TY_OK) return;
    for (int64_t b = 0; b < p->n; b++) /* all rows but the class token's */
        memcpy(projected + b * (tokens - 1) * c, p->plane + (b * tokens + 1) * c,
               (size_t)((tokens - 1) * c) * sizeof *projected);
    op_linear_back(r, &m->patch_embed, p->patches, projected, n_patch, NULL, false);
}

void vit_add_embedding_grads(const owl *m, const vit_pass *p) {
    int64_t c = m->vit.width, tokens = n_token(m);
    const ty_kernels *kn = ty_kernels_get();
    if (p->n > 0) m->cls->touched = m->position->touched = true;
    for (int64_t i = 0; i < p->rows; i++) {
        int64_t t = i % tokens;
        if (m->position->grad) kn->add_row(p->plane + i * c, c, m->position->grad + t * c);
        if (t == 0 && m->cls->grad) kn->add_row(p->plane + i * c, c, m->cls->grad);
    }
}
