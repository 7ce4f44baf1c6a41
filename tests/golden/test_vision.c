/*
 * The three vision stages, called directly, against the reference:
 *   decoded pictures by hash and pixel values of every mode, exactly;
 *   every ViT and abstractor layer and the visual tokens, for each kernel table that this machine runs,
 *   one by one and all in one batch, on one thread and on several: within the tolerance, and the batches
 *   bitwise equal to the single pictures;
 *   and model files that are cut, of another stage, or at odds with their metadata.
 *
 * Runs over tests/golden/v1-micro or the directories in TYTO_GOLDEN_MODELS (':' between them); pictures are
 * in ../images, their goldens in ../images_golden.  No size is known here.
 *
 * A process has one kernel table, so each is tested by this program started anew: --kernels PIPELINE MODEL.
 */
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "common/math/cpu.h"
#include "common/model/safetensors.h"
#include "services/abstractor/abstractor.h"
#include "services/preprocess/preprocess.h"
#include "services/vit/vit.h"
#include "tests/support/process.h"

#include <jansson.h>
#include <math.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 10x the error of the reference's own f32 run against f64 (tests/golden/README.md). */
static const double TOL_HIDDEN = 1e-4, TOL_VISUAL = 2e-4;
enum { MAX_MODELS = 8, MAX_PICTURES = 64, MAX_DUMPS = 128 };

static char models[MAX_MODELS][1024], pipelines[MAX_MODELS][1100];
static int n_model;

static void must(ty_status st, const ty_err *err) {
    if (st != TY_OK) fail_msg("%s: %s", ty_status_name(st), err->text);
}

static json_t *read_json(const char *path) {
    json_error_t e;
    json_t *j = json_load_file(path, 0, &e);
    if (!j) fail_msg("%s: %s", path, e.text);
    return j;
}

static ty_safetensors *open_tensors(const char *path) {
    ty_err err = {0};
    ty_safetensors *s = NULL;
    must(ty_safetensors_open(&s, path, &err), &err);
    return s;
}

static char *read_file(const char *path, size_t *n) {
    ty_err err = {0};
    char *data = NULL;
    must(ty_file_read(path, 64 << 20, &data, n, &err), &err);
    return data;
}

static preprocess *make_preprocess(const char *pipeline) {
    ty_err err = {0};
    preprocess *p = NULL;
    must(preprocess_create(&p, test_path("%s/preprocess.gguf", pipeline), NULL, &err), &err);
    return p;
}

/* ---- pictures ---- */

static void decoded_pictures_have_the_reference_hashes(void **state) {
    (void)state;
    preprocess *p = make_preprocess(pipelines[0]);
    json_t *all = read_json(test_path("%s/../images_golden/images.json", models[0]));
    const char *name;
    json_t *about;
    int n = 0;
    json_object_foreach(json_object_get(all, "images"), name, about) {
        uint8_t *rgb, hash[EVP_MAX_MD_SIZE];
        char hex[2 * EVP_MAX_MD_SIZE + 1] = "";
        unsigned hash_len = 0;
        int w, h;
        size_t size;
        ty_err err = {0};
        char *bytes = read_file(test_path("%s/../images/%s", models[0], name), &size);
        must(preprocess_decode(p, (uint8_t *)bytes, size, &rgb, &w, &h, &err), &err);
        assert_int_equal(w,
                         json_integer_value(json_array_get(json_object_get(about, "size_wh"), 0)));
        assert_int_equal(h,
                         json_integer_value(json_array_get(json_object_get(about, "size_wh"), 1)));
        assert_true(
            EVP_Digest(rgb, (size_t)w * (size_t)h * 3, hash, &hash_len, EVP_sha256(), NULL));
        for (unsigned i = 0; i < hash_len; i++) sprintf(hex + 2 * i, "%02x", hash[i]);
        if (strcmp(hex, json_string_value(json_object_get(about, "rgb_sha256"))) != 0)
            fail_msg("%s: the decoded picture differs", name);
        free(rgb);
        free(bytes);
        n++;
    }
    assert_true(n > 0);
    json_decref(all);
    preprocess_destroy(&p);
}

static const struct {
    const char *golden;
    preprocess_mode mode;
} modes[] = {{"v1_native", PREPROCESS_NATIVE}, {"v1_rgb", PREPROCESS_RGB},
             {"v2_pad", PREPROCESS_PAD},       {"v2_resize", PREPROCESS_RESIZE},
             {"v2_None", PREPROCESS_CROP},     {"v1_native_S224", PREPROCESS_NATIVE},
             {"v2_pad_S448", PREPROCESS_PAD},  {"v2_resize_S448", PREPROCESS_RESIZE}};
enum { N_MODES = sizeof modes / sizeof *modes };

/* pixel_values [3, S, S] f32, or the picture before normalisation [3, S, S] u8. */
static void check_picture(preprocess *p, const char *bytes, size_t n_bytes, preprocess_mode mode,
                          const ty_tensor *want, const char *name) {
    ty_err err = {0};
    int s = (int)want->shape[1];
    const preprocess_how how = {.mode = (int)mode, .size = s};
    size_t plane = (size_t)s * (size_t)s;
    if (want->dtype == TY_F32) {
        float *x = malloc(3 * plane * sizeof *x);
        assert_non_null(x);
        must(preprocess_run(p, (const uint8_t *)bytes, n_bytes, &how, x, &err), &err);
        if (memcmp(x, want->data, 3 * plane * sizeof *x) != 0) fail_msg("%s differs", name);
        free(x);
        return;
    }
    uint8_t *rgb = malloc(3 * plane);
    const uint8_t *w = want->data;
    assert_non_null(rgb);
    must(preprocess_rgb(p, (const uint8_t *)bytes, n_bytes, &how, rgb, &err), &err);
    for (size_t i = 0; i < plane; i++)
        for (size_t c = 0; c < 3; c++)
            if (rgb[3 * i + c] != w[c * plane + i]) fail_msg("%s differs at %zu", name, i);
    free(rgb);
}

static void pixel_values_are_the_reference_s_in_every_mode(void **state) {
    (void)state;
    preprocess *p = make_preprocess(pipelines[0]);
    ty_safetensors *gold =
        open_tensors(test_path("%s/../images_golden/images.safetensors", models[0]));
    json_t *all = read_json(test_path("%s/../images_golden/images.json", models[0]));
    const char *name;
    json_t *about;
    int seen[N_MODES] = {0};
    json_object_foreach(json_object_get(all, "images"), name, about) {
        size_t size;
        char *bytes = read_file(test_path("%s/../images/%s", models[0], name), &size);
        for (int m = 0; m < N_MODES; m++)
            for (int u8 = 0; u8 < 2; u8++) {
                ty_tensor t;
                const char *key = test_path("%s/%s%s", name, modes[m].golden, u8 ? "_u8" : "");
                if (ty_safetensors_find(gold, key, &t, NULL) != TY_OK) continue;
                check_picture(p, bytes, size, modes[m].mode, &t, key);
                seen[m]++;
            }
        free(bytes);
    }
    for (int m = 0; m < 5; m++) assert_true(seen[m] > 0);
    json_decref(all);
    ty_safetensors_close(&gold);
    preprocess_destroy(&p);
}

/* ---- the models, one kernel table a process ---- */

/* Intermediates of one call, copied. */
typedef struct {
    char name[32];
    float *data;
    size_t n; /* of one picture */
} dumped;
typedef struct {
    dumped item[MAX_DUMPS];
    int n, n_picture;
} dumps;

static void keep(void *ctx, const char *name, int n_dim, const int64_t *shape, const float *data) {
    dumps *d = ctx;
    dumped *it = &d->item[d->n++];
    size_t n = 1;
    assert_true(d->n < MAX_DUMPS);
    assert_int_equal(n_dim, d->n_picture == 1 ? 2 : 3);
    for (int i = 0; i < n_dim; i++) n *= (size_t)shape[i];
    snprintf(it->name, sizeof it->name, "%s", name);
    it->n = n / (size_t)d->n_picture;
    it->data = malloc(n * sizeof *data);
    assert_non_null(it->data);
    memcpy(it->data, data, n * sizeof *data);
}

static void dumps_clear(dumps *d) {
    for (int i = 0; i < d->n; i++) free(d->item[i].data);
    d->n = 0;
}

/* The vision pipeline on n pictures; what it gives is kept with the intermediates. */
static void see(vit *v, abstractor *a, const float *pixels, int n, dumps *d) {
    ty_err err = {0};
    const int64_t f_shape[] = {n, vit_n_token(v), vit_width(v)};
    const int64_t t_shape[] = {n, abstractor_n_out(a), abstractor_width_out(a)};
    float *features = malloc((size_t)(f_shape[0] * f_shape[1] * f_shape[2]) * sizeof *features);
    float *tokens = malloc((size_t)(t_shape[0] * t_shape[1] * t_shape[2]) * sizeof *tokens);
    assert_true(features && tokens);
    *d = (dumps){.n_picture = n};
    const ty_dump dump = {keep, d};
    must(vit_run(v, pixels, n, features, &dump, &err), &err);
    keep(d, "vit_out", n == 1 ? 2 : 3, f_shape + (n == 1), features);
    must(abstractor_run(a, features, n, vit_n_token(v), tokens, &dump, &err), &err);
    keep(d, "visual_tokens", n == 1 ? 2 : 3, t_shape + (n == 1), tokens);
    free(features);
    free(tokens);
}

static void compare_with_golden(const dumps *d, ty_safetensors *gold, const char *file) {
    for (int i = 0; i < d->n; i++) {
        const dumped *it = &d->item[i];
        ty_tensor t;
        ty_err err = {0};
        const char *name = test_path("img/%s/%s", file, it->name);
        must(ty_safetensors_find(gold, name, &t, &err), &err);
        assert_int_equal(t.dtype, TY_F32);
        assert_int_equal(ty_tensor_count(&t), it->n);
        double worst = 0, tol = strcmp(it->name, "visual_tokens") == 0 ? TOL_VISUAL : TOL_HIDDEN;
        const float *want = t.data;
        for (size_t k = 0; k < it->n; k++) {
            double diff = fabs((double)it->data[k] - (double)want[k]);
            if (!(diff <= worst)) worst = diff; /* a NaN stays */
        }
        if (!(worst <= tol)) fail_msg("%s differs by %g, tolerance %g", name, worst, tol);
    }
}

static void same_bits(const dumps *batch, int picture, const dumps *one) {
    assert_int_equal(batch->n, one->n);
    for (int i = 0; i < one->n; i++) {
        const dumped *b = &batch->item[i], *s = &one->item[i];
        assert_string_equal(b->name, s->name);
        assert_int_equal(b->n, s->n);
        if (memcmp(b->data + (size_t)picture * b->n, s->data, s->n * sizeof *s->data) != 0)
            fail_msg("%s of picture %d changes with its neighbours or the threads", s->name,
                     picture);
    }
}

typedef struct {
    const char *pipeline, *model;
    ty_safetensors *gold;
    json_t *files;
    size_t n_file;
    float *pixels; /* [n_file, 3, S, S] */
    size_t picture;
    dumps one[MAX_PICTURES];
} kernel_run;

static void load_pixels(kernel_run *r) {
    preprocess *p = make_preprocess(r->pipeline);
    size_t s = (size_t)preprocess_size(p);
    r->picture = 3 * s * s;
    r->pixels = malloc(r->n_file * r->picture * sizeof *r->pixels);
    assert_non_null(r->pixels);
    for (size_t i = 0; i < r->n_file; i++) {
        size_t n;
        ty_err err = {0};
        char *bytes = read_file(
            test_path("%s/../images/%s", r->model, json_string_value(json_array_get(r->files, i))),
            &n);
        must(preprocess_run(p, (uint8_t *)bytes, n, NULL, r->pixels + i * r->picture, &err), &err);
        free(bytes);
    }
    preprocess_destroy(&p);
}

/* first: the single pictures are kept as the truth for bits. */
static void run_with_threads(kernel_run *r, int threads, bool first) {
    ty_err err = {0};
    ty_pool *pool = NULL;
    vit *v = NULL;
    abstractor *a = NULL;
    dumps d;
    must(ty_pool_create(&pool, threads, &err), &err);
    const ty_run_options opt = {.compute = TY_COMPUTE_AUTO, .pool = pool};
    must(vit_create(&v, test_path("%s/vit.gguf", r->pipeline), &opt, &err), &err);
    must(abstractor_create(&a, test_path("%s/abstractor.gguf", r->pipeline), &opt, &err), &err);
    for (size_t i = 0; i < r->n_file && first; i++) {
        see(v, a, r->pixels + i * r->picture, 1, &r->one[i]);
        compare_with_golden(&r->one[i], r->gold, json_string_value(json_array_get(r->files, i)));
    }
    see(v, a, r->pixels, (int)r->n_file, &d);
    for (size_t i = 0; i < r->n_file; i++) same_bits(&d, (int)i, &r->one[i]);
    dumps_clear(&d);
    abstractor_destroy(&a);
    vit_destroy(&v);
    ty_pool_destroy(&pool);
}

static kernel_run kernels;

static void features_and_tokens_are_the_reference_s(void **state) {
    (void)state;
    kernel_run *r = &kernels;
    json_t *golden = read_json(test_path("%s/golden.json", r->model));
    r->files = json_object_get(golden, "image_order");
    r->n_file = json_array_size(r->files);
    assert_true(r->n_file > 0 && r->n_file <= MAX_PICTURES);
    r->gold = open_tensors(test_path("%s/golden.safetensors", r->model));
    load_pixels(r);
    run_with_threads(r, 1, true);
    run_with_threads(r, 3, false);
    for (size_t i = 0; i < r->n_file; i++) dumps_clear(&r->one[i]);
    free(r->pixels);
    ty_safetensors_close(&r->gold);
    json_decref(golden);
}

static void every_kernel_table_gives_the_reference_s_tokens(void **state) {
    (void)state;
    static const char *const tables[] = {"ref", "avx2", "avx512", "avx512vnni"};
    int ran = 0;
    for (int t = 0; t < 4; t++) {
        setenv("TYTO_CPU", tables[t], 1);
        if (ty_cpu_check(NULL) != TY_OK) continue;
        for (int m = 0; m < n_model; m++) {
            test_output o = TEST_RUN((char *)(uintptr_t) "/proc/self/exe",
                                     (char *)(uintptr_t) "--kernels", pipelines[m], models[m]);
            if (o.exit_code != 0)
                fail_msg("TYTO_CPU=%s %s: %s%s", tables[t], models[m], o.out, o.err);
            test_output_clear(&o);
            ran++;
        }
    }
    unsetenv("TYTO_CPU");
    assert_true(ran > 0);
}

/* ---- model files that are not right ---- */

static ty_status create(const char *stage, const char *path, ty_err *err) {
    ty_status st;
    const ty_run_options opt = {.compute = TY_COMPUTE_AUTO};
    vit *v = NULL;
    abstractor *a = NULL;
    preprocess *p = NULL;
    memset(err, 0, sizeof *err);
    if (strcmp(stage, "vit") == 0)
        st = vit_create(&v, path, &opt, err);
    else if (strcmp(stage, "abstractor") == 0)
        st = abstractor_create(&a, path, &opt, err);
    else
        st = preprocess_create(&p, path, NULL, err);
    vit_destroy(&v);
    abstractor_destroy(&a);
    preprocess_destroy(&p);
    return st;
}

static const char *const stages[] = {"preprocess", "vit", "abstractor"};

static void stages_refuse_another_stage_s_file(void **state) {
    (void)state;
    ty_err err;
    for (int s = 0; s < 3; s++)
        for (int f = 0; f < 3; f++) {
            const char *path = test_path("%s/%s.gguf", pipelines[0], stages[f]);
            ty_status st = create(stages[s], path, &err);
            assert_int_equal(st, s == f ? TY_OK : TY_EFORMAT);
            if (s != f) assert_non_null(strstr(err.text, path));
        }
}

static void stages_refuse_cut_files(void **state) {
    (void)state;
    for (int s = 0; s < 3; s++) {
        size_t n;
        ty_err err;
        char *data = read_file(test_path("%s/%s.gguf", pipelines[0], stages[s]), &n);
        const char *path = test_path("%s/cut-%s.gguf", test_temp_dir(), stages[s]);
        /* the last bytes may be padding to 32 */
        for (size_t len = 0; len + 32 <= n; len += n / 50 + 1) {
            must(ty_file_write_atomic(path, data, len, &err), &err);
            if (create(stages[s], path, &err) == TY_OK)
                fail_msg("%s cut to %zu of %zu bytes loads", path, len, n);
            assert_true(err.text[0]);
        }
        free(data);
    }
}

/* Changes the integer behind a key (its type is u32: 4 bytes behind a 4-byte type number). */
static void set_u32(char *data, size_t n, const char *key, uint32_t v) {
    size_t len = strlen(key);
    for (size_t i = 0; i + len + 8 <= n; i++)
        if (memcmp(data + i, key, len) == 0) {
            memcpy(data + i + len + 4, &v, 4);
            return;
        }
    fail_msg("no key %s", key);
}

static void stages_refuse_metadata_at_odds_with_tensors(void **state) {
    (void)state;
    static const struct {
        const char *stage, *key;
        uint32_t v;
    } wrong[] = {{"vit", "vit.embedding_length", 8},
                 {"vit", "vit.embedding_length", 0},
                 {"vit", "vit.embedding_length", 0xffffffff},
                 {"vit", "vit.feed_forward_length", 9999},
                 {"vit", "vit.block_count", 1000},
                 {"vit", "vit.attention.head_count", 7},
                 {"vit", "vit.patch_size", 5},
                 {"vit", "vit.image_size", 4096},
                 {"abstractor", "abstractor.query_count", 1},
                 {"abstractor", "abstractor.embedding_length", 16},
                 {"abstractor", "abstractor.encoder_length", 16},
                 {"abstractor", "abstractor.feed_forward_length", 3},
                 {"abstractor", "abstractor.output_length", 1 << 16},
                 {"abstractor", "abstractor.grid_size", 3},
                 {"abstractor", "abstractor.grid_size", 0xffffffff},
                 {"preprocess", "preprocess.image_size", 0},
                 {"preprocess", "preprocess.image_size", 1 << 30}};
    const char *path = test_path("%s/wrong.gguf", test_temp_dir());
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        size_t n;
        ty_err err;
        /* positions are v2's alone: the last model is one, unless the list is another */
        int m = strstr(wrong[i].key, "grid_size") ? n_model - 1 : 0;
        char *data = read_file(test_path("%s/%s.gguf", pipelines[m], wrong[i].stage), &n);
        if (m > 0 && !memmem(data, n, wrong[i].key, strlen(wrong[i].key))) {
            free(data);
            continue;
        }
        set_u32(data, n, wrong[i].key, wrong[i].v);
        must(ty_file_write_atomic(path, data, n, &err), &err);
        ty_status st = create(wrong[i].stage, path, &err);
        if (st != TY_EFORMAT && st != TY_ESHAPE && st != TY_ENOTFOUND)
            fail_msg("%s = %u: %s", wrong[i].key, wrong[i].v, ty_status_name(st));
        assert_non_null(strstr(err.text, path));
        free(data);
    }
}

/* v2's positions are those of one grid; v1 takes any number of image tokens. */
static void abstractor_refuses_tokens_that_have_no_position(void **state) {
    (void)state;
    for (int m = 0; m < n_model; m++) {
        abstractor *a = NULL;
        ty_err err = {0};
        const ty_run_options opt = {.compute = TY_COMPUTE_AUTO};
        must(abstractor_create(&a, test_path("%s/abstractor.gguf", pipelines[m]), &opt, &err),
             &err);
        int n = abstractor_n_token(a);
        if (n > 0) {
            size_t in = (size_t)(n + 1) * (size_t)abstractor_width_in(a);
            size_t out = (size_t)abstractor_n_out(a) * (size_t)abstractor_width_out(a);
            float *x = calloc(in, sizeof *x), *y = calloc(out, sizeof *y);
            assert_true(x && y);
            assert_int_equal(abstractor_run(a, x, 1, n + 1, y, NULL, &err), TY_ESHAPE);
            assert_int_equal(abstractor_run(a, x, 1, n, y, NULL, &err), TY_OK);
            free(x);
            free(y);
        }
        abstractor_destroy(&a);
    }
}

/* ---- set-up ---- */

static int import_models(void **state) {
    (void)state;
    const char *list = getenv("TYTO_GOLDEN_MODELS");
    char all[4096];
    snprintf(all, sizeof all, "%s",
             list && *list
                 ? list
                 : test_path("%s/v1-micro:%s/v2-micro", test_golden_dir(), test_golden_dir()));
    char *save = NULL;
    for (char *dir = strtok_r(all, ":", &save); dir && n_model < MAX_MODELS;
         dir = strtok_r(NULL, ":", &save), n_model++) {
        snprintf(models[n_model], sizeof models[0], "%s", dir);
        snprintf(pipelines[n_model], sizeof pipelines[0], "%s/p%d", test_temp_dir(), n_model);
        test_output o = TEST_RUN((char *)(uintptr_t)test_bin("tyto"), (char *)(uintptr_t) "import",
                                 models[n_model], pipelines[n_model]);
        if (o.exit_code != 0) print_error("import %s: %s%s\n", dir, o.out, o.err);
        if (o.exit_code != 0) return -1;
        test_output_clear(&o);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "--kernels") == 0) {
        kernels.pipeline = argv[2];
        kernels.model = argv[3];
        const struct CMUnitTest one[] = {
            cmocka_unit_test(features_and_tokens_are_the_reference_s),
        };
        return cmocka_run_group_tests_name("kernels", one, NULL, NULL);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decoded_pictures_have_the_reference_hashes),
        cmocka_unit_test(pixel_values_are_the_reference_s_in_every_mode),
        cmocka_unit_test(every_kernel_table_gives_the_reference_s_tokens),
        cmocka_unit_test(stages_refuse_another_stage_s_file),
        cmocka_unit_test(stages_refuse_cut_files),
        cmocka_unit_test(stages_refuse_metadata_at_odds_with_tensors),
        cmocka_unit_test(abstractor_refuses_tokens_that_have_no_position),
    };
    return cmocka_run_group_tests_name("vision", tests, import_models, NULL);
}
