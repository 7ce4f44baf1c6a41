/* logits.h on rows small enough to work out by hand, and Philox against its published vector. */
#include "tests/support/ty_test.h"

#include "common/model/logits.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static ty_sampling sampling(double temperature, int top_k, double top_p) {
    ty_sampling s;
    ty_sampling_default(&s);
    s.temperature = temperature;
    s.top_k = top_k;
    s.top_p = top_p;
    return s;
}

static void close_to(double got, double want) {
    if (!(fabs(got - want) < 1e-6)) fail_msg("got %.9g, want %.9g", got, want);
}

static void argmax_takes_the_lowest_id_when_equal(void **state) {
    (void)state;
    const float l[] = {1, 3, 3, 2};
    assert_int_equal(ty_logits_argmax(l, 4), 1);
    const float odd[] = {NAN, -HUGE_VALF, 0};
    assert_int_equal(ty_logits_argmax(odd, 3), 2);
}

static void repetition_penalty_counts_an_id_once(void **state) {
    (void)state;
    float l[] = {4, -2, 1, 8};
    const int32_t seen[] = {0, 1, 0, 1, 99, -1};
    ty_logits_repetition_penalty(l, 4, seen, 6, 2);
    const float want[] = {2, -4, 1, 8};
    assert_memory_equal(l, want, sizeof want);
}

static void no_repeat_ngram_bans_what_would_repeat(void **state) {
    (void)state;
    float l[6] = {0};
    const int32_t seen[] = {1, 2, 3, 1, 2, 4, 1, 2};
    ty_logits_no_repeat_ngram(l, 6, seen, 8, 3);
    for (int i = 0; i < 6; i++) assert_int_equal(isinf(l[i]) != 0, i == 3 || i == 4);
    float one[6] = {0};
    ty_logits_no_repeat_ngram(one, 6, seen, 8, 1);
    for (int i = 0; i < 6; i++) assert_int_equal(isinf(one[i]) != 0, i >= 1 && i <= 4);
    float none[6] = {0};
    ty_logits_no_repeat_ngram(none, 6, seen, 2, 3);
    ty_logits_no_repeat_ngram(none, 6, seen, 0, 1);
    for (int i = 0; i < 6; i++) assert_false(isinf(none[i]));
}

static void warp_sorts_and_sums_to_one(void **state) {
    (void)state;
    const float l[] = {0, 2, 1, 2, -HUGE_VALF};
    ty_candidate c[5];
    ty_sampling s = sampling(1, 0, 1);
    assert_int_equal(ty_logits_warp(l, 5, &s, c), 4);
    double sum = 0;
    const int32_t order[] = {1, 3, 2, 0};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(c[i].id, order[i]);
        sum += (double)c[i].p;
    }
    close_to(sum, 1);
    close_to((double)c[0].p / (double)c[3].p, exp(2));
}

static void top_k_keeps_ties_with_the_last(void **state) {
    (void)state;
    const float l[] = {5, 1, 3, 3, 3, 0};
    ty_candidate c[6];
    ty_sampling s = sampling(1, 2, 1);
    assert_int_equal(ty_logits_warp(l, 6, &s, c), 4);
    assert_int_equal(c[0].id, 0);
    assert_int_equal(c[3].id, 4);
    s.top_k = 100;
    assert_int_equal(ty_logits_warp(l, 6, &s, c), 6);
}

static void top_p_keeps_the_smallest_set_over_p(void **state) {
    (void)state;
    const float l[] = {logf(0.5f), logf(0.3f), logf(0.15f), logf(0.05f)};
    const struct {
        double p;
        int n;
    } cases[] = {{0.4, 1}, {0.6, 2}, {0.79, 2}, {0.81, 3}, {0.96, 4}, {0, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ty_candidate c[4];
        ty_sampling s = sampling(1, 0, cases[i].p);
        assert_int_equal(ty_logits_warp(l, 4, &s, c), cases[i].n);
    }
}

static void top_gives_log_probabilities(void **state) {
    (void)state;
    const float l[] = {logf(0.2f), logf(0.5f), logf(0.2f), logf(0.1f)};
    ty_candidate c[3];
    assert_int_equal(ty_logits_top(l, 4, 3, c), 3);
    assert_int_equal(c[0].id, 1);
    assert_int_equal(c[1].id, 0);
    assert_int_equal(c[2].id, 2);
    close_to((double)c[0].p, log(0.5));
    assert_int_equal(ty_logits_top(l, 4, 0, c), 0);
}

/* Random123's known answer: counter 0, key 0 gives 6627e8d5 e169c58d ... */
static void draw_is_philox(void **state) {
    (void)state;
    assert_true(ty_draw(0, 0) == (double)(0xe169c58d6627e8d5u >> 11) * 0x1p-53);
    assert_true(ty_draw(1, 0) != ty_draw(0, 1));
    assert_true(ty_draw(1ull << 32, 0) != ty_draw(0, 0));
}

static void pick_follows_the_probabilities(void **state) {
    (void)state;
    const float l[] = {logf(0.6f), logf(0.3f), logf(0.1f)};
    ty_candidate scratch[3];
    int count[3] = {0};
    ty_sampling s = sampling(1, 0, 1);
    s.seed = 42;
    for (uint64_t i = 0; i < 20000; i++) count[ty_logits_pick(l, 3, &s, i, scratch)]++;
    assert_true(abs(count[0] - 12000) < 300 && abs(count[1] - 6000) < 300);
    s = sampling(0, 0, 1);
    assert_int_equal(ty_logits_pick(l, 3, &s, 5, scratch), 0);
}

static void pick_survives_rows_without_a_finite_logit(void **state) {
    (void)state;
    const float l[] = {-HUGE_VALF, -HUGE_VALF}, nan[] = {NAN, NAN};
    ty_candidate scratch[2];
    ty_sampling s = sampling(1, 1, 0.5);
    assert_int_equal(ty_logits_pick(l, 2, &s, 0, scratch), 0);
    assert_int_equal(ty_logits_pick(nan, 2, &s, 0, scratch), 0);
}

/* Quickselect against the plain way: sort everything. */
static int descending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static void top_k_equals_sorting_on_random_rows(void **state) {
    (void)state;
    enum { N = 300 };
    unsigned seed = 3;
    for (int round = 0; round < 300; round++) {
        float l[N], sorted[N];
        int n = 1 + rand_r(&seed) % N, k = 1 + rand_r(&seed) % N;
        for (int i = 0; i < n; i++) l[i] = sorted[i] = (float)(rand_r(&seed) % 50);
        qsort(sorted, (size_t)n, sizeof *sorted, descending);
        float least = sorted[(k < n ? k : n) - 1];
        int want = 0;
        for (int i = 0; i < n; i++) want += l[i] >= least;
        ty_candidate c[N];
        ty_sampling s = sampling(1, k, 1);
        assert_int_equal(ty_logits_keep(l, n, &s, 1, c), want);
        for (int i = 0; i < want; i++) assert_true(c[i].p == sorted[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(argmax_takes_the_lowest_id_when_equal),
        cmocka_unit_test(repetition_penalty_counts_an_id_once),
        cmocka_unit_test(no_repeat_ngram_bans_what_would_repeat),
        cmocka_unit_test(warp_sorts_and_sums_to_one),
        cmocka_unit_test(top_k_keeps_ties_with_the_last),
        cmocka_unit_test(top_p_keeps_the_smallest_set_over_p),
        cmocka_unit_test(top_gives_log_probabilities),
        cmocka_unit_test(draw_is_philox),
        cmocka_unit_test(pick_follows_the_probabilities),
        cmocka_unit_test(pick_survives_rows_without_a_finite_logit),
        cmocka_unit_test(top_k_equals_sorting_on_random_rows),
    };
    return cmocka_run_group_tests_name("logits", tests, NULL, NULL);
}
