/*
 * templates.h - how turns become the text that a model was taught (NOTES §7).  Behind prompt.h.
 */
#ifndef TY_MODEL_TEMPLATES_H
#define TY_MODEL_TEMPLATES_H

#include "common/base/buf.h"
#include "common/chat/request.h"

/* What stands for a picture, and for a video. */
typedef struct {
    const char *picture, *video;
} ty_marks;

typedef struct {
    const char *name;
    const char *stop; /* the answer ends before it; NULL = none */
    /* Appends the prompt of turns that ty_chat_request_check passed, the marks where pictures and videos are.
     * Fails: TY_EINVAL. */
    ty_status (*render)(const ty_chat_request *r, const ty_marks *m, ty_buf *out, ty_err *err);
} ty_template;

const ty_template *ty_template_find(const char *name); /* NULL: unknown */

#endif
