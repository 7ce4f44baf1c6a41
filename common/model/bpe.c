/*
 * bpe.c - the merges.  A text is cut into characters; the best-scored pair of neighbours that forms a
 * piece merges, until none is left; what no piece names falls back to bytes.
 *
 * No merge crosses a place whose two characters stand side by side in no piece of the vocabulary, so
 * the text is worked off in such segments (in LLaMA's vocabulary nearly one per word): the queue stays
 * small and in the cache, and a long prompt costs linear time.  Within a segment it is a binary heap.  A
 * segment has a bound (TY_BPE_RUN_MAX), so that a body full of spaces does not cost gigabytes.
 *
 * Which pair is best when scores are equal: sentencepiece takes the leftmost; a fast tokenizer has one
 * rank per pair, from the order in which its merges were listed (resulting id, then left id), and
 * position comes last.  The two differ on runs of spaces, whose pieces share one score.  A byte-level
 * vocabulary lists its merges: the pair that was listed first, then the leftmost.
 */
#include "common/base/utf8.h"
#include "common/model/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    uint32_t begin, len; /* bytes in the text; len 0 = merged into its left neighbour */
    int32_t prev, next;  /* -1 at the ends */
    int32_t id;          /* -1: no such piece (it becomes bytes) */
    bool frozen;         /* a user-defined piece takes part in no merge */
} symbol;

typedef struct {
    float score;
    int32_t id;      /* of the merged piece */
    int32_t left_id; /* for the rank */
    int32_t left;    /* index of the left symbol */
    uint32_t
        len; /* bytes of the merged piece: differs from the symbols' sum once one has changed */
} merge;

typedef struct {
    const ty_tokenizer *t;
    const char *text;
    bool by_rank;
    symbol *sym;
    int n_sym, cap_sym;
    merge *heap;
    int n_heap, cap_heap;
    ty_ids *out;
} bpe;

/* The capacity after `cap`; 0 beyond what an index can count. */
static int wider(int cap) {
    return cap ? (cap <= INT32_MAX / 2 ? cap * 2 : 0) : 64;
}

static ty_status grow_symbols(bpe *b) {
    if (b->n_sym == TY_BPE_RUN_MAX) return TY_ELIMIT;
    if (b->n_sym < b->cap_sym) return TY_OK;
    int cap = wider(b->cap_sym);
    symbol *p = cap ? realloc(b->sym, (size_t)cap * sizeof *p) : NULL;
    if (!p) return cap ? TY_ENOMEM : TY_ELIMIT;
    b->sym = p;
    b->cap_sym = cap;
    return TY_OK;
}

static ty_status grow_heap(bpe *b) {
    if (b->n_heap < b->cap_heap) return TY_OK;
    int cap = wider(b->cap_heap);
    merge *p = cap ? realloc(b->heap, (size_t)cap * sizeof *p) : NULL;
    if (!p) return cap ? TY_ENOMEM : TY_ELIMIT;
    b->heap = p;
    b->cap_heap = cap;
    return TY_OK;
}

static bool before(const bpe *b, const merge *x, const merge *y) {
    if (x->score != y->score) return x->score > y->score;
    if (b->by_rank && x->id != y->id) return x->id < y->id;
    if (b->by_rank && x->left_id != y->left_id) return x->left_id < y->left_id;
    return x->left < y->left;
}

static ty_status heap_push(bpe *b, merge m) {
    ty_status st = grow_heap(b);
    if (st != TY_OK) return st;
    int i = b->n_heap++;
    for (int up; i > 0 && before(b, &m, &b->heap[up = (i - 1) / 2]); i = up)
        b->heap[i] = b->heap[up];
    b->heap[i] = m;
    return TY_OK;
}

static merge heap_pop(bpe *b) {
    merge top = b->heap[0];
    merge m = b->heap[--b->n_heap];
    int i = 0;
    for (int c; (c = 2 * i + 1) < b->n_heap; i = c) {
        if (c + 1 < b->n_heap && before(b, &b->heap[c + 1], &b->heap[c])) c++;
        if (!before(b, &b->heap[c], &m)) break;
        b->heap[i] = b->heap[c];
    }
    b->heap[i] = m;
    return top;
}

static ty_status offer_listed(bpe *b, int32_t left, const symbol *l, const symbol *r) {
    const ty_merge *m = ty_tokenizer_merge(b->t, l->id, r->id);
    if (!m) return TY_OK;
    return heap_push(b, (merge){(float)-m->rank, m->id, l->id, left, l->len + r->len});
}

/* Queues the merge of symbol `left` with its right neighbour, if that is a piece. */
static ty_status offer(bpe *b, int32_t left) {
    if (left < 0 || b->sym[left].next < 0) return TY_OK;
    const symbol *l = &b->sym[left];
    const symbol *r = &b->sym[l->next];
    if (l->frozen || r->frozen) return TY_OK;
    if (b->t->byte_level) return offer_listed(b, left, l, r);
    /* A fast tokenizer's merges are between ids; sentencepiece looks at the text alone. */
    if (b->by_rank && (l->id < 0 || r->id < 0)) return TY_OK;
    uint32_t len = l->len + r->len;
    int32_t id = ty_tokenizer_find(b->t, b->text + l->begin, len);
    if (id < 0) return TY_OK;
    return heap_push(b, (merge){b->t->score[id], id, l->id, left, len});
}

static ty_status merge_all(bpe *b) {
    ty_status st = TY_OK;
    for (int i = 0; i + 1 < b->n_sym && st == TY_OK; i++) st = offer(b, i);
    while (b->n_heap && st == TY_OK) {
        merge m = heap_pop(b);
        symbol *l = &b->sym[m.left];
        if (!l->len || l->next < 0 || l->len + b->sym[l->next].len != m.len) continue; /* stale */
        symbol *r = &b->sym[l->next];
        l->len = m.len;
        l->id = m.id;
        l->next = r->next;
        r->len = 0;
        if (l->next >= 0) b->sym[l->next].prev = m.left;
        st = offer(b, l->prev);
        if (st == TY_OK) st = offer(b, m.left);
    }
    b->n_heap = 0;
    return st;
}

/* A symbol without a piece gives its bytes, or one unk for each run where a byte piece is missing. */
static ty_status emit(bpe *b, symbol s) {
    if (s.id >= 0) return ty_ids_push(b->out, s.id);
    const unsigned char *p = (const unsigned char *)b->text + s.begin;
    bool all = true;
    for (uint32_t i = 0; i < s.len; i++) all = all && b->t->byte_id[p[i]] >= 0;
    if (!all) {
        bool repeated = b->out->n && b->out->id[b->out->n - 1] == b->t->unk;
        return repeated || b->t->unk < 0 ? TY_OK : ty_ids_push(b->out, b->t->unk);
    }
    ty_status st = TY_OK;
    for (uint32_t i = 0; i < s.len && st == TY_OK; i++)
        st = ty_ids_push(b->out, b->t->byte_id[p[i]]);
    return st;
}

/* Merges and emits the symbols gathered so far. */
static ty_status flush(bpe *b) {
    ty_status st = b->n_sym > 1 ? merge_all(b) : TY_OK;
    for (int32_t i = b->n_sym ? 0 : -1; i >= 0 && st == TY_OK; i = b->sym[i].next)
        st = emit(b, b->sym[i]);
    b->n_sym = 0;
    return st;
}

static ty_status gather(bpe *b, size_t begin, size_t len, int32_t id, bool frozen) {
    ty_status st = grow_symbols(b);
    if (st != TY_OK) return st;
    int i = b->n_sym++;
    b->sym[i] = (symbol){(uint32_t)begin, (uint32_t)len, i - 1, -1, id, frozen};
    if (i) b->sym[i - 1].next = i;
    return TY_OK;
}

ty_status ty_bpe_encode(const ty_tokenizer *t, bool by_rank, const char *text, size_t len,
                        ty_ids *out) {
    if (len > INT32_MAX) return TY_ELIMIT;
    bpe b = {.t = t, .text = text, .by_rank = by_rank, .out = out};
    ty_status st = TY_OK;
    uint32_t last = 0, code = 0;
    for (size_t i = 0, n; i < len && st == TY_OK; i += n, last = code) {
        int32_t id = t->n_user ? ty_tokenizer_user_at(t, text + i, len - i) : -1;
        bool frozen = id >= 0;
        n = frozen ? t->begin[id + 1] - t->begin[id] - 1 : ty_utf8_decode(text + i, len - i, &code);
        if (frozen) code = UINT32_MAX; /* joins with nothing */
        if (i && !ty_tokenizer_joins(t, last, code)) st = flush(&b);
        if (!frozen) id = ty_tokenizer_find(t, text + i, n);
        if (st == TY_OK) st = gather(&b, i, n, id, frozen);
    }
    if (st == TY_OK) st = flush(&b);
    free(b.sym);
    free(b.heap);
    return st;
}

ty_status ty_bpe_encode_bytes(const ty_tokenizer *t, const char *text, size_t len, ty_ids *out) {
    if (len > INT32_MAX) return TY_ELIMIT;
    bpe b = {.t = t, .text = text, .out = out};
    ty_status st = TY_OK;
    for (size_t i = 0; i < len && st == TY_OK;) {
        size_t end = i + ty_byte_level_word(text + i, len - i);
        for (; i < end && st == TY_OK; i++)
            st = gather(&b, i, 1, t->byte_id[(unsigned char)text[i]], false);
        if (st == TY_OK) st = flush(&b);
    }
    free(b.sym);
    free(b.heap);
    return st;
}
