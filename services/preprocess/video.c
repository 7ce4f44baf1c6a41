/* video.c - see video.h: which container it is, and which frames are wanted. */
#include "services/preprocess/video.h"

#include <math.h>
#include <string.h>
#include <webp/decode.h>

static bool at(const uint8_t *bytes, size_t n, size_t offset, const char *magic) {
    size_t len = strlen(magic);
    return n >= offset + len && memcmp(bytes + offset, magic, len) == 0;
}

static bool is_moving_webp(const uint8_t *bytes, size_t n) {
    WebPBitstreamFeatures f;
    return at(bytes, n, 0, "RIFF") && at(bytes, n, 8, "WEBP") &&
           WebPGetFeatures(bytes, n, &f) == VP8_STATUS_OK && f.has_animation;
}

bool video_recognise(const uint8_t *bytes, size_t n) {
    return at(bytes, n, 0, "GIF8") || (at(bytes, n, 0, "RIFF") && at(bytes, n, 8, "AVI ")) ||
           at(bytes, n, 4, "ftyp") || at(bytes, n, 0, "\x1A\x45\xDF\xA3") ||
           is_moving_webp(bytes, n);
}

/* Half a part from the beginning, cut; then whole parts, a half to the even number. */
int64_t video_frame_index(int64_t total, int n, int i) {
    double part = (double)(total - 1) / n;
    return (int64_t)(part / 2) + (int64_t)rint(part * i);
}

ty_status video_decode(const uint8_t *bytes, size_t n_bytes, const image_limits *limits, int n,
                       int size, uint8_t *rgb, ty_err *err) {
    const video_job job = {n, size, rgb, limits};
    if (!video_recognise(bytes, n_bytes))
        return ty_fail(err, TY_EUNSUPPORTED,
                       "the video is neither GIF, animated WebP, AVI, MP4 nor Matroska; convert it "
                       "to one of them");
    if (is_moving_webp(bytes, n_bytes)) return video_decode_webp(bytes, n_bytes, &job, err);
    return video_decode_libav(bytes, n_bytes, &job, err);
}
