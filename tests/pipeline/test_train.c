/*
 * test_train.c - from nothing to an answer: a small model with new weights is taught two records into a pipeline,
 * and asked; its ViT learns alone from cells, its abstractor from rows; its LLM gets new layers; then an adapter is
 * trained on it, and the pipeline with the adapter merged at import answers as the one that the trainer merged.
 */
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include "common/base/file.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARG(x) ((char *)(x))

static char base[300]; /* everything of this test */

static void write_file(const char *path, const char *text) {
    ty_err err = {0};
    if (ty_file_write_atomic(path, text, strlen(text), &err) != TY_OK) fail_msg("%s", err.text);
}

static void copy_file(const char *from, const char *to) {
    char *data = NULL;
    size_t n;
    ty_err err = {0};
    if (ty_file_read(from, 64 << 20, &data, &n, &err) != TY_OK ||
        ty_file_write_atomic(to, data, n, &err) != TY_OK)
        fail_msg("%s", err.text);
    free(data);
}

static const char *in_base(const char *name) {
    return test_path("%s/%s", base, name);
}

static char *run_ok(char *const *argv) {
    test_output o = test_run(argv, NULL, 0, 120);
    if (o.exit_code != 0) fail_msg("%s: %s", argv[0], o.err);
    free(o.err);
    return o.out;
}
#define RUN(...) run_ok((char *const[]){__VA_ARGS__, NULL})

static char *ask(const char *pipeline, const char *picture, const char *prompt) {
    return RUN(ARG(test_bin("tyto")), ARG("run"), ARG("--pipeline"), ARG(pipeline), ARG("--image"),
               ARG(picture), ARG("--prompt"), ARG(prompt), ARG("--max-tokens"), ARG("24"));
}

static int make_inputs(void **state) {
    (void)state;
    snprintf(base, sizeof base, "%s", test_temp_dir());
    write_file(in_base("config.json"), "{\"model_type\": \"mplug-owl\", \"num_query_tokens\": 4, "
                                       "\"vision_config\": {\"hidden_size\": 32, "
                                       "\"intermediate_size\": 64, \"num_hidden_layers\": 2, "
                                       "\"num_attention_heads\": 2, \"image_size\": 28, "
                                       "\"patch_size\": 14}, \"visual_abstractor_config\": "
                                       "{\"hidden_size\": 32, \"intermediate_size\": 96, "
                                       "\"num_hidden_layers\": 1, \"num_attention_heads\": 2}, "
                                       "\"text_config\": {\"model_type\": \"llama\", "
                                       "\"hidden_size\": 64, \"intermediate_size\": 176, "
                                       "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
                                       "\"vocab_size\": 640, \"max_position_embeddings\": 512}}");
    copy_file("tests/golden/v1-micro/tokenizer.model", in_base("tokenizer.model"));
    copy_file("tests/golden/v1-micro/preprocessor_config.json",
              in_base("preprocessor_config.json"));
    return 0;
}

/* What `tyto run` asks with, so that the text learnt is the text asked. */
#define LINE(picture, question, answer)                                                            \
    "{\"image\": [\"" picture                                                                      \
    "\"], \"text\": \"The following is a conversation between a curious human and AI "             \
    "assistant. The assistant gives helpful, detailed, and polite answers to the user's "          \
    "questions.\\nHuman: "                                                                         \
    "<image>\\nHuman: " question "\\nAI: " answer "\"}\n"

static void train(const char *model, const char *data, const char *recipe, const char *out,
                  const char *pipeline, const char *steps, const char *first) {
    free(RUN(ARG(test_bin("tyto-train")), ARG("--model"), ARG(model), ARG("--data"), ARG(data),
             ARG("--images"), ARG("tests/golden/images"), ARG("--recipe"), ARG(recipe),
             ARG("--out"), ARG(out), ARG("--steps"), ARG(steps), ARG("--batch"), ARG("2"),
             ARG("--micro-batch"), ARG("2"), ARG("--lr"), ARG("4e-3"), ARG("--no-augment"),
             ARG("--pipeline"), ARG(pipeline), ARG("--threads"), ARG("2"), ARG(first)));
}

static void trained_model_answers_what_it_was_taught(void **state) {
    (void)state;
    write_file(in_base("first.jsonl"), LINE("photo_47.jpg", "What is it?", "A meal.")
                                           LINE("photo_48.jpg", "What is it?", "A street."));
    train(base, in_base("first.jsonl"), "all", in_base("first"), in_base("pipe"), "160", "--new");
    char *meal = ask(in_base("pipe"), "tests/golden/images/photo_47.jpg", "What is it?");
    char *street = ask(in_base("pipe"), "tests/golden/images/photo_48.jpg", "What is it?");
    assert_string_equal(meal, "A meal.\n");
    assert_string_equal(street, "A street.\n");
    free(meal);
    free(street);
}

static void adapter_merged_at_import_answers_as_the_merged_model(void **state) {
    (void)state;
    write_file(in_base("second.jsonl"), LINE("photo_47.jpg", "What is it?", "It is red.")
                                            LINE("photo_48.jpg", "What is it?", "It is gray."));
    train(in_base("first/model"), in_base("second.jsonl"), "v1-stage2", in_base("second"),
          in_base("merged"), "60", "--recompute");
    free(RUN(ARG(test_bin("tyto")), ARG("import"), ARG(in_base("first/model")),
             ARG(in_base("adapted")), ARG("--adapter"), ARG(in_base("second/adapter"))));
    char *before = ask(in_base("pipe"), "tests/golden/images/photo_47.jpg", "What is it?");
    char *merged = ask(in_base("merged"), "tests/golden/images/photo_47.jpg", "What is it?");
    char *adapted = ask(in_base("adapted"), "tests/golden/images/photo_47.jpg", "What is it?");
    assert_string_equal(merged, adapted);
    assert_string_not_equal(merged, before);
    free(before);
    free(merged);
    free(adapted);
}

/* What a new model with an adapter is written as, having learnt at this rate. */
static char *new_and_merged(const char *out, const char *rate, size_t *n) {
    char *data = NULL;
    ty_err err = {0};
    free(RUN(ARG(test_bin("tyto-train")), ARG("--new"), ARG("--merge"), ARG("--model"), ARG(base),
             ARG("--data"), ARG(in_base("second.jsonl")), ARG("--images"),
             ARG("tests/golden/images"), ARG("--recipe"), ARG("v1-stage2"), ARG("--out"),
             ARG(in_base(out)), ARG("--steps"), ARG("2"), ARG("--warmup"), ARG("0"), ARG("--batch"),
             ARG("2"), ARG("--lr"), ARG(rate)));
    const char *path = test_path("%s/%s/model/model.safetensors", base, out);
    if (ty_file_read(path, 64 << 20, &data, n, &err) != TY_OK) fail_msg("%s", err.text);
    return data;
}

static void adapter_of_a_new_model_is_merged_too(void **state) {
    (void)state;
    size_t n0, n1;
    char *still = new_and_merged("still", "1e-12", &n0),
         *moved = new_and_merged("moved", "1e-1", &n1);
    assert_int_equal(n0, n1);
    assert_memory_not_equal(still, moved, n0);
    free(still);
    free(moved);
}

static void check_last_loss(const char *path, double below) {
    char *log = NULL;
    size_t n;
    ty_err err = {0};
    assert_int_equal(ty_file_read(path, 1 << 22, &log, &n, &err), TY_OK);
    const char *last = log, *at;
    while ((at = strstr(last + 1, "\"loss\":"))) last = at;
    double loss = atof(last + strlen("\"loss\":"));
    if (!(loss > 0 && loss < below)) fail_msg("the loss is still %g", loss);
    free(log);
}

/* A ViT learns alone; the rest of the model stays, and what it learnt under is not in the model. */
static void vit_learns_from_cells_before_the_rest(void **state) {
    (void)state;
    write_file(in_base("cells.jsonl"),
               "{\"image\": \"photo_47.jpg\", \"cells\": [\"0123\", \"1.11\"]}\n"
               "{\"image\": \"photo_48.jpg\", \"cells\": [\"3210\", \"0.00\"]}\n");
    train(in_base("first/model"), in_base("cells.jsonl"), "vit-cells", in_base("seen"),
          in_base("seen/pipe"), "200", "--readers=1");
    char *data = NULL;
    size_t n;
    ty_err err = {0};
    check_last_loss(in_base("seen/log.jsonl"), 0.1);
    assert_int_equal(
        ty_file_read(in_base("seen/model/model.safetensors"), 64 << 20, &data, &n, &err), TY_OK);
    assert_null(memmem(data, n, "cells.weight", 12));
    assert_non_null(memmem(data, n, "language_model.lm_head.weight", 29));
    free(data);
}

static void abstractor_learns_its_rows_before_it_is_asked(void **state) {
    (void)state;
    write_file(
        in_base("rows.jsonl"),
        "{\"image\": \"photo_47.jpg\", \"rows\": [\" the\", \"1\", \"2\", \"3\", \" the\"]}\n"
        "{\"image\": \"photo_48.jpg\", \"rows\": [\"4\", \" the\", \"2\", \"1\", \" the\"]}\n");
    train(in_base("first/model"), in_base("rows.jsonl"), "abstractor-rows", in_base("told"),
          in_base("told/pipe"), "200", "--readers=1");
    check_last_loss(in_base("told/log.jsonl"), 0.15); /* told apart; alike for both: 0.3 */
}

/* Layers behind the last: the grown model says what it said, and learns on as a model of that many layers. */
static void new_layers_change_nothing_until_they_learn(void **state) {
    (void)state;
    free(RUN(ARG(test_bin("tyto-train")), ARG("--model"), ARG(in_base("first/model")),
             ARG("--new-layers"), ARG("2"), ARG("--data"), ARG(in_base("first.jsonl")),
             ARG("--images"), ARG("tests/golden/images"), ARG("--recipe"), ARG("v1-full"),
             ARG("--out"), ARG(in_base("grown")), ARG("--steps"), ARG("1"), ARG("--lr"),
             ARG("1e-12"), ARG("--warmup"), ARG("0"), ARG("--batch"), ARG("2"), ARG("--pipeline"),
             ARG(in_base("grown/pipe"))));
    json_t *c = json_load_file(in_base("grown/model/config.json"), 0, NULL);
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(c, "text_config"), "num_hidden_layers")),
        4);
    json_decref(c);
    char *meal = ask(in_base("grown/pipe"), "tests/golden/images/photo_47.jpg", "What is it?");
    assert_string_equal(meal, "A meal.\n");
    free(meal);
    write_file(in_base("third.jsonl"), LINE("photo_47.jpg", "What is it?", "It is red.")
                                           LINE("photo_48.jpg", "What is it?", "It is gray."));
    train(in_base("grown/model"), in_base("third.jsonl"), "all", in_base("third"),
          in_base("third/pipe"), "120", "--readers=1");
    char *red = ask(in_base("third/pipe"), "tests/golden/images/photo_47.jpg", "What is it?");
    assert_string_equal(red, "It is red.\n");
    free(red);
    test_output o = test_run((char *[]){ARG(test_bin("tyto-train")), ARG("--new"),
                                        ARG("--new-layers"), ARG("1"), ARG("--model"), ARG(base),
                                        ARG("--data"), ARG(in_base("third.jsonl")), ARG("--recipe"),
                                        ARG("all"), ARG("--out"), ARG(in_base("no")), NULL},
                             NULL, 0, 60);
    assert_int_equal(o.exit_code, 1);
    assert_non_null(strstr(o.err, "--new-layers is for a checkpoint"));
    free(o.out);
    free(o.err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trained_model_answers_what_it_was_taught),
        cmocka_unit_test(vit_learns_from_cells_before_the_rest),
        cmocka_unit_test(abstractor_learns_its_rows_before_it_is_asked),
        cmocka_unit_test(new_layers_change_nothing_until_they_learn),
        cmocka_unit_test(adapter_merged_at_import_answers_as_the_merged_model),
        cmocka_unit_test(adapter_of_a_new_model_is_merged_too),
    };
    return cmocka_run_group_tests(tests, make_inputs, NULL);
}
