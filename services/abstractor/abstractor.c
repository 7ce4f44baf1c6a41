/*
 * abstractor.c - see abstractor.h.  Learned queries gather a picture's patch features:
 *
 *     x = query_tokens                              e = the ViT's features, the same for each layer
 *     each layer:
 *       xn = norm1(x), en = normk(e)
 *       ctx = attention(query(xn), key([xn ; en]), value([xn ; en]))        queries first
 *       y = xn + out_proj(ctx)                      the residual starts from the NORMED queries
 *       x = y + w2(ffn_ln(silu(w1 z) * w3 z)), z = norm2(y)
 *     visual tokens = [visual_fc(x) ; vit_eos]
 *
 * mPLUG-Owl2 adds fixed positions before the projections of queries and keys: query(xn + qpos),
 * key([xn ; en] + [qpos ; kpos]).  The projections are linear, so what the positions become is
 * computed once, at load, and added behind them.
 *
 * norm1, normk and norm2 were made without an eps in the reference, so theirs is PyTorch's 1e-5; ffn_ln
 * takes the configuration's.  key and value are one fused layer, w1 and w3 another.
 *
 * Source: the reference notes, section 3.  Golden: abs_layerK, visual_tokens.
 */
#include "services/abstractor/abstractor_impl.h"

#include "common/math/nn.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Made without an eps in the reference. */
static const float NORM_EPS = 1e-5f;

int abstractor_width_in(const abstractor *a) {
    return a->width;
}
int abstractor_n_out(const abstractor *a) {
    return a->n_query + 1;
}
int abstractor_width_out(const abstractor *a) {
    return a->width_out;
}
const char *abstractor_model_id(const abstractor *a) {
    return a->id;
}

bool abstractor_sees_videos(const abstractor *a) {
    return a->temporal_tokens != NULL;
}

int abstractor_n_token(const abstractor *a) {
    return a->grid ? 1 + a->grid * a->grid : -1;
}

double abstractor_flops(const abstractor *a, int n_token) {
    double q = a->n_query, c = a->width, f = a->d_ff, kv = q + n_token;
    double linear = 2 * c * (q * c + kv * 2 * c + q * c + 3 * q * f), attention = 4 * q * kv * c;
    return a->n_layer * (linear + attention) + 2 * q * c * a->width_out;
}

/* ---- one call ---- */

/* What a call works in.  A picture's keys and values are n_kv = n_q + n_token rows. */
typedef struct {
    const abstractor *a;
    const float *features; /* [n, n_token, C] */
    int n, n_token, n_kv;
    int n_q;        /* queries: Q, of a video 2 Q, the temporal ones behind */
    int rows;       /* n x n_q */
    float *x;       /* [rows, C] the queries */
    float *normed;  /* [rows, C] norm1(x), then y; the residual */
    float *query;   /* [rows, C] q, then norm2(y) */
    float *add;     /* [rows, C] the attention's context; what is added to the residual */
    float *kv_in;   /* [n, n_kv, C] the normed queries, then the normed features */
    float *kv;      /* [n, n_kv, 2C] keys, values */
    float *mlp;     /* [rows, 2F] */
    float *mlp_mid; /* [rows, F] */
    float *out;     /* [rows, D] */
} frame;

static ty_status frame_init(frame *fr, abstractor *a, const float *features, int n, int n_token,
                            int n_q, ty_err *err) {
    size_t c = (size_t)a->width, f = (size_t)a->d_ff, rows = (size_t)n * (size_t)n_q;
    size_t kv_rows = (size_t)n * (size_t)(n_q + n_token);
    size_t floats = 4 * rows * c + 3 * kv_rows * c + 3 * rows * f + rows * (size_t)a->width_out;
    if (floats > a->scratch_floats) {
        float *bigger = malloc(floats * sizeof *bigger);
        if (!bigger)
            return ty_fail(err, TY_ENOMEM, "abstractor: no memory for %d pictures (%zu bytes)", n,
                           floats * sizeof *bigger);
        free(a->scratch);
        a->scratch = bigger;
        a->scratch_floats = floats;
    }
    *fr = (frame){.a = a,
                  .features = features,
                  .n = n,
                  .n_token = n_token,
                  .n_kv = n_q + n_token,
                  .n_q = n_q,
                  .rows = (int)rows};
    float *next = a->scratch;
    fr->x = next;
    fr->normed = next += rows * c;
    fr->query = next += rows * c;
    fr->add = next += rows * c;
    fr->kv_in = next += rows * c;
    fr->kv = next += kv_rows * c;
    fr->mlp = next += 2 * kv_rows * c;
    fr->mlp_mid = next += 2 * rows * f;
    fr->out = next + rows * f;
    return TY_OK;
}

static ty_status apply(const frame *fr, const ty_linear *l, const float *x, int rows, float *y,
                       ty_err *err) {
    ty_status st = ty_linear_apply(l, fr->a->pool, x, ty_linear_in(l), rows, y, ty_linear_out(l));
    if (st == TY_OK) return TY_OK;
    return ty_fail(err, st, "abstractor: no memory for %d pictures", fr->n);
}

/* kv_in of every picture: its normed queries first, then its normed features. */
static void gather_kv(const frame *fr, const abstractor_layer *l) {
    const abstractor *a = fr->a;
    size_t c = (size_t)a->width, q = (size_t)fr->n_q * c, e = (size_t)fr->n_token * c;
    for (int b = 0; b < fr->n; b++) {
        float *row = fr->kv_in + (size_t)b * (q + e);
        memcpy(row, fr->normed + (size_t)b * q, q * sizeof *row);
        ty_layernorm(a->pool, fr->features + (size_t)b * e, fr->n_token, a->width, l->normk.weight,
                     l->normk.bias, NORM_EPS, row + q);
    }
}

typedef struct {
    float *y;       /* rows ld apart */
    const float *x; /* [rows, C], the same for every picture */
    int rows, c;
    int64_t ld;
} addition;

static void add_row(void *ctx, int i, int member) {
    (void)member;
    const addition *a = ctx;
    float *y = a->y + i * a->ld;
    const float *x = a->x + (int64_t)(i % a->rows) * a->c;
    for (int k = 0; k < a->c; k++) y[k] += x[k];
}

/* What the positions add to queries and keys. */
static void add_positions(const frame *fr, const abstractor_layer *l) {
    const abstractor *a = fr->a;
    if (!a->grid) return;
    addition q = {fr->query, l->query_positions, a->n_query, a->width, a->width};
    addition k = {fr->kv, l->key_positions, fr->n_kv, a->width, 2 * (int64_t)a->width};
    ty_pool_run(a->pool, fr->rows, add_row, &q);
    ty_pool_run(a->pool, fr->n * fr->n_kv, add_row, &k);
}

static ty_attention attention_of(const frame *fr) {
    const abstractor *a = fr->a;
    int64_t c = a->width, d = a->d_head;
    return (ty_attention){.q = fr->query,
                          .k = fr->kv,
                          .v = fr->kv + c,
                          .ldq = c,
                          .ldk = 2 * c,
                          .ldv = 2 * c,
                          .hdq = d,
                          .hdk = d,
                          .hdv = d,
                          .n_batch = fr->n,
                          .n_q = fr->n_q,
                          .n_kv = fr->n_kv,
                          .n_head = a->n_head,
                          .d = a->d_head,
                          .scale = 1.0f / sqrtf((float)a->d_head),
                          .ctx = fr->add,
                          .ldo = c};
}

/* normed = norm1(x) + out_proj(attention): y of the note on top. */
static ty_status attend(const frame *fr, const abstractor_layer *l, ty_err *err) {
    const abstractor *a = fr->a;
    ty_layernorm(a->pool, fr->x, fr->rows, a->width, l->norm1.weight, l->norm1.bias, NORM_EPS,
                 fr->normed);
    gather_kv(fr, l);
    ty_status st = apply(fr, l->query, fr->normed, fr->rows, fr->query, err);
    if (st == TY_OK) st = apply(fr, l->key_value, fr->kv_in, fr->n * fr->n_kv, fr->kv, err);
    if (st != TY_OK) return st;
    add_positions(fr, l);
    ty_attention at = attention_of(fr);
    st = ty_attention_full(a->pool, &at, err);
    if (st == TY_OK) st = apply(fr, l->out_proj, fr->add, fr->rows, fr->query, err);
    if (st == TY_OK) ty_add(a->pool, fr->normed, fr->query, (int64_t)fr->rows * a->width);
    return st;
}

/* x = normed + mlp(norm2(normed)). */
static ty_status feed_forward(const frame *fr, const abstractor_layer *l, ty_err *err) {
    const abstractor *a = fr->a;
    int64_t f = a->d_ff;
    ty_layernorm(a->pool, fr->normed, fr->rows, a->width, l->norm2.weight, l->norm2.bias, NORM_EPS,
                 fr->query);
    ty_status st = apply(fr, l->w13, fr->query, fr->rows, fr->mlp, err);
    if (st != TY_OK) return st;
    ty_silu_mul(a->pool, fr->mlp, fr->mlp + f, fr->rows, f, 2 * f, fr->mlp_mid, f);
    ty_layernorm(a->pool, fr->mlp_mid, fr->rows, f, l->ffn_ln.weight, l->ffn_ln.bias, a->eps,
                 fr->mlp_mid);
    st = apply(fr, l->w2, fr->mlp_mid, fr->rows, fr->x, err);
    if (st == TY_OK) ty_add(a->pool, fr->x, fr->normed, (int64_t)fr->rows * a->width);
    return st;
}

/* A video's rows: what visual_fc makes of the queries and temporal_fc of the temporal ones, added. */
static ty_status project_videos(const frame *fr, ty_err *err) {
    const abstractor *a = fr->a;
    int64_t c = a->width, d = a->width_out, q = a->n_query;
    ty_status st = TY_OK;
    for (int b = 0; b < fr->n && st == TY_OK; b++) {
        const float *x = fr->x + 2 * b * q * c;
        float *out = fr->out + b * q * d, *add = fr->out + (fr->n + b) * q * d;
        st = apply(fr, a->visual_fc, x, a->n_query, out, err);
        if (st == TY_OK) st = apply(fr, a->temporal_fc, x + q * c, a->n_query, add, err);
        if (st == TY_OK) ty_add(a->pool, out, add, q * d);
    }
    return st;
}

/* visual_fc of all queries in one go, then each picture's rows with the end row behind them. */
static ty_status project(const frame *fr, float *tokens, ty_err *err) {
    const abstractor *a = fr->a;
    size_t d = (size_t)a->width_out, q = (size_t)a->n_query * d;
    ty_status st = fr->n_q > a->n_query ? project_videos(fr, err)
                                        : apply(fr, a->visual_fc, fr->x, fr->rows, fr->out, err);
    for (int b = 0; b < fr->n && st == TY_OK; b++, tokens += q + d) {
        memcpy(tokens, fr->out + (size_t)b * q, q * sizeof(float));
        memcpy(tokens + q, a->eos, d * sizeof(float));
    }
    return st;
}

/* [n, Q, C]; [Q, C] for one picture, as the goldens store it. */
static void dump_queries(const frame *fr, const ty_dump *dump, int i) {
    char name[32];
    snprintf(name, sizeof name, "abs_layer%d", i);
    const int64_t shape[] = {fr->n, fr->n_q, fr->a->width};
    int one = fr->n == 1;
    ty_dump_put(dump, name, one ? 2 : 3, shape + one, fr->x);
}

static ty_status run(const frame *fr, float *tokens, const ty_dump *dump, ty_err *err) {
    const abstractor *a = fr->a;
    size_t q = (size_t)a->n_query * (size_t)a->width, own = (size_t)fr->n_q * (size_t)a->width;
    ty_status st = TY_OK;
    for (int b = 0; b < fr->n; b++) {
        memcpy(fr->x + (size_t)b * own, a->query_tokens, q * sizeof(float));
        if (own > q) memcpy(fr->x + (size_t)b * own + q, a->temporal_tokens, q * sizeof(float));
    }
    for (int i = 0; i < a->n_layer && st == TY_OK; i++) {
        st = attend(fr, &a->layers[i], err);
        if (st == TY_OK) st = feed_forward(fr, &a->layers[i], err);
        if (st == TY_OK) dump_queries(fr, dump, i);
    }
    return st == TY_OK ? project(fr, tokens, err) : st;
}

ty_status abstractor_run_videos(abstractor *a, const float *features, int n, int n_frame,
                                int n_token, float *tokens, const ty_dump *dump, ty_err *err) {
    frame fr = {0};
    int n_q = n_frame > 1 ? 2 * a->n_query : a->n_query;
    if (n < 1 || n_frame < 1 || n_token < 1 || n_token > INT32_MAX / 2 / n_frame - n_q ||
        n > INT32_MAX / (n_q + n_frame * n_token))
        return ty_fail(err, TY_EINVAL, "abstractor: %d pictures of %d x %d tokens in one batch", n,
                       n_frame, n_token);
    if (n_frame > 1 && !a->temporal_tokens)
        return ty_fail(err, TY_EUNSUPPORTED,
                       "abstractor: a video of %d frames, but this model sees pictures alone",
                       n_frame);
    if (a->grid && n_token != 1 + a->grid * a->grid)
        return ty_fail(err, TY_ESHAPE,
                       "abstractor: %d image tokens, this model has positions for a grid of %d x "
                       "%d and the class token, which is %d",
                       n_token, a->grid, a->grid, 1 + a->grid * a->grid);
    ty_status st = frame_init(&fr, a, features, n, n_frame * n_token, n_q, err);
    return st == TY_OK ? run(&fr, tokens, dump, err) : st;
}

ty_status abstractor_run(abstractor *a, const float *features, int n, int n_token, float *tokens,
                         const ty_dump *dump, ty_err *err) {
    return abstractor_run_videos(a, features, n, 1, n_token, tokens, dump, err);
}
