/*
 * A low-rank layer with dropout: its backward against differences of its forward.  The layer is linear in x, in
 * A and in B, so a difference over a large step is exact but for f32.
 */
#include "tests/support/ty_test.h"
#include "training/pass.h"
#include "training/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 5, IN = 24, OUT = 10, RANK = 3 };

typedef struct {
    param_set set;
    owl_linear l;
    train_run r;
    float x[ROWS * IN], weight[ROWS * OUT];
} rig;

static void new_param(rig *g, const char *name, int64_t rows, int64_t cols, param **p) {
    assert_int_equal(param_new(&g->set, name, 2, (int64_t[]){rows, cols}, p, NULL), TY_OK);
    random_uniform(5, (uint64_t)g->set.n, 1, (*p)->count, (*p)->value);
}

static void open_rig(rig *g, double dropout) {
    memset(g, 0, sizeof *g);
    new_param(g, "w", OUT, IN, &g->l.w);
    new_param(g, "a", RANK, IN, &g->l.lora_a);
    new_param(g, "b", OUT, RANK, &g->l.lora_b);
    assert_int_equal(param_settle(&g->set, 0, 1, NULL), TY_OK);
    g->l.scale = 0.5f;
    g->r = (train_run){.arena = ty_arena_create(0), .lora_dropout = dropout, .seed = 3, .draw = 4};
    random_uniform(6, 0, 1, ROWS * IN, g->x);
    random_uniform(6, 1, 1, ROWS * OUT, g->weight);
}

static void close_rig(rig *g) {
    train_run_clear(&g->r);
    ty_arena_destroy(&g->r.arena);
    param_set_clear(&g->set);
}

static double forward(rig *g) {
    float y[ROWS * OUT];
    double sum = 0;
    op_linear(&g->r, &g->l, g->x, ROWS, y);
    assert_int_equal(g->r.st, TY_OK);
    for (int i = 0; i < ROWS * OUT; i++) sum += (double)y[i] * (double)g->weight[i];
    return sum;
}

static void compare(rig *g, float *value, const float *gradient, int n, const char *what) {
    for (int i = 0; i < n; i++) {
        float was = value[i];
        value[i] = was + 1;
        double up = forward(g);
        value[i] = was - 1;
        double want = (up - forward(g)) / 2;
        value[i] = was;
        if (fabs((double)gradient[i] - want) > 1e-5 * (1 + fabs(want)))
            fail_msg("%s[%d]: %g, want %g", what, i, (double)gradient[i], want);
    }
}

static void check(double dropout) {
    rig g;
    float dx[ROWS * IN];
    open_rig(&g, dropout);
    op_linear_back(&g.r, &g.l, g.x, g.weight, ROWS, dx, false);
    op_add_weight_grads(&g.r);
    assert_int_equal(g.r.st, TY_OK);
    compare(&g, g.x, dx, ROWS * IN, "x");
    compare(&g, g.l.w->value, g.l.w->grad, OUT * IN, "w");
    compare(&g, g.l.lora_a->value, g.l.lora_a->grad, RANK * IN, "a");
    compare(&g, g.l.lora_b->value, g.l.lora_b->grad, OUT * RANK, "b");
    close_rig(&g);
}

static void low_rank_backward_equals_differences(void **state) {
    (void)state;
    check(0);
    check(0.3);
}

static void dropout_depends_on_the_pass_and_keeps_the_mean(void **state) {
    (void)state;
    enum { N = 100000 };
    float *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y), *z = malloc(N * sizeof *z);
    int zeros = 0, same = 0;
    double sum = 0;
    for (int i = 0; i < N; i++) x[i] = 1;
    random_dropout(1, 2, 0.25, x, N, y);
    random_dropout(1, 3, 0.25, x, N, z);
    for (int i = 0; i < N; i++) {
        zeros += y[i] == 0;
        same += y[i] == z[i];
        sum += (double)y[i];
    }
    /* 6 deviations of 100,000 draws */
    assert_true(fabs(zeros - 0.25 * N) < 6 * sqrt(N * 0.25 * 0.75));
    assert_true(fabs(sum - N) < 6 * sqrt(N * 0.25 * 0.75) / 0.75);
    assert_true(fabs(same - 0.625 * N) < 6 * sqrt(N * 0.25));
    random_dropout(1, 2, 0.25, x, N, x);
    assert_memory_equal(x, y, N * sizeof *x);
    free(x);
    free(y);
    free(z);
}

static void normal_numbers_are_normal(void **state) {
    (void)state;
    enum { N = 200001 };
    float *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y);
    double sum = 0, square = 0, beyond = 0, pairs = 0;
    random_normal(1, 2, 2.0, N, x);
    random_normal(1, 3, 2.0, N, y);
    for (int i = 0; i < N; i++) {
        sum += (double)x[i];
        square += (double)x[i] * (double)x[i];
        beyond += fabsf(x[i]) > 4; /* two deviations: 4.55 % */
        pairs += (double)x[i] * (double)y[i];
    }
    assert_true(fabs(sum / N) < 6 * 2 / sqrt(N));
    assert_true(fabs(square / N - 4) < 6 * 4 * sqrt(2.0 / N));
    assert_true(fabs(beyond / N - 0.0455) < 6 * sqrt(0.0455 / N));
    assert_true(fabs(pairs / N) < 6 * 4 / sqrt(N)); /* streams are independent */
    free(x);
    free(y);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(low_rank_backward_equals_differences),
        cmocka_unit_test(normal_numbers_are_normal),
        cmocka_unit_test(dropout_depends_on_the_pass_and_keeps_the_mean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
