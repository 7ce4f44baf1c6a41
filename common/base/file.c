/* file.c - see file.h. */
#include "common/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static ty_status open_failed(const char *path, ty_err *err) {
    return ty_fail(err, errno == ENOENT ? TY_ENOTFOUND : TY_EIO, "%s: %s", path, strerror(errno));
}

ty_status ty_file_read(const char *path, size_t max_bytes, char **data, size_t *size, ty_err *err) {
    ty_status st = TY_OK;
    char *buf = NULL;
    size_t len = 0, cap = 0;
    int from_stdin = strcmp(path, "-") == 0;
    int fd = from_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    *data = NULL;
    *size = 0;
    if (fd < 0) return open_failed(path, err);
    struct stat sb;
    if (fstat(fd, &sb) == 0 && S_ISDIR(sb.st_mode)) {
        st = ty_fail(err, TY_EIO, "%s: is a directory, want a file", path);
        goto done;
    }
    for (;;) {
        if (len + 1 >= cap) {
            size_t more = cap ? cap * 2 : 65536;
            char *p = realloc(buf, more);
            if (!p) {
                st = ty_fail(err, TY_ENOMEM, "%s: no memory for %zu bytes", path, more);
                goto done;
            }
            buf = p;
            cap = more;
        }
        ssize_t n = read(fd, buf + len, cap - len - 1);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            st = ty_fail(err, TY_EIO, "%s: %s", path, strerror(errno));
            goto done;
        }
        if (n == 0) break;
        len += (size_t)n;
        if (len > max_bytes) {
            st = ty_fail(err, TY_ELIMIT, "%s: larger than the limit of %zu bytes", path, max_bytes);
            goto done;
        }
    }
    buf[len] = '\0';
    *data = buf;
    *size = len;
    buf = NULL;
done:
    free(buf);
    if (!from_stdin) close(fd);
    return st;
}

ty_status ty_file_mmap(const char *path, ty_file_map *map, ty_err *err) {
    ty_status st = TY_OK;
    struct stat sb;
    *map = (ty_file_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return open_failed(path, err);
    if (fstat(fd, &sb) != 0 || !S_ISREG(sb.st_mode)) {
        st = ty_fail(err, TY_EIO, "%s: not a regular file", path);
        goto done;
    }
    if (sb.st_size > 0) {
        void *p = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            st = ty_fail(err, TY_EIO, "%s: mmap: %s", path, strerror(errno));
            goto done;
        }
        map->data = p;
        map->size = (size_t)sb.st_size;
    }
done:
    close(fd);
    return st;
}

void ty_file_unmap(ty_file_map *map) {
    if (map->data) munmap((void *)(uintptr_t)map->data, map->size);
    *map = (ty_file_map){0};
}

void ty_file_release(const void *bytes, size_t size) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)bytes;
    uintptr_t to = (from + size) / page * page;
    from = (from + page - 1) / page * page;
    if (to > from) (void)madvise((void *)from, to - from, MADV_DONTNEED);
}

ty_status ty_file_write_atomic(const char *path, const void *data, size_t size, ty_err *err) {
    char tmp[4096];
    if (snprintf(tmp, sizeof(tmp), "%s.tmp.%d", path, (int)getpid()) >= (int)sizeof(tmp))
        return ty_fail(err, TY_EINVAL, "%s: path is too long", path);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return open_failed(tmp, err);
    const char *p = data;
    size_t left = size;
    while (left > 0) {
        ssize_t n = write(fd, p, left);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) goto fail;
        p += n;
        left -= (size_t)n;
    }
    if (fsync(fd) != 0) goto fail;
    if (close(fd) != 0) {
        fd = -1;
        goto fail;
    }
    fd = -1;
    if (rename(tmp, path) == 0) return TY_OK;
fail:;
    int saved = errno;
    if (fd >= 0) close(fd);
    unlink(tmp);
    return ty_fail(err, TY_EIO, "%s: %s", path, strerror(saved));
}
