/* gguf.h: what is written is read back, and no damaged file gets through. */
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "common/model/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[] = "/tmp/tyto_gguf_XXXXXX";
static char path[64], bad_path[64];

static int make_dir(void **state) {
    (void)state;
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof(path), "%s/a.gguf", dir);
    snprintf(bad_path, sizeof(bad_path), "%s/bad.gguf", dir);
    return 0;
}

static int drop_dir(void **state) {
    (void)state;
    unlink(path);
    unlink(bad_path);
    return rmdir(dir); /* fails when a temporary file was left behind */
}

/* One key of each kind and two tensors; the second one's name is as long as the first's. */
static void write_sample(const char *to) {
    ty_gguf_writer *w = NULL;
    ty_err err = {0};
    const char *strs[] = {"a", "", "\xe2\x96\x81x"};
    const size_t lens[] = {1, 0, 4};
    float f[] = {0.5f, -1.0f}, m[6] = {1, 2, 3, 4, 5, 6};
    int32_t ints[] = {7, -8, 9};
    uint8_t q[34] = {0};
    int64_t s1[] = {2, 3}, s2[] = {1, 32};
    assert_int_equal(ty_gguf_writer_create(&w, to, "test", &err), TY_OK);
    assert_int_equal(ty_gguf_set_u32(w, "t.u32", 4000000000u, &err), TY_OK);
    assert_int_equal(ty_gguf_set_f32(w, "t.f32", 1e-6f, &err), TY_OK);
    assert_int_equal(ty_gguf_set_bool(w, "t.bool", true, &err), TY_OK);
    assert_int_equal(ty_gguf_set_str(w, "t.str", "x\0y", 3, &err), TY_OK);
    assert_int_equal(ty_gguf_set_f32s(w, "t.f32s", f, 2, &err), TY_OK);
    assert_int_equal(ty_gguf_set_i32s(w, "t.i32s", ints, 3, &err), TY_OK);
    assert_int_equal(ty_gguf_set_strs(w, "t.strs", strs, lens, 3, &err), TY_OK);
    assert_int_equal(ty_gguf_declare(w, "tensor_a", TY_F32, 2, s1, &err), TY_OK);
    assert_int_equal(ty_gguf_declare(w, "tensor_b", TY_Q8_0, 2, s2, &err), TY_OK);
    for (int i = 0; i < 34; i++) q[i] = (uint8_t)i;
    assert_int_equal(ty_gguf_write(w, m, sizeof(m), &err), TY_OK);
    assert_int_equal(ty_gguf_write(w, q, sizeof(q), &err), TY_OK);
    assert_int_not_equal(access(to, F_OK), 0); /* not there before finish */
    assert_int_equal(ty_gguf_finish(w, &err), TY_OK);
    ty_gguf_writer_destroy(&w);
    assert_null(w);
}

static void gguf_reads_back_what_was_written(void **state) {
    (void)state;
    unlink(path);
    write_sample(path);
    ty_gguf *g = NULL;
    ty_err err = {0};
    int64_t i;
    double x;
    bool b;
    const char *s;
    size_t n;
    ty_tensor t;
    assert_int_equal(ty_gguf_open(&g, path, &err), TY_OK);
    assert_int_equal(ty_gguf_get_int(g, "t.u32", &i, &err), TY_OK);
    assert_int_equal(i, 4000000000);
    assert_int_equal(ty_gguf_get_float(g, "t.f32", &x, &err), TY_OK);
    assert_true(x == (double)1e-6f);
    assert_int_equal(ty_gguf_get_bool(g, "t.bool", &b, &err), TY_OK);
    assert_true(b);
    assert_int_equal(ty_gguf_get_str(g, "t.str", &s, &n, &err), TY_OK);
    assert_int_equal(n, 3);
    assert_memory_equal(s, "x\0y", 3);
    assert_int_equal(ty_gguf_array_len(g, "t.strs", &i, &err), TY_OK);
    assert_int_equal(i, 3);
    assert_int_equal(ty_gguf_array_str(g, "t.strs", 2, &s, &n, &err), TY_OK);
    assert_int_equal(n, 4);
    assert_memory_equal(s, "\xe2\x96\x81x", 4);
    assert_int_equal(ty_gguf_array_int(g, "t.i32s", 1, &i, &err), TY_OK);
    assert_int_equal(i, -8);
    assert_int_equal(ty_gguf_array_float(g, "t.f32s", 1, &x, &err), TY_OK);
    assert_true(x == -1.0);
    assert_int_equal(ty_gguf_tensor_count(g), 2);
    assert_string_equal(ty_gguf_tensor_name(g, 0), "tensor_a");
    assert_int_equal(ty_gguf_find_shape(g, "tensor_a", 2, (int64_t[]){2, -1}, &t, &err), TY_OK);
    assert_int_equal(t.shape[1], 3);
    assert_true(((const float *)t.data)[5] == 6.0f);
    assert_int_equal((uintptr_t)t.data % 32, 0);
    assert_int_equal(ty_gguf_find(g, "tensor_b", &t, &err), TY_OK);
    assert_int_equal(t.dtype, TY_Q8_0);
    assert_int_equal(t.size_bytes, 34);
    assert_int_equal(((const uint8_t *)t.data)[33], 33);
    ty_gguf_close(&g);
    assert_null(g);
}

static void gguf_names_what_is_absent_or_of_another_kind(void **state) {
    (void)state;
    ty_gguf *g = NULL;
    ty_err err = {0};
    int64_t i;
    double x;
    bool b;
    ty_tensor t;
    unlink(path);
    write_sample(path);
    assert_int_equal(ty_gguf_open(&g, path, &err), TY_OK);
    assert_false(ty_gguf_has(g, "t.none"));
    assert_int_equal(ty_gguf_get_int(g, "t.none", &i, &err), TY_ENOTFOUND);
    assert_non_null(strstr(err.text, "t.none"));
    assert_int_equal(ty_gguf_get_int(g, "t.f32", &i, &err), TY_EFORMAT);
    assert_int_equal(ty_gguf_get_int(g, "t.i32s", &i, &err), TY_EFORMAT);
    assert_int_equal(ty_gguf_get_float(g, "t.u32", &x, &err), TY_EFORMAT);
    assert_int_equal(ty_gguf_get_bool(g, "t.u32", &b, &err), TY_EFORMAT);
    assert_int_equal(ty_gguf_array_int(g, "t.i32s", 3, &i, &err), TY_ENOTFOUND);
    assert_int_equal(ty_gguf_array_int(g, "t.i32s", -1, &i, &err), TY_ENOTFOUND);
    assert_int_equal(ty_gguf_array_int(g, "t.strs", 0, &i, &err), TY_EFORMAT);
    assert_int_equal(ty_gguf_find(g, "tensor_c", &t, &err), TY_ENOTFOUND);
    assert_int_equal(ty_gguf_find_shape(g, "tensor_a", 2, (int64_t[]){3, 2}, &t, &err), TY_ESHAPE);
    assert_non_null(strstr(err.text, "[2,3]"));
    assert_non_null(strstr(err.text, "[3,2]"));
    ty_gguf_close(&g);
}

static void identity_of(const char *file, char id[TY_MODEL_ID_SIZE]) {
    ty_gguf *g = NULL;
    assert_int_equal(ty_gguf_open(&g, file, NULL), TY_OK);
    ty_gguf_identity(g, id);
    ty_gguf_close(&g);
}

static void write_with_value(float v) {
    ty_gguf_writer *w = NULL;
    assert_int_equal(ty_gguf_writer_create(&w, path, "test", NULL), TY_OK);
    assert_int_equal(ty_gguf_declare(w, "x", TY_F32, 1, (int64_t[]){1}, NULL), TY_OK);
    assert_int_equal(ty_gguf_write(w, &v, sizeof(v), NULL), TY_OK);
    assert_int_equal(ty_gguf_finish(w, NULL), TY_OK);
    ty_gguf_writer_destroy(&w);
}

static void gguf_identity_follows_the_tensors(void **state) {
    (void)state;
    char a[TY_MODEL_ID_SIZE], b[TY_MODEL_ID_SIZE], again[TY_MODEL_ID_SIZE];
    write_with_value(1.0f);
    identity_of(path, a);
    write_with_value(2.0f);
    identity_of(path, b);
    write_with_value(1.0f);
    identity_of(path, again);
    assert_int_equal(strlen(a), 32);
    assert_string_not_equal(a, b);
    assert_string_equal(a, again);
}

static void writer_refuses_what_does_not_fit(void **state) {
    (void)state;
    ty_gguf_writer *w = NULL;
    ty_err err = {0};
    float x[2] = {0};
    assert_int_equal(ty_gguf_writer_create(&w, "/nonexistent/x.gguf", "t", &err), TY_ENOTFOUND);
    assert_null(w);
    assert_int_equal(ty_gguf_writer_create(&w, bad_path, "t", &err), TY_OK);
    assert_int_equal(ty_gguf_set_u32(w, "k", 1, &err), TY_OK);
    assert_int_equal(ty_gguf_set_u32(w, "k", 1, &err), TY_EEXIST);
    assert_int_equal(ty_gguf_declare(w, "a", TY_Q4_0, 2, (int64_t[]){2, 33}, &err), TY_ESHAPE);
    assert_int_equal(ty_gguf_declare(w, "a", TY_U8, 1, (int64_t[]){2}, &err), TY_EUNSUPPORTED);
    assert_int_equal(ty_gguf_declare(w, "a", TY_F32, 5, (int64_t[]){1, 1, 1, 1, 1}, &err),
                     TY_ESHAPE);
    assert_int_equal(ty_gguf_declare(w, "a", TY_F32, 1, (int64_t[]){2}, &err), TY_OK);
    assert_int_equal(ty_gguf_write(w, x, 4, &err), TY_EINVAL);
    assert_int_equal(ty_gguf_finish(w, &err), TY_EINVAL);
    assert_non_null(strstr(err.text, "tensor a"));
    ty_gguf_writer_destroy(&w);
    assert_int_not_equal(access(bad_path, F_OK), 0);
}

/* --- damaged files --- */

static uint8_t *sample;
static size_t sample_size;

static int load_sample(void **state) {
    (void)state;
    unlink(path);
    write_sample(path);
    return ty_file_read(path, 1 << 20, (char **)&sample, &sample_size, NULL) == TY_OK ? 0 : -1;
}

static int free_sample(void **state) {
    (void)state;
    free(sample);
    sample = NULL;
    return 0;
}

static ty_status open_bytes(const uint8_t *p, size_t n, ty_err *err) {
    ty_gguf *g = NULL;
    FILE *f = fopen(bad_path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    fclose(f);
    ty_status st = ty_gguf_open(&g, bad_path, err);
    assert_true((st == TY_OK) == (g != NULL));
    ty_gguf_close(&g);
    return st;
}

/* Where `text` stands in the sample. */
static size_t find(const char *text) {
    uint8_t *p = memmem(sample, sample_size, text, strlen(text));
    assert_non_null(p);
    return (size_t)(p - sample);
}

/* The sample with n bytes at `at` replaced must fail with `want`. */
static void expect(size_t at, const void *bytes, size_t n, ty_status want) {
    uint8_t *copy = malloc(sample_size);
    ty_err err = {0};
    memcpy(copy, sample, sample_size);
    memcpy(copy + at, bytes, n);
    assert_int_equal(open_bytes(copy, sample_size, &err), want);
    assert_int_equal(err.code, want);
    assert_non_null(strstr(err.text, "bad.gguf"));
    free(copy);
}

static void gguf_refuses_every_cut(void **state) {
    (void)state;
    /* The last tensor ends 30 bytes before the file does: padding may be missing. */
    for (size_t n = 0; n < sample_size - 30; n++) {
        ty_err err = {0};
        assert_int_equal(open_bytes(sample, n, &err), TY_EFORMAT);
        assert_true(err.text[0] != '\0');
    }
    assert_int_equal(open_bytes(sample, sample_size - 30, NULL), TY_OK);
}

static void gguf_refuses_a_bad_header(void **state) {
    (void)state;
    const uint64_t huge = UINT64_MAX, many = 1u << 30;
    const uint32_t v1 = 1, v4 = 4, big_endian = 0x03000000;
    expect(0, "GGML", 4, TY_EFORMAT);
    expect(4, &v1, 4, TY_EUNSUPPORTED);
    expect(4, &v4, 4, TY_EUNSUPPORTED);
    expect(4, &big_endian, 4, TY_EUNSUPPORTED);
    expect(8, &huge, 8, TY_EFORMAT);
    expect(8, &many, 8, TY_EFORMAT);
    expect(16, &huge, 8, TY_EFORMAT);
    expect(16, &many, 8, TY_EFORMAT);
}

static void gguf_refuses_bad_metadata(void **state) {
    (void)state;
    const uint64_t huge = UINT64_MAX, many = 1ull << 40, zero = 0;
    const uint32_t array = 9, none = 13;
    const uint8_t two = 2;
    size_t strs = find("t.strs") + 6, u32 = find("t.u32");
    expect(u32 - 8, &huge, 8, TY_EFORMAT);            /* a key without end */
    expect(u32 - 8, &zero, 8, TY_EFORMAT);            /* an empty key */
    expect(u32 + 5, &none, 4, TY_EFORMAT);            /* no such type */
    expect(u32, "t.f32", 5, TY_EFORMAT);              /* a key that is there twice */
    expect(u32 + 1, "\0", 1, TY_EFORMAT);             /* a NUL inside a key */
    expect(find("t.bool") + 10, &two, 1, TY_EFORMAT); /* a bool of 2 */
    expect(find("t.str") + 9, &huge, 8, TY_EFORMAT);
    expect(strs + 4, &array, 4, TY_EUNSUPPORTED); /* an array of arrays */
    expect(strs + 4, &none, 4, TY_EFORMAT);
    expect(strs + 8, &huge, 8, TY_EFORMAT);
    expect(strs + 8, &many, 8, TY_EFORMAT);
    expect(strs + 16, &huge, 8, TY_EFORMAT); /* the first element's length */
    expect(find("t.f32s") + 14, &huge, 8, TY_EFORMAT);
}

static void gguf_refuses_a_bad_alignment(void **state) {
    (void)state;
    const uint32_t bad[] = {0, 1, 33, 0x80000000u};
    for (int i = 0; i < 4; i++) expect(find("general.alignment") + 21, &bad[i], 4, TY_EFORMAT);
}

static void gguf_refuses_bad_tensors(void **state) {
    (void)state;
    const uint64_t huge = UINT64_MAX, zero = 0, far = 1ull << 60, odd = 33, half = 1ull << 62;
    const uint32_t nine = 9, iq2_xs = 17, none = 99;
    size_t a = find("tensor_a") + 8, b = find("tensor_b") + 8;
    expect(a - 1, "b", 1, TY_EFORMAT); /* the same name twice */
    expect(a, &nine, 4, TY_EFORMAT);   /* dimensions */
    expect(a, &zero, 4, TY_EFORMAT);
    expect(a + 4, &zero, 8, TY_EFORMAT);
    expect(a + 4, &huge, 8, TY_EFORMAT);
    expect(a + 4, &half, 8, TY_EFORMAT);
    expect(a + 4, &far, 8, TY_EFORMAT);
    expect(a + 20, &iq2_xs, 4, TY_EUNSUPPORTED);
    expect(a + 20, &none, 4, TY_EUNSUPPORTED);
    expect(b + 4, &odd, 8, TY_EFORMAT);   /* a row of 33 in blocks of 32 */
    expect(b + 24, &zero, 8, TY_EFORMAT); /* over tensor_a */
    expect(b + 24, &odd, 8, TY_EFORMAT);
    expect(b + 24, &far, 8, TY_EFORMAT);
    expect(b + 24, &huge, 8, TY_EFORMAT);
}

static void gguf_says_when_there_is_no_file(void **state) {
    (void)state;
    ty_gguf *g = NULL;
    ty_err err = {0};
    assert_int_equal(ty_gguf_open(&g, "/nonexistent.gguf", &err), TY_ENOTFOUND);
    assert_int_equal(ty_gguf_open(&g, dir, &err), TY_EIO);
    assert_null(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_reads_back_what_was_written),
        cmocka_unit_test(gguf_names_what_is_absent_or_of_another_kind),
        cmocka_unit_test(gguf_identity_follows_the_tensors),
        cmocka_unit_test(writer_refuses_what_does_not_fit),
        cmocka_unit_test_setup_teardown(gguf_refuses_every_cut, load_sample, free_sample),
        cmocka_unit_test_setup_teardown(gguf_refuses_a_bad_header, load_sample, free_sample),
        cmocka_unit_test_setup_teardown(gguf_refuses_bad_metadata, load_sample, free_sample),
        cmocka_unit_test_setup_teardown(gguf_refuses_a_bad_alignment, load_sample, free_sample),
        cmocka_unit_test_setup_teardown(gguf_refuses_bad_tensors, load_sample, free_sample),
        cmocka_unit_test(gguf_says_when_there_is_no_file),
    };
    return cmocka_run_group_tests_name("gguf", tests, make_dir, drop_dir);
}
