/* offline.c of the decoder: what it writes, and what it says about bad input.  With a toy model, in this
 * process; as a command against the reference it stands in tests/golden/test_commands.c. */
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "common/model/safetensors.h"
#include "services/decoder/offline.h"
#include "tests/support/process.h"
#include "tests/support/toy_llama.h"

#include <stdlib.h>
#include <string.h>

enum { WIDTH = 32, ROWS = 3 };

static decoder *d;
static ty_pool *pool;

static const char *dir;

static const char *in_dir(const char *name) {
    return test_path("%s/%s", dir, name);
}

static const char *request(const char *json) {
    const char *path = in_dir("request.json");
    assert_int_equal(ty_file_write_atomic(path, json, strlen(json), NULL), TY_OK);
    return path;
}

static const char *pictures(int n, int rows, int width) {
    const char *path = in_dir("z.safetensors");
    ty_safetensors_writer *w = NULL;
    int64_t shape[] = {n, rows, width};
    float *x = calloc((size_t)(n * rows * width), sizeof(float));
    assert_non_null(x);
    for (int i = 0; i < n * rows * width; i++) x[i] = 0.1f * (float)(i % 7);
    assert_int_equal(ty_safetensors_writer_create(&w, NULL), TY_OK);
    assert_int_equal(ty_safetensors_add(w, "visual_tokens", TY_F32, 3, shape, x, NULL), TY_OK);
    assert_int_equal(ty_safetensors_write(w, path, NULL), TY_OK);
    ty_safetensors_writer_destroy(&w);
    free(x);
    return path;
}

static ty_status run(const char *json, const char *visual, int logits_rows, bool dump,
                     ty_err *err) {
    decoder_offline_args a = {.in = request(json),
                              .visual = visual,
                              .out = in_dir("o.safetensors"),
                              .logits_rows = logits_rows,
                              .dump = dump};
    return decoder_offline(d, &a, err);
}

static ty_tensor get(ty_safetensors *s, const char *name) {
    ty_tensor t;
    ty_err err = {0};
    if (ty_safetensors_find(s, name, &t, &err) != TY_OK) fail_msg("%s", err.text);
    return t;
}

static void it_writes_what_was_asked(void **state) {
    (void)state;
    ty_err err = {0};
    ty_safetensors *s;
    if (run("{\"prompt\": \"See <image> there\", \"max_tokens\": 5, \"ignore_eos\": true}",
            pictures(1, ROWS, WIDTH), -1, true, &err) != TY_OK)
        fail_msg("%s", err.text);
    assert_int_equal(ty_safetensors_open(&s, in_dir("o.safetensors"), &err), TY_OK);
    ty_tensor ids = get(s, "input_ids"), logits = get(s, "logits"),
              new_ids = get(s, "generated_ids");
    assert_int_equal(ids.dtype, TY_I32);
    assert_int_equal(ids.n_dim, 1);
    int n = (int)ids.shape[0], visual = 0;
    for (int i = 0; i < n; i++) visual += ((const int32_t *)ids.data)[i] == -1;
    assert_int_equal(visual, ROWS);
    assert_int_equal(((const int32_t *)ids.data)[0], 1);
    assert_int_equal(logits.shape[0], n);
    assert_int_equal(logits.shape[1], decoder_vocab(d));
    assert_int_equal(new_ids.dtype, TY_I32);
    assert_int_equal(new_ids.shape[0], 5);
    ty_tensor h0 = get(s, "hidden0"), emb = get(s, "inputs_embeds"), h2 = get(s, "hidden2");
    assert_int_equal(h2.shape[0], n);
    assert_int_equal(h2.shape[1], WIDTH);
    assert_memory_equal(h0.data, emb.data, h0.size_bytes);
    ty_safetensors_close(&s);
}

static void it_writes_the_last_row_or_none(void **state) {
    (void)state;
    ty_err err = {0};
    ty_safetensors *s;
    ty_tensor t;
    assert_int_equal(run("{\"prompt\": \"Hello\", \"max_tokens\": 0}", NULL, 1, false, &err),
                     TY_OK);
    assert_int_equal(ty_safetensors_open(&s, in_dir("o.safetensors"), &err), TY_OK);
    assert_int_equal(get(s, "logits").shape[0], 1);
    t = get(s, "generated_ids");
    assert_int_equal(t.n_dim, 1);
    assert_int_equal(t.shape[0], 0);
    assert_int_equal(ty_safetensors_find(s, "hidden0", &t, NULL), TY_ENOTFOUND);
    ty_safetensors_close(&s);
    assert_int_equal(run("{\"prompt\": \"Hello\", \"max_tokens\": 1}", NULL, 0, false, &err),
                     TY_OK);
    assert_int_equal(ty_safetensors_open(&s, in_dir("o.safetensors"), &err), TY_OK);
    assert_int_equal(ty_safetensors_find(s, "logits", &t, NULL), TY_ENOTFOUND);
    ty_safetensors_close(&s);
}

static void turns_get_the_template(void **state) {
    (void)state;
    ty_err err = {0};
    ty_safetensors *s;
    if (run("{\"messages\": [{\"role\": \"system\", \"content\": \"Hm.\"}, "
            "{\"role\": \"user\", \"content\": \"Hi\"}], \"max_tokens\": 0}",
            NULL, 0, false, &err) != TY_OK)
        fail_msg("%s", err.text);
    assert_int_equal(ty_safetensors_open(&s, in_dir("o.safetensors"), &err), TY_OK);
    ty_tensor turns = get(s, "input_ids");
    int32_t copy[64];
    int64_t n = turns.shape[0];
    assert_true(n < 64);
    memcpy(copy, turns.data, turns.size_bytes);
    ty_safetensors_close(&s);
    if (run("{\"prompt\": \"Hm.\\nHuman: Hi\\nAI: \", \"max_tokens\": 0}", NULL, 0, false, &err) !=
        TY_OK)
        fail_msg("%s", err.text);
    assert_int_equal(ty_safetensors_open(&s, in_dir("o.safetensors"), &err), TY_OK);
    assert_int_equal(get(s, "input_ids").shape[0], n);
    assert_memory_equal(get(s, "input_ids").data, copy, (size_t)n * sizeof(int32_t));
    ty_safetensors_close(&s);
}

static void refused(const char *json, const char *visual, ty_status want, const char *says) {
    ty_err err = {0};
    ty_status st = run(json, visual, 0, false, &err);
    if (st != want) fail_msg("%s: %s: %s", json, ty_status_name(st), err.text);
    if (!strstr(err.text, says)) fail_msg("\"%s\" does not say \"%s\"", err.text, says);
}

static void bad_input_is_named(void **state) {
    (void)state;
    refused("{\"prompt\": ", NULL, TY_EFORMAT, "request.json");
    refused("{\"prompt\": \"a\", \"temprature\": 1}", NULL, TY_EUNSUPPORTED, "temprature");
    refused("{\"prompt\": \"a <image> b\", \"max_tokens\": 1}", NULL, TY_EINVAL, "placeholder");
    refused("{\"prompt\": \"a <image> b\", \"max_tokens\": 1}", pictures(2, ROWS, WIDTH), TY_EINVAL,
            "placeholder");
    refused("{\"prompt\": \"a <image> b\", \"max_tokens\": 1}", pictures(1, ROWS, WIDTH + 1),
            TY_ESHAPE, "33");
    refused("{\"prompt\": \"a\", \"max_tokens\": 1}", in_dir("missing.safetensors"), TY_ENOTFOUND,
            "missing.safetensors");
}

static void a_prompt_longer_than_the_context_is_refused(void **state) {
    (void)state;
    char json[400] = "{\"max_tokens\": 1, \"prompt\": \"";
    for (int i = 0; i < 60; i++) strcat(json, "q! ");
    strcat(json, "\"}");
    refused(json, NULL, TY_ECONTEXT, "64");
}

static int setup(void **state) {
    (void)state;
    toy_llama t = toy_llama_default();
    dir = test_temp_dir();
    const char *path = in_dir("toy.gguf");
    toy_llama_write(&t, path);
    if (ty_pool_create(&pool, 1, NULL) != TY_OK) return -1;
    decoder_options o = {.run.pool = pool};
    return decoder_create(&d, path, &o, NULL) == TY_OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    decoder_destroy(&d);
    ty_pool_destroy(&pool);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_writes_what_was_asked),
        cmocka_unit_test(it_writes_the_last_row_or_none),
        cmocka_unit_test(turns_get_the_template),
        cmocka_unit_test(bad_input_is_named),
        cmocka_unit_test(a_prompt_longer_than_the_context_is_refused),
    };
    return cmocka_run_group_tests_name("decoder_offline", tests, setup, teardown);
}
