/* torch_bin.h, pickle.h and zip.h: the reference's files are read; hostile and damaged ones are not. */
#include "tests/support/ty_test.h"

#include "common/base/buf.h"
#include "common/base/file.h"
#include "common/model/safetensors.h"
#include "common/model/torch_bin.h"
#include "tests/support/process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[] = "/tmp/tyto_bin_XXXXXX";
static char path[64];

static int make_dir(void **state) {
    (void)state;
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof(path), "%s/a.bin", dir);
    return 0;
}

static int drop_dir(void **state) {
    (void)state;
    unlink(path);
    return rmdir(dir);
}

static void torch_bin_equals_the_safetensors_of_the_same_model(void **state) {
    (void)state;
    ty_torch_bin *b = NULL;
    ty_safetensors *s = NULL;
    ty_err err = {0};
    assert_int_equal(
        ty_torch_bin_open(&b, test_path("%s/v1-micro/pytorch_model.bin", test_golden_dir()), &err),
        TY_OK);
    assert_int_equal(
        ty_safetensors_open(
            &s, test_path("%s/v1-micro/safetensors/model.safetensors", test_golden_dir()), &err),
        TY_OK);
    assert_int_equal(ty_torch_bin_count(b), ty_safetensors_count(s));
    for (int i = 0; i < ty_torch_bin_count(b); i++) {
        ty_tensor x, y, info;
        void *owned = NULL;
        ty_torch_bin_info(b, i, &info);
        assert_int_equal(ty_torch_bin_load(b, i, &x, &owned, &err), TY_OK);
        assert_int_equal(ty_safetensors_find(s, ty_torch_bin_name(b, i), &y, &err), TY_OK);
        assert_int_equal(x.dtype, y.dtype);
        assert_int_equal(x.n_dim, y.n_dim);
        assert_memory_equal(x.shape, y.shape, (size_t)x.n_dim * sizeof(int64_t));
        assert_memory_equal(x.shape, info.shape, (size_t)x.n_dim * sizeof(int64_t));
        assert_int_equal(x.size_bytes, y.size_bytes);
        assert_memory_equal(x.data, y.data, x.size_bytes);
        free(owned);
    }
    ty_torch_bin_close(&b);
    ty_safetensors_close(&s);
}

/* --- archives made by hand --- */

typedef struct {
    const char *name;
    const void *data;
    size_t size;
} part;

static void put16(ty_buf *b, unsigned v) {
    uint8_t p[2] = {(uint8_t)v, (uint8_t)(v >> 8)};
    ty_buf_append(b, p, 2);
}

static void put32(ty_buf *b, uint32_t v) {
    put16(b, v & 0xffff);
    put16(b, v >> 16);
}

static void put_common(ty_buf *b, const part *p, unsigned method, unsigned flags) {
    put16(b, 20);
    put16(b, flags);
    put16(b, method);
    put32(b, 0); /* time and date */
    put32(b, 0); /* crc */
    put32(b, (uint32_t)p->size);
    put32(b, (uint32_t)p->size);
    put16(b, (unsigned)strlen(p->name));
    put16(b, 0); /* extra */
}

static void zip_flags(ty_buf *out, const part *parts, int n, unsigned method, unsigned flags) {
    ty_buf central = ty_buf_make(1 << 20);
    for (int i = 0; i < n; i++) {
        uint32_t at = (uint32_t)out->len;
        put32(out, 0x04034b50);
        put_common(out, &parts[i], method, flags);
        ty_buf_puts(out, parts[i].name);
        ty_buf_append(out, parts[i].data, parts[i].size);
        put32(&central, 0x02014b50);
        put16(&central, 20);
        put_common(&central, &parts[i], method, flags);
        put16(&central, 0); /* comment */
        put16(&central, 0); /* disk */
        put16(&central, 0);
        put32(&central, 0);
        put32(&central, at);
        ty_buf_puts(&central, parts[i].name);
    }
    uint32_t at = (uint32_t)out->len;
    ty_buf_append(out, central.data, central.len);
    put32(out, 0x06054b50);
    put32(out, 0);
    put16(out, (unsigned)n);
    put16(out, (unsigned)n);
    put32(out, (uint32_t)central.len);
    put32(out, at);
    put16(out, 0);
    ty_buf_clear(&central);
}

static ty_status open_bytes(const char *data, size_t n, ty_torch_bin **b, ty_err *err) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
    return ty_torch_bin_open(b, path, err);
}

static ty_status open_parts(const part *parts, int n, ty_torch_bin **b, ty_err *err) {
    ty_buf z = ty_buf_make(1 << 20);
    zip_flags(&z, parts, n, 0, 0);
    ty_status st = open_bytes(z.data, z.len, b, err);
    ty_buf_clear(&z);
    return st;
}

static const float six[6] = {0, 1, 2, 3, 4, 5};

/* An archive with this pickle and one storage "0" of six floats. */
static ty_status open_pickle(const void *pickle, size_t n, ty_torch_bin **b, ty_err *err) {
    const part parts[] = {{"m/data.pkl", pickle, n}, {"m/data/0", six, sizeof(six)}};
    return open_parts(parts, 2, b, err);
}

static ty_status expect_pickle(const void *pickle, size_t n, ty_status want, const char *says) {
    ty_torch_bin *b = NULL;
    ty_err err = {0};
    ty_status st = open_pickle(pickle, n, &b, &err);
    ty_torch_bin_close(&b);
    assert_int_equal(st, want);
    if (says && !strstr(err.text, says)) fail_msg("\"%s\" does not say \"%s\"", err.text, says);
    return st;
}

#define REFUSED(text, want, says) expect_pickle(text, sizeof(text) - 1, want, says)

/* {"w": _rebuild_tensor_v2(storage(kind, key, numel), offset, size, stride, False, OrderedDict())};
 * numbers are one byte each, size and stride have two dimensions. */
static void put_tensor(ty_buf *p, const char *name, const char *kind, int numel, int offset,
                       const int size[2], const int stride[2]) {
    ty_buf_printf(p, "X%c%c%c%c%s", (int)strlen(name), 0, 0, 0, name);
    ty_buf_puts(p, "ctorch._utils\n_rebuild_tensor_v2\n((");
    ty_buf_append(p, "X\7\0\0\0storage", 12);
    ty_buf_printf(p, "ctorch\n%s\n", kind);
    ty_buf_append(p, "X\1\0\0\0000X\3\0\0\0cpu", 14);
    ty_buf_printf(p, "K%ctQK%cK%cK%c\206K%cK%c\206\211ccollections\nOrderedDict\n)RtR", numel,
                  offset, size[0], size[1], stride[0], stride[1]);
}

static ty_status open_tensor(const char *kind, int numel, int offset, const int size[2],
                             const int stride[2], ty_torch_bin **b, ty_err *err) {
    ty_buf p = ty_buf_make(4096);
    ty_buf_puts(&p, "\200\2}(");
    put_tensor(&p, "w", kind, numel, offset, size, stride);
    ty_buf_puts(&p, "u.");
    assert_int_equal(p.failed, TY_OK);
    ty_status st = open_pickle(p.data, p.len, b, err);
    ty_buf_clear(&p);
    return st;
}

static void torch_bin_honours_strides_and_offsets(void **state) {
    (void)state;
    const struct {
        int offset, size[2], stride[2];
        float want[6];
    } cases[] = {
        {0, {2, 3}, {3, 1}, {0, 1, 2, 3, 4, 5}},
        {0, {3, 2}, {1, 3}, {0, 3, 1, 4, 2, 5}}, /* transposed */
        {1, {2, 2}, {3, 1}, {1, 2, 4, 5}},       /* columns of a wider tensor */
        {5, {1, 1}, {77, 77}, {5}},              /* strides of single steps mean nothing */
        {4, {2, 1}, {1, 9}, {4, 5}},
        {0, {2, 3}, {0, 1}, {0, 1, 2, 0, 1, 2}}, /* expanded, within the storage's size */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        ty_torch_bin *b = NULL;
        ty_tensor t;
        void *owned = NULL;
        assert_int_equal(open_tensor("FloatStorage", 6, cases[i].offset, cases[i].size,
                                     cases[i].stride, &b, NULL),
                         TY_OK);
        assert_int_equal(ty_torch_bin_count(b), 1);
        assert_string_equal(ty_torch_bin_name(b, 0), "w");
        assert_int_equal(ty_torch_bin_load(b, 0, &t, &owned, NULL), TY_OK);
        assert_int_equal(t.shape[0], cases[i].size[0]);
        assert_int_equal((uintptr_t)t.data % 4, 0);
        assert_memory_equal(t.data, cases[i].want, t.size_bytes);
        free(owned);
        ty_torch_bin_close(&b);
    }
}

static void torch_bin_refuses_tensors_beyond_their_storage(void **state) {
    (void)state;
    const struct {
        int numel, offset, size[2], stride[2];
    } cases[] = {
        {6, 1, {2, 3}, {3, 1}},  {6, 7, {1, 1}, {1, 1}},   {5, 0, {2, 3}, {3, 1}},
        {7, 0, {2, 3}, {3, 1}},  {6, 0, {2, 3}, {4, 1}},   {6, 0, {99, 99}, {0, 0}},
        {99, 0, {9, 9}, {9, 1}}, {6, 0, {127, 1}, {1, 1}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        ty_torch_bin *b = NULL;
        ty_err err = {0};
        assert_int_equal(open_tensor("FloatStorage", cases[i].numel, cases[i].offset, cases[i].size,
                                     cases[i].stride, &b, &err),
                         TY_EFORMAT);
        assert_non_null(strstr(err.text, "tensor w"));
        assert_null(b);
    }
    ty_torch_bin *b = NULL;
    assert_int_equal(open_tensor("QInt8Storage", 6, 0, (int[]){1, 1}, (int[]){1, 1}, &b, NULL),
                     TY_EUNSUPPORTED);
    assert_int_equal(open_tensor("DoubleStorage", 6, 0, (int[]){1, 1}, (int[]){1, 1}, &b, NULL),
                     TY_EFORMAT);
}

static void pickle_that_would_execute_code_is_refused(void **state) {
    (void)state;
    /* os.system("touch <dir>/owned"), in the three ways a pickle can name it */
    char evil[256];
    char owned[64];
    snprintf(owned, sizeof(owned), "%s/owned", dir);
    int n = snprintf(evil, sizeof(evil), "\200\2cos\nsystem\n(U%ctouch %stR.",
                     (int)strlen(owned) + 6, owned);
    expect_pickle(evil, (size_t)n, TY_EUNSUPPORTED, "os.system would run code: refused");
    n = snprintf(evil, sizeof(evil), "\200\4\214\5posix\214\6system\223(\214%ctouch %stR.",
                 (int)strlen(owned) + 6, owned);
    expect_pickle(evil, (size_t)n, TY_EUNSUPPORTED, "posix.system");
    n = snprintf(evil, sizeof(evil), "(U%ctouch %sios\nsystem\n.", (int)strlen(owned) + 6, owned);
    expect_pickle(evil, (size_t)n, TY_EUNSUPPORTED, "opcode 0x69");
    assert_int_not_equal(access(owned, F_OK), 0);
    REFUSED("\200\2cbuiltins\neval\n.", TY_EUNSUPPORTED, "builtins.eval");
    REFUSED("\200\2ctorch\nload\n.", TY_EUNSUPPORTED, "torch.load");
    REFUSED("\200\2ctorch._utils\n_rebuild_tensor_v3\n.", TY_EUNSUPPORTED, "_rebuild_tensor_v3");
    REFUSED("\200\2c__builtin__\ngetattr\n.", TY_EUNSUPPORTED, "getattr");
    REFUSED("\200\2ccollections\nOrderedDict\n)\201.", TY_EUNSUPPORTED, "opcode 0x81");
}

static void pickle_that_is_damaged_is_refused(void **state) {
    (void)state;
    REFUSED("", TY_EFORMAT, "end mark");
    REFUSED("\200\2", TY_EFORMAT, "end mark");
    REFUSED("\200\2.", TY_EFORMAT, NULL);
    REFUSED("\200\2}}.", TY_EFORMAT, "other than one");
    REFUSED("\200\2(.", TY_EFORMAT, NULL);
    REFUSED("\200\2u.", TY_EFORMAT, NULL);
    REFUSED("\200\2(u.", TY_EFORMAT, NULL);
    REFUSED("\200\2}(K\1u.", TY_EFORMAT, "key without a value");
    REFUSED("\200\2K\1(K\1K\2u.", TY_EFORMAT, NULL);
    REFUSED("\200\2t.", TY_EFORMAT, NULL);
    REFUSED("\200\2\207.", TY_EFORMAT, NULL);
    REFUSED("\200\2(\205.", TY_EFORMAT, NULL);
    REFUSED("\200\2h\7.", TY_EFORMAT, NULL);
    REFUSED("\200\2}r\377\377\377\177.", TY_EFORMAT, NULL);
    REFUSED("\200\2q\0.", TY_EFORMAT, NULL);
    REFUSED("\200\2X\377\377\377\377ab.", TY_EFORMAT, "string");
    REFUSED("\200\4\215\377\377\377\377\377\377\377\377ab.", TY_EFORMAT, "string");
    REFUSED("\200\2\212\011123456789.", TY_EFORMAT, "64 bits");
    REFUSED("\200\2R.", TY_EFORMAT, NULL);
    REFUSED("\200\2K\1)R.", TY_EFORMAT, NULL);
    REFUSED("\200\2Q.", TY_EFORMAT, NULL);
    REFUSED("\200\2K\1}b.", TY_EFORMAT, NULL);
    REFUSED("\200\2ccollections\nOrdered", TY_EFORMAT, NULL);
    REFUSED("\200\2]K\1a.", TY_EFORMAT, "no state dict");
    REFUSED("\200\2K\1.", TY_EFORMAT, "no state dict");
}

static void torch_bin_refuses_other_files(void **state) {
    (void)state;
    ty_torch_bin *b = NULL;
    ty_err err = {0};
    const char legacy[] = "\200\2\212\12l\374\234F\371 j\250P\31.";
    assert_int_equal(open_bytes(legacy, sizeof(legacy) - 1, &b, &err), TY_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "save it again"));
    assert_int_equal(open_bytes("", 0, &b, &err), TY_EFORMAT);
    assert_int_equal(open_bytes("PK\3\4", 4, &b, &err), TY_EFORMAT);
    assert_int_equal(open_bytes("hello", 5, &b, &err), TY_EFORMAT);
    assert_int_equal(ty_torch_bin_open(&b, "/nonexistent.bin", &err), TY_ENOTFOUND);
    const part other[] = {{"x/readme", "hi", 2}};
    assert_int_equal(open_parts(other, 1, &b, &err), TY_EFORMAT);
    assert_non_null(strstr(err.text, "data.pkl"));
    const part twice[] = {{"x/data.pkl", "}.", 2}, {"y/data.pkl", "}.", 2}};
    assert_int_equal(open_parts(twice, 2, &b, &err), TY_EFORMAT);
    const part same[] = {{"x/data.pkl", "}.", 2}, {"x/data.pkl", "}.", 2}};
    assert_int_equal(open_parts(same, 2, &b, &err), TY_EFORMAT);
    const part big[] = {{"x/data.pkl", "}.", 2}, {"x/byteorder", "big", 3}};
    assert_int_equal(open_parts(big, 2, &b, &err), TY_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "big-endian"));
}

static void zip_refuses_compressed_and_encrypted(void **state) {
    (void)state;
    const part p[] = {{"x/data.pkl", "}.", 2}};
    for (int encrypted = 0; encrypted < 2; encrypted++) {
        ty_torch_bin *b = NULL;
        ty_err err = {0};
        ty_buf z = ty_buf_make(4096);
        zip_flags(&z, p, 1, encrypted ? 0 : 8, encrypted ? 1 : 0);
        assert_int_equal(open_bytes(z.data, z.len, &b, &err), TY_EUNSUPPORTED);
        assert_non_null(strstr(err.text, encrypted ? "encrypted" : "compressed"));
        ty_buf_clear(&z);
    }
}

/* A file cut anywhere has lost its directory at the end. */
static void torch_bin_refuses_every_cut(void **state) {
    (void)state;
    char *data = NULL;
    size_t size = 0;
    const char *golden = test_path("%s/v1-micro/lora-adapter/adapter_model.bin", test_golden_dir());
    assert_int_equal(ty_file_read(golden, 1 << 24, &data, &size, NULL), TY_OK);
    for (size_t n = 0; n < size; n += n < 4096 || size - n < 4096 ? 37 : 4001) {
        ty_torch_bin *b = NULL;
        ty_err err = {0};
        ty_status st = open_bytes(data, n, &b, &err);
        assert_true(st == TY_EFORMAT);
        assert_null(b);
    }
    free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(torch_bin_equals_the_safetensors_of_the_same_model),
        cmocka_unit_test(torch_bin_honours_strides_and_offsets),
        cmocka_unit_test(torch_bin_refuses_tensors_beyond_their_storage),
        cmocka_unit_test(pickle_that_would_execute_code_is_refused),
        cmocka_unit_test(pickle_that_is_damaged_is_refused),
        cmocka_unit_test(torch_bin_refuses_other_files),
        cmocka_unit_test(zip_refuses_compressed_and_encrypted),
        cmocka_unit_test(torch_bin_refuses_every_cut),
    };
    return cmocka_run_group_tests_name("torch_bin", tests, make_dir, drop_dir);
}
