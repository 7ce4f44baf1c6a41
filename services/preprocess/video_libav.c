/*
 * video_libav.c - videos through libav, in two passes: one counts the frames, which no header tells reliably, the
 * other decodes up to the last one that is wanted.
 */
#include "services/preprocess/libav.h"
#include "services/preprocess/video.h"

#include "common/base/clock.h"

#include <stdlib.h>
#include <string.h>

enum { IO_BYTES = 32 * 1024 };

/* Names of libav's demuxers and decoders. */
static const char formats[] = "gif,avi,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm";
static const char codecs[] = "gif,mjpeg,png,mpeg4,h264,hevc,vp8,vp9,libdav1d,rawvideo";

typedef struct {
    const libav *av;
    const uint8_t *bytes;
    int64_t n_bytes, at;
    const image_limits *limits;
    AVIOContext *io;
    AVFormatContext *format;
    AVCodecContext *codec;
    AVPacket *packet;
    AVFrame *frame;
    int stream;
} reader;

/* ---- the file in memory ---- */

static int read_bytes(void *ctx, uint8_t *out, int n) {
    reader *r = ctx;
    int64_t left = r->n_bytes - r->at;
    if (left <= 0) return AVERROR_EOF;
    if (n > left) n = (int)left;
    memcpy(out, r->bytes + r->at, (size_t)n);
    r->at += n;
    return n;
}

static int64_t seek_bytes(void *ctx, int64_t offset, int whence) {
    reader *r = ctx;
    int64_t from = 0;
    if (whence == AVSEEK_SIZE) return r->n_bytes;
    whence &= ~AVSEEK_FORCE;
    if (whence == SEEK_CUR) from = r->at;
    if (whence == SEEK_END) from = r->n_bytes;
    if (whence != SEEK_SET && whence != SEEK_CUR && whence != SEEK_END) return AVERROR(EINVAL);
    if (offset < -from || offset > r->n_bytes - from) return AVERROR(EINVAL);
    return r->at = from + offset;
}

static int is_late(void *ctx) {
    return ty_now_us() > ((const reader *)ctx)->limits->deadline_us;
}

/* ---- opening ---- */

static ty_status failed(const reader *r, int code, const char *what, ty_err *err) {
    char text[AV_ERROR_MAX_STRING_SIZE] = "";
    if (code == AVERROR(ENOMEM)) return ty_fail(err, TY_ENOMEM, "video: no memory to decode");
    if (is_late((void *)(uintptr_t)r)) return image_check_time("video", r->limits, err);
    r->av->av_strerror(code, text, sizeof text);
    return ty_fail(err, TY_EIMAGE, "video: %s: %s", what, text);
}

static ty_status open_format(reader *r, ty_err *err) {
    AVDictionary *options = NULL;
    uint8_t *buffer = r->av->av_malloc(IO_BYTES);
    r->io = buffer ? r->av->avio_alloc_context(buffer, IO_BYTES, 0, r, read_bytes, NULL, seek_bytes)
                   : NULL;
    if (!r->io && buffer) r->av->av_freep(&buffer);
    r->format = r->io ? r->av->avformat_alloc_context() : NULL;
    if (!r->format) return ty_fail(err, TY_ENOMEM, "video: no memory to decode");
    r->format->pb = r->io;
    r->format->interrupt_callback = (AVIOInterruptCB){is_late, r};
    r->av->av_dict_set(&options, "format_whitelist", formats, 0);
    r->av->av_dict_set(&options, "codec_whitelist", codecs, 0);
    r->av->av_dict_set(&options, "protocol_whitelist", "", 0);
    int code = r->av->avformat_open_input(&r->format, "", NULL, &options); /* frees on failure */
    r->av->av_dict_free(&options);
    if (code < 0) return failed(r, code, "the container cannot be read", err);
    code = r->av->avformat_find_stream_info(r->format, NULL);
    if (code < 0) return failed(r, code, "the container's streams cannot be read", err);
    return TY_OK;
}

static ty_status check_size(const reader *r, int w, int h, ty_err *err) {
    if (w < 1 || h < 1)
        return ty_fail(err, TY_EIMAGE, "video: its frames are %d x %d pixels", w, h);
    if (w <= r->limits->max_pixels / h) return TY_OK;
    return ty_fail(err, TY_ELIMIT,
                   "video: frames of %d x %d pixels, the limit is %lld; send a smaller one", w, h,
                   (long long)r->limits->max_pixels);
}

static bool is_listed(const char *name) {
    size_t n = strlen(name);
    for (const char *p = codecs; (p = strstr(p, name)); p += n)
        if ((p == codecs || p[-1] == ',') && (p[n] == ',' || !p[n])) return true;
    return false;
}

static ty_status open_codec(reader *r, ty_err *err) {
    const AVCodec *decoder = NULL;
    r->stream = r->av->av_find_best_stream(r->format, AVMEDIA_TYPE_VIDEO, -1, -1, &decoder, 0);
    if (r->stream < 0 || !decoder || !is_listed(decoder->name))
        return ty_fail(err, TY_EUNSUPPORTED,
                       "video: %s; send GIF, Motion JPEG, MPEG-4, H.264, HEVC, VP8, VP9 or AV1",
                       r->stream < 0 ? "there is no stream of pictures that can be decoded"
                                     : "its codec is not among those that are taken");
    const AVCodecParameters *p = r->format->streams[r->stream]->codecpar;
    ty_status st = check_size(r, p->width, p->height, err);
    if (st != TY_OK) return st;
    r->codec = r->av->avcodec_alloc_context3(decoder);
    if (!r->codec || r->av->avcodec_parameters_to_context(r->codec, p) < 0)
        return ty_fail(err, TY_ENOMEM, "video: no memory to decode");
    r->codec->thread_count = 1; /* the stage's own threads take a video each */
    r->codec->max_pixels = r->limits->max_pixels;
    int code = r->av->avcodec_open2(r->codec, decoder, NULL);
    return code < 0 ? failed(r, code, "the decoder does not start", err) : TY_OK;
}

static void close_reader(reader *r) {
    const libav *av = r->av;
    av->av_packet_free(&r->packet);
    av->av_frame_free(&r->frame);
    av->avcodec_free_context(&r->codec);
    av->avformat_close_input(&r->format);
    if (r->io) av->av_freep(&r->io->buffer);
    av->avio_context_free(&r->io);
}

static ty_status open_reader(reader *r, const uint8_t *bytes, size_t n_bytes,
                             const image_limits *limits, ty_err *err) {
    const libav *av;
    ty_status st = libav_open(&av, err);
    *r = (reader){.av = av, .bytes = bytes, .n_bytes = (int64_t)n_bytes, .limits = limits};
    if (st != TY_OK) return st;
    r->packet = av->av_packet_alloc();
    r->frame = av->av_frame_alloc();
    if (!r->packet || !r->frame) return ty_fail(err, TY_ENOMEM, "video: no memory to decode");
    st = open_format(r, err);
    return st == TY_OK ? open_codec(r, err) : st;
}

/* ---- the two passes ---- */

/* The next packet with a picture; false at the end. */
static bool next_packet(reader *r) {
    for (;;) {
        r->av->av_packet_unref(r->packet);
        if (r->av->av_read_frame(r->format, r->packet) < 0) return false;
        if (r->packet->stream_index == r->stream && r->packet->size > 0) return true;
    }
}

static ty_status count_frames(const uint8_t *bytes, size_t n_bytes, const image_limits *limits,
                              int64_t *total, ty_err *err) {
    reader r;
    *total = 0;
    ty_status st = open_reader(&r, bytes, n_bytes, limits, err);
    while (st == TY_OK && next_packet(&r)) ++*total;
    if (st == TY_OK) st = image_check_time("video", limits, err);
    if (st == TY_OK && *total == 0) st = ty_fail(err, TY_EIMAGE, "video: it has no frame");
    if (r.av) close_reader(&r);
    return st;
}

/* The next frame in order of showing; *end when there is none. */
static ty_status next_frame(reader *r, bool *end, ty_err *err) {
    *end = false;
    for (;;) {
        int code = r->av->avcodec_receive_frame(r->codec, r->frame);
        if (code == 0) return check_size(r, r->frame->width, r->frame->height, err);
        ty_status st = image_check_time("video", r->limits, err);
        if (st != TY_OK) return st;
        *end = code == AVERROR_EOF;
        if (*end) return TY_OK;
        if (code != AVERROR(EAGAIN)) return failed(r, code, "a frame is damaged", err);
        code = r->av->avcodec_send_packet(r->codec, next_packet(r) ? r->packet : NULL);
        if (code < 0 && code != AVERROR_EOF) return failed(r, code, "a frame is damaged", err);
    }
}

/* The frame as S x S of RGB. */
static ty_status convert(const reader *r, int size, uint8_t *rgb, ty_err *err) {
    const AVFrame *f = r->frame;
    return libav_scale(r->av, (const uint8_t *const *)f->data, f->linesize, f->width, f->height,
                       f->format, size, rgb, err);
}

static ty_status take_frames(reader *r, const video_job *job, int64_t total, ty_err *err) {
    size_t each = 3 * (size_t)job->size * (size_t)job->size;
    int taken = 0;
    for (int64_t i = 0; taken < job->n; i++) {
        bool end;
        ty_status st = next_frame(r, &end, err);
        if (st == TY_OK && end)
            st = ty_fail(err, TY_EIMAGE, "video: of %lld frames only %lld can be decoded",
                         (long long)total, (long long)i);
        bool wanted = st == TY_OK && video_frame_index(total, job->n, taken) == i;
        if (wanted) st = convert(r, job->size, job->rgb + (size_t)taken++ * each, err);
        if (st != TY_OK) return st;
        for (; wanted && taken < job->n && video_frame_index(total, job->n, taken) == i; taken++)
            memcpy(job->rgb + (size_t)taken * each, job->rgb + (size_t)(taken - 1) * each, each);
    }
    return TY_OK;
}

ty_status video_decode_libav(const uint8_t *bytes, size_t n_bytes, const video_job *job,
                             ty_err *err) {
    int64_t total;
    reader r;
    ty_status st = count_frames(bytes, n_bytes, job->limits, &total, err);
    if (st != TY_OK) return st;
    st = open_reader(&r, bytes, n_bytes, job->limits, err);
    if (st == TY_OK) st = take_frames(&r, job, total, err);
    if (r.av) close_reader(&r);
    return st;
}
