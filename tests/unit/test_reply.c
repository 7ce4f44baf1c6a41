/* reply.h, receipt.h: the shapes that clients read. */
#include "tests/support/ty_test.h"

#include "common/base/clock.h"
#include "services/gateway/receipt.h"
#include "services/gateway/reply.h"

#include <stdlib.h>
#include <string.h>

static const reply_head head = {
    .id = "chatcmpl-1", .created = 7, .model = "m", .fingerprint = "fp_1"};

static void expect_json(json_t *got, const char *want) {
    json_t *w = json_loads(want, 0, NULL);
    assert_non_null(w);
    assert_non_null(got);
    if (!json_equal(got, w)) {
        char *text = json_dumps(got, 0);
        fail_msg("got  %s\nwant %s", text, want);
    }
    json_decref(w);
    json_decref(got);
}

static Tyto__DecodeResult result(void) {
    Tyto__DecodeResult r = TYTO__DECODE_RESULT__INIT;
    r.finish_reason = (char *)(uintptr_t) "stop";
    r.text = (char *)(uintptr_t) "Hi \xc3\xa4";
    r.prompt_tokens = 10;
    r.visual_tokens = 5;
    r.completion_tokens = 3;
    return r;
}

#define USAGE                                                                                      \
    "{\"prompt_tokens\":10,\"completion_tokens\":3,\"total_tokens\":13,"                           \
    "\"prompt_tokens_details\":{\"cached_tokens\":0,\"visual_tokens\":5}}"

static void reply_completion_has_openais_shape(void **state) {
    (void)state;
    Tyto__DecodeResult r = result();
    expect_json(
        reply_completion(&head, &r, NULL, json_object()),
        "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":7,\"model\":\"m\","
        "\"system_fingerprint\":\"fp_1\",\"choices\":[{\"index\":0,\"message\":{\"role\":"
        "\"assistant\",\"content\":\"Hi \\u00e4\",\"refusal\":null},\"logprobs\":null,"
        "\"finish_reason\":\"stop\"}],\"usage\":" USAGE ",\"timings\":{}}");
}

static void reply_chunks_have_openais_shape(void **state) {
    (void)state;
    Tyto__DecodeResult r = result();
#define CHUNK                                                                                      \
    "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":7,\"model\":\"m\","   \
    "\"system_fingerprint\":\"fp_1\",\"choices\":"
    expect_json(reply_chunk(&head, "assistant", "", 0, NULL, NULL, false),
                CHUNK "[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                      "\"logprobs\":null,\"finish_reason\":null}]}");
    expect_json(reply_chunk(&head, NULL, "ab", 2, NULL, NULL, true),
                CHUNK "[{\"index\":0,\"delta\":{\"content\":\"ab\"},\"logprobs\":null,"
                      "\"finish_reason\":null}],\"usage\":null}");
    expect_json(reply_chunk(&head, NULL, NULL, 0, "length", NULL, false), CHUNK
                "[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"length\"}]}");
    expect_json(reply_usage_chunk(&head, &r), CHUNK "[],\"usage\":" USAGE "}");
}

/* What a token's event is written from gives the very bytes of the chunk's tree. */
static void expect_event(const reply_head *h, bool usage_null, const char *text, size_t len) {
    reply_event e = {0};
    ty_buf got = ty_buf_make(1 << 12), want = ty_buf_make(1 << 12);
    json_t *chunk = reply_chunk(h, NULL, text, len, NULL, NULL, usage_null);
    char *tree = json_dumps(chunk, JSON_COMPACT);
    assert_int_equal(reply_event_make(&e, h, usage_null), TY_OK);
    assert_int_equal(reply_event_write(&e, "an earlier one", 14, &got), TY_OK);
    assert_int_equal(reply_event_write(&e, text, len, &got), TY_OK);
    assert_int_equal(ty_buf_printf(&want, "data: %s\n\n", tree), TY_OK);
    assert_string_equal(got.data, want.data);
    json_decref(chunk);
    free(tree);
    reply_event_clear(&e);
    ty_buf_clear(&got);
    ty_buf_clear(&want);
}

static void reply_events_are_the_chunks_bytes(void **state) {
    (void)state;
    static const char bad[] = "a\xc3\xff\"\xf0\x9f\x98 \xed\xa0\x80z";
    /* A model whose name looks like the text's place. */
    reply_head odd = {.id = "i", .model = "\x01\",\"\x01\"", .fingerprint = "f"};
    char all[128];
    for (int i = 0; i < 128; i++) all[i] = (char)i;
    for (int u = 0; u < 2; u++) {
        expect_event(&head, u, all, sizeof(all));
        expect_event(&head, u, "", 0);
        expect_event(&head, u, "\xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80\n", 12);
        expect_event(&head, u, bad, sizeof(bad) - 1);
        expect_event(&odd, u, "\x01", 1);
    }
}

static void reply_logprobs_show_bytes_of_any_kind(void **state) {
    (void)state;
    uint8_t bad[] = {'a', 0xc3};
    uint8_t good[] = {' ', 'b'};
    Tyto__TokenAlternative alt = TYTO__TOKEN_ALTERNATIVE__INIT, *top[] = {&alt};
    alt.piece = (ProtobufCBinaryData){sizeof(good), good};
    alt.logprob = -2;
    Tyto__TokenInfo t = TYTO__TOKEN_INFO__INIT;
    t.piece = (ProtobufCBinaryData){sizeof(bad), bad};
    t.logprob = -0.5;
    t.n_top = 1;
    t.top = top;
    expect_json(reply_logprobs(json_pack("[o]", reply_logprob(&t))),
                "{\"content\":[{\"token\":\"a\\ufffd\",\"logprob\":-0.5,\"bytes\":[97,195],"
                "\"top_logprobs\":[{\"token\":\" b\",\"logprob\":-2.0,\"bytes\":[32,98]}]}],"
                "\"refusal\":null}");
    assert_true(json_is_null(reply_logprobs(NULL)));
}

static void receipt_lists_stages_with_what_was_measured(void **state) {
    (void)state;
    receipt r;
    assert_int_equal(receipt_init(&r, ty_now_us() - 5000), TY_OK);
    r.parsed_us = r.received_us + 1500;
    ty_message *m = ty_message_new();
    assert_non_null(m);
    for (int i = 0; i < 2; i++) {
        Tyto__Timing *t = ty_pb_new(&tyto__timing__descriptor);
        assert_int_equal(ty_pb_set_str(&t->stage, i ? "vit" : "preprocess"), TY_OK);
        assert_int_equal(ty_pb_set_str(&t->worker, i ? "vit.0" : "preprocess.0"), TY_OK);
        t->attempt = (uint32_t)i + 1;
        t->batch = 4;
        t->compute_us = 1234;
        t->broker_queue_us = 10;
        t->flops = 1e9;
        assert_int_equal(ty_pb_append(&m->env->timings, &m->env->n_timings, t), TY_OK);
    }
    m->env->sent_unix_us = 1000;
    m->received_unix_us = 1250;
    receipt_add(&r, m, 3, 2);
    json_t *j = receipt_json(&r), *stages = json_object_get(j, "stages");
    assert_true(json_real_value(json_object_get(j, "wall_ms")) >= 5.0);
    assert_true(json_real_value(json_object_get(json_object_get(j, "gateway"), "parse_ms")) == 1.5);
    assert_null(json_object_get(j, "ttft_ms"));
    assert_int_equal(json_array_size(stages), 2);
    expect_json(json_incref(json_array_get(stages, 1)),
                "{\"stage\":\"vit\",\"worker\":\"vit.0\",\"picture\":3,\"attempt\":2,\"batch\":4,"
                "\"broker_queue_ms\":0.01,\"wire_ms\":0.0,\"worker_queue_ms\":0.0,"
                "\"compute_ms\":1.234,\"return_ms\":0.0,\"bytes_in\":0,\"bytes_out\":0,"
                "\"flops\":1e9,\"gateway_wire_ms\":0.25,\"sends\":2}");
    json_decref(j);
    ty_message_destroy(&m);
    receipt_clear(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reply_completion_has_openais_shape),
        cmocka_unit_test(reply_chunks_have_openais_shape),
        cmocka_unit_test(reply_events_are_the_chunks_bytes),
        cmocka_unit_test(reply_logprobs_show_bytes_of_any_kind),
        cmocka_unit_test(receipt_lists_stages_with_what_was_measured),
    };
    return cmocka_run_group_tests_name("reply", tests, NULL, NULL);
}
