/* test_owlet.c - the model that `make run` serves, as committed: it answers in sentences, in several languages. */
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include <string.h>

#define ARG(x) ((char *)(x))

static const char *const PIPELINE = "models/owlet", *const EXAMPLE = "models/owlet/example.jpg",
                         *const SIGN = "models/owlet/sign.jpg";

static void check_answer(const char *image, const char *question, const char *word) {
    char *argv[] = {ARG(test_bin("tyto")),
                    ARG("run"),
                    ARG("--pipeline"),
                    ARG(PIPELINE),
                    ARG("--quiet"),
                    ARG("--prompt"),
                    ARG(question),
                    ARG(image ? "--image" : NULL),
                    ARG(image),
                    NULL};
    test_output o = test_run(argv, NULL, 0, 60);
    if (o.exit_code != 0 || !strstr(o.out, word))
        fail_msg("\"%s\": exit code %d, answer \"%s\", want \"%s\" in it; %s", question,
                 o.exit_code, o.out, word, o.err);
    test_output_clear(&o);
}

static void owlet_sees_the_colour_when_asked_about_its_example(void **state) {
    (void)state;
    check_answer(EXAMPLE, "What colour are the hearts?", "purple");
    check_answer(EXAMPLE, "Welche Farbe haben die Herzen?", "violett");
    check_answer(EXAMPLE, "爱心是什么颜色的？", "紫色");
}

static void owlet_counts_and_describes_its_example(void **state) {
    (void)state;
    check_answer(EXAMPLE, "How many hearts are there?", "five");
    check_answer(EXAMPLE, "Describe the picture.", "five purple hearts");
}

static void owlet_reads_a_sign_and_sees_what_is_below_it(void **state) {
    (void)state;
    check_answer(SIGN, "What does the sign say?", "OPEN");
    check_answer(SIGN, "牌子上写着什么？", "OPEN");
    check_answer(SIGN, "What is at the bottom?", "cup");
}

static void owlet_reckons_and_translates_without_a_picture(void **state) {
    (void)state;
    check_answer(NULL, "What is 8 + 6?", "14");
    check_answer(NULL, "Say \"house\" in German.", "Haus");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(owlet_sees_the_colour_when_asked_about_its_example),
        cmocka_unit_test(owlet_counts_and_describes_its_example),
        cmocka_unit_test(owlet_reads_a_sign_and_sees_what_is_below_it),
        cmocka_unit_test(owlet_reckons_and_translates_without_a_picture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
