/*
 * byte_level.c - byte-level BPE, as GPT-2 began it and BLOOM has it: a vocabulary whose pieces are bytes, and
 * merges that are listed pair by pair.
 *
 * Files write a piece with one printable character for each byte (a space is "Ġ", U+0120).  Here a piece is
 * its bytes.  A text is first cut into words, and no merge crosses their ends.
 */
#include "common/base/utf8.h"
#include "common/model/tokenizer_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- characters for bytes ---- */

/* Latin-1's printable characters stand for themselves; the 68 other bytes are U+0100 and up, in order. */
static bool stands_for_itself(int byte) {
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
}

/* The byte that a character stands for, or -1. */
static int byte_of(uint32_t code) {
    if (code < 256) return stands_for_itself((int)code) ? (int)code : -1;
    for (int byte = 0, next = 256; byte < 256; byte++)
        if (!stands_for_itself(byte) && (uint32_t)next++ == code) return byte;
    return -1;
}

bool ty_byte_level_read(const char *text, size_t len, char *out, size_t *n_out) {
    size_t n = 0;
    for (size_t i = 0, k; i < len; i += k) {
        uint32_t code;
        k = ty_utf8_decode(text + i, len - i, &code);
        int byte = k ? byte_of(code) : -1;
        if (byte < 0) return false;
        out[n++] = (char)byte;
    }
    *n_out = n;
    return true;
}

/* ---- words ---- */

/* Oniguruma's \s, which is Unicode's White_Space: Python's without the four separators of ASCII. */
static bool is_space(uint32_t code) {
    return ty_utf8_is_space(code) && !(code >= 0x1C && code <= 0x1F);
}

/* What BLOOM's pattern " ?[^(\s|[.,!?…。，、।۔،])]+" excludes. */
static bool ends_word(uint32_t code) {
    static const uint32_t mark[] = {'(',    '|',    '.',    ',',    '!',    '?',    ')',
                                    0x2026, 0x3002, 0xFF0C, 0x3001, 0x0964, 0x06D4, 0x060C};
    for (size_t i = 0; i < sizeof mark / sizeof *mark; i++)
        if (mark[i] == code) return true;
    return is_space(code);
}

/* Does a word begin here: a letter, or a space and a letter? */
static bool word_begins(const char *text, size_t len) {
    uint32_t code;
    if (len > 1 && text[0] == ' ') {
        text++;
        len--;
    }
    return len && ty_utf8_decode(text, len, &code) && !ends_word(code);
}

size_t ty_byte_level_word(const char *text, size_t len) {
    bool word = word_begins(text, len);
    size_t i = 0;
    for (uint32_t code; i < len;) {
        size_t n = ty_utf8_decode(text + i, len - i, &code);
        if (word ? i > 0 && ends_word(code) : i > 0 && word_begins(text + i, len - i)) break;
        i += n ? n : 1;
    }
    return i;
}

/* ---- merges ---- */

/* Never 0, which marks a free place. */
static uint64_t merge_key(int32_t left, int32_t right) {
    return ((uint64_t)(uint32_t)left + 1) << 32 | ((uint64_t)(uint32_t)right + 1);
}

static ty_merge *merge_place(const ty_tokenizer *t, uint64_t key) {
    uint32_t i = (uint32_t)((key * 0x9E3779B97F4A7C15u) >> 32) & t->merge_mask;
    while (t->merge[i].key && t->merge[i].key != key) i = (i + 1) & t->merge_mask;
    return &t->merge[i];
}

const ty_merge *ty_tokenizer_merge(const ty_tokenizer *t, int32_t left, int32_t right) {
    const ty_merge *m = merge_place(t, merge_key(left, right));
    return m->key ? m : NULL;
}

ty_status ty_byte_level_start_merges(ty_tokenizer *t, int64_t n, ty_err *err) {
    uint32_t size = 16;
    if (n < 0 || n > 1 << 24) return ty_fail(err, TY_ELIMIT, "%lld merges", (long long)n);
    while ((int64_t)size < 2 * n) size *= 2;
    t->merge = calloc(size, sizeof *t->merge);
    if (!t->merge) return ty_fail(err, TY_ENOMEM, "tokenizer: out of memory");
    t->merge_mask = size - 1;
    return TY_OK;
}

ty_status ty_byte_level_add_merge(ty_tokenizer *t, int32_t rank, const char *text, size_t len,
                                  ty_err *err) {
    const char *space = memchr(text, ' ', len);
    char *both = malloc(len + 1);
    size_t n_left = 0, n_right = 0;
    if (!both) return ty_fail(err, TY_ENOMEM, "tokenizer: out of memory");
    bool ok =
        space && ty_byte_level_read(text, (size_t)(space - text), both, &n_left) &&
        ty_byte_level_read(space + 1, len - (size_t)(space - text) - 1, both + n_left, &n_right);
    int32_t left = ok ? ty_tokenizer_find(t, both, n_left) : -1;
    int32_t right = ok ? ty_tokenizer_find(t, both + n_left, n_right) : -1;
    int32_t id = ok ? ty_tokenizer_find(t, both, n_left + n_right) : -1;
    free(both);
    if (left < 0 || right < 0 || id < 0)
        return ty_fail(err, TY_EFORMAT,
                       "merge %d, '%.*s', is not of two pieces that together are a third", rank,
                       (int)(len < 64 ? len : 64), text);
    uint64_t key = merge_key(left, right);
    ty_merge *m = merge_place(t, key);
    if (!m->key) *m = (ty_merge){key, rank, id};
    return TY_OK;
}

ty_status ty_byte_level_check(ty_tokenizer *t, ty_err *err) {
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        t->byte_id[b] = ty_tokenizer_find(t, &byte, 1);
        if (t->byte_id[b] < 0)
            return ty_fail(err, TY_EFORMAT, "the byte-level vocabulary has no piece for byte %d",
                           b);
    }
    return TY_OK;
}
