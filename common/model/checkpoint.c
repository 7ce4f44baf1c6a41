/* checkpoint.c - see checkpoint.h. */
#include "common/model/checkpoint.h"

#include "common/base/arena.h"
#include "common/base/file.h"
#include "common/model/safetensors.h"
#include "common/model/torch_bin.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_INDEX = 64 << 20, MAX_SHARDS = 1024 };

typedef struct {
    const char *file;        /* basename */
    ty_safetensors *tensors; /* one of the two */
    ty_torch_bin *bin;
} shard;

typedef struct {
    const char *name;
    int shard, i; /* which tensor of which shard */
} entry;

struct ty_checkpoint {
    char *dir;
    ty_arena *arena;
    shard *shard; /* [MAX_SHARDS] */
    int n_shard;
    entry *item; /* sorted by name */
    int n;
};

static ty_status no_memory(const ty_checkpoint *c, ty_err *err) {
    return ty_fail(err, TY_ENOMEM, "%s: no memory for the list of tensors", c->dir);
}

static ty_status path_of(const ty_checkpoint *c, const char *file, char *out, size_t size,
                         ty_err *err) {
    if (snprintf(out, size, "%s/%s", c->dir, file) < (int)size) return TY_OK;
    return ty_fail(err, TY_EINVAL, "%.200s: path is too long", c->dir);
}

static bool is_there(const ty_checkpoint *c, const char *file) {
    char path[4096];
    return path_of(c, file, path, sizeof(path), NULL) == TY_OK && access(path, F_OK) == 0;
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

static ty_status open_shard(ty_checkpoint *c, const char *file, ty_err *err) {
    char path[4096];
    ty_status st = path_of(c, file, path, sizeof(path), err);
    if (st != TY_OK) return st;
    shard *s = &c->shard[c->n_shard];
    s->file = ty_arena_strdup(c->arena, file);
    if (!s->file) return no_memory(c, err);
    st = ends_with(file, ".safetensors") ? ty_safetensors_map(&s->tensors, path, err)
                                         : ty_torch_bin_open(&s->bin, path, err);
    if (st == TY_OK) c->n_shard++;
    return st;
}

static int shard_of(const ty_checkpoint *c, const char *file) {
    for (int i = 0; i < c->n_shard; i++)
        if (strcmp(c->shard[i].file, file) == 0) return i;
    return -1;
}

/* --- the list of tensors --- */

static int shard_count(const shard *s) {
    return s->tensors ? ty_safetensors_count(s->tensors) : ty_torch_bin_count(s->bin);
}

static const char *shard_name(const shard *s, int i) {
    return s->tensors ? ty_safetensors_name(s->tensors, i) : ty_torch_bin_name(s->bin, i);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const entry *)a)->name, ((const entry *)b)->name);
}

static ty_status list_tensors(ty_checkpoint *c, ty_err *err) {
    size_t n = 0;
    for (int s = 0; s < c->n_shard; s++) n += (size_t)shard_count(&c->shard[s]);
    c->item = ty_arena_array(c->arena, n, sizeof(*c->item));
    if (!c->item) return no_memory(c, err);
    for (int s = 0; s < c->n_shard; s++)
        for (int i = 0; i < shard_count(&c->shard[s]); i++)
            c->item[c->n++] = (entry){shard_name(&c->shard[s], i), s, i};
    qsort(c->item, (size_t)c->n, sizeof(*c->item), by_name);
    for (int i = 1; i < c->n; i++)
        if (strcmp(c->item[i - 1].name, c->item[i].name) == 0)
            return ty_fail(err, TY_EFORMAT, "%s: tensor %s is in %s and in %s", c->dir,
                           c->item[i].name, c->shard[c->item[i - 1].shard].file,
                           c->shard[c->item[i].shard].file);
    return TY_OK;
}

static int name_is(const void *name, const void *item) {
    return strcmp(name, ((const entry *)item)->name);
}

static const entry *find(const ty_checkpoint *c, const char *name) {
    return c->n ? bsearch(name, c->item, (size_t)c->n, sizeof(*c->item), name_is) : NULL;
}

/* --- the index of a sharded checkpoint --- */

/* A shard is a plain file name: an index must not reach outside its directory. */
static bool is_plain(const char *file) {
    return file && *file && *file != '.' && !strchr(file, '/') &&
           (ends_with(file, ".safetensors") || ends_with(file, ".bin"));
}

static ty_status open_shards(ty_checkpoint *c, const char *index, json_t *map, ty_err *err) {
    const char *name;
    json_t *value;
    if (!json_is_object(map))
        return ty_fail(err, TY_EFORMAT, "%s/%s: has no weight_map", c->dir, index);
    json_object_foreach(map, name, value) {
        const char *file = json_string_value(value);
        if (!is_plain(file))
            return ty_fail(err, TY_EFORMAT, "%s/%s: tensor %s is in no .safetensors or .bin file",
                           c->dir, index, name);
        if (shard_of(c, file) >= 0) continue;
        if (c->n_shard == MAX_SHARDS)
            return ty_fail(err, TY_ELIMIT, "%s/%s: more than %d shards", c->dir, index, MAX_SHARDS);
        ty_status st = open_shard(c, file, err);
        if (st == TY_ENOTFOUND) ty_err_context(err, "%s names a shard that is missing", index);
        if (st != TY_OK) return st;
    }
    return TY_OK;
}

/* What the index promises must be where it says. */
static ty_status check_map(const ty_checkpoint *c, const char *index, json_t *map, ty_err *err) {
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value) {
        const entry *e = find(c, name);
        const char *file = json_string_value(value);
        if (!e || strcmp(c->shard[e->shard].file, file) != 0)
            return ty_fail(err, TY_EFORMAT, "%s/%s: tensor %s is not in %s", c->dir, index, name,
                           file);
    }
    return TY_OK;
}

static ty_status open_index(ty_checkpoint *c, const char *index, ty_err *err) {
    char path[4096], *text = NULL;
    size_t size = 0;
    json_error_t why;
    ty_status st = path_of(c, index, path, sizeof(path), err);
    if (st == TY_OK) st = ty_file_read(path, MAX_INDEX, &text, &size, err);
    if (st != TY_OK) return st;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
    free(text);
    if (!root) return ty_fail(err, TY_EFORMAT, "%s: line %d: %s", path, why.line, why.text);
    json_t *map = json_object_get(root, "weight_map");
    st = open_shards(c, index, map, err);
    if (st == TY_OK) st = list_tensors(c, err);
    if (st == TY_OK) st = check_map(c, index, map, err);
    json_decref(root);
    return st;
}

static ty_status open_single(ty_checkpoint *c, const char *file, ty_err *err) {
    ty_status st = open_shard(c, file, err);
    return st == TY_OK ? list_tensors(c, err) : st;
}

static ty_status open_files(ty_checkpoint *c, ty_err *err) {
    if (is_there(c, "model.safetensors.index.json"))
        return open_index(c, "model.safetensors.index.json", err);
    if (is_there(c, "model.safetensors")) return open_single(c, "model.safetensors", err);
    if (is_there(c, "pytorch_model.bin.index.json"))
        return open_index(c, "pytorch_model.bin.index.json", err);
    if (is_there(c, "pytorch_model.bin")) return open_single(c, "pytorch_model.bin", err);
    return ty_fail(err, TY_ENOTFOUND,
                   "%s: no checkpoint there: neither model.safetensors nor pytorch_model.bin, nor "
                   "the .index.json of one in shards",
                   c->dir);
}

ty_status ty_checkpoint_open(ty_checkpoint **out, const char *dir, ty_err *err) {
    *out = NULL;
    ty_checkpoint *c = calloc(1, sizeof(*c));
    if (!c) return ty_fail(err, TY_ENOMEM, "%s: no memory", dir);
    ty_status st = TY_OK;
    c->dir = strdup(dir);
    c->arena = ty_arena_create(0);
    c->shard = calloc(MAX_SHARDS, sizeof(*c->shard));
    if (!c->dir || !c->arena || !c->shard) {
        st = ty_fail(err, TY_ENOMEM, "%s: no memory", dir);
        goto done;
    }
    st = open_files(c, err);
    if (st != TY_OK) goto done;
    *out = c;
    c = NULL;
done:
    ty_checkpoint_close(&c);
    return st;
}

void ty_checkpoint_close(ty_checkpoint **p) {
    ty_checkpoint *c = *p;
    if (!c) return;
    for (int i = 0; i < c->n_shard; i++) {
        ty_safetensors_close(&c->shard[i].tensors);
        ty_torch_bin_close(&c->shard[i].bin);
    }
    ty_arena_destroy(&c->arena);
    free(c->shard);
    free(c->dir);
    free(c);
    *p = NULL;
}

int ty_checkpoint_count(const ty_checkpoint *c) {
    return c->n;
}

const char *ty_checkpoint_name(const ty_checkpoint *c, int i) {
    return c->item[i].name;
}

bool ty_checkpoint_has(const ty_checkpoint *c, const char *name) {
    return find(c, name) != NULL;
}

static ty_status must_find(const ty_checkpoint *c, const char *name, const entry **e, ty_err *err) {
    *e = find(c, name);
    return *e ? TY_OK
              : ty_fail(err, TY_ENOTFOUND, "%s: the checkpoint has no tensor %s", c->dir, name);
}

ty_status ty_checkpoint_info(const ty_checkpoint *c, const char *name, ty_tensor *t, ty_err *err) {
    const entry *e;
    ty_status st = must_find(c, name, &e, err);
    if (st != TY_OK) return st;
    const shard *s = &c->shard[e->shard];
    if (s->tensors)
        ty_safetensors_tensor(s->tensors, e->i, t);
    else
        ty_torch_bin_info(s->bin, e->i, t);
    t->data = NULL;
    return TY_OK;
}

/* A safetensors file need not align its tensors. */
static ty_status align(const ty_checkpoint *c, const char *name, ty_loaded *l, ty_err *err) {
    size_t width = (size_t)ty_dtype_get((int)l->t.dtype)->bytes;
    if ((uintptr_t)l->t.data % width == 0) return TY_OK;
    l->owned = malloc(l->t.size_bytes + 1);
    if (!l->owned) return ty_fail(err, TY_ENOMEM, "%s: no memory for tensor %s", c->dir, name);
    memcpy(l->owned, l->t.data, l->t.size_bytes);
    l->t.data = l->owned;
    return TY_OK;
}

ty_status ty_checkpoint_load(const ty_checkpoint *c, const char *name, ty_loaded *out,
                             ty_err *err) {
    const entry *e;
    *out = (ty_loaded){0};
    ty_status st = must_find(c, name, &e, err);
    if (st != TY_OK) return st;
    const shard *s = &c->shard[e->shard];
    if (!s->tensors) return ty_torch_bin_load(s->bin, e->i, &out->t, &out->owned, err);
    ty_safetensors_tensor(s->tensors, e->i, &out->t);
    return align(c, name, out, err);
}

void ty_checkpoint_release(ty_loaded *l) {
    if (l->owned)
        free(l->owned);
    else if (l->t.data)
        ty_file_release(l->t.data, l->t.size_bytes);
    *l = (ty_loaded){0};
}
