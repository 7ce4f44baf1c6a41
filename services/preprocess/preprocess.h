/*
 * preprocess.h - the preprocess stage: a picture file's bytes -> normalised pixels, exactly as the
 * reference does (NOTES §9).  Knows no socket.
 */
#ifndef TY_PREPROCESS_H
#define TY_PREPROCESS_H

#include "common/base/err.h"

#include <stdbool.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    PREPROCESS_NATIVE, /* v1 inference: resize in the file's own mode, then RGB */
    PREPROCESS_RGB,    /* v1 training, validation: RGB first */
    PREPROCESS_PAD,    /* v2: square canvas of the mean colour */
    PREPROCESS_RESIZE, /* v2: stretch to (max, max), then to S */
    PREPROCESS_CROP,   /* v2 without image_aspect_ratio: shortest edge, centre crop */
} preprocess_mode;
int preprocess_mode_parse(const char *name); /* -1 unknown */
const char *preprocess_mode_name(preprocess_mode m);

typedef struct {
    size_t max_bytes; /* of the file;        0 = 32 MiB */
    int64_t
        max_pixels; /* width x height;     0 = 64 Mpixel.  Checked before pixels are allocated */
    int max_ms;     /* decoding time;      0 = 10 s */
} preprocess_limits;

typedef struct preprocess preprocess;

/* model_path: preprocess.gguf (metadata only: size, mean, std, mode). */
ty_status preprocess_create(preprocess **out, const char *model_path,
                            const preprocess_limits *limits, ty_err *err);
/* The same from numbers, for the trainer: pixel = (byte * scale - mean) / std.  No model id. */
ty_status preprocess_create_from(preprocess **out, int size, const double mean[3],
                                 const double std[3], double scale, preprocess_mode mode,
                                 ty_err *err);
void preprocess_destroy(preprocess **p);
int preprocess_size(const preprocess *p); /* S of the model */
preprocess_mode preprocess_default_mode(const preprocess *p);
const char *preprocess_model_id(const preprocess *p); /* ty_gguf_identity */

/* Frames that a video gives, T; 0: the model sees pictures alone. */
int preprocess_frames(const preprocess *p);

enum { PREPROCESS_SIZE_MAX = 4096 };

/* What is asked of one picture. */
typedef struct {
    int mode;     /* a preprocess_mode; < 0: the model's */
    int size;     /* S; 0: the model's */
    bool upright; /* turned as its EXIF orientation says, which the reference does not */
} preprocess_how;

/* bytes: JPEG, PNG or WebP, told apart by their first bytes.  how NULL: the model's mode and size, not
 * turned.  pixels [3, S, S] f32.
 * Fails: TY_EIMAGE (what is wrong with the picture), TY_EUNSUPPORTED (format), TY_ELIMIT (names limit). */
ty_status preprocess_run(preprocess *p, const uint8_t *bytes, size_t n_bytes,
                         const preprocess_how *how, float *pixels, ty_err *err);
/* The same before rescaling and normalisation: rgb [S, S, 3]. */
ty_status preprocess_rgb(preprocess *p, const uint8_t *bytes, size_t n_bytes,
                         const preprocess_how *how, uint8_t *rgb, ty_err *err);
/* The last step alone: rgb [size, size, 3] -> pixels [3, size, size]. */
void preprocess_normalise(const preprocess *p, const uint8_t *rgb, int size, float *pixels);
/* What a task's picture has as its mode when it is a video. */
#define PREPROCESS_VIDEO "video"
/* Is the file a video (video.h)?  An animation is one. */
bool preprocess_is_video(const uint8_t *bytes, size_t n_bytes);
/* T frames of a video, as the reference takes them (video.h): pixels [T, 3, S, S].  Fails as well:
 * TY_EUNSUPPORTED (the model sees pictures alone). */
ty_status preprocess_run_video(preprocess *p, const uint8_t *bytes, size_t n_bytes, int size,
                               float *pixels, ty_err *err);
/* The decoded picture alone: *rgb [h, w, 3] (free() it), as Pillow's convert("RGB"). */
ty_status preprocess_decode(preprocess *p, const uint8_t *bytes, size_t n_bytes, uint8_t **rgb,
                            int *w, int *h, ty_err *err);

#endif
