/* answer.c: text that is certain, and stop strings.  The byte tokens of the small vocabulary spell any
 * text, one byte a token. */
#include "tests/support/ty_test.h"

#include "services/decoder/answer.h"
#include "tests/support/process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ty_tokenizer *tokenizer;

static int32_t byte_token(unsigned char c) {
    char want[8];
    int n = snprintf(want, sizeof(want), "<0x%02X>", c);
    for (int32_t i = 0; i < ty_tokenizer_size(tokenizer); i++) {
        size_t len;
        const char *p = ty_tokenizer_piece(tokenizer, i, &len);
        if (len == (size_t)n && memcmp(p, want, len) == 0) return i;
    }
    fail_msg("no byte token %s", want);
    return -1;
}

/* Spells `bytes`; `got` collects what came out after each token, '|' between the tokens. */
static void spell(const char *bytes, const ty_sampling *s, char *got, bool *stopped, char *all) {
    answer *a;
    ty_err err = {0};
    assert_int_equal(answer_create(&a, tokenizer, s, &err), TY_OK);
    const char *text;
    size_t len;
    got[0] = '\0';
    for (size_t i = 0; bytes[i] && !answer_stopped(a); i++) {
        assert_int_equal(answer_push(a, byte_token((unsigned char)bytes[i]), &text, &len), TY_OK);
        strncat(got, text, len);
        strcat(got, "|");
    }
    assert_int_equal(answer_finish(a, &text, &len), TY_OK);
    strncat(got, text, len);
    *stopped = answer_stopped(a);
    text = answer_text(a, &len);
    memcpy(all, text, len);
    all[len] = '\0';
    answer_destroy(&a);
}

static ty_sampling with_stops(const char *a, const char *b) {
    ty_sampling s = {0};
    const char *stop[] = {a, b};
    for (int i = 0; i < 2; i++)
        if (stop[i]) snprintf(s.stop[s.n_stop++], TY_STOP_BYTES, "%s", stop[i]);
    return s;
}

static void expect(const char *bytes, const char *stop1, const char *stop2, const char *pieces,
                   const char *whole, bool stops) {
    char got[512], all[512];
    bool stopped;
    ty_sampling s = with_stops(stop1, stop2);
    spell(bytes, &s, got, &stopped, all);
    assert_string_equal(got, pieces);
    assert_string_equal(all, whole);
    assert_int_equal(stopped, stops);
}

static void text_comes_in_whole_characters(void **state) {
    (void)state;
    expect("a\xC3\xA9z", NULL, NULL, "a||\xC3\xA9|z|", "a\xC3\xA9z", false);
}

static void text_ends_before_a_stop_string(void **state) {
    (void)state;
    expect("one END two", "END", NULL, "o|n|e| ||||", "one ", true);
}

static void text_that_could_begin_a_stop_string_waits(void **state) {
    (void)state;
    expect("EENxEN", "END", NULL, "|E||ENx|||EN", "EENxEN", false);
}

static void the_first_of_several_stop_strings_wins(void **state) {
    (void)state;
    expect("abcdef", "def", "bc", "a|||", "a", true);
    expect("abcdef", "cdefg", "e", "a|b|||cd|", "abcd", true);
}

static void a_character_cut_by_the_end_is_replaced(void **state) {
    (void)state;
    expect("a\xC3", NULL, NULL, "a||\xEF\xBF\xBD", "a\xEF\xBF\xBD", false);
}

static void a_nul_is_replaced(void **state) {
    (void)state;
    answer *a;
    const char *text;
    size_t len;
    ty_sampling s = {0};
    assert_int_equal(answer_create(&a, tokenizer, &s, NULL), TY_OK);
    assert_int_equal(answer_push(a, byte_token(0), &text, &len), TY_OK);
    assert_int_equal(len, 3);
    assert_memory_equal(text, "\xEF\xBF\xBD", 3);
    answer_destroy(&a);
}

static int open_tokenizer(void **state) {
    (void)state;
    ty_err err = {0};
    const char *path = test_path("%s/tokenizer/tokenizer-small.model", test_golden_dir());
    return ty_tokenizer_from_spm(&tokenizer, path, &err) == TY_OK ? 0 : -1;
}

static int close_tokenizer(void **state) {
    (void)state;
    ty_tokenizer_destroy(&tokenizer);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_comes_in_whole_characters),
        cmocka_unit_test(text_ends_before_a_stop_string),
        cmocka_unit_test(text_that_could_begin_a_stop_string_waits),
        cmocka_unit_test(the_first_of_several_stop_strings_wins),
        cmocka_unit_test(a_character_cut_by_the_end_is_replaced),
        cmocka_unit_test(a_nul_is_replaced),
    };
    return cmocka_run_group_tests_name("answer", tests, open_tokenizer, close_tokenizer);
}
