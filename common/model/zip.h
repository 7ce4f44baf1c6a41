/*
 * zip.h - the directory of a zip file whose entries are stored, not compressed (as PyTorch writes
 * them), so that an entry is a range of the mapped file.
 *
 * zip64 is read.  Every offset and size is checked against the file; a compressed or encrypted entry
 * is TY_EUNSUPPORTED, so there is nothing that could grow on reading.
 */
#ifndef TY_MODEL_ZIP_H
#define TY_MODEL_ZIP_H

#include "common/base/arena.h"
#include "common/base/err.h"

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *name; /* in the arena */
    const uint8_t *data;
    uint64_t size;
} ty_zip_entry;

typedef struct {
    ty_zip_entry *entry; /* sorted by name */
    size_t n;
} ty_zip;

/* data/size: the whole file.  The entries live as long as both data and arena.  path is for messages.
 * Fails: TY_EFORMAT, TY_EUNSUPPORTED, TY_ENOMEM. */
ty_status ty_zip_read(ty_zip *z, const uint8_t *data, size_t size, const char *path,
                      ty_arena *arena, ty_err *err);
/* NULL when there is none of this name. */
const ty_zip_entry *ty_zip_find(const ty_zip *z, const char *name);

#endif
