/*
 * answer.h - the text of one answer as it grows: tokens in, text that is certain out.
 *
 * Certain means: whole UTF-8 characters, and nothing that could be the beginning of a stop string.  The
 * answer ends before the first stop string.  What was handed out never changes.
 */
#ifndef TY_DECODER_ANSWER_H
#define TY_DECODER_ANSWER_H

#include "common/chat/sampling.h"
#include "common/model/tokenizer.h"

typedef struct answer answer;

/* t and s are borrowed and must outlive the answer. */
ty_status answer_create(answer **out, const ty_tokenizer *t, const ty_sampling *s, ty_err *err);
void answer_destroy(answer **a);

/* Adds a token.  *text (len bytes, borrowed until the next call): what became certain, maybe nothing. */
ty_status answer_push(answer *a, int32_t id, const char **text, size_t *len);
/* No more tokens: the rest of the text becomes certain. */
ty_status answer_finish(answer *a, const char **text, size_t *len);
/* A stop string was found: the answer is complete. */
bool answer_stopped(const answer *a);
/* All text handed out so far. */
const char *answer_text(const answer *a, size_t *len);

#endif
