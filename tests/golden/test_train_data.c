/*
 * The reference's training records, read, tokenised and masked as its data sets do: ids, labels and pixels
 * of both batches of v1-micro and v2-micro, element by element.
 */
#include "tests/support/ty_test.h"

#include "common/model/safetensors.h"
#include "training/batch.h"
#include "training/dataset.h"
#include "training/pictures.h"

#include <stdio.h>
#include <string.h>

static void must(ty_status st, const ty_err *err) {
    if (st != TY_OK) fail_msg("%s: %s", ty_status_name(st), err->text);
}

static void find(ty_safetensors *file, const char *batch, const char *name, ty_tensor *t) {
    char full[64];
    ty_err err = {0};
    snprintf(full, sizeof full, "train/%s/%s", batch, name);
    must(ty_safetensors_find(file, full, t, &err), &err);
}

/* Row r of the stored batch begins with the sample and goes on with padding. */
static void check_sample(const sample *s, const ty_tensor *id, const ty_tensor *label, int64_t r) {
    int64_t n = id->shape[1];
    const int32_t *ids = (const int32_t *)id->data + r * n,
                  *labels = (const int32_t *)label->data + r * n;
    assert_true(s->n <= n);
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] != (i < s->n ? s->id[i] : 0)) fail_msg("id %d is not %d", (int)i, ids[i]);
        /* the first label is never scored */
        if (i > 0 && labels[i] != (i < s->n ? s->label[i] : OWL_IGNORE))
            fail_msg("label %d is not %d", (int)i, labels[i]);
    }
}

static void check_version(int version, const char *data, int max_length) {
    char model[64], path[4400];
    ty_err err = {0};
    ty_tokenizer *tokenizer = NULL;
    ty_safetensors *file = NULL;
    dataset d;
    pictures p;
    snprintf(model, sizeof model, "tests/golden/v%d-micro", version);
    snprintf(path, sizeof path, "%s/tokenizer.model", model);
    must(ty_tokenizer_from_spm(&tokenizer, path, &err), &err);
    snprintf(path, sizeof path, "%s/golden.safetensors", model);
    must(ty_safetensors_open(&file, path, &err), &err);
    sample_rules rules = {tokenizer, version, 4, max_length};
    must(dataset_open(&d, data, "tests/golden/images", &rules, &err), &err);
    must(pictures_open(&p, model, 28, version, false, &err), &err);
    assert_int_equal(d.n, 4);
    assert_int_equal(d.n_bad + d.n_empty, 0);
    for (int b = 0; b < 2; b++) {
        const char *batch = b ? "batchB" : "batchA";
        ty_tensor id, label, pixels;
        int64_t picture = 0;
        find(file, batch, "input_ids", &id);
        find(file, batch, version == 2 ? "labels" : "labels_final", &label);
        find(file, batch, version == 2 ? "images" : "pixel_values", &pixels);
        for (int r = 0; r < 2; r++) {
            const sample *s = &d.item[2 * b + r];
            check_sample(s, &id, &label, r);
            for (int i = 0; i < s->n_picture; i++) {
                float got[3 * 28 * 28];
                snprintf(path, sizeof path, "%s/%s", d.folder, s->picture[i]);
                must(pictures_load(&p, path, 0, 0, got, &err), &err);
                assert_memory_equal(got, (const float *)pixels.data + (picture + i) * 3 * 28 * 28,
                                    sizeof got);
            }
            /* v2's text samples carry a picture of zeros */
            picture += version == 2 ? 1 : s->n_picture;
        }
    }
    pictures_close(&p);
    dataset_close(&d);
    ty_safetensors_close(&file);
    ty_tokenizer_destroy(&tokenizer);
}

static void records_become_the_references_batches(void **state) {
    (void)state;
    check_version(1, "tests/golden/images_golden/v1_train.jsonl", 321);
    check_version(2, "tests/golden/images_golden/v2_train.json", 2048);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(records_become_the_references_batches)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
