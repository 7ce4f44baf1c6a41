/* multiway.c - see multiway.h. */
#include "services/decoder/multiway.h"

#include "common/math/nn.h"

void multiway_norm(const llama *m, ty_pool *pool, const llama_rows *rows, const float *text,
                   const float *visual, const float *x, float *y) {
    int D = m->dims.d_model, n = rows->n_text;
    float eps = (float)m->dims.eps;
    ty_rmsnorm(pool, x, n, D, text, eps, y);
    ty_rmsnorm(pool, x + (int64_t)n * D, rows->n - n, D, visual, eps, y + (int64_t)n * D);
}

ty_status multiway_qkv(llama *m, const llama_layer *w, const llama_rows *rows) {
    enum { Q, K, PARTS = 3 }; /* weights of w->qkv: q, k, v */
    const llama_dims *d = &m->dims;
    int D = d->d_model, n_visual = rows->n - rows->n_text;
    int64_t ld = ty_linear_out(w->qkv), nq = (int64_t)d->n_head * d->d_head;
    const float *visual = m->y + (int64_t)rows->n_text * D;
    float *visual_kv = m->qkv + rows->n_text * ld + nq;
    ty_status st = ty_linear_apply_parts(w->qkv, m->pool, Q, 1, m->y, D, rows->n, m->qkv, ld);
    if (st == TY_OK)
        st =
            ty_linear_apply_parts(w->qkv, m->pool, K, PARTS - K, m->y, D, rows->n_text, m->qkv, ld);
    if (st == TY_OK)
        st = ty_linear_apply(w->visual_kv, m->pool, visual, D, n_visual, visual_kv, ld);
    return st;
}
