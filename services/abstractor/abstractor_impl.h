/* abstractor_impl.h - the model behind abstractor.h, shared by the file that loads it (abstractor_load.c) and the one
 * that computes (abstractor.c). */
#ifndef TY_ABSTRACTOR_IMPL_H
#define TY_ABSTRACTOR_IMPL_H

#include "common/model/gguf.h"
#include "services/abstractor/abstractor.h"

typedef struct {
    float *weight, *bias;
} abstractor_norm;

typedef struct {
    abstractor_norm norm1, normk, norm2, ffn_ln;
    ty_linear *query, *key_value, *out_proj, *w13, *w2;
    /* query(qpos) [Q, C] and key([qpos ; kpos]) [n_kv, C] without the biases; NULL in v1 */
    float *query_positions, *key_positions;
} abstractor_layer;

struct abstractor {
    int n_query, width, n_layer, n_head, d_head, d_ff, width_out;
    int grid;  /* v2: of the patches' positions; 0 = there are none */
    float eps; /* of ffn_ln */
    ty_pool *pool;
    float *query_tokens, *eos; /* [Q, C], [D] */
    ty_linear *visual_fc;
    float *temporal_tokens; /* [Q, C] of the video variant, or NULL */
    ty_linear *temporal_fc;
    abstractor_layer *layers;
    float *scratch;
    size_t scratch_floats;
    char id[TY_MODEL_ID_SIZE];
};

#endif
