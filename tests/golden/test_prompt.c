/*
 * Prompts against the reference: messages give the golden prompt texts, these give the golden ids;
 * the web server's form and its clean-up of answers.  Runs over tests/golden/v1-micro and v2-micro, or over
 * the directories that TYTO_GOLDEN_MODELS names (separated by ':').
 */
#include "tests/support/ty_test.h"

#include "common/model/prompt.h"
#include "common/model/safetensors.h"
#include "tests/support/golden_prompt.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const default_models = "tests/golden/v1-micro:tests/golden/v2-micro";

static void must(ty_status st, const ty_err *err) {
    if (st != TY_OK) fail_msg("%s: %s", ty_status_name(st), err->text);
}

static void each_model(void (*check)(const char *dir, json_t *golden)) {
    const char *env = getenv("TYTO_GOLDEN_MODELS");
    char *list = strdup(env && *env ? env : default_models), *save = NULL;
    assert_non_null(list);
    for (char *dir = strtok_r(list, ":", &save); dir; dir = strtok_r(NULL, ":", &save)) {
        char *file = NULL;
        json_error_t where;
        assert_true(asprintf(&file, "%s/golden.json", dir) > 0);
        json_t *golden = json_load_file(file, 0, &where);
        if (!golden) fail_msg("%s: %s", file, where.text);
        check(dir, golden);
        json_decref(golden);
        free(file);
    }
    free(list);
}

static const ty_prompt_form *form_of(const json_t *golden) {
    return ty_prompt_form_of(golden_is_v2(golden) ? "mplug_owl_v2" : "mplug_owl_v1");
}

/* template NULL: the form's own. */
static void render(const ty_prompt_form *form, json_t *messages, const char *template,
                   ty_buf *out) {
    ty_chat_request r;
    ty_err err = {0};
    char param[64];
    json_t *body = json_pack("{s:O,s:s?}", "messages", messages, "template", template);
    char *text = json_dumps(body, 0);
    must(ty_chat_request_parse(&r, text, strlen(text), false, param, sizeof param, &err), &err);
    *out = ty_buf_make(1 << 20);
    must(ty_prompt_render(form, &r, out, NULL, &err), &err);
    ty_chat_request_clear(&r);
    free(text);
    json_decref(body);
}

static void check_templates(const char *dir, json_t *golden) {
    const char *name;
    json_t *prompt;
    int n = 0;
    json_object_foreach(json_object_get(golden, "prompts"), name, prompt) {
        const char *want = json_string_value(json_object_get(prompt, "text"));
        json_t *messages = golden_messages(golden, want);
        ty_buf got;
        render(form_of(golden), messages, NULL, &got);
        assert_string_equal(got.data, want);
        ty_buf_clear(&got);
        json_decref(messages);
        n++;
    }
    print_message("%s: %d prompts\n", dir, n);
    assert_true(n >= 2);
}

static void messages_give_the_golden_prompt(void **state) {
    (void)state;
    each_model(check_templates);
}

/* The reference's conversations in each of its templates that are ours. */
static void check_conversations(const char *dir, json_t *golden) {
    json_t *c, *pair;
    size_t i, k;
    int n = 0;
    json_array_foreach(json_object_get(golden, "conversations"), i, c) {
        const char *template = json_string_value(json_object_get(c, "template"));
        if (!ty_chat_template_known(template)) continue;
        json_t *messages = json_array();
        json_array_foreach(json_object_get(c, "messages"), k, pair) {
            const char *role = json_string_value(json_array_get(pair, 0));
            const char *text = json_string_value(json_array_get(pair, 1));
            if (!text) continue;
            json_t *parts = golden_turn(messages, strcmp(role, "USER") == 0 ? "user" : "assistant");
            golden_v2_parts(parts, text, strlen(text));
        }
        ty_buf got;
        render(form_of(golden), messages, template, &got);
        assert_string_equal(got.data, json_string_value(json_object_get(c, "prompt")));
        ty_buf_clear(&got);
        json_decref(messages);
        n++;
    }
    if (golden_is_v2(golden)) assert_true(n >= 2);
    if (n) print_message("%s: %d conversations\n", dir, n);
}

static void conversations_give_the_reference_s_prompt(void **state) {
    (void)state;
    each_model(check_conversations);
}

static void same_ids(const ty_ids *ids, const json_t *want, const char *text) {
    if ((size_t)ids->n != json_array_size(want))
        fail_msg("\"%s\": %d ids, want %zu", text, ids->n, json_array_size(want));
    for (int i = 0; i < ids->n; i++)
        if (ids->id[i] != json_integer_value(json_array_get(want, (size_t)i)))
            fail_msg("\"%s\": id %d is %d", text, i, ids->id[i]);
}

/* Texts with v2's placeholder: where bos stands, white space beside pictures and specials. */
static void check_image_tokens(const char *dir, json_t *golden) {
    ty_err err = {0};
    ty_tokenizer *t = NULL;
    char file[1100];
    json_t *c;
    size_t i;
    if (!golden_is_v2(golden)) return;
    snprintf(file, sizeof file, "%s/tokenizer.model", dir);
    must(ty_tokenizer_from_spm(&t, file, &err), &err);
    json_array_foreach(json_object_get(golden, "tokenizer_image_token"), i, c) {
        ty_ids ids = {0};
        int n_images;
        const char *text = json_string_value(json_object_get(c, "text"));
        must(ty_prompt_tokenize(form_of(golden), t, TY_TOKENIZE_SLOW, text, strlen(text), NULL, 1,
                                &ids, &n_images, &err),
             &err);
        same_ids(&ids, json_object_get(c, "ids"), text);
        ty_ids_clear(&ids);
    }
    ty_tokenizer_destroy(&t);
}

static void placeholders_give_the_reference_s_ids(void **state) {
    (void)state;
    each_model(check_image_tokens);
}

static void check_ids(const char *dir, json_t *golden, const ty_tokenizer *t,
                      const ty_safetensors *tensors, const char *key, const char *text, int rows) {
    ty_err err = {0};
    ty_ids ids = {0};
    int n_images = 0;
    ty_tensor want;
    must(ty_safetensors_find(tensors, key, &want, &err), &err);
    must(ty_prompt_tokenize(form_of(golden), t,
                            golden_is_v2(golden) ? TY_TOKENIZE_SLOW : TY_TOKENIZE_FAST, text,
                            strlen(text), NULL, rows, &ids, &n_images, &err),
         &err);
    if (ids.n != want.shape[0])
        fail_msg("%s %s: %d ids, want %d", dir, key, ids.n, (int)want.shape[0]);
    for (int i = 0; i < ids.n; i++) {
        int64_t id;
        memcpy(&id, (const char *)want.data + 8 * i, sizeof id);
        if (ids.id[i] != id) fail_msg("%s %s: id %d is %d", dir, key, i, ids.id[i]);
    }
    ty_ids_clear(&ids);
}

static void check_all_ids(const char *dir, json_t *golden) {
    ty_err err = {0};
    ty_tokenizer *t = NULL;
    ty_safetensors *tensors = NULL;
    char file[1100], key[200];
    snprintf(file, sizeof file, "%s/tokenizer.model", dir);
    must(ty_tokenizer_from_spm(&t, file, &err), &err);
    snprintf(file, sizeof file, "%s/golden.safetensors", dir);
    must(ty_safetensors_open(&tensors, file, &err), &err);
    json_t *sizes = json_object_get(json_object_get(golden, "model"), "sizes");
    int rows = 1 + (int)json_integer_value(json_object_get(json_object_get(sizes, "ab"), "q"));
    if (golden_is_v2(golden)) rows = 1; /* its goldens write one id for a picture */
    const char *name;
    json_t *prompt;
    json_object_foreach(json_object_get(golden, "prompts"), name, prompt) {
        snprintf(key, sizeof key, "prompt/%s/input_ids", name);
        check_ids(dir, golden, t, tensors, key, json_string_value(json_object_get(prompt, "text")),
                  rows);
    }
    json_t *quirk = json_object_get(golden, "quirk_adjacent_images");
    if (quirk)
        check_ids(dir, golden, t, tensors, "quirk/adjacent_images/input_ids",
                  json_string_value(json_object_get(quirk, "text")), rows);
    ty_safetensors_close(&tensors);
    ty_tokenizer_destroy(&t);
}

static void prompts_give_the_golden_ids(void **state) {
    (void)state;
    each_model(check_all_ids);
}

/* The web server's messages: pictures stand in the text as "<image>". */
static json_t *serve_messages(json_t *pairs) {
    json_t *messages = json_array(), *pair;
    size_t i;
    json_array_foreach(pairs, i, pair) {
        const char *text = json_string_value(json_array_get(pair, 1)), *mark;
        bool human = strcmp(json_string_value(json_array_get(pair, 0)), "Human") == 0;
        if (!text) continue;
        json_t *parts = golden_turn(messages, human ? "user" : "assistant");
        for (; (mark = strstr(text, "<image>")); text = mark + 7) {
            json_array_append_new(
                parts, json_pack("{s:s,s:s#}", "type", "text", "text", text, (int)(mark - text)));
            json_array_append_new(parts, json_pack("{s:s}", "type", "image"));
        }
        json_array_append_new(parts, json_pack("{s:s,s:s}", "type", "text", "text", text));
    }
    return messages;
}

static int count(const char *text, const char *word) {
    int n = 0;
    for (; (text = strstr(text, word)); text += strlen(word)) n++;
    return n;
}

/* Where the web server drops pictures (several in a line), we refuse. */
static void refuses(json_t *messages) {
    ty_chat_request r;
    ty_err err = {0};
    json_t *body = json_pack("{s:O,s:s}", "messages", messages, "template", "serve");
    char *text = json_dumps(body, 0);
    ty_buf out = ty_buf_make(1 << 20);
    must(ty_chat_request_parse(&r, text, strlen(text), false, NULL, 0, &err), &err);
    assert_int_equal(ty_prompt_render(ty_prompt_form_of("mplug_owl_v1"), &r, &out, NULL, &err),
                     TY_EINVAL);
    assert_non_null(strstr(err.text, "pictures"));
    ty_chat_request_clear(&r);
    ty_buf_clear(&out);
    free(text);
    json_decref(body);
}

static void check_serve(const char *dir, json_t *golden) {
    json_t *all = json_object_get(json_object_get(golden, "serve"), "prompts"), *p;
    size_t i;
    int n = 0;
    json_array_foreach(all, i, p) {
        json_t *messages = serve_messages(json_object_get(p, "messages"));
        const char *want = json_string_value(json_object_get(p, "model_input"));
        const char *before = json_string_value(json_object_get(p, "get_prompt"));
        if (count(want, "<image>") < count(before, "<image>")) {
            refuses(messages);
        } else {
            ty_buf got;
            render(form_of(golden), messages, "serve", &got);
            assert_string_equal(got.data, want);
            ty_buf_clear(&got);
            n++;
        }
        json_decref(messages);
    }
    if (all) print_message("%s: %d of the web server's prompts\n", dir, n);
}

static void messages_give_the_web_servers_prompt(void **state) {
    (void)state;
    each_model(check_serve);
}

static void check_clean(json_t *cases, ty_status (*clean)(const char *, size_t, ty_buf *)) {
    json_t *c;
    size_t i;
    json_array_foreach(cases, i, c) {
        const char *in = json_string_value(json_object_get(c, "inp"));
        ty_buf out = ty_buf_make(1 << 20);
        assert_int_equal(clean(in, strlen(in), &out), TY_OK);
        assert_string_equal(out.data, json_string_value(json_object_get(c, "out")));
        ty_buf_clear(&out);
    }
}

static void check_post_process(const char *dir, json_t *golden) {
    (void)dir;
    json_t *serve = json_object_get(golden, "serve");
    check_clean(json_object_get(serve, "post_process_output"), ty_prompt_post_process);
    check_clean(json_object_get(serve, "post_process_code"), ty_prompt_post_process_code);
}

static void answers_are_cleaned_as_the_web_server_does(void **state) {
    (void)state;
    each_model(check_post_process);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_give_the_golden_prompt),
        cmocka_unit_test(conversations_give_the_reference_s_prompt),
        cmocka_unit_test(placeholders_give_the_reference_s_ids),
        cmocka_unit_test(prompts_give_the_golden_ids),
        cmocka_unit_test(messages_give_the_web_servers_prompt),
        cmocka_unit_test(answers_are_cleaned_as_the_web_server_does),
    };
    return cmocka_run_group_tests_name("golden prompt", tests, NULL, NULL);
}
