/* abstractor_load.c - the abstractor out of its GGUF file, every size and shape checked; v2's positions projected. */
#include "services/abstractor/abstractor_impl.h"

#include "common/model/meta.h"
#include "common/model/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ty_status check_sizes(const abstractor *a, int encoder, const ty_gguf *g, ty_err *err) {
    if (encoder != a->width)
        return ty_fail(err, TY_EFORMAT,
                       "%s: abstractor.encoder_length %d must equal abstractor.embedding_length "
                       "%d: queries and features are concatenated",
                       ty_gguf_path(g), encoder, a->width);
    if (a->width % a->n_head)
        return ty_fail(err, TY_EFORMAT,
                       "%s: abstractor.embedding_length %d is not a multiple of "
                       "abstractor.attention.head_count %d",
                       ty_gguf_path(g), a->width, a->n_head);
    return TY_OK;
}

static ty_status read_sizes(abstractor *a, const ty_gguf *g, ty_err *err) {
    enum { WIDTH_MAX = 1 << 16 };
    const struct {
        const char *key;
        int max, *out;
    } sizes[] = {{"abstractor.query_count", 1 << 14, &a->n_query},
                 {"abstractor.embedding_length", WIDTH_MAX, &a->width},
                 {"abstractor.block_count", 1024, &a->n_layer},
                 {"abstractor.attention.head_count", WIDTH_MAX, &a->n_head},
                 {"abstractor.feed_forward_length", 1 << 20, &a->d_ff},
                 {"abstractor.output_length", WIDTH_MAX, &a->width_out}};
    int encoder = 0;
    ty_status st = ty_meta_architecture(g, "mplug_owl_abstractor", "abstractor", err);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && st == TY_OK; i++)
        st = ty_meta_size(g, sizes[i].key, sizes[i].max, sizes[i].out, err);
    if (st == TY_OK) st = ty_meta_size(g, "abstractor.encoder_length", WIDTH_MAX, &encoder, err);
    if (st == TY_OK && ty_gguf_has(g, "abstractor.grid_size"))
        st = ty_meta_size(g, "abstractor.grid_size", 1 << 10, &a->grid, err);
    if (st == TY_OK) st = ty_meta_positive(g, "abstractor.layer_norm_epsilon", &a->eps, err);
    if (st == TY_OK) st = check_sizes(a, encoder, g, err);
    if (st == TY_OK) a->d_head = a->width / a->n_head;
    return st;
}

enum { NAME_SIZE = 160 };

static const char *in_layer(char *buf, int i, const char *name) {
    snprintf(buf, NAME_SIZE, "encoder.layers.%d.crossattention.%s", i, name);
    return buf;
}

static ty_status load_norm(const ty_weights *w, int i, const char *name, int64_t n,
                           abstractor_norm *out, ty_err *err) {
    char buf[NAME_SIZE];
    return ty_weights_norm(w, in_layer(buf, i, name), n, &out->weight, &out->bias, err);
}

/* One layer of the tensors a and b (NULL: a alone), each [out, in]. */
static ty_status load_linear(const ty_weights *w, int i, const char *a, const char *b, int64_t out,
                             int64_t in, ty_linear **l, ty_err *err) {
    char buf[2][NAME_SIZE];
    const char *names[2] = {in_layer(buf[0], i, a), b ? in_layer(buf[1], i, b) : NULL};
    return ty_weights_linear(w, b ? 2 : 1, names, (const int64_t[]){out, out}, in, l, err);
}

/* out [n, C] = W x of n rows, in f32: a projection without its bias. */
static ty_status project_rows(const ty_weights *w, int i, const char *name, int64_t c,
                              const float *x, int n, float *out, ty_err *err) {
    char buf[NAME_SIZE];
    ty_tensor t;
    ty_linear *l = NULL;
    ty_status st =
        ty_gguf_find_shape(w->file, in_layer(buf, i, name), 2, (int64_t[]){c, c}, &t, err);
    if (st == TY_OK) st = ty_linear_create(&l, &t, NULL, 1, TY_COMPUTE_F32, w->pool, err);
    if (st == TY_OK && ty_linear_apply(l, w->pool, x, c, n, out, c) != TY_OK)
        st = ty_fail(err, TY_ENOMEM, "abstractor: no memory for positions");
    ty_linear_destroy(&l);
    return st;
}

static ty_status load_positions(const abstractor *a, const ty_weights *w, int i,
                                abstractor_layer *l, ty_err *err) {
    char buf[2][NAME_SIZE];
    size_t c = (size_t)a->width, q = (size_t)a->n_query;
    int n_patch = 1 + a->grid * a->grid, n_kv = a->n_query + n_patch;
    const int64_t q_shape[] = {a->n_query, a->width}, k_shape[] = {n_patch, a->width};
    float *queries = NULL, *patches = NULL, *both = malloc((size_t)n_kv * c * sizeof *both);
    l->query_positions = malloc(q * c * sizeof(float));
    l->key_positions = malloc((size_t)n_kv * c * sizeof(float));
    ty_status st = both && l->query_positions && l->key_positions
                       ? TY_OK
                       : ty_fail(err, TY_ENOMEM, "abstractor: no memory for positions");
    if (st == TY_OK)
        st = ty_weights_floats(w, in_layer(buf[0], i, "attention.q_pos_embed"), 2, q_shape,
                               &queries, err);
    if (st == TY_OK)
        st = ty_weights_floats(w, in_layer(buf[1], i, "attention.k_pos_embed"), 2, k_shape,
                               &patches, err);
    if (st == TY_OK) {
        memcpy(both, queries, q * c * sizeof *both);
        memcpy(both + q * c, patches, (size_t)n_patch * c * sizeof *both);
        st = project_rows(w, i, "attention.query.weight", a->width, queries, a->n_query,
                          l->query_positions, err);
    }
    if (st == TY_OK)
        st =
            project_rows(w, i, "attention.key.weight", a->width, both, n_kv, l->key_positions, err);
    free(queries);
    free(patches);
    free(both);
    return st;
}

static ty_status load_layer(abstractor *a, const ty_weights *w, int i, ty_err *err) {
    abstractor_layer *l = &a->layers[i];
    int64_t c = a->width, f = a->d_ff;
    ty_status st = load_norm(w, i, "norm1", c, &l->norm1, err);
    if (st == TY_OK) st = load_norm(w, i, "normk", c, &l->normk, err);
    if (st == TY_OK) st = load_norm(w, i, "output.norm2", c, &l->norm2, err);
    if (st == TY_OK) st = load_norm(w, i, "output.mlp.ffn_ln", f, &l->ffn_ln, err);
    if (st == TY_OK) st = load_linear(w, i, "attention.query", NULL, c, c, &l->query, err);
    if (st == TY_OK)
        st = load_linear(w, i, "attention.key", "attention.value", c, c, &l->key_value, err);
    if (st == TY_OK) st = load_linear(w, i, "output.out_proj", NULL, c, c, &l->out_proj, err);
    if (st == TY_OK) st = load_linear(w, i, "output.mlp.w1", "output.mlp.w3", f, c, &l->w13, err);
    if (st == TY_OK) st = load_linear(w, i, "output.mlp.w2", NULL, c, f, &l->w2, err);
    if (st == TY_OK && a->grid) st = load_positions(a, w, i, l, err);
    return st;
}

static ty_status load_ends(abstractor *a, const ty_weights *w, ty_err *err) {
    const int64_t queries[] = {1, a->n_query, a->width}, eos[] = {1, 1, a->width_out};
    const char *fc = "visual_fc";
    ty_tensor temporal;
    const int64_t out = a->width_out;
    ty_status st = ty_weights_floats(w, "query_tokens", 3, queries, &a->query_tokens, err);
    if (st == TY_OK) st = ty_weights_floats(w, "vit_eos", 3, eos, &a->eos, err);
    if (st == TY_OK) st = ty_weights_linear(w, 1, &fc, &out, a->width, &a->visual_fc, err);
    if (st != TY_OK || ty_gguf_find(w->file, "temporal_query_tokens", &temporal, NULL) != TY_OK)
        return st;
    fc = "temporal_visual_fc";
    st = ty_weights_floats(w, "temporal_query_tokens", 3, queries, &a->temporal_tokens, err);
    return st == TY_OK ? ty_weights_linear(w, 1, &fc, &out, a->width, &a->temporal_fc, err) : st;
}

static ty_status load(abstractor *a, const ty_gguf *g, const ty_run_options *opt, ty_err *err) {
    const ty_weights w = {g, opt->compute, opt->pool};
    ty_status st = read_sizes(a, g, err);
    if (st != TY_OK) return st;
    ty_gguf_identity(g, a->id);
    a->layers = calloc((size_t)a->n_layer, sizeof *a->layers);
    if (!a->layers)
        return ty_fail(err, TY_ENOMEM, "abstractor: no memory for %d layers", a->n_layer);
    st = load_ends(a, &w, err);
    for (int i = 0; i < a->n_layer && st == TY_OK; i++) st = load_layer(a, &w, i, err);
    return st;
}

ty_status abstractor_create(abstractor **out, const char *model_path, const ty_run_options *opt,
                            ty_err *err) {
    *out = NULL;
    ty_gguf *g = NULL;
    abstractor *a = calloc(1, sizeof *a);
    if (!a) return ty_fail(err, TY_ENOMEM, "abstractor: no memory");
    a->pool = opt->pool;
    ty_status st = ty_gguf_open(&g, model_path, err);
    if (st == TY_OK) st = load(a, g, opt, err);
    ty_gguf_close(&g);
    if (st != TY_OK) {
        abstractor_destroy(&a);
        return st;
    }
    *out = a;
    return TY_OK;
}

static void norm_clear(abstractor_norm *n) {
    free(n->weight);
    free(n->bias);
}

static void layer_clear(abstractor_layer *l) {
    norm_clear(&l->norm1);
    norm_clear(&l->normk);
    norm_clear(&l->norm2);
    norm_clear(&l->ffn_ln);
    ty_linear_destroy(&l->query);
    ty_linear_destroy(&l->key_value);
    ty_linear_destroy(&l->out_proj);
    ty_linear_destroy(&l->w13);
    ty_linear_destroy(&l->w2);
    free(l->query_positions);
    free(l->key_positions);
}

void abstractor_destroy(abstractor **out) {
    abstractor *a = *out;
    if (!a) return;
    for (int i = 0; a->layers && i < a->n_layer; i++) layer_clear(&a->layers[i]);
    free(a->layers);
    free(a->query_tokens);
    free(a->eos);
    ty_linear_destroy(&a->visual_fc);
    free(a->temporal_tokens);
    ty_linear_destroy(&a->temporal_fc);
    free(a->scratch);
    free(a);
    *out = NULL;
}
