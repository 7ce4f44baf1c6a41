/* weight_grads.c - see weight_grads.h. */
#include "training/weight_grads.h"
#include "common/math/kernel.h"
#include "training/grad.h"

#include <stdlib.h>

/* A piece that one thread adds at a time: elements of a vector; rows and columns of a matrix, so that what they take
 * of dy and x stays in L2 (some 600 KB for 512 rows), in whole tiles of every kernel. */
enum { COLUMNS = 64, PIECE_OUT = 192, PIECE_IN = 96 };

/* Vectors of fewer elements than this are the caller's alone. */
enum { SMALL = 16 * 1024 };

ty_status weight_grads_note(weight_grads *l, const weight_grad *g, ty_err *err) {
    if (l->n == l->cap) {
        int cap = l->cap ? 2 * l->cap : 64;
        weight_grad *item = realloc(l->item, (size_t)cap * sizeof *item);
        if (!item) return ty_fail(err, TY_ENOMEM, "no memory for %d gradients", cap);
        l->item = item;
        l->cap = cap;
    }
    l->item[l->n++] = *g;
    return TY_OK;
}

void weight_grads_clear(weight_grads *l) {
    free(l->item);
    *l = (weight_grads){0};
}

/* ---- one piece, all its rows ---- */

typedef struct {
    weight_grads *const *of;
    int n;
    ty_products products;
    uint8_t *scratch; /* of each member */
    size_t scratch_bytes;
} job;

static int64_t out_of(const weight_grad *g) {
    return g->w->shape[0];
}

static int64_t in_of(const weight_grad *g) {
    return g->w->count / g->w->shape[0];
}

/* Elements [out0, out1) x [in0, in1) of a matrix; [out0, out1) of a vector. */
typedef struct {
    int64_t out0, out1, in0, in1;
} piece;

/* Rows [r0, r1) into it. */
static ty_matmul product_of(const weight_grad *g, int64_t r0, int64_t r1, piece p,
                            ty_products products) {
    return (ty_matmul){.M = p.out1 - p.out0,
                       .N = p.in1 - p.in0,
                       .K = r1 - r0,
                       .a = g->dy + r0 * out_of(g) + p.out0,
                       .lda = out_of(g),
                       .a_stored_km = true,
                       .b = g->x + r0 * in_of(g) + p.in0,
                       .b_type = TY_F32,
                       .ldb = in_of(g),
                       .c = g->w->grad + p.out0 * in_of(g) + p.in0,
                       .ldc = in_of(g),
                       .add = true,
                       .products = products};
}

/* Sums of a piece of a vector, which start from 0 in each pass: the smaller they are, the less they lose. */
typedef struct {
    float w[COLUMNS], b[COLUMNS];
} sums;

static void sum_columns(const weight_grad *g, int64_t r0, int64_t r1, piece p, sums *s) {
    int64_t n = g->w->count, at = r0 * n + p.out0, some = p.out1 - p.out0;
    if (g->kind == WEIGHT_BIAS)
        grad_bias(g->dy + at, r1 - r0, some, n, s->w);
    else
        grad_norm_weights(g->x + at, g->dy + at, r1 - r0, some, n, g->mean + r0, g->inv + r0, s->w,
                          s->b);
}

static void add_sums(const weight_grad *g, piece p, const sums *s) {
    const ty_kernels *kn = ty_kernels_get();
    int64_t some = p.out1 - p.out0;
    if (g->w->grad) kn->add_row(s->w, some, g->w->grad + p.out0);
    if (g->b && g->b->grad) kn->add_row(s->b, some, g->b->grad + p.out0);
}

static void add_piece(const job *j, int item, piece p, int member) {
    const weight_grad *g = &j->of[0]->item[item];
    sums s = {0};
    for (int text = 1; text >= 0; text--)
        for (int k = 0; k < j->n; k++) {
            g = &j->of[k]->item[item];
            int64_t r0 = text ? 0 : g->n_text, r1 = text ? g->n_text : g->rows;
            if (r1 <= r0) continue;
            if (g->kind != WEIGHT_PRODUCT) {
                sum_columns(g, r0, r1, p, &s);
                continue;
            }
            ty_matmul m = product_of(g, r0, r1, p, j->products);
            ty_matmul_serial(&m, j->scratch + (size_t)member * j->scratch_bytes);
        }
    if (g->kind != WEIGHT_PRODUCT) add_sums(g, p, &s);
}

/* ---- all pieces ---- */

static int64_t pieces(int64_t all, int64_t most) {
    return (all + most - 1) / most;
}

static int n_piece(const weight_grad *g) {
    if (g->kind != WEIGHT_PRODUCT) return (int)pieces(g->w->count, COLUMNS);
    return (int)(pieces(out_of(g), PIECE_OUT) * pieces(in_of(g), PIECE_IN));
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static piece piece_of(const weight_grad *g, int64_t i) {
    if (g->kind != WEIGHT_PRODUCT)
        return (piece){.out0 = i * COLUMNS, .out1 = least((i + 1) * COLUMNS, g->w->count)};
    int64_t across = pieces(in_of(g), PIECE_IN), out = i / across * PIECE_OUT,
            in = i % across * PIECE_IN;
    return (piece){out, least(out + PIECE_OUT, out_of(g)), in, least(in + PIECE_IN, in_of(g))};
}

static void piece_task(void *ctx, int task, int member) {
    const job *j = ctx;
    const weight_grad *g = j->of[0]->item;
    int item = 0;
    for (int n; (n = n_piece(g + item)) <= task; item++) task -= n;
    add_piece(j, item, piece_of(g + item, task), member);
}

static ty_status no_memory(size_t bytes, ty_err *err) {
    return ty_fail(err, TY_ENOMEM, "gradients: no memory for %zu bytes", bytes);
}

static ty_status add_parts(job *j, ty_pool *pool, ty_err *err) {
    int tasks = 0;
    j->scratch_bytes = (ty_matmul_scratch() + 63) / 64 * 64;
    size_t bytes = j->scratch_bytes * (size_t)ty_pool_size(pool);
    j->scratch = ty_pool_scratch(pool, TY_POOL_SCRATCH_MEMBERS, bytes);
    if (!j->scratch) return no_memory(bytes, err);
    for (int i = 0; i < j->of[0]->n; i++) tasks += n_piece(&j->of[0]->item[i]);
    ty_pool_run(pool, tasks, piece_task, j);
    return TY_OK;
}

typedef struct {
    const job *j;
    int item;
} vector_job;

static void vector_task(void *ctx, int task, int member) {
    const vector_job *v = ctx;
    add_piece(v->j, v->item, piece_of(&v->j->of[0]->item[v->item], task), member);
}

/* Of the only part: a product has the whole pool. */
static ty_status add_one(const job *j, int item, ty_pool *pool, ty_err *err) {
    const weight_grad *g = &j->of[0]->item[item];
    if (g->rows <= 0) return TY_OK;
    if (g->kind != WEIGHT_PRODUCT) {
        vector_job v = {j, item};
        ty_pool_run(g->rows * g->w->count < SMALL ? NULL : pool, n_piece(g), vector_task, &v);
        return TY_OK;
    }
    ty_matmul m = product_of(g, 0, g->rows, (piece){0, out_of(g), 0, in_of(g)}, j->products);
    return ty_matmul_run(&m, pool, err);
}

/* What had no row is left as it was: the optimizer passes it over. */
static void touch(const weight_grad *g, double *flops) {
    if (g->rows <= 0) return;
    if (g->w->grad) g->w->touched = true;
    if (g->b && g->b->grad) g->b->touched = true;
    if (g->kind == WEIGHT_PRODUCT) *flops += 2.0 * (double)g->rows * (double)g->w->count;
}

ty_status weight_grads_add(weight_grads *const *of, int n, ty_pool *pool, ty_products products,
                           double *flops, ty_err *err) {
    job j = {.of = of, .n = n, .products = products};
    ty_status st = TY_OK;
    for (int p = 0; p < n; p++)
        for (int i = 0; i < of[p]->n; i++) touch(&of[p]->item[i], flops);
    if (n > 1) st = add_parts(&j, pool, err);
    for (int i = 0; i < of[0]->n && n == 1 && st == TY_OK; i++) st = add_one(&j, i, pool, err);
    for (int p = 0; p < n; p++) of[p]->n = 0;
    return st;
}
