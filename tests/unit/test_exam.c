/* test_exam.c - reading an exam, marking answers, sums and confusions. */
#include "eval/exam.h"
#include "eval/exam_page.h"

#include "common/base/file.h"
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include <stdlib.h>
#include <string.h>

static bool right(const char *answer, const char *expect) {
    json_t *e = json_loads(expect, 0, NULL);
    assert_non_null(e);
    bool r = exam_is_right(answer, e);
    json_decref(e);
    return r;
}

static void words_are_found_where_they_stand_alone(void **state) {
    (void)state;
    assert_true(right("It is Red.", "[[\"red\"]]"));
    assert_false(right("It is shredded.", "[[\"red\"]]"));
    assert_true(right("The total is 4.", "[[\"4\"]]"));
    assert_false(right("The total is 14.", "[[\"4\"]]"));
    assert_false(right("The total is 40.", "[[\"4\"]]"));
    assert_true(right("星星是红色的。", "[[\"红色\"]]"));
    assert_true(right("星3つです。", "[[\"3\",\"三\"]]"));
    assert_true(right("Vierzehn, nicht vier.", "[[\"4\",\"vier\"]]"));
}

static void every_list_wants_a_word(void **state) {
    (void)state;
    const char *expect = "[[\"two\",\"2\"],[\"red\"],[\"star\",\"stars\"]]";
    assert_true(right("The picture shows two red stars.", expect));
    assert_true(right("2 stars, red", expect));
    assert_false(right("The picture shows two blue stars.", expect));
    assert_false(right("", expect));
}

static const char *write_exam(const char *text) {
    const char *path = test_path("%s/exam.jsonl", test_temp_dir());
    assert_int_equal(ty_file_write_atomic(path, text, strlen(text), NULL), TY_OK);
    return path;
}

static const char EXAM[] =
    "{\"id\":\"0\",\"ability\":\"colour\",\"language\":\"en\",\"image\":[],\"turns\":[{"
    "\"question\":\"Which?\"}],\"expect\":[[\"red\"]],\"guess\":0.5}\n"
    "{\"id\":\"1\",\"ability\":\"colour\",\"language\":\"en\",\"image\":[],\"turns\":[{"
    "\"question\":\"<b>?\"}],\"expect\":[[\"blue\"]],\"guess\":0.5}\n"
    "\n"
    "{\"id\":\"2\",\"ability\":\"count\",\"language\":\"de\",\"image\":[],\"turns\":[{\"question\":"
    "\"Wie viele?\"}],\"expect\":[[\"2\",\"zwei\"]],\"guess\":0.25}\n";

static void sums_are_kept_by_ability_and_language(void **state) {
    (void)state;
    exam e;
    ty_err err = {0};
    assert_int_equal(exam_read(&e, write_exam(EXAM), &err), TY_OK);
    assert_int_equal(json_array_size(e.questions), 3);
    assert_int_equal(exam_mark(&e, 0, "It is blue.", &err), TY_OK);
    assert_int_equal(exam_mark(&e, 1, "It is blue.", &err), TY_OK);
    assert_int_equal(exam_mark(&e, 2, "Es sind zwei.", &err), TY_OK);
    json_t *sum = exam_sum(&e);
    const char *ability, *language, *expected, *answered;
    int asked, correct, n, all;
    double share, guess;
    json_t *list;
    assert_int_equal(json_unpack(sum,
                                 "{s:i, s:{s:{s:i, s:i, s:f, s:f, s:{s:{}}}, s:{s:{s:{}}}}, s:o}",
                                 "asked", &all, "abilities", "colour", "asked", &asked, "right",
                                 &correct, "share", &share, "guess", &guess, "languages", "en",
                                 "count", "languages", "de", "confusions", &list),
                     0);
    assert_int_equal(all, 3);
    assert_int_equal(asked, 2);
    assert_int_equal(correct, 1);
    assert_true(share == 0.5 && guess == 0.5);
    assert_int_equal(json_array_size(list), 1);
    assert_int_equal(json_unpack(json_array_get(list, 0), "{s:s, s:s, s:s, s:s, s:i}", "ability",
                                 &ability, "language", &language, "expected", &expected, "answered",
                                 &answered, "n", &n),
                     0);
    assert_string_equal(expected, "red");
    assert_string_equal(answered, "blue");
    assert_int_equal(n, 1);
    const char *page = test_path("%s/page.html", test_temp_dir());
    char *html = NULL;
    size_t size = 0;
    assert_int_equal(exam_page_write(&e, sum, "a < b", page, &err), TY_OK);
    assert_int_equal(ty_file_read(page, 1 << 20, &html, &size, &err), TY_OK);
    assert_non_null(strstr(html, "a &lt; b"));
    assert_non_null(strstr(html, "&lt;b&gt;?"));
    assert_null(strstr(html, "<b>"));
    free(html);
    json_decref(sum);
    exam_clear(&e);
}

static void a_broken_line_is_named(void **state) {
    (void)state;
    exam e;
    ty_err err = {0};
    assert_int_equal(exam_read(&e, write_exam("{\"id\":\"0\"}\n"), &err), TY_EFORMAT);
    assert_non_null(strstr(err.text, "line 1"));
    assert_int_equal(exam_read(&e, write_exam("\nnonsense\n"), &err), TY_EFORMAT);
    assert_non_null(strstr(err.text, "line 2"));
    assert_int_equal(exam_read(&e, write_exam("\n"), &err), TY_EFORMAT);
    assert_int_equal(exam_read(&e, "/nonexistent/exam.jsonl", &err), TY_ENOTFOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_found_where_they_stand_alone),
        cmocka_unit_test(every_list_wants_a_word),
        cmocka_unit_test(sums_are_kept_by_ability_and_language),
        cmocka_unit_test(a_broken_line_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
