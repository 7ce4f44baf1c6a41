/*
 * video.h - a video file's bytes -> some of its frames as RGB, as the reference takes them.
 *
 * The reference opens a video at S x S and reads n frames, one from the middle of each of n equal parts; so
 * frames are scaled by FFmpeg's bicubic, not by Pillow's.  GIF, AVI, MP4 and Matroska go through libav,
 * animated WebP through libwebp.
 *
 * The bytes come from strangers: libav reads them from memory alone, only these containers and a short list of
 * codecs; size is checked before a decoder is opened, time while it works.
 */
#ifndef TY_PREPROCESS_VIDEO_H
#define TY_PREPROCESS_VIDEO_H

#include "services/preprocess/image_decode.h"

#include <stdbool.h>

/* Does the file begin as one of these containers?  (A still WebP does not.) */
bool video_recognise(const uint8_t *bytes, size_t n_bytes);
/* Which frame of a video of `total` is the i-th of n: the middle of the i-th of n equal parts, as the
 * reference rounds. */
int64_t video_frame_index(int64_t total, int n, int i);

/* rgb [n, S, S, 3].  Fails: TY_EUNSUPPORTED (container, codec, libav is not installed), TY_EIMAGE (damaged, no
 * frame), TY_ELIMIT (pixels, time), TY_ENOMEM. */
ty_status video_decode(const uint8_t *bytes, size_t n_bytes, const image_limits *limits, int n,
                       int size, uint8_t *rgb, ty_err *err);

/* The readers of one kind each. */
typedef struct {
    int n, size;  /* frames wanted, and S */
    uint8_t *rgb; /* [n, S, S, 3] */
    const image_limits *limits;
} video_job;
ty_status video_decode_libav(const uint8_t *bytes, size_t n_bytes, const video_job *job,
                             ty_err *err);
ty_status video_decode_webp(const uint8_t *bytes, size_t n_bytes, const video_job *job,
                            ty_err *err);

#endif
