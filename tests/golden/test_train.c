/*
 * The training runs of the reference, repeated by golden_run: losses, every gradient, gradient norms, and
 * parameters after one and five steps, for every run of every model; and the same bits on one thread, on
 * three, and with layers run again instead of kept.
 *
 * Runs over tests/golden/{v1-micro,v2-micro} or the directories in TYTO_GOLDEN_MODELS (':' between them).
 * No size is known here.
 */
#include "tests/support/ty_test.h"

#include "common/model/safetensors.h"
#include "training/golden.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void must(ty_status st, const ty_err *err) {
    if (st != TY_OK) fail_msg("%s: %s", ty_status_name(st), err->text);
}

typedef struct {
    const char *dir, *run;
    const json_t *training;
    ty_safetensors *want, *got;
    int n_gradient, n_parameter; /* tensors compared */
} comparison;

static bool has(const json_t *list, const char *name) {
    size_t i;
    const json_t *j;
    json_array_foreach(list, i, j) if (strcmp(json_string_value(j), name) == 0) return true;
    return false;
}

static const float *tensor(const comparison *c, const char *kind, const char *name, ty_tensor *t) {
    char full[512];
    ty_err err = {0};
    snprintf(full, sizeof full, "%s/%s%s%s", c->run, kind, name ? "/" : "", name ? name : "");
    must(ty_safetensors_find(c->got, full, t, &err), &err);
    assert_int_equal(t->dtype, TY_F32);
    return t->data;
}

/* The reference's tensor; NULL where it was not stored.  Of tensors as long as the vocabulary it may hold
 * some rows alone: row r of it is row rows[r] of ours. */
static const float *wanted(const comparison *c, const char *kind, const char *name, ty_tensor *t) {
    char full[512];
    snprintf(full, sizeof full, "%s/%s/%s", c->run, kind, name);
    return ty_safetensors_find(c->want, full, t, NULL) == TY_OK ? t->data : NULL;
}

static int64_t row_of(const comparison *c, const char *name, int64_t r) {
    const json_t *rows = json_object_get(json_object_get(c->training, "rows"), name);
    return rows ? (int64_t)json_integer_value(json_array_get(rows, (size_t)r)) : r;
}

/* 1e-4 of the tensor's length, 1e-7 besides; where the exact gradient is zero, what the reference holds
 * is noise of 1e-9. */
static void check_gradient(comparison *c, const char *name, double length, bool zero) {
    ty_tensor t, w;
    const float *got = tensor(c, "grad", name, &t), *want = wanted(c, "grad", name, &w);
    double sum = 0, off = 0;
    for (int64_t i = 0; i < ty_tensor_count(&t); i++) {
        sum += (double)got[i] * (double)got[i];
        if (zero && fabsf(got[i]) > 1e-6f) fail_msg("%s: %g, want zero", name, (double)got[i]);
    }
    if (zero) return;
    if (fabs(sqrt(sum) - length) > 1e-4 * length + 1e-7)
        fail_msg("%s %s: gradient of length %g, want %g", c->run, name, sqrt(sum), length);
    if (!want) return;
    int64_t cols = ty_tensor_cols(&w);
    for (int64_t r = 0; r < ty_tensor_rows(&w); r++)
        for (int64_t i = 0; i < cols; i++) {
            double d = (double)got[row_of(c, name, r) * cols + i] - (double)want[r * cols + i];
            off += d * d;
        }
    if (sqrt(off) > 1e-4 * length + 1e-7)
        fail_msg("%s %s: gradient differs by %g of %g", c->run, name, sqrt(off), length);
    c->n_gradient++;
}

static void check_parameter(comparison *c, const char *name, int steps, double lr) {
    char kind[32];
    ty_tensor t, w;
    snprintf(kind, sizeof kind, "param_step%d", steps);
    const float *got = tensor(c, kind, name, &t), *want = wanted(c, kind, name, &w);
    if (!want) return;
    int64_t cols = ty_tensor_cols(&w), n = ty_tensor_count(&w);
    double sum = 0;
    for (int64_t r = 0; r < ty_tensor_rows(&w); r++)
        for (int64_t i = 0; i < cols; i++) {
            double x = (double)want[r * cols + i];
            double d = fabs((double)got[row_of(c, name, r) * cols + i] - x);
            sum += d;
            if (d > 5e-7 * fmax(1, fabs(x)) + 0.05 * lr * steps)
                fail_msg("%s %s/%s: %g differs by %g", c->run, kind, name, x, d);
        }
    if (sum / (double)n > 1e-7 + 1e-3 * lr * steps)
        fail_msg("%s %s/%s: differs by %g on average", c->run, kind, name, sum / (double)n);
    c->n_parameter++;
}

/* Two runs in f32 part as the steps become larger: by 0.05 lr a step, as their parameters do. */
static void check_curve(const comparison *c, const char *kind, const char *key, double relative,
                        double lr) {
    ty_tensor t;
    const float *got = tensor(c, kind, NULL, &t);
    const json_t *want = json_object_get(c->training, key);
    assert_int_equal(ty_tensor_count(&t), json_array_size(want));
    for (size_t i = 0; i < json_array_size(want); i++) {
        double w = json_number_value(json_array_get(want, i));
        double limit = 2e-5 + relative * w + 0.05 * lr * (double)i * fmax(1, relative * w / 2e-5);
        if (fabs((double)got[i] - w) > limit)
            fail_msg("%s %s[%zu] is %.9g, want %.9g", c->run, kind, i, (double)got[i], w);
    }
}

static void check_run(const char *dir, const char *run, const json_t *training,
                      ty_safetensors *want) {
    char path[256];
    ty_pool *pool = NULL;
    ty_err err = {0};
    comparison c = {.dir = dir, .run = run, .training = training, .want = want};
    snprintf(path, sizeof path, "/tmp/tyto-test-train-%d.safetensors", (int)getpid());
    must(ty_pool_create(&pool, 2, &err), &err);
    must(golden_run(dir, run, path, false, pool, &err), &err);
    must(ty_safetensors_open(&c.got, path, &err), &err);
    ty_pool_destroy(&pool);
    const json_t *zero = json_object_get(json_object_get(training, "f64"), "zero_grad_params");
    double lr = json_number_value(json_object_get(json_object_get(training, "hyper"), "lr"));
    const char *name;
    json_t *length;
    check_curve(&c, "losses", "losses", 0, lr);
    check_curve(&c, "grad_norms", "grad_norms", 1e-4, lr);
    json_object_foreach(json_object_get(training, "grad_l2"), name, length) {
        check_gradient(&c, name, json_number_value(length), has(zero, name));
        if (has(zero, name)) continue;
        check_parameter(&c, name, 1, lr);
        check_parameter(&c, name, 5, lr);
    }
    print_message("%s %s: %zu gradients by length, %d by element, %d parameters\n", dir, run,
                  json_object_size(json_object_get(training, "grad_l2")), c.n_gradient,
                  c.n_parameter);
    ty_safetensors_close(&c.got);
    unlink(path);
}

static void check_model(const char *dir) {
    char path[1100];
    json_error_t bad;
    ty_err err = {0};
    ty_safetensors *want = NULL;
    const char *run;
    json_t *training;
    snprintf(path, sizeof path, "%s/golden.json", dir);
    json_t *golden = json_load_file(path, 0, &bad);
    if (!golden) fail_msg("%s: %s", path, bad.text);
    snprintf(path, sizeof path, "%s/golden.safetensors", dir);
    must(ty_safetensors_open(&want, path, &err), &err);
    json_t *runs = json_object_get(golden, "training");
    assert_true(json_object_size(runs) > 0);
    json_object_foreach(runs, run, training) check_run(dir, run, training, want);
    ty_safetensors_close(&want);
    json_decref(golden);
}

static void training_equals_the_reference(void **state) {
    (void)state;
    const char *given = getenv("TYTO_GOLDEN_MODELS");
    char list[4096], *at = NULL;
    snprintf(list, sizeof list, "%s",
             given ? given : "tests/golden/v1-micro:tests/golden/v2-micro");
    for (char *dir = strtok_r(list, ":", &at); dir; dir = strtok_r(NULL, ":", &at))
        check_model(dir);
}

static char *bytes_of_run(const char *dir, const char *run, int threads, bool recompute,
                          size_t *n) {
    char path[256];
    ty_pool *pool = NULL;
    ty_err err = {0};
    snprintf(path, sizeof path, "/tmp/tyto-test-train-%d.safetensors", (int)getpid());
    must(ty_pool_create(&pool, threads, &err), &err);
    must(golden_run(dir, run, path, recompute, pool, &err), &err);
    ty_pool_destroy(&pool);
    FILE *f = fopen(path, "rb");
    char *data = malloc(64 << 20);
    assert_non_null(f);
    assert_non_null(data);
    *n = fread(data, 1, 64 << 20, f);
    fclose(f);
    unlink(path);
    return data;
}

static void training_gives_the_same_bits_on_any_threads_and_recomputed(void **state) {
    (void)state;
    static const char *const cases[][2] = {{"tests/golden/v1-micro", "stage1"},
                                           {"tests/golden/v1-micro", "stage2_lora"},
                                           {"tests/golden/v2-micro", "all_params"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n1, n3, nr;
        char *one = bytes_of_run(cases[i][0], cases[i][1], 1, false, &n1);
        char *three = bytes_of_run(cases[i][0], cases[i][1], 3, false, &n3);
        char *again = bytes_of_run(cases[i][0], cases[i][1], 2, true, &nr);
        assert_int_equal(n1, n3);
        assert_int_equal(n1, nr);
        assert_memory_equal(one, three, n1);
        assert_memory_equal(one, again, n1);
        free(one);
        free(three);
        free(again);
    }
}

static void golden_run_names_what_is_missing(void **state) {
    (void)state;
    ty_err err = {0};
    assert_int_equal(
        golden_run("tests/golden/v1-micro", "no_such_run", "/tmp/x", false, NULL, &err),
        TY_ENOTFOUND);
    assert_non_null(strstr(err.text, "training.no_such_run"));
    assert_int_equal(golden_run("tests/golden/nothing", "stage1", "/tmp/x", false, NULL, &err),
                     TY_ENOTFOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(training_equals_the_reference),
        cmocka_unit_test(training_gives_the_same_bits_on_any_threads_and_recomputed),
        cmocka_unit_test(golden_run_names_what_is_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
