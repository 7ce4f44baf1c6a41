/*
 * owl.c - config.json and tensor names to the description of owl.h.  Widths come from the tensors, as
 * in import (docs/models.md); layers and heads, epsilons and the image size from config.json.
 */
#include "training/owl.h"
#include "common/base/file.h"
#include "training/sample.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What stands in front of the parts' names. */
typedef struct {
    const char *vit, *query, *abstractor, *llm;
} prefixes;
static const prefixes PREFIX[] = {
    {NULL, NULL, NULL, ""},
    {"vision_model.", "query_tokens", "abstractor.", "language_model."},
    {"model.vision_model.", "model.visual_abstractor.query_embeds", "model.visual_abstractor.",
     ""}};

typedef struct {
    owl *m;
    const char *dir;
    json_t *config;
    param_source src; /* no checkpoint: all sizes are config.json's */
    int new_layers;   /* of the language model, behind those of the checkpoint */
    ty_status st;     /* the first failure: what comes after does nothing */
    ty_err *err;
} reader;

/* ---- config.json ---- */

static const json_t *section(const reader *r, const char *outer, const char *inner) {
    const json_t *o = outer ? json_object_get(r->config, outer) : r->config;
    return inner ? json_object_get(o, inner) : o;
}

static int whole(reader *r, const json_t *o, const char *key, int absent, int max) {
    const json_t *j = json_object_get(o, key);
    if (!j || json_is_null(j)) return absent;
    json_int_t v = json_integer_value(j);
    if (r->st == TY_OK && (!json_is_integer(j) || v < 1 || v > max))
        r->st = ty_fail(r->err, TY_EFORMAT, "%s/config.json: \"%s\" is not a whole number of 1..%d",
                        r->dir, key, max);
    return (int)v;
}

static float positive(reader *r, const json_t *o, const char *key, double absent) {
    const json_t *j = json_object_get(o, key);
    if (!j || json_is_null(j)) return (float)absent;
    double v = json_number_value(j);
    if (r->st == TY_OK && !(v > 0 && v < 1e30))
        r->st =
            ty_fail(r->err, TY_EFORMAT, "%s/config.json: \"%s\" is not a number > 0", r->dir, key);
    return (float)v;
}

/* New weights of the part that c configures: from here on. */
static void begin_with_spread(reader *r, const json_t *c) {
    r->src.spread = positive(r, c, "initializer_range", 0.02);
}

static void read_config(reader *r) {
    char path[4200], *text = NULL;
    size_t size;
    json_error_t bad;
    snprintf(path, sizeof path, "%s/config.json", r->dir);
    r->st = ty_file_read(path, 1 << 22, &text, &size, r->err);
    if (r->st != TY_OK) return;
    r->config = json_loadb(text, size, 0, &bad);
    free(text);
    if (!r->config)
        r->st = ty_fail(r->err, TY_EFORMAT, "%s: line %d: %s", path, bad.line, bad.text);
}

static void read_version(reader *r) {
    const char *type = json_string_value(json_object_get(r->config, "model_type"));
    const char *text =
        json_string_value(json_object_get(section(r, "text_config", NULL), "model_type"));
    if (r->st != TY_OK) return;
    if (!type) type = "";
    if (strcmp(type, "mplug_owl2") == 0)
        r->m->version = 2;
    else if (strcmp(type, "mplug-owl") == 0 || strcmp(type, "mplug_owl") == 0)
        r->m->version = 1;
    else if (strcmp(type, "llama") != 0 || (text && strcmp(text, "llama") != 0))
        r->st =
            ty_fail(r->err, TY_EUNSUPPORTED,
                    "%s/config.json: model_type \"%.64s\": only mplug-owl, mplug_owl2 and llama "
                    "can be trained",
                    r->dir, type);
    for (int i = 0;
         r->src.checkpoint && i < ty_checkpoint_count(r->src.checkpoint) && r->st == TY_OK; i++) {
        const char *name = ty_checkpoint_name(r->src.checkpoint, i);
        if (strstr(name, "temporal") || strstr(name, "word_embeddings_layernorm"))
            r->st =
                ty_fail(r->err, TY_EUNSUPPORTED,
                        "%s: %s: the video and the BLOOM variants cannot be trained", r->dir, name);
    }
    r->m->n_way = r->m->version == 2 ? 2 : 1;
}

/* ---- tensors ---- */

static int64_t dim_of(reader *r, const char *name, int n_dim, int dim) {
    ty_tensor t;
    if (r->st == TY_OK) r->st = ty_checkpoint_info(r->src.checkpoint, name, &t, r->err);
    if (r->st != TY_OK) return 1;
    if (t.n_dim == n_dim && t.shape[dim] <= 1 << 24) return t.shape[dim];
    char text[96];
    r->st = ty_fail(r->err, TY_ESHAPE, "%s: %s is %s, want %d dimensions", r->dir, name,
                    ty_tensor_shape_text(&t, text, sizeof text), n_dim);
    return 1;
}

/* A size from the tensor that has it; of a new model from config.json. */
static int size_of(reader *r, const json_t *o, const char *key, int absent, const char *name,
                   int n_dim, int dim) {
    return r->src.checkpoint ? (int)dim_of(r, name, n_dim, dim) : whole(r, o, key, absent, 1 << 24);
}

__attribute__((format(printf, 2, 3))) static const char *name_of(char *out, const char *fmt, ...) {
    va_list a;
    va_start(a, fmt);
    vsnprintf(out, PARAM_NAME, fmt, a);
    va_end(a);
    return out;
}

static param *tensor(reader *r, const char *name, int n_dim, const int64_t *shape, bool norm) {
    param *p = NULL;
    if (r->st == TY_OK)
        r->st = param_read(&r->m->params, &r->src, name, n_dim, shape, norm, &p, r->err);
    return p;
}

static owl_linear linear(reader *r, const char *name, int64_t out, int64_t in, bool bias) {
    char full[PARAM_NAME];
    owl_linear l = {0};
    l.w = tensor(r, name_of(full, "%s.weight", name), 2, (int64_t[]){out, in}, false);
    if (bias) l.b = tensor(r, name_of(full, "%s.bias", name), 1, (int64_t[]){out}, false);
    return l;
}

/* A layer that adds to the residual stream.  New weights begin smaller, the more layers there are, so that the stream does
 * not grow with depth (Radford et al. 2019, section 2.3). */
static owl_linear linear_to_stream(reader *r, const char *name, int64_t out, int64_t in, bool bias,
                                   int n_layer) {
    float spread = r->src.spread;
    r->src.spread /= sqrtf(2.0f * (float)n_layer);
    owl_linear l = linear(r, name, out, in, bias);
    r->src.spread = spread;
    return l;
}

static owl_norm norm(reader *r, const char *name, int64_t n, bool bias, float eps) {
    char full[PARAM_NAME];
    owl_norm l = {.eps = eps};
    l.w = tensor(r, name_of(full, "%s.weight", name), 1, (int64_t[]){n}, bias);
    if (bias) l.b = tensor(r, name_of(full, "%s.bias", name), 1, (int64_t[]){n}, true);
    return l;
}

static void check_heads(reader *r, const char *what, int width, int heads) {
    if (r->st == TY_OK && width % heads)
        r->st = ty_fail(r->err, TY_EFORMAT, "%s: %s: %d heads in a width of %d", r->dir, what,
                        heads, width);
}

/* ---- the vision transformer ---- */

static void read_vit_dims(reader *r) {
    const char *at = PREFIX[r->m->version].vit;
    const json_t *c = r->m->version == 2 ? section(r, "visual_config", "visual_model")
                                         : section(r, "vision_config", NULL);
    const char *act = json_string_value(json_object_get(c, "hidden_act"));
    ty_vit_dims *d = &r->m->vit;
    char n[PARAM_NAME];
    if (r->st == TY_OK && act && strcmp(act, "quick_gelu") != 0)
        r->st = ty_fail(r->err, TY_EUNSUPPORTED,
                        "%s: hidden_act of the ViT is \"%.32s\", want quick_gelu", r->dir, act);
    name_of(n, "%sembeddings.patch_embed.weight", at);
    d->width = size_of(r, c, "hidden_size", 1024, n, 4, 0);
    d->patch_size = size_of(r, c, "patch_size", 14, n, 4, 2);
    name_of(n, "%sencoder.layers.0.mlp.fc1.weight", at);
    d->n_ff = size_of(r, c, "intermediate_size", 4096, n, 2, 0);
    d->n_layer = whole(r, c, "num_hidden_layers", 24, 1024);
    d->n_head = whole(r, c, "num_attention_heads", 16, 4096);
    d->image_size = whole(r, c, "image_size", 224, 16384);
    d->eps = positive(r, c, "layer_norm_eps", 1e-6);
    begin_with_spread(r, c);
    check_heads(r, "the ViT", d->width, d->n_head);
}

static void read_vit_layer(reader *r, int i) {
    owl_vit_layer *l = &r->m->vit_layer[i];
    const ty_vit_dims *d = &r->m->vit;
    int64_t c = d->width, f = d->n_ff;
    char at[PARAM_NAME - 64], n[PARAM_NAME];
    snprintf(at, sizeof at, "%sencoder.layers.%d", PREFIX[r->m->version].vit, i);
    l->before_attention = norm(r, name_of(n, "%s.input_layernorm", at), c, true, d->eps);
    l->qkv = linear(r, name_of(n, "%s.self_attn.query_key_value", at), 3 * c, c, true);
    l->dense = linear_to_stream(r, name_of(n, "%s.self_attn.dense", at), c, c, true, d->n_layer);
    l->before_mlp = norm(r, name_of(n, "%s.post_attention_layernorm", at), c, true, d->eps);
    l->fc1 = linear(r, name_of(n, "%s.mlp.fc1", at), f, c, true);
    l->fc2 = linear_to_stream(r, name_of(n, "%s.mlp.fc2", at), c, f, true, d->n_layer);
}

static void read_vit(reader *r) {
    const char *at = PREFIX[r->m->version].vit;
    ty_vit_dims *d = &r->m->vit;
    char n[PARAM_NAME];
    read_vit_dims(r);
    int64_t c = d->width, p = d->patch_size, grid = d->image_size / (p ? p : 1);
    r->m->vit_layer = calloc((size_t)d->n_layer, sizeof *r->m->vit_layer);
    if (r->st == TY_OK && !r->m->vit_layer) r->st = ty_fail(r->err, TY_ENOMEM, "no memory");
    r->m->cls = tensor(r, name_of(n, "%sembeddings.cls_token", at), 3, (int64_t[]){1, 1, c}, false);
    r->m->position = tensor(r, name_of(n, "%sembeddings.position_embedding", at), 3,
                            (int64_t[]){1, 1 + grid * grid, c}, false);
    r->m->patch_embed.w = tensor(r, name_of(n, "%sembeddings.patch_embed.weight", at), 4,
                                 (int64_t[]){c, 3, p, p}, false);
    r->m->vit_pre = norm(r, name_of(n, "%sembeddings.pre_layernorm", at), c, true, d->eps);
    for (int i = 0; i < d->n_layer && r->st == TY_OK; i++) read_vit_layer(r, i);
    r->m->vit_post = norm(r, name_of(n, "%spost_layernorm", at), c, true, d->eps);
}

/* ---- the abstractor ---- */

static void read_abstractor_dims(reader *r) {
    const char *at = PREFIX[r->m->version].abstractor;
    const json_t *c = r->m->version == 2 ? section(r, "visual_config", "visual_abstractor")
                                         : section(r, "visual_abstractor_config", NULL);
    ty_abstractor_dims *d = &r->m->abstractor;
    char n[PARAM_NAME];
    const char *query = PREFIX[r->m->version].query;
    const json_t *count = r->m->version == 2 ? c : r->config,
                 *out = section(r, "text_config", NULL);
    begin_with_spread(r, c);
    d->n_query =
        size_of(r, count, r->m->version == 2 ? "num_learnable_queries" : "num_query_tokens", 64,
                query, 3, 1);
    d->width = size_of(r, c, "hidden_size", 1024, query, 3, 2);
    name_of(n, "%sencoder.layers.0.crossattention.output.mlp.w1.weight", at);
    d->n_ff = size_of(r, c, "intermediate_size", 2816, n, 2, 0);
    name_of(n, "%svisual_fc.weight", at);
    d->n_out = size_of(r, r->m->version == 2 ? r->config : out, "hidden_size", 4096, n, 2, 0);
    d->n_in = r->m->vit.width;
    d->n_layer = whole(r, c, "num_hidden_layers", 6, 1024);
    d->n_head = whole(r, c, "num_attention_heads", 16, 4096);
    d->eps = positive(r, c, "layer_norm_eps", 1e-6);
    check_heads(r, "the abstractor", d->width, d->n_head);
}

/* sin and cos of p omega_j, omega_j = 10000^(-j / (n/2)), n numbers. */
static void sincos_row(float *row, int n, int p) {
    const int half = n / 2;
    for (int j = 0; j < half; j++) {
        double angle = p * pow(10000.0, -(double)j / half);
        row[j] = (float)sin(angle);
        row[j + half] = (float)cos(angle);
    }
}

/* v2's fixed positions: 1-D for the queries; for the image a zero row for cls, then per cell half
 * of the width for its column and half for its row.  Read where stored: they are buffers. */
static void read_positions(reader *r, owl_abstractor_layer *l, const char *at) {
    const ty_abstractor_dims *d = &r->m->abstractor;
    int q = d->n_query, c = d->width, grid = r->m->vit.image_size / r->m->vit.patch_size;
    size_t rows = (size_t)q + 1 + (size_t)grid * (size_t)grid, width = (size_t)c;
    l->k_pos = calloc(rows * width, sizeof(float));
    if (!l->k_pos) {
        r->st = ty_fail(r->err, TY_ENOMEM, "no memory for the abstractor's positions");
        return;
    }
    l->q_pos = l->k_pos;
    for (int i = 0; i < q; i++) sincos_row(l->k_pos + (size_t)i * width, c, i);
    for (int i = 0; i < grid * grid; i++) {
        float *row = l->k_pos + ((size_t)q + 1 + (size_t)i) * width;
        sincos_row(row, c / 2, i % grid);
        sincos_row(row + c / 2, c / 2, i / grid);
    }
    static const char *const buffer[] = {"q_pos_embed", "k_pos_embed"};
    for (int b = 0; b < 2 && r->st == TY_OK; b++) {
        char n[PARAM_NAME];
        ty_loaded t = {0};
        int64_t want = b == 0 ? q : 1 + (int64_t)grid * grid;
        name_of(n, "%s.attention.%s", at, buffer[b]);
        if (!r->src.checkpoint || !ty_checkpoint_has(r->src.checkpoint, n)) continue;
        r->st = ty_checkpoint_load(r->src.checkpoint, n, &t, r->err);
        if (r->st == TY_OK && (ty_tensor_rows(&t.t) != want || ty_tensor_cols(&t.t) != c))
            r->st = ty_fail(r->err, TY_ESHAPE, "%s: %s does not have %lld rows of %d", r->dir, n,
                            (long long)want, c);
        if (r->st == TY_OK)
            ty_dtype_to_f32(t.t.dtype, t.t.data, 0, (size_t)want * width,
                            l->k_pos + (b ? (size_t)q * width : 0));
        ty_checkpoint_release(&t);
    }
}

static void read_abstractor_layer(reader *r, int i) {
    static const float EPS = 1e-5f; /* of all norms but ffn_ln */
    owl_abstractor_layer *l = &r->m->abstractor_layer[i];
    const ty_abstractor_dims *d = &r->m->abstractor;
    int64_t c = d->width, f = d->n_ff;
    char at[PARAM_NAME - 64], n[PARAM_NAME];
    snprintf(at, sizeof at, "%sencoder.layers.%d.crossattention", PREFIX[r->m->version].abstractor,
             i);
    l->norm1 = norm(r, name_of(n, "%s.norm1", at), c, true, EPS);
    l->normk = norm(r, name_of(n, "%s.normk", at), c, true, EPS);
    l->query = linear(r, name_of(n, "%s.attention.query", at), c, c, true);
    l->key = linear(r, name_of(n, "%s.attention.key", at), c, c, true);
    l->value = linear(r, name_of(n, "%s.attention.value", at), c, c, true);
    l->out_proj = linear(r, name_of(n, "%s.output.out_proj", at), c, c, true);
    l->norm2 = norm(r, name_of(n, "%s.output.norm2", at), c, true, EPS);
    l->w1 = linear(r, name_of(n, "%s.output.mlp.w1", at), f, c, true);
    l->w3 = linear(r, name_of(n, "%s.output.mlp.w3", at), f, c, true);
    l->ffn_ln = norm(r, name_of(n, "%s.output.mlp.ffn_ln", at), f, true, d->eps);
    l->w2 = linear(r, name_of(n, "%s.output.mlp.w2", at), c, f, true);
    if (r->m->version == 2 && r->st == TY_OK) read_positions(r, l, at);
}

static void read_abstractor(reader *r) {
    const char *at = PREFIX[r->m->version].abstractor;
    const ty_abstractor_dims *d = &r->m->abstractor;
    char n[PARAM_NAME];
    read_abstractor_dims(r);
    r->m->abstractor_layer = calloc((size_t)d->n_layer, sizeof *r->m->abstractor_layer);
    if (r->st == TY_OK && !r->m->abstractor_layer) r->st = ty_fail(r->err, TY_ENOMEM, "no memory");
    if (r->st == TY_OK && d->width != r->m->vit.width)
        r->st = ty_fail(r->err, TY_ESHAPE, "%s: the ViT's width is %d, the abstractor's %d", r->dir,
                        r->m->vit.width, d->width);
    r->m->query =
        tensor(r, PREFIX[r->m->version].query, 3, (int64_t[]){1, d->n_query, d->width}, false);
    for (int i = 0; i < d->n_layer && r->st == TY_OK; i++) read_abstractor_layer(r, i);
    r->m->visual_fc = linear(r, name_of(n, "%svisual_fc", at), d->n_out, d->width, true);
    r->m->eos = tensor(r, name_of(n, "%svit_eos", at), 3, (int64_t[]){1, 1, d->n_out}, false);
}

/* ---- the language model ---- */

/* The embedding's padding_idx: transformers 4.28's LLaMA takes 0 where the configuration is silent,
 * 4.31's none. */
static int padding_id(const reader *r, const json_t *c) {
    const json_t *j = json_object_get(c, "pad_token_id");
    if (!j) return r->m->version == 1 ? 0 : -1;
    json_int_t id = json_is_integer(j) ? json_integer_value(j) : -1;
    return id >= 0 && id < r->m->llm.n_vocab ? (int)id : -1;
}

static void check_llm(reader *r, const json_t *c) {
    const char *act = json_string_value(json_object_get(c, "hidden_act"));
    const json_t *scaling = json_object_get(c, "rope_scaling");
    const char *what = NULL;
    const ty_decoder_dims *d = &r->m->llm;
    if (act && strcmp(act, "silu") != 0) what = "hidden_act other than silu";
    if (scaling && !json_is_null(scaling)) what = "rope_scaling";
    if (json_is_true(json_object_get(c, "attention_bias"))) what = "attention_bias";
    if (d->n_head_kv != d->n_head) what = "grouped-query attention";
    if (r->st == TY_OK && what)
        r->st =
            ty_fail(r->err, TY_EUNSUPPORTED, "%s/config.json: %s cannot be trained", r->dir, what);
    check_heads(r, "the language model", d->width, 2 * d->n_head);
}

static void read_llm_dims(reader *r) {
    const char *at = PREFIX[r->m->version].llm;
    const json_t *c = r->m->version == 1 ? section(r, "text_config", NULL) : r->config;
    ty_decoder_dims *d = &r->m->llm;
    char n[PARAM_NAME];
    name_of(n, "%smodel.embed_tokens.weight", at);
    d->n_vocab = size_of(r, c, "vocab_size", 32000, n, 2, 0);
    d->width = size_of(r, c, "hidden_size", 4096, n, 2, 1);
    name_of(n, "%smodel.layers.0.mlp.gate_proj.weight", at);
    d->n_ff = size_of(r, c, "intermediate_size", 11008, n, 2, 0);
    d->n_layer = whole(r, c, "num_hidden_layers", 32, 4096) + r->new_layers;
    d->n_head = whole(r, c, "num_attention_heads", 32, 4096);
    d->n_head_kv = whole(r, c, "num_key_value_heads", d->n_head, 4096);
    d->n_ctx = whole(r, c, "max_position_embeddings", 2048, 1 << 20);
    d->eps = positive(r, c, "rms_norm_eps", 1e-6);
    d->rope_base = positive(r, c, "rope_theta", 10000);
    begin_with_spread(r, c);
    r->m->padding_id = padding_id(r, c);
    check_llm(r, c);
    if (r->st == TY_OK && r->m->version && r->m->abstractor.n_out != d->width)
        r->st =
            ty_fail(r->err, TY_ESHAPE, "%s: visual_fc gives %d, the language model's width is %d",
                    r->dir, r->m->abstractor.n_out, d->width);
}

static void read_llm_layer(reader *r, int i) {
    owl_llm_layer *l = &r->m->llm_layer[i];
    const ty_decoder_dims *d = &r->m->llm;
    int64_t c = d->width, f = d->n_ff;
    char at[PARAM_NAME - 64], n[PARAM_NAME];
    snprintf(at, sizeof at, "%smodel.layers.%d", PREFIX[r->m->version].llm, i);
    for (int w = 0; w < r->m->n_way; w++) {
        char way[24] = "";
        if (r->m->n_way > 1) snprintf(way, sizeof way, ".multiway.%d", w);
        l->before_attention[w] =
            norm(r, name_of(n, "%s.input_layernorm%s", at, way), c, false, d->eps);
        l->k[w] = linear(r, name_of(n, "%s.self_attn.k_proj%s", at, way), c, c, false);
        l->v[w] = linear(r, name_of(n, "%s.self_attn.v_proj%s", at, way), c, c, false);
        l->before_mlp[w] =
            norm(r, name_of(n, "%s.post_attention_layernorm%s", at, way), c, false, d->eps);
    }
    l->q = linear(r, name_of(n, "%s.self_attn.q_proj", at), c, c, false);
    l->o = linear_to_stream(r, name_of(n, "%s.self_attn.o_proj", at), c, c, false, d->n_layer);
    l->gate = linear(r, name_of(n, "%s.mlp.gate_proj", at), f, c, false);
    l->up = linear(r, name_of(n, "%s.mlp.up_proj", at), f, c, false);
    l->down = linear_to_stream(r, name_of(n, "%s.mlp.down_proj", at), c, f, false, d->n_layer);
}

/* A layer that the checkpoint does not have; through it goes the residual stream alone. */
static void new_llm_layer(reader *r, int i) {
    const ty_checkpoint *checkpoint = r->src.checkpoint;
    r->src.checkpoint = NULL;
    read_llm_layer(r, i);
    r->src.checkpoint = checkpoint;
    if (r->st != TY_OK) return;
    param *adds[] = {r->m->llm_layer[i].o.w, r->m->llm_layer[i].down.w};
    for (int k = 0; k < 2; k++)
        memset(adds[k]->value, 0, (size_t)adds[k]->count * sizeof *adds[k]->value);
}

/* As Hugging Face computes them, in f32 (services/decoder/llama.c does the same). */
static void make_rope(reader *r) {
    const ty_decoder_dims *d = &r->m->llm;
    int half = d->width / d->n_head / 2;
    size_t n = (size_t)d->n_ctx * (size_t)half;
    r->m->cos = malloc(n * sizeof(float));
    r->m->sin = malloc(n * sizeof(float));
    if (!r->m->cos || !r->m->sin) {
        r->st = ty_fail(r->err, TY_ENOMEM, "no memory for the rotary tables");
        return;
    }
    for (int j = 0; j < half; j++) {
        float inv = 1.0f / (float)pow((double)d->rope_base, (double)((float)j / (float)half));
        for (int pos = 0; pos < d->n_ctx; pos++) {
            size_t at = (size_t)pos * (size_t)half + (size_t)j;
            float angle = (float)pos * inv;
            r->m->cos[at] = (float)cos((double)angle);
            r->m->sin[at] = (float)sin((double)angle);
        }
    }
}

static void read_llm(reader *r) {
    const char *at = PREFIX[r->m->version].llm;
    const json_t *c = r->m->version == 1 ? section(r, "text_config", NULL) : r->config;
    const ty_decoder_dims *d = &r->m->llm;
    char n[PARAM_NAME];
    read_llm_dims(r);
    r->m->llm_layer = calloc((size_t)d->n_layer, sizeof *r->m->llm_layer);
    if (r->st == TY_OK && !r->m->llm_layer) r->st = ty_fail(r->err, TY_ENOMEM, "no memory");
    /* New embeddings begin at deviation 1.  Much smaller ones drown in what the first layers add, and a new model then never
     * learns to look a thing up by its name among several: docs/training.md. */
    float spread = r->src.spread;
    r->src.spread = 1;
    r->m->embed = tensor(r, name_of(n, "%smodel.embed_tokens.weight", at), 2,
                         (int64_t[]){d->n_vocab, d->width}, false);
    r->src.spread = spread;
    for (int i = 0; i < d->n_layer && r->st == TY_OK; i++)
        (i < d->n_layer - r->new_layers ? read_llm_layer : new_llm_layer)(r, i);
    r->m->final_norm = norm(r, name_of(n, "%smodel.norm", at), d->width, false, d->eps);
    name_of(n, "%slm_head.weight", at);
    bool tied = json_is_true(json_object_get(c, "tie_word_embeddings"));
    if (r->src.checkpoint ? ty_checkpoint_has(r->src.checkpoint, n) : !tied)
        r->m->head = linear(r, name_of(n, "%slm_head", at), d->n_vocab, d->width, false);
    else
        r->m->head.w = r->m->embed;
    if (r->st == TY_OK) make_rope(r);
}

/* ---- the whole ---- */

static ty_status read_all(owl **out, const char *dir, const param_source *src, int new_layers,
                          ty_err *err) {
    *out = NULL;
    reader r = {
        .m = calloc(1, sizeof(owl)), .dir = dir, .src = *src, .new_layers = new_layers, .err = err};
    if (!r.m) return ty_fail(err, TY_ENOMEM, "no memory for the model");
    read_config(&r);
    if (r.st == TY_OK) read_version(&r);
    if (r.st == TY_OK && r.m->version) read_vit(&r);
    if (r.st == TY_OK && r.m->version) read_abstractor(&r);
    if (r.st == TY_OK) read_llm(&r);
    json_decref(r.config);
    if (r.st != TY_OK) owl_close(&r.m);
    *out = r.m;
    return r.st;
}

ty_status owl_open(owl **out, const char *dir, bool (*trains)(void *ctx, const char *name),
                   void *ctx, int frozen_type, int new_layers, uint64_t seed, ty_err *err) {
    ty_checkpoint *checkpoint = NULL;
    *out = NULL;
    ty_status st = ty_checkpoint_open(&checkpoint, dir, err);
    if (st != TY_OK) return st;
    param_source src = {.checkpoint = checkpoint,
                        .seed = seed,
                        .trains = trains,
                        .ctx = ctx,
                        .frozen_type = frozen_type};
    st = read_all(out, dir, &src, new_layers, err);
    ty_checkpoint_close(&checkpoint);
    return st;
}

ty_status owl_new(owl **out, const char *dir, bool (*trains)(void *ctx, const char *name),
                  void *ctx, int frozen_type, uint64_t seed, ty_err *err) {
    param_source src = {.seed = seed, .trains = trains, .ctx = ctx, .frozen_type = frozen_type};
    return read_all(out, dir, &src, 0, err);
}

ty_status owl_add_cells(owl *m, int texts, ty_err *err) {
    m->n_cell_text = texts;
    return param_new(&m->params, "cells.weight", 2,
                     (int64_t[]){(int64_t)texts * SAMPLE_CLASSES, m->vit.width}, &m->cells.w, err);
}

int owl_patches(const owl *m) {
    int grid = m->version ? m->vit.image_size / m->vit.patch_size : 0;
    return grid * grid;
}

ty_status owl_each_linear(owl *m,
                          ty_status (*fn)(void *ctx, const char *name, owl_linear *l, ty_err *err),
                          void *ctx, ty_err *err) {
    for (int i = 0; i < m->llm.n_layer; i++) {
        owl_llm_layer *l = &m->llm_layer[i];
        owl_linear *all[] = {&l->q,  &l->k[0], &l->v[0], &l->o,   &l->gate,
                             &l->up, &l->down, &l->k[1], &l->v[1]};
        int n = m->n_way > 1 ? 9 : 7;
        for (int k = 0; k < n; k++) {
            char name[PARAM_NAME];
            snprintf(name, sizeof name, "%s", all[k]->w->name);
            name[strlen(name) - strlen(".weight")] = 0;
            ty_status st = fn(ctx, name, all[k], err);
            if (st != TY_OK) return st;
        }
    }
    return TY_OK;
}

void owl_close(owl **out) {
    owl *m = *out;
    if (!m) return;
    for (int i = 0; m->abstractor_layer && i < m->abstractor.n_layer; i++)
        free(m->abstractor_layer[i].k_pos);
    free(m->vit_layer);
    free(m->abstractor_layer);
    free(m->llm_layer);
    free(m->cos);
    free(m->sin);
    param_set_clear(&m->params);
    free(m);
    *out = NULL;
}
