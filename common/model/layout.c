/* layout.c - see layout.h. */
#include "common/model/layout.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

ty_preprocess_dims ty_layout_clip(void) {
    return (ty_preprocess_dims){{0.48145466f, 0.4578275f, 0.40821073f},
                                {0.26862954f, 0.26130258f, 0.27577711f},
                                1.0f / 255,
                                224};
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
    }
    add_norm(&b, p, "", "post_layernorm", d->width);
    return b.st;
}

ty_status ty_layout_abstractor(ty_layout *l, const ty_abstractor_dims *d, ty_err *err) {
    builder b = {l, TY_OK, err};
    const char *p = "abstractor.";
    int64_t w = d->width;
    add(&b, "", TY_ROLE_OTHER, "query_tokens", 3, 1, d->n_query, w, 0);
    for (int i = 0; i < d->n_layer; i++) {
        char base[64];
        snprintf(base, sizeof(base), "encoder.layers.%d.crossattention.", i);
        add_norm(&b, p, base, "norm1", d->width);
        add_norm(&b, p, base, "normk", d->n_in);
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
    return b.st;
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

ty_status ty_layout_decoder(ty_layout *l, const ty_decoder_dims *d, ty_err *err) {
    builder b = {l, TY_OK, err};
    int64_t w = d->width, kv = w / d->n_head * d->n_head_kv;
    const ty_tensor_role linear = TY_ROLE_LINEAR, gain = TY_ROLE_GAIN;
    add_llama(&b, linear, d->n_vocab, w, 0, "token_embd.weight", "model.embed_tokens.weight");
    for (int i = 0; i < d->n_layer; i++) {
        add_block(&b, gain, w, 0, 0, i, "attn_norm", "input_layernorm");
        add_block(&b, linear, w, w, d->n_head, i, "attn_q", "self_attn.q_proj");
        add_block(&b, linear, kv, w, d->n_head_kv, i, "attn_k", "self_attn.k_proj");
        add_block(&b, linear, kv, w, 0, i, "attn_v", "self_attn.v_proj");
        add_block(&b, linear, w, w, 0, i, "attn_output", "self_attn.o_proj");
        add_block(&b, gain, w, 0, 0, i, "ffn_norm", "post_attention_layernorm");
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
    return st == TY_OK ? ty_gguf_set_str(w, "preprocess.mode", "native", 6, err) : st;
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
    return st == TY_OK ? ty_gguf_set_str(w, "vit.hidden_act", d->act, strlen(d->act), err) : st;
}

ty_status ty_layout_set_abstractor(ty_gguf_writer *w, const ty_abstractor_dims *d, ty_err *err) {
    const number list[] = {
        {"abstractor.query_count", d->n_query},      {"abstractor.embedding_length", d->width},
        {"abstractor.block_count", d->n_layer},      {"abstractor.attention.head_count", d->n_head},
        {"abstractor.feed_forward_length", d->n_ff}, {"abstractor.encoder_length", d->n_in},
        {"abstractor.output_length", d->n_out},      {NULL, 0}};
    ty_status st = set_numbers(w, list, err);
    return st == TY_OK ? ty_gguf_set_f32(w, "abstractor.layer_norm_epsilon", d->eps, err) : st;
}

ty_status ty_layout_set_decoder(ty_gguf_writer *w, const ty_decoder_dims *d, ty_err *err) {
    const number list[] = {{"llama.context_length", d->n_ctx},
                           {"llama.embedding_length", d->width},
                           {"llama.block_count", d->n_layer},
                           {"llama.feed_forward_length", d->n_ff},
                           {"llama.attention.head_count", d->n_head},
                           {"llama.attention.head_count_kv", d->n_head_kv},
                           {"llama.rope.dimension_count", d->width / d->n_head},
                           {"llama.vocab_size", d->n_vocab},
                           {NULL, 0}};
    ty_status st = set_numbers(w, list, err);
    if (st == TY_OK) st = ty_gguf_set_f32(w, "llama.attention.layer_norm_rms_epsilon", d->eps, err);
    if (st == TY_OK && d->rope_base > 0)
        st = ty_gguf_set_f32(w, "llama.rope.freq_base", d->rope_base, err);
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
