/* history.h: what is kept of a turn, and a request that goes on with it. */
#include "tests/support/ty_test.h"

#include "common/chat/history.h"

#include <stdio.h>
#include <string.h>

#define FILE_A      "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define FILE_B      "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define WORDS(text) "\"messages\":[{\"role\":\"user\",\"content\":\"" text "\"}]"

static void parse_first(ty_chat_request *r, const char *json) {
    ty_err err = {0};
    char param[128];
    if (ty_chat_request_parse(r, json, strlen(json), true, param, sizeof(param), &err) != TY_OK)
        fail_msg("%s", err.text);
}

static ty_status parse_next(ty_chat_request *r, const char *json, const json_t *turns,
                            const json_t *params, char param[128], ty_err *err) {
    return ty_chat_request_parse_turn(r, json, strlen(json), turns, params, param, 128, err);
}

/* The parameters of `first`, and of `next` on top of them. */
static ty_sampling inherit(const char *first, const char *next) {
    char json[512], param[128];
    ty_chat_request r;
    ty_err err = {0};
    snprintf(json, sizeof(json), "{\"model\":\"m\"," WORDS("hi") "%s}", first);
    parse_first(&r, json);
    json_t *params = ty_chat_params_json(&r);
    assert_non_null(params);
    ty_chat_request_clear(&r);
    snprintf(json, sizeof(json), "{\"conversation\":\"conv_1\"," WORDS("on") "%s}", next);
    if (parse_next(&r, json, NULL, params, param, &err) != TY_OK) fail_msg("%s", err.text);
    ty_sampling s = r.sampling;
    ty_chat_request_clear(&r);
    json_decref(params);
    return s;
}

static void turns_come_back_as_they_were(void **state) {
    (void)state;
    ty_chat_request r;
    ty_err err = {0};
    char param[128], title[12];
    parse_first(&r, "{\"model\":\"m\",\"conversation\":\"new\",\"messages\":["
                    "{\"role\":\"system\",\"content\":\"Be kind.\"},"
                    "{\"role\":\"user\",\"content\":["
                    "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:x\"}},"
                    "{\"type\":\"text\",\"text\":\"  W\\u00e4s ist das?\\nHm?\"},"
                    "{\"type\":\"image_file\",\"image_file\":{\"file_id\":\"" FILE_B "\"}}]}]}");
    assert_string_equal(r.conversation, "new");
    assert_int_equal(r.n_stored, 0);
    assert_false(r.turn[1].part[0].is_file);
    assert_true(r.turn[1].part[2].is_file);
    ty_chat_title(&r, title, sizeof(title));
    assert_string_equal(title, "W\xc3\xa4s ist da");
    ty_chat_title(&r, title, 3); /* not half a character */
    assert_string_equal(title, "W");
    const char *ids[] = {FILE_A, FILE_B};
    json_t *turns = json_array();
    json_array_append_new(turns, ty_chat_turn_json(&r.turn[0], NULL));
    json_array_append_new(turns, ty_chat_turn_json(&r.turn[1], ids));
    json_array_append_new(turns, json_pack("{s:s, s:s}", "role", "assistant", "content", "A cat."));
    ty_chat_request_clear(&r);

    assert_int_equal(parse_next(&r, "{\"conversation\":\"conv_1\"," WORDS("Sure?") "}", turns, NULL,
                                param, &err),
                     TY_OK);
    assert_int_equal(r.n_turn, 4);
    assert_int_equal(r.n_stored, 3);
    assert_int_equal(r.turn[0].role, TY_ROLE_SYSTEM);
    assert_string_equal(r.turn[0].part[0].text, "Be kind.");
    assert_int_equal(r.turn[1].n_part, 3);
    assert_true(r.turn[1].part[0].is_image && r.turn[1].part[0].is_file);
    assert_string_equal(r.turn[1].part[0].text, FILE_A);
    assert_string_equal(r.turn[1].part[1].text, "  W\xc3\xa4s ist das?\nHm?");
    assert_string_equal(r.turn[1].part[2].text, FILE_B);
    assert_int_equal(r.turn[2].role, TY_ROLE_ASSISTANT);
    assert_string_equal(r.turn[3].part[0].text, "Sure?");
    ty_chat_title(&r, title, sizeof(title));
    assert_string_equal(title, "Sure?");
    ty_chat_request_clear(&r);

    /* the path is the request's own */
    assert_int_equal(parse_next(&r,
                                "{\"conversation\":\"c\",\"messages\":[{\"role\":\"user\","
                                "\"content\":\"a <image>\"}]}",
                                turns, NULL, param, &err),
                     TY_EINVAL);
    assert_string_equal(param, "messages[0].content");
    assert_int_equal(parse_next(&r, "{\"conversation\":\"c\"}", turns, NULL, param, &err),
                     TY_EINVAL);
    assert_string_equal(param, "messages");
    json_decref(turns);
}

static void parameters_hold_where_the_body_says_nothing(void **state) {
    (void)state;
    ty_sampling s = inherit(",\"temperature\":0.5,\"top_k\":7,\"seed\":-3,\"stop\":[\"a\",\"b\"],"
                            "\"max_tokens\":9,\"logprobs\":true",
                            "");
    assert_true(s.temperature == 0.5 && s.top_k == 7 && s.has_seed && s.seed == (uint64_t)-3);
    assert_int_equal(s.n_stop, 2);
    assert_int_equal(s.max_tokens, 9);
    assert_false(s.logprobs);
    s = inherit(",\"stop\":[\"a\",\"b\"],\"max_tokens\":9,\"top_k\":7",
                ",\"stop\":\"c\",\"max_completion_tokens\":4,\"top_k\":null");
    assert_int_equal(s.n_stop, 1);
    assert_string_equal(s.stop[0], "c");
    assert_int_equal(s.max_tokens, 4);
    assert_int_equal(s.top_k, 7);
    assert_false(inherit("", "").has_seed);
}

static void switches_act_on_what_was_kept(void **state) {
    (void)state;
    assert_true(inherit(",\"temperature\":0.5", ",\"do_sample\":true").temperature == 0.5);
    assert_true(inherit(",\"temperature\":0.5", ",\"do_sample\":false").temperature == 0);
    assert_true(inherit(",\"do_sample\":true", "").temperature == 1);
    assert_true(inherit(",\"do_sample\":true", ",\"temperature\":0").temperature == 0);
    assert_true(inherit(",\"num_beams\":3", "").early_stopping);
    assert_false(inherit(",\"num_beams\":3,\"early_stopping\":false", "").early_stopping);
    assert_false(inherit(",\"num_beams\":3", ",\"num_beams\":1").early_stopping);
    assert_true(inherit("", ",\"num_beams\":2").early_stopping);
}

static void wrong_words_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *json, *param;
    } c[] = {
        {"{\"conversation\":\"\",\"model\":\"m\"," WORDS("x") "}", "conversation"},
        {"{\"conversation\":[],\"model\":\"m\"," WORDS("x") "}", "conversation"},
        {"{\"conversation\":\"new\"," WORDS("x") "}", "model"},
        {"{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_file\","
         "\"image_file\":{\"file_id\":\"short\"}}]}]}",
         "messages[0].content[0].image_file.file_id"},
        {"{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_file\","
         "\"image_file\":{\"file_id\":\"" FILE_A "\",\"detail\":\"low\"}}]}]}",
         "messages[0].content[0].image_file.detail"},
    };
    for (size_t i = 0; i < sizeof(c) / sizeof(c[0]); i++) {
        ty_chat_request r;
        ty_err err = {0};
        char param[128];
        assert_int_not_equal(ty_chat_request_parse(&r, c[i].json, strlen(c[i].json), true, param,
                                                   sizeof(param), &err),
                             TY_OK);
        assert_string_equal(param, c[i].param);
    }
    /* offline there is no store */
    ty_chat_request r;
    static const char offline[] = "{\"conversation\":\"new\"," WORDS("x") "}";
    assert_int_equal(ty_chat_request_parse(&r, offline, sizeof(offline) - 1, false, NULL, 0, NULL),
                     TY_EUNSUPPORTED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns_come_back_as_they_were),
        cmocka_unit_test(parameters_hold_where_the_body_says_nothing),
        cmocka_unit_test(switches_act_on_what_was_kept),
        cmocka_unit_test(wrong_words_are_refused),
    };
    return cmocka_run_group_tests_name("history", tests, NULL, NULL);
}
