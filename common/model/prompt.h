/*
 * prompt.h - from turns to the text that the model was taught (NOTES §7), and from that text to ids
 * with a run of -1 for each picture (NOTES §5).
 */
#ifndef TY_MODEL_PROMPT_H
#define TY_MODEL_PROMPT_H

#include "common/chat/request.h"
#include "common/model/tokenizer.h"

#define TY_IMAGE_PLACEHOLDER "<image>"
enum { TY_IMAGE_ID = -1 };

/* Applies the request's template ("readme" or "serve") to its turns, or copies its verbatim prompt.
 * Fails: TY_EUNSUPPORTED (no such template), TY_EINVAL (no user turn, last turn is the assistant's…). */
ty_status ty_prompt_render(const ty_chat_request *r, ty_buf *out, ty_err *err);

/* bos, then each chunk between placeholders on its own, `rows` times -1 for each placeholder, exactly
 * as the reference (two adjacent placeholders form one run of 2 * rows).  *n_images: placeholders. */
ty_status ty_prompt_tokenize(const ty_tokenizer *t, ty_tokenize_mode mode, const char *text,
                             size_t len, int rows, ty_ids *out, int *n_images, ty_err *err);

/* The web server's clean-up of an answer (NOTES §7: strip, special words removed; code fences). */
ty_status ty_prompt_post_process(const char *text, size_t len, ty_buf *out);
ty_status ty_prompt_post_process_code(const char *text, size_t len, ty_buf *out);

#endif
