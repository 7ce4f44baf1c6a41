/*
 * templates.h - how turns become the text that a model was taught (NOTES §7).  Behind prompt.h.
 */
#ifndef TY_MODEL_TEMPLATES_H
#define TY_MODEL_TEMPLATES_H

#include "common/base/buf.h"
#include "common/chat/request.h"

/* What stands for a picture, and for a video, and where it was put: the same letters in somebody's words are words. */
typedef struct {
    const char *picture, *video;
    size_t
        *at; /* offsets in the prompt, ascending; room for every picture and video of the turns */
    int n;
} ty_marks;

typedef struct {
    const char *name;
    const char *stop; /* the answer ends before it; NULL = none */
    /* Appends the prompt of turns that ty_chat_request_check passed, the marks where pictures and videos are.
     * Fails: TY_EINVAL. */
    ty_status (*render)(const ty_chat_request *r, ty_marks *m, ty_buf *out, ty_err *err);
} ty_template;

const ty_template *ty_template_find(const char *name); /* NULL: unknown */

#endif
