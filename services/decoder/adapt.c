/* adapt.c - see adapt.h. */
#include "services/decoder/adapt.h"

#include "common/math/nn.h"
#include "common/model/layout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What of a layer may have a pair of its own. */
typedef enum { Q, K, V, VISUAL_K, VISUAL_V, O, GATE, UP, DOWN, PARTS } part_kind;
static const struct {
    const char *name; /* in the file */
    part_kind kind;
} NAMES[] = {{"attn_q", Q},
             {"attn_k", K},
             {"attn_v", V},
             {"attn_qkv", Q},
             {"vis_attn_k", VISUAL_K},
             {"vis_attn_v", VISUAL_V},
             {"attn_output", O},
             {"ffn_gate", GATE},
             {"ffn_up", UP},
             {"ffn_down", DOWN}};
/* The parts of each place, first and behind the last. */
static const struct {
    part_kind first, end;
} PLACES[] = {[ADAPT_QKV] = {Q, O},
              [ADAPT_O] = {O, GATE},
              [ADAPT_GATE_UP] = {GATE, DOWN},
              [ADAPT_DOWN] = {DOWN, PARTS}};

typedef struct {
    ty_linear *a, *b; /* [rank, in], [out, rank] times alpha / rank; NULL: none */
    int64_t column;   /* of the place's output, where this part's begins */
} part;

struct llama_adapter {
    int n_layer;
    part (*layer)[PARTS];
    double flops;
};

/* ---- loading ---- */

static ty_status describe(const llama_dims *d, ty_layout *l, ty_err *err) {
    ty_decoder_dims x = {.n_vocab = d->n_vocab,
                         .width = d->d_model,
                         .n_layer = d->n_layer,
                         .n_head = d->n_head,
                         .n_head_kv = d->n_kv_head,
                         .n_ff = d->d_ff,
                         .multiway = d->multiway,
                         .bloom = d->bloom};
    return ty_layout_decoder(l, &x, err);
}

/* The module's name behind what stands before the language model's own names. */
static const char *own_name(const llama_dims *d, const char *module) {
    static const char WHOLE[] = "language_model.", BLOOM[] = "transformer.";
    if (!d->multiway && strncmp(module, WHOLE, sizeof(WHOLE) - 1) == 0) module += sizeof(WHOLE) - 1;
    if (d->bloom && strncmp(module, BLOOM, sizeof(BLOOM) - 1) == 0) module += sizeof(BLOOM) - 1;
    return module;
}

/* The tensor whose source is `module`.weight, NULL when there is none. */
static const ty_tensor_spec *find_spec(const ty_layout *l, const char *module) {
    size_t n = strlen(module);
    for (int i = 0; i < l->n; i++)
        if (l->item[i].n_dim == 2 && strncmp(l->item[i].source, module, n) == 0 &&
            strcmp(l->item[i].source + n, ".weight") == 0)
            return &l->item[i];
    return NULL;
}

/* Which layer and part the file's tensor is; false: it is none of a layer's. */
static bool find_part(const char *name, int *layer, part_kind *kind) {
    char leaf[64];
    if (sscanf(name, "blk.%d.%63[^.].weight", layer, leaf) != 2) return false;
    for (size_t i = 0; i < sizeof(NAMES) / sizeof(*NAMES); i++)
        if (strcmp(leaf, NAMES[i].name) == 0) {
            *kind = NAMES[i].kind;
            return true;
        }
    return false;
}

static int64_t column_of(const llama_dims *d, part_kind k) {
    int64_t nq = (int64_t)d->n_head * d->d_head, nkv = (int64_t)d->n_kv_head * d->d_head;
    switch (k) {
    case K:
    case VISUAL_K: return nq;
    case V:
    case VISUAL_V: return nq + nkv;
    case UP: return d->bloom ? 0 : d->d_ff; /* behind the gate */
    default: return 0;
    }
}

static ty_status make_linear(ty_linear **l, const llama *m, const float *w, int64_t rows,
                             int64_t cols, ty_err *err) {
    ty_tensor t = {.dtype = TY_F32,
                   .n_dim = 2,
                   .shape = {rows, cols},
                   .data = w,
                   .size_bytes = (size_t)(rows * cols) * sizeof(*w)};
    return ty_linear_create(l, &t, NULL, 1, TY_COMPUTE_F32, m->pool, err);
}

/* B times the scale, rows in the order of the file's weight. */
static ty_status make_b(part *p, const llama *m, const ty_adapter_pair *pair, float scale,
                        const ty_tensor_spec *s, ty_err *err) {
    size_t n = (size_t)(pair->out * pair->rank), row = (size_t)pair->rank * sizeof(float);
    float *scaled = malloc(n * sizeof(*scaled)), *turned = malloc(n * sizeof(*turned));
    ty_status st = TY_OK;
    if (!scaled || !turned) st = ty_fail(err, TY_ENOMEM, "no memory for %s", pair->module);
    for (size_t i = 0; st == TY_OK && i < n; i++) scaled[i] = pair->b[i] * scale;
    const float *b = s->rope_heads || s->qkv_heads ? turned : scaled;
    if (st == TY_OK && s->rope_heads)
        ty_layout_permute_rope(scaled, turned, s->rope_heads, pair->out, row);
    if (st == TY_OK && s->qkv_heads)
        ty_layout_split_qkv(scaled, turned, s->qkv_heads, pair->out, row);
    if (st == TY_OK) st = make_linear(&p->b, m, b, pair->out, pair->rank, err);
    free(scaled);
    free(turned);
    return st;
}

static ty_status add_pair(llama_adapter *a, const llama *m, const ty_adapter *from,
                          const ty_adapter_pair *pair, const ty_layout *layout, ty_err *err) {
    const ty_tensor_spec *s = find_spec(layout, own_name(&m->dims, pair->module));
    int layer = 0;
    part_kind kind = PARTS;
    if (!s)
        return ty_fail(err, TY_ENOTFOUND,
                       "%s: is for %s, which this model's language model does not have: the "
                       "adapter of another model?",
                       from->dir, pair->module);
    if (!find_part(s->name, &layer, &kind))
        return ty_fail(err, TY_EUNSUPPORTED,
                       "%s: changes %s, which only merging can: `tyto import --adapter`", from->dir,
                       pair->module);
    if (pair->out != s->shape[0] || pair->in != s->shape[1])
        return ty_fail(err, TY_ESHAPE, "%s: %s is for [%lld,%lld], the model has [%lld,%lld]",
                       from->dir, pair->module, (long long)pair->out, (long long)pair->in,
                       (long long)s->shape[0], (long long)s->shape[1]);
    part *p = &a->layer[layer][kind];
    if (p->a) return ty_fail(err, TY_EFORMAT, "%s: %s is there twice", from->dir, pair->module);
    p->column = column_of(&m->dims, kind);
    a->flops += 2 * (double)pair->rank * (double)(pair->in + pair->out);
    ty_status st = make_linear(&p->a, m, pair->a, pair->rank, pair->in, err);
    return st == TY_OK ? make_b(p, m, pair, (float)(from->alpha / from->rank), s, err) : st;
}

static ty_status widen(float **buffer, int64_t *width, int rows, int64_t want, ty_err *err) {
    if (want <= *width) return TY_OK;
    float *more = realloc(*buffer, (size_t)rows * (size_t)want * sizeof(*more));
    if (!more) return ty_fail(err, TY_ENOMEM, "no memory for an adapter's scratch");
    *buffer = more;
    *width = want;
    return TY_OK;
}

ty_status adapt_create(llama_adapter **out, llama *m, const ty_adapter *from, ty_err *err) {
    ty_layout layout = {0};
    *out = NULL;
    llama_adapter *a = calloc(1, sizeof(*a));
    if (a) a->layer = calloc((size_t)m->dims.n_layer, sizeof(*a->layer));
    ty_status st = a && a->layer ? describe(&m->dims, &layout, err)
                                 : ty_fail(err, TY_ENOMEM, "no memory for an adapter");
    if (a) a->n_layer = m->dims.n_layer;
    for (int i = 0; st == TY_OK && i < from->n; i++) {
        const ty_adapter_pair *p = &from->pair[i];
        st = add_pair(a, m, from, p, &layout, err);
        if (st == TY_OK) st = widen(&m->low, &m->low_width, m->max_rows, p->rank, err);
        if (st == TY_OK) st = widen(&m->delta, &m->delta_width, m->max_rows, p->out, err);
    }
    ty_layout_clear(&layout);
    if (st == TY_OK && from->n == 0)
        st = ty_fail(err, TY_EFORMAT, "%s: the adapter changes nothing", from->dir);
    if (st != TY_OK) adapt_destroy(&a);
    *out = a;
    return st;
}

void adapt_destroy(llama_adapter **aa) {
    llama_adapter *a = *aa;
    if (!a) return;
    for (int l = 0; a->layer && l < a->n_layer; l++)
        for (int k = 0; k < PARTS; k++) {
            ty_linear_destroy(&a->layer[l][k].a);
            ty_linear_destroy(&a->layer[l][k].b);
        }
    free(a->layer);
    free(a);
    *aa = NULL;
}

double adapt_flops(const llama_adapter *a) {
    return a ? a->flops : 0;
}

/* ---- computing ---- */

/* y [n] += b(a(x)), in the part's columns. */
static ty_status add_part(llama *m, const part *p, int n, const float *x, int64_t ldx, float *y,
                          int64_t ldy) {
    int64_t rank = ty_linear_in(p->b), out = ty_linear_out(p->b);
    ty_status st = ty_linear_apply(p->a, m->pool, x, ldx, n, m->low, rank);
    if (st == TY_OK) st = ty_linear_apply(p->b, m->pool, m->low, rank, n, m->delta, out);
    for (int i = 0; st == TY_OK && i < n; i++)
        ty_add(NULL, y + i * ldy + p->column, m->delta + i * out, out);
    return st;
}

/* Visual rows have gone through k and v of their own where there are any. */
static bool is_for(part_kind k, bool visual) {
    if (k == K || k == V) return !visual;
    if (k == VISUAL_K || k == VISUAL_V) return visual;
    return true;
}

ty_status adapt_add(llama *m, const llama_rows *rows, int l, adapt_place place, const float *x,
                    int64_t ldx, float *y, int64_t ldy) {
    ty_status st = TY_OK;
    for (int i = 0; i < rows->n_run && st == TY_OK; i++) {
        const llama_run *r = &m->run[i];
        bool visual = r->first >= rows->n_text;
        for (int k = (int)PLACES[place].first; k < (int)PLACES[place].end && st == TY_OK; k++) {
            const part *p = &r->adapter->layer[l][k];
            if (p->b && is_for((part_kind)k, visual))
                st = add_part(m, p, r->n, x + r->first * ldx, ldx, y + r->first * ldy, ldy);
        }
    }
    return st;
}
