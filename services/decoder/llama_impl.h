/*
 * llama_impl.h - the network behind llama.h, shared by the files that load it (llama_meta.c,
 * llama_load.c, bloom.c) and those that compute (llama.c, multiway.c).
 */
#ifndef TY_DECODER_LLAMA_IMPL_H
#define TY_DECODER_LLAMA_IMPL_H

#include "services/decoder/attend.h"
#include "services/decoder/llama.h"
#include "services/decoder/rope.h"

typedef struct {
    float *attn_norm, *ffn_norm; /* [d_model] */
    float *attn_bias, *ffn_bias; /* [d_model] of BLOOM's norms; NULL in a LLaMA */
    ty_linear *qkv;              /* [(n_head + 2 n_kv_head) d_head, d_model] */
    ty_linear *o;                /* [d_model, n_head d_head] */
    ty_linear *gate_up;          /* [2 d_ff, d_model]; BLOOM's up alone: [d_ff, d_model] */
    ty_linear *down;             /* [d_model, d_ff] */
    /* What visual rows take instead of the norms, k and v above (multiway.h); NULL in a plain LLaMA. */
    float *visual_attn_norm, *visual_ffn_norm; /* [d_model] */
    ty_linear *visual_kv;                      /* [2 n_kv_head d_head, d_model] */
} llama_layer;

/* Rows of one adapter that stand together; all text or all visual where the two differ. */
typedef struct {
    const llama_adapter *adapter;
    int first, n;
} llama_run;

/* The rows of one forward. */
typedef struct {
    int n,
        n_text; /* visual rows behind the text; n_text = n in a plain LLaMA, whatever the rows are */
    int n_block; /* attention blocks */
    int n_run;   /* runs of rows with an adapter */
} llama_rows;

struct llama {
    llama_dims dims;
    ty_pool *pool;
    ty_tensor embd;               /* token_embd.weight, mapped, its stored type */
    llama_layer *layer;           /* [n_layer] */
    float *embd_norm, *embd_bias; /* [d_model] of BLOOM's norm behind the embeddings, or NULL */
    float *out_norm, *out_bias;   /* [d_model]; no bias in a LLaMA */
    ty_linear *output;
    llama_rope rope; /* in a LLaMA */
    float *slope;    /* in BLOOM: [n_head], see attend.h */
    int context, max_rows, max_logits;
    /* scratch, [max_rows] rows of: */
    float *x, *y;  /* d_model: the residual stream; a sublayer's input and output */
    float *qkv;    /* (n_head + 2 n_kv_head) d_head */
    float *ctx;    /* n_head d_head */
    float *ff;     /* 2 d_ff: gate | up */
    float *final_; /* [max_logits, d_model] */
    attend_block *block;
    int *order;             /* [max_rows] where the rows of the spans stand in the batch */
    int *pos;               /* [max_rows] position of each row of the batch */
    const kv_seq **row_seq; /* [max_rows] */
    llama_run *run;         /* [max_rows] */
    float *low, *delta;     /* adapters': [max_rows, rank], [max_rows, outputs]; NULL without any */
    int64_t low_width, delta_width;
    attend_scratch *attend;
};

/* Sizes from the metadata; n_vocab is the embedding's to say.  Fails: TY_EUNSUPPORTED, TY_EFORMAT. */
ty_status llama_read_dims(const ty_gguf *g, llama_dims *d, ty_err *err);

#endif
