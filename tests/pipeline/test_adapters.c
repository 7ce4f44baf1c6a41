/*
 * test_adapters.c - adapters that tyto-train wrote, asked for through the service as model MODEL+NAME: each answers as
 * the pipeline that it is merged into, alone and with others in one batch; a conversation and a failing decoder keep
 * it.  f32 throughout: merging rounds quantised weights once more.
 */
#include "tests/support/process.h"
#include "tests/support/service.h"
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "common/model/safetensors.h"
#include "tests/support/http_client.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define ARG(x) ((char *)(x))

enum { ADAPTERS = 2, MODELS = 3, QUESTIONS = 3, CROWD = 18, LONG = 160 };

static const char *base, *merged[ADAPTERS]; /* folders */
static char adapter[ADAPTERS][256];
static const char *const model[MODELS] = {"owl", "owl+a", "owl+b"};
static test_service service;

static char *run_ok(char *const *argv) {
    test_output o = test_run(argv, NULL, 0, 120);
    if (o.exit_code != 0) fail_msg("%s: %s", argv[0], o.err);
    free(o.err);
    return o.out;
}
#define RUN(...) run_ok((char *const[]){__VA_ARGS__, NULL})

/* A few steps at a rate that changes every answer. */
static void train(const char *golden, const char *data, const char *recipe, const char *lr,
                  const char *seed, const char *out, char into[256]) {
    const char *dir = test_path("%s/%s", test_temp_dir(), out);
    free(RUN(ARG(test_bin("tyto-train")), ARG("--model"),
             ARG(test_path("%s/%s", test_golden_dir(), golden)), ARG("--data"),
             ARG(test_path("%s/images_golden/%s", test_golden_dir(), data)), ARG("--images"),
             ARG(test_path("%s/images", test_golden_dir())), ARG("--recipe"), ARG(recipe),
             ARG("--trains"), ARG("^$"), ARG("--steps"), ARG("20"), ARG("--batch"), ARG("4"),
             ARG("--lr"), ARG(lr), ARG("--warmup"), ARG("0"), ARG("--seed"), ARG(seed),
             ARG("--threads"), ARG("1"), ARG("--out"), ARG(dir)));
    snprintf(into, 256, "%s/adapter", dir);
}

static const char *import(const char *golden, const char *name, const char *with) {
    return test_import(
        golden, name,
        (char *[]){ARG("--type"), ARG("f32"), with ? ARG("--adapter") : NULL, ARG(with), NULL});
}

static int bring_up(void **state) {
    (void)state;
    static const char *const seed[ADAPTERS] = {"1", "2"}, *const name[ADAPTERS] = {"ma", "mb"},
                             *const lr[ADAPTERS] = {"5e-2", "2e-2"};
    base = import("v1-micro", "owl", NULL);
    for (int i = 0; i < ADAPTERS; i++) {
        train("v1-micro", "v1_train.jsonl", "v1-stage2", lr[i], seed[i], test_path("run%d", i),
              adapter[i]);
        merged[i] = import("v1-micro", name[i], adapter[i]);
    }
    service = test_service_up(
        base, (char *[]){ARG("--pipeline"), ARG(merged[0]), ARG("--pipeline"), ARG(merged[1]),
                         ARG("--adapter"), ARG(test_path("owl+a=%s", adapter[0])), ARG("--adapter"),
                         ARG(test_path("owl+b=%s", adapter[1])), ARG("--decoder"), ARG("2"), NULL});
    return 0;
}

static int take_down(void **state) {
    (void)state;
    test_service_down(&service);
    return 0;
}

/* Question i, of which some are about a picture. */
static char *question(const char *to, int i, const char *more) {
    static const char *const text[QUESTIONS] = {"Where is the man located in the image?",
                                                "Say something.", "What is he eating?"};
    const char *picture = test_path("%s/images/photo_47.jpg", test_golden_dir());
    return test_request(to, text[i % QUESTIONS], i % QUESTIONS == 1 ? NULL : picture, more);
}

static test_question ask(char *body) {
    test_question q = {.body = body};
    test_ask_all(&service, &q, 1);
    if (q.status != 200) fail_msg("%d %s", q.status, q.raw);
    free(body);
    return q;
}

static void merged_and_unmerged_answer_alike(void **state) {
    (void)state;
    static const char *const as[ADAPTERS] = {"ma", "mb"};
    static const char more[] = "\"max_tokens\": 24, \"ignore_eos\": true";
    for (int i = 0; i < QUESTIONS; i++) {
        test_question plain = ask(question("owl", i, more));
        for (int k = 0; k < ADAPTERS; k++) {
            test_question whole = ask(question(as[k], i, more)),
                          apart = ask(question(model[1 + k], i, more));
            assert_string_equal(whole.text, apart.text);
            assert_string_not_equal(apart.text, plain.text);
            test_question_clear(&whole);
            test_question_clear(&apart);
        }
        test_question_clear(&plain);
    }
}

/* A crowd over all models, each in as many ways as there are questions; want: what each says alone. */
static test_question want[CROWD];

static void ask_crowd(test_question *q) {
    for (int i = 0; i < CROWD; i++)
        q[i] =
            (test_question){.body = question(model[i % MODELS], i / MODELS,
                                             test_path("\"max_tokens\": %d, \"ignore_eos\": "
                                                       "true, \"logprobs\": true%s",
                                                       LONG, i % 2 ? ", \"stream\": true" : ""))};
}

static void check_crowd(test_question *q) {
    for (int i = 0; i < CROWD; i++) {
        if (q[i].status != 200) fail_msg("%d %s", q[i].status, q[i].raw);
        assert_string_equal(q[i].text, want[i].text);
        assert_string_equal(q[i].logprobs, want[i].logprobs);
        free(ARG(q[i].body));
        test_question_clear(&q[i]);
    }
}

static void several_adapters_and_none_share_a_batch(void **state) {
    (void)state;
    test_question q[CROWD];
    ask_crowd(want);
    for (int i = 0; i < CROWD; i++) want[i] = ask(ARG(want[i].body));
    ask_crowd(q);
    test_ask_all(&service, q, CROWD);
    int most = 0;
    for (int i = 0; i < CROWD; i++) {
        int n = test_receipt_max(q[i].timings, "decoder", "batch");
        if (n > most) most = n;
    }
    assert_true(most > 1);
    check_crowd(q);
}

static const char *adapter_in(const json_t *timings) {
    const json_t *stages = json_object_get(timings, "stages"), *s;
    size_t i;
    json_array_foreach(stages, i, s) {
        const char *a = json_string_value(json_object_get(s, "adapter"));
        if (a) return a;
    }
    return "";
}

static void a_lost_decoder_leaves_the_answer_its_adapter(void **state) {
    (void)state;
    int again = 0;
    /* What a decoder had when it was killed is a matter of luck: until some answer had to go on elsewhere. */
    for (int round = 0; round < 5 && again == 0; round++) {
        test_question q[CROWD];
        int before = 0, restarts = 0;
        pid_t pid = test_service_pid(&service, "decoder.0", &before);
        assert_true(pid > 0);
        ask_crowd(q);
        void *asking = test_ask_begin(&service, q, CROWD);
        for (int n = 0; n == 0;)
            for (int i = 1; i < CROWD; i += 2) n += q[i].pieces > 2 || q[i].done;
        assert_int_equal(kill(pid, SIGKILL), 0);
        test_ask_join(asking);
        for (int i = 0; i < CROWD; i++) {
            assert_string_equal(adapter_in(q[i].timings), i % MODELS == 0   ? ""
                                                          : i % MODELS == 1 ? "a"
                                                                            : "b");
            again += test_receipt_max(q[i].timings, "decoder", "attempt") > 1;
        }
        check_crowd(q);
        while (test_service_pid(&service, "decoder.0", &restarts) <= 0 || restarts == before)
            nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    assert_true(again > 0);
}

static json_t *get(const char *path) {
    test_reply r = TEST_GET(service.port, path);
    json_t *o = json_loads(r.body, 0, NULL);
    test_reply_clear(&r);
    assert_non_null(o);
    return o;
}

static void a_conversation_keeps_its_model(void **state) {
    (void)state;
    static const char more[] = "\"max_tokens\": 8, \"ignore_eos\": true";
    test_question first =
        ask(question("owl+a", 0, test_path("%s, \"conversation\": \"new\"", more)));
    char body[400];
    snprintf(body, sizeof(body),
             "{\"conversation\": \"%s\", \"messages\": [{\"role\": \"user\", \"content\": \"And "
             "then?\"}]}",
             first.conversation);
    test_question second = ask(strdup(body));
    assert_string_equal(adapter_in(second.timings), "a");
    json_t *c = get(test_path("/v1/conversations/%s", first.conversation));
    assert_string_equal(json_string_value(json_object_get(c, "model")), "owl+a");
    const json_t *answer = json_array_get(json_object_get(c, "turns"), 1);
    assert_string_equal(json_string_value(json_object_get(answer, "model")), "owl+a");
    assert_non_null(json_object_get(json_object_get(answer, "stages"), "adapter"));
    json_decref(c);
    test_question_clear(&first);
    test_question_clear(&second);
}

static void models_are_listed_and_others_refused(void **state) {
    (void)state;
    static const char *const all[] = {"owl", "ma", "mb", "owl+a", "owl+b"};
    json_t *list = get("/v1/models"), *data = json_object_get(list, "data"), *m;
    assert_int_equal(json_array_size(data), 5);
    for (size_t i = 0; i < 5; i++)
        assert_string_equal(json_string_value(json_object_get(json_array_get(data, i), "id")),
                            all[i]);
    m = json_object_get(json_array_get(data, 3), "tyto");
    assert_string_equal(json_string_value(json_object_get(json_object_get(m, "adapter"), "name")),
                        "a");
    json_decref(list);
    test_question q = {.body = question("owl+c", 1, "\"max_tokens\": 4")};
    test_ask_all(&service, &q, 1);
    assert_int_equal(q.status, 404);
    assert_non_null(strstr(q.raw, "model_not_found"));
    assert_non_null(strstr(q.raw, "owl, ma, mb, owl+a, owl+b"));
    free(ARG(q.body));
    test_question_clear(&q);
}

static char *answer(const char *pipeline, const char *with) {
    return RUN(ARG(test_bin("tyto")), ARG("run"), ARG("--pipeline"), ARG(pipeline), ARG("--image"),
               ARG(test_path("%s/images/photo_47.jpg", test_golden_dir())), ARG("--prompt"),
               ARG("What is he eating?"), ARG("--max-tokens"), ARG("24"), ARG("--ignore-eos"),
               ARG("--quiet"), with ? ARG("--adapter") : NULL, ARG(with));
}

static void check_merged(const char *golden, const char *with) {
    const char *apart = import(golden, test_path("%s-apart", golden), NULL),
               *whole = import(golden, test_path("%s-whole", golden), with);
    char *a = answer(apart, with), *b = answer(whole, NULL), *c = answer(apart, NULL);
    assert_string_equal(a, b);
    assert_string_not_equal(a, c);
    free(a);
    free(b);
    free(c);
}

/* Every linear layer of mPLUG-Owl2's language model, both copies of k and v. */
static void an_adapter_of_every_layer_answers_as_merged(void **state) {
    (void)state;
    char with[256];
    train("v2-micro", "v2_train.json", "v2-lora", "1e-2", "1", "run-v2", with);
    check_merged("v2-micro", with);
    test_output o = test_run(
        (char *[]){ARG(test_bin("tyto")), ARG("up"), ARG("--pipeline"), ARG(base), ARG("--adapter"),
                   ARG(test_path("x=%s", with)), ARG("--listen"),
                   ARG(test_path("127.0.0.1:%d", test_free_port())), ARG("--temporary"), NULL},
        NULL, 0, 60);
    assert_int_equal(o.exit_code, 1);
    assert_non_null(strstr(o.err, "multiway.0, which this model's language model does not have"));
    free(o.out);
    free(o.err);
}

/* BLOOM cannot be trained here, so its adapter, of every linear layer, is written by hand. */
static const char *write_bloom_adapter(void) {
    enum { WIDTH = 48, RANK = 4, LAYERS = 2, PARTS = 4 };
    static const struct {
        const char *name;
        int64_t out, in;
    } PART[PARTS] = {{"self_attention.query_key_value", 3 * WIDTH, WIDTH},
                     {"self_attention.dense", WIDTH, WIDTH},
                     {"mlp.dense_h_to_4h", 4 * WIDTH, WIDTH},
                     {"mlp.dense_4h_to_h", WIDTH, 4 * WIDTH}};
    static const char config[] =
        "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8, \"bias\": \"none\", "
        "\"target_modules\": [\"query_key_value\", \"dense\", \"dense_h_to_4h\", "
        "\"dense_4h_to_h\"]}";
    static float value[LAYERS][PARTS][2][4 * WIDTH * RANK];
    static char dir[256]; /* many paths are made below */
    snprintf(dir, sizeof(dir), "%s/bloom-adapter", test_temp_dir());
    ty_safetensors_writer *w = NULL;
    ty_err err = {0};
    assert_int_equal(mkdir(dir, 0777), 0);
    assert_int_equal(ty_safetensors_writer_create(&w, &err), TY_OK);
    for (int l = 0; l < LAYERS; l++)
        for (int p = 0; p < PARTS; p++)
            for (int b = 0; b < 2; b++) {
                int64_t shape[2] = {b ? PART[p].out : RANK, b ? RANK : PART[p].in};
                for (int64_t i = 0; i < shape[0] * shape[1]; i++)
                    value[l][p][b][i] =
                        (float)sin((double)((l * PARTS + p) * 2 + b + 1) * 7.3 + (double)i * 1.7) /
                        4;
                const char *name =
                    test_path("base_model.model.language_model.transformer.h.%d.%s.lora_%c.weight",
                              l, PART[p].name, b ? 'B' : 'A');
                assert_int_equal(
                    ty_safetensors_add(w, name, TY_F32, 2, shape, value[l][p][b], &err), TY_OK);
            }
    const char *file = test_path("%s/adapter_model.safetensors", dir),
               *about = test_path("%s/adapter_config.json", dir);
    assert_int_equal(ty_safetensors_write(w, file, &err), TY_OK);
    assert_int_equal(ty_file_write_atomic(about, config, strlen(config), &err), TY_OK);
    ty_safetensors_writer_destroy(&w);
    return dir;
}

static void an_adapter_of_blooms_layers_answers_as_merged(void **state) {
    (void)state;
    check_merged("v1-bloom-micro", write_bloom_adapter());
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merged_and_unmerged_answer_alike),
        cmocka_unit_test(several_adapters_and_none_share_a_batch),
        cmocka_unit_test(a_lost_decoder_leaves_the_answer_its_adapter),
        cmocka_unit_test(a_conversation_keeps_its_model),
        cmocka_unit_test(models_are_listed_and_others_refused),
        cmocka_unit_test(an_adapter_of_every_layer_answers_as_merged),
        cmocka_unit_test(an_adapter_of_blooms_layers_answers_as_merged),
    };
    return cmocka_run_group_tests_name("adapters", tests, bring_up, take_down);
}
