/*
 * tokenizer.c - from bytes to ids in the three behaviours of tokenizer.h: where special pieces are
 * looked for, what happens to the white space beside them, and how a text becomes what the merges see.
 */
#include "common/model/tokenizer.h"

#include "common/base/utf8.h"
#include "common/model/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

int ty_tokenize_mode_parse(const char *name) {
    static const char *const names[] = {"spm", "slow", "fast"};
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0) return i;
    return -1;
}

void ty_ids_clear(ty_ids *ids) {
    free(ids->id);
    *ids = (ty_ids){0};
}

ty_status ty_ids_push(ty_ids *ids, int32_t id) {
    if (ids->n == ids->cap) {
        if (ids->cap > INT32_MAX / 2) return TY_ELIMIT;
        int cap = ids->cap ? 2 * ids->cap : 64;
        int32_t *p = realloc(ids->id, (size_t)cap * sizeof *p);
        if (!p) return TY_ENOMEM;
        ids->id = p;
        ids->cap = cap;
    }
    ids->id[ids->n++] = id;
    return TY_OK;
}

/* The text as the merges want it: prefix, spaces as U+2581 (neither in a byte-level vocabulary), each
 * malformed byte as U+FFFD (as sentencepiece's normaliser does). */
static void normalise(const ty_tokenizer *t, const char *text, size_t len, ty_buf *out) {
    size_t plain = 0; /* text before i that goes over as it is starts here */
    uint32_t code = 0;
    if (t->dummy_prefix) ty_buf_puts(out, TY_SPM_SPACE);
    for (size_t i = 0; i < len;) {
        size_t n = ty_utf8_decode(text + i, len - i, &code);
        if (n && (code != ' ' || t->byte_level)) {
            i += n;
            continue;
        }
        ty_buf_append(out, text + plain, i - plain);
        ty_buf_puts(out, n ? TY_SPM_SPACE : TY_UTF8_REPLACEMENT);
        plain = ++i;
    }
    ty_buf_append(out, text + plain, len - plain);
}

static ty_status encode_text(const ty_tokenizer *t, bool by_rank, const char *text, size_t len,
                             ty_ids *out) {
    if (!len) return TY_OK;
    ty_buf b = ty_buf_make(INT32_MAX);
    normalise(t, text, len, &b);
    ty_status st = b.failed;
    if (st == TY_OK && t->byte_level)
        st = ty_bpe_encode_bytes(t, b.data, b.len, out);
    else if (st == TY_OK)
        st = ty_bpe_encode(t, by_rank, b.data, b.len, out);
    ty_buf_clear(&b);
    return st;
}

/* str.lstrip and str.rstrip on UTF-8. */
static size_t strip_left(const char *text, size_t begin, size_t end) {
    uint32_t code;
    while (begin < end) {
        size_t n = ty_utf8_decode(text + begin, end - begin, &code);
        if (!n || !ty_utf8_is_space(code)) break;
        begin += n;
    }
    return begin;
}

static size_t strip_right(const char *text, size_t begin, size_t end) {
    while (begin < end) {
        size_t at = end - 1;
        while (at > begin && end - at < 4 && ((unsigned char)text[at] & 0xC0) == 0x80) at--;
        uint32_t code;
        if (ty_utf8_decode(text + at, end - at, &code) != end - at || !ty_utf8_is_space(code))
            break;
        end = at;
    }
    return end;
}

/* Splits at the special pieces; the text between them is encoded part by part, each with a prefix of
 * its own. */
static ty_status encode_split(const ty_tokenizer *t, ty_tokenize_mode mode, const char *text,
                              size_t len, ty_ids *out) {
    ty_status st = TY_OK;
    bool slow = mode == TY_TOKENIZE_SLOW && !t->byte_level; /* there is no slow one of these */
    size_t begin = 0, i = 0;
    for (; i < len && st == TY_OK;) {
        int32_t id = ty_tokenizer_special_at(t, text + i, len - i);
        if (id < 0 && t->byte_level) id = ty_tokenizer_user_at(t, text + i, len - i);
        if (id < 0) {
            i++;
            continue;
        }
        size_t end = slow ? strip_right(text, begin, i) : i;
        st = encode_text(t, !slow, text + begin, end - begin, out);
        if (st == TY_OK) st = ty_ids_push(out, id);
        i += t->begin[id + 1] - t->begin[id] - 1;
        begin = i;
        if (!slow) continue;
        /* What is stripped cannot hold a special piece, which begins with no white space. */
        begin = i = strip_left(text, i, len);
    }
    if (st == TY_OK) st = encode_text(t, !slow, text + begin, len - begin, out);
    return st;
}

ty_status ty_tokenizer_encode(const ty_tokenizer *t, ty_tokenize_mode mode, const char *text,
                              size_t len, ty_ids *out, ty_err *err) {
    ty_status st = mode == TY_TOKENIZE_SPM ? encode_text(t, false, text, len, out)
                                           : encode_split(t, mode, text, len, out);
    if (st == TY_ELIMIT)
        return ty_fail(err, st,
                       "the text of %zu bytes is too long to tokenise at once, or has more than %d "
                       "characters in a row that may all join (spaces?); shorten it",
                       len, TY_BPE_RUN_MAX);
    if (st != TY_OK) return ty_fail(err, st, "tokenising %zu bytes: out of memory", len);
    return TY_OK;
}
