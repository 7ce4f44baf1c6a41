#include "training/state.h"
#include "common/base/file.h"
#include "common/base/outfile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* magic | position | length of settings | settings | number of values | values | m | v | XXH3 of all */
static const char MAGIC[8] = "tytorun1";

typedef struct {
    ty_outfile f;
    XXH3_state_t *hash;
} sink;

static ty_status put(sink *s, const void *data, size_t n, ty_err *err) {
    XXH3_64bits_update(s->hash, data, n);
    return ty_outfile_write(&s->f, data, n, err);
}

ty_status state_save(const char *path, const param_set *s, const run_position *at,
                     const char *settings, ty_err *err) {
    sink out = {.f = {.fd = -1}, .hash = XXH3_createState()};
    uint64_t len = strlen(settings), count = (uint64_t)(s->last - s->first);
    size_t bytes = (size_t)count * sizeof(float);
    if (!out.hash) return ty_fail(err, TY_ENOMEM, "no memory to save");
    XXH3_64bits_reset(out.hash);
    ty_status st = ty_outfile_open(&out.f, path, err);
    if (st == TY_OK) st = put(&out, MAGIC, sizeof MAGIC, err);
    if (st == TY_OK) st = put(&out, at, sizeof *at, err);
    if (st == TY_OK) st = put(&out, &len, sizeof len, err);
    if (st == TY_OK) st = put(&out, settings, len, err);
    if (st == TY_OK) st = put(&out, &count, sizeof count, err);
    if (st == TY_OK) st = put(&out, s->values + s->first, bytes, err);
    if (st == TY_OK) st = put(&out, s->m, bytes, err);
    if (st == TY_OK) st = put(&out, s->v, bytes, err);
    uint64_t digest = XXH3_64bits_digest(out.hash);
    if (st == TY_OK) st = ty_outfile_write(&out.f, &digest, sizeof digest, err);
    if (st == TY_OK) st = ty_outfile_commit(&out.f, err);
    ty_outfile_abandon(&out.f);
    XXH3_freeState(out.hash);
    return st;
}

/* A cursor over the mapped file. */
typedef struct {
    const uint8_t *at, *end;
} source;

static const void *take(source *s, size_t n) {
    if ((size_t)(s->end - s->at) < n) return NULL;
    const uint8_t *p = s->at;
    s->at += n;
    return p;
}

static bool take_into(source *s, void *out, size_t n) {
    const void *p = take(s, n);
    if (p) memcpy(out, p, n);
    return p != NULL;
}

static ty_status other_settings(const char *path, const char *had, size_t len, const char *settings,
                                ty_err *err) {
    return ty_fail(
        err, TY_EINVAL,
        "%s is of a run with other settings: it had \"%.*s\", this is \"%.200s\"; give the same "
        "options, or another --out",
        path, (int)(len < 200 ? len : 200), had, settings);
}

static ty_status read_state(const char *path, const ty_file_map *map, param_set *s,
                            run_position *at, const char *settings, ty_err *err) {
    uint64_t digest, len, count;
    char magic[sizeof MAGIC];
    size_t bytes = (size_t)(s->last - s->first) * sizeof(float);
    if (map->size < sizeof digest || memcmp(map->data, MAGIC, sizeof MAGIC) != 0)
        return ty_fail(err, TY_EFORMAT, "%s is not the state of a training run", path);
    source in = {map->data, map->data + map->size - sizeof digest};
    memcpy(&digest, in.end, sizeof digest);
    if (XXH3_64bits(map->data, map->size - sizeof digest) != digest)
        return ty_fail(err, TY_ECHECKSUM, "%s is damaged: its checksum does not fit", path);
    if (!take_into(&in, magic, sizeof magic) || !take_into(&in, at, sizeof *at) ||
        !take_into(&in, &len, sizeof len))
        return ty_fail(err, TY_EFORMAT, "%s ends early", path);
    const char *had = take(&in, len);
    if (!had || !take_into(&in, &count, sizeof count))
        return ty_fail(err, TY_EFORMAT, "%s ends early", path);
    if (len != strlen(settings) || memcmp(had, settings, len) != 0)
        return other_settings(path, had, len, settings, err);
    if (count != (uint64_t)(s->last - s->first))
        return ty_fail(err, TY_EINVAL, "%s holds %llu values, this rank has %lld", path,
                       (unsigned long long)count, (long long)(s->last - s->first));
    if (!take_into(&in, s->values + s->first, bytes) || !take_into(&in, s->m, bytes) ||
        !take_into(&in, s->v, bytes))
        return ty_fail(err, TY_EFORMAT, "%s ends early", path);
    return TY_OK;
}

ty_status state_load(const char *path, param_set *s, run_position *at, const char *settings,
                     ty_err *err) {
    ty_file_map map = {0};
    ty_status st = ty_file_mmap(path, &map, err);
    if (st == TY_OK) st = read_state(path, &map, s, at, settings, err);
    ty_file_unmap(&map);
    return st;
}
