/*
 * detok.c - from ids to text, whole or as a stream.
 *
 * The rules are sentencepiece's decode: the first visible space of the text is the dummy prefix and is
 * dropped; a run of byte pieces is read as UTF-8, each byte that is part of no character is U+FFFD.
 * The pieces of a byte-level vocabulary are all bytes; there a character's beginning that comes to nothing is
 * one U+FFFD as a whole.
 * In the stream a character's bytes wait until it is whole or can no longer become one.
 */
#include "common/base/utf8.h"
#include "common/model/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

struct ty_detok {
    const ty_tokenizer *t;
    bool keep_unk; /* as sentencepiece does; Hugging Face's skip_special_tokens drops it */
    bool at_start; /* nothing was written and no prefix dropped yet */
    char byte[4];  /* the beginning of a character */
    size_t n_byte;
};

static ty_status put(ty_detok *d, const char *text, size_t len, ty_buf *out) {
    if (len) d->at_start = false;
    return ty_buf_append(out, text, len);
}

/* Appends a piece, U+2581 as a space. */
static ty_status put_piece(const char *piece, size_t len, ty_buf *out) {
    const char *end = piece + len, *mark;
    while ((mark = memmem(piece, (size_t)(end - piece), TY_SPM_SPACE, 3))) {
        ty_buf_append(out, piece, (size_t)(mark - piece));
        ty_buf_append(out, " ", 1);
        piece = mark + 3;
    }
    ty_buf_append(out, piece, (size_t)(end - piece));
    return out->failed;
}

ty_status ty_tokenizer_decode_one(const ty_tokenizer *t, int32_t id, bool skip_special,
                                  ty_buf *out) {
    size_t len;
    const char *piece = ty_tokenizer_piece(t, id, &len);
    int type = ty_tokenizer_type(t, id);
    if (t->byte_level && type == TY_PIECE_NORMAL) return ty_buf_append(out, piece, len);
    if (type == TY_PIECE_BYTE) {
        char byte = (char)strtoul(piece + 3, NULL, 16);
        return ty_buf_append(out, &byte, 1);
    }
    if (skip_special && (type == TY_PIECE_CONTROL || type == TY_PIECE_UNKNOWN)) return TY_OK;
    return put_piece(piece, len, out);
}

/* How many of the waiting bytes, which begin no character, one U+FFFD stands for. */
static size_t malformed(const ty_detok *d) {
    size_t n = !d->t->byte_level ? 1 : d->n_byte < 3 ? d->n_byte : 3;
    while (n > 1 && !ty_utf8_is_cut(d->byte, n)) n--;
    return n;
}

/* Writes what has become certain of the waiting bytes; all of them when `final`. */
static ty_status settle(ty_detok *d, bool final, ty_buf *out) {
    ty_status st = TY_OK;
    while (d->n_byte && st == TY_OK) {
        uint32_t code;
        size_t n = ty_utf8_decode(d->byte, d->n_byte, &code);
        if (!n && !final && ty_utf8_is_cut(d->byte, d->n_byte)) break;
        st = n ? put(d, d->byte, n, out) : put(d, TY_UTF8_REPLACEMENT, 3, out);
        if (!n) n = malformed(d);
        d->n_byte -= n;
        memmove(d->byte, d->byte + n, d->n_byte);
    }
    return st;
}

ty_status ty_detok_create(ty_detok **out, const ty_tokenizer *t, ty_err *err) {
    ty_detok *d = calloc(1, sizeof *d);
    if (!d) return ty_fail(err, TY_ENOMEM, "detokeniser: out of memory");
    d->t = t;
    ty_detok_reset(d);
    *out = d;
    return TY_OK;
}

void ty_detok_reset(ty_detok *d) {
    d->at_start = true;
    d->n_byte = 0;
}

void ty_detok_destroy(ty_detok **d) {
    free(*d);
    *d = NULL;
}

ty_status ty_detok_flush(ty_detok *d, ty_buf *out) {
    return settle(d, true, out);
}

static ty_status push_byte(ty_detok *d, char byte, ty_buf *out) {
    d->byte[d->n_byte++] = byte;
    return settle(d, false, out);
}

static ty_status push_bytes(ty_detok *d, const char *piece, size_t len, ty_buf *out) {
    ty_status st = TY_OK;
    for (size_t i = 0; i < len && st == TY_OK; i++) st = push_byte(d, piece[i], out);
    return st;
}

ty_status ty_detok_push(ty_detok *d, int32_t id, ty_buf *out) {
    size_t len;
    const char *piece = ty_tokenizer_piece(d->t, id, &len);
    int type = ty_tokenizer_type(d->t, id);
    if (type == TY_PIECE_BYTE) return push_byte(d, (char)strtoul(piece + 3, NULL, 16), out);
    if (d->t->byte_level && type == TY_PIECE_NORMAL) return push_bytes(d, piece, len, out);
    if (d->t->byte_level && type == TY_PIECE_UNUSED) return TY_OK; /* no piece has this id */
    bool special = type == TY_PIECE_CONTROL || type == TY_PIECE_UNKNOWN;
    if (special && !d->keep_unk) return TY_OK; /* as if it had not come: bytes go on waiting */
    ty_status st = settle(d, true, out);
    if (st != TY_OK || type == TY_PIECE_CONTROL) return st;
    if (type == TY_PIECE_UNKNOWN) return put(d, " \xE2\x81\x87 ", 5, out);
    if (d->at_start && d->t->dummy_prefix && len >= 3 && memcmp(piece, TY_SPM_SPACE, 3) == 0) {
        d->at_start = false;
        piece += 3;
        len -= 3;
    }
    if (len) d->at_start = false;
    return put_piece(piece, len, out);
}

static ty_status decode_run(const ty_tokenizer *t, bool keep_unk, const int32_t *id, int n,
                            ty_buf *out) {
    ty_detok d = {.t = t, .keep_unk = keep_unk, .at_start = true};
    ty_status st = TY_OK;
    for (int i = 0; i < n && st == TY_OK; i++) st = ty_detok_push(&d, id[i], out);
    return st == TY_OK ? ty_detok_flush(&d, out) : st;
}

/* The slow tokenizer decodes each run between special pieces by itself and puts a space in front of a
 * run that a special piece ends. */
static ty_status decode_hf(const ty_tokenizer *t, const int32_t *id, int n, ty_buf *out) {
    ty_status st = TY_OK;
    int begin = 0;
    for (int i = 0; i < n && st == TY_OK; i++) {
        if (id[i] != t->bos && id[i] != t->eos && id[i] != t->unk) continue;
        if (i > begin) st = ty_buf_append(out, " ", 1);
        if (st == TY_OK) st = decode_run(t, true, id + begin, i - begin, out);
        if (st == TY_OK) st = ty_tokenizer_decode_one(t, id[i], false, out);
        begin = i + 1;
    }
    return st == TY_OK ? decode_run(t, true, id + begin, n - begin, out) : st;
}

ty_status ty_tokenizer_decode(const ty_tokenizer *t, ty_decode_mode mode, const int32_t *id, int n,
                              ty_buf *out) {
    if (mode == TY_DECODE_HF) return decode_hf(t, id, n, out);
    return decode_run(t, mode == TY_DECODE_SPM, id, n, out);
}
