/* local_pipeline.c - see local_pipeline.h. */
#include "orchestration/local_pipeline.h"

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/model/pipeline.h"
#include "services/abstractor/abstractor.h"
#include "services/decoder/decoder.h"
#include "services/preprocess/preprocess.h"
#include "services/vit/vit.h"

#include <stdlib.h>
#include <string.h>

enum { PICTURE_BYTES_MAX = 32 << 20, ANSWER_BYTES_MAX = 64 << 20 };

struct local_pipeline {
    ty_pipeline files;
    ty_run_options run;
    ty_pool *pool;
    preprocess *pre;
    vit *eye;
    abstractor *abs;
    decoder *dec;
    bool upright;
};

static ty_status load_decoder(local_pipeline *p, const local_options *opt, ty_err *err) {
    decoder_adapter adapter = {"adapter", opt->adapter};
    decoder_options d = {.run = p->run,
                         .kv = opt->kv,
                         .context = opt->context,
                         .adapters = &adapter,
                         .n_adapters = opt->adapter != NULL};
    if (!p->files.path[TY_STAGE_DECODER][0])
        return ty_fail(err, TY_EFORMAT, "%s: pipeline.json names no decoder", opt->dir);
    return decoder_create(&p->dec, p->files.path[TY_STAGE_DECODER], &d, err);
}

ty_status local_create(local_pipeline **out, const local_options *opt, ty_err *err) {
    local_pipeline *p = calloc(1, sizeof(*p));
    if (!p) return ty_fail(err, TY_ENOMEM, "out of memory for the pipeline");
    p->upright = opt->upright;
    ty_status st = ty_pipeline_load(&p->files, opt->dir, err);
    if (st == TY_OK) st = ty_pool_create(&p->pool, opt->threads, err);
    if (st == TY_OK) {
        p->run = (ty_run_options){.compute = opt->compute, .pool = p->pool};
        st = load_decoder(p, opt, err);
    }
    if (st != TY_OK) local_destroy(&p);
    *out = p;
    return st;
}

void local_destroy(local_pipeline **pp) {
    local_pipeline *p = *pp;
    if (!p) return;
    decoder_destroy(&p->dec);
    abstractor_destroy(&p->abs);
    vit_destroy(&p->eye);
    preprocess_destroy(&p->pre);
    ty_pool_destroy(&p->pool);
    free(p);
    *pp = NULL;
}

const char *local_name(const local_pipeline *p) {
    return p->files.name;
}

/* ---- seeing ---- */

/* The contracts that the broker checks between services are checked here between functions. */
static ty_status check_seams(const local_pipeline *p, ty_err *err) {
    if (preprocess_size(p->pre) != vit_image_size(p->eye))
        return ty_fail(err, TY_ECONTRACT, "preprocess gives pictures of %d, vit takes %d",
                       preprocess_size(p->pre), vit_image_size(p->eye));
    if (vit_width(p->eye) != abstractor_width_in(p->abs))
        return ty_fail(err, TY_ECONTRACT, "vit gives %d channels, the abstractor takes %d",
                       vit_width(p->eye), abstractor_width_in(p->abs));
    if (abstractor_width_out(p->abs) != decoder_width(p->dec))
        return ty_fail(err, TY_ECONTRACT, "the abstractor gives %d channels, the decoder takes %d",
                       abstractor_width_out(p->abs), decoder_width(p->dec));
    return TY_OK;
}

static ty_status load_vision(local_pipeline *p, ty_err *err) {
    if (p->abs) return TY_OK;
    if (!ty_pipeline_has_vision(&p->files))
        return ty_fail(err, TY_EUNSUPPORTED, "%s is a text-only pipeline: it sees no pictures",
                       p->files.name);
    ty_status st = TY_OK;
    if (!p->pre) st = preprocess_create(&p->pre, p->files.path[TY_STAGE_PREPROCESS], NULL, err);
    if (st == TY_OK && !p->eye) st = vit_create(&p->eye, p->files.path[TY_STAGE_VIT], &p->run, err);
    if (st == TY_OK)
        st = abstractor_create(&p->abs, p->files.path[TY_STAGE_ABSTRACTOR], &p->run, err);
    return st == TY_OK ? check_seams(p, err) : st;
}

static ty_status read_pictures(local_pipeline *p, const char *const *path, int n, float *pixels,
                               ty_err *err) {
    size_t S = (size_t)preprocess_size(p->pre);
    const preprocess_how how = {.mode = -1, .upright = p->upright};
    for (int i = 0; i < n; i++) {
        char *bytes = NULL;
        size_t size = 0;
        ty_status st = ty_file_read(path[i], PICTURE_BYTES_MAX, &bytes, &size, err);
        if (st != TY_OK) return st;
        st =
            preprocess_run(p->pre, (const uint8_t *)bytes, size, &how, pixels + i * 3 * S * S, err);
        free(bytes);
        if (st != TY_OK) {
            ty_err_context(err, "%s", path[i]);
            return st;
        }
    }
    return TY_OK;
}

/* Room for n more pictures; returns where their tokens go, NULL when out of memory. */
static float *grow(local_pictures *pic, const local_pipeline *p, int n) {
    pic->rows = abstractor_n_out(p->abs);
    pic->width = abstractor_width_out(p->abs);
    size_t each = (size_t)pic->rows * (size_t)pic->width;
    float *all = realloc(pic->tokens, (size_t)(pic->n + n) * each * sizeof(float));
    if (!all) return NULL;
    pic->tokens = all;
    return all + (size_t)pic->n * each;
}

/* Runs one step of local_see and adds its time to *sum. */
#define TIMED(sum, call)                                                                           \
    do {                                                                                           \
        int64_t since_us = ty_now_us();                                                            \
        st = (call);                                                                               \
        (sum) += ty_now_us() - since_us;                                                           \
        if (st != TY_OK) goto done;                                                                \
    } while (0)

ty_status local_see(local_pipeline *p, const char *const *path, int n, local_pictures *pictures,
                    local_timings *t, ty_err *err) {
    float *pixels = NULL, *features = NULL;
    ty_status st;
    TIMED(t->load_us, load_vision(p, err));
    size_t S = (size_t)vit_image_size(p->eye);
    size_t each = (size_t)vit_n_token(p->eye) * (size_t)vit_width(p->eye);
    pixels = malloc((size_t)n * 3 * S * S * sizeof(float));
    features = malloc((size_t)n * each * sizeof(float));
    float *tokens = pixels && features ? grow(pictures, p, n) : NULL;
    if (!tokens) {
        st = ty_fail(err, TY_ENOMEM, "out of memory for %d pictures", n);
        goto done;
    }
    TIMED(t->preprocess_us, read_pictures(p, path, n, pixels, err));
    TIMED(t->vit_us, vit_run(p->eye, pixels, n, features, NULL, err));
    TIMED(t->abstractor_us,
          abstractor_run(p->abs, features, n, vit_n_token(p->eye), tokens, NULL, err));
    pictures->n += n;
done:
    free(features);
    free(pixels);
    return st;
}

static ty_status read_video(local_pipeline *p, const char *path, float *pixels, ty_err *err) {
    char *bytes = NULL;
    size_t size = 0;
    ty_status st = ty_file_read(path, PICTURE_BYTES_MAX, &bytes, &size, err);
    if (st != TY_OK) return st;
    st = preprocess_run_video(p->pre, (const uint8_t *)bytes, size, 0, pixels, err);
    if (st != TY_OK) ty_err_context(err, "%s", path);
    free(bytes);
    return st;
}

ty_status local_see_video(local_pipeline *p, const char *path, local_pictures *pictures,
                          local_timings *t, ty_err *err) {
    float *pixels = NULL, *features = NULL;
    ty_status st;
    TIMED(t->load_us, load_vision(p, err));
    int n_frame = preprocess_frames(p->pre), n_token = vit_n_token(p->eye);
    size_t S = (size_t)vit_image_size(p->eye), frames = n_frame > 0 ? (size_t)n_frame : 1;
    pixels = malloc(frames * 3 * S * S * sizeof(float));
    features = malloc(frames * (size_t)n_token * (size_t)vit_width(p->eye) * sizeof(float));
    float *tokens = pixels && features ? grow(pictures, p, 1) : NULL;
    if (!tokens) {
        st = ty_fail(err, TY_ENOMEM, "out of memory for a video");
        goto done;
    }
    TIMED(t->preprocess_us, read_video(p, path, pixels, err));
    TIMED(t->vit_us, vit_run_videos(p->eye, pixels, 1, n_frame, features, NULL, err));
    TIMED(t->abstractor_us,
          abstractor_run_videos(p->abs, features, 1, n_frame, n_token, tokens, NULL, err));
    pictures->n++;
done:
    free(features);
    free(pixels);
    return st;
}

void local_pictures_clear(local_pictures *pictures) {
    free(pictures->tokens);
    *pictures = (local_pictures){0};
}

/* ---- answering ---- */

typedef struct {
    void (*on_text)(void *ctx, const char *text, size_t len);
    void *ctx;
    ty_buf so_far; /* what was streamed: all that a cancelled answer has */
    local_answer *answer;
    local_timings *t;
    bool done;
    ty_status status;
    ty_err *err;
} asking;

static void take_token(void *ctx, const decoder_token *token, int index, const char *text,
                       size_t len) {
    asking *a = ctx;
    (void)token;
    (void)index;
    if (ty_buf_append(&a->so_far, text, len) == TY_OK && a->on_text && len > 0)
        a->on_text(a->ctx, text, len);
}

static void take_result(asking *a, const decoder_result *r) {
    a->answer->text = malloc(r->text_len + 1);
    if (!a->answer->text) {
        a->status = ty_fail(a->err, TY_ENOMEM, "out of memory for the answer");
        return;
    }
    memcpy(a->answer->text, r->text, r->text_len);
    a->answer->text[r->text_len] = '\0';
    a->answer->finish = r->finish == DECODER_STOP ? "stop" : "length";
    a->answer->n_prompt = r->n_prompt;
    a->answer->n_visual = r->n_visual;
    a->answer->n_token = r->n_token;
    a->answer->score = r->score;
    a->t->queue_us += r->queue_us;
    a->t->prefill_us += r->prefill_us;
    a->t->decode_us += r->decode_us;
}

static void take_end(void *ctx, ty_status st, const decoder_result *result, const ty_err *err) {
    asking *a = ctx;
    a->done = true;
    a->status = st;
    if (st == TY_OK)
        take_result(a, result);
    else if (a->err && err)
        *a->err = *err;
}

ty_status local_ask(local_pipeline *p, const ty_chat_request *r, const local_pictures *pictures,
                    void (*on_text)(void *ctx, const char *text, size_t len), void *ctx,
                    const volatile sig_atomic_t *stop, local_answer *answer, local_timings *t,
                    ty_err *err) {
    *answer = (local_answer){.finish = ""};
    asking a = {.on_text = on_text,
                .ctx = ctx,
                .so_far = ty_buf_make(ANSWER_BYTES_MAX),
                .answer = answer,
                .t = t,
                .err = err};
    decoder_request dr = {.request = r,
                          .adapter =
                              decoder_adapters(p->dec) ? decoder_adapter_id(p->dec, 0) : NULL,
                          .visual = pictures->tokens,
                          .n_visual = pictures->n,
                          .visual_rows = pictures->rows,
                          .sink = {.ctx = &a, .on_token = take_token, .on_done = take_end}};
    uint64_t handle;
    ty_status st = decoder_submit(p->dec, &dr, &handle, err);
    if (st != TY_OK) return st;
    while (!a.done) {
        if (stop && *stop) decoder_cancel(p->dec, handle);
        if (!a.done) (void)decoder_step(p->dec);
    }
    if (a.status == TY_ECANCELED) answer->text = ty_buf_take(&a.so_far);
    ty_buf_clear(&a.so_far);
    return a.status;
}
