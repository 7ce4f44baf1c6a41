/* zip.c - see zip.h.  Format: PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.3. */
#include "common/model/zip.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    SIG_LOCAL = 0x04034b50,
    SIG_CENTRAL = 0x02014b50,
    SIG_END = 0x06054b50,
    SIG_END64 = 0x06064b50,
    SIG_LOCATOR64 = 0x07064b50,
    LOCAL_BYTES = 30,
    CENTRAL_BYTES = 46,
    END_BYTES = 22,
    END64_BYTES = 56,
    LOCATOR64_BYTES = 20,
    MAX_COMMENT = 65535,
};

typedef struct {
    const uint8_t *data;
    size_t size;
    const char *path;
    ty_arena *arena;
    ty_err *err;
} archive;

static uint16_t u16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t u64(const uint8_t *p) {
    return (uint64_t)u32(p) | (uint64_t)u32(p + 4) << 32;
}

static ty_status bad(const archive *a, const char *what) {
    return ty_fail(a->err, TY_EFORMAT, "%s: %s: cut off or damaged", a->path, what);
}

/* Is [at, at + n) inside the file? */
static bool inside(const archive *a, uint64_t at, uint64_t n) {
    return at <= a->size && n <= a->size - at;
}

/* The end record stands at the end, behind it at most a comment. */
static const uint8_t *find_end(const archive *a) {
    if (a->size < END_BYTES) return NULL;
    size_t first = a->size > END_BYTES + MAX_COMMENT ? a->size - END_BYTES - MAX_COMMENT : 0;
    for (size_t at = a->size - END_BYTES + 1; at-- > first;)
        if (u32(a->data + at) == SIG_END && u16(a->data + at + 20) == a->size - at - END_BYTES)
            return a->data + at;
    return NULL;
}

/* Where the central directory begins, its size and count; from the zip64 records where there are any. */
static ty_status find_directory(const archive *a, uint64_t *at, uint64_t *bytes, uint64_t *n) {
    const uint8_t *end = find_end(a);
    if (!end) return bad(a, "no zip directory at the end of the file");
    *n = u16(end + 10);
    *bytes = u32(end + 12);
    *at = u32(end + 16);
    size_t end_at = (size_t)(end - a->data);
    if (end_at < LOCATOR64_BYTES || u32(end - LOCATOR64_BYTES) != SIG_LOCATOR64) return TY_OK;
    uint64_t at64 = u64(end - LOCATOR64_BYTES + 8);
    if (!inside(a, at64, END64_BYTES) || u32(a->data + at64) != SIG_END64)
        return bad(a, "the zip64 directory is not where the file says");
    *n = u64(a->data + at64 + 32);
    *bytes = u64(a->data + at64 + 40);
    *at = u64(a->data + at64 + 48);
    return TY_OK;
}

typedef struct {
    uint64_t packed, size, local;
} extent;

/* Fields that are all ones stand in the zip64 extra field, in this order. */
static bool read_extra64(const uint8_t *extra, size_t n, extent *x) {
    while (n >= 4) {
        size_t len = u16(extra + 2);
        if (len > n - 4) return false;
        if (u16(extra) == 1) {
            const uint8_t *p = extra + 4, *end = p + len;
            uint64_t *field[] = {&x->size, &x->packed, &x->local};
            for (int i = 0; i < 3; i++) {
                if (*field[i] != UINT32_MAX) continue;
                if (end - p < 8) return false;
                *field[i] = u64(p);
                p += 8;
            }
            return true;
        }
        extra += 4 + len;
        n -= 4 + len;
    }
    return true;
}

/* The data stand behind the local header, whose name and extra field have their own lengths. */
static ty_status locate(const archive *a, const extent *x, ty_zip_entry *e) {
    if (!inside(a, x->local, LOCAL_BYTES) || u32(a->data + x->local) != SIG_LOCAL)
        return bad(a, "a zip entry is not where the directory says");
    const uint8_t *local = a->data + x->local;
    uint64_t at = x->local + LOCAL_BYTES + u16(local + 26) + u16(local + 28);
    if (!inside(a, at, x->size)) return bad(a, "a zip entry ends behind the file's end");
    e->data = a->data + at;
    e->size = x->size;
    return TY_OK;
}

static ty_status copy_name(const archive *a, const uint8_t *text, size_t n, ty_zip_entry *e) {
    char *name = ty_arena_alloc(a->arena, n + 1);
    if (!name) return ty_fail(a->err, TY_ENOMEM, "%s: no memory for the directory", a->path);
    if (memchr(text, 0, n)) return bad(a, "a zip entry's name holds a NUL");
    memcpy(name, text, n);
    name[n] = '\0';
    e->name = name;
    return TY_OK;
}

/* One record of the central directory at p; *used: its length. */
static ty_status read_record(const archive *a, const uint8_t *p, uint64_t left, ty_zip_entry *e,
                             uint64_t *used) {
    if (left < CENTRAL_BYTES || u32(p) != SIG_CENTRAL) return bad(a, "the zip directory");
    size_t n_name = u16(p + 28), n_extra = u16(p + 30), n_comment = u16(p + 32);
    *used = CENTRAL_BYTES + n_name + n_extra + n_comment;
    if (left < *used) return bad(a, "the zip directory");
    ty_status st = copy_name(a, p + CENTRAL_BYTES, n_name, e);
    if (st != TY_OK) return st;
    if (u16(p + 8) & 1)
        return ty_fail(a->err, TY_EUNSUPPORTED, "%s: %s is encrypted", a->path, e->name);
    extent x = {u32(p + 20), u32(p + 24), u32(p + 42)};
    if (!read_extra64(p + CENTRAL_BYTES + n_name, n_extra, &x)) return bad(a, "the zip directory");
    if (u16(p + 10) != 0 || x.packed != x.size)
        return ty_fail(
            a->err, TY_EUNSUPPORTED,
            "%s: %s is compressed; PyTorch stores: unpack the file and zip it with -0, or "
            "save it again",
            a->path, e->name);
    return locate(a, &x, e);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const ty_zip_entry *)a)->name, ((const ty_zip_entry *)b)->name);
}

ty_status ty_zip_read(ty_zip *z, const uint8_t *data, size_t size, const char *path,
                      ty_arena *arena, ty_err *err) {
    archive a = {data, size, path, arena, err};
    uint64_t at = 0, bytes = 0, n = 0;
    *z = (ty_zip){0};
    ty_status st = find_directory(&a, &at, &bytes, &n);
    if (st != TY_OK) return st;
    if (!inside(&a, at, bytes) || n > bytes / CENTRAL_BYTES) return bad(&a, "the zip directory");
    z->entry = ty_arena_array(arena, n, sizeof(*z->entry));
    if (!z->entry) return ty_fail(err, TY_ENOMEM, "%s: no memory for the directory", path);
    for (; z->n < n; z->n++) {
        uint64_t used = 0;
        st = read_record(&a, data + at, bytes, &z->entry[z->n], &used);
        if (st != TY_OK) return st;
        at += used;
        bytes -= used;
    }
    qsort(z->entry, z->n, sizeof(*z->entry), by_name);
    for (size_t i = 1; i < z->n; i++)
        if (strcmp(z->entry[i - 1].name, z->entry[i].name) == 0)
            return ty_fail(err, TY_EFORMAT, "%s: the entry %s is there twice", path,
                           z->entry[i].name);
    return TY_OK;
}

static int name_is(const void *name, const void *entry) {
    return strcmp(name, ((const ty_zip_entry *)entry)->name);
}

const ty_zip_entry *ty_zip_find(const ty_zip *z, const char *name) {
    return z->n ? bsearch(name, z->entry, z->n, sizeof(*z->entry), name_is) : NULL;
}
