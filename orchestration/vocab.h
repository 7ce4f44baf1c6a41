/* vocab.h - the vocabulary that import and synth put into decoder.gguf. */
#ifndef TY_VOCAB_H
#define TY_VOCAB_H

#include "common/model/gguf.h"

#include <jansson.h>
#include <stdbool.h>

typedef struct {
    int n;
    char **text; /* [n], owned */
    size_t *len;
    float *score;
    int32_t *type; /* sentencepiece's numbers */
    char **merge;  /* [n_merge] "left right", owned; of a byte-level vocabulary alone */
    int n_merge;
    const char *pre; /* its way of cutting words, a literal: "bloom"; NULL: sentencepiece's kind */
    int bos, eos, unk, pad; /* -1 = none */
    bool add_bos, add_eos, add_space_prefix;
    const char *mode; /* tyto.tokenizer.mode; a literal, NULL = not said */
} vocab;

/* The pieces of a sentencepiece model.  n_rows: rows of the embedding; further ones get names of
 * their own (type unused), fewer are TY_ESHAPE. */
ty_status vocab_from_spm(vocab *v, const char *path, int n_rows, ty_err *err);
/* A byte-level BPE of Hugging Face's tokenizer.json (vocab_json.c); of these BLOOM's is known.  Texts stay as
 * they are written there.  Fails: TY_EFORMAT, TY_EUNSUPPORTED (names what is not known), TY_ESHAPE. */
ty_status vocab_from_json(vocab *v, const json_t *tokenizer, int n_rows, ty_err *err);
/* For those who fill one: n rows without texts; one row's text (copied); the name of a row without a piece. */
ty_status vocab_alloc(vocab *v, int n, ty_err *err);
ty_status vocab_put(vocab *v, int id, const char *text, size_t len, float score, int32_t type,
                    ty_err *err);
ty_status vocab_put_padding(vocab *v, int id, ty_err *err);
/* Gives token id a text (added_tokens.json): type user-defined. */
ty_status vocab_rename(vocab *v, int id, const char *text, ty_err *err);
/* A vocabulary of n tokens made up: <unk> <s> </s>, the 256 bytes, ASCII characters, and words of
 * syllables.  n at least 356. */
ty_status vocab_made_up(vocab *v, int n, ty_err *err);
/* Does this token print as a word or character of its own?  (Not bytes, specials, unused.) */
bool vocab_is_text(const vocab *v, int id);

/* All tokenizer.ggml.* keys and tyto.tokenizer.mode. */
ty_status vocab_set(ty_gguf_writer *w, const vocab *v, ty_err *err);
void vocab_clear(vocab *v);

#endif
