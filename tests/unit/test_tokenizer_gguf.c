/* tokenizer_gguf.c: a vocabulary goes through a GGUF file unchanged; files that do not fit are refused. */
#include "tests/support/ty_test.h"

#include "common/model/tokenizer_impl.h"
#include "tests/support/process.h"

#include <stdlib.h>
#include <string.h>

enum { N = 5 };

/* What a file says; the defaults make a good one. */
typedef struct {
    const char *model, *mode;
    int64_t n_score;
    int type_of_last, eos;
    bool remove_spaces;
} says;
static const says good = {"llama", "fast", N, TY_PIECE_NORMAL, 2, false};

static const char *const piece[N] = {"<unk>", "<s>", "</s>", "a\0b", "\xE2\x96\x81"};
static const size_t piece_len[N] = {5, 3, 4, 3, 3};

static const char *write_file(const says *f) {
    const char *path = test_path("%s/t.gguf", test_temp_dir());
    const float score[N] = {0, 0, 0, -1.5f, -2};
    const int32_t type[N] = {TY_PIECE_UNKNOWN, TY_PIECE_CONTROL, TY_PIECE_CONTROL, TY_PIECE_NORMAL,
                             f->type_of_last};
    ty_gguf_writer *w = NULL;
    ty_err err = {0};
    ty_status st = ty_gguf_writer_create(&w, path, "llama", &err);
    if (st == TY_OK)
        st = ty_gguf_set_str(w, "tokenizer.ggml.model", f->model, strlen(f->model), &err);
    if (st == TY_OK) st = ty_gguf_set_strs(w, "tokenizer.ggml.tokens", piece, piece_len, N, &err);
    if (st == TY_OK) st = ty_gguf_set_f32s(w, "tokenizer.ggml.scores", score, f->n_score, &err);
    if (st == TY_OK) st = ty_gguf_set_i32s(w, "tokenizer.ggml.token_type", type, N, &err);
    if (st == TY_OK) st = ty_gguf_set_u32(w, "tokenizer.ggml.eos_token_id", (uint32_t)f->eos, &err);
    if (st == TY_OK)
        st = ty_gguf_set_bool(w, "tokenizer.ggml.remove_extra_whitespaces", f->remove_spaces, &err);
    if (st == TY_OK && f->mode)
        st = ty_gguf_set_str(w, "tyto.tokenizer.mode", f->mode, strlen(f->mode), &err);
    if (st == TY_OK) st = ty_gguf_finish(w, &err);
    if (st != TY_OK) fail_msg("%s", err.text);
    ty_gguf_writer_destroy(&w);
    return path;
}

static ty_status load(const says *f, ty_tokenizer **t, ty_err *err) {
    ty_gguf *g = NULL;
    if (ty_gguf_open(&g, write_file(f), err) != TY_OK) fail_msg("%s", err->text);
    ty_status st = ty_tokenizer_from_gguf(t, g, err);
    ty_gguf_close(&g);
    return st;
}

static void vocabulary_comes_back_from_a_file(void **state) {
    (void)state;
    ty_tokenizer *t = NULL;
    ty_err err = {0};
    if (load(&good, &t, &err) != TY_OK) fail_msg("%s", err.text);
    assert_int_equal(ty_tokenizer_size(t), N);
    for (int i = 0; i < N; i++) {
        size_t len;
        const char *text = ty_tokenizer_piece(t, i, &len); /* outlives the file */
        assert_int_equal(len, piece_len[i]);
        assert_memory_equal(text, piece[i], len);
    }
    assert_true(ty_tokenizer_score(t, 3) == -1.5f);
    assert_int_equal(ty_tokenizer_type(t, 1), TY_PIECE_CONTROL);
    assert_int_equal(ty_tokenizer_bos(t), 1);
    assert_int_equal(ty_tokenizer_eos(t), 2);
    assert_int_equal(ty_tokenizer_default_mode(t), TY_TOKENIZE_FAST);
    ty_tokenizer_destroy(&t);
    says plain = good;
    plain.mode = NULL;
    assert_int_equal(load(&plain, &t, &err), TY_OK);
    assert_int_equal(ty_tokenizer_default_mode(t), TY_TOKENIZE_SPM);
    ty_tokenizer_destroy(&t);
}

static void refuses(says f, ty_status want, const char *word) {
    ty_tokenizer *t = NULL;
    ty_err err = {0};
    assert_int_equal(load(&f, &t, &err), want);
    assert_null(t);
    if (!strstr(err.text, word) || !strstr(err.text, "t.gguf"))
        fail_msg("'%s' does not name %s", err.text, word);
}

static void files_that_do_not_fit_are_refused(void **state) {
    (void)state;
    says f = good;
    f.model = "wordpiece";
    refuses(f, TY_EUNSUPPORTED, "wordpiece");
    f.model = "gpt2";
    refuses(f, TY_EUNSUPPORTED, "bloom");
    f = good;
    f.mode = "quick";
    refuses(f, TY_EFORMAT, "quick");
    f = good;
    f.n_score = N - 1;
    refuses(f, TY_EFORMAT, "scores");
    f = good;
    f.type_of_last = 9;
    refuses(f, TY_EFORMAT, "type 9");
    f = good;
    f.eos = N;
    refuses(f, TY_EFORMAT, "eos");
    f = good;
    f.remove_spaces = true;
    refuses(f, TY_EUNSUPPORTED, "remove_extra_whitespaces");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vocabulary_comes_back_from_a_file),
        cmocka_unit_test(files_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests_name("tokenizer gguf", tests, NULL, NULL);
}
