/*
 * owl.h - the model as the trainer sees it: one description for mPLUG-Owl v1, mPLUG-Owl2 and a plain
 * LLaMA, bound to the parameters of a Hugging Face checkpoint directory.
 *
 * The versions differ in four things, all of them data here: names, v2's positions in the abstractor,
 * v2's second copies of norms and K/V projections for visual rows (n_way 2), and how prompts are
 * spliced (batch.h).
 */
#ifndef TRAIN_OWL_H
#define TRAIN_OWL_H

#include "common/model/layout.h"
#include "training/param.h"
#include "training/recipe.h"

/* y = x w^T + b + scale (x a^T) b_low^T; b, low-rank a [r, in] and b_low [out, r] may be NULL. */
typedef struct {
    param *w, *b;
    param *lora_a, *lora_b;
    float scale;
    int lora_id; /* counts adapters from 0: which dropout is theirs */
} owl_linear;

typedef struct {
    param *w, *b; /* b NULL: an RMSNorm */
    float eps;
} owl_norm;

typedef struct {
    owl_norm before_attention, before_mlp;
    owl_linear qkv, dense, fc1, fc2;
} owl_vit_layer;

typedef struct {
    owl_norm norm1, normk, norm2, ffn_ln;
    owl_linear query, key, value, out_proj, w1, w2, w3;
    float *q_pos, *k_pos; /* v2: [Q, C], [Q + tokens, C], the queries' positions first; else NULL */
} owl_abstractor_layer;

enum { OWL_TEXT, OWL_VISUAL, OWL_WAYS };

typedef struct {
    owl_norm before_attention[OWL_WAYS], before_mlp[OWL_WAYS];
    owl_linear q, k[OWL_WAYS], v[OWL_WAYS], o, gate, up, down;
} owl_llm_layer;

typedef struct {
    int version; /* 1, 2; 0: a plain LLaMA */
    int n_way;   /* copies of what v2 keeps per modality */
    ty_vit_dims vit;
    ty_abstractor_dims abstractor;
    ty_decoder_dims llm;
    param_set params;

    owl_linear
        cells; /* where the ViT learns alone: [n_cell_text * SAMPLE_CLASSES, C], no part of the checkpoint */
    int n_cell_text;   /* 0: no such head */
    owl_lesson lesson; /* what a pass learns from */

    param *cls, *position;
    owl_linear patch_embed; /* the convolution as [C, 3 p p] */
    owl_norm vit_pre, vit_post;
    owl_vit_layer *vit_layer;

    param *query, *eos;
    owl_linear visual_fc;
    owl_abstractor_layer *abstractor_layer;

    param *embed;
    int padding_id; /* the row of embed that takes no gradient (PyTorch's padding_idx); -1: none */
    owl_llm_layer *llm_layer;
    owl_norm final_norm;
    owl_linear head;
    float *cos, *sin; /* [n_ctx, d_head / 2] */
} owl;

/* Reads DIR (config.json and weights).  trains and frozen_type: param.h.  The language model gets new_layers more behind
 * its last, from seed, which at first change nothing: what they add to the residual stream is 0 (LLaMA Pro,
 * arXiv 2401.02415).  Parameters are not settled yet: LoRA may be added first.  Fails: TY_ENOTFOUND, TY_EFORMAT, TY_ESHAPE, TY_EUNSUPPORTED. */
ty_status owl_open(owl **out, const char *dir, bool (*trains)(void *ctx, const char *name),
                   void *ctx, int frozen_type, int new_layers, uint64_t seed, ty_err *err);
/* The same with new weights: DIR needs config.json alone, which then gives all sizes. */
ty_status owl_new(owl **out, const char *dir, bool (*trains)(void *ctx, const char *name),
                  void *ctx, int frozen_type, uint64_t seed, ty_err *err);
/* The head under which a ViT learns alone: `texts` things to say of each patch.  Before param_settle.  Fails: TY_ENOMEM. */
ty_status owl_add_cells(owl *m, int texts, ty_err *err);
int owl_patches(const owl *m); /* of a picture */
/* Calls fn for each linear layer of the language model with its checkpoint name without ".weight". */
ty_status owl_each_linear(owl *m,
                          ty_status (*fn)(void *ctx, const char *name, owl_linear *l, ty_err *err),
                          void *ctx, ty_err *err);
void owl_close(owl **m);

#endif
