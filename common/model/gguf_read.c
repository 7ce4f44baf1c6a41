/*
 * gguf_read.c - the GGUF reader, see gguf.h.
 *
 * One pass over the header with a cursor that knows where the file ends.  Nothing is allocated for
 * a count before the bytes that many items need at least are known to be there, so that a hostile
 * count cannot ask for more memory than a small multiple of the file's size.
 */
#include "common/base/arena.h"
#include "common/base/file.h"
#include "common/model/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Types of metadata values, as the specification numbers them. */
enum {
    KV_U8,
    KV_I8,
    KV_U16,
    KV_I16,
    KV_U32,
    KV_I32,
    KV_F32,
    KV_BOOL,
    KV_STR,
    KV_ARRAY,
    KV_U64,
    KV_I64,
    KV_F64,
    KV_TYPES
};
static const int kv_bytes[KV_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

enum { MAX_NAME = 1024, MIN_KV_BYTES = 8 + 1 + 4 + 1, MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8 };

typedef struct {
    const char *key;
    uint32_t type; /* KV_*; of an array: of its elements */
    bool array;
    uint64_t count;       /* elements of an array, bytes of a string */
    const uint8_t *value; /* first byte: of the scalar, the string's text, the first element */
    const uint8_t **item; /* array of strings: where each one's length stands */
} kv_pair;

typedef struct {
    const char *name;
    ty_tensor t;
    uint64_t offset;
} tensor_info;

struct ty_gguf {
    ty_file_map map;
    char *path;
    ty_arena *arena;
    int n_kv, n_tensor;
    kv_pair *kv;          /* sorted by key */
    const char **kv_key;  /* keys in the file's order */
    tensor_info *tensor;  /* in the file's order */
    tensor_info **sorted; /* by name */
    size_t header_bytes;  /* where tensor data begin */
};

typedef struct {
    ty_gguf *g;
    const uint8_t *at, *end;
    ty_err *err;
} cursor;

static ty_status cut(cursor *c, const char *what) {
    return ty_fail(c->err, TY_EFORMAT,
                   "%s: the file ends inside %s (%zu bytes): cut off or damaged", c->g->path, what,
                   c->g->map.size);
}

static size_t left(const cursor *c) {
    return (size_t)(c->end - c->at);
}

static ty_status read_bytes(cursor *c, void *dst, size_t n, const char *what) {
    if (left(c) < n) return cut(c, what);
    memcpy(dst, c->at, n);
    c->at += n;
    return TY_OK;
}

/* A string's length and text; the text is not copied. */
static ty_status read_str(cursor *c, const uint8_t **text, uint64_t *len, const char *what) {
    ty_status st = read_bytes(c, len, sizeof(*len), what);
    if (st != TY_OK) return st;
    if (*len > left(c)) return cut(c, what);
    *text = c->at;
    c->at += *len;
    return TY_OK;
}

/* A key or a tensor's name, NUL-terminated in the arena. */
static ty_status read_name(cursor *c, const char **name, const char *what) {
    const uint8_t *text = NULL;
    uint64_t len = 0;
    ty_status st = read_str(c, &text, &len, what);
    if (st != TY_OK) return st;
    if (len == 0 || len > MAX_NAME || memchr(text, 0, len))
        return ty_fail(c->err, TY_EFORMAT,
                       "%s: a name of %llu bytes in %s, want 1 to %d without NUL", c->g->path,
                       (unsigned long long)len, what, MAX_NAME);
    char *copy = ty_arena_alloc(c->g->arena, len + 1);
    if (!copy) return ty_fail(c->err, TY_ENOMEM, "%s: no memory for the header", c->g->path);
    memcpy(copy, text, len);
    copy[len] = '\0';
    *name = copy;
    return TY_OK;
}

static ty_status skip(cursor *c, uint64_t n, const char *what) {
    if (n > left(c)) return cut(c, what);
    c->at += n;
    return TY_OK;
}

static ty_status read_strings(cursor *c, kv_pair *p) {
    if (p->count > left(c) / sizeof(uint64_t)) return cut(c, p->key);
    p->item = ty_arena_array(c->g->arena, p->count, sizeof(*p->item));
    if (!p->item) return ty_fail(c->err, TY_ENOMEM, "%s: no memory for %s", c->g->path, p->key);
    for (uint64_t i = 0; i < p->count; i++) {
        const uint8_t *text = NULL;
        uint64_t len = 0;
        p->item[i] = c->at;
        ty_status st = read_str(c, &text, &len, p->key);
        if (st != TY_OK) return st;
    }
    return TY_OK;
}

static ty_status read_array(cursor *c, kv_pair *p) {
    ty_status st = read_bytes(c, &p->type, sizeof(p->type), p->key);
    if (st == TY_OK) st = read_bytes(c, &p->count, sizeof(p->count), p->key);
    if (st != TY_OK) return st;
    if (p->type == KV_ARRAY)
        return ty_fail(c->err, TY_EUNSUPPORTED, "%s: %s is an array of arrays", c->g->path, p->key);
    if (p->type >= KV_TYPES)
        return ty_fail(c->err, TY_EFORMAT, "%s: %s is an array of type %u, which is none",
                       c->g->path, p->key, p->type);
    p->array = true;
    p->value = c->at;
    if (p->type == KV_STR) return read_strings(c, p);
    if (p->count > left(c) / (size_t)kv_bytes[p->type]) return cut(c, p->key);
    return skip(c, p->count * (uint64_t)kv_bytes[p->type], p->key);
}

static ty_status read_kv(cursor *c, kv_pair *p) {
    ty_status st = read_name(c, &p->key, "the metadata");
    if (st == TY_OK) st = read_bytes(c, &p->type, sizeof(p->type), p->key);
    if (st != TY_OK) return st;
    if (p->type >= KV_TYPES)
        return ty_fail(c->err, TY_EFORMAT, "%s: %s has type %u, which is none", c->g->path, p->key,
                       p->type);
    if (p->type == KV_ARRAY) return read_array(c, p);
    if (p->type == KV_STR) return read_str(c, &p->value, &p->count, p->key);
    p->value = c->at;
    p->count = 1;
    st = skip(c, (uint64_t)kv_bytes[p->type], p->key);
    if (st == TY_OK && p->type == KV_BOOL && *p->value > 1)
        return ty_fail(c->err, TY_EFORMAT, "%s: %s is a bool of value %u", c->g->path, p->key,
                       *p->value);
    return st;
}

static int by_key(const void *a, const void *b) {
    return strcmp(((const kv_pair *)a)->key, ((const kv_pair *)b)->key);
}

static ty_status read_metadata(cursor *c, uint64_t n) {
    ty_gguf *g = c->g;
    if (n > left(c) / MIN_KV_BYTES) return cut(c, "the metadata");
    g->kv = ty_arena_array(g->arena, n, sizeof(*g->kv));
    g->kv_key = ty_arena_array(g->arena, n, sizeof(*g->kv_key));
    if (!g->kv || !g->kv_key)
        return ty_fail(c->err, TY_ENOMEM, "%s: no memory for the metadata", g->path);
    for (uint64_t i = 0; i < n; i++) {
        g->kv[i] = (kv_pair){0};
        ty_status st = read_kv(c, &g->kv[i]);
        if (st != TY_OK) return st;
        g->kv_key[i] = g->kv[i].key;
    }
    g->n_kv = (int)n;
    if (n) qsort(g->kv, n, sizeof(*g->kv), by_key);
    for (uint64_t i = 1; i < n; i++)
        if (strcmp(g->kv[i - 1].key, g->kv[i].key) == 0)
            return ty_fail(c->err, TY_EFORMAT, "%s: the key %s is there twice", g->path,
                           g->kv[i].key);
    return TY_OK;
}

/* The names of ggml types that Tyto does not compute with, for the message alone. */
static const char *foreign_type(uint32_t t) {
    static const char *const names[] = {
        [9] = "q8_1",   [15] = "q8_k",   [16] = "iq2_xxs", [17] = "iq2_xs", [18] = "iq3_xxs",
        [19] = "iq1_s", [20] = "iq4_nl", [21] = "iq3_s",   [22] = "iq2_s",  [23] = "iq4_xs",
        [29] = "iq1_m", [34] = "tq1_0",  [35] = "tq2_0",   [39] = "mxfp4"};
    return t < sizeof(names) / sizeof(*names) && names[t] ? names[t] : "unknown";
}

static ty_status check_type(cursor *c, const tensor_info *ti, uint32_t type) {
    if (type < 100 && ty_dtype_get((int)type)) return TY_OK;
    return ty_fail(c->err, TY_EUNSUPPORTED,
                   "%s: tensor %s is stored as ggml type %u (%s); Tyto reads f32, f16, bf16, q8_0, "
                   "q4_0, q4_1, q5_0, q5_1 and q2_k to q6_k: make the file anew with llama.cpp's "
                   "llama-quantize in one of these",
                   c->g->path, ti->name, type, foreign_type(type));
}

/* Shape (the file holds it innermost first), element count and size in bytes. */
static ty_status read_shape(cursor *c, tensor_info *ti, uint64_t *n_elem) {
    uint32_t n_dim = 0;
    ty_status st = read_bytes(c, &n_dim, sizeof(n_dim), ti->name);
    if (st != TY_OK) return st;
    if (n_dim < 1 || n_dim > TY_MAX_DIMS)
        return ty_fail(c->err, TY_EFORMAT, "%s: tensor %s has %u dimensions, want 1 to %d",
                       c->g->path, ti->name, n_dim, TY_MAX_DIMS);
    ti->t.n_dim = (int)n_dim;
    *n_elem = 1;
    for (int i = (int)n_dim - 1; i >= 0; i--) {
        uint64_t d = 0;
        st = read_bytes(c, &d, sizeof(d), ti->name);
        if (st != TY_OK) return st;
        if (d == 0 || d > INT64_MAX / 16 / *n_elem)
            return ty_fail(c->err, TY_EFORMAT, "%s: tensor %s has a dimension of %llu", c->g->path,
                           ti->name, (unsigned long long)d);
        ti->t.shape[i] = (int64_t)d;
        *n_elem *= d;
    }
    return TY_OK;
}

static ty_status read_tensor(cursor *c, tensor_info *ti) {
    uint64_t n = 0;
    uint32_t type = 0;
    ty_status st = read_name(c, &ti->name, "the list of tensors");
    if (st == TY_OK) st = read_shape(c, ti, &n);
    if (st == TY_OK) st = read_bytes(c, &type, sizeof(type), ti->name);
    if (st == TY_OK) st = read_bytes(c, &ti->offset, sizeof(ti->offset), ti->name);
    if (st == TY_OK) st = check_type(c, ti, type);
    if (st != TY_OK) return st;
    ti->t.dtype = (ty_dtype)type;
    int64_t cols = ti->t.shape[ti->t.n_dim - 1];
    int block = ty_dtype_get((int)type)->block;
    if (cols % block != 0)
        return ty_fail(c->err, TY_EFORMAT,
                       "%s: tensor %s is %s with rows of %lld, want a multiple of %d", c->g->path,
                       ti->name, ty_dtype_name((int)type), (long long)cols, block);
    ti->t.size_bytes = ty_dtype_bytes(ti->t.dtype, n);
    return TY_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(tensor_info *const *)a)->name, (*(tensor_info *const *)b)->name);
}

static int by_offset(const void *a, const void *b) {
    uint64_t x = (*(tensor_info *const *)a)->offset, y = (*(tensor_info *const *)b)->offset;
    return x < y ? -1 : x > y;
}

/* Every tensor inside the data, aligned, none over another. */
static ty_status place_tensors(cursor *c, uint64_t alignment) {
    ty_gguf *g = c->g;
    const uint8_t *data = g->map.data + g->header_bytes;
    uint64_t size = g->map.size - g->header_bytes, end = 0;
    qsort(g->sorted, (size_t)g->n_tensor, sizeof(*g->sorted), by_offset);
    for (int i = 0; i < g->n_tensor; i++) {
        tensor_info *ti = g->sorted[i];
        if (ti->offset % alignment != 0)
            return ty_fail(c->err, TY_EFORMAT,
                           "%s: tensor %s begins at %llu, not a multiple of %llu", g->path,
                           ti->name, (unsigned long long)ti->offset, (unsigned long long)alignment);
        if (ti->offset > size || ti->t.size_bytes > size - ti->offset)
            return ty_fail(
                c->err, TY_EFORMAT,
                "%s: tensor %s ends behind the file's end (%zu bytes): cut off or damaged", g->path,
                ti->name, g->map.size);
        if (ti->offset < end)
            return ty_fail(c->err, TY_EFORMAT, "%s: tensor %s lies over the one before it", g->path,
                           ti->name);
        end = ti->offset + ti->t.size_bytes;
        ti->t.data = data + ti->offset;
    }
    return TY_OK;
}

static ty_status sort_names(cursor *c) {
    ty_gguf *g = c->g;
    qsort(g->sorted, (size_t)g->n_tensor, sizeof(*g->sorted), by_name);
    for (int i = 1; i < g->n_tensor; i++)
        if (strcmp(g->sorted[i - 1]->name, g->sorted[i]->name) == 0)
            return ty_fail(c->err, TY_EFORMAT, "%s: the tensor %s is there twice", g->path,
                           g->sorted[i]->name);
    return TY_OK;
}

static ty_status data_start(cursor *c, uint64_t *alignment) {
    ty_gguf *g = c->g;
    *alignment = 32;
    if (ty_gguf_has(g, "general.alignment")) {
        int64_t a;
        ty_status st = ty_gguf_get_int(g, "general.alignment", &a, c->err);
        if (st != TY_OK) return st;
        if (a < 8 || a > 1 << 20 || (a & (a - 1)))
            return ty_fail(c->err, TY_EFORMAT, "%s: general.alignment is %lld, want a power of two",
                           g->path, (long long)a);
        *alignment = (uint64_t)a;
    }
    uint64_t at = (uint64_t)(c->at - g->map.data);
    at = (at + *alignment - 1) / *alignment * *alignment;
    /* A file without tensors may end right behind its metadata. */
    if (at > g->map.size && g->n_tensor == 0) at = g->map.size;
    if (at > g->map.size) return cut(c, "the padding before the tensors");
    g->header_bytes = (size_t)at;
    return TY_OK;
}

static ty_status read_tensors(cursor *c, uint64_t n) {
    ty_gguf *g = c->g;
    if (n > left(c) / MIN_TENSOR_BYTES) return cut(c, "the list of tensors");
    g->tensor = ty_arena_array(g->arena, n, sizeof(*g->tensor));
    g->sorted = ty_arena_array(g->arena, n, sizeof(*g->sorted));
    if (!g->tensor || !g->sorted)
        return ty_fail(c->err, TY_ENOMEM, "%s: no memory for the list of tensors", g->path);
    for (uint64_t i = 0; i < n; i++) {
        g->tensor[i] = (tensor_info){0};
        g->sorted[i] = &g->tensor[i];
        ty_status st = read_tensor(c, &g->tensor[i]);
        if (st != TY_OK) return st;
    }
    g->n_tensor = (int)n;
    uint64_t alignment = 0;
    ty_status st = data_start(c, &alignment);
    if (st == TY_OK) st = place_tensors(c, alignment);
    if (st == TY_OK) st = sort_names(c);
    return st;
}

static ty_status check_version(cursor *c) {
    uint32_t version = 0;
    char magic[4];
    ty_status st = read_bytes(c, magic, sizeof(magic), "the magic number");
    if (st != TY_OK) return st;
    if (memcmp(magic, "GGUF", 4) != 0)
        return ty_fail(c->err, TY_EFORMAT, "%s: not a GGUF file (no GGUF at its beginning)",
                       c->g->path);
    st = read_bytes(c, &version, sizeof(version), "the header");
    if (st != TY_OK) return st;
    if (version == 2 || version == 3) return TY_OK;
    if (version && (version & 0xffff) == 0)
        return ty_fail(c->err, TY_EUNSUPPORTED, "%s: a big-endian GGUF file", c->g->path);
    return ty_fail(c->err, TY_EUNSUPPORTED, "%s: GGUF version %u, want 2 or 3", c->g->path,
                   version);
}

static ty_status read_file(ty_gguf *g, ty_err *err) {
    cursor c = {g, g->map.data, g->map.data + g->map.size, err};
    uint64_t n_tensor = 0, n_kv = 0;
    if (!g->map.data) return ty_fail(err, TY_EFORMAT, "%s: the file is empty", g->path);
    ty_status st = check_version(&c);
    if (st == TY_OK) st = read_bytes(&c, &n_tensor, sizeof(n_tensor), "the header");
    if (st == TY_OK) st = read_bytes(&c, &n_kv, sizeof(n_kv), "the header");
    if (st != TY_OK) return st;
    if (n_tensor > INT32_MAX || n_kv > INT32_MAX)
        return ty_fail(err, TY_EFORMAT, "%s: claims %llu tensors and %llu keys", g->path,
                       (unsigned long long)n_tensor, (unsigned long long)n_kv);
    st = read_metadata(&c, n_kv);
    return st == TY_OK ? read_tensors(&c, n_tensor) : st;
}

ty_status ty_gguf_open(ty_gguf **out, const char *path, ty_err *err) {
    *out = NULL;
    ty_gguf *g = calloc(1, sizeof(*g));
    if (!g) return ty_fail(err, TY_ENOMEM, "%s: no memory", path);
    ty_status st = TY_OK;
    g->path = strdup(path);
    g->arena = ty_arena_create(0);
    if (!g->path || !g->arena) {
        st = ty_fail(err, TY_ENOMEM, "%s: no memory", path);
        goto done;
    }
    st = ty_file_mmap(path, &g->map, err);
    if (st == TY_ENOTFOUND)
        st = ty_fail(err, st,
                     "%s: no such file; `tyto import CHECKPOINT DIRECTORY` makes a directory of "
                     "model files, one of each stage",
                     path);
    if (st != TY_OK) goto done;
    st = read_file(g, err);
    if (st != TY_OK) goto done;
    *out = g;
    g = NULL;
done:
    ty_gguf_close(&g);
    return st;
}

void ty_gguf_close(ty_gguf **g) {
    if (!*g) return;
    ty_file_unmap(&(*g)->map);
    ty_arena_destroy(&(*g)->arena);
    free((*g)->path);
    free(*g);
    *g = NULL;
}

const char *ty_gguf_path(const ty_gguf *g) {
    return g->path;
}

int ty_gguf_tensor_count(const ty_gguf *g) {
    return g->n_tensor;
}

const char *ty_gguf_tensor_name(const ty_gguf *g, int i) {
    return g->tensor[i].name;
}

void ty_gguf_tensor(const ty_gguf *g, int i, ty_tensor *t) {
    *t = g->tensor[i].t;
}

static int name_is(const void *name, const void *item) {
    return strcmp(name, (*(tensor_info *const *)item)->name);
}

ty_status ty_gguf_find(const ty_gguf *g, const char *name, ty_tensor *t, ty_err *err) {
    tensor_info **hit =
        g->n_tensor ? bsearch(name, g->sorted, (size_t)g->n_tensor, sizeof(*g->sorted), name_is)
                    : NULL;
    if (!hit) return ty_fail(err, TY_ENOTFOUND, "%s: has no tensor %s", g->path, name);
    *t = (*hit)->t;
    return TY_OK;
}

static bool same_shape(const ty_tensor *t, int n_dim, const int64_t *shape) {
    if (t->n_dim != n_dim) return false;
    for (int i = 0; i < n_dim; i++)
        if (shape[i] >= 0 && shape[i] != t->shape[i]) return false;
    return true;
}

ty_status ty_gguf_find_shape(const ty_gguf *g, const char *name, int n_dim, const int64_t *shape,
                             ty_tensor *t, ty_err *err) {
    ty_status st = ty_gguf_find(g, name, t, err);
    if (st != TY_OK || same_shape(t, n_dim, shape)) return st;
    char is[128], want[128];
    ty_tensor w = {.n_dim = n_dim};
    for (int i = 0; i < n_dim && i < TY_MAX_DIMS; i++) w.shape[i] = shape[i];
    return ty_fail(err, TY_ESHAPE, "%s: tensor %s is %s, want %s", g->path, name,
                   ty_tensor_shape_text(t, is, sizeof(is)),
                   ty_tensor_shape_text(&w, want, sizeof(want)));
}

/* --- metadata --- */

static int key_is(const void *key, const void *item) {
    return strcmp(key, ((const kv_pair *)item)->key);
}

static const kv_pair *find_kv(const ty_gguf *g, const char *key) {
    return g->n_kv ? bsearch(key, g->kv, (size_t)g->n_kv, sizeof(*g->kv), key_is) : NULL;
}

bool ty_gguf_has(const ty_gguf *g, const char *key) {
    return find_kv(g, key) != NULL;
}

static ty_status absent(const ty_gguf *g, const char *key, ty_err *err) {
    return ty_fail(err, TY_ENOTFOUND, "%s: has no key %s", g->path, key);
}

static ty_status not_a(const ty_gguf *g, const char *key, const char *what, ty_err *err) {
    return ty_fail(err, TY_EFORMAT, "%s: key %s is not %s", g->path, key, what);
}

/* The pair of this key, which must be a single value or an array as told. */
static ty_status get_pair(const ty_gguf *g, const char *key, bool array, const kv_pair **p,
                          ty_err *err) {
    *p = find_kv(g, key);
    if (!*p) return absent(g, key, err);
    return (*p)->array == array ? TY_OK : not_a(g, key, array ? "an array" : "a single value", err);
}

static bool load_int(uint32_t type, const uint8_t *p, int64_t *v) {
    union {
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } x;
    if (type >= KV_TYPES) return false;
    memcpy(&x, p, (size_t)kv_bytes[type]);
    switch (type) {
    case KV_U8: *v = *p; return true;
    case KV_I8: *v = x.i8; return true;
    case KV_U16: *v = x.u16; return true;
    case KV_I16: *v = x.i16; return true;
    case KV_U32: *v = x.u32; return true;
    case KV_I32: *v = x.i32; return true;
    case KV_U64: *v = (int64_t)x.u64; return x.u64 <= INT64_MAX;
    case KV_I64: *v = x.i64; return true;
    default: return false;
    }
}

static bool load_float(uint32_t type, const uint8_t *p, double *v) {
    float f;
    if (type == KV_F64) {
        memcpy(v, p, sizeof(*v));
        return true;
    }
    if (type != KV_F32) return false;
    memcpy(&f, p, sizeof(f));
    *v = (double)f;
    return true;
}

ty_status ty_gguf_get_int(const ty_gguf *g, const char *key, int64_t *v, ty_err *err) {
    const kv_pair *p;
    ty_status st = get_pair(g, key, false, &p, err);
    if (st != TY_OK) return st;
    return load_int(p->type, p->value, v) ? TY_OK : not_a(g, key, "a whole number", err);
}

ty_status ty_gguf_get_float(const ty_gguf *g, const char *key, double *v, ty_err *err) {
    const kv_pair *p;
    ty_status st = get_pair(g, key, false, &p, err);
    if (st != TY_OK) return st;
    return load_float(p->type, p->value, v) ? TY_OK : not_a(g, key, "a float", err);
}

ty_status ty_gguf_get_bool(const ty_gguf *g, const char *key, bool *v, ty_err *err) {
    const kv_pair *p;
    ty_status st = get_pair(g, key, false, &p, err);
    if (st != TY_OK) return st;
    if (p->type != KV_BOOL) return not_a(g, key, "a bool", err);
    *v = *p->value != 0;
    return TY_OK;
}

ty_status ty_gguf_get_str(const ty_gguf *g, const char *key, const char **v, size_t *len,
                          ty_err *err) {
    const kv_pair *p;
    ty_status st = get_pair(g, key, false, &p, err);
    if (st != TY_OK) return st;
    if (p->type != KV_STR) return not_a(g, key, "a string", err);
    *v = (const char *)p->value;
    *len = (size_t)p->count;
    return TY_OK;
}

ty_status ty_gguf_array_len(const ty_gguf *g, const char *key, int64_t *n, ty_err *err) {
    const kv_pair *p;
    ty_status st = get_pair(g, key, true, &p, err);
    if (st == TY_OK) *n = (int64_t)p->count;
    return st;
}

/* Element i of an array. */
static ty_status get_item(const ty_gguf *g, const char *key, int64_t i, const kv_pair **p,
                          ty_err *err) {
    ty_status st = get_pair(g, key, true, p, err);
    if (st != TY_OK) return st;
    if (i >= 0 && (uint64_t)i < (*p)->count) return TY_OK;
    return ty_fail(err, TY_ENOTFOUND, "%s: key %s has %llu elements, wanted number %lld", g->path,
                   key, (unsigned long long)(*p)->count, (long long)i);
}

ty_status ty_gguf_array_int(const ty_gguf *g, const char *key, int64_t i, int64_t *v, ty_err *err) {
    const kv_pair *p;
    ty_status st = get_item(g, key, i, &p, err);
    if (st != TY_OK) return st;
    const uint8_t *at = p->value + i * kv_bytes[p->type];
    return load_int(p->type, at, v) ? TY_OK : not_a(g, key, "an array of whole numbers", err);
}

ty_status ty_gguf_array_float(const ty_gguf *g, const char *key, int64_t i, double *v,
                              ty_err *err) {
    const kv_pair *p;
    ty_status st = get_item(g, key, i, &p, err);
    if (st != TY_OK) return st;
    const uint8_t *at = p->value + i * kv_bytes[p->type];
    return load_float(p->type, at, v) ? TY_OK : not_a(g, key, "an array of floats", err);
}

ty_status ty_gguf_array_str(const ty_gguf *g, const char *key, int64_t i, const char **v,
                            size_t *len, ty_err *err) {
    const kv_pair *p;
    ty_status st = get_item(g, key, i, &p, err);
    if (st != TY_OK) return st;
    if (p->type != KV_STR) return not_a(g, key, "an array of strings", err);
    uint64_t n = 0;
    memcpy(&n, p->item[i], sizeof(n));
    *v = (const char *)p->item[i] + sizeof(n);
    *len = (size_t)n;
    return TY_OK;
}

int ty_gguf_kv_count(const ty_gguf *g) {
    return g->n_kv;
}

const char *ty_gguf_kv_key(const ty_gguf *g, int i) {
    return g->kv_key[i];
}

void ty_gguf_identity(const ty_gguf *g, char out[TY_MODEL_ID_SIZE]) {
    size_t n = ty_gguf_has(g, "tyto.content_hash") ? g->header_bytes : g->map.size;
    XXH128_hash_t h = XXH3_128bits(g->map.data, n);
    snprintf(out, TY_MODEL_ID_SIZE, "%016llx%016llx", (unsigned long long)h.high64,
             (unsigned long long)h.low64);
}
