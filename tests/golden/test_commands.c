/*
 * The offline commands against the reference, as a person runs them: import, preprocess, vit,
 * abstractor, decoder, each in its own process, safetensors in between.  Every tensor that the golden
 * set holds for a model is compared with the tolerance of tests/golden/README.md.
 *
 * Runs over tests/golden/v1-micro and v2-micro, or over the directories that TYTO_GOLDEN_MODELS names (separated
 * by ':'), which may hold other sizes: nothing here knows a size.  Pictures are looked up in ../images.
 */
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "common/model/safetensors.h"
#include "tests/support/process.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 10x the error of the reference's own f32 run against f64 (tests/golden/README.md). */
static const double TOL_PIXEL = 1e-5, TOL_HIDDEN = 1e-4, TOL_VISUAL = 2e-4, TOL_LOGITS = 5e-4;
enum { MAX_MODELS = 8 };

typedef struct {
    char dir[1024];  /* the checkpoint and its golden.* */
    char out[1024];  /* scratch */
    char pipe[1100]; /* imported pipeline */
    json_t *golden;
    ty_safetensors *tensors;
} model;

static model models[MAX_MODELS];
static int n_model;

static void must(ty_status st, const ty_err *err) {
    if (st != TY_OK) fail_msg("%s: %s", ty_status_name(st), err->text);
}

static void run_ok(char *const *argv) {
    test_output o = test_run(argv, NULL, 0, 300);
    if (o.exit_code != 0) {
        print_error("%s ... -> %d\n%s%s\n", argv[0], o.exit_code, o.out, o.err);
        fail();
    }
    test_output_clear(&o);
}
#define RUN_OK(...) run_ok((char *const[]){__VA_ARGS__, NULL})

static char *bin(const char *name) {
    return (char *)(uintptr_t)test_bin(name);
}
static char *path(const char *text) {
    return (char *)(uintptr_t)text;
}

static ty_safetensors *open_tensors(const char *file) {
    ty_err err = {0};
    ty_safetensors *s = NULL;
    must(ty_safetensors_open(&s, file, &err), &err);
    return s;
}

static float at(const ty_tensor *t, int64_t i) {
    float x;
    ty_dtype_to_f32(t->dtype, t->data, (size_t)i, 1, &x);
    return x;
}

/* Rows of `got` starting at element `first` against the whole golden tensor `want`. */
static double worst(const ty_tensor *got, int64_t first, const ty_tensor *want) {
    int64_t n = ty_tensor_count(want);
    assert_true(first + n <= ty_tensor_count(got));
    double w = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)at(got, first + i) - (double)at(want, i));
        if (!(d <= w)) w = d; /* a NaN stays */
    }
    return w;
}

static void compare(const ty_safetensors *got, const char *name, int64_t index, const model *m,
                    const char *golden, double tol) {
    ty_err err = {0};
    ty_tensor g, w;
    must(ty_safetensors_find(m->tensors, golden, &w, &err), &err);
    must(ty_safetensors_find(got, name, &g, &err), &err);
    double d = worst(&g, index * ty_tensor_count(&w), &w);
    if (!(d <= tol)) fail_msg("%s: %s differs by %g, tolerance %g", m->dir, golden, d, tol);
}

static bool has(const model *m, const char *name) {
    ty_tensor t;
    return ty_safetensors_find(m->tensors, name, &t, NULL) == TY_OK;
}

/* pixel_values of `n` named pictures, through the three vision commands, into x/y/z.safetensors. */
static void see(const model *m, const json_t *files, const char *tag) {
    size_t n = json_array_size(files);
    char *argv[160];
    int c = 0;
    argv[c++] = bin("tyto-preprocess");
    argv[c++] = path("--model");
    argv[c++] = path(test_path("%s/preprocess.gguf", m->pipe));
    for (size_t i = 0; i < n; i++) {
        argv[c++] = path("--in");
        argv[c] = malloc(2048);
        snprintf(argv[c++], 2048, "%s/../images/%s", m->dir,
                 json_string_value(json_array_get(files, i)));
    }
    argv[c++] = path("--out");
    argv[c++] = path(test_path("%s/%s-x.safetensors", m->out, tag));
    argv[c] = NULL;
    run_ok(argv);
    for (size_t i = 0; i < n; i++) free(argv[4 + 2 * i]);
    RUN_OK(bin("tyto-vit"), path("--model"), path(test_path("%s/vit.gguf", m->pipe)), path("--in"),
           path(test_path("%s/%s-x.safetensors", m->out, tag)), path("--out"),
           path(test_path("%s/%s-y.safetensors", m->out, tag)), path("--dump"));
    RUN_OK(bin("tyto-abstractor"), path("--model"), path(test_path("%s/abstractor.gguf", m->pipe)),
           path("--in"), path(test_path("%s/%s-y.safetensors", m->out, tag)), path("--out"),
           path(test_path("%s/%s-z.safetensors", m->out, tag)), path("--dump"));
}

static void vision_is_the_reference_s(const model *m) {
    const json_t *files = json_object_get(m->golden, "image_order");
    see(m, files, "all");
    ty_safetensors *x = open_tensors(test_path("%s/all-x.safetensors", m->out));
    ty_safetensors *y = open_tensors(test_path("%s/all-y.safetensors", m->out));
    ty_safetensors *z = open_tensors(test_path("%s/all-z.safetensors", m->out));
    for (size_t i = 0; i < json_array_size(files); i++) {
        const char *f = json_string_value(json_array_get(files, i));
        int64_t k = (int64_t)i;
        compare(x, "pixel_values", k, m, test_path("img/%s/pixel_values", f), TOL_PIXEL);
        compare(y, "vit_embed", k, m, test_path("img/%s/vit_embed", f), TOL_HIDDEN);
        for (int l = 0; has(m, test_path("img/%s/vit_layer%d", f, l)); l++)
            compare(y, test_path("vit_layer%d", l), k, m, test_path("img/%s/vit_layer%d", f, l),
                    TOL_HIDDEN);
        compare(y, "image_features", k, m, test_path("img/%s/vit_out", f), TOL_HIDDEN);
        for (int l = 0; has(m, test_path("img/%s/abs_layer%d", f, l)); l++)
            compare(z, test_path("abs_layer%d", l), k, m, test_path("img/%s/abs_layer%d", f, l),
                    TOL_HIDDEN);
        compare(z, "visual_tokens", k, m, test_path("img/%s/visual_tokens", f), TOL_VISUAL);
    }
    ty_safetensors_close(&x);
    ty_safetensors_close(&y);
    ty_safetensors_close(&z);
}

/* --mode over the model's own, in the goldens' size, which --size gives: to the bit. */
static void other_modes_are_the_reference_s(const model *m) {
    static const char *const modes[][2] = {
        {"v1_native", "native"}, {"v2_pad", "pad"}, {"v2_resize", "resize"}, {"v2_None", "crop"}};
    ty_safetensors *all = open_tensors(test_path("%s/../images_golden/images.safetensors", m->dir));
    const char *file = "extreme.png";
    for (int i = 0; i < 4; i++) {
        char size[16];
        ty_err err = {0};
        ty_tensor want, got;
        must(ty_safetensors_find(all, test_path("%s/%s", file, modes[i][0]), &want, &err), &err);
        snprintf(size, sizeof(size), "%d", (int)want.shape[1]);
        const char *out = test_path("%s/mode.safetensors", m->out);
        RUN_OK(bin("tyto-preprocess"), path("--model"),
               path(test_path("%s/preprocess.gguf", m->pipe)), path("--mode"), path(modes[i][1]),
               path("--size"), size, path("--in"), path(test_path("%s/../images/%s", m->dir, file)),
               path("--out"), path(out));
        ty_safetensors *o = open_tensors(out);
        must(ty_safetensors_find(o, "pixel_values", &got, &err), &err);
        assert_int_equal(ty_tensor_count(&got), ty_tensor_count(&want));
        if (worst(&got, 0, &want) != 0) fail_msg("%s: %s differs", m->dir, modes[i][1]);
        ty_safetensors_close(&o);
    }
    ty_safetensors_close(&all);
}

/* Runs the decoder on a prompt (verbatim) with the extra fields given, and opens its output. */
static ty_safetensors *decode(const model *m, const char *prompt_name, const json_t *prompt,
                              const char *extra, int max_tokens, bool dump) {
    json_error_t je;
    json_t *body = json_loads(extra, 0, &je);
    assert_non_null(body);
    json_object_set(body, "prompt", json_object_get(prompt, "text"));
    json_object_set_new(body, "max_tokens", json_integer(max_tokens));
    char *text = json_dumps(body, 0);
    const char *request = test_path("%s/%s.json", m->out, prompt_name);
    ty_err err = {0};
    must(ty_file_write_atomic(request, text, strlen(text), &err), &err);
    free(text);
    json_decref(body);
    char *argv[24];
    int c = 0;
    argv[c++] = bin("tyto-decoder");
    argv[c++] = path("--model");
    argv[c++] = path(test_path("%s/decoder.gguf", m->pipe));
    argv[c++] = path("--in");
    argv[c++] = path(request);
    if (json_array_size(json_object_get(prompt, "images")) > 0) {
        argv[c++] = path("--visual");
        argv[c++] = path(test_path("%s/%s-z.safetensors", m->out, prompt_name));
    }
    if (dump) {
        argv[c++] = path("--dump");
        argv[c++] = path("--logits");
        argv[c++] = path("all");
    }
    const char *out = test_path("%s/%s-o.safetensors", m->out, prompt_name);
    argv[c++] = path("--out");
    argv[c++] = path(out);
    argv[c] = NULL;
    run_ok(argv);
    return open_tensors(out);
}

static void ids_equal(ty_safetensors *o, const char *name, const json_t *want, const char *what) {
    ty_err err = {0};
    ty_tensor t;
    must(ty_safetensors_find(o, name, &t, &err), &err);
    if (t.dtype != TY_I32) fail_msg("%s: %s is %s, want i32", what, name, ty_dtype_name(t.dtype));
    size_t n = json_array_size(want);
    if ((size_t)ty_tensor_count(&t) != n)
        fail_msg("%s: %zu ids, want %zu", what, (size_t)ty_tensor_count(&t), n);
    for (size_t i = 0; i < n; i++) {
        int got = ((const int32_t *)t.data)[i];
        int id = (int)json_integer_value(json_array_get(want, i));
        if (got != id) fail_msg("%s: id %zu is %d, want %d", what, i, got, id);
    }
}

static void logits_match(const model *m, ty_safetensors *o, const char *name) {
    if (has(m, test_path("prompt/%s/logits", name))) {
        compare(o, "logits", 0, m, test_path("prompt/%s/logits", name), TOL_LOGITS);
        return;
    }
    ty_err err = {0};
    ty_tensor g, sub;
    must(ty_safetensors_find(o, "logits", &g, &err), &err);
    compare(o, "logits", ty_tensor_rows(&g) - 1, m, test_path("prompt/%s/logits_last", name),
            TOL_LOGITS);
    if (!has(m, test_path("prompt/%s/logits_sub16", name)))
        return; /* long prompts: the last alone */
    must(ty_safetensors_find(m->tensors, test_path("prompt/%s/logits_sub16", name), &sub, &err),
         &err);
    assert_int_equal(ty_tensor_rows(&g), ty_tensor_rows(&sub));
    for (int64_t r = 0; r < ty_tensor_rows(&sub); r++)
        for (int64_t c = 0; c < ty_tensor_cols(&sub); c++) {
            double d = fabs((double)at(&g, r * ty_tensor_cols(&g) + 16 * c) -
                            (double)at(&sub, r * ty_tensor_cols(&sub) + c));
            if (!(d <= TOL_LOGITS))
                fail_msg("%s: logits of %s row %d differ by %g", m->dir, name, (int)r, d);
        }
}

static void input_ids_match(const model *m, ty_safetensors *o, const char *golden) {
    ty_err err = {0};
    ty_tensor got, want;
    must(ty_safetensors_find(o, "input_ids", &got, &err), &err);
    must(ty_safetensors_find(m->tensors, golden, &want, &err), &err);
    assert_int_equal(got.dtype, TY_I32);
    assert_int_equal(ty_tensor_count(&got), ty_tensor_count(&want));
    for (int64_t i = 0; i < ty_tensor_count(&want); i++)
        assert_int_equal(((const int32_t *)got.data)[i], ((const int64_t *)want.data)[i]);
}

/* The prompt, every hidden state, logits at every position, and greedy ids. */
static void prompt_is_the_reference_s(const model *m, const char *name, const json_t *p) {
    if (json_array_size(json_object_get(p, "images")) > 0)
        see(m, json_object_get(p, "images"), name);
    const json_t *greedy = json_object_get(p, "greedy_ids");
    ty_safetensors *o = decode(m, name, p, "{}", (int)json_array_size(greedy), true);
    input_ids_match(m, o, test_path("prompt/%s/input_ids", name));
    compare(o, "inputs_embeds", 0, m, test_path("prompt/%s/inputs_embeds", name), TOL_HIDDEN);
    for (int k = 0; has(m, test_path("prompt/%s/hidden%d", name, k)); k++)
        compare(o, test_path("hidden%d", k), 0, m, test_path("prompt/%s/hidden%d", name, k),
                TOL_HIDDEN);
    logits_match(m, o, name);
    ids_equal(o, "generated_ids", greedy, test_path("%s %s greedy", m->dir, name));
    ty_safetensors_close(&o);

    const json_t *ngram = json_object_get(p, "greedy_no_repeat_ngram2");
    if (ngram) {
        const json_t *ids = json_object_get(ngram, "ids");
        o = decode(m, name, p, "{\"no_repeat_ngram_size\": 2}", (int)json_array_size(ids), false);
        ids_equal(o, "generated_ids", ids, test_path("%s %s no_repeat_ngram", m->dir, name));
        ty_safetensors_close(&o);
    }
    const json_t *beam = json_object_get(p, "beam3_no_repeat_ngram2");
    if (beam) {
        o = decode(m, name, p, "{\"no_repeat_ngram_size\": 2, \"num_beams\": 3}", 16, false);
        ids_equal(o, "generated_ids", json_object_get(beam, "ids"),
                  test_path("%s %s beams", m->dir, name));
        ty_safetensors_close(&o);
    }
    o = decode(m, name, p, "{}", 0, false);
    ids_equal(o, "generated_ids", NULL, test_path("%s %s max_tokens 0", m->dir, name));
    ty_safetensors_close(&o);
}

/* Two adjacent placeholders are one run in the reference: one picture goes in, the second run keeps
 * rows of the embedding of id 0 (NOTES §5). */
static void adjacent_pictures_are_the_reference_s(const model *m) {
    const json_t *q = json_object_get(m->golden, "quirk_adjacent_images");
    if (!q) return;
    see(m, json_object_get(q, "images"), "quirk");
    ty_safetensors *o = decode(m, "quirk", q, "{}", 0, true);
    input_ids_match(m, o, "quirk/adjacent_images/input_ids");
    compare(o, "inputs_embeds", 0, m, "quirk/adjacent_images/inputs_embeds", TOL_HIDDEN);
    ty_safetensors_close(&o);
}

static void import(const char *src, const char *dst) {
    RUN_OK(bin("tyto"), path("import"), path(src), path(dst));
}

static void commands_give_the_reference_s_pictures(void **state) {
    (void)state;
    for (int i = 0; i < n_model; i++) vision_is_the_reference_s(&models[i]);
}

static void commands_take_pictures_in_every_mode(void **state) {
    (void)state;
    for (int i = 0; i < n_model; i++) other_modes_are_the_reference_s(&models[i]);
}

static void commands_give_the_reference_s_prompts(void **state) {
    (void)state;
    for (int i = 0; i < n_model; i++) {
        const char *name;
        json_t *p;
        json_object_foreach(json_object_get(models[i].golden, "prompts"), name, p)
            prompt_is_the_reference_s(&models[i], name, p);
    }
}

static void commands_keep_the_reference_s_quirk(void **state) {
    (void)state;
    for (int i = 0; i < n_model; i++) adjacent_pictures_are_the_reference_s(&models[i]);
}

/* One forward of token ids 3..42 for each container: needs a text whose tokens they are, so it stands
 * in test_decoder; here each container must import and answer alike with the vision commands. */
static void commands_read_every_container_alike(void **state) {
    (void)state;
    for (int i = 0; i < n_model; i++) {
        const char *sub;
        json_t *info;
        json_object_foreach(json_object_get(models[i].golden, "formats"), sub, info) {
            if (strcmp(sub, ".") == 0) continue;
            model m = models[i];
            snprintf(m.pipe, sizeof(m.pipe), "%s", test_path("%s/pipe-%s", m.out, sub));
            import(test_path("%s/%s", m.dir, sub), m.pipe);
            if (strcmp(json_string_value(json_object_get(info, "dtype")), "torch.float32") == 0)
                vision_is_the_reference_s(&m);
        }
    }
}

/* Import with the reference's LoRA adapter, in both containers: its logits with the adapter merged. */
static void commands_merge_an_adapter(void **state) {
    (void)state;
    static const char *const folders[] = {"lora-adapter", "lora-adapter-safetensors"};
    for (int i = 0; i < n_model; i++)
        for (int f = 0; f < 2 && has(&models[i], "stage2_lora/merged_logits_last"); f++) {
            model m = models[i];
            const json_t *p = json_object_get(json_object_get(m.golden, "prompts"), "img1");
            snprintf(m.pipe, sizeof(m.pipe), "%s", test_path("%s/pipe-%s", m.out, folders[f]));
            RUN_OK(bin("tyto"), path("import"), path(m.dir), path(m.pipe), path("--adapter"),
                   path(test_path("%s/%s", m.dir, folders[f])));
            see(&m, json_object_get(p, "images"), "img1");
            ty_safetensors *o = decode(&m, "img1", p, "{}", 0, true);
            ty_err err = {0};
            ty_tensor g;
            must(ty_safetensors_find(o, "logits", &g, &err), &err);
            compare(o, "logits", ty_tensor_rows(&g) - 1, &m, "stage2_lora/merged_logits_last",
                    TOL_LOGITS);
            ty_safetensors_close(&o);
        }
}

static void adapter_of_another_model_is_refused(void **state) {
    (void)state;
    test_output o =
        TEST_RUN(bin("tyto"), path("import"), path(test_path("%s/v2-micro", test_golden_dir())),
                 path(test_path("%s/refused", models[0].out)), path("--adapter"),
                 path(test_path("%s/v1-micro/lora-adapter", test_golden_dir())));
    assert_int_equal(o.exit_code, 1);
    assert_non_null(strstr(o.err, "another model's adapter?"));
    test_output_clear(&o);
}

static int open_models(void **state) {
    (void)state;
    const char *list = getenv("TYTO_GOLDEN_MODELS");
    char *copy = strdup(
        list ? list : test_path("%s/v1-micro:%s/v2-micro", test_golden_dir(), test_golden_dir()));
    for (char *rest = copy, *dir; (dir = strsep(&rest, ":")) != NULL;) {
        if (!*dir || n_model == MAX_MODELS) continue;
        model *m = &models[n_model++];
        snprintf(m->dir, sizeof(m->dir), "%s", dir);
        snprintf(m->out, sizeof(m->out), "%s", test_temp_dir());
        snprintf(m->pipe, sizeof(m->pipe), "%s", test_path("%s/pipe", m->out));
        m->golden = json_load_file(test_path("%s/golden.json", dir), 0, NULL);
        assert_non_null(m->golden);
        m->tensors = open_tensors(test_path("%s/golden.safetensors", dir));
        import(dir, m->pipe);
    }
    free(copy);
    return 0;
}

static int close_models(void **state) {
    (void)state;
    for (int i = 0; i < n_model; i++) {
        json_decref(models[i].golden);
        ty_safetensors_close(&models[i].tensors);
    }
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commands_give_the_reference_s_pictures),
        cmocka_unit_test(commands_take_pictures_in_every_mode),
        cmocka_unit_test(commands_give_the_reference_s_prompts),
        cmocka_unit_test(commands_keep_the_reference_s_quirk),
        cmocka_unit_test(commands_read_every_container_alike),
        cmocka_unit_test(commands_merge_an_adapter),
        cmocka_unit_test(adapter_of_another_model_is_refused),
    };
    return cmocka_run_group_tests_name("commands", tests, open_models, close_models);
}
