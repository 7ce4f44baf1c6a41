/*
 * pass.h - a batch through the model and back.
 *
 *     train_run r = {.pool = ..., .arena = ...};
 *     for each micro-batch: pass_run(&r, model, batch, ...)     gradients add up in the parameters
 *     train_run_clear(&r);
 *
 * Each tower has a file: forward, which fills a record of what its backward needs, and the steps of its
 * backward, which read it from the last operation to the first: begin, the layers from the last on, end.
 * Behind each step the gradients of weights that it noted are added (weight_grads.h).  Activations are in
 * one arena, taken anew for each pass.  With `recompute` only the inputs of layers are kept, and a layer
 * runs forward again before it runs backward: a third more work, a tenth of the memory.
 *
 * Where a small model has enough samples, each thread takes a part of them through all towers by itself:
 * threads then meet once a layer, not once an operation.  The bits are the same.
 *
 * Operations take a train_run and do nothing once one has failed: the first failure is kept, as in
 * ty_buf.
 */
#ifndef TRAIN_PASS_H
#define TRAIN_PASS_H

#include "common/base/arena.h"
#include "common/math/matmul.h"
#include "common/math/pool.h"
#include "training/batch.h"
#include "training/owl.h"
#include "training/weight_grads.h"

typedef struct pass_part pass_part;

typedef struct {
    ty_pool *pool;
    ty_arena *arena;
    int parts; /* threads that take samples by themselves; 0: as is worth it, else at most so many */
    bool recompute;
    ty_products products; /* of layers and weight gradients; attention's own stay f32 */
    double lora_dropout;  /* of adapters' inputs, while there is a backward; 0: none */
    uint64_t seed,
        draw; /* what the dropout of this pass draws: the run's seed, the micro-batch's number */
    double flops; /* of matrix products, attention aside */
    /* Called by a backward when the gradients of `first` and of all that stands behind it in the set,
     * adapters aside, are complete; NULL: nobody listens. */
    void (*complete)(void *ctx, const param *first);
    void *ctx;
    ty_status st;
    ty_err err;
    /* The pass's own. */
    weight_grads later;
    int64_t n_text; /* rows of text before those of pictures; -1: all rows are of one kind */
    pass_part *part;
    int n_part;
} train_run;

/* Blocks of an arena for activations: they lie on huge pages. */
enum { PASS_ARENA_BLOCK = 32 << 20 };

/* What the pass holds between batches; pool and arena are the caller's. */
void train_run_clear(train_run *r);

/* ---- operations (ops.c) ---- */

/* n floats of the arena, not zeroed; NULL once something failed. */
float *op_floats(train_run *r, int64_t n);
/* y [rows, out] = l(x [rows, in]); dense. */
void op_linear(train_run *r, const owl_linear *l, const float *x, int64_t rows, float *y);
/* Notes the gradients of l's parameters where they train: x and dy must stay.  dx (may be NULL) is written, or added
 * to; it is neither of them. */
void op_linear_back(train_run *r, const owl_linear *l, const float *x, const float *dy,
                    int64_t rows, float *dx, bool add);
void op_norm(train_run *r, const owl_norm *n, const float *x, int64_t rows, float *y);
/* Notes as well; dx = base (NULL: 0) + the gradient of x. */
void op_norm_back(train_run *r, const owl_norm *n, const float *x, const float *dy, int64_t rows,
                  const float *base, float *dx);
/* Adds what the run has noted: where it is the only one. */
void op_add_weight_grads(train_run *r);
void op_copy(train_run *r, float *y, const float *x, int64_t n);
void op_quick_gelu(train_run *r, float *y, const float *x, int64_t n); /* y = quick_gelu(x) */
void op_add(train_run *r, float *y, const float *x, int64_t n);        /* y += x */
void op_fail(train_run *r, ty_status st);                              /* keeps r->err's text */

/* ---- the vision transformer (pass_vit.c) ---- */

typedef struct {
    float *normed, *qkv, *ctx, *middle, *normed2, *wide, *gelu;
} vit_kept;

typedef struct {
    int n; /* pictures */
    int64_t rows;
    int *start;                /* [n + 1] first row of each picture */
    float *patches, *embedded; /* before pre_layernorm */
    float **x;                 /* [n_layer + 1] the residual stream before each layer */
    vit_kept *kept;            /* [n_layer], or one that all share when recomputing */
    float *features;           /* [rows, C] */
    /* Of the backward: the gradient of what is below the steps done, and where the next layer works. */
    float *d, *d_middle, *d_below, *plane, *plane2, *wide, *dqkv;
} vit_pass;

/* pixels [n, 3, S, S] */
void vit_forward(train_run *r, const owl *m, const float *pixels, int n, vit_pass *p);
/* The loss over cells (batch.h) of the head on features times weight, and its gradient: d [rows, C], NULL: the loss
 * alone. */
double vit_cells_loss(train_run *r, const owl *m, const owl_batch *b, const vit_pass *p,
                      float weight, float *d);
/* The steps of the backward.  d [rows, C]: the gradient of features. */
void vit_back_begin(train_run *r, const owl *m, vit_pass *p, const float *d);
void vit_back_layer(train_run *r, const owl *m, vit_pass *p, int i);
void vit_back_end(train_run *r, const owl *m, vit_pass *p);
/* Then: what class token and positions get; one pass at a time, in the order of the pictures. */
void vit_add_embedding_grads(const owl *m, const vit_pass *p);

/* ---- the abstractor (pass_abstractor.c) ---- */

typedef struct {
    float *normed, *kv_in, *q_in, *k_in, *q, *k, *v, *ctx, *y, *normed2, *gate, *up, *act, *mlp;
} abstractor_kept;

typedef struct {
    int n, n_token, n_kv;
    int64_t rows, kv_rows;
    const float *features;
    float **x; /* [n_layer + 1] */
    abstractor_kept *kept;
    int *q_start, *kv_start;
    float *fc;     /* [rows, D] */
    float *tokens; /* [n, Q + 1, D] */
    /* Of the backward, as in vit_pass; d_features [n, n_token, C] is NULL when nobody below trains. */
    const float *d_tokens;
    float *d, *d_y, *d_normed, *d_below, *d_features;
    float *plane, *d_ctx, *dq, *wide, *wide2, *wide3, *kv, *dk, *dv, *image;
} abstractor_pass;

/* features [n, n_token, C] */
void abstractor_forward(train_run *r, const owl *m, const float *features, int n, int n_token,
                        abstractor_pass *p);
/* The steps of the backward.  d [n, Q + 1, D]: the gradient of tokens, which stays; below: d_features is wanted. */
void abstractor_back_begin(train_run *r, const owl *m, abstractor_pass *p, const float *d,
                           bool below);
void abstractor_back_layer(train_run *r, const owl *m, abstractor_pass *p, int i);
/* What the end row gets, behind `begin`, and the queries, behind the layers; one pass at a time. */
void abstractor_add_end_grads(const owl *m, const abstractor_pass *p);
void abstractor_add_query_grads(const owl *m, const abstractor_pass *p);

/* The loss over rows (batch.h) times weight: the square of what lies between each token and the LLM's embedding of its
 * piece, as a share of that embedding's own; and its gradient: d as tokens, NULL: the loss alone. */
double abstractor_rows_loss(train_run *r, const owl *m, const owl_batch *b,
                            const abstractor_pass *p, float weight, float *d);

/* ---- the language model (pass_llm.c) ---- */

typedef struct {
    float *normed, *q, *k, *v, *ctx, *middle, *normed2, *gate, *up, *act;
} llm_kept;

typedef struct {
    const owl_batch *b;
    float **x; /* [n_layer + 1] */
    llm_kept *kept;
    /* Of the backward, as in vit_pass. */
    float *d, *d_middle, *d_below, *plane, *plane2, *dq, *dk, *dv, *wide, *wide2;
} llm_pass;

/* tokens [n_picture, Q + 1, D] (NULL without visual rows).  Runs the layers; no loss yet. */
void llm_forward(train_run *r, const owl *m, const owl_batch *b, const float *tokens, llm_pass *p);
/* The summed loss of every target of all n passes, and the gradients of `weight` times it: head and final norm are
 * run and run back in pieces, so that logits are never stored whole.  backward: each pass gets its d [n_row, D],
 * the gradient of the last layer's output. */
double llm_loss(train_run *r, const owl *m, llm_pass *const *p, int n, float weight, bool backward);
/* The steps of the backward, down to the lowest layer that is needed: below: the gradient of x[0] is wanted. */
void llm_back_begin(train_run *r, const owl *m, llm_pass *p);
int llm_lowest_layer(const owl *m, bool below);
void llm_back_layer(train_run *r, const owl *m, llm_pass *p, int i);
/* Then: d_tokens as tokens, written; what the embeddings get; one pass at a time. */
void llm_back_tokens(const owl *m, const llm_pass *p, float *d_tokens);
void llm_add_embedding_grads(const owl *m, const llm_pass *p);

/* ---- all of it (pass.c) ---- */

/* One micro-batch: returns the summed loss of its targets in *loss.  backward: adds the gradients of
 * weight * loss to the parameters. */
ty_status pass_run(train_run *r, const owl *m, const owl_batch *b, float weight, bool backward,
                   double *loss, ty_err *err);

#endif
