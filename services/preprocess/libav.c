/* libav.c - see libav.h. */
#include "services/preprocess/libav.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define SONAME(name, version) "lib" #name ".so." AV_STRINGIFY(version)

static struct {
    pthread_once_t once;
    libav fn;
    const char *missing; /* a library or a function that is not there */
} all = {.once = PTHREAD_ONCE_INIT};

/* A symbol as a function pointer: C has no cast for it. */
static void look_up(void *library, const char *name, void *fn) {
    void *p = library ? dlsym(library, name) : NULL;
    memcpy(fn, &p, sizeof p);
    if (!p && !all.missing) all.missing = name;
}

static void *open_library(const char *soname) {
    void *library = dlopen(soname, RTLD_NOW | RTLD_LOCAL);
    if (!library && !all.missing) all.missing = soname;
    return library;
}

static void open_all(void) {
    void *avutil = open_library(SONAME(avutil, LIBAVUTIL_VERSION_MAJOR));
    void *avcodec = open_library(SONAME(avcodec, LIBAVCODEC_VERSION_MAJOR));
    void *avformat = open_library(SONAME(avformat, LIBAVFORMAT_VERSION_MAJOR));
    void *swscale = open_library(SONAME(swscale, LIBSWSCALE_VERSION_MAJOR));
#define LOOK_UP(library, name) look_up(library, #name, &all.fn.name);
    LIBAV_FUNCTIONS(LOOK_UP)
#undef LOOK_UP
    if (!all.missing) all.fn.av_log_set_level(AV_LOG_QUIET);
}

ty_status libav_open(const libav **out, ty_err *err) {
    pthread_once(&all.once, open_all);
    *out = &all.fn;
    if (!all.missing) return TY_OK;
    return ty_fail(err, TY_EUNSUPPORTED,
                   "videos need FFmpeg's libraries, and %s is missing: install libavformat%d and "
                   "libswscale%d",
                   all.missing, LIBAVFORMAT_VERSION_MAJOR, LIBSWSCALE_VERSION_MAJOR);
}

/* swscale writes whole vectors, past the ends of rows and of the picture: its output is padded, then copied. */
ty_status libav_scale(const libav *av, const uint8_t *const data[4], const int stride[4], int w,
                      int h, int format, int size, uint8_t *rgb, ty_err *err) {
    enum { PADDING = 64 };
    size_t row = 3 * (size_t)size, padded = (row + 2 * PADDING - 1) / PADDING * PADDING;
    uint8_t *scaled = aligned_alloc(PADDING, padded * (size_t)(size + 1));
    uint8_t *const out[4] = {scaled};
    const int out_stride[4] = {(int)padded};
    struct SwsContext *scaler = av->sws_getContext(w, h, (enum AVPixelFormat)format, size, size,
                                                   AV_PIX_FMT_RGB24, SWS_BICUBIC, NULL, NULL, NULL);
    ty_status st = TY_OK;
    if (!scaled)
        st = ty_fail(err, TY_ENOMEM, "video: no memory to scale a frame");
    else if (!scaler)
        st = ty_fail(err, TY_EUNSUPPORTED, "video: frames of this kind cannot be made RGB");
    else if (av->sws_scale(scaler, data, stride, 0, h, out, out_stride) != size)
        st = ty_fail(err, TY_EIMAGE, "video: a frame cannot be scaled");
    for (size_t y = 0; st == TY_OK && y < (size_t)size; y++)
        memcpy(rgb + y * row, scaled + y * padded, row);
    av->sws_freeContext(scaler);
    free(scaled);
    return st;
}
