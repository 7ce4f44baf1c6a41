/* kv.c: paged keys and values, against a plain array that always tells the truth. */
#include "tests/support/ty_test.h"

#include "services/decoder/kv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 2, HEADS = 3, D = 4, WIDTH = HEADS * D };

static const kv_shape SHAPE = {.n_layer = LAYERS, .n_kv_head = HEADS, .d = D, .dtype = TY_F32};

static kv_pool *make(int pages, ty_dtype t) {
    kv_shape s = SHAPE;
    s.dtype = t;
    kv_pool *p = NULL;
    ty_err err = {0};
    assert_int_equal(kv_pool_create(&p, &s, kv_page_bytes(&s) * (size_t)pages, &err), TY_OK);
    return p;
}

/* What position pos of sequence `tag` holds at a place. */
static float value(int tag, int pos, int layer, int i, int v) {
    return (float)(tag * 1000 + pos) + 0.125f * (float)(layer * 2 + v) + 0.5f * (float)(i % 2);
}

static void put(kv_pool *p, const kv_seq *s, int tag, int pos) {
    float k[WIDTH], v[WIDTH];
    for (int l = 0; l < LAYERS; l++) {
        for (int i = 0; i < WIDTH; i++) {
            k[i] = value(tag, pos, l, i, 0);
            v[i] = value(tag, pos, l, i, 1);
        }
        kv_put(p, s, pos, l, k, v);
    }
}

static void check(const kv_pool *p, const kv_seq *s, int tag, int pos) {
    for (int l = 0; l < LAYERS; l++)
        for (int h = 0; h < HEADS; h++)
            for (int v = 0; v < 2; v++) {
                const float *tile = kv_tile(p, s->page[pos / KV_PAGE], l, h, v);
                for (int i = 0; i < D; i++) {
                    float got = tile[pos % KV_PAGE * D + i];
                    if (got != value(tag, pos, l, h * D + i, v))
                        fail_msg("seq %d pos %d layer %d: %g", tag, pos, l, (double)got);
                }
            }
}

static void pool_refuses_what_does_not_fit(void **state) {
    (void)state;
    kv_pool *p;
    ty_err err = {0};
    assert_int_equal(kv_pool_create(&p, &SHAPE, kv_page_bytes(&SHAPE) - 1, &err), TY_EINVAL);
    kv_shape s = SHAPE;
    s.dtype = TY_Q8_0;
    assert_int_equal(kv_pool_create(&p, &s, 1 << 20, &err), TY_EINVAL);
    assert_non_null(strstr(err.text, "q8_0"));
}

static void seq_keeps_what_was_put(void **state) {
    (void)state;
    kv_pool *p = make(4, TY_F32);
    kv_seq s = {0};
    for (int pos = 0; pos < 3 * KV_PAGE; pos++) {
        assert_int_equal(kv_seq_grow(p, &s, pos + 1, NULL), TY_OK);
        put(p, &s, 1, pos);
    }
    for (int pos = 0; pos < 3 * KV_PAGE; pos++) check(p, &s, 1, pos);
    assert_int_equal(kv_pool_used(p), 3);
    kv_seq_clear(p, &s);
    assert_int_equal(kv_pool_used(p), 0);
    kv_pool_destroy(&p);
}

static void seq_is_unchanged_when_the_pool_is_full(void **state) {
    (void)state;
    kv_pool *p = make(2, TY_F32);
    kv_seq s = {0};
    ty_err err = {0};
    assert_int_equal(kv_seq_grow(p, &s, KV_PAGE + 1, &err), TY_OK);
    assert_int_equal(kv_seq_grow(p, &s, 2 * KV_PAGE + 1, &err), TY_ENOMEM);
    assert_int_equal(s.len, KV_PAGE + 1);
    assert_int_equal(s.n_page, 2);
    kv_seq_clear(p, &s);
    kv_pool_destroy(&p);
}

static void fork_shares_pages_until_one_writes(void **state) {
    (void)state;
    kv_pool *p = make(8, TY_F32);
    kv_seq a = {0}, b = {0};
    int n = KV_PAGE + KV_PAGE / 2;
    assert_int_equal(kv_seq_grow(p, &a, n, NULL), TY_OK);
    for (int pos = 0; pos < n; pos++) put(p, &a, 1, pos);
    assert_int_equal(kv_seq_fork(p, &b, &a, NULL), TY_OK);
    assert_int_equal(kv_pool_used(p), 2);
    assert_int_equal(kv_seq_grow(p, &b, n + 1, NULL), TY_OK);
    assert_int_equal(kv_pool_used(p), 3);
    assert_int_equal(a.page[0], b.page[0]);
    assert_int_not_equal(a.page[1], b.page[1]);
    put(p, &b, 2, n);
    assert_int_equal(kv_seq_grow(p, &a, n + 1, NULL), TY_OK); /* alone on it again: no copy */
    assert_int_equal(kv_pool_used(p), 3);
    put(p, &a, 1, n);
    for (int pos = 0; pos < n; pos++) {
        check(p, &a, 1, pos);
        check(p, &b, 1, pos);
    }
    check(p, &a, 1, n);
    check(p, &b, 2, n);
    kv_seq_clear(p, &a);
    for (int pos = 0; pos < n; pos++) check(p, &b, 1, pos);
    kv_seq_clear(p, &b);
    assert_int_equal(kv_pool_used(p), 0);
    kv_pool_destroy(&p);
}

static void f16_rounds_to_nearest(void **state) {
    (void)state;
    kv_pool *p = make(1, TY_F16);
    kv_seq s = {0};
    float k[WIDTH], v[WIDTH];
    for (int i = 0; i < WIDTH; i++) {
        k[i] = 0.1f * (float)i;
        v[i] = -k[i];
    }
    assert_int_equal(kv_seq_grow(p, &s, 1, NULL), TY_OK);
    kv_put(p, &s, 0, 1, k, v);
    for (int i = 0; i < WIDTH; i++) {
        const uint16_t *tk = kv_tile(p, s.page[0], 1, i / D, 0),
                       *tv = kv_tile(p, s.page[0], 1, i / D, 1);
        assert_int_equal(tk[i % D], ty_f32_to_f16(k[i]));
        assert_int_equal(tv[i % D], ty_f32_to_f16(v[i]));
    }
    kv_seq_clear(p, &s);
    kv_pool_destroy(&p);
}

/* Random growth, forks and ends of a few sequences; every position carries a tag of who wrote it. */
static void random_life_keeps_every_sequence_right(void **state) {
    (void)state;
    enum { SEQS = 6, LEN = 5 * KV_PAGE };
    kv_pool *p = make(14, TY_F32);
    kv_seq s[SEQS] = {0};
    static int tag[SEQS][LEN];
    unsigned r = 7;
    int writer = 0;
    for (int step = 0; step < 20000; step++) {
        r = r * 1664525u + 1013904223u;
        int i = (int)(r >> 8) % SEQS, op = (int)(r >> 16) % 16;
        if (op == 0) kv_seq_clear(p, &s[i]);
        if (op == 1) {
            int from = (i + 1 + (int)(r >> 20) % (SEQS - 1)) % SEQS;
            assert_int_equal(kv_seq_fork(p, &s[i], &s[from], NULL), TY_OK);
            memcpy(tag[i], tag[from], sizeof(tag[i]));
        }
        if (op > 1 && s[i].len < LEN && kv_seq_grow(p, &s[i], s[i].len + 1, NULL) == TY_OK) {
            tag[i][s[i].len - 1] = ++writer % 97;
            put(p, &s[i], tag[i][s[i].len - 1], s[i].len - 1);
        }
        if (step % 64 == 0)
            for (int k = 0; k < SEQS; k++)
                for (int pos = 0; pos < s[k].len; pos++) check(p, &s[k], tag[k][pos], pos);
    }
    for (int k = 0; k < SEQS; k++) kv_seq_clear(p, &s[k]);
    assert_int_equal(kv_pool_used(p), 0);
    kv_pool_destroy(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pool_refuses_what_does_not_fit),
        cmocka_unit_test(seq_keeps_what_was_put),
        cmocka_unit_test(seq_is_unchanged_when_the_pool_is_full),
        cmocka_unit_test(fork_shares_pages_until_one_writes),
        cmocka_unit_test(f16_rounds_to_nearest),
        cmocka_unit_test(random_life_keeps_every_sequence_right),
    };
    return cmocka_run_group_tests_name("kv", tests, NULL, NULL);
}
