/* prefix.c: what is found again is what was computed, as long as it can be and never longer.  Every position
 * carries a number made of all keys up to it, so that a page of another path cannot pass. */
#include "tests/support/ty_test.h"

#include "services/decoder/prefix.h"

#include <stdlib.h>
#include <string.h>

enum { D = 4, LEN = 6 * KV_PAGE };

static const kv_shape SHAPE = {.n_layer = 1, .n_kv_head = 1, .d = D, .dtype = TY_F32};

typedef struct {
    kv_pool *pool;
    prefix_index *index;
} rig;

static rig make(int pages, int kept) {
    rig r = {0};
    size_t bytes = kv_page_bytes(&SHAPE) * (size_t)pages;
    assert_int_equal(kv_pool_create(&r.pool, &SHAPE, bytes, NULL), TY_OK);
    assert_int_equal(prefix_create(&r.index, r.pool, 1, kept, NULL), TY_OK);
    return r;
}

static void check_count(const rig *r, int used, int cached) {
    assert_int_equal(kv_pool_used(r->pool), used);
    assert_int_equal(kv_pool_cached(r->pool), cached);
    assert_int_equal(used + cached + kv_pool_free(r->pool), kv_pool_pages(r->pool));
}

static void destroy(rig *r) {
    check_count(r, 0, prefix_pages(r->index));
    prefix_destroy(&r->index);
    check_count(r, 0, 0);
    kv_pool_destroy(&r->pool);
}

/* ---- sequences whose numbers tell of their path ---- */

typedef struct {
    prefix_key key[LEN];
    kv_seq kv;
} seq;

static float number(const prefix_key *key, int pos) {
    uint32_t h = 1;
    for (int i = 0; i <= pos; i++)
        h = h * 31 + (uint32_t)key[i].lo + 7 * (uint32_t)(key[i].hi >> 32);
    return (float)(h % 1000003);
}

/* "aab": a token for each letter. */
static void spell(seq *s, const char *text, int n) {
    for (int i = 0; i < n; i++) s->key[i] = prefix_key_token(text[i % (int)strlen(text)]);
}

/* What a forward pass would do. */
static ty_status compute(rig *r, seq *s, int n) {
    int from = s->kv.len;
    ty_status st = kv_seq_grow(r->pool, &s->kv, n, NULL);
    for (int p = from; p < s->kv.len; p++) {
        float x[D];
        for (int i = 0; i < D; i++) x[i] = number(s->key, p);
        kv_put(r->pool, &s->kv, p, 0, x, x);
    }
    return st;
}

static void check_numbers(const rig *r, const seq *s) {
    for (int p = 0; p < s->kv.len; p++)
        for (int v = 0; v < 2; v++) {
            const float *t = kv_tile(r->pool, s->kv.page[p / KV_PAGE], 0, 0, v);
            if (t[p % KV_PAGE * D] != number(s->key, p)) fail_msg("position %d is another's", p);
        }
}

static void leave(rig *r, seq *s) {
    prefix_insert(r->index, 0, s->key, s->kv.len, &s->kv);
    kv_seq_clear(r->pool, &s->kv);
}

/* A whole life: computes and leaves `n` letters of text. */
static void live(rig *r, const char *text, int n) {
    static seq s;
    spell(&s, text, n);
    (void)prefix_match(r->index, 0, s.key, n - 1, &s.kv);
    assert_int_equal(compute(r, &s, n), TY_OK);
    check_numbers(r, &s);
    leave(r, &s);
}

static int match(rig *r, seq *s, int n) {
    int found = prefix_match(r->index, 0, s->key, n, &s->kv);
    assert_int_equal(found, s->kv.len);
    assert_true(found <= n);
    check_numbers(r, s);
    return found;
}

static void check_match(rig *r, const char *text, int n, int want) {
    seq s = {0};
    spell(&s, text, n);
    assert_int_equal(match(r, &s, n), want);
    kv_seq_clear(r->pool, &s.kv);
}

/* ---- tests ---- */

static void nothing_is_found_in_an_empty_index(void **state) {
    (void)state;
    rig r = make(4, 4);
    check_match(&r, "a", 40, 0);
    destroy(&r);
}

static void the_longest_beginning_is_found_to_the_row(void **state) {
    (void)state;
    rig r = make(16, 16);
    live(&r, "abc", 40);
    check_count(&r, 0, 3);
    check_match(&r, "abc", 96, 40); /* its last page is a part of one */
    check_match(&r, "abc", 40, 40);
    check_match(&r, "abc", 39, 39);
    check_match(&r, "abc", 16, 16);
    check_match(&r, "abc", 5, 5);
    check_match(&r, "abd", 40, 2);
    check_match(&r, "b", 40, 0);
    check_count(&r, 0, 3);
    destroy(&r);
}

static void a_longer_one_takes_the_place_of_its_own_beginning(void **state) {
    (void)state;
    rig r = make(16, 16);
    live(&r, "abc", 20);
    live(&r, "abc", 25);
    check_count(&r, 0, 2);
    live(&r, "abc", 70);
    check_count(&r, 0, 5);
    live(&r, "abc", 33); /* nothing new */
    check_count(&r, 0, 5);
    check_match(&r, "abc", 96, 70);
    destroy(&r);
}

static void branches_in_the_middle_of_a_page_live_side_by_side(void **state) {
    (void)state;
    static seq s;
    rig r = make(16, 16);
    live(&r, "a", 40);
    spell(&s, "a", 22);
    spell(&s, "a", 40);
    for (int i = 22; i < 40; i++) s.key[i] = prefix_key_token('z');
    assert_int_equal(match(&r, &s, 39), 22);
    check_count(&r, 2, 2); /* the first page is shared, the second a copy */
    assert_int_equal(compute(&r, &s, 40), TY_OK);
    leave(&r, &s);
    check_count(&r, 0, 5);
    check_match(&r, "a", 96, 40);
    assert_int_equal(match(&r, &s, 40), 40);
    kv_seq_clear(r.pool, &s.kv);
    destroy(&r);
}

static void the_same_computed_twice_is_kept_once(void **state) {
    (void)state;
    static seq a, b;
    rig r = make(16, 16);
    spell(&a, "abc", 70);
    spell(&b, "abc", 70);
    assert_int_equal(compute(&r, &a, 64), TY_OK);
    assert_int_equal(compute(&r, &b, 64), TY_OK);
    check_count(&r, 8, 0);
    prefix_insert(r.index, 0, a.key, 64, &a.kv);
    prefix_insert(r.index, 0, b.key, 64, &b.kv); /* b goes on over a's pages */
    check_count(&r, 4, 0);
    assert_int_equal(compute(&r, &a, 70), TY_OK);
    assert_int_equal(compute(&r, &b, 68), TY_OK);
    check_numbers(&r, &a);
    check_numbers(&r, &b);
    leave(&r, &a);
    leave(&r, &b);
    check_count(&r, 0, 5);
    destroy(&r);
}

static void pages_give_way_the_oldest_ends_first(void **state) {
    (void)state;
    rig r = make(8, 8);
    static seq big;
    live(&r, "a", 48);
    live(&r, "b", 48);
    check_match(&r, "a", 48, 48); /* "b" is the older now */
    spell(&big, "c", 64);
    assert_int_equal(compute(&r, &big, 64), TY_OK); /* 4 pages, 2 are free */
    check_match(&r, "b", 48, 16);
    check_match(&r, "a", 48, 48);
    kv_seq_clear(r.pool, &big.kv);
    spell(&big, "c", 96);
    assert_int_equal(compute(&r, &big, 96), TY_OK);
    check_match(&r, "b", 48, 0);
    check_match(&r, "a", 48, 32);
    kv_seq_clear(r.pool, &big.kv);
    destroy(&r);
}

static void what_a_sequence_holds_does_not_give_way(void **state) {
    (void)state;
    static seq a, b;
    rig r = make(4, 4);
    live(&r, "a", 40);
    spell(&a, "a", 40);
    assert_int_equal(match(&r, &a, 39), 39);
    spell(&b, "b", 32);
    assert_int_equal(compute(&r, &b, 32), TY_ENOMEM);
    assert_int_equal(compute(&r, &b, 16), TY_OK); /* the part that a has copied gave way */
    check_count(&r, 4, 0);
    check_numbers(&r, &a);
    kv_seq_clear(r.pool, &a.kv);
    kv_seq_clear(r.pool, &b.kv);
    destroy(&r);
}

static void the_limit_holds(void **state) {
    (void)state;
    rig r = make(16, 2);
    live(&r, "a", 64);
    assert_int_equal(prefix_pages(r.index), 2);
    live(&r, "b", 64);
    assert_int_equal(prefix_pages(r.index), 2);
    check_match(&r, "b", 64, 32);
    destroy(&r);
    r = make(16, 0);
    live(&r, "a", 64);
    check_match(&r, "a", 64, 0);
    destroy(&r);
}

static void pictures_under_the_same_text_differ(void **state) {
    (void)state;
    enum { ROWS = 20, WIDTH = 3 };
    static seq a, b;
    float x[ROWS * WIDTH] = {0.5f};
    rig r = make(16, 16);
    spell(&a, "t", 40);
    spell(&b, "t", 40);
    prefix_key_picture(x, ROWS, WIDTH, a.key + 8);
    x[ROWS * WIDTH - 1] = -0.0f; /* one bit, in its last row */
    prefix_key_picture(x, ROWS, WIDTH, b.key + 8);
    assert_int_equal(compute(&r, &a, 40), TY_OK);
    leave(&r, &a);
    assert_int_equal(match(&r, &b, 40), 8);
    assert_int_equal(match(&r, &a, 40), 40);
    kv_seq_clear(r.pool, &a.kv);
    kv_seq_clear(r.pool, &b.kv);
    assert_memory_not_equal(&a.key[8], &a.key[9], sizeof(prefix_key));
    destroy(&r);
}

/* Random beginnings over two letters, several at once.  exact: pages for everything, against a list of all
 * that was ever left.  Else pages are always short, and sequences share what they have so far. */
static void random_life(int pages, bool exact) {
    enum { LIVE = 4, STEPS = 4000, PAST = 512 };
    static seq s[LIVE], past[PAST];
    static int past_len[PAST];
    int n_past = 0, matches = 0, found_rows = 0;
    unsigned rnd = 5;
    rig r = make(pages, pages);
    memset(s, 0, sizeof(s));
    for (int step = 0; step < STEPS && n_past < PAST; step++) {
        rnd = rnd * 1664525u + 1013904223u;
        seq *q = &s[(rnd >> 10) % LIVE];
        if (q->kv.len == 0) {
            unsigned bits = rnd;
            for (int i = 0; i < LEN; i++) {
                if (i % 5 == 0) bits = bits * 1664525u + 1013904223u;
                q->key[i] = prefix_key_token(i % 9 < 7 ? 'x' : 'a' + (int)(bits >> 30) % 2);
            }
            int most = 1 + (int)(rnd >> 12) % (LEN - 1), best = 0;
            for (int k = 0; k < n_past; k++) {
                int m = 0;
                while (m < most && m < past_len[k] && past[k].key[m].lo == q->key[m].lo) m++;
                if (m > best) best = m;
            }
            int found = match(&r, q, most);
            if (exact) assert_int_equal(found, best);
            matches++;
            found_rows += found;
        }
        int want = q->kv.len + 1 + (int)(rnd >> 20) % 30;
        if (want > LEN) want = LEN;
        (void)compute(&r, q, want);
        check_numbers(&r, q);
        if (!exact) prefix_insert(r.index, 0, q->key, q->kv.len / KV_PAGE * KV_PAGE, &q->kv);
        if ((rnd >> 26) % 4 > 0) continue;
        if (q->kv.len > 0 && (rnd >> 28) > 2) {
            past[n_past] = *q;
            past_len[n_past++] = q->kv.len;
            leave(&r, q);
        }
        if (!exact && (rnd >> 28) == 0) kv_seq_clear(r.pool, &q->kv); /* as when a batch failed */
    }
    assert_true(matches > 100 && found_rows > matches * 4);
    for (int i = 0; i < LIVE; i++) kv_seq_clear(r.pool, &s[i].kv);
    /* Whatever is kept can give way. */
    static seq all;
    spell(&all, "q", LEN);
    int n = pages * KV_PAGE < LEN ? pages * KV_PAGE : LEN;
    assert_int_equal(compute(&r, &all, n), TY_OK);
    kv_seq_clear(r.pool, &all.kv);
    destroy(&r);
}

static void with_pages_for_all_the_longest_is_found(void **state) {
    (void)state;
    random_life(4096, true);
}

static void with_few_pages_nothing_wrong_is_found(void **state) {
    (void)state;
    random_life(13, false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_found_in_an_empty_index),
        cmocka_unit_test(the_longest_beginning_is_found_to_the_row),
        cmocka_unit_test(a_longer_one_takes_the_place_of_its_own_beginning),
        cmocka_unit_test(branches_in_the_middle_of_a_page_live_side_by_side),
        cmocka_unit_test(the_same_computed_twice_is_kept_once),
        cmocka_unit_test(pages_give_way_the_oldest_ends_first),
        cmocka_unit_test(what_a_sequence_holds_does_not_give_way),
        cmocka_unit_test(the_limit_holds),
        cmocka_unit_test(pictures_under_the_same_text_differ),
        cmocka_unit_test(with_pages_for_all_the_longest_is_found),
        cmocka_unit_test(with_few_pages_nothing_wrong_is_found),
    };
    return cmocka_run_group_tests_name("prefix", tests, NULL, NULL);
}
