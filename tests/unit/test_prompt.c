/* prompt.h: the shape of rendered prompts and what is refused.  The reference's texts and ids:
 * tests/golden/test_prompt.c. */
#include "tests/support/ty_test.h"

#include "common/model/prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define README                                                                                     \
    "The following is a conversation between a curious human and AI assistant. The assistant "     \
    "gives helpful, detailed, and polite answers to the user's questions.\n"

static const char *family = "mplug_owl_v1";

/* messages as JSON -> prompt text, or NULL and err. */
static char *rendered(const char *template, const char *messages, ty_err *err) {
    char json[2048];
    ty_chat_request r;
    ty_buf out = ty_buf_make(1 << 16);
    snprintf(json, sizeof json, "{\"template\":\"%s\",\"messages\":%s}", template, messages);
    if (ty_chat_request_parse(&r, json, strlen(json), false, NULL, 0, err) != TY_OK)
        fail_msg("%s", err->text);
    ty_status st = ty_prompt_render(ty_prompt_form_of(family), &r, &out, NULL, err);
    ty_chat_request_clear(&r);
    if (st == TY_OK) return ty_buf_take(&out);
    ty_buf_clear(&out);
    return NULL;
}

static void gives(const char *template, const char *messages, const char *want) {
    ty_err err = {0};
    char *got = rendered(template, messages, &err);
    if (!got) fail_msg("%s", err.text);
    assert_string_equal(got, want);
    free(got);
}

static void pictures_and_runs_of_text_are_lines(void **state) {
    (void)state;
    gives("readme",
          "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
          "{\"type\":\"text\",\"text\":\"b\"},{\"type\":\"image\"},{\"type\":\"image\"},"
          "{\"type\":\"text\",\"text\":\"c\"},{\"type\":\"image\"},{\"type\":\"text\",\"text\":"
          "\"\"}]}]",
          README "Human: ab\nHuman: <image>\nHuman: <image>\nHuman: c\nHuman: <image>\nAI: ");
}

static void a_video_stands_where_its_part_is(void **state) {
    (void)state;
    static const char both[] =
        "[{\"role\":\"user\",\"content\":[{\"type\":\"video\"},{\"type\":\"image\"},"
        "{\"type\":\"text\",\"text\":\"q\"}]}]";
    ty_err err = {0};
    family = "mplug_owl_v1_video";
    gives("readme", both, README "Human: <|video|>\nHuman: <image>\nHuman: q\nAI: ");
    family = "mplug_owl_v1";
    assert_null(rendered("readme", both, &err));
    assert_int_equal(err.code, TY_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "messages[0]"));
}

static void a_system_message_replaces_the_preamble(void **state) {
    (void)state;
    gives("readme",
          "[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"q\"}]",
          "Be brief.\nHuman: q\nAI: ");
    gives("serve",
          "[{\"role\":\"system\",\"content\":\"one\"},{\"role\":\"user\",\"content\":\"q\"},"
          "{\"role\":\"assistant\",\"content\":\"r\"},{\"role\":\"system\",\"content\":\"two\"},"
          "{\"role\":\"user\",\"content\":\"s\"}]",
          "one\ntwo\nHuman: q\nAI: r\nHuman: s\nAI: ");
    gives("readme",
          "[{\"role\":\"system\",\"content\":\"\"},{\"role\":\"user\",\"content\":\"q\"}]",
          "Human: q\nAI: ");
}

static void an_empty_question_is_a_line(void **state) {
    (void)state;
    gives("readme", "[{\"role\":\"user\",\"content\":\"\"}]", README "Human: \nAI: ");
}

static void serve_refuses_two_pictures_in_a_message(void **state) {
    (void)state;
    ty_err err = {0};
    assert_null(rendered("serve",
                         "[{\"role\":\"user\",\"content\":[{\"type\":\"image\"},"
                         "{\"type\":\"image\"}]}]",
                         &err));
    assert_int_equal(err.code, TY_EINVAL);
    assert_non_null(strstr(err.text, "messages[0]"));
}

static void render_checks_turns_made_by_hand(void **state) {
    (void)state;
    ty_chat_request r;
    ty_err err = {0};
    ty_buf out = ty_buf_make(1 << 16);
    assert_int_equal(ty_chat_request_init(&r), TY_OK);
    assert_int_equal(ty_prompt_render(ty_prompt_form_of("mplug_owl_v1"), &r, &out, NULL, &err),
                     TY_EINVAL);
    assert_int_equal(ty_chat_add_turn(&r, TY_ROLE_USER, &err), TY_OK);
    assert_int_equal(ty_chat_add_text(&r, "an <image>", 10, &err), TY_OK);
    assert_int_equal(ty_prompt_render(ty_prompt_form_of("mplug_owl_v1"), &r, &out, NULL, &err),
                     TY_EINVAL);
    assert_non_null(strstr(err.text, "<image>"));
    free(r.template_name);
    r.template_name = strdup("v2");
    assert_int_equal(ty_prompt_render(ty_prompt_form_of("mplug_owl_v1"), &r, &out, NULL, &err),
                     TY_EUNSUPPORTED);
    ty_chat_request_clear(&r);
    ty_buf_clear(&out);
}

static void render_stops_at_the_buffers_limit(void **state) {
    (void)state;
    ty_chat_request r;
    ty_err err = {0};
    ty_buf out = ty_buf_make(64);
    assert_int_equal(ty_chat_request_init(&r), TY_OK);
    assert_int_equal(ty_chat_add_turn(&r, TY_ROLE_USER, &err), TY_OK);
    assert_int_equal(ty_chat_add_text(&r, "hi", 2, &err), TY_OK);
    assert_int_equal(ty_prompt_render(ty_prompt_form_of("mplug_owl_v1"), &r, &out, NULL, &err),
                     TY_ELIMIT);
    ty_chat_request_clear(&r);
    ty_buf_clear(&out);
}

static void v2_s_pictures_stand_in_the_text(void **state) {
    (void)state;
    family = "mplug_owl_v2";
    const char *talk =
        "[{\"role\":\"user\",\"content\":[{\"type\":\"image\"},{\"type\":\"image\"},"
        "{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image\"}]},"
        "{\"role\":\"assistant\",\"content\":\"b\"},{\"role\":\"user\",\"content\":\"c\"}]";
    gives("mplug_owl2", talk,
          "USER: <|image|><|image|>a<|image|> ASSISTANT: b</s>USER: c ASSISTANT:");
    gives("vicuna_v1", talk,
          "A chat between a curious user and an artificial intelligence assistant. The assistant "
          "gives helpful, detailed, and polite answers to the user's questions. "
          "USER: <|image|><|image|>a<|image|> ASSISTANT: b</s>USER: c ASSISTANT:");
    gives("mplug_owl2",
          "[{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\"\"}]",
          "Be brief. USER:ASSISTANT:");
    family = "mplug_owl_v1";
}

static void the_family_says_what_a_request_leaves_open(void **state) {
    (void)state;
    const ty_prompt_form *v1 = ty_prompt_form_of("mplug_owl_v1"),
                         *v2 = ty_prompt_form_of("mplug_owl_v2");
    ty_chat_request r;
    ty_err err = {0};
    ty_buf out = ty_buf_make(1 << 16);
    assert_ptr_equal(ty_prompt_form_of("llama"), v1);
    assert_int_equal(ty_chat_request_init(&r), TY_OK);
    assert_int_equal(ty_chat_add_turn(&r, TY_ROLE_USER, &err), TY_OK);
    assert_int_equal(ty_chat_add_text(&r, "hi", 2, &err), TY_OK);
    assert_int_equal(ty_prompt_render(v2, &r, &out, NULL, &err), TY_OK);
    assert_string_equal(out.data, "USER: hi ASSISTANT:");
    ty_buf_reset(&out);
    assert_int_equal(ty_prompt_render(v1, &r, &out, NULL, &err), TY_OK);
    assert_string_equal(out.data, README "Human: hi\nAI: ");
    assert_string_equal(ty_prompt_stop(v2, &r), "</s>");
    assert_null(ty_prompt_stop(v1, &r));
    r.prompt = strdup("hi");
    assert_null(ty_prompt_stop(v2, &r));
    ty_chat_request_clear(&r);
    ty_buf_clear(&out);
}

static void check_bos(const ty_tokenizer *t, const char *text, const char *want) {
    ty_ids ids = {0};
    ty_err err = {0};
    int n_images;
    char got[128] = "";
    assert_int_equal(ty_prompt_tokenize(ty_prompt_form_of("mplug_owl_v2"), t, TY_TOKENIZE_SLOW,
                                        text, strlen(text), NULL, 1, &ids, &n_images, &err),
                     TY_OK);
    for (int i = 0; i < ids.n; i++)
        strcat(got, ids.id[i] == ty_tokenizer_bos(t) ? "B" : ids.id[i] < 0 ? "I" : "t");
    assert_string_equal(got, want);
    ty_ids_clear(&ids);
}

/* The reference takes bos off the later chunks only where the first one had one. */
static void v2_has_no_bos_before_a_picture_in_front(void **state) {
    (void)state;
    ty_tokenizer *t = NULL;
    ty_err err = {0};
    assert_int_equal(
        ty_tokenizer_from_spm(&t, "tests/golden/tokenizer/tokenizer-small.model", &err), TY_OK);
    check_bos(t, "a<|image|>a", "BtIt");
    check_bos(t, "<|image|>a", "IBt");
    check_bos(t, "<|image|><|image|>a<|image|>a", "IIBtIBt");
    check_bos(t, "<|image|>", "I");
    check_bos(t, "", "");
    check_bos(t, "a<|image|><|image|>a", "BtIIt");
    ty_tokenizer_destroy(&t);
}

/* The ids of the messages' prompt: B bos, I a picture's, t any other. */
static void check_pictures(const ty_tokenizer *t, const char *of, const char *messages, int want) {
    char json[1024];
    ty_chat_request r;
    ty_err err = {0};
    ty_buf text = ty_buf_make(1 << 16);
    ty_prompt_marks marks = {0};
    ty_ids ids = {0};
    const ty_prompt_form *form = ty_prompt_form_of(of);
    int n_images = -1, n_rows = 0, rows = 3;
    snprintf(json, sizeof json, "{\"messages\":%s}", messages);
    assert_int_equal(ty_chat_request_parse(&r, json, strlen(json), false, NULL, 0, &err), TY_OK);
    assert_int_equal(ty_prompt_render(form, &r, &text, &marks, &err), TY_OK);
    assert_int_equal(marks.n, want);
    assert_int_equal(ty_prompt_tokenize(form, t, TY_TOKENIZE_SLOW, text.data, text.len, &marks,
                                        rows, &ids, &n_images, &err),
                     TY_OK);
    for (int i = 0; i < ids.n; i++) n_rows += ids.id[i] == form->image_id;
    assert_int_equal(n_images, want);
    assert_int_equal(n_rows, want * rows);
    ty_ids_clear(&ids);
    free(marks.at);
    ty_buf_clear(&text);
    ty_chat_request_clear(&r);
}

/* An answer may say what a placeholder says: those are words, and the pictures stay those that were given. */
static void an_answer_s_words_are_no_pictures(void **state) {
    (void)state;
    ty_tokenizer *t = NULL;
    ty_err err = {0};
    assert_int_equal(
        ty_tokenizer_from_spm(&t, "tests/golden/tokenizer/tokenizer-small.model", &err), TY_OK);
    static const char *const of[] = {"mplug_owl_v1", "mplug_owl_v1_video", "mplug_owl_v2"};
    for (int i = 0; i < 3; i++) {
        check_pictures(t, of[i],
                       "[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":"
                       "\"<image><|image|> <|video|>\"},{\"role\":\"user\",\"content\":\"b\"}]",
                       0);
        check_pictures(
            t, of[i],
            "[{\"role\":\"user\",\"content\":[{\"type\":\"image\"},{\"type\":\"text\",\"text\":"
            "\"a\"}]},"
            "{\"role\":\"assistant\",\"content\":\"<image>\\nHuman: <image> <|image|><|video|>\"},"
            "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"b\"},{\"type\":"
            "\"image\"}]}]",
            2);
    }
    ty_tokenizer_destroy(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_s_words_are_no_pictures),
        cmocka_unit_test(pictures_and_runs_of_text_are_lines),
        cmocka_unit_test(a_video_stands_where_its_part_is),
        cmocka_unit_test(a_system_message_replaces_the_preamble),
        cmocka_unit_test(an_empty_question_is_a_line),
        cmocka_unit_test(serve_refuses_two_pictures_in_a_message),
        cmocka_unit_test(render_checks_turns_made_by_hand),
        cmocka_unit_test(render_stops_at_the_buffers_limit),
        cmocka_unit_test(v2_s_pictures_stand_in_the_text),
        cmocka_unit_test(the_family_says_what_a_request_leaves_open),
        cmocka_unit_test(v2_has_no_bos_before_a_picture_in_front),
    };
    return cmocka_run_group_tests_name("prompt", tests, NULL, NULL);
}
