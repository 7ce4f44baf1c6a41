/* source_dims.c - see source_dims.h. */
#include "orchestration/source_dims.h"

#include <stdio.h>
#include <string.h>

enum { MAX_LAYERS = 1000, MAX_SIZE = 1 << 24 };

/* --- numbers of config.json --- */

static ty_status bad_key(const source *s, const char *key, const char *want, ty_err *err) {
    return ty_fail(err, TY_EFORMAT, "%s: config.json: \"%s\" is not %s", s->dir, key, want);
}

/* A whole number, 1 to max; `absent` when it is not there or null. */
static ty_status get_size(const source *s, const json_t *o, const char *key, int absent, int max,
                          int *v, ty_err *err) {
    const json_t *j = json_object_get(o, key);
    *v = absent;
    if (!j || json_is_null(j)) return TY_OK;
    if (!json_is_integer(j) || json_integer_value(j) < 1 || json_integer_value(j) > max) {
        char want[64];
        snprintf(want, sizeof(want), "a whole number from 1 to %d", max);
        return bad_key(s, key, want, err);
    }
    *v = (int)json_integer_value(j);
    return TY_OK;
}

static ty_status get_positive(const source *s, const json_t *o, const char *key, double absent,
                              float *v, ty_err *err) {
    const json_t *j = json_object_get(o, key);
    *v = (float)absent;
    if (!j || json_is_null(j)) return TY_OK;
    double x = json_number_value(j);
    if (!json_is_number(j) || !(x > 0) || x > 1e30) return bad_key(s, key, "a number > 0", err);
    *v = (float)x;
    return TY_OK;
}

/* A token id, or the first of a list; -1 when absent or out of range. */
static int get_id(const json_t *o, const char *key, int n_vocab) {
    const json_t *j = json_object_get(o, key);
    if (json_is_array(j)) j = json_array_get(j, 0);
    if (!json_is_integer(j) || json_integer_value(j) < 0 || json_integer_value(j) >= n_vocab)
        return -1;
    return (int)json_integer_value(j);
}

/* --- sizes of tensors --- */

/* Dimension `dim` of a tensor that has n_dim of them. */
static ty_status get_dim(const source *s, const char *name, int n_dim, int dim, int *v,
                         ty_err *err) {
    ty_tensor t;
    char shape[128];
    ty_status st = ty_checkpoint_info(s->checkpoint, name, &t, err);
    if (st != TY_OK) return st;
    if (t.n_dim != n_dim || t.shape[dim] < 1 || t.shape[dim] > MAX_SIZE)
        return ty_fail(err, TY_ESHAPE, "%s: tensor %s is %s, want %d dimensions", s->dir, name,
                       ty_tensor_shape_text(&t, shape, sizeof(shape)), n_dim);
    *v = (int)t.shape[dim];
    return TY_OK;
}

/* How many of "<before>0<after>", "<before>1<after>" ... there are. */
static int count_layers(const source *s, const char *before, const char *after) {
    int n = 0;
    for (char name[256]; n < MAX_LAYERS; n++) {
        snprintf(name, sizeof(name), "%s%d%s", before, n, after);
        if (!ty_checkpoint_has(s->checkpoint, name)) break;
    }
    return n;
}

/* The configuration's number of layers, or what the tensors show; the configuration may not promise
 * absurdly more than there are. */
static ty_status get_layers(const source *s, const json_t *o, const char *before, const char *after,
                            int *n, ty_err *err) {
    ty_status st =
        get_size(s, o, "num_hidden_layers", count_layers(s, before, after), MAX_LAYERS, n, err);
    if (st == TY_OK && *n == 0)
        return ty_fail(err, TY_ENOTFOUND, "%s: the checkpoint has no tensor %s0%s", s->dir, before,
                       after);
    return st;
}

static ty_status check_heads(const source *s, const char *what, int width, int n_head,
                             ty_err *err) {
    if (width % n_head == 0) return TY_OK;
    return ty_fail(err, TY_EFORMAT, "%s: config.json: %s: width %d is not a multiple of %d heads",
                   s->dir, what, width, n_head);
}

/* --- the stages --- */

typedef struct {
    char text[192];
} full_name;

/* A tensor of a stage, as the checkpoint calls it. */
static full_name named(const source *s, ty_stage_kind k, const char *base, const char *leaf) {
    full_name n;
    snprintf(n.text, sizeof(n.text), "%s%s%s", s->prefix[k], base, leaf);
    return n;
}

/* v1's part of config.json, or v2's inside "visual_config". */
static const json_t *vision_part(const source *s, const char *v1, const char *v2) {
    if (!s->v2) return json_object_get(s->config, v1);
    return json_object_get(json_object_get(s->config, "visual_config"), v2);
}

/* v1's code does not read hidden_act, v2's does. */
static ty_status check_vit_act(const source *s, const json_t *c, ty_err *err) {
    const char *act = json_string_value(json_object_get(c, "hidden_act"));
    if (!s->v2 || !act || strcmp(act, "quick_gelu") == 0) return TY_OK;
    return ty_fail(err, TY_EUNSUPPORTED,
                   "%s: config.json: visual_model.hidden_act is \"%.32s\", want \"quick_gelu\"",
                   s->dir, act);
}

ty_status source_read_vit(source *s, ty_err *err) {
    const json_t *c = vision_part(s, "vision_config", "visual_model");
    ty_vit_dims *d = &s->vit;
    const ty_stage_kind k = TY_STAGE_VIT;
    full_name patch = named(s, k, "vision_model.", "embeddings.patch_embed.weight");
    full_name layers = named(s, k, "vision_model.", "encoder.layers.");
    full_name fc1 = named(s, k, "vision_model.", "encoder.layers.0.mlp.fc1.weight");
    ty_status st = get_dim(s, patch.text, 4, 0, &d->width, err);
    if (st == TY_OK) st = get_dim(s, patch.text, 4, 3, &d->patch_size, err);
    if (st == TY_OK) st = get_dim(s, fc1.text, 2, 0, &d->n_ff, err);
    if (st == TY_OK) st = get_layers(s, c, layers.text, ".mlp.fc1.weight", &d->n_layer, err);
    if (st == TY_OK) st = get_size(s, c, "num_attention_heads", 16, 4096, &d->n_head, err);
    if (st == TY_OK)
        st = get_size(s, c, "image_size", s->v2 ? 448 : 224, 16384, &d->image_size, err);
    if (st == TY_OK) st = get_positive(s, c, "layer_norm_eps", 1e-6, &d->eps, err);
    if (st == TY_OK) st = check_heads(s, "the ViT", d->width, d->n_head, err);
    if (st == TY_OK) st = check_vit_act(s, c, err);
    if (st == TY_OK && s->video) {
        full_name down = named(s, k, "vision_model.", "encoder.layers.0.temporal.down_proj.weight");
        st = get_dim(s, down.text, 5, 0, &d->temporal, err);
    }
    snprintf(d->act, sizeof(d->act), "quick_gelu");
    return st;
}

/* Switches that the reference has for v2's abstractor, and cannot run itself. */
static ty_status check_abstractor_config(const source *s, const json_t *c, ty_err *err) {
    if (!s->v2) return TY_OK;
    if (json_is_true(json_object_get(c, "add_v2t_pos_emb")))
        return ty_fail(err, TY_EUNSUPPORTED,
                       "%s: config.json: visual_abstractor.add_v2t_pos_emb is not supported",
                       s->dir);
    if (json_is_false(json_object_get(c, "use_cls_token")))
        return ty_fail(err, TY_EUNSUPPORTED,
                       "%s: config.json: visual_abstractor.use_cls_token false is not supported",
                       s->dir);
    return TY_OK;
}

ty_status source_read_abstractor(source *s, ty_err *err) {
    const json_t *c = vision_part(s, "visual_abstractor_config", "visual_abstractor");
    ty_abstractor_dims *d = &s->abstractor;
    const ty_stage_kind k = TY_STAGE_ABSTRACTOR;
    const char *base = s->v2 ? "visual_abstractor." : "abstractor.";
    const char *w1 = ".crossattention.output.mlp.w1.weight";
    full_name queries = s->v2 ? named(s, k, base, "query_embeds") : named(s, k, "", "query_tokens");
    full_name layers = named(s, k, base, "encoder.layers.");
    full_name first = named(s, k, base, "encoder.layers.0.crossattention.output.mlp.w1.weight");
    full_name key = named(s, k, base, "encoder.layers.0.crossattention.attention.key.weight");
    full_name fc = named(s, k, base, "visual_fc.weight");
    ty_status st = get_dim(s, queries.text, 3, 1, &d->n_query, err);
    if (st == TY_OK) st = get_dim(s, queries.text, 3, 2, &d->width, err);
    if (st == TY_OK) st = get_dim(s, first.text, 2, 0, &d->n_ff, err);
    if (st == TY_OK) st = get_dim(s, key.text, 2, 1, &d->n_in, err);
    if (st == TY_OK) st = get_dim(s, fc.text, 2, 0, &d->n_out, err);
    if (st == TY_OK) st = get_layers(s, c, layers.text, w1, &d->n_layer, err);
    if (st == TY_OK) st = get_size(s, c, "num_attention_heads", 16, 4096, &d->n_head, err);
    if (st == TY_OK) st = get_positive(s, c, "layer_norm_eps", 1e-6, &d->eps, err);
    int grid = s->vit.image_size / s->vit.patch_size;
    if (st == TY_OK && s->v2) st = get_size(s, c, "grid_size", grid, 4096, &d->grid, err);
    d->temporal = s->video;
    if (st == TY_OK) st = check_abstractor_config(s, c, err);
    return st == TY_OK ? check_heads(s, "the abstractor", d->width, d->n_head, err) : st;
}

/* What a LLaMA may have and Tyto does not compute. */
static ty_status check_llama(const source *s, const json_t *c, ty_err *err) {
    const char *act = json_string_value(json_object_get(c, "hidden_act"));
    if (act && strcmp(act, "silu") != 0)
        return ty_fail(err, TY_EUNSUPPORTED,
                       "%s: config.json: hidden_act is \"%.32s\", want \"silu\"", s->dir, act);
    if (json_is_true(json_object_get(c, "attention_bias")))
        return ty_fail(err, TY_EUNSUPPORTED, "%s: config.json: attention_bias is not supported",
                       s->dir);
    return TY_OK;
}

/* {"type": "linear", "factor": 2.0}, or null.  "dynamic" depends on how long a text has become. */
static ty_status read_rope_scaling(source *s, const json_t *c, ty_err *err) {
    const json_t *o = json_object_get(c, "rope_scaling");
    const char *type = json_string_value(json_object_get(o, "type"));
    if (!o || json_is_null(o)) return TY_OK;
    if (!type) type = json_string_value(json_object_get(o, "rope_type"));
    if (!type || strcmp(type, "linear") != 0)
        return ty_fail(err, TY_EUNSUPPORTED,
                       "%s: config.json: rope_scaling \"%.32s\" is not supported, only \"linear\"",
                       s->dir, type ? type : "without a type");
    return get_positive(s, o, "factor", 1, &s->rope_factor, err);
}

static ty_status check_head_width(const source *s, const json_t *c, ty_err *err) {
    const ty_decoder_dims *d = &s->decoder;
    int head = 0;
    ty_status st = check_heads(s, "the decoder", d->width, d->n_head, err);
    if (st == TY_OK) st = get_size(s, c, "head_dim", d->width / d->n_head, 4096, &head, err);
    if (st != TY_OK) return st;
    if (d->n_head % d->n_head_kv != 0)
        return ty_fail(err, TY_EFORMAT, "%s: config.json: %d heads on %d key-value heads", s->dir,
                       d->n_head, d->n_head_kv);
    if (d->multiway && d->n_head_kv != d->n_head)
        return ty_fail(err, TY_EUNSUPPORTED,
                       "%s: config.json: num_key_value_heads is %d, mPLUG-Owl2 has one for each of "
                       "the %d heads (the reference cannot run another number)",
                       s->dir, d->n_head_kv, d->n_head);
    if (head != d->width / d->n_head || head % 2 != 0)
        return ty_fail(err, TY_EUNSUPPORTED, "%s: config.json: heads of %d in a width of %d / %d",
                       s->dir, head, d->width, d->n_head);
    return TY_OK;
}

/* A number that newer and older files name differently. */
static ty_status get_either(const source *s, const json_t *c, const char *key, const char *other,
                            int absent, int *v, ty_err *err) {
    return get_size(s, c, json_object_get(c, key) ? key : other, absent, 1 << 22, v, err);
}

static ty_status read_bloom(source *s, const json_t *c, ty_err *err) {
    ty_decoder_dims *d = &s->decoder;
    const ty_stage_kind k = TY_STAGE_DECODER;
    full_name embed = named(s, k, "", "word_embeddings.weight");
    full_name up = named(s, k, "", "h.0.mlp.dense_h_to_4h.weight");
    full_name layers = named(s, k, "", "h.");
    int counted = count_layers(s, layers.text, ".mlp.dense_h_to_4h.weight");
    ty_status st = get_dim(s, embed.text, 2, 0, &d->n_vocab, err);
    if (st == TY_OK) st = get_dim(s, embed.text, 2, 1, &d->width, err);
    if (st == TY_OK) st = get_dim(s, up.text, 2, 0, &d->n_ff, err);
    if (st == TY_OK)
        st = get_either(s, c, "n_layer", "num_hidden_layers", counted, &d->n_layer, err);
    if (st == TY_OK) st = get_either(s, c, "n_head", "num_attention_heads", 8, &d->n_head, err);
    if (st == TY_OK) st = get_size(s, c, "seq_length", 2048, 1 << 22, &d->n_ctx, err);
    if (st == TY_OK) st = get_positive(s, c, "layer_norm_epsilon", 1e-5, &d->eps, err);
    if (st == TY_OK && json_is_true(json_object_get(c, "apply_residual_connection_post_layernorm")))
        st = ty_fail(err, TY_EUNSUPPORTED,
                     "%s: config.json: apply_residual_connection_post_layernorm is not supported",
                     s->dir);
    d->n_head_kv = d->n_head;
    return st == TY_OK ? check_head_width(s, c, err) : st;
}

static ty_status read_llama(source *s, const json_t *c, ty_err *err) {
    ty_decoder_dims *d = &s->decoder;
    const ty_stage_kind k = TY_STAGE_DECODER;
    full_name embed = named(s, k, "model.", "embed_tokens.weight");
    full_name gate = named(s, k, "model.", "layers.0.mlp.gate_proj.weight");
    full_name layers = named(s, k, "model.", "layers.");
    d->multiway = s->v2;
    ty_status st = check_llama(s, c, err);
    if (st == TY_OK) st = get_dim(s, embed.text, 2, 0, &d->n_vocab, err);
    if (st == TY_OK) st = get_dim(s, embed.text, 2, 1, &d->width, err);
    if (st == TY_OK) st = get_dim(s, gate.text, 2, 0, &d->n_ff, err);
    if (st == TY_OK) st = get_layers(s, c, layers.text, ".mlp.gate_proj.weight", &d->n_layer, err);
    if (st == TY_OK) st = get_size(s, c, "num_attention_heads", 32, 4096, &d->n_head, err);
    if (st == TY_OK)
        st = get_size(s, c, "num_key_value_heads", d->n_head, 4096, &d->n_head_kv, err);
    if (st == TY_OK) st = get_size(s, c, "max_position_embeddings", 2048, 1 << 22, &d->n_ctx, err);
    if (st == TY_OK) st = get_positive(s, c, "rms_norm_eps", 1e-6, &d->eps, err);
    if (st == TY_OK && json_object_get(c, "rope_theta"))
        st = get_positive(s, c, "rope_theta", 10000, &d->rope_base, err);
    if (st == TY_OK) st = read_rope_scaling(s, c, err);
    if (st == TY_OK) st = check_head_width(s, c, err);
    return st;
}

ty_status source_read_decoder(source *s, ty_err *err) {
    const json_t *c = s->vision && !s->v2 ? json_object_get(s->config, "text_config") : s->config;
    ty_status st = (s->decoder.bloom ? read_bloom : read_llama)(s, c, err);
    s->bos = get_id(c, "bos_token_id", s->decoder.n_vocab);
    s->eos = get_id(c, "eos_token_id", s->decoder.n_vocab);
    s->pad = get_id(c, "pad_token_id", s->decoder.n_vocab);
    return st;
}
