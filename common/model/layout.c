/* layout.c - see layout.h. */
#include "common/model/layout.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

ty_preprocess_dims ty_layout_clip(void) {
    return (ty_preprocess_dims){{0.48145466f, 0.4578275f, 0.40821073f},
                                {0.26862954f, 0.26130258f, 0.27577711f},
                                1.0f / 255,
                                224,
                                "native",
                                0};
}

/* One building of a layout; the first failure stays. */
typedef struct {
    ty_layout *l;
    ty_status st;
    ty_err *err;
} builder;

static ty_tensor_spec *next(builder *b) {
    ty_layout *l = b->l;
    if (b->st != TY_OK) return NULL;
    if (l->n == l->cap) {
        int cap = l->cap ? 2 * l->cap : 64;
        ty_tensor_spec *more = realloc(l->item, (size_t)cap * sizeof(*more));
        if (!more) {
            b->st = ty_fail(b->err, TY_ENOMEM, "no memory for a list of tensors");
            return NULL;
        }
        l->item = more;
        l->cap = cap;
    }
    memset(&l->item[l->n], 0, sizeof(l->item[l->n]));
    return &l->item[l->n++];
}

/* A tensor of this name in both places (the checkpoint's under `prefix`). */
static ty_tensor_spec *add(builder *b, const char *prefix, ty_tensor_role role, const char *name,
                           int n_dim, int64_t d0, int64_t d1, int64_t d2, int64_t d3) {
    ty_tensor_spec *s = next(b);
    if (!s) return NULL;
    snprintf(s->name, sizeof(s->name), "%s", name);
    snprintf(s->source, sizeof(s->source), "%s%s", prefix, name);
    s->role = role;
    s->n_dim = n_dim;
    int64_t d[4] = {d0, d1, d2, d3};
    memcpy(s->shape, d, sizeof(d));
    return s;
}

/* "<base><leaf>.weight" [n] and "<base><leaf>.bias" [n] */
static void add_norm(builder *b, const char *prefix, const char *base, const char *leaf, int n) {
    char name[96];
    snprintf(name, sizeof(name), "%s%s.weight", base, leaf);
    add(b, prefix, TY_ROLE_GAIN, name, 1, n, 0, 0, 0);
    snprintf(name, sizeof(name), "%s%s.bias", base, leaf);
    add(b, prefix, TY_ROLE_BIAS, name, 1, n, 0, 0, 0);
}

/* weight [n_out, n_in], bias [n_out] */
static void add_linear(builder *b, const char *prefix, const char *base, const char *leaf,
                       int64_t n_out, int64_t n_in) {
    char name[96];
    snprintf(name, sizeof(name), "%s%s.weight", base, leaf);
    add(b, prefix, TY_ROLE_LINEAR, name, 2, n_out, n_in, 0, 0);
    snprintf(name, sizeof(name), "%s%s.bias", base, leaf);
    add(b, prefix, TY_ROLE_BIAS, name, 1, n_out, 0, 0, 0);
}

static void add_squeezed(builder *b, const char *prefix, const char *base, const char *leaf,
                         ty_tensor_role role, int64_t n_out, int64_t n_in) {
    char name[96];
    snprintf(name, sizeof(name), "%s%s.weight", base, leaf);
    ty_tensor_spec *s = add(b, prefix, role, name, 2, n_out, n_in, 0, 0);
    if (s) s->squeezed = true;
    snprintf(name, sizeof(name), "%s%s.bias", base, leaf);
    add(b, prefix, TY_ROLE_BIAS, name, 1, n_out, 0, 0, 0);
}

/* Convolutions of 1 x 1 x 1, which are linear layers, and one over three frames. */
static void add_temporal(builder *b, const char *prefix, const char *base, const ty_vit_dims *d) {
    add_norm(b, prefix, base, "temporal.ln", d->width);
    add_squeezed(b, prefix, base, "temporal.down_proj", TY_ROLE_LINEAR, d->temporal, d->width);
    add_squeezed(b, prefix, base, "temporal.conv", TY_ROLE_OTHER, d->temporal, 3);
    add_squeezed(b, prefix, base, "temporal.up_proj", TY_ROLE_LINEAR, d->width, d->temporal);
}

ty_status ty_layout_vit(ty_layout *l, const ty_vit_dims *d, ty_err *err) {
    builder b = {l, TY_OK, err};
    const char *p = "vision_model.";
    int64_t grid = d->image_size / d->patch_size, w = d->width;
    add(&b, p, TY_ROLE_OTHER, "embeddings.cls_token", 3, 1, 1, w, 0);
    add(&b, p, TY_ROLE_OTHER, "embeddings.position_embedding", 3, 1, 1 + grid * grid, w, 0);
    add(&b, p, TY_ROLE_OTHER, "embeddings.patch_embed.weight", 4, w, 3, d->patch_size,
        d->patch_size);
    add_norm(&b, p, "embeddings.", "pre_layernorm", d->width);
    for (int i = 0; i < d->n_layer; i++) {
        char base[64];
        snprintf(base, sizeof(base), "encoder.layers.%d.", i);
        add_norm(&b, p, base, "input_layernorm", d->width);
        add_linear(&b, p, base, "self_attn.query_key_value", 3 * w, w);
        add_linear(&b, p, base, "self_attn.dense", w, w);
        add_norm(&b, p, base, "post_attention_layernorm", d->width);
        add_linear(&b, p, base, "mlp.fc1", d->n_ff, w);
        add_linear(&b, p, base, "mlp.fc2", w, d->n_ff);
        if (d->temporal) add_temporal(&b, p, base, d);
    }
    add_norm(&b, p, "", "post_layernorm", d->width);
    return b.st;
}

/* Positions of queries and keys, which v2 adds before the projections. */
static void add_positions(builder *b, const char *prefix, const char *base,
                          const ty_abstractor_dims *d) {
    char name[96];
    const struct {
        const char *leaf;
        int64_t rows;
        ty_fixed fixed;
    } both[] = {{"attention.q_pos_embed", d->n_query, TY_FIXED_POSITIONS},
                {"attention.k_pos_embed", 1 + (int64_t)d->grid * d->grid, TY_FIXED_GRID}};
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof(name), "%s%s", base, both[i].leaf);
        ty_tensor_spec *s = add(b, prefix, TY_ROLE_OTHER, name, 2, both[i].rows, d->width, 0, 0);
        if (s) s->fixed = both[i].fixed;
    }
}

ty_status ty_layout_abstractor(ty_layout *l, const ty_abstractor_dims *d, ty_err *err) {
    builder b = {l, TY_OK, err};
    const char *p = d->grid ? "visual_abstractor." : "abstractor.";
    int64_t w = d->width;
    ty_tensor_spec *q = add(&b, "", TY_ROLE_OTHER, "query_tokens", 3, 1, d->n_query, w, 0);
    if (q && d->grid) snprintf(q->source, sizeof(q->source), "%squery_embeds", p);
    for (int i = 0; i < d->n_layer; i++) {
        char base[64];
        snprintf(base, sizeof(base), "encoder.layers.%d.crossattention.", i);
        add_norm(&b, p, base, "norm1", d->width);
        add_norm(&b, p, base, "normk", d->n_in);
        if (d->grid) add_positions(&b, p, base, d);
        add_linear(&b, p, base, "attention.query", w, w);
        add_linear(&b, p, base, "attention.key", w, d->n_in);
        add_linear(&b, p, base, "attention.value", w, d->n_in);
        add_linear(&b, p, base, "output.out_proj", w, w);
        add_norm(&b, p, base, "output.norm2", d->width);
        add_linear(&b, p, base, "output.mlp.w1", d->n_ff, w);
        add_linear(&b, p, base, "output.mlp.w2", w, d->n_ff);
        add_linear(&b, p, base, "output.mlp.w3", d->n_ff, w);
        add_norm(&b, p, base, "output.mlp.ffn_ln", d->n_ff);
    }
    add_linear(&b, p, "", "visual_fc", d->n_out, w);
    add(&b, p, TY_ROLE_OTHER, "vit_eos", 3, 1, 1, d->n_out, 0);
    if (d->temporal) {
        add(&b, "", TY_ROLE_OTHER, "temporal_query_tokens", 3, 1, d->n_query, w, 0);
        add_linear(&b, p, "", "temporal_visual_fc", d->n_out, w);
    }
    return b.st;
}

/* One axis: half sines, then half cosines, of position * 10000^(-j / half), f32 as in the reference. */
static void sin_cos(int64_t position, int64_t width, float *out) {
    int64_t half = width / 2;
    for (int64_t j = 0; j < half; j++) {
        float omega = 1.0f / (float)pow(10000, (double)((float)j / (float)half));
        double angle = (double)((float)position * omega);
        out[j] = (float)sin(angle);
        out[half + j] = (float)cos(angle);
    }
}

void ty_layout_fill_fixed(const ty_tensor_spec *s, float *out) {
    int64_t rows = s->shape[0], width = s->shape[1], half = width / 2, grid = 1;
    memset(out, 0, (size_t)(rows * width) * sizeof(*out));
    if (s->fixed == TY_FIXED_POSITIONS)
        for (int64_t r = 0; r < rows; r++) sin_cos(r, width, out + r * width);
    if (s->fixed != TY_FIXED_GRID) return;
    while (grid * grid < rows - 1) grid++;
    for (int64_t cell = 0; cell < rows - 1; cell++) {
        float *row = out + (1 + cell) * width; /* behind the class token's */
        sin_cos(cell % grid, half, row);
        sin_cos(cell / grid, half, row + half);
    }
}

/* A tensor of the decoder under llama.cpp's name and Hugging Face's; n_in 0: one dimension. */
static void add_llama(builder *b, ty_tensor_role role, int64_t n_out, int64_t n_in, int rope_heads,
                      const char *name, const char *source) {
    ty_tensor_spec *s = add(b, "", role, name, n_in ? 2 : 1, n_out, n_in, 0, 0);
    if (!s) return;
    snprintf(s->source, sizeof(s->source), "%s", source);
    s->rope_heads = rope_heads;
}

/* blk.<i>.<name>.weight, model.layers.<i>.<source>.weight */
static void add_block(builder *b, ty_tensor_role role, int64_t n_out, int64_t n_in, int rope_heads,
                      int i, const char *name, const char *source) {
    char dst[96], src[128];
    snprintf(dst, sizeof(dst), "blk.%d.%s.weight", i, name);
    snprintf(src, sizeof(src), "model.layers.%d.%s.weight", i, source);
    add_llama(b, role, n_out, n_in, rope_heads, dst, src);
}

/* The same, twice in v2: blk.<i>.<name> for text rows, blk.<i>.vis_<name> for visual ones. */
static void add_ways(builder *b, bool multiway, ty_tensor_role role, int64_t n_out, int64_t n_in,
                     int rope_heads, int i, const char *name, const char *source) {
    for (int way = 0; way < (multiway ? 2 : 1); way++) {
        char dst[64], src[96];
        snprintf(dst, sizeof(dst), "%s%s", way ? "vis_" : "", name);
        snprintf(src, sizeof(src), "%s", source);
        if (multiway) snprintf(src, sizeof(src), "%s.multiway.%d", source, way);
        add_block(b, role, n_out, n_in, rope_heads, i, dst, src);
    }
}

/* <name>.{weight,bias}; n_in 0: a norm. */
static void add_bloom(builder *b, int64_t n_out, int64_t n_in, int qkv_heads, const char *name,
                      const char *source) {
    static const char *const leaf[] = {"weight", "bias"};
    for (int i = 0; i < 2; i++) {
        bool matrix = n_in && i == 0;
        ty_tensor_role role = matrix ? TY_ROLE_LINEAR : i ? TY_ROLE_BIAS : TY_ROLE_GAIN;
        char dst[96];
        snprintf(dst, sizeof(dst), "%s.%s", name, leaf[i]);
        ty_tensor_spec *s = add(b, "", role, dst, matrix ? 2 : 1, n_out, matrix ? n_in : 0, 0, 0);
        if (!s) return;
        snprintf(s->source, sizeof(s->source), "%s.%s", source, leaf[i]);
        s->qkv_heads = qkv_heads;
    }
}

/* blk.<i>.<name>, h.<i>.<source> */
static void add_bloom_block(builder *b, int64_t n_out, int64_t n_in, int qkv_heads, int i,
                            const char *name, const char *source) {
    char dst[80], src[96];
    snprintf(dst, sizeof(dst), "blk.%d.%s", i, name);
    snprintf(src, sizeof(src), "h.%d.%s", i, source);
    add_bloom(b, n_out, n_in, qkv_heads, dst, src);
}

static ty_status layout_bloom(builder *b, const ty_decoder_dims *d) {
    int64_t w = d->width, f = d->n_ff;
    add_llama(b, TY_ROLE_LINEAR, d->n_vocab, w, 0, "token_embd.weight", "word_embeddings.weight");
    add_bloom(b, w, 0, 0, "token_embd_norm", "word_embeddings_layernorm");
    for (int i = 0; i < d->n_layer; i++) {
        add_bloom_block(b, w, 0, 0, i, "attn_norm", "input_layernorm");
        add_bloom_block(b, 3 * w, w, d->n_head, i, "attn_qkv", "self_attention.query_key_value");
        add_bloom_block(b, w, w, 0, i, "attn_output", "self_attention.dense");
        add_bloom_block(b, w, 0, 0, i, "ffn_norm", "post_attention_layernorm");
        add_bloom_block(b, f, w, 0, i, "ffn_up", "mlp.dense_h_to_4h");
        add_bloom_block(b, w, f, 0, i, "ffn_down", "mlp.dense_4h_to_h");
    }
    add_bloom(b, w, 0, 0, "output_norm", "ln_f");
    return b->st;
}

ty_status ty_layout_decoder(ty_layout *l, const ty_decoder_dims *d, ty_err *err) {
    builder b = {l, TY_OK, err};
    if (d->bloom) return layout_bloom(&b, d);
    bool two = d->multiway;
    int64_t w = d->width, kv = w / d->n_head * d->n_head_kv;
    const ty_tensor_role linear = TY_ROLE_LINEAR, gain = TY_ROLE_GAIN;
    add_llama(&b, linear, d->n_vocab, w, 0, "token_embd.weight", "model.embed_tokens.weight");
    for (int i = 0; i < d->n_layer; i++) {
        add_ways(&b, two, gain, w, 0, 0, i, "attn_norm", "input_layernorm");
        add_block(&b, linear, w, w, d->n_head, i, "attn_q", "self_attn.q_proj");
        add_ways(&b, two, linear, kv, w, d->n_head_kv, i, "attn_k", "self_attn.k_proj");
        add_ways(&b, two, linear, kv, w, 0, i, "attn_v", "self_attn.v_proj");
        add_block(&b, linear, w, w, 0, i, "attn_output", "self_attn.o_proj");
        add_ways(&b, two, gain, w, 0, 0, i, "ffn_norm", "post_attention_layernorm");
        add_block(&b, linear, d->n_ff, w, 0, i, "ffn_gate", "mlp.gate_proj");
        add_block(&b, linear, d->n_ff, w, 0, i, "ffn_up", "mlp.up_proj");
        add_block(&b, linear, w, d->n_ff, 0, i, "ffn_down", "mlp.down_proj");
    }
    add_llama(&b, gain, w, 0, 0, "output_norm.weight", "model.norm.weight");
    add_llama(&b, linear, d->n_vocab, w, 0, "output.weight", "lm_head.weight");
    return b.st;
}

void ty_layout_clear(ty_layout *l) {
    free(l->item);
    *l = (ty_layout){0};
}

typedef struct {
    const char *key;
    int value;
} number;

static ty_status set_numbers(ty_gguf_writer *w, const number *list, ty_err *err) {
    ty_status st = TY_OK;
    for (; st == TY_OK && list->key; list++)
        st = ty_gguf_set_u32(w, list->key, (uint32_t)list->value, err);
    return st;
}

ty_status ty_layout_set_preprocess(ty_gguf_writer *w, const ty_preprocess_dims *d, ty_err *err) {
    ty_status st = ty_gguf_set_u32(w, "preprocess.image_size", (uint32_t)d->image_size, err);
    if (st == TY_OK) st = ty_gguf_set_f32s(w, "preprocess.image_mean", d->mean, 3, err);
    if (st == TY_OK) st = ty_gguf_set_f32s(w, "preprocess.image_std", d->std, 3, err);
    if (st == TY_OK) st = ty_gguf_set_f32(w, "preprocess.rescale_factor", d->scale, err);
    if (st == TY_OK && d->n_frame)
        st = ty_gguf_set_u32(w, "preprocess.frame_count", (uint32_t)d->n_frame, err);
    return st == TY_OK ? ty_gguf_set_str(w, "preprocess.mode", d->mode, strlen(d->mode), err) : st;
}

ty_status ty_layout_set_vit(ty_gguf_writer *w, const ty_vit_dims *d, ty_err *err) {
    const number list[] = {{"vit.image_size", d->image_size},
                           {"vit.patch_size", d->patch_size},
                           {"vit.embedding_length", d->width},
                           {"vit.block_count", d->n_layer},
                           {"vit.attention.head_count", d->n_head},
                           {"vit.feed_forward_length", d->n_ff},
                           {NULL, 0}};
    ty_status st = set_numbers(w, list, err);
    if (st == TY_OK) st = ty_gguf_set_f32(w, "vit.attention.layer_norm_epsilon", d->eps, err);
    if (st == TY_OK && d->temporal)
        st = ty_gguf_set_u32(w, "vit.temporal_length", (uint32_t)d->temporal, err);
    return st == TY_OK ? ty_gguf_set_str(w, "vit.hidden_act", d->act, strlen(d->act), err) : st;
}

ty_status ty_layout_set_abstractor(ty_gguf_writer *w, const ty_abstractor_dims *d, ty_err *err) {
    const number list[] = {
        {"abstractor.query_count", d->n_query},      {"abstractor.embedding_length", d->width},
        {"abstractor.block_count", d->n_layer},      {"abstractor.attention.head_count", d->n_head},
        {"abstractor.feed_forward_length", d->n_ff}, {"abstractor.encoder_length", d->n_in},
        {"abstractor.output_length", d->n_out},      {NULL, 0}};
    ty_status st = set_numbers(w, list, err);
    if (st == TY_OK && d->grid)
        st = ty_gguf_set_u32(w, "abstractor.grid_size", (uint32_t)d->grid, err);
    return st == TY_OK ? ty_gguf_set_f32(w, "abstractor.layer_norm_epsilon", d->eps, err) : st;
}

const char *ty_layout_decoder_arch(const ty_decoder_dims *d) {
    return d->multiway ? TY_ARCH_MULTIWAY : d->bloom ? TY_ARCH_BLOOM : TY_ARCH_DECODER;
}

ty_status ty_layout_set_decoder(ty_gguf_writer *w, const ty_decoder_dims *d, ty_err *err) {
    const char *arch = ty_layout_decoder_arch(d);
    const number list[] = {
        {"context_length", d->n_ctx},        {"embedding_length", d->width},
        {"block_count", d->n_layer},         {"feed_forward_length", d->n_ff},
        {"attention.head_count", d->n_head}, {"attention.head_count_kv", d->n_head_kv},
        {"vocab_size", d->n_vocab},          {"rope.dimension_count", d->width / d->n_head}};
    const size_t n = sizeof(list) / sizeof(*list) - d->bloom;
    char key[96];
    ty_status st = TY_OK;
    for (size_t i = 0; st == TY_OK && i < n; i++) {
        snprintf(key, sizeof(key), "%s.%s", arch, list[i].key);
        st = ty_gguf_set_u32(w, key, (uint32_t)list[i].value, err);
    }
    snprintf(key, sizeof(key), "%s.attention.layer_norm_%sepsilon", arch, d->bloom ? "" : "rms_");
    if (st == TY_OK) st = ty_gguf_set_f32(w, key, d->eps, err);
    snprintf(key, sizeof(key), "%s.rope.freq_base", arch);
    if (st == TY_OK && d->rope_base > 0) st = ty_gguf_set_f32(w, key, d->rope_base, err);
    return st;
}

void ty_layout_permute_rope(const void *src, void *dst, int n_head, int64_t n_row,
                            size_t row_bytes) {
    const uint8_t *s = src;
    uint8_t *t = dst;
    int64_t d = n_row / n_head, half = d / 2;
    for (int64_t h = 0; h < n_head; h++)
        for (int64_t j = 0; j < half; j++)
            for (int64_t k = 0; k < 2; k++)
                memcpy(t + (size_t)(h * d + 2 * j + k) * row_bytes,
                       s + (size_t)(h * d + k * half + j) * row_bytes, row_bytes);
}

void ty_layout_split_qkv(const void *src, void *dst, int n_head, int64_t n_row, size_t row_bytes) {
    const uint8_t *s = src;
    uint8_t *t = dst;
    int64_t d = n_row / n_head / 3;
    size_t part = (size_t)d * row_bytes;
    for (int64_t h = 0; h < n_head; h++)
        for (int64_t k = 0; k < 3; k++)
            memcpy(t + (size_t)(k * n_head + h) * part, s + (size_t)(h * 3 + k) * part, part);
}
