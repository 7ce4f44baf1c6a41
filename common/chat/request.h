/*
 * request.h - one chat request: turns with text and picture parts (or a verbatim prompt), template,
 * sampling.  Parsed from OpenAI's chat-completions JSON by the gateway and by the offline commands:
 * one parser, so that both know the same fields and refuse the same ones.
 */
#ifndef TY_CHAT_REQUEST_H
#define TY_CHAT_REQUEST_H

#include "common/base/err.h"
#include "common/chat/sampling.h"

#include <stddef.h>

typedef enum { TY_ROLE_SYSTEM, TY_ROLE_USER, TY_ROLE_ASSISTANT } ty_role;
const char *ty_role_name(ty_role r); /* "system" "user" "assistant" */

typedef struct {
    bool is_image; /* a picture or a video: what the model looks at */
    bool is_video;
    bool is_file; /* a picture by its file's id */
    /* Text part: UTF-8.  Picture part: its URL ("data:image/jpeg;base64,..."), its file's id, or NULL when
     * pictures come by another way (--visual, --image); order is what counts. */
    char *text;
} ty_part;

typedef struct {
    ty_role role;
    ty_part *part;
    int n_part;
} ty_turn;

typedef struct {
    ty_turn *turn; /* used when prompt is NULL */
    int n_turn;
    int n_stored; /* how many of them, from the first, were the conversation's already */
    char *prompt; /* verbatim prompt, the model's placeholders included; NULL = use the turns */
    char *template_name; /* ty_chat_template_known; "" = the model's own */
    char *model;         /* "" when absent */
    char *conversation;  /* "new", an id, or "": the request stands for itself */
    bool stream, include_usage;
    bool upright; /* turn pictures as their EXIF orientation says */
    ty_sampling sampling;
} ty_chat_request;

enum {
    TY_CHAT_TURNS_MAX = 1024,
    TY_CHAT_IMAGES_MAX = 64,
};

/*
 * Parses a JSON object (TY_EFORMAT: it is none; the text has line and column).  strict (the
 * gateway): model and messages are required, `prompt` is refused; not strict (offline): `prompt` or
 * `messages`.  Every field that is not known, not supported, or out of range fails with TY_EINVAL or TY_EUNSUPPORTED; then `param` (size param_size, may be NULL) holds
 * the field's path, e.g. "messages[0].content[1].image_url".  null means absent.  Accepted without
 * effect because their only allowed value is the default: n = 1, stream_options, user, metadata...
 * (docs/protocol.md lists them).  Picture parts: {"type":"image_url","image_url":{"url":...}}, strict also
 * {"type":"image_file","image_file":{"file_id":...}}, and offline {"type":"image"}.  Videos likewise, "video" for "image".
 */
ty_status ty_chat_request_parse(ty_chat_request *out, const char *json, size_t len, bool strict,
                                char *param, size_t param_size, ty_err *err);
/*
 * The same for a turn of a conversation (strict).  turns: JSON array of what ty_chat_turn_json (history.h) made, put
 * in front of the request's own; params: object of ty_chat_params_json, which holds where the body says nothing.
 * Both are trusted; a failure's path is always the body's, or "conversation".
 */
struct json_t;
ty_status ty_chat_request_parse_turn(ty_chat_request *out, const char *json, size_t len,
                                     const struct json_t *turns, const struct json_t *params,
                                     char *param, size_t param_size, ty_err *err);
/* "readme", "serve", "mplug_owl2", "vicuna_v1" (common/model/templates.h). */
bool ty_chat_template_known(const char *name);
/* Turns that a template can render: there is a user turn, the last one (system turns apart) is one,
 * pictures are in user turns only, no text but an
 * answer holds a placeholder ("<image>", "<|image|>", "<|video|>").  TY_EINVAL; *turn (may be
 * NULL) is the one that is wrong, -1 for none.  A verbatim prompt passes. */
ty_status ty_chat_request_check(const ty_chat_request *r, int *turn, ty_err *err);
/* Number of picture parts, videos too, in the turns; for a verbatim prompt of placeholders in it. */
int ty_chat_request_images(const ty_chat_request *r);
int ty_turn_images(const ty_turn *t);
/* Appends a turn / a part; text is copied (NULL allowed for pictures).  For `tyto run`, chat, tests. */
ty_status ty_chat_request_init(ty_chat_request *r);
ty_status ty_chat_add_turn(ty_chat_request *r, ty_role role, ty_err *err);
ty_status ty_chat_add_text(ty_chat_request *r, const char *text, size_t len, ty_err *err);
ty_status ty_chat_add_image(ty_chat_request *r, const char *url, ty_err *err);
ty_status ty_chat_add_video(ty_chat_request *r, const char *url, ty_err *err);
ty_status ty_chat_add_file(ty_chat_request *r, bool video, const char *id, ty_err *err);
void ty_chat_request_clear(ty_chat_request *r);

#endif
