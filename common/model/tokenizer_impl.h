/*
 * tokenizer_impl.h - the vocabulary behind ty_tokenizer, shared by the files that load it
 * (spm_model.c, tokenizer_gguf.c) and those that use it (tokenizer.c, bpe.c, byte_level.c, detok.c).
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

/* A listed merge of a byte-level vocabulary: pieces left and right become piece id. */
typedef struct {
    uint64_t key; /* of left and right; 0 = free */
    int32_t rank; /* the lower is done first */
    int32_t id;
} ty_merge;

struct ty_tokenizer {
    int n, cap;
    ty_buf text;           /* all pieces, each followed by a NUL */
    size_t *begin;         /* [n + 1] offsets into text; piece i is [begin[i], begin[i+1] - 1) */
    float *score;          /* [n] */
    uint8_t *type;         /* [n] TY_PIECE_* */
    int32_t byte_id[256];  /* -1 where the vocabulary has no such byte piece */
    int32_t bos, eos, unk; /* -1 = none */
    bool dummy_prefix;
    bool byte_level; /* pieces are bytes, merges are listed (byte_level.c) */
    ty_tokenize_mode mode;

    ty_slot *slot; /* piece -> id, open addressing.  Normal and user pieces only */
    uint32_t slot_mask;
    uint64_t *pair; /* the character pairs that stand side by side in some piece; 0 = free */
    uint32_t pair_mask;
    ty_merge *merge; /* byte_level: open addressing */
    uint32_t merge_mask;
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

/* Characters in a row that may all join: what is merged at once takes 24 to 84 bytes for each. */
enum { TY_BPE_RUN_MAX = 1 << 20 };

/* Byte-pair merges over `text`: valid UTF-8, spaces already U+2581, prefix in place.  by_rank: ties
 * between equal scores as Hugging Face's fast tokenizer breaks them, else as sentencepiece does.  Fails: TY_ENOMEM, TY_ELIMIT (a run over TY_BPE_RUN_MAX). */
ty_status ty_bpe_encode(const ty_tokenizer *t, bool by_rank, const char *text, size_t len,
                        ty_ids *out);

/* The same for a byte-level vocabulary: `text` as it is. */
ty_status ty_bpe_encode_bytes(const ty_tokenizer *t, const char *text, size_t len, ty_ids *out);

/* ---- byte_level.c ---- */

/* The bytes that a file's piece stands for; out has room for len.  false: a character stands for none. */
bool ty_byte_level_read(const char *text, size_t len, char *out, size_t *n_out);
/* Bytes of the first word of text (or of what stands between two), by BLOOM's pattern; len > 0. */
size_t ty_byte_level_word(const char *text, size_t len);
/* The listed merge of two pieces, or NULL. */
const ty_merge *ty_tokenizer_merge(const ty_tokenizer *t, int32_t left, int32_t right);
/* Building, after ty_tokenizer_finish: every byte has its piece; room for n merges; then each merge, "left right"
 * as files write it. */
ty_status ty_byte_level_check(ty_tokenizer *t, ty_err *err);
ty_status ty_byte_level_start_merges(ty_tokenizer *t, int64_t n, ty_err *err);
ty_status ty_byte_level_add_merge(ty_tokenizer *t, int32_t rank, const char *text, size_t len,
                                  ty_err *err);

#endif
