/*
 * vocab_json.c - a byte-level vocabulary out of tokenizer.json.  Only what common/model/byte_level.c computes is
 * taken: BPE without extras behind BLOOM's pre-tokenizer; anything else is refused by name.
 */
#include "orchestration/vocab.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NORMAL = 1, CONTROL = 3, USER = 4 };

/* The pattern at which BLOOM cuts words (bigscience/bloom, tokenizer.json). */
static const char bloom_pattern[] = " ?[^(\\s|[.,!?\xE2\x80\xA6\xE3\x80\x82\xEF\xBC\x8C\xE3\x80\x81"
                                    "\xE0\xA5\xA4\xDB\x94\xD8\x8C])]+";

static const char *text_of(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static ty_status unsupported(const char *what, const char *is, ty_err *err) {
    return ty_fail(err, TY_EUNSUPPORTED,
                   "tokenizer.json: %s is \"%.80s\"; of byte-level tokenizers only BLOOM's is "
                   "supported",
                   what, is);
}

/* null, false or absent */
static bool is_unset(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    return !v || json_is_null(v) || json_is_false(v);
}

/* A Split at BLOOM's pattern, then bytes as they are. */
static ty_status check_words(const json_t *root, ty_err *err) {
    const json_t *pre = json_object_get(root, "pre_tokenizer");
    const json_t *list = json_object_get(pre, "pretokenizers");
    const json_t *split = json_array_get(list, 0), *bytes = json_array_get(list, 1);
    const char *pattern = text_of(json_object_get(split, "pattern"), "Regex");
    if (!json_is_null(json_object_get(root, "normalizer")) && json_object_get(root, "normalizer"))
        return unsupported("the normalizer", text_of(json_object_get(root, "normalizer"), "type"),
                           err);
    if (json_array_size(list) != 2 || strcmp(text_of(split, "type"), "Split") != 0 ||
        strcmp(text_of(bytes, "type"), "ByteLevel") != 0)
        return unsupported("the pre_tokenizer", text_of(pre, "type"), err);
    if (strcmp(pattern, bloom_pattern) != 0 ||
        strcmp(text_of(split, "behavior"), "Isolated") != 0 || !is_unset(split, "invert"))
        return unsupported("the pre_tokenizer's pattern", pattern, err);
    if (!is_unset(bytes, "add_prefix_space") || !json_is_false(json_object_get(bytes, "use_regex")))
        return unsupported("ByteLevel with add_prefix_space or use_regex", "true", err);
    return TY_OK;
}

static ty_status check_model(const json_t *model, ty_err *err) {
    static const char *const extras[] = {"dropout", "continuing_subword_prefix",
                                         "end_of_word_suffix", "byte_fallback", "ignore_merges"};
    if (strcmp(text_of(model, "type"), "BPE") != 0)
        return unsupported("the model", text_of(model, "type"), err);
    for (size_t i = 0; i < sizeof(extras) / sizeof(*extras); i++) {
        const char *s = json_string_value(json_object_get(model, extras[i]));
        if (!is_unset(model, extras[i]) && !(s && !*s))
            return unsupported(extras[i], s ? s : "set", err);
    }
    return TY_OK;
}

static ty_status put_id(vocab *v, const char *text, const json_t *id, int32_t type, ty_err *err) {
    json_int_t n = json_is_integer(id) ? json_integer_value(id) : -1;
    if (n >= 0 && n < v->n) return vocab_put(v, (int)n, text, strlen(text), 0, type, err);
    return ty_fail(err, n < 0 ? TY_EFORMAT : TY_ESHAPE,
                   "tokenizer.json: the id of \"%.64s\" is %lld, the model's embedding has %d rows",
                   text, (long long)n, v->n);
}

static ty_status read_pieces(vocab *v, const json_t *root, json_t *pieces, ty_err *err) {
    const char *text;
    json_t *id;
    const json_t *added;
    size_t i;
    ty_status st = TY_OK;
    json_object_foreach(pieces, text, id) {
        if (st == TY_OK) st = put_id(v, text, id, NORMAL, err);
    }
    json_array_foreach(json_object_get(root, "added_tokens"), i, added) {
        bool special = json_is_true(json_object_get(added, "special"));
        if (st == TY_OK)
            st = put_id(v, text_of(added, "content"), json_object_get(added, "id"),
                        special ? CONTROL : USER, err);
    }
    for (int row = 0; row < v->n && st == TY_OK; row++)
        if (!v->text[row]) st = vocab_put_padding(v, row, err);
    return st;
}

/* "left right", or a pair of them as newer files have it. */
static char *merge_text(const json_t *m) {
    const char *whole = json_string_value(m), *left = json_string_value(json_array_get(m, 0)),
               *right = json_string_value(json_array_get(m, 1));
    if (whole) return strdup(whole);
    if (json_array_size(m) != 2 || !left || !right) return NULL;
    char *text;
    return asprintf(&text, "%s %s", left, right) < 0 ? NULL : text;
}

static ty_status read_merges(vocab *v, const json_t *list, ty_err *err) {
    size_t i;
    const json_t *m;
    v->merge = calloc(json_array_size(list) + 1, sizeof(*v->merge));
    if (!v->merge) return ty_fail(err, TY_ENOMEM, "no memory for the merges");
    json_array_foreach(list, i, m) {
        char *text = merge_text(m);
        if (!text)
            return ty_fail(err, TY_EFORMAT, "tokenizer.json: merge %zu is no pair of pieces", i);
        v->merge[v->n_merge++] = text;
    }
    return TY_OK;
}

static int find(const vocab *v, const char *text) {
    for (int i = 0; i < v->n; i++)
        if (v->type[i] == CONTROL && strcmp(v->text[i], text) == 0) return i;
    return -1;
}

ty_status vocab_from_json(vocab *v, const json_t *tokenizer, int n_rows, ty_err *err) {
    const json_t *model = json_object_get(tokenizer, "model");
    json_t *pieces = json_object_get(model, "vocab");
    *v = (vocab){0};
    ty_status st = check_words(tokenizer, err);
    if (st == TY_OK) st = check_model(model, err);
    if (st == TY_OK && !json_is_object(pieces))
        st = ty_fail(err, TY_EFORMAT, "tokenizer.json: model.vocab is not an object");
    if (st == TY_OK) st = vocab_alloc(v, n_rows, err);
    if (st != TY_OK) return st;
    v->pre = "bloom";
    v->add_space_prefix = false;
    st = read_pieces(v, tokenizer, pieces, err);
    if (st == TY_OK) st = read_merges(v, json_object_get(model, "merges"), err);
    if (st != TY_OK) return st;
    v->unk = find(v, "<unk>");
    v->bos = find(v, "<s>");
    v->eos = find(v, "</s>");
    return TY_OK;
}
