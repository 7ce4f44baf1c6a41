/*
 * layout.h - which tensors a stage file of mPLUG-Owl (v1 and v2) holds: their names, shapes and roles,
 * and what they are called in a Hugging Face checkpoint.  Import reads it from left to right, synth and
 * the documentation of the format (docs/models.md) are the other users.
 */
#ifndef TY_MODEL_LAYOUT_H
#define TY_MODEL_LAYOUT_H

#include "common/model/gguf.h"

typedef struct {
    float mean[3], std[3], scale; /* pixel = (byte * scale - mean) / std */
    int image_size;
    const char *mode; /* a literal: "native", "pad", "resize", "crop" (services/preprocess) */
    int n_frame;      /* that a video gives; 0 = there are no videos */
} ty_preprocess_dims;
/* CLIP's numbers at 224, which the reference falls back on, and mode "native". */
ty_preprocess_dims ty_layout_clip(void);

typedef struct {
    int image_size, patch_size;
    int width, n_layer, n_head, n_ff;
    float eps;
    char act[32]; /* "quick_gelu" */
    int temporal; /* width of the video variant's temporal modules; 0 = none */
} ty_vit_dims;

typedef struct {
    int n_query, width, n_layer, n_head, n_ff;
    int grid;      /* v2: keys have positions on a grid x grid of patches; 0 = none */
    int n_in;      /* width of the image features */
    int n_out;     /* width of the decoder */
    float eps;     /* of ffn_ln; the other norms have 1e-5 */
    bool temporal; /* the video variant's second kind of queries */
} ty_abstractor_dims;

typedef struct {
    int n_ctx, width, n_layer, n_head, n_head_kv, n_ff, n_vocab;
    float eps;
    float rope_base; /* 0 = not given: 10000 */
    bool multiway;   /* v2: visual rows have norms, k and v of their own */
    bool bloom;      /* BLOOM's tensors; eps is of its LayerNorms, the head is the embedding */
} ty_decoder_dims;

/* Tensors that a checkpoint may leave out, for they are the same in every model. */
typedef enum {
    TY_FIXED_NONE,
    TY_FIXED_POSITIONS, /* [n, width] f32: 1-D sin and cos of the row's number */
    TY_FIXED_GRID,      /* [1 + grid * grid, width] f32: a zero row, then 2-D, the column first */
} ty_fixed;

typedef enum {
    TY_ROLE_LINEAR, /* a linear layer's weight or an embedding table: --type applies */
    TY_ROLE_GAIN,   /* weight of a norm */
    TY_ROLE_BIAS,
    TY_ROLE_OTHER, /* positions, class token, queries, patch convolution */
} ty_tensor_role;

typedef struct {
    char name[96];    /* in the stage file */
    char source[128]; /* in the checkpoint, behind the model's prefix */
    ty_tensor_role role;
    int n_dim;
    int64_t shape[4];
    int rope_heads; /* > 0: a q or k projection of this many heads, rows in llama.cpp's order */
    int qkv_heads;  /* > 0: BLOOM's q, k and v in one, as ty_layout_split_qkv leaves them */
    ty_fixed fixed;
    bool squeezed; /* the checkpoint's shape has dimensions of one besides */
} ty_tensor_spec;

typedef struct {
    ty_tensor_spec *item;
    int n, cap;
} ty_layout;

/* Each fills a zeroed layout, in file order.  Fails: TY_ENOMEM. */
ty_status ty_layout_vit(ty_layout *l, const ty_vit_dims *d, ty_err *err);
ty_status ty_layout_abstractor(ty_layout *l, const ty_abstractor_dims *d, ty_err *err);
ty_status ty_layout_decoder(ty_layout *l, const ty_decoder_dims *d, ty_err *err);
void ty_layout_clear(ty_layout *l);
/* The values of a tensor whose `fixed` is not NONE (NOTES §3). */
void ty_layout_fill_fixed(const ty_tensor_spec *s, float *out);

/* The metadata that the dimensions make, into a writer whose architecture is this. */
#define TY_ARCH_PREPROCESS "mplug_owl_preprocess"
#define TY_ARCH_VIT        "mplug_owl_vit"
#define TY_ARCH_ABSTRACTOR "mplug_owl_abstractor"
#define TY_ARCH_DECODER    "llama"
#define TY_ARCH_MULTIWAY   "mplug_owl2"
#define TY_ARCH_BLOOM      "bloom"
ty_status ty_layout_set_preprocess(ty_gguf_writer *w, const ty_preprocess_dims *d, ty_err *err);
ty_status ty_layout_set_vit(ty_gguf_writer *w, const ty_vit_dims *d, ty_err *err);
ty_status ty_layout_set_abstractor(ty_gguf_writer *w, const ty_abstractor_dims *d, ty_err *err);
ty_status ty_layout_set_decoder(ty_gguf_writer *w, const ty_decoder_dims *d, ty_err *err);
const char *ty_layout_decoder_arch(const ty_decoder_dims *d); /* one of the last three */

/*
 * Rows of a q or k projection from Hugging Face's order (a head's first halves, then its second) to
 * llama.cpp's (pairs side by side), as its converter does.
 *   src, dst  n_head * d rows of row_bytes
 */
void ty_layout_permute_rope(const void *src, void *dst, int n_head, int64_t n_row,
                            size_t row_bytes);

/*
 * Rows of a fused q, k and v projection from head by head (heads, 3, d) to all of q, all of k, all of v, as
 * llama.cpp's converter does.
 *   src, dst  n_head * 3 * d rows of row_bytes
 */
void ty_layout_split_qkv(const void *src, void *dst, int n_head, int64_t n_row, size_t row_bytes);

#endif
