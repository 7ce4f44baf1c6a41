/* options.h: a flag beats its variable, a variable beats the default; bad values name themselves. */
#include "tests/support/ty_test.h"

#include "common/base/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    const char *model, *name;
    int threads;
    double temperature;
    bool verbose;
    ty_option_list image;
} opt;

static const ty_option table[] = {
    TY_OPT_STR("model", "TYTO_TEST_MODEL", opt.model, "none", "FILE", "the file"),
    TY_OPT_INT("threads", "TYTO_TEST_THREADS", opt.threads, 3, 0, 16, "how many"),
    TY_OPT_DOUBLE("temperature", NULL, opt.temperature, 0.5, 0, 2, "how hot"),
    TY_OPT_FLAG("verbose", "TYTO_TEST_VERBOSE", opt.verbose, "say more"),
    TY_OPT_LIST_VAR("image", "TYTO_TEST_IMAGES", opt.image, "FILE", "a picture"),
    TY_OPT_NAME("name", "TYTO_TEST_NAME", opt.name, "x.0", "NAME", "who"),
    TY_OPT_END,
};

/* Parses a command line given as a NULL-ended list; stdout and stderr go to /dev/null. */
static ty_options_next parse(char **argv, int *rest) {
    int argc = 0;
    while (argv[argc]) argc++;
    fflush(stdout);
    int out = dup(1), err = dup(2);
    assert_non_null(freopen("/dev/null", "w", stdout));
    assert_non_null(freopen("/dev/null", "w", stderr));
    ty_options_next next = ty_options_parse(table, "test", "about", argc, argv, rest);
    fflush(stdout);
    dup2(out, 1);
    dup2(err, 2);
    close(out);
    close(err);
    return next;
}
#define PARSE(rest, ...) parse((char *[]){(char *)"test", __VA_ARGS__, NULL}, rest)

static int clean(void **state) {
    (void)state;
    unsetenv("TYTO_TEST_MODEL");
    unsetenv("TYTO_TEST_THREADS");
    unsetenv("TYTO_TEST_VERBOSE");
    unsetenv("TYTO_TEST_IMAGES");
    unsetenv("TYTO_TEST_NAME");
    return 0;
}

static void list_is_read_from_its_variable_unless_a_flag_is_given(void **state) {
    (void)state;
    setenv("TYTO_TEST_IMAGES", "a.jpg,b.jpg", 1);
    assert_int_equal(parse((char *[]){(char *)"test", NULL}, NULL), TY_OPTIONS_GO);
    assert_int_equal(opt.image.n, 2);
    assert_string_equal(opt.image.item[0], "a.jpg");
    assert_string_equal(opt.image.item[1], "b.jpg");
    assert_int_equal(
        PARSE(NULL, (char *)"--image", (char *)"c.jpg", (char *)"--image", (char *)"d,e.jpg"),
        TY_OPTIONS_GO);
    assert_int_equal(opt.image.n, 2);
    assert_string_equal(opt.image.item[0], "c.jpg");
    assert_string_equal(opt.image.item[1], "d,e.jpg");
}

static void name_may_hold_the_hosts(void **state) {
    (void)state;
    char host[256] = "", want[300];
    assert_int_equal(gethostname(host, sizeof(host) - 1), 0);
    snprintf(want, sizeof(want), "vit.%s.1", host);
    setenv("TYTO_TEST_NAME", "vit.%h.1", 1);
    assert_int_equal(parse((char *[]){(char *)"test", NULL}, NULL), TY_OPTIONS_GO);
    assert_string_equal(opt.name, want);
    assert_int_equal(PARSE(NULL, (char *)"--name", (char *)"plain"), TY_OPTIONS_GO);
    assert_string_equal(opt.name, "plain");
}

static void options_have_defaults(void **state) {
    (void)state;
    assert_int_equal(parse((char *[]){(char *)"test", NULL}, NULL), TY_OPTIONS_GO);
    assert_string_equal(opt.model, "none");
    assert_int_equal(opt.threads, 3);
    assert_true(opt.temperature > 0.49 && opt.temperature < 0.51);
    assert_false(opt.verbose);
    assert_int_equal(opt.image.n, 0);
    assert_false(ty_options_given(table, "threads"));
}

static void options_flag_beats_variable_beats_default(void **state) {
    (void)state;
    setenv("TYTO_TEST_THREADS", "5", 1);
    setenv("TYTO_TEST_VERBOSE", "1", 1);
    assert_int_equal(PARSE(NULL, (char *)"--model=x"), TY_OPTIONS_GO);
    assert_int_equal(opt.threads, 5);
    assert_true(opt.verbose);
    assert_true(ty_options_given(table, "threads"));
    assert_int_equal(PARSE(NULL, (char *)"--threads", (char *)"7"), TY_OPTIONS_GO);
    assert_int_equal(opt.threads, 7);
}

static void options_collect_lists_and_positions(void **state) {
    (void)state;
    int rest = 0;
    assert_int_equal(
        PARSE(&rest, (char *)"--image", (char *)"a", (char *)"pos", (char *)"--image=b"),
        TY_OPTIONS_GO);
    assert_int_equal(opt.image.n, 2);
    assert_string_equal(opt.image.item[0], "a");
    assert_string_equal(opt.image.item[1], "b");
    assert_int_equal(rest, 4);
}

static void options_refuse_what_is_wrong(void **state) {
    (void)state;
    assert_int_equal(PARSE(NULL, (char *)"--nonsense"), TY_OPTIONS_USAGE);
    assert_int_equal(PARSE(NULL, (char *)"--threads", (char *)"x"), TY_OPTIONS_USAGE);
    assert_int_equal(PARSE(NULL, (char *)"--threads", (char *)"1.5"), TY_OPTIONS_USAGE);
    assert_int_equal(PARSE(NULL, (char *)"--threads", (char *)"17"), TY_OPTIONS_USAGE);
    assert_int_equal(PARSE(NULL, (char *)"--temperature", (char *)"nan"), TY_OPTIONS_USAGE);
    assert_int_equal(PARSE(NULL, (char *)"--model"), TY_OPTIONS_USAGE);
    assert_int_equal(PARSE(NULL, (char *)"extra"), TY_OPTIONS_USAGE);
    setenv("TYTO_TEST_THREADS", "many", 1);
    assert_int_equal(PARSE(NULL, (char *)"--verbose"), TY_OPTIONS_USAGE);
}

static void options_help_and_version_are_done(void **state) {
    (void)state;
    assert_int_equal(PARSE(NULL, (char *)"--help"), TY_OPTIONS_DONE);
    assert_int_equal(PARSE(NULL, (char *)"--version"), TY_OPTIONS_DONE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(list_is_read_from_its_variable_unless_a_flag_is_given, clean),
        cmocka_unit_test_setup(name_may_hold_the_hosts, clean),
        cmocka_unit_test_setup(options_have_defaults, clean),
        cmocka_unit_test_setup(options_flag_beats_variable_beats_default, clean),
        cmocka_unit_test_setup(options_collect_lists_and_positions, clean),
        cmocka_unit_test_setup(options_refuse_what_is_wrong, clean),
        cmocka_unit_test_setup(options_help_and_version_are_done, clean),
    };
    return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
