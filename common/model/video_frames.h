/*
 * video_frames.h - the two orders of a video's pixels: files hold [3, T, S, S], as the reference takes them; the ViT
 * works on frames, [T, 3, S, S].
 */
#ifndef TY_MODEL_VIDEO_FRAMES_H
#define TY_MODEL_VIDEO_FRAMES_H

#include <stdint.h>
#include <string.h>

/* n videos of n_frame frames of plane = S x S. */
static inline void ty_video_frames_from_file(const float *in, int64_t n, int64_t n_frame,
                                             int64_t plane, float *out) {
    for (int64_t v = 0; v < n; v++)
        for (int64_t c = 0; c < 3; c++)
            for (int64_t t = 0; t < n_frame; t++)
                memcpy(out + ((v * n_frame + t) * 3 + c) * plane,
                       in + ((v * 3 + c) * n_frame + t) * plane, (size_t)plane * sizeof *out);
}

static inline void ty_video_frames_to_file(const float *in, int64_t n, int64_t n_frame,
                                           int64_t plane, float *out) {
    for (int64_t v = 0; v < n; v++)
        for (int64_t t = 0; t < n_frame; t++)
            for (int64_t c = 0; c < 3; c++)
                memcpy(out + ((v * 3 + c) * n_frame + t) * plane,
                       in + ((v * n_frame + t) * 3 + c) * plane, (size_t)plane * sizeof *out);
}

#endif
