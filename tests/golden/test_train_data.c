/*
 * The reference's training records, read, tokenised and masked as its data sets do: ids, labels and pixels
 * of both batches of v1-micro and v2-micro, element by element; its learning rates; and records and
 * pictures that cannot be used.
 */
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "common/model/safetensors.h"
#include "tests/support/process.h"
#include "training/batch.h"
#include "training/dataset.h"
#include "training/pictures.h"
#include "training/recipe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
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
    sample_rules rules = {
        .tokenizer = tokenizer, .version = version, .visual_rows = 4, .max_length = max_length};
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

/* "lr_schedule_<kind>_warmup<w>_total<n>_lr<x>": the learning rate at some steps. */
static void check_schedule(const char *path, schedule_kind kind, const char *prefix) {
    json_t *golden = json_load_file(path, 0, NULL), *table, *value;
    const char *name, *step;
    int checked = 0;
    assert_non_null(golden);
    json_object_foreach(golden, name, table) {
        int warmup, total;
        double lr;
        if (strncmp(name, prefix, strlen(prefix)) != 0) continue;
        assert_int_equal(sscanf(name + strlen(prefix), "%d_total%d_lr%lf", &warmup, &total, &lr),
                         3);
        json_object_foreach(table, step, value) {
            double got = lr * schedule_factor(kind, atoll(step), warmup, total);
            if (fabs(got - json_number_value(value)) > 1e-8 * lr + 1e-6 * got)
                fail_msg("%s: step %s is %g, want %g", name, step, got, json_number_value(value));
            checked++;
        }
    }
    assert_true(checked > 5);
    json_decref(golden);
}

static void schedules_equal_the_references(void **state) {
    (void)state;
    check_schedule("tests/golden/v1-micro/golden.json", SCHEDULE_LINEAR,
                   "lr_schedule_linear_warmup");
    check_schedule("tests/golden/v2-micro/golden.json", SCHEDULE_COSINE,
                   "lr_schedule_cosine_warmup");
}

/* ---- records and pictures that cannot be used ---- */

static void write_file(const char *path, const char *text) {
    ty_err err = {0};
    must(ty_file_write_atomic(path, text, strlen(text), &err), &err);
}

/* Opens a good record and a wrong one behind it, which is left out and said to be `what`. */
static void open_good_and_wrong(dataset *d, const sample_rules *rules, const char *good,
                                const char *wrong, const char *what) {
    char path[4200], text[1024];
    ty_err err = {0};
    snprintf(path, sizeof path, "%s/labels.jsonl", test_temp_dir());
    snprintf(text, sizeof text, "%s\n%s\n", good, wrong);
    write_file(path, text);
    must(dataset_open(d, path, NULL, rules, &err), &err);
    assert_int_equal(d->n, 1);
    assert_int_equal(d->n_bad, 1);
    if (!strstr(d->first_bad, what)) fail_msg("%s: %s", what, d->first_bad);
}

static void cells_are_read_and_what_is_wrong_with_them_is_said(void **state) {
    (void)state;
    static const struct {
        const char *record, *what;
    } WRONG[] = {
        {"{\"image\": \"a.jpg\", \"cells\": [\"0123\"]}", "1 texts, the first record has 2"},
        {"{\"image\": \"a.jpg\", \"cells\": [\"0123\", \"01\"]}", "texts of 4 letters"},
        {"{\"image\": \"a.jpg\", \"cells\": [\"0123\", \"01 3\"]}", "neither '.' nor"},
        {"{\"image\": \"a.jpg\"}", "no list \"cells\""},
        {"{\"image\": [\"a.jpg\", \"b.jpg\"], \"cells\": [\"0123\", \"0123\"]}", "one picture"},
    };
    dataset d;
    sample_rules rules = {.lesson = LESSON_CELLS, .cells = 4};
    for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++) {
        open_good_and_wrong(&d, &rules, "{\"image\": \"a.jpg\", \"cells\": [\"01.o\", \"....\"]}",
                            WRONG[i].record, WRONG[i].what);
        static const int32_t want[] = {0,          1,          OWL_IGNORE, 63,
                                       OWL_IGNORE, OWL_IGNORE, OWL_IGNORE, OWL_IGNORE};
        assert_int_equal(d.item[0].n, 8);
        assert_memory_equal(d.item[0].label, want, sizeof want);
        assert_int_equal(d.item[0].n_target, 3);
        assert_string_equal(d.item[0].picture[0], "a.jpg");
        dataset_close(&d);
    }
}

static void rows_are_read_and_what_is_wrong_with_them_is_said(void **state) {
    (void)state;
    static const struct {
        const char *record, *what;
    } WRONG[] = {
        {"{\"image\": \"a.jpg\", \"rows\": [\" the\", \"4\"]}", "3 pieces"},
        {"{\"image\": \"a.jpg\", \"rows\": [\" the\", \"4\", \"thethethe\"]}", "a row is one"},
        {"{\"image\": \"a.jpg\", \"rows\": [\" the\", 4, \"4\"]}", "not only texts"},
        {"{\"image\": \"a.jpg\"}", "3 pieces"},
        {"{\"image\": [\"a.jpg\", \"b.jpg\"], \"rows\": [\" the\", \"4\", \" the\"]}",
         "one picture"},
    };
    ty_err err = {0};
    ty_tokenizer *tokenizer = NULL;
    ty_ids the = {0}, four = {0};
    dataset d;
    must(ty_tokenizer_from_spm(&tokenizer, "tests/golden/v1-micro/tokenizer.model", &err), &err);
    must(ty_tokenizer_encode(tokenizer, TY_TOKENIZE_SPM, "the", 3, &the, &err), &err);
    must(ty_tokenizer_encode(tokenizer, TY_TOKENIZE_SPM, "4", 1, &four, &err), &err);
    assert_int_equal(the.n, 1);
    sample_rules rules = {.tokenizer = tokenizer, .lesson = LESSON_ROWS, .visual_rows = 3};
    for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++) {
        open_good_and_wrong(&d, &rules,
                            "{\"image\": \"a.jpg\", \"rows\": [\" the\", \"4\", \" the\"]}",
                            WRONG[i].record, WRONG[i].what);
        assert_int_equal(d.item[0].n_target, 3);
        assert_int_equal(d.item[0].label[0], the.id[0]);
        assert_int_equal(d.item[0].label[1], four.id[four.n - 1]);
        dataset_close(&d);
    }
    ty_ids_clear(&the);
    ty_ids_clear(&four);
    ty_tokenizer_destroy(&tokenizer);
}

static void unusable_records_are_counted_and_left_out(void **state) {
    (void)state;
    char path[4200];
    ty_err err = {0};
    ty_tokenizer *tokenizer = NULL;
    dataset d;
    must(ty_tokenizer_from_spm(&tokenizer, "tests/golden/v1-micro/tokenizer.model", &err), &err);
    sample_rules rules = {
        .tokenizer = tokenizer, .version = 1, .visual_rows = 4, .max_length = 512};
    const char *dir = test_temp_dir();
    snprintf(path, sizeof path, "%s/some.jsonl", dir);
    write_file(
        path, "{\"text\": \"Human: no answer\"}\n{\"image\": 3, \"text\": \"Human: a\\nAI: b\"}\n\n"
              "{\"nothing\": 1}\n{\"text\": \"Human: a\\nAI: b\"}\n");
    must(dataset_open(&d, path, NULL, &rules, &err), &err);
    assert_int_equal(d.n_read, 4);
    assert_int_equal(d.n, 1);
    assert_int_equal(d.n_empty, 1);
    assert_int_equal(d.n_bad, 2);
    assert_non_null(strstr(d.first_bad, "record 2"));
    assert_string_equal(d.folder, dir);
    dataset_close(&d);
    write_file(path, "{\"text\": \"Human: no answer\"}\n");
    assert_int_equal(dataset_open(&d, path, NULL, &rules, &err), TY_EFORMAT);
    assert_non_null(strstr(err.text, "no record"));
    write_file(path, "{\"text\": \n");
    assert_int_equal(dataset_open(&d, path, NULL, &rules, &err), TY_EFORMAT);
    assert_non_null(strstr(err.text, "line 1"));
    ty_tokenizer_destroy(&tokenizer);
}

static void order_is_a_permutation_of_each_epoch(void **state) {
    (void)state;
    sample items[50] = {0};
    dataset d = {.item = items, .n = 50};
    dataset_order order = {-1, NULL}, again = {-1, NULL};
    int moved = 0;
    for (int epoch = 0; epoch < 3; epoch++) {
        int seen[50] = {0};
        for (int i = 0; i < 50; i++) {
            const sample *s;
            assert_int_equal(dataset_at(&d, 9, epoch * 50 + i, &order, &s, NULL), TY_OK);
            seen[s - items]++;
            moved += s - items != i;
        }
        for (int i = 0; i < 50; i++) assert_int_equal(seen[i], 1);
    }
    assert_true(moved > 100);
    const sample *a, *b; /* any place can be asked for first */
    assert_int_equal(dataset_at(&d, 9, 77, &order, &a, NULL), TY_OK);
    assert_int_equal(dataset_at(&d, 9, 77, &again, &b, NULL), TY_OK);
    assert_ptr_equal(a, b);
    free(order.index);
    free(again.index);
}

static void augmented_picture_depends_on_its_draw_alone(void **state) {
    (void)state;
    enum { N = 3 * 28 * 28 };
    static float a[N], b[N], c[N];
    pictures p;
    ty_err err = {0};
    const char *path = "tests/golden/images/photo_47.jpg";
    must(pictures_open(&p, "tests/golden/v1-micro", 28, 1, true, &err), &err);
    must(pictures_load(&p, path, 3, 5, a, &err), &err);
    must(pictures_load(&p, path, 3, 5, b, &err), &err);
    must(pictures_load(&p, path, 3, 6, c, &err), &err);
    assert_memory_equal(a, b, sizeof a);
    assert_memory_not_equal(a, c, sizeof a);
    assert_int_equal(pictures_load(&p, "tests/golden/images/none.jpg", 3, 5, a, &err),
                     TY_ENOTFOUND);
    assert_non_null(strstr(err.text, "none.jpg"));
    pictures_close(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_become_the_references_batches),
        cmocka_unit_test(schedules_equal_the_references),
        cmocka_unit_test(cells_are_read_and_what_is_wrong_with_them_is_said),
        cmocka_unit_test(rows_are_read_and_what_is_wrong_with_them_is_said),
        cmocka_unit_test(unusable_records_are_counted_and_left_out),
        cmocka_unit_test(order_is_a_permutation_of_each_epoch),
        cmocka_unit_test(augmented_picture_depends_on_its_draw_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
