/*
 * safetensors.c - see safetensors.h.
 *
 * The header is JSON and is parsed by jansson; everything in it is checked against the file before a
 * tensor is handed out.
 */
#include "common/model/safetensors.h"

#include "common/base/arena.h"
#include "common/base/file.h"
#include "common/base/outfile.h"

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The format's own limit on the header. */
enum { MAX_HEADER = 100000000 };

static const struct {
    const char *name;
    ty_dtype t;
} dtypes[] = {
    {"F32", TY_F32}, {"F16", TY_F16}, {"BF16", TY_BF16}, {"F64", TY_F64}, {"I8", TY_I8},
    {"I16", TY_I16}, {"I32", TY_I32}, {"I64", TY_I64},   {"U8", TY_U8},   {"BOOL", TY_BOOL},
};
enum { N_DTYPES = sizeof(dtypes) / sizeof(*dtypes) };

typedef struct {
    const char *name;
    ty_tensor t;
    uint64_t begin; /* in the data behind the header */
} entry;

struct ty_safetensors {
    ty_file_map map;
    char *path;
    ty_arena *arena;
    entry *item;    /* in the header's order */
    entry **sorted; /* by name */
    int n;
};

static int dtype_from(const char *name) {
    for (int i = 0; i < N_DTYPES; i++)
        if (strcmp(dtypes[i].name, name) == 0) return (int)dtypes[i].t;
    return -1;
}

static const char *dtype_to(ty_dtype t) {
    for (int i = 0; i < N_DTYPES; i++)
        if (dtypes[i].t == t) return dtypes[i].name;
    return NULL;
}

static ty_status bad(const ty_safetensors *s, const char *name, const char *what, ty_err *err) {
    return ty_fail(err, TY_EFORMAT, "%s: tensor %s: %s", s->path, name, what);
}

/* A whole number >= 0 of the header. */
static bool get_count(const json_t *j, int64_t *v) {
    if (!json_is_integer(j) || json_integer_value(j) < 0) return false;
    *v = (int64_t)json_integer_value(j);
    return true;
}

static ty_status read_shape(const ty_safetensors *s, entry *e, const json_t *shape, uint64_t *n,
                            ty_err *err) {
    if (!json_is_array(shape)) return bad(s, e->name, "shape is not an array", err);
    if (json_array_size(shape) > TY_MAX_DIMS)
        return bad(s, e->name, "has more than 8 dimensions", err);
    e->t.n_dim = (int)json_array_size(shape);
    *n = 1;
    for (int i = 0; i < e->t.n_dim; i++) {
        int64_t d;
        if (!get_count(json_array_get(shape, (size_t)i), &d))
            return bad(s, e->name, "a dimension is not a whole number", err);
        if (d > 0 && *n > INT64_MAX / 16 / (uint64_t)d)
            return bad(s, e->name, "its shape is too large", err);
        e->t.shape[i] = d;
        *n *= (uint64_t)d;
    }
    return TY_OK;
}

static ty_status read_entry(const ty_safetensors *s, entry *e, const json_t *j, uint64_t data_bytes,
                            ty_err *err) {
    const char *dtype = json_string_value(json_object_get(j, "dtype"));
    const json_t *offsets = json_object_get(j, "data_offsets");
    int64_t begin, end;
    uint64_t n = 0;
    if (!dtype) return bad(s, e->name, "has no dtype", err);
    int t = dtype_from(dtype);
    if (t < 0)
        return ty_fail(err, TY_EUNSUPPORTED,
                       "%s: tensor %s has dtype %.32s, which Tyto does not read", s->path, e->name,
                       dtype);
    e->t.dtype = (ty_dtype)t;
    ty_status st = read_shape(s, e, json_object_get(j, "shape"), &n, err);
    if (st != TY_OK) return st;
    e->t.size_bytes = ty_dtype_bytes(e->t.dtype, n);
    if (json_array_size(offsets) != 2 || !get_count(json_array_get(offsets, 0), &begin) ||
        !get_count(json_array_get(offsets, 1), &end))
        return bad(s, e->name, "data_offsets is not two whole numbers", err);
    if (begin > end || (uint64_t)end > data_bytes)
        return bad(s, e->name, "ends behind the file's end: cut off or damaged", err);
    if ((uint64_t)(end - begin) != e->t.size_bytes)
        return bad(s, e->name, "its data_offsets do not fit its shape and dtype", err);
    e->begin = (uint64_t)begin;
    return TY_OK;
}

static int by_begin(const void *a, const void *b) {
    const entry *x = *(entry *const *)a, *y = *(entry *const *)b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->t.size_bytes < y->t.size_bytes ? -1 : x->t.size_bytes > y->t.size_bytes;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(entry *const *)a)->name, (*(entry *const *)b)->name);
}

/* The tensors must fill the data exactly: none over another, no hole, nothing behind. */
static ty_status check_layout(ty_safetensors *s, const uint8_t *data, uint64_t data_bytes,
                              ty_err *err) {
    uint64_t end = 0;
    qsort(s->sorted, (size_t)s->n, sizeof(*s->sorted), by_begin);
    for (int i = 0; i < s->n; i++) {
        entry *e = s->sorted[i];
        if (e->begin < end) return bad(s, e->name, "lies over the one before it", err);
        if (e->begin > end) return bad(s, e->name, "there is a hole before it", err);
        end = e->begin + e->t.size_bytes;
        e->t.data = data + e->begin;
    }
    if (end != data_bytes)
        return ty_fail(err, TY_EFORMAT, "%s: %llu bytes behind the last tensor", s->path,
                       (unsigned long long)(data_bytes - end));
    qsort(s->sorted, (size_t)s->n, sizeof(*s->sorted), by_name);
    return TY_OK;
}

/* Old writers did not pad the header: such tensors are copied to where their type may be read. */
static ty_status align(ty_safetensors *s, ty_err *err) {
    for (int i = 0; i < s->n; i++) {
        ty_tensor *t = &s->item[i].t;
        size_t width = (size_t)ty_dtype_get((int)t->dtype)->bytes;
        if ((uintptr_t)t->data % width == 0) continue;
        void *copy = ty_arena_alloc(s->arena, t->size_bytes);
        if (!copy)
            return ty_fail(err, TY_ENOMEM, "%s: no memory for tensor %s", s->path, s->item[i].name);
        memcpy(copy, t->data, t->size_bytes);
        t->data = copy;
    }
    return TY_OK;
}

static ty_status read_entries(ty_safetensors *s, json_t *root, size_t header_bytes, ty_err *err) {
    const char *name;
    json_t *j;
    size_t n = json_object_size(root);
    const uint8_t *data = s->map.data + 8 + header_bytes;
    uint64_t data_bytes = s->map.size - 8 - header_bytes;
    s->item = ty_arena_array(s->arena, n, sizeof(*s->item));
    s->sorted = ty_arena_array(s->arena, n, sizeof(*s->sorted));
    if (!s->item || !s->sorted) return ty_fail(err, TY_ENOMEM, "%s: no memory", s->path);
    json_object_foreach(root, name, j) {
        if (strcmp(name, "__metadata__") == 0) continue;
        entry *e = &s->item[s->n];
        *e = (entry){.name = ty_arena_strdup(s->arena, name)};
        if (!e->name) return ty_fail(err, TY_ENOMEM, "%s: no memory", s->path);
        if (!json_is_object(j)) return bad(s, name, "is not an object in the header", err);
        ty_status st = read_entry(s, e, j, data_bytes, err);
        if (st != TY_OK) return st;
        s->sorted[s->n++] = e;
    }
    return check_layout(s, data, data_bytes, err);
}

static ty_status read_header(ty_safetensors *s, ty_err *err) {
    uint64_t n = 0;
    if (s->map.size < sizeof(n))
        return ty_fail(err, TY_EFORMAT, "%s: not a safetensors file: %zu bytes", s->path,
                       s->map.size);
    memcpy(&n, s->map.data, sizeof(n));
    if (n > MAX_HEADER)
        return ty_fail(err, TY_EFORMAT, "%s: not a safetensors file: claims a header of %llu bytes",
                       s->path, (unsigned long long)n);
    if (n > s->map.size - sizeof(n))
        return ty_fail(err, TY_EFORMAT, "%s: the file ends inside the header: cut off or damaged",
                       s->path);
    json_error_t why;
    json_t *root =
        json_loadb((const char *)s->map.data + sizeof(n), (size_t)n, JSON_REJECT_DUPLICATES, &why);
    if (!root) return ty_fail(err, TY_EFORMAT, "%s: header: %s", s->path, why.text);
    ty_status st = json_is_object(root)
                       ? read_entries(s, root, (size_t)n, err)
                       : ty_fail(err, TY_EFORMAT, "%s: the header is not an object", s->path);
    json_decref(root);
    return st;
}

ty_status ty_safetensors_map(ty_safetensors **out, const char *path, ty_err *err) {
    *out = NULL;
    ty_safetensors *s = calloc(1, sizeof(*s));
    if (!s) return ty_fail(err, TY_ENOMEM, "%s: no memory", path);
    ty_status st = TY_OK;
    s->path = strdup(path);
    s->arena = ty_arena_create(0);
    if (!s->path || !s->arena) {
        st = ty_fail(err, TY_ENOMEM, "%s: no memory", path);
        goto done;
    }
    st = ty_file_mmap(path, &s->map, err);
    if (st == TY_OK) st = read_header(s, err);
    if (st != TY_OK) goto done;
    *out = s;
    s = NULL;
done:
    ty_safetensors_close(&s);
    return st;
}

ty_status ty_safetensors_open(ty_safetensors **out, const char *path, ty_err *err) {
    ty_status st = ty_safetensors_map(out, path, err);
    if (st != TY_OK) return st;
    st = align(*out, err);
    if (st != TY_OK) ty_safetensors_close(out);
    return st;
}

void ty_safetensors_close(ty_safetensors **s) {
    if (!*s) return;
    ty_file_unmap(&(*s)->map);
    ty_arena_destroy(&(*s)->arena);
    free((*s)->path);
    free(*s);
    *s = NULL;
}

int ty_safetensors_count(const ty_safetensors *s) {
    return s->n;
}

const char *ty_safetensors_name(const ty_safetensors *s, int i) {
    return s->item[i].name;
}

void ty_safetensors_tensor(const ty_safetensors *s, int i, ty_tensor *t) {
    *t = s->item[i].t;
}

static int name_is(const void *name, const void *item) {
    return strcmp(name, (*(entry *const *)item)->name);
}

/* "a, b, c, ..." for a message. */
static void list_names(const ty_safetensors *s, char *out, size_t size) {
    size_t at = 0;
    out[0] = '\0';
    for (int i = 0; i < s->n && at + 4 < size; i++) {
        const char *more = i == 6 ? "..." : s->item[i].name;
        int k = snprintf(out + at, size - at, "%s%s", i ? ", " : "", more);
        if (i == 6 || k < 0) return;
        at += (size_t)k;
    }
}

ty_status ty_safetensors_find(const ty_safetensors *s, const char *name, ty_tensor *t,
                              ty_err *err) {
    entry **hit = s->n ? bsearch(name, s->sorted, (size_t)s->n, sizeof(*s->sorted), name_is) : NULL;
    if (hit) {
        *t = (*hit)->t;
        return TY_OK;
    }
    char names[256];
    list_names(s, names, sizeof(names));
    return ty_fail(err, TY_ENOTFOUND, "%s: has no tensor %s; it has %s", s->path, name,
                   s->n ? names : "none");
}

/* --- writer --- */

typedef struct {
    char *name;
    ty_tensor t;
    void *data; /* owned: t.data */
    int order;
} item;

struct ty_safetensors_writer {
    item *item;
    int n, cap;
};

ty_status ty_safetensors_writer_create(ty_safetensors_writer **out, ty_err *err) {
    *out = calloc(1, sizeof(**out));
    return *out ? TY_OK : ty_fail(err, TY_ENOMEM, "no memory for a safetensors file");
}

static ty_status grow(ty_safetensors_writer *w, ty_err *err) {
    if (w->n < w->cap) return TY_OK;
    int cap = w->cap ? 2 * w->cap : 16;
    item *more = realloc(w->item, (size_t)cap * sizeof(*more));
    if (!more) return ty_fail(err, TY_ENOMEM, "no memory for a safetensors file");
    w->item = more;
    w->cap = cap;
    return TY_OK;
}

/* Name, type and shape are fit to be written. */
static ty_status check_add(const ty_safetensors_writer *w, const char *name, ty_dtype t, int n_dim,
                           const int64_t *shape, ty_err *err) {
    if (!dtype_to(t))
        return ty_fail(err, TY_EUNSUPPORTED, "tensor %s: safetensors has no type %s", name,
                       ty_dtype_name((int)t));
    if (n_dim < 0 || n_dim > TY_MAX_DIMS)
        return ty_fail(err, TY_ESHAPE, "tensor %s has %d dimensions, want at most %d", name, n_dim,
                       TY_MAX_DIMS);
    for (int i = 0; i < n_dim; i++)
        if (shape[i] < 0)
            return ty_fail(err, TY_ESHAPE, "tensor %s has a dimension of %lld", name,
                           (long long)shape[i]);
    for (int i = 0; i < w->n; i++)
        if (strcmp(w->item[i].name, name) == 0)
            return ty_fail(err, TY_EEXIST, "tensor %s is there already", name);
    return TY_OK;
}

ty_status ty_safetensors_add(ty_safetensors_writer *w, const char *name, ty_dtype t, int n_dim,
                             const int64_t *shape, const void *data, ty_err *err) {
    ty_status st = check_add(w, name, t, n_dim, shape, err);
    if (st == TY_OK) st = grow(w, err);
    if (st != TY_OK) return st;
    item *it = &w->item[w->n];
    *it = (item){.t = {.dtype = t, .n_dim = n_dim}, .order = w->n};
    size_t n = 1;
    for (int i = 0; i < n_dim; i++) n *= (size_t)(it->t.shape[i] = shape[i]);
    it->t.size_bytes = ty_dtype_bytes(t, n);
    it->name = strdup(name);
    it->data = malloc(it->t.size_bytes + 1);
    if (!it->name || !it->data) {
        free(it->name);
        free(it->data);
        return ty_fail(err, TY_ENOMEM, "no memory for tensor %s", name);
    }
    if (it->t.size_bytes) memcpy(it->data, data, it->t.size_bytes);
    w->n++;
    return TY_OK;
}

/* Wide types first, so that every tensor is aligned for its type. */
static int by_width(const void *a, const void *b) {
    const item *x = a, *y = b;
    int wx = ty_dtype_get((int)x->t.dtype)->bytes, wy = ty_dtype_get((int)y->t.dtype)->bytes;
    return wx != wy ? wy - wx : x->order - y->order;
}

static json_t *describe(const item *it, uint64_t begin) {
    json_t *shape = json_array();
    for (int i = 0; i < it->t.n_dim; i++)
        if (json_array_append_new(shape, json_integer(it->t.shape[i])) != 0) {
            json_decref(shape);
            return NULL;
        }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_to(it->t.dtype), "shape", shape,
                     "data_offsets", (json_int_t)begin,
                     (json_int_t)begin + (json_int_t)it->t.size_bytes);
}

/* The header as text; NULL when a name is not UTF-8 or memory is short. */
static char *header_text(const ty_safetensors_writer *w) {
    json_t *root = json_object();
    uint64_t at = 0;
    for (int i = 0; i < w->n; i++) {
        json_t *j = describe(&w->item[i], at);
        if (!j || json_object_set_new(root, w->item[i].name, j) != 0) {
            json_decref(root);
            return NULL;
        }
        at += w->item[i].t.size_bytes;
    }
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text;
}

ty_status ty_safetensors_write(ty_safetensors_writer *w, const char *path, ty_err *err) {
    ty_outfile f = {.fd = -1};
    if (w->n) qsort(w->item, (size_t)w->n, sizeof(*w->item), by_width);
    char *head = header_text(w);
    if (!head) return ty_fail(err, TY_EINVAL, "%s: a tensor's name is not UTF-8", path);
    size_t len = strlen(head);
    uint64_t n = (len + 7) / 8 * 8;
    ty_status st = ty_outfile_open(&f, path, err);
    if (st == TY_OK) st = ty_outfile_write(&f, &n, sizeof(n), err);
    if (st == TY_OK) st = ty_outfile_write(&f, head, len, err);
    if (st == TY_OK) st = ty_outfile_write(&f, "        ", (size_t)n - len, err);
    for (int i = 0; st == TY_OK && i < w->n; i++)
        st = ty_outfile_write(&f, w->item[i].data, w->item[i].t.size_bytes, err);
    if (st == TY_OK) st = ty_outfile_commit(&f, err);
    ty_outfile_abandon(&f);
    free(head);
    return st;
}

void ty_safetensors_writer_destroy(ty_safetensors_writer **w) {
    if (!*w) return;
    for (int i = 0; i < (*w)->n; i++) {
        free((*w)->item[i].name);
        free((*w)->item[i].data);
    }
    free((*w)->item);
    free(*w);
    *w = NULL;
}
