/*
 * prompt.h - from turns to the text that the model was taught (NOTES §7), and from that text to ids with
 * a picture's rows in it (NOTES §5).
 */
#ifndef TY_MODEL_PROMPT_H
#define TY_MODEL_PROMPT_H

#include "common/chat/request.h"
#include "common/model/tokenizer.h"

enum {
    TY_IMAGE_ID = -1,      /* v1: a run of them, however long, is one picture */
    TY_VIDEO_ID = -2,      /* v1's video variant: likewise, a video */
    TY_IMAGE_ID_V2 = -200, /* v2: each `rows` of them are a picture */
};

/* What the prompts of a family are made of. */
typedef struct {
    const char *template_name; /* of a request that names none */
    const char *placeholder;   /* a picture in a prompt's text */
    int32_t image_id;          /* a picture's row among the ids */
    bool bos_by_chunk;         /* v2's way of placing bos (ty_prompt_tokenize) */
    const char *video; /* a video in a prompt's text (its rows are TY_VIDEO_ID); NULL: none */
} ty_prompt_form;

/* family as in pipeline.json and `tyto.family`; what is not known has v1's. */
const ty_prompt_form *ty_prompt_form_of(const char *family);

/* Where a prompt's pictures and videos are: the offsets of their placeholders, ascending.  free(at). */
typedef struct {
    size_t *at;
    int n;
} ty_prompt_marks;

/* Applies the request's template (templates.h), or the form's, to its turns, or copies its verbatim
 * prompt.  *marks (NULL: not wanted) is where the pictures went, of a verbatim prompt every placeholder: an answer that
 * has the letters of one in it has no picture there.  Fails: TY_EUNSUPPORTED (no such template, a video for a family without), TY_EINVAL (no user turn, last turn is the
 * assistant's…). */
ty_status ty_prompt_render(const ty_prompt_form *form, const ty_chat_request *r, ty_buf *out,
                           ty_prompt_marks *marks, ty_err *err);
/* The string that ends an answer to these turns; NULL: none (a verbatim prompt never has one). */
const char *ty_prompt_stop(const ty_prompt_form *form, const ty_chat_request *r);

/* Each chunk between the pictures' placeholders on its own, `rows` times the form's image id for each of those,
 * bos where the reference has it: v1 once in front; v2 in front when text begins the prompt, else in front
 * of each later text.  marks NULL: every placeholder in the text is one.  *n_images: of them, videos too. */
ty_status ty_prompt_tokenize(const ty_prompt_form *form, const ty_tokenizer *t,
                             ty_tokenize_mode mode, const char *text, size_t len,
                             const ty_prompt_marks *marks, int rows, ty_ids *out, int *n_images,
                             ty_err *err);

/* The web server's clean-up of an answer (NOTES §7: strip, special words removed; code fences). */
ty_status ty_prompt_post_process(const char *text, size_t len, ty_buf *out);
ty_status ty_prompt_post_process_code(const char *text, size_t len, ty_buf *out);

#endif
