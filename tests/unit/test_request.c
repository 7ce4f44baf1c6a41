/* request.h: what a request may say, what it means, and which field an error names. */
#include "tests/support/ty_test.h"

#include "common/chat/request.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static ty_status parse(const char *json, bool strict, ty_chat_request *r, char param[128],
                       ty_err *err) {
    return ty_chat_request_parse(r, json, strlen(json), strict, param, 128, err);
}

/* A body with one user message and whatever `more` adds. */
static ty_sampling sampling_of(const char *more) {
    char json[1024], param[128];
    ty_chat_request r;
    ty_err err = {0};
    snprintf(json, sizeof json,
             "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]%s%s}",
             *more ? "," : "", more);
    if (parse(json, true, &r, param, &err) != TY_OK) fail_msg("%s: %s", json, err.text);
    ty_sampling s = r.sampling;
    ty_chat_request_clear(&r);
    return s;
}

static void refused(const char *json, bool strict, ty_status want, const char *want_param) {
    char param[128];
    ty_chat_request r;
    ty_err err = {0};
    ty_status st = parse(json, strict, &r, param, &err);
    if (st != want || strcmp(param, want_param) != 0)
        fail_msg("%s -> %s '%s' (%s), want %s '%s'", json, ty_status_name(st), param, err.text,
                 ty_status_name(want), want_param);
    assert_int_equal(err.code, want);
    if (*param && !strstr(err.text, param)) fail_msg("'%s' does not name %s", err.text, param);
    assert_null(r.turn); /* nothing is left to clear */
}

static void refused_field(const char *more, ty_status want, const char *param) {
    char json[1024];
    snprintf(json, sizeof json,
             "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],%s}", more);
    refused(json, true, want, param);
}

static void absent_fields_are_greedy(void **state) {
    (void)state;
    ty_sampling s = sampling_of("");
    assert_int_equal(s.max_tokens, 256);
    assert_true(s.temperature == 0 && s.top_p == 1 && s.repetition_penalty == 1);
    assert_true(s.num_beams == 1 && !s.early_stopping && !s.has_seed && s.top_k == 0);
    /* null is absent */
    s = sampling_of("\"temperature\":null,\"max_tokens\":null,\"stop\":null,\"tools\":null");
    assert_int_equal(s.max_tokens, 256);
}

static void pictures_are_upright_when_asked(void **state) {
    (void)state;
    char param[128];
    ty_chat_request r;
    ty_err err = {0};
    const char *const more[] = {"", ",\"upright\":false", ",\"upright\":true"};
    for (int i = 0; i < 3; i++) {
        char json[256];
        snprintf(json, sizeof json,
                 "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]%s}",
                 more[i]);
        assert_int_equal(parse(json, true, &r, param, &err), TY_OK);
        assert_int_equal(r.upright, i == 2);
        ty_chat_request_clear(&r);
    }
    refused_field("\"upright\":1", TY_EINVAL, "upright");
}

static void sampling_fields_are_read(void **state) {
    (void)state;
    ty_sampling s = sampling_of(
        "\"max_completion_tokens\":7,\"temperature\":0.5,\"top_k\":3,\"top_p\":0.9,"
        "\"repetition_penalty\":1.25,\"no_repeat_ngram_size\":2,\"seed\":-1,"
        "\"stop\":[\"a\",\"\xC3\xA9\"],\"logprobs\":true,\"top_logprobs\":4,\"ignore_eos\":true");
    assert_int_equal(s.max_tokens, 7);
    assert_true(s.temperature == 0.5 && s.top_p == 0.9 && s.repetition_penalty == 1.25);
    assert_true(s.top_k == 3 && s.no_repeat_ngram_size == 2 && s.ignore_eos);
    assert_true(s.has_seed && s.seed == UINT64_MAX);
    assert_true(s.n_stop == 2 && strcmp(s.stop[0], "a") == 0 && strcmp(s.stop[1], "\xC3\xA9") == 0);
    assert_true(s.logprobs && s.top_logprobs == 4);
    s = sampling_of("\"stop\":\"END\",\"max_tokens\":9.0,\"max_new_tokens\":9,\"n\":1");
    assert_true(s.max_tokens == 9 && s.n_stop == 1 && strcmp(s.stop[0], "END") == 0);
}

static void beams_stop_early_unless_told_otherwise(void **state) {
    (void)state;
    assert_true(sampling_of("\"num_beams\":3").early_stopping);
    assert_false(sampling_of("\"num_beams\":3,\"early_stopping\":false").early_stopping);
    assert_true(sampling_of("\"num_beams\":2,\"length_penalty\":-0.5").length_penalty == -0.5);
}

static void do_sample_is_the_switch(void **state) {
    (void)state;
    assert_true(sampling_of("\"do_sample\":true").temperature == 1);
    assert_true(sampling_of("\"do_sample\":true,\"temperature\":0.3").temperature == 0.3);
    assert_true(sampling_of("\"do_sample\":false,\"temperature\":0.3").temperature == 0);
    refused_field("\"do_sample\":true,\"temperature\":0", TY_EINVAL, "temperature");
}

static void values_out_of_range_name_their_field(void **state) {
    (void)state;
    const char *const cases[][2] = {
        {"\"temperature\":2.1", "temperature"},
        {"\"temperature\":-0.1", "temperature"},
        {"\"temperature\":\"hot\"", "temperature"},
        {"\"top_p\":1.5", "top_p"},
        {"\"top_k\":-1", "top_k"},
        {"\"top_k\":1.5", "top_k"},
        {"\"top_k\":99999999999", "top_k"},
        {"\"repetition_penalty\":0", "repetition_penalty"},
        {"\"no_repeat_ngram_size\":-2", "no_repeat_ngram_size"},
        {"\"num_beams\":0", "num_beams"},
        {"\"num_beams\":17", "num_beams"},
        {"\"max_tokens\":0", "max_tokens"},
        {"\"max_tokens\":-5", "max_tokens"},
        {"\"max_completion_tokens\":4000000000", "max_completion_tokens"},
        {"\"max_tokens\":4,\"max_completion_tokens\":5", "max_completion_tokens"},
        {"\"early_stopping\":\"never\"", "early_stopping"},
        {"\"seed\":0.5", "seed"},
        {"\"stop\":7", "stop"},
        {"\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"]", "stop"},
        {"\"stop\":[\"a\",\"\"]", "stop[1]"},
        {"\"logprobs\":1", "logprobs"},
        {"\"top_logprobs\":3", "top_logprobs"},
        {"\"logprobs\":true,\"top_logprobs\":21", "top_logprobs"},
        {"\"stream\":\"yes\"", "stream"},
        {"\"stream_options\":{\"include_usage\":true}", "stream_options"},
        {"\"user\":5", "user"},
        {"\"metadata\":\"x\"", "metadata"},
        {"\"length_penalty\":1e300", "length_penalty"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused_field(cases[i][0], TY_EINVAL, cases[i][1]);
}

static void unsupported_fields_are_named(void **state) {
    (void)state;
    const char *const cases[][2] = {
        {"\"n\":2", "n"},
        {"\"frequency_penalty\":0.5", "frequency_penalty"},
        {"\"presence_penalty\":-1", "presence_penalty"},
        {"\"logit_bias\":{\"5\":1}", "logit_bias"},
        {"\"tools\":[{\"type\":\"function\"}]", "tools"},
        {"\"tool_choice\":\"auto\"", "tool_choice"},
        {"\"response_format\":{\"type\":\"json_object\"}", "response_format"},
        {"\"store\":true", "store"},
        {"\"modalities\":[\"text\",\"audio\"]", "modalities"},
        {"\"reasoning_effort\":\"low\"", "reasoning_effort"},
        {"\"min_p\":0.1", "min_p"},
        {"\"no\\u0001\\u00e9\":1", "no???"},
        {"\"template\":\"llava\"", "template"},
        {"\"prompt\":\"x\"", "prompt"},
        {"\"stream\":true,\"stream_options\":{\"x\":1}", "stream_options.x"},
        {"\"logprobs\":true,\"num_beams\":2", "logprobs"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused_field(cases[i][0], TY_EUNSUPPORTED, cases[i][1]);
}

static void harmless_values_pass(void **state) {
    (void)state;
    sampling_of(
        "\"n\":1,\"best_of\":1,\"frequency_penalty\":0,\"presence_penalty\":0.0,\"logit_bias\":{},"
        "\"tools\":[],\"tool_choice\":\"none\",\"response_format\":{\"type\":\"text\"},"
        "\"store\":false,\"modalities\":[\"text\"],\"service_tier\":\"auto\",\"user\":\"u\","
        "\"metadata\":{\"a\":\"b\"},\"reasoning_effort\":null");
    sampling_of("\"stream\":true,\"stream_options\":{\"include_usage\":true}");
}

static void turns_and_parts_keep_their_order(void **state) {
    (void)state;
    const char *json =
        "{\"model\":\"m\",\"stream\":true,\"template\":\"serve\",\"messages\":["
        "{\"role\":\"developer\",\"content\":\"be brief\"},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
        "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:x\",\"detail\":\"low\"}},"
        "{\"type\":\"text\",\"text\":\"b\"}]},"
        "{\"role\":\"assistant\",\"content\":\"c\",\"refusal\":null,\"tool_calls\":[],"
        "\"annotations\":[]},"
        "{\"role\":\"user\",\"content\":\"d\"}]}";
    char param[128];
    ty_chat_request r;
    ty_err err = {0};
    if (parse(json, true, &r, param, &err) != TY_OK) fail_msg("%s", err.text);
    assert_int_equal(r.n_turn, 4);
    assert_int_equal(r.turn[0].role, TY_ROLE_SYSTEM);
    assert_int_equal(r.turn[2].role, TY_ROLE_ASSISTANT);
    const ty_part *p = r.turn[1].part;
    assert_int_equal(r.turn[1].n_part, 3);
    assert_true(!p[0].is_image && p[1].is_image && !p[2].is_image);
    assert_string_equal(p[0].text, "a");
    assert_string_equal(p[1].text, "data:x");
    assert_int_equal(ty_chat_request_images(&r), 1);
    assert_true(r.stream && !r.include_usage);
    assert_string_equal(r.template_name, "serve");
    assert_string_equal(r.model, "m");
    ty_chat_request_clear(&r);
}

static void broken_messages_name_the_place(void **state) {
    (void)state;
    const struct {
        const char *messages;
        ty_status st;
        const char *param;
    } cases[] = {
        {"[]", TY_EINVAL, "messages"},
        {"{}", TY_EINVAL, "messages"},
        {"[5]", TY_EINVAL, "messages[0]"},
        {"[{\"content\":\"x\"}]", TY_EINVAL, "messages[0].role"},
        {"[{\"role\":\"tool\",\"content\":\"x\"}]", TY_EUNSUPPORTED, "messages[0].role"},
        {"[{\"role\":\"user\"}]", TY_EINVAL, "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":[]}]", TY_EINVAL, "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":\"x\",\"name\":\"bob\"}]", TY_EUNSUPPORTED,
         "messages[0].name"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]", TY_EINVAL,
         "messages[0].content[0].text"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}]", TY_EUNSUPPORTED,
         "messages[0].content[0].type"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image\"}]}]", TY_EUNSUPPORTED,
         "messages[0].content[0].type"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\",\"url\":\"b\"}]}]",
         TY_EUNSUPPORTED, "messages[0].content[0].url"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":\"x\"}]}]",
         TY_EINVAL, "messages[0].content[0].image_url"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]", TY_EINVAL,
         "messages[0].content[0].image_url.url"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":"
         "{\"url\":\"data:x\",\"detail\":\"huge\"}}]}]",
         TY_EINVAL, "messages[0].content[0].image_url.detail"},
        {"[{\"role\":\"system\",\"content\":\"x\"}]", TY_EINVAL, "messages"},
        {"[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"y\"}]",
         TY_EINVAL, "messages[1].content"},
        {"[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"y\"},"
         "{\"role\":\"system\",\"content\":\"z\"}]",
         TY_EINVAL, "messages[1].content"},
        {"[{\"role\":\"user\",\"content\":\"what is <image>?\"}]", TY_EINVAL,
         "messages[0].content"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"video_url\",\"video_url\":{}}]}]", TY_EINVAL,
         "messages[0].content[0].video_url.url"},
        {"[{\"role\":\"user\",\"content\":[{\"type\":\"video_url\",\"video_url\":{\"url\":\"data:"
         "x\","
         "\"fps\":1}}]}]",
         TY_EUNSUPPORTED, "messages[0].content[0].video_url.fps"},
        {"[{\"role\":\"user\",\"content\":\"a <|video|> b\"}]", TY_EINVAL, "messages[0].content"},
        {"[{\"role\":\"assistant\",\"content\":[{\"type\":\"image_url\",\"image_url\":"
         "{\"url\":\"data:x\"}}]},{\"role\":\"user\",\"content\":\"x\"}]",
         TY_EINVAL, "messages[0].content"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char json[1024];
        snprintf(json, sizeof json, "{\"model\":\"m\",\"messages\":%s}", cases[i].messages);
        refused(json, true, cases[i].st, cases[i].param);
    }
}

static void bodies_that_are_no_request_are_refused(void **state) {
    (void)state;
    refused("", true, TY_EFORMAT, "");
    refused("{", true, TY_EFORMAT, "");
    refused("[]", true, TY_EFORMAT, "");
    refused("{} x", true, TY_EFORMAT, "");
    refused("{}", true, TY_EINVAL, "model");
    refused("{\"model\":\"m\"}", true, TY_EINVAL, "messages");
    refused("{\"model\":\"\\ud800\"}", true, TY_EFORMAT, "");
    refused("{\"model\":\"a\\u0000b\"}", true, TY_EFORMAT, "");
    refused("{\"model\":\"\xFF\"}", true, TY_EFORMAT, "");
    refused("{\"model\":\"a\",\"model\":\"b\"}", true, TY_EFORMAT, "");
    char deep[20001];
    memset(deep, '[', 20000);
    deep[20000] = '\0';
    refused(deep, true, TY_EFORMAT, "");
}

static void offline_requests_may_be_verbatim(void **state) {
    (void)state;
    char param[128];
    ty_chat_request r;
    ty_err err = {0};
    assert_int_equal(
        parse("{\"prompt\":\"a<image>b<image>\",\"max_tokens\":0}", false, &r, param, &err), TY_OK);
    assert_string_equal(r.prompt, "a<image>b<image>");
    assert_int_equal(ty_chat_request_images(&r), 2);
    assert_int_equal(r.sampling.max_tokens, 0);
    ty_chat_request_clear(&r);
    assert_int_equal(parse("{\"prompt\":\"<|image|>a<|image|>\"}", false, &r, param, &err), TY_OK);
    assert_int_equal(ty_chat_request_images(&r), 2);
    ty_chat_request_clear(&r);
    refused("{}", false, TY_EINVAL, "messages");
    refused("{\"messages\":[{\"role\":\"user\",\"content\":\"a <|image|>\"}]}", false, TY_EINVAL,
            "messages[0].content");
    refused("{\"prompt\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", false,
            TY_EINVAL, "prompt");
    refused("{\"prompt\":\"a\",\"template\":\"serve\"}", false, TY_EINVAL, "template");
}

static void building_by_hand_counts_and_limits(void **state) {
    (void)state;
    ty_chat_request r;
    ty_err err = {0};
    assert_int_equal(ty_chat_request_init(&r), TY_OK);
    assert_int_equal(ty_chat_add_text(&r, "x", 1, &err), TY_EINVAL); /* no turn yet */
    assert_int_equal(ty_chat_add_turn(&r, TY_ROLE_USER, &err), TY_OK);
    assert_int_equal(ty_chat_add_text(&r, "a\0b", 3, &err), TY_EUNSUPPORTED);
    for (int i = 0; i < TY_CHAT_IMAGES_MAX; i++)
        assert_int_equal(ty_chat_add_image(&r, NULL, &err), TY_OK);
    assert_int_equal(ty_chat_add_image(&r, NULL, &err), TY_ELIMIT);
    assert_int_equal(ty_chat_request_images(&r), TY_CHAT_IMAGES_MAX);
    for (int i = 1; i < TY_CHAT_TURNS_MAX; i++)
        assert_int_equal(ty_chat_add_turn(&r, TY_ROLE_USER, &err), TY_OK);
    assert_int_equal(ty_chat_add_turn(&r, TY_ROLE_USER, &err), TY_ELIMIT);
    ty_chat_request_clear(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(absent_fields_are_greedy),
        cmocka_unit_test(sampling_fields_are_read),
        cmocka_unit_test(pictures_are_upright_when_asked),
        cmocka_unit_test(beams_stop_early_unless_told_otherwise),
        cmocka_unit_test(do_sample_is_the_switch),
        cmocka_unit_test(values_out_of_range_name_their_field),
        cmocka_unit_test(unsupported_fields_are_named),
        cmocka_unit_test(harmless_values_pass),
        cmocka_unit_test(turns_and_parts_keep_their_order),
        cmocka_unit_test(broken_messages_name_the_place),
        cmocka_unit_test(bodies_that_are_no_request_are_refused),
        cmocka_unit_test(offline_requests_may_be_verbatim),
        cmocka_unit_test(building_by_hand_counts_and_limits),
    };
    return cmocka_run_group_tests_name("request", tests, NULL, NULL);
}
