/* BLOOM's byte-level tokenizer against Hugging Face's (v1-bloom-micro, made by make_bloom.py), through
 * import and the decoder's file: ids with and without special tokens, text back, whole and as a stream. */
#include "tests/support/ty_test.h"

#include "common/model/tokenizer.h"
#include "common/model/tokenizer_impl.h"
#include "tests/support/process.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ty_gguf *file;
static ty_tokenizer *tok;
static json_t *golden, *vectors;

static int open_all(void **state) {
    (void)state;
    const char *src = test_path("%s/v1-bloom-micro", test_golden_dir());
    const char *dst = test_path("%s/bloom", test_temp_dir());
    ty_err err = {0};
    test_output o = TEST_RUN((char *)test_bin("tyto"), (char *)"import", (char *)src, (char *)dst);
    if (o.exit_code != 0) fail_msg("%s", o.err);
    test_output_clear(&o);
    golden = json_load_file(test_path("%s/golden.json", src), 0, NULL);
    vectors = json_load_file(test_path("%s/tokenizer_vectors.json", src), JSON_ALLOW_NUL, NULL);
    if (ty_gguf_open(&file, test_path("%s/decoder.gguf", dst), &err) != TY_OK ||
        ty_tokenizer_from_gguf(&tok, file, &err) != TY_OK)
        fail_msg("%s", err.text);
    return golden && vectors ? 0 : -1;
}

static int close_all(void **state) {
    (void)state;
    json_decref(golden);
    json_decref(vectors);
    ty_tokenizer_destroy(&tok);
    ty_gguf_close(&file);
    return 0;
}

static void check_ids(const json_t *text, ty_tokenize_mode mode, const json_t *want) {
    ty_ids ids = {0};
    const char *s = json_string_value(text);
    assert_int_equal(ty_tokenizer_encode(tok, mode, s, json_string_length(text), &ids, NULL),
                     TY_OK);
    if ((size_t)ids.n != json_array_size(want))
        fail_msg("\"%s\": %d ids, want %zu", s, ids.n, json_array_size(want));
    for (int i = 0; i < ids.n; i++)
        if (ids.id[i] != json_integer_value(json_array_get(want, (size_t)i)))
            fail_msg("\"%s\": id %d is %d, want %lld", s, i, ids.id[i],
                     (long long)json_integer_value(json_array_get(want, (size_t)i)));
    ty_ids_clear(&ids);
}

static void texts_have_hugging_faces_ids(void **state) {
    (void)state;
    const json_t *v;
    size_t i;
    json_array_foreach(vectors, i, v) {
        const json_t *text = json_object_get(v, "text");
        check_ids(text, TY_TOKENIZE_FAST, json_object_get(v, "ids"));
        check_ids(text, TY_TOKENIZE_SLOW, json_object_get(v, "ids"));
        check_ids(text, TY_TOKENIZE_SPM, json_object_get(v, "raw_ids"));
    }
    assert_true(i > 30);
    assert_int_equal(ty_tokenizer_bos(tok), 1);
    assert_int_equal(ty_tokenizer_eos(tok), 2);
}

static void decode(const json_t *ids, const json_t *want) {
    ty_buf whole = ty_buf_make(1 << 16), stream = ty_buf_make(1 << 16);
    int32_t id[1024];
    int n = (int)json_array_size(ids);
    ty_detok *d = NULL;
    assert_true(n <= 1024);
    assert_int_equal(ty_detok_create(&d, tok, NULL), TY_OK);
    for (int i = 0; i < n; i++) {
        id[i] = (int32_t)json_integer_value(json_array_get(ids, (size_t)i));
        assert_int_equal(ty_detok_push(d, id[i], &stream), TY_OK);
    }
    assert_int_equal(ty_detok_flush(d, &stream), TY_OK);
    ty_detok_destroy(&d);
    assert_int_equal(ty_tokenizer_decode(tok, TY_DECODE_HF_SKIP, id, n, &whole), TY_OK);
    assert_int_equal(whole.len, json_string_length(want));
    assert_int_equal(stream.len, whole.len);
    if (whole.len) assert_memory_equal(whole.data, json_string_value(want), whole.len);
    if (whole.len) assert_memory_equal(stream.data, whole.data, whole.len);
    ty_buf_clear(&whole);
    ty_buf_clear(&stream);
}

static void ids_have_hugging_faces_text(void **state) {
    (void)state;
    const json_t *v;
    const char *name;
    size_t i;
    json_array_foreach(vectors, i, v)
        decode(json_object_get(v, "ids"), json_object_get(v, "decoded"));
    json_t *p; /* random tokens: bytes that are no characters, ids without a piece */
    json_object_foreach(json_object_get(golden, "prompts"), name, p)
        decode(json_object_get(p, "greedy_ids"), json_object_get(p, "greedy_text"));
}

static void pieces_are_their_bytes(void **state) {
    (void)state;
    size_t len;
    assert_int_equal(tok->byte_id[' '], ty_tokenizer_find(tok, " ", 1));
    assert_memory_equal(ty_tokenizer_piece(tok, tok->byte_id[0xff], &len), "\xff", 2);
    assert_int_equal(len, 1);
    char out[8];
    assert_true(ty_byte_level_read("\xC4\xA0"
                                   "a\xC4\x80",
                                   5, out, &len)); /* "Ġ", a, "Ā" */
    assert_int_equal(len, 3);
    assert_memory_equal(out, " a\0", 3);
    assert_false(ty_byte_level_read(" ", 1, out, &len));
    assert_false(ty_byte_level_read("\xff", 1, out, &len));
}

/* Any text comes back from its ids, special words apart. */
static void random_texts_come_back(void **state) {
    (void)state;
    static const char *const parts[] = {"a",
                                        " ",
                                        "  ",
                                        "\n",
                                        "(",
                                        "the ",
                                        "\xE3\x80\x82",
                                        "\xF0\x9F\xA6\x89",
                                        "e\xCC\x81",
                                        "1",
                                        ".",
                                        "\xE4\xBA\xBA",
                                        "\x1c",
                                        "\xC2\x85",
                                        "<s",
                                        "\t"};
    unsigned seed = 11;
    for (int round = 0; round < 2000; round++) {
        char text[256] = "";
        for (int i = rand_r(&seed) % 40; i > 0; i--)
            strcat(text, parts[(size_t)rand_r(&seed) % (sizeof parts / sizeof *parts)]);
        ty_ids ids = {0};
        ty_buf back = ty_buf_make(1 << 12);
        assert_int_equal(ty_tokenizer_encode(tok, TY_TOKENIZE_FAST, text, strlen(text), &ids, NULL),
                         TY_OK);
        assert_int_equal(ty_tokenizer_decode(tok, TY_DECODE_HF_SKIP, ids.id, ids.n, &back), TY_OK);
        assert_int_equal(back.len, strlen(text));
        if (back.len) assert_memory_equal(back.data, text, back.len);
        ty_buf_clear(&back);
        ty_ids_clear(&ids);
    }
}

/* A long text without any end of a word must not take quadratic time. */
static void a_long_word_is_quick(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    char *text = malloc(N);
    ty_ids ids = {0};
    assert_non_null(text);
    for (int i = 0; i < N; i++) text[i] = "reason"[i % 6];
    assert_int_equal(ty_tokenizer_encode(tok, TY_TOKENIZE_FAST, text, N, &ids, NULL), TY_OK);
    assert_true(ids.n > N / 16 && ids.n < N);
    ty_ids_clear(&ids);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_have_hugging_faces_ids),
        cmocka_unit_test(ids_have_hugging_faces_text),
        cmocka_unit_test(pieces_are_their_bytes),
        cmocka_unit_test(random_texts_come_back),
        cmocka_unit_test(a_long_word_is_quick),
    };
    return cmocka_run_group_tests_name("byte_level", tests, open_all, close_all);
}
