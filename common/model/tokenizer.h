/*
 * tokenizer.h - LLaMA's SentencePiece BPE with byte fallback, in the three behaviours that the
 * reference meets (NOTES §6): raw sentencepiece, Hugging Face slow (legacy LlamaTokenizer) and fast
 * (LlamaTokenizerFast, what v1 inference uses).
 */
#ifndef TY_MODEL_TOKENIZER_H
#define TY_MODEL_TOKENIZER_H

#include "common/base/buf.h"
#include "common/model/gguf.h"

typedef enum {
    TY_TOKENIZE_SPM, /* text as it is: no special tokens are recognised */
    TY_TOKENIZE_SLOW, /* <s> </s> <unk> recognised, whitespace beside them stripped, dummy prefix per part */
    TY_TOKENIZE_FAST, /* the same recognised, whitespace kept */
} ty_tokenize_mode;

int ty_tokenize_mode_parse(const char *name); /* "spm" "slow" "fast"; -1 */

typedef struct {
    int32_t *id;
    int n, cap;
} ty_ids;
void ty_ids_clear(ty_ids *ids);
ty_status ty_ids_push(ty_ids *ids, int32_t id);

typedef struct ty_tokenizer ty_tokenizer;

/* From a decoder.gguf's tokenizer.ggml.* keys (model "llama"). */
ty_status ty_tokenizer_from_gguf(ty_tokenizer **out, const ty_gguf *g, ty_err *err);
/* From a sentencepiece tokenizer.model file (protobuf); used by import and tests. */
ty_status ty_tokenizer_from_spm(ty_tokenizer **out, const char *path, ty_err *err);
void ty_tokenizer_destroy(ty_tokenizer **t);

int ty_tokenizer_size(const ty_tokenizer *t);
int32_t ty_tokenizer_bos(const ty_tokenizer *t);
int32_t ty_tokenizer_eos(const ty_tokenizer *t);
int32_t ty_tokenizer_unk(const ty_tokenizer *t);
/* Piece text, score and type (sentencepiece's numbers: 1 normal 2 unknown 3 control 4 user 5 unused
 * 6 byte) of id, for import. */
const char *ty_tokenizer_piece(const ty_tokenizer *t, int32_t id, size_t *len);
float ty_tokenizer_score(const ty_tokenizer *t, int32_t id);
int ty_tokenizer_type(const ty_tokenizer *t, int32_t id);
/* What an ordinary LLaMA file asks for (tokenizer.ggml.add_space_prefix etc.), or v1's mode as import
 * recorded it (`tyto.tokenizer.mode`); TY_TOKENIZE_SPM when the file says nothing. */
ty_tokenize_mode ty_tokenizer_default_mode(const ty_tokenizer *t);

/* Appends the ids of `len` bytes (any bytes, NUL included; invalid UTF-8 as the reference does). No bos.
 * Fails: TY_ENOMEM, TY_ELIMIT: over 2^20 characters in a row that merges may join, such as spaces (tens of thousands
 * of tokens, and the memory grows with the row). */
ty_status ty_tokenizer_encode(const ty_tokenizer *t, ty_tokenize_mode mode, const char *text,
                              size_t len, ty_ids *out, ty_err *err);

/* Appends id's bytes as they stand inside a text: "\u2581" is a space, byte tokens are raw bytes,
 * control tokens are empty when skip_special (else their piece).  The leading space that the dummy
 * prefix made is the caller's to drop (ty_detok does). */
ty_status ty_tokenizer_decode_one(const ty_tokenizer *t, int32_t id, bool skip_special,
                                  ty_buf *out);

/* A whole list of ids as text, in the reference's three ways; the dummy prefix's space is dropped. */
typedef enum {
    TY_DECODE_SPM,     /* sentencepiece: control pieces vanish, unk is " \u2047 " */
    TY_DECODE_HF,      /* slow tokenizer: special pieces stay, with the space it puts before them */
    TY_DECODE_HF_SKIP, /* skip_special_tokens: special pieces vanish, unk too; what ty_detok gives */
} ty_decode_mode;
ty_status ty_tokenizer_decode(const ty_tokenizer *t, ty_decode_mode mode, const int32_t *id, int n,
                              ty_buf *out);

/*
 * Streaming detokeniser: ids in, whole UTF-8 characters out (what has come so far of a character is
 * held back; bytes that can never become one are U+FFFD each, as Hugging Face's decode gives).  The
 * concatenation of all outputs and the flush equals decoding the whole list at once.
 */
typedef struct ty_detok ty_detok;
ty_status ty_detok_create(ty_detok **out, const ty_tokenizer *t, ty_err *err);
ty_status ty_detok_push(ty_detok *d, int32_t id, ty_buf *out); /* appends what became certain */
ty_status ty_detok_flush(ty_detok *d, ty_buf *out);
void ty_detok_reset(ty_detok *d);
void ty_detok_destroy(ty_detok **d);

#endif
