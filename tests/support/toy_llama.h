/*
 * toy_llama.h - a small LLaMA with random weights as a GGUF file, for tests that need a decoder and not a
 * meaning.  Vocabulary: tests/golden/tokenizer/tokenizer-small.model.
 */
#ifndef TY_TEST_TOY_LLAMA_H
#define TY_TEST_TOY_LLAMA_H

#include "common/math/dtype.h"

#include <stdint.h>

typedef struct {
    int n_layer, n_head, n_kv_head, d_head, d_ff, context;
    unsigned seed;
    ty_dtype dtype;           /* of the matrices */
    float scale;              /* of the weights; 0 = 1 (then activations stay near 1) */
    bool tied;                /* no output.weight */
    const char *extra;        /* name of one more tensor, or NULL */
    const char *architecture; /* NULL = "llama"; "mplug_owl2" has its visual tensors */
    int short_ff;             /* ffn_down's width is this much smaller than declared */
} toy_llama;

/* 2 layers, 4 heads sharing 2 KV heads of 8, width 32, context 64. */
toy_llama toy_llama_default(void);
/* Writes the file; fails the test when it cannot. */
void toy_llama_write(const toy_llama *t, const char *path);

#endif
