/*
 * test_lessons.c - what learns from labelled pictures, without a text: a ViT from cells, an abstractor from rows.  The batch,
 * the losses, their gradients against differences of the loss, and that what is open is not learnt.
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
    int32_t *label; /* [PICTURES, n] */
    int places, n;  /* of a picture: cells or rows; labels, of all its texts */
} rig;

static bool of_vit(void *ctx, const char *name) {
    (void)ctx;
    return strncmp(name, "vision_model.", 13) == 0;
}

static bool visual(void *ctx, const char *name) {
    (void)ctx;
    return strncmp(name, "language_model.", 15) != 0;
}

static void open_rig(rig *g, owl_lesson lesson) {
    ty_err err = {0};
    bool cells = lesson == LESSON_CELLS;
    memset(g, 0, sizeof *g);
    if (owl_new(&g->m, "training/owlet/base", cells ? of_vit : visual, NULL, -1, 1, &err) != TY_OK)
        fail_msg("%s", err.text);
    g->m->lesson = lesson;
    if (cells) {
        assert_int_equal(owl_add_cells(g->m, TEXTS, &err), TY_OK);
        random_uniform(2, 0, 0.1, g->m->cells.w->count, g->m->cells.w->value);
    }
    assert_int_equal(param_settle(&g->m->params, 0, 1, &err), TY_OK);
    g->places = cells ? owl_patches(g->m) : g->m->abstractor.n_query + 1;
    g->n = cells ? TEXTS * g->places : g->places;
    int64_t plane = 3 * (int64_t)g->m->vit.image_size * g->m->vit.image_size;
    g->pixels = calloc((size_t)(PICTURES * plane), sizeof *g->pixels);
    g->label = calloc((size_t)(PICTURES * g->n), sizeof *g->label);
    random_uniform(2, 1, 1, PICTURES * plane, g->pixels);
    for (int i = 0; i < PICTURES * g->n; i++)
        g->label[i] = !cells ? 3 + i * 7 % 100 : i % 5 ? i % 7 : X;
    owl_sample s[PICTURES];
    for (int i = 0; i < PICTURES; i++)
        s[i] = (owl_sample){.label = g->label + i * g->n, .n = g->n, .n_picture = 1};
    assert_int_equal(owl_batch_of_labels(&g->b, g->places, s, PICTURES, g->pixels, &err), TY_OK);
    g->r = (train_run){.arena = ty_arena_create(0)};
}

static void close_rig(rig *g) {
    owl_batch_clear(&g->b);
    free(g->pixels);
    free(g->label);
    train_run_clear(&g->r);
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
    open_rig(&g, LESSON_CELLS);
    int n = g.n, learnt = 0;
    assert_int_equal(g.b.n_picture, PICTURES);
    assert_int_equal(g.b.n_row, PICTURES * g.places);
    for (int p = 0; p < PICTURES; p++)
        for (int t = 0; t < TEXTS; t++)
            for (int c = 0; c < g.places; c++) {
                int32_t want = g.label[p * n + t * g.places + c];
                assert_int_equal(g.b.target[p * n + c * TEXTS + t], want);
                learnt += want != X;
            }
    assert_int_equal(g.b.n_target, learnt);
    close_rig(&g);
}

static void loss_is_what_lies_between_tokens_and_embeddings(void **state) {
    (void)state;
    rig g;
    open_rig(&g, LESSON_ROWS);
    assert_int_equal(g.b.n_target, PICTURES * g.n);
    double got = loss_of(&g, false), want = 0;
    vit_pass vit = {0};
    abstractor_pass a = {0};
    vit_forward(&g.r, g.m, g.pixels, PICTURES, &vit);
    abstractor_forward(&g.r, g.m, vit.features, PICTURES, (int)(vit.rows / vit.n), &a);
    assert_int_equal(g.r.st, TY_OK);
    int width = g.m->llm.width;
    for (int i = 0; i < PICTURES * g.n; i++) {
        double off = 0, all = 0;
        for (int k = 0; k < width; k++) {
            float e;
            param_floats(g.m->embed, (int64_t)g.label[i] * width + k, 1, &e);
            off += pow((double)(a.tokens[i * width + k] - e), 2);
            all += pow((double)e, 2);
        }
        want += off / all;
    }
    want /= (double)PICTURES * g.n;
    assert_true(want > 0.1);
    if (fabs(got / want - 1) > 1e-5) fail_msg("loss %g, want %g", got, want);
    close_rig(&g);
}

static double squares(const float *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}

/* Along the gradient the loss falls by its square; the n values from grad have a part in it, at most `most` of it. */
static void check_gradient(rig *g, const float *grad, int64_t n, double most) {
    const param_set *s = &g->m->params;
    double square = squares(s->grads, s->n_value), part = squares(grad, n);
    assert_true(part > 0 && part < most * square);
    float step = (float)(1e-3 / sqrt(square));
    for (int64_t i = 0; i < s->n_value; i++) s->values[i] += step * s->grads[i];
    double up = loss_of(g, false);
    for (int64_t i = 0; i < s->n_value; i++) s->values[i] -= 2 * step * s->grads[i];
    double slope = (up - loss_of(g, false)) / (2 * (double)step);
    if (fabs(slope / square - 1) > 0.01) fail_msg("slope %g, want %g", slope, square);
}

static void gradient_of_cells_equals_differences(void **state) {
    (void)state;
    rig g;
    open_rig(&g, LESSON_CELLS);
    param_zero_grads(&g.m->params);
    loss_of(&g, true);
    /* both the head and the ViT have some */
    check_gradient(&g, g.m->cells.w->grad, g.m->cells.w->count, 0.9);
    close_rig(&g);
}

static void gradient_of_rows_equals_differences(void **state) {
    (void)state;
    rig g;
    open_rig(&g, LESSON_ROWS);
    param_zero_grads(&g.m->params);
    loss_of(&g, true);
    /* the ViT, which stands in front of the queries, and the abstractor */
    check_gradient(&g, g.m->params.grads, g.m->query->grad - g.m->params.grads, 1);
    close_rig(&g);
}

static void what_is_open_is_not_learnt(void **state) {
    (void)state;
    rig g;
    open_rig(&g, LESSON_CELLS);
    /* all open but one cell: no other can have a part in the gradient of the head */
    int n = PICTURES * g.n;
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
        cmocka_unit_test(loss_is_what_lies_between_tokens_and_embeddings),
        cmocka_unit_test(gradient_of_cells_equals_differences),
        cmocka_unit_test(gradient_of_rows_equals_differences),
        cmocka_unit_test(what_is_open_is_not_learnt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
