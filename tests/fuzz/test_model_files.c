/*
 * Damaged model files: each reader gets thousands of mutants of a good file.  A mutant is refused
 * with a typed error that names the file, or opens, and then everything in it can be read.  A fixed
 * seed: a failure repeats.  TYTO_FUZZ_ROUNDS for longer runs (under ASan and UBSan).
 */
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "common/model/gguf.h"
#include "common/model/safetensors.h"
#include "common/model/tokenizer_impl.h"
#include "common/model/torch_bin.h"
#include "tests/support/process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static uint64_t state = 88172645463325252u;

static uint64_t rnd(uint64_t n) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % n;
}

static int rounds(void) {
    const char *s = getenv("TYTO_FUZZ_ROUNDS");
    return s ? atoi(s) : 2000;
}

/* Numbers at which readers break. */
static uint64_t edge(void) {
    static const uint64_t edges[] = {0,          1,          7,          8,          31,
                                     33,         127,        128,        255,        256,
                                     65535,      65536,      0x7fffffff, 1u << 31,   0xffffffff,
                                     1ull << 32, 1ull << 40, 1ull << 62, 1ull << 63, UINT64_MAX};
    return edges[rnd(sizeof(edges) / sizeof(*edges))];
}

typedef struct {
    uint8_t *data;
    size_t size;
    size_t hot[2][2]; /* ranges that hold structure; most mutations go there */
} seed_file;

static size_t place(const seed_file *s, size_t size) {
    const size_t *hot = s->hot[rnd(2)];
    size_t at = rnd(8) && hot[1] > hot[0] ? hot[0] + rnd(hot[1] - hot[0]) : rnd(size);
    return at < size ? at : size - 1;
}

/* One change; returns the new size. */
static size_t mutate(const seed_file *s, uint8_t *p, size_t size) {
    size_t at = place(s, size), room = size - at, n = 1 + rnd(16);
    uint64_t v = edge();
    switch (rnd(6)) {
    case 0: p[at] ^= (uint8_t)(1u << rnd(8)); return size;
    case 1: p[at] = (uint8_t)rnd(256); return size;
    case 2: memcpy(p + at, &v, room < 8 ? room : 1u << rnd(4)); return size;
    case 3: /* a piece of the file over another */
        memmove(p + at, p + place(s, size - (n < room ? n : room)), n < room ? n : room);
        return size;
    case 4: /* bytes go missing */
        if (n >= room) return size;
        memmove(p + at, p + at + n, room - n);
        return size - n;
    default: return rnd(4) ? size : 1 + rnd(size);
    }
}

/* Runs open_and_read on each mutant; it must return a status that fits what it did. */
static void fuzz(const seed_file *s, ty_status (*open_and_read)(const char *path, ty_err *err)) {
    uint8_t *copy = malloc(s->size);
    int opened = 0, n = rounds();
    for (int i = 0; i < n; i++) {
        char path[64];
        ty_err err = {0};
        size_t size = s->size;
        memcpy(copy, s->data, size);
        for (uint64_t k = 0, changes = rnd(5); k < changes; k++) size = mutate(s, copy, size);
        int fd = memfd_create("mutant", MFD_CLOEXEC);
        assert_true(fd >= 0);
        assert_int_equal(write(fd, copy, size), (ssize_t)size);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        ty_status st = open_and_read(path, &err);
        if (st != TY_OK) {
            /* not found: a key whose name was changed */
            assert_true(st == TY_EFORMAT || st == TY_EUNSUPPORTED || st == TY_ELIMIT ||
                        st == TY_ENOTFOUND);
            assert_int_equal(err.code, st);
            assert_non_null(strstr(err.text, path));
        }
        opened += st == TY_OK;
        close(fd);
    }
    /* Both sides must have been tried. */
    assert_in_range(opened, 1, n - 1);
    free(copy);
}

static volatile uint64_t sink;

static void touch(const void *data, size_t n) {
    const uint8_t *p = data;
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += p[i];
    sink += sum;
}

/* --- GGUF --- */

static void read_arrays(const ty_gguf *g, const char *key) {
    int64_t n, v;
    double x;
    const char *s;
    size_t len;
    if (ty_gguf_array_len(g, key, &n, NULL) != TY_OK) return;
    for (int64_t i = 0; i < n; i++) {
        (void)ty_gguf_array_int(g, key, i, &v, NULL);
        (void)ty_gguf_array_float(g, key, i, &x, NULL);
        if (ty_gguf_array_str(g, key, i, &s, &len, NULL) == TY_OK) touch(s, len);
    }
}

static ty_status read_gguf(const char *path, ty_err *err) {
    ty_gguf *g = NULL;
    char id[TY_MODEL_ID_SIZE];
    ty_status st = ty_gguf_open(&g, path, err);
    if (st != TY_OK) return st;
    for (int i = 0; i < ty_gguf_kv_count(g); i++) {
        const char *key = ty_gguf_kv_key(g, i), *s;
        size_t len;
        int64_t v;
        if (ty_gguf_get_str(g, key, &s, &len, NULL) == TY_OK) touch(s, len);
        (void)ty_gguf_get_int(g, key, &v, NULL);
        read_arrays(g, key);
    }
    for (int i = 0; i < ty_gguf_tensor_count(g); i++) {
        ty_tensor t;
        ty_gguf_tensor(g, i, &t);
        touch(t.data, t.size_bytes);
    }
    ty_gguf_identity(g, id);
    ty_gguf_close(&g);
    return TY_OK;
}

static void write_gguf(const char *path) {
    ty_gguf_writer *w = NULL;
    const char *strs[] = {"a", "bc", "def"};
    const size_t lens[] = {1, 2, 3};
    const float x[64] = {1, 2, 3};
    const uint8_t q[68] = {0};
    assert_int_equal(ty_gguf_writer_create(&w, path, "llama", NULL), TY_OK);
    assert_int_equal(ty_gguf_set_u32(w, "llama.block_count", 2, NULL), TY_OK);
    assert_int_equal(ty_gguf_set_strs(w, "tokens", strs, lens, 3, NULL), TY_OK);
    assert_int_equal(ty_gguf_set_f32s(w, "scores", x, 3, NULL), TY_OK);
    assert_int_equal(ty_gguf_set_bool(w, "flag", true, NULL), TY_OK);
    assert_int_equal(ty_gguf_declare(w, "a", TY_F32, 2, (int64_t[]){2, 32}, NULL), TY_OK);
    assert_int_equal(ty_gguf_declare(w, "b", TY_Q8_0, 2, (int64_t[]){2, 32}, NULL), TY_OK);
    assert_int_equal(ty_gguf_write(w, x, sizeof(x), NULL), TY_OK);
    assert_int_equal(ty_gguf_write(w, q, sizeof(q), NULL), TY_OK);
    assert_int_equal(ty_gguf_finish(w, NULL), TY_OK);
    ty_gguf_writer_destroy(&w);
}

static seed_file load(const char *path) {
    seed_file s = {0};
    assert_int_equal(ty_file_read(path, 1 << 26, (char **)&s.data, &s.size, NULL), TY_OK);
    return s;
}

static void gguf_survives_mutants(void **unused) {
    (void)unused;
    const char *path = test_path("%s/seed.gguf", test_temp_dir());
    write_gguf(path);
    seed_file s = load(path);
    s.hot[0][1] = s.hot[1][1] = s.size - 256 - 96;
    fuzz(&s, read_gguf);
    free(s.data);
}

/* --- a byte-level vocabulary in GGUF --- */

enum { N_PIECE = 256 + 2 };

/* All 256 bytes as files write them, and two merged pieces. */
static void write_vocabulary(const char *path) {
    static char piece[N_PIECE][4];
    const char *text[N_PIECE], *merges[] = {"a b", "ab c"};
    size_t len[N_PIECE], merge_len[] = {3, 4};
    int32_t type[N_PIECE];
    int n = 0;
    for (unsigned code = 0x21; code < 0x144; code++) {
        char utf8[2] = {(char)code, 0}, byte;
        size_t one;
        if (code >= 0x80) {
            utf8[0] = (char)(0xC0 | code >> 6);
            utf8[1] = (char)(0x80 | (code & 0x3F));
        }
        if (!ty_byte_level_read(utf8, code < 0x80 ? 1 : 2, &byte, &one)) continue;
        memcpy(piece[n++], utf8, 2);
    }
    assert_int_equal(n, 256);
    memcpy(piece[n++], "ab", 3);
    memcpy(piece[n++], "abc", 4);
    for (int i = 0; i < n; i++) {
        text[i] = piece[i];
        len[i] = strlen(piece[i]);
        type[i] = TY_PIECE_NORMAL;
    }
    ty_gguf_writer *w = NULL;
    assert_int_equal(ty_gguf_writer_create(&w, path, "bloom", NULL), TY_OK);
    assert_int_equal(ty_gguf_set_str(w, "tokenizer.ggml.model", "gpt2", 4, NULL), TY_OK);
    assert_int_equal(ty_gguf_set_str(w, "tokenizer.ggml.pre", "bloom", 5, NULL), TY_OK);
    assert_int_equal(ty_gguf_set_strs(w, "tokenizer.ggml.tokens", text, len, n, NULL), TY_OK);
    assert_int_equal(ty_gguf_set_i32s(w, "tokenizer.ggml.token_type", type, n, NULL), TY_OK);
    assert_int_equal(ty_gguf_set_strs(w, "tokenizer.ggml.merges", merges, merge_len, 2, NULL),
                     TY_OK);
    assert_int_equal(ty_gguf_set_u32(w, "tokenizer.ggml.eos_token_id", 2, NULL), TY_OK);
    assert_int_equal(ty_gguf_finish(w, NULL), TY_OK);
    ty_gguf_writer_destroy(&w);
}

/* What opens can be used: a text goes to ids and comes back. */
static ty_status read_vocabulary(const char *path, ty_err *err) {
    ty_gguf *g = NULL;
    ty_tokenizer *t = NULL;
    ty_ids ids = {0};
    ty_buf back = ty_buf_make(1 << 16);
    ty_status st = ty_gguf_open(&g, path, err);
    if (st == TY_OK) st = ty_tokenizer_from_gguf(&t, g, err);
    if (st == TY_OK) {
        assert_int_equal(ty_tokenizer_encode(t, TY_TOKENIZE_FAST, "abcab, \xC3\xA9", 9, &ids, NULL),
                         TY_OK);
        assert_int_equal(ty_tokenizer_decode(t, TY_DECODE_HF_SKIP, ids.id, ids.n, &back), TY_OK);
    }
    ty_ids_clear(&ids);
    ty_buf_clear(&back);
    ty_tokenizer_destroy(&t);
    ty_gguf_close(&g);
    return st;
}

static void byte_level_vocabulary_survives_mutants(void **unused) {
    (void)unused;
    const char *path = test_path("%s/words.gguf", test_temp_dir());
    ty_err err = {0};
    write_vocabulary(path);
    if (read_vocabulary(path, &err) != TY_OK) fail_msg("%s", err.text);
    seed_file s = load(path);
    s.hot[0][1] = s.size;
    s.hot[1][0] = s.size / 2;
    s.hot[1][1] = s.size;
    fuzz(&s, read_vocabulary);
    free(s.data);
}

/* --- safetensors --- */

static ty_status read_safetensors(const char *path, ty_err *err) {
    ty_safetensors *s = NULL;
    ty_status st = ty_safetensors_open(&s, path, err);
    if (st != TY_OK) return st;
    for (int i = 0; i < ty_safetensors_count(s); i++) {
        ty_tensor t;
        ty_safetensors_tensor(s, i, &t);
        touch(t.data, t.size_bytes);
    }
    ty_safetensors_close(&s);
    return TY_OK;
}

static void safetensors_survives_mutants(void **unused) {
    (void)unused;
    seed_file s = load(test_path("%s/v1-micro/lora-adapter-safetensors/adapter_model.safetensors",
                                 test_golden_dir()));
    uint64_t header;
    memcpy(&header, s.data, sizeof(header));
    s.hot[0][1] = 9;
    s.hot[1][1] = 8 + (size_t)header;
    fuzz(&s, read_safetensors);
    free(s.data);
}

/* --- PyTorch --- */

static ty_status read_torch_bin(const char *path, ty_err *err) {
    ty_torch_bin *b = NULL;
    ty_status st = ty_torch_bin_open(&b, path, err);
    if (st != TY_OK) return st;
    for (int i = 0; st == TY_OK && i < ty_torch_bin_count(b); i++) {
        ty_tensor t;
        void *owned = NULL;
        st = ty_torch_bin_load(b, i, &t, &owned, err);
        if (st == TY_OK) touch(t.data, t.size_bytes);
        free(owned);
    }
    ty_torch_bin_close(&b);
    return st;
}

static void torch_bin_survives_mutants(void **unused) {
    (void)unused;
    seed_file s = load(test_path("%s/v1-micro/lora-adapter/adapter_model.bin", test_golden_dir()));
    const uint8_t *pickle = memmem(s.data, s.size, "data.pkl", 8);
    const uint8_t *end = memmem(s.data, s.size, "PK\1\2", 4); /* the directory */
    assert_non_null(pickle);
    assert_non_null(end);
    s.hot[0][0] = (size_t)(pickle - s.data) - 40;
    s.hot[0][1] = s.hot[0][0] + 1500;
    s.hot[1][0] = (size_t)(end - s.data);
    s.hot[1][1] = s.size;
    fuzz(&s, read_torch_bin);
    free(s.data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gguf_survives_mutants),
        cmocka_unit_test(byte_level_vocabulary_survives_mutants),
        cmocka_unit_test(safetensors_survives_mutants),
        cmocka_unit_test(torch_bin_survives_mutants),
    };
    return cmocka_run_group_tests_name("model_files", tests, NULL, NULL);
}
