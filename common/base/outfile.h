/*
 * outfile.h - a file that is written piece by piece and appears under its name only when whole.
 *
 *     ty_outfile f;
 *     ty_outfile_open(&f, "vit.gguf", err);   // opens vit.gguf.tmp.<pid>
 *     ty_outfile_write(&f, data, n, err);     // any number of times
 *     ty_outfile_commit(&f, err);             // fsync, rename
 *     ty_outfile_abandon(&f);                 // always: removes what was not committed
 */
#ifndef TY_BASE_OUTFILE_H
#define TY_BASE_OUTFILE_H

#include "common/base/err.h"

#include <stddef.h>
#include <stdint.h>

typedef struct {
    int fd; /* -1: nothing to abandon */
    char path[4096];
    char tmp[4096];
    uint64_t size; /* bytes written so far */
} ty_outfile;

/* Fails: TY_EINVAL (path too long), TY_ENOTFOUND (no such folder), TY_EIO. */
ty_status ty_outfile_open(ty_outfile *f, const char *path, ty_err *err);
ty_status ty_outfile_write(ty_outfile *f, const void *data, size_t n, ty_err *err);
/* n zero bytes. */
ty_status ty_outfile_pad(ty_outfile *f, size_t n, ty_err *err);
/* Overwrites n bytes that were written already. */
ty_status ty_outfile_patch(ty_outfile *f, uint64_t at, const void *data, size_t n, ty_err *err);
/* TY_EIO when the file system has less than `need` bytes left: names what is missing. */
ty_status ty_outfile_check_space(const char *dir, uint64_t need, ty_err *err);
ty_status ty_outfile_commit(ty_outfile *f, ty_err *err);
/* Safe on a committed file and on {.fd = -1}. */
void ty_outfile_abandon(ty_outfile *f);

#endif
