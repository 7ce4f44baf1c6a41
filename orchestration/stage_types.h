/*
 * stage_types.h - `--type q8_0 --type vit=f32`: which type each stage's weights are stored in, and
 * what that means for a tensor.
 */
#ifndef TY_STAGE_TYPES_H
#define TY_STAGE_TYPES_H

#include "common/base/options.h"
#include "common/model/layout.h"
#include "common/model/pipeline.h"

typedef struct {
    int of[TY_STAGE_COUNT]; /* a ty_dtype; -1 = as the source has it */
} stage_types;

#define STAGE_TYPES_HELP                                                                           \
    "store weights as f32, bf16, f16, q8_0 or q4_0; STAGE=T for vit, abstractor or decoder alone"

/* TY_EINVAL names the word that is none.  A stage's own word beats the general one. */
ty_status stage_types_parse(stage_types *t, const ty_option_list *words, ty_err *err);

/*
 * The type of one tensor in its file.  --type goes to linear weights and embedding tables; the rest
 * stays f32 with it and as it is without.  A row that the block does not divide stays f32
 * (*undivided, may be NULL).  One-dimensional tensors of the decoder are f32, as llama.cpp wants.
 */
ty_dtype stage_types_choose(const stage_types *t, ty_stage_kind stage, const ty_tensor_spec *s,
                            ty_dtype stored, bool *undivided);

#endif
