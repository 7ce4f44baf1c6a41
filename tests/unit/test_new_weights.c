/* test_new_weights.c - what a model begins with that is trained from nothing: docs/training.md, "New weights". */
#include "tests/support/ty_test.h"
#include "training/owl.h"

#include <math.h>
#include <stdio.h>

static bool all_train(void *ctx, const char *name) {
    (void)ctx, (void)name;
    return true;
}

static owl *begin(uint64_t seed) {
    owl *m = NULL;
    ty_err err = {0};
    if (owl_new(&m, "training/owlet/base", all_train, NULL, -1, seed, &err) != TY_OK)
        fail_msg("%s", err.text);
    return m;
}

static double deviation(const owl *m, const char *name) {
    const param *p = param_find(&m->params, name);
    double sum = 0;
    if (!p) fail_msg("no %s", name);
    for (int64_t i = 0; i < p->count; i++) sum += (double)p->value[i] * (double)p->value[i];
    return sqrt(sum / (double)p->count);
}

/* The smallest matrix has 4,096 numbers: their deviation is known to 1.1 %, so 5 % is past chance. */
static void check(const owl *m, const char *name, double want) {
    double is = deviation(m, name);
    if (fabs(is / want - 1) > 0.05) fail_msg("%s: deviation %g, want %g", name, is, want);
}

static void each_part_begins_with_its_own_spread(void **state) {
    (void)state;
    owl *m = begin(1);
    const char *llm = "language_model.model.layers.3.", *vit = "vision_model.encoder.layers.5.";
    char n[PARAM_NAME];
    static const struct {
        bool vit;
        const char *name;
        double want;
    } MATRIX[] = {
        {false, "self_attn.q_proj.weight", 0.1},
        {false, "mlp.up_proj.weight", 0.1},
        {false, "self_attn.o_proj.weight", 0.1 / 2.8284271},
        {false, "mlp.down_proj.weight", 0.1 / 2.8284271},
        {true, "self_attn.query_key_value.weight", 0.06},
        {true, "self_attn.dense.weight", 0.06 / 3.4641016},
        {true, "mlp.fc2.weight", 0.06 / 3.4641016},
    };
    check(m, "language_model.model.embed_tokens.weight", 1);
    check(m, "language_model.lm_head.weight", 0.1);
    for (size_t i = 0; i < sizeof MATRIX / sizeof *MATRIX; i++) {
        snprintf(n, sizeof n, "%s%s", MATRIX[i].vit ? vit : llm, MATRIX[i].name);
        check(m, n, MATRIX[i].want);
    }
    owl_close(&m);
}

static void the_seed_alone_says_which(void **state) {
    (void)state;
    const char *name = "language_model.model.layers.0.self_attn.q_proj.weight";
    owl *a = begin(1), *b = begin(1), *c = begin(2);
    const param *x = param_find(&a->params, name), *y = param_find(&b->params, name),
                *z = param_find(&c->params, name);
    assert_memory_equal(x->value, y->value, (size_t)x->count * sizeof(float));
    assert_memory_not_equal(x->value, z->value, (size_t)x->count * sizeof(float));
    owl_close(&a);
    owl_close(&b);
    owl_close(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_part_begins_with_its_own_spread),
        cmocka_unit_test(the_seed_alone_says_which),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
