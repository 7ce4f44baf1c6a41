/*
 * tokenizer_gguf.c - a vocabulary from a decoder.gguf: llama.cpp's keys, so that any LLaMA file will
 * do, and `tyto.tokenizer.mode`, which import adds.
 */
#include "common/model/tokenizer_impl.h"

#include <string.h>

#define KEY "tokenizer.ggml."

static ty_status check_model(const ty_gguf *g, ty_err *err) {
    const char *model;
    size_t len;
    ty_status st = ty_gguf_get_str(g, KEY "model", &model, &len, err);
    if (st != TY_OK) return st;
    if (len != 5 || memcmp(model, "llama", 5) != 0)
        return ty_fail(err, TY_EUNSUPPORTED, KEY "model is '%.*s', only 'llama' is supported",
                       (int)(len < 64 ? len : 64), model);
    return TY_OK;
}

static ty_status add_pieces(ty_tokenizer *t, const ty_gguf *g, ty_err *err) {
    int64_t n = 0, n_score = 0, n_type = 0;
    ty_status st = ty_gguf_array_len(g, KEY "tokens", &n, err);
    if (st == TY_OK) st = ty_gguf_array_len(g, KEY "scores", &n_score, err);
    if (st == TY_OK) st = ty_gguf_array_len(g, KEY "token_type", &n_type, err);
    if (st != TY_OK) return st;
    if (n != n_score || n != n_type)
        return ty_fail(err, TY_EFORMAT, "%lld tokens, but %lld scores and %lld types", (long long)n,
                       (long long)n_score, (long long)n_type);
    for (int64_t i = 0; i < n && st == TY_OK; i++) {
        const char *text;
        size_t len;
        double score;
        int64_t type;
        st = ty_gguf_array_str(g, KEY "tokens", i, &text, &len, err);
        if (st == TY_OK) st = ty_gguf_array_float(g, KEY "scores", i, &score, err);
        if (st == TY_OK) st = ty_gguf_array_int(g, KEY "token_type", i, &type, err);
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
    if (ty_gguf_has(g, KEY "add_space_prefix"))
        st = ty_gguf_get_bool(g, KEY "add_space_prefix", &t->dummy_prefix, err);
    if (st == TY_OK && ty_gguf_has(g, KEY "remove_extra_whitespaces"))
        st = ty_gguf_get_bool(g, KEY "remove_extra_whitespaces", &remove, err);
    if (st == TY_OK && remove)
        st = ty_fail(err, TY_EUNSUPPORTED, KEY "remove_extra_whitespaces is not supported");
    return st;
}

ty_status ty_tokenizer_from_gguf(ty_tokenizer **out, const ty_gguf *g, ty_err *err) {
    ty_tokenizer *t = NULL;
    ty_status st = check_model(g, err);
    if (st == TY_OK) st = ty_tokenizer_start(&t, err);
    if (st == TY_OK) {
        t->bos = 1; /* llama.cpp's defaults for this kind of vocabulary */
        t->eos = 2;
        t->unk = 0;
        st = add_pieces(t, g, err);
    }
    if (st == TY_OK) st = get_id(g, KEY "bos_token_id", &t->bos, err);
    if (st == TY_OK) st = get_id(g, KEY "eos_token_id", &t->eos, err);
    if (st == TY_OK) st = get_id(g, KEY "unknown_token_id", &t->unk, err);
    if (st == TY_OK) st = get_flags(t, g, err);
    if (st == TY_OK) st = get_mode(t, g, err);
    if (st == TY_OK) st = ty_tokenizer_finish(t, err);
    if (st != TY_OK) {
        ty_err_context(err, "%s", ty_gguf_path(g));
        ty_tokenizer_destroy(&t);
        return st;
    }
    *out = t;
    return TY_OK;
}
