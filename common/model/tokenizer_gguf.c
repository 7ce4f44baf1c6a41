/*
 * tokenizer_gguf.c - a vocabulary from a decoder.gguf: llama.cpp's keys, so that any LLaMA file will
 * do, and `tyto.tokenizer.mode`, which import adds.  "llama" is sentencepiece's kind, "gpt2" the byte-level one;
 * of these BLOOM's way of cutting words is known.
 */
#include "common/model/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

#define KEY "tokenizer.ggml."

static bool is_text(const char *s, size_t len, const char *want) {
    return len == strlen(want) && memcmp(s, want, len) == 0;
}

static ty_status read_model(const ty_gguf *g, bool *byte_level, ty_err *err) {
    const char *model, *pre = "";
    size_t len, n_pre = 0;
    ty_status st = ty_gguf_get_str(g, KEY "model", &model, &len, err);
    if (st != TY_OK) return st;
    *byte_level = is_text(model, len, "gpt2");
    if (!*byte_level && !is_text(model, len, "llama"))
        return ty_fail(err, TY_EUNSUPPORTED,
                       KEY "model is '%.*s', only 'llama' and 'gpt2' are supported",
                       (int)(len < 64 ? len : 64), model);
    if (!*byte_level) return TY_OK;
    if (ty_gguf_has(g, KEY "pre")) st = ty_gguf_get_str(g, KEY "pre", &pre, &n_pre, err);
    if (st == TY_OK && !is_text(pre, n_pre, "bloom"))
        st = ty_fail(err, TY_EUNSUPPORTED,
                     KEY "pre is '%.*s': of byte-level vocabularies only 'bloom' is supported",
                     (int)(n_pre < 64 ? n_pre : 64), pre);
    return st;
}

/* A piece of a byte-level vocabulary becomes its bytes; added tokens are written as they are. */
static ty_status add_bytes(ty_tokenizer *t, const char *text, size_t len, int64_t type,
                           ty_err *err) {
    if (type != TY_PIECE_NORMAL) return ty_tokenizer_add(t, text, len, 0, type, err);
    char *bytes = malloc(len + 1);
    size_t n = 0;
    if (!bytes) return ty_fail(err, TY_ENOMEM, "tokenizer: out of memory");
    ty_status st = ty_byte_level_read(text, len, bytes, &n)
                       ? ty_tokenizer_add(t, bytes, n, 0, type, err)
                       : ty_fail(err, TY_EFORMAT, "piece %d, '%.*s', is not written byte by byte",
                                 t->n, (int)(len < 64 ? len : 64), text);
    free(bytes);
    return st;
}

static ty_status add_merges(ty_tokenizer *t, const ty_gguf *g, ty_err *err) {
    int64_t n = 0;
    ty_status st = ty_byte_level_check(t, err);
    if (st == TY_OK) st = ty_gguf_array_len(g, KEY "merges", &n, err);
    if (st == TY_OK) st = ty_byte_level_start_merges(t, n, err);
    for (int64_t i = 0; i < n && st == TY_OK; i++) {
        const char *text;
        size_t len;
        st = ty_gguf_array_str(g, KEY "merges", i, &text, &len, err);
        if (st == TY_OK) st = ty_byte_level_add_merge(t, (int32_t)i, text, len, err);
    }
    return st;
}

static ty_status add_pieces(ty_tokenizer *t, const ty_gguf *g, ty_err *err) {
    int64_t n = 0, n_score = 0, n_type = 0;
    ty_status st = ty_gguf_array_len(g, KEY "tokens", &n, err);
    if (st == TY_OK && t->byte_level)
        n_score = n;
    else if (st == TY_OK)
        st = ty_gguf_array_len(g, KEY "scores", &n_score, err);
    if (st == TY_OK) st = ty_gguf_array_len(g, KEY "token_type", &n_type, err);
    if (st != TY_OK) return st;
    if (n != n_score || n != n_type)
        return ty_fail(err, TY_EFORMAT, "%lld tokens, but %lld scores and %lld types", (long long)n,
                       (long long)n_score, (long long)n_type);
    for (int64_t i = 0; i < n && st == TY_OK; i++) {
        const char *text;
        size_t len;
        double score = 0;
        int64_t type;
        st = ty_gguf_array_str(g, KEY "tokens", i, &text, &len, err);
        if (st == TY_OK) st = ty_gguf_array_int(g, KEY "token_type", i, &type, err);
        if (st == TY_OK && t->byte_level) {
            st = add_bytes(t, text, len, type, err);
            continue;
        }
        if (st == TY_OK) st = ty_gguf_array_float(g, KEY "scores", i, &score, err);
        if (st == TY_OK) st = ty_tokenizer_add(t, text, len, score, type, err);
    }
    return st;
}

static ty_status get_id(const ty_gguf *g, const char *key, int32_t *id, ty_err *err) {
    int64_t v = 0;
    if (!ty_gguf_has(g, key)) return TY_OK;
    ty_status st = ty_gguf_get_int(g, key, &v, err);
    if (st != TY_OK) return st;
    if (v < -1 || v > INT32_MAX) return ty_fail(err, TY_EFORMAT, "%s is %lld", key, (long long)v);
    *id = (int32_t)v;
    return TY_OK;
}

static ty_status get_mode(ty_tokenizer *t, const ty_gguf *g, ty_err *err) {
    const char *v;
    size_t len;
    char name[8] = "";
    if (!ty_gguf_has(g, "tyto.tokenizer.mode")) return TY_OK;
    ty_status st = ty_gguf_get_str(g, "tyto.tokenizer.mode", &v, &len, err);
    if (st != TY_OK) return st;
    if (len < sizeof name) memcpy(name, v, len);
    int mode = ty_tokenize_mode_parse(name);
    if (mode < 0)
        return ty_fail(err, TY_EFORMAT, "tyto.tokenizer.mode is '%.*s', want spm, slow or fast",
                       (int)(len < 64 ? len : 64), v);
    t->mode = (ty_tokenize_mode)mode;
    return TY_OK;
}

static ty_status get_flags(ty_tokenizer *t, const ty_gguf *g, ty_err *err) {
    ty_status st = TY_OK;
    bool remove = false;
    if (!t->byte_level && ty_gguf_has(g, KEY "add_space_prefix"))
        st = ty_gguf_get_bool(g, KEY "add_space_prefix", &t->dummy_prefix, err);
    if (st == TY_OK && ty_gguf_has(g, KEY "remove_extra_whitespaces"))
        st = ty_gguf_get_bool(g, KEY "remove_extra_whitespaces", &remove, err);
    if (st == TY_OK && remove)
        st = ty_fail(err, TY_EUNSUPPORTED, KEY "remove_extra_whitespaces is not supported");
    return st;
}

ty_status ty_tokenizer_from_gguf(ty_tokenizer **out, const ty_gguf *g, ty_err *err) {
    ty_tokenizer *t = NULL;
    bool byte_level = false;
    ty_status st = read_model(g, &byte_level, err);
    if (st == TY_OK) st = ty_tokenizer_start(&t, err);
    if (st == TY_OK) {
        t->byte_level = byte_level;
        t->dummy_prefix = !byte_level;
        t->bos = byte_level ? -1 : 1; /* llama.cpp's defaults for sentencepiece's kind */
        t->eos = byte_level ? -1 : 2;
        t->unk = byte_level ? -1 : 0;
        st = add_pieces(t, g, err);
    }
    if (st == TY_OK) st = get_id(g, KEY "bos_token_id", &t->bos, err);
    if (st == TY_OK) st = get_id(g, KEY "eos_token_id", &t->eos, err);
    if (st == TY_OK) st = get_id(g, KEY "unknown_token_id", &t->unk, err);
    if (st == TY_OK) st = get_flags(t, g, err);
    if (st == TY_OK) st = get_mode(t, g, err);
    if (st == TY_OK) st = ty_tokenizer_finish(t, err);
    if (st == TY_OK && byte_level) st = add_merges(t, g, err);
    if (st != TY_OK) {
        ty_err_context(err, "%s", ty_gguf_path(g));
        ty_tokenizer_destroy(&t);
        return st;
    }
    *out = t;
    return TY_OK;
}
