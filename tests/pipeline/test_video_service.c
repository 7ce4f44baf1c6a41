/* test_video_service.c - the video variant as a service: videos of each kind and a picture asked about over HTTP, alone and
 * all at once, equal `tyto run`; a conversation goes on about its video; what is no video, or asks one of a
 * model without, is refused with its place. */
#include "tests/support/http_client.h"
#include "tests/support/process.h"
#include "tests/support/service.h"
#include "tests/support/ty_test.h"

#include "orchestration/picture_url.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARG(x) ((char *)(x))

enum { TOKENS = 12 };

static const char *video_pipeline;
static test_service service;

/* What the model is shown: a video, or a picture. */
typedef struct {
    bool video;
    const char *file; /* below tests/golden */
} shown;

static const shown all[] = {{true, "videos/nine.gif"},       {true, "videos/nine.webp"},
                            {true, "videos/nine-mjpeg.avi"}, {true, "videos/nine-mjpeg.mp4"},
                            {true, "videos/nine-h264.mp4"},  {false, "images/photo_47.jpg"}};
enum { N = sizeof all / sizeof *all };

static const char *path_of(const shown *s) {
    return test_path("%s/%s", test_golden_dir(), s->file);
}

static json_t *part_of(const shown *s) {
    char *url = NULL;
    ty_err err = {0};
    if (picture_url_of_file(path_of(s), &url, &err) != TY_OK) fail_msg("%s", err.text);
    const char *type = s->video ? "video_url" : "image_url";
    json_t *part = json_pack("{s:s, s:{s:s}}", "type", type, type, "url", url);
    free(url);
    return part;
}

/* A question with one part in front of it (taken over; NULL: none) and, if not NULL, a conversation; free() it. */
static char *body_of(const char *model, json_t *part, const char *text, const char *conversation) {
    json_t *parts = json_array();
    if (part) json_array_append_new(parts, part);
    json_array_append_new(parts, json_pack("{s:s, s:s}", "type", "text", "text", text));
    json_t *body = json_pack("{s:s, s:[{s:s, s:o}], s:i, s:b}", "model", model, "messages", "role",
                             "user", "content", parts, "max_tokens", TOKENS, "ignore_eos", 1);
    if (conversation) json_object_set_new(body, "conversation", json_string(conversation));
    char *out = json_dumps(body, 0);
    assert_non_null(out);
    json_decref(body);
    return out;
}

static char *run(const shown *s) {
    test_output o = TEST_RUN(ARG(test_bin("tyto")), ARG("run"), ARG("--pipeline"),
                             ARG(video_pipeline), ARG(s->video ? "--video" : "--image"),
                             ARG(path_of(s)), ARG("--prompt"), ARG("What is it?"),
                             ARG("--max-tokens"), ARG("12"), ARG("--ignore-eos"), ARG("--json"));
    if (o.exit_code != 0) fail_msg("%s: %s", s->file, o.err);
    json_t *j = json_loads(o.out, 0, NULL);
    char *text = strdup(json_string_value(json_object_get(j, "text")));
    assert_int_equal(
        json_integer_value(json_object_get(json_object_get(j, "usage"), "visual_tokens")), 4);
    json_decref(j);
    test_output_clear(&o);
    return text;
}

static int bring_up(void **state) {
    (void)state;
    video_pipeline = test_import("v1-video-micro", "films", NULL);
    const char *pictures = test_import("v1-micro", "stills", NULL);
    service = test_service_up(video_pipeline, (char *[]){ARG("--pipeline"), ARG(pictures), NULL});
    return 0;
}

static int bring_down(void **state) {
    (void)state;
    test_service_down(&service);
    return 0;
}

static void videos_are_asked_about_alone_and_at_once(void **state) {
    (void)state;
    char *want[N];
    test_question q[N] = {{0}};
    for (int i = 0; i < N; i++) {
        want[i] = run(&all[i]);
        q[i].body = body_of("films", part_of(&all[i]), "What is it?", NULL);
        test_question alone = {.body = q[i].body};
        test_ask_all(&service, &alone, 1);
        if (alone.status != 200) fail_msg("%s: %d: %s", all[i].file, alone.status, alone.raw);
        assert_string_equal(alone.text, want[i]);
        test_question_clear(&alone);
    }
    /* the lossless files have the same frames, and look like no picture */
    assert_string_equal(want[0], want[1]);
    assert_string_not_equal(want[0], want[N - 1]);
    test_ask_all(&service, q, N);
    for (int i = 0; i < N; i++) {
        if (q[i].status != 200) fail_msg("%s: %d: %s", all[i].file, q[i].status, q[i].raw);
        assert_string_equal(q[i].text, want[i]);
        free((char *)(uintptr_t)q[i].body);
        test_question_clear(&q[i]);
        free(want[i]);
    }
}

static void refused(const char *model, json_t *part, const char *code, const char *says) {
    char *body = body_of(model, part, "What is it?", NULL);
    test_question q = {.body = body};
    test_ask_all(&service, &q, 1);
    if (q.status != 400 || !strstr(q.raw, code) || !strstr(q.raw, says))
        fail_msg("%d: %s; want %s, \"%s\"", q.status, q.raw ? q.raw : "", code, says);
    test_question_clear(&q);
    free(body);
}

static json_t *url_part(const char *url) {
    return json_pack("{s:s, s:{s:s}}", "type", "video_url", "video_url", "url", url);
}

static void what_cannot_be_seen_is_refused_with_its_place(void **state) {
    (void)state;
    refused("stills", part_of(&all[0]), "unsupported_value", "sees no videos");
    refused("films", url_part("http://127.0.0.1/a.mp4"), "unsupported_value",
            "messages[0].content[0].video_url.url");
    refused("films", url_part("data:text/plain;base64,AAAA"), "unsupported_value",
            "video/... or image/...");
    refused("films", url_part("data:video/mp4;base64,R0lGODlhAAAA"), "invalid_image", "video");
    refused("films", url_part("data:video/mp4;base64,AAAAAAAA"), "unsupported_image",
            "neither GIF");
    refused("films",
            json_pack("{s:s, s:{s:s, s:i}}", "type", "video_url", "video_url", "url",
                      "data:video/mp4;base64,AAAA", "fps", 2),
            "unsupported_parameter", "messages[0].content[0].video_url.fps");
    const shown gif_as_picture = {false, "videos/nine.gif"};
    refused("films", part_of(&gif_as_picture), "unsupported_image", "GIF");
}

/* The reply to a body, which is freed; json_decref it. */
static json_t *post(char *body) {
    test_reply r = TEST_POST(service.port, "/v1/chat/completions", body);
    if (r.status != 200) fail_msg("%d: %s", r.status, r.body);
    json_t *reply = json_loads(r.body, 0, NULL);
    assert_non_null(reply);
    test_reply_clear(&r);
    free(body);
    return reply;
}

static const char *text_of(const json_t *reply) {
    const json_t *choice = json_array_get(json_object_get(reply, "choices"), 0);
    return json_string_value(json_object_get(json_object_get(choice, "message"), "content"));
}

/* The second question is only text: the conversation still has the video. */
static void a_conversation_keeps_its_video(void **state) {
    (void)state;
    json_t *first = post(body_of("films", part_of(&all[0]), "What is it?", "new"));
    const char *id = json_string_value(json_object_get(first, "conversation"));
    assert_non_null(id);
    json_t *second = post(body_of("films", NULL, "And why?", id));
    /* the same turns in one request */
    json_t *whole =
        json_pack("{s:s, s:[{s:s, s:[o, {s:s, s:s}]}, {s:s, s:s}, {s:s, s:s}], s:i, s:b}", "model",
                  "films", "messages", "role", "user", "content", part_of(&all[0]), "type", "text",
                  "text", "What is it?", "role", "assistant", "content", text_of(first), "role",
                  "user", "content", "And why?", "max_tokens", TOKENS, "ignore_eos", 1);
    assert_non_null(whole);
    json_t *one = post(json_dumps(whole, 0));
    assert_string_equal(text_of(second), text_of(one));
    json_decref(one);
    json_decref(whole);
    json_decref(second);
    json_decref(first);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(videos_are_asked_about_alone_and_at_once),
        cmocka_unit_test(what_cannot_be_seen_is_refused_with_its_place),
        cmocka_unit_test(a_conversation_keeps_its_video),
    };
    return cmocka_run_group_tests_name("video_service", tests, bring_up, bring_down);
}
