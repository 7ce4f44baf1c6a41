/* offline.h: what an offline command takes for its input, and where --dump goes. */
#include "tests/support/ty_test.h"

#include "common/model/offline.h"
#include "tests/support/process.h"

#include <stdlib.h>
#include <string.h>

static const float six[] = {1, 2, 3, 4, 5, 6};

/* A file with one tensor, or with a second one called "other". */
static const char *file_with(const char *name, ty_dtype t, int n_dim, const int64_t *shape,
                             const void *data, bool second) {
    const char *path = test_path("%s/in.safetensors", test_temp_dir());
    ty_safetensors_writer *w = NULL;
    const int64_t one = 1;
    assert_int_equal(ty_safetensors_writer_create(&w, NULL), TY_OK);
    assert_int_equal(ty_safetensors_add(w, name, t, n_dim, shape, data, NULL), TY_OK);
    if (second) assert_int_equal(ty_safetensors_add(w, "other", TY_F32, 1, &one, six, NULL), TY_OK);
    assert_int_equal(ty_safetensors_write(w, path, NULL), TY_OK);
    ty_safetensors_writer_destroy(&w);
    return path;
}

static void input_is_found_by_name(void **state) {
    (void)state;
    ty_offline_input in;
    const int64_t shape[] = {2, 3};
    const char *path = file_with("x", TY_F32, 2, shape, six, true);
    assert_int_equal(ty_offline_open(&in, path, "x", 2, false, "tyto-y", NULL), TY_OK);
    assert_int_equal(in.n_dim, 2);
    assert_int_equal(in.shape[0], 2);
    assert_int_equal(in.shape[1], 3);
    assert_memory_equal(in.data, six, sizeof six);
    ty_offline_close(&in);
}

static void input_of_one_dimension_less_is_a_batch_of_one(void **state) {
    (void)state;
    ty_offline_input in;
    const int64_t shape[] = {2, 3};
    const char *path = file_with("x", TY_F32, 2, shape, six, false);
    assert_int_equal(ty_offline_open(&in, path, "x", 3, false, "tyto-y", NULL), TY_OK);
    assert_int_equal(in.n_dim, 3);
    assert_int_equal(in.shape[0], 1);
    assert_int_equal(in.shape[1], 2);
    assert_int_equal(in.shape[2], 3);
    ty_offline_close(&in);
}

static void input_of_another_name_is_taken_when_it_is_alone(void **state) {
    (void)state;
    ty_offline_input in;
    ty_err err = {0};
    const int64_t shape[] = {2, 3};
    const char *path = file_with("y", TY_F32, 2, shape, six, false);
    assert_int_equal(ty_offline_open(&in, path, "x", 2, false, "tyto-y", NULL), TY_OK);
    ty_offline_close(&in);
    path = file_with("y", TY_F32, 2, shape, six, true);
    assert_int_equal(ty_offline_open(&in, path, "x", 2, false, "tyto-y", &err), TY_ENOTFOUND);
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, "tyto-y"));
}

static void input_of_half_precision_is_widened(void **state) {
    (void)state;
    static const ty_dtype types[] = {TY_F16, TY_BF16};
    const int64_t shape[] = {2, 3};
    for (int i = 0; i < 2; i++) {
        uint16_t half[6];
        ty_offline_input in;
        ty_dtype_from_f32(types[i], six, 6, half);
        const char *path = file_with("x", types[i], 2, shape, half, false);
        assert_int_equal(ty_offline_open(&in, path, "x", 2, false, "tyto-y", NULL), TY_OK);
        assert_memory_equal(in.data, six, sizeof six);
        ty_offline_close(&in);
    }
}

static void input_of_wrong_rank_or_type_is_refused(void **state) {
    (void)state;
    ty_offline_input in;
    ty_err err = {0};
    const int32_t ints[6] = {0};
    const int64_t shape[] = {2, 3}, empty[] = {0, 3};
    const char *path = file_with("x", TY_F32, 2, shape, six, false);
    assert_int_equal(ty_offline_open(&in, path, "x", 4, false, "tyto-y", &err), TY_ESHAPE);
    assert_non_null(strstr(err.text, "[2,3]"));
    assert_int_equal(ty_offline_open(&in, path, "x", 1, false, "tyto-y", &err), TY_ESHAPE);
    path = file_with("x", TY_I32, 2, shape, ints, false);
    assert_int_equal(ty_offline_open(&in, path, "x", 2, false, "tyto-y", &err), TY_ESHAPE);
    assert_non_null(strstr(err.text, "i32"));
    path = file_with("x", TY_F32, 2, empty, six, false);
    assert_int_equal(ty_offline_open(&in, path, "x", 2, false, "tyto-y", &err), TY_ESHAPE);
    assert_int_equal(ty_offline_open(&in, "/nonexistent", "x", 2, false, "tyto-y", &err),
                     TY_ENOTFOUND);
}

static void dump_goes_into_the_file_and_keeps_the_first_failure(void **state) {
    (void)state;
    ty_offline_dump sink;
    ty_safetensors_writer *w = NULL;
    ty_err err = {0};
    const int64_t n = 6;
    assert_int_equal(ty_safetensors_writer_create(&w, NULL), TY_OK);
    ty_dump dump = ty_offline_dump_into(&sink, w);
    ty_dump_put(&dump, "a", 1, &n, six);
    assert_int_equal(ty_offline_dump_status(&sink, &err), TY_OK);
    ty_dump_put(&dump, "a", 1, &n, six); /* twice the same name */
    ty_dump_put(&dump, "b", 1, &n, six);
    assert_int_not_equal(ty_offline_dump_status(&sink, &err), TY_OK);
    assert_non_null(strstr(err.text, "a"));
    ty_safetensors_writer_destroy(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(input_is_found_by_name),
        cmocka_unit_test(input_of_one_dimension_less_is_a_batch_of_one),
        cmocka_unit_test(input_of_another_name_is_taken_when_it_is_alone),
        cmocka_unit_test(input_of_half_precision_is_widened),
        cmocka_unit_test(input_of_wrong_rank_or_type_is_refused),
        cmocka_unit_test(dump_goes_into_the_file_and_keeps_the_first_failure),
    };
    return cmocka_run_group_tests_name("offline", tests, NULL, NULL);
}
