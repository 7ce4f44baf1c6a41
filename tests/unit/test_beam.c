/*
 * beam.h against transformers' own beam search on small made-up models: tests/unit/data/beam_cases.json,
 * made by tests/support/make_beam_cases.py.
 */
#include "tests/support/ty_test.h"

#include "common/model/beam.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { V_MAX = 64, STEPS_MAX = 64 };

/* logits[(length - 1) % 3][last token], as the generating script has it. */
typedef struct {
    int V;
    float logits[3][V_MAX][V_MAX];
} made_up;

static void load_model(const json_t *j, made_up *m) {
    m->V = (int)json_integer_value(json_object_get(j, "vocab"));
    assert_true(m->V <= V_MAX);
    const json_t *table = json_object_get(j, "logits");
    for (size_t p = 0; p < 3; p++)
        for (size_t a = 0; a < (size_t)m->V; a++)
            for (size_t b = 0; b < (size_t)m->V; b++)
                m->logits[p][a][b] = (float)json_number_value(
                    json_array_get(json_array_get(json_array_get(table, p), a), b));
}

/* Runs a whole search; last[] follows the beams as a decoder's KV would. */
static const int32_t *search(const made_up *m, ty_beam *b, const ty_sampling *s, int32_t bos,
                             int *n, double *score) {
    int32_t last[TY_BEAMS_MAX] = {bos};
    float *logits = malloc(sizeof *logits * TY_BEAMS_MAX * V_MAX);
    assert_non_null(logits);
    for (int step = 0; !ty_beam_done(b); step++) {
        int parent[TY_BEAMS_MAX], live = ty_beam_live(b);
        int32_t token[TY_BEAMS_MAX];
        ty_err err = {0};
        assert_int_equal(live, step ? s->num_beams : 1);
        for (int j = 0; j < live; j++)
            memcpy(logits + j * m->V, m->logits[step % 3][last[j]], (size_t)m->V * sizeof *logits);
        if (ty_beam_step(b, logits, parent, token, &err) != TY_OK) fail_msg("%s", err.text);
        for (int j = 0; j < s->num_beams; j++) {
            assert_in_range(parent[j], 0, live == 1 ? s->num_beams - 1 : live - 1);
            assert_in_range(token[j], 0, m->V - 1);
        }
        memcpy(last, token, sizeof *last * (size_t)s->num_beams);
    }
    free(logits);
    return ty_beam_best(b, n, score);
}

static int whole(const json_t *c, const char *key) {
    return (int)json_integer_value(json_object_get(c, key));
}

static ty_sampling sampling_of(const json_t *c) {
    ty_sampling s;
    ty_sampling_default(&s);
    s.num_beams = whole(c, "num_beams");
    s.max_tokens = whole(c, "max_tokens");
    s.no_repeat_ngram_size = whole(c, "no_repeat_ngram_size");
    s.length_penalty = json_number_value(json_object_get(c, "length_penalty"));
    s.repetition_penalty = json_number_value(json_object_get(c, "repetition_penalty"));
    s.early_stopping = json_is_true(json_object_get(c, "early_stopping"));
    return s;
}

static void check_case(const made_up *m, const json_t *all, const json_t *c) {
    ty_sampling s = sampling_of(c);
    ty_beam *b = NULL;
    int n;
    double score;
    int32_t bos = (int32_t)whole(all, "bos"), eos = (int32_t)whole(all, "eos");
    assert_int_equal(ty_beam_create(&b, &s, m->V, bos, eos, NULL), TY_OK);
    const int32_t *ids = search(m, b, &s, bos, &n, &score);
    const json_t *want = json_object_get(c, "ids");
    bool same = (size_t)n == json_array_size(want);
    for (int i = 0; i < n && same; i++)
        same = ids[i] == json_integer_value(json_array_get(want, (size_t)i));
    double want_score = json_number_value(json_object_get(c, "score"));
    if (!same || fabs(score - want_score) > 1e-4 * fmax(1, fabs(want_score))) {
        char *text = json_dumps(c, 0);
        fail_msg("got %d ids, score %g; %s", n, score, text);
    }
    ty_beam_destroy(&b);
}

static void beam_finds_what_transformers_finds(void **state) {
    (void)state;
    json_error_t where;
    json_t *all = json_load_file("tests/unit/data/beam_cases.json", 0, &where);
    if (!all) fail_msg("beam_cases.json: %s", where.text);
    static made_up m;
    json_t *model, *c;
    size_t i, j, n = 0;
    json_array_foreach(json_object_get(all, "models"), i, model) {
        load_model(model, &m);
        json_array_foreach(json_object_get(model, "cases"), j, c) {
            check_case(&m, all, c);
            n++;
        }
    }
    assert_true(n > 500);
    json_decref(all);
}

static void fill(made_up *m, int V, unsigned seed) {
    m->V = V;
    for (int p = 0; p < 3; p++)
        for (int a = 0; a < V; a++)
            for (int b = 0; b < V; b++) m->logits[p][a][b] = (float)(rand_r(&seed) % 1000) / 100;
}

static void beam_sample_repeats_with_its_seed(void **state) {
    (void)state;
    static made_up m;
    fill(&m, 30, 7);
    ty_sampling s;
    ty_sampling_default(&s);
    s.num_beams = 4;
    s.temperature = 1.5;
    s.max_tokens = 20;
    s.top_k = 10;
    int32_t first[2][STEPS_MAX];
    int n[2], differ = 0;
    double score;
    for (int run = 0; run < 6; run++) {
        ty_beam *b = NULL;
        int len;
        s.seed = run < 2 ? 11 : (uint64_t)run;
        assert_int_equal(ty_beam_create(&b, &s, m.V, 1, 2, NULL), TY_OK);
        const int32_t *ids = search(&m, b, &s, 1, &len, &score);
        assert_in_range(len, 1, 20);
        if (run < 2) {
            n[run] = len;
            memcpy(first[run], ids, (size_t)len * sizeof *ids);
        } else {
            differ += len != n[0] || memcmp(first[0], ids, (size_t)len * sizeof *ids) != 0;
        }
        ty_beam_destroy(&b);
    }
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(first[0], first[1], (size_t)n[0] * sizeof **first);
    assert_true(differ > 0);
}

static void beam_gives_nothing_when_no_token_is_wanted(void **state) {
    (void)state;
    ty_sampling s;
    ty_sampling_default(&s);
    s.num_beams = 3;
    s.max_tokens = 0;
    ty_beam *b = NULL;
    int n;
    double score;
    assert_int_equal(ty_beam_create(&b, &s, 10, 1, 2, NULL), TY_OK);
    assert_true(ty_beam_done(b));
    ty_beam_best(b, &n, &score);
    assert_int_equal(n, 0);
    ty_beam_destroy(&b);
}

static void beam_refuses_more_beams_than_the_limit(void **state) {
    (void)state;
    ty_sampling s;
    ty_sampling_default(&s);
    s.num_beams = TY_BEAMS_MAX + 1;
    ty_beam *b = NULL;
    ty_err err = {0};
    assert_int_equal(ty_beam_create(&b, &s, 10, 1, 2, &err), TY_EINVAL);
    assert_null(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(beam_finds_what_transformers_finds),
        cmocka_unit_test(beam_sample_repeats_with_its_seed),
        cmocka_unit_test(beam_gives_nothing_when_no_token_is_wanted),
        cmocka_unit_test(beam_refuses_more_beams_than_the_limit),
    };
    return cmocka_run_group_tests_name("beam", tests, NULL, NULL);
}
