/*
 * llama.h - the LLaMA network (NOTES §4): weights from a GGUF file of architecture `llama`,
 * `mplug_owl2` (multiway.h: norms, k and v of their own for visual rows) or `bloom` (bloom.h: what
 * differs), and one forward pass over a batch of rows of any sequences.
 *
 *   x = embeddings (or visual rows)
 *   each layer:  x += o(attend(rope(q), rope(k), v)),  q, k, v = qkv(rmsnorm(x))
 *                x += down(silu(gate) * up),           gate, up = gate_up(rmsnorm(x))
 *   logits = output(rmsnorm(x)),   of the rows that want them only
 *
 * The file's q and k rows are in llama.cpp's order, so the rotary pairs are neighbours (2j, 2j+1).
 * A row's numbers do not depend on the other rows of the batch, so neither on how a prompt is cut.
 */
#ifndef TY_DECODER_LLAMA_H
#define TY_DECODER_LLAMA_H

#include "common/model/gguf.h"
#include "common/model/run_options.h"
#include "services/decoder/kv.h"

typedef struct llama llama;
typedef struct llama_adapter llama_adapter; /* adapt.h */

/* How far rotary positions are stretched beyond what the model was trained on. */
typedef struct {
    double base;   /* frequency j is base^(-2j/d) */
    double factor; /* positions are divided by it; 1 = as trained */
    bool yarn;     /* only low frequencies are: a ramp between beta_fast and beta_slow turns ... */
    int trained;   /* ... within this context */
    double beta_fast, beta_slow;
    double magnitude; /* cos and sin are multiplied by it */
} llama_rope_dims;

typedef struct {
    int n_layer, n_head, n_kv_head, d_head; /* d_head: of one head */
    int d_model, d_ff, n_vocab, context;    /* context: the model's own */
    double eps;
    llama_rope_dims rope;
    bool multiway; /* mPLUG-Owl2's modality-adaptive module */
    bool bloom;    /* LayerNorm, ALiBi, GELU and biases */
} llama_dims;

/* context: positions a sequence may have, 0 = the model's own.  max_rows: of one forward; max_logits:
 * rows of logits of one forward.  g is borrowed and must outlive the model (embeddings stay mapped).
 * Fails: TY_EUNSUPPORTED (another architecture, a kind of rope scaling, experts), TY_EFORMAT, TY_ESHAPE,
 * TY_ENOTFOUND (names the tensor), TY_EINVAL (context), TY_ENOMEM. */
ty_status llama_create(llama **out, const ty_gguf *g, const ty_run_options *run, int context,
                       int max_rows, int max_logits, ty_err *err);
void llama_destroy(llama **m);
const llama_dims *llama_get_dims(const llama *m);

/* One row of input: a token's embedding, or a given one. */
typedef struct {
    int32_t id;          /* 0 <= id < n_vocab, when visual is NULL */
    const float *visual; /* [d_model] */
} llama_row;

/* Consecutive new positions of one sequence. */
typedef struct {
    kv_seq *seq; /* grown by n */
    const llama_row *row;
    int n;
    int n_logits;                 /* the last n_logits of the rows get logits */
    const llama_adapter *adapter; /* what these rows have beside the weights; NULL: nothing */
} llama_span;

/* Where the rows' hidden states go: state k (0 = embeddings, k = after layer k - 1, n_layer = after the
 * final norm) of row i at data + k * stride + i * d_model. */
typedef struct {
    float *data;
    size_t stride;
} llama_trace;

/* Runs all spans as one batch.  logits: a row of n_vocab for each row that wants them, in order of the
 * spans.  trace may be NULL.  Fails: TY_ENOMEM (no page, scratch); the sequences that had grown stay
 * so, and must be dropped. */
ty_status llama_forward(llama *m, kv_pool *kv, const llama_span *span, int n_span, float *logits,
                        const llama_trace *trace, ty_err *err);

/* Floating-point operations of rows at positions [pos, pos + n) of one sequence, n_logits of them
 * through the output head. */
double llama_flops(const llama *m, int pos, int n, int n_logits);

#endif
