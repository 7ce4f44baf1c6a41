/*
 * local_pipeline.h - the whole pipeline in one process, without sockets: the very stage files that
 * the services run, called one after the other.  For `tyto run` and `tyto chat`.
 */
#ifndef TY_LOCAL_PIPELINE_H
#define TY_LOCAL_PIPELINE_H

#include "common/chat/request.h"
#include "common/math/dtype.h"
#include "common/math/linear.h"

#include <signal.h>

typedef struct {
    const char *dir;     /* pipeline directory */
    const char *adapter; /* directory of a LoRA adapter that every answer has; NULL: none */
    ty_compute compute;
    ty_dtype kv;          /* TY_F32, TY_F16 */
    int threads, context; /* 0 = one per core; the model's own */
    bool upright;         /* pictures are turned as their EXIF orientation says */
} local_options;

typedef struct local_pipeline local_pipeline;

/* Loads the decoder; the vision stages are loaded with the first picture. */
ty_status local_create(local_pipeline **out, const local_options *opt, ty_err *err);
void local_destroy(local_pipeline **p);
const char *local_name(const local_pipeline *p); /* the API's model name */

/* Pictures of a conversation as visual tokens, in order; begin with a zeroed one. */
typedef struct {
    float *tokens; /* [n, rows, width] */
    int n, rows, width;
} local_pictures;

/* Microseconds, each measured where it passes.  Stages that did not run stay 0. */
typedef struct {
    int64_t load_us, preprocess_us, vit_us, abstractor_us;
    int64_t queue_us, prefill_us, decode_us;
} local_timings;

/* Sees n picture files (paths; "-" is stdin), all in one batch, and appends their tokens. */
ty_status local_see(local_pipeline *p, const char *const *path, int n, local_pictures *pictures,
                    local_timings *t, ty_err *err);
/* The same with a video, for a model that sees them. */
ty_status local_see_video(local_pipeline *p, const char *path, local_pictures *pictures,
                          local_timings *t, ty_err *err);
void local_pictures_clear(local_pictures *pictures);

typedef struct {
    char *text; /* free() */
    const char *finish;
    int n_prompt, n_visual, n_token;
    double score; /* beams */
} local_answer;

/* Answers the request.  on_text (may be NULL) gets the text as it becomes certain.  *stop (may be NULL) set
 * by a signal handler ends it: TY_ECANCELED, with answer->text what came until then. */
ty_status local_ask(local_pipeline *p, const ty_chat_request *r, const local_pictures *pictures,
                    void (*on_text)(void *ctx, const char *text, size_t len), void *ctx,
                    const volatile sig_atomic_t *stop, local_answer *answer, local_timings *t,
                    ty_err *err);

#endif
