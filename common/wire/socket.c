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

bool ty_socket_is_tcp(const char *endpoint) {
    return starts(endpoint, "tcp://");
}

static ty_status check_endpoint(const char *e, const ty_socket_security *sec, ty_err *err) {
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
    if (sec->keys || sec->insecure || starts(host, "127.") || starts(host, "localhost:") ||
        starts(host, "[::1]:"))
        return TY_OK;
    return ty_fail(
        err, TY_EINVAL,
        "%s: is not a loopback address, and without keys everybody who reaches it is let "
        "in: give --keys DIR (`tyto keys` makes one), or --insecure-tcp",
        e);
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

/* Else another user could put a socket in the place of ours. */
static ty_status check_directory(const char *path, ty_err *err) {
    char dir[sizeof(((struct sockaddr_un *)0)->sun_path)];
    struct stat s;
    snprintf(dir, sizeof(dir), "%s", path);
    char *slash = strrchr(dir, '/');
    if (!slash) return TY_OK; /* zmq_bind says what is wrong */
    slash[slash == dir ? 1 : 0] = '\0';
    if (stat(dir, &s) != 0) return ty_fail(err, TY_EIO, "%s: %s", dir, strerror(errno));
    if ((s.st_mode & S_IWOTH) && !(s.st_mode & S_ISVTX))
        return ty_fail(err, TY_EAUTH,
                       "%s: its mode is %04o: everybody can put another socket there; chmod o-w",
                       dir, (unsigned)(s.st_mode & 07777));
    return TY_OK;
}

static int set_int(void *s, int option, int value) {
    return zmq_setsockopt(s, option, &value, sizeof(value));
}

/* CURVE: the binding side is the server, whose public key the others know. */
static bool set_curve(void *s, const ty_socket_security *sec) {
    const ty_keys *k = sec->keys;
    if (zmq_setsockopt(s, ZMQ_CURVE_SECRETKEY, k->secret_key, TY_KEY_TEXT) != 0) return false;
    if (sec->domain)
        return set_int(s, ZMQ_CURVE_SERVER, 1) == 0 &&
               zmq_setsockopt(s, ZMQ_ZAP_DOMAIN, sec->domain, strlen(sec->domain)) == 0;
    return zmq_setsockopt(s, ZMQ_CURVE_PUBLICKEY, k->public_key, TY_KEY_TEXT) == 0 &&
           zmq_setsockopt(s, ZMQ_CURVE_SERVERKEY, k->broker_key, TY_KEY_TEXT) == 0;
}

/* Also, that a peer behind a cut cable is noticed: ZeroMQ's own heartbeat, slower than ours. */
static bool set_tcp(void *s, const char *endpoint, const ty_socket_security *sec) {
    enum { PING_MS = 2000, DEAD_MS = 8000 };
    return set_int(s, ZMQ_HEARTBEAT_IVL, PING_MS) == 0 &&
           set_int(s, ZMQ_HEARTBEAT_TIMEOUT, DEAD_MS) == 0 &&
           (!strchr(endpoint, '[') || set_int(s, ZMQ_IPV6, 1) == 0) &&
           (!sec->keys || set_curve(s, sec));
}

static ty_status open_socket(void *ctx, int type, const char *endpoint,
                             const ty_socket_security *sec, void **out, ty_err *err) {
    int64_t frame_max = TY_SOCKET_FRAME_MAX;
    void *s = zmq_socket(ctx, type);
    if (!s) return ty_fail(err, TY_EIO, "socket: %s", zmq_strerror(errno));
    if (set_int(s, ZMQ_LINGER, 0) != 0 || set_int(s, ZMQ_SNDHWM, TY_SOCKET_HWM) != 0 ||
        set_int(s, ZMQ_RCVHWM, TY_SOCKET_HWM) != 0 ||
        zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &frame_max, sizeof(frame_max)) != 0 ||
        (type == ZMQ_ROUTER && set_int(s, ZMQ_ROUTER_MANDATORY, 1) != 0) ||
        (ty_socket_is_tcp(endpoint) && !set_tcp(s, endpoint, sec))) {
        ty_status st = ty_fail(err, TY_EIO, "socket options: %s", zmq_strerror(errno));
        zmq_close(s);
        return st;
    }
    *out = s;
    return TY_OK;
}

ty_status ty_socket_bind(void *ctx, int type, const char *endpoint, const ty_socket_security *sec,
                         void **out, ty_err *err) {
    *out = NULL;
    ty_status st = check_endpoint(endpoint, sec, err);
    if (st != TY_OK) return st;
    const char *path = starts(endpoint, "ipc://") ? endpoint + strlen("ipc://") : NULL;
    if (path && someone_listens(path))
        return ty_fail(err, TY_EEXIST, "%s: another process listens there", endpoint);
    if (path) st = check_directory(path, err);
    void *s = NULL;
    if (st == TY_OK) st = open_socket(ctx, type, endpoint, sec, &s, err);
    if (st != TY_OK) return st;
    /* The file is never there with another mode than 0600. */
    mode_t mask = umask(~(mode_t)(S_IRUSR | S_IWUSR) & 0777);
    int rc = zmq_bind(s, endpoint), why = errno;
    umask(mask);
    errno = why;
    if (rc != 0) {
        st = ty_fail(err, errno == EADDRINUSE ? TY_EEXIST : TY_EIO, "%s: bind: %s", endpoint,
                     zmq_strerror(errno));
        zmq_close(s);
        return st;
    }
    *out = s;
    return TY_OK;
}

ty_status ty_socket_connect(void *ctx, int type, const char *endpoint,
                            const ty_socket_security *sec, void **out, ty_err *err) {
    *out = NULL;
    ty_status st = check_endpoint(endpoint, sec, err);
    if (st != TY_OK) return st;
    void *s = NULL;
    st = open_socket(ctx, type, endpoint, sec, &s, err);
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

int ty_socket_fd(void *socket) {
    int fd = -1;
    size_t size = sizeof(fd);
    return zmq_getsockopt(socket, ZMQ_FD, &fd, &size) == 0 ? fd : -1;
}

bool ty_socket_waits(void *socket) {
    int events = 0;
    size_t size = sizeof(events);
    return zmq_getsockopt(socket, ZMQ_EVENTS, &events, &size) == 0 && (events & ZMQ_POLLIN);
}

void ty_socket_close(void **socket, int linger_ms) {
    if (!*socket) return;
    set_int(*socket, ZMQ_LINGER, linger_ms);
    zmq_close(*socket);
    *socket = NULL;
}
