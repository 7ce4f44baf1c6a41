/*
 * test_deploy.c - what takes Tyto to other machines: `make install`, the units, the images, and that docs/operating.md
 * knows every variable and no other.
 */
#include "tests/support/process.h"
#include "tests/support/service.h"
#include "tests/support/ty_test.h"

#include "common/base/file.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARG(x) ((char *)(x))

enum { NAMES_MAX = 512 };

static test_output shell(const char *command) {
    return TEST_RUN(ARG("/bin/sh"), ARG("-c"), ARG(command));
}

/* Its output; the test fails with it when the command does. */
static test_output shell_ok(const char *command) {
    test_output o = shell(command);
    if (o.exit_code != 0) fail_msg("%s: %d\n%s%s", command, o.exit_code, o.out, o.err);
    return o;
}

static bool has_word(const char *text, const char *word) {
    size_t n = strlen(word);
    for (const char *p = text; (p = strstr(p, word)); p += n) {
        char before = p == text ? ' ' : p[-1], after = p[n];
        if (!isalnum((unsigned char)before) && before != '_' && !isalnum((unsigned char)after) &&
            after != '_')
            return true;
    }
    return false;
}

/* ---- documentation ---- */

/* Each line of `words` must be a word of `text`. */
static void all_are_in(const char *words, const char *text, const char *where) {
    char *copy = strdup(words), *save = NULL;
    int missing = 0, n = 0;
    for (char *w = strtok_r(copy, "\n", &save); w; w = strtok_r(NULL, "\n", &save), n++) {
        if (has_word(text, w)) continue;
        print_error("%s is not in %s\n", w, where);
        missing++;
    }
    free(copy);
    assert_true(n > 20);
    assert_int_equal(missing, 0);
}

/* The variables that these folders' C reads, and those of compose.yaml and the units. */
#define VARIABLES_OF(folders)                                                                      \
    "(grep -rhoE '\"TYTO_[A-Z0-9_]+\"' --include='*.[ch]' " folders " | tr -d '\"'; "              \
    "grep -hoE 'TYTO_[A-Z0-9_]+' compose.yaml orchestration/systemd/*.service) | sort -u"

/* A test's own need not be told, but may. */
static void operating_md_has_every_variable_and_no_other(void **state) {
    (void)state;
    test_output used = shell_ok(VARIABLES_OF("common services orchestration training"));
    test_output all = shell_ok(VARIABLES_OF("common services orchestration training tests"));
    test_output told =
        shell_ok("grep -hoE 'TYTO_[A-Z0-9_]+' docs/operating.md | grep -v '_$' | sort -u");
    all_are_in(used.out, told.out, "docs/operating.md");
    all_are_in(told.out, all.out, "the sources");
    test_output_clear(&used);
    test_output_clear(&all);
    test_output_clear(&told);
}

/* ---- images ---- */

static void images_have_a_target_for_each_service(void **state) {
    (void)state;
    test_output targets = shell_ok("sed -n 's/^FROM .* AS //p' Dockerfile");
    test_output wanted = shell_ok("sed -n 's/.*target: \\([a-z]*\\).*/\\1/p' compose.yaml");
    test_output roles = shell_ok("ls -d services/*/ | xargs -n1 basename");
    char *save = NULL;
    for (char *w = strtok_r(wanted.out, "\n", &save); w; w = strtok_r(NULL, "\n", &save))
        if (!has_word(targets.out, w)) fail_msg("compose.yaml wants target %s", w);
    for (char *w = strtok_r(roles.out, "\n", &save); w; w = strtok_r(NULL, "\n", &save))
        if (!has_word(targets.out, w)) fail_msg("the Dockerfile has no target for %s", w);
    test_output_clear(&targets);
    test_output_clear(&wanted);
    test_output_clear(&roles);
}

/* The runtime stage installs the package of every library that a program is linked to directly.  The trainer over MPI
 * is not in the images: a cluster has its own MPI. */
static void images_have_every_library_that_is_linked(void **state) {
    (void)state;
    if (access("/usr/bin/dpkg-query", X_OK) != 0) skip();
    test_output have = shell_ok("sed -n '/ AS runtime$/,/^USER/p' Dockerfile");
    test_output need = shell_ok(test_path(
        "for p in $(ls -d %s/tyto* | grep -v -e -mpi$); do objdump -p $p | sed -n 's/ *NEEDED "
        "*//p'; done | sort -u | "
        "while read l; do f=$(ldconfig -p | sed -n \"s|.*$l .*=> ||p\" | head -1); "
        "dpkg -S \"$(readlink -f $f)\" 2>/dev/null || dpkg -S \"$f\"; done | cut -d: -f1 | sort -u "
        "| "
        "grep -vxE 'libc6|libgcc-s1|libstdc\\+\\+6|libasan[0-9]*|libubsan[0-9]*|libtsan[0-9]*'",
        test_bin("")));
    char *save = NULL;
    int n = 0;
    for (char *w = strtok_r(need.out, "\n", &save); w; w = strtok_r(NULL, "\n", &save), n++)
        if (!has_word(have.out, w)) fail_msg("the Dockerfile's runtime stage lacks %s", w);
    assert_true(n > 5);
    test_output_clear(&have);
    test_output_clear(&need);
}

/* ---- install ---- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const bool release = false; /* install ships the release build: not built here */
#else
static const bool release = true;
#endif

static void installed_tree_serves(void **state) {
    (void)state;
    if (!release) skip();
    const char *prefix = test_path("%s/prefix", test_temp_dir());
    test_output o = shell_ok(test_path(
        "env -u MAKEFLAGS -u MAKELEVEL -u MODE -u SAN make -s install PREFIX=%s 2>&1", prefix));
    test_output_clear(&o);
    o = shell_ok(test_path("ls %s/share/tyto/models", prefix));
    o.out[strcspn(o.out, "\n")] = '\0';
    const char *model = test_path("%s/share/tyto/models/%s", prefix, o.out);
    const char *tyto = test_path("%s/bin/tyto", prefix), *dir = test_path("%s/state", prefix);
    const char *listen = test_path("127.0.0.1:%d", test_free_port());
    test_output_clear(&o);
    /* from another directory: nothing of the source tree is needed */
    o = shell_ok(test_path("cd / && %s up --pipeline %s --state %s --listen %s --detach && %s ask "
                           "--url http://%s --prompt Hello --max-tokens 4 && %s status --url "
                           "http://%s; rc=$?; %s down --state %s; exit $rc",
                           tyto, model, dir, listen, tyto, listen, tyto, listen, tyto, dir));
    assert_non_null(strstr(o.out, "gateway.0 is ready"));
    test_output_clear(&o);
    if (access("/usr/bin/systemd-analyze", X_OK) == 0) {
        o = shell_ok(test_path(
            "cd %s/lib/systemd/system && export SYSTEMD_UNIT_PATH=$PWD:/lib/systemd/system && "
            "units=$(ls *.service | sed 's/@/@0/') && systemd-analyze verify --man=no $units 2>&1 "
            "&& "
            "systemd-analyze security --offline=yes --no-pager --threshold=20 $units 2>&1",
            prefix));
        test_output_clear(&o);
    }
    o = shell_ok(test_path("env -u MAKEFLAGS -u MAKELEVEL -u MODE -u SAN make -s uninstall "
                           "PREFIX=%s && rm -rf %s/state && find %s -type f",
                           prefix, prefix, prefix));
    assert_string_equal(o.out, "");
    test_output_clear(&o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operating_md_has_every_variable_and_no_other),
        cmocka_unit_test(images_have_a_target_for_each_service),
        cmocka_unit_test(images_have_every_library_that_is_linked),
        cmocka_unit_test(installed_tree_serves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
