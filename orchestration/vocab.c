/* vocab.c - see vocab.h. */
#include "orchestration/vocab.h"

#include "common/model/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NORMAL = 1, UNKNOWN, CONTROL, USER, UNUSED, BYTE };
enum { N_SPECIAL = 3, N_BYTE = 256, FIRST_CHAR = 0x21, LAST_CHAR = 0x7e };
enum { N_FIXED = N_SPECIAL + N_BYTE + 1 + LAST_CHAR - FIRST_CHAR + 1 };
#define SPACE "\xE2\x96\x81"

ty_status vocab_alloc(vocab *v, int n, ty_err *err) {
    *v = (vocab){.n = n,
                 .bos = -1,
                 .eos = -1,
                 .unk = -1,
                 .pad = -1,
                 .add_bos = true,
                 .add_space_prefix = true};
    v->text = calloc((size_t)n, sizeof(*v->text));
    v->len = calloc((size_t)n, sizeof(*v->len));
    v->score = calloc((size_t)n, sizeof(*v->score));
    v->type = calloc((size_t)n, sizeof(*v->type));
    if (v->text && v->len && v->score && v->type) return TY_OK;
    return ty_fail(err, TY_ENOMEM, "no memory for a vocabulary of %d", n);
}

ty_status vocab_put(vocab *v, int id, const char *text, size_t len, float score, int32_t type,
                    ty_err *err) {
    char *copy = malloc(len + 1);
    if (!copy) return ty_fail(err, TY_ENOMEM, "no memory for a vocabulary of %d", v->n);
    memcpy(copy, text, len);
    copy[len] = '\0';
    free(v->text[id]);
    v->text[id] = copy;
    v->len[id] = len;
    v->score[id] = score;
    v->type[id] = type;
    return TY_OK;
}

/* Rows of the embedding that no piece belongs to, named as llama.cpp's converter names them. */
ty_status vocab_put_padding(vocab *v, int id, ty_err *err) {
    char name[32];
    int n = snprintf(name, sizeof(name), "[PAD%d]", id);
    return vocab_put(v, id, name, (size_t)n, -10000, UNUSED, err);
}

ty_status vocab_from_spm(vocab *v, const char *path, int n_rows, ty_err *err) {
    ty_tokenizer *t = NULL;
    *v = (vocab){0};
    ty_status st = ty_tokenizer_from_spm(&t, path, err);
    if (st != TY_OK) return st;
    int n = ty_tokenizer_size(t);
    if (n > n_rows) {
        st = ty_fail(err, TY_ESHAPE,
                     "%s: has %d pieces, the model's embedding only %d rows: not this model's "
                     "tokenizer",
                     path, n, n_rows);
        goto done;
    }
    st = vocab_alloc(v, n_rows, err);
    for (int id = 0; st == TY_OK && id < n_rows; id++) {
        size_t len = 0;
        const char *text = id < n ? ty_tokenizer_piece(t, id, &len) : NULL;
        st = text ? vocab_put(v, id, text, len, ty_tokenizer_score(t, id), ty_tokenizer_type(t, id),
                              err)
                  : vocab_put_padding(v, id, err);
    }
    v->bos = ty_tokenizer_bos(t);
    v->eos = ty_tokenizer_eos(t);
    v->unk = ty_tokenizer_unk(t);
done:
    ty_tokenizer_destroy(&t);
    return st;
}

ty_status vocab_rename(vocab *v, int id, const char *text, ty_err *err) {
    if (id < 0 || id >= v->n)
        return ty_fail(err, TY_ESHAPE, "added token \"%.64s\" has the id %d, the embedding %d rows",
                       text, id, v->n);
    return vocab_put(v, id, text, strlen(text), 0, USER, err);
}

/* Word number i: a space and two or three syllables, each i its own. */
static int make_word(char *out, size_t size, int i) {
    static const char consonants[] = "bdfgklmnprstvz", vowels[] = "aeiou";
    enum { SYLLABLES = 14 * 5 };
    char syllable[3][3];
    int n = i < SYLLABLES * SYLLABLES ? 2 : 3;
    if (n == 3) i -= SYLLABLES * SYLLABLES;
    for (int k = 0; k < n; k++) {
        int s = i % SYLLABLES;
        i /= SYLLABLES;
        snprintf(syllable[k], sizeof(syllable[k]), "%c%c", consonants[s % 14], vowels[s / 14]);
    }
    return snprintf(out, size, SPACE "%s%s%s", syllable[0], syllable[1], n == 3 ? syllable[2] : "");
}

static ty_status put_made_up(vocab *v, int id, ty_err *err) {
    static const char *const special[] = {"<unk>", "<s>", "</s>"};
    char text[32];
    if (id < N_SPECIAL)
        return vocab_put(v, id, special[id], strlen(special[id]), 0, id == 0 ? UNKNOWN : CONTROL,
                         err);
    int i = id - N_SPECIAL;
    if (i < N_BYTE) {
        snprintf(text, sizeof(text), "<0x%02X>", i);
        return vocab_put(v, id, text, strlen(text), 0, BYTE, err);
    }
    i -= N_BYTE;
    int n = i == 0         ? snprintf(text, sizeof(text), SPACE)
            : id < N_FIXED ? snprintf(text, sizeof(text), "%c", FIRST_CHAR + i - 1)
                           : make_word(text, sizeof(text), id - N_FIXED);
    return vocab_put(v, id, text, (size_t)n, (float)-i, NORMAL, err);
}

ty_status vocab_made_up(vocab *v, int n, ty_err *err) {
    *v = (vocab){0};
    if (n < N_FIXED || n > N_FIXED + 14 * 5 * 14 * 5 * 71)
        return ty_fail(err, TY_EINVAL, "a vocabulary of %d: want %d to %d", n, (int)N_FIXED,
                       N_FIXED + 14 * 5 * 14 * 5 * 71);
    ty_status st = vocab_alloc(v, n, err);
    for (int id = 0; st == TY_OK && id < n; id++) st = put_made_up(v, id, err);
    v->unk = 0;
    v->bos = 1;
    v->eos = 2;
    return st;
}

bool vocab_is_text(const vocab *v, int id) {
    return v->type[id] == NORMAL;
}

static ty_status set_id(ty_gguf_writer *w, const char *key, int id, ty_err *err) {
    return id < 0 ? TY_OK : ty_gguf_set_u32(w, key, (uint32_t)id, err);
}

static ty_status set_flags(ty_gguf_writer *w, const vocab *v, ty_err *err) {
    ty_status st = ty_gguf_set_bool(w, "tokenizer.ggml.add_bos_token", v->add_bos, err);
    if (st == TY_OK) st = ty_gguf_set_bool(w, "tokenizer.ggml.add_eos_token", v->add_eos, err);
    if (st == TY_OK)
        st = ty_gguf_set_bool(w, "tokenizer.ggml.add_space_prefix", v->add_space_prefix, err);
    if (st != TY_OK || !v->mode) return st;
    return ty_gguf_set_str(w, "tyto.tokenizer.mode", v->mode, strlen(v->mode), err);
}

static ty_status set_merges(ty_gguf_writer *w, const vocab *v, ty_err *err) {
    size_t *len = malloc(((size_t)v->n_merge + 1) * sizeof(*len));
    if (!len) return ty_fail(err, TY_ENOMEM, "no memory for %d merges", v->n_merge);
    for (int i = 0; i < v->n_merge; i++) len[i] = strlen(v->merge[i]);
    ty_status st = ty_gguf_set_strs(w, "tokenizer.ggml.merges", (const char *const *)v->merge, len,
                                    v->n_merge, err);
    free(len);
    return st;
}

/* The kind of vocabulary, and what that kind has besides its tokens. */
static ty_status set_kind(ty_gguf_writer *w, const vocab *v, ty_err *err) {
    ty_status st =
        ty_gguf_set_str(w, "tokenizer.ggml.model", v->pre ? "gpt2" : "llama", v->pre ? 4 : 5, err);
    if (st != TY_OK) return st;
    if (!v->pre) return ty_gguf_set_f32s(w, "tokenizer.ggml.scores", v->score, v->n, err);
    st = ty_gguf_set_str(w, "tokenizer.ggml.pre", v->pre, strlen(v->pre), err);
    return st == TY_OK ? set_merges(w, v, err) : st;
}

ty_status vocab_set(ty_gguf_writer *w, const vocab *v, ty_err *err) {
    const char *const *text = (const char *const *)v->text;
    ty_status st = set_kind(w, v, err);
    if (st == TY_OK) st = ty_gguf_set_strs(w, "tokenizer.ggml.tokens", text, v->len, v->n, err);
    if (st == TY_OK) st = ty_gguf_set_i32s(w, "tokenizer.ggml.token_type", v->type, v->n, err);
    if (st == TY_OK) st = set_id(w, "tokenizer.ggml.bos_token_id", v->bos, err);
    if (st == TY_OK) st = set_id(w, "tokenizer.ggml.eos_token_id", v->eos, err);
    if (st == TY_OK) st = set_id(w, "tokenizer.ggml.unknown_token_id", v->unk, err);
    if (st == TY_OK) st = set_id(w, "tokenizer.ggml.padding_token_id", v->pad, err);
    return st == TY_OK ? set_flags(w, v, err) : st;
}

void vocab_clear(vocab *v) {
    for (int i = 0; v->text && i < v->n; i++) free(v->text[i]);
    for (int i = 0; i < v->n_merge; i++) free(v->merge[i]);
    free(v->merge);
    free(v->text);
    free(v->len);
    free(v->score);
    free(v->type);
    *v = (vocab){0};
}
