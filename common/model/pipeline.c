/* pipeline.c - see pipeline.h. */
#include "common/model/pipeline.h"

#include "common/base/file.h"
#include "common/model/adapter.h"

#include <errno.h>
#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_JSON = 1 << 20, VERSION = 1 };
#define FORMAT "tyto-pipeline"

const char *ty_stage_name(ty_stage_kind k) {
    static const char *const names[TY_STAGE_COUNT] = {"preprocess", "vit", "abstractor", "decoder"};
    return (unsigned)k < TY_STAGE_COUNT ? names[k] : "?";
}

static int stage_from(const char *name) {
    for (int k = 0; k < TY_STAGE_COUNT; k++)
        if (strcmp(ty_stage_name((ty_stage_kind)k), name) == 0) return k;
    return -1;
}

/* The directory's own name, so that "." and "models/x/" have one too. */
static ty_status read_name(ty_pipeline *p, const char *dir, ty_err *err) {
    char real[PATH_MAX];
    if (!realpath(dir, real))
        return ty_fail(err, errno == ENOENT ? TY_ENOTFOUND : TY_EIO,
                       "%s: %s; `tyto import SRC %s` makes a pipeline", dir, strerror(errno), dir);
    const char *name = basename(real);
    if (snprintf(p->name, sizeof(p->name), "%s", name) >= (int)sizeof(p->name))
        return ty_fail(err, TY_EINVAL, "%s: the directory's name is too long", dir);
    return TY_OK;
}

static ty_status bad(const char *file, const char *what, ty_err *err) {
    return ty_fail(err, TY_EFORMAT, "%s: %s", file, what);
}

static ty_status read_family(ty_pipeline *p, const json_t *root, const char *file, ty_err *err) {
    const char *format = json_string_value(json_object_get(root, "format"));
    const char *family = json_string_value(json_object_get(root, "family"));
    const json_t *version = json_object_get(root, "version");
    if (!format || strcmp(format, FORMAT) != 0)
        return bad(file, "not a pipeline: \"format\" is not \"" FORMAT "\"", err);
    if (!json_is_integer(version) || json_integer_value(version) != VERSION)
        return ty_fail(err, TY_EUNSUPPORTED, "%s: \"version\" is not %d", file, VERSION);
    if (!family || !*family || strlen(family) >= sizeof(p->family))
        return bad(file, "\"family\" is not a name", err);
    snprintf(p->family, sizeof(p->family), "%s", family);
    return TY_OK;
}

/* One line of "stages": its file, relative to the directory unless it begins with a slash. */
static ty_status read_stage(ty_pipeline *p, const char *dir, const char *file, const char *stage,
                            const json_t *value, ty_err *err) {
    const char *path = json_string_value(value);
    int k = stage_from(stage);
    if (k < 0)
        return ty_fail(
            err, TY_EUNSUPPORTED,
            "%s: there is no stage \"%.64s\"; stages are preprocess, vit, abstractor and "
            "decoder",
            file, stage);
    if (!path || !*path)
        return ty_fail(err, TY_EFORMAT, "%s: stage %s does not name a file", file, stage);
    int n = path[0] == '/' ? snprintf(p->path[k], TY_PIPELINE_PATH, "%s", path)
                           : snprintf(p->path[k], TY_PIPELINE_PATH, "%s/%s", dir, path);
    if (n >= TY_PIPELINE_PATH)
        return ty_fail(err, TY_EINVAL, "%s: the path of stage %s is too long", file, stage);
    return TY_OK;
}

static ty_status read_stages(ty_pipeline *p, const char *dir, const char *file, json_t *root,
                             ty_err *err) {
    json_t *stages = json_object_get(root, "stages"), *value;
    const char *stage;
    if (!json_is_object(stages)) return bad(file, "\"stages\" is not an object", err);
    json_object_foreach(stages, stage, value) {
        ty_status st = read_stage(p, dir, file, stage, value, err);
        if (st != TY_OK) return st;
    }
    if (!p->path[TY_STAGE_DECODER][0]) return bad(file, "names no decoder", err);
    int n = 0;
    for (int k = 0; k < TY_STAGE_DECODER; k++) n += p->path[k][0] != '\0';
    if (n != 0 && n != TY_STAGE_DECODER)
        return bad(file, "preprocess, vit and abstractor go together: some are missing", err);
    return TY_OK;
}

static ty_status read_identity(ty_pipeline *p, ty_stage_kind k, ty_err *err) {
    ty_gguf *g = NULL;
    if (!p->path[k][0]) return TY_OK;
    ty_status st = ty_gguf_open(&g, p->path[k], err);
    if (st != TY_OK) {
        ty_err_context(err, "stage %s", ty_stage_name(k));
        return st;
    }
    ty_gguf_identity(g, p->model_id[k]);
    ty_gguf_close(&g);
    return TY_OK;
}

static ty_status read_json(ty_pipeline *p, const char *dir, const char *file, ty_err *err) {
    char *text = NULL;
    size_t size = 0;
    json_error_t why;
    ty_status st = ty_file_read(file, MAX_JSON, &text, &size, err);
    if (st == TY_ENOTFOUND)
        return ty_fail(err, st, "%s: no such file; `tyto import SRC %s` makes a pipeline", file,
                       dir);
    if (st != TY_OK) return st;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
    free(text);
    if (!root) return ty_fail(err, TY_EFORMAT, "%s: line %d: %s", file, why.line, why.text);
    st = read_family(p, root, file, err);
    if (st == TY_OK) st = read_stages(p, dir, file, root, err);
    json_decref(root);
    return st;
}

ty_status ty_pipeline_load(ty_pipeline *p, const char *dir, ty_err *err) {
    char file[TY_PIPELINE_PATH + 16];
    memset(p, 0, sizeof(*p));
    if (strlen(dir) >= TY_PIPELINE_PATH) return ty_fail(err, TY_EINVAL, "the path is too long");
    snprintf(file, sizeof(file), "%s/pipeline.json", dir);
    ty_status st = read_name(p, dir, err);
    if (st == TY_OK) st = read_json(p, dir, file, err);
    for (int k = 0; st == TY_OK && k < TY_STAGE_COUNT; k++)
        st = read_identity(p, (ty_stage_kind)k, err);
    return st;
}

ty_status ty_pipeline_save(const ty_pipeline *p, const char *dir, ty_err *err) {
    char file[TY_PIPELINE_PATH];
    if (snprintf(file, sizeof(file), "%s/pipeline.json", dir) >= (int)sizeof(file))
        return ty_fail(err, TY_EINVAL, "the path is too long");
    json_t *stages = json_object();
    int failed = 0;
    for (int k = 0; k < TY_STAGE_COUNT; k++)
        if (p->path[k][0])
            failed |= json_object_set_new(stages, ty_stage_name((ty_stage_kind)k),
                                          json_string(p->path[k]));
    json_t *root = json_pack("{s:s, s:i, s:s, s:o}", "format", FORMAT, "version", VERSION, "family",
                             p->family, "stages", stages);
    char *text = failed ? NULL : json_dumps(root, JSON_INDENT(2));
    json_decref(root);
    if (!text) return ty_fail(err, TY_EINVAL, "%s: a name in it is not UTF-8", file);
    ty_status st = ty_file_write_atomic(file, text, strlen(text), err);
    free(text);
    return st;
}

bool ty_pipeline_sees_videos(const ty_pipeline *p) {
    return ty_pipeline_has_vision(p) && strcmp(p->family, "mplug_owl_v1_video") == 0;
}

ty_status ty_pipeline_adapt(ty_pipeline *p, const ty_adapter_option *o, ty_err *err) {
    ty_adapter *a = NULL;
    size_t n = strlen(p->name);
    if (n + strlen(o->name) + 2 > sizeof(p->name))
        return ty_fail(err, TY_EINVAL, "%.200s+%s: the name is too long", p->name, o->name);
    ty_status st = ty_adapter_open(&a, o->dir, err);
    if (st != TY_OK) return st;
    ty_adapter_identity(a, p->adapter_id);
    ty_adapter_close(&a);
    snprintf(p->adapter, sizeof(p->adapter), "%s", o->name);
    snprintf(p->name + n, sizeof(p->name) - n, "+%s", o->name);
    return TY_OK;
}

bool ty_pipeline_has_vision(const ty_pipeline *p) {
    return p->path[TY_STAGE_VIT][0] != '\0';
}
