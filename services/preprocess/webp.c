/*
 * webp.c - still WebP pictures through libwebp's incremental decoder: fed in slices, so that the
 * time limit is looked at between them.
 */
#include "services/preprocess/image_decode.h"

#include <webp/decode.h>

enum { SLICE_BYTES = 32 * 1024 };

static ty_status failed(VP8StatusCode code, ty_err *err) {
    switch (code) {
    case VP8_STATUS_OUT_OF_MEMORY: return ty_fail(err, TY_ENOMEM, "WebP: no memory to decode");
    case VP8_STATUS_SUSPENDED:
    case VP8_STATUS_NOT_ENOUGH_DATA: return ty_fail(err, TY_EIMAGE, "WebP: the file is cut short");
    case VP8_STATUS_UNSUPPORTED_FEATURE:
        return ty_fail(err, TY_EUNSUPPORTED, "WebP: a feature that libwebp does not decode");
    default: return ty_fail(err, TY_EIMAGE, "WebP: the bitstream is damaged");
    }
}

static ty_status feed(WebPIDecoder *dec, const uint8_t *bytes, size_t n_bytes,
                      const image_limits *limits, ty_err *err) {
    VP8StatusCode code = VP8_STATUS_SUSPENDED;
    for (size_t have = 0; have < n_bytes && code == VP8_STATUS_SUSPENDED;) {
        have = n_bytes - have > SLICE_BYTES ? have + SLICE_BYTES : n_bytes;
        code = WebPIUpdate(dec, bytes, have);
        ty_status st = image_check_time("WebP", limits, err);
        if (st != TY_OK) return st;
    }
    return code == VP8_STATUS_OK ? TY_OK : failed(code, err);
}

ty_status image_decode_webp(const uint8_t *bytes, size_t n_bytes, const image_limits *limits,
                            image *out, ty_err *err) {
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config))
        return ty_fail(err, TY_EINTERNAL, "WebP: libwebp is not the version built against");
    VP8StatusCode code = WebPGetFeatures(bytes, n_bytes, &config.input);
    if (code != VP8_STATUS_OK) return failed(code, err);
    if (config.input.has_animation)
        return ty_fail(err, TY_EUNSUPPORTED, "WebP: an animation; send one of its pictures");
    image_mode mode = config.input.has_alpha ? IMAGE_RGBA : IMAGE_RGB;
    ty_status st =
        image_alloc(out, "WebP", mode, config.input.width, config.input.height, limits, err);
    if (st != TY_OK) return st;
    int stride = out->w * image_bands(mode);
    WebPIDecoder *dec = WebPINewRGB(mode == IMAGE_RGBA ? MODE_RGBA : MODE_RGB, out->data,
                                    (size_t)stride * (size_t)out->h, stride);
    if (!dec) return ty_fail(err, TY_ENOMEM, "WebP: no memory to decode");
    st = feed(dec, bytes, n_bytes, limits, err);
    WebPIDelete(dec);
    return st;
}
