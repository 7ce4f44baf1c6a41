/*
 * pass.h - a batch through the model and back.
 *
 *     pass p;
 *     pass_init(&p, model, pool, ...);
 *     for each micro-batch: pass_run(&p, batch, weight, ...)     gradients add up in the parameters
 *     pass_clear(&p);
 *
 * Each tower has a file: forward, which fills a record of what its backward needs, and backward, which
 * reads it from the last operation to the first.  Activations are in one arena, taken anew for each
 * pass.  With `recompute` only the inputs of layers are kept, and a layer runs forward again before it
 * runs backward: a third more work, a tenth of the memory.
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

typedef struct {
    ty_pool *pool;
    ty_arena *arena;
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
} train_run;

/* ---- operations (ops.c) ---- */

/* n floats of the arena, not zeroed; NULL once something failed. */
float *op_floats(train_run *r, int64_t n);
/* y [rows, out] = l(x [rows, in]); dense. */
void op_linear(train_run *r, const owl_linear *l, const float *x, int64_t rows, float *y);
/* Gradients of l's parameters where they train; dx (may be NULL) is written, or added to. */
void op_linear_back(train_run *r, const owl_linear *l, const float *x, const float *dy,
                    int64_t rows, float *dx, bool add);
void op_norm(train_run *r, const owl_norm *n, const float *x, int64_t rows, float *y);
void op_norm_back(train_run *r, const owl_norm *n, const float *x, const float *dy, int64_t rows,
                  float *dx, bool add);
void op_copy(train_run *r, float *y, const float *x, int64_t n);
void op_add(train_run *r, float *y, const float *x, int64_t n); /* y += x */
void op_fail(train_run *r, ty_status st);                       /* keeps r->err's text */
void op_complete(train_run *r, const param *first);             /* calls r->complete */

/* ---- the vision transformer (pass_vit.c) ---- */

typedef struct {
    float *normed, *qkv, *ctx, *middle, *normed2, *wide, *gelu;
} vit_kept;

typedef struct {
    int n; /* pictures */
    int64_t rows;
    float *patches, *embedded; /* before pre_layernorm */
    float **x;                 /* [n_layer + 1] the residual stream before each layer */
    vit_kept *kept;            /* [n_layer], or one that all share when recomputing */
    float *features;           /* [rows, C] */
} vit_pass;

/* pixels [n, 3, S, S] */
void vit_forward(train_run *r, const owl *m, const float *pixels, int n, vit_pass *p);
/* The loss over cells (batch.h) of the head on features times weight, and its gradient: d [rows, C], NULL: the loss
 * alone. */
double vit_cells_loss(train_run *r, const owl *m, const owl_batch *b, const vit_pass *p,
                      float weight, float *d);
/* d [rows, C]: the gradient of features; overwritten. */
void vit_backward(train_run *r, const owl *m, vit_pass *p, float *d);

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
} abstractor_pass;

/* features [n, n_token, C] */
void abstractor_forward(train_run *r, const owl *m, const float *features, int n, int n_token,
                        abstractor_pass *p);
/* d [n, Q + 1, D]; d_features [n, n_token, C] is written, NULL when nobody below trains. */
void abstractor_backward(train_run *r, const owl *m, abstractor_pass *p, const float *d,
                         float *d_features);

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
    double loss; /* sum over targets, not yet weighted */
} llm_pass;

/* tokens [n_picture, Q + 1, D] (NULL without visual rows).  Runs the layers; no loss yet. */
void llm_forward(train_run *r, const owl *m, const owl_batch *b, const float *tokens, llm_pass *p);
/* The loss of every target times `weight`, and its gradient: head and final norm are run and run back
 * in pieces, so that logits are never stored whole.  d [n_row, D] (NULL: the loss alone) is the
 * gradient of the last layer's output. */
void llm_loss(train_run *r, const owl *m, llm_pass *p, float weight, float *d);
/* d as llm_loss left it; overwritten.  d_tokens as tokens, written; NULL when nobody below trains. */
void llm_backward(train_run *r, const owl *m, llm_pass *p, float *d, float *d_tokens);

/* ---- all of it (pass.c) ---- */

/* One micro-batch: returns the summed loss of its targets in *loss.  backward: adds the gradients of
 * weight * loss to the parameters. */
ty_status pass_run(train_run *r, const owl *m, const owl_batch *b, float weight, bool backward,
                   double *loss, ty_err *err);

#endif
