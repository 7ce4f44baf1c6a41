/* file.h - whole files: read with a limit, map, write atomically. */
#ifndef TY_BASE_FILE_H
#define TY_BASE_FILE_H

#include "common/base/err.h"

#include <stddef.h>
#include <stdint.h>

/* Reads a regular file (or "-" for stdin) of at most max_bytes into *data (free() it; a NUL stands
 * behind the last byte, not counted).  Fails: TY_ENOTFOUND, TY_EIO, TY_ELIMIT, TY_ENOMEM. */
ty_status ty_file_read(const char *path, size_t max_bytes, char **data, size_t *size, ty_err *err);

typedef struct {
    const uint8_t *data; /* NULL for an empty file */
    size_t size;
} ty_file_map;

/* Maps a file read-only.  Unmap with ty_file_unmap (safe on a zeroed map). */
ty_status ty_file_mmap(const char *path, ty_file_map *map, ty_err *err);
void ty_file_unmap(ty_file_map *map);
/* The bytes of a map are not needed for now: their pages are given back, whole ones only, for the neighbours share the
 * others.  Reading them again reads the file again. */
void ty_file_release(const void *bytes, size_t size);

/* Writes data to `path` so that a reader sees the old file or the whole new one, never a part: a
 * temporary file beside it, fsync, rename.  Fails: TY_EIO. */
ty_status ty_file_write_atomic(const char *path, const void *data, size_t size, ty_err *err);

#endif
