/*
 * The warpers against the reference: from each golden prompt's last logits the golden probability lists
 * (`sampling` in golden.json; a name like t0.7_k5_p0.9 gives the settings).  TYTO_GOLDEN_MODELS as in
 * test_prompt.c.
 */
#include "tests/support/ty_test.h"

#include "common/model/logits.h"
#include "common/model/safetensors.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int n_lists;

static ty_sampling settings(const char *name) {
    ty_sampling s;
    ty_sampling_default(&s);
    char *copy = strdup(name), *save = NULL;
    assert_non_null(copy);
    for (char *p = strtok_r(copy, "_", &save); p; p = strtok_r(NULL, "_", &save)) {
        if (*p == 't') s.temperature = atof(p + 1);
        if (*p == 'k') s.top_k = atoi(p + 1);
        if (*p == 'p') s.top_p = atof(p + 1);
    }
    free(copy);
    return s;
}

static void check_list(const ty_tensor *logits, const char *name, const json_t *want) {
    ty_sampling s = settings(name);
    int V = (int)logits->shape[logits->n_dim - 1];
    ty_candidate *c = malloc((size_t)V * sizeof *c);
    assert_non_null(c);
    int n = ty_logits_warp(logits->data, V, &s, c);
    const json_t *ids = json_object_get(want, "ids"), *probs = json_object_get(want, "probs");
    /* A list without a cut is stored only as far as its first entries. */
    bool cut = s.top_k || s.top_p < 1;
    if (cut ? (size_t)n != json_array_size(ids) : (size_t)n < json_array_size(ids))
        fail_msg("%s: %d candidates, want %zu", name, n, json_array_size(ids));
    for (size_t i = 0; i < json_array_size(ids); i++) {
        double p = json_number_value(json_array_get(probs, i));
        if (c[i].id != json_integer_value(json_array_get(ids, i)) ||
            fabs((double)c[i].p - p) > 1e-4)
            fail_msg("%s: candidate %zu is %d at %g, want %g", name, i, c[i].id, (double)c[i].p, p);
    }
    n_lists++;
    free(c);
}

static void check_model(const char *dir) {
    char file[1100], key[200];
    json_error_t where;
    ty_err err = {0};
    ty_safetensors *tensors = NULL;
    snprintf(file, sizeof file, "%s/golden.json", dir);
    json_t *golden = json_load_file(file, 0, &where), *prompt, *list;
    if (!golden) fail_msg("%s: %s", file, where.text);
    snprintf(file, sizeof file, "%s/golden.safetensors", dir);
    if (ty_safetensors_open(&tensors, file, &err) != TY_OK) fail_msg("%s", err.text);
    const char *name, *set;
    json_object_foreach(json_object_get(golden, "prompts"), name, prompt) {
        ty_tensor logits;
        snprintf(key, sizeof key, "prompt/%s/logits_last", name);
        if (ty_safetensors_find(tensors, key, &logits, &err) != TY_OK) fail_msg("%s", err.text);
        json_object_foreach(json_object_get(prompt, "sampling"), set, list)
            check_list(&logits, set, list);
    }
    ty_safetensors_close(&tensors);
    json_decref(golden);
}

static void warpers_give_the_golden_probabilities(void **state) {
    (void)state;
    const char *env = getenv("TYTO_GOLDEN_MODELS");
    char *dirs = strdup(env && *env ? env : "tests/golden/v1-micro"), *save = NULL;
    assert_non_null(dirs);
    for (char *dir = strtok_r(dirs, ":", &save); dir; dir = strtok_r(NULL, ":", &save))
        check_model(dir);
    free(dirs);
    print_message("%d lists\n", n_lists);
    assert_true(n_lists >= 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(warpers_give_the_golden_probabilities)};
    return cmocka_run_group_tests_name("golden sampling", tests, NULL, NULL);
}
