/*
 * vocabulary.c - the pieces of a tokenizer: building the tables once, looking pieces up.
 *
 * Unused pieces (type 5: converters pad vocabularies with them) are never produced from text.
 */
#include "common/base/utf8.h"
#include "common/model/tokenizer_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { PIECES_MAX = 1 << 22, TEXT_MAX = 1 << 28, SPECIAL_MAX = 4096 };

ty_status ty_tokenizer_start(ty_tokenizer **out, ty_err *err) {
    ty_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return ty_fail(err, TY_ENOMEM, "tokenizer: out of memory");
    t->text = ty_buf_make(TEXT_MAX);
    t->bos = t->eos = t->unk = -1;
    t->dummy_prefix = true;
    for (int i = 0; i < 256; i++) t->byte_id[i] = -1;
    *out = t;
    return TY_OK;
}

void ty_tokenizer_destroy(ty_tokenizer **t) {
    if (!*t) return;
    ty_buf_clear(&(*t)->text);
    free((*t)->begin);
    free((*t)->score);
    free((*t)->type);
    free((*t)->slot);
    free((*t)->pair);
    free((*t)->special);
    free((*t)->merge);
    free(*t);
    *t = NULL;
}

static bool widen(ty_tokenizer *t) {
    if (t->n < t->cap) return true;
    int cap = t->cap ? 2 * t->cap : 1024;
    size_t *begin = realloc(t->begin, ((size_t)cap + 1) * sizeof *begin);
    if (begin) t->begin = begin;
    float *score = realloc(t->score, (size_t)cap * sizeof *score);
    if (score) t->score = score;
    uint8_t *type = realloc(t->type, (size_t)cap);
    if (type) t->type = type;
    if (!begin || !score || !type) return false;
    t->cap = cap;
    return true;
}

ty_status ty_tokenizer_add(ty_tokenizer *t, const char *text, size_t len, double score,
                           int64_t type, ty_err *err) {
    if (t->n >= PIECES_MAX) return ty_fail(err, TY_ELIMIT, "more than %d pieces", PIECES_MAX);
    if (type < TY_PIECE_NORMAL || type > TY_PIECE_BYTE)
        return ty_fail(err, TY_EFORMAT, "piece %d has type %lld, want 1 to 6", t->n,
                       (long long)type);
    if (!isfinite(score) || fabs(score) > 1e30)
        return ty_fail(err, TY_EFORMAT, "piece %d has score %g", t->n, score);
    if (!widen(t)) return ty_fail(err, TY_ENOMEM, "tokenizer: out of memory");
    t->begin[t->n] = t->text.len;
    if (ty_buf_append(&t->text, text, len) != TY_OK || ty_buf_append(&t->text, "", 1) != TY_OK)
        return ty_fail(err, t->text.failed, "the pieces together are over %d bytes", TEXT_MAX);
    t->score[t->n] = (float)score;
    t->type[t->n] = (uint8_t)type;
    t->begin[++t->n] = t->text.len;
    return TY_OK;
}

const char *ty_tokenizer_piece(const ty_tokenizer *t, int32_t id, size_t *len) {
    if (id < 0 || id >= t->n) {
        *len = 0;
        return "";
    }
    *len = t->begin[id + 1] - t->begin[id] - 1;
    return t->text.data + t->begin[id];
}

static uint32_t table_size(size_t n) {
    uint32_t size = 16;
    while (size < 2 * n) size *= 2;
    return size;
}

/* The slot that holds this text, or the free one where it belongs. */
static ty_slot *slot_of(const ty_tokenizer *t, const char *text, size_t len, uint32_t hash) {
    uint32_t i = hash & t->slot_mask;
    for (; t->slot[i].id >= 0; i = (i + 1) & t->slot_mask) {
        size_t have;
        if (t->slot[i].hash != hash) continue;
        const char *piece = ty_tokenizer_piece(t, t->slot[i].id, &have);
        if (have == len && memcmp(piece, text, len) == 0) break;
    }
    return &t->slot[i];
}

static uint32_t hash_of(const char *text, size_t len) {
    return (uint32_t)XXH3_64bits(text, len);
}

int32_t ty_tokenizer_find(const ty_tokenizer *t, const char *text, size_t len) {
    return len > t->longest ? -1 : slot_of(t, text, len, hash_of(text, len))->id;
}

/* Never 0, which marks a free place. */
static uint64_t pair_key(uint32_t left, uint32_t right) {
    return ((uint64_t)left + 1) << 32 | ((uint64_t)right + 1);
}

static uint32_t pair_place(const ty_tokenizer *t, uint64_t key) {
    uint32_t i = (uint32_t)((key * 0x9E3779B97F4A7C15u) >> 32) & t->pair_mask;
    while (t->pair[i] && t->pair[i] != key) i = (i + 1) & t->pair_mask;
    return i;
}

bool ty_tokenizer_joins(const ty_tokenizer *t, uint32_t left, uint32_t right) {
    return left != UINT32_MAX && right != UINT32_MAX &&
           t->pair[pair_place(t, pair_key(left, right))] != 0;
}

static bool from_text(const ty_tokenizer *t, int id) {
    return t->type[id] == TY_PIECE_NORMAL || t->type[id] == TY_PIECE_USER;
}

/* Adds the character pairs of a piece; one that is no valid UTF-8 can never match a text. */
static void add_pairs(ty_tokenizer *t, const char *text, size_t len) {
    uint32_t last = 0, code = 0;
    for (size_t i = 0, n; i < len; i += n, last = code) {
        n = ty_utf8_decode(text + i, len - i, &code);
        if (!n) return;
        if (!i) continue;
        uint64_t key = pair_key(last, code);
        t->pair[pair_place(t, key)] = key;
    }
}

static ty_status build_tables(ty_tokenizer *t, ty_err *err) {
    uint32_t n_slot = table_size((size_t)t->n), n_pair = table_size(t->text.len);
    t->slot = malloc(n_slot * sizeof *t->slot);
    t->pair = calloc(n_pair, sizeof *t->pair);
    if (!t->slot || !t->pair) return ty_fail(err, TY_ENOMEM, "tokenizer: out of memory");
    t->slot_mask = n_slot - 1;
    t->pair_mask = n_pair - 1;
    for (uint32_t i = 0; i < n_slot; i++) t->slot[i].id = -1;
    for (int32_t id = 0; id < t->n; id++) {
        size_t len;
        const char *piece = ty_tokenizer_piece(t, id, &len);
        if (!from_text(t, id) || !len) continue;
        uint32_t hash = hash_of(piece, len);
        ty_slot *place = slot_of(t, piece, len, hash);
        if (place->id < 0) *place = (ty_slot){hash, id}; /* of two equal pieces the first counts */
        if (len > t->longest) t->longest = len;
        add_pairs(t, piece, len);
    }
    return TY_OK;
}

/* "<0x0A>" -> byte_id[10]. */
static ty_status note_byte(ty_tokenizer *t, int32_t id, ty_err *err) {
    size_t len;
    const char *piece = ty_tokenizer_piece(t, id, &len);
    char *end = NULL;
    unsigned long v = len == 6 && memcmp(piece, "<0x", 3) == 0 ? strtoul(piece + 3, &end, 16) : 256;
    if (v > 255 || end != piece + 5 || *end != '>')
        return ty_fail(err, TY_EFORMAT, "byte piece %d is '%.32s', want '<0x00>' to '<0xFF>'", id,
                       piece);
    if (t->byte_id[v] < 0) t->byte_id[v] = id;
    return TY_OK;
}

static size_t piece_len(const ty_tokenizer *t, int32_t id) {
    return t->begin[id + 1] - t->begin[id] - 1;
}

/* Appends the pieces of this kind to `special`, longest first, so that the longest matches. */
static ty_status list_pieces(ty_tokenizer *t, bool user, bool first[256], ty_err *err) {
    int begin = t->n_special + t->n_user, end = begin;
    for (int32_t id = 0; id < t->n; id++) {
        size_t len = piece_len(t, id);
        bool special = t->type[id] == TY_PIECE_CONTROL || t->type[id] == TY_PIECE_UNKNOWN;
        if (!len || !(user ? t->type[id] == TY_PIECE_USER : special)) continue;
        if (end == SPECIAL_MAX)
            return ty_fail(err, TY_ELIMIT, "over %d control and user pieces", SPECIAL_MAX);
        first[(unsigned char)t->text.data[t->begin[id]]] = true;
        int i = end++;
        for (; i > begin && piece_len(t, t->special[i - 1]) < len; i--)
            t->special[i] = t->special[i - 1];
        t->special[i] = id;
    }
    *(user ? &t->n_user : &t->n_special) = end - begin;
    return TY_OK;
}

ty_status ty_tokenizer_finish(ty_tokenizer *t, ty_err *err) {
    if (!t->n) return ty_fail(err, TY_EFORMAT, "the vocabulary is empty");
    if (t->bos >= t->n || t->eos >= t->n || t->unk >= t->n)
        return ty_fail(err, TY_EFORMAT, "bos %d, eos %d or unk %d is beyond the %d pieces", t->bos,
                       t->eos, t->unk, t->n);
    ty_status st = TY_OK;
    for (int32_t id = 0; id < t->n && st == TY_OK; id++)
        if (t->type[id] == TY_PIECE_BYTE) st = note_byte(t, id, err);
    if (st == TY_OK) st = build_tables(t, err);
    if (st != TY_OK) return st;
    t->special = malloc(SPECIAL_MAX * sizeof *t->special);
    if (!t->special) return ty_fail(err, TY_ENOMEM, "tokenizer: out of memory");
    st = list_pieces(t, false, t->special_first, err);
    return st == TY_OK ? list_pieces(t, true, t->user_first, err) : st;
}

static int32_t first_match(const ty_tokenizer *t, const int32_t *list, int n, const char *text,
                           size_t len) {
    for (int i = 0; i < n; i++) {
        size_t have;
        const char *piece = ty_tokenizer_piece(t, list[i], &have);
        if (have <= len && memcmp(piece, text, have) == 0) return list[i];
    }
    return -1;
}

int32_t ty_tokenizer_special_at(const ty_tokenizer *t, const char *text, size_t len) {
    if (!len || !t->special_first[(unsigned char)text[0]]) return -1;
    return first_match(t, t->special, t->n_special, text, len);
}

int32_t ty_tokenizer_user_at(const ty_tokenizer *t, const char *text, size_t len) {
    if (!len || !t->user_first[(unsigned char)text[0]]) return -1;
    return first_match(t, t->special + t->n_special, t->n_user, text, len);
}

int ty_tokenizer_size(const ty_tokenizer *t) {
    return t->n;
}
int32_t ty_tokenizer_bos(const ty_tokenizer *t) {
    return t->bos;
}
int32_t ty_tokenizer_eos(const ty_tokenizer *t) {
    return t->eos;
}
int32_t ty_tokenizer_unk(const ty_tokenizer *t) {
    return t->unk;
}
float ty_tokenizer_score(const ty_tokenizer *t, int32_t id) {
    return id < 0 || id >= t->n ? 0 : t->score[id];
}
int ty_tokenizer_type(const ty_tokenizer *t, int32_t id) {
    return id < 0 || id >= t->n ? TY_PIECE_UNUSED : t->type[id];
}
ty_tokenize_mode ty_tokenizer_default_mode(const ty_tokenizer *t) {
    return t->mode;
}
