/*
 * test_train_kill.c - a training run that is killed again and again with SIGKILL and resumed ends in the
 * very bytes of a run that was never killed: model, adapter, and the losses of every step.
 *
 * The kills come when the log has grown by a few lines, at moments that no one chose: in a step, in a save,
 * before the first.  A state that is damaged or of another run is refused.
 */
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "common/math/matmul.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARG(x) ((char *)(x))
enum { STEPS = 60, KILLS = 5 };

static char *read_all(const char *path, size_t *n) {
    char *data = NULL;
    ty_err err = {0};
    if (ty_file_read(path, 64 << 20, &data, n, &err) != TY_OK) fail_msg("%s", err.text);
    return data;
}

static void must_be_equal(const char *a, const char *b) {
    size_t na, nb;
    char *x = read_all(a, &na), *y = read_all(b, &nb);
    if (na != nb || memcmp(x, y, na) != 0) fail_msg("%s and %s differ", a, b);
    free(x);
    free(y);
}

static int count_lines(const char *path) {
    size_t n, lines = 0;
    char *data;
    if (access(path, F_OK) != 0) return 0;
    data = read_all(path, &n);
    for (size_t i = 0; i < n; i++) lines += data[i] == '\n';
    free(data);
    return (int)lines;
}

/* The log without what a clock put there: everything behind "skipped". */
static char *log_of(const char *dir) {
    size_t n;
    char *data = read_all(test_path("%s/log.jsonl", dir), &n), *to = data;
    for (char *line = data, *end; (end = strchr(line, '\n')); line = end + 1) {
        char *clock = strstr(line, "\"seconds\"");
        assert_non_null(clock);
        memmove(to, line, (size_t)(clock - line));
        to += clock - line;
    }
    *to = 0;
    return data;
}

typedef struct {
    char *argv[40];
    int n;
} command;

static command train_command(const char *recipe, const char *dir, const char *threads,
                             const char *products) {
    command c = {{ARG(test_bin("tyto-train")),
                  ARG("--model"),
                  ARG("tests/golden/v1-micro"),
                  ARG("--data"),
                  ARG("tests/golden/images_golden/v1_train.jsonl"),
                  ARG("--images"),
                  ARG("tests/golden/images"),
                  ARG("--recipe"),
                  ARG(recipe),
                  ARG("--out"),
                  ARG(dir),
                  ARG("--threads"),
                  ARG(threads),
                  ARG("--steps"),
                  ARG("60"),
                  ARG("--batch"),
                  ARG("4"),
                  ARG("--micro-batch"),
                  ARG("2"),
                  ARG("--lr"),
                  ARG("1e-3"),
                  ARG("--save-every"),
                  ARG("3"),
                  ARG("--seed"),
                  ARG("7"),
                  ARG("--products"),
                  ARG(products),
                  ARG("--merge")},
                 28};
    return c;
}

static void run_to_the_end(command *c, const char *dir) {
    test_output o = test_run(c->argv, NULL, 0, 120);
    if (o.exit_code != 0) fail_msg("%s: %s", dir, o.err);
    test_output_clear(&o);
    assert_int_equal(count_lines(test_path("%s/log.jsonl", dir)), STEPS);
}

/* Kills the run once it has written `more` lines; false when it had ended by then. */
static bool kill_after(command *c, const char *dir, int more) {
    const char *log = test_path("%s/log.jsonl", dir);
    int before = count_lines(log), status;
    pid_t pid = test_spawn(c->argv, NULL);
    for (int i = 0; i < 20000; i++) {
        if (waitpid(pid, &status, WNOHANG) == pid) return false;
        /* the log may have been cut back meanwhile */
        int now = count_lines(log);
        if (now < before) before = now;
        if (now >= before + more) break;
        test_nap_ms(1);
    }
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status);
}

static void compare_runs(const char *recipe, bool lora, const char *products) {
    static char whole[256], broken[256];
    int killed = 0;
    snprintf(whole, sizeof whole, "%s/%s-%s-whole", test_temp_dir(), recipe, products);
    snprintf(broken, sizeof broken, "%s/%s-%s-broken", test_temp_dir(), recipe, products);
    command c = train_command(recipe, whole, "2", products);
    command k = train_command(recipe, broken, "1", products);
    run_to_the_end(&c, whole);
    for (int i = 0; i < KILLS; i++) killed += kill_after(&k, broken, 3 + 2 * i);
    assert_true(killed > 0);
    run_to_the_end(&k, broken);
    char *a = log_of(whole), *b = log_of(broken);
    assert_string_equal(a, b);
    free(a);
    free(b);
    must_be_equal(test_path("%s/model/model.safetensors", whole),
                  test_path("%s/model/model.safetensors", broken));
    if (lora)
        must_be_equal(test_path("%s/adapter/adapter_model.safetensors", whole),
                      test_path("%s/adapter/adapter_model.safetensors", broken));
    /* and the page of both */
    test_output o = TEST_RUN(ARG(test_bin("tyto")), ARG("train"), ARG("report"), whole, broken);
    if (o.exit_code != 0) fail_msg("%s", o.err);
    test_output_clear(&o);
    size_t n;
    char *page = read_all(test_path("%s/report.html", whole), &n);
    assert_non_null(strstr(page, broken));
    int curves = 0;
    for (const char *at = page; (at = strstr(at, "<polyline")); at++) curves++;
    assert_int_equal(curves, 10);
    free(page);
    must_be_equal(test_path("%s/state-%d-0", whole, STEPS),
                  test_path("%s/state-%d-0", broken, STEPS));
    print_message("%s, %s products: killed %d times\n", recipe, products, killed);
}

static void killed_and_resumed_run_equals_a_whole_one(void **state) {
    (void)state;
    compare_runs("v1-stage1", false, "f32");
    compare_runs("v1-stage2-paper", true, "f32");
}

static void so_does_one_with_bf16_products(void **state) {
    (void)state;
    ty_err err = {0};
    if (ty_products_check(TY_PRODUCTS_BF16, &err) != TY_OK) {
        print_message("%s\n", err.text);
        skip();
    }
    compare_runs("v1-stage2-paper", true, "bf16");
}

static void asked_to_stop_run_saves_and_goes_on(void **state) {
    (void)state;
    static char dir[256], log[300];
    snprintf(dir, sizeof dir, "%s/asked", test_temp_dir());
    snprintf(log, sizeof log, "%s/log.jsonl", dir);
    command c = train_command("v1-stage2", dir, "1", "f32");
    pid_t pid = test_spawn(c.argv, NULL);
    for (int i = 0; i < 20000 && count_lines(log) < 2; i++) test_nap_ms(1);
    assert_int_equal(test_stop(pid, SIGTERM, 60), 0);
    int lines = count_lines(log), named = -1;
    FILE *f = fopen(test_path("%s/latest", dir), "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%d", &named), 1);
    fclose(f);
    assert_int_equal(named, lines);
    run_to_the_end(&c, dir);
}

static void must_fail(command *c, const char *part) {
    test_output o = test_run(c->argv, NULL, 0, 60);
    assert_int_equal(o.exit_code, 1);
    if (!strstr(o.err, part)) fail_msg("no \"%s\" in: %s", part, o.err);
    test_output_clear(&o);
}

static void state_that_does_not_fit_is_refused(void **state) {
    (void)state;
    static char dir[256];
    snprintf(dir, sizeof dir, "%s/refuse", test_temp_dir());
    command c = train_command("v1-stage2", dir, "1", "f32");
    run_to_the_end(&c, dir);
    c.argv[20] = ARG("2e-3");
    must_fail(&c, "other settings");
    c.argv[20] = ARG("1e-3");
    FILE *f = fopen(test_path("%s/state-%d-0", dir, STEPS), "r+");
    assert_non_null(f);
    fseek(f, 5000, SEEK_SET);
    int byte = fgetc(f);
    fseek(f, 5000, SEEK_SET);
    fputc(byte ^ 1, f);
    fclose(f);
    must_fail(&c, "checksum");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_and_resumed_run_equals_a_whole_one),
        cmocka_unit_test(so_does_one_with_bf16_products),
        cmocka_unit_test(asked_to_stop_run_saves_and_goes_on),
        cmocka_unit_test(state_that_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
