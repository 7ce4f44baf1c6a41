/*
 * test_families.c - mPLUG-Owl v1 and mPLUG-Owl2 side by side in one service: the goldens' prompts over
 * HTTP, alone and eight at once; several pictures in a question and one in each of many turns; a
 * conversation that goes on with the other model; stages that are the same share their processes.
 */
#include "tests/support/golden_prompt.h"
#include "tests/support/http_client.h"
#include "tests/support/process.h"
#include "tests/support/service.h"
#include "tests/support/ty_test.h"

#include "common/base/file.h"
#include "common/model/prompt.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARG(x) ((char *)(x))

enum { MODELS = 2, TOGETHER = 8, TURNS = 6, TOKENS = 12 };

typedef struct {
    const char *name, *golden, *family; /* of the API; folder; pipeline.json's */
    const char *pipeline;
    json_t *json; /* golden.json */
} model;

static model models[MODELS] = {{.name = "owl", .golden = "v1-micro", .family = "mplug_owl_v1"},
                               {.name = "owl2", .golden = "v2-micro", .family = "mplug_owl_v2"}};
static test_service service;

static const char *const photos[] = {"photo_47.jpg", "photo_48.jpg", "photo_9.jpg",
                                     "progressive_444.jpg", "gray.jpg"};

/* ---- requests ---- */

static json_t *picture_part(const char *name) {
    size_t size = 0;
    char *file = NULL;
    ty_err err = {0};
    if (ty_file_read(test_path("%s/images/%s", test_golden_dir(), name), 1 << 24, &file, &size,
                     &err) != TY_OK)
        fail_msg("%s", err.text);
    char *url = malloc(4 * ((size + 2) / 3) + 64);
    assert_non_null(url);
    bool png = strstr(name, ".png") != NULL;
    int n = sprintf(url, "data:image/%s;base64,", png ? "png" : "jpeg");
    EVP_EncodeBlock((unsigned char *)url + n, (const unsigned char *)file, (int)size);
    json_t *part = json_pack("{s:s, s:{s:s}}", "type", "image_url", "image_url", "url", url);
    free(url);
    free(file);
    return part;
}

static json_t *text_part(const char *text) {
    return json_pack("{s:s, s:s}", "type", "text", "text", text);
}

static bool is_picture(const json_t *part) {
    return strcmp(json_string_value(json_object_get(part, "type")), "image") == 0;
}

/* A copy of the messages in which the {"type": "image"} parts are the named pictures, in order. */
static json_t *with_pictures(const json_t *messages, const json_t *files) {
    json_t *copy = json_deep_copy(messages), *message, *part;
    size_t i, k, n = 0;
    json_array_foreach(copy, i, message) {
        json_t *parts = json_object_get(message, "content");
        json_array_foreach(parts, k, part) {
            if (!is_picture(part)) continue;
            const char *name = json_string_value(json_array_get(files, n++));
            assert_int_equal(json_array_set_new(parts, k, picture_part(name)), 0);
        }
    }
    assert_int_equal(n, json_array_size(files));
    return copy;
}

/* The request's JSON; free() it.  messages is taken over. */
static char *body_of(const model *m, json_t *messages, int max_tokens, bool stream) {
    /* as many stop strings as a request may have: v2's template adds its own */
    json_t *body = json_pack("{s:s, s:o, s:i, s:b, s:[s, s, s, s]}", "model", m->name, "messages",
                             messages, "max_tokens", max_tokens, "ignore_eos", 1, "stop", "never 1",
                             "never 2", "never 3", "never 4");
    char *text;
    if (stream) json_object_set_new(body, "stream", json_true());
    text = json_dumps(body, 0); /* with spaces: test_ask_all looks for "stream": true */
    assert_non_null(text);
    json_decref(body);
    return text;
}

/* What the model says to these messages, over HTTP; free() it. */
static char *ask(const model *m, const json_t *messages, const json_t *files) {
    char *body = body_of(m, with_pictures(messages, files), TOKENS, false);
    test_question q = {.body = body};
    test_ask_all(&service, &q, 1);
    if (q.status != 200) fail_msg("%s: status %d: %s", m->name, q.status, q.raw);
    char *text = strdup(q.text);
    test_question_clear(&q);
    free(body);
    return text;
}

/* What `tyto run` says to the whole text of these messages; free() it. */
static char *run_whole_text(const model *m, const json_t *messages, const json_t *files) {
    char *argv[40] = {ARG(test_bin("tyto")),
                      ARG("run"),
                      ARG("--pipeline"),
                      ARG(m->pipeline),
                      ARG("--quiet"),
                      ARG("--raw"),
                      NULL,
                      ARG("--max-tokens"),
                      ARG("12"),
                      ARG("--ignore-eos")};
    int n = 10;
    ty_chat_request r;
    ty_err err = {0};
    ty_buf text = ty_buf_make(1 << 20);
    json_t *body = json_pack("{s:O}", "messages", messages);
    char *json = json_dumps(body, 0);
    if (ty_chat_request_parse(&r, json, strlen(json), false, NULL, 0, &err) != TY_OK ||
        ty_prompt_render(ty_prompt_form_of(m->family), &r, &text, NULL, &err) != TY_OK)
        fail_msg("%s", err.text);
    argv[6] = text.data;
    for (size_t i = 0; i < json_array_size(files); i++) {
        argv[n++] = ARG("--image");
        argv[n++] = ARG(test_path("%s/images/%s", test_golden_dir(),
                                  json_string_value(json_array_get(files, i))));
    }
    test_output o = test_run(argv, NULL, 0, 60);
    if (o.exit_code != 0) fail_msg("tyto run: %s", o.err);
    assert_true(o.out_size > 0 && o.out[o.out_size - 1] == '\n');
    o.out[o.out_size - 1] = '\0';
    free(o.err);
    free(json);
    json_decref(body);
    ty_chat_request_clear(&r);
    ty_buf_clear(&text);
    return o.out;
}

static void same_as_run(const model *m, const json_t *messages, const json_t *files,
                        const char *got) {
    char *want = run_whole_text(m, messages, files);
    assert_true(strlen(want) > 0);
    assert_string_equal(got, want);
    free(want);
}

/* ---- the goldens' prompts ---- */

typedef struct {
    char *body;
    const char *want; /* borrowed from golden.json */
} golden_question;

/* Every prompt of a model, as a plain and as a streamed request in turn; returns how many. */
static int golden_questions(const model *m, golden_question *q) {
    const char *name;
    json_t *p;
    int n = 0;
    json_object_foreach(json_object_get(m->json, "prompts"), name, p) {
        json_t *messages = golden_messages(m->json, json_string_value(json_object_get(p, "text")));
        json_t *ids = json_object_get(p, "greedy_ids");
        json_t *want = json_object_get(p, "greedy_text_skip_special");
        q[n].want = json_string_value(want ? want : json_object_get(p, "greedy_text"));
        q[n].body = body_of(m, with_pictures(messages, json_object_get(p, "images")),
                            (int)json_array_size(ids), n % 2 == 1);
        json_decref(messages);
        n++;
    }
    return n;
}

static void check_answer(const test_question *q, const char *want) {
    if (q->status != 200) fail_msg("status %d: %s", q->status, q->raw);
    assert_string_equal(q->text, want);
    assert_int_equal(q->finishes, 1);
}

static void both_models_answer_as_the_goldens_alone_and_eight_at_once(void **state) {
    (void)state;
    golden_question all[2 * TOGETHER];
    test_question q[TOGETHER] = {{0}};
    int v1 = golden_questions(&models[0], all);
    int n = v1 + golden_questions(&models[1], all + v1);
    assert_true(v1 >= 4 && n - v1 >= 4 && n <= TOGETHER);
    for (int i = 0; i < n; i++) {
        q[0].body = all[i].body;
        test_ask_all(&service, q, 1);
        check_answer(&q[0], all[i].want);
        test_question_clear(&q[0]);
    }
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < TOGETHER; i++) q[i].body = all[i % n].body;
        test_ask_all(&service, q, TOGETHER);
        for (int i = 0; i < TOGETHER; i++) {
            check_answer(&q[i], all[i % n].want);
            test_question_clear(&q[i]);
        }
    }
    for (int i = 0; i < n; i++) free(all[i].body);
}

/* ---- several pictures ---- */

/* Five pictures in one question: in front, side by side (v2; text between them in v1), at the end. */
static void five_pictures_stand_where_their_parts_do(void **state) {
    (void)state;
    static const char *const orders[] = {"tptptptptpt", "pttptptptpt", "ptptptptp", "tpptpppt"};
    for (int m = 0; m < MODELS; m++)
        for (int o = 0; o < 4; o++) {
            json_t *messages = json_array(), *parts = golden_turn(messages, "user");
            json_t *files = json_array();
            for (const char *c = orders[o]; *c; c++)
                if (*c == 'p') {
                    size_t k = json_array_size(files);
                    json_array_append_new(files, json_string(photos[(k + (size_t)o) % 5]));
                    json_array_append_new(parts, json_pack("{s:s}", "type", "image"));
                } else {
                    json_array_append_new(parts, text_part("and this one"));
                }
            assert_int_equal(json_array_size(files), 5);
            char *got = ask(&models[m], messages, files);
            same_as_run(&models[m], messages, files, got);
            free(got);
            json_decref(files);
            json_decref(messages);
        }
}

static void six_turns_with_a_picture_each_equal_run_of_the_whole(void **state) {
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        json_t *messages = json_array(), *files = json_array();
        for (int t = 0; t < TURNS; t++) {
            json_t *parts = golden_turn(messages, "user");
            json_array_append_new(files, json_string(photos[t % 5]));
            json_array_append_new(parts, json_pack("{s:s}", "type", "image"));
            json_array_append_new(parts, text_part(test_path("What is in picture %d?", t)));
            char *got = ask(&models[m], messages, files);
            same_as_run(&models[m], messages, files, got);
            json_array_append_new(golden_turn(messages, "assistant"), text_part(got));
            free(got);
        }
        json_decref(files);
        json_decref(messages);
    }
}

/* ---- one conversation, two models ---- */

static json_t *post(const char *path, json_t *body) {
    char *text = json_dumps(body, 0);
    test_reply r = TEST_POST(service.port, path, text);
    if (r.status != 200) fail_msg("%s: %d: %s", path, r.status, r.body);
    json_t *reply = json_loads(r.body, 0, NULL);
    assert_non_null(reply);
    test_reply_clear(&r);
    free(text);
    json_decref(body);
    return reply;
}

static const char *content_of(const json_t *reply) {
    const json_t *choice = json_array_get(json_object_get(reply, "choices"), 0);
    return json_string_value(json_object_get(json_object_get(choice, "message"), "content"));
}

/* Begun with `from`, asked again on `to`: the answer is `to`'s for the whole of what was said. */
static void go_on_with(const model *from, const model *to) {
    json_t *messages = json_array(), *files = json_pack("[s]", photos[0]);
    json_t *parts = golden_turn(messages, "user");
    json_array_append_new(parts, json_pack("{s:s}", "type", "image"));
    json_array_append_new(parts, text_part("What is this?"));
    json_t *first = post("/v1/chat/completions",
                         json_pack("{s:s, s:s, s:o, s:i, s:b}", "model", from->name, "conversation",
                                   "new", "messages", with_pictures(messages, files), "max_tokens",
                                   TOKENS, "ignore_eos", 1));
    same_as_run(from, messages, files, content_of(first));
    json_array_append_new(golden_turn(messages, "assistant"), text_part(content_of(first)));
    json_array_append_new(golden_turn(messages, "user"), text_part("And why?"));

    const char *id = json_string_value(json_object_get(first, "conversation"));
    assert_non_null(id);
    json_t *fork = post(test_path("/v1/conversations/%s/fork", id),
                        json_pack("{s:i, s:s}", "turns", 2, "model", to->name));
    json_t *second = post("/v1/chat/completions", json_pack("{s:O, s:[{s:s, s:s}]}", "conversation",
                                                            json_object_get(fork, "id"), "messages",
                                                            "role", "user", "content", "And why?"));
    assert_string_equal(json_string_value(json_object_get(second, "model")), to->name);
    same_as_run(to, messages, files, content_of(second));
    json_decref(second);
    json_decref(fork);
    json_decref(first);
    json_decref(files);
    json_decref(messages);
}

static void a_conversation_goes_on_with_the_other_model(void **state) {
    (void)state;
    go_on_with(&models[0], &models[1]);
    go_on_with(&models[1], &models[0]);
}

/* ---- processes ---- */

/* owl2 and owl2-q8 differ in their decoders alone. */
static void the_same_stage_files_share_their_processes(void **state) {
    (void)state;
    static const struct {
        const char *stage;
        int processes;
        const char *shared; /* what the status calls the model of a shared one; NULL: none is */
    } want[] = {{"preprocess", 2, "owl2,owl2-q8"},
                {"vit", 2, "owl2,owl2-q8"},
                {"abstractor", 2, "owl2,owl2-q8"},
                {"decoder", 3, NULL}};
    json_t *all = test_service_status(&service), *p;
    for (int k = 0; k < 4; k++) {
        size_t i;
        int n = 0, shared = 0;
        json_array_foreach(json_object_get(all, "processes"), i, p) {
            if (strcmp(json_string_value(json_object_get(p, "stage")), want[k].stage) != 0)
                continue;
            n++;
            if (want[k].shared)
                shared +=
                    strcmp(json_string_value(json_object_get(p, "model")), want[k].shared) == 0;
        }
        assert_int_equal(n, want[k].processes);
        assert_int_equal(shared, want[k].shared ? 1 : 0);
    }
    json_decref(all);
    model q8 = models[1];
    q8.name = "owl2-q8";
    json_t *messages = json_array(), *files = json_pack("[s]", photos[1]);
    json_t *parts = golden_turn(messages, "user");
    json_array_append_new(parts, json_pack("{s:s}", "type", "image"));
    json_array_append_new(parts, text_part("Hello"));
    char *got = ask(&q8, messages, files);
    assert_true(strlen(got) > 0);
    free(got);
    json_decref(files);
    json_decref(messages);
}

static int up(void **state) {
    (void)state;
    for (int m = 0; m < MODELS; m++) {
        models[m].pipeline = test_import(models[m].golden, models[m].name, NULL);
        models[m].json = json_load_file(
            test_path("%s/%s/golden.json", test_golden_dir(), models[m].golden), 0, NULL);
        assert_non_null(models[m].json);
    }
    const char *q8 =
        test_import("v2-micro", "owl2-q8", (char *[]){ARG("--type"), ARG("decoder=q8_0"), NULL});
    service =
        test_service_up(models[0].pipeline, (char *[]){ARG("--pipeline"), ARG(models[1].pipeline),
                                                       ARG("--pipeline"), ARG(q8), NULL});
    return 0;
}

static int down(void **state) {
    (void)state;
    test_service_down(&service);
    for (int m = 0; m < MODELS; m++) json_decref(models[m].json);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_models_answer_as_the_goldens_alone_and_eight_at_once),
        cmocka_unit_test(five_pictures_stand_where_their_parts_do),
        cmocka_unit_test(six_turns_with_a_picture_each_equal_run_of_the_whole),
        cmocka_unit_test(a_conversation_goes_on_with_the_other_model),
        cmocka_unit_test(the_same_stage_files_share_their_processes),
    };
    return cmocka_run_group_tests_name("families", tests, up, down);
}
