/* golden_prompt.c - see golden_prompt.h. */
#include "tests/support/ty_test.h"

#include "tests/support/golden_prompt.h"

#include <string.h>

/* Only v2's golden.json has this list. */
bool golden_is_v2(const json_t *golden) {
    return json_object_get(golden, "tokenizer_image_token") != NULL;
}

json_t *golden_turn(json_t *messages, const char *role) {
    json_t *parts = json_array();
    json_array_append_new(messages, json_pack("{s:s,s:o}", "role", role, "content", parts));
    return parts;
}

/* The messages that a client would send to get this prompt: "Human:" lines are parts of one turn, other
 * lines go on with the text before. */
static json_t *v1_messages(const char *prompt) {
    json_t *messages = json_array(), *parts = NULL;
    const char *line = strchr(prompt, '\n') + 1;
    for (const char *end; (end = strchr(line, '\n')); line = end + 1) {
        size_t len = (size_t)(end - line);
        if (strncmp(line, "AI: ", 4) == 0) {
            json_t *answer = golden_turn(messages, "assistant");
            json_array_append_new(
                answer, json_pack("{s:s,s:s#}", "type", "text", "text", line + 4, (int)len - 4));
            parts = NULL;
            continue;
        }
        assert_int_equal(strncmp(line, "Human: ", 7), 0);
        if (!parts) parts = golden_turn(messages, "user");
        bool image = len == 14 && strncmp(line + 7, "<image>", 7) == 0;
        json_array_append_new(
            parts, image ? json_pack("{s:s}", "type", "image")
                         : json_pack("{s:s,s:s#}", "type", "text", "text", line + 7, (int)len - 7));
    }
    assert_string_equal(line, "AI: ");
    return messages;
}

/* Parts of a v2 message: texts, and pictures where "<|image|>" stands. */
void golden_v2_parts(json_t *parts, const char *text, size_t len) {
    const char *end = text + len, *mark;
    for (; (mark = memmem(text, (size_t)(end - text), "<|image|>", 9)); text = mark + 9) {
        json_array_append_new(
            parts, json_pack("{s:s,s:s#}", "type", "text", "text", text, (int)(mark - text)));
        json_array_append_new(parts, json_pack("{s:s}", "type", "image"));
    }
    json_array_append_new(parts,
                          json_pack("{s:s,s:s#}", "type", "text", "text", text, (int)(end - text)));
}

/* "USER: q ASSISTANT: a</s>USER: q ASSISTANT:" */
static json_t *v2_messages(const char *prompt) {
    json_t *messages = json_array();
    for (const char *at = prompt, *end; *at; at = end) {
        assert_int_equal(strncmp(at, "USER: ", 6), 0);
        end = strstr(at, " ASSISTANT:");
        assert_non_null(end);
        golden_v2_parts(golden_turn(messages, "user"), at + 6, (size_t)(end - at) - 6);
        at = end + 11;
        end = strstr(at, "</s>");
        if (!end) {
            assert_string_equal(at, "");
            break;
        }
        golden_v2_parts(golden_turn(messages, "assistant"), at + 1, (size_t)(end - at) - 1);
        end += 4;
    }
    return messages;
}

json_t *golden_messages(const json_t *golden, const char *prompt) {
    return golden_is_v2(golden) ? v2_messages(prompt) : v1_messages(prompt);
}
