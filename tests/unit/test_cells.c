/*
 * test_cells.c - a ViT that learns alone from labelled cells: the batch, the loss and its gradient against differences
 * of the loss, and that what is open is not learnt.
 */
#include "tests/support/ty_test.h"
#include "training/pass.h"
#include "training/random.h"
#include "training/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TEXTS = 2, PICTURES = 2, X = OWL_IGNORE };

typedef struct {
    owl *m;
    train_run r;
    owl_batch b;
    float *pixels;
    int32_t *label;
    int cells;
} rig;

static bool of_vit(void *ctx, const char *name) {
    (void)ctx;
    return strncmp(name, "vision_model.", 13) == 0;
}

static void open_rig(rig *g) {
    ty_err err = {0};
    memset(g, 0, sizeof *g);
    if (owl_new(&g->m, "training/owlet/base", of_vit, NULL, -1, 1, &err) != TY_OK)
        fail_msg("%s", err.text);
    assert_int_equal(owl_add_cells(g->m, TEXTS, &err), TY_OK);
    random_uniform(2, 0, 0.1, g->m->cells.w->count, g->m->cells.w->value);
    assert_int_equal(param_settle(&g->m->params, 0, 1, &err), TY_OK);
    g->cells = owl_patches(g->m);
    int64_t plane = 3 * (int64_t)g->m->vit.image_size * g->m->vit.image_size;
    g->pixels = calloc((size_t)(PICTURES * plane), sizeof *g->pixels);
    g->label = calloc((size_t)(PICTURES * TEXTS * g->cells), sizeof *g->label);
    random_uniform(2, 1, 1, PICTURES * plane, g->pixels);
    for (int i = 0; i < PICTURES * TEXTS * g->cells; i++) g->label[i] = i % 5 ? i % 7 : X;
    owl_sample s[PICTURES];
    for (int i = 0; i < PICTURES; i++)
        s[i] = (owl_sample){
            .label = g->label + i * TEXTS * g->cells, .n = TEXTS * g->cells, .n_picture = 1};
    assert_int_equal(owl_batch_of_labels(&g->b, g->cells, s, PICTURES, g->pixels, &err), TY_OK);
    g->r = (train_run){.arena = ty_arena_create(0)};
}

static void close_rig(rig *g) {
    owl_batch_clear(&g->b);
    free(g->pixels);
    free(g->label);
    ty_arena_destroy(&g->r.arena);
    owl_close(&g->m);
}

static double loss_of(rig *g, bool backward) {
    double loss = 0;
    ty_err err = {0};
    if (pass_run(&g->r, g->m, &g->b, 1 / (float)g->b.n_target, backward, &loss, &err) != TY_OK)
        fail_msg("%s", err.text);
    return loss / g->b.n_target;
}

static void batch_puts_the_texts_of_a_cell_side_by_side(void **state) {
    (void)state;
    rig g;
    open_rig(&g);
    int n = TEXTS * g.cells, learnt = 0;
    assert_int_equal(g.b.n_picture, PICTURES);
    assert_int_equal(g.b.n_row, PICTURES * g.cells);
    for (int p = 0; p < PICTURES; p++)
        for (int t = 0; t < TEXTS; t++)
            for (int c = 0; c < g.cells; c++) {
                int32_t want = g.label[p * n + t * g.cells + c];
                assert_int_equal(g.b.target[p * n + c * TEXTS + t], want);
                learnt += want != X;
            }
    assert_int_equal(g.b.n_target, learnt);
    close_rig(&g);
}

/* Along the gradient the loss falls by its square. */
static void gradient_equals_differences(void **state) {
    (void)state;
    rig g;
    open_rig(&g);
    param_zero_grads(&g.m->params);
    loss_of(&g, true);
    const param_set *s = &g.m->params;
    double square = 0, head = 0;
    for (int64_t i = 0; i < s->n_value; i++) square += (double)s->grads[i] * (double)s->grads[i];
    for (int64_t i = 0; i < g.m->cells.w->count; i++)
        head += (double)g.m->cells.w->grad[i] * (double)g.m->cells.w->grad[i];
    assert_true(head > 0 && head < 0.9 * square); /* both the head and the ViT have some */
    float step = (float)(1e-3 / sqrt(square));
    for (int64_t i = 0; i < s->n_value; i++) s->values[i] += step * s->grads[i];
    double up = loss_of(&g, false);
    for (int64_t i = 0; i < s->n_value; i++) s->values[i] -= 2 * step * s->grads[i];
    double slope = (up - loss_of(&g, false)) / (2 * (double)step);
    if (fabs(slope / square - 1) > 0.01) fail_msg("slope %g, want %g", slope, square);
    close_rig(&g);
}

static void what_is_open_is_not_learnt(void **state) {
    (void)state;
    rig g;
    open_rig(&g);
    /* all open but one cell: no other can have a part in the gradient of the head */
    int n = PICTURES * TEXTS * g.cells;
    for (int i = 0; i < n; i++) g.b.target[i] = X;
    g.b.target[3 * TEXTS + 1] = 4;
    g.b.n_target = 1;
    param_zero_grads(&g.m->params);
    double loss = loss_of(&g, true);
    assert_true(loss > 0 && loss < 2 * log(SAMPLE_CLASSES));
    const param *w = g.m->cells.w;
    int64_t half = w->count / TEXTS;
    double other = 0, own = 0;
    for (int64_t i = 0; i < half; i++) other += fabs((double)w->grad[i]);
    for (int64_t i = half; i < w->count; i++) own += fabs((double)w->grad[i]);
    assert_true(other == 0);
    assert_true(own > 0);
    close_rig(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batch_puts_the_texts_of_a_cell_side_by_side),
        cmocka_unit_test(gradient_equals_differences),
        cmocka_unit_test(what_is_open_is_not_learnt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
