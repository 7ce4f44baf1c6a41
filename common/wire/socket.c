/* socket.c - see socket.h. */
#include "common/wire/socket.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

void *ty_socket_context(void) {
    void *ctx = zmq_ctx_new();
    /* Not blocky: zmq_ctx_term waits for each socket's linger, never for ever. */
    if (ctx) zmq_ctx_set(ctx, ZMQ_BLOCKY, 0);
    return ctx;
}

static bool starts(const char *s, const char *with) {
    return strncmp(s, with, strlen(with)) == 0;
}

static ty_status check_endpoint(const char *e, ty_err *err) {
    if (starts(e, "ipc://")) {
        size_t len = strlen(e + strlen("ipc://"));
        size_t most = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;
        if (len == 0 || len > most)
            return ty_fail(err, TY_EINVAL, "%s: a socket's path has 1 to %zu bytes, this one %zu",
                           e, most, len);
        return TY_OK;
    }
    if (starts(e, "inproc://")) return TY_OK;
    if (!starts(e, "tcp://"))
        return ty_fail(err, TY_EINVAL, "%s: want ipc:///path or tcp://127.0.0.1:port", e);
    const char *host = e + strlen("tcp://");
    if (!starts(host, "127.") && !starts(host, "localhost:") && !starts(host, "[::1]:"))
        return ty_fail(err, TY_EINVAL,
                       "%s: is not a loopback address; the wire is not encrypted, so it stays on "
                       "this machine",
                       e);
    return TY_OK;
}

/* zmq_bind replaces a socket file even when another process listens on it; we do not want that. */
static bool someone_listens(const char *path) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return false;
    snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
    bool yes = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 || errno == EAGAIN;
    close(fd);
    return yes;
}

static int set_int(void *s, int option, int value) {
    return zmq_setsockopt(s, option, &value, sizeof(value));
}

static ty_status open_socket(void *ctx, int type, void **out, ty_err *err) {
    int64_t frame_max = TY_SOCKET_FRAME_MAX;
    void *s = zmq_socket(ctx, type);
    if (!s) return ty_fail(err, TY_EIO, "socket: %s", zmq_strerror(errno));
    if (set_int(s, ZMQ_LINGER, 0) != 0 || set_int(s, ZMQ_SNDHWM, TY_SOCKET_HWM) != 0 ||
        set_int(s, ZMQ_RCVHWM, TY_SOCKET_HWM) != 0 ||
        zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &frame_max, sizeof(frame_max)) != 0 ||
        (type == ZMQ_ROUTER && set_int(s, ZMQ_ROUTER_MANDATORY, 1) != 0)) {
        ty_status st = ty_fail(err, TY_EIO, "socket options: %s", zmq_strerror(errno));
        zmq_close(s);
        return st;
    }
    *out = s;
    return TY_OK;
}

ty_status ty_socket_bind(void *ctx, int type, const char *endpoint, void **out, ty_err *err) {
    *out = NULL;
    ty_status st = check_endpoint(endpoint, err);
    if (st != TY_OK) return st;
    const char *path = starts(endpoint, "ipc://") ? endpoint + strlen("ipc://") : NULL;
    if (path && someone_listens(path))
        return ty_fail(err, TY_EEXIST, "%s: another process listens there", endpoint);
    void *s = NULL;
    st = open_socket(ctx, type, &s, err);
    if (st != TY_OK) return st;
    if (zmq_bind(s, endpoint) != 0) {
        st = ty_fail(err, errno == EADDRINUSE ? TY_EEXIST : TY_EIO, "%s: bind: %s", endpoint,
                     zmq_strerror(errno));
        goto failed;
    }
    if (path && chmod(path, S_IRUSR | S_IWUSR) != 0) {
        st = ty_fail(err, TY_EIO, "%s: chmod: %s", path, strerror(errno));
        goto failed;
    }
    *out = s;
    return TY_OK;
failed:
    zmq_close(s);
    return st;
}

ty_status ty_socket_connect(void *ctx, int type, const char *endpoint, void **out, ty_err *err) {
    *out = NULL;
    ty_status st = check_endpoint(endpoint, err);
    if (st != TY_OK) return st;
    void *s = NULL;
    st = open_socket(ctx, type, &s, err);
    if (st != TY_OK) return st;
    if (set_int(s, ZMQ_IMMEDIATE, 1) != 0 || set_int(s, ZMQ_RECONNECT_IVL, 50) != 0 ||
        set_int(s, ZMQ_RECONNECT_IVL_MAX, 500) != 0 || zmq_connect(s, endpoint) != 0) {
        st = ty_fail(err, TY_EIO, "%s: connect: %s", endpoint, zmq_strerror(errno));
        zmq_close(s);
        return st;
    }
    *out = s;
    return TY_OK;
}

ty_status ty_socket_endpoint(void *socket, char *out, size_t size, ty_err *err) {
    if (zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, out, &size) != 0)
        return ty_fail(err, TY_EIO, "last endpoint: %s", zmq_strerror(errno));
    return TY_OK;
}

void ty_socket_close(void **socket, int linger_ms) {
    if (!*socket) return;
    set_int(*socket, ZMQ_LINGER, linger_ms);
    zmq_close(*socket);
    *socket = NULL;
}
