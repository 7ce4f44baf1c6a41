/*
 * adapter.h - a LoRA adapter in PEFT's layout: adapter_config.json and adapter_model.safetensors (or .bin),
 * tensors `base_model.model.<module>.lora_A.weight` [r, in] and `.lora_B.weight` [out, r].
 *
 *     W' = W + alpha / r * B A
 *
 * Forms that mean other arithmetic (DoRA, rsLoRA, biases, transposed weights, whole modules saved) are
 * refused by name.
 */
#ifndef TY_MODEL_ADAPTER_H
#define TY_MODEL_ADAPTER_H

#include "common/math/dtype.h"
#include "common/model/gguf.h"

typedef struct {
    char *module;          /* "language_model.model.layers.0.self_attn.q_proj" */
    int64_t in, out, rank; /* */
    float *a, *b;          /* [rank, in], [out, rank] */
} ty_adapter_pair;

typedef struct {
    char dir[4096];
    int rank;
    double alpha;
    char target
        [512]; /* target_modules: an expression that a module's whole name matches; a list of names
                         becomes one */
    ty_adapter_pair *pair;
    int n;
} ty_adapter;

/* Fails: TY_ENOTFOUND, TY_EFORMAT, TY_EUNSUPPORTED, TY_ESHAPE (A and B do not fit). */
ty_status ty_adapter_open(ty_adapter **out, const char *dir, ty_err *err);
/* The pair of a module, NULL when the adapter leaves it alone. */
const ty_adapter_pair *ty_adapter_find(const ty_adapter *a, const char *module, size_t len);
/* w [out, in] f32 += alpha / r * B A.  Fails: TY_ESHAPE, TY_ENOMEM. */
ty_status ty_adapter_merge(const ty_adapter *a, const ty_adapter_pair *p, float *w, int64_t out,
                           int64_t in, ty_err *err);
/* What its answers depend on: a hash of names, matrices and alpha / r.  The same adapter in another file has the
 * same. */
void ty_adapter_identity(const ty_adapter *a, char out[TY_MODEL_ID_SIZE]);
void ty_adapter_close(ty_adapter **a);

/*
 * "[MODEL+]NAME=DIR" as --adapter has it: the adapter in DIR answers as model MODEL+NAME.  NAME: letters, digits,
 * '.', '-', '_'.
 */
enum { TY_ADAPTER_NAME = 64 };
typedef struct ty_adapter_option {
    char model[256]; /* "" = not given */
    char name[TY_ADAPTER_NAME];
    const char *dir; /* in the text */
} ty_adapter_option;

/* Fails: TY_EINVAL. */
ty_status ty_adapter_option_parse(ty_adapter_option *o, const char *text, ty_err *err);
/* Is it for the model of this name, one of n_models?  Without MODEL+ it is for the only one. */
bool ty_adapter_option_is_for(const ty_adapter_option *o, const char *model, int n_models);

#endif
