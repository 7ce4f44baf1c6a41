/*
 * A conversation whose client sends all of it each time, as OpenAI's clients do: six turns, pictures in the first,
 * third and fifth, through two gateways, two brokers and two decoders in turn.  Each turn's text is `tyto run`'s for
 * the whole, and the receipts show that one decoder went on where it was.
 */
#include "tests/support/fleet_rig.h"
#include "tests/support/http_client.h"
#include "tests/support/process.h"
#include "tests/support/service.h"
#include "tests/support/ty_test.h"

#include "common/base/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TURNS = 6, MAX_TOKENS = 12, QUERIES = 4 /* rows of a picture */ };

static fleet_rig fleet;
static const char *pipeline;

static const char *const picture[TURNS] = {"photo_9.jpg", NULL,           "photo_47.jpg",
                                           NULL,          "photo_48.jpg", NULL};
static const char *const question[TURNS] = {"What is this?",   "And who are you?", "And this one?",
                                            "Which is older?", "The last one:",    "Thank you."};

/* ---- requests ---- */

static void add_question(json_t *messages, const char *name, const char *text) {
    json_t *content = json_array();
    if (name)
        json_array_append_new(content,
                              test_image_part(test_path("%s/images/%s", test_golden_dir(), name)));
    json_array_append_new(content, json_pack("{s:s, s:s}", "type", "text", "text", text));
    json_array_append_new(messages, json_pack("{s:s, s:o}", "role", "user", "content", content));
}

/* The whole reply to these messages. */
static json_t *ask(int gateway, json_t *messages) {
    json_t *body = json_pack("{s:s, s:i, s:O}", "model", "v1-micro", "max_tokens", MAX_TOKENS,
                             "messages", messages);
    char *text = json_dumps(body, JSON_COMPACT);
    test_reply r = TEST_POST(fleet.api[gateway].port, "/v1/chat/completions", text);
    json_t *reply = json_loads(r.body, 0, NULL);
    if (r.status != 200 || !reply) fleet_rig_fail(&fleet, r.body);
    test_reply_clear(&r);
    free(text);
    json_decref(body);
    return reply;
}

static const char *text_of(const json_t *reply) {
    json_t *choice = json_array_get(json_object_get(reply, "choices"), 0);
    return json_string_value(json_object_get(json_object_get(choice, "message"), "content"));
}

static int usage_of(const json_t *reply, const char *key) {
    json_t *usage = json_object_get(reply, "usage");
    json_t *v = json_object_get(usage, key);
    if (!v) v = json_object_get(json_object_get(usage, "prompt_tokens_details"), key);
    return (int)json_integer_value(v);
}

static const char *decoder_of(const json_t *reply) {
    json_t *t, *stages = json_object_get(json_object_get(reply, "timings"), "stages");
    size_t i;
    json_array_foreach(stages, i, t) {
        if (strcmp(json_string_value(json_object_get(t, "stage")), "decoder") == 0)
            return json_string_value(json_object_get(t, "worker"));
    }
    return "none";
}

/* ---- tests ---- */

static void each_turn_goes_on_where_the_last_one_was(void **state) {
    (void)state;
    ty_buf whole = ty_buf_make(1 << 16);
    json_t *messages = json_array();
    const char *images[TURNS];
    char decoder[32] = "";
    int n = 0, had = 0, cached_sum = 0;
    ty_buf_puts(&whole, "The following is a conversation between a curious human and AI assistant. "
                        "The assistant gives helpful, detailed, and polite answers to the user's "
                        "questions.");
    for (int i = 0; i < TURNS; i++) {
        if (picture[i]) {
            images[n++] = strdup(test_path("%s/images/%s", test_golden_dir(), picture[i]));
            ty_buf_puts(&whole, "\nHuman: <image>");
        }
        ty_buf_printf(&whole, "\nHuman: %s\nAI: ", question[i]);
        add_question(messages, picture[i], question[i]);
        char *want = test_run_raw(pipeline, whole.data, images, n, MAX_TOKENS);
        json_t *reply = ask(i % 2, messages);
        assert_string_equal(text_of(reply), want);
        int prompt = usage_of(reply, "prompt_tokens"), cached = usage_of(reply, "cached_tokens");
        const json_t *timings = json_object_get(reply, "timings");
        print_message("turn %d: %d rows, %d of them cached, by %s\n", i + 1, prompt, cached,
                      decoder_of(reply));
        assert_int_equal(test_receipt_max(timings, "decoder", "cached_tokens"), cached);
        assert_int_equal(test_receipt_max(timings, "decoder", "prefill_tokens"), prompt - cached);
        if (i == 0) snprintf(decoder, sizeof(decoder), "%s", decoder_of(reply));
        assert_string_equal(decoder_of(reply), decoder);
        /* All of the last prompt but "AI: ", which tokenises otherwise before an answer. */
        if (i > 0) assert_in_range(cached, had - 4, prompt - 1);
        had = prompt;
        cached_sum += cached;
        json_array_append_new(
            messages, json_pack("{s:s, s:s}", "role", "assistant", "content", text_of(reply)));
        ty_buf_puts(&whole, want);
        json_decref(reply);
        free(want);
    }
    for (int i = 0; i < n; i++) free((char *)(uintptr_t)images[i]);
    json_decref(messages);
    ty_buf_clear(&whole);
    assert_true(fleet_rig_metric(&fleet, 0, "tyto_gateway_cached_tokens_total", "") +
                    fleet_rig_metric(&fleet, 1, "tyto_gateway_cached_tokens_total", "") ==
                cached_sum);
}

/* The same words about another picture are another prompt from the picture on. */
static void another_picture_is_not_taken_for_the_first(void **state) {
    (void)state;
    static const char *const name[] = {"photo_9.jpg", "photo_47.jpg", "photo_9.jpg"};
    json_t *reply[3];
    for (int i = 0; i < 3; i++) {
        json_t *messages = json_array();
        add_question(messages, name[i], "What colour is it, and why?");
        reply[i] = ask(i % 2, messages);
        json_decref(messages);
    }
    int prompt = usage_of(reply[0], "prompt_tokens");
    assert_string_equal(text_of(reply[0]), text_of(reply[2]));
    assert_true(usage_of(reply[1], "cached_tokens") < prompt - QUERIES);
    assert_int_equal(usage_of(reply[2], "cached_tokens"), prompt - 1);
    for (int i = 0; i < 3; i++) json_decref(reply[i]);
}

static int setup(void **state) {
    (void)state;
    pipeline = test_import("v1-micro", "v1-micro", NULL);
    fleet_rig_start(
        &fleet, &(fleet_rig_options){
                    .pipeline = pipeline, .brokers = 2, .gateways = 2, .workers = {1, 1, 1, 2}});
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fleet_rig_stop(&fleet);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_turn_goes_on_where_the_last_one_was),
        cmocka_unit_test(another_picture_is_not_taken_for_the_first),
    };
    return cmocka_run_group_tests_name("turns", tests, setup, teardown);
}
