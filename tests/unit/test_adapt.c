/*
 * adapt.c, order.c, adapters.c: sequences of several adapters and of none in one batch, each with the bits that
 * it has alone; nothing computed under one adapter is reused under another; what does not fit is refused by name.
 * That an adapter's answer is the merged model's stands in tests/pipeline/test_adapters.c.
 */
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "common/model/adapter.h"
#include "common/model/safetensors.h"
#include "services/decoder/decoder.h"
#include "services/decoder/order.h"
#include "tests/support/process.h"
#include "tests/support/toy_llama.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { D = 32, KV = 16, FF = 64, RANK = 4, ROWS = 5, TOKENS = 12 };

static ty_pool *pool;
static char model[2][256]; /* a LLaMA; mPLUG-Owl2's */
static float picture[ROWS * D];

/* ---- adapters ---- */

typedef struct {
    const char *module;
    int in, out;
} layer;
/* Of layer 0 and 1; %d is the layer. */
static const layer PLAIN[] = {{"language_model.model.layers.%d.self_attn.q_proj", D, D},
                              {"language_model.model.layers.%d.self_attn.v_proj", D, KV}};
static const layer OWL2[] = {{"model.layers.%d.self_attn.q_proj", D, D},
                             {"model.layers.%d.self_attn.k_proj.multiway.0", D, D},
                             {"model.layers.%d.self_attn.k_proj.multiway.1", D, D},
                             {"model.layers.%d.self_attn.v_proj.multiway.1", D, D},
                             {"model.layers.%d.self_attn.o_proj", D, D},
                             {"model.layers.%d.mlp.gate_proj", D, FF},
                             {"model.layers.%d.mlp.up_proj", D, FF},
                             {"model.layers.%d.mlp.down_proj", FF, D}};

static void add(ty_safetensors_writer *w, const char *module, const char *leaf, int rows, int cols,
                unsigned *seed) {
    char name[256];
    int64_t shape[] = {rows, cols};
    float *x = malloc((size_t)(rows * cols) * sizeof(*x));
    assert_non_null(x);
    for (int i = 0; i < rows * cols; i++) {
        *seed = *seed * 1664525u + 1013904223u;
        x[i] = 0.3f * ((float)(*seed >> 8) / (float)(1 << 23) - 1.0f);
    }
    snprintf(name, sizeof(name), "base_model.model.%s.lora_%s.weight", module, leaf);
    assert_int_equal(ty_safetensors_add(w, name, TY_F32, 2, shape, x, NULL), TY_OK);
    free(x);
}

/* A folder with an adapter of random numbers for these modules of both layers. */
static const char *write_adapter(const char *name, const layer *l, int n, unsigned seed,
                                 const char *more) {
    char config[512];
    const char *dir = test_path("%s/%s", test_temp_dir(), name);
    ty_safetensors_writer *w = NULL;
    assert_int_equal(mkdir(dir, 0700), 0);
    snprintf(config, sizeof(config),
             "{\"peft_type\": \"LORA\", \"r\": %d, \"lora_alpha\": 8, \"target_modules\": "
             "[\"q_proj\"], \"bias\": \"none\"%s}",
             RANK, more);
    assert_int_equal(ty_file_write_atomic(test_path("%s/adapter_config.json", dir), config,
                                          strlen(config), NULL),
                     TY_OK);
    assert_int_equal(ty_safetensors_writer_create(&w, NULL), TY_OK);
    for (int i = 0; i < 2 * n; i++) {
        const char *number = strstr(l[i / 2].module, "%d");
        char module[128];
        if (!number && i % 2) continue; /* it is in no layer */
        if (number)
            snprintf(module, sizeof(module), "%.*s%d%s", (int)(number - l[i / 2].module),
                     l[i / 2].module, i % 2, number + 2);
        else
            snprintf(module, sizeof(module), "%s", l[i / 2].module);
        add(w, module, "A", RANK, l[i / 2].in, &seed);
        add(w, module, "B", l[i / 2].out, RANK, &seed);
    }
    assert_int_equal(ty_safetensors_write(w, test_path("%s/adapter_model.safetensors", dir), NULL),
                     TY_OK);
    ty_safetensors_writer_destroy(&w);
    return dir;
}

/* ---- asking ---- */

typedef struct {
    int n, done;
    int32_t id[TOKENS];
    float logprob[TOKENS];
    decoder_result r;
} answer;

static void on_token(void *ctx, const decoder_token *t, int index, const char *text, size_t len) {
    (void)text, (void)len;
    answer *a = ctx;
    assert_int_equal(index, a->n);
    a->id[a->n] = t->id;
    a->logprob[a->n++] = t->logprob;
}

static void on_done(void *ctx, ty_status st, const decoder_result *r, const ty_err *err) {
    answer *a = ctx;
    if (st != TY_OK) fail_msg("%s", err->text);
    a->r = *r;
    a->done++;
}

static decoder *make(int which, const decoder_adapter *adapter, int n, decoder_options o) {
    decoder *d = NULL;
    ty_err err = {0};
    o.run.pool = pool;
    o.adapters = adapter;
    o.n_adapters = n;
    if (decoder_create(&d, model[which], &o, &err) != TY_OK) fail_msg("%s", err.text);
    assert_int_equal(decoder_adapters(d), n);
    return d;
}

/* adapter < 0: none */
static void submit(decoder *d, int adapter, const char *prompt, answer *a) {
    ty_chat_request chat;
    ty_err err = {0};
    uint64_t handle;
    char whole[256];
    memset(a, 0, sizeof(*a));
    assert_int_equal(ty_chat_request_init(&chat), TY_OK);
    snprintf(whole, sizeof(whole), "<image>%s", prompt);
    chat.prompt = strdup(whole);
    chat.sampling.max_tokens = TOKENS;
    chat.sampling.ignore_eos = true;
    chat.sampling.logprobs = true;
    decoder_request r = {.request = &chat,
                         .adapter = adapter < 0 ? NULL : decoder_adapter_id(d, adapter),
                         .visual = picture,
                         .n_visual = 1,
                         .visual_rows = ROWS,
                         .sink = {.ctx = a, .on_token = on_token, .on_done = on_done}};
    if (decoder_submit(d, &r, &handle, &err) != TY_OK) fail_msg("%s", err.text);
    ty_chat_request_clear(&chat);
}

static void run(decoder *d) {
    while (decoder_step(d) > 0)
        ;
}

static void check_same(const answer *a, const answer *b) {
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->id, b->id, sizeof(a->id));
    assert_memory_equal(a->logprob, b->logprob, sizeof(a->logprob));
}

/* ---- tests ---- */

static const char PROMPT[] = " Tell me what you see.";

/* Two adapters and none, six sequences, mixed; the second half comes while the first decodes. */
static void check_batch(int which, const decoder_adapter *two, decoder_options o) {
    static const int WITH[] = {0, -1, 1, 0, -1, 1};
    o.prefix_mib = -1;
    decoder *d = make(which, two, 2, o);
    answer alone[3], mixed[6];
    for (int i = 0; i < 3; i++) {
        submit(d, WITH[i], PROMPT, &alone[i]);
        run(d);
    }
    assert_memory_not_equal(alone[0].logprob, alone[1].logprob, sizeof(alone[0].logprob));
    assert_memory_not_equal(alone[0].logprob, alone[2].logprob, sizeof(alone[0].logprob));
    assert_memory_not_equal(alone[1].logprob, alone[2].logprob, sizeof(alone[0].logprob));
    for (int i = 0; i < 3; i++) submit(d, WITH[i], PROMPT, &mixed[i]);
    for (int i = 0; i < 4; i++) (void)decoder_step(d);
    for (int i = 3; i < 6; i++) submit(d, WITH[i], PROMPT, &mixed[i]);
    run(d);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(mixed[i].done, 1);
        check_same(&mixed[i], &alone[i % 3]);
    }
    assert_in_range(mixed[5].r.max_batch, 3, 6);
    assert_true(mixed[0].r.flops > mixed[1].r.flops);
    decoder_destroy(&d);
}

static void sequences_of_several_adapters_share_a_batch(void **state) {
    (void)state;
    const decoder_adapter plain[2] = {{"a", write_adapter("plain-a", PLAIN, 2, 1, "")},
                                      {"b", write_adapter("plain-b", PLAIN, 2, 2, "")}},
                          owl2[2] = {{"a", write_adapter("owl2-a", OWL2, 8, 3, "")},
                                     {"b", write_adapter("owl2-b", OWL2, 3, 4, "")}};
    check_batch(0, plain, (decoder_options){0});
    check_batch(0, plain, (decoder_options){.prefill_chunk = 5});
    check_batch(1, owl2, (decoder_options){0});
    check_batch(1, owl2, (decoder_options){.prefill_chunk = 5});
}

static void a_decoder_with_adapters_answers_without_as_one_that_has_none(void **state) {
    (void)state;
    const decoder_adapter one = {"a", write_adapter("unused", PLAIN, 2, 5, "")};
    decoder *with = make(0, &one, 1, (decoder_options){0}),
            *plain = make(0, NULL, 0, (decoder_options){0});
    answer a, b;
    submit(with, -1, PROMPT, &a);
    submit(plain, -1, PROMPT, &b);
    run(with);
    run(plain);
    check_same(&a, &b);
    decoder_destroy(&with);
    decoder_destroy(&plain);
}

static void nothing_is_reused_under_another_adapter(void **state) {
    (void)state;
    const decoder_adapter two[2] = {{"a", write_adapter("reuse-a", PLAIN, 2, 1, "")},
                                    {"b", write_adapter("reuse-b", PLAIN, 2, 2, "")}};
    decoder *d = make(0, two, 2, (decoder_options){0});
    answer cold[3], warm;
    for (int i = -1; i < 2; i++) {
        submit(d, i, PROMPT, &cold[1 + i]);
        run(d);
        assert_int_equal(cold[1 + i].r.n_cached, 0);
    }
    for (int i = -1; i < 2; i++) {
        submit(d, i, PROMPT, &warm);
        run(d);
        assert_int_equal(warm.r.n_prefilled, 1);
        check_same(&warm, &cold[1 + i]);
    }
    decoder_destroy(&d);
}

static void check_refused(const char *dir, ty_status want, const char *word) {
    const decoder_adapter one = {"x", dir};
    decoder_options o = {.run.pool = pool, .adapters = &one, .n_adapters = 1};
    decoder *d = NULL;
    ty_err err = {0};
    assert_int_equal(decoder_create(&d, model[0], &o, &err), want);
    assert_null(d);
    assert_non_null(strstr(err.text, "adapter x: "));
    if (!strstr(err.text, word)) fail_msg("\"%s\" does not say \"%s\"", err.text, word);
}

static void what_does_not_fit_is_refused(void **state) {
    (void)state;
    static const layer WIDE[] = {{"language_model.model.layers.%d.self_attn.q_proj", D + 1, D}},
                       DEEP[] = {{"language_model.model.layers.7%d.self_attn.q_proj", D, D}},
                       EYE[] = {{"vision_model.encoder.layers.%d.mlp.fc1", D, D}},
                       HEAD[] = {{"language_model.lm_head", D, D}};
    check_refused("/nowhere", TY_ENOTFOUND, "adapter_config.json");
    check_refused(write_adapter("wide", WIDE, 1, 1, ""), TY_ESHAPE, "[32,33]");
    check_refused(write_adapter("deep", DEEP, 1, 1, ""), TY_ENOTFOUND, "layers.70.self_attn");
    check_refused(write_adapter("eye", EYE, 1, 1, ""), TY_ENOTFOUND, "another model");
    check_refused(write_adapter("head", HEAD, 1, 1, ""), TY_EUNSUPPORTED,
                  "lm_head, which only merging");
    check_refused(write_adapter("owl2", OWL2, 8, 1, ""), TY_ENOTFOUND, "multiway.0");
    check_refused(write_adapter("dora", PLAIN, 2, 1, ", \"use_dora\": true"), TY_EUNSUPPORTED,
                  "use_dora");
    check_refused(write_adapter("ranks", PLAIN, 2, 1, ", \"rank_pattern\": {\"q_proj\": 2}"),
                  TY_EUNSUPPORTED, "rank_pattern");
}

static void a_request_for_an_unknown_adapter_is_refused(void **state) {
    (void)state;
    decoder *d = make(0, NULL, 0, (decoder_options){0});
    ty_chat_request chat;
    uint64_t handle;
    ty_err err = {0};
    assert_int_equal(ty_chat_request_init(&chat), TY_OK);
    chat.prompt = strdup("Hello");
    decoder_request r = {.request = &chat, .adapter = "0123"};
    assert_int_equal(decoder_submit(d, &r, &handle, &err), TY_ENOTFOUND);
    assert_non_null(strstr(err.text, "no adapter 0123"));
    ty_chat_request_clear(&chat);
    decoder_destroy(&d);
}

static void rows_stand_by_kind_then_by_adapter(void **state) {
    (void)state;
    static char one, two; /* their addresses alone count */
    const llama_adapter *A = (const llama_adapter *)&one, *B = (const llama_adapter *)&two;
    float v[1];
    llama_row text[2] = {{.id = 1}, {.id = 2}},
              mixed[3] = {{.visual = v}, {.id = 3}, {.visual = v}};
    llama_span s[4] = {{.row = text, .n = 1, .adapter = B},
                       {.row = mixed, .n = 3, .adapter = A},
                       {.row = mixed, .n = 2},
                       {.row = text, .n = 2, .adapter = B}};
    static const int plain[8] = {2, 5, 6, 7, 0, 1, 3, 4}, multiway[8] = {1, 6, 4, 7, 5, 0, 2, 3};
    int order[8], n = 0;
    llama_run run[8];
    assert_int_equal(order_rows(s, 4, false, order, run, &n), 8);
    assert_memory_equal(order, plain, sizeof(plain));
    assert_int_equal(n, 2);
    assert_true(run[0].adapter == B && run[0].first == 2 && run[0].n == 3);
    assert_true(run[1].adapter == A && run[1].first == 5 && run[1].n == 3);
    assert_int_equal(order_rows(s, 4, true, order, run, &n), 5);
    assert_memory_equal(order, multiway, sizeof(multiway));
    assert_int_equal(n, 3);
    assert_true(run[2].adapter == A && run[2].first == 6 && run[2].n == 2);
}

static void options_have_a_name_and_may_have_a_model(void **state) {
    (void)state;
    ty_adapter_option o;
    assert_int_equal(ty_adapter_option_parse(&o, "owl+q8+red=a+b=c", NULL), TY_OK);
    assert_string_equal(o.model, "owl+q8");
    assert_string_equal(o.name, "red");
    assert_string_equal(o.dir, "a+b=c");
    assert_true(ty_adapter_option_is_for(&o, "owl+q8", 2));
    assert_false(ty_adapter_option_is_for(&o, "owl", 1));
    assert_int_equal(ty_adapter_option_parse(&o, "red=dir", NULL), TY_OK);
    assert_true(ty_adapter_option_is_for(&o, "owl", 1));
    assert_false(ty_adapter_option_is_for(&o, "owl", 2));
    static const char *const BAD[] = {"", "dir", "=dir", "red=", "+red=dir", "owl+=dir", "a/b=dir"};
    for (size_t i = 0; i < sizeof(BAD) / sizeof(*BAD); i++)
        assert_int_equal(ty_adapter_option_parse(&o, BAD[i], NULL), TY_EINVAL);
}

static int setup(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        toy_llama t = toy_llama_default();
        t.context = 256;
        if (k) t.architecture = "mplug_owl2", t.n_kv_head = t.n_head;
        snprintf(model[k], sizeof(model[k]), "%s/toy%d.gguf", test_temp_dir(), k);
        toy_llama_write(&t, model[k]);
    }
    for (int i = 0; i < ROWS * D; i++) picture[i] = (float)(i % 17) / 9.0f - 1.0f;
    return ty_pool_create(&pool, 2, NULL) == TY_OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    ty_pool_destroy(&pool);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequences_of_several_adapters_share_a_batch),
        cmocka_unit_test(a_decoder_with_adapters_answers_without_as_one_that_has_none),
        cmocka_unit_test(nothing_is_reused_under_another_adapter),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(a_request_for_an_unknown_adapter_is_refused),
        cmocka_unit_test(rows_stand_by_kind_then_by_adapter),
        cmocka_unit_test(options_have_a_name_and_may_have_a_model),
    };
    return cmocka_run_group_tests_name("adapt", tests, setup, teardown);
}
