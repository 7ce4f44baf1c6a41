/*
 * test_rows.c - an abstractor that learns what its visual rows are to say: the loss is what lies between its tokens and the
 * LLM's embeddings, and its gradient, down to the ViT, is that of differences.
 */
#include "tests/support/ty_test.h"
#include "training/pass.h"
#include "training/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PICTURES = 2 };

typedef struct {
    owl *m;
    train_run r;
    owl_batch b;
    float *pixels;
    int32_t *label;
    int rows;
} rig;

static bool visual(void *ctx, const char *name) {
    (void)ctx;
    return strncmp(name, "language_model.", 15) != 0;
}

static void open_rig(rig *g) {
    ty_err err = {0};
    memset(g, 0, sizeof *g);
    if (owl_new(&g->m, "training/owlet/base", visual, NULL, -1, 1, &err) != TY_OK)
        fail_msg("%s", err.text);
    g->m->lesson = LESSON_ROWS;
    assert_int_equal(param_settle(&g->m->params, 0, 1, &err), TY_OK);
    g->rows = g->m->abstractor.n_query + 1;
    int64_t plane = 3 * (int64_t)g->m->vit.image_size * g->m->vit.image_size;
    g->pixels = calloc((size_t)(PICTURES * plane), sizeof *g->pixels);
    g->label = calloc((size_t)(PICTURES * g->rows), sizeof *g->label);
    random_uniform(2, 1, 1, PICTURES * plane, g->pixels);
    for (int i = 0; i < PICTURES * g->rows; i++) g->label[i] = 3 + i * 7 % 100;
    owl_sample s[PICTURES];
    for (int i = 0; i < PICTURES; i++)
        s[i] = (owl_sample){.label = g->label + i * g->rows, .n = g->rows, .n_picture = 1};
    assert_int_equal(owl_batch_of_labels(&g->b, g->rows, s, PICTURES, g->pixels, &err), TY_OK);
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

static void loss_is_what_lies_between_tokens_and_embeddings(void **state) {
    (void)state;
    rig g;
    open_rig(&g);
    assert_int_equal(g.b.n_target, PICTURES * g.rows);
    double got = loss_of(&g, false), want = 0;
    vit_pass vit = {0};
    abstractor_pass a = {0};
    vit_forward(&g.r, g.m, g.pixels, PICTURES, &vit);
    abstractor_forward(&g.r, g.m, vit.features, PICTURES, (int)(vit.rows / vit.n), &a);
    assert_int_equal(g.r.st, TY_OK);
    int width = g.m->llm.width;
    for (int i = 0; i < PICTURES * g.rows; i++) {
        double off = 0, all = 0;
        for (int k = 0; k < width; k++) {
            float e;
            param_floats(g.m->embed, (int64_t)g.label[i] * width + k, 1, &e);
            off += pow((double)(a.tokens[i * width + k] - e), 2);
            all += pow((double)e, 2);
        }
        want += off / all;
    }
    want /= (double)PICTURES * g.rows;
    assert_true(want > 0.1);
    if (fabs(got / want - 1) > 1e-5) fail_msg("loss %g, want %g", got, want);
    close_rig(&g);
}

/* Along the gradient the loss falls by its square; both abstractor and ViT have a part in it. */
static void gradient_equals_differences(void **state) {
    (void)state;
    rig g;
    open_rig(&g);
    param_zero_grads(&g.m->params);
    loss_of(&g, true);
    const param_set *s = &g.m->params;
    double square = 0, seeing = 0;
    for (int64_t i = 0; i < s->n_value; i++) square += (double)s->grads[i] * (double)s->grads[i];
    for (int64_t i = 0; s->grads + i < g.m->query->grad; i++)
        seeing += (double)s->grads[i] * (double)s->grads[i];
    assert_true(seeing > 0 && seeing < square);
    float step = (float)(1e-3 / sqrt(square));
    for (int64_t i = 0; i < s->n_value; i++) s->values[i] += step * s->grads[i];
    double up = loss_of(&g, false);
    for (int64_t i = 0; i < s->n_value; i++) s->values[i] -= 2 * step * s->grads[i];
    double slope = (up - loss_of(&g, false)) / (2 * (double)step);
    if (fabs(slope / square - 1) > 0.01) fail_msg("slope %g, want %g", slope, square);
    close_rig(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loss_is_what_lies_between_tokens_and_embeddings),
        cmocka_unit_test(gradient_equals_differences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
