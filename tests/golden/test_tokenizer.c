/* The tokenizer against the reference's vectors: ids in three modes, and texts from ids. */
#include "tests/support/ty_test.h"

#include "common/model/tokenizer.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *golden_path(const char *name) {
    const char *root = getenv("TYTO_GOLDEN");
    char *path = NULL;
    assert_true(asprintf(&path, "%s/%s", root ? root : "tests/golden", name) > 0);
    return path;
}

typedef struct {
    ty_tokenizer *t;
    FILE *file;
    int n_line, n_ids, n_text; /* what was compared */
} vectors;

static void open_vectors(vectors *v, const char *model, const char *name) {
    char *model_path = golden_path(model), *path = golden_path(name);
    ty_err err = {0};
    memset(v, 0, sizeof *v);
    if (ty_tokenizer_from_spm(&v->t, model_path, &err) != TY_OK) fail_msg("%s", err.text);
    v->file = fopen(path, "r");
    if (!v->file) fail_msg("cannot open %s", path);
    free(model_path);
    free(path);
}

static json_t *next_line(vectors *v) {
    char *line = NULL;
    size_t cap = 0;
    ssize_t len = getline(&line, &cap, v->file);
    json_t *j = len > 0 ? json_loadb(line, (size_t)len, JSON_ALLOW_NUL, NULL) : NULL;
    assert_true(len <= 0 || j);
    free(line);
    v->n_line += j != NULL;
    return j;
}

static void close_vectors(vectors *v) {
    fclose(v->file);
    ty_tokenizer_destroy(&v->t);
}

static char *unhex(const char *hex, size_t *len) {
    *len = strlen(hex) / 2;
    char *out = malloc(*len + 1);
    assert_non_null(out);
    for (size_t i = 0; i < *len; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        out[i] = (char)byte;
    }
    return out;
}

static void check_ids(vectors *v, const json_t *line, const char *key, ty_tokenize_mode mode,
                      bool bos) {
    const json_t *want = json_object_get(line, key);
    if (!want) return;
    size_t len;
    char *text = unhex(json_string_value(json_object_get(line, "utf8_hex")), &len);
    ty_ids ids = {0};
    ty_err err = {0};
    if (bos) assert_int_equal(ty_ids_push(&ids, ty_tokenizer_bos(v->t)), TY_OK);
    assert_int_equal(ty_tokenizer_encode(v->t, mode, text, len, &ids, &err), TY_OK);
    if ((size_t)ids.n != json_array_size(want))
        fail_msg("line %d %s: %d ids, want %zu", v->n_line, key, ids.n, json_array_size(want));
    for (int i = 0; i < ids.n; i++)
        if (ids.id[i] != json_integer_value(json_array_get(want, (size_t)i)))
            fail_msg("line %d %s: id %d is %d", v->n_line, key, i, ids.id[i]);
    v->n_ids++;
    ty_ids_clear(&ids);
    free(text);
}

static void ids_of(const json_t *line, ty_ids *ids) {
    const json_t *list = json_object_get(line, "ids_spm"), *id;
    size_t i;
    json_array_foreach((json_t *)list, i, id)
        assert_int_equal(ty_ids_push(ids, (int32_t)json_integer_value(id)), TY_OK);
}

static void same_text(const vectors *v, const char *key, const ty_buf *got, const json_t *want) {
    if (got->len != json_string_length(want) ||
        memcmp(got->len ? got->data : "", json_string_value(want), got->len) != 0)
        fail_msg("line %d %s: '%s', want '%s'", v->n_line, key, got->len ? got->data : "",
                 json_string_value(want));
}

/* The slow tokenizer decodes its own ids (specials recognised), the other ways sentencepiece's. */
static const json_t *ids_to_decode(const json_t *line, const char *key) {
    const json_t *slow = json_object_get(line, "ids_hf_slow");
    return strcmp(key, "decode_spm") && slow ? slow : json_object_get(line, "ids_spm");
}

static void check_text(vectors *v, const json_t *line, const char *key, ty_decode_mode mode) {
    const json_t *want = json_object_get(line, key), *id;
    if (!want) return;
    ty_ids ids = {0};
    ty_buf got = ty_buf_make(1 << 20);
    size_t i;
    json_array_foreach((json_t *)ids_to_decode(line, key), i, id)
        assert_int_equal(ty_ids_push(&ids, (int32_t)json_integer_value(id)), TY_OK);
    assert_int_equal(ty_tokenizer_decode(v->t, mode, ids.id, ids.n, &got), TY_OK);
    same_text(v, key, &got, want);
    v->n_text++;
    ty_ids_clear(&ids);
    ty_buf_clear(&got);
}

/* What the stream gives in pieces is what the whole gives, and every piece is whole characters. */
static void check_stream(vectors *v, const json_t *line) {
    ty_ids ids = {0};
    ids_of(line, &ids);
    ty_buf whole = ty_buf_make(1 << 20), parts = ty_buf_make(1 << 20);
    ty_detok *d = NULL;
    assert_int_equal(ty_detok_create(&d, v->t, NULL), TY_OK);
    for (int i = 0; i < ids.n; i++) {
        size_t before = parts.len;
        assert_int_equal(ty_detok_push(d, ids.id[i], &parts), TY_OK);
        if (parts.len > before)
            assert_int_not_equal((unsigned char)parts.data[before] & 0xC0, 0x80);
    }
    assert_int_equal(ty_detok_flush(d, &parts), TY_OK);
    assert_int_equal(ty_tokenizer_decode(v->t, TY_DECODE_HF_SKIP, ids.id, ids.n, &whole), TY_OK);
    assert_int_equal(whole.len, parts.len);
    if (whole.len) assert_memory_equal(whole.data, parts.data, whole.len);
    ty_detok_destroy(&d);
    ty_ids_clear(&ids);
    ty_buf_clear(&whole);
    ty_buf_clear(&parts);
}

static void check_file(const char *model, const char *name, int least) {
    vectors v;
    open_vectors(&v, model, name);
    for (json_t *line; (line = next_line(&v)); json_decref(line)) {
        if (!json_is_true(json_object_get(line, "decode_only"))) {
            check_ids(&v, line, "ids_spm", TY_TOKENIZE_SPM, false);
            check_ids(&v, line, "ids_hf_slow", TY_TOKENIZE_SLOW, false);
            check_ids(&v, line, "ids_hf_slow_bos", TY_TOKENIZE_SLOW, true);
            check_ids(&v, line, "ids_hf_fast", TY_TOKENIZE_FAST, false);
        }
        check_text(&v, line, "decode_spm", TY_DECODE_SPM);
        check_text(&v, line, "decode_hf", TY_DECODE_HF);
        check_text(&v, line, "decode_hf_skip_special", TY_DECODE_HF_SKIP);
        check_stream(&v, line);
    }
    print_message("%s: %d lines, %d id lists, %d texts\n", name, v.n_line, v.n_ids, v.n_text);
    assert_true(v.n_line >= least && v.n_ids >= 2 * least && v.n_text >= 2 * least);
    close_vectors(&v);
}

static void tokenizer_equals_reference_with_llama_vocabulary(void **state) {
    (void)state;
    check_file("tokenizer/tokenizer.model", "tokenizer/tokenizer_vectors.jsonl", 20);
}

static void tokenizer_equals_reference_with_small_vocabulary(void **state) {
    (void)state;
    check_file("tokenizer/tokenizer-small.model", "tokenizer/tokenizer_vectors_small.jsonl", 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokenizer_equals_reference_with_llama_vocabulary),
        cmocka_unit_test(tokenizer_equals_reference_with_small_vocabulary),
    };
    return cmocka_run_group_tests_name("golden tokenizer", tests, NULL, NULL);
}
