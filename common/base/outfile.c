/* outfile.c - see outfile.h. */
#include "common/base/outfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

static ty_status failed(const ty_outfile *f, ty_err *err) {
    return ty_fail(err, TY_EIO, "%s: %s", f->path, strerror(errno));
}

ty_status ty_outfile_open(ty_outfile *f, const char *path, ty_err *err) {
    f->fd = -1;
    f->size = 0;
    if (snprintf(f->path, sizeof(f->path), "%s", path) >= (int)sizeof(f->path) ||
        snprintf(f->tmp, sizeof(f->tmp), "%s.tmp.%d", path, (int)getpid()) >= (int)sizeof(f->tmp))
        return ty_fail(err, TY_EINVAL, "%.200s...: path is too long", path);
    f->fd = open(f->tmp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (f->fd >= 0) return TY_OK;
    return ty_fail(err, errno == ENOENT ? TY_ENOTFOUND : TY_EIO, "%s: %s", f->tmp, strerror(errno));
}

ty_status ty_outfile_patch(ty_outfile *f, uint64_t at, const void *data, size_t n, ty_err *err) {
    const char *p = data;
    while (n > 0) {
        ssize_t k = pwrite(f->fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return failed(f, err);
        p += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    return TY_OK;
}

ty_status ty_outfile_write(ty_outfile *f, const void *data, size_t n, ty_err *err) {
    ty_status st = ty_outfile_patch(f, f->size, data, n, err);
    if (st == TY_OK) f->size += n;
    return st;
}

ty_status ty_outfile_pad(ty_outfile *f, size_t n, ty_err *err) {
    static const char zeros[256];
    ty_status st = TY_OK;
    while (n > 0 && st == TY_OK) {
        size_t k = n < sizeof(zeros) ? n : sizeof(zeros);
        st = ty_outfile_write(f, zeros, k, err);
        n -= k;
    }
    return st;
}

ty_status ty_outfile_check_space(const char *dir, uint64_t need, ty_err *err) {
    struct statvfs vfs;
    if (statvfs(dir, &vfs) != 0) return ty_fail(err, TY_EIO, "%s: %s", dir, strerror(errno));
    uint64_t have = (uint64_t)vfs.f_bavail * vfs.f_frsize;
    if (need <= have) return TY_OK;
    return ty_fail(err, TY_EIO,
                   "%s: needs %.1f MiB of disk, %.1f MiB are free: %.1f MiB are missing; free some "
                   "space or write elsewhere",
                   dir, (double)need / 1048576, (double)have / 1048576,
                   (double)(need - have) / 1048576);
}

/* The rename is on disk only when the folder is. */
static void sync_folder(const char *path) {
    char dir[4096];
    const char *slash = strrchr(path, '/');
    if (slash)
        snprintf(dir, sizeof(dir), "%.*s", slash == path ? 1 : (int)(slash - path), path);
    else
        snprintf(dir, sizeof(dir), ".");
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    (void)fsync(fd); /* some file systems refuse it for a folder; the file itself is safe */
    close(fd);
}

ty_status ty_outfile_commit(ty_outfile *f, ty_err *err) {
    if (fsync(f->fd) != 0) return failed(f, err);
    int fd = f->fd;
    f->fd = -1;
    if (close(fd) != 0 || rename(f->tmp, f->path) != 0) {
        ty_status st = failed(f, err);
        unlink(f->tmp);
        return st;
    }
    sync_folder(f->path);
    return TY_OK;
}

void ty_outfile_abandon(ty_outfile *f) {
    if (f->fd < 0) return;
    close(f->fd);
    unlink(f->tmp);
    f->fd = -1;
}
