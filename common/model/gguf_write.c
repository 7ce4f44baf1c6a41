/*
 * gguf_write.c - the GGUF writer, see gguf.h.
 *
 * The header is built in memory while keys are set and tensors declared, and written before the
 * first tensor; the content hash in it is filled in at the end, when it is known.
 */
#include "common/base/buf.h"
#include "common/base/outfile.h"
#include "common/model/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { KV_U32 = 4, KV_I32 = 5, KV_F32 = 6, KV_BOOL = 7, KV_STR = 8, KV_ARRAY = 9 };
enum { ALIGNMENT = 32, HASH_CHARS = 32, MAX_DIMS = 4, HEADER_MAX = 1 << 30 };
#define HASH_KEY "tyto.content_hash"

typedef struct {
    char *name;
    size_t size_bytes;
    uint64_t offset;
} declared;

struct ty_gguf_writer {
    ty_outfile file;
    ty_buf kv, infos; /* the two halves of the header behind the counts */
    uint64_t n_kv;
    char **key; /* those set so far: none may come twice */
    declared *tensor;
    int n_tensor, cap_tensor, n_written;
    size_t hash_at; /* of the hash's digits in kv */
    uint64_t data_bytes;
    bool header_done;
    XXH3_state_t *hash;
};

static uint64_t pad_to(uint64_t n) {
    return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void put(ty_buf *b, const void *p, size_t n) {
    (void)ty_buf_append(b, p,
                        n); /* `failed` remembers; looked at once, when the header is written */
}

static void put_u32(ty_buf *b, uint32_t v) {
    put(b, &v, sizeof(v));
}

static void put_u64(ty_buf *b, uint64_t v) {
    put(b, &v, sizeof(v));
}

static void put_str(ty_buf *b, const char *s, size_t n) {
    put_u64(b, n);
    put(b, s, n);
}

static ty_status no_memory(const ty_gguf_writer *w, ty_err *err) {
    return ty_fail(err, TY_ENOMEM, "%s: no memory for the header", w->file.path);
}

/* Key and type of the next pair. */
static ty_status begin_kv(ty_gguf_writer *w, const char *key, uint32_t type, ty_err *err) {
    if (w->header_done)
        return ty_fail(err, TY_EINVAL, "%s: key %s is set after the first tensor", w->file.path,
                       key);
    for (uint64_t i = 0; i < w->n_kv; i++)
        if (strcmp(w->key[i], key) == 0)
            return ty_fail(err, TY_EEXIST, "%s: key %s is set twice", w->file.path, key);
    char **more = realloc(w->key, (w->n_kv + 1) * sizeof(*more));
    if (!more) return no_memory(w, err);
    w->key = more;
    if (!(more[w->n_kv] = strdup(key))) return no_memory(w, err);
    w->n_kv++;
    put_str(&w->kv, key, strlen(key));
    put_u32(&w->kv, type);
    return TY_OK;
}

ty_status ty_gguf_set_u32(ty_gguf_writer *w, const char *key, uint32_t v, ty_err *err) {
    ty_status st = begin_kv(w, key, KV_U32, err);
    if (st == TY_OK) put_u32(&w->kv, v);
    return st;
}

ty_status ty_gguf_set_f32(ty_gguf_writer *w, const char *key, float v, ty_err *err) {
    ty_status st = begin_kv(w, key, KV_F32, err);
    if (st == TY_OK) put(&w->kv, &v, sizeof(v));
    return st;
}

ty_status ty_gguf_set_bool(ty_gguf_writer *w, const char *key, bool v, ty_err *err) {
    ty_status st = begin_kv(w, key, KV_BOOL, err);
    uint8_t byte = v ? 1 : 0;
    if (st == TY_OK) put(&w->kv, &byte, 1);
    return st;
}

ty_status ty_gguf_set_str(ty_gguf_writer *w, const char *key, const char *v, size_t len,
                          ty_err *err) {
    ty_status st = begin_kv(w, key, KV_STR, err);
    if (st == TY_OK) put_str(&w->kv, v, len);
    return st;
}

static ty_status begin_array(ty_gguf_writer *w, const char *key, uint32_t type, int64_t n,
                             ty_err *err) {
    ty_status st = begin_kv(w, key, KV_ARRAY, err);
    if (st != TY_OK) return st;
    put_u32(&w->kv, type);
    put_u64(&w->kv, (uint64_t)n);
    return TY_OK;
}

ty_status ty_gguf_set_f32s(ty_gguf_writer *w, const char *key, const float *v, int64_t n,
                           ty_err *err) {
    ty_status st = begin_array(w, key, KV_F32, n, err);
    if (st == TY_OK) put(&w->kv, v, (size_t)n * sizeof(*v));
    return st;
}

ty_status ty_gguf_set_i32s(ty_gguf_writer *w, const char *key, const int32_t *v, int64_t n,
                           ty_err *err) {
    ty_status st = begin_array(w, key, KV_I32, n, err);
    if (st == TY_OK) put(&w->kv, v, (size_t)n * sizeof(*v));
    return st;
}

ty_status ty_gguf_set_strs(ty_gguf_writer *w, const char *key, const char *const *v,
                           const size_t *len, int64_t n, ty_err *err) {
    ty_status st = begin_array(w, key, KV_STR, n, err);
    for (int64_t i = 0; st == TY_OK && i < n; i++) put_str(&w->kv, v[i], len[i]);
    return st;
}

ty_status ty_gguf_writer_create(ty_gguf_writer **out, const char *path, const char *architecture,
                                ty_err *err) {
    *out = NULL;
    ty_gguf_writer *w = calloc(1, sizeof(*w));
    if (!w) return ty_fail(err, TY_ENOMEM, "%s: no memory", path);
    w->kv = ty_buf_make(HEADER_MAX);
    w->infos = ty_buf_make(HEADER_MAX);
    ty_status st = ty_outfile_open(&w->file, path, err);
    if (st != TY_OK) goto done;
    w->hash = XXH3_createState();
    if (!w->hash || XXH3_128bits_reset(w->hash) != XXH_OK) {
        st = no_memory(w, err);
        goto done;
    }
    char blank[HASH_CHARS];
    memset(blank, '0', sizeof(blank));
    st = ty_gguf_set_str(w, "general.architecture", architecture, strlen(architecture), err);
    if (st == TY_OK) st = ty_gguf_set_u32(w, "general.alignment", ALIGNMENT, err);
    if (st == TY_OK) st = ty_gguf_set_str(w, HASH_KEY, blank, sizeof(blank), err);
    if (st != TY_OK) goto done;
    w->hash_at = w->kv.len - HASH_CHARS;
    *out = w;
    w = NULL;
done:
    ty_gguf_writer_destroy(&w);
    return st;
}

static ty_status grow_tensors(ty_gguf_writer *w, ty_err *err) {
    if (w->n_tensor < w->cap_tensor) return TY_OK;
    int cap = w->cap_tensor ? 2 * w->cap_tensor : 64;
    declared *more = realloc(w->tensor, (size_t)cap * sizeof(*more));
    if (!more) return no_memory(w, err);
    w->tensor = more;
    w->cap_tensor = cap;
    return TY_OK;
}

static ty_status check_declaration(const ty_gguf_writer *w, const char *name, ty_dtype t, int n_dim,
                                   const int64_t *shape, uint64_t *n, ty_err *err) {
    const ty_dtype_info *info = t < 100 ? ty_dtype_get((int)t) : NULL;
    if (w->header_done)
        return ty_fail(err, TY_EINVAL, "%s: tensor %s is declared after the first was written",
                       w->file.path, name);
    if (!info)
        return ty_fail(err, TY_EUNSUPPORTED, "%s: tensor %s: GGUF has no type %s", w->file.path,
                       name, ty_dtype_name((int)t));
    if (n_dim < 1 || n_dim > MAX_DIMS)
        return ty_fail(err, TY_ESHAPE, "%s: tensor %s has %d dimensions, GGUF allows 1 to %d",
                       w->file.path, name, n_dim, MAX_DIMS);
    *n = 1;
    for (int i = 0; i < n_dim; i++) {
        if (shape[i] < 1 || (uint64_t)shape[i] > INT64_MAX / 16 / *n)
            return ty_fail(err, TY_ESHAPE, "%s: tensor %s has a dimension of %lld", w->file.path,
                           name, (long long)shape[i]);
        *n *= (uint64_t)shape[i];
    }
    if (shape[n_dim - 1] % info->block != 0)
        return ty_fail(err, TY_ESHAPE, "%s: tensor %s has rows of %lld, %s wants a multiple of %d",
                       w->file.path, name, (long long)shape[n_dim - 1], info->name, info->block);
    return TY_OK;
}

ty_status ty_gguf_declare(ty_gguf_writer *w, const char *name, ty_dtype t, int n_dim,
                          const int64_t *shape, ty_err *err) {
    uint64_t n = 0;
    ty_status st = check_declaration(w, name, t, n_dim, shape, &n, err);
    if (st == TY_OK) st = grow_tensors(w, err);
    if (st != TY_OK) return st;
    declared *d = &w->tensor[w->n_tensor];
    *d = (declared){strdup(name), ty_dtype_bytes(t, n), pad_to(w->data_bytes)};
    if (!d->name) return no_memory(w, err);
    w->n_tensor++;
    w->data_bytes = d->offset + d->size_bytes;
    put_str(&w->infos, name, strlen(name));
    put_u32(&w->infos, (uint32_t)n_dim);
    for (int i = n_dim - 1; i >= 0; i--) put_u64(&w->infos, (uint64_t)shape[i]);
    put_u32(&w->infos, (uint32_t)t);
    put_u64(&w->infos, d->offset);
    return TY_OK;
}

static ty_status check_space(const ty_gguf_writer *w, uint64_t need, ty_err *err) {
    char dir[4096];
    const char *slash = strrchr(w->file.path, '/');
    int n = slash ? (int)(slash - w->file.path) + 1 : 0;
    snprintf(dir, sizeof(dir), "%.*s", slash ? n : 1, slash ? w->file.path : ".");
    return ty_outfile_check_space(dir, need, err);
}

static ty_status write_header(ty_gguf_writer *w, ty_err *err) {
    ty_buf head = ty_buf_make(64);
    w->header_done = true;
    put(&head, "GGUF", 4);
    put_u32(&head, 3);
    put_u64(&head, (uint64_t)w->n_tensor);
    put_u64(&head, w->n_kv);
    size_t bytes = head.len + w->kv.len + w->infos.len;
    ty_status st = TY_OK;
    if (head.failed != TY_OK || w->kv.failed != TY_OK || w->infos.failed != TY_OK)
        st = no_memory(w, err);
    if (st == TY_OK) st = check_space(w, bytes + w->data_bytes, err);
    if (st == TY_OK) st = ty_outfile_write(&w->file, head.data, head.len, err);
    w->hash_at += head.len;
    if (st == TY_OK) st = ty_outfile_write(&w->file, w->kv.data, w->kv.len, err);
    if (st == TY_OK && w->infos.len)
        st = ty_outfile_write(&w->file, w->infos.data, w->infos.len, err);
    if (st == TY_OK) st = ty_outfile_pad(&w->file, pad_to(bytes) - bytes, err);
    ty_buf_clear(&head);
    return st;
}

ty_status ty_gguf_write(ty_gguf_writer *w, const void *data, size_t size_bytes, ty_err *err) {
    ty_status st = TY_OK;
    if (w->n_written == w->n_tensor)
        return ty_fail(err, TY_EINVAL, "%s: more tensors written than declared", w->file.path);
    const declared *d = &w->tensor[w->n_written];
    if (size_bytes != d->size_bytes)
        return ty_fail(err, TY_EINVAL, "%s: tensor %s has %zu bytes, %zu were declared",
                       w->file.path, d->name, size_bytes, d->size_bytes);
    if (!w->header_done) st = write_header(w, err);
    if (st == TY_OK) st = ty_outfile_write(&w->file, data, size_bytes, err);
    if (st == TY_OK) st = ty_outfile_pad(&w->file, pad_to(size_bytes) - size_bytes, err);
    if (st != TY_OK) return st;
    if (XXH3_128bits_update(w->hash, data, size_bytes) != XXH_OK)
        return ty_fail(err, TY_EINTERNAL, "%s: hashing failed", w->file.path);
    w->n_written++;
    return TY_OK;
}

ty_status ty_gguf_finish(ty_gguf_writer *w, ty_err *err) {
    ty_status st = TY_OK;
    if (w->n_written < w->n_tensor)
        return ty_fail(err, TY_EINVAL, "%s: tensor %s was declared and not written", w->file.path,
                       w->tensor[w->n_written].name);
    if (!w->header_done) st = write_header(w, err);
    if (st != TY_OK) return st;
    char digits[HASH_CHARS + 1];
    XXH128_hash_t h = XXH3_128bits_digest(w->hash);
    snprintf(digits, sizeof(digits), "%016llx%016llx", (unsigned long long)h.high64,
             (unsigned long long)h.low64);
    st = ty_outfile_patch(&w->file, w->hash_at, digits, HASH_CHARS, err);
    return st == TY_OK ? ty_outfile_commit(&w->file, err) : st;
}

void ty_gguf_writer_destroy(ty_gguf_writer **p) {
    ty_gguf_writer *w = *p;
    if (!w) return;
    ty_outfile_abandon(&w->file);
    for (uint64_t i = 0; i < w->n_kv; i++) free(w->key[i]);
    for (int i = 0; i < w->n_tensor; i++) free(w->tensor[i].name);
    free(w->key);
    free(w->tensor);
    ty_buf_clear(&w->kv);
    ty_buf_clear(&w->infos);
    XXH3_freeState(w->hash);
    free(w);
    *p = NULL;
}
