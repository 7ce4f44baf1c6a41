/*
 * test_train_ranks.c - data parallelism: 1, 2 and 4 ranks with the same batch have the same losses at every
 * step, and the same model up to the order of sums, with products in f32 and in bf16; a run of 2 ranks that is
 * killed and resumed ends in the bytes of one that was not.
 *
 * Needs `make training` (build/bin/tyto-train-mpi); skipped without it.
 */
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "common/math/matmul.h"
#include "common/model/safetensors.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARG(x) ((char *)(x))
enum { STEPS = 12 };

static char base[300];

static int find_program(void **state) {
    (void)state;
    snprintf(base, sizeof base, "%s", test_temp_dir());
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    return 0;
}

static bool built(void) {
    return access(test_bin("tyto-train-mpi"), X_OK) == 0;
}

typedef struct {
    char *argv[48];
} command;

static command ranks_command(const char *ranks, const char *recipe, const char *products, bool v2,
                             const char *dir) {
    command c = {{ARG("/usr/bin/env"),
                  ARG("mpirun"),
                  ARG("--oversubscribe"),
                  ARG("--bind-to"),
                  ARG("none"),
                  ARG("-np"),
                  ARG(ranks),
                  ARG(test_bin("tyto-train-mpi")),
                  ARG("--model"),
                  ARG(v2 ? "tests/golden/v2-micro" : "tests/golden/v1-micro"),
                  ARG("--data"),
                  ARG(v2 ? "tests/golden/images_golden/v2_train.json"
                         : "tests/golden/images_golden/v1_train.jsonl"),
                  ARG("--images"),
                  ARG("tests/golden/images"),
                  ARG("--recipe"),
                  ARG(recipe),
                  ARG("--products"),
                  ARG(products),
                  ARG("--out"),
                  ARG(dir),
                  ARG("--batch"),
                  ARG("8"),
                  ARG("--micro-batch"),
                  ARG("1"),
                  ARG("--steps"),
                  ARG("12"),
                  ARG("--lr"),
                  ARG("1e-3"),
                  ARG("--warmup"),
                  ARG("2"),
                  ARG("--threads"),
                  ARG("1"),
                  ARG("--save-every"),
                  ARG("2"),
                  ARG("--merge")}};
    return c;
}

static void run_to_the_end(command *c) {
    test_output o = test_run(c->argv, NULL, 0, 120);
    if (o.exit_code != 0) fail_msg("%s", o.err);
    test_output_clear(&o);
}

static void read_losses(const char *dir, double loss[STEPS]) {
    FILE *f = fopen(test_path("%s/log.jsonl", dir), "r");
    char line[1024];
    int n = 0;
    assert_non_null(f);
    while (fgets(line, sizeof line, f) && n < STEPS) {
        char *at = strstr(line, "\"loss\": ");
        assert_non_null(at);
        loss[n++] = atof(at + 8);
    }
    fclose(f);
    assert_int_equal(n, STEPS);
}

/* Adam divides by small numbers what two orders of sums leave of them: 1 % of what a step moves. */
static void compare_models(const char *a, const char *b) {
    ty_safetensors *x = NULL, *y = NULL;
    ty_err err = {0};
    if (ty_safetensors_open(&x, test_path("%s/model/model.safetensors", a), &err) != TY_OK ||
        ty_safetensors_open(&y, test_path("%s/model/model.safetensors", b), &err) != TY_OK)
        fail_msg("%s", err.text);
    assert_int_equal(ty_safetensors_count(x), ty_safetensors_count(y));
    double sum = 0, n = 0;
    for (int i = 0; i < ty_safetensors_count(x); i++) {
        ty_tensor t, u;
        ty_safetensors_tensor(x, i, &t);
        if (ty_safetensors_find(y, ty_safetensors_name(x, i), &u, &err) != TY_OK)
            fail_msg("%s", err.text);
        for (int64_t k = 0; k < ty_tensor_count(&t) && t.dtype == TY_F32; k++, n++)
            sum += fabs((double)((const float *)t.data)[k] - (double)((const float *)u.data)[k]);
    }
    if (sum / n > 1e-5) fail_msg("%s and %s differ by %g on average", a, b, sum / n);
    ty_safetensors_close(&x);
    ty_safetensors_close(&y);
}

/* within: of the loss.  What two orders of sums leave may round to another bf16, which is 1/256 away; a lost gradient
 * would cost a hundredth. */
static void ranks_agree(const char *recipe, const char *products, bool v2, double within) {
    static const char *const counts[] = {"1", "2", "4"};
    static char dir[3][400];
    double loss[3][STEPS];
    for (int i = 0; i < 3; i++) {
        snprintf(dir[i], sizeof dir[i], "%s/%s-%s-%s", base, recipe, products, counts[i]);
        command c = ranks_command(counts[i], recipe, products, v2, dir[i]);
        run_to_the_end(&c);
        read_losses(dir[i], loss[i]);
        for (int k = 0; k < STEPS; k++)
            if (fabs(loss[i][k] - loss[0][k]) > within * loss[0][k])
                fail_msg("%s: step %d has a loss of %.9g on %s ranks, %.9g on one", recipe, k + 1,
                         loss[i][k], counts[i], loss[0][k]);
        compare_models(dir[0], dir[i]);
    }
}

static void ranks_have_the_losses_of_one(void **state) {
    (void)state;
    if (!built()) skip();
    ranks_agree("v1-stage2-paper", "f32", false, 1e-5);
    ranks_agree("v2-finetune", "f32", true, 1e-5);
}

static void so_they_do_with_bf16_products(void **state) {
    (void)state;
    ty_err err = {0};
    if (!built() || ty_products_check(TY_PRODUCTS_BF16, &err) != TY_OK) skip();
    ranks_agree("v1-stage1", "bf16", false, 3e-4);
}

static void killed_ranks_go_on_bit_for_bit(void **state) {
    (void)state;
    static char whole[400], broken[400], log[440];
    char *a = NULL, *b = NULL;
    size_t na = 0, nb = 0;
    if (!built()) skip();
    snprintf(whole, sizeof whole, "%s/whole", base);
    snprintf(broken, sizeof broken, "%s/broken", base);
    snprintf(log, sizeof log, "%s/log.jsonl", broken);
    command c = ranks_command("2", "v1-stage1", "f32", false, whole),
            k = ranks_command("2", "v1-stage1", "f32", false, broken);
    run_to_the_end(&c);
    pid_t pid = test_spawn(k.argv, NULL);
    for (int i = 0, status; i < 30000; i++) {
        char *text = NULL;
        size_t n = 0, lines = 0;
        if (waitpid(pid, &status, WNOHANG) == pid) break;
        if (ty_file_read(log, 1 << 20, &text, &n, NULL) == TY_OK)
            for (size_t t = 0; t < n; t++) lines += text[t] == '\n';
        free(text);
        if (lines >= 5) {
            kill(pid, SIGKILL); /* its ranks die with mpirun */
            waitpid(pid, &status, 0);
            break;
        }
        test_nap_ms(1);
    }
    test_nap_ms(1000); /* what is left of the killed ranks ends */
    run_to_the_end(&k);
    if (ty_file_read(test_path("%s/model/model.safetensors", whole), 64 << 20, &a, &na, NULL) !=
            TY_OK ||
        ty_file_read(test_path("%s/model/model.safetensors", broken), 64 << 20, &b, &nb, NULL) !=
            TY_OK)
        fail_msg("no model was written");
    assert_int_equal(na, nb);
    assert_memory_equal(a, b, na);
    free(a);
    free(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_have_the_losses_of_one),
        cmocka_unit_test(so_they_do_with_bf16_products),
        cmocka_unit_test(killed_ranks_go_on_bit_for_bit),
    };
    return cmocka_run_group_tests(tests, find_program, NULL);
}
