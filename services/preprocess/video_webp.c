/* video_webp.c - animated WebP through libwebp's own animation decoder, which composes the frames. */
#include "services/preprocess/libav.h"
#include "services/preprocess/video.h"

#include <stdlib.h>
#include <string.h>
#include <webp/demux.h>

/* RGBA, w x h -> S x S of RGB; alpha is dropped. */
static ty_status convert(const libav *av, const uint8_t *rgba, int w, int h, int size, uint8_t *rgb,
                         ty_err *err) {
    size_t n = 4 * (size_t)w * (size_t)h;
    uint8_t *padded = calloc(n + AV_INPUT_BUFFER_PADDING_SIZE, 1);
    if (!padded) return ty_fail(err, TY_ENOMEM, "WebP: no memory for a frame");
    memcpy(padded, rgba, n);
    const uint8_t *const data[4] = {padded};
    const int stride[4] = {4 * w};
    ty_status st = libav_scale(av, data, stride, w, h, AV_PIX_FMT_RGB0, size, rgb, err);
    free(padded);
    return st;
}

static ty_status take_frames(const libav *av, WebPAnimDecoder *dec, const WebPAnimInfo *info,
                             const video_job *job, ty_err *err) {
    size_t each = 3 * (size_t)job->size * (size_t)job->size;
    int taken = 0;
    for (int64_t i = 0; taken < job->n; i++) {
        uint8_t *frame;
        int ms;
        if (!WebPAnimDecoderGetNext(dec, &frame, &ms))
            return ty_fail(err, TY_EIMAGE, "WebP: frame %lld of %u is damaged", (long long)i,
                           info->frame_count);
        ty_status st = image_check_time("WebP", job->limits, err);
        for (; st == TY_OK && taken < job->n &&
               video_frame_index(info->frame_count, job->n, taken) == i;
             taken++)
            st = convert(av, frame, (int)info->canvas_width, (int)info->canvas_height, job->size,
                         job->rgb + (size_t)taken * each, err);
        if (st != TY_OK) return st;
    }
    return TY_OK;
}

ty_status video_decode_webp(const uint8_t *bytes, size_t n_bytes, const video_job *job,
                            ty_err *err) {
    const libav *av;
    WebPBitstreamFeatures f;
    WebPAnimInfo info;
    WebPAnimDecoderOptions options;
    const WebPData data = {bytes, n_bytes};
    ty_status st = libav_open(&av, err);
    if (st != TY_OK) return st;
    if (WebPGetFeatures(bytes, n_bytes, &f) != VP8_STATUS_OK)
        return ty_fail(err, TY_EIMAGE, "WebP: the header is damaged");
    if (f.width < 1 || f.height < 1 || f.width > job->limits->max_pixels / f.height)
        return ty_fail(err, TY_ELIMIT,
                       "WebP: frames of %d x %d pixels, the limit is %lld; send a smaller one",
                       f.width, f.height, (long long)job->limits->max_pixels);
    if (!WebPAnimDecoderOptionsInit(&options))
        return ty_fail(err, TY_EINTERNAL, "WebP: libwebp is not the version built against");
    WebPAnimDecoder *dec = WebPAnimDecoderNew(&data, &options);
    if (!dec || !WebPAnimDecoderGetInfo(dec, &info) || info.frame_count < 1)
        st = ty_fail(err, TY_EIMAGE, "WebP: the animation is damaged or cut short");
    if (st == TY_OK) st = take_frames(av, dec, &info, job, err);
    WebPAnimDecoderDelete(dec);
    return st;
}
