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

/* messages as JSON -> prompt text, or NULL and err. */
static char *rendered(const char *template, const char *messages, ty_err *err) {
    char json[2048];
    ty_chat_request r;
    ty_buf out = ty_buf_make(1 << 16);
    snprintf(json, sizeof json, "{\"template\":\"%s\",\"messages\":%s}", template, messages);
    if (ty_chat_request_parse(&r, json, strlen(json), false, NULL, 0, err) != TY_OK)
        fail_msg("%s", err->text);
    ty_status st = ty_prompt_render(&r, &out, err);
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
    assert_int_equal(ty_prompt_render(&r, &out, &err), TY_EINVAL);
    assert_int_equal(ty_chat_add_turn(&r, TY_ROLE_USER, &err), TY_OK);
    assert_int_equal(ty_chat_add_text(&r, "an <image>", 10, &err), TY_OK);
    assert_int_equal(ty_prompt_render(&r, &out, &err), TY_EINVAL);
    assert_non_null(strstr(err.text, "<image>"));
    free(r.template_name);
    r.template_name = strdup("v2");
    assert_int_equal(ty_prompt_render(&r, &out, &err), TY_EUNSUPPORTED);
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
    assert_int_equal(ty_prompt_render(&r, &out, &err), TY_ELIMIT);
    ty_chat_request_clear(&r);
    ty_buf_clear(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pictures_and_runs_of_text_are_lines),
        cmocka_unit_test(a_system_message_replaces_the_preamble),
        cmocka_unit_test(an_empty_question_is_a_line),
        cmocka_unit_test(serve_refuses_two_pictures_in_a_message),
        cmocka_unit_test(render_checks_turns_made_by_hand),
        cmocka_unit_test(render_stops_at_the_buffers_limit),
    };
    return cmocka_run_group_tests_name("prompt", tests, NULL, NULL);
}
