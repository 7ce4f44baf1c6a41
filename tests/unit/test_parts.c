/*
 * test_parts.c - a batch in parts, each on a thread of its own, leaves the gradients of a batch in one, bit for bit:
 * talk with and without pictures (a part without any among them), cells and rows.
 */
#include "tests/support/ty_test.h"
#include "training/pass.h"
#include "training/random.h"
#include "training/sample.h"

#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 6, TEXT = 40, LABELS_MAX = 256, THREADS = 3 };

static bool all(void *ctx, const char *name) {
    (void)ctx, (void)name;
    return true;
}

typedef struct {
    owl *m;
    owl_batch b;
    float *pixels;
    int32_t id[SAMPLES][LABELS_MAX], label[SAMPLES][LABELS_MAX];
} rig;

/* The last two samples have no picture but as many rows; nothing is learnt from the first half of a text. */
static void talk(rig *g, owl_sample *s) {
    int visual = g->m->abstractor.n_query + 1;
    for (int i = 0; i < SAMPLES; i++) {
        bool picture = i < SAMPLES - 2;
        int n = visual + TEXT + i;
        for (int t = 0; t < n; t++) {
            bool placeholder = picture && t >= 3 && t < 3 + visual;
            g->id[i][t] = placeholder ? -1 : 3 + (i * 31 + t * 7) % 2000;
            g->label[i][t] = placeholder || t < n / 2 ? OWL_IGNORE : g->id[i][t];
        }
        s[i] = (owl_sample){g->id[i], g->label[i], n, picture};
    }
}

static void labels(rig *g, int n, owl_sample *s) {
    assert_true(n <= LABELS_MAX);
    for (int i = 0; i < SAMPLES; i++) {
        for (int t = 0; t < n; t++) g->label[i][t] = t % 5 == 4 ? OWL_IGNORE : (i + t) % 60 + 3;
        s[i] = (owl_sample){.label = g->label[i], .n = n, .n_picture = 1};
    }
}

static void open_rig(rig *g, owl_lesson lesson) {
    ty_err err = {0};
    owl_sample s[SAMPLES];
    ty_status st;
    memset(g, 0, sizeof *g);
    if (owl_new(&g->m, "training/owlet/base", all, NULL, -1, 1, &err) != TY_OK)
        fail_msg("%s", err.text);
    owl *m = g->m;
    m->lesson = lesson;
    if (lesson == LESSON_CELLS) assert_int_equal(owl_add_cells(m, 2, &err), TY_OK);
    assert_int_equal(param_settle(&m->params, 0, 1, &err), TY_OK);
    int64_t all_pixels = SAMPLES * 3 * (int64_t)m->vit.image_size * m->vit.image_size;
    g->pixels = calloc((size_t)all_pixels, sizeof *g->pixels);
    assert_non_null(g->pixels);
    random_uniform(2, 1, 1, all_pixels, g->pixels);
    if (lesson == LESSON_TALK) {
        talk(g, s);
        st = owl_batch_make(&g->b, 1, m->abstractor.n_query + 1, m->llm.n_vocab, m->llm.n_ctx, s,
                            SAMPLES, g->pixels, &err);
    } else {
        int places = lesson == LESSON_CELLS ? owl_patches(m) : m->abstractor.n_query + 1;
        labels(g, lesson == LESSON_CELLS ? 2 * places : places, s);
        st = owl_batch_of_labels(&g->b, places, s, SAMPLES, g->pixels, &err);
    }
    if (st != TY_OK) fail_msg("%s", err.text);
}

/* The gradients of a pass in at most so many parts; it says how many they were. */
static float *gradients(rig *g, int parts, int *were, double *loss) {
    param_set *s = &g->m->params;
    train_run r = {.arena = ty_arena_create(0), .parts = parts};
    ty_err err = {0};
    assert_non_null(r.arena);
    assert_int_equal(ty_pool_create(&r.pool, THREADS, &err), TY_OK);
    param_zero_grads(s);
    if (pass_run(&r, g->m, &g->b, 1 / (float)g->b.n_target, true, loss, &err) != TY_OK)
        fail_msg("%s", err.text);
    *were = r.n_part;
    float *copy = malloc((size_t)s->n_value * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, s->grads, (size_t)s->n_value * sizeof *copy);
    train_run_clear(&r);
    ty_arena_destroy(&r.arena);
    ty_pool_destroy(&r.pool);
    return copy;
}

static void parts_leave_the_bits_of(owl_lesson lesson) {
    rig g;
    open_rig(&g, lesson);
    size_t bytes = (size_t)g.m->params.n_value * sizeof(float);
    double loss, other;
    int were;
    float *one = gradients(&g, 1, &were, &loss);
    assert_int_equal(were, 1);
    for (int parts = 2; parts <= THREADS; parts++) {
        float *some = gradients(&g, parts, &were, &other);
        assert_int_equal(were, parts);
        assert_memory_equal(one, some, bytes);
        assert_true(other > 0 && other - loss < 1e-9 * loss && loss - other < 1e-9 * loss);
        free(some);
    }
    free(one);
    owl_batch_clear(&g.b);
    free(g.pixels);
    owl_close(&g.m);
}

static void talk_in_parts(void **state) {
    (void)state;
    parts_leave_the_bits_of(LESSON_TALK);
}

static void cells_in_parts(void **state) {
    (void)state;
    parts_leave_the_bits_of(LESSON_CELLS);
}

static void rows_in_parts(void **state) {
    (void)state;
    parts_leave_the_bits_of(LESSON_ROWS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(talk_in_parts),
        cmocka_unit_test(cells_in_parts),
        cmocka_unit_test(rows_in_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
