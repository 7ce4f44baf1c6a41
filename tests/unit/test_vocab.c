/* vocab.h: the vocabulary of a tokenizer file, and one made up. */
#include "tests/support/ty_test.h"

#include "common/model/tokenizer.h"
#include "orchestration/vocab.h"
#include "tests/support/process.h"

#include <stdlib.h>
#include <string.h>

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void made_up_words_are_all_different(void **state) {
    (void)state;
    vocab v;
    const int sizes[] = {360, 640, 32000};
    for (int s = 0; s < 3; s++) {
        assert_int_equal(vocab_made_up(&v, sizes[s], NULL), TY_OK);
        assert_string_equal(v.text[0], "<unk>");
        assert_string_equal(v.text[3 + 0x0a], "<0x0A>");
        assert_false(vocab_is_text(&v, v.eos));
        assert_false(vocab_is_text(&v, 3));
        assert_true(vocab_is_text(&v, v.n - 1));
        qsort(v.text, (size_t)v.n, sizeof(*v.text), by_text);
        for (int i = 1; i < v.n; i++) assert_string_not_equal(v.text[i - 1], v.text[i]);
        vocab_clear(&v);
    }
    assert_int_equal(vocab_made_up(&v, 100, NULL), TY_EINVAL);
    vocab_clear(&v);
}

static void made_up_vocabulary_tokenizes_any_bytes(void **state) {
    (void)state;
    vocab v;
    ty_gguf_writer *w = NULL;
    ty_gguf *g = NULL;
    ty_tokenizer *t = NULL;
    ty_ids ids = {0};
    ty_buf text = ty_buf_make(1000);
    const char *path = test_path("%s/v.gguf", test_temp_dir());
    assert_int_equal(vocab_made_up(&v, 640, NULL), TY_OK);
    v.mode = "fast";
    assert_int_equal(ty_gguf_writer_create(&w, path, "llama", NULL), TY_OK);
    assert_int_equal(vocab_set(w, &v, NULL), TY_OK);
    assert_int_equal(ty_gguf_finish(w, NULL), TY_OK);
    assert_int_equal(ty_gguf_open(&g, path, NULL), TY_OK);
    assert_int_equal(ty_tokenizer_from_gguf(&t, g, NULL), TY_OK);
    assert_int_equal(ty_tokenizer_default_mode(t), TY_TOKENIZE_FAST);
    assert_int_equal(ty_tokenizer_eos(t), 2);
    const char *in = "Hi, \xc3\xa9 2\n";
    assert_int_equal(ty_tokenizer_encode(t, TY_TOKENIZE_FAST, in, strlen(in), &ids, NULL), TY_OK);
    for (int i = 0; i < ids.n; i++)
        assert_int_equal(ty_tokenizer_decode_one(t, ids.id[i], false, &text), TY_OK);
    assert_string_equal(text.data, " Hi, \xc3\xa9 2\n");
    ty_buf_clear(&text);
    ty_ids_clear(&ids);
    ty_tokenizer_destroy(&t);
    ty_gguf_close(&g);
    ty_gguf_writer_destroy(&w);
    vocab_clear(&v);
}

static void vocab_of_a_model_pads_to_the_embedding(void **state) {
    (void)state;
    vocab v;
    ty_err err = {0};
    const char *path = test_path("%s/v1-micro/tokenizer.model", test_golden_dir());
    assert_int_equal(vocab_from_spm(&v, path, 642, NULL), TY_OK);
    assert_string_equal(v.text[0], "<unk>");
    assert_string_equal(v.text[641], "[PAD641]");
    assert_int_equal(v.type[641], 5);
    assert_int_equal(v.bos, 1);
    assert_int_equal(vocab_rename(&v, 640, "<image>", NULL), TY_OK);
    assert_string_equal(v.text[640], "<image>");
    assert_int_equal(v.type[640], 4);
    assert_int_equal(vocab_rename(&v, 642, "<x>", &err), TY_ESHAPE);
    vocab_clear(&v);
    assert_int_equal(vocab_from_spm(&v, path, 639, &err), TY_ESHAPE);
    assert_non_null(strstr(err.text, "640 pieces"));
    vocab_clear(&v);
    assert_int_equal(vocab_from_spm(&v, "/nonexistent", 640, &err), TY_ENOTFOUND);
    vocab_clear(&v);
}

static const char tiny_json[] =
    "{\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":"
    "\"Split\",\"pattern\":{\"Regex\":\" "
    "?[^(\\\\s|[.,!?…。，、।۔،])]+\"},\"behavior\":\"Isolated\","
    "\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},"
    "\"added_tokens\":[{\"id\":0,\"content\":\"</"
    "s>\",\"special\":true},{\"id\":4,\"content\":\"owl\","
    "\"special\":false}],\"model\":{\"type\":\"BPE\",\"dropout\":null,\"vocab\":{\"a\":1,\"b\":2,"
    "\"ab\":3},"
    "\"merges\":[\"a b\",[\"b\",\"a\"]]}}";

static void byte_level_vocabulary_is_read_from_json(void **state) {
    (void)state;
    vocab v;
    json_t *root = json_loads(tiny_json, 0, NULL);
    assert_non_null(root);
    assert_int_equal(vocab_from_json(&v, root, 6, NULL), TY_OK);
    assert_string_equal(v.pre, "bloom");
    assert_int_equal(v.n_merge, 2);
    assert_string_equal(v.merge[0], "a b"); /* older files */
    assert_string_equal(v.merge[1], "b a"); /* newer ones */
    assert_int_equal(v.eos, 0);
    assert_int_equal(v.bos, -1);
    assert_int_equal(v.type[0], 3);
    assert_int_equal(v.type[1], 1);
    assert_int_equal(v.type[4], 4);
    assert_string_equal(v.text[5], "[PAD5]");
    vocab_clear(&v);
    json_decref(root);
}

static void byte_level_vocabularies_of_others_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *says;
    } wrong[] = {{"Isolated", "Removed ", "pattern"},
                 {" ?[^", " *[^", "pattern"},
                 {"\"BPE\"", "\"WPE\"", "WPE"},
                 {"\"dropout\":null", "\"dropout\":0.10", "dropout"},
                 {"ByteLevel", "Metaspace", "Sequence"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        vocab v;
        ty_err err = {0};
        char *text = strdup(tiny_json), *at = strstr(text, wrong[i].from);
        assert_non_null(at);
        char *tail = strdup(at + strlen(wrong[i].from));
        size_t n = strlen(wrong[i].to);
        text = realloc(text, sizeof tiny_json + n);
        at = strstr(text, wrong[i].from);
        memcpy(at, wrong[i].to, n);
        strcpy(at + n, tail);
        json_t *root = json_loads(text, 0, NULL);
        assert_non_null(root);
        assert_int_equal(vocab_from_json(&v, root, 6, &err), TY_EUNSUPPORTED);
        if (!strstr(err.text, wrong[i].says)) fail_msg("%s", err.text);
        vocab_clear(&v);
        json_decref(root);
        free(tail);
        free(text);
    }
    vocab v;
    json_t *root = json_loads(tiny_json, 0, NULL);
    assert_int_equal(vocab_from_json(&v, root, 4, NULL), TY_ESHAPE); /* id 4 has no row */
    vocab_clear(&v);
    json_decref(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(made_up_words_are_all_different),
        cmocka_unit_test(made_up_vocabulary_tokenizes_any_bytes),
        cmocka_unit_test(vocab_of_a_model_pads_to_the_embedding),
        cmocka_unit_test(byte_level_vocabulary_is_read_from_json),
        cmocka_unit_test(byte_level_vocabularies_of_others_are_refused),
    };
    return cmocka_run_group_tests_name("vocab", tests, NULL, NULL);
}
