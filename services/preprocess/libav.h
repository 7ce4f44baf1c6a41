/*
 * libav.h - FFmpeg's libraries, opened when a model sees videos and not before: they bring a hundred others along,
 * which every program would load at its start.  Headers give types and numbers; the functions are looked up
 * in the libraries of the very version that the headers are of.
 */
#ifndef TY_PREPROCESS_LIBAV_H
#define TY_PREPROCESS_LIBAV_H

#include "common/base/err.h"

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libswscale/swscale.h>

#define LIBAV_FUNCTIONS(X)                                                                         \
    X(avutil, av_malloc)                                                                           \
    X(avutil, av_freep)                                                                            \
    X(avutil, av_dict_set)                                                                         \
    X(avutil, av_dict_free)                                                                        \
    X(avutil, av_strerror)                                                                         \
    X(avutil, av_log_set_level)                                                                    \
    X(avutil, av_frame_alloc)                                                                      \
    X(avutil, av_frame_free)                                                                       \
    X(avformat, avio_alloc_context)                                                                \
    X(avformat, avio_context_free)                                                                 \
    X(avformat, avformat_alloc_context)                                                            \
    X(avformat, avformat_open_input)                                                               \
    X(avformat, avformat_close_input)                                                              \
    X(avformat, avformat_find_stream_info)                                                         \
    X(avformat, av_find_best_stream)                                                               \
    X(avformat, av_read_frame)                                                                     \
    X(avcodec, avcodec_alloc_context3)                                                             \
    X(avcodec, avcodec_parameters_to_context)                                                      \
    X(avcodec, avcodec_open2)                                                                      \
    X(avcodec, avcodec_free_context)                                                               \
    X(avcodec, avcodec_send_packet)                                                                \
    X(avcodec, avcodec_receive_frame)                                                              \
    X(avcodec, av_packet_alloc)                                                                    \
    X(avcodec, av_packet_unref)                                                                    \
    X(avcodec, av_packet_free)                                                                     \
    X(swscale, sws_getContext)                                                                     \
    X(swscale, sws_scale)                                                                          \
    X(swscale, sws_freeContext)

typedef struct {
#define LIBAV_MEMBER(library, name) __typeof__(&name) name;
    LIBAV_FUNCTIONS(LIBAV_MEMBER)
#undef LIBAV_MEMBER
} libav;

/* Opens the libraries at the first call, from any thread; they stay.  Fails: TY_EUNSUPPORTED (not installed). */
ty_status libav_open(const libav **out, ty_err *err);

/* A picture of w x h in one of libav's pixel formats -> rgb [size, size, 3], by its bicubic.  data, stride: its
 * planes, with libav's padding behind them.  Fails: TY_EUNSUPPORTED (format), TY_EIMAGE, TY_ENOMEM. */
ty_status libav_scale(const libav *av, const uint8_t *const data[4], const int stride[4], int w,
                      int h, int format, int size, uint8_t *rgb, ty_err *err);

#endif
