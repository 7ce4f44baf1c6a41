/*
 * tokenizer.h on a vocabulary made here, where each rule can be seen: order of merges, byte fallback,
 * user-defined pieces, white space beside special pieces, files that are refused; and utf8.h beneath it.
 * The reference's vectors: tests/golden/test_tokenizer.c.
 */
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "common/base/utf8.h"
#include "common/model/tokenizer_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SP "\xE2\x96\x81"

enum { N = 1, UNK = 2, CTL = 3, USR = 4, BYTE = 6 };
static const struct {
    const char *text;
    double score;
    int type;
} pieces[] = {
    {"<unk>", 0, UNK}, {"<s>", 0, CTL},   {"</s>", 0, CTL}, {SP, -9, N},        {"a", -8, N},
    {"b", -8, N},      {"ab", -2, N},     {"ba", -1, N},    {"aba", -3, N},     {SP SP, -5, N},
    {SP SP SP, -5, N}, {"[USR]", 0, USR}, {SP "a", -4, N},  {"[USR]a", 0, USR},
};
enum { N_PIECE = sizeof pieces / sizeof *pieces };

/* With all byte pieces, or without one. */
static ty_tokenizer *small(bool bytes) {
    ty_tokenizer *t = NULL;
    assert_int_equal(ty_tokenizer_start(&t, NULL), TY_OK);
    for (size_t i = 0; i < N_PIECE; i++)
        assert_int_equal(ty_tokenizer_add(t, pieces[i].text, strlen(pieces[i].text),
                                          pieces[i].score, pieces[i].type, NULL),
                         TY_OK);
    for (int i = 0; i < 256 && bytes; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", i);
        assert_int_equal(ty_tokenizer_add(t, name, 6, 0, BYTE, NULL), TY_OK);
    }
    t->unk = 0;
    t->bos = 1;
    t->eos = 2;
    assert_int_equal(ty_tokenizer_finish(t, NULL), TY_OK);
    return t;
}

static void ids_are(const ty_tokenizer *t, ty_tokenize_mode mode, const char *text, size_t len,
                    int n, const int32_t *want) {
    ty_ids ids = {0};
    assert_int_equal(ty_tokenizer_encode(t, mode, text, len, &ids, NULL), TY_OK);
    for (int i = 0; i < ids.n || i < n; i++)
        if (i >= ids.n || i >= n || ids.id[i] != want[i])
            fail_msg("'%s': id %d is %d, want %d (%d ids, want %d)", text, i,
                     i < ids.n ? ids.id[i] : -1, i < n ? want[i] : -1, ids.n, n);
    ty_ids_clear(&ids);
}
#define IDS(t, mode, text, ...)                                                                    \
    ids_are(t, mode, text, sizeof(text) - 1, sizeof((int32_t[]){__VA_ARGS__}) / 4,                 \
            (int32_t[]){__VA_ARGS__})

static int32_t byte(int b) {
    return N_PIECE + b;
}

static void merges_go_by_score(void **state) {
    (void)state;
    ty_tokenizer *t = small(true);
    IDS(t, TY_TOKENIZE_SPM, "b", 3, 5);
    /* "ba" (-1) goes before "ab" and "_a", then "aba" (-3) before "_a" (-4) */
    IDS(t, TY_TOKENIZE_SPM, "aba", 3, 8);
    IDS(t, TY_TOKENIZE_SPM, "bab", 3, 7, 5);
    ty_tokenizer_destroy(&t);
}

/* Both pieces of spaces score -5: sentencepiece merges the leftmost pair, and then 2 + 2; ranks take all
 * pairs "__" first as well, but then the tie between 3 = 2 + 1 and 1 + 2 goes by the ids. */
static void ties_go_by_position_or_rank(void **state) {
    (void)state;
    ty_tokenizer *t = small(true);
    IDS(t, TY_TOKENIZE_SPM, "  ", 10);
    IDS(t, TY_TOKENIZE_FAST, "  ", 10);
    IDS(t, TY_TOKENIZE_SPM, "    ", 10, 9);
    IDS(t, TY_TOKENIZE_FAST, "    ", 9, 10);
    ty_tokenizer_destroy(&t);
}

/* The memory that a row of spaces takes has a bound; it is refused, not merged piece by piece. */
static void endless_rows_are_refused(void **state) {
    (void)state;
    enum { ROW = 1 << 20 };
    ty_tokenizer *t = small(true);
    ty_ids ids = {0};
    ty_err err = {0};
    char *text = malloc(ROW);
    assert_non_null(text);
    memset(text, ' ', ROW);
    assert_int_equal(ty_tokenizer_encode(t, TY_TOKENIZE_SPM, text, ROW - 1, &ids, &err), TY_OK);
    assert_int_equal(ids.n, (ROW + 2) / 3); /* the longest piece has three, the prefix is one */
    ids.n = 0;
    assert_int_equal(ty_tokenizer_encode(t, TY_TOKENIZE_SPM, text, ROW, &ids, &err), TY_ELIMIT);
    assert_non_null(strstr(err.text, "1048576"));
    ty_ids_clear(&ids);
    free(text);
    ty_tokenizer_destroy(&t);
}

static void unknown_characters_become_bytes(void **state) {
    (void)state;
    ty_tokenizer *t = small(true);
    IDS(t, TY_TOKENIZE_SPM, "\xC3\xA9", 3, byte(0xC3), byte(0xA9));
    IDS(t, TY_TOKENIZE_SPM, "\0\n", 3, byte(0), byte('\n'));
    /* each malformed byte is U+FFFD, three bytes */
    IDS(t, TY_TOKENIZE_SPM, "\xE2\x96", 3, byte(0xEF), byte(0xBF), byte(0xBD), byte(0xEF),
        byte(0xBF), byte(0xBD));
    ty_tokenizer_destroy(&t);
    t = small(false);
    IDS(t, TY_TOKENIZE_SPM, "a\xC3\xA9q", 12, 0); /* a run is one unk */
    ty_tokenizer_destroy(&t);
}

static void user_pieces_are_found_first_and_whole(void **state) {
    (void)state;
    ty_tokenizer *t = small(true);
    IDS(t, TY_TOKENIZE_SPM, "[USR]", 3, 11);
    IDS(t, TY_TOKENIZE_SPM, "b[USR]ab", 3, 5, 13, 5); /* the longest one */
    ty_tokenizer_destroy(&t);
}

static void special_pieces_are_found_by_mode(void **state) {
    (void)state;
    ty_tokenizer *t = small(true);
    IDS(t, TY_TOKENIZE_SLOW, "b </s>\xE3\x80\x80\n b", 3, 5, 2, 3, 5); /* U+3000 is white space */
    IDS(t, TY_TOKENIZE_SLOW, " <s> ", 1);
    IDS(t, TY_TOKENIZE_FAST, "b </s> b", 3, 5, 3, 2, 9, 5);
    IDS(t, TY_TOKENIZE_FAST, "<s></s>", 1, 2);
    IDS(t, TY_TOKENIZE_SPM, "<s>", 3, byte('<'), byte('s'), byte('>'));
    ty_tokenizer_destroy(&t);
}

static void nothing_gives_nothing(void **state) {
    (void)state;
    ty_tokenizer *t = small(true);
    for (int mode = 0; mode < 3; mode++) ids_are(t, (ty_tokenize_mode)mode, "", 0, 0, NULL);
    ty_tokenizer_destroy(&t);
}

static void stream_holds_back_half_a_character(void **state) {
    (void)state;
    ty_tokenizer *t = small(true);
    ty_detok *d = NULL;
    ty_buf out = ty_buf_make(100);
    assert_int_equal(ty_detok_create(&d, t, NULL), TY_OK);
    ty_detok_push(d, 12, &out); /* "_a": the prefix's space goes */
    assert_string_equal(out.data, "a");
    ty_detok_push(d, byte(0xC3), &out);
    assert_int_equal(out.len, 1);
    ty_detok_push(d, 2, &out); /* a special piece does not come between */
    ty_detok_push(d, byte(0xA9), &out);
    assert_string_equal(out.data, "a\xC3\xA9");
    ty_detok_push(d, byte(0xF0), &out);
    ty_detok_push(d, 12, &out);
    assert_string_equal(out.data, "a\xC3\xA9\xEF\xBF\xBD a");
    ty_detok_push(d, byte(0xE2), &out);
    ty_detok_push(d, byte(0x96), &out);
    ty_buf_reset(&out);
    ty_detok_flush(d, &out);
    assert_string_equal(out.data, "\xEF\xBF\xBD\xEF\xBF\xBD");
    ty_buf_clear(&out);
    ty_detok_destroy(&d);
    ty_tokenizer_destroy(&t);
}

static void one_id_is_its_bytes(void **state) {
    (void)state;
    ty_tokenizer *t = small(true);
    ty_buf out = ty_buf_make(100);
    ty_tokenizer_decode_one(t, 12, true, &out);
    ty_tokenizer_decode_one(t, byte(0xC3), true, &out);
    ty_tokenizer_decode_one(t, 2, true, &out);
    ty_tokenizer_decode_one(t, 2, false, &out);
    ty_tokenizer_decode_one(t, 99999, false, &out);
    assert_string_equal(out.data, " a\xC3</s>");
    ty_buf_clear(&out);
    ty_tokenizer_destroy(&t);
}

static void bad_pieces_are_refused(void **state) {
    (void)state;
    ty_err err = {0};
    ty_tokenizer *t = NULL;
    assert_int_equal(ty_tokenizer_start(&t, NULL), TY_OK);
    assert_int_equal(ty_tokenizer_add(t, "a", 1, 0, 7, &err), TY_EFORMAT);
    assert_int_equal(ty_tokenizer_add(t, "a", 1, (double)NAN, 1, &err), TY_EFORMAT);
    assert_int_equal(ty_tokenizer_finish(t, &err), TY_EFORMAT); /* empty */
    assert_int_equal(ty_tokenizer_add(t, "<0xG1>", 6, 0, BYTE, &err), TY_OK);
    assert_int_equal(ty_tokenizer_finish(t, &err), TY_EFORMAT);
    ty_tokenizer_destroy(&t);
    assert_int_equal(ty_tokenizer_start(&t, NULL), TY_OK);
    assert_int_equal(ty_tokenizer_add(t, "a", 1, 0, 1, &err), TY_OK);
    t->eos = 5;
    assert_int_equal(ty_tokenizer_finish(t, &err), TY_EFORMAT);
    ty_tokenizer_destroy(&t);
}

static void refuses_file(const char *bytes, size_t len, ty_status want) {
    char path[] = "/tmp/tyto-test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len), (ssize_t)len);
    close(fd);
    ty_tokenizer *t = NULL;
    ty_err err = {0};
    assert_int_equal(ty_tokenizer_from_spm(&t, path, &err), want);
    assert_null(t);
    assert_non_null(strstr(err.text, path));
    unlink(path);
}

static void broken_model_files_are_refused(void **state) {
    (void)state;
    ty_err err = {0};
    ty_tokenizer *t = NULL;
    assert_int_equal(ty_tokenizer_from_spm(&t, "/nonexistent", &err), TY_ENOTFOUND);
    refuses_file("", 0, TY_EFORMAT);
    refuses_file("\xFF\xFF garbage", 10, TY_EFORMAT);
    refuses_file("\x0A\x03\x0A\x01"
                 "a",
                 5, TY_EUNSUPPORTED); /* one piece, no trainer: unigram */
    char *data = NULL;
    size_t size;
    assert_int_equal(
        ty_file_read("tests/golden/tokenizer/tokenizer-small.model", 1 << 20, &data, &size, &err),
        TY_OK);
    for (size_t cut = 1; cut < size; cut += 1 + size / 40) {
        char path[] = "/tmp/tyto-test-XXXXXX";
        int fd = mkstemp(path);
        assert_true(fd >= 0 && write(fd, data, cut) == (ssize_t)cut);
        close(fd);
        assert_int_not_equal(ty_tokenizer_from_spm(&t, path, &err), TY_OK);
        unlink(path);
    }
    free(data);
}

static void utf8_takes_whole_characters_only(void **state) {
    (void)state;
    const struct {
        const char *text;
        size_t n;
        uint32_t code;
        bool cut;
    } cases[] = {
        {"a", 1, 'a', false},
        {"\xC3\xA9", 2, 0xE9, false},
        {"\xE2\x82\xAC", 3, 0x20AC, false},
        {"\xF4\x8F\xBF\xBF", 4, 0x10FFFF, false},
        {"\xC0\x80", 0, 0, false},         /* overlong */
        {"\xE0\x80\x80", 0, 0, false},     /* overlong */
        {"\xED\xA0\x80", 0, 0, false},     /* surrogate */
        {"\xF4\x90\x80\x80", 0, 0, false}, /* above the last */
        {"\x80", 0, 0, false},
        {"\xE2\x82", 0, 0, true},
        {"\xF0\x9F\xA6", 0, 0, true},
        {"\xE0\x80", 0, 0, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t code = 0;
        size_t len = strlen(cases[i].text);
        assert_int_equal(ty_utf8_decode(cases[i].text, len, &code), cases[i].n);
        assert_int_equal(code, cases[i].code);
        assert_int_equal(ty_utf8_is_cut(cases[i].text, len), cases[i].cut);
        assert_int_equal(ty_utf8_is_valid(cases[i].text, len), cases[i].n == len);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_go_by_score),
        cmocka_unit_test(ties_go_by_position_or_rank),
        cmocka_unit_test(endless_rows_are_refused),
        cmocka_unit_test(unknown_characters_become_bytes),
        cmocka_unit_test(user_pieces_are_found_first_and_whole),
        cmocka_unit_test(special_pieces_are_found_by_mode),
        cmocka_unit_test(nothing_gives_nothing),
        cmocka_unit_test(stream_holds_back_half_a_character),
        cmocka_unit_test(one_id_is_its_bytes),
        cmocka_unit_test(bad_pieces_are_refused),
        cmocka_unit_test(broken_model_files_are_refused),
        cmocka_unit_test(utf8_takes_whole_characters_only),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
