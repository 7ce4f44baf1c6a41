/* golden_prompt.h - the prompts of golden.json as the messages that a client would send. */
#ifndef TY_TEST_GOLDEN_PROMPT_H
#define TY_TEST_GOLDEN_PROMPT_H

#include <jansson.h>
#include <stdbool.h>

/* Is this mPLUG-Owl2's golden.json? */
bool golden_is_v2(const json_t *golden);
/* Messages that become this prompt again; pictures are parts {"type": "image"}.  New reference. */
json_t *golden_messages(const json_t *golden, const char *prompt);

/* Appends a message; its (empty) array of parts, borrowed. */
json_t *golden_turn(json_t *messages, const char *role);
/* Appends the parts of a v2 text: pictures where "<|image|>" stands. */
void golden_v2_parts(json_t *parts, const char *text, size_t len);

#endif
