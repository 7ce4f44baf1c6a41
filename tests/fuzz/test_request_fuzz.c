/*
 * Damaged requests: every mutation of good bodies is read or refused with a typed error that says
 * something, and what was read renders or is refused.  FUZZ_ROUNDS sets how many; the seed is fixed.
 */
#include "tests/support/ty_test.h"

#include "common/base/utf8.h"
#include "common/model/prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const bodies[] = {
    "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}",
    "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\","
    "\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image_url\",\"image_url\":{"
    "\"url\":"
    "\"data:image/png;base64,AA\",\"detail\":\"auto\"}}]}],\"temperature\":0.7,\"top_k\":3}",
    "{\"prompt\":\"a<image>b\",\"max_tokens\":3,\"num_beams\":3,\"length_penalty\":1.5,\"seed\":-"
    "4}",
    "{\"model\":\"m\",\"stream\":true,\"stream_options\":{\"include_usage\":true},\"stop\":[\"x\","
    "\"y\"],\"logprobs\":true,\"top_logprobs\":2,\"template\":\"serve\",\"messages\":[{\"role\":"
    "\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"r\"},{\"role\":\"user\","
    "\"content\":[{\"type\":\"image\"},{\"type\":\"image\"}]}]}",
};
enum { N_BODY = sizeof bodies / sizeof *bodies, BODY_MAX = 2048 };

static const char *const tokens[] = {
    "null",      "true",     "-1",           "1e999",   "{}",       "[]",
    "\"\"",      "\"user\"", "\"\\u0000\"",  "0.5",     ",",        ":",
    "\"n\"",     "[[[[",     "\xFF",         "<image>", "\"stop\"", "18446744073709551616",
    "<|image|>", "</s>",     "\"vicuna_v1\""};

/* A byte changed, dropped, doubled, a stretch cut or copied, or a token written over. */
static size_t mutate(char *s, size_t len, unsigned *seed) {
    if (!len) return 0;
    size_t at = (size_t)rand_r(seed) % len, n = 1 + (size_t)rand_r(seed) % 12;
    if (n > len - at) n = len - at;
    const char *token = tokens[(size_t)rand_r(seed) % (sizeof tokens / sizeof *tokens)];
    switch (rand_r(seed) % 5) {
    case 0: s[at] = (char)rand_r(seed); return len;
    case 1: memmove(s + at, s + at + n, len - at - n); return len - n;
    case 2:
        if (len + n > BODY_MAX) return len;
        memmove(s + at + n, s + at, len - at);
        return len + n;
    case 3: return at; /* cut */
    default:
        n = strlen(token);
        if (at + n > BODY_MAX) return len;
        memcpy(s + at, token, n);
        return at + n > len ? at + n : len;
    }
}

static void render(const ty_chat_request *r, const char *family) {
    ty_buf out = ty_buf_make(1 << 16);
    ty_err err = {0};
    ty_prompt_marks marks = {0};
    ty_status st = ty_prompt_render(ty_prompt_form_of(family), r, &out, &marks, &err);
    if (st == TY_OK) assert_true(ty_utf8_is_valid(out.data ? out.data : "", out.len));
    if (st == TY_OK && !r->prompt) assert_int_equal(marks.n, ty_chat_request_images(r));
    free(marks.at);
    assert_true(st == TY_OK || (st == TY_EINVAL && *err.text));
    ty_buf_clear(&out);
}

static void damaged_requests_are_read_or_refused(void **state) {
    (void)state;
    const char *env = getenv("FUZZ_ROUNDS");
    int rounds = env && atoi(env) > 0 ? atoi(env) : 10000, read = 0;
    unsigned seed = 5;
    for (int i = 0; i < rounds; i++) {
        char text[BODY_MAX], param[40];
        const char *body = bodies[i % N_BODY];
        size_t len = strlen(body);
        memcpy(text, body, len);
        for (int k = rand_r(&seed) % 4; k >= 0; k--) len = mutate(text, len, &seed);
        char *exact = malloc(len ? len : 1); /* so that a sanitizer sees a read past the end */
        assert_non_null(exact);
        memcpy(exact, text, len);
        ty_chat_request r;
        ty_err err = {0};
        ty_status st = ty_chat_request_parse(&r, exact, len, i % 3 == 0, param, sizeof param, &err);
        free(exact);
        if (st == TY_OK) {
            read++;
            render(&r, "mplug_owl_v1");
            render(&r, "mplug_owl_v2");
            ty_chat_request_clear(&r);
            continue;
        }
        assert_true(st == TY_EINVAL || st == TY_EUNSUPPORTED || st == TY_EFORMAT ||
                    st == TY_ELIMIT);
        assert_true(*err.text && ty_utf8_is_valid(err.text, strlen(err.text)));
    }
    assert_true(read > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(damaged_requests_are_read_or_refused)};
    return cmocka_run_group_tests_name("request fuzz", tests, NULL, NULL);
}
