/*
 * torch_bin.c - see torch_bin.h.  What the calls in data.pkl mean: torch/_utils.py and
 * torch/serialization.py of PyTorch.
 */
#include "common/model/torch_bin.h"

#include "common/base/file.h"
#include "common/model/pickle.h"
#include "common/model/zip.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* data.pkl of a 7B checkpoint is 0.1 MB. */
enum { MAX_PICKLE = 16 << 20 };

enum { GLOBAL_TENSOR, GLOBAL_PARAMETER, GLOBAL_DICT, GLOBAL_STORAGE };
static const ty_pickle_global allowed[] = {
    [GLOBAL_TENSOR] = {"torch._utils", "_rebuild_tensor_v2", false},
    [GLOBAL_PARAMETER] = {"torch._utils", "_rebuild_parameter", false},
    [GLOBAL_DICT] = {"collections", "OrderedDict", true},
    [GLOBAL_STORAGE] = {"torch", "*Storage", false},
    {NULL, NULL, false},
};

static const struct {
    const char *name;
    ty_dtype t;
} storages[] = {
    {"FloatStorage", TY_F32},  {"HalfStorage", TY_F16}, {"BFloat16Storage", TY_BF16},
    {"DoubleStorage", TY_F64}, {"LongStorage", TY_I64}, {"IntStorage", TY_I32},
    {"ShortStorage", TY_I16},  {"CharStorage", TY_I8},  {"ByteStorage", TY_U8},
    {"BoolStorage", TY_BOOL},
};
enum { N_STORAGES = sizeof(storages) / sizeof(*storages) };

typedef struct {
    const char *name;
    ty_tensor t;                 /* data: the tensor's first element inside its storage */
    int64_t stride[TY_MAX_DIMS]; /* in elements */
} entry;

struct ty_torch_bin {
    ty_file_map map;
    char *path;
    ty_arena *arena;
    ty_zip zip;
    char *prefix; /* of every entry: "pytorch_model/" */
    entry *item;  /* sorted by name */
    int n;
};

static ty_status bad(const ty_torch_bin *b, const char *name, const char *what, ty_err *err) {
    return ty_fail(err, TY_EFORMAT, "%s: tensor %s: %s", b->path, name, what);
}

/* --- storages --- */

static int storage_dtype(const ty_pickle_value *v) {
    for (int i = 0; i < N_STORAGES; i++)
        if (strlen(storages[i].name) == v->len && memcmp(storages[i].name, v->str, v->len) == 0)
            return (int)storages[i].t;
    return -1;
}

typedef struct {
    ty_dtype dtype;
    const uint8_t *data;
    int64_t n; /* elements */
} storage;

/* The persistent id of a storage: ("storage", torch.FloatStorage, "7", "cpu", 1024). */
static ty_status read_storage(const ty_torch_bin *b, const char *name, const ty_pickle_value *v,
                              storage *s, ty_err *err) {
    if (v->kind != TY_PICKLE_PERSISTENT || v->item[0]->kind != TY_PICKLE_TUPLE ||
        v->item[0]->n != 5)
        return bad(b, name, "its storage is not described as PyTorch does", err);
    ty_pickle_value **id = v->item[0]->item;
    if (!ty_pickle_is_str(id[0], "storage") || id[1]->kind != TY_PICKLE_GLOBAL ||
        id[1]->global != GLOBAL_STORAGE || id[2]->kind != TY_PICKLE_STR ||
        id[4]->kind != TY_PICKLE_INT || id[4]->integer < 0 || id[2]->len > 64)
        return bad(b, name, "its storage is not described as PyTorch does", err);
    int t = storage_dtype(id[1]);
    if (t < 0)
        return ty_fail(err, TY_EUNSUPPORTED, "%s: tensor %s is a torch.%.*s", b->path, name,
                       (int)(id[1]->len < 40 ? id[1]->len : 40), id[1]->str);
    char key[4096];
    snprintf(key, sizeof(key), "%sdata/%.*s", b->prefix, (int)id[2]->len, id[2]->str);
    const ty_zip_entry *e = ty_zip_find(&b->zip, key);
    if (!e) return bad(b, name, "its bytes are not in the archive", err);
    s->dtype = (ty_dtype)t;
    s->data = e->data;
    s->n = id[4]->integer;
    uint64_t width = (uint64_t)ty_dtype_get(t)->bytes;
    if ((uint64_t)s->n > e->size / width) return bad(b, name, "its bytes are cut off", err);
    return TY_OK;
}

/* --- tensors --- */

static bool is_count(const ty_pickle_value *v) {
    return v->kind == TY_PICKLE_INT && v->integer >= 0;
}

/* Shape, strides and the highest element reached, which must lie in the storage. */
static ty_status read_extent(const ty_torch_bin *b, entry *e, const ty_pickle_value *size,
                             const ty_pickle_value *stride, int64_t room, ty_err *err) {
    if (size->kind != TY_PICKLE_TUPLE || stride->kind != TY_PICKLE_TUPLE || size->n != stride->n)
        return bad(b, e->name, "shape and strides are not two tuples of one length", err);
    if (size->n > TY_MAX_DIMS) return bad(b, e->name, "has more than 8 dimensions", err);
    e->t.n_dim = (int)size->n;
    int64_t last = 0, count = 1;
    for (int i = 0; i < e->t.n_dim; i++) {
        if (!is_count(size->item[i]) || !is_count(stride->item[i]))
            return bad(b, e->name, "a dimension or a stride is not a whole number", err);
        int64_t d = e->t.shape[i] = size->item[i]->integer;
        int64_t step = e->stride[i] = stride->item[i]->integer;
        if (d > 0 && count > INT64_MAX / 16 / d) return bad(b, e->name, "is too large", err);
        count *= d;
        if (d > 1 && step > INT64_MAX / 16 / d) return bad(b, e->name, "is too large", err);
        if (d > 1) last += (d - 1) * step;
        if (last > INT64_MAX / 16) return bad(b, e->name, "is too large", err);
    }
    if (count > 0 && last >= room) return bad(b, e->name, "reaches beyond its storage", err);
    /* Strides of 0 (expand) would let a few bytes claim any size. */
    if (count > 0 && count > room)
        return bad(b, e->name, "has more elements than its storage", err);
    e->t.size_bytes = ty_dtype_bytes(e->t.dtype, (size_t)count);
    return TY_OK;
}

/* _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata]) */
static ty_status read_tensor(const ty_torch_bin *b, entry *e, const ty_pickle_value *call,
                             ty_err *err) {
    const ty_pickle_value *args = call->item[0];
    storage s = {0};
    if (args->n < 6 || args->n > 7 || !is_count(args->item[1]))
        return bad(b, e->name, "is not described as PyTorch does", err);
    ty_status st = read_storage(b, e->name, args->item[0], &s, err);
    if (st != TY_OK) return st;
    int64_t offset = args->item[1]->integer;
    if (offset > s.n) return bad(b, e->name, "begins beyond its storage", err);
    e->t.dtype = s.dtype;
    e->t.data = s.data + ty_dtype_bytes(s.dtype, (size_t)offset);
    return read_extent(b, e, args->item[2], args->item[3], s.n - offset, err);
}

/* The _rebuild_tensor_v2 call of a value, through _rebuild_parameter(tensor, ...); NULL: no tensor. */
static const ty_pickle_value *tensor_call(const ty_pickle_value *v) {
    if (v->kind == TY_PICKLE_CALL && v->global == GLOBAL_PARAMETER && v->item[0]->n >= 1)
        v = v->item[0]->item[0];
    return v->kind == TY_PICKLE_CALL && v->global == GLOBAL_TENSOR ? v : NULL;
}

static size_t count_tensors(const ty_pickle_value *dict) {
    size_t n = 0;
    for (size_t i = 0; i + 1 < dict->n; i += 2)
        if (dict->item[i]->kind == TY_PICKLE_STR && tensor_call(dict->item[i + 1])) n++;
    return n;
}

/* The dict that holds the tensors: the root, or what a training script put under one of these. */
static const ty_pickle_value *find_state(const ty_pickle_value *root) {
    static const char *const wraps[] = {"state_dict", "model", "module"};
    if (root->kind != TY_PICKLE_DICT || count_tensors(root)) return root;
    for (int w = 0; w < 3; w++)
        for (size_t i = 0; i + 1 < root->n; i += 2)
            if (ty_pickle_is_str(root->item[i], wraps[w]) &&
                root->item[i + 1]->kind == TY_PICKLE_DICT)
                return root->item[i + 1];
    return root;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

static ty_status copy_name(const ty_torch_bin *b, const ty_pickle_value *key, entry *e,
                           ty_err *err) {
    char *name = ty_arena_alloc(b->arena, key->len + 1);
    if (!name) return ty_fail(err, TY_ENOMEM, "%s: no memory", b->path);
    if (key->len == 0 || key->len > 1024 || memchr(key->str, 0, key->len))
        return ty_fail(err, TY_EFORMAT, "%s: a tensor's name of %zu bytes", b->path, key->len);
    memcpy(name, key->str, key->len);
    name[key->len] = '\0';
    e->name = name;
    return TY_OK;
}

static ty_status read_state(ty_torch_bin *b, const ty_pickle_value *root, ty_err *err) {
    const ty_pickle_value *dict = find_state(root);
    if (dict->kind != TY_PICKLE_DICT)
        return ty_fail(err, TY_EFORMAT, "%s: holds no state dict", b->path);
    size_t n = count_tensors(dict);
    b->item = ty_arena_array(b->arena, n, sizeof(*b->item));
    if (!b->item) return ty_fail(err, TY_ENOMEM, "%s: no memory", b->path);
    for (size_t i = 0; i + 1 < dict->n; i += 2) {
        const ty_pickle_value *key = dict->item[i], *call = tensor_call(dict->item[i + 1]);
        if (key->kind != TY_PICKLE_STR || !call) continue;
        entry *e = &b->item[b->n];
        *e = (entry){0};
        ty_status st = copy_name(b, key, e, err);
        if (st == TY_OK) st = read_tensor(b, e, call, err);
        if (st != TY_OK) return st;
        b->n++;
    }
    qsort(b->item, (size_t)b->n, sizeof(*b->item), by_name);
    for (int i = 1; i < b->n; i++)
        if (strcmp(b->item[i - 1].name, b->item[i].name) == 0)
            return bad(b, b->item[i].name, "is there twice", err);
    return TY_OK;
}

/* --- the file --- */

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

/* The one entry PREFIX/data.pkl. */
static ty_status find_pickle(ty_torch_bin *b, const ty_zip_entry **pickle, ty_err *err) {
    *pickle = NULL;
    for (size_t i = 0; i < b->zip.n; i++) {
        const ty_zip_entry *e = &b->zip.entry[i];
        if (!ends_with(e->name, "/data.pkl")) continue;
        if (*pickle) return ty_fail(err, TY_EFORMAT, "%s: holds two data.pkl", b->path);
        *pickle = e;
    }
    if (!*pickle)
        return ty_fail(err, TY_EFORMAT, "%s: a zip file without data.pkl: not torch.save's",
                       b->path);
    if ((*pickle)->size > MAX_PICKLE)
        return ty_fail(err, TY_ELIMIT, "%s: data.pkl of %llu bytes, at most %d", b->path,
                       (unsigned long long)(*pickle)->size, MAX_PICKLE);
    size_t n = strlen((*pickle)->name) - strlen("data.pkl");
    b->prefix = ty_arena_strdup(b->arena, (*pickle)->name);
    if (!b->prefix) return ty_fail(err, TY_ENOMEM, "%s: no memory", b->path);
    b->prefix[n] = '\0';
    return n > 2048 ? ty_fail(err, TY_EFORMAT, "%s: a name of %zu bytes", b->path, n) : TY_OK;
}

/* PyTorch 2.1 and later say in which order the bytes of a number stand; earlier ones do not. */
static ty_status check_byte_order(const ty_torch_bin *b, ty_err *err) {
    char name[2200];
    snprintf(name, sizeof(name), "%sbyteorder", b->prefix);
    const ty_zip_entry *e = ty_zip_find(&b->zip, name);
    if (!e || (e->size == 6 && memcmp(e->data, "little", 6) == 0)) return TY_OK;
    return ty_fail(err, TY_EUNSUPPORTED, "%s: written on a big-endian machine", b->path);
}

static ty_status check_kind(const ty_torch_bin *b, ty_err *err) {
    if (b->map.size >= 4 && memcmp(b->map.data, "PK\3\4", 4) == 0) return TY_OK;
    if (b->map.size >= 2 && b->map.data[0] == 0x80)
        return ty_fail(
            err, TY_EUNSUPPORTED,
            "%s: a pickle without zip, as PyTorch before 1.6 wrote: load it with a newer "
            "PyTorch and save it again, or convert it to safetensors",
            b->path);
    return ty_fail(err, TY_EFORMAT, "%s: not a file of torch.save (no zip archive)", b->path);
}

static ty_status read_file(ty_torch_bin *b, ty_err *err) {
    const ty_zip_entry *pickle = NULL;
    ty_pickle_value *root = NULL;
    ty_status st = check_kind(b, err);
    if (st == TY_OK) st = ty_zip_read(&b->zip, b->map.data, b->map.size, b->path, b->arena, err);
    if (st == TY_OK) st = find_pickle(b, &pickle, err);
    if (st == TY_OK) st = check_byte_order(b, err);
    if (st != TY_OK) return st;
    ty_arena *scratch = ty_arena_create(0);
    if (!scratch) return ty_fail(err, TY_ENOMEM, "%s: no memory", b->path);
    st = ty_pickle_read(&root, pickle->data, (size_t)pickle->size, allowed, scratch, err);
    if (st != TY_OK)
        ty_err_context(err, "%s", b->path);
    else
        st = read_state(b, root, err);
    ty_arena_destroy(&scratch);
    return st;
}

ty_status ty_torch_bin_open(ty_torch_bin **out, const char *path, ty_err *err) {
    *out = NULL;
    ty_torch_bin *b = calloc(1, sizeof(*b));
    if (!b) return ty_fail(err, TY_ENOMEM, "%s: no memory", path);
    ty_status st = TY_OK;
    b->path = strdup(path);
    b->arena = ty_arena_create(0);
    if (!b->path || !b->arena) {
        st = ty_fail(err, TY_ENOMEM, "%s: no memory", path);
        goto done;
    }
    st = ty_file_mmap(path, &b->map, err);
    if (st == TY_OK) st = read_file(b, err);
    if (st != TY_OK) goto done;
    *out = b;
    b = NULL;
done:
    ty_torch_bin_close(&b);
    return st;
}

void ty_torch_bin_close(ty_torch_bin **b) {
    if (!*b) return;
    ty_file_unmap(&(*b)->map);
    ty_arena_destroy(&(*b)->arena);
    free((*b)->path);
    free(*b);
    *b = NULL;
}

int ty_torch_bin_count(const ty_torch_bin *b) {
    return b->n;
}

const char *ty_torch_bin_name(const ty_torch_bin *b, int i) {
    return b->item[i].name;
}

void ty_torch_bin_info(const ty_torch_bin *b, int i, ty_tensor *t) {
    *t = b->item[i].t;
    t->data = NULL;
}

/* --- data --- */

static bool is_contiguous(const entry *e) {
    int64_t want = 1;
    for (int i = e->t.n_dim - 1; i >= 0; i--) {
        if (e->t.shape[i] > 1 && e->stride[i] != want) return false;
        want *= e->t.shape[i];
    }
    return true;
}

/* Copies element by element, the last dimension fastest. */
static void gather(const entry *e, uint8_t *dst) {
    size_t width = (size_t)ty_dtype_get((int)e->t.dtype)->bytes;
    const uint8_t *src = e->t.data;
    int64_t at[TY_MAX_DIMS] = {0};
    size_t n = e->t.size_bytes / width;
    int64_t from = 0;
    for (size_t k = 0; k < n; k++) {
        memcpy(dst + k * width, src + (size_t)from * width, width);
        for (int i = e->t.n_dim - 1; i >= 0; i--) {
            from += e->stride[i];
            if (++at[i] < e->t.shape[i]) break;
            from -= at[i] * e->stride[i];
            at[i] = 0;
        }
    }
}

ty_status ty_torch_bin_load(const ty_torch_bin *b, int i, ty_tensor *t, void **owned, ty_err *err) {
    const entry *e = &b->item[i];
    size_t width = (size_t)ty_dtype_get((int)e->t.dtype)->bytes;
    *t = e->t;
    *owned = NULL;
    bool as_it_is = is_contiguous(e);
    if (as_it_is && (uintptr_t)t->data % width == 0) return TY_OK;
    *owned = malloc(t->size_bytes + 1);
    if (!*owned) return ty_fail(err, TY_ENOMEM, "%s: no memory for tensor %s", b->path, e->name);
    if (as_it_is)
        memcpy(*owned, t->data, t->size_bytes);
    else
        gather(e, *owned);
    t->data = *owned;
    return TY_OK;
}
