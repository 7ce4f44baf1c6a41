/*
 * outdir.h - a pipeline directory that appears, or replaces the one before it, only when whole.
 *
 * Files are made in "<out>.tmp.<pid>" beside it; commit exchanges the two in one step.  A directory
 * that holds something and is no pipeline is never replaced; other files that lay in a replaced
 * pipeline's directory are kept.
 */
#ifndef TY_OUTDIR_H
#define TY_OUTDIR_H

#include "common/base/err.h"

#include <stddef.h>

typedef struct {
    char path[4096]; /* where it will stand */
    char tmp[4096];  /* where it is made; "" when there is nothing to abandon */
} outdir;

/* Fails: TY_EEXIST (not empty and no pipeline), TY_EIO, TY_EINVAL. */
ty_status outdir_begin(outdir *d, const char *path, ty_err *err);
/* "<tmp>/<name>" into out. */
ty_status outdir_file(const outdir *d, const char *name, char *out, size_t size, ty_err *err);
ty_status outdir_commit(outdir *d, ty_err *err);
/* Removes what was not committed; safe after a commit. */
void outdir_abandon(outdir *d);

#endif
