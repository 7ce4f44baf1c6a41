/*
 * tokenizer_impl.h - the vocabulary behind ty_tokenizer, shared by the files that load it
 * (spm_model.c, tokenizer_gguf.c) and those that use it (tokenizer.c, bpe.c, detok.c).
 */
#ifndef TY_MODEL_TOKENIZER_IMPL_H
#define TY_MODEL_TOKENIZER_IMPL_H

#include "common/model/tokenizer.h"

#define TY_SPM_SPACE "\xE2\x96\x81" /* U+2581, sentencepiece's visible space */

enum {
    TY_PIECE_NORMAL = 1,
    TY_PIECE_UNKNOWN,
    TY_PIECE_CONTROL,
    TY_PIECE_USER,
    TY_PIECE_UNUSED,
    TY_PIECE_BYTE
};

/* The hash stands beside the id, so that a miss seldom needs the piece's text. */
typedef struct {
    uint32_t hash;
    int32_t id; /* -1 = free */
} ty_slot;

struct ty_tokenizer {
    int n, cap;
    ty_buf text;           /* all pieces, each followed by a NUL */
    size_t *begin;         /* [n + 1] offsets into text; piece i is [begin[i], begin[i+1] - 1) */
    float *score;          /* [n] */
    uint8_t *type;         /* [n] TY_PIECE_* */
    int32_t byte_id[256];  /* -1 where the vocabulary has no such byte piece */
    int32_t bos, eos, unk; /* -1 = none */
    bool dummy_prefix;
    ty_tokenize_mode mode;

    ty_slot *slot; /* piece -> id, open addressing.  Normal and user pieces only */
    uint32_t slot_mask;
    uint64_t *pair; /* the character pairs that stand side by side in some piece; 0 = free */
    uint32_t pair_mask;
    size_t longest;   /* bytes of the longest piece in slot */
    int32_t *special; /* control and unknown pieces, longest first; user pieces follow likewise */
    int n_special, n_user;
    bool special_first[256]; /* may this byte begin a special piece? */
    bool user_first[256];
};

/* Building: start, n times add, finish (consumes nothing, checks, makes the tables).  On failure the
 * caller destroys.  Fails: TY_EFORMAT, TY_ENOMEM, TY_ELIMIT. */
ty_status ty_tokenizer_start(ty_tokenizer **out, ty_err *err);
ty_status ty_tokenizer_add(ty_tokenizer *t, const char *text, size_t len, double score,
                           int64_t type, ty_err *err);
ty_status ty_tokenizer_finish(ty_tokenizer *t, ty_err *err);

/* id of a normal or user piece, or -1. */
int32_t ty_tokenizer_find(const ty_tokenizer *t, const char *text, size_t len);
/* May a piece hold these two characters side by side?  If not, no merge can cross between them. */
bool ty_tokenizer_joins(const ty_tokenizer *t, uint32_t left, uint32_t right);
/* The longest special (or user-defined) piece at the beginning of text; -1 if none. */
int32_t ty_tokenizer_special_at(const ty_tokenizer *t, const char *text, size_t len);
int32_t ty_tokenizer_user_at(const ty_tokenizer *t, const char *text, size_t len);

/* Byte-pair merges over `text`: valid UTF-8, spaces already U+2581, prefix in place.  by_rank: ties
 * between equal scores as Hugging Face's fast tokenizer breaks them, else as sentencepiece does. */
ty_status ty_bpe_encode(const ty_tokenizer *t, bool by_rank, const char *text, size_t len,
                        ty_ids *out);

#endif
