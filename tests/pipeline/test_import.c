/* `tyto import` as a process: what it writes, against the checkpoint; what it refuses, and how. */
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "common/model/checkpoint.h"
#include "common/model/layout.h"
#include "common/model/pipeline.h"
#include "common/model/safetensors.h"
#include "tests/support/process.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool v2; /* the golden model at work is v2-micro, else v1-micro */

static const char *golden(const char *name) {
    return test_path("%s/%s/%s", test_golden_dir(), v2 ? "v2-micro" : "v1-micro", name);
}

/* A new empty directory; the names live as long as the program. */
static const char *fresh_dir(void) {
    static char names[128][96];
    static const char *base;
    static int n;
    if (!base) base = test_temp_dir();
    assert_true(n < 128);
    snprintf(names[n], sizeof(names[n]), "%s/%d", base, n);
    assert_int_equal(mkdir(names[n], 0755), 0);
    return names[n++];
}

static test_output import(const char *src, const char *out, const char *type) {
    return TEST_RUN((char *)test_bin("tyto"), (char *)"import", (char *)src, (char *)out,
                    (char *)(type ? "--type" : NULL), (char *)type);
}

static void must_import(const char *src, const char *out, const char *type) {
    test_output o = import(src, out, type);
    if (o.exit_code != 0) fail_msg("import %s: exit %d: %s", src, o.exit_code, o.err);
    test_output_clear(&o);
}

/* How the tensor of this name in a stage file is called in the checkpoint. */
static void checkpoint_name(ty_stage_kind k, const ty_layout *l, int i, char *out, size_t size) {
    bool decoder = k == TY_STAGE_DECODER;
    const char *prefix = v2 ? (decoder ? "" : "model.") : decoder ? "language_model." : "";
    snprintf(out, size, "%s%s", prefix, l->item[i].source);
}

static void layout_of(ty_stage_kind k, ty_layout *l) {
    /* from golden/README.md and the models' config.json */
    const ty_vit_dims v = {28, 14, 32, 2, 2, 64, 1e-6f, "quick_gelu", 0};
    const ty_abstractor_dims a = {3, 32, 2, 2, 88, v2 ? 2 : 0, 32, 48, 1e-6f, false};
    const ty_decoder_dims d = {512, 48, 2, 3, 3, 128, 640, 1e-6f, 0, v2, false};
    ty_status st = k == TY_STAGE_VIT          ? ty_layout_vit(l, &v, NULL)
                   : k == TY_STAGE_ABSTRACTOR ? ty_layout_abstractor(l, &a, NULL)
                                              : ty_layout_decoder(l, &d, NULL);
    assert_int_equal(st, TY_OK);
}

/* Element i of the stage file's tensor in the checkpoint's order. */
static size_t rope_source(const ty_tensor_spec *s, size_t i) {
    if (!s->rope_heads) return i;
    size_t cols = (size_t)s->shape[1], row = i / cols, d = (size_t)(s->shape[0] / s->rope_heads);
    size_t h = row / d, j = row % d;
    return (h * d + (j % 2) * (d / 2) + j / 2) * cols + i % cols;
}

/* Every tensor of the three stage files equals the checkpoint's, up to `tolerance` of its largest
 * number; the types are as told (-1: as stored). */
static void compare(const char *dir, const char *src, double tolerance) {
    ty_checkpoint *c = NULL;
    assert_int_equal(ty_checkpoint_open(&c, src, NULL), TY_OK);
    for (int k = TY_STAGE_VIT; k < TY_STAGE_COUNT; k++) {
        ty_gguf *g = NULL;
        ty_layout l = {0};
        layout_of((ty_stage_kind)k, &l);
        assert_int_equal(
            ty_gguf_open(&g, test_path("%s/%s.gguf", dir, ty_stage_name((ty_stage_kind)k)), NULL),
            TY_OK);
        assert_int_equal(ty_gguf_tensor_count(g), l.n);
        for (int i = 0; i < l.n; i++) {
            char name[256];
            ty_tensor t;
            ty_loaded want;
            checkpoint_name((ty_stage_kind)k, &l, i, name, sizeof(name));
            assert_int_equal(
                ty_gguf_find_shape(g, l.item[i].name, l.item[i].n_dim, l.item[i].shape, &t, NULL),
                TY_OK);
            assert_int_equal(ty_checkpoint_load(c, name, &want, NULL), TY_OK);
            size_t n = (size_t)ty_tensor_count(&t);
            float *x = malloc(n * sizeof(*x)), *y = malloc(n * sizeof(*y));
            ty_dtype_to_f32(t.dtype, t.data, 0, n, x);
            ty_dtype_to_f32(want.t.dtype, want.t.data, 0, n, y);
            double most = 0, worst = 0;
            for (size_t e = 0; e < n; e++) {
                float w = y[rope_source(&l.item[i], e)];
                most = fmax(most, fabs((double)w));
                worst = fmax(worst, fabs((double)x[e] - (double)w));
            }
            if (worst > tolerance * most) fail_msg("%s differs by %g of %g", name, worst, most);
            free(x);
            free(y);
            ty_checkpoint_release(&want);
        }
        ty_layout_clear(&l);
        ty_gguf_close(&g);
    }
    ty_checkpoint_close(&c);
}

static void keeps_every_number(void) {
    const char *folders[] = {".", "safetensors", "sharded-bin", "sharded-safetensors"};
    for (int i = 0; i < 4; i++) {
        const char *src = golden(folders[i]), *out = fresh_dir();
        ty_pipeline p;
        must_import(src, out, NULL);
        compare(out, src, 0);
        assert_int_equal(ty_pipeline_load(&p, out, NULL), TY_OK);
        assert_string_equal(p.name, strrchr(out, '/') + 1);
        assert_string_equal(p.family, v2 ? "mplug_owl_v2" : "mplug_owl_v1");
        assert_true(ty_pipeline_has_vision(&p));
    }
}

static void import_keeps_every_number_from_every_container(void **state) {
    (void)state;
    keeps_every_number();
    v2 = true;
    keeps_every_number();
    v2 = false;
}

static void import_stores_the_type_it_is_told(void **state) {
    (void)state;
    const struct {
        const char *type;
        double tolerance;
    } cases[] = {{"f32", 0}, {"f16", 0.0005}, {"bf16", 0.004}, {"q8_0", 0.0045}, {"q4_0", 0.13}};
    for (int i = 0; i < 5; i++) {
        const char *out = fresh_dir();
        ty_gguf *g = NULL;
        ty_tensor t;
        must_import(golden("safetensors"), out, cases[i].type);
        compare(out, golden("safetensors"), cases[i].tolerance);
        assert_int_equal(ty_gguf_open(&g, test_path("%s/vit.gguf", out), NULL), TY_OK);
        assert_int_equal(ty_gguf_find(g, "encoder.layers.0.mlp.fc1.weight", &t, NULL), TY_OK);
        assert_int_equal(t.dtype, ty_dtype_parse(cases[i].type));
        assert_int_equal(ty_gguf_find(g, "embeddings.position_embedding", &t, NULL), TY_OK);
        assert_int_equal(t.dtype, TY_F32);
        ty_gguf_close(&g);
    }
}

static void import_says_which_rows_stay_f32(void **state) {
    (void)state;
    const char *out = fresh_dir();
    test_output o = import(golden("safetensors"), out, "abstractor=q4_0");
    ty_gguf *g = NULL;
    ty_tensor t;
    assert_int_equal(o.exit_code, 0);
    assert_non_null(strstr(o.err, "mlp.w2.weight stays f32 (2 tensors): rows of 88"));
    assert_null(strstr(o.err, "decoder: "));
    assert_non_null(strstr(o.err, "tokenizer.model is not there, taken from"));
    test_output_clear(&o);
    assert_int_equal(ty_gguf_open(&g, test_path("%s/decoder.gguf", out), NULL), TY_OK);
    assert_int_equal(ty_gguf_find(g, "blk.0.ffn_down.weight", &t, NULL), TY_OK);
    assert_int_equal(t.dtype, TY_F32); /* the type was for the abstractor alone */
    ty_gguf_close(&g);
}

static void import_twice_gives_the_same_bytes_and_keeps_other_files(void **state) {
    (void)state;
    const char *out = fresh_dir();
    ty_pipeline a, b;
    must_import(golden("safetensors"), out, NULL);
    assert_int_equal(ty_pipeline_load(&a, out, NULL), TY_OK);
    assert_int_equal(ty_file_write_atomic(test_path("%s/notes.txt", out), "mine", 4, NULL), TY_OK);
    must_import(golden("safetensors"), out, NULL);
    assert_int_equal(ty_pipeline_load(&b, out, NULL), TY_OK);
    for (int k = 0; k < TY_STAGE_COUNT; k++) assert_string_equal(a.model_id[k], b.model_id[k]);
    assert_int_equal(access(test_path("%s/notes.txt", out), F_OK), 0);
    must_import(golden("safetensors"), out, "q8_0");
    assert_int_equal(ty_pipeline_load(&b, out, NULL), TY_OK);
    assert_string_not_equal(a.model_id[TY_STAGE_VIT], b.model_id[TY_STAGE_VIT]);
}

static int count_files(const char *dir) {
    int n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* The import fails, says so, and leaves nothing: neither OUT nor a temporary directory. */
static void refused(const char *src, const char *says) {
    const char *dir = fresh_dir();
    char out[128];
    snprintf(out, sizeof(out), "%s/p", dir);
    test_output o = import(src, out, NULL);
    if (o.exit_code != 1) fail_msg("exit %d, want 1: %s", o.exit_code, o.err);
    if (!strstr(o.err, says)) fail_msg("\"%s\" does not say \"%s\"", o.err, says);
    assert_int_equal(count_files(dir), 0);
    test_output_clear(&o);
}

/* A directory of links to v1-micro's files, for one of them to be replaced. */
static const char *copy_of_micro(void) {
    static const char *const files[] = {"config.json", "preprocessor_config.json",
                                        "tokenizer.model"};
    const char *dir = fresh_dir();
    char real[4096];
    assert_non_null(realpath(golden("."), real));
    for (int i = 0; i < 3; i++)
        assert_int_equal(
            symlink(test_path("%s/%s", real, files[i]), test_path("%s/%s", dir, files[i])), 0);
    assert_int_equal(symlink(test_path("%s/safetensors/model.safetensors", real),
                             test_path("%s/model.safetensors", dir)),
                     0);
    return dir;
}

static void replace(const char *dir, const char *name, const void *data, size_t n) {
    const char *path = test_path("%s/%s", dir, name);
    unlink(path);
    assert_int_equal(ty_file_write_atomic(path, data, n, NULL), TY_OK);
}

/* A checkpoint of another name with the same weights, out of another container: the same vision stages,
 * so that processes and caches are shared; the decoder has the name in it. */
static void import_gives_the_same_stage_the_same_identity(void **state) {
    (void)state;
    const char *a = fresh_dir(), *b = fresh_dir();
    ty_pipeline p, q;
    for (int k = 0; k < 2; k++, v2 = !v2) {
        must_import(golden("."), a, NULL);
        must_import(copy_of_micro(), b, NULL);
        assert_int_equal(ty_pipeline_load(&p, a, NULL), TY_OK);
        assert_int_equal(ty_pipeline_load(&q, b, NULL), TY_OK);
        for (int i = 0; i < TY_STAGE_DECODER; i++)
            assert_string_equal(p.model_id[i], q.model_id[i]);
        assert_string_not_equal(p.model_id[TY_STAGE_DECODER], q.model_id[TY_STAGE_DECODER]);
    }
}

static void write_index(const char *dir, const char *map) {
    char json[256];
    snprintf(json, sizeof(json), "{\"weight_map\":%s}", map);
    replace(dir, "model.safetensors.index.json", json, strlen(json));
}

static void import_refuses_what_is_missing(void **state) {
    (void)state;
    const char *dir = copy_of_micro();
    refused("/nonexistent", "no such directory");
    refused(fresh_dir(), "no checkpoint there");
    unlink(test_path("%s/tokenizer.model", dir));
    refused(dir, "has no tokenizer.model");
    dir = copy_of_micro();
    unlink(test_path("%s/config.json", dir));
    refused(dir, "has no config.json");
    dir = copy_of_micro();
    unlink(test_path("%s/preprocessor_config.json", dir));
    refused(dir, "has no preprocessor_config.json");
    dir = copy_of_micro();
    write_index(dir, "{\"x\":\"a.safetensors\"}");
    refused(dir, "a shard that is missing");
    write_index(dir, "{\"x\":\"../a.bin\"}");
    refused(dir, "is in no .safetensors or .bin file");
    write_index(dir, "{\"x\":\"model.safetensors\"}");
    refused(dir, "tensor x is not in");
}

static void import_refuses_other_models(void **state) {
    (void)state;
    static const char *const configs[][2] = {
        {"{\"model_type\":\"mplug_owl2\"}", "no tensor model.vision_model."},
        {"{\"model_type\":\"gpt2\"}", "model_type \"gpt2\""},
        {"{\"model_type\":\"mplug-owl\",\"text_config\":{\"model_type\":\"bloom\"}}",
         "word_embeddings.weight"},
        {"{\"model_type\":\"mplug-owl\",\"text_config\":{\"model_type\":\"opt\"}}", "opt"},
        {"{}", "model_type"},
        {"[", "config.json: line 1"},
        {"{\"model_type\":\"mplug-owl\",\"vision_config\":{\"num_attention_heads\":5}}",
         "not a multiple of 5 heads"},
        {"{\"model_type\":\"mplug-owl\",\"vision_config\":{\"image_size\":\"big\"}}", "image_size"},
        {"{\"model_type\":\"mplug-owl\",\"vision_config\":{\"image_size\":56,"
         "\"num_attention_heads\":2},\"visual_abstractor_config\":{\"num_attention_heads\":2},"
         "\"text_config\":{\"num_attention_heads\":3}}",
         "position_embedding is [1,5,32], want [1,17,32]"},
    };
    const char *dir = copy_of_micro();
    for (size_t i = 0; i < sizeof(configs) / sizeof(*configs); i++) {
        replace(dir, "config.json", configs[i][0], strlen(configs[i][0]));
        refused(dir, configs[i][1]);
    }
}

/* The model's tensors without those named like `leave_out`, and with one named `add`. */
static void write_checkpoint(const char *dir, const char *leave_out, const char *add) {
    ty_safetensors *s = NULL;
    ty_safetensors_writer *w = NULL;
    const float one = 1;
    unlink(test_path("%s/model.safetensors", dir));
    assert_int_equal(ty_safetensors_open(&s, golden("safetensors/model.safetensors"), NULL), TY_OK);
    assert_int_equal(ty_safetensors_writer_create(&w, NULL), TY_OK);
    for (int i = 0; i < ty_safetensors_count(s); i++) {
        ty_tensor t;
        const char *name = ty_safetensors_name(s, i);
        ty_safetensors_tensor(s, i, &t);
        if (leave_out && strstr(name, leave_out)) continue;
        assert_int_equal(ty_safetensors_add(w, name, t.dtype, t.n_dim, t.shape, t.data, NULL),
                         TY_OK);
    }
    if (add)
        assert_int_equal(ty_safetensors_add(w, add, TY_F32, 1, (int64_t[]){1}, &one, NULL), TY_OK);
    assert_int_equal(ty_safetensors_write(w, test_path("%s/model.safetensors", dir), NULL), TY_OK);
    ty_safetensors_writer_destroy(&w);
    ty_safetensors_close(&s);
}

static void import_names_a_tensor_that_is_missing_or_unknown(void **state) {
    (void)state;
    const char *dir = copy_of_micro(),
               *lost = "abstractor.encoder.layers.1.crossattention.normk.bias";
    write_checkpoint(dir, lost, NULL);
    refused(dir, lost);
    write_checkpoint(dir, NULL, "vision_model.encoder.layers.0.temporal.ln.weight");
    refused(dir, "temporal.down_proj.weight");
    write_checkpoint(dir, NULL, "language_model.extra");
    test_output o = import(dir, fresh_dir(), NULL);
    assert_int_equal(o.exit_code, 0);
    assert_non_null(strstr(o.err, "warning: tensor language_model.extra is not known"));
    assert_null(strstr(o.err, "inv_freq"));
    test_output_clear(&o);
}

static const char *mode_of(const char *dir) {
    static char mode[16];
    ty_gguf *g = NULL;
    const char *text;
    size_t n;
    assert_int_equal(ty_gguf_open(&g, test_path("%s/preprocess.gguf", dir), NULL), TY_OK);
    assert_int_equal(ty_gguf_get_str(g, "preprocess.mode", &text, &n, NULL), TY_OK);
    snprintf(mode, sizeof(mode), "%.*s", (int)n, text);
    ty_gguf_close(&g);
    return mode;
}

/* v2-micro's configuration with a word for another, which is as long or shorter. */
static void change_config(const char *dir, const char *from, const char *to) {
    char *json = NULL;
    size_t n = 0;
    assert_int_equal(ty_file_read(golden("config.json"), 1 << 20, &json, &n, NULL), TY_OK);
    char *at = strstr(json, from);
    assert_non_null(at);
    memset(at, ' ', strlen(from));
    memcpy(at, to, strlen(to));
    replace(dir, "config.json", json, n);
    free(json);
}

static void import_takes_v2_s_way_with_pictures(void **state) {
    (void)state;
    static const char *const ways[][2] = {{"\"image_aspect_ratio\":\"pad\"", "pad"},
                                          {"\"image_aspect_ratio\":null", "resize"},
                                          {"\"image_aspect_ratio\":\"resize\"", "resize"},
                                          {"\"image_aspect_ratio\":\"x\"", "crop"}};
    v2 = true;
    const char *dir = copy_of_micro(), *out = fresh_dir();
    must_import(dir, out, NULL);
    assert_string_equal(mode_of(out), "resize");
    for (int i = 0; i < 4; i++) {
        change_config(dir, "\"architectures\": [\n  \"MPLUGOwl2LlamaForCausalLM\"\n ]", ways[i][0]);
        must_import(dir, out, NULL);
        assert_string_equal(mode_of(out), ways[i][1]);
    }
    test_output o = TEST_RUN((char *)test_bin("tyto"), (char *)"import", (char *)dir, (char *)out,
                             (char *)"--mode", (char *)"crop");
    assert_int_equal(o.exit_code, 0);
    assert_string_equal(mode_of(out), "crop");
    test_output_clear(&o);
    v2 = false;
}

/* The authors' conversion leaves the positions out: computed, they are the reference's. */
static void import_makes_v2_s_positions(void **state) {
    (void)state;
    v2 = true;
    const char *dir = copy_of_micro(), *out = fresh_dir();
    write_checkpoint(dir, "_pos_embed", NULL);
    must_import(dir, out, NULL);
    compare(out, golden("safetensors"), 1e-6);
    v2 = false;
}

static void import_keeps_linear_rope_scaling(void **state) {
    (void)state;
    v2 = true;
    const char *dir = copy_of_micro(), *out = fresh_dir(), *type;
    size_t n;
    double factor = 0;
    ty_gguf *g = NULL;
    change_config(dir, "\"rope_scaling\": null,\n \"rope_theta\": 10000.0",
                  "\"rope_scaling\": {\"type\":\"linear\",\"factor\":4}");
    must_import(dir, out, NULL);
    assert_int_equal(ty_gguf_open(&g, test_path("%s/decoder.gguf", out), NULL), TY_OK);
    assert_int_equal(ty_gguf_get_str(g, "mplug_owl2.rope.scaling.type", &type, &n, NULL), TY_OK);
    assert_true(n == 6 && memcmp(type, "linear", 6) == 0);
    assert_int_equal(ty_gguf_get_float(g, "mplug_owl2.rope.scaling.factor", &factor, NULL), TY_OK);
    assert_true(factor == 4);
    ty_gguf_close(&g);
    v2 = false;
}

static void import_refuses_what_v2_cannot_run(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"\"num_key_value_heads\": 3", "\"num_key_value_heads\": 1", "num_key_value_heads is 1"},
        {"\"grid_size\": 2", "\"grid_size\": 3", "grid_size is 3, the ViT makes 2 x 2"},
        {"\"add_v2t_pos_emb\": false", "\"add_v2t_pos_emb\": true", "add_v2t_pos_emb"},
        {"\"quick_gelu\"", "\"gelu\"", "want \"quick_gelu\""},
        {"\"rope_scaling\": null,\n \"rope_theta\": 10000.0",
         "\"rope_scaling\": {\"type\": \"dynamic\"}", "rope_scaling \"dynamic\""}};
    v2 = true;
    const char *dir = copy_of_micro();
    for (int i = 0; i < 5; i++) {
        change_config(dir, cases[i][0], cases[i][1]);
        refused(dir, cases[i][2]);
    }
    change_config(dir, "mplug_owl2", "mplug_owl2"); /* as it is */
    write_checkpoint(dir, "layers.1.self_attn.v_proj.multiway.1.weight", NULL);
    refused(dir, "model.layers.1.self_attn.v_proj.multiway.1.weight");
    v2 = false;
}

static void import_ties_a_missing_head_to_the_embedding(void **state) {
    (void)state;
    const char *dir = copy_of_micro(), *out = fresh_dir();
    ty_gguf *g = NULL;
    ty_tensor a, b;
    write_checkpoint(dir, "language_model.lm_head.weight", NULL);
    must_import(dir, out, NULL);
    assert_int_equal(ty_gguf_open(&g, test_path("%s/decoder.gguf", out), NULL), TY_OK);
    assert_int_equal(ty_gguf_find(g, "token_embd.weight", &a, NULL), TY_OK);
    assert_int_equal(ty_gguf_find(g, "output.weight", &b, NULL), TY_OK);
    assert_memory_equal(a.data, b.data, a.size_bytes);
    ty_gguf_close(&g);
}

static void import_refuses_damaged_weights(void **state) {
    (void)state;
    const char *dir = copy_of_micro();
    char *data = NULL;
    size_t n = 0;
    assert_int_equal(
        ty_file_read(golden("safetensors/model.safetensors"), 1 << 24, &data, &n, NULL), TY_OK);
    replace(dir, "model.safetensors", data, n - 1000);
    refused(dir, "cut off or damaged");
    free(data);
    unlink(test_path("%s/model.safetensors", dir));
    assert_int_equal(ty_file_read(golden("pytorch_model.bin"), 1 << 24, &data, &n, NULL), TY_OK);
    replace(dir, "pytorch_model.bin", data, n - 1000);
    refused(dir, "cut off or damaged");
    /* The same length, another name: what a pickle that runs code looks like to the reader. */
    uint8_t *name = memmem(data, n, "_rebuild_tensor_v2", 18);
    assert_non_null(name);
    memcpy(name, "_execute_any_shell", 18);
    replace(dir, "pytorch_model.bin", data, n);
    refused(dir, "would run code: refused");
    free(data);
}

static void import_never_replaces_what_is_no_pipeline(void **state) {
    (void)state;
    const char *dir = fresh_dir();
    replace(dir, "letter.txt", "dear", 4);
    test_output o = import(golden("safetensors"), dir, NULL);
    assert_int_equal(o.exit_code, 1);
    assert_non_null(strstr(o.err, "is no pipeline"));
    assert_int_equal(count_files(dir), 1);
    test_output_clear(&o);
    /* A failed import leaves the pipeline that was there. */
    const char *out = fresh_dir();
    ty_pipeline p;
    must_import(golden("safetensors"), out, NULL);
    o = import("/nonexistent", out, NULL);
    assert_int_equal(o.exit_code, 1);
    assert_int_equal(ty_pipeline_load(&p, out, NULL), TY_OK);
    test_output_clear(&o);
}

static void import_explains_its_usage(void **state) {
    (void)state;
    const char *tyto = test_bin("tyto");
    const struct {
        const char *argv[6];
        int exit_code;
    } cases[] = {{{tyto, "import"}, 2},
                 {{tyto, "import", "a"}, 2},
                 {{tyto, "import", "a", "b", "c"}, 2},
                 {{tyto, "import", "a", "b", "--type", "q5_0"}, 2},
                 {{tyto, "import", "a", "b", "--type", "preprocess=f32"}, 2},
                 {{tyto, "import", "a", "b", "--type", "vit=i8"}, 2},
                 {{tyto, "import", "a", "b", "--mode", "stretch"}, 2},
                 {{tyto, "import", "--help"}, 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char *argv[8] = {0};
        for (int k = 0; k < 6; k++) argv[k] = (char *)cases[i].argv[k];
        test_output o = test_run(argv, NULL, 0, 60);
        assert_int_equal(o.exit_code, cases[i].exit_code);
        test_output_clear(&o);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(import_keeps_every_number_from_every_container),
        cmocka_unit_test(import_stores_the_type_it_is_told),
        cmocka_unit_test(import_says_which_rows_stay_f32),
        cmocka_unit_test(import_twice_gives_the_same_bytes_and_keeps_other_files),
        cmocka_unit_test(import_gives_the_same_stage_the_same_identity),
        cmocka_unit_test(import_refuses_what_is_missing),
        cmocka_unit_test(import_refuses_other_models),
        cmocka_unit_test(import_names_a_tensor_that_is_missing_or_unknown),
        cmocka_unit_test(import_takes_v2_s_way_with_pictures),
        cmocka_unit_test(import_makes_v2_s_positions),
        cmocka_unit_test(import_keeps_linear_rope_scaling),
        cmocka_unit_test(import_refuses_what_v2_cannot_run),
        cmocka_unit_test(import_ties_a_missing_head_to_the_embedding),
        cmocka_unit_test(import_refuses_damaged_weights),
        cmocka_unit_test(import_never_replaces_what_is_no_pipeline),
        cmocka_unit_test(import_explains_its_usage),
    };
    return cmocka_run_group_tests_name("import", tests, NULL, NULL);
}
