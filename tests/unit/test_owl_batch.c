/* Samples to rows: what is spliced where, what is learnt, what is refused. */
#include "tests/support/ty_test.h"
#include "training/batch.h"

#include <string.h>

enum { X = OWL_IGNORE };

static ty_status make(owl_batch *b, int version, const owl_sample *s, int n, ty_err *err) {
    return owl_batch_make(b, version, 2, 100, 12, s, n, NULL, err);
}

static void batch_puts_text_before_pictures_and_keeps_the_order(void **state) {
    (void)state;
    /* v1: a run of two -1 is the picture; the tail that nothing is learnt from goes */
    static const int32_t id[] = {1, -1, -1, 7, 8, 2, 0, 0}, label[] = {1, X, X, X, 8, 2, X, X};
    static const int32_t id2[] = {1, 9, 2}, label2[] = {1, 9, 2};
    owl_sample s[] = {{id, label, 8, 1}, {id2, label2, 3, 0}};
    owl_batch b;
    assert_int_equal(make(&b, 1, s, 2, NULL), TY_OK);
    assert_int_equal(b.n_text, 7);
    assert_int_equal(b.n_visual, 2);
    assert_int_equal(b.n_picture, 1);
    static const int32_t token[] = {1, 7, 8, 2, 1, 9, 2};
    assert_memory_equal(b.token, token, sizeof token);
    static const int start[] = {0, 6, 9}, order[] = {0, 7, 8, 1, 2, 3, 4, 5, 6};
    assert_memory_equal(b.start, start, sizeof start);
    assert_memory_equal(b.order, order, sizeof order);
    static const int position[] = {0, 3, 4, 5, 0, 1, 2, 1, 2};
    assert_memory_equal(b.position, position, sizeof position);
    static const int row[] = {1, 2, 4, 5};
    static const int32_t target[] = {8, 2, 9, 2};
    assert_int_equal(b.n_target, 4);
    assert_memory_equal(b.target_row, row, sizeof row);
    assert_memory_equal(b.target, target, sizeof target);
    owl_batch_clear(&b);
}

static void batch_splices_a_picture_per_v2_placeholder(void **state) {
    (void)state;
    static const int32_t id[] = {-200, -200, 7, 2}, label[] = {X, X, 7, 2};
    owl_sample s[] = {{id, label, 4, 2}};
    owl_batch b;
    assert_int_equal(make(&b, 2, s, 1, NULL), TY_OK);
    static const int visual[] = {0, 1, 2, 3}, row[] = {5, 0};
    assert_int_equal(b.n_visual, 4);
    assert_memory_equal(b.visual, visual, sizeof visual);
    assert_int_equal(b.n_target, 2); /* the last picture row predicts the first text */
    assert_memory_equal(b.target_row, row, sizeof row);
    owl_batch_clear(&b);
}

static void batch_counts_a_picture_that_is_not_shown(void **state) {
    (void)state;
    static const int32_t id[] = {1, 5, 2}, label[] = {X, 5, 2}, id2[] = {1, -200, 2},
                         label2[] = {X, X, 2};
    owl_sample s[] = {{id, label, 3, 1}, {id2, label2, 3, 1}};
    owl_batch b;
    assert_int_equal(make(&b, 2, s, 2, NULL), TY_OK);
    assert_int_equal(b.n_picture, 2);
    assert_int_equal(b.visual[0], 2); /* the second picture's first row */
    owl_batch_clear(&b);
}

static void batch_keeps_the_rest_of_a_run_as_text(void **state) {
    (void)state;
    static const int32_t id[] = {1, -1, -1, -1, -1, 2}, label[] = {X, X, X, X, X, 2};
    owl_sample s[] = {{id, label, 6, 2}};
    owl_batch b;
    assert_int_equal(make(&b, 1, s, 1, NULL), TY_OK);
    static const int32_t token[] = {1, 1, 1, 2};
    assert_int_equal(b.n_text, 4);
    assert_memory_equal(b.token, token, sizeof token);
    owl_batch_clear(&b);
}

static void batch_of_a_sample_without_target_has_none(void **state) {
    (void)state;
    static const int32_t id[] = {1, 5, 2}, label[] = {X, X, X};
    owl_sample s[] = {{id, label, 3, 0}};
    owl_batch b;
    assert_int_equal(make(&b, 1, s, 1, NULL), TY_OK);
    assert_int_equal(b.n_target, 0);
    assert_int_equal(b.n_row, 0);
    owl_batch_clear(&b);
}

static void batch_refuses_what_does_not_fit(void **state) {
    (void)state;
    static const int32_t bad[] = {1, 100, 2}, few[] = {1, -1, 2}, two[] = {1, -1, -1, 2},
                         many[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2},
                         label[] = {X, X, X, 2, X, X, X, X, X, X, X, X, 2}, label3[] = {X, X, 2};
    owl_batch b;
    ty_err err;
    assert_int_equal(make(&b, 1, &(owl_sample){bad, label3, 3, 0}, 1, &err), TY_EINVAL);
    assert_non_null(strstr(err.text, "100"));
    assert_int_equal(make(&b, 1, &(owl_sample){few, label3, 3, 1}, 1, &err), TY_EINVAL);
    assert_int_equal(make(&b, 1, &(owl_sample){two, label, 4, 0}, 1, &err), TY_EINVAL);
    assert_non_null(strstr(err.text, "more placeholders than pictures"));
    assert_int_equal(make(&b, 1, &(owl_sample){many, label, 13, 0}, 1, &err), TY_ECONTEXT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batch_puts_text_before_pictures_and_keeps_the_order),
        cmocka_unit_test(batch_splices_a_picture_per_v2_placeholder),
        cmocka_unit_test(batch_counts_a_picture_that_is_not_shown),
        cmocka_unit_test(batch_keeps_the_rest_of_a_run_as_text),
        cmocka_unit_test(batch_of_a_sample_without_target_has_none),
        cmocka_unit_test(batch_refuses_what_does_not_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
