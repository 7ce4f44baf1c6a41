/* splice.c: which rows of a prompt are whose (NOTES §5). */
#include "tests/support/ty_test.h"

#include "services/decoder/splice.h"

#include <string.h>

static const float PIXELS[] = {10, 11, 12, 20, 21, 22}; /* two pictures of 3 rows of width 1 */
static const splice_pictures TWO = {
    .data = PIXELS, .n = 2, .rows = 3, .width = 1, .placeholder = "<image>"};
static const splice_pictures ONE = {
    .data = PIXELS, .n = 1, .rows = 3, .width = 1, .placeholder = "<image>"};
static const splice_pictures NONE = {.width = 1, .placeholder = "<image>"};

static const int32_t APART[] = {1, -1, -1, -1, 5, -1, -1, -1, 6};
static const int32_t ADJACENT[] = {1, -1, -1, -1, -1, -1, -1, 6};

static void rows_take_pictures_in_order(void **state) {
    (void)state;
    llama_row row[9];
    assert_int_equal(splice_rows(APART, 9, &TWO, row), 6);
    static const float want[] = {0, 10, 11, 12, 0, 20, 21, 22, 0};
    for (int i = 0; i < 9; i++) {
        if (want[i] == 0)
            assert_null(row[i].visual);
        else
            assert_true(*row[i].visual == want[i]);
    }
    assert_int_equal(row[0].id, 1);
    assert_int_equal(row[4].id, 5);
    assert_int_equal(row[8].id, 6);
}

static void rows_of_adjacent_pictures_keep_one_picture_and_id_0(void **state) {
    (void)state;
    llama_row row[8];
    assert_int_equal(splice_rows(ADJACENT, 8, &TWO, row), 3);
    for (int i = 1; i < 4; i++) assert_true(*row[i].visual == PIXELS[i - 1]);
    for (int i = 4; i < 7; i++) {
        assert_null(row[i].visual);
        assert_int_equal(row[i].id, 0);
    }
}

static void check_refuses_a_mismatch_and_says_what_to_do(void **state) {
    (void)state;
    ty_err err = {0};
    assert_int_equal(splice_check(APART, 9, 2, &TWO, false, &err), TY_OK);
    assert_int_equal(splice_check(APART, 9, 2, &ONE, false, &err), TY_EINVAL);
    assert_non_null(strstr(err.text, "one picture for each"));
    assert_int_equal(splice_check(APART, 9, 2, &ONE, true, &err), TY_EINVAL);
    assert_int_equal(splice_check(APART, 9, 2, &NONE, true, &err), TY_EINVAL);
    assert_int_equal(splice_check((int32_t[]){1, 5}, 2, 0, &ONE, true, &err), TY_EINVAL);
    assert_int_equal(splice_check((int32_t[]){1, 5}, 2, 0, &NONE, false, &err), TY_OK);
}

static void check_lets_adjacent_pictures_pass_only_when_asked(void **state) {
    (void)state;
    ty_err err = {0};
    assert_int_equal(splice_check(ADJACENT, 8, 2, &TWO, false, &err), TY_EINVAL);
    assert_non_null(strstr(err.text, "side by side"));
    assert_int_equal(splice_check(ADJACENT, 8, 2, &ONE, false, &err), TY_EINVAL);
    assert_int_equal(splice_check(ADJACENT, 8, 2, &TWO, true, &err), TY_OK);
    assert_int_equal(splice_check(ADJACENT, 8, 2, &ONE, true, &err), TY_OK);
}

/* v2: each `rows` ids of a run are a picture, so two may stand side by side. */
static const int32_t SIDE_BY_SIDE[] = {-200, -200, -200, -200, -200, -200, 6};

static void v2_s_pictures_may_stand_side_by_side(void **state) {
    (void)state;
    llama_row row[7];
    ty_err err = {0};
    ty_ids ids = {0};
    assert_int_equal(splice_check(SIDE_BY_SIDE, 7, 2, &TWO, false, &err), TY_OK);
    assert_int_equal(splice_check(SIDE_BY_SIDE, 7, 2, &ONE, false, &err), TY_EINVAL);
    assert_int_equal(splice_rows(SIDE_BY_SIDE, 7, &TWO, row), 6);
    for (int i = 0; i < 6; i++) assert_true(*row[i].visual == PIXELS[i]);
    assert_null(row[6].visual);
    assert_int_equal(splice_written(SIDE_BY_SIDE, 7, 3, &ids), TY_OK);
    assert_int_equal(ids.n, 3);
    assert_memory_equal(ids.id, ((const int32_t[]){-200, -200, 6}), 3 * sizeof(int32_t));
    ids.n = 0;
    assert_int_equal(splice_written(APART, 9, 3, &ids), TY_OK);
    assert_int_equal(ids.n, 9);
    assert_memory_equal(ids.id, APART, sizeof(APART));
    ty_ids_clear(&ids);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_take_pictures_in_order),
        cmocka_unit_test(rows_of_adjacent_pictures_keep_one_picture_and_id_0),
        cmocka_unit_test(check_refuses_a_mismatch_and_says_what_to_do),
        cmocka_unit_test(check_lets_adjacent_pictures_pass_only_when_asked),
        cmocka_unit_test(v2_s_pictures_may_stand_side_by_side),
    };
    return cmocka_run_group_tests_name("splice", tests, NULL, NULL);
}
