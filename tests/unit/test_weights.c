/* weights.h and meta.h over a small GGUF file made here. */
#include "tests/support/ty_test.h"

#include "common/model/meta.h"
#include "common/model/weights.h"
#include "tests/support/process.h"

#include <stdlib.h>
#include <string.h>

static ty_gguf *file;
static ty_weights from;

static void must(ty_status st, const ty_err *err) {
    if (st != TY_OK) fail_msg("%s: %s", ty_status_name(st), err->text);
}

/* a and b are linear layers [2,3] and [1,3]; n is a norm of 3; h is [1,2] in bf16. */
static int make_file(void **state) {
    (void)state;
    static const float a[] = {1, 2, 3, 4, 5, 6}, b[] = {7, 8, 9}, bias[] = {10, 20, 30};
    uint16_t h[2];
    ty_err err = {0};
    ty_gguf_writer *w = NULL;
    const char *path = test_path("%s/w.gguf", test_temp_dir());
    static const struct {
        const char *name;
        ty_dtype t;
        int n_dim;
        int64_t shape[2];
    } t[] = {{"a.weight", TY_F32, 2, {2, 3}}, {"a.bias", TY_F32, 1, {2, 0}},
             {"b.weight", TY_F32, 2, {1, 3}}, {"b.bias", TY_F32, 1, {1, 0}},
             {"n.weight", TY_F32, 1, {3, 0}}, {"n.bias", TY_F32, 1, {3, 0}},
             {"h", TY_BF16, 2, {1, 2}}};
    const void *data[] = {a, bias, b, bias, b, bias, h};
    const size_t size[] = {24, 8, 12, 4, 12, 12, 4};
    ty_dtype_from_f32(TY_BF16, a, 2, h);
    must(ty_gguf_writer_create(&w, path, "toy", &err), &err);
    must(ty_gguf_set_u32(w, "toy.width", 3, &err), &err);
    must(ty_gguf_set_u32(w, "toy.huge", 4000000000u, &err), &err);
    must(ty_gguf_set_f32(w, "toy.eps", 1e-6f, &err), &err);
    must(ty_gguf_set_f32(w, "toy.minus", -1, &err), &err);
    for (int i = 0; i < 7; i++)
        must(ty_gguf_declare(w, t[i].name, t[i].t, t[i].n_dim, t[i].shape, &err), &err);
    for (int i = 0; i < 7; i++) must(ty_gguf_write(w, data[i], size[i], &err), &err);
    must(ty_gguf_finish(w, &err), &err);
    ty_gguf_writer_destroy(&w);
    must(ty_gguf_open(&file, path, &err), &err);
    from = (ty_weights){.file = file, .compute = TY_COMPUTE_AUTO};
    return 0;
}

static int close_file(void **state) {
    (void)state;
    ty_gguf_close(&file);
    return 0;
}

static void floats_come_in_any_stored_type(void **state) {
    (void)state;
    float *x = NULL;
    const int64_t shape[] = {1, 2};
    ty_err err = {0};
    must(ty_weights_floats(&from, "h", 2, shape, &x, &err), &err);
    assert_true(x[0] == 1 && x[1] == 2);
    free(x);
}

static void norm_brings_weight_and_bias(void **state) {
    (void)state;
    float *w = NULL, *b = NULL;
    ty_err err = {0};
    must(ty_weights_norm(&from, "n", 3, &w, &b, &err), &err);
    assert_true(w[2] == 9 && b[2] == 30);
    free(w);
    free(b);
}

static void linear_fuses_layers(void **state) {
    (void)state;
    static const char *const names[] = {"a", "b"};
    static const int64_t out[] = {2, 1};
    static const float x[] = {1, 0, -1};
    float y[3];
    ty_linear *l = NULL;
    ty_err err = {0};
    must(ty_weights_linear(&from, 2, names, out, 3, &l, &err), &err);
    assert_int_equal(ty_linear_out(l), 3);
    assert_int_equal(ty_linear_apply(l, NULL, x, 3, 1, y, 3), TY_OK);
    assert_true(y[0] == 10 - 2 && y[1] == 20 - 2 && y[2] == 10 - 2);
    ty_linear_destroy(&l);
}

static void wrong_shapes_name_file_tensor_and_both_shapes(void **state) {
    (void)state;
    static const char *const names[] = {"a", "b"};
    static const int64_t out[] = {2, 5};
    ty_linear *l = NULL;
    float *w = NULL, *b = NULL;
    ty_err err = {0};
    assert_int_equal(ty_weights_linear(&from, 2, names, out, 3, &l, &err), TY_ESHAPE);
    assert_null(l);
    assert_non_null(strstr(err.text, "w.gguf"));
    assert_non_null(strstr(err.text, "b.weight"));
    assert_non_null(strstr(err.text, "[1,3]"));
    assert_non_null(strstr(err.text, "[5,3]"));
    assert_int_equal(ty_weights_norm(&from, "n", 4, &w, &b, &err), TY_ESHAPE);
    assert_int_equal(ty_weights_norm(&from, "nothing", 4, &w, &b, &err), TY_ENOTFOUND);
    assert_non_null(strstr(err.text, "nothing.weight"));
}

static void meta_checks_ranges_and_names_the_key(void **state) {
    (void)state;
    int n = 0;
    float x = 0;
    ty_err err = {0};
    must(ty_meta_size(file, "toy.width", 3, &n, &err), &err);
    assert_int_equal(n, 3);
    assert_int_equal(ty_meta_size(file, "toy.width", 2, &n, &err), TY_EFORMAT);
    assert_non_null(strstr(err.text, "toy.width"));
    assert_int_equal(ty_meta_size(file, "toy.huge", INT32_MAX, &n, &err), TY_EFORMAT);
    assert_int_equal(ty_meta_size(file, "toy.none", 3, &n, &err), TY_ENOTFOUND);
    must(ty_meta_positive(file, "toy.eps", &x, &err), &err);
    assert_true(x == 1e-6f);
    assert_int_equal(ty_meta_positive(file, "toy.minus", &x, &err), TY_EFORMAT);
    must(ty_meta_architecture(file, "toy", "toy", &err), &err);
    assert_int_equal(ty_meta_architecture(file, "to", "toy", &err), TY_EFORMAT);
    assert_non_null(strstr(err.text, "\"toy\""));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(floats_come_in_any_stored_type),
        cmocka_unit_test(norm_brings_weight_and_bias),
        cmocka_unit_test(linear_fuses_layers),
        cmocka_unit_test(wrong_shapes_name_file_tensor_and_both_shapes),
        cmocka_unit_test(meta_checks_ranges_and_names_the_key),
    };
    return cmocka_run_group_tests_name("weights", tests, make_file, close_file);
}
