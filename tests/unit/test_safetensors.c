/* safetensors.h: files of the reference are read, what is written is read back, damage is named. */
#include "tests/support/ty_test.h"

#include "common/model/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[] = "/tmp/tyto_st_XXXXXX";
static char path[64];

static int make_dir(void **state) {
    (void)state;
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof(path), "%s/a.safetensors", dir);
    return 0;
}

static int drop_dir(void **state) {
    (void)state;
    unlink(path);
    return rmdir(dir);
}

static void safetensors_reads_back_what_was_written(void **state) {
    (void)state;
    ty_safetensors_writer *w = NULL;
    ty_safetensors *s = NULL;
    ty_err err = {0};
    ty_tensor t;
    uint8_t u8[3] = {1, 2, 3};
    float f[2] = {1.5f, -2};
    int64_t i64[1] = {-5};
    assert_int_equal(ty_safetensors_writer_create(&w, &err), TY_OK);
    assert_int_equal(ty_safetensors_add(w, "b\"y", TY_U8, 1, (int64_t[]){3}, u8, &err), TY_OK);
    assert_int_equal(ty_safetensors_add(w, "f", TY_F32, 2, (int64_t[]){2, 1}, f, &err), TY_OK);
    assert_int_equal(ty_safetensors_add(w, "i", TY_I64, 0, NULL, i64, &err), TY_OK);
    assert_int_equal(ty_safetensors_add(w, "empty", TY_I32, 1, (int64_t[]){0}, NULL, &err), TY_OK);
    assert_int_equal(ty_safetensors_add(w, "f", TY_F32, 1, (int64_t[]){2}, f, &err), TY_EEXIST);
    assert_int_equal(ty_safetensors_add(w, "q", TY_Q8_0, 1, (int64_t[]){32}, f, &err),
                     TY_EUNSUPPORTED);
    assert_int_equal(ty_safetensors_write(w, path, &err), TY_OK);
    ty_safetensors_writer_destroy(&w);
    assert_int_equal(ty_safetensors_open(&s, path, &err), TY_OK);
    assert_int_equal(ty_safetensors_count(s), 4);
    assert_int_equal(ty_safetensors_find(s, "b\"y", &t, &err), TY_OK);
    assert_memory_equal(t.data, u8, 3);
    assert_int_equal(ty_safetensors_find(s, "f", &t, &err), TY_OK);
    assert_int_equal(t.n_dim, 2);
    assert_memory_equal(t.data, f, sizeof(f));
    assert_int_equal((uintptr_t)t.data % 4, 0);
    assert_int_equal(ty_safetensors_find(s, "i", &t, &err), TY_OK);
    assert_int_equal(t.n_dim, 0);
    assert_true(*(const int64_t *)t.data == -5);
    assert_int_equal(ty_safetensors_find(s, "empty", &t, &err), TY_OK);
    assert_int_equal(t.size_bytes, 0);
    assert_int_equal(ty_safetensors_find(s, "none", &t, &err), TY_ENOTFOUND);
    assert_non_null(strstr(err.text, "none"));
    ty_safetensors_close(&s);
}

static void safetensors_reads_the_reference(void **state) {
    (void)state;
    char file[512];
    const char *golden = getenv("TYTO_GOLDEN");
    ty_safetensors *s = NULL;
    ty_tensor t;
    snprintf(file, sizeof(file), "%s/v1-micro/safetensors/model.safetensors",
             golden ? golden : "tests/golden");
    assert_int_equal(ty_safetensors_open(&s, file, NULL), TY_OK);
    assert_true(ty_safetensors_count(s) > 90);
    assert_int_equal(ty_safetensors_find(s, "vision_model.embeddings.patch_embed.weight", &t, NULL),
                     TY_OK);
    assert_int_equal(t.dtype, TY_F32);
    assert_int_equal(t.n_dim, 4);
    assert_int_equal(t.shape[1], 3);
    assert_int_equal(t.size_bytes, 32 * 3 * 14 * 14 * 4);
    ty_safetensors_close(&s);
}

/* Opens a file of this header and n_data zero bytes. */
static ty_status open_header_sized(const char *header, uint64_t claimed, size_t n_data,
                                   ty_err *err) {
    ty_safetensors *s = NULL;
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(&claimed, 8, 1, f), 1);
    assert_int_equal(fwrite(header, 1, strlen(header), f), strlen(header));
    for (size_t i = 0; i < n_data; i++) fputc(0, f);
    fclose(f);
    ty_status st = ty_safetensors_open(&s, path, err);
    assert_true((st == TY_OK) == (s != NULL));
    ty_safetensors_close(&s);
    return st;
}

static ty_status open_header(const char *header, size_t n_data) {
    ty_err err = {0};
    ty_status st = open_header_sized(header, strlen(header), n_data, &err);
    assert_true(st == TY_OK || strstr(err.text, "a.safetensors"));
    return st;
}

#define TENSOR(name, dtype, shape, begin, end)                                                     \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end   \
    "]}"

static void safetensors_refuses_bad_headers(void **state) {
    (void)state;
    assert_int_equal(open_header("{" TENSOR("a", "F32", "[2]", "0", "8") "}", 8), TY_OK);
    assert_int_equal(open_header("{\"__metadata__\":{\"format\":\"pt\"}}", 0), TY_OK);
    assert_int_equal(open_header("{", 0), TY_EFORMAT);
    assert_int_equal(open_header("[]", 0), TY_EFORMAT);
    assert_int_equal(open_header("{\"a\":7}", 0), TY_EFORMAT);
    assert_int_equal(open_header("{\"a\":{}}", 0), TY_EFORMAT);
    assert_int_equal(open_header("{" TENSOR("a", "F32", "[2]", "0", "8") "}", 7), TY_EFORMAT);
    assert_int_equal(open_header("{" TENSOR("a", "F32", "[2]", "0", "8") "}", 9), TY_EFORMAT);
    assert_int_equal(open_header("{" TENSOR("a", "F32", "[2]", "8", "0") "}", 8), TY_EFORMAT);
    assert_int_equal(open_header("{" TENSOR("a", "F32", "[2]", "-8", "0") "}", 8), TY_EFORMAT);
    assert_int_equal(open_header("{" TENSOR("a", "F32", "[3]", "0", "8") "}", 8), TY_EFORMAT);
    assert_int_equal(open_header("{" TENSOR("a", "F32", "[-2]", "0", "8") "}", 8), TY_EFORMAT);
    assert_int_equal(open_header("{" TENSOR("a", "F32", "2", "0", "8") "}", 8), TY_EFORMAT);
    assert_int_equal(open_header("{" TENSOR("a", "F8", "[2]", "0", "8") "}", 8), TY_EUNSUPPORTED);
    assert_int_equal(
        open_header("{" TENSOR("a", "F32", "[4611686018427387904,4]", "0", "8") "}", 8),
        TY_EFORMAT);
    assert_int_equal(open_header("{" TENSOR("a", "I8", "[1,1,1,1,1,1,1,1,1]", "0", "1") "}", 1),
                     TY_EFORMAT);
}

static void safetensors_refuses_overlap_holes_and_doubles(void **state) {
    (void)state;
#define TWO(b, e, n) "{" TENSOR("a", "I8", "[4]", "0", "4") "," TENSOR(n, "I8", "[4]", b, e) "}"
    assert_int_equal(open_header(TWO("4", "8", "b"), 8), TY_OK);
    assert_int_equal(open_header(TWO("2", "6", "b"), 8), TY_EFORMAT);
    assert_int_equal(open_header(TWO("0", "4", "b"), 4), TY_EFORMAT);
    assert_int_equal(open_header(TWO("5", "9", "b"), 9), TY_EFORMAT);
    assert_int_equal(open_header(TWO("4", "8", "a"), 8), TY_EFORMAT);
}

static void safetensors_refuses_cut_files(void **state) {
    (void)state;
    const char *header = "{" TENSOR("a", "F32", "[2]", "0", "8") "}";
    assert_int_equal(open_header_sized(header, UINT64_MAX, 8, NULL), TY_EFORMAT);
    assert_int_equal(open_header_sized(header, strlen(header) + 9, 8, NULL), TY_EFORMAT);
    assert_int_equal(open_header_sized(header, strlen(header) - 1, 8, NULL), TY_EFORMAT);
    assert_int_equal(open_header_sized("", 0, 0, NULL), TY_EFORMAT);
    for (off_t n = 0; n < (off_t)(8 + strlen(header) + 8); n++) {
        ty_safetensors *s = NULL;
        assert_int_equal(open_header_sized(header, strlen(header), 8, NULL), TY_OK);
        assert_int_equal(truncate(path, n), 0);
        assert_int_equal(ty_safetensors_open(&s, path, NULL), TY_EFORMAT);
    }
}

static void safetensors_aligns_what_the_file_does_not(void **state) {
    (void)state;
    const char *plain = "{" TENSOR("a", "F32", "[2]", "0", "8") "}";
    char header[128];
    for (int pad = 0; pad < 4; pad++) {
        ty_safetensors *s = NULL;
        ty_tensor t;
        snprintf(header, sizeof(header), "%s%.*s", plain, pad, "   ");
        assert_int_equal(open_header(header, 8), TY_OK);
        assert_int_equal(ty_safetensors_open(&s, path, NULL), TY_OK);
        ty_safetensors_tensor(s, 0, &t);
        assert_int_equal((uintptr_t)t.data % 4, 0);
        assert_true(((const float *)t.data)[1] == 0.0f);
        ty_safetensors_close(&s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(safetensors_reads_back_what_was_written),
        cmocka_unit_test(safetensors_reads_the_reference),
        cmocka_unit_test(safetensors_refuses_bad_headers),
        cmocka_unit_test(safetensors_refuses_overlap_holes_and_doubles),
        cmocka_unit_test(safetensors_refuses_cut_files),
        cmocka_unit_test(safetensors_aligns_what_the_file_does_not),
    };
    return cmocka_run_group_tests_name("safetensors", tests, make_dir, drop_dir);
}
