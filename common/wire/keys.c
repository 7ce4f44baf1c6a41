/* keys.c - see keys.h. */
#include "common/wire/keys.h"

#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

enum { FILE_MAX = 1 << 16 };

const char *const ty_key_role[TY_KEY_ROLES] = {"broker", "gateway",    "preprocess",
                                               "vit",    "abstractor", "decoder"};

static ty_status check_curve(ty_err *err) {
    if (zmq_has("curve")) return TY_OK;
    return ty_fail(err, TY_EUNSUPPORTED, "this libzmq was built without CURVE (libsodium)");
}

static ty_status path_of(char out[PATH_MAX], const char *dir, const char *role, const char *end,
                         ty_err *err) {
    int n = snprintf(out, PATH_MAX, "%s/%s.%s", dir, role, end);
    if (n >= PATH_MAX) return ty_fail(err, TY_EINVAL, "%.100s...: the path is too long", dir);
    return TY_OK;
}

/* ---- making ---- */

/* Never over a file that is there. */
static ty_status write_key(const char *dir, const char *role, const char *end, const char *key,
                           ty_err *err) {
    char path[PATH_MAX], line[TY_KEY_TEXT + 1];
    ty_status st = path_of(path, dir, role, end, err);
    if (st != TY_OK) return st;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (fd < 0) return ty_fail(err, TY_EIO, "%s: %s", path, strerror(errno));
    int n = snprintf(line, sizeof(line), "%s\n", key);
    bool ok = write(fd, line, (size_t)n) == n && fsync(fd) == 0;
    int why = errno;
    if (close(fd) != 0) ok = false;
    OPENSSL_cleanse(line, sizeof(line));
    return ok ? TY_OK : ty_fail(err, TY_EIO, "%s: %s", path, strerror(why));
}

static ty_status make_pair(const char *dir, const char *role, ty_err *err) {
    char public_key[TY_KEY_TEXT], secret_key[TY_KEY_TEXT];
    if (zmq_curve_keypair(public_key, secret_key) != 0)
        return ty_fail(err, TY_EIO, "a new key pair: %s", zmq_strerror(errno));
    ty_status st = write_key(dir, role, "key", secret_key, err);
    if (st == TY_OK) st = write_key(dir, role, "pub", public_key, err);
    OPENSSL_cleanse(secret_key, sizeof(secret_key));
    return st;
}

static ty_status check_free(const char *dir, ty_err *err) {
    char path[PATH_MAX];
    for (int i = 0; i < 2 * TY_KEY_ROLES; i++) {
        ty_status st = path_of(path, dir, ty_key_role[i / 2], i % 2 ? "pub" : "key", err);
        if (st != TY_OK) return st;
        if (access(path, F_OK) == 0)
            return ty_fail(err, TY_EEXIST,
                           "%s is there already and is kept; name another directory, or remove the "
                           "old keys first",
                           path);
    }
    return TY_OK;
}

static void remove_all(const char *dir) {
    char path[PATH_MAX];
    for (int i = 0; i < 2 * TY_KEY_ROLES; i++)
        if (path_of(path, dir, ty_key_role[i / 2], i % 2 ? "pub" : "key", NULL) == TY_OK)
            (void)unlink(path);
}

ty_status ty_keys_make(const char *dir, ty_err *err) {
    ty_status st = check_curve(err);
    if (st == TY_OK) st = check_free(dir, err);
    if (st != TY_OK) return st;
    if (mkdir(dir, S_IRWXU) != 0 && errno != EEXIST)
        return ty_fail(err, TY_EIO, "%s: mkdir: %s", dir, strerror(errno));
    for (int i = 0; i < TY_KEY_ROLES && st == TY_OK; i++) st = make_pair(dir, ty_key_role[i], err);
    if (st != TY_OK) remove_all(dir);
    return st;
}

/* ---- reading ---- */

static bool is_key(const char *text) {
    uint8_t bytes[32];
    return strlen(text) == TY_KEY_TEXT - 1 && zmq_z85_decode(bytes, text);
}

/* The group may read it (a container's secret often comes so), others may not. */
static ty_status check_secret(const char *path, ty_err *err) {
    struct stat s;
    if (stat(path, &s) != 0)
        return ty_fail(err, errno == ENOENT ? TY_ENOTFOUND : TY_EIO, "%s: %s%s", path,
                       strerror(errno),
                       errno == ENOENT ? "; `tyto keys --out DIR` makes keys" : "");
    if (s.st_mode & (S_IRWXO | S_IWGRP | S_IXGRP))
        return ty_fail(err, TY_EAUTH, "%s: its mode is %04o: others can read a secret; chmod 600",
                       path, (unsigned)(s.st_mode & 07777));
    return TY_OK;
}

/* Calls add for each line that is not empty; a line that is no key is an error. */
static ty_status each_line(const char *path, const char *role,
                           ty_status (*add)(void *ctx, const char *role, const char *key,
                                            ty_err *err),
                           void *ctx, ty_err *err) {
    char *text = NULL, *save = NULL;
    size_t size;
    int line = 0;
    ty_status st = ty_file_read(path, FILE_MAX, &text, &size, err);
    if (st != TY_OK) return st;
    for (char *p = strtok_r(text, "\n", &save); p && st == TY_OK; p = strtok_r(NULL, "\n", &save)) {
        p[strcspn(p, " \t\r")] = '\0';
        line++;
        if (*p)
            st = is_key(p) ? add(ctx, role, p, err)
                           : ty_fail(err, TY_EFORMAT,
                                     "%s: line %d is no key (40 characters of Z85)", path, line);
    }
    OPENSSL_cleanse(text, size);
    free(text);
    return st;
}

ty_status ty_keys_each_public(const char *dir, const char *role,
                              ty_status (*add)(void *ctx, const char *role, const char *key,
                                               ty_err *err),
                              void *ctx, ty_err *err) {
    char path[PATH_MAX];
    ty_status st = path_of(path, dir, role, "pub", err);
    if (st == TY_OK) st = each_line(path, role, add, ctx, err);
    return st == TY_ENOTFOUND ? TY_OK : st;
}

/* ctx is the text to fill; the first line counts. */
static ty_status take_first(void *ctx, const char *role, const char *key, ty_err *err) {
    (void)role, (void)err;
    char *to = ctx;
    if (!*to) memcpy(to, key, TY_KEY_TEXT);
    return TY_OK;
}

static ty_status read_key(const char *dir, const char *role, const char *end, char *to,
                          ty_err *err) {
    char path[PATH_MAX];
    *to = '\0';
    ty_status st = path_of(path, dir, role, end, err);
    if (st == TY_OK && strcmp(end, "key") == 0) st = check_secret(path, err);
    if (st == TY_OK) st = each_line(path, role, take_first, to, err);
    if (st == TY_OK && !*to) st = ty_fail(err, TY_EFORMAT, "%s: no key is in it", path);
    return st;
}

ty_status ty_keys_load(ty_keys *k, const char *dir, const char *role, ty_err *err) {
    *k = (ty_keys){0};
    ty_status st = check_curve(err);
    if (st == TY_OK) st = read_key(dir, role, "key", k->secret_key, err);
    if (st == TY_OK && zmq_curve_public(k->public_key, k->secret_key) != 0)
        st = ty_fail(err, TY_EFORMAT, "%s/%s.key: %s", dir, role, zmq_strerror(errno));
    if (st == TY_OK && strcmp(role, "broker") == 0)
        memcpy(k->broker_key, k->public_key, TY_KEY_TEXT);
    else if (st == TY_OK)
        st = read_key(dir, "broker", "pub", k->broker_key, err);
    if (st != TY_OK) ty_keys_clear(k);
    return st;
}

void ty_keys_clear(ty_keys *k) {
    OPENSSL_cleanse(k, sizeof(*k));
}
